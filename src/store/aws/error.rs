//! What an error of AWS means for the next attempt, and what people are told.

use std::error::Error;

use aws_sdk_sts::config::http::HttpResponse;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};

use crate::api::Seconds;
use crate::integration::{ErrorKind, ProviderError};

/// Longest text of AWS that is passed on, in characters.
const LONGEST: usize = 240;

/// What a failed call means. `what` is the operation's name.
pub(super) fn classify<E>(what: &str, error: &SdkError<E, HttpResponse>) -> ProviderError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(own) = own(error) {
        return own.clone();
    }
    match error {
        SdkError::ServiceError(_) | SdkError::ResponseError(_) => answered(what, error),
        SdkError::TimeoutError(_) => unavailable("Timeout", format!("{what}: no answer in time")),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            unavailable("Timeout", format!("{what}: no answer in time"))
        }
        SdkError::DispatchFailure(_) => {
            unavailable("Unreachable", format!("{what}: cannot reach AWS: {}", root(error)))
        }
        _ => ProviderError::new(ErrorKind::Invalid, "InvalidRequest", format!("{what}: {}", root(error))),
    }
}

/// An error of ours, such as a login's, that came back through the SDK.
fn own<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ProviderError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref() {
            return Some(own);
        }
        next = error.source();
    }
    None
}

fn answered<E>(what: &str, error: &SdkError<E, HttpResponse>) -> ProviderError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let response = error.raw_response();
    let status = response.map_or(0, |response| response.status().as_u16());
    let code = error.code().unwrap_or_default();
    let kind = kind(code, status);
    let reason = if code.is_empty() { format!("Http{status}") } else { short(code) };
    let theirs = error.message().filter(|_| quotable(code)).map(|text| short(text.trim_end_matches('.')));
    let said = theirs.filter(|text| !text.is_empty()).unwrap_or_else(|| format!("AWS answered {status}"));
    let cure = cure(code).map(|cure| format!("; {cure}")).unwrap_or_default();
    let message = format!("{what}: {said}{cure}");
    let retry_after = response.and_then(|response| response.headers().get("retry-after"));
    ProviderError {
        retry_after: retry_after.and_then(|value| value.trim().parse().ok()).map(Seconds),
        ..ProviderError::new(kind, reason, message)
    }
}

fn kind(code: &str, status: u16) -> ErrorKind {
    match code {
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "TooManyUpdates"
        | "ProvisionedThroughputExceededException"
        | "PriorRequestNotComplete"
        | "SlowDown" => ErrorKind::Throttled,
        "InternalServiceError"
        | "InternalServerError"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "IDPCommunicationError"
        | "RequestTimeout"
        | "RequestTimeoutException" => ErrorKind::Unavailable,
        "AccessDenied" | "AccessDeniedException" | "NotAuthorized" | "OptInRequired" => ErrorKind::Denied,
        code if is_about_credentials(code) => ErrorKind::Denied,
        _ => match status {
            429 => ErrorKind::Throttled,
            401 | 403 => ErrorKind::Denied,
            400..=499 => ErrorKind::Invalid,
            // Below are answers that are no errors but cannot be read: they come from something else than AWS.
            _ => ErrorKind::Unavailable,
        },
    }
}

/// Not that they may not do something, but that they are not good.
fn is_about_credentials(code: &str) -> bool {
    matches!(
        code,
        "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidAccessKeyId"
            | "AuthFailure"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "RequestExpired"
            | "SignatureDoesNotMatch"
            | "InvalidSignatureException"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "InvalidIdentityToken"
            | "InvalidIdentityTokenException"
            | "IDPRejectedClaim"
    )
}

/// Whether the message that comes with a code may be shown: that of a wrong signature repeats the request's headers, the
/// session token among them.
fn quotable(code: &str) -> bool {
    !is_about_credentials(code)
}

fn cure(code: &str) -> Option<&'static str> {
    Some(match code {
        "UnrecognizedClientException" | "InvalidClientTokenId" | "InvalidAccessKeyId" | "AuthFailure" => {
            "AWS does not know the access key; renew the Secret that auth.secretRef names"
        }
        "ExpiredToken" | "ExpiredTokenException" => "the credentials have ended; renew them",
        "RequestExpired" => "the operator's clock is wrong",
        "SignatureDoesNotMatch" | "InvalidSignatureException" => {
            "the secret access key does not belong to the access key, or the operator's clock is wrong"
        }
        "InvalidIdentityToken" | "InvalidIdentityTokenException" | "IDPRejectedClaim" => {
            "STS does not accept the ServiceAccount's token; see IAM's identity provider for this cluster and the trust \
             policy of roleArn"
        }
        "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => "the credentials are not complete; see auth",
        "AccessDenied" | "AccessDeniedException" | "NotAuthorized" => "see the policy and trust of the identity in use",
        "EncryptionFailure" | "DecryptionFailure" | "InvalidKeyId" => "see kmsKeyId and the policy of that key",
        "HierarchyTypeMismatchException" => {
            "the parameter is no SecureString, and its type cannot be changed; delete it"
        }
        "ParameterMaxVersionLimitExceeded" => "remove the label from the oldest version",
        "LimitExceededException" | "ParameterLimitExceeded" => "a quota of the AWS account is used up; raise it",
        _ => return None,
    })
}

fn unavailable(reason: &str, message: String) -> ProviderError {
    ProviderError::new(ErrorKind::Unavailable, reason, message)
}

/// The deepest source says most: the layers above only say that something failed.
fn root(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    short(&last.to_string())
}

/// One line, and not long.
fn short(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::error::CredentialsError;
    use aws_sdk_sts::error::ErrorMetadata;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_runtime_api::http::StatusCode;

    use super::*;

    /// An error of no operation in particular.
    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Refused(ErrorMetadata);

    impl ProvideErrorMetadata for Refused {
        fn meta(&self) -> &ErrorMetadata {
            &self.0
        }
    }

    fn refused(status: u16, code: &str, message: &str, headers: &[(&'static str, &'static str)]) -> ProviderError {
        let mut response = HttpResponse::new(StatusCode::try_from(status).unwrap(), "a body".into());
        for (name, value) in headers {
            response.headers_mut().insert(*name, *value);
        }
        let mut meta = ErrorMetadata::builder().message(message);
        if !code.is_empty() {
            meta = meta.code(code);
        }
        classify("PutSecretValue", &SdkError::service_error(Refused(meta.build()), response))
    }

    #[test]
    fn codes_and_statuses_say_what_is_next() {
        use ErrorKind::{Denied, Invalid, Throttled, Unavailable};
        let cases = [
            (400, "ThrottlingException", Throttled),
            (400, "TooManyUpdates", Throttled),
            (503, "SlowDown", Throttled),
            (429, "", Throttled),
            (500, "InternalServiceError", Unavailable),
            (503, "", Unavailable),
            (200, "", Unavailable),
            (302, "", Unavailable),
            (400, "RequestTimeoutException", Unavailable),
            (400, "IDPCommunicationError", Unavailable),
            (400, "AccessDeniedException", Denied),
            (403, "AccessDenied", Denied),
            (400, "UnrecognizedClientException", Denied),
            (403, "InvalidClientTokenId", Denied),
            (400, "ExpiredTokenException", Denied),
            (400, "InvalidSignatureException", Denied),
            (400, "InvalidIdentityToken", Denied),
            (403, "SomethingNew", Denied),
            (400, "InvalidRequestException", Invalid),
            (400, "ValidationException", Invalid),
            (400, "EncryptionFailure", Invalid),
            (400, "LimitExceededException", Invalid),
            (404, "", Invalid),
        ];
        for (status, code, kind) in cases {
            let error = refused(status, code, "no", &[]);
            let reason = if code.is_empty() { format!("Http{status}") } else { code.to_owned() };
            assert_eq!((error.kind, error.reason), (kind, reason), "{status} {code}");
        }
    }

    #[test]
    fn people_are_told_what_failed_what_aws_says_and_what_to_do() {
        let error = refused(400, "EncryptionFailure", "The key\nis  disabled.", &[]);
        assert_eq!(error.message, "PutSecretValue: The key is disabled; see kmsKeyId and the policy of that key");
        let error = refused(400, "ValidationException", &"long ".repeat(200), &[]);
        assert_eq!(error.message.chars().count(), "PutSecretValue: ".len() + LONGEST);
        assert_eq!(refused(502, "", "", &[]).message, "PutSecretValue: AWS answered 502");
    }

    #[test]
    fn what_aws_says_about_signatures_is_kept_back_as_it_repeats_the_session_token() {
        for code in ["InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature", "ExpiredToken"] {
            let error = refused(403, code, "should have been x-amz-security-token:canary", &[]);
            assert!(!format!("{error:?}").contains("canary"), "{error}");
        }
    }

    #[test]
    fn patience_is_counted_in_seconds() {
        let after = |value| refused(400, "ThrottlingException", "", &[("retry-after", value)]).retry_after;
        assert_eq!((after("7"), after("Fri, 31 Dec 1999 23:59:59 GMT")), (Some(Seconds(7)), None));
    }

    #[test]
    fn errors_of_the_way_there_may_pass_and_those_of_the_login_are_told_as_they_are() {
        let failed = |error| classify::<Refused>("PutSecretValue", &SdkError::dispatch_failure(error));
        let io = || std::io::Error::other("connection reset");
        let error = failed(ConnectorError::io(io().into()));
        assert_eq!(error.to_string(), "Unreachable: PutSecretValue: cannot reach AWS: connection reset");
        assert_eq!(
            (error.kind, failed(ConnectorError::timeout(io().into())).reason.as_str()),
            (ErrorKind::Unavailable, "Timeout")
        );

        let own = ProviderError::new(ErrorKind::Denied, "SecretNotFound", "there is no Secret aws");
        let login = CredentialsError::provider_error(own.clone());
        assert_eq!(failed(ConnectorError::other(login.into(), None)), own);
    }
}
