//! A Teams message with an Adaptive Card, as the documentation describes them. Strict: what is not described is wrong.
//!
//! <https://learn.microsoft.com/connectors/teams/#microsoft-teams-webhook>,
//! <https://adaptivecards.io/explorer/RichTextBlock.html> (schema 1.4).

use serde_json::{Map, Value};
use wiremock::Request;

use super::parts::{array, check, json_body, keys, string, text};

/// Teams' limit of a message.
const MOST: usize = 28 * 1024;
const CARD: [&str; 12] = [
    "type",
    "version",
    "refresh",
    "body",
    "actions",
    "selectAction",
    "fallbackText",
    "backgroundImage",
    "minHeight",
    "speak",
    "lang",
    "$schema",
];
const RICH_TEXT_BLOCK: [&str; 10] = [
    "type",
    "inlines",
    "horizontalAlignment",
    "fallback",
    "height",
    "separator",
    "spacing",
    "id",
    "isVisible",
    "requires",
];
const TEXT_RUN: [&str; 12] = [
    "type",
    "text",
    "color",
    "fontType",
    "highlight",
    "isSubtle",
    "italic",
    "selectAction",
    "size",
    "strikethrough",
    "underline",
    "weight",
];

pub(crate) fn message(request: &Request) -> Result<(), String> {
    check(request.body.len() <= MOST, &format!("{} bytes", request.body.len()))?;
    let message = json_body(request)?;
    keys(&message, &["type", "attachments", "summary"], &["type", "attachments"])?;
    check(string(&message, "type")? == "message", "type is message")?;
    let attachments = array(&message, "attachments")?;
    check(attachments.len() == 1, "one card")?;
    let attachment = attachments[0].as_object().ok_or("an attachment is an object")?;
    keys(attachment, &["contentType", "contentUrl", "content"], &["contentType", "content"])?;
    let kind = string(attachment, "contentType")?;
    check(kind == "application/vnd.microsoft.card.adaptive", kind)?;
    check(attachment.get("contentUrl").is_none_or(Value::is_null), "contentUrl is null")?;
    card(attachment["content"].as_object().ok_or("the card is an object")?)
}

fn card(card: &Map<String, Value>) -> Result<(), String> {
    keys(card, &CARD, &["type", "version", "body"])?;
    check(string(card, "type")? == "AdaptiveCard", "type is AdaptiveCard")?;
    check(string(card, "version")? == "1.4", "version is 1.4")?;
    let body = array(card, "body")?;
    check(!body.is_empty(), "an empty card")?;
    body.iter().try_for_each(element)
}

/// A TextBlock or FactSet would be allowed, too; in these, what users wrote could be Markdown.
fn element(element: &Value) -> Result<(), String> {
    let element = element.as_object().ok_or("an element is an object")?;
    check(string(element, "type")? == "RichTextBlock", "an element is a RichTextBlock")?;
    keys(element, &RICH_TEXT_BLOCK, &["inlines"])?;
    let spacings = ["default", "none", "small", "medium", "large", "extraLarge", "padding"];
    one_of(element, "spacing", &spacings)?;
    let inlines = array(element, "inlines")?;
    check(!inlines.is_empty(), "no inlines")?;
    inlines.iter().try_for_each(run)
}

fn run(run: &Value) -> Result<(), String> {
    let run = run.as_object().ok_or("a run is an object")?;
    keys(run, &TEXT_RUN, &["type", "text"])?;
    check(string(run, "type")? == "TextRun", "a run is a TextRun")?;
    one_of(run, "size", &["default", "small", "medium", "large", "extraLarge"])?;
    one_of(run, "weight", &["default", "lighter", "bolder"])?;
    check(!string(run, "text")?.contains("{{"), "a text may be taken for a date")
}

fn one_of(object: &Map<String, Value>, key: &str, allowed: &[&str]) -> Result<(), String> {
    let good = object.get(key).is_none_or(|value| value.as_str().is_some_and(|value| allowed.contains(&value)));
    check(good, &format!("{key}: {:?}", object.get(key)))
}

/// The texts of all elements as people see them; what keeps a date from being one is left out.
pub(crate) fn seen(request: &Request) -> Vec<String> {
    let Ok(message) = json_body(request) else { return Vec::new() };
    let body = message["attachments"][0]["content"]["body"].as_array().cloned().unwrap_or_default();
    let line = |element: &Value| {
        let runs = element["inlines"].as_array().into_iter().flatten();
        runs.filter_map(|run| text(&run["text"])).collect::<String>().replace("{ {", "{{")
    };
    body.iter().map(line).collect()
}
