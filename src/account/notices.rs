//! The notices of an account as its status keeps them: which are still to be sent, which were, and which are no longer true.
//! Pure. A notice is sent only after the status that holds it was accepted, and stays until it is recorded as sent: a crash
//! in between repeats it, with the same id.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::desired::{Desired, Told};
use super::happenings::{Change, Happening, TargetState, doomed, instants, is_held, target_state};
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
const MOST: usize = 128;
/// The reason for a channel that gave no answer of its own.
const NOT_SENT: &str = "NotSent";

/// The notices to be stored with `change.after`: the newest first.
pub fn notices_after(change: &Change<'_>) -> Vec<Notification> {
    if change.desired.told.is_empty() {
        return Vec::new();
    }
    let stored = change.before.map(|before| before.notifications.as_slice()).unwrap_or_default();
    let happenings = change.happenings();
    let mut all = Vec::with_capacity(stored.len());
    for told in &change.desired.told {
        let mut own: Vec<Notification> = Vec::new();
        let inherited = stored.iter().filter(|notice| heir(change.desired, notice) == Some(told));
        // That others could not be told is no news any more.
        for notice in inherited.filter(|notice| notice.state != State::Failed || is_for(notice, told)) {
            let next = carried(change, told, Notification { recipients: told.recipients.clone(), ..notice.clone() });
            own.extend(next.filter(|next| own.iter().all(|other| other.id != next.id && !is_same(other, next))));
        }
        for happening in happenings.iter().filter(|happening| told.kinds.contains(&happening.kind)) {
            if !own.iter().any(|notice| covers(notice, happening)) {
                own.push(notice(change, told, happening));
            }
        }
        all.extend(own);
    }
    bounded(change, stored, all)
}

/// Who is told of a stored notice now: the target that it was made for, or the one that this target has become.
fn heir<'a>(desired: &'a Desired, notice: &Notification) -> Option<&'a Told> {
    let mut same = desired.told.iter().filter(|told| told.channel == notice.channel_ref);
    same.clone().find(|told| is_for(notice, told)).or_else(|| {
        let only = same.next();
        only.filter(|_| same.next().is_none())
    })
}

// Two targets may have become one.
fn is_same(a: &Notification, b: &Notification) -> bool {
    (a.kind, &a.jwt_id, &a.about, a.since) == (b.kind, &b.jwt_id, &b.about, b.since)
}

/// Whether a notice is for this target.
pub fn is_for(notice: &Notification, told: &Told) -> bool {
    notice.channel_ref == told.channel && notice.recipients == told.recipients
}

fn notice(change: &Change<'_>, told: &Told, happening: &Happening) -> Notification {
    let key = happening.key(&change.desired.uid);
    // The same after a change of recipients, also if the status was lost in between.
    let others = change.desired.told.iter().take_while(|other| *other != told);
    let ordinal = others.filter(|other| other.channel == told.channel).count().to_string();
    let short = |text: &String| text.chars().take(TEXT).collect();
    let fresh = Notification {
        id: fingerprint(&[&key, &told.channel.to_string(), &ordinal], 32),
        kind: happening.kind,
        channel_ref: told.channel.clone(),
        recipients: told.recipients.clone(),
        jwt_id: happening.jti.clone(),
        at: change.now,
        about: happening.about.as_ref().map(|text| text.chars().take(ABOUT).collect()),
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

/// Characters of an error that is kept.
const TEXT: usize = 512;
/// The schema's limit; every target is shorter.
const ABOUT: usize = 1_024;

// Whether this happening was told, or is about to be. A longer warning is over when a shorter one was given.
fn covers(notice: &Notification, happening: &Happening) -> bool {
    let warned = |text: &Option<String>| text.as_deref().and_then(|text| Seconds::parse(text, "dhms"));
    if notice.kind != happening.kind {
        return false;
    }
    match notice.kind {
        // Until its recovery is told it is one failure, whatever was tried in between.
        NoticeKind::DeliveryFailing => notice.about == happening.about,
        NoticeKind::TokenExpiring => {
            notice.jwt_id == happening.jti && warned(&notice.about) <= warned(&happening.about)
        }
        _ => notice.jwt_id == happening.jti,
    }
}

// What becomes of a notice that is stored already; `None`: it is forgotten.
fn carried(change: &Change<'_>, told: &Told, notice: Notification) -> Option<Notification> {
    let notice = reported(change, notice);
    let notice = match recovered(change, told, notice) {
        Recovery::Over(next) => return next,
        Recovery::No(notice) => notice,
    };
    if notice.state != State::Pending {
        return Some(notice);
    }
    // By a wrong clock it only seems to be over.
    if change.trusted && !is_true(change, &notice) {
        return None;
    }
    let wanted = told.kinds.contains(&notice.kind);
    wanted.then(|| given_up(change, barred(change, told, notice)))
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
    let (NoticeKind::DeliveryFailing, Some(target)) = (notice.kind, notice.about.as_deref()) else {
        return Recovery::No(notice);
    };
    let newest = change.after.jwts.first().filter(|_| !change.desired.deleting());
    match (target_state(change.desired, change.after, target), newest) {
        (Some(TargetState::Works), Some(newest)) if told.kinds.contains(&NoticeKind::DeliveryRecovered) => {
            let happening = Happening {
                kind: NoticeKind::DeliveryRecovered,
                jti: newest.id.clone(),
                about: notice.about.clone(),
                since: notice.since,
                ends_at: None,
                other: None,
                cause: None,
            };
            Recovery::Over(Some(self::notice(change, told, &happening)))
        }
        (None | Some(TargetState::Works), _) => Recovery::Over(None),
        (Some(TargetState::Fails | TargetState::Waits), _) => Recovery::No(notice),
    }
}

// Whether it is still worth telling.
fn is_true(change: &Change<'_>, notice: &Notification) -> bool {
    let (now, after) = (change.now, change.after);
    let entry = after.jwts.iter().find(|entry| entry.id == notice.jwt_id);
    let newest = after.jwts.first().is_some_and(|newest| newest.id == notice.jwt_id);
    // While it cannot be sent it is not dropped but given up, which is told.
    let fresh = notice.failing_since.is_some() || now < notice.at + GIVE_UP;
    let ahead = notice.ends_at.is_some_and(|end| now < end);
    match notice.kind {
        NoticeKind::TokenRotated => entry.is_some() && (fresh || ahead),
        NoticeKind::GraceEnding => entry.is_some() && ahead,
        NoticeKind::TokenExpiring => {
            newest && ahead && doomed(change.desired, after).is_some() && is_last(change, notice)
        }
        NoticeKind::TokenExpired => {
            entry.is_some_and(|entry| entry.phase != Phase::Superseded) && (newest || is_held(after, &notice.jwt_id))
        }
        NoticeKind::DeliveryFailing => true,
        NoticeKind::TokenRetired | NoticeKind::DeliveryRecovered | NoticeKind::TokenRevoked => fresh,
    }
}

// Whether no shorter warning has taken its place.
fn is_last(change: &Change<'_>, notice: &Notification) -> bool {
    let warned = change.happenings().into_iter().find(|happening| happening.kind == NoticeKind::TokenExpiring);
    warned.is_none_or(|warned| warned.about == notice.about)
}

// What the channel's own admission says of it.
fn barred(change: &Change<'_>, told: &Told, notice: Notification) -> Notification {
    match bar(change, told) {
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

// Why nothing can be sent to this target, whatever it is.
fn bar(change: &Change<'_>, told: &Told) -> Option<TargetError> {
    match change.observed.channels.get(&told.channel)? {
        Admission::Refused { reason, message } => {
            Some(TargetError { reason: (*reason).to_owned(), message: message.clone() })
        }
        Admission::Unknown { message } => Some(TargetError { reason: UNKNOWN.into(), message: message.clone() }),
        Admission::Open { medium, has_recipients } => lacks_recipients(told, *medium, *has_recipients),
    }
}

/// Nothing is known of the channel.
const UNKNOWN: &str = "ChannelUnknown";
/// The recipients are missing.
const NO_RECIPIENTS: &str = "NoRecipients";

/// Whether somebody must act before anything can be told.
pub fn is_bar(reason: &str) -> bool {
    matches!(reason, NO_RECIPIENTS | UNKNOWN | "NotAllowed" | "ChannelNotFound" | "InvalidSpec")
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

fn given_up(change: &Change<'_>, notice: Notification) -> Notification {
    let over = notice.failing_since.is_some_and(|since| change.now >= since + GIVE_UP);
    if !over || !change.trusted {
        return notice;
    }
    let unknown = TargetError { reason: NOT_SENT.into(), message: "it was not sent within 24 hours".into() };
    Notification { state: State::Failed, error: Some(notice.error.clone().unwrap_or(unknown)), ..notice }
}

// What is remembered so that it is not sent again stays with what it is about; of the rest, the last few. Only what is new
// makes others go, so that the same look twice changes nothing.
fn bounded(change: &Change<'_>, stored: &[Notification], mut all: Vec<Notification>) -> Vec<Notification> {
    let before = |notice: &Notification| stored.iter().find(|old| old.id == notice.id);
    all.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.id.cmp(&b.id)));
    if all.iter().all(|notice| before(notice).is_some()) {
        return all;
    }
    let alive = |jti: &str| change.after.jwts.iter().any(|entry| entry.id == jti);
    let needed = |notice: &Notification| match notice.kind {
        _ if notice.state == State::Pending => true,
        // What has just ended is news, also if it is old.
        _ if before(notice).is_some_and(|old| old.state == State::Pending) => true,
        NoticeKind::GraceEnding | NoticeKind::TokenExpiring | NoticeKind::TokenExpired => alive(&notice.jwt_id),
        NoticeKind::DeliveryFailing => true,
        _ => false,
    };
    let mut spare = REMEMBERED;
    all.retain(|notice| {
        let kept = needed(notice) || spare > 0;
        spare = spare.saturating_sub(usize::from(!needed(notice)));
        kept
    });
    // For what is new there may be no room: to forget what was sent would send it again.
    while all.len() > MOST {
        let Some(at) = all.iter().rposition(|notice| before(notice).is_none()) else { break };
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
pub fn notified(change: &Change<'_>) -> Vec<Condition> {
    let before = change.after.conditions.clone();
    if change.desired.told.is_empty() {
        return before.into_iter().filter(|condition| condition.type_ != NOTIFIED).collect();
    }
    let told = &change.desired.told;
    let troubles: Vec<TargetError> = told.iter().filter_map(|told| trouble(change, told)).collect();
    let message = match troubles.as_slice() {
        [] => "every notice that is due was sent".to_owned(),
        [only] => only.message.clone(),
        [first, ..] => format!("{} of {} targets: {}", troubles.len(), told.len(), first.message),
    };
    let (status, reason) = troubles.first().map_or((true, "Notified"), |first| (false, first.reason.as_str()));
    let says = Says { status, reason, message: &message };
    condition::set(before, NOTIFIED, &says, change.desired.generation, change.now)
}

/// The condition's type.
pub const NOTIFIED: &str = "Notified";

fn trouble(change: &Change<'_>, told: &Told) -> Option<TargetError> {
    let channel = &told.channel;
    if let Some(error) = bar(change, told) {
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

#[cfg(test)]
mod tests;
