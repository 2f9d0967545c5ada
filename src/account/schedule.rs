//! When a token ends and when it is replaced. Pure arithmetic over instants; knows no cluster and no ledger.

use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::api::{Entry, Instant, Seconds};

/// The schedule of an account, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Whether the account asks for rotation (`autoRotate`).
    pub auto: bool,
    /// Time between rotations; of no meaning without `auto`.
    pub interval: Seconds,
    /// How long a predecessor stays valid.
    pub grace: Seconds,
    /// The end of the account: 00:00:00Z of the day after `expirationDate`.
    pub end: Option<Instant>,
    /// The operator's `--max-token-lifetime`.
    pub max_life: Seconds,
    /// What jitter is derived from: the account's uid.
    pub seed: u64,
}

/// Without `autoRotate`, a successor comes this long before the end, or a quarter of the life if that is shorter.
const UNASKED_LEAD: Seconds = Seconds::days(30);
/// Jitter is at most this.
const MAX_JITTER: Seconds = Seconds::hours(12);

impl Schedule {
    /// `exp` of a token issued at `issued_at`.
    pub fn expiry(&self, issued_at: Instant) -> Instant {
        let capped = issued_at + self.max_life;
        let asked = if self.auto { issued_at + self.interval + self.grace } else { Instant::MAX };
        capped.min(asked).min(self.end.unwrap_or(Instant::MAX))
    }

    /// The grace that a token issued at `issued_at` gives its predecessors. Where `--max-token-lifetime` cuts the life
    /// short, a quarter of it at most: the successor comes that long before the end.
    pub fn grace_at_issue(&self, issued_at: Instant) -> Seconds {
        let cut = self.auto && self.expiry(issued_at) == issued_at + self.max_life;
        if cut { self.grace.min(self.max_life / 4) } else { self.grace }
    }

    /// When the newest entry is to be replaced; `None` for never.
    pub fn due(&self, entry: &Entry) -> Option<Instant> {
        let (issued_at, expires_at) = (entry.issued_at, entry.expires_at);
        let life = expires_at - issued_at;
        let half = issued_at + Seconds((life.0 + 1) / 2);
        let before_end = |lead: Seconds| (expires_at - lead - self.jitter(life)).max(half);
        if !self.auto {
            return (self.end != Some(expires_at)).then(|| before_end(UNASKED_LEAD.min(life / 4)));
        }
        let asked = issued_at + self.interval - self.jitter(life);
        match self.end {
            // It ends with the account: one more only if that is worth it.
            Some(end) if expires_at >= end => (asked < end - self.grace).then_some(asked),
            // A cap, or an edit since, ends it before its time.
            _ if expires_at < issued_at + self.interval + self.grace => {
                Some(asked.min(before_end(self.grace.min(life / 4))))
            }
            _ => Some(asked),
        }
    }

    /// Whether the account is past its end.
    pub fn ended(&self, now: Instant) -> bool {
        self.end.is_some_and(|end| now >= end)
    }

    // 1 % of the interval (of the life, without one), at most 12 h; the same for an account at every call.
    fn jitter(&self, life: Seconds) -> Seconds {
        let span = if self.auto { self.interval } else { life };
        let most = (span / 100).min(MAX_JITTER).0.max(0);
        let share = i64::try_from(self.seed % 1_000).unwrap_or(0);
        Seconds(most * share / 1_000)
    }
}

/// A number from a uid that is spread evenly: FNV-1a, because `std`'s hasher may change between releases and then every
/// due time would move.
pub fn seed(uid: &str) -> u64 {
    uid.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The end of an account: 00:00:00Z of the day after its `expirationDate` (`yyyy-mm-dd`); `None` if that is no date.
pub fn account_end(expiration_date: &str) -> Option<Instant> {
    let date: Date = expiration_date.parse().ok().filter(|_| expiration_date.len() == 10)?;
    let midnight = date.tomorrow().and_then(|day| day.to_zoned(TimeZone::UTC));
    Some(midnight.map_or(Instant::MAX, |midnight| Instant::from_unix(midnight.timestamp().as_second())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{IssueReason, Phase};

    const T: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Instant {
        Instant::from_unix(T + seconds)
    }

    fn schedule(auto: bool) -> Schedule {
        Schedule {
            auto,
            interval: Seconds::days(90),
            grace: Seconds::days(7),
            end: None,
            max_life: Seconds::days(400),
            seed: 999,
        }
    }

    fn entry(expires_at: Instant) -> Entry {
        Entry {
            id: "j1".into(),
            key_id: "k".into(),
            issuer: "i".into(),
            audiences: vec!["a".into()],
            issued_at: at(0),
            expires_at,
            grace: Seconds::days(7),
            reason: IssueReason::First,
            phase: Phase::Current,
            grace_ends_at: None,
            delivered_at: None,
        }
    }

    const DAY: i64 = 86_400;

    #[test]
    fn life_is_interval_plus_grace_capped_by_end_and_limit() {
        let s = schedule(true);
        assert_eq!(s.expiry(at(0)), at(97 * DAY));
        assert_eq!(Schedule { end: Some(at(50 * DAY)), ..s.clone() }.expiry(at(0)), at(50 * DAY));
        assert_eq!(Schedule { max_life: Seconds::days(60), ..s }.expiry(at(0)), at(60 * DAY));
        assert_eq!(schedule(false).expiry(at(0)), at(400 * DAY));
    }

    #[test]
    fn rotation_comes_an_interval_after_issue_less_jitter() {
        let due = schedule(true).due(&entry(at(97 * DAY))).unwrap();
        let jitter = 90 * DAY / 100 * 999 / 1_000;
        assert_eq!(due, at(90 * DAY - jitter.min(43_200 * 999 / 1_000)));
    }

    #[test]
    fn a_shorter_life_than_asked_is_replaced_a_quarter_before_its_end() {
        let s = Schedule { max_life: Seconds::days(60), seed: 0, ..schedule(true) };
        assert_eq!(s.due(&entry(at(60 * DAY))), Some(at(53 * DAY)));
        let s = Schedule { grace: Seconds::days(40), ..s };
        assert_eq!(s.due(&entry(at(60 * DAY))), Some(at(45 * DAY)), "a quarter of the life, not the grace");
    }

    #[test]
    fn nothing_counted_back_from_the_end_lies_before_half_of_the_life() {
        let s =
            Schedule { max_life: Seconds(10), interval: Seconds(20), grace: Seconds(20), seed: 0, ..schedule(true) };
        assert!(s.due(&entry(at(10))).unwrap() >= at(5));
    }

    #[test]
    fn a_token_that_ends_with_the_account_is_replaced_only_well_before() {
        let s = Schedule { seed: 0, ..schedule(true) };
        let with_end = |days| Schedule { end: Some(at(days * DAY)), ..s.clone() };
        assert_eq!(with_end(97).due(&entry(at(97 * DAY))), None, "interval reaches end - grace");
        assert_eq!(with_end(96).due(&entry(at(96 * DAY))), None);
        let long = Schedule { grace: Seconds::days(2), ..with_end(93) };
        assert_eq!(long.due(&entry(at(93 * DAY))), Some(at(90 * DAY)));
    }

    #[test]
    fn without_rotation_a_capped_token_gets_a_successor_and_one_that_ends_with_the_account_none() {
        let s = Schedule { seed: 0, ..schedule(false) };
        assert_eq!(s.due(&entry(at(400 * DAY))), Some(at(370 * DAY)));
        assert_eq!(Schedule { end: Some(at(50 * DAY)), ..s }.due(&entry(at(50 * DAY))), None);
    }

    #[test]
    fn an_end_moved_later_makes_the_successor_due_before_the_old_end() {
        let s = Schedule { seed: 0, end: Some(at(300 * DAY)), ..schedule(true) };
        assert_eq!(s.due(&entry(at(40 * DAY))), Some(at(33 * DAY)));
    }

    #[test]
    fn the_account_ends_with_the_day_it_names() {
        assert_eq!(account_end("2027-02-28").unwrap().to_string(), "2027-03-01T00:00:00Z");
        assert_eq!(account_end("2028-02-29").unwrap().to_string(), "2028-03-01T00:00:00Z");
        for wrong in ["2027-02-30", "2027-13-01", "27-01-01", "2027-1-1", "", "20270228", "2027-02-28T00:00:00"] {
            assert_eq!(account_end(wrong), None, "{wrong}");
        }
        assert_eq!(account_end("9999-12-31"), Some(Instant::MAX), "the day after cannot be printed");
    }

    #[test]
    fn seeds_spread_over_the_jitter() {
        let shares: std::collections::BTreeSet<u64> = (0..100).map(|n| seed(&format!("uid-{n}")) % 1_000).collect();
        assert!(shares.len() > 80, "{}", shares.len());
    }
}
