//! What is counted, and the text that Prometheus scrapes (OpenMetrics).
//!
//! Labels are static strings, so that the number of series is bounded; account names appear in the per-account gauges
//! alone, and those go with the account.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::api::{AccountId, Instant, IssueReason, VirtualAccount, VirtualAccountStatus};

mod labels;

use labels::{Account, Build, ByCall, ByMedium, ByOperation, ByReason, ByRequest, ByResult, BySending, ByState, Info};

// A family of one series: it is there only once it has a value, and an alert on 0 would be a false one.
type NoLabels = [(&'static str, &'static str); 0];

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ByResult, Counter>,
    errors: Family<ByReason, Counter>,
    issued: Family<ByReason, Counter>,
    writes: Family<ByRequest, Counter>,
    introspections: Family<ByResult, Counter>,
    leader: Gauge,
    queue_depth: Gauge,
    accounts_failing: Gauge,
    namespaces_denied: Gauge,
    replica_ready: Gauge,
    clock_trusted: Gauge,
    store_calls: Family<ByCall, Counter>,
    store_call_duration: Family<ByOperation, Histogram>,
    stores_down: Gauge,
    notices_sent: Family<BySending, Counter>,
    notice_send_duration: Family<ByMedium, Histogram>,
    channels_failing: Gauge,
    public_certificate: Family<NoLabels, Gauge>,
    keys: Family<ByState, Gauge>,
    oldest_key: Family<ByState, Gauge>,
    key_ring_healthy: Gauge,
    key_rotation: Family<NoLabels, Gauge>,
    expiry: Family<Account, Gauge>,
    next_rotation: Family<Account, Gauge>,
    targets_failing: Family<Account, Gauge>,
    info: Family<Info, Gauge>,
    // The info series of each account: its labels change, and the old series must go.
    accounts: Mutex<HashMap<AccountId, Info>>,
}

impl Metrics {
    /// All metrics at zero; `started` is when the process started.
    pub fn new(started: Instant) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            reconciles: Family::default(),
            errors: Family::default(),
            issued: Family::default(),
            writes: Family::default(),
            introspections: Family::default(),
            leader: Gauge::default(),
            queue_depth: Gauge::default(),
            accounts_failing: Gauge::default(),
            namespaces_denied: Gauge::default(),
            replica_ready: Gauge::default(),
            clock_trusted: Gauge::default(),
            store_calls: Family::default(),
            store_call_duration: Family::new_with_constructor(durations),
            stores_down: Gauge::default(),
            notices_sent: Family::default(),
            notice_send_duration: Family::new_with_constructor(durations),
            channels_failing: Gauge::default(),
            public_certificate: Family::default(),
            keys: Family::default(),
            oldest_key: Family::default(),
            key_ring_healthy: Gauge::default(),
            key_rotation: Family::default(),
            expiry: Family::default(),
            next_rotation: Family::default(),
            targets_failing: Family::default(),
            info: Family::default(),
            accounts: Mutex::default(),
        };
        metrics.register(started);
        metrics.register_keys();
        metrics.register_accounts();
        metrics.register_stores();
        metrics.register_channels();
        metrics
    }

    fn register(&mut self, started: Instant) {
        let start = Gauge::<i64>::default();
        start.set(started.as_unix());
        self.registry.register("process_start_time_seconds", "When the process started, Unix time", start);

        let ours = self.registry.sub_registry_with_prefix("virtual_account");
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        ours.register("build_info", "The version that runs", build);
        ours.register("reconciles", "Passes over an account, by result", self.reconciles.clone());
        ours.register("reconcile_errors", "Errors of passes, by reason", self.errors.clone());
        ours.register("tokens_issued", "Tokens issued, by reason", self.issued.clone());
        ours.register("api_writes", "Writes to the Kubernetes API, by verb and resource", self.writes.clone());
        ours.register(
            "introspections",
            "Answers of the introspection endpoint, by result",
            self.introspections.clone(),
        );
        ours.register("leader", "1 on the replica that writes, 0 on the others", self.leader.clone());
        ours.register(
            "queue_depth",
            "Accounts that wait for a pass; 0 on replicas that do not lead",
            self.queue_depth.clone(),
        );
        ours.register(
            "accounts_failing",
            "Accounts whose last pass ended in an error that is nobody's fault",
            self.accounts_failing.clone(),
        );
        ours.register(
            "namespaces_denied",
            "Watched namespaces in which the operator lacks a right to watch: it works there by what it last saw",
            self.namespaces_denied.clone(),
        );
        ours.register("replica_ready", "1 if /readyz says so, else 0", self.replica_ready.clone());
        ours.register(
            "clock_trusted",
            "1 if the clock agrees with the API server's within --max-clock-skew, else 0: nothing is issued or retired",
            self.clock_trusted.clone(),
        );
    }

    fn register_keys(&mut self) {
        let ours = self.registry.sub_registry_with_prefix("virtual_account");
        ours.register("signing_keys", "Signing keys in the ring, by state", self.keys.clone());
        ours.register(
            "signing_key_published_timestamp_seconds",
            "When the oldest signing key in this state was published, Unix time; its age is time() minus this",
            self.oldest_key.clone(),
        );
        ours.register(
            "signing_key_rotation_timestamp_seconds",
            "When the time of the key that signs is over, Unix time",
            self.key_rotation.clone(),
        );
        ours.register(
            "key_ring_healthy",
            "1 if the key ring's Secret is there and whole, else 0",
            self.key_ring_healthy.clone(),
        );
    }

    fn register_accounts(&mut self) {
        let ours = self.registry.sub_registry_with_prefix("virtual_account");
        ours.register(
            "token_expiry_timestamp_seconds",
            "When the account's newest token that is not revoked ends, Unix time",
            self.expiry.clone(),
        );
        ours.register(
            "next_rotation_timestamp_seconds",
            "When the account's token is rotated next, Unix time; absent when never",
            self.next_rotation.clone(),
        );
        ours.register(
            "public_certificate_expiry_timestamp_seconds",
            "When the certificate of the public listener ends, Unix time; absent without TLS",
            self.public_certificate.clone(),
        );
        ours.register(
            "targets_failing",
            "Targets of the account (its Secret, paths in secret stores) whose last delivery failed",
            self.targets_failing.clone(),
        );
        ours.register("info", "One series for each account: its owner and its Ready condition", self.info.clone());
    }

    fn register_stores(&mut self) {
        let ours = self.registry.sub_registry_with_prefix("virtual_account");
        ours.register(
            "store_calls",
            "Calls to secret stores, by provider, operation and result",
            self.store_calls.clone(),
        );
        ours.register(
            "store_call_duration_seconds",
            "How long calls to secret stores took, by provider and operation",
            self.store_call_duration.clone(),
        );
        ours.register(
            "stores_down",
            "TokenStores that are known to be down: only their own checks call them",
            self.stores_down.clone(),
        );
    }

    fn register_channels(&mut self) {
        let ours = self.registry.sub_registry_with_prefix("virtual_account");
        ours.register(
            "notices_sent",
            "Messages sent by notification channels, by medium and result",
            self.notices_sent.clone(),
        );
        ours.register(
            "notice_send_duration_seconds",
            "How long it took to send messages by notification channels, by medium",
            self.notice_send_duration.clone(),
        );
        ours.register("channels_failing", "NotificationChannels that are not ready", self.channels_failing.clone());
    }

    /// A pass ended.
    pub fn reconciled(&self, result: &'static str) {
        self.reconciles.get_or_create(&ByResult { result }).inc();
    }

    /// A pass met an error.
    pub fn failed(&self, reason: &'static str) {
        self.errors.get_or_create(&ByReason { reason }).inc();
    }

    /// A token was issued.
    pub fn issued(&self, reason: IssueReason) {
        self.issued.get_or_create(&ByReason { reason: reason_label(reason) }).inc();
    }

    /// A write was sent to the API server. What we never write is counted as `other`.
    pub fn wrote(&self, verb: &str, resource: &str) {
        let known = |table: &[&'static str], name: &str| table.iter().find(|known| **known == name).copied();
        let verb = known(&VERBS, verb).unwrap_or("other");
        let resource = known(&RESOURCES, resource).unwrap_or("other");
        self.writes.get_or_create(&ByRequest { verb, resource }).inc();
    }

    /// The introspection endpoint answered.
    pub fn introspected(&self, result: &'static str) {
        self.introspections.get_or_create(&ByResult { result }).inc();
    }

    /// A call to a secret store ended.
    pub fn store_called(&self, provider: &'static str, operation: &'static str, result: &'static str, took: Duration) {
        self.store_calls.get_or_create(&ByCall { provider, operation, result }).inc();
        self.store_call_duration.get_or_create(&ByOperation { provider, operation }).observe(took.as_secs_f64());
    }

    /// How many TokenStores are known to be down.
    pub fn stores_down(&self, count: usize) {
        self.stores_down.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A notification channel sent a message, or failed to.
    pub fn notice_sent(&self, medium: &'static str, result: &'static str, took: Duration) {
        self.notices_sent.get_or_create(&BySending { medium, result }).inc();
        self.notice_send_duration.get_or_create(&ByMedium { medium }).observe(took.as_secs_f64());
    }

    /// How many NotificationChannels are not ready.
    pub fn channels_failing(&self, count: usize) {
        self.channels_failing.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The public listener serves a certificate that ends then.
    pub fn public_certificate(&self, ends: Instant) {
        self.public_certificate.get_or_create(&[]).set(ends.as_unix());
    }

    /// Whether this replica writes.
    pub fn leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// How many accounts wait for a pass.
    pub fn queue_depth(&self, depth: usize) {
        self.queue_depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// How many accounts had an error in their last pass.
    pub fn accounts_failing(&self, count: usize) {
        self.accounts_failing.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// In how many watched namespaces the operator lacks a right.
    pub fn namespaces_denied(&self, count: usize) {
        self.namespaces_denied.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Whether this replica may get traffic.
    pub fn replica_ready(&self, ready: bool) {
        self.replica_ready.set(ready.into());
    }

    /// Whether the clock is near enough to the API server's.
    pub fn clock_trusted(&self, trusted: bool) {
        self.clock_trusted.set(trusted.into());
    }

    /// Whether the ring's Secret is as it should be.
    pub fn key_ring_healthy(&self, healthy: bool) {
        self.key_ring_healthy.set(healthy.into());
    }

    /// When the time of the key that signs is over; `None`: no key signs.
    pub fn key_rotation(&self, due: Option<Instant>) {
        set(&self.key_rotation, &[], due.map(Instant::as_unix));
    }

    /// The keys of the ring: the state and publication of each. States without a key have no age.
    pub fn keys(&self, keys: impl IntoIterator<Item = (&'static str, Instant)>) {
        let mut states: HashMap<&'static str, (i64, i64)> = HashMap::new();
        for (state, published) in keys {
            let (count, oldest) = states.entry(state).or_insert((0, i64::MAX));
            *count += 1;
            *oldest = published.as_unix().min(*oldest);
        }
        for state in KEY_STATES {
            let labels = ByState { state };
            let (count, oldest) = states.get(state).copied().unwrap_or_default();
            self.keys.get_or_create(&labels).set(count);
            if count == 0 {
                self.oldest_key.remove(&labels);
            } else {
                self.oldest_key.get_or_create(&labels).set(oldest);
            }
        }
    }

    /// Shows an account as its status now is.
    pub fn account(&self, account: &VirtualAccount) {
        let (Some(namespace), Some(name)) = (&account.metadata.namespace, &account.metadata.name) else { return };
        let id = AccountId::new(namespace, name);
        let labels = Account::of(&id);
        let info = Info::of(&id, account);
        let status = account.status.as_ref();
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        set(&self.expiry, &labels, status.and_then(|status| status.expires_at).map(Instant::as_unix));
        let next = status.and_then(|status| status.next_scheduled_rotation);
        set(&self.next_rotation, &labels, next.map(Instant::as_unix));
        set(&self.targets_failing, &labels, Some(status.map_or(0, targets_failing)));
        self.info.get_or_create(&info).set(1);
        if let Some(before) = accounts.insert(id, info.clone()).filter(|before| *before != info) {
            self.info.remove(&before);
        }
    }

    /// Removes what was shown of an account that is gone.
    pub fn forget(&self, id: &AccountId) {
        let labels = Account::of(id);
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        self.expiry.remove(&labels);
        self.next_rotation.remove(&labels);
        self.targets_failing.remove(&labels);
        if let Some(info) = accounts.remove(id) {
            self.info.remove(&info);
        }
    }

    /// The text of a scrape, OpenMetrics 1.0.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn set<L: Clone + Eq + Hash>(family: &Family<L, Gauge>, labels: &L, value: Option<i64>) {
    match value {
        Some(value) => {
            family.get_or_create(labels).set(value);
        }
        None => {
            family.remove(labels);
        }
    }
}

fn targets_failing(status: &VirtualAccountStatus) -> i64 {
    let secret = status.token_secret.iter().filter(|secret| secret.error.is_some()).count();
    let stores = status.secret_stores.iter().filter(|store| store.error.is_some()).count();
    i64::try_from(secret + stores).unwrap_or(i64::MAX)
}

const KEY_STATES: [&str; 4] = ["Published", "Active", "Retiring", "Compromised"];
const VERBS: [&str; 4] = ["create", "update", "patch", "delete"];
const RESOURCES: [&str; 11] = [
    "virtualaccounts",
    "virtualaccounts/status",
    "tokenstores",
    "tokenstores/status",
    "notificationchannels/status",
    "serviceaccounts/token",
    "secrets",
    "events",
    "leases",
    "tokenreviews",
    "subjectaccessreviews",
];

// From 5 ms to 10 s, about where calls end.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 12))
}

fn reason_label(reason: IssueReason) -> &'static str {
    match reason {
        IssueReason::First => "First",
        IssueReason::Scheduled => "Scheduled",
        IssueReason::Request => "Request",
        IssueReason::SpecChange => "SpecChange",
        IssueReason::Revocation => "Revocation",
        IssueReason::KeyChange => "KeyChange",
        IssueReason::LimitChange => "LimitChange",
        IssueReason::ClockChange => "ClockChange",
        IssueReason::Adopted => "Adopted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(ready: &str, next: Option<i64>) -> VirtualAccount {
        let mut status = serde_json::json!({
            "expiresAt": "2026-11-22T08:30:00Z",
            "conditions": [{
                "type": "Ready", "status": ready, "reason": "Delivered", "message": "",
                "lastTransitionTime": "2026-11-22T08:30:00Z",
            }],
        });
        if let Some(next) = next {
            status["nextScheduledRotation"] = serde_json::json!(Instant::from_unix(next).to_string());
        }
        serde_json::from_value(serde_json::json!({
            "apiVersion": "virtualaccounts.dev/v1alpha1",
            "kind": "VirtualAccount",
            "metadata": {"namespace": "prod", "name": "billing"},
            "spec": {"permissions": [], "ownedBy": {"team": "payments"}},
            "status": status,
        }))
        .unwrap()
    }

    #[track_caller]
    fn assert_lines(metrics: &Metrics, present: &[&str], absent: &[&str]) {
        let text = metrics.text().unwrap();
        for line in present {
            assert!(text.lines().any(|seen| seen == *line), "no line {line} in\n{text}");
        }
        for part in absent {
            assert!(!text.contains(part), "{part} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn names_are_exact() {
        let metrics = Metrics::new(Instant::from_unix(7));
        metrics.reconciled("done");
        metrics.failed("Conflict");
        metrics.issued(IssueReason::First);
        metrics.wrote("update", "virtualaccounts/status");
        metrics.wrote("steal", "pods");
        metrics.introspected("active");
        metrics.leader(true);
        metrics.public_certificate(Instant::from_unix(12));
        metrics.queue_depth(3);
        metrics.accounts_failing(4);
        metrics.namespaces_denied(5);
        metrics.replica_ready(true);
        metrics.clock_trusted(true);
        metrics.key_ring_healthy(true);
        metrics.key_rotation(Some(Instant::from_unix(11)));
        metrics.store_called("hashicorpVault", "read", "ok", Duration::from_millis(30));
        metrics.stores_down(1);
        metrics.notice_sent("email", "ok", Duration::from_millis(30));
        metrics.channels_failing(2);
        metrics.keys([
            ("Active", Instant::from_unix(9)),
            ("Retiring", Instant::from_unix(5)),
            ("Retiring", Instant::from_unix(4)),
        ]);
        let build = format!("virtual_account_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        assert_lines(
            &metrics,
            &[
                "process_start_time_seconds 7",
                &build,
                "virtual_account_reconciles_total{result=\"done\"} 1",
                "virtual_account_reconcile_errors_total{reason=\"Conflict\"} 1",
                "virtual_account_tokens_issued_total{reason=\"First\"} 1",
                "virtual_account_api_writes_total{verb=\"update\",resource=\"virtualaccounts/status\"} 1",
                "virtual_account_api_writes_total{verb=\"other\",resource=\"other\"} 1",
                "virtual_account_introspections_total{result=\"active\"} 1",
                "virtual_account_leader 1",
                "virtual_account_public_certificate_expiry_timestamp_seconds{} 12",
                "virtual_account_queue_depth 3",
                "virtual_account_accounts_failing 4",
                "virtual_account_namespaces_denied 5",
                "virtual_account_replica_ready 1",
                "virtual_account_clock_trusted 1",
                "virtual_account_key_ring_healthy 1",
                "virtual_account_signing_key_rotation_timestamp_seconds{} 11",
                "virtual_account_store_calls_total{provider=\"hashicorpVault\",operation=\"read\",result=\"ok\"} 1",
                "virtual_account_store_call_duration_seconds_count{provider=\"hashicorpVault\",operation=\"read\"} 1",
                "virtual_account_stores_down 1",
                "virtual_account_notices_sent_total{medium=\"email\",result=\"ok\"} 1",
                "virtual_account_notice_send_duration_seconds_count{medium=\"email\"} 1",
                "virtual_account_channels_failing 2",
                "virtual_account_signing_keys{state=\"Retiring\"} 2",
                "virtual_account_signing_keys{state=\"Published\"} 0",
                "virtual_account_signing_key_published_timestamp_seconds{state=\"Active\"} 9",
                "virtual_account_signing_key_published_timestamp_seconds{state=\"Retiring\"} 4",
            ],
            &["pods", "published_timestamp_seconds{state=\"Published\"}"],
        );
    }

    #[test]
    fn an_account_has_one_info_series() {
        let metrics = Metrics::new(Instant::from_unix(7));
        metrics.account(&account("False", Some(1000)));
        metrics.account(&account("True", None));
        let series = "namespace=\"prod\",name=\"billing\"";
        assert_lines(
            &metrics,
            &[
                &format!("virtual_account_token_expiry_timestamp_seconds{{{series}}} 1795336200"),
                &format!("virtual_account_info{{{series},team=\"payments\",ready=\"True\",reason=\"Delivered\"}} 1"),
            ],
            &["ready=\"False\"", &format!("next_rotation_timestamp_seconds{{{series}}}")],
        );
        metrics.account(&account("True", Some(1000)));
        let next = format!("virtual_account_next_rotation_timestamp_seconds{{{series}}} 1000");
        assert_lines(&metrics, &[&next], &[]);
    }

    #[test]
    fn targets_that_fail_are_counted() {
        let metrics = Metrics::new(Instant::from_unix(7));
        let mut account = account("True", None);
        let failing = "virtual_account_targets_failing{namespace=\"prod\",name=\"billing\"}";
        metrics.account(&account);
        assert_lines(&metrics, &[&format!("{failing} 0")], &[]);
        let error = serde_json::json!({"reason": "StoreDown", "message": "no answer"});
        let status = serde_json::json!({
            "tokenSecret": {"name": "billing-token", "deletionPolicy": "Delete", "error": error},
            "secretStores": [
                {"storeRef": {"namespace": "prod", "name": "one"}, "secretPath": "a", "deletionPolicy": "Delete", "error": error},
                {"storeRef": {"namespace": "prod", "name": "two"}, "secretPath": "a", "deletionPolicy": "Delete"},
            ],
        });
        account.status = Some(serde_json::from_value(status).unwrap());
        metrics.account(&account);
        assert_lines(&metrics, &[&format!("{failing} 2")], &[]);
    }

    #[test]
    fn a_ring_without_a_signer_has_no_time_of_rotation() {
        let metrics = Metrics::new(Instant::from_unix(7));
        metrics.key_rotation(Some(Instant::from_unix(11)));
        metrics.key_rotation(None);
        assert_lines(&metrics, &[], &["signing_key_rotation_timestamp_seconds{} 11"]);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let metrics = Metrics::new(Instant::from_unix(7));
        metrics.account(&account("True", Some(1000)));
        metrics.forget(&AccountId::new("prod", "billing"));
        assert_lines(&metrics, &[], &["billing"]);
        assert!(metrics.accounts.lock().unwrap().is_empty());
    }

    #[test]
    fn issue_reasons_are_labelled_as_in_the_ledger() {
        for reason in [IssueReason::First, IssueReason::SpecChange, IssueReason::Adopted, IssueReason::KeyChange] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason_label(reason));
        }
    }
}
