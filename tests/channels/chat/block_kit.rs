//! Slack's messages as its reference describes them. Strict: what is not described is wrong.
//!
//! <https://docs.slack.dev/reference/methods/chat.postMessage>, <https://docs.slack.dev/reference/block-kit/blocks>,
//! <https://docs.slack.dev/reference/block-kit/composition-objects/text-object>.

use serde_json::{Map, Value};
use wiremock::Request;

use super::parts::{array, check, json_body, keys, string, text};

const MESSAGE: [&str; 10] = [
    "text",
    "blocks",
    "attachments",
    "thread_ts",
    "mrkdwn",
    "link_names",
    "unfurl_links",
    "unfurl_media",
    "metadata",
    "markdown_text",
];
const POST_MESSAGE: [&str; 6] = ["channel", "parse", "as_user", "reply_broadcast", "username", "icon_emoji"];
const BLOCKS: usize = 50;
/// All of a message's blocks: what others measured (bolt-js#2509).
const ALL: usize = 12_000;

/// What an incoming webhook is posted.
pub(crate) fn message(request: &Request) -> Result<Map<String, Value>, String> {
    let message = json_body(request)?;
    keys(&message, &MESSAGE, &[])?;
    content(&message)?;
    Ok(message)
}

/// The arguments of `chat.postMessage`.
pub(crate) fn post_message(request: &Request) -> Result<Map<String, Value>, String> {
    let message = json_body(request)?;
    let known: Vec<&str> = MESSAGE.iter().chain(&POST_MESSAGE).copied().collect();
    keys(&message, &known, &["channel"])?;
    check(!string(&message, "channel")?.is_empty(), "channel is empty")?;
    content(&message)?;
    Ok(message)
}

fn content(message: &Map<String, Value>) -> Result<(), String> {
    let fallback = string(message, "text")?;
    escaped(fallback)?;
    check((1..=4_000).contains(&length(fallback)), "text has 1 to 4000 characters")?;
    for switch in ["unfurl_links", "unfurl_media", "mrkdwn", "link_names"] {
        check(message.get(switch) == Some(&Value::Bool(false)), &format!("{switch} is not off"))?;
    }
    let blocks = array(message, "blocks")?;
    check((1..=BLOCKS).contains(&blocks.len()), "1 to 50 blocks")?;
    for each in blocks {
        block(each)?;
    }
    let all = serde_json::to_string(blocks).map_err(|error| error.to_string())?;
    check(length(&all) <= ALL, &format!("the blocks have {} characters", length(&all)))
}

fn block(block: &Value) -> Result<(), String> {
    let block = block.as_object().ok_or("a block is an object")?;
    match string(block, "type")? {
        "header" => {
            keys(block, &["type", "text", "block_id"], &["text"])?;
            plain_text(&block["text"], 150)
        }
        "section" => {
            keys(block, &["type", "text", "fields", "block_id", "expand"], &[])?;
            check(block.contains_key("text") || block.contains_key("fields"), "a section has text or fields")?;
            if let Some(text) = block.get("text") {
                plain_text(text, 3_000)?;
            }
            let fields =
                block.get("fields").map_or(Ok([].as_slice()), |_| array(block, "fields").map(Vec::as_slice))?;
            check(!block.contains_key("fields") || (1..=10).contains(&fields.len()), "a section has 1 to 10 fields")?;
            fields.iter().try_for_each(|field| plain_text(field, 2_000))
        }
        other => Err(format!("block of type {other}")),
    }
}

/// Slack's reference allows `mrkdwn`, too; in that, what users wrote could be markup.
fn plain_text(object: &Value, most: usize) -> Result<(), String> {
    let object = object.as_object().ok_or("a text is an object")?;
    keys(object, &["type", "text", "emoji"], &["type", "text"])?;
    check(string(object, "type")? == "plain_text", "a text is plain")?;
    check(object.get("emoji") == Some(&Value::Bool(false)), "emoji is not off")?;
    let text = string(object, "text")?;
    escaped(text)?;
    check((1..=most).contains(&length(text)), &format!("{} characters, of 1 to {most}", length(text)))
}

/// No `<`, `>` and `&` but those of the three entities.
fn escaped(text: &str) -> Result<(), String> {
    let rest = text.replace("&lt;", "").replace("&gt;", "").replace("&amp;", "");
    check(!rest.contains(['<', '>', '&']), &format!("not escaped: {text}"))
}

fn length(text: &str) -> usize {
    text.encode_utf16().count()
}

/// The texts of all blocks as people see them.
pub(crate) fn seen(request: &Request) -> Vec<String> {
    let Ok(message) = json_body(request) else { return Vec::new() };
    let mut texts = Vec::new();
    for block in message.get("blocks").and_then(Value::as_array).into_iter().flatten() {
        let fields = block["fields"].as_array().into_iter().flatten();
        texts.extend(fields.chain(Some(&block["text"])).filter_map(|object| text(&object["text"])));
    }
    texts.iter().map(|text| text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")).collect()
}
