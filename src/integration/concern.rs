//! Which accounts should be looked at again when something around them has changed.

use std::sync::Arc;

use crate::api::ObjectId;

/// Called when accounts should be looked at again; must not block.
pub type Tell = Arc<dyn Fn(Concern) + Send + Sync>;

/// Whose accounts a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Those that use this TokenStore: its spec changed, it is being deleted or gone, or it is no longer down.
    Store(ObjectId),
    /// Those that use this NotificationChannel: its spec changed, or it is being deleted or gone.
    Channel(ObjectId),
    /// Those in this namespace: its labels changed, or it is being deleted.
    Namespace(String),
}
