//! The last known state of all objects of a kind, and how fresh it is.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use kube::Resource;

use super::item::{Item, key};
use super::scope::Part;
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
    /// A full list of this part is in the cache and each of its objects has been reported.
    Synced(Part),
}

/// What a [`super::Watch`] last saw, by namespace (empty for cluster-wide kinds) and name.
pub struct Cache<K> {
    inner: RwLock<Inner<K>>,
}

struct Inner<K> {
    objects: HashMap<AccountId, Arc<K>>,
    unreadable: BTreeSet<AccountId>,
    streams: Vec<Stream>,
}

/// How fresh one part is.
#[derive(Default)]
struct Stream {
    part: Part,
    heard: Option<Instant>,
    broken: Option<Instant>,
    denied: bool,
    shown: u64,
}

impl Stream {
    /// It was listed once, and now the operator has no right to it.
    fn is_lost(&self) -> bool {
        self.heard.is_some() && self.denied
    }

    fn trouble(&self, what: &str) -> Option<String> {
        let what = format!("{what}{}", self.part);
        let (silence, broken) = (self.heard.map(|at| at.elapsed()), self.broken.map(|at| at.elapsed()));
        match (silence, broken) {
            (None, _) if self.denied => Some(format!("the operator may not list {what}; apply its RBAC there")),
            (None, _) => Some(format!("{what} are not listed yet")),
            (_, Some(broken)) if broken > BROKEN && self.denied => Some(format!(
                "the operator may no longer watch {what}, since {} s; apply its RBAC there",
                broken.as_secs()
            )),
            (_, Some(broken)) if broken > BROKEN => {
                Some(format!("the watch of {what} has been broken for {} s", broken.as_secs()))
            }
            (Some(silence), _) if silence > SILENT => {
                Some(format!("the watch of {what} has been silent for {} s", silence.as_secs()))
            }
            _ => None,
        }
    }
}

impl<K> Cache<K> {
    pub(super) fn of(parts: Vec<Part>) -> Self {
        let streams = parts.into_iter().map(|part| Stream { part, ..Stream::default() }).collect();
        let inner = Inner { objects: HashMap::new(), unreadable: BTreeSet::new(), streams };
        Self { inner: RwLock::new(inner) }
    }

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

    /// Whether the first full list of every part is in.
    pub fn synced(&self) -> bool {
        self.silence().is_some()
    }

    /// How long ago the last list, event or bookmark arrived, of the part that is silent longest; `None` before the first
    /// list of every part.
    pub fn silence(&self) -> Option<Duration> {
        let heard: Option<Vec<Instant>> = self.read().streams.iter().map(|stream| stream.heard).collect();
        heard?.into_iter().min().map(|at| at.elapsed())
    }

    /// How long ago the last list, event or bookmark arrived of what is watched in a namespace; `None` before the first list
    /// of every part.
    pub fn silence_of(&self, namespace: &str) -> Option<Duration> {
        self.silence()?;
        let inner = self.read();
        let stream = inner.streams.iter().find(|stream| stream.part.covers(namespace))?;
        stream.heard.map(|at| at.elapsed())
    }

    /// For how long a stream is known to be broken; `None` if none is.
    pub fn broken_for(&self) -> Option<Duration> {
        self.read().streams.iter().filter_map(|stream| stream.broken).min().map(|at| at.elapsed())
    }

    /// Why what is here may be out of date, if so. `what`: the objects, for people. One namespace of several does not count
    /// when the operator has lost its rights there: whoever may take them must not stop it for all the others.
    pub fn trouble(&self, what: &str) -> Option<String> {
        let inner = self.read();
        let all = inner.streams.iter().all(Stream::is_lost);
        let mut counts = inner.streams.iter().filter(|stream| all || !stream.is_lost());
        counts.find_map(|stream| stream.trouble(what))
    }

    /// The parts that the operator has no right to, as the API server last said. What is known of them may be out of date.
    pub fn denied(&self) -> BTreeSet<Part> {
        let inner = self.read();
        inner.streams.iter().filter(|stream| stream.denied).map(|stream| stream.part.clone()).collect()
    }

    /// The version up to which the cache shows everything in a namespace: an object with a newer one is not missing, the
    /// watch lags.
    pub fn shown(&self, namespace: &str) -> u64 {
        let inner = self.read();
        inner.streams.iter().find(|stream| stream.part.covers(namespace)).map_or(0, |stream| stream.shown)
    }

    pub(super) fn part(&self, part: usize) -> Part {
        self.read().streams[part].part.clone()
    }

    pub(super) fn heard(&self, part: usize, version: &str) {
        let stream = &mut self.write().streams[part];
        stream.heard = Some(Instant::now());
        stream.shown = stream.shown.max(self::version(version));
    }

    /// The stream broke; `denied`: the API server says that the operator has no right to it. Whether that is news.
    pub(super) fn broke(&self, part: usize, denied: bool) -> bool {
        let stream = &mut self.write().streams[part];
        stream.broken.get_or_insert_with(Instant::now);
        let known = std::mem::replace(&mut stream.denied, denied);
        denied && !known
    }

    pub(super) fn connected(&self, part: usize) {
        let stream = &mut self.write().streams[part];
        (stream.broken, stream.denied) = (None, false);
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
    /// Takes a full list of a part as the truth, whatever the versions say (they fall when a backup of etcd is restored),
    /// and tells the difference: all that vanished, then all that there is. [`Cache::synced`] is the caller's to say, once
    /// all of that was reported.
    pub(super) fn replace(&self, part: usize, items: Vec<Item<K>>, version: &str) -> Vec<Change<K>> {
        let mut objects = HashMap::with_capacity(items.len());
        let mut unreadable = BTreeSet::new();
        for item in items {
            match item {
                Item::Read(object) => drop(objects.insert(key(object.as_ref()), Arc::new(*object))),
                Item::Unreadable { key, .. } => drop(unreadable.insert(key)),
            }
        }
        let mut inner = self.write();
        inner.streams[part].shown = self::version(version);
        let part = inner.streams[part].part.clone();
        let vanished: Vec<_> = inner
            .objects
            .extract_if(|key, _| part.covers(&key.namespace) && !objects.contains_key(key))
            .map(|(_, object)| Change::Deleted(object))
            .collect();
        let present: Vec<_> = objects.values().cloned().map(Change::Applied).collect();
        inner.objects.extend(objects);
        inner.unreadable.retain(|key| !part.covers(&key.namespace));
        inner.unreadable.append(&mut unreadable);
        vanished.into_iter().chain(present).chain([Change::Synced(part)]).collect()
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

#[cfg(test)]
mod tests {
    use super::super::Scope;
    use super::*;

    struct Age {
        heard: Option<u64>,
        broken: Option<u64>,
        denied: bool,
    }

    const FRESH: Age = Age { heard: Some(1), broken: None, denied: false };
    const LOST: Age = Age { heard: Some(600), broken: Some(500), denied: true };
    const DOWN: Age = Age { denied: false, ..LOST };
    const NEVER: Age = Age { heard: None, ..LOST };

    /// A cache of two namespaces, so many seconds after they were heard and broke.
    fn cache(ages: [&Age; 2]) -> Cache<()> {
        let ago = |seconds: u64| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let cache = Cache::of(Scope::of(["one".to_owned(), "two".to_owned()]).parts());
        for (stream, age) in cache.write().streams.iter_mut().zip(ages) {
            (stream.heard, stream.broken, stream.denied) = (age.heard.map(ago), age.broken.map(ago), age.denied);
        }
        cache
    }

    fn trouble(one: &Age, two: &Age) -> String {
        cache([one, two]).trouble("maps").unwrap_or_default()
    }

    #[test]
    fn a_namespace_whose_rights_are_lost_troubles_no_other() {
        assert_eq!(trouble(&FRESH, &LOST), "");
        assert_eq!(trouble(&LOST, &FRESH), "");
        let long_known = Age { broken: Some(1), ..LOST };
        assert_eq!(trouble(&FRESH, &long_known), "", "nor by its silence");
        assert_eq!(trouble(&LOST, &DOWN), "the watch of maps in namespace two has been broken for 500 s");
    }

    #[test]
    fn rights_count_where_nothing_was_seen_yet_and_where_all_are_lost() {
        let unseen = "the operator may not list maps in namespace two; apply its RBAC there";
        assert_eq!((trouble(&FRESH, &NEVER).as_str(), trouble(&LOST, &NEVER).as_str()), (unseen, unseen));
        let all = "the operator may no longer watch maps in namespace one, since 500 s; apply its RBAC there";
        assert_eq!(trouble(&LOST, &LOST), all);
    }

    #[test]
    fn what_is_denied_is_told_once_and_until_the_watch_is_back() {
        let cache = cache([&FRESH, &FRESH]);
        assert_eq!((cache.broke(1, true), cache.broke(1, true)), (true, false));
        assert_eq!(cache.denied(), [cache.part(1)].into());
        assert!(!cache.broke(1, false) && cache.denied().is_empty(), "it is down, which is another matter");
        assert!(cache.broke(1, true));
        cache.connected(1);
        assert!(cache.denied().is_empty());
        assert_eq!(trouble(&FRESH, &FRESH), "");
    }

    #[test]
    fn a_stream_is_trouble_once_it_was_broken_or_silent_for_too_long() {
        let ago = |age: Option<u64>| age.map(|age| Instant::now().checked_sub(Duration::from_secs(age)).unwrap());
        let trouble = |heard, broken, denied| {
            Stream { heard: ago(heard), broken: ago(broken), denied, ..Stream::default() }.trouble("keys")
        };
        // Seconds apart from the limits, for a slow machine.
        let (broken, silent) = (BROKEN.as_secs(), SILENT.as_secs());
        let table = [
            (None, None, false, Some("keys are not listed yet")),
            (None, Some(1), true, Some("the operator may not list keys")),
            (Some(0), None, false, None),
            (Some(silent - 20), None, false, None),
            (Some(silent + 1), None, false, Some("the watch of keys has been silent for")),
            (Some(0), Some(broken - 20), false, None),
            (Some(0), Some(broken - 20), true, None),
            (Some(0), Some(broken + 1), false, Some("the watch of keys has been broken for")),
            (Some(0), Some(broken + 1), true, Some("the operator may no longer watch keys, since")),
            (Some(silent + 1), Some(broken - 20), false, Some("the watch of keys has been silent for")),
        ];
        for (heard, broken, denied, expected) in table {
            let said = trouble(heard, broken, denied);
            let as_expected = match expected {
                Some(text) => said.as_deref().is_some_and(|said| said.starts_with(text)),
                None => said.is_none(),
            };
            assert!(as_expected, "{heard:?} {broken:?} {denied}: {said:?}, not {expected:?}");
        }
    }
}
