//! What a written status means for people: Events, log lines and counters are all made here, from the difference of two
//! statuses, and nowhere else. Pure.

use std::collections::BTreeMap;

use super::condition::SECRET_NOT_OWNED;
use super::happenings::is_held;
use super::notices::{NOTIFIED, is_bar};
use super::stores::NOT_OURS;
use crate::api::{Entry, IssueReason, Notification, NotificationState, Phase, TargetError, VirtualAccountStatus};
use crate::events::{Notice, Severity};
use crate::store::{STORE_DOWN, STORE_NOT_READY};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The Event, where it is worth one.
    pub notice: Notice,
    /// The token it is about.
    pub jti: Option<String>,
    /// The counter of issued tokens goes up.
    pub counted: Option<IssueReason>,
}

/// What happened between two statuses of an account, in the order in which it should be told.
pub fn journal(before: Option<&VirtualAccountStatus>, after: &VirtualAccountStatus) -> Vec<Line> {
    let none = VirtualAccountStatus::default();
    let before = before.unwrap_or(&none);
    let old: BTreeMap<&str, &Entry> = before.jwts.iter().map(|entry| (entry.id.as_str(), entry)).collect();
    let new: BTreeMap<&str, &Entry> = after.jwts.iter().map(|entry| (entry.id.as_str(), entry)).collect();
    let mut lines = Vec::new();
    for entry in after.jwts.iter().rev() {
        entry_lines(old.get(entry.id.as_str()).copied(), entry, before, after, &mut lines);
    }
    for entry in before.jwts.iter().filter(|entry| !new.contains_key(entry.id.as_str())) {
        lines.extend(left(entry));
    }
    lines.extend(failed(before, after));
    lines.extend(given_up(before, after));
    lines.extend(barred(before, after));
    lines.extend(blocked(before, after));
    lines
}

fn entry_lines(
    old: Option<&Entry>,
    entry: &Entry,
    before: &VirtualAccountStatus,
    after: &VirtualAccountStatus,
    lines: &mut Vec<Line>,
) {
    let phase = old.map(|old| old.phase);
    // Told once, when the first target has it.
    let delivered = |entry: &Entry, status: &VirtualAccountStatus| {
        matches!(entry.phase, Phase::Current | Phase::Superseded) || is_held(status, &entry.id)
    };
    if entry.phase == Phase::Revoked && phase != Some(Phase::Revoked) {
        lines.push(revoked(entry));
    }
    if entry.phase != Phase::Revoked && delivered(entry, after) && !old.is_some_and(|old| delivered(old, before)) {
        lines.push(delivery(entry, after));
    }
    if old.is_none() && entry.reason != IssueReason::Adopted {
        let message = format!("token {} is recorded ({:?}), valid until {}", entry.id, entry.reason, entry.expires_at);
        let line = line(Severity::Normal, "Recorded", "Issue", message, entry);
        lines.push(Line { counted: Some(entry.reason), ..line });
    }
}

fn delivery(entry: &Entry, after: &VirtualAccountStatus) -> Line {
    let places = places(after, &entry.id).join(", ");
    let ends = entry.expires_at;
    let previous = after.jwts.iter().find(|other| other.id != entry.id && other.grace_ends_at.is_some());
    let grace = previous.and_then(|previous| previous.grace_ends_at.map(|end| (previous, end)));
    let grace =
        grace.map(|(previous, end)| format!("; token {} stops working at {end}", previous.id)).unwrap_or_default();
    let message = format!("token {} ({:?}), valid until {ends}, is in {places}{grace}", entry.id, entry.reason);
    match entry.reason {
        IssueReason::First => line(Severity::Normal, "Issued", "Issue", message, entry),
        IssueReason::Adopted => {
            line(Severity::Warning, "Adopted", "Adopt", format!("the status was lost: {message}"), entry)
        }
        _ => line(Severity::Normal, "Rotated", "Rotate", message, entry),
    }
}

fn revoked(entry: &Entry) -> Line {
    let message = format!(
        "token {} is revoked: online checks refuse it from now on; a service that verifies offline, with the JWKS alone, \
         accepts it until {}",
        entry.id, entry.expires_at
    );
    line(Severity::Warning, "Revoked", "Revoke", message, entry)
}

fn left(entry: &Entry) -> Option<Line> {
    let message = match (entry.phase, entry.grace_ends_at) {
        (Phase::Superseded, Some(end)) => format!("token {} ended: its grace was over at {end}", entry.id),
        (Phase::Revoked, _) => return None,
        _ => format!("token {} left the ledger; it was valid until {}", entry.id, entry.expires_at),
    };
    Some(line(Severity::Normal, "Retired", "Retire", message, entry))
}

/// Where this token is, as recorded, for people.
pub fn places(status: &VirtualAccountStatus, jti: &str) -> Vec<String> {
    let holding = status.token_secret.iter().filter(|secret| secret.jwt_id.as_deref() == Some(jti));
    let secret = holding.map(|secret| format!("Secret {}", secret.name));
    let holding = status.secret_stores.iter().filter(|store| store.jwt_id.as_deref() == Some(jti));
    let stores = holding.map(|store| {
        format!("{} in TokenStore {}/{}", store.secret_path, store.store_ref.namespace, store.store_ref.name)
    });
    secret.chain(stores).collect()
}

// Once per target and cause, not once per attempt.
fn failed(before: &VirtualAccountStatus, after: &VirtualAccountStatus) -> Vec<Line> {
    let causes = errors(before);
    let new = errors(after).into_iter().filter(|(target, error)| {
        causes.get(target).is_none_or(|before| before.reason != error.reason)
            && !matches!(error.reason.as_str(), STORE_DOWN | STORE_NOT_READY)
    });
    let line = |(target, error): (String, &TargetError)| {
        // Of several stores it must be clear which.
        let path = target.split(" in ").next().unwrap_or_default();
        let named = target.is_empty() || error.message.contains(path);
        let message = if named { error.message.clone() } else { format!("{target}: {}", error.message) };
        plain(Severity::Warning, failure(&error.reason), "Deliver", message)
    };
    new.map(line).collect()
}

// Once per notice.
fn given_up(before: &VirtualAccountStatus, after: &VirtualAccountStatus) -> Vec<Line> {
    let known = |notice: &Notification| {
        before.notifications.iter().any(|old| old.id == notice.id && old.state == NotificationState::Failed)
    };
    let failed = after.notifications.iter().filter(|notice| notice.state == NotificationState::Failed);
    let line = |notice: &Notification| {
        let why = notice.error.as_ref().map(|error| error.message.as_str()).unwrap_or_default();
        let channel = &notice.channel_ref;
        let message = format!("{} was not told by NotificationChannel {channel} and is given up: {why}", notice.kind);
        plain(Severity::Warning, "NotificationFailed", "Notify", message)
    };
    failed.filter(|notice| !known(notice)).map(line).collect()
}

// A target of which nothing can be told until somebody acts; a channel that fails tells that itself.
fn barred(before: &VirtualAccountStatus, after: &VirtualAccountStatus) -> Option<Line> {
    let reason = |status: &VirtualAccountStatus| {
        let notified = status.conditions.iter().find(|condition| condition.type_ == NOTIFIED);
        notified.filter(|condition| condition.status == "False").cloned()
    };
    let now = reason(after).filter(|condition| is_bar(&condition.reason))?;
    let news = reason(before).is_none_or(|before| before.reason != now.reason);
    news.then(|| plain(Severity::Warning, "NotNotified", "Notify", format!("{}: {}", now.reason, now.message)))
}

fn failure(reason: &str) -> &'static str {
    match reason {
        SECRET_NOT_OWNED => SECRET_NOT_OWNED,
        NOT_OURS => NOT_OURS,
        "NotAllowed" => "NotAllowed",
        _ => "DeliveryFailed",
    }
}

// By target: the Secret has no name here, as a renamed one is the same target.
fn errors(status: &VirtualAccountStatus) -> BTreeMap<String, &TargetError> {
    let secret = status.token_secret.iter().filter_map(|secret| Some((String::new(), secret.error.as_ref()?)));
    let stores = status.secret_stores.iter().filter_map(|store| {
        let (store_ref, path) = (&store.store_ref, &store.secret_path);
        let target = format!("{path} in TokenStore {}/{}", store_ref.namespace, store_ref.name);
        Some((target, store.error.as_ref()?))
    });
    secret.chain(stores).collect()
}

// What stands in the Ready condition and needs somebody: once, when it begins.
fn blocked(before: &VirtualAccountStatus, after: &VirtualAccountStatus) -> Option<Line> {
    let ready = |status: &VirtualAccountStatus| {
        status.conditions.iter().find(|c| c.type_ == "Ready").map(|c| (c.reason.clone(), c.message.clone()))
    };
    let (reason, message) = ready(after)?;
    let told = ["InvalidSpec", "Expired", "KeyMissing", "TokenEnding"].into_iter().find(|told| *told == reason)?;
    (ready(before).map(|(reason, _)| reason).as_deref() != Some(told))
        .then(|| plain(Severity::Warning, told, "Check", message))
}

fn line(severity: Severity, reason: &'static str, action: &'static str, message: String, entry: &Entry) -> Line {
    Line { jti: Some(entry.id.clone()), ..plain(severity, reason, action, message) }
}

fn plain(type_: Severity, reason: &'static str, action: &'static str, message: String) -> Line {
    Line { notice: Notice { type_, reason, action, message }, jti: None, counted: None }
}

/// Whether a line is worth an Event: what is only recorded is not, its delivery follows.
pub fn is_event(line: &Line) -> bool {
    line.counted.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::fixtures::{at, entry, store_holding};
    use crate::api::{SecretStoreStatus, TargetError, TokenSecretStatus};

    fn status(jwts: &[Entry]) -> VirtualAccountStatus {
        VirtualAccountStatus { jwts: jwts.to_vec(), ..VirtualAccountStatus::default() }
    }

    fn phased(id: &str, seconds: i64, phase: Phase) -> Entry {
        Entry { phase, issued_at: at(seconds), ..entry(id) }
    }

    fn reasons(before: &VirtualAccountStatus, after: &VirtualAccountStatus) -> Vec<&'static str> {
        journal(Some(before), after).iter().map(|line| line.notice.reason).collect()
    }

    #[test]
    fn a_rotation_is_told_when_it_is_delivered_and_counted_when_it_is_recorded() {
        let old = phased("old", 0, Phase::Current);
        let new = Entry { reason: IssueReason::Scheduled, ..phased("new", 10, Phase::Pending) };
        let (before, recorded) = (status(std::slice::from_ref(&old)), status(&[new.clone(), old.clone()]));
        let lines = journal(Some(&before), &recorded);
        assert_eq!(lines.iter().map(|line| line.counted).collect::<Vec<_>>(), [Some(IssueReason::Scheduled)]);
        assert!(!lines.iter().any(is_event), "what is only recorded is no Event");
        let superseded = Entry { phase: Phase::Superseded, grace_ends_at: Some(at(20)), ..old };
        let done = status(&[Entry { phase: Phase::Current, ..new }, superseded.clone()]);
        let lines = journal(Some(&recorded), &done);
        assert_eq!(lines.iter().map(|line| line.notice.reason).collect::<Vec<_>>(), ["Rotated"]);
        assert!(lines[0].notice.message.contains(&format!("token old stops working at {}", at(20))));
        assert_eq!(reasons(&done, &status(&done.jwts[..1])), ["Retired"]);
        assert!(reasons(&done, &done).is_empty(), "a routine pass tells nothing");
    }

    #[test]
    fn a_revocation_says_until_when_the_token_verifies_offline() {
        let before = status(&[phased("a", 0, Phase::Current)]);
        let after = status(&[phased("a", 0, Phase::Revoked)]);
        let lines = journal(Some(&before), &after);
        assert_eq!((lines.len(), lines[0].notice.reason), (1, "Revoked"));
        assert!(lines[0].notice.message.contains(&after.jwts[0].expires_at.to_string()));
        assert!(reasons(&after, &status(&[])).is_empty(), "its leaving is no news");
    }

    #[test]
    fn a_failure_is_told_once_per_cause() {
        let failing = |reason: &str, failures| {
            let error = Some(TargetError { reason: reason.into(), message: "no".into() });
            let secret = TokenSecretStatus { error, failures: Some(failures), ..TokenSecretStatus::default() };
            VirtualAccountStatus { token_secret: Some(secret), ..VirtualAccountStatus::default() }
        };
        let well = VirtualAccountStatus::default();
        assert_eq!(reasons(&well, &failing("Forbidden", 1)), ["DeliveryFailed"]);
        assert!(reasons(&failing("Forbidden", 1), &failing("Forbidden", 2)).is_empty());
        assert_eq!(reasons(&failing("Forbidden", 2), &failing(SECRET_NOT_OWNED, 1)), ["SecretNotOwned"]);
        assert!(reasons(&failing("Forbidden", 2), &well).is_empty());
    }

    #[test]
    fn a_failing_store_is_told_once_per_path_and_cause_and_one_that_is_down_not_at_all() {
        let with = |path: &str, reason: Option<&str>| SecretStoreStatus {
            secret_path: path.into(),
            error: reason.map(|reason| TargetError { reason: reason.into(), message: format!("{path}: no") }),
            ..store_holding("j1")
        };
        let status = |stores: &[SecretStoreStatus]| VirtualAccountStatus {
            secret_stores: stores.to_vec(),
            ..VirtualAccountStatus::default()
        };
        let well = status(&[with("/p", None), with("/q", None)]);
        let one = status(&[with("/p", Some("AccessDenied")), with("/q", None)]);
        let both = status(&[with("/p", Some("AccessDenied")), with("/q", Some("AccessDenied"))]);
        assert_eq!(reasons(&well, &one), ["DeliveryFailed"]);
        assert_eq!(reasons(&one, &both), ["DeliveryFailed"], "the other path is another target");
        assert!(reasons(&both, &both).is_empty());
        assert_eq!(reasons(&well, &status(&[with("/p", Some(NOT_OURS))])), ["NotOurs"]);
        assert_eq!(reasons(&well, &status(&[with("/p", Some("NotAllowed"))])), ["NotAllowed"]);
        assert!(reasons(&well, &status(&[with("/p", Some(STORE_DOWN))])).is_empty(), "its own condition tells it");
    }

    #[test]
    fn what_must_be_cured_before_anybody_is_told_is_told_once() {
        let status = |reason: &str| {
            let says = crate::condition::Says { status: reason == "Notified", reason, message: "m" };
            let conditions = crate::condition::set(Vec::new(), NOTIFIED, &says, 1, at(0));
            VirtualAccountStatus { conditions, ..VirtualAccountStatus::default() }
        };
        let (well, missing) = (status("Notified"), status("ChannelNotFound"));
        assert_eq!(reasons(&well, &missing), ["NotNotified"]);
        assert!(reasons(&missing, &missing).is_empty() && reasons(&missing, &well).is_empty());
        assert_eq!(reasons(&missing, &status("NotAllowed")), ["NotNotified"]);
        assert!(reasons(&well, &status("Timeout")).is_empty(), "the channel tells that itself");
    }

    #[test]
    fn a_delivery_names_the_paths_that_hold_the_token() {
        let before = status(&[phased("j1", 0, Phase::Pending)]);
        let mut after = status(&[phased("j1", 0, Phase::Current)]);
        let other = SecretStoreStatus { secret_path: "/q".into(), ..store_holding("j0") };
        after.secret_stores = vec![store_holding("j1"), other];
        let message = journal(Some(&before), &after)[0].notice.message.clone();
        assert!(message.contains("is in /p in TokenStore team/vault"), "{message}");
        assert!(!message.contains("/q"), "{message}");
    }
}
