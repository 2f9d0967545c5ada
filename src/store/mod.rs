//! Secret stores: what every provider can do ([`Store`]), what is decided for all of them ([`judge`]), and the mark that
//! says whose a secret is. Knows no accounts: it is told whose token it writes.
//!
//! ```text
//!  TokenStore --registry--> Box<dyn Store> --guard--> read, write, retire, delete
//! ```

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use aws_lc_rs::digest::SHA256;

use crate::integration::{Credential, ErrorKind, Identity, Network, ProviderError};
use crate::token::Token;

mod admission;
mod aws;
pub mod aws_parameter_store;
pub mod aws_secrets_manager;
pub mod azure_key_vault;
mod breaker;
mod controller;
pub mod google_secret_manager;
mod guard;
mod mark;
pub mod memory;
pub mod open;
pub mod path;
mod place;
mod provider;
pub mod registry;
mod slot;
mod status;
pub mod vault;

pub use crate::integration::NOT_ALLOWED;
pub use admission::{Ambient, STORE_NOT_READY};
pub use breaker::STORE_DOWN;
pub use controller::Users;
pub use google_secret_manager::GoogleSecretManager;
pub use mark::{Mark, Owner, UNMARKED};
pub use memory::Memory;
pub use open::Open;
pub use provider::Provider;
pub use registry::Registry;
pub use vault::Vault;

/// What a provider can do with one path. A provider does what it is told: whether a path may be written or deleted was
/// decided by [`judge`] on what its own [`Store::read`] showed.
#[async_trait]
pub trait Store: Send + Sync {
    /// What the path holds.
    async fn read(&self, path: &str) -> Result<Held, ProviderError>;

    /// Writes a new version over what `over` showed, with its mark; the new version. Fails with [`ErrorKind::Conflict`]
    /// if something else is there by now, as far as the provider can tell. Repeated with the same `jti` after a lost answer
    /// it adds no second version.
    async fn write(&self, path: &str, value: &Value<'_>, over: &Held) -> Result<String, ProviderError>;

    /// Ends every older version but those whose token is one of `keep`. A version whose token the provider cannot tell
    /// stays while `keep` is not empty.
    async fn retire(&self, path: &str, held: &Held, keep: &BTreeSet<String>) -> Result<(), ProviderError>;

    /// Removes the secret that `held` showed.
    async fn delete(&self, path: &str, held: &Held) -> Result<(), ProviderError>;

    /// Whether credentials and reach are good: one cheap call that needs no more rights than deliveries do.
    async fn check(&self) -> Result<(), ProviderError>;
}

/// What is written.
#[derive(Debug)]
pub struct Value<'a> {
    /// The token.
    pub token: &'a Token,
    /// Whose it is, and which.
    pub mark: &'a Mark,
}

/// What a path holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Whether there is something.
    pub presence: Presence,
    /// Whose it is and which token was last put there; `None`: it has no mark that can be read.
    pub mark: Option<Mark>,
    /// The `jti` of the value that consumers get now, as that very version tells; `None` if it does not: somebody else
    /// wrote it, or nothing is there. It differs from the mark's where a writer died between value and mark.
    pub jti: Option<String>,
    /// SHA-256 of that value, where reading shows it.
    pub digest: Option<[u8; 32]>,
    /// The store's own version of the current value, for compare-and-set.
    pub version: Option<String>,
    /// Whether versions older than the current one can still be used, so that [`Store::retire`] has something to do.
    pub older: bool,
}

/// Whether a path holds something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// Nothing.
    #[default]
    Absent,
    /// Something that was deleted and still blocks the name: it is restored before it is written.
    Deleted,
    /// Something. It may have no value yet.
    Present,
}

/// What may be done with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds the token; nothing to write.
    Holds,
    /// It may be written.
    Write,
    /// It is ours and holds a token that is not older, or that may not be: only an ordered read can tell whether it may be
    /// written.
    NotOlder {
        /// The token it holds.
        jti: String,
    },
    /// It is somebody else's.
    NotOurs {
        /// Whose, for people.
        owner: String,
    },
}

/// Decides what may be done with a path that is to hold the token of `want`. `take_over`: whose secrets may be taken over
/// (cluster ids, or [`UNMARKED`]).
pub fn judge(held: &Held, want: &Mark, digest: &[u8; 32], take_over: &[String]) -> Verdict {
    if held.presence == Presence::Absent {
        return Verdict::Write;
    }
    // Where value and mark are two calls, a writer may have died between them. Nobody else has this very token.
    let unmarked_own = held.mark.is_none() && held.jti.as_ref() == Some(&want.jti) && held.digest == Some(*digest);
    if let Some(owner) = foreign(held, &want.owner, take_over).filter(|_| !unmarked_own) {
        return Verdict::NotOurs { owner };
    }
    let intact = held.digest.is_none_or(|held| held == *digest);
    if held.presence == Presence::Present && held.jti.as_ref() == Some(&want.jti) && intact {
        // A mark that lags behind its value is put right by writing again, which adds no version.
        let marked = held.mark.as_ref().is_some_and(|mark| mark == want);
        return if marked { Verdict::Holds } else { Verdict::Write };
    }
    let mark = held.mark.as_ref().filter(|mark| mark.owner.same_account(&want.owner));
    match (mark, &held.jti) {
        // A writer died between value and mark: how old the value is, the path does not tell.
        (Some(mark), Some(jti)) if *jti != mark.jti && *jti != want.jti => Verdict::NotOlder { jti: jti.clone() },
        (None, Some(jti)) if held.mark.is_none() && *jti != want.jti => Verdict::NotOlder { jti: jti.clone() },
        (Some(mark), _) if mark.jti != want.jti && mark.sequence >= want.sequence => {
            Verdict::NotOlder { jti: mark.jti.clone() }
        }
        _ => Verdict::Write,
    }
}

/// SHA-256 of a value: what [`Held::digest`] says of a stored one and [`judge`] wants of the token.
pub fn digest(value: &str) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&SHA256, value.as_bytes()).as_ref());
    digest
}

/// Whose a path is, for people, if it is neither this account's nor may be taken over.
pub fn foreign(held: &Held, owner: &Owner, take_over: &[String]) -> Option<String> {
    let allowed = |whose: &str| take_over.iter().any(|allowed| allowed == whose);
    match &held.mark {
        _ if held.presence == Presence::Absent => None,
        None => (!allowed(UNMARKED)).then(|| "somebody else: it has no mark of this operator".to_owned()),
        Some(mark) if mark.owner.same_account(owner) => None,
        // Another cluster's secret of the same account may be taken over; another account's never.
        Some(mark) if mark.owner.account == owner.account && allowed(&mark.owner.cluster) => None,
        Some(mark) if mark.owner.cluster == owner.cluster => Some(format!("virtual account {}", mark.owner.account)),
        Some(mark) => Some(format!("virtual account {} of cluster {}", mark.owner.account, mark.owner.cluster)),
    }
}

/// Whether an account may use a path in a store, and whether it is worth trying now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Open {
        /// TokenStore spec.takeOverFrom.
        take_over: Vec<String>,
    },
    /// It may not, or the path cannot be written in this provider: somebody must act.
    Refused {
        /// For programs: `NotAllowed`, `StoreNotFound`, `InvalidPath`, `StoreNotReady`.
        reason: &'static str,
        /// What to do, for people.
        message: String,
    },
    /// The store is known to be down; its own check finds out when that is over. Nobody's failure is counted.
    Down {
        /// What is known, for people; it does not change while the store is down.
        message: String,
    },
}

impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::Deleted => "deleted",
            Self::Present => "present",
        })
    }
}
