//! Requests to the endpoints that give access tokens: the token exchange (RFC 8693) of workload identity federation, and
//! the impersonation of a service account.

use std::time::Duration;

use google_cloud_gax::error::rpc::Code;
use http::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::super::{Credential, ErrorKind, ProviderError};
use super::error::{answered, timeout};
use super::login::Access;
use crate::integration::{body, line, unsent};

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// How long an impersonation is asked to last, in seconds.
const LIFETIME: u64 = 3_600;
/// The longest answer that is read.
const LONGEST: usize = 64 * 1024;

#[derive(Deserialize)]
struct Exchanged {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Impersonated {
    access_token: String,
}

/// Google's access token for a ServiceAccount's token.
pub(super) async fn exchange(
    client: &Client,
    endpoint: &Url,
    provider: &str,
    subject: &Credential,
) -> Result<Access, ProviderError> {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", TOKEN_EXCHANGE)
        .append_pair("requested_token_type", ACCESS_TOKEN)
        .append_pair("audience", provider)
        .append_pair("scope", SCOPE)
        .append_pair("subject_token_type", JWT)
        .append_pair("subject_token", subject.expose())
        .finish();
    let request = client.post(under(endpoint, "v1/token")?).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    let answer: Exchanged = send("the token exchange", request.body(form)).await?;
    Ok(Access { token: Credential::new(answer.access_token), lifetime: Duration::from_secs(answer.expires_in) })
}

/// A service account's access token, for who may impersonate it.
pub(super) async fn impersonate(
    client: &Client,
    endpoint: &Url,
    email: &str,
    access: &Access,
) -> Result<Access, ProviderError> {
    let url = under(endpoint, &format!("v1/projects/-/serviceAccounts/{email}:generateAccessToken"))?;
    let body = json!({"scope": [SCOPE], "lifetime": format!("{LIFETIME}s")});
    let request = client.post(url).bearer_auth(access.token.expose()).json(&body);
    let answer: Impersonated = send("the impersonation", request).await?;
    Ok(Access { token: Credential::new(answer.access_token), lifetime: Duration::from_secs(LIFETIME) })
}

fn under(endpoint: &Url, path: &str) -> Result<Url, ProviderError> {
    let base = endpoint.as_str().trim_end_matches('/');
    let invalid = |_| ProviderError::new(ErrorKind::Invalid, "InvalidEndpoint", "no URL can be made of the endpoint");
    Url::parse(&format!("{base}/{path}")).map_err(invalid)
}

async fn send<T: DeserializeOwned>(what: &str, request: RequestBuilder) -> Result<T, ProviderError> {
    let response = request.send().await.map_err(|error| failed(what, &error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = body(response, LONGEST).await.map_err(|error| of(what, error))?.ok_or_else(|| unreadable(what))?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|_| unreadable(what));
    }
    Err(refused(what, status.as_u16(), &headers, &body))
}

fn refused(what: &str, status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderError {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    // A token endpoint's own form (RFC 6749, section 5.2), or Google's of all other APIs.
    if let Some(code) = said["error"].as_str() {
        let description = said["error_description"].as_str().unwrap_or(code);
        let error = answered(what, status, Some((Code::Unknown, description)), Some(headers));
        let kind = if error.kind == ErrorKind::Invalid { ErrorKind::Denied } else { error.kind };
        return ProviderError { kind, reason: line(code), ..error };
    }
    let code = said["error"]["status"].as_str().and_then(|code| Code::try_from(code).ok());
    let message = said["error"]["message"].as_str().unwrap_or_default();
    answered(what, status, code.map(|code| (code, message)), Some(headers))
}

/// A request without a whole answer.
fn failed(what: &str, error: &reqwest::Error) -> ProviderError {
    if error.is_timeout() { timeout(what) } else { of(what, unsent(error)) }
}

// Our own refusal of an address says where.
fn of(what: &str, error: ProviderError) -> ProviderError {
    if error.kind == ErrorKind::Invalid {
        return error;
    }
    ProviderError { message: format!("{what}: {}", error.message), ..error }
}

fn unreadable(what: &str) -> ProviderError {
    let message = format!("{what}: the answer is not one of Google: is the endpoint right?");
    ProviderError::new(ErrorKind::Unavailable, "UnreadableAnswer", message)
}
