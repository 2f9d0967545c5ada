//! What is known of a channel, from its checks and from its messages. Pure.

use super::{Message, PATIENCE};
use crate::api::{Instant, Seconds};
use crate::integration::{Checked, ErrorKind, ProviderError, Timing};

/// The longest that good checks are not believed after a message was not taken: longer than any wait between two attempts
/// that is not asked for.
const LONGEST: Seconds = Seconds::hours(2);

/// What is known of a channel.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// What its checks came to.
    checked: Checked,
    /// Messages were not taken, and none since.
    refused: Option<Trouble>,
}

/// What a message met. A good check does not end it: where the server answers but takes no message, the condition would turn
/// with every attempt. It ends when a message is taken, or when none was tried for long.
#[derive(Clone, Debug)]
struct Trouble {
    error: ProviderError,
    since: Instant,
    until: Instant,
}

impl Trouble {
    /// Whether a good check is not believed yet. A clock that went back ends it.
    fn holds(&self, now: Instant) -> bool {
        self.since <= now && now < self.until
    }

    /// Whether another failure is a part of it.
    fn goes_on(&self, now: Instant) -> bool {
        self.since <= now && now < self.until + LONGEST
    }
}

impl Health {
    /// Takes what a check came to; whether the channel works again, by its checks. `seed`: see [`Timing::wait`].
    pub(super) fn checked(
        &mut self,
        result: Result<(), ProviderError>,
        timing: &Timing,
        seed: &str,
        now: Instant,
    ) -> bool {
        let failures = if result.is_ok() { 0 } else { self.checked.failures.saturating_add(1) };
        let due = Some(now + timing.wait(&result, false, failures, seed));
        let before = self.checked.last.take();
        let works_again = result.is_ok() && matches!(before, Some(Err(_)));
        // Who asks for patience is there, and says nothing against the credentials.
        let throttled = result.as_ref().is_err_and(|error| error.kind == ErrorKind::Throttled);
        let last = Some(if throttled && before == Some(Ok(())) { Ok(()) } else { result });
        self.checked = Checked { last, failures, due };
        works_again
    }

    /// Takes what a message came to; whether that may be news. Errors that [`says_nothing`] of the channel are not for it.
    pub(super) fn sent(&mut self, result: &Result<(), ProviderError>, timing: &Timing, now: Instant) -> bool {
        let Err(error) = result else { return self.refused.take().is_some() };
        let before = self.refused.take().filter(|before| before.goes_on(now));
        let is_news = !before.as_ref().is_some_and(|before| before.holds(now) && before.error.reason == error.reason);
        let since = before.as_ref().map_or(now, |before| before.since);
        // Attempts wait as long as they have failed already, so twice that lasts until the next one has ended.
        let hold = Seconds((now - since).0.saturating_mul(2)).min(LONGEST).max(timing.down);
        let asked = error.retry_after.map_or(Seconds::ZERO, |asked| asked.min(PATIENCE) + timing.down);
        let until = before.map_or(now, |before| before.until).max(now + hold.max(asked));
        self.refused = Some(Trouble { error: error.clone(), since, until });
        // A check that fails has its own pace.
        if is_news && self.checked.failures == 0 {
            self.checked.due = self.checked.due.map(|due| due.min(now + Seconds(1)));
        }
        is_news
    }

    /// Why it does not work, as far as is known at `now`; `None`: it was not tried yet.
    pub(super) fn finding(&self, now: Instant) -> Option<Result<(), ProviderError>> {
        match (&self.checked.last, &self.refused) {
            (Some(Err(error)), _) => Some(Err(error.clone())),
            (_, Some(trouble)) if trouble.holds(now) => Some(Err(trouble.error.clone())),
            (last, _) => last.clone(),
        }
    }

    /// Whether it is time for a check. One that is further ahead than any wait was set by a clock that went back since.
    pub(super) fn is_due(&self, timing: &Timing, now: Instant) -> bool {
        self.checked.due.is_none_or(|due| due <= now || due > now + timing.healthy + timing.healthy)
    }

    /// When to look at it again; `None`: it was not checked yet.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let until = self.refused.as_ref().filter(|trouble| trouble.holds(now)).map(|trouble| trouble.until);
        self.checked.due.into_iter().chain(until).min()
    }
}

/// Whether what a message met says nothing about the channel: else one account could make the channel of all look broken, by
/// a wrong recipient, or by recipients who are put off. Who asks for patience is there.
pub(super) fn says_nothing(answer: &Result<(), ProviderError>, message: &Message) -> bool {
    answer.as_ref().is_err_and(|error| match error.kind {
        ErrorKind::Invalid | ErrorKind::Throttled => true,
        ErrorKind::NotFound => !message.recipients.is_empty(),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff;
    use crate::integration::TIMING;

    fn error(kind: ErrorKind) -> ProviderError {
        ProviderError::new(kind, kind.as_str(), "words")
    }

    fn at(seconds: i64) -> Instant {
        Instant::from_unix(1_800_000_000 + seconds)
    }

    fn good() -> Health {
        let mut health = Health::default();
        health.checked(Ok(()), &TIMING, "seed", at(0));
        health
    }

    /// What the health says at each second: `-` unknown, `t`rue or `f`alse.
    fn seen(health: &Health, seconds: impl Iterator<Item = i64>) -> String {
        let letter = |finding| match finding {
            None => '-',
            Some(Ok(())) => 't',
            Some(Err(_)) => 'f',
        };
        seconds.map(|second| letter(health.finding(at(second)))).collect()
    }

    #[test]
    fn while_messages_are_not_taken_good_checks_turn_nothing() {
        for (lasts, asked, seed) in [(0, None, "a"), (15, None, "b"), (0, Some(3_600), "c"), (15, Some(90_000), "d")] {
            let mut health = good();
            let error = ProviderError { retry_after: asked.map(Seconds), ..error(ErrorKind::Unavailable) };
            let (mut now, mut told) = (10, 0);
            for failures in 1..40 {
                told += i32::from(health.sent(&Err(error.clone()), &TIMING, at(now)));
                let asked = Seconds(asked.unwrap_or_default()).min(PATIENCE);
                let next = now + backoff::delay(failures, Seconds::hours(1), seed).max(asked).0 + lasts;
                while let Some(due) = health.due(at(now)).filter(|due| *due < at(next)) {
                    assert_eq!(health.finding(due), Some(Err(error.clone())), "{asked:?} at {due}");
                    health.checked(Ok(()), &TIMING, seed, due);
                }
                assert!(health.finding(at(next)).unwrap().is_err(), "{lasts} {asked:?}: failure {failures}");
                now = next;
            }
            assert_eq!(told, 1, "one status for all of it");
            assert!(health.sent(&Ok(()), &TIMING, at(now)), "one that is taken ends it at once");
            assert_eq!(seen(&health, now..=now), "t");
            assert!(!health.sent(&Ok(()), &TIMING, at(now)));
        }
    }

    #[test]
    fn a_trouble_that_nobody_meets_again_is_over_after_a_while() {
        let mut health = good();
        health.sent(&Err(error(ErrorKind::Denied)), &TIMING, at(10));
        assert!(health.is_due(&TIMING, at(11)), "it is checked soon");
        health.checked(Ok(()), &TIMING, "seed", at(11));
        assert_eq!(seen(&health, [69, 70].into_iter()), "ft");
        assert!(health.sent(&Err(error(ErrorKind::Denied)), &TIMING, at(3_010)), "that is news");
        assert_eq!(seen(&health, [9_009, 9_010].into_iter()), "ft", "twice as long as it lasts");
        let later = 9_010 + 7_200;
        health.sent(&Err(error(ErrorKind::Denied)), &TIMING, at(later));
        assert_eq!(seen(&health, [later + 59, later + 60].into_iter()), "ft", "another trouble");
    }

    #[test]
    fn another_reason_is_news_and_is_shown() {
        let mut health = good();
        assert!(health.sent(&Err(error(ErrorKind::Unavailable)), &TIMING, at(1)));
        assert!(!health.sent(&Err(error(ErrorKind::Unavailable)), &TIMING, at(2)));
        assert!(health.sent(&Err(error(ErrorKind::Denied)), &TIMING, at(3)));
        assert_eq!(health.finding(at(4)), Some(Err(error(ErrorKind::Denied))));
    }

    #[test]
    fn only_a_check_that_failed_before_can_find_that_it_works_again() {
        let mut health = Health::default();
        assert_eq!((seen(&health, 0..1), health.is_due(&TIMING, at(0)), health.due(at(0))), ("-".into(), true, None));
        let mut checked = |result| health.checked(result, &TIMING, "seed", at(0));
        assert!(!checked(Ok(())), "the first");
        assert!(!checked(Ok(())) && !checked(Err(error(ErrorKind::Denied))) && !checked(Err(error(ErrorKind::Denied))));
        assert!(checked(Ok(())) && !checked(Ok(())));
        health.sent(&Err(error(ErrorKind::Unavailable)), &TIMING, at(1));
        assert!(!health.checked(Ok(()), &TIMING, "seed", at(2)), "a message is no check");
    }

    #[test]
    fn a_check_that_is_put_off_says_nothing_new() {
        let throttled = || ProviderError { retry_after: Some(Seconds(900)), ..error(ErrorKind::Throttled) };
        let mut health = good();
        assert!(!health.checked(Err(throttled()), &TIMING, "seed", at(10)));
        assert_eq!(health.finding(at(10)), Some(Ok(())));
        assert_eq!(health.due(at(10)), Some(at(910)), "it is asked again when it wants to be");
        assert!(!health.checked(Ok(()), &TIMING, "seed", at(910)));
        let mut health = Health::default();
        health.checked(Err(throttled()), &TIMING, "seed", at(10));
        assert_eq!(health.finding(at(10)), Some(Err(throttled())), "nothing good is known of it");
    }

    #[test]
    fn a_check_that_fails_keeps_its_own_pace_whatever_messages_meet() {
        let mut health = Health::default();
        for _ in 0..20 {
            health.checked(Err(error(ErrorKind::Unavailable)), &TIMING, "seed", at(0));
        }
        let due = health.due(at(0)).unwrap();
        assert!((at(225)..=at(300)).contains(&due), "{due}");
        health.sent(&Err(error(ErrorKind::Unavailable)), &TIMING, at(10));
        assert!(!health.is_due(&TIMING, at(11)));
        assert_eq!(health.finding(at(11)), Some(Err(error(ErrorKind::Unavailable))));
    }

    #[test]
    fn a_clock_that_went_back_holds_up_no_check() {
        let mut health = Health::default();
        health.checked(Ok(()), &TIMING, "seed", at(1_000_000));
        health.sent(&Err(error(ErrorKind::Denied)), &TIMING, at(1_000_000));
        assert!(health.is_due(&TIMING, at(0)));
        assert_eq!(seen(&health, 0..1), "t");
    }

    #[test]
    fn only_what_is_wrong_with_the_message_is_not_the_channels_fault() {
        let message =
            |recipients: Vec<String>| Message { letters: vec![], recipients, cluster: String::new(), now: at(0) };
        for (kind, own, named) in [
            (ErrorKind::Invalid, true, true),
            (ErrorKind::NotFound, false, true),
            (ErrorKind::Denied, false, false),
            (ErrorKind::Unavailable, false, false),
            (ErrorKind::Throttled, true, true),
        ] {
            let answer = Err(error(kind));
            assert_eq!(says_nothing(&answer, &message(vec![])), own, "{kind:?}");
            assert_eq!(says_nothing(&answer, &message(vec!["#a".into()])), named, "{kind:?}");
        }
        assert!(!says_nothing(&Ok(()), &message(vec![])));
    }
}
