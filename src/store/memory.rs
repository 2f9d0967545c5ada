//! A store in memory, for tests: it behaves as [`Store`] says and fails when it is told to.
//!
//! It is the contract's reference: versions are numbered from 1, every write is a compare-and-set, and a version that was
//! retired is kept but can no longer be used.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{ErrorKind, Held, Mark, Presence, ProviderError, Store, Value, digest};

/// A store in memory. Clones share what it holds.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    secrets: BTreeMap<String, Secret>,
    faults: VecDeque<Fault>,
    calls: usize,
}

#[derive(Debug, Default)]
struct Secret {
    mark: Option<Mark>,
    versions: Vec<Version>,
}

struct Version {
    value: String,
    jti: Option<String>,
    ended: bool,
}

impl std::fmt::Debug for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Version({:?}, ended: {}, <redacted>)", self.jti, self.ended)
    }
}

#[derive(Clone, Debug)]
enum Fault {
    /// Nothing is done.
    Refuse(ProviderError),
    /// It is done, and nobody hears of it.
    Lose,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next calls, of whatever kind, do nothing and fail with this error.
    pub fn fail(&self, calls: usize, error: &ProviderError) {
        self.state().faults.extend(vec![Fault::Refuse(error.clone()); calls]);
    }

    /// The next calls, of whatever kind, are carried out, but their answers are lost.
    pub fn lose_answers(&self, calls: usize) {
        self.state().faults.extend(vec![Fault::Lose; calls]);
    }

    /// From now on no call fails by order.
    pub fn recover(&self) {
        self.state().faults.clear();
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// Somebody else's write: a new version, without any mark if the path was empty.
    pub fn put_by_hand(&self, path: &str, value: &str) {
        let version = Version { value: value.to_owned(), jti: None, ended: false };
        self.state().secrets.entry(path.to_owned()).or_default().versions.push(version);
    }

    /// Somebody else's deletion.
    pub fn wipe(&self, path: &str) {
        self.state().secrets.remove(path);
    }

    /// What consumers get now.
    pub fn value(&self, path: &str) -> Option<String> {
        self.state().secrets.get(path)?.versions.last().map(|version| version.value.clone())
    }

    /// The values of all versions that can be used, the oldest first.
    pub fn usable(&self, path: &str) -> Vec<String> {
        let state = self.state();
        let versions = state.secrets.get(path).into_iter().flat_map(|secret| &secret.versions);
        versions.filter(|version| !version.ended).map(|version| version.value.clone()).collect()
    }

    /// How many versions were ever written since the path was empty.
    pub fn versions(&self, path: &str) -> usize {
        self.state().secrets.get(path).map_or(0, |secret| secret.versions.len())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call: counted, refused or carried out, and heard of or not.
    fn call<T>(&self, act: impl FnOnce(&mut State) -> Result<T, ProviderError>) -> Result<T, ProviderError> {
        let mut state = self.state();
        state.calls += 1;
        match state.faults.pop_front() {
            Some(Fault::Refuse(error)) => Err(error),
            Some(Fault::Lose) => {
                let _ = act(&mut state);
                Err(ProviderError::new(ErrorKind::Unavailable, "AnswerLost", "the connection broke"))
            }
            None => act(&mut state),
        }
    }
}

impl Secret {
    fn held(&self) -> Held {
        let current = self.versions.last();
        let older = self.versions.split_last().map_or(&[][..], |(_, older)| older);
        Held {
            presence: Presence::Present,
            mark: self.mark.clone(),
            jti: current.and_then(|version| version.jti.clone()),
            digest: current.map(|version| digest(&version.value)),
            version: Some(self.versions.len().to_string()),
            older: older.iter().any(|version| !version.ended),
        }
    }
}

impl State {
    fn held(&self, path: &str) -> Held {
        self.secrets.get(path).map_or_else(Held::default, Secret::held)
    }

    /// Whether a path still is as it was seen. A mark that was put right since does not matter.
    fn still(&self, path: &str, seen: &Held) -> Result<(), ProviderError> {
        let held = self.held(path);
        if (held.presence, &held.version) == (seen.presence, &seen.version) {
            return Ok(());
        }
        Err(ProviderError::new(ErrorKind::Conflict, "Changed", format!("{path} has changed since it was read")))
    }
}

#[async_trait]
impl Store for Memory {
    async fn read(&self, path: &str) -> Result<Held, ProviderError> {
        self.call(|state| Ok(state.held(path)))
    }

    async fn write(&self, path: &str, value: &Value<'_>, over: &Held) -> Result<String, ProviderError> {
        let (token, mark) = (value.token.expose(), value.mark);
        self.call(|state| {
            state.still(path, over)?;
            let secret = state.secrets.entry(path.to_owned()).or_default();
            let there = secret.versions.last().is_some_and(|version| {
                version.jti.as_deref() == Some(&*mark.jti) && version.value == token && !version.ended
            });
            if !there {
                secret.versions.push(Version { value: token.to_owned(), jti: Some(mark.jti.clone()), ended: false });
            }
            secret.mark = Some(mark.clone());
            Ok(secret.versions.len().to_string())
        })
    }

    async fn retire(&self, path: &str, held: &Held, keep: &BTreeSet<String>) -> Result<(), ProviderError> {
        self.call(|state| {
            let current = held.version.as_ref().and_then(|version| version.parse::<usize>().ok()).unwrap_or_default();
            let versions = state.secrets.get_mut(path).map(|secret| secret.versions.iter_mut());
            for version in versions.into_iter().flatten().take(current.saturating_sub(1)) {
                let stays = version.jti.as_ref().map_or(!keep.is_empty(), |jti| keep.contains(jti));
                version.ended |= !stays;
            }
            Ok(())
        })
    }

    async fn delete(&self, path: &str, held: &Held) -> Result<(), ProviderError> {
        self.call(|state| {
            if state.secrets.contains_key(path) {
                state.still(path, held)?;
                state.secrets.remove(path);
            }
            Ok(())
        })
    }

    async fn check(&self) -> Result<(), ProviderError> {
        self.call(|_| Ok(()))
    }
}
