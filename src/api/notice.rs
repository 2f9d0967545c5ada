//! Who is told what about an account, and what became of it: parts of spec and status.

// The derives repeat each struct inside a function of their own.
#![allow(unreachable_pub)]

use std::fmt;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Instant, ObjectId, ObjectRef, TargetError};

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

/// An e-mail address in a rule: of ASCII, with a domain of labels, no label empty.
pub(super) const ADDRESS: &str = r"[A-Za-z0-9.!#$%&\'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*";

/// Who is told of what, by which channel.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationTarget {
    /// The NotificationChannel.
    pub channel_ref: ObjectRef,
    /// The recipients, 1 to 50 addresses. Needed for mail, and of no meaning for other media.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 50), inner(length(min = 3, max = 254)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(format!("self.all(a, a.matches('^{ADDRESS}$'))")).message("each must be a bare e-mail address, for example alice@example.com")
    )]
    pub to_emails: Option<Vec<String>>,
    /// Where a Slack bot posts: ids or names of channels, at most 20. Default: the bot's own. Of no meaning for other media.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20), inner(length(min = 1, max = 80), regex(pattern = r"^#?[^\s#,]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub channels: Option<Vec<String>>,
    /// The kinds of notice. Default: TokenRotated, TokenExpiring, TokenExpired, DeliveryFailing, DeliveryRecovered and
    /// TokenRevoked. On request: GraceEnding and TokenRetired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub events: Option<Vec<NoticeKind>>,
}

/// One notice to one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Its id: the same in every repeat. A receiver that knows it already can drop it.
    #[schemars(length(max = 64))]
    pub id: String,
    /// What it tells.
    pub kind: NoticeKind,
    /// The NotificationChannel.
    pub channel_ref: ObjectId,
    /// A fingerprint of the recipients that the target names, 16 hexadecimal digits; absent if it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub recipients: Option<String>,
    /// The token it is about.
    #[schemars(length(max = 64))]
    pub jwt_id: String,
    /// When it came about.
    pub at: Instant,
    /// What else it is about: the target that fails, or how long before its end a token is warned of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub about: Option<String>,
    /// Since when that target failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Instant>,
    /// The instant that it warns of: the end of a token or of its grace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Instant>,
    /// The other token: the previous one of a rotation, the successor of one that was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub other_jwt_id: Option<String>,
    /// Why: the reason of the rotation, the path of the revocation, the error of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub cause: Option<String>,
    /// Pending: still to be sent. Sent. Failed: the channel refused it, or could not be reached for 24 hours.
    pub state: NotificationState,
    /// When it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Instant>,
    /// Since when sending it fails; after 24 hours it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Instant>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TargetError>,
}

/// What became of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NotificationState {
    /// Still to be sent.
    Pending,
    /// Sent.
    Sent,
    /// Given up.
    Failed,
}
