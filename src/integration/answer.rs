//! What an HTTP call to a provider came to, where we make it ourselves. No answer's body gets into an error here.

use std::error::Error as _;

use http::header::{HeaderMap, RETRY_AFTER};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::Response;
use zeroize::Zeroizing;

use super::{ErrorKind, ProviderError, refusal};
use crate::api::{Instant, Seconds};
use crate::clock;

/// The longest text of a cause that is passed on.
const LINE: usize = 300;

/// The body of an answer; `None`: it is longer than `longest` bytes.
pub async fn body(mut response: Response, longest: usize) -> Result<Option<Zeroizing<Vec<u8>>>, ProviderError> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| unsent(&error))? {
        if body.len() + chunk.len() > longest {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// A request without a whole answer. The URL, which may hold a credential, is not told.
pub fn unsent(error: &reqwest::Error) -> ProviderError {
    if error.is_timeout() {
        return ProviderError::new(ErrorKind::Unavailable, "Timeout", "no answer in time");
    }
    if let Some(refusal) = refusal(error) {
        return refusal;
    }
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    let cause = cause.map_or_else(|| "the request failed".to_owned(), |cause| line(&cause.to_string()));
    let (reason, what) = if error.is_connect() {
        ("Unreachable", "cannot connect")
    } else {
        ("ConnectionBroken", "the connection broke")
    };
    ProviderError::new(ErrorKind::Unavailable, reason, format!("{what}: {cause}"))
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date.
pub fn retry_after(headers: &HeaderMap) -> Option<Seconds> {
    retry_after_at(headers, clock::now())
}

fn retry_after_at(headers: &HeaderMap, now: Instant) -> Option<Seconds> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Seconds(seconds.into()));
    }
    let date: Timestamp = DateTimeParser::new().parse_timestamp(text).ok()?;
    let wait = Instant::from_unix(date.as_second()) - now;
    Some(wait.max(Seconds::ZERO))
}

/// One line, not too long.
pub fn line(text: &str) -> String {
    let one: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE).collect();
    one.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn patience_is_asked_for_in_seconds_or_by_a_date() {
        let now = Instant::from_unix(1_700_000_000);
        for (text, expected) in [
            ("17", Some(17)),
            (" 0 ", Some(0)),
            ("Tue, 14 Nov 2023 22:14:20 GMT", Some(60)),
            ("Tue, 14 Nov 2023 22:13:00 GMT", Some(0)),
            ("soon", None),
            ("-5", None),
            ("99999999999", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after_at(&headers, now), expected.map(Seconds), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn a_message_is_one_short_line() {
        assert_eq!(line("1 error occurred:\n\t* permission denied\n\n"), "1 error occurred: * permission denied");
        assert_eq!(line(&"x".repeat(5_000)).len(), LINE);
    }
}
