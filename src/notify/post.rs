//! One HTTP POST of JSON, as all media but mail make it.

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, StatusCode, Url};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::integration::{ErrorKind, ProviderError, body, retry_after, unsent};

/// The longest answer that is read.
const LONGEST: usize = 64 << 10;

/// What a server answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Empty if it was too long to be one of these services'.
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// Posts a body; `headers` hold at least the content type. Neither URL nor headers get into an error.
pub(super) async fn post(
    client: &Client,
    url: Url,
    headers: HeaderMap,
    content: Vec<u8>,
) -> Result<Answer, ProviderError> {
    debug_assert!(headers.contains_key(CONTENT_TYPE), "the content type is the caller's");
    let response = client.post(url).headers(headers).body(content).send().await.map_err(|error| unsent(&error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = body(response, LONGEST).await?.unwrap_or_default();
    Ok(Answer { status, headers, body })
}

/// What is posted.
pub(super) fn json<T: Serialize>(content: &T) -> Result<Vec<u8>, ProviderError> {
    let unfit = |_| ProviderError::new(ErrorKind::Invalid, "InvalidNotice", "the notice cannot be written as JSON");
    serde_json::to_vec(content).map_err(unfit)
}

/// Whether a server answers at all, whatever it says: tells nobody anything.
pub(super) async fn reach(client: &Client, url: Url) -> Result<StatusCode, ProviderError> {
    let response = client.head(url).send().await.map_err(|error| unsent(&error))?;
    Ok(response.status())
}

impl Answer {
    /// What an answer other than success means where the service has no say of its own.
    pub(super) fn error(&self, what: &str) -> ProviderError {
        let (kind, reason) = match self.status.as_u16() {
            401 | 403 => (ErrorKind::Denied, "Denied"),
            404 => (ErrorKind::NotFound, "NotFound"),
            410 => (ErrorKind::NotFound, "Gone"),
            408 => (ErrorKind::Unavailable, "Timeout"),
            425 => (ErrorKind::Unavailable, "TooEarly"),
            429 => (ErrorKind::Throttled, "RateLimited"),
            500.. => (ErrorKind::Unavailable, "ServerError"),
            300..=399 => (ErrorKind::Invalid, "Redirected"),
            _ => (ErrorKind::Invalid, "Refused"),
        };
        let message = match reason {
            "Redirected" => format!("{what} answered {}; redirects are not followed", self.status),
            _ => format!("{what} answered {}", self.status),
        };
        ProviderError { retry_after: retry_after(&self.headers), ..ProviderError::new(kind, reason, message) }
    }
}
