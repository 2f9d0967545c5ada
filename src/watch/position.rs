//! Where a watch stands, why a stream ended, and how long to wait then.

use std::time::{Duration, Instant};

use super::version;

/// How long to wait for what; tests take shorter ones.
#[derive(Clone, Copy)]
pub(super) struct Timing {
    /// Bookmarks come about every minute, so this much silence means that the stream is dead.
    pub(super) silence: Duration,
    pub(super) backoff_first: Duration,
    pub(super) backoff_cap: Duration,
    /// A stream that ends sooner and gave nothing counts as a failure, so that a server that closes at once is not
    /// asked in a tight loop.
    pub(super) shortest: Duration,
}

pub(super) const TIMING: Timing = Timing {
    silence: Duration::from_secs(150),
    backoff_first: Duration::from_millis(250),
    backoff_cap: Duration::from_secs(5),
    shortest: Duration::from_secs(1),
};

impl Timing {
    /// Doubles from the first to the cap; half of it is jitter, so that caches and replicas do not come back as one.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let doubled = self.backoff_first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let full = doubled.min(self.backoff_cap);
        let half = u64::try_from(full.as_millis() / 2).unwrap_or(0);
        full / 2 + Duration::from_millis(random() % (half + 1))
    }
}

/// Where the watch stands.
#[derive(Default)]
pub(super) struct Position {
    /// Which part of the cache it fills.
    pub(super) part: usize,
    /// The version to resume at; without it a list comes first.
    pub(super) resume: Option<String>,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Silent streams in a row.
    pub(super) silences: u32,
    /// When the last stream began, and whether it gave anything.
    pub(super) connected: Option<Instant>,
    pub(super) progress: bool,
}

/// Why a stream ended.
pub(super) enum End {
    /// In good order: its time was over or the server closes watches.
    Closed,
    /// Nothing came for [`Timing::silence`].
    Silent,
    /// The version is too old, went backwards, or a line made no sense: only a list can help.
    Expired,
    Failed(kube::Error),
}

impl From<kube::Error> for End {
    fn from(error: kube::Error) -> Self {
        match error {
            // kube reads a line that is no event as a status without a code.
            kube::Error::Api(status) if matches!(status.code, 0 | 410) || status.reason == "Expired" => Self::Expired,
            kube::Error::SerdeError(_) | kube::Error::LinesCodecMaxLineLengthExceeded => Self::Expired,
            error => Self::Failed(error),
        }
    }
}

impl Position {
    /// A stream's versions only grow; one that falls is from a server whose data was restored.
    pub(super) fn advance(&mut self, to: &str) -> Result<(), End> {
        if self.resume.as_deref().is_some_and(|from| version(to) < version(from)) {
            return Err(End::Expired);
        }
        self.resume = Some(to.to_owned());
        self.progress = true;
        self.silences = 0;
        Ok(())
    }

    /// Whether the last stream worked: it gave something or held for a while.
    pub(super) fn settled(&self, shortest: Duration) -> bool {
        self.progress || self.connected.is_some_and(|at| at.elapsed() >= shortest)
    }
}

/// Good enough for jitter: the standard library seeds its hashers at random, each one differently.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}
