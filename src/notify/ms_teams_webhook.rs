//! A Microsoft Teams workflow that starts "When a Teams webhook request is received": posts an Adaptive Card. Its URL is the
//! credential.
//!
//! All text is in `TextRun`s of `RichTextBlock`s, which know no Markdown. A `TextBlock` or `FactSet` does, and cannot be
//! given text that is only text: Teams on phones shows the backslashes of Markdown's escapes
//! (<https://github.com/microsoft/AdaptiveCards/issues/5590>).

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::digest::{cut_by, digest};
use super::post::{Answer, post_json, reach, secret_url};
use super::{Message, Notifier, Text};
use crate::api;
use crate::integration::{ErrorKind, Identity, Network, ProviderError};

/// Bytes of a card's texts. Teams takes 28 KB for the whole message, in which it wraps the card.
const CARD: usize = 20_000;
/// Bytes of a title, of a sentence, and of all facts.
const TITLE: usize = 600;
const SENTENCE: usize = 3_000;
const ALL_FACTS: usize = 12_000;
/// Bytes of JSON around an entry of a list.
const AROUND: usize = 160;
/// The longest code of an answer that is passed on.
const CODE: usize = 64;

/// A Teams workflow.
pub struct MsTeamsWebhook {
    client: Client,
    url: Url,
}

/// An error as Power Automate writes it.
#[derive(Deserialize)]
struct Refusal {
    error: Code,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

impl MsTeamsWebhook {
    /// Reads the URL.
    pub async fn open(
        spec: &api::MsTeamsWebhook,
        identity: Arc<dyn Identity>,
        network: Network,
    ) -> Result<Self, ProviderError> {
        let url = identity.secret(&spec.url_ref).await?;
        let url = secret_url("spec.msTeamsWebhook.urlRef", &url, &network)?;
        Ok(Self { client: network.client(None)?, url })
    }
}

#[async_trait]
impl Notifier for MsTeamsWebhook {
    async fn send(&self, message: &Message) -> Result<(), ProviderError> {
        let answer = post_json(&self.client, self.url.clone(), None, &payload(message)).await?;
        if answer.status.is_success() { Ok(()) } else { Err(refused(&answer)) }
    }

    async fn check(&self) -> Result<(), ProviderError> {
        reach(&self.client, self.url.clone()).await.map(drop)
    }
}

fn payload(message: &Message) -> Value {
    let body = match message.letters.as_slice() {
        [letter] => single(&letter.text(&message.cluster, message.now)),
        _ => list(message),
    };
    let card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    });
    let attachment =
        json!({"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": null, "content": card});
    json!({"type": "message", "attachments": [attachment]})
}

fn single(text: &Text) -> Vec<Value> {
    let total: usize = text.facts.iter().map(|fact| size(&fact.value)).sum();
    let most = if total <= ALL_FACTS { ALL_FACTS } else { ALL_FACTS / text.facts.len().max(1) };
    let fact = |fact: &super::Fact| paragraph(&format!("{}: ", fact.name), &cut(&fact.value, most), "none");
    let mut body = vec![title(&text.title), paragraph("", &cut(&text.body, SENTENCE), "default")];
    body.extend(text.facts.iter().map(fact));
    body.push(paragraph("What to do: ", &cut(&text.todo, SENTENCE), "default"));
    body
}

fn list(message: &Message) -> Vec<Value> {
    let digest = digest(message, CARD, |entry| size(&entry.title) + size(&entry.detail) + AROUND);
    let mut body = vec![title(&digest.heading)];
    let entry = |entry: &super::digest::Entry| paragraph(&format!("{} ", entry.title), &entry.detail, "small");
    body.extend(digest.entries.iter().map(entry));
    body.extend(digest.rest.map(|rest| paragraph("", &rest, "default")));
    body
}

fn title(text: &str) -> Value {
    let run = json!({"type": "TextRun", "text": defuse(&cut(text, TITLE)), "size": "large", "weight": "bolder"});
    json!({"type": "RichTextBlock", "inlines": [run]})
}

/// Bold, then plain.
fn paragraph(bold: &str, text: &str, spacing: &str) -> Value {
    let mut runs = Vec::new();
    if !bold.is_empty() {
        runs.push(json!({"type": "TextRun", "text": defuse(bold), "weight": "bolder"}));
    }
    runs.push(json!({"type": "TextRun", "text": defuse(text)}));
    json!({"type": "RichTextBlock", "inlines": runs, "spacing": spacing})
}

/// Without `{{DATE(…)}}`: Teams would put a date there.
fn defuse(text: &str) -> String {
    // Twice: the first pass leaves every other pair.
    text.replace("{{", "{ {").replace("{{", "{ {")
}

fn cut(text: &str, most: usize) -> String {
    cut_by(text, most, cost)
}

fn size(text: &str) -> usize {
    text.chars().map(cost).sum()
}

/// Bytes in JSON; a brace may get a space.
fn cost(c: char) -> usize {
    match c {
        '"' | '\\' | '{' => 2,
        _ => c.len_utf8(),
    }
}

fn refused(answer: &Answer) -> ProviderError {
    let refusal: Option<Refusal> = serde_json::from_slice(&answer.body).ok();
    let code = refusal.map(|refusal| refusal.error.code).filter(|code| is_code(code));
    let error = answer.error("the workflow");
    // It exists, but takes nothing.
    let off = code.as_deref().is_some_and(|code| code.contains("NotEnabled") || code.contains("Disabled"));
    let kind = if off { ErrorKind::NotFound } else { error.kind };
    let said = code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
    let message = format!("{}{said}{}", error.message, cure(kind, off));
    ProviderError { kind, reason: code.unwrap_or(error.reason), message, ..error }
}

fn cure(kind: ErrorKind, off: bool) -> &'static str {
    match kind {
        ErrorKind::NotFound if off => "; turn the workflow on",
        ErrorKind::NotFound => "; make a new workflow and write its URL into the Secret",
        ErrorKind::Denied => "; let anyone trigger the workflow, copy its whole URL again and write it into the Secret",
        _ => "",
    }
}

fn is_code(text: &str) -> bool {
    (1..=CODE).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_taken_for_a_date() {
        assert_eq!(defuse("{{DATE(2026-02-14T06:00:00Z)}}"), "{ {DATE(2026-02-14T06:00:00Z)}}");
        assert!(!defuse("{{{{TIME(x)}}").contains("{{"));
        assert!(!defuse("{{{TIME(x)}}}").contains("{{"));
    }

    #[test]
    fn a_code_is_a_word_and_no_more() {
        assert!(is_code("WorkflowTriggerIsNotEnabled"));
        for text in ["", "a b", "sig=abc", "abc1", "https://x"] {
            assert!(!is_code(text), "{text}");
        }
    }
}
