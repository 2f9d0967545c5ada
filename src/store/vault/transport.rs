//! Sends vaultrs' requests with a client of ours, and says what an answer means.
//!
//! vaultrs' own client hides the reason of an error and `Retry-After`, logs what servers say, and reads answers of any
//! size. Nothing here logs, and no answer's body gets into an error but Vault's own list of messages.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use reqwest::{Client, Request, Url};
use rustify::Endpoint;
use rustify::endpoint::MiddleWare;
use serde::Deserialize;
use vaultrs::api::{AuthInfo, EndpointMiddleware, EndpointResult};

use super::super::{Credential, ErrorKind, ProviderError};
use crate::integration::{body, line, retry_after, unsent};

/// The longest answer that is read. Vault refuses values above 1 MiB by default; ours are a few KiB.
const LONGEST: usize = 1 << 20;
/// The reason for what Vault says of a mount that does not exist, or in which the token may do nothing.
pub(super) const MOUNT_NOT_FOUND: &str = "MountNotFound";
const MERGE_PATCH: HeaderValue = HeaderValue::from_static("application/merge-patch+json");

/// Where requests go.
pub(super) struct Transport {
    client: Client,
    base: String,
    namespace: Option<String>,
}

/// What Vault answered.
pub(super) struct Answer<T> {
    pub(super) data: Option<T>,
    pub(super) auth: Option<AuthInfo>,
}

/// Vault's form of an error.
#[derive(Debug, Default, Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<String>,
}

impl Transport {
    pub(super) fn new(client: Client, address: &Url, namespace: Option<String>) -> Result<Self, ProviderError> {
        // vaultrs panics on what is not fit for a header.
        if namespace.as_deref().is_some_and(|namespace| HeaderValue::from_str(namespace).is_err()) {
            let message = "spec.hashicorpVault.namespace has characters that no namespace has";
            return Err(ProviderError::new(ErrorKind::Invalid, "InvalidNamespace", message));
        }
        Ok(Self { client, base: address.as_str().trim_end_matches('/').to_owned(), namespace })
    }

    /// Sends a request; `None`: what it names does not exist.
    pub(super) async fn call<E: Endpoint>(
        &self,
        token: Option<&Credential>,
        endpoint: &E,
    ) -> Result<Option<Answer<E::Response>>, ProviderError> {
        let request = self.request(token, endpoint)?;
        let response = self.client.execute(request).await.map_err(|error| unsent(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = body(response, LONGEST).await?.ok_or_else(unreadable)?;
        if !status.is_success() {
            let said: Errors = serde_json::from_slice(&body).unwrap_or_default();
            return match said.errors.as_slice() {
                [] if status == StatusCode::NOT_FOUND => Ok(None),
                said => Err(classify(status, &headers, said)),
            };
        }
        if body.is_empty() {
            return Ok(Some(Answer { data: None, auth: None }));
        }
        let answer: EndpointResult<E::Response> = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        Ok(Some(Answer { data: answer.data, auth: answer.auth }))
    }

    fn request<E: Endpoint>(&self, token: Option<&Credential>, endpoint: &E) -> Result<Request, ProviderError> {
        let token = token.map_or("", Credential::expose);
        if HeaderValue::from_str(token).is_err() {
            let message = "the Vault token has characters that no token has";
            return Err(ProviderError::new(ErrorKind::Denied, "InvalidCredential", message));
        }
        let middleware = EndpointMiddleware {
            token: token.to_owned(),
            version: "v1".to_owned(),
            wrap: None,
            namespace: self.namespace.clone(),
        };
        let invalid = || ProviderError::new(ErrorKind::Invalid, "InvalidRequest", "no request can be made of this");
        let mut request = endpoint.request(&self.base).map_err(|_| invalid())?;
        middleware.request(endpoint, &mut request).map_err(|_| invalid())?;
        let mut request = Request::try_from(request).map_err(|_| invalid())?;
        // Some of vaultrs' paths begin with a slash of their own, which Vault answers with a redirect.
        let path = request.url().path().replace("//", "/");
        request.url_mut().set_path(&path);
        if *request.method() == Method::PATCH {
            request.headers_mut().insert(CONTENT_TYPE, MERGE_PATCH);
        }
        if let Some(token) = request.headers_mut().get_mut("X-Vault-Token") {
            token.set_sensitive(true);
        }
        Ok(request)
    }
}

/// Where something is mounted, without slashes around it. What it is made of is limited, so that it stays one path.
pub(super) fn mount(field: &str, path: &str) -> Result<String, ProviderError> {
    let path = path.trim_matches('/');
    let plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if path.split('/').all(plain) {
        return Ok(path.to_owned());
    }
    let message = format!("{field} must be a path of letters, digits, '-', '_' and '.', for example secret or team/kv");
    Err(ProviderError::new(ErrorKind::Invalid, "InvalidMount", message))
}

/// An answer that is not Vault's.
pub(super) fn unreadable() -> ProviderError {
    ProviderError::new(
        ErrorKind::Unavailable,
        "UnreadableAnswer",
        "the answer is not one of Vault: is the address right?",
    )
}

/// What an answer other than success means.
fn classify(status: StatusCode, headers: &HeaderMap, said: &[String]) -> ProviderError {
    let has = |text: &str| said.iter().any(|message| message.contains(text));
    let (kind, reason) = match status.as_u16() {
        400 if has("check-and-set parameter did not match") => (ErrorKind::Conflict, "CheckAndSetFailed"),
        400 => (ErrorKind::Invalid, "BadRequest"),
        403 if has("preflight capability check returned 403") => (ErrorKind::NotFound, MOUNT_NOT_FOUND),
        401 | 403 => (ErrorKind::Denied, "PermissionDenied"),
        404 => (ErrorKind::NotFound, "NotFound"),
        // A replica that does not have the last write yet.
        412 => (ErrorKind::Unavailable, "PreconditionFailed"),
        429 => (ErrorKind::Throttled, "RateLimited"),
        // Sealed, or in maintenance.
        503 => (ErrorKind::Unavailable, "ServiceUnavailable"),
        500.. => (ErrorKind::Unavailable, "ServerError"),
        300..400 => (ErrorKind::Invalid, "Redirected"),
        _ => (ErrorKind::Invalid, "UnexpectedStatus"),
    };
    let message = match said.first() {
        Some(said) => line(said),
        None if kind == ErrorKind::Invalid && reason == "Redirected" => {
            "redirects are not followed: name the address of the active server".to_owned()
        }
        None => format!("Vault answered {status}"),
    };
    ProviderError { retry_after: retry_after(headers), ..ProviderError::new(kind, reason, message) }
}

#[cfg(test)]
mod tests {
    use http::header::RETRY_AFTER;

    use super::*;
    use crate::api::Seconds;

    #[test]
    fn each_answer_means_one_thing() {
        let cases = [
            (
                400,
                "check-and-set parameter did not match the current version",
                ErrorKind::Conflict,
                "CheckAndSetFailed",
            ),
            (400, "no data provided", ErrorKind::Invalid, "BadRequest"),
            (401, "", ErrorKind::Denied, "PermissionDenied"),
            (403, "permission denied", ErrorKind::Denied, "PermissionDenied"),
            (403, "preflight capability check returned 403, please …", ErrorKind::NotFound, "MountNotFound"),
            (404, "no handler for route \"x/data/y\".", ErrorKind::NotFound, "NotFound"),
            (405, "", ErrorKind::Invalid, "UnexpectedStatus"),
            (307, "", ErrorKind::Invalid, "Redirected"),
            (412, "", ErrorKind::Unavailable, "PreconditionFailed"),
            (429, "rate limit quota exceeded", ErrorKind::Throttled, "RateLimited"),
            (500, "internal error", ErrorKind::Unavailable, "ServerError"),
            (502, "", ErrorKind::Unavailable, "ServerError"),
            (503, "Vault is sealed", ErrorKind::Unavailable, "ServiceUnavailable"),
        ];
        for (status, said, kind, reason) in cases {
            let said: Vec<String> = Some(said).filter(|said| !said.is_empty()).map(Into::into).into_iter().collect();
            let error = classify(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &said);
            assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{status} {said:?}");
        }
    }

    #[test]
    fn retry_after_is_passed_on_in_seconds() {
        let with = |value| {
            classify(
                StatusCode::TOO_MANY_REQUESTS,
                &HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]),
                &[],
            )
        };
        assert_eq!(with("17").retry_after, Some(Seconds(17)));
        assert_eq!(with("soon").retry_after, None);
    }

    #[test]
    fn a_mount_stays_one_path() {
        assert_eq!(mount("mount", "/team/kv/").unwrap(), "team/kv");
        for path in ["", "/", "a//b", "../sys", "a/./b", "a b", "a?b", "a#b", "a%2fb", "sécret"] {
            assert_eq!(mount("mount", path).unwrap_err().reason, "InvalidMount", "{path}");
        }
    }
}
