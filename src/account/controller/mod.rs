//! When a pass runs: on a change of the account, of its Secret or of the key ring, and at the instants that a pass asked
//! for. Knows no rules of the ledger.

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use kube::{Client, ResourceExt};
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

mod bucket;
mod cluster;

use bucket::Bucket;

use super::apply::{Report, pass};
use super::cluster::Cluster as _;
use super::desired::Limits;
use super::journal::{is_event, journal};
use super::kubernetes::Kubernetes;
use super::observe::version_number;
use super::seen::{SecretObject, Seen, Watches};
use crate::api::{AccountId, IssueReason, Seconds, VirtualAccount, VirtualAccountStatus};
use crate::backoff;
use crate::clock::{self, ServerClock};
use crate::events::{Events, Severity};
use crate::integration::Namespaces;
use crate::leader::Leadership;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::notify::{Channels, Outbox};
use crate::queue::Queue;
use crate::store::registry::Registry;
use crate::token::{Ledgers as _, RingState};
use crate::watch::Change;

/// After an error that is nobody's fault the next pass comes within this.
const RETRY_CAP: Seconds = Seconds(5);
/// So many passes at once. Those that wait for a store are many and cost nothing.
const PASSES: usize = 256;
/// After the API server is back, how long a pass may still wait for the first keys.
const READY_POLL: Duration = Duration::from_millis(100);

/// What the controller is made of.
pub struct Parts {
    /// The client; its own retries off, its writes held back while this replica does not lead.
    pub client: Client,
    /// When passes are made.
    pub leadership: Leadership,
    /// The settings that passes depend on.
    pub limits: Arc<Limits>,
    /// The API server's clock.
    pub server_clock: ServerClock,
    /// The key ring.
    pub keys: Receiver<RingState>,
    /// Where Events go.
    pub events: Events,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// `--reissue-rate`
    pub reissue_rate: u32,
    /// `--workers`
    pub workers: usize,
    /// What the watches have seen.
    pub seen: Arc<Seen>,
    /// The accounts that wait for a pass.
    pub queue: Arc<Queue>,
    /// All TokenStores.
    pub stores: Arc<Registry>,
    /// All namespaces.
    pub namespaces: Arc<Namespaces>,
    /// All NotificationChannels.
    pub channels: Arc<Channels>,
    /// Where letters wait to be sent.
    pub outbox: Arc<Outbox>,
}

/// Runs passes.
pub struct Controller {
    kubernetes: Kubernetes,
    leadership: Leadership,
    limits: Arc<Limits>,
    server_clock: ServerClock,
    keys: Receiver<RingState>,
    events: Events,
    metrics: Arc<Metrics>,
    seen: Arc<Seen>,
    stores: Arc<Registry>,
    namespaces: Arc<Namespaces>,
    channels: Arc<Channels>,
    outbox: Arc<Outbox>,
    queue: Arc<Queue>,
    // Our own last write of an account that the watch has not shown yet.
    memory: Mutex<HashMap<AccountId, Arc<VirtualAccount>>>,
    // Errors in a row that were nobody's fault.
    failures: Mutex<HashMap<AccountId, u32>>,
    reissues: Mutex<Bucket>,
}

impl Controller {
    /// A controller that does nothing yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            kubernetes: Kubernetes::new(parts.client, parts.workers),
            leadership: parts.leadership,
            limits: parts.limits,
            server_clock: parts.server_clock,
            keys: parts.keys,
            events: parts.events,
            metrics: parts.metrics,
            seen: parts.seen,
            stores: parts.stores,
            namespaces: parts.namespaces,
            channels: parts.channels,
            outbox: parts.outbox,
            queue: parts.queue,
            memory: Mutex::default(),
            failures: Mutex::default(),
            reissues: Mutex::new(Bucket::new(parts.reissue_rate)),
        })
    }

    /// Watches until `stop`, and works in each term of this replica; passes in hand are finished, unless the term ends.
    /// Returns early if one of its tasks has ended, as by a panic.
    pub async fn run(self: Arc<Self>, watches: Watches, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let (on_account, on_secret) = (Arc::clone(&self), Arc::clone(&self));
        tasks.spawn(watches.accounts.run(move |change| on_account.account_changed(&change), stop.clone()));
        tasks.spawn(watches.secrets.run(move |change| on_secret.secret_changed(&change), stop.clone()));
        let (timer, keys, leader) = (Arc::clone(&self), Arc::clone(&self), Arc::clone(&self));
        let (stop_timer, stop_keys, stop_leader) = (stop.clone(), stop.clone(), stop.clone());
        tasks.spawn(async move { timer.queue.keep_time(stop_timer).await });
        tasks.spawn(async move { keys.follow_keys(stop_keys).await });
        tasks.spawn(async move {
            leader.leadership.lead(&stop_leader, || leader.term(&stop_leader)).await;
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            _ = tasks.join_next() => return,
        }
        self.queue.close();
        while tasks.join_next().await.is_some() {}
    }

    /// Accounts that wait for a worker; none while another replica leads.
    pub fn waiting(&self) -> usize {
        if self.leadership.holds() { self.queue.len() } else { 0 }
    }

    /// The watched namespaces where the operator has no right to see all that it works with; one, if it watches the cluster.
    pub fn denied(&self) -> usize {
        let all = [self.seen.denied(), self.stores.denied(), self.channels.denied()];
        all.into_iter().flatten().collect::<BTreeSet<_>>().len()
    }

    // The leader before may have left anything unfinished, so every account is looked at; one that is settled costs no
    // request.
    async fn term(&self, stop: &CancellationToken) {
        if stop.run_until_cancelled(self.until_ready()).await.is_some() {
            info!(accounts = self.seen.accounts.len(), "watches and key ring are in: working");
            let _open = self.queue.open();
            self.seen.accounts.keys().into_iter().for_each(|id| self.queue.add(id));
            futures::future::join_all((0..PASSES).map(|_| self.work())).await;
        }
    }

    /// Accounts whose last pass ended in an error that was nobody's fault.
    pub fn failing(&self) -> usize {
        lock(&self.failures).len()
    }

    // No pass before everything was seen once: what looks missing may only not have been listed.
    async fn until_ready(&self) {
        let known = |state: &RingState| state.ring.is_some() || state.trouble.is_some();
        let synced = || self.seen.synced() && self.stores.synced() && self.channels.synced();
        while !(synced() && known(&self.keys.borrow())) {
            tokio::time::sleep(READY_POLL).await;
        }
    }

    // Any key may concern any account, and a pass that has nothing to do costs no request.
    async fn follow_keys(&self, stop: CancellationToken) {
        let mut keys = self.keys.clone();
        while let Some(Ok(())) = stop.run_until_cancelled(keys.changed()).await {
            for id in self.seen.accounts.keys() {
                self.queue.add(id);
            }
        }
    }

    fn account_changed(&self, change: &Change<VirtualAccount>) {
        match change {
            Change::Applied(account) => {
                self.metrics.account(account);
                let id = identity(account.as_ref());
                self.note_stores(&id, Some(account.as_ref()));
                if !self.is_own_write(&id, account) {
                    self.queue.add(id);
                }
            }
            Change::Deleted(account) => {
                let id = identity(account.as_ref());
                self.metrics.forget(&id);
                self.note_stores(&id, None);
                self.queue.forget(&id);
                self.outbox.post(&id, Vec::new());
                lock(&self.memory).remove(&id);
                lock(&self.failures).remove(&id);
            }
            // After a full list the watch is right there, also if its versions went back (a restored etcd).
            Change::Synced(part) => lock(&self.memory).retain(|id, _| !part.covers(&id.namespace)),
        }
    }

    fn note_stores(&self, id: &AccountId, account: Option<&VirtualAccount>) {
        for store in self.seen.note_uses(id, account) {
            self.stores.used(&store);
        }
    }

    fn is_own_write(&self, id: &AccountId, account: &VirtualAccount) -> bool {
        let mut memory = lock(&self.memory);
        let Some(own) = memory.get(id) else { return false };
        let (ours, theirs) = (version(own.as_ref()), version(account));
        if theirs >= ours {
            memory.remove(id);
        }
        theirs <= ours
    }

    fn secret_changed(&self, change: &Change<SecretObject>) {
        let (secret, there) = match change {
            Change::Applied(secret) => (secret, true),
            Change::Deleted(secret) => (secret, false),
            Change::Synced(_) => return,
        };
        let Some(id) = self.seen.note(secret, there) else { return };
        let recorded = self.account(&id).and_then(|account| account.status.as_ref()?.token_secret.clone());
        let own = recorded.is_some_and(|recorded| {
            there && recorded.name == secret.name_any() && recorded.resource_version == secret.resource_version()
        });
        if !own {
            self.queue.add(id);
        }
    }

    async fn work(&self) {
        while let Some(id) = self.queue.next().await {
            self.metrics.queue_depth(self.queue.len());
            let done = AssertUnwindSafe(pass(self, &id)).catch_unwind().await;
            match done {
                Ok(Ok(report)) => self.succeeded(&id, report.as_ref()),
                Ok(Err(error)) => self.failed(&id, error.reason(), &error.to_string()),
                Err(_) => self.failed(&id, "Panic", "the pass panicked; this is a defect"),
            }
        }
    }

    fn succeeded(&self, id: &AccountId, report: Option<&Report>) {
        self.metrics.reconciled("ok");
        lock(&self.failures).remove(id);
        let Some(report) = report else { return self.queue.forget(id) };
        if report.issued == Some(IssueReason::LimitChange) {
            lock(&self.reissues).take();
        }
        self.queue.wake_at(id.clone(), report.wake_at);
    }

    fn failed(&self, id: &AccountId, reason: &'static str, error: &str) {
        if !self.leadership.holds() {
            // No news: the next leader does it, or this one if it holds the Lease again.
            return self.queue.wake_at(id.clone(), Some(clock::now() + Seconds(1)));
        }
        self.metrics.reconciled("error");
        self.metrics.failed(reason);
        let failures = {
            let mut all = lock(&self.failures);
            let failures = all.entry(id.clone()).or_default();
            *failures = failures.saturating_add(1);
            *failures
        };
        let delay = backoff::delay(failures, RETRY_CAP, &id.to_string());
        warn!(account = %id, reason, error, failures, retry_in = %delay, "pass failed");
        self.queue.wake_at(id.clone(), Some(clock::now() + delay));
    }

    fn tell(&self, account: &VirtualAccount, before: Option<&VirtualAccountStatus>) {
        let id = identity(account);
        let Some(after) = account.status.as_ref() else { return };
        for line in journal(before, after) {
            let notice = &line.notice;
            let jti = line.jti.as_deref().unwrap_or_default();
            match notice.type_ {
                Severity::Normal => info!(account = %id, jti, reason = notice.reason, "{}", notice.message),
                Severity::Warning => warn!(account = %id, jti, reason = notice.reason, "{}", notice.message),
            }
            if let Some(reason) = line.counted {
                self.metrics.issued(reason);
            }
            if is_event(&line) {
                self.events.publish(account, line.notice);
            }
        }
    }
}

fn identity(account: &VirtualAccount) -> AccountId {
    AccountId::new(account.namespace().unwrap_or_default(), account.name_any())
}

fn version(account: &VirtualAccount) -> u64 {
    version_number(account.metadata.resource_version.as_deref().unwrap_or_default())
}

fn same_object(one: &VirtualAccount, other: &VirtualAccount) -> bool {
    one.metadata.uid == other.metadata.uid
}
