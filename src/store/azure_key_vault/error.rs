//! What an answer of Key Vault or Microsoft Entra ID means, or that there was none. Nothing but their own error codes and
//! short messages is passed on.

use std::error::Error;

use azure_core::error::ErrorKind as Sdk;
use azure_core::http::StatusCode;
use azure_core::http::headers::{Headers, RETRY_AFTER};
use serde::Deserialize;

use super::super::{ErrorKind, ProviderError};
use crate::api::Seconds;

/// The longest message that is passed on.
const MESSAGE: usize = 300;

/// A call that did not do what was asked.
#[derive(Debug)]
pub(super) struct Failed {
    /// What to tell, unless it was expected.
    pub(super) error: ProviderError,
    /// What Key Vault itself said of the secret. A missing Secret of Kubernetes is not meant.
    pub(super) state: Option<State>,
}

/// Why a secret cannot be had as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is not there.
    NotFound,
    /// The current version is disabled, so that it cannot be read.
    Disabled,
    /// A deletion takes its time.
    BeingDeleted,
    /// A recovery takes its time: the secret may be readable already, and yet not be writable.
    BeingRecovered,
}

/// What Key Vault calls a recovery that takes its time.
pub(super) const BEING_RECOVERED: &str = "ObjectIsBeingRecovered";

impl Failed {
    /// Whether Key Vault says this of the secret.
    pub(super) fn is(&self, state: State) -> bool {
        self.state == Some(state)
    }
}

impl From<Failed> for ProviderError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl From<ProviderError> for Failed {
    fn from(error: ProviderError) -> Self {
        Self { error, state: None }
    }
}

/// Key Vault's form of an error.
#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    error: Said,
}

#[derive(Default, Deserialize)]
struct Said {
    code: Option<String>,
    message: Option<String>,
    #[serde(rename = "innererror")]
    inner: Option<Box<Said>>,
}

/// The form of an error of Entra ID.
#[derive(Default, Deserialize)]
struct Refusal {
    error: Option<String>,
    error_description: Option<String>,
}

/// What an error of the SDK means.
pub(super) fn classify(error: &azure_core::Error) -> Failed {
    if let Some(own) = find::<ProviderError>(error) {
        return own.clone().into();
    }
    if let Some(broken) = find::<reqwest::Error>(error) {
        return unsent(broken).into();
    }
    if let Sdk::HttpResponse { status, raw_response: Some(answer), .. } = error.kind() {
        let error = vault(*status, answer.headers(), answer.body().as_ref());
        return Failed { state: state(*status, &error.reason), error };
    }
    unanswered(error).into()
}

fn unanswered(error: &azure_core::Error) -> ProviderError {
    match error.kind() {
        Sdk::HttpResponse { status, .. } => vault(*status, &Headers::new(), &[]),
        Sdk::Connection | Sdk::Io => unavailable("ConnectionBroken", "the connection broke"),
        Sdk::DataConversion => unreadable(),
        Sdk::Credential => {
            let message = "the operator's own identity cannot log in to Microsoft Entra ID";
            ProviderError::new(ErrorKind::Denied, "LoginFailed", message)
        }
        // The vault wants a token for something else than vaults of its own domain.
        Sdk::Other => {
            let message =
                "the server asks for an access token that is not for it: is spec.azureKeyVault.vaultUrl right?";
            ProviderError::new(ErrorKind::Invalid, "ForeignChallenge", message)
        }
    }
}

fn state(status: StatusCode, code: &str) -> Option<State> {
    match (*status, code) {
        (404, "SecretNotFound") => Some(State::NotFound),
        (403, "SecretDisabled") => Some(State::Disabled),
        (409, "ObjectIsBeingDeleted") => Some(State::BeingDeleted),
        (409, BEING_RECOVERED) => Some(State::BeingRecovered),
        _ => None,
    }
}

/// What Key Vault's refusal means.
fn vault(status: StatusCode, headers: &Headers, body: &[u8]) -> ProviderError {
    let said = serde_json::from_slice::<Answer>(body).unwrap_or_default().error;
    let code = said.inner.and_then(|inner| inner.code).or(said.code);
    let (kind, reason) = match *status {
        401 => (ErrorKind::Denied, "Unauthorized"),
        403 => (ErrorKind::Denied, "Forbidden"),
        404 => (ErrorKind::NotFound, "NotFound"),
        409 => (ErrorKind::Conflict, "Conflict"),
        408 => (ErrorKind::Unavailable, "Timeout"),
        429 => (ErrorKind::Throttled, "Throttled"),
        500.. => (ErrorKind::Unavailable, "ServerError"),
        300..=399 => (ErrorKind::Invalid, "Redirected"),
        _ => (ErrorKind::Invalid, "BadRequest"),
    };
    let reason = code.filter(|code| is_code(code)).unwrap_or_else(|| reason.to_owned());
    let message = said.message.map_or_else(|| format!("Key Vault answered {}", *status), |said| line(&said));
    ProviderError { retry_after: retry_after(headers), ..ProviderError::new(kind, reason, message) }
}

/// What a refusal by the authority that hands out access tokens means.
pub(super) fn authority(status: StatusCode, headers: &Headers, body: &[u8]) -> ProviderError {
    let refusal = serde_json::from_slice::<Refusal>(body).unwrap_or_default();
    let said = refusal.error_description.unwrap_or_default();
    let (code, said) = said.split_once(": ").filter(|(code, _)| code.starts_with("AADSTS")).unwrap_or(("", &said));
    let kind = match *status {
        429 => ErrorKind::Throttled,
        408 | 500.. => ErrorKind::Unavailable,
        _ if refusal.error.as_deref() == Some("temporarily_unavailable") => ErrorKind::Unavailable,
        _ => ErrorKind::Denied,
    };
    let reason = if is_code(code) { code } else { "LoginRefused" };
    // What follows is for Microsoft's support, and differs each time.
    let said = line(said.split("Trace ID:").next().unwrap_or_default());
    let message = match said.as_str() {
        "" => format!("the login is refused: Microsoft Entra ID answered {}", *status),
        said => format!("the login is refused: {said}"),
    };
    ProviderError { retry_after: retry_after(headers), ..ProviderError::new(kind, reason, message) }
}

/// An answer that is not Key Vault's.
pub(super) fn unreadable() -> ProviderError {
    unavailable("UnreadableAnswer", "the answer is not one of Key Vault: is spec.azureKeyVault.vaultUrl right?")
}

/// No answer within the time that a call may take.
pub(super) fn timeout() -> ProviderError {
    unavailable("Timeout", "no answer in time")
}

/// A request without a whole answer.
fn unsent(error: &reqwest::Error) -> ProviderError {
    if error.is_timeout() {
        return timeout();
    }
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(Error::source) {
        cause = Some(deeper);
    }
    let cause = cause.map_or_else(|| "the request failed".to_owned(), |cause| line(&cause.to_string()));
    if error.is_connect() {
        return unavailable("Unreachable", &format!("cannot connect: {cause}"));
    }
    unavailable("ConnectionBroken", &format!("the connection broke: {cause}"))
}

fn unavailable(reason: &str, message: &str) -> ProviderError {
    ProviderError::new(ErrorKind::Unavailable, reason, message)
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn retry_after(headers: &Headers) -> Option<Seconds> {
    let seconds = headers.get_optional_str(&RETRY_AFTER)?.trim().parse::<u32>().ok()?;
    Some(Seconds(seconds.into()))
}

fn is_code(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// One line, not too long.
fn line(text: &str) -> String {
    let one: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE).collect();
    one.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(status: u16, code: &str, inner: Option<&str>) -> ProviderError {
        let mut error = json!({"code": code, "message": "said by the vault"});
        if let Some(inner) = inner {
            error["innererror"] = json!({"code": inner});
        }
        vault(status.into(), &Headers::new(), json!({"error": error}).to_string().as_bytes())
    }

    #[test]
    fn each_answer_of_the_vault_means_one_thing() {
        let cases = [
            (400, "BadParameter", None, ErrorKind::Invalid, "BadParameter"),
            (401, "Unauthorized", None, ErrorKind::Denied, "Unauthorized"),
            (403, "Forbidden", Some("AccessDenied"), ErrorKind::Denied, "AccessDenied"),
            (403, "Forbidden", Some("ForbiddenByPolicy"), ErrorKind::Denied, "ForbiddenByPolicy"),
            (403, "Forbidden", Some("ForbiddenByRbac"), ErrorKind::Denied, "ForbiddenByRbac"),
            (403, "Forbidden", Some("ForbiddenByFirewall"), ErrorKind::Denied, "ForbiddenByFirewall"),
            (403, "Forbidden", Some("ForbiddenByConnection"), ErrorKind::Denied, "ForbiddenByConnection"),
            (404, "SecretNotFound", None, ErrorKind::NotFound, "SecretNotFound"),
            (404, "VaultNotFound", None, ErrorKind::NotFound, "VaultNotFound"),
            (
                409,
                "Conflict",
                Some("ObjectIsDeletedButRecoverable"),
                ErrorKind::Conflict,
                "ObjectIsDeletedButRecoverable",
            ),
            (409, "Conflict", Some("ObjectIsBeingDeleted"), ErrorKind::Conflict, "ObjectIsBeingDeleted"),
            (409, "Conflict", Some("ObjectIsBeingRecovered"), ErrorKind::Conflict, BEING_RECOVERED),
            (429, "Throttled", None, ErrorKind::Throttled, "Throttled"),
            (500, "InternalServerError", None, ErrorKind::Unavailable, "InternalServerError"),
            (503, "not a code", None, ErrorKind::Unavailable, "ServerError"),
        ];
        for (status, code, inner, kind, reason) in cases {
            let error = said(status, code, inner);
            assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{status} {code} {inner:?}");
            assert_eq!(error.message, "said by the vault");
        }
    }

    #[test]
    fn what_is_no_answer_means_one_thing() {
        for (kind, expected, reason) in [
            (Sdk::Io, ErrorKind::Unavailable, "ConnectionBroken"),
            (Sdk::Connection, ErrorKind::Unavailable, "ConnectionBroken"),
            (Sdk::DataConversion, ErrorKind::Unavailable, "UnreadableAnswer"),
            (Sdk::Credential, ErrorKind::Denied, "LoginFailed"),
            // The SDK refuses challenges for other domains like this.
            (Sdk::Other, ErrorKind::Invalid, "ForeignChallenge"),
        ] {
            let failed = classify(&azure_core::Error::with_message(kind, "said by the client, not passed on"));
            assert_eq!((failed.error.kind, failed.error.reason.as_str()), (expected, reason));
            assert!(!failed.error.message.contains("passed on"));
        }
    }

    #[test]
    fn a_missing_credential_is_not_a_missing_secret() {
        let missing = ProviderError::new(ErrorKind::NotFound, "SecretNotFound", "no Secret azure");
        let failed = classify(&azure_core::Error::new(Sdk::Credential, missing.clone()));
        assert_eq!((failed.error, failed.state), (missing, None));
        assert_eq!(state(404.into(), "SecretNotFound"), Some(State::NotFound));
        assert_eq!(state(404.into(), "VaultNotFound"), None);
    }

    #[test]
    fn a_body_that_is_not_the_vaults_is_not_passed_on() {
        for (status, kind, reason) in [
            (302, ErrorKind::Invalid, "Redirected"),
            (403, ErrorKind::Denied, "Forbidden"),
            (404, ErrorKind::NotFound, "NotFound"),
            (502, ErrorKind::Unavailable, "ServerError"),
        ] {
            let error = vault(status.into(), &Headers::new(), b"<html>secret</html>");
            assert_eq!((error.kind, error.reason.as_str()), (kind, reason));
            assert_eq!(error.message, format!("Key Vault answered {status}"));
        }
    }

    #[test]
    fn each_refused_login_means_one_thing() {
        let cases = [
            (
                401,
                "invalid_client",
                "AADSTS7000215: Invalid client secret provided.",
                ErrorKind::Denied,
                "AADSTS7000215",
            ),
            (400, "unauthorized_client", "AADSTS700016: No such application.", ErrorKind::Denied, "AADSTS700016"),
            (400, "temporarily_unavailable", "AADSTS90033: Try later.", ErrorKind::Unavailable, "AADSTS90033"),
            (429, "too_many", "slow down", ErrorKind::Throttled, "LoginRefused"),
            (503, "", "", ErrorKind::Unavailable, "LoginRefused"),
        ];
        for (status, error, description, kind, reason) in cases {
            let body = json!({"error": error, "error_description": description}).to_string();
            let error = authority(status.into(), &Headers::new(), body.as_bytes());
            assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{description}");
        }
        let body = json!({"error_description": "AADSTS7000215: Wrong.\r\nTrace ID: 1\r\nTimestamp: now"}).to_string();
        let error = authority(401.into(), &Headers::new(), body.as_bytes());
        assert_eq!(error.to_string(), "AADSTS7000215: the login is refused: Wrong.");
    }

    #[test]
    fn retry_after_is_passed_on_in_seconds() {
        let with = |value: &'static str| {
            let mut headers = Headers::new();
            headers.insert("retry-after", value);
            vault(429.into(), &headers, b"").retry_after
        };
        assert_eq!((with("17"), with("soon")), (Some(Seconds(17)), None));
    }

    #[test]
    fn a_message_is_one_short_line() {
        assert_eq!(line("Caller is not authorized.\r\nCaller: x"), "Caller is not authorized. Caller: x");
        assert_eq!(line(&"x".repeat(5_000)).len(), MESSAGE);
    }
}
