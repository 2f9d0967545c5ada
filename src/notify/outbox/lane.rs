//! One lane: what waits for one channel and its recipients, what of it makes the next message, and how long to wait after
//! that. Pure.

use std::collections::BTreeMap;
use std::fmt;

use tokio::time::Instant as Monotonic;

use crate::api::{AccountId, ObjectId, Seconds};
use crate::backoff;
use crate::integration::{ErrorKind, ProviderError};
use crate::notify::PATIENCE;

/// A lane that folds is quiet for so long after a message.
pub(super) const WINDOW: Seconds = Seconds(30);
/// The most letters in one message.
pub(super) const MOST: usize = 100;
/// The longest wait after failures.
const LONGEST: Seconds = Seconds::hours(1);

/// Which lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) channel: ObjectId,
    pub(super) recipients: Vec<String>,
}

/// Which letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) account: AccountId,
    pub(super) id: String,
}

/// What a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for a free place.
    Ready,
    /// A message is being sent. `news`: what was heard of the channel since then, so that its failure says little.
    InHand { news: News },
    /// Nothing is sent before `until`. `asked`: because of a failure, not of a window; the provider asked to wait until then.
    Waiting { until: Monotonic, asked: Option<Monotonic> },
}

/// What was heard of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum News {
    Nothing,
    /// Its check is good again.
    Recovered,
    /// It has another spec.
    Changed,
}

/// One lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) phase: Phase,
    pub(super) folds: bool,
    // By the turns that letters got when they came, so that one that comes back does so at its old place.
    together: BTreeMap<u64, Ticket>,
    // Of messages that were refused as a whole: which of the letters was it?
    alone: BTreeMap<u64, Ticket>,
    was_alone: bool,
    failures: u32,
}

impl Lane {
    /// An empty one.
    pub(super) fn new(folds: bool) -> Self {
        Self {
            phase: Phase::Ready,
            folds,
            together: BTreeMap::new(),
            alone: BTreeMap::new(),
            was_alone: false,
            failures: 0,
        }
    }

    /// A letter joins.
    pub(super) fn push(&mut self, turn: u64, ticket: Ticket, alone: bool) {
        if alone { &mut self.alone } else { &mut self.together }.insert(turn, ticket);
    }

    /// A letter leaves.
    pub(super) fn remove(&mut self, turn: u64) {
        self.together.remove(&turn);
        self.alone.remove(&turn);
    }

    /// The letters that wait.
    pub(super) fn tickets(&self) -> impl Iterator<Item = &Ticket> {
        self.together.values().chain(self.alone.values())
    }

    /// Whether no letter waits.
    pub(super) fn is_empty(&self) -> bool {
        self.together.is_empty() && self.alone.is_empty()
    }

    /// The letters of the next message leave. Those that must be alone take turns with the others: neither holds up the
    /// other.
    pub(super) fn take(&mut self) -> Vec<Ticket> {
        self.was_alone = !self.alone.is_empty() && (!self.was_alone || self.together.is_empty());
        let most = if self.folds && !self.was_alone { MOST } else { 1 };
        let from = if self.was_alone { &mut self.alone } else { &mut self.together };
        std::iter::from_fn(|| from.pop_first()).take(most).map(|(_, ticket)| ticket).collect()
    }

    /// How long to wait after a message that ended like this. A refusal is no failure of the lane: it answers.
    pub(super) fn ended(&mut self, result: &Result<(), ProviderError>, seed: &str) -> Seconds {
        let window = if self.folds { WINDOW } else { Seconds::ZERO };
        match result {
            Ok(()) => {
                self.failures = 0;
                window
            }
            Err(error) if error.kind == ErrorKind::Invalid => window,
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                backoff::delay(self.failures, LONGEST, seed).max(asked(error))
            }
        }
    }
}

/// How long the provider asked to wait.
pub(super) fn asked(error: &ProviderError) -> Seconds {
    error.retry_after.unwrap_or(Seconds::ZERO).min(PATIENCE)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.channel, self.recipients.join(","))
    }
}
