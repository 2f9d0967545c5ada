//! An instant in whole seconds: what the ledger stores and what every decision compares.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Seconds;

/// A wall-clock instant in whole Unix seconds; on the wire RFC 3339 in UTC (`2026-11-22T08:30:00Z`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(i64);

/// 9999-12-30T22:00:00Z, the last second that RFC 3339 and jiff can both print.
const LAST: i64 = 253_402_207_200;

impl Instant {
    /// From Unix seconds, clamped to the years 1970 to 9999, so that no later arithmetic or printing can fail.
    pub fn from_unix(seconds: i64) -> Self {
        Self(seconds.clamp(0, LAST))
    }

    /// Unix seconds.
    pub fn as_unix(self) -> i64 {
        self.0
    }

    /// The latest instant there is.
    pub const MAX: Self = Self(LAST);
}

impl Add<Seconds> for Instant {
    type Output = Self;
    fn add(self, span: Seconds) -> Self {
        Self::from_unix(self.0.saturating_add(span.0))
    }
}

impl Sub<Seconds> for Instant {
    type Output = Self;
    fn sub(self, span: Seconds) -> Self {
        Self::from_unix(self.0.saturating_sub(span.0))
    }
}

impl Sub for Instant {
    type Output = Seconds;
    fn sub(self, earlier: Self) -> Seconds {
        Seconds(self.0 - earlier.0)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_second(self.0) {
            Ok(timestamp) => write!(f, "{timestamp}"),
            Err(_) => write!(f, "@{}", self.0),
        }
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Instant {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Timestamp>().map(|timestamp| Self::from_unix(timestamp.as_second()))
    }
}

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Instant {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Instant".into()
    }
    // The pattern keeps out what the API server's date-time format takes and RFC 3339 parsers differ on.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "date-time",
            "maxLength": 20,
            "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:[0-5]\dZ$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_rfc3339() {
        let instant: Instant = "2026-11-22T08:30:00Z".parse().unwrap();
        assert_eq!(instant.as_unix(), 1_795_336_200);
        assert_eq!(instant.to_string(), "2026-11-22T08:30:00Z");
        assert_eq!(serde_json::to_string(&instant).unwrap(), "\"2026-11-22T08:30:00Z\"");
    }

    #[test]
    fn arithmetic_stays_within_what_can_be_printed() {
        assert_eq!((Instant::MAX + Seconds(1)).to_string(), Instant::MAX.to_string());
        assert_eq!((Instant::from_unix(5) - Seconds(9)).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Instant::from_unix(i64::MAX) + Seconds(i64::MAX), Instant::MAX);
    }
}
