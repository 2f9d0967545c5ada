//! The TokenStores' own status and finalizer: when a store is checked, what of it is written, whom it waits for.

use std::sync::Arc;
use std::time::{Duration, Instant as Monotonic};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{GetParams, PostParams};
use kube::core::Request as Builder;
use kube::{Resource, ResourceExt};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::registry::{Registry, Tasks};
use super::slot::Slot;
use super::status::{self, Finding};
use super::{ErrorKind, ProviderError};
use crate::api::{AccountId, IN_USE_FINALIZER, Instant, ObjectId, TokenStore, TokenStoreStatus};
use crate::client::describe;
use crate::clock;
use crate::integration::{Concern, RETRY, identity, keep, key, ready_news, version_of, write_status};
use crate::watch::version;

/// The accounts that use a store: those whose spec or status names it. `None`: not known yet, so nothing may be
/// concluded. Called for each look at a store; should not scan all accounts.
pub type Users = Arc<dyn Fn(&ObjectId) -> Option<Vec<AccountId>> + Send + Sync>;

/// Stores looked at at the same time: one that hangs must not hold up the others.
const WORKERS: usize = 8;
/// For so long after the finalizer was written the watch may not show it.
const LAG: Duration = Duration::from_secs(5);
const READY_POLL: Duration = Duration::from_millis(100);

impl Registry {
    /// Watches stores until `stop`, and keeps the stores' statuses in each term of this replica; a write in hand is finished,
    /// unless the term ends. Returns early if one of its tasks has ended, as by a panic.
    pub async fn run(self: Arc<Self>, tasks: Tasks, users: Users, stop: CancellationToken) {
        let mut running = JoinSet::new();
        let (on_store, timer) = (Arc::clone(&self), Arc::clone(&self));
        let (stop_stores, stop_timer) = (stop.clone(), stop.clone());
        running
            .spawn(async move { tasks.stores.run(move |change| on_store.store_changed(&change), stop_stores).await });
        running.spawn(async move { timer.queue.keep_time(stop_timer).await });
        let (working, stop_working) = (Arc::clone(&self), stop.clone());
        running.spawn(async move {
            working.parts.leadership.lead(&stop_working, || working.term(&users, &stop_working)).await;
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            _ = running.join_next() => return,
        }
        self.queue.close();
        while running.join_next().await.is_some() {}
    }

    // What the leader before did not come to is found by looking at all.
    async fn term(&self, users: &Users, stop: &CancellationToken) {
        if stop.run_until_cancelled(self.until_synced()).await.is_some() {
            // What was found in an earlier term may have changed under another leader.
            self.forget_slots();
            let _open = self.queue.open();
            self.stores.keys().into_iter().for_each(|id| self.queue.add(id));
            self.count_down();
            let look = async |id: AccountId| self.look(&id, users, stop).await;
            futures::future::join_all((0..WORKERS).map(|_| keep(&self.queue, "TokenStore", &look))).await;
        }
    }

    async fn until_synced(&self) {
        while !self.synced() {
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// One look at a store; when to look again.
    async fn look(
        &self,
        id: &AccountId,
        users: &Users,
        stop: &CancellationToken,
    ) -> Result<Option<Instant>, kube::Error> {
        let Some(store) = self.stores.get(id) else { return Ok(None) };
        let store_id = identity(&store.metadata);
        let users = users(&store_id);
        if self.written.lags(&store_id, version_of(&store.metadata)) {
            return Ok(Some(clock::now() + RETRY));
        }
        if let Some(wanted) = users.as_ref().and_then(|users| finalizer(&store, !users.is_empty())) {
            self.keep_finalizer(&store_id, wanted).await?;
            return Ok(Some(clock::now()));
        }
        let (provider, finding, due) = match self.slot(&store) {
            Err(refusal) => {
                let provider = super::Provider::of(&store.spec);
                (provider, Some(Finding::Refused(refusal)), None)
            }
            Ok(slot) => {
                self.check_if_due(&slot, stop).await;
                (Some(slot.provider()), finding(&slot), slot.checked().due)
            }
        };
        if let Some(finding) = finding {
            let known = users.clone().unwrap_or_default();
            let next = status::next(&store, provider, &finding, &known, clock::now());
            self.write_status(&store_id, &store, next).await?;
        }
        let unknown = users.is_none().then(|| clock::now() + RETRY);
        Ok(due.into_iter().chain(unknown).min())
    }

    async fn check_if_due(&self, slot: &Slot, stop: &CancellationToken) {
        let (due, failures) = {
            let checked = slot.checked();
            (checked.due.is_none_or(|due| due <= clock::now()), checked.failures)
        };
        if !due {
            return;
        }
        let Some(result) = stop.run_until_cancelled(slot.check()).await else { return };
        slot.guard.went_down();
        let failures = if result.is_ok() { 0 } else { failures.saturating_add(1) };
        {
            let mut checked = slot.checked();
            // Calls may have brought it down since.
            let wait = self.parts.timing.wait(&result, slot.guard.is_outage(), failures, &slot.id().to_string());
            (checked.failures, checked.due) = (failures, Some(clock::now() + wait));
            checked.last = Some(result);
        }
        self.count_down();
        // Calls may have brought it down during the check, which brought it up again: those that were refused meanwhile wait.
        if slot.guard.came_up() {
            (self.parts.tell)(Concern::Store(slot.id().clone()));
        }
    }

    async fn write_status(
        &self,
        id: &ObjectId,
        store: &TokenStore,
        status: TokenStoreStatus,
    ) -> Result<(), kube::Error> {
        if store.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let written = write_status(&self.parts.client, store, status).await?;
        self.written.wrote(id, version_of(&written.metadata));
        let news = ready_news(id, conditions(store), conditions(&written), ("StoreReady", "StoreNotReady"));
        if let Some(notice) = news {
            self.parts.events.publish(&written, notice);
        }
        Ok(())
    }

    // The whole object is read and sent back as it is: a newer definition may have fields that this version does not know.
    async fn keep_finalizer(&self, id: &ObjectId, wanted: bool) -> Result<(), kube::Error> {
        let collection = Builder::new(TokenStore::url_path(&(), Some(&id.namespace)));
        let request = collection.get(&id.name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
        let mut object: Value = self.parts.client.request(request).await?;
        if !edit_finalizers(&mut object["metadata"], wanted) {
            return Ok(());
        }
        let body = serde_json::to_vec(&object).map_err(kube::Error::SerdeError)?;
        let request = collection.replace(&id.name, &PostParams::default(), body).map_err(kube::Error::BuildRequest)?;
        let written: Value = self.parts.client.request(request).await?;
        self.written.wrote(id, written["metadata"]["resourceVersion"].as_str().map_or(0, version));
        Ok(())
    }

    /// A TokenStore has its finalizer before anything is written with it, so that it is still there for the cleanup.
    pub(super) async fn hold(&self, id: &ObjectId, slot: &Slot) -> Result<(), ProviderError> {
        let shown = || self.stores.get(&key(id)).is_some_and(|store| is_held(&store));
        if shown() {
            return Ok(());
        }
        // The first of many does it; the others wait for it, and for a moment nobody asks the lagging watch.
        let mut held = slot.held.lock().await;
        if shown() || held.is_some_and(|at| at.elapsed() < LAG) {
            return Ok(());
        }
        for _ in 0..3 {
            match self.keep_finalizer(id, true).await {
                Ok(()) => {
                    *held = Some(Monotonic::now());
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(not_held(id, &describe(&error))),
            }
        }
        Err(not_held(id, "it changes again and again"))
    }
}

// Not the store's failure, so not a kind that counts for its breaker.
fn not_held(id: &ObjectId, why: &str) -> ProviderError {
    let message = format!("the finalizer of TokenStore {id} cannot be written: {why}");
    ProviderError::new(ErrorKind::Throttled, "FinalizerNotWritten", message)
}

fn is_held(store: &TokenStore) -> bool {
    store.finalizers().iter().any(|finalizer| finalizer == IN_USE_FINALIZER)
}

fn finding(slot: &Slot) -> Option<Finding> {
    if let Some(down) = slot.guard.down() {
        return Some(Finding::Failed(down.error().clone()));
    }
    let last = slot.checked().last.clone()?;
    Some(last.err().map_or(Finding::Good, Finding::Failed))
}

/// Whether the finalizer is to be added (`true`) or removed; `None`: it is right as it is.
fn finalizer(store: &TokenStore, in_use: bool) -> Option<bool> {
    let has = is_held(store);
    // None can be added to what is being deleted.
    let possible = has || store.metadata.deletion_timestamp.is_none();
    (possible && has != in_use).then_some(in_use)
}

fn edit_finalizers(metadata: &mut Value, wanted: bool) -> bool {
    let mut list: Vec<String> = serde_json::from_value(metadata["finalizers"].clone()).unwrap_or_default();
    let has = list.iter().any(|finalizer| finalizer == IN_USE_FINALIZER);
    if has == wanted || (wanted && !metadata["deletionTimestamp"].is_null()) {
        return false;
    }
    if wanted {
        list.push(IN_USE_FINALIZER.to_owned());
    } else {
        list.retain(|finalizer| finalizer != IN_USE_FINALIZER);
    }
    metadata["finalizers"] = list.into();
    true
}

fn conditions(store: &TokenStore) -> &[Condition] {
    store.status.as_ref().map_or(&[], |status| &status.conditions)
}
