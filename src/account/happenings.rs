//! What there is to tell about an account: the difference between two of its statuses, and what the clock brings about.
//! Pure; knows nobody who is told.

use super::desired::Desired;
use super::ledger::is_at;
use super::observe::Observed;
use crate::api::{
    Entry, Instant, IssueReason, NoticeKind, Phase, Seconds, SecretStoreStatus, TargetError, TokenSecretStatus,
    VirtualAccountStatus,
};
use crate::fingerprint::fingerprint;
use crate::token::Standing;

/// Warnings before a token ends that nothing will replace; each only if it is shorter than half the token's life.
const WARNINGS: [Seconds; 3] = [Seconds::days(1), Seconds::days(7), Seconds::days(30)];
/// A target that fails for shorter is nobody's business.
pub const PATIENCE: Seconds = Seconds::minutes(15);
/// The end of a grace is announced where it is at least this long.
const LONG_GRACE: Seconds = Seconds::days(1);

/// One thing to tell. Told once to each target, whatever else is written: `key` says which one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// What.
    pub kind: NoticeKind,
    /// The token.
    pub jti: String,
    /// The target that fails, or how long before its end a token is warned of.
    pub about: Option<String>,
    /// Since when the target failed.
    pub since: Option<Instant>,
    /// The instant that it warns of.
    pub ends_at: Option<Instant>,
    /// The previous token, or the successor.
    pub other: Option<String>,
    /// Why.
    pub cause: Option<String>,
}

impl Happening {
    fn new(kind: NoticeKind, entry: &Entry) -> Self {
        let jti = entry.id.clone();
        Self { kind, jti, about: None, since: None, ends_at: None, other: None, cause: None }
    }

    /// What makes it the same happening at every look. A failing target is the same whatever token it lacks.
    pub fn key(&self, uid: &str) -> String {
        let about = self.about.as_deref().unwrap_or_default();
        match self.since {
            Some(since) => fingerprint(&[uid, self.kind.as_str(), about, &since.to_string()], 32),
            None => fingerprint(&[uid, self.kind.as_str(), &self.jti, about], 32),
        }
    }
}

/// The account between two statuses.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// What should be.
    pub desired: &'a Desired,
    /// What was seen.
    pub observed: &'a Observed,
    /// As it is stored.
    pub before: Option<&'a VirtualAccountStatus>,
    /// As it is to be stored.
    pub after: &'a VirtualAccountStatus,
    /// When.
    pub now: Instant,
    /// Whether the clock can be trusted.
    pub trusted: bool,
}

impl<'a> Change<'a> {
    fn old(&self, jti: &str) -> Option<&'a Entry> {
        self.before?.jwts.iter().find(|entry| entry.id == jti)
    }

    /// What there is to tell, of every kind. What the clock brings about is listed again at every look.
    pub fn happenings(&self) -> Vec<Happening> {
        if self.desired.deleting() {
            return Vec::new();
        }
        let entries = self.after.jwts.iter();
        let mut all: Vec<Happening> =
            entries.flat_map(|entry| [self.revoked(entry), self.rotated(entry)]).flatten().collect();
        all.extend(self.retired());
        if self.trusted {
            all.extend(self.after.jwts.iter().filter_map(|entry| self.grace_ending(entry)));
            all.extend(self.expiring());
            all.extend(self.after.jwts.iter().filter_map(|entry| self.expired(entry)));
            all.extend(self.failing());
        }
        all
    }

    fn rotated(&self, entry: &Entry) -> Option<Happening> {
        let anew = entry.delivered_at.is_some() && self.old(&entry.id).is_none_or(|old| old.delivered_at.is_none());
        let rotation = !matches!(entry.reason, IssueReason::First | IssueReason::Adopted);
        if !anew || !rotation {
            return None;
        }
        let older = self.after.jwts.iter().filter(|other| other.issued_at < entry.issued_at);
        let previous = older.filter(|other| other.phase == Phase::Superseded).max_by_key(|other| other.grace_ends_at);
        Some(Happening {
            other: previous.map(|previous| previous.id.clone()),
            ends_at: previous.and_then(|previous| previous.grace_ends_at),
            cause: Some(format!("{:?}", entry.reason)),
            ..Happening::new(NoticeKind::TokenRotated, entry)
        })
    }

    fn revoked(&self, entry: &Entry) -> Option<Happening> {
        let anew = self.old(&entry.id).is_some_and(|old| old.phase != Phase::Revoked);
        if entry.phase != Phase::Revoked || !anew {
            return None;
        }
        let by = if self.desired.revoked.contains(&entry.id) {
            "by spec.revokedJwtIds"
        } else if self.observed.standing(entry) == Standing::Compromised {
            "because its signing key is compromised"
        } else {
            "by the annotation rotate with grace=0s"
        };
        let lives = |newer: &&Entry| newer.issued_at > entry.issued_at && newer.phase != Phase::Revoked;
        Some(Happening {
            other: self.after.jwts.iter().find(lives).map(|newer| newer.id.clone()),
            ends_at: Some(entry.expires_at),
            cause: Some(by.to_owned()),
            ..Happening::new(NoticeKind::TokenRevoked, entry)
        })
    }

    fn retired(&self) -> Vec<Happening> {
        let gone = |entry: &&Entry| !self.after.jwts.iter().any(|left| left.id == entry.id);
        let before = self.before.into_iter().flat_map(|before| &before.jwts);
        let superseded = before.filter(gone).filter(|entry| entry.phase == Phase::Superseded);
        let retired = |entry: &Entry| Happening {
            ends_at: entry.grace_ends_at,
            ..Happening::new(NoticeKind::TokenRetired, entry)
        };
        superseded.map(retired).collect()
    }

    fn grace_ending(&self, entry: &Entry) -> Option<Happening> {
        let (at, end) = warning_of_grace(self.after, entry)?;
        (self.now >= at && self.now < end).then(|| Happening {
            ends_at: Some(end),
            other: self.after.jwt_id.clone(),
            ..Happening::new(NoticeKind::GraceEnding, entry)
        })
    }

    // Of the warnings that have passed only the last is still true.
    fn expiring(&self) -> Option<Happening> {
        let newest = doomed(self.desired, self.after)?;
        let end = end_of(self.desired, newest);
        let passed = warnings(newest).find(|before| self.now >= end - *before)?;
        (self.now < end).then(|| Happening {
            about: Some(passed.to_string()),
            ends_at: Some(end),
            ..Happening::new(NoticeKind::TokenExpiring, newest)
        })
    }

    fn expired(&self, entry: &Entry) -> Option<Happening> {
        let end = end_of(self.desired, entry);
        let ended = self.now >= end;
        let counts = matches!(entry.phase, Phase::Pending | Phase::Current);
        let newest = self.after.jwts.first().is_some_and(|newest| newest.id == entry.id);
        (ended && counts && (newest || is_held(self.after, &entry.id)))
            .then(|| Happening { ends_at: Some(end), ..Happening::new(NoticeKind::TokenExpired, entry) })
    }

    fn failing(&self) -> Vec<Happening> {
        let Some(newest) = self.after.jwts.first() else { return Vec::new() };
        let long = |since: Instant| self.now >= since + PATIENCE;
        let failing = failures(self.desired, self.after).into_iter().filter(|failure| long(failure.since));
        let failing = failing.map(|failure| Happening {
            about: Some(failure.target),
            since: Some(failure.since),
            cause: Some(failure.error),
            ..Happening::new(NoticeKind::DeliveryFailing, newest)
        });
        failing.collect()
    }
}

/// A target that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which, for people.
    pub target: String,
    /// Since when.
    pub since: Instant,
    /// The last error, for people.
    pub error: String,
}

/// The targets of the spec that fail.
pub fn failures(desired: &Desired, status: &VirtualAccountStatus) -> Vec<Failure> {
    let failure = |target, since: &Option<Instant>, error: &Option<TargetError>| {
        let error = error.as_ref()?;
        Some(Failure { target, since: (*since)?, error: format!("{}: {}", error.reason, error.message) })
    };
    let named = |secret: &&TokenSecretStatus| desired.secret.enabled && secret.name == desired.secret.name;
    let secret = status.token_secret.iter().filter(named);
    let secret =
        secret.filter_map(|secret| failure(format!("Secret {}", secret.name), &secret.failing_since, &secret.error));
    let wanted = desired.stores.iter().filter_map(|store| {
        let record = status.secret_stores.iter().find(|record| is_at(record, &store.at))?;
        failure(store.at.to_string(), &record.failing_since, &record.error)
    });
    secret.chain(wanted).collect()
}

/// What a target of the spec holds and whether it fails, as recorded; `None`: the spec no longer has it.
pub fn target_state(desired: &Desired, status: &VirtualAccountStatus, target: &str) -> Option<TargetState> {
    let state = |jti: &Option<String>, error: &Option<TargetError>| {
        if error.is_some() {
            return TargetState::Fails;
        }
        let newest = status.jwts.first().map(|newest| &newest.id);
        if newest.is_some() && jti.as_ref() == newest { TargetState::Works } else { TargetState::Waits }
    };
    if desired.secret.enabled && target == format!("Secret {}", desired.secret.name) {
        let secret = status.token_secret.as_ref().filter(|secret| secret.name == desired.secret.name);
        return Some(secret.map_or(TargetState::Waits, |secret| state(&secret.jwt_id, &secret.error)));
    }
    let store = desired.stores.iter().find(|store| store.at.to_string() == target)?;
    let record = status.secret_stores.iter().find(|record| is_at(record, &store.at));
    Some(record.map_or(TargetState::Waits, |record| state(&record.jwt_id, &record.error)))
}

/// How a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// It holds the newest token.
    Works,
    /// The last attempt failed.
    Fails,
    /// Nothing is tried now: there is nothing to deliver.
    Waits,
}

/// Notes since when each target has been failing; `before` is what is stored.
pub fn stamp_failures(before: Option<&VirtualAccountStatus>, status: &mut VirtualAccountStatus, now: Instant) {
    if let Some(secret) = &mut status.token_secret {
        let old = before.and_then(|before| before.token_secret.as_ref()).filter(|old| old.name == secret.name);
        let since = old.and_then(|old| old.failing_since);
        secret.failing_since = secret.error.as_ref().map(|_| since.unwrap_or(now));
    }
    for record in &mut status.secret_stores {
        let same =
            |old: &&SecretStoreStatus| old.store_ref == record.store_ref && old.secret_path == record.secret_path;
        let old = before.and_then(|before| before.secret_stores.iter().find(same));
        let since = old.and_then(|old| old.failing_since);
        record.failing_since = record.error.as_ref().map(|_| since.unwrap_or(now));
    }
}

/// The newest token, if no rotation will save it: none is scheduled.
pub fn doomed<'a>(desired: &Desired, status: &'a VirtualAccountStatus) -> Option<&'a Entry> {
    let newest = status.jwts.first().filter(|newest| newest.phase != Phase::Revoked)?;
    (!desired.deleting() && status.next_scheduled_rotation.is_none()).then_some(newest)
}

/// When a token really ends: online checks refuse it past the account's expirationDate, whatever its `exp` says.
fn end_of(desired: &Desired, entry: &Entry) -> Instant {
    desired.schedule.end.map_or(entry.expires_at, |end| end.min(entry.expires_at))
}

/// The warnings that this token is worth, the shortest first.
fn warnings(entry: &Entry) -> impl Iterator<Item = Seconds> {
    let half = (entry.expires_at - entry.issued_at) / 2;
    WARNINGS.into_iter().filter(move |before| *before < half)
}

/// When the end of this token's grace is announced, and that end.
fn warning_of_grace(status: &VirtualAccountStatus, entry: &Entry) -> Option<(Instant, Instant)> {
    let end = entry.grace_ends_at.filter(|_| entry.phase == Phase::Superseded)?;
    let newer = status.jwts.iter().filter(|other| other.issued_at > entry.issued_at);
    let began = newer.filter_map(|newer| newer.delivered_at).min()?;
    let grace = end - began;
    (grace >= LONG_GRACE).then(|| (end - grace / 4, end))
}

/// Whether a target holds this token, as recorded.
pub fn is_held(status: &VirtualAccountStatus, jti: &str) -> bool {
    let secret = status.token_secret.iter().map(|secret| &secret.jwt_id);
    let stores = status.secret_stores.iter().map(|store| &store.jwt_id);
    secret.chain(stores).any(|held| held.as_deref() == Some(jti))
}

/// The instants at which the clock brings something about.
pub fn instants(desired: &Desired, status: &VirtualAccountStatus) -> Vec<Instant> {
    let graces = status.jwts.iter().filter_map(|entry| warning_of_grace(status, entry)).map(|(at, _)| at);
    let newest = doomed(desired, status);
    let ends = newest.into_iter().flat_map(|newest| warnings(newest).map(|before| end_of(desired, newest) - before));
    let held = status.jwts.iter().map(|entry| end_of(desired, entry));
    let failing = failures(desired, status).into_iter().map(|failure| failure.since + PATIENCE);
    graces.chain(ends).chain(held).chain(failing).collect()
}
