//! The notices of an account as its status keeps them: which are still to be sent, which were, and which are no longer true.
//! Pure. A notice is sent only after the status that holds it was accepted, and stays until it is recorded as sent: a crash
//! in between repeats it, with the same id.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::desired::{Desired, Told};
use super::happenings::{Change, Happening, doomed, failures, instants, is_held, is_target};
use crate::api::{
    Instant, NoticeKind, Notification, NotificationState as State, Phase, Seconds, TargetError, VirtualAccountStatus,
};
use crate::condition::{self, Says};
use crate::fingerprint::fingerprint;
use crate::integration::ProviderError;
use crate::notify::{Admission, Medium, Report};

/// A notice that cannot be sent for so long is given up; one that tells of the past is not sent later than this.
pub const GIVE_UP: Seconds = Seconds::days(1);
/// Of those that were sent so many are kept, beside those that must not be sent again.
const REMEMBERED: usize = 8;
/// The schema's limit.
const MOST: usize = 64;
/// The reason for a channel that gave no answer of its own.
const NOT_SENT: &str = "NotSent";

/// The notices to be stored with `change.after`: the newest first.
pub fn notices_after(change: &Change<'_>) -> Vec<Notification> {
    let stored = change.before.map(|before| before.notifications.clone()).unwrap_or_default();
    let mut all = Vec::with_capacity(stored.len());
    let happenings = change.happenings();
    for told in &change.desired.told {
        let stored = stored.iter().filter(|notice| is_for(notice, told));
        let mut own: Vec<Notification> = stored.filter_map(|notice| carried(change, told, notice)).collect();
        let of_interest = happenings.iter().filter(|happening| told.kinds.contains(&happening.kind));
        for happening in of_interest {
            if !own.iter().any(|notice| covers(notice, happening)) {
                own.push(notice(change, told, happening));
            }
        }
        all.extend(own);
    }
    bounded(change, all)
}

/// Whether a notice is for this target.
pub fn is_for(notice: &Notification, told: &Told) -> bool {
    notice.channel_ref == told.channel && notice.recipients == told.recipients
}

fn notice(change: &Change<'_>, told: &Told, happening: &Happening) -> Notification {
    let key = happening.key(&change.desired.uid);
    let recipients = told.recipients.as_deref().unwrap_or_default();
    let short = |text: &String| text.chars().take(TEXT).collect();
    let fresh = Notification {
        id: fingerprint(&[&key, &told.channel.to_string(), recipients], 32),
        kind: happening.kind,
        channel_ref: told.channel.clone(),
        recipients: told.recipients.clone(),
        jwt_id: happening.jti.clone(),
        at: change.now,
        about: happening.about.as_ref().map(short),
        since: happening.since,
        ends_at: happening.ends_at,
        other_jwt_id: happening.other.clone(),
        cause: happening.cause.as_ref().map(short),
        state: State::Pending,
        sent_at: None,
        failing_since: None,
        error: None,
    };
    barred(change, told, fresh)
}

/// Characters of a text that is kept.
const TEXT: usize = 512;

// Whether this happening was told, or is about to be. A longer warning is over when a shorter one was given.
fn covers(notice: &Notification, happening: &Happening) -> bool {
    let warned = |text: &Option<String>| text.as_deref().and_then(|text| Seconds::parse(text, "dhms"));
    if notice.kind != happening.kind {
        return false;
    }
    match notice.kind {
        NoticeKind::DeliveryFailing => notice.about == happening.about && notice.since == happening.since,
        NoticeKind::TokenExpiring => {
            notice.jwt_id == happening.jti && warned(&notice.about) <= warned(&happening.about)
        }
        _ => notice.jwt_id == happening.jti,
    }
}

// What becomes of a notice that is stored already; `None`: it is forgotten.
fn carried(change: &Change<'_>, told: &Told, notice: &Notification) -> Option<Notification> {
    let notice = reported(change, notice.clone());
    let notice = match recovered(change, told, notice) {
        Recovery::Over(next) => return next,
        Recovery::No(notice) => notice,
    };
    if notice.state != State::Pending {
        return Some(notice);
    }
    let late = is_late(change, &notice);
    // What was tried in vain until it was too late does not end in silence.
    let over = !is_true(change, &notice) || (late && notice.failing_since.is_none());
    // By a wrong clock it only seems to be over.
    if change.observed.clock_trusted && over {
        return None;
    }
    let wanted = told.kinds.contains(&notice.kind);
    wanted.then(|| given_up(change, barred(change, told, notice), late))
}

fn reported(change: &Change<'_>, notice: Notification) -> Notification {
    let report = change.observed.reports.get(&notice.id).filter(|_| notice.state == State::Pending);
    let said = |error: &ProviderError| Some(TargetError { reason: error.condition_reason(), message: error.line() });
    match report {
        None => notice,
        Some(Report::Sent { at }) => {
            Notification { state: State::Sent, sent_at: Some(*at), failing_since: None, error: None, ..notice }
        }
        Some(Report::Failing { error }) => {
            let since = notice.failing_since.unwrap_or(change.now);
            Notification { failing_since: Some(since), error: said(error), ..notice }
        }
        Some(Report::Refused { error }) => Notification { state: State::Failed, error: said(error), ..notice },
    }
}

enum Recovery {
    No(Notification),
    Over(Option<Notification>),
}

// A failure that was told, or may have been, is followed by the news of its end; a target that is gone by nothing.
fn recovered(change: &Change<'_>, told: &Told, notice: Notification) -> Recovery {
    let (NoticeKind::DeliveryFailing, Some(target)) = (notice.kind, notice.about.clone()) else {
        return Recovery::No(notice);
    };
    let still = failures(change.desired, change.after);
    if still.iter().any(|failure| failure.target == target && Some(failure.since) == notice.since) {
        return Recovery::No(notice);
    }
    let newest = change.after.jwts.first();
    let tell = is_target(change.desired, &target)
        && !change.desired.deleting()
        && told.kinds.contains(&NoticeKind::DeliveryRecovered);
    let Some(newest) = newest.filter(|_| tell) else { return Recovery::Over(None) };
    let happening = Happening {
        kind: NoticeKind::DeliveryRecovered,
        jti: newest.id.clone(),
        about: notice.about,
        since: notice.since,
        ends_at: None,
        other: None,
        cause: None,
    };
    Recovery::Over(Some(self::notice(change, told, &happening)))
}

// Whether it is still worth telling.
fn is_true(change: &Change<'_>, notice: &Notification) -> bool {
    let (now, after) = (change.now, change.after);
    let entry = after.jwts.iter().find(|entry| entry.id == notice.jwt_id);
    let newest = after.jwts.first().is_some_and(|newest| newest.id == notice.jwt_id);
    let ahead = notice.ends_at.is_some_and(|end| now < end);
    match notice.kind {
        NoticeKind::TokenRotated => entry.is_some(),
        NoticeKind::GraceEnding => entry.is_some() && ahead,
        NoticeKind::TokenExpiring => {
            newest && ahead && doomed(change.desired, after).is_some() && is_last(change, notice)
        }
        NoticeKind::TokenExpired => {
            entry.is_some_and(|entry| entry.phase != Phase::Superseded) && (newest || is_held(after, &notice.jwt_id))
        }
        NoticeKind::DeliveryFailing
        | NoticeKind::TokenRetired
        | NoticeKind::DeliveryRecovered
        | NoticeKind::TokenRevoked => true,
    }
}

// Whether it tells of the past alone, and that was too long ago.
fn is_late(change: &Change<'_>, notice: &Notification) -> bool {
    let stale = change.now >= notice.at + GIVE_UP;
    match notice.kind {
        NoticeKind::TokenRotated => stale && notice.ends_at.is_none_or(|end| end <= change.now),
        NoticeKind::TokenRetired | NoticeKind::DeliveryRecovered | NoticeKind::TokenRevoked => stale,
        _ => false,
    }
}

// Whether no shorter warning has taken its place.
fn is_last(change: &Change<'_>, notice: &Notification) -> bool {
    let warned = change.happenings().into_iter().find(|happening| happening.kind == NoticeKind::TokenExpiring);
    warned.is_none_or(|warned| warned.about == notice.about)
}

// What the channel's own admission says of it.
fn barred(change: &Change<'_>, told: &Told, notice: Notification) -> Notification {
    let error = match change.observed.channels.get(&told.channel) {
        Some(Admission::Refused { reason, message }) => {
            Some(TargetError { reason: (*reason).to_owned(), message: message.clone() })
        }
        Some(Admission::Open { medium, has_recipients }) => lacks_recipients(told, *medium, *has_recipients),
        Some(Admission::Unknown { .. }) | None => return notice,
    };
    match error {
        Some(error) => {
            let since = notice.failing_since.unwrap_or(change.now);
            Notification { failing_since: Some(since), error: Some(error), ..notice }
        }
        None if notice.error.as_ref().is_some_and(|error| is_bar(&error.reason)) => {
            Notification { failing_since: None, error: None, ..notice }
        }
        None => notice,
    }
}

/// The recipients are missing.
const NO_RECIPIENTS: &str = "NoRecipients";

fn is_bar(reason: &str) -> bool {
    matches!(reason, NO_RECIPIENTS | "NotAllowed" | "ChannelNotFound" | "InvalidSpec")
}

fn lacks_recipients(told: &Told, medium: Medium, has_recipients: bool) -> Option<TargetError> {
    let field = match medium {
        Medium::Email if told.emails.is_empty() => "toEmails",
        Medium::SlackBot if told.rooms.is_empty() && !has_recipients => "channels",
        _ => return None,
    };
    let message = format!(
        "spec.notificationTargets[].{field} is missing, which NotificationChannel {} needs; name at least one",
        told.channel
    );
    Some(TargetError { reason: NO_RECIPIENTS.into(), message })
}

fn given_up(change: &Change<'_>, notice: Notification, late: bool) -> Notification {
    let over = late || notice.failing_since.is_some_and(|since| change.now >= since + GIVE_UP);
    if !over || !change.observed.clock_trusted {
        return notice;
    }
    let unknown = TargetError { reason: NOT_SENT.into(), message: "it was not sent within 24 hours".into() };
    Notification { state: State::Failed, error: Some(notice.error.clone().unwrap_or(unknown)), ..notice }
}

// What is remembered so that it is not sent again stays with what it is about; of the rest, the last few.
fn bounded(change: &Change<'_>, mut all: Vec<Notification>) -> Vec<Notification> {
    all.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.id.cmp(&b.id)));
    let mut spare = REMEMBERED;
    let alive = |jti: &str| change.after.jwts.iter().any(|entry| entry.id == jti);
    all.retain(|notice| {
        let needed = notice.state == State::Pending
            || match notice.kind {
                NoticeKind::GraceEnding | NoticeKind::TokenExpiring | NoticeKind::TokenExpired => alive(&notice.jwt_id),
                NoticeKind::DeliveryFailing => true,
                _ => false,
            };
        let kept = needed || spare > 0;
        if !needed {
            spare = spare.saturating_sub(1);
        }
        kept
    });
    while all.len() > MOST {
        let at = all.iter().rposition(|notice| notice.state != State::Pending).unwrap_or(all.len() - 1);
        all.remove(at);
    }
    all
}

/// When the next look at notices is worth a pass.
pub fn wake_at(desired: &Desired, status: &VirtualAccountStatus, now: Instant) -> Option<Instant> {
    if desired.told.is_empty() || desired.deleting() {
        return None;
    }
    let pending = status.notifications.iter().filter(|notice| notice.state == State::Pending);
    let over = pending.flat_map(|notice| {
        [notice.failing_since.map(|since| since + GIVE_UP), notice.ends_at, Some(notice.at + GIVE_UP)]
    });
    instants(desired, status).into_iter().chain(over.flatten()).filter(|instant| *instant > now).min()
}

/// The conditions with `Notified`: whether people hear of the account. Never a part of `Ready`.
pub fn notified(before: Vec<Condition>, change: &Change<'_>) -> Vec<Condition> {
    if change.desired.told.is_empty() {
        return before.into_iter().filter(|condition| condition.type_ != NOTIFIED).collect();
    }
    let worst = change.desired.told.iter().find_map(|told| trouble(change, told));
    let (status, reason, message) = match &worst {
        Some(error) => (false, error.reason.as_str(), error.message.as_str()),
        None => (true, "Notified", "every notice that is due was sent"),
    };
    let says = Says { status, reason, message };
    condition::set(before, NOTIFIED, &says, change.desired.generation, change.now)
}

/// The condition's type.
pub const NOTIFIED: &str = "Notified";

fn trouble(change: &Change<'_>, told: &Told) -> Option<TargetError> {
    let channel = &told.channel;
    if let Some(Admission::Refused { reason, message }) = change.observed.channels.get(channel) {
        return Some(TargetError { reason: (*reason).to_owned(), message: message.clone() });
    }
    if let Some(Admission::Open { medium, has_recipients }) = change.observed.channels.get(channel)
        && let Some(error) = lacks_recipients(told, *medium, *has_recipients)
    {
        return Some(error);
    }
    let mut own = change.after.notifications.iter().filter(|notice| is_for(notice, told));
    // The newest first: what was sent since shows that the channel works.
    let last = own.find(|notice| notice.state != State::Pending || notice.error.is_some())?;
    let error = last.error.as_ref()?;
    let kind = last.kind;
    let message = match (last.state, last.failing_since) {
        (State::Failed, _) => {
            format!("{kind} was not told by NotificationChannel {channel} and is given up: {}", error.message)
        }
        (_, Some(since)) => format!(
            "{kind} is not told by NotificationChannel {channel} yet: {}; tried until {}",
            error.message,
            since + GIVE_UP
        ),
        _ => return None,
    };
    Some(TargetError { reason: error.reason.clone(), message })
}
