//! What a pass reaches for: the clock, the watches, the API server, the stores, the channels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use tracing::warn;

use super::{Controller, identity, same_object, version};
use crate::account::cluster::{CallError, Cluster};
use crate::account::desired::{Limits, StorePath};
use crate::account::secret::SecretMeta;
use crate::api::{AccountId, Instant, ObjectId, VirtualAccount, VirtualAccountStatus};
use crate::clock;
use crate::events::{Notice, Severity};
use crate::integration::ProviderError;
use crate::lock::lock;
use crate::notify::{self, Posted};
use crate::store::{Admission, Held, Value};
use crate::token::{Ring, fresh_jti};

impl Cluster for Controller {
    fn now(&self) -> Instant {
        clock::now()
    }

    fn clock_trusted(&self) -> bool {
        self.server_clock.trusted(self.limits.max_clock_skew)
    }

    fn fresh_id(&self) -> String {
        fresh_jti()
    }

    fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits)
    }

    fn keys(&self) -> (Option<Arc<Ring>>, Option<String>) {
        let state = self.keys.borrow();
        (state.ring.clone(), state.trouble.as_ref().map(ToString::to_string))
    }

    fn may_reissue(&self) -> bool {
        lock(&self.reissues).available()
    }

    fn account(&self, id: &AccountId) -> Option<Arc<VirtualAccount>> {
        let watched = self.seen.accounts.get(id);
        let own = lock(&self.memory).get(id).cloned();
        match (watched, own) {
            (Some(watched), Some(own))
                if same_object(&watched, &own) && version(own.as_ref()) > version(watched.as_ref()) =>
            {
                Some(own)
            }
            (watched, _) => watched,
        }
    }

    fn remember(&self, id: &AccountId, account: Option<&VirtualAccount>) {
        let mut memory = lock(&self.memory);
        match account {
            Some(account) => memory.insert(id.clone(), Arc::new(account.clone())),
            None => memory.remove(id),
        };
    }

    fn secrets(&self, id: &AccountId) -> (Vec<SecretMeta>, u64) {
        // In this order: what arrives in between makes the list newer than the version, never older.
        let shown = self.seen.secrets.shown(&id.namespace);
        (self.seen.secrets_of(id), shown)
    }

    async fn read_secret(&self, id: &AccountId) -> Result<Option<Secret>, CallError> {
        self.kubernetes.read_secret(id).await
    }

    async fn read_account(&self, id: &AccountId) -> Result<Option<VirtualAccount>, CallError> {
        self.kubernetes.read_account(id).await
    }

    async fn write_status(
        &self,
        account: &VirtualAccount,
        status: VirtualAccountStatus,
    ) -> Result<VirtualAccount, CallError> {
        let written = self.kubernetes.write_status(account, status).await?;
        self.tell(&written, account.status.as_ref());
        Ok(written)
    }

    async fn create_secret(&self, secret: &Secret) -> Result<String, CallError> {
        self.kubernetes.create_secret(secret).await
    }

    async fn replace_secret(&self, secret: &Secret) -> Result<String, CallError> {
        self.kubernetes.replace_secret(secret).await
    }

    async fn delete_secret(&self, namespace: &str, meta: &SecretMeta) -> Result<(), CallError> {
        self.kubernetes.delete_secret(namespace, meta).await
    }

    async fn write_finalizer(&self, account: &VirtualAccount, there: bool) -> Result<VirtualAccount, CallError> {
        self.kubernetes.write_finalizer(account, there).await
    }

    fn admit(&self, namespace: &str, at: &StorePath) -> Admission {
        self.stores.admit(namespace, &at.store, &at.path)
    }

    fn place(&self, at: &StorePath) -> Option<String> {
        self.stores.place(&at.store, &at.path)
    }

    fn store_deleting(&self, store: &ObjectId) -> bool {
        self.stores.deleting(store)
    }

    fn namespace_terminating(&self, namespace: &str) -> bool {
        self.namespaces.terminating(namespace)
    }

    async fn read_store(&self, at: &StorePath) -> Result<Held, ProviderError> {
        self.stores.read(&at.store, &at.path).await
    }

    async fn write_store(&self, at: &StorePath, value: &Value<'_>, over: &Held) -> Result<String, ProviderError> {
        self.stores.write(&at.store, &at.path, value, over).await
    }

    async fn retire_store(&self, at: &StorePath, held: &Held, keep: &BTreeSet<String>) -> Result<(), ProviderError> {
        self.stores.retire(&at.store, &at.path, held, keep).await
    }

    async fn delete_store(&self, at: &StorePath, held: &Held) -> Result<(), ProviderError> {
        self.stores.delete(&at.store, &at.path, held).await
    }

    fn channel(&self, namespace: &str, channel: &ObjectId) -> notify::Admission {
        self.channels.admit(namespace, channel)
    }

    fn reports(&self, id: &AccountId) -> BTreeMap<String, notify::Report> {
        self.outbox.reports(id)
    }

    fn post(&self, id: &AccountId, letters: Vec<Posted>) {
        if !self.leadership.holds() {
            return;
        }
        self.outbox.post(id, letters);
        // It may have gone since the pass began, and nobody would come back to it.
        if self.seen.accounts.get(id).is_none() {
            self.outbox.post(id, Vec::new());
        }
    }

    fn left_behind(&self, account: &VirtualAccount, at: &StorePath, why: &str) {
        let message = format!("{at} still holds the token, which is refused online; remove it by hand: {why}");
        warn!(account = %identity(account), reason = "LeftBehind", "{message}");
        let notice = Notice { type_: Severity::Warning, reason: "LeftBehind", action: "CleanUp", message };
        self.events.publish(account, notice);
    }
}
