//! What the user declared, parsed: behind this module no `Option` means "use the default" and no string is a duration, a
//! date or a list of audiences. A mistake is not an error but a value: [`Desired::invalid`] issues nothing and says why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kube::ResourceExt;

use super::schedule::{Schedule, account_end, seed};
use crate::api::{
    ADOPT_ANNOTATION, AccountId, DaysOrDuration, DeletionPolicy, GROUP, Instant, NoticeKind, NotificationTarget,
    ObjectId, ROTATE_ANNOTATION, SYNC_ANNOTATION, Seconds, SecretStore, TokenSecret, VirtualAccount,
    VirtualAccountSpec,
};
use crate::fingerprint::fingerprint;
use crate::token::Algorithm;

/// The settings that decisions about an account depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `--issuer-url`.
    pub issuer: String,
    /// `--default-audience`.
    pub default_audience: String,
    /// `--allowed-audiences`.
    pub allowed_audiences: BTreeSet<String>,
    /// `--minimum-rotation-interval`.
    pub minimum_rotation_interval: Seconds,
    /// `--max-token-lifetime`.
    pub max_token_lifetime: Seconds,
    /// `--max-clock-skew`.
    pub max_clock_skew: Seconds,
    /// `--adopt-restored`.
    pub adopt_restored: bool,
    /// `--signing-algorithm`.
    pub algorithm: Algorithm,
    /// Namespace and name of the key ring's Secret, which no account may name.
    pub ring_secret: AccountId,
    /// `--cluster-id`.
    pub cluster_id: String,
    /// `--store-check-interval`.
    pub store_check_interval: Seconds,
    /// `--cleanup-deadline`.
    pub cleanup_deadline: Seconds,
}

/// An account as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Which account.
    pub account: AccountId,
    /// Its uid.
    pub uid: String,
    /// The generation that this was parsed from.
    pub generation: i64,
    /// Since when it is being deleted: nothing is issued or delivered any more.
    pub deleted_at: Option<Instant>,
    /// Why the spec cannot be used. Grace ends, repairs and revocations go on.
    pub invalid: Option<Invalid>,
    /// What is odd but works, for the Ready condition.
    pub remarks: Vec<String>,
    /// Nothing new is issued.
    pub suspend: bool,
    /// Online checks refuse.
    pub disabled: bool,
    /// Tokens to revoke.
    pub revoked: BTreeSet<String>,
    /// When tokens end and are replaced.
    pub schedule: Schedule,
    /// The audiences that the spec asks for, sorted; `None`: whatever the newest token has will do.
    pub audiences: Option<Vec<String>>,
    /// The request in the rotate annotation, if it can be read.
    pub request: Option<Request>,
    /// The Secret of an earlier account of this name may be adopted.
    pub adopt: bool,
    /// The token Secret.
    pub secret: SecretSpec,
    /// The paths in secret stores.
    pub stores: Vec<StoreSpec>,
    /// Who is told, and of what.
    pub told: Vec<Told>,
    /// The value of the annotation that asks for a look at every store.
    pub sync: Option<String>,
    /// The operator's settings.
    pub limits: Arc<Limits>,
}

/// A mistake in the spec: which field, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// `spec.audiences[0]`
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// "Rotate now".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The annotation's whole value: it acts once.
    pub value: String,
    /// Its own grace, if it names one.
    pub grace: Option<Seconds>,
}

/// A path in a secret store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorePath {
    /// The TokenStore.
    pub store: ObjectId,
    /// As the spec names it.
    pub path: String,
}

/// A path in a secret store as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// Where.
    pub at: StorePath,
    /// What becomes of it.
    pub policy: DeletionPolicy,
}

/// Who is told, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The `NotificationChannel`.
    pub channel: ObjectId,
    /// For mail.
    pub emails: Vec<String>,
    /// For a Slack bot.
    pub rooms: Vec<String>,
    /// A fingerprint of both; `None` if the spec names neither.
    pub recipients: Option<String>,
    /// The kinds of notice.
    pub kinds: BTreeSet<NoticeKind>,
}

/// The token Secret as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSpec {
    /// Whether there is to be one.
    pub enabled: bool,
    /// Its name.
    pub name: String,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The user's annotations.
    pub annotations: BTreeMap<String, String>,
    /// What becomes of it.
    pub policy: DeletionPolicy,
}

const DEFAULT_INTERVAL: Seconds = Seconds::days(360);
const DEFAULT_GRACE: Seconds = Seconds::days(30);
const MAX_REQUEST_LENGTH: usize = 256;

impl Desired {
    /// Parses a manifest. Never fails: see [`Desired::invalid`].
    pub fn parse(account: &VirtualAccount, limits: &Arc<Limits>) -> Self {
        let spec = &account.spec;
        let mut notes = Notes::default();
        let id = AccountId::new(account.namespace().unwrap_or_default(), account.name_any());
        let uid = account.uid().unwrap_or_default();
        let schedule = schedule(spec, &uid, limits, &mut notes);
        let audiences = audiences(spec, limits, &mut notes);
        let secret = secret(spec.token_secret.as_ref(), &id, limits, &mut notes);
        let stores = stores(spec.secret_stores.as_deref().unwrap_or_default(), &secret, &id, &mut notes);
        let told = told(spec.notification_targets.as_deref().unwrap_or_default(), &id);
        let request = request(account, &mut notes);
        permissions(spec, &mut notes);
        Self {
            uid,
            generation: account.metadata.generation.unwrap_or_default(),
            deleted_at: account.metadata.deletion_timestamp.as_ref().map(|at| Instant::from_unix(at.0.as_second())),
            invalid: notes.invalid,
            remarks: notes.remarks,
            suspend: spec.suspend.unwrap_or_default(),
            disabled: spec.disabled.unwrap_or_default(),
            revoked: spec.revoked_jwt_ids.iter().flatten().cloned().collect(),
            schedule,
            audiences,
            request,
            adopt: limits.adopt_restored || account.annotations().get(ADOPT_ANNOTATION).is_some_and(|v| v == "true"),
            secret,
            stores,
            told,
            sync: account
                .annotations()
                .get(SYNC_ANNOTATION)
                .map(|value| value.chars().take(MAX_REQUEST_LENGTH).collect()),
            limits: Arc::clone(limits),
            account: id,
        }
    }

    /// The `aud` of the next token.
    pub fn audiences_at_issue(&self) -> Vec<String> {
        self.audiences.clone().unwrap_or_else(|| vec![self.limits.default_audience.clone()])
    }

    /// Whether the account is being deleted.
    pub fn deleting(&self) -> bool {
        self.deleted_at.is_some()
    }

    /// Whether anything new may be issued.
    pub fn may_issue(&self, now: Instant) -> bool {
        !self.deleting() && !self.suspend && self.invalid.is_none() && !self.schedule.ended(now)
    }

    /// The interval in force, for people: `90d`, or `-`.
    pub fn rotation(&self) -> String {
        if self.schedule.auto { self.schedule.interval.to_string() } else { "-".into() }
    }
}

/// What parsing has to say; of several mistakes the first is reported.
#[derive(Default)]
struct Notes {
    invalid: Option<Invalid>,
    remarks: Vec<String>,
}

impl Notes {
    fn invalid(&mut self, field: &str, message: impl Into<String>) {
        self.invalid.get_or_insert_with(|| Invalid { field: field.into(), message: message.into() });
    }
}

fn schedule(spec: &VirtualAccountSpec, uid: &str, limits: &Limits, notes: &mut Notes) -> Schedule {
    let end = spec.expiration_date.as_deref().and_then(|date| {
        let end = account_end(date);
        if end.is_none() {
            notes.invalid(
                "spec.expirationDate",
                format!("{date:?} is not a date; write yyyy-mm-dd, for example 2027-02-28"),
            );
        }
        end
    });
    let rotate = spec.auto_rotate.as_ref();
    let interval = interval(rotate.and_then(|r| r.auto_rotate_interval.as_ref()), limits, notes);
    let grace = match rotate.and_then(|r| r.grace_period.as_ref()) {
        None if rotate.is_some() => DEFAULT_GRACE.min(interval),
        None => DEFAULT_GRACE,
        Some(asked) => grace(asked, interval, notes),
    };
    Schedule { auto: rotate.is_some(), interval, grace, end, max_life: limits.max_token_lifetime, seed: seed(uid) }
}

const INTERVAL: &str = "spec.autoRotate.autoRotateInterval";
const GRACE: &str = "spec.autoRotate.gracePeriod";

fn interval(asked: Option<&DaysOrDuration<30>>, limits: &Limits, notes: &mut Notes) -> Seconds {
    let least = limits.minimum_rotation_interval;
    let interval = match asked {
        None => DEFAULT_INTERVAL,
        Some(DaysOrDuration::Days(days @ 30..=3650)) => Seconds::days(*days),
        Some(DaysOrDuration::Days(days)) => {
            notes.invalid(
                INTERVAL,
                format!("{days} days is out of range; use 30 to 3650, or a duration such as \"12h\""),
            );
            DEFAULT_INTERVAL
        }
        Some(DaysOrDuration::Duration(text)) => duration(text, INTERVAL, notes).unwrap_or(DEFAULT_INTERVAL),
    };
    if interval < least {
        notes.remarks.push(format!("{INTERVAL} {interval} is raised to the operator's minimum of {least}"));
    }
    interval.max(least)
}

fn grace(asked: &DaysOrDuration<1>, interval: Seconds, notes: &mut Notes) -> Seconds {
    let grace = match asked {
        DaysOrDuration::Days(days @ 1..=3650) => Seconds::days(*days),
        DaysOrDuration::Days(days) => {
            notes.invalid(GRACE, format!("{days} days is out of range; use at least 1, or a duration such as \"12h\""));
            return DEFAULT_GRACE.min(interval);
        }
        DaysOrDuration::Duration(text) => duration(text, GRACE, notes).unwrap_or(DEFAULT_GRACE.min(interval)),
    };
    let most = interval * 4;
    if grace > most {
        notes.invalid(GRACE, format!("{grace} is longer than 4 intervals; use at most {most}, or a longer interval"));
    }
    grace.min(most)
}

fn duration(text: &str, field: &str, notes: &mut Notes) -> Option<Seconds> {
    let span = Seconds::parse(text, "mhd").filter(|span| *span > Seconds::ZERO);
    if span.is_none() {
        notes.invalid(
            field,
            format!("{text:?} is not a duration; use a number of days, or one such as \"90d\", \"12h\", \"30m\""),
        );
    }
    span
}

fn audiences(spec: &VirtualAccountSpec, limits: &Limits, notes: &mut Notes) -> Option<Vec<String>> {
    let asked = spec.audiences.as_ref()?;
    for (at, audience) in asked.iter().enumerate().filter(|(_, audience)| !limits.allowed_audiences.contains(*audience))
    {
        let allowed = limits.allowed_audiences.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let message =
            format!("{audience:?} is not allowed; use one of: {allowed} (the operator's --allowed-audiences)");
        notes.invalid(&format!("spec.audiences[{at}]"), message);
    }
    if asked.is_empty() {
        notes.invalid("spec.audiences", "is empty; name an audience or remove the field");
    }
    let sorted: BTreeSet<&String> = asked.iter().collect();
    Some(sorted.into_iter().cloned().collect())
}

fn secret(spec: Option<&TokenSecret>, account: &AccountId, limits: &Limits, notes: &mut Notes) -> SecretSpec {
    let spec = spec.cloned().unwrap_or_default();
    let name = spec.name.unwrap_or_else(|| format!("{}-token", account.name));
    if limits.ring_secret == AccountId::new(&account.namespace, &name) {
        notes.invalid("spec.tokenSecret.name", format!("{name:?} is the operator's key ring; choose another name"));
    }
    let (labels, annotations) = (spec.labels.unwrap_or_default(), spec.annotations.unwrap_or_default());
    for (field, map) in [("labels", &labels), ("annotations", &annotations)] {
        if let Some(key) = map.keys().find(|key| reserved(key)) {
            notes.invalid(&format!("spec.tokenSecret.{field}"), format!("{key:?} is reserved; remove it"));
        }
    }
    let enabled = spec.enabled.unwrap_or(true);
    SecretSpec { enabled, name, labels, annotations, policy: spec.deletion_policy.unwrap_or_default() }
}

// Of a path that is listed twice the first counts, so that a spec that slipped through does no harm.
fn stores(spec: &[SecretStore], secret: &SecretSpec, account: &AccountId, notes: &mut Notes) -> Vec<StoreSpec> {
    let mut seen = BTreeSet::new();
    let mut stores = Vec::with_capacity(spec.len());
    for (at, store) in spec.iter().enumerate() {
        let namespace = store.store_ref.namespace.clone().unwrap_or_else(|| account.namespace.clone());
        let id = ObjectId { namespace, name: store.store_ref.name.clone() };
        let path = StorePath { store: id, path: store.secret_path.clone() };
        if seen.insert(path.clone()) {
            stores.push(StoreSpec { at: path, policy: store.deletion_policy.unwrap_or_default() });
        } else {
            notes.invalid(&format!("spec.secretStores[{at}]"), "is listed twice; remove one of them");
        }
    }
    if stores.is_empty() && !secret.enabled {
        let message = "is false and spec.secretStores names no store; add a store or remove the field";
        notes.invalid("spec.tokenSecret.enabled", message);
    }
    stores
}

// The same channel and recipients are one target, so that nobody is told twice.
fn told(spec: &[NotificationTarget], account: &AccountId) -> Vec<Told> {
    let mut all: Vec<Told> = Vec::with_capacity(spec.len());
    for target in spec {
        let namespace = target.channel_ref.namespace.clone().unwrap_or_else(|| account.namespace.clone());
        let channel = ObjectId { namespace, name: target.channel_ref.name.clone() };
        let sorted = |list: &Option<Vec<String>>| -> Vec<String> {
            let set: BTreeSet<&String> = list.iter().flatten().collect();
            set.into_iter().cloned().collect()
        };
        let (emails, rooms) = (sorted(&target.to_emails), sorted(&target.channels));
        let recipients = (!emails.is_empty() || !rooms.is_empty())
            .then(|| fingerprint(&[&emails.join("\n"), "", &rooms.join("\n")], 16));
        let kinds = target.events.as_deref().unwrap_or(&NoticeKind::DEFAULT).iter().copied().collect();
        match all.iter_mut().find(|told| told.channel == channel && told.recipients == recipients) {
            Some(told) => told.kinds.extend::<BTreeSet<NoticeKind>>(kinds),
            None => all.push(Told { channel, emails, rooms, recipients, kinds }),
        }
    }
    all
}

// The schema refuses these too; a label that slips through would make a GitOps tool prune the Secret.
fn reserved(key: &str) -> bool {
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    let theirs = [GROUP, "argocd.argoproj.io", "kubernetes.io", "kubectl.kubernetes.io", "toolkit.fluxcd.io"];
    theirs.contains(&prefix)
        || prefix.ends_with(".toolkit.fluxcd.io")
        || matches!(key, "app.kubernetes.io/managed-by" | "app.kubernetes.io/instance")
}

fn request(account: &VirtualAccount, notes: &mut Notes) -> Option<Request> {
    let value = account.annotations().get(ROTATE_ANNOTATION)?;
    let request = read_request(value);
    if request.is_none() {
        notes.remarks.push(format!(
            "the annotation {ROTATE_ANNOTATION} cannot be read and rotates nothing; write <id> or <id>,grace=<duration>, \
             for example incident-42,grace=0s"
        ));
    }
    request
}

fn read_request(value: &str) -> Option<Request> {
    let (id, grace) = match value.split_once(',') {
        None => (value, None),
        Some((id, option)) => (id, Some(Seconds::parse(option.strip_prefix("grace=")?, "smhd")?)),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:+".contains(c);
    let readable = !id.is_empty() && id.chars().all(plain) && value.len() <= MAX_REQUEST_LENGTH;
    readable.then(|| Request { value: value.into(), grace })
}

// The schema refuses this too; parsed again because an account may be older than the schema's rule.
fn permissions(spec: &VirtualAccountSpec, notes: &mut Notes) {
    let mut seen = BTreeSet::new();
    for (at, p) in spec.permissions.iter().enumerate() {
        if !seen.insert((&p.resource_fqn, &p.resource_type, &p.role_id)) {
            notes.invalid(&format!("spec.permissions[{at}]"), "is listed twice; remove one of them");
        }
    }
    if spec.permissions.is_empty() {
        notes.invalid("spec.permissions", "is empty; list at least one permission");
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in TokenStore {}/{}", self.path, self.store.namespace, self.store.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::fixtures::{account, limits};
    use crate::api::{AutoRotate, Permission};

    fn parse(change: impl FnOnce(&mut VirtualAccount)) -> Desired {
        let mut account = account("a");
        change(&mut account);
        Desired::parse(&account, &limits())
    }

    fn rotate(interval: Option<DaysOrDuration<30>>, grace: Option<DaysOrDuration<1>>) -> Desired {
        parse(|a| a.spec.auto_rotate = Some(AutoRotate { auto_rotate_interval: interval, grace_period: grace }))
    }

    fn text<const N: i64>(text: &str) -> Option<DaysOrDuration<N>> {
        Some(DaysOrDuration::Duration(text.into()))
    }

    #[test]
    fn defaults_are_resolved_when_parsed() {
        let desired = rotate(None, None);
        assert_eq!(desired.invalid, None);
        assert_eq!((desired.schedule.interval, desired.schedule.grace), (Seconds::days(360), Seconds::days(30)));
        assert_eq!(desired.secret.name, "a-token");
        assert_eq!(desired.audiences, None);
        let short = rotate(text("12h"), None);
        assert_eq!(short.schedule.grace, Seconds::hours(12), "the interval if that is shorter");
    }

    #[test]
    fn an_interval_below_the_minimum_is_raised_and_said() {
        let desired = rotate(text("1m"), text("1m"));
        assert_eq!(desired.schedule.interval, Seconds::minutes(5));
        assert_eq!(desired.invalid, None);
        assert_eq!(
            desired.remarks,
            ["spec.autoRotate.autoRotateInterval 1m is raised to the operator's minimum of 5m"]
        );
    }

    #[test]
    fn a_mistake_names_the_field_and_the_cure() {
        let twice = Permission { resource_fqn: "f".into(), resource_type: "t".into(), role_id: "r".into() };
        let table: Vec<(Desired, &str, &str)> = vec![
            (rotate(Some(DaysOrDuration::Days(29)), None), INTERVAL, "29 days is out of range; use 30 to 3650"),
            (rotate(text("99999999999999999999h"), None), INTERVAL, "is not a duration; use a number of days"),
            (
                rotate(text("12h"), Some(DaysOrDuration::Days(3))),
                GRACE,
                "3d is longer than 4 intervals; use at most 2d",
            ),
            (rotate(None, Some(DaysOrDuration::Days(0))), GRACE, "0 days is out of range; use at least 1"),
            (parse(|a| a.spec.expiration_date = Some("2027-02-30".into())), "spec.expirationDate", "is not a date"),
            (
                parse(|a| a.spec.audiences = Some(vec!["x".into()])),
                "spec.audiences[0]",
                "\"x\" is not allowed; use one of",
            ),
            (parse(|a| a.spec.permissions = vec![twice.clone(), twice]), "spec.permissions[1]", "listed twice"),
            (
                parse(|a| {
                    a.spec.token_secret = Some(TokenSecret {
                        labels: Some([("argocd.argoproj.io/instance".into(), "x".into())].into()),
                        ..TokenSecret::default()
                    });
                }),
                "spec.tokenSecret.labels",
                "is reserved",
            ),
        ];
        for (desired, field, message) in table {
            let invalid = desired.invalid.unwrap();
            assert_eq!(invalid.field, field);
            assert!(invalid.message.contains(message), "{}", invalid.message);
        }
    }

    #[test]
    fn no_account_may_write_over_the_key_ring() {
        let mut account = account("a");
        account.metadata.namespace = Some("operator".into());
        account.spec.token_secret = Some(TokenSecret { name: Some("ring".into()), ..TokenSecret::default() });
        let limits = Arc::new(Limits { ring_secret: AccountId::new("operator", "ring"), ..(*limits()).clone() });
        assert_eq!(Desired::parse(&account, &limits).invalid.unwrap().field, "spec.tokenSecret.name");
    }

    #[test]
    fn rotate_requests() {
        let request = |value: &str| read_request(value).map(|r| r.grace);
        assert_eq!(request("incident-42"), Some(None));
        assert_eq!(request("incident-42,grace=0s"), Some(Some(Seconds::ZERO)));
        assert_eq!(request("2026-11-22T08:30:00Z,grace=7d"), Some(Some(Seconds::days(7))));
        for unreadable in
            ["", ",grace=0s", "a,grace=", "a,grace=-1s", "a,grace=5", "a,b=1", "a b", "a,grace=1h,grace=2h"]
        {
            assert_eq!(request(unreadable), None, "{unreadable}");
        }
    }
}
