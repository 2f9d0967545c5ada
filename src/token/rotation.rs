//! How a ring changes: by its schedule, by what administrators ask, and by what the ledgers no longer need.
//!
//! Pure: the clock, the ledgers' needs and new keys are handed in. Running it again has nothing to do, also when the clock
//! went back.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ring::MAX_GONE;
use super::{Action, Algorithm, Key, KeyError, KeyMaterial, KeyState, MAX_KEYS, Request, Ring, RingEvent};
use crate::api::{Instant, Seconds};

/// `issuedAt` runs ahead of the clock, by a second for each token that an account was issued within one second.
const AHEAD: Seconds = Seconds::minutes(1);

/// How the ring rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSettings {
    /// How long a key signs.
    pub rotation: Seconds,
    /// The algorithm of new keys.
    pub algorithm: Algorithm,
    /// How long a key is in the JWKS before it signs. Verifiers cache up to 10 minutes.
    pub lead: Seconds,
}

impl RingSettings {
    /// The lead of a running operator.
    pub const LEAD: Seconds = Seconds::minutes(15);
}

/// Which keys the ledgers need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// The keys that some entry names.
    pub kids: BTreeSet<String>,
    /// True: not all entries are known now, so no key may leave.
    pub keep_all: bool,
}

/// What came of one look at the ring.
#[derive(Debug)]
pub struct Advance {
    /// The ring to write, if it changed.
    pub ring: Option<Ring>,
    /// What to tell people.
    pub events: Vec<RingEvent>,
}

/// Makes new keys; a parameter, so that tests and simulations choose them.
pub type Fresh<'a> = &'a mut dyn FnMut(Algorithm) -> Result<KeyMaterial, KeyError>;

impl Ring {
    /// The ring as it should be now. An error, only if no key could be made, changes nothing.
    pub fn advance(
        &self,
        now: Instant,
        settings: &RingSettings,
        in_use: &InUse,
        requests: &[Request],
        fresh: Fresh<'_>,
    ) -> Result<Advance, KeyError> {
        let mut step = Step { ring: self.clone(), now, settings, in_use, fresh, events: Vec::new() };
        step.schedule()?;
        for request in requests {
            step.handle(&request.action, !self.keys.is_empty())?;
            step.schedule()?;
        }
        step.end_predecessors();
        step.remove_unneeded();
        let changed = step.ring != *self;
        step.events.dedup();
        Ok(Advance { events: step.events, ring: changed.then_some(step.ring) })
    }

    /// The key that signs next: the newest, if it is not the one that signs now.
    fn standby(&self, now: Instant) -> Option<&Key> {
        let active = self.signing_key(now)?.age();
        self.usable().filter(|key| key.age() > active).max_by_key(|key| key.age())
    }
}

/// One look at the ring, under way.
struct Step<'a> {
    ring: Ring,
    now: Instant,
    settings: &'a RingSettings,
    in_use: &'a InUse,
    fresh: Fresh<'a>,
    events: Vec<RingEvent>,
}

impl Step<'_> {
    /// A key that signs, a standby of the right algorithm, and its time.
    fn schedule(&mut self) -> Result<(), KeyError> {
        if self.ring.signing_key(self.now).is_none() {
            let kid = self.publish(self.now)?;
            self.events.extend(kid.map(RingEvent::Created));
        }
        let replaced = self.take_standby_of_other_algorithm();
        self.bring_standby_forward();
        if self.ring.standby(self.now).is_some() {
            return Ok(());
        }
        let Some(active) = self.ring.signing_key(self.now) else { return Ok(()) };
        let due = self.due(active, self.settings.algorithm, self.now);
        // A replaced standby may have been promoted by request; the new one keeps its place as far as its lead allows.
        let signs_from = replaced.map_or(due, |old| due.min(old.signs_from.max(self.now + self.settings.lead)));
        let event = match self.publish(signs_from)? {
            Some(kid) => RingEvent::Published(kid, signs_from),
            None => RingEvent::Full,
        };
        self.events.push(event);
        Ok(())
    }

    /// When the successor of `active` signs: at the end of its time, or as soon as may be if its algorithm is no longer
    /// wanted; never before verifiers know the successor.
    fn due(&self, active: &Key, algorithm: Algorithm, published_at: Instant) -> Instant {
        let known = published_at + self.settings.lead;
        let wanted = self.settings.algorithm;
        if active.material.algorithm() != wanted && algorithm == wanted {
            known
        } else {
            known.max(active.signs_from + self.settings.rotation)
        }
    }

    /// It has signed nothing, unless the clock went back: then a ledger names it and it stays.
    fn take_standby_of_other_algorithm(&mut self) -> Option<Key> {
        let standby = self.ring.standby(self.now)?;
        let needed = self.in_use.keep_all || self.in_use.kids.contains(standby.kid());
        if needed || standby.material.algorithm() == self.settings.algorithm {
            return None;
        }
        let kid = standby.kid().to_owned();
        let index = self.ring.keys.iter().position(|key| key.kid() == kid)?;
        self.events.push(RingEvent::Removed(kid));
        Some(self.ring.keys.remove(index))
    }

    /// A rotation that was made shorter acts at once, one that was made longer from the next key on.
    fn bring_standby_forward(&mut self) {
        let (Some(active), Some(standby)) = (self.ring.signing_key(self.now), self.ring.standby(self.now)) else {
            return;
        };
        let due = self.due(active, standby.material.algorithm(), standby.published_at).max(self.now);
        let kid = standby.kid().to_owned();
        self.sign_from(&kid, due);
    }

    /// Moves the instant from which a key signs, never to a later one.
    fn sign_from(&mut self, kid: &str, at: Instant) {
        for key in self.ring.keys.iter_mut().filter(|key| key.kid() == kid) {
            key.signs_from = key.signs_from.min(at);
        }
    }

    /// Adds a new key; `None` if there is no room. A compromised key needs no private half: it makes room as a record.
    fn publish(&mut self, signs_from: Instant) -> Result<Option<String>, KeyError> {
        if self.ring.keys.len() >= MAX_KEYS {
            let compromised = self.ring.keys.iter().filter_map(|key| key.compromised_at.map(|at| (at, key.kid())));
            let Some((at, kid)) = compromised.min().map(|(at, kid)| (at, kid.to_owned())) else { return Ok(None) };
            self.ring.keys.retain(|key| key.kid() != kid);
            self.ring.gone.insert(kid, at);
        }
        let material = Arc::new((self.fresh)(self.settings.algorithm)?);
        let kid = material.kid().to_owned();
        let key = Key { material, published_at: self.now, signs_from, signs_until: None, compromised_at: None };
        self.ring.keys.push(key);
        Ok(Some(kid))
    }

    fn handle(&mut self, action: &Action, existed: bool) -> Result<(), KeyError> {
        match action {
            Action::Rotate => self.rotate(),
            Action::Compromise { kid } => self.compromise(kid)?,
            Action::CompromiseAll => {
                let kids: Vec<_> = self.ring.usable().map(|key| key.kid().to_owned()).collect();
                for kid in kids {
                    self.mark_compromised(&kid);
                }
            }
            Action::Init { accept_reissue: true } => {
                let until = self.now + AHEAD;
                self.ring.accept_reissue_before = self.ring.accept_reissue_before.max(Some(until));
                self.events.push(RingEvent::ReissueAccepted);
            }
            Action::Init { accept_reissue: false } if existed => self.events.push(RingEvent::Exists),
            Action::Init { accept_reissue: false } => {}
        }
        Ok(())
    }

    fn rotate(&mut self) {
        // Without a standby the ring is full, which `schedule` has said.
        let Some(standby) = self.ring.standby(self.now) else { return };
        let at = self.now.max(standby.published_at + self.settings.lead).min(standby.signs_from);
        let kid = standby.kid().to_owned();
        self.sign_from(&kid, at);
        self.events.push(RingEvent::Rotating(kid, at));
    }

    fn compromise(&mut self, kid: &str) -> Result<(), KeyError> {
        if self.ring.is_compromised(kid) {
            self.events.push(RingEvent::AlreadyCompromised(kid.to_owned()));
        } else if let Some(key) = self.ring.key(kid) {
            let active = self.ring.state(kid, self.now) == Some(KeyState::Active);
            let next = self.ring.usable().filter(|other| other.age() > key.age()).min_by_key(|other| other.age());
            let next = next.map(|next| next.kid().to_owned());
            self.mark_compromised(kid);
            if active {
                self.promote(next)?;
            }
        } else if self.in_use.kids.contains(kid) && self.ring.gone.len() < MAX_GONE {
            self.ring.gone.insert(kid.to_owned(), self.now);
            self.events.push(RingEvent::Gone(kid.to_owned()));
        } else {
            self.events.push(RingEvent::UnknownKey(printable(kid)));
        }
        Ok(())
    }

    fn mark_compromised(&mut self, kid: &str) {
        for key in self.ring.keys.iter_mut().filter(|key| key.kid() == kid) {
            key.compromised_at = Some(self.now);
            key.signs_until = key.signs_until.map(|until| until.min(self.now));
        }
        self.events.push(RingEvent::Compromised(kid.to_owned()));
    }

    /// The successor of a compromised key signs at once, even if it is younger than the lead. If there is none, because
    /// the ring was full, a new key does: a retiring one never signs again.
    fn promote(&mut self, next: Option<String>) -> Result<(), KeyError> {
        if let Some(kid) = next {
            self.sign_from(&kid, self.now);
        } else {
            let kid = self.publish(self.now)?;
            self.events.extend(kid.map(RingEvent::Created));
        }
        Ok(())
    }

    /// Records when each key's successor takes over.
    fn end_predecessors(&mut self) {
        let owned = |key: &Key| (key.signs_from, key.published_at, key.kid().to_owned());
        let mut order: Vec<_> = self.ring.usable().map(owned).collect();
        order.sort();
        let active = self.ring.signing_key(self.now).map(owned);
        for key in self.ring.keys.iter_mut().filter(|key| key.compromised_at.is_none()) {
            let own = owned(key);
            let next = order.iter().find(|other| **other > own).map(|(signs_from, ..)| *signs_from);
            let retiring = active.as_ref().is_some_and(|active| own < *active);
            // A retiring key's end is in the past and does not move when its successor leaves the ring.
            key.signs_until = if retiring { key.signs_until.into_iter().chain(next).min() } else { next };
        }
    }

    /// A key leaves when no ledger names it, but not before entries that were being written when it stopped signing
    /// have had time to arrive in a ledger.
    fn remove_unneeded(&mut self) {
        if self.in_use.keep_all {
            return;
        }
        let (now, lead, kids) = (self.now, self.settings.lead, &self.in_use.kids);
        let unneeded = |kid: &str, since: Instant| !kids.contains(kid) && since + lead <= now;
        let leaving: Vec<String> = self
            .ring
            .keys
            .iter()
            .filter(|key| match self.ring.state(key.kid(), now) {
                Some(KeyState::Retiring) => key.signs_until.is_some_and(|until| unneeded(key.kid(), until)),
                Some(KeyState::Compromised) => key.compromised_at.is_some_and(|at| unneeded(key.kid(), at)),
                _ => false,
            })
            .map(|key| key.kid().to_owned())
            .collect();
        self.ring.keys.retain(|key| !leaving.iter().any(|kid| kid == key.kid()));
        self.events.extend(leaving.into_iter().map(RingEvent::Removed));
        self.ring.gone.retain(|kid, at| !unneeded(kid, *at));
        let unknown = kids.iter().any(|kid| self.ring.key(kid).is_none() && !self.ring.gone.contains_key(kid));
        if !unknown && self.ring.accept_reissue_before.is_some_and(|at| at + lead <= now) {
            self.ring.accept_reissue_before = None;
        }
    }
}

/// What a request names is not ours to repeat in full: thumbprints have 43 characters of base64url.
fn printable(kid: &str) -> String {
    kid.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixtures::at;
    use super::*;

    const SETTINGS: RingSettings =
        RingSettings { rotation: Seconds(10_000), algorithm: Algorithm::Es256, lead: Seconds(900) };

    fn es256(_: Algorithm) -> Result<KeyMaterial, KeyError> {
        KeyMaterial::generate(Algorithm::Es256)
    }

    fn using(kids: &[&str]) -> InUse {
        InUse { kids: kids.iter().map(|kid| (*kid).to_owned()).collect(), keep_all: false }
    }

    fn step(ring: &Ring, now: i64, in_use: &InUse, actions: &[Action]) -> (Ring, Vec<RingEvent>) {
        let requests: Vec<_> =
            actions.iter().map(|action| Request { id: "1".into(), action: action.clone() }).collect();
        let advance = ring.advance(at(now), &SETTINGS, in_use, &requests, &mut es256).unwrap();
        let next = advance.ring.unwrap_or_else(|| ring.clone());
        let again = next.advance(at(now), &SETTINGS, in_use, &[], &mut es256).unwrap();
        assert_eq!(again.ring, None, "a second look changes nothing");
        (next, advance.events)
    }

    fn keep() -> InUse {
        InUse { keep_all: true, ..InUse::default() }
    }

    fn signer(ring: &Ring, now: i64) -> String {
        ring.signing_key(at(now)).unwrap().kid().to_owned()
    }

    #[test]
    fn the_time_of_the_signer_is_over_in_the_past_only_without_a_successor() {
        let (ring, ..) = first();
        let due = |ring: &Ring, now| ring.rotation_due(at(now), SETTINGS.rotation);
        assert_eq!(due(&ring, 9_999), Some(at(10_000)));
        assert_eq!(due(&ring, 10_000), Some(at(20_000)), "the successor signs");
        let alone = Ring { keys: ring.keys[..1].to_vec(), ..ring };
        assert_eq!(due(&alone, 10_001), Some(at(10_000)));
        assert_eq!(due(&Ring::default(), 0), None);
    }

    /// The ring of the first second: its signer and its standby.
    fn first() -> (Ring, String, String) {
        let (ring, _) = step(&Ring::default(), 0, &keep(), &[]);
        let (active, standby) = (ring.keys[0].kid().to_owned(), ring.keys[1].kid().to_owned());
        (ring, active, standby)
    }

    #[test]
    fn the_first_key_signs_at_once_and_has_a_standby() {
        let (ring, active, standby) = first();
        assert_eq!(ring.keys.len(), 2);
        assert_eq!(signer(&ring, 0), active);
        let standby = ring.key(&standby).unwrap();
        assert_eq!((standby.published_at, standby.signs_from), (at(0), at(10_000)));
        assert_eq!(ring.key(&active).unwrap().signs_until, Some(at(10_000)));
    }

    #[test]
    fn the_standby_takes_over_on_schedule_and_gets_a_standby() {
        let (ring, active, standby) = first();
        let (before, events) = step(&ring, 9_999, &keep(), &[]);
        assert_eq!((before == ring, events, signer(&ring, 9_999)), (true, vec![], active.clone()));
        let (after, events) = step(&ring, 10_000, &keep(), &[]);
        assert_eq!(signer(&after, 10_000), standby);
        assert_eq!(after.state(&active, at(10_000)), Some(KeyState::Retiring));
        let next = after.keys[2].kid().to_owned();
        assert_eq!(events, [RingEvent::Published(next, at(20_000))]);
    }

    #[test]
    fn after_a_long_absence_the_next_standby_still_has_its_lead() {
        let (ring, _, standby) = first();
        let (after, _) = step(&ring, 500_000, &keep(), &[]);
        assert_eq!(signer(&after, 500_000), standby);
        assert_eq!(after.keys[2].signs_from, at(500_900));
    }

    #[test]
    fn a_retiring_key_leaves_when_no_ledger_names_it() {
        let (ring, active, standby) = first();
        let (ring, _) = step(&ring, 10_000, &keep(), &[]);
        for (now, in_use, stays) in [
            (10_899, using(&[]), true),
            (10_900, using(&[]), false),
            (10_900, using(&[&active]), true),
            (10_900, keep(), true),
        ] {
            let (after, events) = step(&ring, now, &in_use, &[]);
            assert_eq!(after.key(&active).is_some(), stays, "{now} {in_use:?}");
            assert_eq!(events.contains(&RingEvent::Removed(active.clone())), !stays);
            assert!(after.key(&standby).is_some() && after.keys.len() >= 2);
        }
    }

    #[test]
    fn a_requested_rotation_waits_for_the_lead() {
        let (ring, active, standby) = first();
        for (now, takes_over) in [(0, 900), (899, 900), (900, 900), (901, 901)] {
            let (after, events) = step(&ring, now, &keep(), &[Action::Rotate]);
            assert_eq!(events[0], RingEvent::Rotating(standby.clone(), at(takes_over)));
            assert_eq!(signer(&after, takes_over - 1), active);
            assert_eq!(signer(&after, takes_over), standby);
            assert_eq!(after.keys.len(), if now >= takes_over { 3 } else { 2 });
        }
    }

    #[test]
    fn a_compromised_key_is_followed_at_once() {
        let (ring, active, standby) = first();
        let (after, events) = step(&ring, 5, &using(&[&active]), &[Action::Compromise { kid: active.clone() }]);
        assert_eq!(events[0], RingEvent::Compromised(active.clone()));
        assert_eq!(signer(&after, 5), standby);
        assert_eq!(after.standing(&active, at(0)), super::super::Standing::Compromised);
        assert_eq!(after.keys[2].signs_from, at(10_005));
        assert_eq!(after.key(&active).unwrap().signs_until, Some(at(5)));
        let (same, events) = step(&after, 6, &using(&[&active]), &[Action::Compromise { kid: active.clone() }]);
        assert_eq!((same == after, events), (true, vec![RingEvent::AlreadyCompromised(active.clone())]));
        let (kept, _) = step(&after, 904, &using(&[]), &[]);
        let (gone, _) = step(&after, 905, &using(&[]), &[]);
        assert!(kept.key(&active).is_some() && gone.key(&active).is_none());
    }

    #[test]
    fn a_compromised_standby_is_replaced_and_a_retiring_key_never_signs_again() {
        let (ring, active, standby) = first();
        let (after, _) = step(&ring, 5, &keep(), &[Action::Compromise { kid: standby.clone() }]);
        assert_eq!((signer(&after, 5), after.usable().count()), (active.clone(), 2));
        let (ring, _) = step(&ring, 10_000, &keep(), &[]);
        let (after, _) = step(&ring, 10_001, &keep(), &[Action::Compromise { kid: standby }]);
        assert_ne!(signer(&after, 10_001), active);
        let (after, _) = step(&ring, 10_001, &keep(), &[Action::Compromise { kid: active }]);
        assert_eq!(signer(&after, 10_001), signer(&ring, 10_001));
    }

    #[test]
    fn all_keys_compromised_give_way_to_two_new_ones() {
        let (ring, ..) = first();
        let (after, _) = step(&ring, 5, &keep(), &[Action::CompromiseAll]);
        assert_eq!((after.keys.len(), after.usable().count()), (4, 2));
        assert!(ring.keys.iter().all(|key| after.is_compromised(key.kid())));
        assert_eq!(after.signing_key(at(5)).unwrap().signs_from, at(5));
        assert_eq!(after.standby(at(5)).unwrap().signs_from, at(10_005));
    }

    #[test]
    fn a_key_that_is_not_here_is_recorded_as_gone_only_if_a_ledger_names_it() {
        let (ring, active, _) = first();
        let compromise = [Action::Compromise { kid: "lost".into() }];
        let (after, events) = step(&ring, 5, &using(&[&active]), &compromise);
        assert_eq!((after == ring, events), (true, vec![RingEvent::UnknownKey("lost".into())]));
        let (after, events) = step(&ring, 5, &using(&["lost"]), &compromise);
        assert_eq!((after.is_compromised("lost"), events), (true, vec![RingEvent::Gone("lost".into())]));
        let (after, _) = step(&after, 905, &using(&[]), &[]);
        assert!(!after.is_compromised("lost"));
    }

    #[test]
    fn accepting_reissue_covers_the_keys_that_are_unknown_until_no_ledger_names_one() {
        let (ring, active, _) = first();
        let accept = [Action::Init { accept_reissue: true }];
        let (after, events) = step(&ring, 5, &using(&["lost"]), &accept);
        assert_eq!((after.accept_reissue_before, events), (Some(at(65)), vec![RingEvent::ReissueAccepted]));
        assert_eq!(step(&after, 965, &using(&["lost"]), &[]).0.accept_reissue_before, Some(at(65)));
        assert_eq!(step(&after, 965, &using(&[&active]), &[]).0.accept_reissue_before, None);
        let (same, events) = step(&ring, 5, &keep(), &[Action::Init { accept_reissue: false }]);
        assert_eq!((same == ring, events), (true, vec![RingEvent::Exists]));
    }

    #[test]
    fn another_algorithm_gets_a_standby_that_signs_as_soon_as_it_is_known() {
        let (ring, active, standby) = first();
        let settings = RingSettings { algorithm: Algorithm::Rs256, ..SETTINGS };
        let rs256 = &mut |_| Ok(super::super::fixtures::rs256());
        let look = |ring: &Ring, now, in_use: &InUse, fresh: Fresh<'_>| {
            ring.advance(at(now), &settings, in_use, &[], fresh).unwrap().ring
        };
        assert_eq!(look(&ring, 10, &keep(), rs256), None, "the standby may have signed");
        let after = look(&ring, 10, &using(&[]), rs256).unwrap();
        assert!(after.key(&standby).is_none());
        assert_eq!(signer(&after, 909), active);
        assert_eq!(after.signing_key(at(910)).unwrap().material.algorithm(), Algorithm::Rs256);
        assert_eq!(look(&after, 10, &using(&[]), rs256), None);
    }

    #[test]
    fn a_shorter_rotation_acts_now_and_a_longer_one_from_the_next_key_on() {
        let (ring, active, standby) = first();
        let look = |rotation, now| {
            let settings = RingSettings { rotation: Seconds(rotation), ..SETTINGS };
            ring.advance(at(now), &settings, &keep(), &[], &mut es256).unwrap().ring
        };
        assert_eq!(look(20_000, 5_000), None);
        let shorter = look(5_000, 4_999).unwrap();
        assert_eq!((signer(&shorter, 4_999), signer(&shorter, 5_000)), (active, standby.clone()));
        let overdue = look(1_000, 5_000).unwrap();
        assert_eq!(overdue.key(&standby).unwrap().signs_from, at(5_000));
    }

    #[test]
    fn a_full_ring_waits_and_says_so_but_a_compromise_finds_room() {
        let (mut ring, ..) = first();
        for n in 0..70 {
            ring = step(&ring, n * 10_000, &keep(), &[]).0;
        }
        assert_eq!(ring.keys.len(), MAX_KEYS);
        let now = 1_000_000;
        let (same, events) = step(&ring, now, &keep(), &[Action::Rotate]);
        assert_eq!((same == ring, events), (true, vec![RingEvent::Full]));
        let old = signer(&ring, now);
        let (after, _) = step(&ring, now, &keep(), &[Action::Compromise { kid: old.clone() }]);
        assert_eq!((after.keys.len(), after.is_compromised(&old)), (MAX_KEYS, true));
        assert!(ring.key(&signer(&after, now)).is_none());
        let (after, _) = step(&ring, now, &keep(), &[Action::CompromiseAll]);
        assert_eq!((after.keys.len(), after.usable().count()), (MAX_KEYS, 2));
        assert!(ring.keys.iter().all(|key| after.is_compromised(key.kid())));
    }

    #[test]
    fn if_no_key_can_be_made_nothing_changes() {
        let failing: Fresh<'_> = &mut |_| Err(KeyError::Library);
        let (ring, ..) = first();
        assert!(ring.advance(at(10_000), &SETTINGS, &keep(), &[], failing).is_err());
        let requests = [Request { id: "1".into(), action: Action::CompromiseAll }];
        assert!(ring.advance(at(1), &SETTINGS, &keep(), &requests, failing).is_err());
        assert_eq!(ring.advance(at(1), &SETTINGS, &keep(), &[], failing).unwrap().ring, None);
    }

    #[derive(Clone, Debug)]
    enum Move {
        Wait(i64),
        Rotate,
        Compromise(usize),
        CompromiseAll,
        Forget(usize),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            6 => (-20_000i64..20_000).prop_map(Move::Wait),
            2 => Just(Move::Rotate),
            2 => (0usize..8).prop_map(Move::Compromise),
            1 => Just(Move::CompromiseAll),
            2 => (0usize..8).prop_map(Move::Forget),
        ];
        prop::collection::vec(one, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_happens_a_usable_key_signs_and_no_needed_key_is_lost(moves in moves()) {
            let (mut ring, ..) = first();
            let (mut now, mut used) = (0i64, BTreeSet::new());
            for step_taken in moves {
                used.insert(signer(&ring, now));
                let pick = |n: usize| ring.keys[n % ring.keys.len()].kid().to_owned();
                let mut actions = vec![];
                match step_taken {
                    Move::Wait(by) => now += by,
                    Move::Rotate => actions.push(Action::Rotate),
                    Move::Compromise(n) => actions.push(Action::Compromise { kid: pick(n) }),
                    Move::CompromiseAll => actions.push(Action::CompromiseAll),
                    Move::Forget(n) => { used.remove(&pick(n)); }
                }
                let in_use = InUse { kids: used.clone(), keep_all: false };
                let (next, _) = step(&ring, now, &in_use, &actions);
                prop_assert!(next.keys.len() <= MAX_KEYS);
                prop_assert!(next.standby(at(now)).is_some() || next.keys.len() == MAX_KEYS);
                prop_assert!(!next.is_compromised(&signer(&next, now)));
                prop_assert!(used.iter().all(|kid| next.key(kid).is_some() || next.is_compromised(kid)));
                prop_assert!(ring.keys.iter().all(|key| key.compromised_at.is_none()
                    || next.key(key.kid()).is_none_or(|key| key.compromised_at.is_some())));
                prop_assert_eq!(Ring::parse(&next.data()).unwrap().data(), next.data());
                ring = next;
            }
        }
    }
}
