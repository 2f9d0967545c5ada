//! What went wrong at a provider, and what that means for the next attempt.

use crate::api::Seconds;
use crate::leader::NotLeading;

/// Why a call to a provider did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ProviderError {
    /// What it means for the next attempt.
    pub kind: ErrorKind,
    /// For programs, in PascalCase: the provider's own code where it has one.
    pub reason: String,
    /// For people: what failed and what to do. Never a token, a credential or the body of an answer.
    pub message: String,
    /// When the provider said that it may be asked again, counted from now.
    pub retry_after: Option<Seconds>,
}

/// What an error means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The provider cannot be reached, does not answer in time or fails (5xx): it may pass by itself. Counts for the breaker.
    Unavailable,
    /// The provider asks for patience (429).
    Throttled,
    /// Credentials are refused or too weak (401, 403): somebody must act. Credentials are read again.
    Denied,
    /// What the call stands in does not exist (a mount, a project, a chat channel): somebody must act.
    NotFound,
    /// The provider refuses the request itself (400): somebody must act.
    Invalid,
    /// Something else is there than was read: read again.
    Conflict,
}

/// Of no provider: what was to be written is the leader's to write now.
impl From<NotLeading> for ProviderError {
    fn from(error: NotLeading) -> Self {
        Self::new(ErrorKind::Conflict, "NotLeading", error.to_string())
    }
}

impl ProviderError {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), message: message.into(), retry_after: None }
    }

    /// The provider's code as the reason of a condition, which has letters, digits and `_` only, a letter first.
    pub fn condition_reason(&self) -> String {
        let code: String = self.reason.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
        let code = code.trim_end_matches('_');
        if code.starts_with(|c: char| c.is_ascii_alphabetic()) {
            code.to_owned()
        } else {
            self.kind.as_str().to_owned()
        }
    }

    /// The message in one line, of at most 512 characters.
    pub fn line(&self) -> String {
        self.message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LINE).collect()
    }

    /// Whether it may pass by itself.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Throttled | ErrorKind::Conflict)
    }
}

impl ErrorKind {
    /// As metrics and reasons call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "Unavailable",
            Self::Throttled => "Throttled",
            Self::Denied => "Denied",
            Self::NotFound => "NotFound",
            Self::Invalid => "Invalid",
            Self::Conflict => "Conflict",
        }
    }
}

const LINE: usize = 512;
