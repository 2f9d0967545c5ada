//! What is wrong with a request to a receiver of webhooks: its headers, its signature, and every field of the event.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::Value;
use wiremock::Request;

use super::super::shape::{Check, instant, line, object, one_of};
use super::super::story::CANARY;
use super::{KEY, header};

const HEADERS: [&str; 9] = [
    "accept",
    "authorization",
    "content-length",
    "content-type",
    "host",
    "user-agent",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// What is wrong with a request to the receiver.
pub(super) fn judge(request: &Request) -> Result<(), String> {
    if request.url.path() != "/hooks/tokens" || request.url.query() != Some("team=a") {
        return Err("that is not the URL".into());
    }
    if let Some(unknown) = request.headers.keys().find(|name| !HEADERS.contains(&name.as_str())) {
        return Err(format!("{unknown} is unknown"));
    }
    match request.method {
        Method::HEAD if request.body.is_empty() && !request.headers.contains_key("authorization") => Ok(()),
        Method::POST => judge_event(request),
        _ => Err("only events and checks are sent".into()),
    }
}

fn judge_event(request: &Request) -> Result<(), String> {
    if header(request, "content-type")? != "application/cloudevents+json; charset=utf-8" {
        return Err("that is no structured event in JSON".into());
    }
    if header(request, "authorization")? != format!("Bearer {CANARY}") {
        return Err("the header of the channel is missing".into());
    }
    let event: Value = serde_json::from_slice(&request.body).map_err(|error| error.to_string())?;
    let (id, timestamp) = (header(request, "webhook-id")?, header(request, "webhook-timestamp")?);
    if event["id"] != id || id.contains('.') || timestamp.parse::<u64>().is_err() {
        return Err(format!("id {id} at {timestamp}"));
    }
    let signed = [format!("{id}.{timestamp}.").as_bytes(), &request.body].concat();
    let good = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &KEY), &signed);
    let expected = format!("v1,{}", STANDARD.encode(good));
    if !header(request, "webhook-signature")?.split(' ').any(|signature| signature == expected) {
        return Err("the signature is not the receiver's".into());
    }
    judge_attributes(&event)
}

fn judge_attributes(event: &Value) -> Result<(), String> {
    let attributes: [(&str, Check); 8] = [
        ("specversion", |value| one_of(value, &["1.0"])),
        ("id", text),
        ("source", |value| one_of(value, &["urn:virtualaccounts:cluster:prod-eu"])),
        ("type", text),
        ("subject", text),
        ("time", instant),
        ("datacontenttype", |value| one_of(value, &["application/json"])),
        ("data", |value| if value.is_object() { Ok(()) } else { Err("no object".into()) }),
    ];
    object(event, &attributes, &[])?;
    let (kind, required, optional) = fields(event["type"].as_str().unwrap_or_default())?;
    let data = &event["data"];
    if data["kind"] != kind {
        return Err(format!("kind {} is not that of the type", data["kind"]));
    }
    let about = if kind == "Test" { "channel" } else { "account" };
    let mut all: Vec<(&str, Check)> = vec![(about, name), ("cluster", text), ("kind", text)];
    all.extend([("summary", text as Check), ("message", text), ("todo", text)]);
    all.extend(required);
    let mut may: Vec<(&str, Check)> = vec![("jwtId", text), ("owner", owner), ("description", text)];
    may.extend(optional);
    object(data, &all, &may)
}

type Fields = Vec<(&'static str, Check)>;

/// The kind of a type, and what its data must and may have beyond what all have.
fn fields(kind: &str) -> Result<(&'static str, Fields, Fields), String> {
    let kind = kind.strip_prefix("dev.virtualaccounts.").and_then(|kind| kind.strip_suffix(".v1"));
    Ok(match kind.unwrap_or_default() {
        "token.rotated" => (
            "TokenRotated",
            vec![("reason", text), ("places", places)],
            vec![("previous", previous), ("expiresAt", instant), ("nextRotation", instant)],
        ),
        "token.grace_ending" => ("GraceEnding", vec![("endsAt", instant)], vec![("successorJwtId", text)]),
        "token.retired" => ("TokenRetired", vec![("endedAt", instant)], vec![]),
        "token.expiring" => ("TokenExpiring", vec![("endsAt", instant), ("why", text)], vec![]),
        "token.expired" => ("TokenExpired", vec![("endedAt", instant), ("why", text)], vec![]),
        "token.revoked" => {
            ("TokenRevoked", vec![("by", text)], vec![("successorJwtId", text), ("acceptedOfflineUntil", instant)])
        }
        "delivery.failing" => ("DeliveryFailing", vec![("target", text), ("since", instant), ("error", text)], vec![]),
        "delivery.recovered" => ("DeliveryRecovered", vec![("target", text), ("since", instant)], vec![]),
        "test" => ("Test", vec![], vec![]),
        _ => return Err("the type is unknown".into()),
    })
}

fn text(value: &Value) -> Result<(), String> {
    line(value, 1_000)
}

fn name(value: &Value) -> Result<(), String> {
    object(value, &[("namespace", text), ("name", text)], &[])
}

fn owner(value: &Value) -> Result<(), String> {
    object(value, &[("team", text)], &[("account", text)])
}

fn previous(value: &Value) -> Result<(), String> {
    object(value, &[("jwtId", text), ("endsAt", instant)], &[])
}

fn places(value: &Value) -> Result<(), String> {
    value.as_array().ok_or("no list")?.iter().try_for_each(text)
}
