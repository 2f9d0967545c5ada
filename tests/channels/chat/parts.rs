//! What the judges of JSON bodies are made of.

use serde_json::{Map, Value};
use wiremock::Request;

pub(crate) fn check(good: bool, complaint: &str) -> Result<(), String> {
    if good { Ok(()) } else { Err(complaint.to_owned()) }
}

/// An object that is sent as JSON.
pub(crate) fn json_body(request: &Request) -> Result<Map<String, Value>, String> {
    let kind = header(request, "content-type").unwrap_or_default();
    check(kind.split(';').next() == Some("application/json"), &format!("content-type {kind}"))?;
    let body: Value = serde_json::from_slice(&request.body).map_err(|error| error.to_string())?;
    body.as_object().cloned().ok_or_else(|| "the body is not an object".to_owned())
}

pub(crate) fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name).and_then(|value| value.to_str().ok())
}

/// These keys and no others, and of them at least `required`.
pub(crate) fn keys(object: &Map<String, Value>, known: &[&str], required: &[&str]) -> Result<(), String> {
    if let Some(unknown) = object.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("unknown field {unknown}"));
    }
    required.iter().try_for_each(|key| check(object.contains_key(*key), &format!("no {key}")))
}

pub(crate) fn string<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    object.get(key).and_then(Value::as_str).ok_or_else(|| format!("{key} is not a text"))
}

pub(crate) fn array<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a Vec<Value>, String> {
    object.get(key).and_then(Value::as_array).ok_or_else(|| format!("{key} is not a list"))
}

pub(crate) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
