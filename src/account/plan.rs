//! Decides what one pass does. Pure: no clock, no client, no randomness; the same plan made twice has nothing to do the
//! second time.
//!
//! Order of a pass: record in the status what may be revealed, then write the Secret, then record what was done. Where
//! what is known does not allow a decision, the plan is to read the Secret and then the account, *in this order*.

use super::desired::Desired;
use super::issue::{Block, Issue, issue};
use super::ledger::Ledger;
use super::observe::{Observed, SecretView, version_number};
use super::secret::{Image, SecretMeta, allowed};
use super::stores::{Removal, StoreAction, StoreStep, recorded_stores, removals, store_steps};
use crate::api::{Entry, Instant, IssueReason, Phase, Seconds, SecretStoreStatus};
use crate::token::Standing;

/// What a pass does.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Read the Secret, then the account, and plan again.
    ReadInOrder,
    /// Do this.
    Act(Box<Act>),
}

/// What a pass does, in the order of the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    /// When it was planned.
    pub at: Instant,
    /// Whether the ledger below must be recorded before anything is delivered.
    pub record: bool,
    /// The paths in stores that must be recorded before anything is written there; `None`: they are.
    pub record_stores: Option<Vec<SecretStoreStatus>>,
    /// The ledger that the rest of the pass stands on.
    pub ledger: Ledger,
    /// Why an entry was added, if one was.
    pub issued: Option<IssueReason>,
    /// Why what is due is not issued, if so.
    pub block: Option<Block>,
    /// What happens to the token Secret.
    pub secret: SecretStep,
    /// Secrets that the account no longer names, to be deleted or released once the new one is delivered.
    pub strays: Vec<SecretMeta>,
    /// What happens to the paths in stores that the spec names, in its order.
    pub stores: Vec<StoreStep>,
    /// What happens to paths that are no longer wanted, once the others hold the newest token.
    pub removals: Vec<Removal>,
}

impl Act {
    /// Whether a store may be written in this pass.
    pub fn delivers_to_stores(&self) -> bool {
        self.stores.iter().any(|step| matches!(step.action, StoreAction::Deliver { .. }))
    }
}

/// What happens to the token Secret.
#[derive(Clone, Debug, PartialEq)]
pub enum SecretStep {
    /// Nothing: it holds the newest token.
    Keep,
    /// It was read and is as it should be: record this version.
    Confirm {
        /// The Secret's version.
        version: String,
    },
    /// Nothing: there is no token that may be delivered.
    Nothing,
    /// An earlier attempt failed; the next one is later.
    Wait,
    /// Create it.
    Create(Image),
    /// Replace it, if it still has the version of `base`.
    Replace {
        /// What it will hold.
        image: Image,
        /// What is there.
        base: SecretMeta,
    },
    /// Delete it, if it still has uid and version of `base`, and create it again: it cannot be changed in place.
    Recreate {
        /// What it will hold.
        image: Image,
        /// What is there.
        base: SecretMeta,
    },
    /// It is somebody else's.
    NotOwned {
        /// Whose, for people.
        owner: String,
    },
}

/// Decides what one pass does.
pub fn plan(desired: &Desired, observed: &Observed, now: Instant) -> Plan {
    if may_attempt(desired, observed, now) && must_read(desired, observed, now) {
        return Plan::ReadInOrder;
    }
    let issue = issue(desired, observed, now);
    let secret = secret_step(desired, observed, &issue, now);
    if let (SecretStep::Replace { .. }, true) = (&secret, lags(observed)) {
        return Plan::ReadInOrder;
    }
    let deliverable = deliverable(desired, observed, &issue.ledger, now);
    let stores = store_steps(desired, observed, &issue.ledger, now);
    let removals = removals(desired, observed, now);
    let act = Act {
        at: now,
        record: issue.ledger != observed.ledger,
        record_stores: recorded_stores(desired, observed, &stores, &removals),
        strays: if deliverable { observed.strays.clone() } else { Vec::new() },
        ledger: issue.ledger,
        issued: issue.reason,
        block: issue.block,
        secret,
        stores,
        removals,
    };
    // A store is written only where the Secret is known to be right, or was read before the account.
    let secret_unknown = act.secret == SecretStep::Wait && matches!(observed.secret, SecretView::Watched { .. });
    if secret_unknown && act.delivers_to_stores() {
        return Plan::ReadInOrder;
    }
    Plan::Act(Box::new(act))
}

/// The retry delay's cap for an account.
pub fn retry_cap(desired: &Desired) -> Seconds {
    Seconds::minutes(15).min(desired.schedule.grace / 4).max(Seconds(1))
}

// Whether the Secret may be tried: no failure, or its time has come, or something changed since.
fn may_attempt(desired: &Desired, observed: &Observed, now: Instant) -> bool {
    let Some(next) = observed.secret_status(&desired.secret.name).and_then(|secret| secret.next_attempt_at) else {
        return true;
    };
    let changed = observed.is_new_generation(desired);
    let requested = desired.request.as_ref().is_some_and(|request| !observed.ledger.handles(&request.value));
    now >= next || next > now + retry_cap(desired) || changed || (requested && desired.may_issue(now))
}

// Rule 6, and what has no recorded version to stand on.
fn must_read(desired: &Desired, observed: &Observed, now: Instant) -> bool {
    let SecretView::Watched { meta, position } = &observed.secret else { return false };
    if desired.deleting() || observed.ring.is_none() || !desired.secret.enabled {
        return false;
    }
    let recorded = observed.ledger.secret.version.as_deref().map(version_number);
    let restored = recorded.is_some_and(|recorded| recorded > observed.version);
    match (meta, recorded) {
        (None, None) => {
            let status = observed.secret_status(&desired.secret.name);
            status.and_then(|secret| secret.error.as_ref()).is_some_and(|error| error.reason == "SecretNotOwned")
        }
        (None, Some(recorded)) => restored || *position >= recorded,
        (Some(_), None) => true,
        (Some(_), Some(_)) if observed.ledger.entries.is_empty() || restored => true,
        (Some(meta), Some(recorded)) => {
            let seen = version_number(&meta.version);
            let handled = observed.ledger.handled.first().map(String::as_str);
            let repairs = || deliverable(desired, observed, &observed.ledger, now);
            seen > recorded || (seen == recorded && !meta.is_as_desired(desired, handled) && repairs())
        }
    }
}

// The watch has not shown our own last write yet: what it knows of labels is no base for another one.
fn lags(observed: &Observed) -> bool {
    match &observed.secret {
        SecretView::Watched { meta, .. } => {
            meta.as_ref().map(|meta| meta.version.as_str()) != observed.ledger.secret.version.as_deref()
        }
        SecretView::Read(_) => false,
    }
}

/// Whether the newest token may be delivered: it is good, and the account is not over.
pub fn deliverable(desired: &Desired, observed: &Observed, ledger: &Ledger, now: Instant) -> bool {
    !desired.deleting()
        && !desired.schedule.ended(now)
        && ledger.newest().is_some_and(|newest| {
            newest.phase != Phase::Revoked && now < newest.expires_at && usable(desired, observed, newest)
        })
}

fn usable(desired: &Desired, observed: &Observed, entry: &Entry) -> bool {
    observed.standing(entry) == Standing::Usable && allowed(entry, desired)
}

fn secret_step(desired: &Desired, observed: &Observed, issue: &Issue, now: Instant) -> SecretStep {
    let ledger = &issue.ledger;
    if !desired.secret.enabled {
        return SecretStep::Nothing;
    }
    let Some(newest) = ledger.newest().filter(|_| deliverable(desired, observed, ledger, now)) else {
        return SecretStep::Nothing;
    };
    let previous = ledger.previous(now, |entry| usable(desired, observed, entry)).cloned();
    let image = Image { token: newest.clone(), previous, handled: ledger.handled.first().cloned() };
    match (&observed.secret, &observed.ring) {
        (SecretView::Read(seen), Some(ring)) => match seen.as_deref() {
            None if !may_attempt(desired, observed, now) => SecretStep::Wait,
            None => SecretStep::Create(image),
            Some(seen) if !seen.is_ours(desired) => SecretStep::NotOwned { owner: seen.owner_for_people() },
            Some(seen) if seen.is_as_desired(&image, desired, ring) => {
                SecretStep::Confirm { version: seen.meta.version.clone() }
            }
            // It was read for a store's sake.
            Some(_) if !may_attempt(desired, observed, now) => SecretStep::Wait,
            Some(seen) if seen.stuck => SecretStep::Recreate { image, base: seen.meta.clone() },
            Some(seen) => SecretStep::Replace { image, base: seen.meta.clone() },
        },
        (SecretView::Watched { meta, .. }, _) => {
            let skew = desired.limits.max_clock_skew;
            let holds_newest = ledger.in_secret() && !ledger.previous_is_over(now, skew, observed.clock_trusted);
            // Also where it holds the newest token: a repair that was refused is not forgotten before its next attempt.
            if !may_attempt(desired, observed, now) {
                return SecretStep::Wait;
            }
            if holds_newest {
                return SecretStep::Keep;
            }
            match (&ledger.secret.version, meta) {
                (None, _) => SecretStep::Create(image),
                (Some(_), meta) => SecretStep::Replace { image, base: meta.clone().unwrap_or_default() },
            }
        }
        (SecretView::Read(_), None) => SecretStep::Nothing,
    }
}

#[cfg(test)]
mod tests;
