//! All TokenStores: who may use which, and the calls to them. What accounts see of stores.
//!
//! Knows no accounts: it is told which of them use a store, and tells which stores and namespaces have changed.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex};

use kube::{Client, Resource};

use super::admission::{Ambient, INVALID_PATH, STORE_NOT_FOUND, STORE_NOT_READY, Subject};
use super::breaker::Down;
use super::place::place;
use super::slot::{Blueprint, Slot};
use super::{Admission, ErrorKind, Held, Network, Open, ProviderError, STORE_DOWN, Store, Value, path};
use crate::api::{AccountId, ObjectId, Seconds, TokenStore};
use crate::clock;
use crate::events::Events;
use crate::integration::{
    ClusterIdentity, Concern, NOT_ALLOWED, Namespaces, News, Objection, Refusal, Tell, Timing, Written, identity, key,
};
use crate::leader::Leadership;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::watch::{Cache, Change, Part, Scope, Watch};

/// What a registry is made of.
pub struct Parts {
    /// The client; its own retries off.
    pub client: Client,
    /// When objects are checked and their statuses written.
    pub leadership: Leadership,
    /// The namespaces.
    pub namespaces: Arc<Namespaces>,
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
    /// How often stores are checked: [`crate::integration::TIMING`].
    pub timing: Timing,
    /// `--watch-namespaces`
    pub scope: Scope,
}

/// The watches, to be run by [`Registry::run`].
pub struct Tasks {
    pub(super) stores: Watch<TokenStore>,
}

/// All TokenStores.
pub struct Registry {
    pub(super) parts: Parts,
    pub(super) stores: Arc<Cache<TokenStore>>,
    slots: Mutex<HashMap<ObjectId, Arc<Slot>>>,
    news: News,
    // Stores by namespace and name.
    pub(super) queue: Queue,
    pub(super) written: Written,
}

impl Registry {
    /// The registry, and the watches that fill it.
    pub fn new(parts: Parts) -> (Arc<Self>, Tasks) {
        let stores = Watch::<TokenStore>::within(parts.client.clone(), &parts.scope);
        let registry = Self {
            parts,
            stores: stores.cache(),
            slots: Mutex::default(),
            news: News::default(),
            queue: Queue::new(),
            written: Written::default(),
        };
        (Arc::new(registry), Tasks { stores })
    }

    /// Whether stores and namespaces have been seen; before, [`Registry::admit`] knows nothing.
    pub fn synced(&self) -> bool {
        self.stores.synced() && self.parts.namespaces.synced()
    }

    /// Why the operator is not ready, if so.
    pub fn trouble(&self) -> Option<String> {
        self.stores.trouble("stores")
    }

    /// The parts whose stores the operator has no right to see.
    pub fn denied(&self) -> BTreeSet<Part> {
        self.stores.denied()
    }

    /// Whether an account of this namespace may use the path, and whether it is worth trying now. Never waits.
    pub fn admit(&self, namespace: &str, store: &ObjectId, path: &str) -> Admission {
        match self.admitted(namespace, store, path) {
            Ok(admission) => admission,
            Err(Refusal { reason, message }) => Admission::Refused { reason, message },
        }
    }

    /// A fingerprint of where a path really is; `None`: not known.
    pub fn place(&self, store: &ObjectId, path: &str) -> Option<String> {
        let object = self.stores.get(&key(store))?;
        let name = path::name(super::Provider::of(&object.spec)?, path).ok()?;
        Some(place(&object.spec, &name))
    }

    /// Whether the store is being deleted: accounts that use it go on, others should not begin.
    pub fn deleting(&self, store: &ObjectId) -> bool {
        self.stores.get(&key(store)).is_some_and(|store| store.metadata.deletion_timestamp.is_some())
    }

    /// Looks at a store again, since the accounts that use it may be others now.
    pub fn used(&self, store: &ObjectId) {
        self.queue.add(key(store));
    }

    /// What the path holds.
    pub async fn read(&self, store: &ObjectId, path: &str) -> Result<Held, ProviderError> {
        let (slot, name) = self.at(store, path)?;
        let name = name.as_str();
        self.call(&slot, "read", |store| async move { store.read(name).await }).await
    }

    /// See [`Store::write`].
    pub async fn write(
        &self,
        store: &ObjectId,
        path: &str,
        value: &Value<'_>,
        over: &Held,
    ) -> Result<String, ProviderError> {
        let (slot, name) = self.at(store, path)?;
        self.hold(store, &slot).await?;
        let name = name.as_str();
        self.call(&slot, "write", |store| async move {
            self.parts.leadership.check()?;
            store.write(name, value, over).await
        })
        .await
    }

    /// See [`Store::retire`].
    pub async fn retire(
        &self,
        store: &ObjectId,
        path: &str,
        held: &Held,
        keep: &BTreeSet<String>,
    ) -> Result<(), ProviderError> {
        let (slot, name) = self.at(store, path)?;
        let name = name.as_str();
        self.call(&slot, "retire", |store| async move {
            self.parts.leadership.check()?;
            store.retire(name, held, keep).await
        })
        .await
    }

    /// See [`Store::delete`].
    pub async fn delete(&self, store: &ObjectId, path: &str, held: &Held) -> Result<(), ProviderError> {
        let (slot, name) = self.at(store, path)?;
        let name = name.as_str();
        self.call(&slot, "delete", |store| async move {
            self.parts.leadership.check()?;
            store.delete(name, held).await
        })
        .await
    }

    fn admitted(&self, namespace: &str, store: &ObjectId, path: &str) -> Result<Admission, Refusal> {
        let down = |message: String| Ok(Admission::Down { message });
        let Some(object) = self.stores.get(&key(store)) else {
            return match self.unseen(store) {
                Some(why) => down(why),
                None => Err(self.absent(store)),
            };
        };
        let subject = Subject { id: store, spec: &object.spec, ambient: &self.parts.ambient };
        let provider = subject.usable().map_err(|refusal| refusal.of(store))?;
        match self.parts.namespaces.allow(namespace, &subject.tenancy()) {
            Err(Objection::Refused(message)) => return Err(Refusal::new(NOT_ALLOWED, message)),
            Err(Objection::NotSeen(message)) => return down(message),
            Ok(()) => {}
        }
        subject.holds(provider, namespace, path)?;
        match self.slot(&object)?.guard.down() {
            Some(Down::Outage(error)) => down(error.message),
            Some(Down::Unusable(error)) => Err(Refusal::new(STORE_NOT_READY, error.message)),
            None => Ok(Admission::Open { take_over: object.spec.take_over_from.clone().unwrap_or_default() }),
        }
    }

    // Why nothing can be said about a store that is not there.
    fn unseen(&self, store: &ObjectId) -> Option<String> {
        if !self.synced() {
            return Some("TokenStores are not listed yet".into());
        }
        let unreadable = self.stores.unreadable().contains(&key(store));
        unreadable.then(|| format!("TokenStore {store} cannot be read by this version of the operator; update it"))
    }

    fn absent(&self, store: &ObjectId) -> Refusal {
        match self.parts.namespaces.unwatched(&store.namespace, "spec.secretStores[].storeRef") {
            Some(why) => Refusal::new(STORE_NOT_FOUND, format!("TokenStore {store} cannot be used: {why}")),
            None => Refusal::not_found(store),
        }
    }

    fn at(&self, store: &ObjectId, path: &str) -> Result<(Arc<Slot>, String), ProviderError> {
        let Some(object) = self.stores.get(&key(store)) else {
            return Err(match self.unseen(store) {
                Some(why) => ProviderError::new(ErrorKind::Unavailable, STORE_DOWN, why),
                None => invalid(self.absent(store)),
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
    ) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<T, ProviderError>>,
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

    pub(super) fn forget_slots(&self) {
        lock(&self.slots).clear();
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
            Change::Synced(part) => return self.written.listed(part),
        };
        let (id, meta) = (identity(store.meta()), store.meta());
        if !there {
            lock(&self.slots).remove(&id);
            self.written.forget(&id);
            self.count_down();
        }
        if self.news.of_object(key(&id), there.then_some(meta)) {
            (self.parts.tell)(Concern::Store(id.clone()));
        }
        self.queue.add(key(&id));
    }
}

fn invalid(refusal: Refusal) -> ProviderError {
    ProviderError::new(ErrorKind::Invalid, refusal.reason, refusal.message)
}
