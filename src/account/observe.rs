//! What a pass knows of the world: plain data for `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::desired::{Desired, StorePath};
use super::ledger::{Ledger, is_at};
use super::secret::{SecretMeta, SecretSeen};
use crate::api::{Entry, ObjectId, SecretStoreStatus, TokenSecretStatus, VirtualAccountStatus};
use crate::notify;
use crate::store::Admission;
use crate::token::{Ring, Standing};

/// The world as one pass sees it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The account's `resourceVersion`.
    pub version: u64,
    /// The status as stored; `None` if it is another account's.
    pub status: Option<VirtualAccountStatus>,
    /// The part of it that is about tokens.
    pub ledger: Ledger,
    /// The token Secret.
    pub secret: SecretView,
    /// Secrets with our label that the account no longer names.
    pub strays: Vec<SecretMeta>,
    /// Whether each path in a store that the spec names or the status records may be used.
    pub admissions: BTreeMap<StorePath, Admission>,
    /// A fingerprint of where each of these paths really is, where that is known.
    pub places: BTreeMap<StorePath, String>,
    /// What the channels say that the spec names.
    pub channels: BTreeMap<ObjectId, notify::Admission>,
    /// What became of notices that were handed out to be sent, by id.
    pub reports: BTreeMap<String, notify::Report>,
    /// After an ordered read that found something to adopt: the tokens that the marks of readable stores name.
    pub marks: BTreeSet<String>,
    /// Whether our finalizer holds the account back.
    pub finalizer: bool,
    /// Whether the account's namespace is being deleted.
    pub namespace_terminating: bool,
    /// The signing keys; `None` until the key ring was read for the first time.
    pub ring: Option<Arc<Ring>>,
    /// Why nothing may be signed anew, if so: the key ring's trouble, with the cure.
    pub ring_trouble: Option<String>,
    /// The local clock agrees with the API server's.
    pub clock_trusted: bool,
    /// The id of the next token, should there be one.
    pub fresh_id: String,
    /// Whether a successor may be issued only because the operator's limits changed (`--reissue-rate`).
    pub may_reissue: bool,
}

/// The token Secret, as far as it is known.
#[derive(Clone, Debug, PartialEq)]
pub enum SecretView {
    /// From the watch of metadata. `position`: the newest version that this watch has shown of any Secret; a Secret with
    /// a newer recorded version is not missing, the watch lags.
    Watched {
        /// `None`: the watch shows none of this name.
        meta: Option<SecretMeta>,
        /// See above.
        position: u64,
    },
    /// Read from the API server, before the account was ("ordered read").
    Read(Option<Box<SecretSeen>>),
}

impl Observed {
    /// Whether an entry's key can sign.
    pub fn standing(&self, entry: &Entry) -> Standing {
        self.ring.as_ref().map_or(Standing::Missing, |ring| ring.standing(&entry.key_id, entry.issued_at))
    }

    /// The recorded state of the Secret of this name.
    pub fn secret_status(&self, name: &str) -> Option<&TokenSecretStatus> {
        self.status.as_ref()?.token_secret.as_ref().filter(|secret| secret.name == name)
    }

    /// The recorded state of this path in a store.
    pub fn store_status(&self, at: &StorePath) -> Option<&SecretStoreStatus> {
        self.status.as_ref()?.secret_stores.iter().find(|record| is_at(record, at))
    }

    /// Whether nothing is recorded of this path, so that nothing may have been written there.
    pub fn is_new_to_stores(&self, at: &StorePath) -> bool {
        self.store_status(at).is_none()
    }

    /// Whether a status was lost: a path that it may have recorded must not be forgotten.
    pub fn has_lost_status(&self) -> bool {
        self.finalizer && self.status.is_none()
    }

    /// Whether this path may be used.
    pub fn admission(&self, at: &StorePath) -> &Admission {
        // Every path of spec and status is looked up before the plan is made.
        self.admissions.get(at).unwrap_or(&UNKNOWN)
    }

    /// The records of paths that are to be cleaned up: those that the spec no longer names; all of them, and what the spec
    /// names, if the account is being deleted and held back for it.
    pub fn unwanted_stores(&self, desired: &Desired) -> Vec<SecretStoreStatus> {
        let mut recorded = self.status.as_ref().map(|status| status.secret_stores.clone()).unwrap_or_default();
        // The spec may have changed its mind since.
        for record in &mut recorded {
            if let Some(named) = desired.stores.iter().find(|store| is_at(record, &store.at)) {
                record.deletion_policy = named.policy;
            }
        }
        if !desired.deleting() {
            let named = |record: &SecretStoreStatus| desired.stores.iter().any(|store| is_at(record, &store.at));
            return recorded.into_iter().filter(|record| !named(record)).collect();
        }
        if !self.finalizer {
            return Vec::new();
        }
        // A status that was lost must not leave tokens behind. With a recorded one all is known.
        let unrecorded =
            desired.stores.iter().filter(|store| self.status.is_none() && self.is_new_to_stores(&store.at));
        let unrecorded: Vec<SecretStoreStatus> = unrecorded
            .map(|store| SecretStoreStatus {
                store_ref: store.at.store.clone(),
                secret_path: store.at.path.clone(),
                deletion_policy: store.policy,
                failures: Some(0),
                ..SecretStoreStatus::default()
            })
            .collect();
        recorded.into_iter().chain(unrecorded).collect()
    }

    /// Whether the Secret was read before the account was, in this pass.
    pub fn was_read(&self) -> bool {
        matches!(self.secret, SecretView::Read(_))
    }

    /// Whether the spec has changed since the status was written.
    pub fn is_new_generation(&self, desired: &Desired) -> bool {
        self.status.as_ref().and_then(|status| status.observed_generation) != Some(desired.generation)
    }

    /// The Secret, if it was read in this pass.
    pub fn secret_read(&self) -> Option<&SecretSeen> {
        match &self.secret {
            SecretView::Read(seen) => seen.as_deref(),
            SecretView::Watched { .. } => None,
        }
    }
}

static UNKNOWN: Admission = Admission::Refused { reason: "StoreNotFound", message: String::new() };

/// A resource version as a number (stable since Kubernetes 1.35; before that true of every release).
pub fn version_number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}
