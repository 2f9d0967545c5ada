//! A letter in plain words: what every medium that people read is made from. Pure. Nothing is escaped here: each medium does
//! it in its own way, for all of these strings.

use super::{Content, Letter};
use crate::api::{AccountId, Instant, IssueReason, Seconds};

/// A letter in plain words. Line ends and control characters are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// One line: what happened to whom.
    pub title: String,
    /// One or two sentences: what happened.
    pub body: String,
    /// What somebody has to do, if anything.
    pub todo: String,
    /// The facts, in order.
    pub facts: Vec<Fact>,
}

/// A name and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// `Account`.
    pub name: &'static str,
    /// What it is.
    pub value: String,
}

const RESTART: &str = "Restart now what does not read the token again when it changes: it is refused.";
const CHANGE: &str = "Nothing, where the token is read again when it changes. Restart what reads it only at its start, before the previous token stops working.";
const SWITCH: &str = "Restart or reconfigure whatever still uses the previous token.";
const REPLACE: &str = "Make sure that everything uses the new token. Services that verify offline, with the JWKS alone, accept the revoked one until it ends.";
const LOOK: &str =
    "Look at the error. Consumers keep the token that this target holds, which stays valid while it can.";

/// Characters of a value that users wrote.
const LONGEST: usize = 300;

impl Letter {
    /// The letter in plain words, as read at `now`.
    pub fn text(&self, cluster: &str, now: Instant) -> Text {
        let account = self.account.to_string();
        let (title, body, todo) = self.words(now);
        let whose = if self.content == Content::Test { "Channel" } else { "Account" };
        let mut facts = vec![fact(whose, &account), fact("Cluster", cluster)];
        if let Some(owner) = &self.owner {
            let person = owner.account.as_deref().map(|account| format!(" ({account})")).unwrap_or_default();
            facts.push(fact("Owner", &format!("{}{person}", owner.team)));
        }
        if let Some(description) = &self.description {
            facts.push(fact("Description", description));
        }
        if !self.jti.is_empty() {
            facts.push(fact("Token id", &self.jti));
        }
        facts.extend(self.more_facts(now));
        facts.push(Fact { name: "Happened", value: self.at.to_string() });
        Text { title: plain(&title), body: plain(&body), todo: plain(&todo), facts }
    }

    fn words(&self, now: Instant) -> (String, String, String) {
        let account = &self.account;
        match &self.content {
            Content::Rotated { previous, .. } => {
                let ended = previous.as_ref().map(|(_, end)| *end);
                let todo = if ended.is_some_and(|end| end > now) { CHANGE } else { RESTART };
                (format!("{account}: new token"), rotated(account, ended, now), todo.into())
            }
            Content::GraceEnding { ends_at, .. } => (
                format!("{account}: the previous token stops working {}", relative(*ends_at, now)),
                format!("The previous token of {account} stops working at {ends_at}, {}.", relative(*ends_at, now)),
                SWITCH.into(),
            ),
            Content::Retired { ended_at } => (
                format!("{account}: the previous token ended"),
                format!(
                    "The previous token of {account} stopped working at {ended_at}. The new one is in every place."
                ),
                "Nothing, unless something still uses the previous token.".into(),
            ),
            Content::Expiring { ends_at, why } => (
                format!("{account}: the token ends {}", relative(*ends_at, now)),
                format!(
                    "The token of {account} ends at {ends_at}, {}, and nothing will replace it.",
                    relative(*ends_at, now)
                ),
                why.clone(),
            ),
            Content::Expired { ended_at, why } => (
                format!("{account}: the token has ended"),
                format!(
                    "The token of {account} ended at {ended_at}, and nothing has replaced it. Whatever uses it is refused."
                ),
                why.clone(),
            ),
            Content::Failing { target, since, .. } => (
                format!("{account}: delivery is failing"),
                format!("{target} has not taken the token of {account} since {since}."),
                LOOK.into(),
            ),
            Content::Recovered { target, since } => (
                format!("{account}: delivery works again"),
                format!("{target} holds the token of {account} again. It had failed since {since}."),
                "Nothing.".into(),
            ),
            Content::Revoked { by, successor, .. } => {
                (format!("{account}: a token was revoked"), revoked(account, by, successor.is_some()), REPLACE.into())
            }
            Content::Test => (
                format!("Test message of NotificationChannel {account}"),
                format!("This is a test. Messages of NotificationChannel {account} arrive here."),
                "Nothing.".into(),
            ),
        }
    }

    fn more_facts(&self, now: Instant) -> Vec<Fact> {
        let mut facts = Vec::new();
        match &self.content {
            Content::Rotated { why, places, previous, expires_at, next } => {
                facts.push(fact("Why", reason(*why)));
                facts.push(fact("Is in", &places.join(", ")));
                if let Some((jti, end)) = previous {
                    facts.push(fact("Previous token", &format!("{jti}, until {}", when(*end, now))));
                }
                facts.extend(expires_at.map(|end| fact("Ends", &when(end, now))));
                let next = next.map_or_else(|| "none is scheduled".to_owned(), |next| when(next, now));
                facts.push(fact("Next rotation", &next));
            }
            Content::GraceEnding { ends_at, newer } => {
                facts.push(fact("Stops working", &when(*ends_at, now)));
                facts.extend(newer.as_ref().map(|newer| fact("Use instead", newer)));
            }
            Content::Expiring { ends_at, .. } => facts.push(fact("Ends", &when(*ends_at, now))),
            Content::Retired { ended_at } | Content::Expired { ended_at, .. } => {
                facts.push(fact("Ended", &when(*ended_at, now)));
            }
            Content::Failing { target, since, error } => {
                facts.push(fact("Target", target));
                facts.push(fact("Failing since", &when(*since, now)));
                facts.push(fact("Error", error));
            }
            Content::Recovered { target, since } => {
                facts.push(fact("Target", target));
                facts.push(fact("Had failed since", &when(*since, now)));
            }
            Content::Revoked { successor, until, .. } => {
                facts.extend(successor.as_ref().map(|successor| fact("Successor", successor)));
                facts.extend(until.map(|until| fact("Accepted offline until", &when(until, now))));
            }
            Content::Test => {}
        }
        facts
    }
}

/// What a rotation did. `ended`: when the previous token stops working, or stopped.
fn rotated(account: &AccountId, ended: Option<Instant>, now: Instant) -> String {
    let previous = match ended {
        Some(end) if end > now => format!("The previous one stops working at {end}, {}.", relative(end, now)),
        Some(end) => format!("The previous one stopped working at {end}."),
        None => "No previous one works.".into(),
    };
    format!("The token of {account} was rotated and is in every place. {previous}")
}

fn revoked(account: &AccountId, by: &str, has_successor: bool) -> String {
    let instead = if has_successor { "A" } else { "No" };
    format!(
        "A token of {account} was revoked {by}. Online checks refuse it from now on. {instead} new token was issued in its place."
    )
}

/// Why a token was issued, for people.
pub(super) fn reason(why: IssueReason) -> &'static str {
    match why {
        IssueReason::First => "first token",
        IssueReason::Scheduled => "schedule",
        IssueReason::Request => "request (annotation rotate)",
        IssueReason::SpecChange => "change of the manifest",
        IssueReason::Revocation => "the previous token was revoked",
        IssueReason::KeyChange => "the signing key was compromised or is gone",
        IssueReason::LimitChange => "the operator's limits changed",
        IssueReason::ClockChange => "the previous token was issued in the future",
        IssueReason::Adopted => "taken over after the status was lost",
    }
}

/// An instant with the time to it in words: `2027-01-01T00:00:00Z (in 6 days)`.
pub(super) fn when(at: Instant, now: Instant) -> String {
    format!("{at} ({})", relative(at, now))
}

/// `in 6 days`, `2 hours ago`, `now`.
pub(super) fn relative(at: Instant, now: Instant) -> String {
    let span = at - now;
    match span.0 {
        0 => "now".into(),
        1.. => format!("in {}", words(span)),
        _ => format!("{} ago", words(Seconds(-span.0))),
    }
}

/// The two largest units, rounded down: `6 days 3 hours`.
fn words(span: Seconds) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let mut rest = span.0;
    let mut parts = Vec::new();
    for (size, name) in UNITS {
        let count = rest / size;
        rest %= size;
        if count > 0 {
            parts.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    parts.join(" ")
}

fn fact(name: &'static str, value: &str) -> Fact {
    Fact { name, value: plain(value).chars().take(LONGEST).collect() }
}

/// One line, without control characters and without what turns the direction of text: with these a name could look like
/// another.
pub(super) fn plain(text: &str) -> String {
    let direction =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let visible = text
        .chars()
        .filter(|c| !direction(*c))
        .map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c });
    visible.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_two_largest_units() {
        let now = Instant::from_unix(1_800_000_000);
        for (seconds, expected) in [
            (0, "now"),
            (1, "in 1 second"),
            (59, "in 59 seconds"),
            (60, "in 1 minute"),
            (90, "in 1 minute 30 seconds"),
            (86_400, "in 1 day"),
            (86_400 + 60, "in 1 day"),
            (6 * 86_400 + 3 * 3_600 + 59, "in 6 days 3 hours"),
            (-7_200, "2 hours ago"),
        ] {
            assert_eq!(relative(now + Seconds(seconds), now), expected);
        }
    }

    #[test]
    fn what_users_wrote_stays_on_its_line_and_in_its_direction() {
        assert_eq!(plain("a\r\nBcc: x@y\tz"), "a Bcc: x@y z");
        assert_eq!(plain("evil\u{202e}gpj.exe\u{2066}\u{200f}"), "evilgpj.exe");
        assert_eq!(plain("Größe — 名前 שלום"), "Größe — 名前 שלום");
    }
}
