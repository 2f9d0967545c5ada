//! What a notice says, free of any medium. Never a token, a credential or the content of a Secret.

use crate::api::{AccountId, Instant, IssueReason, NoticeKind};

/// One notice, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The notice's id: the same in every repeat.
    pub id: String,
    /// What it belongs to: the failure and the recovery of one target share it (PagerDuty `dedup_key`).
    pub incident: String,
    /// The account; of a test message, the channel.
    pub account: AccountId,
    /// Who owns the account.
    pub owner: Option<Owner>,
    /// What the account is for, in its owner's words.
    pub description: Option<String>,
    /// The token's id; empty in a test message.
    pub jti: String,
    /// When it came about.
    pub at: Instant,
    /// What happened.
    pub content: Content,
}

/// Who owns an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The team.
    pub team: String,
    /// A person or another account in that team.
    pub account: Option<String>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Every target holds a new token.
    Rotated {
        /// Why.
        why: IssueReason,
        /// Where it is now, for people: `Secret app-token`, `/team/app in TokenStore team/vault`.
        places: Vec<String>,
        /// The previous token and when it stops working; `None`: there is none.
        previous: Option<(String, Instant)>,
        /// When the new one ends.
        expires_at: Option<Instant>,
        /// When the next rotation is due.
        next: Option<Instant>,
    },
    /// A quarter of the previous token's grace is left.
    GraceEnding {
        /// When it stops working.
        ends_at: Instant,
        /// The token to use instead.
        newer: Option<String>,
    },
    /// The previous token ended.
    Retired {
        /// When.
        ended_at: Instant,
    },
    /// The token ends soon and no rotation will save it.
    Expiring {
        /// When.
        ends_at: Instant,
        /// Why nothing replaces it, and what to do.
        why: String,
    },
    /// The token ended.
    Expired {
        /// When.
        ended_at: Instant,
        /// Why nothing replaced it, and what to do.
        why: String,
    },
    /// A target has failed for a quarter of an hour.
    Failing {
        /// Which, for people.
        target: String,
        /// Since when.
        since: Instant,
        /// The last error.
        error: String,
    },
    /// It works again.
    Recovered {
        /// Which, for people.
        target: String,
        /// Since when it had failed.
        since: Instant,
    },
    /// A token was revoked.
    Revoked {
        /// By which path, for people.
        by: String,
        /// What was issued in its place.
        successor: Option<String>,
        /// Until when offline checks accept it.
        until: Option<Instant>,
    },
    /// A test message that somebody asked for.
    Test,
}

impl Content {
    /// The kind; `None` of a test message.
    pub fn kind(&self) -> Option<NoticeKind> {
        match self {
            Self::Rotated { .. } => Some(NoticeKind::TokenRotated),
            Self::GraceEnding { .. } => Some(NoticeKind::GraceEnding),
            Self::Retired { .. } => Some(NoticeKind::TokenRetired),
            Self::Expiring { .. } => Some(NoticeKind::TokenExpiring),
            Self::Expired { .. } => Some(NoticeKind::TokenExpired),
            Self::Failing { .. } => Some(NoticeKind::DeliveryFailing),
            Self::Recovered { .. } => Some(NoticeKind::DeliveryRecovered),
            Self::Revoked { .. } => Some(NoticeKind::TokenRevoked),
            Self::Test => None,
        }
    }

    /// The kind's name, or `Test`.
    pub fn name(&self) -> &'static str {
        self.kind().map_or("Test", NoticeKind::as_str)
    }
}
