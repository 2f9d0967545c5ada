//! Which account is looked at next, and when an account is looked at again.
//!
//! Each key is in the queue at most once and runs at most once at a time. Nothing is taken while nobody works, so the queue
//! is bounded by the number of accounts, and by those that were added and not yet looked at. Wake-ups are instants of the
//! wall clock, compared every second: a timer of the runtime would sleep through a suspended machine or a corrected clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::api::{AccountId, Instant};
use crate::clock;

/// A queue shared by its producers and workers. It takes wishes only while it is open: [`Queue::open`].
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    ready: Notify,
}

impl Queue {
    /// An empty queue that is not open.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes wishes until the guard is dropped; then all that are left are forgotten, so that no queue grows on a replica
    /// that does not lead. Whoever opens it adds all accounts *after* that: an event that came before is in their cache by
    /// then, and one that comes later is taken.
    pub fn open(&self) -> Opened<'_> {
        self.lock().open = true;
        Opened(self)
    }

    /// Asks for a pass over this account: after those that already wait, or again after the pass that runs now.
    pub fn add(&self, key: AccountId) {
        self.lock().add(key);
        self.ready.notify_one();
    }

    /// Asks for a pass at this instant instead of any earlier wish for the account; `None` takes the wish back. An
    /// instant in the past is found by the next [`Queue::tick`].
    pub fn wake_at(&self, key: AccountId, at: Option<Instant>) {
        self.lock().wake_at(key, at);
    }

    /// Makes ready whatever is due at `now`. If the clock went back, that is every account with a wish: it was made by a
    /// clock that was ahead, and waiting for it could take as long as that clock was wrong.
    pub fn tick(&self, now: Instant) {
        if self.lock().tick(now) {
            self.ready.notify_one();
        }
    }

    /// Calls [`Queue::tick`] with the wall clock every second until cancelled.
    pub async fn keep_time(&self, cancel: CancellationToken) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while cancel.run_until_cancelled(seconds.tick()).await.is_some() {
            self.tick(clock::now());
        }
    }

    /// The next account, which is running until its [`Turn`] is dropped; `None` once the queue is closed.
    pub async fn next(&self) -> Option<Turn<'_>> {
        loop {
            {
                let mut state = self.lock();
                if state.closed {
                    self.ready.notify_one();
                    return None;
                }
                if let Some(key) = state.next() {
                    // Several additions may have left one permit only, so each taker calls the next.
                    if !state.ready.is_empty() {
                        self.ready.notify_one();
                    }
                    return Some(Turn { queue: self, key });
                }
            }
            self.ready.notified().await;
        }
    }

    /// Drops what is queued or wished for this account. A pass that runs is not interrupted.
    pub fn forget(&self, key: &AccountId) {
        self.lock().forget(key);
    }

    /// How many accounts are ready and wait for a worker.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// Whether no account waits for a worker.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends all waiting: [`Queue::next`] gives `None` from now on, also where accounts are ready.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue is open as long as this lives.
#[derive(Debug)]
pub struct Opened<'a>(&'a Queue);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.lock().shut();
    }
}

/// An account that is running. Also a pass that is dropped halfway ends by this, so that no account is left running for ever.
#[derive(Debug)]
pub struct Turn<'a> {
    queue: &'a Queue,
    key: AccountId,
}

impl Deref for Turn<'_> {
    type Target = AccountId;

    fn deref(&self) -> &AccountId {
        &self.key
    }
}

impl Drop for Turn<'_> {
    // If it was added meanwhile it is ready again.
    fn drop(&mut self) {
        if self.queue.lock().done(&self.key) {
            self.queue.ready.notify_one();
        }
    }
}

/// The state machine behind the lock: no clock, no waiting.
#[derive(Debug, Default)]
struct State {
    open: bool,
    slots: HashMap<AccountId, Slot>,
    /// By ticket: in the order in which they were added.
    ready: BTreeMap<u64, AccountId>,
    tickets: u64,
    due: BTreeSet<(Instant, AccountId)>,
    /// The last tick.
    ticked: Option<Instant>,
    closed: bool,
}

/// What is known about one key. A slot that says nothing is removed.
#[derive(Debug, Default, PartialEq)]
struct Slot {
    running: bool,
    /// While running: to be put in `ready` afterwards.
    again: bool,
    /// Its place in `ready`.
    ticket: Option<u64>,
    wake: Option<Instant>,
}

impl State {
    fn add(&mut self, key: AccountId) {
        if !self.open {
            return;
        }
        let slot = self.slots.entry(key.clone()).or_default();
        if slot.running {
            slot.again = true;
        } else if slot.ticket.is_none() {
            self.tickets += 1;
            slot.ticket = Some(self.tickets);
            self.ready.insert(self.tickets, key);
        }
    }

    fn wake_at(&mut self, key: AccountId, at: Option<Instant>) {
        let at = at.filter(|_| self.open);
        let slot = self.slots.entry(key.clone()).or_default();
        let earlier = std::mem::replace(&mut slot.wake, at);
        self.drop_if_idle(&key);
        if let Some(earlier) = earlier {
            self.due.remove(&(earlier, key.clone()));
        }
        if let Some(at) = at {
            self.due.insert((at, key));
        }
    }

    fn tick(&mut self, now: Instant) -> bool {
        let mut any = false;
        let went_back = self.ticked.replace(now).is_some_and(|last| now < last);
        while let Some((_, key)) = self.due.first().filter(|(at, _)| went_back || *at <= now).cloned() {
            self.wake_at(key.clone(), None);
            self.add(key);
            any = true;
        }
        any
    }

    fn next(&mut self) -> Option<AccountId> {
        let (_, key) = self.ready.pop_first()?;
        let slot = self.slots.entry(key.clone()).or_default();
        slot.running = true;
        slot.ticket = None;
        Some(key)
    }

    fn done(&mut self, key: &AccountId) -> bool {
        let Some(slot) = self.slots.get_mut(key).filter(|slot| slot.running) else { return false };
        slot.running = false;
        let again = std::mem::take(&mut slot.again);
        if again {
            self.add(key.clone());
        }
        self.drop_if_idle(key);
        again
    }

    fn forget(&mut self, key: &AccountId) {
        self.wake_at(key.clone(), None);
        if let Some(slot) = self.slots.get_mut(key) {
            slot.again = false;
            if let Some(ticket) = slot.ticket.take() {
                self.ready.remove(&ticket);
            }
        }
        self.drop_if_idle(key);
    }

    /// Forgets all; what still runs is not run again.
    fn shut(&mut self) {
        self.open = false;
        self.ready.clear();
        self.due.clear();
        self.slots.retain(|_, slot| slot.running);
        self.slots.values_mut().for_each(|slot| *slot = Slot { running: true, ..Slot::default() });
    }

    fn drop_if_idle(&mut self, key: &AccountId) {
        if self.slots.get(key).is_some_and(|slot| *slot == Slot::default()) {
            self.slots.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::Seconds;

    const T: Instant = Instant::MAX;

    fn key(name: &str) -> AccountId {
        AccountId::new("ns", name)
    }

    fn open() -> State {
        State { open: true, ..State::default() }
    }

    fn drain(state: &mut State) -> Vec<String> {
        std::iter::from_fn(|| state.next()).map(|key| key.name).collect()
    }

    #[test]
    fn keys_come_once_and_in_order() {
        let mut state = open();
        for name in ["a", "b", "a", "c", "b"] {
            state.add(key(name));
        }
        assert_eq!(drain(&mut state), ["a", "b", "c"]);
    }

    #[test]
    fn a_running_key_comes_again_only_after_it_is_done() {
        let mut state = open();
        state.add(key("a"));
        assert_eq!(state.next(), Some(key("a")));
        state.add(key("a"));
        state.add(key("a"));
        assert_eq!(state.next(), None, "never twice at once");
        assert!(state.done(&key("a")));
        assert_eq!(state.next(), Some(key("a")));
        assert!(!state.done(&key("a")));
        assert!(!state.done(&key("a")), "done twice is harmless");
        assert!(state.slots.is_empty());
    }

    #[test]
    fn wakes_at_the_instant_and_not_a_second_before() {
        let mut state = open();
        state.wake_at(key("late"), Some(T - Seconds(10)));
        state.wake_at(key("soon"), Some(T - Seconds(20)));
        assert!(!state.tick(T - Seconds(21)));
        assert!(state.tick(T - Seconds(20)));
        assert_eq!(drain(&mut state), ["soon"]);
        assert!(state.tick(T), "a clock that jumps ahead misses nothing");
        assert_eq!(drain(&mut state), ["late"]);
        assert!(state.due.is_empty());
    }

    #[test]
    fn a_clock_that_goes_back_wakes_all() {
        let mut state = open();
        for (name, at) in [("soon", T - Seconds(20)), ("late", T)] {
            state.wake_at(key(name), Some(at));
        }
        assert!(!state.tick(T - Seconds(30)));
        assert!(!state.tick(T - Seconds(30)), "the same second again is not back");
        assert!(state.tick(T - Seconds(31)));
        assert_eq!(drain(&mut state), ["soon", "late"]);
    }

    #[test]
    fn a_later_wish_replaces_the_earlier_one() {
        let mut state = open();
        state.wake_at(key("a"), Some(T - Seconds(20)));
        state.wake_at(key("a"), Some(T - Seconds(10)));
        state.wake_at(key("b"), Some(T - Seconds(20)));
        state.wake_at(key("b"), None);
        assert!(!state.tick(T - Seconds(20)));
        assert!(state.tick(T - Seconds(10)));
        assert_eq!(drain(&mut state), ["a"]);
        assert!(state.due.is_empty());
        assert_eq!(state.slots.len(), 1, "only the running key is left");
    }

    #[test]
    fn a_wish_made_while_running_is_kept() {
        let mut state = open();
        state.add(key("a"));
        state.next();
        state.wake_at(key("a"), Some(T));
        state.done(&key("a"));
        assert!(state.tick(T));
        assert_eq!(drain(&mut state), ["a"]);
    }

    #[test]
    fn a_forgotten_key_leaves_nothing_behind() {
        let mut state = open();
        state.add(key("queued"));
        state.wake_at(key("queued"), Some(T));
        state.forget(&key("queued"));
        assert_eq!(drain(&mut state), Vec::<String>::new());

        state.add(key("running"));
        state.next();
        state.add(key("running"));
        state.forget(&key("running"));
        assert!(!state.done(&key("running")));
        assert!(state.slots.is_empty() && state.due.is_empty() && state.ready.is_empty());
    }

    #[tokio::test]
    async fn every_waiting_worker_gets_a_key_and_close_ends_all() {
        let queue = Arc::new(Queue::new());
        let _open = queue.open();
        let worker = |queue: Arc<Queue>| async move {
            let mut seen = 0;
            while queue.next().await.is_some() {
                seen += 1;
            }
            seen
        };
        let workers: Vec<_> = (0..8).map(|_| tokio::spawn(worker(Arc::clone(&queue)))).collect();
        for n in 0..100 {
            queue.add(key(&n.to_string()));
            if n % 10 == 0 {
                tokio::task::yield_now().await;
            }
        }
        while !queue.is_empty() {
            tokio::task::yield_now().await;
        }
        queue.close();
        queue.add(key("too late"));
        let mut seen = 0;
        for worker in workers {
            seen += worker.await.unwrap();
        }
        assert_eq!(seen, 100);
        assert!(queue.next().await.is_none());
    }

    #[tokio::test]
    async fn a_turn_that_is_dropped_halfway_leaves_the_key_free() {
        let queue = Queue::new();
        let _open = queue.open();
        queue.add(key("a"));
        let turn = queue.next().await.unwrap();
        queue.add(key("a"));
        assert!(queue.is_empty(), "it runs");
        drop(turn);
        assert_eq!(*queue.next().await.unwrap(), key("a"));
    }

    #[tokio::test]
    async fn two_keys_added_before_any_waiter_polls_reach_two_waiters() {
        let queue = Queue::new();
        let _open = queue.open();
        let (first, second) = (queue.next(), queue.next());
        let both = async { tokio::join!(first, second) };
        let add = async {
            queue.add(key("a"));
            queue.add(key("b"));
        };
        let ((first, second), ()) = tokio::join!(both, add);
        let both: BTreeSet<_> = [&first, &second].into_iter().flatten().map(|turn| (**turn).clone()).collect();
        assert_eq!(both, [key("a"), key("b")].into());
    }

    #[test]
    fn a_forgotten_key_that_comes_back_goes_to_the_end() {
        let mut state = open();
        for name in ["a", "b"] {
            state.add(key(name));
        }
        state.forget(&key("a"));
        state.add(key("a"));
        assert_eq!(drain(&mut state), ["b", "a"]);
    }

    #[tokio::test]
    async fn nothing_is_kept_while_nobody_works() {
        let queue = Queue::new();
        let empty = |why: &str| {
            let state = queue.lock();
            assert!(state.slots.is_empty() && state.ready.is_empty() && state.due.is_empty(), "{why}: {state:?}");
        };
        let fill = || {
            for n in 0..100 {
                queue.add(key(&n.to_string()));
                queue.wake_at(key(&format!("due-{n}")), Some(T));
            }
        };
        fill();
        empty("before the first term");
        let term = queue.open();
        fill();
        let turn = queue.next().await.unwrap();
        queue.add(turn.clone());
        queue.wake_at(turn.clone(), Some(T));
        assert_eq!(queue.len(), 99);
        drop(term);
        assert!(queue.is_empty() && queue.lock().slots.len() == 1, "only what runs");
        fill();
        queue.tick(T);
        drop(turn);
        empty("after the term");
    }

    #[tokio::test]
    async fn a_term_sees_all_that_a_cache_knows_and_what_comes_after_it_was_opened() {
        let (queue, cache) = (Queue::new(), Mutex::new(BTreeSet::new()));
        // As a watch does: into the cache first.
        let event = |name: &str| {
            cache.lock().unwrap().insert(key(name));
            queue.add(key(name));
        };
        for term in ["first", "second"] {
            event(&format!("before-{term}"));
            let _open = queue.open();
            event(&format!("between-{term}"));
            cache.lock().unwrap().clone().into_iter().for_each(|key| queue.add(key));
            event(&format!("after-{term}"));
            let mut seen = BTreeSet::new();
            while !queue.is_empty() {
                seen.insert(queue.next().await.unwrap().clone());
            }
            assert_eq!(seen, *cache.lock().unwrap(), "{term}");
        }
    }

    #[tokio::test]
    async fn a_turn_that_outlives_its_term_is_not_run_twice_at_once() {
        let queue = Queue::new();
        let first = queue.open();
        queue.add(key("a"));
        let turn = queue.next().await.unwrap();
        drop(first);
        let _second = queue.open();
        queue.add(key("a"));
        assert!(queue.is_empty(), "it runs");
        drop(turn);
        assert_eq!(*queue.next().await.unwrap(), key("a"));
    }
}
