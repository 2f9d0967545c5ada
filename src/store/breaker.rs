//! Whether a store is known to be down, as far as its calls tell. Pure: no clock, no calls.
//!
//! Calls of accounts bring it down; only the store's own check, which goes on while it is down, brings it up again.

use super::{ErrorKind, ProviderError};

/// So many calls in a row that a store does not answer bring it down.
const FAILURES: u32 = 3;

/// What is known of a store.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Breaker {
    failures: u32,
    down: Option<Down>,
}

/// Why no calls are made on an account's behalf. What it says stays the same while an outage lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Down {
    /// It does not answer; it may pass by itself.
    Outage(ProviderError),
    /// It cannot be opened: its credentials or its spec are wrong, and somebody must act.
    Unusable(ProviderError),
}

/// The reason of errors that say that no call was made because the store is known not to answer: nobody's failure.
pub const STORE_DOWN: &str = "StoreDown";

/// What an attempt came to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attempt<'a> {
    /// Opening the store failed.
    Opening(&'a ProviderError),
    /// A call ended.
    Call(Option<&'a ProviderError>),
    /// The store's own check ended, the store being open.
    Check(Option<&'a ProviderError>),
}

impl Breaker {
    /// Takes what an attempt came to. `id`: the store, for people.
    pub(super) fn record(&mut self, id: &str, attempt: Attempt) {
        match attempt {
            Attempt::Opening(error) if !error.is_retryable() => {
                let message = format!("TokenStore {id} cannot be opened: {}", error.message);
                self.down = Some(Down::Unusable(ProviderError { message, ..error.clone() }));
            }
            Attempt::Opening(error) | Attempt::Call(Some(error)) | Attempt::Check(Some(error)) => match error.kind {
                ErrorKind::Unavailable => self.missed(id, error),
                // It asks for patience, so it is there; but whether it works is not known.
                ErrorKind::Throttled => {}
                _ => self.answered(attempt),
            },
            Attempt::Call(None) | Attempt::Check(None) => self.answered(attempt),
        }
    }

    /// Whether it is down.
    pub(super) fn down(&self) -> Option<&Down> {
        self.down.as_ref()
    }

    fn missed(&mut self, id: &str, error: &ProviderError) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES && !matches!(self.down, Some(Down::Outage(_))) {
            let message = format!("TokenStore {id} is down ({error}); it is tried about once a minute");
            self.down = Some(Down::Outage(ProviderError::new(ErrorKind::Unavailable, STORE_DOWN, message)));
        }
    }

    // The late answer of a call that began before does not bring it up again.
    fn answered(&mut self, attempt: Attempt) {
        self.failures = 0;
        if matches!(attempt, Attempt::Check(_)) {
            self.down = None;
        }
    }
}

impl Down {
    /// What a call ends with that is not made.
    pub(super) fn error(&self) -> &ProviderError {
        match self {
            Self::Outage(error) | Self::Unusable(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::{Conflict, Denied, Invalid, NotFound, Throttled, Unavailable};

    /// `o`pening, `c`all or `k` (check), and how it ended.
    type Step = (char, Option<(ErrorKind, &'static str)>);

    fn after(steps: &[Step]) -> Option<String> {
        let mut breaker = Breaker::default();
        for (what, error) in steps {
            let error = error.map(|(kind, message)| ProviderError::new(kind, "Reason", message));
            breaker.record(
                "platform/vault",
                match what {
                    'o' => Attempt::Opening(error.as_ref().unwrap()),
                    'c' => Attempt::Call(error.as_ref()),
                    _ => Attempt::Check(error.as_ref()),
                },
            );
        }
        breaker.down().map(|down| down.error().to_string())
    }

    const MISS: Option<(ErrorKind, &str)> = Some((Unavailable, "no answer"));

    #[test]
    fn three_calls_in_a_row_without_answer_bring_it_down() {
        let down = "StoreDown: TokenStore platform/vault is down (Reason: no answer); it is tried about once a minute";
        let other = Some((Unavailable, "another text"));
        let answers = [None, Some((Denied, "")), Some((NotFound, "")), Some((Invalid, "")), Some((Conflict, ""))];
        assert_eq!(after(&[('c', MISS), ('c', MISS)]), None);
        assert_eq!(after(&[('c', MISS), ('c', MISS), ('c', MISS)]).as_deref(), Some(down));
        assert_eq!(after(&[('o', MISS), ('k', MISS), ('c', MISS)]).as_deref(), Some(down), "whoever made them");
        for answer in answers {
            assert_eq!(after(&[('c', MISS), ('c', MISS), ('c', answer), ('c', MISS), ('c', MISS)]), None, "{answer:?}");
        }
        let patience = Some((Throttled, "429"));
        assert_eq!(after(&[('c', patience); 9]), None, "a store that asks for patience is not down");
        assert!(after(&[('c', MISS), ('c', MISS), ('c', patience), ('c', MISS)]).is_some());
        let texts = [('c', MISS), ('c', MISS), ('c', MISS), ('c', other), ('k', other)];
        assert_eq!(after(&texts).as_deref(), Some(down), "the message stays");
    }

    #[test]
    fn only_its_own_check_brings_it_up() {
        let down = [('c', MISS), ('c', MISS), ('c', MISS)];
        let then = |more: &[Step]| after(&[&down, more].concat()).is_some();
        assert!(then(&[('c', None)]), "a late answer says nothing");
        assert!(then(&[('k', MISS)]));
        assert!(then(&[('k', Some((Throttled, "429")))]));
        assert!(!then(&[('k', None)]));
        assert!(!then(&[('k', Some((Denied, "403")))]), "it answers");
        assert!(!then(&[('k', None), ('c', MISS), ('c', MISS)]), "and begins to count anew");
    }

    #[test]
    fn a_store_that_cannot_be_opened_is_down_at_once_and_says_the_latest_reason() {
        let wrong = |message| ('o', Some((Denied, message)));
        let told = |message: &str| Some(format!("Reason: TokenStore platform/vault cannot be opened: {message}"));
        assert_eq!(after(&[wrong("no Secret")]), told("no Secret"));
        assert_eq!(after(&[wrong("no Secret"), wrong("no key")]), told("no key"));
        assert_eq!(after(&[wrong("no Secret"), ('k', None)]), None);
        let outage = [('c', MISS), ('c', MISS), ('c', MISS), wrong("no key")];
        assert_eq!(after(&outage), told("no key"), "it answers now, but refuses");
    }
}
