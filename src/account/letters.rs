//! From a notice in the status to a letter that can be sent. Pure.

use super::condition;
use super::desired::{Desired, Told};
use super::happenings::doomed;
use super::journal::places;
use super::notices::is_for;
use super::observe::Observed;
use crate::api::{
    Instant, IssueReason, NoticeKind, Notification, NotificationState as State, OwnedBy, Phase, VirtualAccount,
    VirtualAccountStatus,
};
use crate::fingerprint::fingerprint;
use crate::notify::{Admission, Content, Letter, Medium, Owner, Posted};

/// The letters that are still to be sent, as the stored status says.
pub fn letters(account: &VirtualAccount, desired: &Desired, observed: &Observed) -> Vec<Posted> {
    let Some(status) = &account.status else { return Vec::new() };
    let pending = status.notifications.iter().filter(|notice| notice.state == State::Pending);
    let posted = pending.filter_map(|notice| {
        let told = desired.told.iter().find(|told| is_for(notice, told))?;
        let Some(Admission::Open { medium, has_recipients }) = observed.channels.get(&told.channel) else {
            return None;
        };
        let recipients = recipients(told, *medium, *has_recipients)?;
        let letter = letter(account, desired, status, notice);
        Some(Posted { channel: told.channel.clone(), medium: *medium, recipients, letter })
    });
    posted.collect()
}

// `None`: it has none, and needs some.
fn recipients(told: &Told, medium: Medium, has_recipients: bool) -> Option<Vec<String>> {
    match medium {
        Medium::Email => Some(told.emails.clone()).filter(|emails| !emails.is_empty()),
        Medium::SlackBot => Some(told.rooms.clone()).filter(|rooms| has_recipients || !rooms.is_empty()),
        _ => Some(Vec::new()),
    }
}

fn letter(account: &VirtualAccount, desired: &Desired, status: &VirtualAccountStatus, notice: &Notification) -> Letter {
    let owner = account.spec.owned_by.as_ref();
    let owner = owner.map(|OwnedBy { team, account }| Owner { team: team.clone(), account: account.clone() });
    Letter {
        id: notice.id.clone(),
        incident: incident(desired, notice),
        account: desired.account.clone(),
        owner,
        description: account.spec.description.clone(),
        jti: notice.jwt_id.clone(),
        at: notice.at,
        content: content(desired, status, notice),
    }
}

// The failure and the recovery of a target are one incident.
fn incident(desired: &Desired, notice: &Notification) -> String {
    let Some(since) = notice.since else { return notice.id.clone() };
    let about = notice.about.as_deref().unwrap_or_default();
    fingerprint(&[&desired.uid, "delivery", about, &since.to_string(), &notice.channel_ref.to_string()], 32)
}

fn content(desired: &Desired, status: &VirtualAccountStatus, notice: &Notification) -> Content {
    // Past the account's end nothing works.
    let bounded = |at: Instant| desired.schedule.end.map_or(at, |end| end.min(at));
    let ends_at = bounded(notice.ends_at.unwrap_or(notice.at));
    let target = || notice.about.clone().unwrap_or_default();
    let since = notice.since.unwrap_or(notice.at);
    match notice.kind {
        NoticeKind::TokenRotated => rotated(status, notice, notice.ends_at.map(bounded)),
        NoticeKind::GraceEnding => Content::GraceEnding { ends_at, newer: notice.other_jwt_id.clone() },
        NoticeKind::TokenRetired => Content::Retired { ended_at: ends_at },
        NoticeKind::TokenExpiring => Content::Expiring { ends_at, why: why_no_rotation(desired, status) },
        NoticeKind::TokenExpired => Content::Expired { ended_at: ends_at, why: why_no_rotation(desired, status) },
        NoticeKind::DeliveryFailing => {
            Content::Failing { target: target(), since, error: notice.cause.clone().unwrap_or_default() }
        }
        NoticeKind::DeliveryRecovered => Content::Recovered { target: target(), since },
        NoticeKind::TokenRevoked => Content::Revoked {
            by: notice.cause.clone().unwrap_or_default(),
            successor: notice.other_jwt_id.clone(),
            until: notice.ends_at,
        },
    }
}

fn rotated(status: &VirtualAccountStatus, notice: &Notification, ends_at: Option<Instant>) -> Content {
    let entry = status.jwts.iter().find(|entry| entry.id == notice.jwt_id);
    let previous = notice.other_jwt_id.clone().zip(ends_at);
    // Revoked since: it no longer works until then.
    let revoked = |jti: &String| status.jwts.iter().any(|entry| entry.id == *jti && entry.phase == Phase::Revoked);
    Content::Rotated {
        why: entry.map_or(IssueReason::Scheduled, |entry| entry.reason),
        places: places(status, &notice.jwt_id),
        previous: previous.filter(|(jti, _)| !revoked(jti)),
        expires_at: entry.map(|entry| entry.expires_at),
        next: status.next_scheduled_rotation,
    }
}

// Why nothing replaces the token, and what to do.
fn why_no_rotation(desired: &Desired, status: &VirtualAccountStatus) -> String {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let newest = status.jwts.first();
    let with_account = newest.is_some_and(|newest| desired.schedule.end.is_some_and(|end| newest.expires_at >= end));
    match ready {
        _ if desired.suspend => "Rotation is suspended; set spec.suspend to false.".into(),
        _ if with_account => {
            "The account ends with spec.expirationDate; set a later date if it is still needed.".into()
        }
        Some(ready) if ready.status != "True" || doomed(desired, status).is_some() => {
            format!("Its condition Ready says {}: {}.", ready.reason, ready.message)
        }
        _ => format!("A successor is on its way to {}.", condition::places(desired)),
    }
}
