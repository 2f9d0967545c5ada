//! When a pass runs: on a change of the account, of its Secret or of the key ring, and at the instants that a pass asked
//! for. Knows no rules of the ledger.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, ResourceExt};
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::apply::{Report, pass};
use super::cluster::{CallError, Cluster};
use super::desired::{Limits, StorePath};
use super::journal::{is_event, journal};
use super::kubernetes::Kubernetes;

use super::observe::version_number;
use super::secret::SecretMeta;
use super::seen::{SecretObject, Seen, Watches};
use crate::api::{AccountId, Instant, IssueReason, ObjectId, Seconds, VirtualAccount, VirtualAccountStatus};
use crate::backoff;
use crate::clock::{self, ServerClock};
use crate::events::{Events, Notice, Severity};
use crate::integration::{Namespaces, ProviderError};
use crate::leader::Leadership;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::notify::{self, Channels, Outbox, Posted};
use crate::queue::Queue;
use crate::store::registry::Registry;
use crate::store::{Admission, Held, Value};
use crate::token::{Ledgers as _, Ring, RingState, fresh_jti};
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
    pub async fn run(self: Arc<Self>, watches: Watches, stop: CancellationToken) {
        let tasks = TaskTracker::new();
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
        stop.cancelled().await;
        self.queue.close();
        tasks.close();
        tasks.wait().await;
    }

    /// Accounts that wait for a worker; none while another replica leads.
    pub fn waiting(&self) -> usize {
        if self.leadership.holds() { self.queue.len() } else { 0 }
    }

    // The leader before may have left anything unfinished, so every account is looked at; one that is settled costs no
    // request.
    async fn term(&self, stop: &CancellationToken) {
        if stop.run_until_cancelled(self.until_ready()).await.is_some() {
            info!(accounts = self.seen.accounts.len(), "watches and key ring are in: working");
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
            // After a full list the watch is right, also if its versions went back (a restored etcd).
            Change::Synced => lock(&self.memory).clear(),
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
            Change::Synced => return,
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

impl Cluster for Controller {
    fn now(&self) -> Instant {
        clock::now()
    }

    fn clock_trusted(&self) -> bool {
        self.server_clock.trusted(self.limits.max_clock_skew)
    }

    fn fresh_id(&self) -> String {
        fresh_jti()
    }

    fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits)
    }

    fn keys(&self) -> (Option<Arc<Ring>>, Option<String>) {
        let state = self.keys.borrow();
        (state.ring.clone(), state.trouble.as_ref().map(ToString::to_string))
    }

    fn may_reissue(&self) -> bool {
        lock(&self.reissues).available()
    }

    fn account(&self, id: &AccountId) -> Option<Arc<VirtualAccount>> {
        let watched = self.seen.accounts.get(id);
        let own = lock(&self.memory).get(id).cloned();
        match (watched, own) {
            (Some(watched), Some(own))
                if same_object(&watched, &own) && version(own.as_ref()) > version(watched.as_ref()) =>
            {
                Some(own)
            }
            (watched, _) => watched,
        }
    }

    fn remember(&self, id: &AccountId, account: Option<&VirtualAccount>) {
        let mut memory = lock(&self.memory);
        match account {
            Some(account) => memory.insert(id.clone(), Arc::new(account.clone())),
            None => memory.remove(id),
        };
    }

    fn secrets(&self, id: &AccountId) -> (Vec<SecretMeta>, u64) {
        // In this order: what arrives in between makes the list newer than the version, never older.
        let shown = self.seen.secrets.shown();
        (self.seen.secrets_of(id), shown)
    }

    async fn read_secret(&self, id: &AccountId) -> Result<Option<Secret>, CallError> {
        self.kubernetes.read_secret(id).await
    }

    async fn read_account(&self, id: &AccountId) -> Result<Option<VirtualAccount>, CallError> {
        self.kubernetes.read_account(id).await
    }

    async fn write_status(
        &self,
        account: &VirtualAccount,
        status: VirtualAccountStatus,
    ) -> Result<VirtualAccount, CallError> {
        let written = self.kubernetes.write_status(account, status).await?;
        self.tell(&written, account.status.as_ref());
        Ok(written)
    }

    async fn create_secret(&self, secret: &Secret) -> Result<String, CallError> {
        self.kubernetes.create_secret(secret).await
    }

    async fn replace_secret(&self, secret: &Secret) -> Result<String, CallError> {
        self.kubernetes.replace_secret(secret).await
    }

    async fn delete_secret(&self, namespace: &str, meta: &SecretMeta) -> Result<(), CallError> {
        self.kubernetes.delete_secret(namespace, meta).await
    }

    async fn write_finalizer(&self, account: &VirtualAccount, there: bool) -> Result<VirtualAccount, CallError> {
        self.kubernetes.write_finalizer(account, there).await
    }

    fn admit(&self, namespace: &str, at: &StorePath) -> Admission {
        self.stores.admit(namespace, &at.store, &at.path)
    }

    fn place(&self, at: &StorePath) -> Option<String> {
        self.stores.place(&at.store, &at.path)
    }

    fn store_deleting(&self, store: &ObjectId) -> bool {
        self.stores.deleting(store)
    }

    fn namespace_terminating(&self, namespace: &str) -> bool {
        self.namespaces.terminating(namespace)
    }

    async fn read_store(&self, at: &StorePath) -> Result<Held, ProviderError> {
        self.stores.read(&at.store, &at.path).await
    }

    async fn write_store(&self, at: &StorePath, value: &Value<'_>, over: &Held) -> Result<String, ProviderError> {
        self.stores.write(&at.store, &at.path, value, over).await
    }

    async fn retire_store(&self, at: &StorePath, held: &Held, keep: &BTreeSet<String>) -> Result<(), ProviderError> {
        self.stores.retire(&at.store, &at.path, held, keep).await
    }

    async fn delete_store(&self, at: &StorePath, held: &Held) -> Result<(), ProviderError> {
        self.stores.delete(&at.store, &at.path, held).await
    }

    fn channel(&self, namespace: &str, channel: &ObjectId) -> notify::Admission {
        self.channels.admit(namespace, channel)
    }

    fn reports(&self, id: &AccountId) -> BTreeMap<String, notify::Report> {
        self.outbox.reports(id)
    }

    fn post(&self, id: &AccountId, letters: Vec<Posted>) {
        if !self.leadership.holds() {
            return;
        }
        self.outbox.post(id, letters);
        // It may have gone since the pass began, and nobody would come back to it.
        if self.seen.accounts.get(id).is_none() {
            self.outbox.post(id, Vec::new());
        }
    }

    fn left_behind(&self, account: &VirtualAccount, at: &StorePath, why: &str) {
        let message = format!("{at} still holds the token, which is refused online; remove it by hand: {why}");
        warn!(account = %identity(account), reason = "LeftBehind", "{message}");
        let notice = Notice { type_: Severity::Warning, reason: "LeftBehind", action: "CleanUp", message };
        self.events.publish(account, notice);
    }
}

/// So many re-issues a second, over all accounts; refilled by the monotonic clock.
struct Bucket {
    rate: f64,
    level: f64,
    at: std::time::Instant,
}

impl Bucket {
    fn new(rate: u32) -> Self {
        Self { rate: rate.into(), level: rate.into(), at: std::time::Instant::now() }
    }

    fn available(&mut self) -> bool {
        let now = std::time::Instant::now();
        self.level = (self.level + self.rate * (now - self.at).as_secs_f64()).min(self.rate);
        self.at = now;
        self.level >= 1.0
    }

    fn take(&mut self) {
        self.level -= 1.0;
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
