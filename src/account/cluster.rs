//! What a pass needs from the outside, and why a call to it did not do what was asked. The real one is the controller; tests
//! simulate one that loses answers, freezes and reads stale.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::desired::{Limits, StorePath};
use super::secret::SecretMeta;
use crate::api::{AccountId, Instant, ObjectId, VirtualAccount, VirtualAccountStatus};
use crate::integration::ProviderError;
use crate::notify::{self, Posted};
use crate::store::{Admission, Held, Value};
use crate::token::Ring;

/// What a pass needs from the outside. The real one is in `controller`; tests simulate one that loses answers, freezes
/// and reads stale.
pub trait Cluster: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Instant;
    /// Whether it agrees with the API server's.
    fn clock_trusted(&self) -> bool;
    /// An id that no token has.
    fn fresh_id(&self) -> String;
    /// The operator's settings.
    fn limits(&self) -> Arc<Limits>;
    /// The signing keys, and why they may not sign anew, if so.
    fn keys(&self) -> (Option<Arc<Ring>>, Option<String>);
    /// Whether a successor may be issued only because the limits changed.
    fn may_reissue(&self) -> bool;
    /// The account: the newer of the watch and our own last write.
    fn account(&self, id: &AccountId) -> Option<Arc<VirtualAccount>>;
    /// Our own last write or read of the account; `None`: the answer to a write was lost.
    fn remember(&self, id: &AccountId, account: Option<&VirtualAccount>);
    /// What the watch shows of Secrets with the account's label, and the newest version that it has shown.
    fn secrets(&self, id: &AccountId) -> (Vec<SecretMeta>, u64);

    /// Reads a Secret.
    fn read_secret(&self, id: &AccountId) -> impl Future<Output = Result<Option<Secret>, CallError>> + Send;
    /// Reads an account.
    fn read_account(&self, id: &AccountId) -> impl Future<Output = Result<Option<VirtualAccount>, CallError>> + Send;
    /// Replaces the status of exactly this version of the account.
    fn write_status(
        &self,
        account: &VirtualAccount,
        status: VirtualAccountStatus,
    ) -> impl Future<Output = Result<VirtualAccount, CallError>> + Send;
    /// Creates a Secret; returns its version.
    fn create_secret(&self, secret: &Secret) -> impl Future<Output = Result<String, CallError>> + Send;
    /// Replaces exactly the version that the Secret's metadata names; returns the new one.
    fn replace_secret(&self, secret: &Secret) -> impl Future<Output = Result<String, CallError>> + Send;
    /// Deletes exactly this object in exactly this version.
    fn delete_secret(&self, namespace: &str, meta: &SecretMeta) -> impl Future<Output = Result<(), CallError>> + Send;
    /// Sets or removes our finalizer on exactly this version of the account.
    fn write_finalizer(
        &self,
        account: &VirtualAccount,
        there: bool,
    ) -> impl Future<Output = Result<VirtualAccount, CallError>> + Send;

    /// Whether accounts of this namespace may use a path in a store; from what the watches show.
    fn admit(&self, namespace: &str, at: &StorePath) -> Admission;
    /// A fingerprint of where a path really is; `None`: not known.
    fn place(&self, at: &StorePath) -> Option<String>;
    /// Whether this store is being deleted.
    fn store_deleting(&self, store: &ObjectId) -> bool;
    /// Whether this namespace is being deleted.
    fn namespace_terminating(&self, namespace: &str) -> bool;
    /// What a path in a store holds.
    fn read_store(&self, at: &StorePath) -> impl Future<Output = Result<Held, ProviderError>> + Send;
    /// Writes over what was read; the new version.
    fn write_store(
        &self,
        at: &StorePath,
        value: &Value<'_>,
        over: &Held,
    ) -> impl Future<Output = Result<String, ProviderError>> + Send;
    /// Ends older versions but those that hold one of these tokens.
    fn retire_store(
        &self,
        at: &StorePath,
        held: &Held,
        keep: &BTreeSet<String>,
    ) -> impl Future<Output = Result<(), ProviderError>> + Send;
    /// Removes what was read.
    fn delete_store(&self, at: &StorePath, held: &Held) -> impl Future<Output = Result<(), ProviderError>> + Send;
    /// Whether accounts of this namespace may use a channel.
    fn channel(&self, namespace: &str, channel: &ObjectId) -> notify::Admission;
    /// What became of the account's notices, by id.
    fn reports(&self, id: &AccountId) -> BTreeMap<String, notify::Report>;
    /// Hands out what is still to be sent for the account: the whole set. Never waits.
    fn post(&self, id: &AccountId, letters: Vec<Posted>);
    /// Tells people what stays in stores although the account goes.
    fn left_behind(&self, account: &VirtualAccount, at: &StorePath, why: &str);
}

/// Why a call did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Another version, already there, or not there.
    #[error("the object has changed meanwhile")]
    Conflict,
    /// The API server refuses this object: counted on the target.
    #[error("refused by the API server: {reason}: {message}")]
    Refused {
        /// The API server's reason.
        reason: String,
        /// The API server's message; holds no content of Secrets.
        message: String,
    },
    /// The API server cannot be reached or is overloaded: nobody's fault, tried again soon.
    #[error("the API server is not available: {0}")]
    Unavailable(String),
}

impl CallError {
    /// For metrics and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict => "Conflict",
            Self::Refused { .. } => "Refused",
            Self::Unavailable(_) => "Unavailable",
        }
    }
}
