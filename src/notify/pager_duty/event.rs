//! An event of PagerDuty's Events API v2, within its limits. Nothing in it is markup to PagerDuty.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::api::{Instant, PagerDutySeverity};
use crate::notify::text::plain;
use crate::notify::{Letter, Message, Text};

const CLIENT: &str = "virtual-account-operator";
/// The source must not be empty.
const NO_CLUSTER: &str = "Kubernetes";

/// PagerDuty's limits, in characters.
const LONGEST_KEY: usize = 255;
const LONGEST_SUMMARY: usize = 1_024;
/// Our own: with these an event stays far below PagerDuty's 512 KB.
const LONGEST_NAME: usize = 255;
const LONGEST_TEXT: usize = 2_000;

/// An event. It holds the integration key, so it cannot be printed.
#[derive(Serialize)]
pub(super) struct Event<'a> {
    routing_key: &'a str,
    #[serde(rename = "event_action")]
    action: Action,
    dedup_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'static str>,
    payload: Payload,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Trigger,
    Resolve,
}

#[derive(Serialize)]
struct Payload {
    summary: String,
    source: String,
    severity: PagerDutySeverity,
    timestamp: Instant,
    component: String,
    group: String,
    class: &'static str,
    custom_details: Details,
}

/// What PagerDuty shows as a table.
struct Details(Text);

impl<'a> Event<'a> {
    /// Opens the alert of what the letter tells, or adds to it.
    pub(super) fn trigger(key: &'a str, letter: &Letter, message: &Message, severity: PagerDutySeverity) -> Self {
        Self { action: Action::Trigger, client: Some(CLIENT), ..Self::resolve(key, letter, message, severity) }
    }

    /// Closes it. What the letter tells is shown in the alert's log.
    pub(super) fn resolve(key: &'a str, letter: &Letter, message: &Message, severity: PagerDutySeverity) -> Self {
        Self {
            routing_key: key,
            action: Action::Resolve,
            dedup_key: dedup_key(&letter.incident),
            client: None,
            payload: Payload::new(letter, message, severity),
        }
    }
}

impl Payload {
    fn new(letter: &Letter, message: &Message, severity: PagerDutySeverity) -> Self {
        let text = letter.text(&message.cluster, message.now);
        let team = letter.owner.as_ref().map(|owner| owner.team.as_str());
        Self {
            summary: cut(&text.title, LONGEST_SUMMARY),
            source: Some(cut(&message.cluster, LONGEST_NAME))
                .filter(|name| !name.is_empty())
                .unwrap_or(NO_CLUSTER.into()),
            severity,
            timestamp: letter.at,
            component: cut(&letter.account.to_string(), LONGEST_NAME),
            group: cut(team.unwrap_or(&letter.account.namespace), LONGEST_NAME),
            class: letter.content.name(),
            custom_details: Details(text),
        }
    }
}

impl Serialize for Details {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(text) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("What happened", &cut(&text.body, LONGEST_TEXT))?;
        map.serialize_entry("What to do", &cut(&text.todo, LONGEST_TEXT))?;
        for fact in text.facts.iter().filter(|fact| !fact.value.is_empty()) {
            map.serialize_entry(fact.name, &fact.value)?;
        }
        map.end()
    }
}

/// The same for the same incident, whatever is in its name.
fn dedup_key(incident: &str) -> String {
    if incident.chars().count() <= LONGEST_KEY && plain(incident) == incident {
        return incident.to_owned();
    }
    URL_SAFE_NO_PAD.encode(digest(&SHA256, incident.as_bytes()))
}

fn cut(text: &str, longest: usize) -> String {
    plain(text).chars().take(longest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incidents_that_do_not_fit_have_a_key_of_their_own() {
        let fits = "ü".repeat(LONGEST_KEY);
        assert_eq!(dedup_key(&fits), fits);
        let [one, two] = ["one", "two"].map(|end| format!("{fits}{end}"));
        assert_eq!(dedup_key(&one), dedup_key(&one));
        assert_ne!(dedup_key(&one), dedup_key(&two));
        assert_eq!(dedup_key(&one).len(), 43);
        assert_ne!(dedup_key("a\nb"), dedup_key("a b"));
    }
}
