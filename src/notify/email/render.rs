//! From a message to what goes over the wire: headers (RFC 5322) and both forms as MIME. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::{Address, Message as Mime};

use super::super::text::plain;
use super::super::{Content, Message};
use super::address::address;
use super::page::Page;
use crate::api::Instant;
use crate::integration::{ErrorKind, ProviderError};

/// Who sends.
pub(super) struct Sender {
    pub(super) from: Mailbox,
    pub(super) reply_to: Option<Mailbox>,
}

/// A mail, ready to go.
pub(super) struct Mail {
    /// `Message-ID`: the same in every repeat.
    pub(super) id: String,
    pub(super) bytes: Vec<u8>,
}

/// Whom a message is for.
pub(super) struct Recipients {
    pub(super) to: Vec<Address>,
    /// How many were named that are no addresses.
    pub(super) unusable: usize,
}

const TO: HeaderName = HeaderName::new_from_ascii_str("To");
const NOTICE: HeaderName = HeaderName::new_from_ascii_str("X-Virtual-Account-Notice");
const AUTO_SUBMITTED: HeaderName = HeaderName::new_from_ascii_str("Auto-Submitted");
/// Characters of a subject.
const LONGEST: usize = 200;
/// Ids in a header: servers cut or refuse long ones.
const MOST_IDS: usize = 100;
/// Characters of an id that stands in Message-ID as it is. A line must not be longer than 998.
const LONGEST_ID: usize = 120;

impl Sender {
    /// Makes the mail of a message; `to` is what its header says, whoever gets it this time.
    pub(super) fn mail(&self, message: &Message, to: &[Address]) -> Result<Mail, ProviderError> {
        let ids: BTreeSet<&str> = message.letters.iter().map(|letter| letter.id.as_str()).collect();
        let id = message_id(&ids, self.from.email.domain());
        let Page { subject, text, html } = Page::of(message);
        let mut builder = Mime::builder()
            .from(self.from.clone())
            // The library's own header of addresses is one line, however many there are; servers take 998 characters.
            .raw_header(HeaderValue::new(TO, to.iter().map(AsRef::<str>::as_ref).collect::<Vec<_>>().join(", ")))
            .subject(heading(&subject))
            .date(date(message.now))
            .message_id(Some(id.clone()))
            .raw_header(HeaderValue::new(AUTO_SUBMITTED, "auto-generated".into()))
            .raw_header(HeaderValue::new(NOTICE, listed(&ids)));
        if let Some(reply_to) = &self.reply_to {
            builder = builder.reply_to(reply_to.clone());
        }
        let unmade = |error: &dyn std::fmt::Display| {
            ProviderError::new(ErrorKind::Invalid, "InvalidMessage", format!("no mail can be made of this: {error}"))
        };
        let envelope = Envelope::new(Some(self.from.email.clone()), to.to_vec()).map_err(|error| unmade(&error))?;
        let mime = builder.envelope(envelope).multipart(MultiPart::alternative_plain_html(text, html));
        let bytes = mime.map_err(|error| unmade(&error))?.formatted();
        Ok(Mail { id, bytes })
    }

    /// Those that the account named, each once; a test message goes to whoever runs the channel.
    pub(super) fn recipients(&self, message: &Message) -> Result<Recipients, ProviderError> {
        let named: BTreeSet<&str> = message.recipients.iter().map(String::as_str).collect();
        let mut to: Vec<Address> = named.iter().filter_map(|text| address(text)).collect();
        let unusable = named.len() - to.len();
        if named.is_empty() && message.letters.iter().all(|letter| letter.content == Content::Test) {
            to.push(self.reply_to.as_ref().unwrap_or(&self.from).email.clone());
        }
        if to.is_empty() {
            let message = match unusable {
                0 => "no recipient is named; add toEmails to the account's entry in spec.notificationTargets",
                _ => "none of toEmails is an address that can be used; correct them in spec.notificationTargets",
            };
            return Err(ProviderError::new(ErrorKind::Invalid, "NoRecipients", message));
        }
        Ok(Recipients { to, unusable })
    }
}

/// `<id@domain>`: a letter's own id, or a hash of several.
fn message_id(ids: &BTreeSet<&str>, domain: &str) -> String {
    let mut all = ids.iter();
    match (all.next(), all.next()) {
        (Some(one), None) if is_dot_atom(one) => format!("<{one}@{domain}>"),
        _ => {
            let all: Vec<&str> = ids.iter().copied().collect();
            let sum = digest(&SHA256, all.join("\n").as_bytes());
            let half: [u8; 16] = std::array::from_fn(|n| sum.as_ref()[n]);
            format!("<{:032x}@{domain}>", u128::from_be_bytes(half))
        }
    }
}

/// What may stand before the `@` of an id (RFC 5322, `dot-atom-text`).
fn is_dot_atom(id: &str) -> bool {
    let atom = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c))
    };
    id.len() <= LONGEST_ID && id.split('.').all(atom)
}

/// The ids with spaces between them, where a long line is folded.
fn listed(ids: &BTreeSet<&str>) -> String {
    let word = |id: &&str| -> String { plain(id).replace(' ', "_").chars().take(LONGEST_ID).collect() };
    let mut words: Vec<String> = ids.iter().take(MOST_IDS).map(word).collect();
    if ids.len() > MOST_IDS {
        words.push(format!("(and {} more)", ids.len() - MOST_IDS));
    }
    words.join(" ")
}

/// A text for a header. One that looks encoded (RFC 2047) would be decoded by who reads it.
fn heading(text: &str) -> String {
    plain(text).replace("=?", "= ?").chars().take(LONGEST).collect()
}

fn date(now: Instant) -> SystemTime {
    // Up to the end of the year 9999: the library panics beyond.
    let seconds = u64::try_from(now.as_unix()).unwrap_or_default().min(253_402_300_799);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_letters_own_or_a_hash() {
        let of = |ids: &[&str]| message_id(&ids.iter().copied().collect(), "example.com");
        assert_eq!(of(&["jti.TokenRotated"]), "<jti.TokenRotated@example.com>");
        let hashed = of(&["a", "b"]);
        assert_eq!(hashed, of(&["b", "a", "b"]), "order and repetition do not matter");
        assert_eq!(hashed.len(), "<@example.com>".len() + 32);
        assert_ne!(hashed, of(&["a", "c"]));
        for odd in ["a b", "a\r\nBcc: x", "a>", "a..b", "ü", "", &"x".repeat(200)] {
            let id = of(&[odd]);
            assert!(id.len() == hashed.len() && id.is_ascii() && !id.contains(['\r', '\n', ' ']), "{id:?}");
        }
    }

    #[test]
    fn headers_hold_one_line_that_nobody_decodes_twice() {
        assert_eq!(heading("a\r\nBcc: x@example.com"), "a Bcc: x@example.com");
        assert_eq!(heading("=?utf-8?q?x?="), "= ?utf-8?q?x?=");
        assert_eq!(heading(&"ü".repeat(900)).chars().count(), LONGEST);
        let many: Vec<String> = (0..150).map(|n| format!("id {n:03}")).collect();
        let listed = listed(&many.iter().map(String::as_str).collect());
        assert!(listed.starts_with("id_000 id_001 ") && listed.ends_with(" id_099 (and 50 more)"), "{listed}");
    }
}
