//! What people can be told about an account.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum NoticeKind {
    /// Every target holds the new token.
    TokenRotated,
    /// A quarter of the previous token's grace is left, where that is a day or longer.
    GraceEnding,
    /// The previous token ended.
    TokenRetired,
    /// The token ends soon and no rotation will save it.
    TokenExpiring,
    /// The token ended, and none took its place.
    TokenExpired,
    /// A target has failed for a quarter of an hour.
    DeliveryFailing,
    /// That target works again.
    DeliveryRecovered,
    /// A token was revoked.
    TokenRevoked,
}

impl NoticeKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::TokenRotated,
        Self::GraceEnding,
        Self::TokenRetired,
        Self::TokenExpiring,
        Self::TokenExpired,
        Self::DeliveryFailing,
        Self::DeliveryRecovered,
        Self::TokenRevoked,
    ];

    /// What people hear of who name no kinds.
    pub const DEFAULT: [Self; 6] = [
        Self::TokenRotated,
        Self::TokenExpiring,
        Self::TokenExpired,
        Self::DeliveryFailing,
        Self::DeliveryRecovered,
        Self::TokenRevoked,
    ];

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenRotated => "TokenRotated",
            Self::GraceEnding => "GraceEnding",
            Self::TokenRetired => "TokenRetired",
            Self::TokenExpiring => "TokenExpiring",
            Self::TokenExpired => "TokenExpired",
            Self::DeliveryFailing => "DeliveryFailing",
            Self::DeliveryRecovered => "DeliveryRecovered",
            Self::TokenRevoked => "TokenRevoked",
        }
    }
}

impl fmt::Display for NoticeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
