//! The I/O around the Lease: takes it, renews it, gives it up.
//!
//! It has a client of its own, so that no queue of other requests holds up a renewal, and every request has a limit. A
//! write names the version that was seen; after any doubt the Lease is read.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Leadership;
use super::lease::{Candidate, Fitness, Move, View, named};
use crate::client::describe;
use crate::clock::{self, Moment};
use crate::token::fresh_jti;
use crate::watch::{One, Sight, Watch, random, version_of};

/// The Lease, in the operator's namespace.
pub const LEASE_NAME: &str = "virtual-account-operator";
/// While nothing is known yet.
const SOON: Duration = Duration::from_millis(50);
/// What was sent before a term ended arrives within this, so mostly before another replica leads.
const ON_ITS_WAY: Duration = Duration::from_millis(200);

/// Who stands for election, and where.
pub struct Settings {
    /// The operator's namespace.
    pub namespace: String,
    /// `POD_NAME`; a container that starts again in its pod need not wait for its own earlier life.
    pub pod: Option<String>,
    /// What to be called without one.
    pub host: String,
    /// How long others wait for a holder that is silent.
    pub duration: Duration,
}

/// Whether this replica could do the work.
pub type Fit = Arc<dyn Fn() -> bool + Send + Sync>;

/// Stands for election.
pub struct Elector {
    api: Api<Lease>,
    me: Candidate,
    seen: Arc<One<Lease>>,
    watch: Option<Watch<Lease>>,
    view: View,
    held: Option<Held>,
    not_before: Option<Moment>,
    // Attempts in a row to take it that failed.
    failures: u32,
    fitness: Fitness,
    leadership: Leadership,
}

/// The Lease in our hand.
struct Held {
    lease: Lease,
    renew_at: Moment,
}

/// What a request for the Lease came to.
enum Answer {
    Accepted(Box<Lease>),
    /// Another version is there, or none; it is in the view now.
    Refused,
    /// Whether it was carried out is not known.
    Failed,
}

impl Elector {
    /// A candidate, and what it may do. `client`: not shared with other work, its own retries off.
    pub fn new(client: Client, settings: &Settings) -> (Self, Leadership) {
        let leadership = Leadership::none();
        let life: String = fresh_jti().chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        let name = settings.pod.as_ref().unwrap_or(&settings.host);
        let identity = format!("{name}_{life}");
        let (seen, watch) = One::new(client.clone(), &settings.namespace, LEASE_NAME);
        let elector = Self {
            api: Api::namespaced(client, &settings.namespace),
            me: Candidate { identity, pod: settings.pod.clone(), duration: settings.duration },
            seen,
            watch: Some(watch),
            view: View::new(Moment::now()),
            held: None,
            not_before: None,
            failures: 0,
            fitness: Fitness::default(),
            leadership: leadership.clone(),
        };
        (elector, leadership)
    }

    /// Stands until `stop`, and then gives the Lease up. Whatever writes must have ended before. `fit`: whether this replica
    /// could do the work; one that cannot must not keep it from those that can. Returns early if its watch has ended.
    pub async fn run(mut self, fit: Fit, stop: CancellationToken) {
        let Some(watch) = self.watch.take() else { return };
        let mut watching = JoinSet::new();
        watching.spawn(Arc::clone(&self.seen).run(watch, stop.clone()));
        let mut next = Moment::now();
        loop {
            let seen = Arc::clone(&self.seen);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = watching.join_next() => return,
                () = seen.changed() => {}
                () = tokio::time::sleep(next.since(Moment::now())) => {}
            }
            self.look();
            next = self.step(&fit).await;
        }
        self.give_up().await;
    }

    /// Takes what the watch has seen, unless something newer is known.
    fn look(&mut self) {
        let now = Moment::now();
        match self.seen.look() {
            Sight::Present(lease) if version_of(lease.as_ref()) > self.view.version() => {
                self.view.note(Some(lease.as_ref().clone()), now);
            }
            Sight::Absent(shown) if shown >= self.view.version() => self.view.note(None, now),
            Sight::Unknown | Sight::Absent(_) | Sight::Present(_) => {}
        }
    }

    /// Does what is due; when to look again.
    async fn step(&mut self, fit: &Fit) -> Moment {
        let now = Moment::now();
        if self.leadership.is_closed() {
            return now + self.me.duration;
        }
        self.fitness.note(fit(), now);
        if self.held.is_some() {
            let unfit = self.fitness.must_make_way(&self.me, now);
            return if unfit { self.make_way(now).await } else { self.keep(now).await };
        }
        if let Some(until) = self.not_before.filter(|until| *until > now) {
            return until;
        }
        match self.view.next(&self.me, now) {
            Move::Look => now + SOON,
            Move::Take if !self.fitness.may_stand() => now + SOON,
            Move::Wait(until) => until,
            Move::Take => {
                self.take().await;
                Moment::now()
            }
        }
    }

    async fn take(&mut self) {
        let before = self.view.lease().map_or("nobody", named).to_owned();
        let lease = self.me.taken(self.view.lease(), LEASE_NAME, clock::precise());
        let sent = Moment::now();
        match self.write(lease, sent + self.me.patience()).await {
            Answer::Accepted(lease) => {
                info!(identity = self.me.identity, from = before, "leading: this replica writes");
                self.hold(*lease, sent);
            }
            // Whoever was faster leads; what is there now was read. There is none: the namespace may be gone.
            Answer::Refused if self.view.lease().is_some() => {}
            Answer::Refused | Answer::Failed => {
                self.not_before = Some(Moment::now() + self.me.backoff(self.failures, random()));
                self.failures = self.failures.saturating_add(1);
            }
        }
    }

    /// Renews the Lease when it is time, and ends the term when it is lost.
    async fn keep(&mut self, now: Moment) -> Moment {
        let Some(left) = self.leadership.left() else { return self.lose("it could not be renewed in time") };
        if self.view.lease().is_some_and(|lease| !self.me.holds(lease)) {
            return self.lose("another replica holds it");
        }
        let Some(held) = &self.held else { return now };
        if now < held.renew_at {
            return held.renew_at;
        }
        let lease = self.me.taken(Some(&held.lease), LEASE_NAME, clock::precise());
        match self.write(lease, now + self.me.patience().min(left)).await {
            Answer::Accepted(lease) => {
                self.hold(*lease, now);
                now + self.me.renewal()
            }
            Answer::Refused => {
                let (stock, pause) = (self.view.lease().is_some(), self.me.pause());
                self.take_stock();
                if stock { Moment::now() } else { Moment::now() + pause }
            }
            Answer::Failed => Moment::now() + self.me.pause().min(self.leadership.left().unwrap_or_default()),
        }
    }

    /// After a refused renewal: an earlier one may have been carried out after all, or somebody changed a label.
    fn take_stock(&mut self) {
        let Some(held) = &mut self.held else { return };
        match self.view.lease() {
            Some(lease) if self.me.holds(lease) => held.lease = lease.clone(),
            Some(_) => drop(self.lose("another replica holds it")),
            // Deleted. Others wait before they make a new one, so there is time to do it first.
            None => {
                held.lease.metadata.resource_version = None;
                held.lease.metadata.uid = None;
            }
        }
    }

    /// Ends the term of a replica that could not do the work for long, and lets the others try for one duration.
    async fn make_way(&mut self, now: Moment) -> Moment {
        warn!(identity = self.me.identity, "this replica cannot do the work and makes way for others");
        self.leadership.end();
        tokio::time::sleep(ON_ITS_WAY).await;
        self.release().await;
        self.held = None;
        self.fitness.made_way(now);
        let until = Moment::now() + self.me.duration;
        self.not_before = Some(until);
        until
    }

    fn hold(&mut self, lease: Lease, sent: Moment) {
        self.failures = 0;
        self.view.note(Some(lease.clone()), Moment::now());
        self.leadership.hold(sent + self.me.deadline());
        self.held = Some(Held { lease, renew_at: sent + self.me.renewal() });
    }

    fn lose(&mut self, why: &str) -> Moment {
        self.leadership.end();
        self.held = None;
        warn!(identity = self.me.identity, "the Lease is lost, this replica stops writing: {why}");
        Moment::now()
    }

    async fn give_up(&mut self) {
        self.leadership.close();
        self.release().await;
    }

    async fn release(&mut self) {
        // The view may know a newer version than the last renewal: somebody changed a label, or an answer was lost.
        for _ in 0..2 {
            let seen = self.view.lease().filter(|lease| self.me.holds(lease)).cloned();
            let Some(lease) = seen else { return };
            match self.write(Candidate::released(lease, clock::precise()), Moment::now() + self.me.patience()).await {
                Answer::Accepted(lease) => {
                    self.view.note(Some(*lease), Moment::now());
                    return info!(identity = self.me.identity, "the Lease is given up");
                }
                Answer::Refused => {}
                Answer::Failed => break,
            }
        }
        warn!(identity = self.me.identity, "the Lease could not be given up: the next leader waits for its end");
    }

    /// Writes over the version that the Lease names, or creates it.
    async fn write(&mut self, lease: Lease, until: Moment) -> Answer {
        let params = PostParams::default();
        let request = async {
            match lease.resource_version() {
                Some(_) => self.api.replace(LEASE_NAME, &params, &lease).await,
                None => self.api.create(&params, &lease).await,
            }
        };
        match timeout(until.since(Moment::now()), request).await {
            Ok(Ok(lease)) => Answer::Accepted(Box::new(lease)),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => self.read(until).await,
            Ok(Err(error)) => self.failed(&describe(&error)),
            Err(_) => self.failed("no answer in time"),
        }
    }

    // A replica that waits for an API server without end says so once.
    fn failed(&self, error: &str) -> Answer {
        if self.held.is_none() && self.failures > 0 {
            debug!(error, "the Lease was not written again");
        } else {
            warn!(error, "the Lease was not written");
        }
        Answer::Failed
    }

    async fn read(&mut self, until: Moment) -> Answer {
        match timeout(until.since(Moment::now()), self.api.get_opt(LEASE_NAME)).await {
            Ok(Ok(lease)) => {
                self.view.note(lease, Moment::now());
                Answer::Refused
            }
            Ok(Err(_)) | Err(_) => Answer::Failed,
        }
    }
}

#[cfg(test)]
mod tests;
