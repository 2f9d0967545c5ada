//! All TokenStores: who may use which, and the calls to them. What accounts see of stores.
//!
//! Knows no accounts: it is told which of them use a store, and tells which stores and namespaces have changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::{Client, Resource};

use super::admission::{Ambient, INVALID_PATH, Refusal, STORE_NOT_READY, Subject};
use super::breaker::Down;
use super::cluster_identity::ClusterIdentity;
use super::news::News;
use super::place::place;
use super::slot::{Blueprint, Slot};
use super::status::Timing;
use super::{Admission, ErrorKind, Held, Network, Open, STORE_DOWN, Store, StoreError, Value, path};
use crate::api::{AccountId, Seconds, StoreId, TokenStore};
use crate::clock;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::watch::{Cache, Change, Watch, prune_managed_fields};

/// What a registry is made of.
pub struct Parts {
    /// The client; its own retries off.
    pub client: Client,
    /// How a store is opened: [`super::open::providers`].
    pub open: Open,
    /// What calls may reach, and how long each may take (`--store-timeout`).
    pub network: Network,
    /// `--store-concurrency`
    pub concurrency: usize,
    /// Where the operator's own credentials may serve.
    pub ambient: Ambient,
    /// The key ring's Secret, which is nobody's credential.
    pub keys: AccountId,
    /// Where Events go.
    pub events: Events,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Who hears of changes.
    pub tell: Tell,
    /// How often stores are checked: [`super::status::TIMING`].
    pub timing: Timing,
}

/// Called when accounts should be looked at again; must not block.
pub type Tell = Arc<dyn Fn(Concern) + Send + Sync>;

/// Whose accounts a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Those that use this store: its spec changed, it is being deleted or gone, or it is no longer down.
    Store(StoreId),
    /// Those in this namespace: its labels changed, or it is being deleted.
    Namespace(String),
}

/// The metadata of a namespace.
pub type NamespaceObject = PartialObjectMeta<Namespace>;

/// The watches, to be run by [`Registry::run`].
pub struct Tasks {
    pub(super) stores: Watch<TokenStore>,
    pub(super) namespaces: Watch<NamespaceObject>,
}

/// All TokenStores.
pub struct Registry {
    pub(super) parts: Parts,
    pub(super) stores: Arc<Cache<TokenStore>>,
    namespaces: Arc<Cache<NamespaceObject>>,
    slots: Mutex<HashMap<StoreId, Arc<Slot>>>,
    news: News,
    // Stores by namespace and name.
    pub(super) queue: Queue,
    // Our own last write of a store that the watch may not have shown yet.
    pub(super) written: Mutex<HashMap<StoreId, u64>>,
}

impl Registry {
    /// The registry, and the watches that fill it.
    pub fn new(parts: Parts) -> (Arc<Self>, Tasks) {
        let stores = Watch::<TokenStore>::all(parts.client.clone());
        let namespaces = Watch::<NamespaceObject>::all(parts.client.clone()).prune(prune_namespace);
        let registry = Self {
            parts,
            stores: stores.cache(),
            namespaces: namespaces.cache(),
            slots: Mutex::default(),
            news: News::default(),
            queue: Queue::new(),
            written: Mutex::default(),
        };
        (Arc::new(registry), Tasks { stores, namespaces })
    }

    /// Whether stores and namespaces have been seen; before, [`Registry::admit`] knows nothing.
    pub fn synced(&self) -> bool {
        self.stores.synced() && self.namespaces.synced()
    }

    /// Why the operator is not ready, if so.
    pub fn trouble(&self) -> Option<String> {
        self.stores.trouble("stores").or_else(|| self.namespaces.trouble("namespaces"))
    }

    /// Whether an account of this namespace may use the path, and whether it is worth trying now. Never waits.
    pub fn admit(&self, namespace: &str, store: &StoreId, path: &str) -> Admission {
        match self.admitted(namespace, store, path) {
            Ok(admission) => admission,
            Err(Refusal { reason, message }) => Admission::Refused { reason, message },
        }
    }

    /// A fingerprint of where a path really is; `None`: not known.
    pub fn place(&self, store: &StoreId, path: &str) -> Option<String> {
        let object = self.stores.get(&key(store))?;
        let name = path::name(super::Provider::of(&object.spec)?, path).ok()?;
        Some(place(&object.spec, &name))
    }

    /// Whether the store is being deleted: accounts that use it go on, others should not begin.
    pub fn deleting(&self, store: &StoreId) -> bool {
        self.stores.get(&key(store)).is_some_and(|store| store.metadata.deletion_timestamp.is_some())
    }

    /// Whether the namespace is being deleted, or gone.
    pub fn namespace_terminating(&self, namespace: &str) -> bool {
        let seen = self.namespaces.get(&AccountId::new("", namespace));
        seen.map_or_else(|| self.namespaces.synced(), |seen| seen.metadata.deletion_timestamp.is_some())
    }

    /// Looks at a store again, since the accounts that use it may be others now.
    pub fn used(&self, store: &StoreId) {
        self.queue.add(key(store));
    }

    /// What the path holds.
    pub async fn read(&self, store: &StoreId, path: &str) -> Result<Held, StoreError> {
        let (slot, name) = self.at(store, path)?;
        let name = name.as_str();
        self.call(&slot, "read", |store| async move { store.read(name).await }).await
    }

    /// See [`Store::write`].
    pub async fn write(
        &self,
        store: &StoreId,
        path: &str,
        value: &Value<'_>,
        over: &Held,
    ) -> Result<String, StoreError> {
        let (slot, name) = self.at(store, path)?;
        self.hold(store, &slot).await?;
        let name = name.as_str();
        self.call(&slot, "write", |store| async move { store.write(name, value, over).await }).await
    }

    /// See [`Store::retire`].
    pub async fn retire(
        &self,
        store: &StoreId,
        path: &str,
        held: &Held,
        keep: &BTreeSet<String>,
    ) -> Result<(), StoreError> {
        let (slot, name) = self.at(store, path)?;
        let name = name.as_str();
        self.call(&slot, "retire", |store| async move { store.retire(name, held, keep).await }).await
    }

    /// See [`Store::delete`].
    pub async fn delete(&self, store: &StoreId, path: &str, held: &Held) -> Result<(), StoreError> {
        let (slot, name) = self.at(store, path)?;
        let name = name.as_str();
        self.call(&slot, "delete", |store| async move { store.delete(name, held).await }).await
    }

    fn admitted(&self, namespace: &str, store: &StoreId, path: &str) -> Result<Admission, Refusal> {
        let down = |message: String| Ok(Admission::Down { message });
        let Some(object) = self.stores.get(&key(store)) else {
            return match self.unseen(store) {
                Some(why) => down(why),
                None => Err(Refusal::not_found(store)),
            };
        };
        let subject = Subject { id: store, spec: &object.spec, ambient: &self.parts.ambient };
        let provider = subject.usable().map_err(|refusal| refusal.of(store))?;
        let labels = match self.namespaces.get(&AccountId::new("", namespace)) {
            Some(seen) => seen.metadata.labels.clone().unwrap_or_default(),
            None if subject.selects() && namespace != store.namespace => {
                return down(format!("namespace {namespace} was not seen yet"));
            }
            None => BTreeMap::new(),
        };
        subject.allows(namespace, &labels)?;
        subject.holds(provider, namespace, path)?;
        match self.slot(&object)?.guard.down() {
            Some(Down::Outage(error)) => down(error.message),
            Some(Down::Unusable(error)) => Err(Refusal::new(STORE_NOT_READY, error.message)),
            None => Ok(Admission::Open { take_over: object.spec.take_over_from.clone().unwrap_or_default() }),
        }
    }

    // Why nothing can be said about a store that is not there.
    fn unseen(&self, store: &StoreId) -> Option<String> {
        if !self.synced() {
            return Some("TokenStores are not listed yet".into());
        }
        let unreadable = self.stores.unreadable().contains(&key(store));
        unreadable.then(|| format!("TokenStore {store} cannot be read by this version of the operator; update it"))
    }

    fn at(&self, store: &StoreId, path: &str) -> Result<(Arc<Slot>, String), StoreError> {
        let Some(object) = self.stores.get(&key(store)) else {
            return Err(match self.unseen(store) {
                Some(why) => StoreError::new(ErrorKind::Unavailable, STORE_DOWN, why),
                None => invalid(Refusal::not_found(store)),
            });
        };
        let slot = self.slot(&object).map_err(|refusal| invalid(refusal.of(store)))?;
        let name = path::name(slot.provider(), path).map_err(|message| invalid(Refusal::new(INVALID_PATH, message)))?;
        Ok((slot, name))
    }

    async fn call<T, F>(
        &self,
        slot: &Slot,
        operation: &'static str,
        call: impl Fn(Arc<dyn Store>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let answer = slot.call(operation, call).await;
        if slot.guard.went_down() {
            self.went_down(slot);
        }
        answer
    }

    /// Accounts brought the store down: from now on its check calls it.
    fn went_down(&self, slot: &Slot) {
        let wait = if slot.guard.is_outage() { self.parts.timing.down } else { Seconds(1) };
        slot.checked().due = Some(clock::now() + wait);
        self.count_down();
        self.queue.add(key(slot.id()));
    }

    pub(super) fn count_down(&self) {
        let down = lock(&self.slots).values().filter(|slot| slot.guard.down().is_some()).count();
        self.parts.metrics.stores_down(down);
    }

    /// The slot of a store as it is now: a new one for a new spec.
    pub(super) fn slot(&self, store: &TokenStore) -> Result<Arc<Slot>, Refusal> {
        let id = identity(store.meta());
        let provider = Subject { id: &id, spec: &store.spec, ambient: &self.parts.ambient }.usable()?;
        let uid = store.metadata.uid.clone().unwrap_or_default();
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(&id).filter(|slot| slot.is(&uid, &store.spec)) {
            return Ok(Arc::clone(slot));
        }
        let slot = Arc::new(Slot::new(Blueprint {
            id: id.clone(),
            uid,
            spec: store.spec.clone(),
            provider,
            open: Arc::clone(&self.parts.open),
            identity: Arc::new(
                ClusterIdentity::new(self.parts.client.clone(), &id.namespace).without(self.parts.keys.clone()),
            ),
            network: self.parts.network,
            concurrency: self.parts.concurrency,
            reopen: self.parts.timing.reopen.as_duration(),
            metrics: Arc::clone(&self.parts.metrics),
        }));
        slots.insert(id, Arc::clone(&slot));
        Ok(slot)
    }

    pub(super) fn store_changed(&self, change: &Change<TokenStore>) {
        let (store, there) = match change {
            Change::Applied(store) => (store, true),
            Change::Deleted(store) => (store, false),
            // After a full list the watch is right, also if its versions went back (a restored etcd).
            Change::Synced => return lock(&self.written).clear(),
        };
        let (id, meta) = (identity(store.meta()), store.meta());
        if !there {
            lock(&self.slots).remove(&id);
            lock(&self.written).remove(&id);
            self.count_down();
        }
        if self.news.of_store(key(&id), there.then_some(meta)) {
            (self.parts.tell)(Concern::Store(id.clone()));
        }
        self.queue.add(key(&id));
    }

    pub(super) fn namespace_changed(&self, change: &Change<NamespaceObject>) {
        let (namespace, there) = match change {
            Change::Applied(namespace) => (namespace, true),
            Change::Deleted(namespace) => (namespace, false),
            Change::Synced => return,
        };
        let meta = &namespace.metadata;
        let name = meta.name.clone().unwrap_or_default();
        if self.news.of_namespace(AccountId::new("", &name), there.then_some(meta)) {
            (self.parts.tell)(Concern::Namespace(name));
        }
    }
}

fn invalid(refusal: Refusal) -> StoreError {
    StoreError::new(ErrorKind::Invalid, refusal.reason, refusal.message)
}

/// As the caches and the queue name it.
pub(super) fn key(store: &StoreId) -> AccountId {
    AccountId::new(&store.namespace, &store.name)
}

fn identity(meta: &ObjectMeta) -> StoreId {
    StoreId { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}

fn prune_namespace(namespace: &mut NamespaceObject) {
    prune_managed_fields(namespace);
    namespace.types = None;
    namespace.metadata.annotations = None;
    namespace.metadata.owner_references = None;
}

// A poisoned lock is only one whose holder panicked between two map operations; each leaves the maps whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
