//! The tasks of the operator, in the order in which they are told to stop, and the watch over those that end untold.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::leader::Leadership;

/// How long what is in hand may go on after a shutdown began. The next leader waits for it, and is to lead within 2 s; what is
/// cut off is as after a crash. In the drill (200 accounts with work due, a channel that hangs, a busy machine) it led after
/// 0.7 to 1.5 s.
const FINISH: Duration = Duration::from_millis(1200);
/// How long what was sent may take to arrive, once no further write is sent.
const ARRIVE: Duration = Duration::from_millis(300);
/// How long giving the Lease up may take.
const GIVE_UP: Duration = Duration::from_secs(4);
/// How long answers in hand may go on after that.
const DRAIN: Duration = Duration::from_secs(8);

/// What runs, in the order in which it is told to stop: what is sent is recorded by those that work, and the Lease is given
/// up when nobody writes any more.
pub(super) struct Stages {
    pub(super) sending: Stage,
    pub(super) working: Stage,
    pub(super) standing: Stage,
    pub(super) serving: Stage,
    pub(super) failures: Failures,
}

/// Tasks that stop together.
pub(super) struct Stage {
    /// Tells them to stop.
    pub(super) stop: CancellationToken,
    tasks: TaskTracker,
    failures: Failures,
}

/// Tasks that ended before they were told to. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Failures {
    some: CancellationToken,
    first: Arc<OnceLock<&'static str>>,
}

impl Default for Stages {
    fn default() -> Self {
        let failures = Failures::default();
        let stage = || Stage::new(&failures);
        let (sending, working, standing, serving) = (stage(), stage(), stage(), stage());
        Self { sending, working, standing, serving, failures }
    }
}

impl Stages {
    /// Stops all, in order, and gives the Lease up.
    pub(super) async fn end(self, leadership: &Leadership) {
        info!("stopping: passes in hand are finished");
        // One time for both: what one leaves the other has.
        let cut_off = Instant::now() + FINISH;
        self.sending.finish(cut_off).await;
        // With the watches: nothing is answered from what they do not follow any more.
        self.serving.stop.cancel();
        self.working.finish(cut_off).await;
        leadership.refuse();
        self.working.finish(Instant::now() + ARRIVE).await;
        // What is not finished by now is cut off, as a crash would; only then may another replica lead.
        leadership.close();
        self.standing.finish(Instant::now() + GIVE_UP).await;
        self.serving.finish(Instant::now() + DRAIN).await;
    }
}

impl Stage {
    fn new(failures: &Failures) -> Self {
        Self { stop: CancellationToken::new(), tasks: TaskTracker::new(), failures: failures.clone() }
    }

    /// Starts a task that is to run until it is told to stop. Should it end before that, or panic, the process must not go on
    /// without it.
    pub(super) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, failures) = (self.stop.clone(), self.failures.clone());
        self.tasks.spawn(async move {
            // What it panicked with is on stderr.
            let _ = AssertUnwindSafe(task).catch_unwind().await;
            if !stop.is_cancelled() {
                failures.note(name);
            }
        });
    }

    /// Tells it to stop, and gives it some time for what is in hand.
    async fn finish(&self, until: Instant) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout_at(until, self.tasks.wait()).await;
    }
}

impl Failures {
    fn note(&self, name: &'static str) {
        self.first.get_or_init(|| name);
        self.some.cancel();
    }

    /// Returns when a task has failed: its name.
    pub(super) async fn first(&self) -> &'static str {
        self.some.cancelled().await;
        self.first.get().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_or_panics_before_its_stop_is_told_of() {
        for panics in [false, true] {
            let stages = Stages::default();
            stages.serving.spawn("whole", pending());
            stages.working.spawn("broken", async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert!(!panics, "as a defect would");
            });
            let failed = tokio::time::timeout(Duration::from_secs(2), stages.failures.first()).await;
            assert_eq!(failed, Ok("broken"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_when_told_is_no_failure() {
        let stages = Stages::default();
        let stop = stages.working.stop.clone();
        stages.working.spawn("good", async move { stop.cancelled().await });
        let failures = stages.failures.clone();
        stages.end(&Leadership::always()).await;
        assert!(failures.first().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_is_given_up_within_a_second_and_a_half_whatever_hangs() {
        let (stages, leadership) = (Stages::default(), Leadership::always());
        let (begun, until) = (Instant::now(), Arc::new(OnceLock::new()));
        stages.sending.spawn("a channel that hangs", pending());
        // Whoever works is dropped with the term.
        let (lead, stop) = (leadership.clone(), stages.working.stop.clone());
        stages.working.spawn("a store that hangs", async move { lead.lead(&stop, pending).await });
        stages.working.spawn("what nobody can cut off", pending());
        let (noted, stop) = (Arc::clone(&until), stages.standing.stop.clone());
        stages.standing.spawn("elector", async move {
            stop.cancelled().await;
            let _ = noted.set(begun.elapsed());
        });
        stages.end(&leadership).await;
        assert_eq!(until.get(), Some(&(FINISH + ARRIVE)));
        assert!(
            FINISH + ARRIVE <= Duration::from_millis(1500),
            "half a second is left for the write and the next leader"
        );
        assert!(!leadership.holds());
    }
}
