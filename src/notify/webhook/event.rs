//! A letter as a CloudEvent 1.0. What is here is an interface: programs of others read it, so fields are added, and
//! neither renamed nor removed, under the same `type`. `docs/notifications/webhook.md` has the table.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use crate::api::{AccountId, Instant, IssueReason, NoticeKind};
use crate::notify::text::plain;
use crate::notify::{Content, Letter};

const SOURCE: &str = "urn:virtualaccounts:cluster:";
/// What stays as it is in a URN (RFC 3986, unreserved).
const IN_SOURCE: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What stays as it is in an id. Not the full stop: it ends the id in what is signed, so one inside could move a part of
/// the id into the time.
const IN_ID: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b':').remove(b'/');
/// Characters of a text.
const LONGEST: usize = 1_000;

/// A CloudEvent.
#[derive(Serialize)]
pub(super) struct Event<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    kind: &'static str,
    subject: String,
    time: Instant,
    datacontenttype: &'static str,
    data: Data,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(flatten)]
    about: About,
    cluster: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    summary: String,
    message: String,
    todo: String,
    #[serde(flatten)]
    details: Details,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum About {
    Account(Name),
    Channel(Name),
}

#[derive(Serialize)]
struct Name {
    namespace: String,
    name: String,
}

#[derive(Serialize)]
struct Owner {
    team: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
}

/// What one kind has and others have not.
#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Details {
    Rotated {
        reason: IssueReason,
        places: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<Previous>,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<Instant>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_rotation: Option<Instant>,
    },
    GraceEnding {
        ends_at: Instant,
        #[serde(skip_serializing_if = "Option::is_none")]
        successor_jwt_id: Option<String>,
    },
    Retired {
        ended_at: Instant,
    },
    Expiring {
        ends_at: Instant,
        why: String,
    },
    Expired {
        ended_at: Instant,
        why: String,
    },
    Failing {
        target: String,
        since: Instant,
        error: String,
    },
    Recovered {
        target: String,
        since: Instant,
    },
    Revoked {
        by: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        successor_jwt_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        accepted_offline_until: Option<Instant>,
    },
    Test {},
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Previous {
    jwt_id: String,
    ends_at: Instant,
}

impl<'a> Event<'a> {
    /// The event with this id, of this cluster. Times in its words are counted from when it came about, not from when it is
    /// sent: so a repeat is the same, byte for byte.
    pub(super) fn new(letter: &Letter, id: &'a str, cluster: &str) -> Self {
        Self {
            specversion: "1.0",
            id,
            source: format!("{SOURCE}{}", utf8_percent_encode(cluster, &IN_SOURCE)),
            kind: kind(letter.content.kind()),
            subject: text(&letter.account.to_string()),
            time: letter.at,
            datacontenttype: "application/json",
            data: Data::new(letter, cluster),
        }
    }
}

/// A notice's id as it goes out: in the event, in `webhook-id` and in what is signed.
pub(super) fn id(notice: &str) -> String {
    utf8_percent_encode(notice, &IN_ID).to_string()
}

fn kind(kind: Option<NoticeKind>) -> &'static str {
    match kind {
        Some(NoticeKind::TokenRotated) => "dev.virtualaccounts.token.rotated.v1",
        Some(NoticeKind::GraceEnding) => "dev.virtualaccounts.token.grace_ending.v1",
        Some(NoticeKind::TokenRetired) => "dev.virtualaccounts.token.retired.v1",
        Some(NoticeKind::TokenExpiring) => "dev.virtualaccounts.token.expiring.v1",
        Some(NoticeKind::TokenExpired) => "dev.virtualaccounts.token.expired.v1",
        Some(NoticeKind::TokenRevoked) => "dev.virtualaccounts.token.revoked.v1",
        Some(NoticeKind::DeliveryFailing) => "dev.virtualaccounts.delivery.failing.v1",
        Some(NoticeKind::DeliveryRecovered) => "dev.virtualaccounts.delivery.recovered.v1",
        None => "dev.virtualaccounts.test.v1",
    }
}

impl Data {
    fn new(letter: &Letter, cluster: &str) -> Self {
        let words = letter.text(cluster, letter.at);
        let owner = letter.owner.as_ref();
        Self {
            about: About::of(&letter.account, &letter.content),
            cluster: text(cluster),
            kind: letter.content.name(),
            jwt_id: Some(text(&letter.jti)).filter(|jti| !jti.is_empty()),
            owner: owner.map(|owner| Owner { team: text(&owner.team), account: some(owner.account.as_ref()) }),
            description: some(letter.description.as_ref()),
            summary: text(&words.title),
            message: text(&words.body),
            todo: text(&words.todo),
            details: Details::of(&letter.content),
        }
    }
}

impl About {
    fn of(id: &AccountId, content: &Content) -> Self {
        let name = Name { namespace: text(&id.namespace), name: text(&id.name) };
        if *content == Content::Test { Self::Channel(name) } else { Self::Account(name) }
    }
}

impl Details {
    fn of(content: &Content) -> Self {
        match content {
            Content::Rotated { why, places, previous, expires_at, next } => Self::Rotated {
                reason: *why,
                places: places.iter().map(|place| text(place)).collect(),
                previous: previous.as_ref().map(|(jti, end)| Previous { jwt_id: text(jti), ends_at: *end }),
                expires_at: *expires_at,
                next_rotation: *next,
            },
            Content::GraceEnding { ends_at, newer } => {
                Self::GraceEnding { ends_at: *ends_at, successor_jwt_id: some(newer.as_ref()) }
            }
            Content::Retired { ended_at } => Self::Retired { ended_at: *ended_at },
            Content::Expiring { ends_at, why } => Self::Expiring { ends_at: *ends_at, why: text(why) },
            Content::Expired { ended_at, why } => Self::Expired { ended_at: *ended_at, why: text(why) },
            Content::Failing { target, since, error } => {
                Self::Failing { target: text(target), since: *since, error: text(error) }
            }
            Content::Recovered { target, since } => Self::Recovered { target: text(target), since: *since },
            Content::Revoked { by, successor, until } => Self::Revoked {
                by: text(by),
                successor_jwt_id: some(successor.as_ref()),
                accepted_offline_until: *until,
            },
            Content::Test => Self::Test {},
        }
    }
}

/// What people wrote, as one line that is not too long.
fn text(written: &str) -> String {
    plain(written).chars().take(LONGEST).collect()
}

fn some(written: Option<&String>) -> Option<String> {
    written.map(|written| text(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_reach_into_the_time_or_out_of_its_header() {
        assert_eq!(id("Qk1-_x:TokenRotated:team/vault"), "Qk1-_x:TokenRotated:team/vault");
        assert_eq!(id("a.1800000000.b\r\nx: ü"), "a%2E1800000000%2Eb%0D%0Ax:%20%C3%BC");
    }
}
