//! The I/O around the Lease: takes it, renews it, gives it up.
//!
//! It has a client of its own, so that no queue of other requests holds up a renewal, and every request has a limit. A
//! write names the version that was seen; after any doubt the Lease is read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Leadership;
use super::lease::{Candidate, Move, View, named};
use crate::client::describe;
use crate::clock;
use crate::token::fresh_jti;
use crate::watch::{One, Sight, Watch, version_of};

/// The Lease, in the operator's namespace.
pub const LEASE_NAME: &str = "virtual-account-operator";
/// While nothing is known yet.
const SOON: Duration = Duration::from_millis(50);

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
    not_before: Option<Instant>,
    leadership: Leadership,
}

/// The Lease in our hand.
struct Held {
    lease: Lease,
    renew_at: Instant,
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
            view: View::new(Instant::now()),
            held: None,
            not_before: None,
            leadership: leadership.clone(),
        };
        (elector, leadership)
    }

    /// Stands until `stop`, and then gives the Lease up. Whatever writes must have ended before. `fit`: whether this replica
    /// could do the work; one that cannot must not keep it from those that can.
    pub async fn run(mut self, fit: Fit, stop: CancellationToken) {
        let watching = self.watch.take().map(|watch| tokio::spawn(Arc::clone(&self.seen).run(watch, stop.clone())));
        let mut next = Instant::now();
        loop {
            let seen = Arc::clone(&self.seen);
            tokio::select! {
                () = stop.cancelled() => break,
                () = seen.changed() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
            self.look();
            next = self.step(&fit).await;
        }
        self.give_up().await;
        if let Some(watching) = watching {
            let _ = watching.await;
        }
    }

    /// Takes what the watch has seen, unless something newer is known.
    fn look(&mut self) {
        let now = Instant::now();
        match self.seen.look() {
            Sight::Present(lease) if version_of(lease.as_ref()) > self.view.version() => {
                self.view.note(Some(lease.as_ref().clone()), now);
            }
            Sight::Absent(shown) if shown >= self.view.version() => self.view.note(None, now),
            Sight::Unknown | Sight::Absent(_) | Sight::Present(_) => {}
        }
    }

    /// Does what is due; when to look again.
    async fn step(&mut self, fit: &Fit) -> Instant {
        let now = Instant::now();
        if self.leadership.is_closed() {
            return now + self.me.duration;
        }
        if self.held.is_some() {
            return self.keep(now).await;
        }
        if let Some(until) = self.not_before.filter(|until| *until > now) {
            return until;
        }
        match self.view.next(&self.me, now) {
            Move::Look => now + SOON,
            Move::Take if !fit() => now + SOON,
            Move::Wait(until) => until,
            Move::Take => {
                self.take().await;
                Instant::now()
            }
        }
    }

    async fn take(&mut self) {
        let before = self.view.lease().map_or("nobody", named).to_owned();
        let lease = self.me.taken(self.view.lease(), LEASE_NAME, clock::precise());
        let sent = Instant::now();
        match self.write(lease, sent + self.me.patience()).await {
            Answer::Accepted(lease) => {
                info!(identity = self.me.identity, from = before, "leading: this replica writes");
                self.hold(*lease, sent);
            }
            // Whoever was faster leads; what is there now was read. There is none: the namespace may be gone.
            Answer::Refused if self.view.lease().is_some() => {}
            Answer::Refused | Answer::Failed => self.not_before = Some(Instant::now() + self.me.pause()),
        }
    }

    /// Renews the Lease when it is time, and ends the term when it is lost.
    async fn keep(&mut self, now: Instant) -> Instant {
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
                if stock { Instant::now() } else { Instant::now() + pause }
            }
            Answer::Failed => Instant::now() + self.me.pause().min(self.leadership.left().unwrap_or_default()),
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

    fn hold(&mut self, lease: Lease, sent: Instant) {
        self.view.note(Some(lease.clone()), Instant::now());
        self.leadership.hold(sent + self.me.deadline());
        self.held = Some(Held { lease, renew_at: sent + self.me.renewal() });
    }

    fn lose(&mut self, why: &str) -> Instant {
        self.leadership.end();
        self.held = None;
        warn!(identity = self.me.identity, "the Lease is lost, this replica stops writing: {why}");
        Instant::now()
    }

    async fn give_up(&mut self) {
        self.leadership.close();
        // The view may know a newer version than the last renewal: somebody changed a label, or an answer was lost.
        for _ in 0..2 {
            let seen = self.view.lease().filter(|lease| self.me.holds(lease)).cloned();
            let Some(lease) = seen else { return };
            match self.write(Candidate::released(lease, clock::precise()), Instant::now() + self.me.patience()).await {
                Answer::Accepted(_) => return info!(identity = self.me.identity, "the Lease is given up"),
                Answer::Refused => {}
                Answer::Failed => break,
            }
        }
        warn!(identity = self.me.identity, "the Lease could not be given up: the next leader waits for its end");
    }

    /// Writes over the version that the Lease names, or creates it.
    async fn write(&mut self, lease: Lease, until: Instant) -> Answer {
        let params = PostParams::default();
        let request = async {
            match lease.resource_version() {
                Some(_) => self.api.replace(LEASE_NAME, &params, &lease).await,
                None => self.api.create(&params, &lease).await,
            }
        };
        match tokio::time::timeout_at(until.into(), request).await {
            Ok(Ok(lease)) => Answer::Accepted(Box::new(lease)),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => self.read(until).await,
            Ok(Err(error)) => {
                warn!(error = describe(&error), "the Lease was not written");
                Answer::Failed
            }
            Err(_) => {
                warn!("no answer about the Lease in time");
                Answer::Failed
            }
        }
    }

    async fn read(&mut self, until: Instant) -> Answer {
        match tokio::time::timeout_at(until.into(), self.api.get_opt(LEASE_NAME)).await {
            Ok(Ok(lease)) => {
                self.view.note(lease, Instant::now());
                Answer::Refused
            }
            Ok(Err(_)) | Err(_) => Answer::Failed,
        }
    }
}
