//! What a pass knows of the world: plain data for `plan`.

use std::sync::Arc;

use super::ledger::Ledger;
use super::secret::{SecretMeta, SecretSeen};
use crate::api::{Entry, TokenSecretStatus, VirtualAccountStatus};
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

    /// The Secret, if it was read in this pass.
    pub fn secret_read(&self) -> Option<&SecretSeen> {
        match &self.secret {
            SecretView::Read(seen) => seen.as_deref(),
            SecretView::Watched { .. } => None,
        }
    }
}

/// A resource version as a number (stable since Kubernetes 1.35; before that true of every release).
pub fn version_number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}
