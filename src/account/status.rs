//! What a pass writes into the status: before the delivery ([`recorded`]) and after it ([`finished`]). Pure.

use super::condition::{Facts, conditions, issuing, token_ending};
use super::desired::Desired;
use super::happenings::{Change, stamp_failures};
use super::issue::Block;
use super::ledger::{Hold, Ledger, Settling, is_at};
use super::notices::{self, notices_after, notified};
use super::observe::Observed;
use super::plan::{Act, SecretStep, retry_cap};
use super::stores::{self, RemovalOutcome, StoreOutcome, StoresAfter, stores_after};
use crate::api::{Entry, Instant, IssueReason, Phase, Seconds, TargetError, TokenSecretStatus, VirtualAccountStatus};
use crate::backoff;
use crate::token::Standing;

/// What came of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The Secret holds the image; this is its version.
    Delivered {
        /// `resourceVersion` after the write.
        version: String,
    },
    /// Nothing was tried, or what failed is shared by all accounts and not counted on this one.
    Untouched,
    /// The attempt failed.
    Failed(TargetError),
}

/// What came of everything that a pass did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes {
    /// Of the token Secret.
    pub secret: Outcome,
    /// Of the paths in stores that the spec names, in its order; empty: none was tried.
    pub stores: Vec<StoreOutcome>,
    /// Of the paths that are no longer wanted, in the plan's order; empty: none was tried.
    pub removed: Vec<RemovalOutcome>,
}

impl From<Outcome> for Outcomes {
    fn from(secret: Outcome) -> Self {
        Self { secret, stores: Vec::new(), removed: Vec::new() }
    }
}

/// The clock after the deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What it shows.
    pub now: Instant,
    /// Whether it agreed with the API server's, when the plan was made and now.
    pub trusted: bool,
}

/// The status of the write-ahead write: the ledger and what follows from it. Conditions stay, but at first issue.
pub fn recorded(desired: &Desired, observed: &Observed, act: &Act, now: Instant) -> VirtualAccountStatus {
    let mut status = with_ledger(desired, observed, &act.ledger, act.block.as_ref(), now);
    if let Some(stores) = &act.record_stores {
        status.secret_stores.clone_from(stores);
    }
    forget_in_records(&mut status, &act.ledger);
    let held = &act.ledger.secret;
    if desired.secret.enabled && *held != Hold::default() {
        let before = observed.secret_status(&desired.secret.name).cloned().unwrap_or_default();
        status.token_secret = Some(TokenSecretStatus {
            name: desired.secret.name.clone(),
            jwt_id: held.jti.clone(),
            resource_version: held.version.clone(),
            ..before
        });
    }
    if observed.ledger.entries.is_empty() && act.issued.is_some() {
        status.conditions = issuing(&status.conditions, desired.generation, now);
    }
    // The schema's default is gone with the first write, and "not seen yet" still holds; also where nothing is issued,
    // because a token was adopted: without it tools would take an account without conditions for ready.
    status.observed_generation.get_or_insert(-1);
    status
}

/// The status after the deliveries; the clock was read after the last of them.
pub fn finished(
    desired: &Desired,
    observed: &Observed,
    act: &Act,
    outcomes: &Outcomes,
    clock: Clock,
) -> VirtualAccountStatus {
    let now = clock.now;
    let ledger = ledger_after(desired, act, outcomes, clock);
    let mut status = with_ledger(desired, observed, &ledger, act.block.as_ref(), now);
    let secret = secret_after(desired, observed, act, &ledger, &outcomes.secret, now);
    status.token_secret = desired.secret.enabled.then_some(secret);
    let untried = |count| vec![StoreOutcome::Untouched; count];
    let stores = if outcomes.stores.is_empty() { untried(act.stores.len()) } else { outcomes.stores.clone() };
    let untouched = vec![RemovalOutcome::Untouched; act.removals.len()];
    let removed = if outcomes.removed.is_empty() { &untouched } else { &outcomes.removed };
    let (steps, removals) = (&act.stores, &act.removals);
    let after = StoresAfter { steps, outcomes: &stores, removals, removed, issued: act.issued };
    status.secret_stores = stores_after(desired, observed, &ledger, &after, now);
    if stores.iter().any(|outcome| *outcome != StoreOutcome::Untouched) {
        status.handled_sync_request.clone_from(&desired.sync);
    }
    stamp_failures(observed.status.as_ref(), &mut status, now);
    let facts = Facts {
        desired,
        observed,
        ledger: &ledger,
        block: act.block.as_ref(),
        secret: status.token_secret.as_ref(),
        stores: &status.secret_stores,
        now,
    };
    status.conditions = conditions(&status.conditions, &facts);
    status.observed_generation = Some(desired.generation);
    status
}

/// A status with what people are to be told of it, which rides in the same write; `stored` is what it replaces.
pub fn told(
    desired: &Desired,
    observed: &Observed,
    stored: Option<&VirtualAccountStatus>,
    mut status: VirtualAccountStatus,
    clock: Clock,
) -> VirtualAccountStatus {
    let Clock { now, trusted } = clock;
    let change = Change { desired, observed, before: stored, after: &status, now, trusted };
    status.notifications = notices_after(&change);
    let change = Change { desired, observed, before: stored, after: &status, now, trusted };
    status.conditions = notified(&change);
    status
}

/// The ledger after the deliveries.
pub fn ledger_after(desired: &Desired, act: &Act, outcomes: &Outcomes, clock: Clock) -> Ledger {
    let mut ledger = act.ledger.clone();
    let outcome = &outcomes.secret;
    let newest = ledger.newest().map(|newest| newest.id.clone());
    for (store, outcome) in ledger.stores.iter_mut().zip(&outcomes.stores) {
        if let StoreOutcome::Holds { version, .. } = outcome {
            store.hold = Hold { jti: newest.clone(), version: Some(version.clone()) };
        }
    }
    match (outcome, &act.secret) {
        (Outcome::Delivered { version }, _) | (_, SecretStep::Confirm { version }) => {
            ledger.secret.jti = ledger.newest().map(|newest| newest.id.clone());
            ledger.secret.version = Some(version.clone());
        }
        _ => {}
    }
    let over = |newest: &Entry| newest.phase == Phase::Revoked || clock.now >= newest.expires_at;
    let confirmed = match (outcome, &act.secret) {
        _ if !desired.secret.enabled => true,
        (Outcome::Delivered { .. }, _) => true,
        (_, SecretStep::Keep | SecretStep::Confirm { .. } | SecretStep::NotOwned { .. }) => true,
        (_, SecretStep::Nothing) => ledger.newest().is_none_or(over),
        _ => false,
    };
    let Clock { now, trusted } = clock;
    ledger.settled(&Settling { now, planned: act.at, skew: desired.limits.max_clock_skew, trusted, confirmed })
}

/// When the next pass is worth making, if nothing else happens.
pub fn wake_at(
    desired: &Desired,
    status: &VirtualAccountStatus,
    block: Option<&Block>,
    now: Instant,
) -> Option<Instant> {
    let skew = desired.limits.max_clock_skew;
    let older = status.jwts.iter().skip(1);
    let leaving = older.map(|entry| entry.grace_ends_at.unwrap_or(entry.expires_at).min(entry.expires_at) + skew);
    let newest = status.jwts.first().map(|newest| newest.expires_at);
    let retry = status.token_secret.as_ref().and_then(|secret| secret.next_attempt_at);
    let blocked = match block {
        Some(Block::TooSoon(at)) => Some(*at),
        Some(Block::ReissueRate) => Some(now + Seconds(1)),
        Some(Block::Clock) => Some(now + CLOCK_RECHECK),
        _ => None,
    };
    let single = [
        newest,
        retry,
        blocked,
        status.next_scheduled_rotation,
        desired.schedule.end,
        token_ending(desired, status),
        stores::wake_at(desired, status, now),
        notices::wake_at(desired, status, now),
    ];
    leaving.chain(single.into_iter().flatten()).filter(|instant| *instant > now).min()
}

/// How often an untrusted clock is looked at again.
const CLOCK_RECHECK: Seconds = Seconds(10);

fn with_ledger(
    desired: &Desired,
    observed: &Observed,
    ledger: &Ledger,
    block: Option<&Block>,
    now: Instant,
) -> VirtualAccountStatus {
    let live = ledger.entries.iter().find(|entry| entry.phase != Phase::Revoked);
    VirtualAccountStatus {
        account: Some(desired.account.to_string()),
        jwt_id: live.map(|entry| entry.id.clone()),
        expires_at: live.map(|entry| entry.expires_at),
        next_scheduled_rotation: next_rotation(desired, observed, ledger, block, now),
        rotation: Some(desired.rotation()),
        jwts: ledger.entries.clone(),
        handled_rotate_requests: ledger.handled.clone(),
        ..observed.status.clone().unwrap_or_default()
    }
}

// What a rolled-back status says of stores is not believed: their marks are read again.
fn forget_in_records(status: &mut VirtualAccountStatus, ledger: &Ledger) {
    for store in &ledger.stores {
        for record in status.secret_stores.iter_mut().filter(|record| is_at(record, &store.at)) {
            // What is forgotten is not gone: it must be cleaned up one day.
            if record.jwt_id.is_some() && store.hold.jti.is_none() {
                record.failures.get_or_insert(0);
            }
            record.jwt_id.clone_from(&store.hold.jti);
            record.version.clone_from(&store.hold.version);
        }
    }
}

// Absent when nothing will rotate; with a full ledger, when the next entry leaves.
fn next_rotation(
    desired: &Desired,
    observed: &Observed,
    ledger: &Ledger,
    block: Option<&Block>,
    now: Instant,
) -> Option<Instant> {
    let newest = ledger.newest().filter(|newest| newest.phase != Phase::Revoked)?;
    let missing = observed.standing(newest) == Standing::Missing;
    if !desired.may_issue(now) || missing {
        return None;
    }
    match block {
        Some(Block::LedgerFull(leaves)) => *leaves,
        _ => desired.schedule.due(newest),
    }
}

fn secret_after(
    desired: &Desired,
    observed: &Observed,
    act: &Act,
    ledger: &Ledger,
    outcome: &Outcome,
    now: Instant,
) -> TokenSecretStatus {
    let name = desired.secret.name.clone();
    let before = observed.secret_status(&name).cloned().unwrap_or_default();
    let held = TokenSecretStatus {
        name,
        jwt_id: ledger.secret.jti.clone(),
        resource_version: ledger.secret.version.clone(),
        ..TokenSecretStatus::default()
    };
    match (outcome, &act.secret) {
        (Outcome::Failed(error), _) => {
            // A new generation or a request starts the count anew.
            let anew = observed.is_new_generation(desired) || act.issued == Some(IssueReason::Request);
            let failures = before.failures.filter(|_| !anew).unwrap_or_default().saturating_add(1);
            let delay = backoff::delay(failures.unsigned_abs(), retry_cap(desired), &desired.uid);
            TokenSecretStatus {
                failures: Some(failures),
                next_attempt_at: Some(now + delay),
                error: Some(error.clone()),
                ..held
            }
        }
        (
            Outcome::Untouched,
            SecretStep::Wait | SecretStep::Create(_) | SecretStep::Replace { .. } | SecretStep::Recreate { .. },
        ) => TokenSecretStatus {
            failures: before.failures,
            next_attempt_at: before.next_attempt_at,
            error: before.error,
            ..held
        },
        _ => held,
    }
}

#[cfg(test)]
mod tests;
