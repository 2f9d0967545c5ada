//! The last known state of all objects of a kind, and how fresh it is.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use kube::Resource;

use super::item::{Item, key};
use crate::api::AccountId;

/// A watch may be known to be broken for this long before it is trouble.
const BROKEN: Duration = Duration::from_secs(30);
/// And silent for this long: the oldest that anything without trouble can be.
pub const SILENT: Duration = Duration::from_secs(150);

/// What a watch found.
#[derive(Clone)]
pub enum Change<K> {
    /// The object is new or changed; after a list, also if it did not change.
    Applied(Arc<K>),
    /// The object is gone, no longer matches the selector or can no longer be read (see [`Cache::unreadable`]); this
    /// is its last known state.
    Deleted(Arc<K>),
    /// A full list is in the cache and each of its objects has been reported.
    Synced,
}

/// What a [`super::Watch`] last saw, by namespace (empty for cluster-wide kinds) and name.
pub struct Cache<K> {
    inner: RwLock<Inner<K>>,
}

struct Inner<K> {
    objects: HashMap<AccountId, Arc<K>>,
    unreadable: BTreeSet<AccountId>,
    heard: Option<Instant>,
    broken: Option<Instant>,
    shown: u64,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        let inner = Inner { objects: HashMap::new(), unreadable: BTreeSet::new(), heard: None, broken: None, shown: 0 };
        Self { inner: RwLock::new(inner) }
    }
}

impl<K> Cache<K> {
    /// The object as last seen.
    pub fn get(&self, key: &AccountId) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// The keys of all objects, in no order.
    pub fn keys(&self) -> Vec<AccountId> {
        self.read().objects.keys().cloned().collect()
    }

    /// All objects, in no order.
    pub fn values(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Objects that exist but that this version of the operator cannot read. They are in no other answer of the cache,
    /// so whoever concludes something from the absence of an object must look here too.
    pub fn unreadable(&self) -> BTreeSet<AccountId> {
        self.read().unreadable.clone()
    }

    /// Whether the first full list is in.
    pub fn synced(&self) -> bool {
        self.read().heard.is_some()
    }

    /// How long ago the last list, event or bookmark arrived; `None` before the first list.
    pub fn silence(&self) -> Option<Duration> {
        self.read().heard.map(|at| at.elapsed())
    }

    /// For how long the stream is known to be broken; `None` if it is not.
    pub fn broken_for(&self) -> Option<Duration> {
        self.read().broken.map(|at| at.elapsed())
    }

    /// Why what is here may be out of date, if so. `what`: the objects, for people.
    pub fn trouble(&self, what: &str) -> Option<String> {
        let (silence, broken) = (self.silence(), self.broken_for());
        match (silence, broken) {
            (None, _) => Some(format!("{what} are not listed yet")),
            (_, Some(broken)) if broken > BROKEN => {
                Some(format!("the watch of {what} has been broken for {} s", broken.as_secs()))
            }
            (Some(silence), _) if silence > SILENT => {
                Some(format!("the watch of {what} has been silent for {} s", silence.as_secs()))
            }
            _ => None,
        }
    }

    /// The version up to which the cache shows everything: an object with a newer one is not missing, the watch lags.
    pub fn shown(&self) -> u64 {
        self.read().shown
    }

    pub(super) fn heard(&self, version: &str) {
        let mut inner = self.write();
        inner.heard = Some(Instant::now());
        inner.shown = inner.shown.max(self::version(version));
    }

    pub(super) fn broke(&self) {
        self.write().broken.get_or_insert_with(Instant::now);
    }

    pub(super) fn connected(&self) {
        self.write().broken = None;
    }

    // A poisoned lock is only one whose holder panicked between two map operations; each leaves the maps whole.
    fn read(&self) -> RwLockReadGuard<'_, Inner<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Resource<DynamicType = ()>> Cache<K> {
    /// Takes a full list as the truth, whatever the versions say (they fall when a backup of etcd is restored), and
    /// tells the difference: all that vanished, then all that there is. [`Cache::synced`] is the caller's to say, once all
    /// of that was reported.
    pub(super) fn replace(&self, items: Vec<Item<K>>, version: &str) -> Vec<Change<K>> {
        let mut objects = HashMap::with_capacity(items.len());
        let mut unreadable = BTreeSet::new();
        for item in items {
            match item {
                Item::Read(object) => drop(objects.insert(key(object.as_ref()), Arc::new(*object))),
                Item::Unreadable { key, .. } => drop(unreadable.insert(key)),
            }
        }
        let mut inner = self.write();
        let before = std::mem::replace(&mut inner.objects, objects);
        inner.unreadable = unreadable;
        inner.shown = self::version(version);
        let vanished = before.into_iter().filter(|(key, _)| !inner.objects.contains_key(key));
        let vanished = vanished.map(|(_, object)| Change::Deleted(object));
        let present = inner.objects.values().cloned().map(Change::Applied);
        vanished.chain(present).chain([Change::Synced]).collect()
    }

    /// Takes an event, unless it tells no news.
    pub(super) fn apply(&self, item: Item<K>) -> Option<Change<K>> {
        let key = item.key();
        let mut inner = self.write();
        if inner.objects.get(&key).is_some_and(|known| version(item.version()) <= stored(known)) {
            return None;
        }
        match item {
            Item::Read(object) => {
                let object = Arc::new(*object);
                inner.unreadable.remove(&key);
                inner.objects.insert(key, Arc::clone(&object));
                Some(Change::Applied(object))
            }
            Item::Unreadable { key, .. } => {
                let known = inner.objects.remove(&key);
                inner.unreadable.insert(key);
                known.map(Change::Deleted)
            }
        }
    }

    /// Takes a deletion, unless the object is newer than it.
    pub(super) fn remove(&self, item: &Item<K>) -> Option<Change<K>> {
        let key = item.key();
        let mut inner = self.write();
        if inner.objects.get(&key).is_some_and(|known| version(item.version()) < stored(known)) {
            return None;
        }
        inner.unreadable.remove(&key);
        inner.objects.remove(&key).map(Change::Deleted)
    }
}

fn stored<K: Resource>(object: &Arc<K>) -> u64 {
    object.meta().resource_version.as_deref().map_or(0, version)
}

/// A resourceVersion as a number, as Kubernetes defines their order; 0 for what is none.
pub fn version(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}
