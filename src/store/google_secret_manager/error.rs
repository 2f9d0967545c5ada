//! What a failed call means for the next attempt. No answer's body gets into an error but Google's own code and message.

use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::Code;
use http::HeaderMap;

use super::super::{ErrorKind, ProviderError};
use crate::integration::{line, retry_after};

/// What this error of Google's client means. `what` was called.
pub(super) fn classify(what: &str, error: &Error) -> ProviderError {
    let Some(status) = error.http_status_code() else { return unanswered(what, error) };
    let said = error.status().map(|said| (said.code, said.message.as_str()));
    answered(what, status, said, error.http_headers())
}

/// An answer with this status, from Secret Manager or from a token endpoint; `said`: in Google's form.
pub(super) fn answered(
    what: &str,
    status: u16,
    said: Option<(Code, &str)>,
    headers: Option<&HeaderMap>,
) -> ProviderError {
    let kind = kind(status, said.map(|(code, _)| code));
    let (reason, text) = match said {
        Some((code, message)) => (code.name().to_owned(), line(message)),
        None if (300..400).contains(&status) => ("Redirected".to_owned(), "redirects are not followed".to_owned()),
        None => (format!("Http{status}"), "the answer is not one of Google's API: is the endpoint right?".to_owned()),
    };
    let retry_after = headers.and_then(retry_after);
    ProviderError { retry_after, ..ProviderError::new(kind, reason, format!("{what}: {text}")) }
}

/// The code comes first: a proxy's 404 is not Google's `NOT_FOUND`.
fn kind(status: u16, code: Option<Code>) -> ErrorKind {
    match (status, code) {
        (429, _) | (_, Some(Code::ResourceExhausted)) => ErrorKind::Throttled,
        (401 | 403, _) => ErrorKind::Denied,
        (409, _) | (_, Some(Code::Aborted)) => ErrorKind::Conflict,
        (_, Some(Code::Unimplemented)) => ErrorKind::Invalid,
        (408 | 499 | 500.., _) => ErrorKind::Unavailable,
        (404, _) => ErrorKind::NotFound,
        _ => ErrorKind::Invalid,
    }
}

/// A call without a whole answer, or that was never made.
fn unanswered(what: &str, error: &Error) -> ProviderError {
    let (kind, reason, text) = match error {
        error if error.is_timeout() => return timeout(what),
        error if error.is_connect() => {
            (ErrorKind::Unavailable, "Unreachable", format!("cannot connect: {}", cause(error)))
        }
        error if error.is_deserialization() => {
            (ErrorKind::Unavailable, "UnreadableAnswer", "the answer is not one of Secret Manager".to_owned())
        }
        // What the credentials' library says may hold the body of an answer.
        error if error.is_authentication() => {
            (ErrorKind::Denied, "CredentialsUnusable", "the credentials cannot be used".to_owned())
        }
        error if error.is_binding() => {
            (ErrorKind::Invalid, "InvalidName", "the project's or the secret's name cannot be used".to_owned())
        }
        error => (ErrorKind::Unavailable, "ConnectionBroken", format!("the connection broke: {}", cause(error))),
    };
    ProviderError::new(kind, reason, format!("{what}: {text}"))
}

/// No answer in time.
pub(super) fn timeout(what: &str) -> ProviderError {
    ProviderError::new(ErrorKind::Unavailable, "Timeout", format!("{what}: no answer in time"))
}

/// The innermost cause, which tells more than "error sending request".
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let innermost = std::iter::successors(error.source(), |cause| (*cause).source()).last();
    innermost.map_or_else(|| "the request failed".to_owned(), |cause| line(&cause.to_string()))
}

#[cfg(test)]
mod tests {
    use http::header::RETRY_AFTER;

    use super::*;
    use crate::api::Seconds;

    #[test]
    fn every_answer_means_one_thing() {
        use ErrorKind::{Conflict, Denied, Invalid, NotFound, Throttled, Unavailable};
        for (status, code, expected) in [
            (400, Some(Code::InvalidArgument), Invalid),
            (400, Some(Code::FailedPrecondition), Invalid),
            (401, Some(Code::Unauthenticated), Denied),
            (403, Some(Code::PermissionDenied), Denied),
            (403, None, Denied),
            (404, Some(Code::NotFound), NotFound),
            (404, None, NotFound),
            (408, None, Unavailable),
            (409, Some(Code::AlreadyExists), Conflict),
            (409, Some(Code::Aborted), Conflict),
            (429, Some(Code::ResourceExhausted), Throttled),
            (429, None, Throttled),
            (499, Some(Code::Cancelled), Unavailable),
            (500, Some(Code::Internal), Unavailable),
            (501, Some(Code::Unimplemented), Invalid),
            (502, None, Unavailable),
            (503, Some(Code::Unavailable), Unavailable),
            (504, Some(Code::DeadlineExceeded), Unavailable),
            (302, None, Invalid),
        ] {
            let said = code.map(|code| (code, "said"));
            assert_eq!(answered("GetSecret", status, said, None).kind, expected, "{status} {code:?}");
        }
    }

    #[test]
    fn an_error_has_googles_code_and_a_short_message_in_one_line() {
        let long = format!("no\n\tsuch {}", "x".repeat(1000));
        let error = answered("GetSecret", 404, Some((Code::NotFound, &long)), None);
        assert_eq!((&*error.reason, error.retry_after), ("NOT_FOUND", None));
        assert!(error.message.starts_with("GetSecret: no such xx") && error.message.len() < 320, "{error}");
        let redirected = answered("GetSecret", 302, None, None);
        assert_eq!(redirected.to_string(), "Redirected: GetSecret: redirects are not followed");
    }

    #[test]
    fn patience_that_is_asked_for_is_told() {
        let mut headers = HeaderMap::new();
        for (text, expected) in [("17", Some(Seconds(17))), ("soon", None), ("-1", None)] {
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            assert_eq!(answered("GetSecret", 429, None, Some(&headers)).retry_after, expected, "{text}");
        }
    }
}
