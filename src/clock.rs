//! The only reader of the wall clock, and how far that clock is from the API server's.
//!
//! Everything else gets `now` as an argument; `clippy.toml` refuses other readers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as Monotonic};

use jiff::Timestamp;

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
