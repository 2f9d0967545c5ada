//! Durations as users write them: days as a number, or a string such as `90d`, `12h`, `30m`.
//!
//! Our own newtype, because kube's `Duration` panics on large values and knows no days.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Div, Mul, Sub};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span of whole seconds; on the wire a number with its largest exact unit (`30d`, `12h`, `5m`, `45s`, `0s`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seconds(pub i64);

impl Seconds {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// Whole minutes.
    pub const fn minutes(n: i64) -> Self {
        Self(n * 60)
    }
    /// Whole hours.
    pub const fn hours(n: i64) -> Self {
        Self(n * 3_600)
    }
    /// Whole days of 24 hours.
    pub const fn days(n: i64) -> Self {
        Self(n * 86_400)
    }

    /// Reads a number of at most five digits and a unit out of `units`, such as `90d`. No sign, no leading zero; a
    /// lone `0` is a number.
    pub fn parse(text: &str, units: &str) -> Option<Self> {
        let unit = text.chars().last().filter(|unit| units.contains(*unit))?;
        let digits = text.strip_suffix(unit)?;
        let plain = (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !plain || (digits.len() > 1 && digits.starts_with('0')) {
            return None;
        }
        let number: i64 = digits.parse().ok()?;
        Some(Self(number * UNITS.iter().find(|(name, _)| *name == unit)?.1))
    }

    /// This span as the standard library's duration; a negative one is none.
    pub fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_secs(u64::try_from(self.0).unwrap_or(0))
    }
}

const UNITS: [(char, i64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Five digits are all that `parse` reads; longer ones stay seconds.
        let exact = |size: &i64| self.0 != 0 && self.0 % size == 0 && self.0 / size < 100_000;
        let (name, size) = UNITS.iter().find(|(_, size)| exact(size)).unwrap_or(&UNITS[3]);
        write!(f, "{}{name}", self.0 / size)
    }
}

impl fmt::Debug for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::ops::Add for Seconds {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Seconds {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Mul<i64> for Seconds {
    type Output = Self;
    fn mul(self, factor: i64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

impl Div<i64> for Seconds {
    type Output = Self;
    fn div(self, divisor: i64) -> Self {
        Self(self.0 / divisor)
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let long = text.strip_suffix('s').and_then(|digits| digits.parse::<u32>().ok()).map(|n| Self(n.into()));
        long.or_else(|| Self::parse(&text, "dhms")).ok_or_else(|| D::Error::custom("not a duration"))
    }
}

impl JsonSchema for Seconds {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Seconds".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 10, "pattern": "^(0|[1-9][0-9]{0,8})s$|^[1-9][0-9]{0,4}[dhm]$"})
    }
}

/// A number of days, or a duration string.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DaysOrDuration<const MIN_DAYS: i64> {
    /// Days of 24 hours.
    Days(i64),
    /// A duration string (`90d`, `12h`, `30m`).
    Duration(String),
}

impl<const MIN_DAYS: i64> JsonSchema for DaysOrDuration<MIN_DAYS> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("DaysOrDuration{MIN_DAYS}").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": MIN_DAYS,
            "maximum": 3650,
            "maxLength": 6,
            "pattern": "^[1-9][0-9]{0,4}[mhd]$",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_the_documentation_names() {
        let table = [("90d", 7_776_000), ("12h", 43_200), ("30m", 1_800), ("99999d", 8_639_913_600)];
        for (text, seconds) in table {
            assert_eq!(Seconds::parse(text, "mhd"), Some(Seconds(seconds)), "{text}");
        }
        for text in [
            "",
            "d",
            "-1d",
            "1w",
            "1.5h",
            "100000d",
            "01d",
            "1d ",
            " 1d",
            "99999999999999999999h",
            "1h-5m",
            "12",
            "٣d",
            "1é",
        ] {
            assert_eq!(Seconds::parse(text, "mhd"), None, "{text}");
        }
        assert_eq!(Seconds::parse("0s", "mhds"), Some(Seconds::ZERO));
    }

    #[test]
    fn prints_the_largest_exact_unit() {
        for (span, text) in [(0, "0s"), (45, "45s"), (90, "90s"), (300, "5m"), (43_200, "12h"), (86_400 * 30, "30d")] {
            assert_eq!(Seconds(span).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = Seconds::parse(&text, "mhds");
        }

        #[test]
        fn what_is_printed_is_read_back(span in 0i64..=999_999_999) {
            let text = serde_json::to_string(&Seconds(span)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Seconds>(&text).unwrap(), Seconds(span));
        }
    }
}
