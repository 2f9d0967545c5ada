//! Decides what one pass does. Pure: no clock, no client, no randomness; the same plan made twice has nothing to do the
//! second time.
//!
//! Order of a pass: record in the status what may be revealed, then write the Secret, then record what was done. Where
//! what is known does not allow a decision, the plan is to read the Secret and then the account, *in this order*.

use super::desired::{Desired, Request};
use super::ledger::{CAPACITY, FUTURE, Ledger, SOFT_CAPACITY};
use super::observe::{Observed, SecretView, version_number};
use super::secret::{ACCOUNT_LABEL, Image, SecretMeta, SecretSeen, allowed};
use crate::api::{Entry, Instant, IssueReason, Phase, Seconds};
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
}

/// Why something that is due is not issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// The ledger has no room; the next entry leaves at this instant.
    LedgerFull(Option<Instant>),
    /// The newest entry's key is not in the ring.
    KeyMissing(String),
    /// The key ring cannot sign: why, and the cure.
    KeyRing(String),
    /// A successor for a spec change may be issued at this instant.
    TooSoon(Instant),
    /// `--reissue-rate` is used up for now.
    ReissueRate,
    /// The local clock and the API server's differ.
    Clock,
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
    Plan::Act(Box::new(Act {
        at: now,
        record: issue.ledger != observed.ledger,
        strays: if deliverable { observed.strays.clone() } else { Vec::new() },
        ledger: issue.ledger,
        issued: issue.reason,
        block: issue.block,
        secret,
    }))
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
    let changed = observed.status.as_ref().and_then(|status| status.observed_generation) != Some(desired.generation);
    let requested = desired.request.as_ref().is_some_and(|request| !observed.ledger.handles(&request.value));
    now >= next || next > now + retry_cap(desired) || changed || (requested && desired.may_issue(now))
}

// Rule 6, and what has no recorded version to stand on.
fn must_read(desired: &Desired, observed: &Observed, now: Instant) -> bool {
    let SecretView::Watched { meta, position } = &observed.secret else { return false };
    if desired.deleting || observed.ring.is_none() {
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

struct Issue {
    ledger: Ledger,
    reason: Option<IssueReason>,
    block: Option<Block>,
}

// The ledger after what is revoked, adopted and issued in this pass.
fn issue(desired: &Desired, observed: &Observed, now: Instant) -> Issue {
    let mut ledger = observed.ledger.clone();
    if observed.ring.is_some() {
        ledger.revoke(&desired.revoked, |entry| observed.standing(entry));
    } else {
        ledger.revoke(&desired.revoked, |_| Standing::Usable);
    }
    adopt(desired, observed, &mut ledger, now);
    match due(desired, observed, &ledger, now) {
        Ok(None) => Issue { ledger, reason: None, block: None },
        Err(block) => Issue { ledger, reason: None, block: Some(block) },
        Ok(Some(reason)) => match add(desired, observed, &mut ledger, reason, now) {
            Ok(()) => Issue { ledger, reason: Some(reason), block: None },
            Err(block) => Issue { ledger, reason: None, block: Some(block) },
        },
    }
}

fn adopt(desired: &Desired, observed: &Observed, ledger: &mut Ledger, now: Instant) {
    if let SecretView::Read(seen) = &observed.secret {
        count_as_seen(seen.as_deref(), observed, ledger, now);
    }
    let Some(seen) = observed.secret_read().filter(|seen| seen.is_ours(desired)) else { return };
    if seen.meta.same_uid(desired) || desired.adopt {
        let request = desired.request.as_ref().map(|request| request.value.as_str());
        ledger.adopt(&seen.carried, request, &desired.revoked, now, observed.clock_trusted);
    }
}

// A newest token that is over is never delivered again: what lies in its place needs no repair, so it need not be read
// again and again. Anything else counts as seen only once it is as it should be. By a wrong clock nothing counts: what is
// there may only seem to have expired, and is still to be adopted.
fn count_as_seen(seen: Option<&SecretSeen>, observed: &Observed, ledger: &mut Ledger, now: Instant) {
    let over = |newest: &Entry| newest.phase == Phase::Revoked || now >= newest.expires_at;
    let stuck = seen.is_some_and(|seen| seen.stuck);
    if observed.clock_trusted && !stuck && ledger.newest().is_some_and(over) {
        let watched = seen.filter(|seen| seen.meta.labels.contains_key(ACCOUNT_LABEL));
        ledger.secret.version = watched.map(|seen| seen.meta.version.clone());
    }
}

/// One input for all checks of [`CHECKS`].
struct Input<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    ledger: &'a Ledger,
    newest: &'a Entry,
    now: Instant,
}

type Check = fn(&Input) -> Result<Option<IssueReason>, Block>;

// Why a successor is issued: the first that applies, or that forbids.
const CHECKS: [Check; 7] = [revoked, in_the_future, key_missing, requested, spec_changed, limits_changed, scheduled];

fn due(desired: &Desired, observed: &Observed, ledger: &Ledger, now: Instant) -> Result<Option<IssueReason>, Block> {
    if !desired.may_issue(now) {
        return Ok(None);
    }
    let reason = match ledger.newest() {
        None => Some(IssueReason::First),
        Some(newest) => {
            let input = Input { desired, observed, ledger, newest, now };
            CHECKS.iter().find_map(|check| check(&input).transpose()).transpose()?
        }
    };
    if reason.is_some() && !observed.clock_trusted {
        return Err(Block::Clock);
    }
    Ok(reason)
}

fn revoked(input: &Input) -> Result<Option<IssueReason>, Block> {
    let by_key = !input.desired.revoked.contains(&input.newest.id)
        && input.observed.standing(input.newest) == Standing::Compromised;
    let reason = if by_key { IssueReason::KeyChange } else { IssueReason::Revocation };
    Ok((input.newest.phase == Phase::Revoked).then_some(reason))
}

fn in_the_future(input: &Input) -> Result<Option<IssueReason>, Block> {
    let ahead = input.newest.issued_at > input.now + FUTURE;
    Ok((ahead && input.observed.clock_trusted).then_some(IssueReason::ClockChange))
}

fn key_missing(input: &Input) -> Result<Option<IssueReason>, Block> {
    let observed = input.observed;
    match (observed.standing(input.newest), &observed.ring, &observed.ring_trouble) {
        (Standing::Missing, Some(_), _) => Err(Block::KeyMissing(input.newest.key_id.clone())),
        // No ring at all: what cures that is not the same as for one key.
        (Standing::Missing, None, Some(trouble)) => Err(Block::KeyRing(trouble.clone())),
        _ => Ok(None),
    }
}

fn requested(input: &Input) -> Result<Option<IssueReason>, Block> {
    match unhandled(input.desired, input.ledger) {
        Some(_) if has_room(input.ledger) => Ok(Some(IssueReason::Request)),
        _ => Ok(None),
    }
}

fn spec_changed(input: &Input) -> Result<Option<IssueReason>, Block> {
    if !spec_asks_for_another(input) || !has_room(input.ledger) {
        return Ok(None);
    }
    // Two appliers may fight: one such token per minimum interval.
    let least = input.desired.limits.minimum_rotation_interval;
    let next = input.ledger.last_spec_change().map(|last| last + least);
    match next.filter(|next| input.now < *next) {
        Some(next) if scheduled(input)?.is_none() => Err(Block::TooSoon(next)),
        Some(_) => Ok(None),
        None => Ok(Some(IssueReason::SpecChange)),
    }
}

fn spec_asks_for_another(input: &Input) -> bool {
    let Input { desired, newest, .. } = input;
    desired.audiences.as_ref().is_some_and(|audiences| *audiences != newest.audiences)
        || desired.schedule.end.is_some_and(|end| end < newest.expires_at)
}

fn limits_changed(input: &Input) -> Result<Option<IssueReason>, Block> {
    match (allowed(input.newest, input.desired), input.observed.may_reissue) {
        (true, _) => Ok(None),
        (false, true) => Ok(Some(IssueReason::LimitChange)),
        (false, false) => Err(Block::ReissueRate),
    }
}

fn scheduled(input: &Input) -> Result<Option<IssueReason>, Block> {
    let due = input.desired.schedule.due(input.newest);
    if due.is_some_and(|due| input.now >= due) {
        return Ok(Some(IssueReason::Scheduled));
    }
    // What waits for room is said only here, where nothing else is due.
    let wanted = unhandled(input.desired, input.ledger).is_some() || spec_asks_for_another(input);
    if wanted && !has_room(input.ledger) { Err(full(input.desired, input.ledger)) } else { Ok(None) }
}

/// The request in the annotation, if it has not been acted on.
fn unhandled<'a>(desired: &'a Desired, ledger: &Ledger) -> Option<&'a Request> {
    desired.request.as_ref().filter(|request| !ledger.handles(&request.value))
}

fn has_room(ledger: &Ledger) -> bool {
    ledger.entries.len() < SOFT_CAPACITY
}

fn full(desired: &Desired, ledger: &Ledger) -> Block {
    Block::LedgerFull(ledger.next_leave(desired.limits.max_clock_skew))
}

// Adds the entry; a request that waits is handled by it, whatever the reason.
fn add(
    desired: &Desired,
    observed: &Observed,
    ledger: &mut Ledger,
    reason: IssueReason,
    now: Instant,
) -> Result<(), Block> {
    let key = signing_key(observed, now)?;
    if reason == IssueReason::ClockChange {
        ledger.entries.retain(|entry| entry.issued_at <= now + FUTURE);
    }
    let request = unhandled(desired, ledger).filter(|_| has_room(ledger)).cloned();
    let issued_at = ledger.newest().map_or(now, |newest| now.max(newest.issued_at + Seconds(1)));
    let expires_at = desired.schedule.expiry(issued_at);
    if expires_at <= issued_at {
        return Ok(());
    }
    let asked = request.as_ref().filter(|_| reason != IssueReason::First).and_then(|request| request.grace);
    if matches!(reason, IssueReason::Revocation | IssueReason::KeyChange) {
        ledger.make_room(&desired.revoked);
    }
    if ledger.entries.len() >= CAPACITY {
        return Err(full(desired, ledger));
    }
    if asked == Some(Seconds::ZERO) {
        ledger.entries.iter_mut().for_each(|entry| entry.phase = Phase::Revoked);
    }
    let entry = Entry {
        id: observed.fresh_id.clone(),
        key_id: key,
        issuer: desired.limits.issuer.clone(),
        audiences: desired.audiences_at_issue(),
        issued_at,
        expires_at,
        grace: asked.unwrap_or_else(|| desired.schedule.grace_at_issue(issued_at)),
        reason,
        phase: Phase::Pending,
        grace_ends_at: None,
    };
    ledger.entries.insert(0, entry);
    if let Some(request) = request {
        ledger.handle(&request.value);
    }
    Ok(())
}

fn signing_key(observed: &Observed, now: Instant) -> Result<String, Block> {
    if let Some(trouble) = &observed.ring_trouble {
        return Err(Block::KeyRing(trouble.clone()));
    }
    let key = observed.ring.as_ref().and_then(|ring| ring.signing_key(now).map(|key| key.kid().to_owned()));
    key.ok_or_else(|| Block::KeyRing("no key of the key ring signs yet".into()))
}

/// Whether the newest token may be delivered: it is good, and the account is not over.
pub fn deliverable(desired: &Desired, observed: &Observed, ledger: &Ledger, now: Instant) -> bool {
    !desired.deleting
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
    let Some(newest) = ledger.newest().filter(|_| deliverable(desired, observed, ledger, now)) else {
        return SecretStep::Nothing;
    };
    let previous = ledger.previous(now, |entry| usable(desired, observed, entry)).cloned();
    let image = Image { token: newest.clone(), previous, handled: ledger.handled.first().cloned() };
    match (&observed.secret, &observed.ring) {
        (SecretView::Read(seen), Some(ring)) => match seen.as_deref() {
            None => SecretStep::Create(image),
            Some(seen) if !seen.is_ours(desired) => SecretStep::NotOwned { owner: seen.owner_for_people() },
            Some(seen) if seen.is_as_desired(&image, desired, ring) => {
                SecretStep::Confirm { version: seen.meta.version.clone() }
            }
            Some(seen) if seen.stuck => SecretStep::Recreate { image, base: seen.meta.clone() },
            Some(seen) => SecretStep::Replace { image, base: seen.meta.clone() },
        },
        (SecretView::Watched { meta, .. }, _) => {
            let skew = desired.limits.max_clock_skew;
            let holds_newest = ledger.delivered() && !ledger.previous_is_over(now, skew, observed.clock_trusted);
            if holds_newest {
                return SecretStep::Keep;
            }
            if !may_attempt(desired, observed, now) {
                return SecretStep::Wait;
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
