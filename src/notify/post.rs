//! One HTTP POST of JSON, as all media but mail make it.

use std::borrow::Cow;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::of_the_channel;
use crate::integration::{self, Credential, ErrorKind, Network, ProviderError, body, retry_after};

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
    let host = host(&url);
    let response =
        client.post(url).headers(headers).body(content).send().await.map_err(|error| unsent(&host, &error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = body(response, LONGEST).await?.unwrap_or_default();
    Ok(Answer { status, headers, body })
}

/// Posts JSON, with a token if the service wants one in a header.
pub(super) async fn post_json(
    client: &Client,
    url: Url,
    token: Option<&HeaderValue>,
    content: &Value,
) -> Result<Answer, ProviderError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, token.clone());
    }
    post(client, url, headers, content.to_string().into_bytes()).await
}

/// A URL that is a credential, from the Secret that `field` names. No error tells it.
pub(super) fn secret_url(field: &str, url: &Credential, network: &Network) -> Result<Url, ProviderError> {
    network.endpoint(url.expose()).map_err(|error| {
        // Our own words about it stand behind the URL.
        let why = error.message.strip_prefix(url.expose()).unwrap_or_default();
        let message =
            format!("the URL in the Secret that {field} names cannot be used{why}; write the right one there");
        ProviderError::new(ErrorKind::Denied, error.reason, message)
    })
}

/// A token as a header, from the Secret that `field` names. No error tells it.
pub(super) fn bearer(field: &str, token: &Credential) -> Result<HeaderValue, ProviderError> {
    let header = Zeroizing::new(format!("Bearer {}", token.expose()));
    let mut header = HeaderValue::from_str(&header).map_err(|_| {
        let message =
            format!("the token in the Secret that {field} names holds characters that no token has; write it anew");
        ProviderError::new(ErrorKind::Denied, "InvalidToken", message)
    })?;
    header.set_sensitive(true);
    Ok(header)
}

/// What is posted, where its form is a type.
pub(super) fn json<T: Serialize>(content: &T) -> Result<Vec<u8>, ProviderError> {
    let unfit = |_| ProviderError::new(ErrorKind::Invalid, "InvalidNotice", "the notice cannot be written as JSON");
    serde_json::to_vec(content).map_err(unfit)
}

/// A request without a whole answer. A name that leads where no channel may go is not the message's fault.
fn unsent(host: &str, error: &reqwest::Error) -> ProviderError {
    let error = of_the_channel(integration::unsent(error));
    ProviderError { message: format!("{host}: {}", error.message), ..error }
}

/// Host and port, which are no secret where the rest of a URL is one.
fn host(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
}

/// Whether a server answers at all, whatever it says: tells nobody anything.
pub(super) async fn reach(client: &Client, url: Url) -> Result<StatusCode, ProviderError> {
    let host = host(&url);
    let response = client.head(url).send().await.map_err(|error| unsent(&host, &error))?;
    Ok(response.status())
}

impl Answer {
    /// The body as text, for services that answer with a word.
    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// What an answer other than success means where the service has no say of its own.
    pub(super) fn error(&self, what: &str) -> ProviderError {
        let (kind, reason) = match self.status.as_u16() {
            401 | 403 => (ErrorKind::Denied, "Denied"),
            404 => (ErrorKind::NotFound, "NotFound"),
            408 => (ErrorKind::Unavailable, "Timeout"),
            410 => (ErrorKind::NotFound, "Gone"),
            425 => (ErrorKind::Unavailable, "TooEarly"),
            429 => (ErrorKind::Throttled, "RateLimited"),
            500.. => (ErrorKind::Unavailable, "ServerError"),
            // The URL is the channel's, and the message is good.
            300..=399 => (ErrorKind::Denied, "Redirected"),
            _ => (ErrorKind::Invalid, "Refused"),
        };
        let message = match reason {
            "Redirected" => {
                format!("{what} answered {}; redirects are not followed, so name the right URL", self.status)
            }
            _ => format!("{what} answered {}", self.status),
        };
        ProviderError { retry_after: retry_after(&self.headers), ..ProviderError::new(kind, reason, message) }
    }
}
