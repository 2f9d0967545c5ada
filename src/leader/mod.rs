//! Which of several replicas writes. A Lease saves work: two writers cannot harm each other (the ledger's rules see to that),
//! but they would both do everything. Whoever writes does so in a *term*, which ends before another replica's begins.
//!
//! ```text
//!  Lease --watch--> elector --> Leadership --> lead(): the work, started with each term and dropped with it
//!                                   |
//!                                   +-------> holds(): asked before every write, by the clock and not by a task
//! ```
//!
//! No crate for this was found safe: one went on as leader for 24 s after the API server had gone, with a lease of 4 s.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod elector;
mod lease;

pub use elector::{Elector, Fit, LEASE_NAME, Settings};

use crate::clock::Moment;

/// Whether this replica may write. Clones share it.
#[derive(Clone, Debug)]
pub struct Leadership(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // Until when the Lease is ours, as `Moment::millis`; 0: it is not.
    until: AtomicU64,
    closed: AtomicBool,
    terms: watch::Sender<Option<CancellationToken>>,
}

/// A write was held back: this replica does not lead, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not hold the Lease")]
pub struct NotLeading;

impl Leadership {
    /// Held by nobody yet.
    fn none() -> Self {
        let terms = watch::Sender::new(None);
        Self(Arc::new(Inner { until: AtomicU64::new(0), closed: AtomicBool::new(false), terms }))
    }

    /// For a process that has no rivals: one term that ends with [`Leadership::end`].
    pub fn always() -> Self {
        let this = Self::none();
        this.0.until.store(u64::MAX, Ordering::SeqCst);
        this.0.terms.send_replace(Some(CancellationToken::new()));
        this
    }

    /// Whether a write may be sent now. Right also in a process that was frozen, or on a machine that was suspended, before
    /// any of its tasks runs.
    pub fn holds(&self) -> bool {
        Moment::now().millis() < self.0.until.load(Ordering::SeqCst)
    }

    /// [`Leadership::holds`], as an error.
    pub fn check(&self) -> Result<(), NotLeading> {
        if self.holds() { Ok(()) } else { Err(NotLeading) }
    }

    /// Runs `work` in each term, and drops it when the term ends; until `stop`. Then work in hand must end by itself, or
    /// is dropped when the term ends.
    pub async fn lead<F>(&self, stop: &CancellationToken, work: impl Fn() -> F)
    where
        F: Future<Output = ()>,
    {
        let mut terms = self.0.terms.subscribe();
        while let Some(Some(term)) = stop.run_until_cancelled(term(&mut terms)).await {
            term.run_until_cancelled(work()).await;
            if stop.is_cancelled() {
                return;
            }
            // Work that ended before its term has nothing more to do in it.
            term.cancelled().await;
        }
    }

    /// Returns when no term is under way (any more): what was sent in it is not to go on.
    pub async fn ended(&self) {
        let mut terms = self.0.terms.subscribe();
        // An error would say that there is no leadership any more.
        let _ = terms.wait_for(|term| term.as_ref().is_none_or(CancellationToken::is_cancelled)).await;
    }

    /// Ends the term, if there is one.
    pub fn end(&self) {
        self.0.until.store(0, Ordering::SeqCst);
        if let Some(term) = self.0.terms.send_replace(None) {
            term.cancel();
        }
    }

    /// No further write is sent from now on. Work goes on until the term ends, so that what was sent can arrive.
    pub fn refuse(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.until.store(0, Ordering::SeqCst);
    }

    /// Ends the term for good: this process writes nothing any more.
    pub fn close(&self) {
        self.refuse();
        self.end();
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }

    /// The Lease is ours until then.
    fn hold(&self, until: Moment) {
        if self.is_closed() {
            return;
        }
        self.0.until.store(until.millis(), Ordering::SeqCst);
        self.0.terms.send_if_modified(|term| {
            let begins = term.is_none();
            term.get_or_insert_default();
            begins
        });
    }

    /// How much of the hold is left.
    fn left(&self) -> Option<Duration> {
        let left = self.0.until.load(Ordering::SeqCst).saturating_sub(Moment::now().millis());
        (left > 0).then(|| Duration::from_millis(left))
    }
}

async fn term(terms: &mut watch::Receiver<Option<CancellationToken>>) -> Option<CancellationToken> {
    let term = terms.wait_for(|term| term.as_ref().is_some_and(|term| !term.is_cancelled())).await;
    term.ok()?.clone()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::FutureExt as _;

    use super::*;

    struct Count<'a>(&'a AtomicUsize);

    impl<'a> Count<'a> {
        fn new(count: &'a AtomicUsize) -> Self {
            count.fetch_add(1, Ordering::SeqCst);
            Self(count)
        }
    }

    impl Drop for Count<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    async fn becomes(count: &AtomicUsize, wanted: usize) {
        while count.load(Ordering::SeqCst) != wanted {
            tokio::task::yield_now().await;
        }
    }

    fn soon() -> Moment {
        Moment::now() + Duration::from_mins(1)
    }

    #[tokio::test]
    async fn work_runs_in_each_term_and_ends_with_it() {
        let (leadership, stop) = (Leadership::none(), CancellationToken::new());
        let (running, begun) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || async {
            let _count = Count::new(&running);
            begun.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        };
        let script = async {
            assert!(!leadership.holds());
            leadership.hold(soon());
            becomes(&running, 1).await;
            leadership.hold(soon());
            assert!(leadership.check().is_ok());
            leadership.end();
            assert_eq!(leadership.check(), Err(NotLeading));
            becomes(&running, 0).await;
            leadership.hold(soon());
            becomes(&running, 1).await;
            stop.cancel();
            leadership.end();
        };
        tokio::join!(leadership.lead(&stop, work), script);
        assert_eq!(begun.load(Ordering::SeqCst), 2, "a renewal starts nothing");
    }

    #[tokio::test]
    async fn work_that_ends_by_itself_waits_for_the_next_term() {
        let (leadership, stop) = (Leadership::none(), CancellationToken::new());
        let begun = AtomicUsize::new(0);
        let work = || async {
            begun.fetch_add(1, Ordering::SeqCst);
        };
        let script = async {
            for n in 1..=2 {
                leadership.hold(soon());
                becomes(&begun, n).await;
                leadership.end();
            }
            stop.cancel();
        };
        tokio::join!(leadership.lead(&stop, work), script);
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn work_in_hand_may_finish_when_told_to_stop() {
        let (leadership, stop) = (Leadership::always(), CancellationToken::new());
        let finished = AtomicUsize::new(0);
        let work = || async {
            stop.cancelled().await;
            tokio::task::yield_now().await;
            finished.fetch_add(1, Ordering::SeqCst);
        };
        tokio::join!(leadership.lead(&stop, work), async { stop.cancel() });
        assert_eq!(finished.load(Ordering::SeqCst), 1);
        assert!(leadership.holds());
        leadership.refuse();
        let over = leadership.ended().now_or_never();
        assert_eq!((leadership.holds(), over), (false, None), "what was sent may arrive");
        leadership.close();
        assert_eq!(leadership.ended().now_or_never(), Some(()));
        leadership.hold(soon());
        assert!(!leadership.holds(), "a renewal that was under way opens nothing");
    }

    #[tokio::test]
    async fn whoever_waits_for_the_end_of_the_term_is_told() {
        let leadership = Leadership::none();
        leadership.ended().await;
        for end in [Leadership::end, Leadership::close] {
            leadership.hold(soon());
            let mut ended = std::pin::pin!(leadership.ended());
            tokio::select! {
                biased;
                () = &mut ended => panic!("the term goes on"),
                () = tokio::task::yield_now() => {}
            }
            end(&leadership);
            ended.await;
        }
    }

    #[test]
    fn a_hold_ends_by_the_clock_alone() {
        let leadership = Leadership::none();
        leadership.hold(Moment::now() + Duration::from_secs(1));
        assert!(leadership.holds());
        // As a process that is frozen: nothing runs, only time goes by.
        std::thread::sleep(Duration::from_millis(1100));
        assert!(!leadership.holds());
    }
}
