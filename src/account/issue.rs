//! Whether a token is issued, and why: an ordered list of checks, the first that applies decides. Also what goes before:
//! what is revoked, and what is adopted from a Secret that was read. Pure.

use super::desired::{Desired, Request};
use super::ledger::{Adoption, CAPACITY, FUTURE, Ledger, SOFT_CAPACITY};
use super::observe::{Observed, SecretView};
use super::secret::{ACCOUNT_LABEL, SecretSeen, allowed};
use crate::api::{Entry, Instant, IssueReason, Phase, Seconds};
use crate::token::Standing;

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

/// The ledger after what is revoked, adopted and issued in a pass.
pub(super) struct Issue {
    /// The whole of it.
    pub(super) ledger: Ledger,
    /// Why an entry was added, if one was.
    pub(super) reason: Option<IssueReason>,
    /// Why what is due was not added, if so.
    pub(super) block: Option<Block>,
}

/// Revokes, adopts and issues, in this order.
pub(super) fn issue(desired: &Desired, observed: &Observed, now: Instant) -> Issue {
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
        ledger.adopt(&Adoption {
            carried: &seen.carried,
            marks: &observed.marks,
            request: desired.request.as_ref().map(|request| request.value.as_str()),
            revoked: &desired.revoked,
            now,
            trusted: observed.clock_trusted,
        });
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
        delivered_at: None,
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
