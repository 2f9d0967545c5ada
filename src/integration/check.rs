//! When an integration is checked next. Pure.

use super::ProviderError;
use crate::api::{Instant, Seconds};
use crate::backoff;

/// How often an integration is checked.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// While it is healthy: not before this.
    pub healthy: Seconds,
    /// While it is down: not before this.
    pub down: Seconds,
    /// While its check fails: the longest wait.
    pub failing: Seconds,
    /// Refused credentials are read again, but not sooner after the last time than this: a path that is refused would
    /// cost a login each time.
    pub reopen: Seconds,
}

/// Hourly, about once a minute, and up to five minutes.
pub const TIMING: Timing =
    Timing { healthy: Seconds::hours(1), down: Seconds::minutes(1), failing: Seconds::minutes(5), reopen: Seconds(10) };

/// What the checks of an integration came to.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// The last result; `None`: none yet.
    pub last: Option<Result<(), ProviderError>>,
    /// Failures in a row.
    pub failures: u32,
    /// When to check next; `None`: now.
    pub due: Option<Instant>,
}

impl Timing {
    /// The wait after a check that ended like this. `down`: it does not answer. Up to a third is added by a jitter that
    /// depends on `seed` alone.
    pub fn wait(&self, result: &Result<(), ProviderError>, down: bool, failures: u32, seed: &str) -> Seconds {
        match result {
            Ok(()) => at_least(self.healthy, seed),
            Err(_) if down => at_least(self.down, seed),
            Err(error) => {
                let asked = error.retry_after.unwrap_or(Seconds::ZERO);
                backoff::delay(failures, self.failing, seed).max(asked.min(self.healthy))
            }
        }
    }
}

fn at_least(period: Seconds, seed: &str) -> Seconds {
    backoff::delay(u32::MAX, period + period / 3, seed).max(period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integration::ErrorKind;

    #[test]
    fn waits_have_a_floor_when_healthy_or_down_and_a_cap_when_failing() {
        let error = |after| {
            let error = ProviderError::new(ErrorKind::Throttled, "429", "");
            Err(ProviderError { retry_after: after, ..error })
        };
        let wait = |result: &Result<(), ProviderError>, down, failures, seed: u32| {
            TIMING.wait(result, down, failures, &seed.to_string()).0
        };
        for seed in 0..200 {
            assert!((3600..=4800).contains(&wait(&Ok(()), false, 0, seed)));
            assert!((60..=80).contains(&wait(&error(None), true, 9, seed)));
            assert_eq!(wait(&error(None), false, 1, seed), 1);
            assert!((225..=300).contains(&wait(&error(None), false, 99, seed)));
            assert_eq!(wait(&error(Some(Seconds(900))), false, 1, seed), 900);
            assert_eq!(wait(&error(Some(Seconds(90_000))), false, 1, seed), 3600);
        }
    }
}
