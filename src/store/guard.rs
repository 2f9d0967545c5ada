//! What stands before every call to a store: so many at once, each within a time, none by accounts while it is down.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::breaker::{Attempt, Breaker, Down, STORE_DOWN};
use super::{ErrorKind, ProviderError};

/// The guard of one store.
#[derive(Debug)]
pub(super) struct Guard {
    store: String,
    limit: Duration,
    permits: Semaphore,
    breaker: Mutex<Breaker>,
    // Wakes those that wait for a permit.
    down: watch::Sender<bool>,
    turned: AtomicBool,
    returned: AtomicBool,
}

impl Guard {
    /// At most `concurrency` calls at once, each within `limit`.
    pub(super) fn new(store: String, concurrency: usize, limit: Duration) -> Self {
        Self {
            store,
            limit,
            permits: Semaphore::new(concurrency),
            breaker: Mutex::default(),
            down: watch::Sender::new(false),
            turned: AtomicBool::new(false),
            returned: AtomicBool::new(false),
        }
    }

    /// Waits for its turn to call on an account's behalf; fails at once when the store is or goes down.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, ProviderError> {
        let mut down = self.down.subscribe();
        let permit = tokio::select! {
            biased;
            _ = down.wait_for(|down| *down) => None,
            permit = self.permits.acquire() => permit.ok(),
        };
        self.up()?;
        permit.ok_or_else(|| ProviderError::new(ErrorKind::Unavailable, STORE_DOWN, "the store was down a moment ago"))
    }

    /// Waits for its turn to check the store, down or not.
    pub(super) async fn turn_to_check(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    /// Fails if the store is known to be down.
    pub(super) fn up(&self) -> Result<(), ProviderError> {
        self.down().map_or(Ok(()), |down| Err(down.error().clone()))
    }

    /// Why no calls are made by accounts.
    pub(super) fn down(&self) -> Option<Down> {
        self.breaker().down().cloned()
    }

    /// Whether it is down because it does not answer.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self.down(), Some(Down::Outage(_)))
    }

    /// Whether the store went down since this was asked last.
    pub(super) fn went_down(&self) -> bool {
        self.turned.swap(false, Ordering::Relaxed)
    }

    /// Whether the store came up since this was asked last.
    pub(super) fn came_up(&self) -> bool {
        self.returned.swap(false, Ordering::Relaxed)
    }

    /// One call, within the time.
    pub(super) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        tokio::time::timeout(self.limit, call).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", self.limit.as_secs_f32());
            Err(ProviderError::new(ErrorKind::Unavailable, "Timeout", message))
        })
    }

    /// Takes what an attempt came to.
    pub(super) fn record(&self, attempt: Attempt) {
        let mut breaker = self.breaker();
        let before = breaker.down().is_some();
        breaker.record(&self.store, attempt);
        let after = breaker.down().is_some();
        if after && !before {
            self.turned.store(true, Ordering::Relaxed);
        }
        if before && !after {
            self.returned.store(true, Ordering::Relaxed);
        }
        self.down.send_if_modified(|down| std::mem::replace(down, after) != after);
    }

    // A poisoned lock is only one whose holder panicked; the breaker is whole between any two of its steps.
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;

    use super::*;

    fn guard(concurrency: usize) -> Arc<Guard> {
        Arc::new(Guard::new("platform/vault".into(), concurrency, Duration::from_millis(20)))
    }

    fn bring_down(guard: &Guard) {
        let error = ProviderError::new(ErrorKind::Unavailable, "Timeout", "no answer");
        (0..3).for_each(|_| guard.record(Attempt::Call(Some(&error))));
    }

    #[tokio::test]
    async fn a_call_without_answer_ends_in_time() {
        let error = guard(1).within(pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!(
            (error.kind, error.to_string().as_str()),
            (ErrorKind::Unavailable, "Timeout: no answer within 0.02 s")
        );
    }

    #[tokio::test]
    async fn no_more_than_so_many_call_at_once() {
        let guard = guard(2);
        let first = guard.turn().await.unwrap();
        let _second = guard.turn().await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(20), guard.turn());
        assert!(waiting.await.is_err());
        drop(first);
        drop(guard.turn().await.unwrap());
    }

    #[tokio::test]
    async fn those_who_wait_fail_when_the_store_goes_down() {
        let guard = guard(1);
        let _busy = guard.turn().await.unwrap();
        let waiting = tokio::spawn({
            let guard = Arc::clone(&guard);
            async move { guard.turn().await.map(drop) }
        });
        tokio::task::yield_now().await;
        bring_down(&guard);
        let error = waiting.await.unwrap().unwrap_err();
        assert_eq!(error.reason, STORE_DOWN);
        assert!(guard.went_down() && !guard.went_down(), "told once");
        assert_eq!(guard.turn().await.unwrap_err(), error, "a stable message");
    }

    #[tokio::test]
    async fn a_check_is_made_while_it_is_down_and_brings_it_up() {
        let guard = guard(1);
        bring_down(&guard);
        assert!(guard.turn_to_check().await.is_some());
        guard.record(Attempt::Check(None));
        drop(guard.turn().await.unwrap());
    }
}
