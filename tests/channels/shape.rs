//! What is wrong with a value in JSON. Strict: a field that nobody documented is wrong.

use serde_json::Value;
use virtual_account_operator::api::Instant;

/// What is wrong with a value.
pub(crate) type Check = fn(&Value) -> Result<(), String>;

/// An object with these fields and no others.
pub(crate) fn object(value: &Value, required: &[(&str, Check)], optional: &[(&str, Check)]) -> Result<(), String> {
    let fields = value.as_object().ok_or_else(|| format!("{value} is no object"))?;
    if let Some((name, _)) = required.iter().find(|(name, _)| !fields.contains_key(*name)) {
        return Err(format!("{name} is missing"));
    }
    for (name, value) in fields {
        let known = required.iter().chain(optional).find(|(known, _)| known == name);
        let (_, check) = known.ok_or_else(|| format!("{name} is unknown"))?;
        check(value).map_err(|wrong| format!("{name}: {wrong}"))?;
    }
    Ok(())
}

/// One line of text of at most so many characters, that reads in one direction.
pub(crate) fn line(value: &Value, longest: usize) -> Result<(), String> {
    let text = value.as_str().ok_or_else(|| format!("{value} is no string"))?;
    let odd = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202e}' | '\u{2066}');
    if text.is_empty() || text.contains(odd) || text.chars().count() > longest {
        return Err(format!("{text:?} is empty, too long or not one line"));
    }
    Ok(())
}

/// An instant as RFC 3339 writes it, in UTC.
pub(crate) fn instant(value: &Value) -> Result<(), String> {
    let text = value.as_str().filter(|text| text.ends_with('Z') && text.parse::<Instant>().is_ok());
    text.map(drop).ok_or_else(|| format!("{value} is no instant in UTC"))
}

/// One of these words.
pub(crate) fn one_of(value: &Value, words: &[&str]) -> Result<(), String> {
    let known = value.as_str().is_some_and(|word| words.contains(&word));
    if known { Ok(()) } else { Err(format!("{value} is none of {words:?}")) }
}

/// All texts in a value.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        _ => vec![],
    }
}
