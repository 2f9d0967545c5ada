//! What both of Slack's media share: a message in Block Kit, and what Slack's short codes mean. Pure.
//!
//! All text is `plain_text`, in which Slack sees no mentions, links or formatting; `&`, `<` and `>` are escaped, as Slack
//! asks for everywhere.
//!
//! Limits (<https://docs.slack.dev/reference/block-kit/blocks>): a header has 150 characters, a section's text 3000, a section
//! 10 fields of 2000, a message 50 blocks. A message as a whole may have about 12,000 characters
//! (`msg_blocks_too_long`; in no reference, said in <https://github.com/slackapi/bolt-js/issues/2509>). What counts as a
//! character there is not said, so the costliest reading is taken: [`cost`].

use serde_json::{Value, json};

use super::digest::{cut_by, digest};
use super::{Message, Text};
use crate::integration::ErrorKind;

const HEADER: usize = 150;
const SECTION: usize = 3_000;
const FIELD: usize = 2_000;
const FIELDS: usize = 10;
/// The characters of all fields of a message, and of its two sentences.
const ALL_FIELDS: usize = 6_000;
const SENTENCE: usize = 1_500;
/// The characters of a list.
const LIST: usize = 9_000;
/// The longest code of Slack that is passed on.
const CODE: usize = 64;

/// What a message says, without where it goes.
pub(super) fn payload(message: &Message) -> Value {
    let (text, blocks) = match message.letters.as_slice() {
        [letter] => single(&letter.text(&message.cluster, message.now)),
        _ => list(message),
    };
    json!({
        "text": escape(&text),
        "blocks": blocks,
        "mrkdwn": false,
        "link_names": false,
        "unfurl_links": false,
        "unfurl_media": false,
    })
}

fn single(text: &Text) -> (String, Vec<Value>) {
    let mut blocks = vec![header(&text.title), section(&cut(&text.body, SENTENCE))];
    let facts: Vec<String> = text.facts.iter().map(|fact| format!("{}: {}", fact.name, fact.value)).collect();
    let total: usize = facts.iter().map(|fact| size(fact)).sum();
    let most = if total <= ALL_FIELDS { FIELD } else { ALL_FIELDS / facts.len().max(1) };
    let fields: Vec<Value> = facts.iter().map(|fact| plain(&cut(fact, most))).collect();
    blocks.extend(fields.chunks(FIELDS).map(|fields| json!({"type": "section", "fields": fields})));
    blocks.push(section(&format!("What to do: {}", cut(&text.todo, SENTENCE))));
    (cut(&format!("{}. {}", text.title, text.body), SENTENCE), blocks)
}

fn list(message: &Message) -> (String, Vec<Value>) {
    // Two ends of lines, and a bullet.
    let digest = digest(message, LIST, |entry| size(&entry.title) + size(&entry.detail) + 12);
    let mut blocks = vec![header(&digest.heading)];
    let mut text = String::new();
    for entry in digest.entries {
        let line = format!("• {}\n{}", entry.title, entry.detail);
        if size(&text) + size(&line) + size("\n") > SECTION {
            blocks.push(section(&std::mem::take(&mut text)));
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&line);
    }
    blocks.extend(Some(text).filter(|text| !text.is_empty()).map(|text| section(&text)));
    blocks.extend(digest.rest.map(|rest| section(&cut(&rest, SECTION))));
    (digest.heading, blocks)
}

fn header(text: &str) -> Value {
    json!({"type": "header", "text": plain(&cut(text, HEADER))})
}

fn section(text: &str) -> Value {
    json!({"type": "section", "text": plain(text)})
}

fn plain(text: &str) -> Value {
    json!({"type": "plain_text", "text": escape(text), "emoji": false})
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn cut(text: &str, most: usize) -> String {
    cut_by(text, most, cost)
}

fn size(text: &str) -> usize {
    text.chars().map(cost).sum()
}

/// What a character needs at most: escaped, and in JSON that is ASCII alone.
fn cost(c: char) -> usize {
    match c {
        '&' => 5,
        '<' | '>' => 4,
        '"' | '\\' | '/' | '\n' => 2,
        ' '..='~' => 1,
        _ => 6 * c.len_utf16(),
    }
}

/// A short code of Slack's, such as `channel_not_found`; nothing else of an answer gets into an error.
pub(super) fn code(text: &str) -> Option<&str> {
    let text = text.trim();
    let is_code = (1..=CODE).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    Some(text).filter(|_| is_code)
}

/// What codes mean for the next attempt.
const MEANINGS: [(ErrorKind, &[&str]); 5] = [
    (
        ErrorKind::Denied,
        &[
            "invalid_auth",
            "not_authed",
            "account_inactive",
            "token_revoked",
            "token_expired",
            "missing_scope",
            "not_allowed_token_type",
            "no_permission",
            "org_login_required",
            "access_denied",
            "accesslimited",
            "team_access_not_granted",
            "ekm_access_denied",
            "invalid_token",
            "action_prohibited",
        ],
    ),
    // Of one channel, in part: other credentials would not help.
    (
        ErrorKind::NotFound,
        &[
            "channel_not_found",
            "not_in_channel",
            "is_archived",
            "channel_is_archived",
            "restricted_action",
            "restricted_action_read_only_channel",
            "posting_to_general_channel_denied",
            "no_service",
            "no_service_id",
            "no_active_hooks",
            "no_team",
            "team_disabled",
            "user_not_found",
        ],
    ),
    (ErrorKind::Throttled, &["ratelimited", "rate_limited", "message_limit_exceeded"]),
    (
        ErrorKind::Unavailable,
        &["internal_error", "fatal_error", "service_unavailable", "request_timeout", "rollup_error"],
    ),
    (
        ErrorKind::Invalid,
        &[
            "invalid_payload",
            "no_text",
            "msg_too_long",
            "msg_blocks_too_long",
            "invalid_blocks",
            "invalid_blocks_format",
        ],
    ),
];

/// What a code means; `None`: what its status says.
pub(super) fn meaning(code: &str) -> Option<ErrorKind> {
    MEANINGS.iter().find(|(_, codes)| codes.contains(&code)).map(|(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_short_and_nothing_but_a_code() {
        assert_eq!(code(" no_service\n"), Some("no_service"));
        let long = "a".repeat(65);
        for text in ["", "<html>", "no service", "xoxb-1-a", "T0/B0/x", "NoService", "code1", &long] {
            assert_eq!(code(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_is_left_that_slack_could_take_for_markup() {
        assert_eq!(escape("<!channel> & <@U1>"), "&lt;!channel&gt; &amp; &lt;@U1&gt;");
    }

    #[test]
    fn a_cut_never_splits_what_was_escaped() {
        for most in 1..40 {
            let cut = escape(&cut("<&>\"é🔥 abc<&>", most));
            assert!(!cut.ends_with('&') && (cut.matches('&').count() == cut.matches(';').count()), "{cut}");
        }
        assert_eq!(size("a<&é🔥"), 1 + 4 + 5 + 6 + 12);
    }
}
