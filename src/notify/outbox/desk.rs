//! The state machine behind the outbox: which letters wait, which message may start, what a message that ended means. No
//! clock, no sending, no waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant as Monotonic;

use super::lane::{self, Address, Lane, News, Phase, Ticket};
use super::turns::Turns;
use super::{Posted, Report};
use crate::api::{AccountId, Instant, ObjectId, Seconds};
use crate::integration::{ErrorKind, ProviderError};
use crate::notify::Letter;

/// All that waits.
#[derive(Debug, Default)]
pub(super) struct Desk {
    accounts: HashMap<AccountId, BTreeMap<String, Item>>,
    lanes: HashMap<Arc<Address>, Lane>,
    turns: Turns,
    // When lanes' waits end.
    due: BTreeSet<(Monotonic, Arc<Address>)>,
    last_turn: u64,
}

/// One message that is being sent.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) address: Arc<Address>,
    pub(super) letters: Vec<Letter>,
    tickets: Vec<Ticket>,
}

#[derive(Debug)]
enum Item {
    Open(Box<Open>),
    /// Never sent again while it is in the set.
    Over(Report),
}

/// A letter that is still to be sent.
#[derive(Debug)]
struct Open {
    letter: Letter,
    address: Arc<Address>,
    folds: bool,
    turn: u64,
    alone: bool,
    in_hand: bool,
    // Only one in hand can be unwanted: if it is wanted again, it must not be sent twice.
    wanted: bool,
    failing: Option<ProviderError>,
}

/// What the end of a message means for each of its letters.
enum Verdict {
    Over(Report),
    Again,
    /// Again, without the others.
    Alone,
    Failing(ProviderError),
}

impl Desk {
    /// See [`super::Outbox::post`].
    pub(super) fn post(&mut self, account: &AccountId, letters: Vec<Posted>) {
        let mut before = self.accounts.remove(account).unwrap_or_default();
        let mut items = BTreeMap::new();
        for posted in letters {
            let id = posted.letter.id.clone();
            let known = items.remove(&id).or_else(|| before.remove(&id));
            items.insert(id, self.accept(account, known, posted));
        }
        for (id, item) in before {
            if let Some(item) = self.let_go(item) {
                items.insert(id, item);
            }
        }
        if !items.is_empty() {
            self.accounts.insert(account.clone(), items);
        }
    }

    /// See [`super::Outbox::reports`].
    pub(super) fn reports(&self, account: &AccountId) -> BTreeMap<String, Report> {
        let items = self.accounts.get(account).into_iter().flatten();
        items.filter_map(|(id, item)| Some((id.clone(), item.report()?))).collect()
    }

    /// See [`super::Outbox::changed`].
    pub(super) fn changed(&mut self, channel: &ObjectId) {
        self.hear(channel, News::Changed, |_| None);
    }

    /// See [`super::Outbox::recovered`].
    pub(super) fn recovered(&mut self, channel: &ObjectId, now: Monotonic) {
        self.hear(channel, News::Recovered, |asked| (asked > now).then_some(asked));
    }

    /// Ends the waits of lanes that failed; `later`: not before this, of what the provider asked for.
    fn hear(&mut self, channel: &ObjectId, heard: News, later: impl Fn(Monotonic) -> Option<Monotonic>) {
        let addresses = self.lanes.keys().filter(|address| address.channel == *channel);
        for address in addresses.cloned().collect::<Vec<_>>() {
            let Some(lane) = self.lanes.get_mut(&address) else { continue };
            match &mut lane.phase {
                Phase::InHand { news } => *news = heard.max(*news),
                Phase::Waiting { until, asked: Some(asked) } => {
                    self.due.remove(&(*until, Arc::clone(&address)));
                    match later(*asked) {
                        Some(later) => {
                            *until = later;
                            self.due.insert((later, Arc::clone(&address)));
                        }
                        None => self.make_ready(&address),
                    }
                }
                Phase::Waiting { asked: None, .. } | Phase::Ready => {}
            }
        }
    }

    /// The next message that may start now. It ends with [`Desk::finish`] or [`Desk::put_back`].
    pub(super) fn start(&mut self, now: Monotonic) -> Option<Batch> {
        while let Some((_, address)) = self.due.first().filter(|(until, _)| *until <= now).cloned() {
            self.due.pop_first();
            self.make_ready(&address);
        }
        loop {
            let address = self.turns.next()?;
            match self.open(&address) {
                Some((tickets, letters)) => return Some(Batch { address, letters, tickets }),
                None => self.turns.done(&address.channel),
            }
        }
    }

    /// When the next wait ends.
    pub(super) fn due(&self) -> Option<Monotonic> {
        self.due.first().map(|(until, _)| *until)
    }

    /// A message ended, at `at` by the wall clock. The accounts that have something new to read.
    pub(super) fn finish(
        &mut self,
        batch: Batch,
        result: Result<(), ProviderError>,
        now: Monotonic,
        at: Instant,
    ) -> BTreeSet<AccountId> {
        let wait = self.lanes.get_mut(&batch.address).map(|lane| lane.ended(&result, &batch.address.to_string()));
        let asked = result.as_ref().err().filter(|error| error.kind != ErrorKind::Invalid).map(lane::asked);
        let verdict = match result {
            Ok(()) => Verdict::Over(Report::Sent { at }),
            Err(error) if asked.is_some() => Verdict::Failing(error),
            Err(_) if batch.tickets.len() > 1 => Verdict::Alone,
            Err(error) => Verdict::Over(Report::Refused { error }),
        };
        let mut told = self.conclude(batch.tickets, &verdict);
        if let Verdict::Failing(error) = &verdict {
            told.extend(self.hold_back(&batch.address, error));
        }
        self.rest(&batch.address, wait.unwrap_or(Seconds::ZERO), asked, now);
        told
    }

    /// A message was not tried: its letters wait as before.
    pub(super) fn put_back(&mut self, batch: Batch) {
        self.conclude(batch.tickets, &Verdict::Again);
        self.turns.done(&batch.address.channel);
        self.make_ready(&batch.address);
    }

    /// A letter of the set: what is known of it, with what is said of it now.
    fn accept(&mut self, account: &AccountId, known: Option<Item>, posted: Posted) -> Item {
        let Posted { channel, medium, recipients, letter } = posted;
        let known = match known {
            Some(Item::Open(open)) => Some(open),
            Some(over @ Item::Over(_)) => return over,
            None => None,
        };
        let address = Address { channel, recipients };
        let folds = medium.folds();
        if let Some(lane) = self.lanes.get_mut(&address) {
            lane.folds = folds;
        }
        let open = match known {
            Some(open) if *open.address == address => Box::new(Open { letter, folds, wanted: true, ..*open }),
            Some(open) => self.redirect(account, open, address, letter, folds),
            None => self.enter(account, address, letter, folds),
        };
        Item::Open(open)
    }

    fn enter(&mut self, account: &AccountId, address: Address, letter: Letter, folds: bool) -> Box<Open> {
        let address = self.shared(address);
        self.last_turn += 1;
        let turn = self.last_turn;
        let (alone, in_hand, wanted, failing) = (false, false, true, None);
        let open = Open { letter, address, folds, turn, alone, in_hand, wanted, failing };
        self.queue(account, &open);
        Box::new(open)
    }

    /// It goes another way now. One in hand changes over if it comes back.
    fn redirect(
        &mut self,
        account: &AccountId,
        known: Box<Open>,
        address: Address,
        letter: Letter,
        folds: bool,
    ) -> Box<Open> {
        if !known.in_hand {
            self.unqueue(&known);
            let mut open = self.enter(account, address, letter, folds);
            open.failing = known.failing;
            return open;
        }
        let address = self.shared(address);
        Box::new(Open { letter, address, folds, alone: false, wanted: true, ..*known })
    }

    /// It is no longer in the set. What is in hand is remembered until it ends.
    fn let_go(&mut self, item: Item) -> Option<Item> {
        match item {
            Item::Open(open) if open.in_hand => {
                Some(Item::Open(Box::new(Open { wanted: false, failing: None, ..*open })))
            }
            Item::Open(open) => {
                self.unqueue(&open);
                None
            }
            Item::Over(_) => None,
        }
    }

    fn shared(&self, address: Address) -> Arc<Address> {
        self.lanes.get_key_value(&address).map_or_else(|| Arc::new(address), |(known, _)| Arc::clone(known))
    }

    fn queue(&mut self, account: &AccountId, open: &Open) {
        let ticket = Ticket { account: account.clone(), id: open.letter.id.clone() };
        let is_new = !self.lanes.contains_key(&open.address);
        let lane = self.lanes.entry(Arc::clone(&open.address)).or_insert_with(|| Lane::new(open.folds));
        lane.push(open.turn, ticket, open.alone);
        if is_new {
            self.make_ready(&open.address);
        }
    }

    // A lane that is empty now is forgotten when its turn comes or its wait ends.
    fn unqueue(&mut self, open: &Open) {
        if let Some(lane) = self.lanes.get_mut(&open.address) {
            lane.remove(open.turn);
        }
    }

    fn make_ready(&mut self, address: &Arc<Address>) {
        let Some(lane) = self.lanes.get_mut(address) else { return };
        if lane.is_empty() {
            self.lanes.remove(address);
        } else {
            lane.phase = Phase::Ready;
            self.turns.add(address);
        }
    }

    /// The lane's next message; `None`: it had no letters left.
    fn open(&mut self, address: &Arc<Address>) -> Option<(Vec<Ticket>, Vec<Letter>)> {
        let lane = self.lanes.get_mut(address)?;
        let tickets = lane.take();
        if tickets.is_empty() {
            self.lanes.remove(address);
            return None;
        }
        lane.phase = Phase::InHand { news: News::Nothing };
        let letters = tickets.iter().filter_map(|ticket| self.hand_out(ticket)).collect();
        Some((tickets, letters))
    }

    fn hand_out(&mut self, ticket: &Ticket) -> Option<Letter> {
        match self.accounts.get_mut(&ticket.account)?.get_mut(&ticket.id)? {
            Item::Open(open) => {
                open.in_hand = true;
                Some(open.letter.clone())
            }
            Item::Over(_) => None,
        }
    }

    fn conclude(&mut self, tickets: Vec<Ticket>, verdict: &Verdict) -> BTreeSet<AccountId> {
        let told = tickets.into_iter().filter_map(|ticket| self.judge(&ticket, verdict).then_some(ticket.account));
        told.collect()
    }

    /// Whether the account has something new to read.
    fn judge(&mut self, Ticket { account, id }: &Ticket, verdict: &Verdict) -> bool {
        let Some(items) = self.accounts.get_mut(account) else { return false };
        let Some(Item::Open(mut open)) = items.remove(id) else { return false };
        open.in_hand = false;
        if !open.wanted {
            if items.is_empty() {
                self.accounts.remove(account);
            }
            return false;
        }
        let is_news = match verdict {
            Verdict::Over(report) => {
                items.insert(id.clone(), Item::Over(report.clone()));
                return true;
            }
            Verdict::Again => false,
            Verdict::Alone => {
                open.alone = true;
                false
            }
            Verdict::Failing(error) => open.fails(error),
        };
        self.queue(account, &open);
        self.accounts.entry(account.clone()).or_default().insert(id.clone(), Item::Open(open));
        is_news
    }

    /// What waits behind a message that failed fails with it: their accounts must hear of a dead channel before their turn.
    fn hold_back(&mut self, address: &Address, error: &ProviderError) -> BTreeSet<AccountId> {
        let waiting: Vec<Ticket> = self.lanes.get(address).into_iter().flat_map(Lane::tickets).cloned().collect();
        let told = waiting.into_iter().filter_map(|Ticket { account, id }| {
            let Item::Open(open) = self.accounts.get_mut(&account)?.get_mut(&id)? else { return None };
            open.fails(error).then_some(account)
        });
        told.collect()
    }

    /// A lane after its message. `asked`: it failed, and the provider asked for such a wait.
    fn rest(&mut self, address: &Arc<Address>, wait: Seconds, asked: Option<Seconds>, now: Monotonic) {
        self.turns.done(&address.channel);
        let Some(lane) = self.lanes.get_mut(address) else { return };
        let wait = match (asked, lane.phase) {
            (Some(_), Phase::InHand { news: News::Changed }) => Seconds::ZERO,
            (Some(asked), Phase::InHand { news: News::Recovered }) => asked,
            _ => wait,
        };
        if wait == Seconds::ZERO {
            return self.make_ready(address);
        }
        let until = now + wait.as_duration();
        lane.phase = Phase::Waiting { until, asked: asked.map(|asked| now + asked.as_duration()) };
        self.due.insert((until, Arc::clone(address)));
    }
}

#[cfg(test)]
impl Desk {
    /// Whether it remembers nothing at all.
    pub(super) fn is_bare(&self) -> bool {
        let Self { accounts, lanes, turns, due, last_turn: _ } = self;
        accounts.is_empty() && lanes.is_empty() && turns.is_bare() && due.is_empty()
    }
}

impl Open {
    /// Whether that is news.
    fn fails(&mut self, error: &ProviderError) -> bool {
        let before = self.failing.replace(error.clone());
        before.is_none_or(|before| before.reason != error.reason)
    }
}

impl Item {
    fn report(&self) -> Option<Report> {
        match self {
            Self::Open(open) => open.failing.clone().map(|error| Report::Failing { error }),
            Self::Over(report) => Some(report.clone()),
        }
    }
}
