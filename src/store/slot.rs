//! One TokenStore as it is used: opened when it is needed, guarded, and opened again when its credentials are refused.
//! A new spec gets a new slot.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant as Monotonic};

use tokio::sync::Mutex as Turns;

use super::breaker::Attempt;
use super::guard::Guard;
use super::{Identity, Network, Open, Provider, ProviderError, Store};
use crate::api::{ObjectId, TokenStoreSpec};
use crate::integration::{Checked, Login, Opened};
use crate::lock::lock;
use crate::metrics::Metrics;

/// What a slot is made of.
pub(super) struct Blueprint {
    pub(super) id: ObjectId,
    pub(super) uid: String,
    pub(super) spec: TokenStoreSpec,
    pub(super) provider: Provider,
    pub(super) open: Open,
    pub(super) identity: Arc<dyn Identity>,
    pub(super) network: Network,
    pub(super) concurrency: usize,
    pub(super) reopen: Duration,
    pub(super) metrics: Arc<Metrics>,
}

/// One TokenStore in one generation of its spec.
pub(super) struct Slot {
    of: Blueprint,
    pub(super) guard: Guard,
    login: Login<dyn Store>,
    /// When the TokenStore was last made sure to have its finalizer.
    pub(super) held: Turns<Option<Monotonic>>,
    checked: Mutex<Checked>,
}

impl Slot {
    pub(super) fn new(of: Blueprint) -> Self {
        let guard = Guard::new(of.id.to_string(), of.concurrency, of.network.timeout);
        Self { of, guard, login: Login::default(), held: Turns::default(), checked: Mutex::default() }
    }

    /// Whether it is this object with this spec. Its generation also grows when it is deleted: that must not cost an open
    /// login, which is then needed for the cleanup and may not be had again.
    pub(super) fn is(&self, uid: &str, spec: &TokenStoreSpec) -> bool {
        self.of.uid == uid && self.of.spec == *spec
    }

    pub(super) fn id(&self) -> &ObjectId {
        &self.of.id
    }

    pub(super) fn provider(&self) -> Provider {
        self.of.provider
    }

    /// The checks so far.
    pub(super) fn checked(&self) -> MutexGuard<'_, Checked> {
        lock(&self.checked)
    }

    /// One call on an account's behalf. Refused credentials are read again and the call is repeated once.
    pub(super) async fn call<T, F>(
        &self,
        operation: &'static str,
        call: impl Fn(Arc<dyn Store>) -> F,
    ) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<T, ProviderError>>,
    {
        let _turn = self.guard.turn().await?;
        let open = || async {
            // Another one may just have tried.
            self.guard.up()?;
            self.open().await
        };
        let call = async |store| {
            let answer = self.timed(operation, call(store)).await;
            self.guard.record(Attempt::Call(answer.as_ref().err()));
            answer
        };
        self.login.call(self.of.reopen, open, call).await
    }

    /// The store's own check, with credentials and certificates read anew: a wrong caBundle looks like an outage.
    pub(super) async fn check(&self) -> Result<(), ProviderError> {
        let _turn = self.guard.turn_to_check().await;
        let opened = self.open().await?;
        let store = opened.client();
        let answer = self.timed("check", store.check()).await;
        self.guard.record(Attempt::Check(answer.as_ref().err()));
        if answer.is_ok() {
            self.login.replace(opened).await;
        }
        answer
    }

    async fn open(&self) -> Result<Opened<dyn Store>, ProviderError> {
        let Blueprint { spec, identity, network, open, .. } = &self.of;
        let opening = open(spec.clone(), Arc::clone(identity), *network);
        let opened = self.timed("open", opening).await;
        opened.map(Opened::from).inspect_err(|error| self.guard.record(Attempt::Opening(error)))
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        let start = Monotonic::now();
        let answer = self.guard.within(call).await;
        let result = answer.as_ref().err().map_or("ok", |error| error.kind.as_str());
        self.of.metrics.store_called(self.of.provider.as_str(), operation, result, start.elapsed());
        answer
    }
}
