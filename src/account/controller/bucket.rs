//! How fast tokens are issued anew after a change of limits.

use std::time::Instant;

/// So many re-issues a second, over all accounts; refilled by the monotonic clock.
pub(super) struct Bucket {
    rate: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate: rate.into(), level: rate.into(), at: Instant::now() }
    }

    pub(super) fn available(&mut self) -> bool {
        let now = Instant::now();
        self.level = (self.level + self.rate * (now - self.at).as_secs_f64()).min(self.rate);
        self.at = now;
        self.level >= 1.0
    }

    pub(super) fn take(&mut self) {
        self.level -= 1.0;
    }
}
