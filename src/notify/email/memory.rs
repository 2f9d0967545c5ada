//! Who has been told what, where others could not be told yet: a repeat leaves it out. Lost with the process, as far as that
//! matters: then they get it twice, with the same id.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;

use aws_lc_rs::digest::{SHA256, digest};
use lettre::Address;

use crate::lock::lock;

/// The most pairs that are kept in mind: two hundred letters to fifty recipients.
const MOST: usize = 10_000;

/// Pairs of a letter and a recipient who has it.
#[derive(Default)]
pub(super) struct Memory(Mutex<Pairs>);

#[derive(Default)]
struct Pairs {
    /// Oldest first.
    order: VecDeque<Pair>,
    known: HashSet<Pair>,
}

/// A hash: no address is kept, and all are of one size.
type Pair = [u8; 32];

impl Memory {
    pub(super) fn has(&self, letter: &str, recipient: &Address) -> bool {
        lock(&self.0).known.contains(&pair(letter, recipient))
    }

    /// These recipients have these letters.
    pub(super) fn keep(&self, letters: &[&str], recipients: &[&Address]) {
        let mut pairs = lock(&self.0);
        for pair in all(letters, recipients) {
            if pairs.known.insert(pair) {
                pairs.order.push_back(pair);
            }
        }
        while pairs.order.len() > MOST {
            if let Some(oldest) = pairs.order.pop_front() {
                pairs.known.remove(&oldest);
            }
        }
    }

    /// Nobody waits for these letters any more.
    pub(super) fn forget(&self, letters: &[&str], recipients: &[&Address]) {
        let mut pairs = lock(&self.0);
        if pairs.known.is_empty() {
            return;
        }
        let Pairs { order, known } = &mut *pairs;
        for pair in all(letters, recipients) {
            known.remove(&pair);
        }
        order.retain(|pair| known.contains(pair));
    }
}

fn all(letters: &[&str], recipients: &[&Address]) -> impl Iterator<Item = Pair> {
    letters.iter().flat_map(|letter| recipients.iter().map(|recipient| pair(letter, recipient)))
}

fn pair(letter: &str, recipient: &Address) -> Pair {
    let mut hash = Pair::default();
    // No address has a line end.
    hash.copy_from_slice(digest(&SHA256, format!("{recipient}\n{letter}").as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_in_mind_is_bounded_and_ends() {
        let address = |n: usize| format!("a{n}@example.com").parse::<Address>().unwrap();
        let (memory, first, second) = (Memory::default(), address(0), address(1));
        memory.keep(&["one"], &[&first]);
        assert!(memory.has("one", &first) && !memory.has("one", &second) && !memory.has("two", &first));
        let many: Vec<Address> = (1..=MOST).map(address).collect();
        memory.keep(&["two"], &many.iter().collect::<Vec<_>>());
        assert!(!memory.has("one", &first), "the oldest is forgotten first");
        assert!(memory.has("two", &second));
        memory.forget(&["two"], &many.iter().collect::<Vec<_>>());
        let pairs = lock(&memory.0);
        assert!(pairs.known.is_empty() && pairs.order.is_empty());
    }
}
