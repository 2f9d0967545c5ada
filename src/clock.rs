//! The only reader of the wall clock, and how far that clock is from the API server's; and the clock by which the Lease is
//! held, which no suspended machine stops.
//!
//! Everything else gets `now` as an argument; `clippy.toml` refuses other readers.

use std::ops::Add;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as Monotonic};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::api::{Instant, Seconds};

/// The local wall clock, in whole seconds.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    Instant::from_unix(Timestamp::now().as_second())
}

/// The local wall clock to the microsecond, for the times in a Lease: each renewal must differ from the one before.
#[allow(clippy::disallowed_methods)]
pub fn precise() -> Timestamp {
    Timestamp::now()
}

/// An instant of the clock that nobody sets and that goes on while the machine sleeps (`CLOCK_BOOTTIME`). [`Monotonic`]
/// stands still then: a holder of the Lease that slept would wake up and think that its time is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let since_boot = clock_gettime(ClockId::Boottime);
        let (seconds, rest) = (u64::try_from(since_boot.tv_sec), u32::try_from(since_boot.tv_nsec));
        Self(Duration::new(seconds.unwrap_or(0), rest.unwrap_or(0)))
    }

    /// How long before this `earlier` was; zero if it was not.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Milliseconds since the machine was started.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

/// What the API server's clock said last, carried on by the monotonic clock. Clones share what they know.
///
/// The monotonic clock stands still while a machine sleeps, so after a wake-up the local clock seems to run ahead until
/// the next answer arrives: trust is then missing for that moment, never given wrongly.
#[derive(Clone, Debug, Default)]
pub struct ServerClock(Arc<Mutex<Option<Reading>>>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    server: Instant,
    arrived: Monotonic,
}

/// A `Date` header is cut to whole seconds, and so is the local clock: a second of difference means nothing.
const RESOLUTION: Seconds = Seconds(1);

impl ServerClock {
    /// A clock that has heard no answer yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the `Date` header of an answer that arrived just now (RFC 9110, 5.6.7). An unreadable one is ignored.
    pub fn hear(&self, date: &str) {
        if let Some(server) = parse_date(date) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Reading { server, arrived: Monotonic::now() });
        }
    }

    /// How far the local clock runs ahead of the server's (negative: behind). `None` before the first answer.
    pub fn skew(&self) -> Option<Seconds> {
        let reading = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reading.map(|Reading { server, arrived }| ahead(now(), server, arrived.elapsed()))
    }

    /// Whether the local clock is within `max_skew` of the server's. Zero switches the check off; before the first
    /// answer there is nothing to distrust.
    pub fn trusted(&self, max_skew: Seconds) -> bool {
        self.skew().is_none_or(|skew| tolerable(skew, max_skew))
    }
}

fn ahead(local: Instant, server: Instant, since: Duration) -> Seconds {
    let elapsed = Seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    local - (server + elapsed)
}

fn tolerable(skew: Seconds, max_skew: Seconds) -> bool {
    max_skew == Seconds::ZERO || Seconds(skew.0.saturating_abs()) <= max_skew + RESOLUTION
}

fn parse_date(text: &str) -> Option<Instant> {
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Instant::from_unix(date.as_second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Instant = Instant::MAX;

    #[test]
    fn moments_are_those_of_the_clock_that_no_suspended_machine_stops() {
        // The kernel says it in seconds with two digits; its clock of idle time is the second number.
        let uptime = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
        };
        let digit = Duration::from_millis(10);
        let (before, now, after) = (uptime(), Moment::now(), uptime());
        assert!(now >= Moment(before) && now <= Moment(after) + digit, "{before:?} {now:?} {after:?}");
        assert_eq!((now + digit).since(now), digit);
        assert_eq!(now.since(now + digit), Duration::ZERO);
    }

    #[test]
    fn reads_the_date_of_http() {
        assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Instant::from_unix(784_111_777)));
        assert_eq!(parse_date("yesterday"), None);
    }

    #[test]
    fn the_server_clock_is_carried_on_by_the_monotonic_clock() {
        let (server, minute) = (T - Seconds(600), Duration::from_mins(1));
        assert_eq!(ahead(server + Seconds(60), server, minute), Seconds::ZERO);
        assert_eq!(ahead(server + Seconds(90), server, minute), Seconds(30));
        assert_eq!(ahead(server, server, minute), Seconds(-60));
    }

    #[test]
    fn only_more_than_the_allowed_skew_counts() {
        let max = Seconds(120);
        for (skew, trusted) in [(0, true), (121, true), (-121, true), (122, false), (-122, false), (i64::MIN, false)] {
            assert_eq!(tolerable(Seconds(skew), max), trusted, "{skew}");
        }
        assert!(tolerable(Seconds(86_400), Seconds::ZERO), "zero switches the check off");
    }

    #[test]
    fn an_answer_decides_and_no_answer_is_trusted() {
        let clock = ServerClock::new();
        assert!(clock.trusted(Seconds(1)));
        assert_eq!(clock.skew(), None);
        clock.clone().hear("not a date");
        assert!(clock.trusted(Seconds(1)));
        clock.clone().hear("Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(!clock.trusted(Seconds(1)));
        assert!(clock.trusted(Seconds::ZERO));
    }
}
