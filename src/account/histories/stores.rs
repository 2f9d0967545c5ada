//! Two simulated secret stores with the semantics of the trait. Store `a` compares before it sets and keeps the name of
//! what was deleted; store `b` does neither: a write that lands late replaces whatever is there.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};

use super::world::World;
use crate::account::desired::StorePath;
use crate::api::{Instant, ObjectId, Seconds};
use crate::integration::{ErrorKind, ProviderError};
use crate::store::{Admission, Held, Mark, Presence};

/// The paths that accounts use.
pub(super) const PATHS: [&str; 2] = ["/p", "/q"];

/// One store.
pub(super) struct Vault {
    name: &'static str,
    /// Whether a write names the version that it replaces.
    compares: bool,
    /// Until then no call gets an answer.
    pub(super) dead_until: Instant,
    /// Until then credentials are refused.
    pub(super) denied_until: Instant,
    /// While dead, that is known.
    pub(super) breaker: bool,
    /// Until then the account may not use it, for this reason.
    pub(super) refused_until: Instant,
    pub(super) refused: &'static str,
}

/// One path in a store.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) presence: Presence,
    pub(super) mark: Option<Mark>,
    /// Oldest first; consumers get the last one.
    pub(super) versions: Vec<Version>,
    pub(super) book: ShelfBook,
}

/// One version of a value.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) id: u64,
    pub(super) bytes: Vec<u8>,
    /// As the version itself tells.
    pub(super) jti: Option<String>,
    pub(super) usable: bool,
}

/// What a history remembers of a path to be able to judge.
#[derive(Default)]
pub(super) struct ShelfBook {
    /// Delivered since the spec names the path.
    pub(super) first: bool,
    /// What is there is not what was written last in order: somebody's hand, or a late write.
    pub(super) disturbed: bool,
    /// Tokens that were written late.
    pub(super) late: BTreeSet<String>,
    /// How many versions each token has got, and how many more than one are excused.
    pub(super) copies: BTreeMap<String, u32>,
    pub(super) excuses: u32,
    /// Nobody can know that our token is there, or people were told.
    pub(super) stray: bool,
    /// Its record went with a status.
    pub(super) unrecorded: bool,
    /// The world's version when it was emptied last.
    pub(super) emptied_at: u64,
}

/// A write as it was sent.
#[derive(Clone)]
pub(super) struct Put {
    pub(super) at: StorePath,
    pub(super) bytes: Vec<u8>,
    pub(super) mark: Mark,
    pub(super) over: Option<String>,
    /// The version of the account that the writer stood on.
    pub(super) base: u64,
}

/// The end of older versions, as it was sent.
#[derive(Clone)]
pub(super) struct Retire {
    pub(super) at: StorePath,
    pub(super) held: Option<String>,
    pub(super) keep: BTreeSet<String>,
}

/// A removal as it was sent.
#[derive(Clone)]
pub(super) struct Remove {
    pub(super) at: StorePath,
    pub(super) over: Option<String>,
    pub(super) base: u64,
}

impl Vault {
    pub(super) fn new(name: &'static str, now: Instant) -> Self {
        let refused = "NotAllowed";
        let (dead_until, denied_until, refused_until) = (now, now, now);
        Self { name, compares: name == "a", dead_until, denied_until, breaker: false, refused_until, refused }
    }
}

/// A path in one of the stores.
pub(super) fn place(store: &str, path: &str) -> StorePath {
    StorePath { store: ObjectId { namespace: "team".into(), name: store.into() }, path: path.into() }
}

impl Shelf {
    pub(super) fn current(&self) -> Option<&Version> {
        self.versions.last().filter(|_| self.presence == Presence::Present)
    }

    fn version(&self) -> Option<String> {
        self.versions.last().filter(|_| self.presence != Presence::Absent).map(|version| version.id.to_string())
    }

    fn held(&self, digests: bool) -> Held {
        let current = self.current();
        Held {
            presence: self.presence,
            mark: self.mark.clone(),
            jti: current.and_then(|version| version.jti.clone()),
            digest: current.filter(|_| digests).map(|version| sum(&version.bytes)),
            version: self.version(),
            older: self.older().any(|version| version.usable),
        }
    }

    /// All versions but the current one.
    pub(super) fn older(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().rev().skip(1)
    }

    /// Emptied by somebody.
    pub(super) fn empty(&mut self, at: u64, keeps_name: bool) {
        self.presence = if keeps_name { Presence::Deleted } else { Presence::Absent };
        if !keeps_name {
            self.versions.clear();
            self.mark = None;
        }
        self.book.first = false;
        self.book.disturbed = false;
        self.book.emptied_at = at;
        self.book.excuses += 1;
    }
}

fn sum(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

impl World {
    pub(super) fn vault(&self, at: &StorePath) -> &Vault {
        &self.vaults[usize::from(at.store.name == "b")]
    }

    pub(super) fn shelf(&mut self, at: &StorePath) -> &mut Shelf {
        self.shelves.entry(at.clone()).or_default()
    }

    pub(super) fn admit(&self, at: &StorePath) -> Admission {
        let vault = self.vault(at);
        if self.now < vault.refused_until {
            let message = format!("TokenStore {} may not be used", vault.name);
            return Admission::Refused { reason: vault.refused, message };
        }
        if vault.breaker && self.now < vault.dead_until {
            return Admission::Down { message: format!("TokenStore {} does not answer", vault.name) };
        }
        Admission::Open { take_over: Vec::new() }
    }

    fn answers(&mut self, at: &StorePath) -> Result<(), ProviderError> {
        let vault = self.vault(at);
        let (dead, denied) = (self.now < vault.dead_until, self.now < vault.denied_until);
        if dead && self.chance(0.3) {
            let error = ProviderError::new(ErrorKind::Throttled, "SlowDown", "the store asks for patience");
            return Err(ProviderError { retry_after: Some(Seconds(90)), ..error });
        }
        if dead {
            return Err(ProviderError::new(ErrorKind::Unavailable, "Unavailable", "the store does not answer"));
        }
        if denied { Err(ProviderError::new(ErrorKind::Denied, "AccessDenied", "403")) } else { Ok(()) }
    }

    pub(super) fn read_store(&mut self, at: &StorePath, by: usize) -> Result<Held, ProviderError> {
        self.answers(at)?;
        self.calls.store_reads += 1;
        let digests = self.vault(at).compares;
        let held = self.shelf(at).held(digests);
        self.log(format!("w{by} reads {}{}: {:?} {:?}", at.store.name, at.path, held.presence, held.jti));
        Ok(held)
    }

    pub(super) fn put(&mut self, put: &Put, by: usize) -> Result<String, ProviderError> {
        self.answers(&put.at)?;
        let compares = self.vault(&put.at).compares;
        let dies = self.faults && self.chance(0.05);
        let slot = self.shelf(&put.at);
        let raced = slot.version() != put.over;
        let same =
            slot.current().is_some_and(|there| there.jti.as_ref() == Some(&put.mark.jti) && there.bytes == put.bytes);
        if compares && raced && !same {
            return Err(ProviderError::new(ErrorKind::Conflict, "Conflict", "another version is there"));
        }
        self.calls.store_writes += 1;
        let disturbed = self.shelf(&put.at).book.disturbed;
        self.judge_put(put, raced, same && (compares || !raced), by);
        let id = self.bump().parse().unwrap_or_default();
        let slot = self.shelf(&put.at);
        let new = slot.presence == Presence::Absent;
        // A repeated write adds no version where that can be told: to put the mark right is all that is left.
        if !same || (raced && !compares) {
            let jti = Some(put.mark.jti.clone());
            slot.versions.push(Version { id, bytes: put.bytes.clone(), jti, usable: true });
        }
        slot.presence = Presence::Present;
        // The value comes before the mark, and the call may end between the two.
        if dies && !new {
            self.log("the mark is not written");
            // What somebody's hand did to the old one is still there.
            self.shelf(&put.at).book.disturbed |= disturbed;
            return Err(ProviderError::new(ErrorKind::Unavailable, "Timeout", "the store does not answer in time"));
        }
        let slot = self.shelf(&put.at);
        slot.mark = Some(put.mark.clone());
        Ok(slot.version().unwrap_or_default())
    }

    pub(super) fn retire(&mut self, retire: &Retire) -> Result<String, ProviderError> {
        self.answers(&retire.at)?;
        self.calls.store_writes += 1;
        let below = retire.held.as_deref().and_then(|id| id.parse::<u64>().ok()).unwrap_or_default();
        let keeps = |version: &Version| match &version.jti {
            Some(jti) => retire.keep.contains(jti),
            None => !retire.keep.is_empty(),
        };
        let ends = |version: &Version| version.id < below && version.usable && !keeps(version);
        let ended: Vec<Version> =
            self.shelf(&retire.at).versions.iter().filter(|version| ends(version)).cloned().collect();
        self.judge_retired(&retire.at, below, &ended);
        for version in self.shelf(&retire.at).versions.iter_mut().filter(|version| ends(version)) {
            version.usable = false;
        }
        Ok(String::new())
    }

    // No store compares before it deletes.
    pub(super) fn remove(&mut self, remove: &Remove, by: usize) -> Result<String, ProviderError> {
        self.answers(&remove.at)?;
        self.calls.store_writes += 1;
        let keeps_name = self.vault(&remove.at).compares;
        let slot = self.shelf(&remove.at);
        let raced = slot.version() != remove.over || slot.presence != Presence::Present;
        self.judge_removed(remove, raced, by);
        self.bump();
        let at = self.version;
        let named = self.is_named(&remove.at);
        let slot = self.shelf(&remove.at);
        slot.empty(at, keeps_name);
        // A removal that lands late; the next look fills the path again.
        slot.book.disturbed = named;
        Ok(String::new())
    }
}
