//! What a replica knows of the keys, and what it makes of a stored ring that lacks some of them. Pure.
//!
//! Two rings are known, because a harmed Secret may be the work of a leader that has forgotten keys (then they sign, and
//! every replica must serve them) or of a person who will put the right one back (then its keys must not be missed).

use std::collections::BTreeMap;

use super::custody::Facts;
use super::{Key, KeyState, MAX_KEYS, Ring};
use crate::api::Instant;

/// The keys that are known.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Memory {
    /// The ring that was last stored whole, and what has been learnt of a harmed one since: marks of compromise, and keys
    /// that a ledger names. This is put back and must not be lost.
    pub(super) trusted: Ring,
    /// That, and every other key of the harmed one.
    pub(super) served: Ring,
}

impl Memory {
    /// Of a ring that is stored and whole.
    pub(super) fn of(ring: Ring) -> Self {
        Self { served: ring.clone(), trusted: ring }
    }

    /// The first key that the stored ring must not lack, and what is known then; `None` if the stored ring is whole.
    pub(super) fn harm(&self, stored: &Ring, facts: &Facts, now: Instant) -> Option<(String, Self)> {
        let kid = harmed(&self.trusted, stored, facts, now)?;
        let trusted = joined(&self.trusted, stored, |kid| facts.in_use.kids.contains(kid));
        // A larger one could not be read again.
        let trusted = if trusted.keys.len() > MAX_KEYS { self.trusted.clone() } else { trusted };
        Some((kid, Self { trusted, served: joined(&self.trusted, stored, |_| true) }))
    }
}

/// A key that the ring in memory knows and that the stored one must not lack: one that a ledger names, on the leader the one
/// that signs, and every mark of a compromise that is still needed. Where another replica leads, a signer that no ledger
/// names is no loss: that leader has chosen another.
fn harmed(memory: &Ring, stored: &Ring, facts: &Facts, now: Instant) -> Option<String> {
    let used = |kid: &str| facts.in_use.kids.contains(kid);
    let signs = |kid: &str| facts.leads && memory.state(kid, now) == Some(KeyState::Active);
    let keys = memory.keys.iter().map(Key::kid);
    let mut known = keys.chain(memory.gone.keys().map(String::as_str));
    let harmed = known.find(|kid| {
        let unmarked = memory.is_compromised(kid) && stored.key(kid).is_some() && !stored.is_compromised(kid);
        unmarked || (lost(memory, stored, kid) && (used(kid) || signs(kid)))
    });
    harmed.map(str::to_owned)
}

/// Whether the stored ring knows nothing of the key and nobody has given it up: neither by a mark nor by
/// `keys init --accept-reissue` since this replica last saw the ring. A backup from the time of an earlier consent says
/// nothing of keys that are younger than it.
fn lost(memory: &Ring, stored: &Ring, kid: &str) -> bool {
    let since = memory.key(kid).map(|key| key.published_at).or_else(|| memory.gone.get(kid).copied());
    let consent = stored.accept_reissue_before.max(memory.accept_reissue_before);
    let given_up = consent != memory.accept_reissue_before && since < consent;
    stored.key(kid).is_none() && !stored.is_compromised(kid) && !given_up
}

/// The ring in memory without what was given up, with the stored ring's instants, its marks and those of its other keys
/// that are wanted. A key that either calls compromised is compromised.
fn joined(memory: &Ring, stored: &Ring, wanted: impl Fn(&str) -> bool) -> Ring {
    let mut gone: BTreeMap<_, _> = stored.gone.clone();
    gone.extend(memory.gone.clone());
    let known = memory.keys.iter().filter_map(|key| match stored.key(key.kid()) {
        None => lost(memory, stored, key.kid()).then(|| key.clone()),
        Some(newer) => {
            let compromised_at = key.compromised_at.or(newer.compromised_at);
            Some(Key { compromised_at, ..newer.clone() })
        }
    });
    let others = stored.keys.iter().filter(|key| memory.key(key.kid()).is_none() && wanted(key.kid()));
    let keys = known.chain(others.cloned()).filter(|key| !gone.contains_key(key.kid())).collect();
    Ring { keys, gone, accept_reissue_before: memory.accept_reissue_before.max(stored.accept_reissue_before) }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{at, es256, key, ring, rs256};
    use super::super::{Algorithm, InUse, KeyMaterial};
    use super::*;

    fn facts(leads: bool, used: &[&Key]) -> Facts {
        let kids = used.iter().map(|key| key.kid().to_owned()).collect();
        Facts { leads, synced: true, may_create: false, in_use: InUse { kids, keep_all: false } }
    }

    /// A key that signs since a moment ago: of a leader that knew none of the fixture's.
    fn fresh() -> Key {
        key(KeyMaterial::generate(Algorithm::Es256).unwrap(), -1, -1)
    }

    fn with(keys: Vec<Key>) -> Ring {
        Ring { keys, ..Ring::default() }
    }

    fn kids(ring: &Ring) -> Vec<&str> {
        let mut kids: Vec<_> = ring.usable().map(Key::kid).collect();
        kids.sort_unstable();
        kids
    }

    fn sorted<'a>(keys: &[&'a Key]) -> Vec<&'a str> {
        let mut kids: Vec<_> = keys.iter().map(|key| key.kid()).collect();
        kids.sort_unstable();
        kids
    }

    #[test]
    fn a_harmed_ring_is_served_with_the_keys_that_it_lacks() {
        let (one, two) = (ring().keys[0].clone(), ring().keys[1].clone());
        let (signs, waits) = (fresh(), fresh());
        let stored = with(vec![signs.clone(), waits.clone()]);
        for leads in [false, true] {
            let memory = Memory::of(ring());
            let (kid, memory) = memory.harm(&stored, &facts(leads, &[&one, &signs]), at(0)).unwrap();
            assert_eq!(kid, one.kid());
            assert_eq!(kids(&memory.served), sorted(&[&one, &two, &signs, &waits]));
            assert_eq!(kids(&memory.trusted), sorted(&[&one, &two, &signs]), "what nobody uses may be a mistake");
            // The one that waits is gone with the next change: only what is there is served.
            let (_, memory) = memory.harm(&with(vec![signs.clone()]), &facts(leads, &[&one]), at(0)).unwrap();
            assert_eq!(kids(&memory.served), sorted(&[&one, &two, &signs]));
            assert_eq!(memory.harm(&memory.trusted, &facts(leads, &[&one, &signs]), at(0)), None, "put back");
        }
    }

    #[test]
    fn a_ring_that_was_put_in_by_mistake_leaves_nothing_behind() {
        let using = facts(true, &[&ring().keys[0]]);
        let (_, memory) = Memory::of(ring()).harm(&with(vec![fresh()]), &using, at(0)).unwrap();
        assert_eq!(memory.harm(&ring(), &using, at(0)), None, "its signer, though newer, is not missed");
    }

    #[test]
    fn the_signer_that_no_ledger_names_is_missed_by_the_leader_alone() {
        let (memory, stored) = (Memory::of(ring()), with(vec![fresh()]));
        assert_eq!(memory.harm(&stored, &facts(false, &[]), at(0)), None);
        assert_eq!(memory.harm(&stored, &facts(true, &[]), at(0)).unwrap().0, es256().kid());
    }

    #[test]
    fn a_compromised_key_stays_compromised_whoever_says_it() {
        let marked = |index: usize| {
            let mut ring = ring();
            ring.keys[index].compromised_at = Some(at(0));
            ring
        };
        let gone = Ring { gone: [(rs256().kid().into(), at(0))].into(), ..with(vec![ring().keys[0].clone()]) };
        let one = ring().keys[0].clone();
        // In memory, in the stored ring, in neither; with a reason to call the ring harmed.
        let table = [
            (marked(1), with(vec![ring().keys[1].clone()])),
            (gone.clone(), with(vec![ring().keys[1].clone(), fresh()])),
            (ring(), with(vec![marked(1).keys[1].clone(), fresh()])),
            (ring(), Ring { keys: vec![fresh()], ..gone }),
        ];
        for (memory, stored) in table {
            let (_, memory) = Memory::of(memory).harm(&stored, &facts(false, &[&one]), at(0)).unwrap();
            for ring in [&memory.served, &memory.trusted] {
                assert!(ring.is_compromised(rs256().kid()) && !kids(ring).contains(&rs256().kid()), "{stored:?}");
            }
        }
    }

    #[test]
    fn consent_gives_up_the_keys_of_its_time_and_no_mark() {
        let (one, two) = (ring().keys[0].clone(), ring().keys[1].clone());
        let consent = |seconds, keys| Ring { accept_reissue_before: Some(at(seconds)), ..with(keys) };
        for leads in [false, true] {
            let using = facts(leads, &[&one, &two]);
            let harm = |memory: &Ring, stored: &Ring| Memory::of(memory.clone()).harm(stored, &using, at(0));
            assert_eq!(harm(&ring(), &consent(60, vec![fresh()])), None);
            // A backup of the time of an earlier consent, and a ring that was cut after the consent was seen.
            assert_eq!(harm(&ring(), &consent(-9_000, vec![fresh()])).unwrap().0, one.kid());
            let seen = Ring { accept_reissue_before: Some(at(60)), ..ring() };
            assert_eq!(harm(&seen, &consent(60, vec![fresh()])).unwrap().0, one.kid());
            // The mark of a key that is still stored is not given up.
            let mut marked = ring();
            marked.keys[0].compromised_at = Some(at(0));
            let (kid, memory) = harm(&marked, &consent(60, vec![one.clone()])).unwrap();
            assert_eq!((kid.as_str(), kids(&memory.served)), (one.kid(), vec![]));
            assert_eq!(memory.served.accept_reissue_before, Some(at(60)));
            assert_eq!(harm(&marked, &consent(60, vec![fresh()])), None, "an unknown key is refused anyway");
        }
    }

    #[test]
    fn more_keys_than_a_ring_holds_are_served_and_never_put_back() {
        let other = fresh();
        let full = (0..MAX_KEYS).map(|_| ring().keys[0].clone()).collect();
        let using = facts(false, &[&ring().keys[0], &other]);
        let (_, memory) = Memory::of(with(full)).harm(&with(vec![other]), &using, at(0)).unwrap();
        assert_eq!((memory.trusted.keys.len(), memory.served.keys.len()), (MAX_KEYS, MAX_KEYS + 1));
    }
}
