//! What a pass does with paths in secret stores, and what it records of them. Pure; the calls are `deliver`'s.
//!
//! Each path is a target of its own, with its own error and retry time. One that the spec no longer names is cleaned up,
//! but not before every target holds the newest token.

use super::desired::{Desired, StorePath, StoreSpec};
use super::ledger::{Ledger, Settling, is_at};
use super::observe::Observed;
use super::plan::retry_cap;
use super::schedule::seed;
use crate::api::{
    DeletionPolicy, Entry, Instant, IssueReason, Seconds, SecretStoreStatus, TargetError, VirtualAccountStatus,
};
use crate::backoff;
use crate::integration::{ErrorKind, ProviderError};
use crate::store::{Admission, STORE_DOWN, STORE_NOT_READY};

/// At most this many paths are remembered, those that wait for their cleanup among them.
pub const MAX_RECORDED: usize = 32;
/// The error's reason for a path that is somebody else's.
pub const NOT_OURS: &str = "NotOurs";

const TOO_MANY: &str = "TooManyPaths";

/// What happens to one path that the spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStep {
    /// Which.
    pub at: StorePath,
    /// What.
    pub action: StoreAction,
}

/// What happens to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAction {
    /// Nothing: it holds the newest token, or there is none to deliver.
    Keep,
    /// Nothing: an earlier attempt failed, the next one is later.
    Wait,
    /// Nothing: it may not be used, or the store is known to be down.
    Refused {
        /// Why.
        error: TargetError,
    },
    /// Look at it; write the newest token unless it is there; end older versions.
    Deliver {
        /// Whose secrets may be taken over.
        take_over: Vec<String>,
    },
}

/// What happens to one path that the spec no longer names, or whose account is being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Which.
    pub at: StorePath,
    /// What.
    pub action: RemovalAction,
}

/// What happens to a path that is no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovalAction {
    /// It stays in the store and is forgotten.
    Release,
    /// It is removed from the store, if it is ours.
    Delete,
    /// Nothing: the next attempt is later, or the store is known to be down.
    Wait,
    /// Time is up: it stays in the store, and people are told.
    GiveUp {
        /// Why it could not be removed.
        why: String,
    },
}

/// What came of one path that the spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// Nothing was tried.
    Untouched,
    /// It holds the newest token, in this version.
    Holds {
        /// The store's own version.
        version: String,
        /// Why older versions could not be ended, if so.
        leftover: Option<ProviderError>,
    },
    /// The attempt failed.
    Failed(ProviderError),
}

/// What came of one path that is no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovalOutcome {
    /// Nothing was tried.
    Untouched,
    /// It is gone, or was never ours, or stays by policy: it is forgotten.
    Gone,
    /// It stays in the store although it should not, and is forgotten.
    LeftBehind {
        /// Why it could not be removed.
        why: String,
    },
    /// The attempt failed.
    Failed(ProviderError),
}

/// What is done with the paths that the spec names, in its order.
pub fn store_steps(desired: &Desired, observed: &Observed, ledger: &Ledger, now: Instant) -> Vec<StoreStep> {
    let newest = ledger.newest().filter(|_| super::plan::deliverable(desired, observed, ledger, now));
    let leaves = something_leaves(desired, observed, ledger, now);
    let step = |spec: &StoreSpec| {
        let action = newest.map(|newest| action(desired, observed, ledger, newest, &spec.at, leaves, now));
        StoreStep { at: spec.at.clone(), action: action.unwrap_or(StoreAction::Keep) }
    };
    desired.stores.iter().map(step).collect()
}

fn action(
    desired: &Desired,
    observed: &Observed,
    ledger: &Ledger,
    newest: &Entry,
    at: &StorePath,
    leaves: bool,
    now: Instant,
) -> StoreAction {
    let none = SecretStoreStatus::default();
    let record = observed.store_status(at).unwrap_or(&none);
    let holds = ledger.stores.iter().any(|store| store.at == *at && store.hold.is(&newest.id));
    let due = check_at(desired, record).is_none_or(|due| now >= due);
    let needless = holds && !due && !leaves && !sync_asked(desired, observed) && record.error.is_none();
    let take_over = match observed.admission(at) {
        Admission::Refused { reason, message } if !needless || *reason != STORE_NOT_READY => {
            return refused(reason, message);
        }
        _ if needless => return StoreAction::Keep,
        Admission::Refused { reason, message } => return refused(reason, message),
        Admission::Down { message } => return refused(STORE_DOWN, message),
        Admission::Open { take_over } => take_over.clone(),
    };
    if observed.is_new_to_stores(at) && observed.unwanted_stores(desired).len() + desired.stores.len() > MAX_RECORDED {
        let message =
            format!("{MAX_RECORDED} paths are remembered already; those that wait for their cleanup go first");
        return refused(TOO_MANY, &message);
    }
    if may_attempt(desired, observed, record, now) { StoreAction::Deliver { take_over } } else { StoreAction::Wait }
}

fn refused(reason: &str, message: &str) -> StoreAction {
    StoreAction::Refused { error: TargetError { reason: reason.into(), message: message.into() } }
}

// The version that held it is then of no use to anybody.
fn something_leaves(desired: &Desired, observed: &Observed, ledger: &Ledger, now: Instant) -> bool {
    let skew = desired.limits.max_clock_skew;
    let by = Settling { now, planned: now, skew, trusted: observed.clock_trusted, confirmed: true };
    ledger.settled(&by).entries.len() < ledger.entries.len()
}

/// Whether the annotation asks for a look that was not taken yet.
pub fn sync_asked(desired: &Desired, observed: &Observed) -> bool {
    let handled = observed.status.as_ref().and_then(|status| status.handled_sync_request.as_ref());
    desired.sync.is_some() && desired.sync.as_ref() != handled
}

// No failure, or its time has come, or something changed since.
fn may_attempt(desired: &Desired, observed: &Observed, record: &SecretStoreStatus, now: Instant) -> bool {
    let Some(next) = record.next_attempt_at else { return true };
    let requested = desired.request.as_ref().is_some_and(|request| !observed.ledger.handles(&request.value));
    now >= next
        || next > now + retry_cap(desired)
        || observed.is_new_generation(desired)
        || sync_asked(desired, observed)
        || (requested && desired.may_issue(now))
}

/// When a path is looked at again although nothing is known to be wrong; `None`: it was never seen to be right.
pub fn check_at(desired: &Desired, record: &SecretStoreStatus) -> Option<Instant> {
    let interval = desired.limits.store_check_interval;
    let spread = interval.0 / 10;
    let seed = seed(&format!("{}{}{}", desired.uid, record.store_ref.name, record.secret_path));
    let jitter = if spread > 0 {
        Seconds(i64::try_from(seed % spread.unsigned_abs()).unwrap_or_default())
    } else {
        Seconds::ZERO
    };
    record.synced_at.map(|at| at + interval - jitter)
}

/// What is done with the paths that are no longer wanted.
pub fn removals(desired: &Desired, observed: &Observed, now: Instant) -> Vec<Removal> {
    let unwanted = observed.unwanted_stores(desired);
    let removal = |record: &SecretStoreStatus| {
        let at = StorePath { store: record.store_ref.clone(), path: record.secret_path.clone() };
        Removal { action: removal(desired, observed, record, &at, now), at }
    };
    unwanted.iter().map(removal).collect()
}

fn removal(
    desired: &Desired,
    observed: &Observed,
    record: &SecretStoreStatus,
    at: &StorePath,
    now: Instant,
) -> RemovalAction {
    if record.deletion_policy == DeletionPolicy::Retain || is_wanted_elsewhere(desired, observed, at) {
        return RemovalAction::Release;
    }
    let deadline = desired.deleted_at.map(|since| since + desired.limits.cleanup_deadline);
    let overdue = deadline.is_some_and(|deadline| now >= deadline);
    // Nobody may have tried yet: the operator was away.
    let tried = deadline.is_some_and(|deadline| record.next_attempt_at.is_some_and(|next| next >= deadline));
    let why = |why: &str| RemovalAction::GiveUp { why: why.to_owned() };
    let last = || record.error.as_ref().map_or("no attempt succeeded in time", |error| error.message.as_str());
    match observed.admission(at) {
        // It was never used: the path may be anybody's.
        Admission::Refused { .. } if is_untouched(record) => RemovalAction::Release,
        Admission::Refused { message, .. } if overdue || is_orphaned(desired, observed, at) => why(message),
        Admission::Down { message } if overdue => why(message),
        _ if overdue && tried => why(last()),
        Admission::Down { .. } => RemovalAction::Wait,
        Admission::Refused { reason: "StoreNotFound", .. } => RemovalAction::Wait,
        _ if removal_may_be_tried(desired, observed, record, now) => RemovalAction::Delete,
        _ => RemovalAction::Wait,
    }
}

// Another TokenStore leads to the very same secret, which the account still wants.
fn is_wanted_elsewhere(desired: &Desired, observed: &Observed, at: &StorePath) -> bool {
    let place = observed.places.get(at);
    let mut wanted = desired.stores.iter().filter(|_| !desired.deleting()).filter(|store| store.at != *at);
    place.is_some() && wanted.any(|store| observed.places.get(&store.at) == place)
}

// No attempt was made since it is recorded, not even one whose end is unknown.
fn is_untouched(record: &SecretStoreStatus) -> bool {
    record.jwt_id.is_none() && record.synced_at.is_none() && record.failures.is_none()
}

// A trace of attempts that survives what is not counted: 0 failures, and how the last attempt ended is not known.
fn attempted(record: &SecretStoreStatus) -> Option<i32> {
    record.failures.map(|_| 0)
}

fn removal_may_be_tried(desired: &Desired, observed: &Observed, record: &SecretStoreStatus, now: Instant) -> bool {
    let Some(next) = record.next_attempt_at else { return true };
    now >= next || next > now + retry_cap(desired) || observed.is_new_generation(desired)
}

/// The paths with their records before anything is written: what may be written must be known, so that it is cleaned up
/// whatever happens; and what may be removed counts as empty, so that it is looked at if the spec names it again. `None`:
/// nothing is to be recorded.
pub fn recorded_stores(
    desired: &Desired,
    observed: &Observed,
    steps: &[StoreStep],
    removals: &[Removal],
) -> Option<Vec<SecretStoreStatus>> {
    let before = observed.status.as_ref().map(|status| status.secret_stores.clone()).unwrap_or_default();
    let mut stores = before.clone();
    for removal in removals {
        for record in stores.iter_mut().filter(|record| is_at(record, &removal.at)) {
            *record = doubted(desired, removal, record.clone());
        }
    }
    let tried = |step: &&StoreStep| observed.has_lost_status() || matches!(step.action, StoreAction::Deliver { .. });
    for step in steps.iter().filter(tried) {
        // One that was refused so far, or forgotten, is about to be used.
        for record in stores.iter_mut().filter(|record| is_at(record, &step.at) && is_untouched(record)) {
            record.failures = Some(0);
        }
        if !observed.is_new_to_stores(&step.at) {
            continue;
        }
        let policy = desired.stores.iter().find(|spec| spec.at == step.at).map(|spec| spec.policy).unwrap_or_default();
        stores.push(SecretStoreStatus { failures: Some(0), ..record_of(&step.at, policy) });
    }
    (stores != before).then_some(stores)
}

// An account that is being deleted does not name it again.
fn doubted(desired: &Desired, removal: &Removal, record: SecretStoreStatus) -> SecretStoreStatus {
    if removal.action != RemovalAction::Delete || desired.deleting() {
        return record;
    }
    let failures = record.failures.or(Some(0));
    SecretStoreStatus { jwt_id: None, version: None, failures, ..record }
}

/// The records after a pass.
pub fn stores_after(
    desired: &Desired,
    observed: &Observed,
    ledger: &Ledger,
    after: &StoresAfter,
    now: Instant,
) -> Vec<SecretStoreStatus> {
    let wanted = desired.stores.iter().zip(after.steps.iter().zip(after.outcomes));
    let wanted = wanted.filter(|_| !desired.deleting()).filter_map(|(spec, (step, outcome))| {
        let before = observed.store_status(&spec.at).cloned();
        let lost = observed.has_lost_status();
        if before.is_none() && !lost && !is_recorded(&step.action) {
            return None;
        }
        let content = ledger.stores.iter().find(|store| store.at == spec.at).map(|store| store.hold.clone());
        let content = content.unwrap_or_default();
        let traced = lost || matches!(step.action, StoreAction::Deliver { .. });
        let unknown = || SecretStoreStatus { failures: traced.then_some(0), ..record_of(&spec.at, spec.policy) };
        let mut before = before.unwrap_or_else(unknown);
        // What is forgotten is not gone: it must be cleaned up one day.
        if before.jwt_id.is_some() && content.jti.is_none() {
            before.failures.get_or_insert(0);
        }
        let held = SecretStoreStatus {
            jwt_id: content.jti,
            version: content.version,
            place: before.place.clone(),
            synced_at: before.synced_at,
            ..record_of(&spec.at, spec.policy)
        };
        // A new generation or a request starts the count anew.
        let anew = observed.is_new_generation(desired)
            || after.issued == Some(IssueReason::Request)
            || sync_asked(desired, observed);
        Some(store_after(
            &Failing { desired, anew, before: &before, place: observed.places.get(&spec.at), now },
            held,
            step,
            outcome,
        ))
    });
    let unwanted = after.removals.iter().zip(after.removed).filter_map(|(removal, outcome)| {
        let before = observed.unwanted_stores(desired).into_iter().find(|record| is_at(record, &removal.at))?;
        let before = doubted(desired, removal, before);
        let anew = observed.is_new_generation(desired);
        match outcome {
            RemovalOutcome::Gone | RemovalOutcome::LeftBehind { .. } => None,
            RemovalOutcome::Failed(error) => {
                Some(Failing { desired, anew, before: &before, place: None, now }.failed(before.clone(), error))
            }
            RemovalOutcome::Untouched => Some(before),
        }
    });
    wanted.chain(unwanted).collect()
}

// A path that was not used, or for which there is no room, is not remembered.
fn is_recorded(action: &StoreAction) -> bool {
    match action {
        StoreAction::Keep => false,
        StoreAction::Refused { error } => error.reason != TOO_MANY,
        StoreAction::Wait | StoreAction::Deliver { .. } => true,
    }
}

/// What a pass did with stores, for [`stores_after`].
#[derive(Clone, Copy, Debug)]
pub struct StoresAfter<'a> {
    /// What was planned.
    pub steps: &'a [StoreStep],
    /// What came of it, in the same order.
    pub outcomes: &'a [StoreOutcome],
    /// What was planned for paths that are no longer wanted.
    pub removals: &'a [Removal],
    /// What came of it, in the same order.
    pub removed: &'a [RemovalOutcome],
    /// Why a token was issued in this pass.
    pub issued: Option<IssueReason>,
}

fn store_after(
    failing: &Failing,
    held: SecretStoreStatus,
    step: &StoreStep,
    outcome: &StoreOutcome,
) -> SecretStoreStatus {
    match (outcome, &step.action) {
        (StoreOutcome::Holds { leftover, .. }, _) => {
            let place = failing.place.cloned().or(held.place.clone());
            let synced = SecretStoreStatus { synced_at: Some(failing.now), place, ..held };
            match leftover {
                Some(error) => failing.failed(synced, error),
                None => synced,
            }
        }
        (StoreOutcome::Failed(error), _) => failing.failed(held, error),
        (StoreOutcome::Untouched, StoreAction::Refused { error }) => {
            SecretStoreStatus { error: Some(error.clone()), failures: attempted(failing.before), ..held }
        }
        (StoreOutcome::Untouched, StoreAction::Keep) => {
            SecretStoreStatus { failures: attempted(failing.before), ..held }
        }
        (StoreOutcome::Untouched, StoreAction::Wait | StoreAction::Deliver { .. }) => {
            let SecretStoreStatus { failures, next_attempt_at, error, .. } = failing.before.clone();
            SecretStoreStatus { failures, next_attempt_at, error, ..held }
        }
    }
}

/// What the retry time of a path that fails depends on.
struct Failing<'a> {
    desired: &'a Desired,
    anew: bool,
    before: &'a SecretStoreStatus,
    place: Option<&'a String>,
    now: Instant,
}

impl Failing<'_> {
    fn failed(&self, held: SecretStoreStatus, error: &ProviderError) -> SecretStoreStatus {
        let Self { desired, anew, before, now, .. } = *self;
        let said = TargetError { reason: error.reason.clone(), message: error.message.clone() };
        // Its breaker opened while this path waited: nobody's failure, and the registry says when it is over.
        if error.reason == STORE_DOWN {
            return SecretStoreStatus { failures: attempted(before), error: Some(said), next_attempt_at: None, ..held };
        }
        let failures = before.failures.filter(|_| !anew).unwrap_or_default().saturating_add(1);
        let seed = format!("{}{}{}", desired.uid, before.store_ref.name, before.secret_path);
        let delay = backoff::delay(failures.unsigned_abs(), retry_cap(desired), &seed);
        let delay = delay.max(error.retry_after.unwrap_or(Seconds::ZERO).min(retry_cap(desired)));
        SecretStoreStatus { failures: Some(failures), next_attempt_at: Some(now + delay), error: Some(said), ..held }
    }
}

fn record_of(at: &StorePath, policy: DeletionPolicy) -> SecretStoreStatus {
    SecretStoreStatus {
        store_ref: at.store.clone(),
        secret_path: at.path.clone(),
        deletion_policy: policy,
        ..SecretStoreStatus::default()
    }
}

/// When the next look at a store is worth a pass.
pub fn wake_at(desired: &Desired, status: &VirtualAccountStatus, now: Instant) -> Option<Instant> {
    let deadline = desired.deleted_at.map(|since| since + desired.limits.cleanup_deadline);
    let records = status.secret_stores.iter();
    let wake = |record: &SecretStoreStatus| match record.next_attempt_at {
        Some(next) => Some(next),
        None if desired.deleting() => None,
        None => check_at(desired, record),
    };
    let deadline = deadline.filter(|_| !status.secret_stores.is_empty());
    // A retry time that has passed is that of a store that is down: its own check finds out.
    records.filter_map(wake).chain(deadline).filter(|instant| *instant > now).min()
}

/// Whether the credentials of this path's store go with the account's namespace.
pub fn is_orphaned(desired: &Desired, observed: &Observed, at: &StorePath) -> bool {
    desired.deleting() && observed.namespace_terminating && at.store.namespace == desired.account.namespace
}

/// Whether a failed attempt at a cleanup is worth another one in a namespace that goes away.
pub fn is_hopeless(error: &ProviderError) -> bool {
    matches!(error.kind, ErrorKind::Denied | ErrorKind::NotFound | ErrorKind::Invalid)
}

#[cfg(test)]
mod tests;
