//! A writer: the outside of a real pass, made of the simulated world. A call yields before it takes effect, so that the
//! scheduler can freeze a writer, drop it (a crash) or let its write land while it waits.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use k8s_openapi::api::core::v1::Secret;
use rand::Rng;

use super::stores::{Put, Remove, Retire};
use super::world::{Answer, SKEW, World, Write};
use crate::account::cluster::{CallError, Cluster};
use crate::account::desired::{Limits, StorePath};
use crate::account::observe::version_number;
use crate::account::secret::SecretMeta;
use crate::api::{AccountId, Instant, ObjectId, Seconds, VirtualAccount, VirtualAccountStatus};
use crate::integration::{ErrorKind, ProviderError};
use crate::notify;
use crate::store::{Admission, Held, Value};
use crate::token::Ring;

/// One of the two operators.
pub(super) struct Writer {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) me: usize,
}

impl Writer {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    async fn send(&self, write: Write) -> Result<Answer, CallError> {
        let id = self.world().depart(write, self.me);
        Pause(1).await;
        self.world().arrive(id)
    }

    // Stores answer when they like.
    async fn send_to_store(&self, write: Write) -> Result<String, ProviderError> {
        let id = self.world().depart(write, self.me);
        self.pause().await;
        match self.world().arrive(id) {
            Ok(Answer::Stored(answer)) => answer,
            Ok(_) => unreachable!("the answer to a store's write"),
            Err(_) => Err(ProviderError::new(ErrorKind::Unavailable, "Timeout", "the store does not answer in time")),
        }
    }

    fn pause(&self) -> Pause {
        let mut world = self.world();
        Pause(if world.faults { world.rng.random_range(1..=3) } else { 1 })
    }

    async fn account_written(&self, write: Write) -> Result<VirtualAccount, CallError> {
        match self.send(write).await? {
            Answer::Account(account) => Ok(*account),
            _ => unreachable!("the answer to a write of the account"),
        }
    }

    async fn versioned(&self, write: Write) -> Result<String, CallError> {
        match self.send(write).await? {
            Answer::Version(version) => Ok(version),
            _ => unreachable!("the answer to a Secret's write"),
        }
    }
}

impl Cluster for Writer {
    fn now(&self) -> Instant {
        let world = self.world();
        world.now + world.locals[self.me].offset
    }

    fn clock_trusted(&self) -> bool {
        let offset = self.world().locals[self.me].offset;
        offset <= SKEW && Seconds::ZERO - offset <= SKEW
    }

    fn fresh_id(&self) -> String {
        let mut world = self.world();
        world.ids += 1;
        format!("j{}", world.ids)
    }

    fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.world().limits)
    }

    fn keys(&self) -> (Option<Arc<Ring>>, Option<String>) {
        let mut world = self.world();
        let away = world.now < world.ring_away_until;
        let ring =
            if world.faults && world.chance(0.1) { Arc::clone(&world.ring_before) } else { Arc::clone(&world.ring) };
        let known = !(away && world.ring_unknown);
        (known.then_some(ring), away.then(|| "the key ring was emptied".to_owned()))
    }

    fn may_reissue(&self) -> bool {
        true
    }

    fn account(&self, _: &AccountId) -> Option<Arc<VirtualAccount>> {
        let mut world = self.world();
        let account = world.cached_account(self.me)?;
        world.locals[self.me].base = version_of(&account);
        Some(account)
    }

    fn remember(&self, _: &AccountId, account: Option<&VirtualAccount>) {
        let local = &mut self.world().locals[self.me];
        local.memory = account.map(|account| Arc::new(account.clone()));
        local.base = account.map_or(local.base, version_of);
    }

    fn secrets(&self, _: &AccountId) -> (Vec<SecretMeta>, u64) {
        self.world().cached_secrets()
    }

    fn channel(&self, _: &str, channel: &ObjectId) -> notify::Admission {
        self.world().channel_says(channel)
    }

    fn reports(&self, _: &AccountId) -> BTreeMap<String, notify::Report> {
        self.world().reports_of(self.me)
    }

    fn post(&self, _: &AccountId, letters: Vec<notify::Posted>) {
        self.world().hand_out(self.me, letters);
    }

    async fn read_secret(&self, id: &AccountId) -> Result<Option<Secret>, CallError> {
        Pause(1).await;
        let mut world = self.world();
        world.reachable()?;
        world.calls.reads += 1;
        let version = world.secrets.get(&id.name).and_then(|secret| secret.metadata.resource_version.clone());
        world.log(format!("w{} reads Secret {}@{}", self.me, id.name, version.as_deref().unwrap_or_default()));
        world.locals[self.me].read = version;
        Ok(world.secrets.get(&id.name).cloned())
    }

    async fn read_account(&self, _: &AccountId) -> Result<Option<VirtualAccount>, CallError> {
        Pause(1).await;
        let mut world = self.world();
        world.reachable()?;
        world.calls.reads += 1;
        Ok((!world.gone).then(|| world.account.clone()))
    }

    async fn write_status(
        &self,
        account: &VirtualAccount,
        status: VirtualAccountStatus,
    ) -> Result<VirtualAccount, CallError> {
        let (uid, version) = (account.metadata.uid.clone(), account.metadata.resource_version.clone());
        self.account_written(Write::Status { uid, version, status: Box::new(status) }).await
    }

    async fn create_secret(&self, secret: &Secret) -> Result<String, CallError> {
        self.versioned(Write::Create(Box::new(secret.clone()))).await
    }

    async fn replace_secret(&self, secret: &Secret) -> Result<String, CallError> {
        self.versioned(Write::Replace(Box::new(secret.clone()))).await
    }

    async fn delete_secret(&self, _: &str, meta: &SecretMeta) -> Result<(), CallError> {
        let (name, uid, version) = (meta.name.clone(), meta.uid.clone(), meta.version.clone());
        self.versioned(Write::Delete { name, uid, version }).await.map(drop)
    }

    async fn write_finalizer(&self, account: &VirtualAccount, there: bool) -> Result<VirtualAccount, CallError> {
        let (uid, version) = (account.metadata.uid.clone(), account.metadata.resource_version.clone());
        self.account_written(Write::Finalizer { uid, version, there }).await
    }

    fn admit(&self, _: &str, at: &StorePath) -> Admission {
        self.world().admit(at)
    }

    fn place(&self, _: &StorePath) -> Option<String> {
        None
    }

    fn store_deleting(&self, _: &ObjectId) -> bool {
        false
    }

    fn namespace_terminating(&self, _: &str) -> bool {
        self.world().terminating
    }

    async fn read_store(&self, at: &StorePath) -> Result<Held, ProviderError> {
        self.pause().await;
        self.world().read_store(at, self.me)
    }

    async fn write_store(&self, at: &StorePath, value: &Value<'_>, over: &Held) -> Result<String, ProviderError> {
        let put = Put {
            at: at.clone(),
            bytes: value.token.expose().as_bytes().to_vec(),
            mark: value.mark.clone(),
            over: over.version.clone(),
            base: self.world().locals[self.me].base,
        };
        self.world().judge_sent(&put);
        self.send_to_store(Write::Put(Box::new(put))).await
    }

    async fn retire_store(&self, at: &StorePath, held: &Held, keep: &BTreeSet<String>) -> Result<(), ProviderError> {
        let retire = Retire { at: at.clone(), held: held.version.clone(), keep: keep.clone() };
        self.send_to_store(Write::Retire(Box::new(retire))).await.map(drop)
    }

    async fn delete_store(&self, at: &StorePath, held: &Held) -> Result<(), ProviderError> {
        let base = self.world().locals[self.me].base;
        let remove = Remove { at: at.clone(), over: held.version.clone(), base };
        self.send_to_store(Write::Remove(Box::new(remove))).await.map(drop)
    }

    fn left_behind(&self, _: &VirtualAccount, at: &StorePath, why: &str) {
        self.world().tell_left_behind(at, why);
    }
}

fn version_of(account: &VirtualAccount) -> u64 {
    version_number(account.metadata.resource_version.as_deref().unwrap_or_default())
}

/// Pending so many times.
struct Pause(u8);

impl Future for Pause {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        Poll::Pending
    }
}
