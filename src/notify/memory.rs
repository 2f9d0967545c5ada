//! Who has been told what, where others could not be told yet: a repeat leaves it out. It belongs to the channel, so that
//! credentials can be read anew in between. Lost with the process and with the channel's spec, as far as that matters: then
//! they get it twice, with the same id.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;

use aws_lc_rs::digest::{SHA256, digest};

use super::{Content, Letter};
use crate::lock::lock;

/// The most pairs that are kept in mind: two hundred letters to fifty recipients.
const MOST: usize = 10_000;

/// Pairs of a letter and a recipient who has it.
#[derive(Default)]
pub struct Memory(Mutex<Pairs>);

#[derive(Default)]
struct Pairs {
    /// Oldest first.
    order: VecDeque<Pair>,
    known: HashSet<Pair>,
}

/// A hash: no address is kept, and all are of one size.
type Pair = [u8; 32];

impl Memory {
    /// Whether the recipient has this letter.
    pub(super) fn has(&self, letter: &Letter, recipient: &str) -> bool {
        lock(&self.0).known.contains(&pair(letter, recipient))
    }

    /// The recipient has these letters.
    pub(super) fn keep(&self, letters: &[Letter], recipient: &str) {
        let mut pairs = lock(&self.0);
        // Whoever asks for a test wants one each time.
        for letter in letters.iter().filter(|letter| letter.content != Content::Test) {
            let pair = pair(letter, recipient);
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

    /// All of these recipients have these letters, so nobody will be told of them again.
    pub(super) fn forget<'a>(&self, letters: &[Letter], recipients: impl IntoIterator<Item = &'a str>) {
        let mut pairs = lock(&self.0);
        if pairs.known.is_empty() {
            return;
        }
        let Pairs { order, known } = &mut *pairs;
        for recipient in recipients {
            for letter in letters {
                known.remove(&pair(letter, recipient));
            }
        }
        order.retain(|pair| known.contains(pair));
    }
}

fn pair(letter: &Letter, recipient: &str) -> Pair {
    let mut hash = Pair::default();
    // No recipient has a line end.
    hash.copy_from_slice(digest(&SHA256, format!("{recipient}\n{}", letter.id).as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::api::{AccountId, Instant};

    fn letter(id: &str, content: Content) -> Letter {
        Letter {
            id: id.into(),
            incident: String::new(),
            account: AccountId::new("shop", "cart"),
            owner: None,
            description: None,
            jti: String::new(),
            at: Instant::from_unix(0),
            content,
        }
    }

    fn retired(id: &str) -> Letter {
        letter(id, Content::Retired { ended_at: Instant::from_unix(0) })
    }

    #[test]
    fn what_is_kept_in_mind_is_bounded_and_ends() {
        let (memory, one, two) = (Memory::default(), retired("one"), retired("two"));
        memory.keep(from_ref(&one), "a0");
        assert!(memory.has(&one, "a0") && !memory.has(&one, "a1") && !memory.has(&two, "a0"));
        let many: Vec<String> = (1..=MOST).map(|n| format!("a{n}")).collect();
        for recipient in &many {
            memory.keep(from_ref(&two), recipient);
        }
        assert!(!memory.has(&one, "a0"), "the oldest is forgotten first");
        assert!(memory.has(&two, "a1"));
        memory.forget(&[two], many.iter().map(String::as_str));
        let pairs = lock(&memory.0);
        assert!(pairs.known.is_empty() && pairs.order.is_empty());
    }

    #[test]
    fn a_test_message_is_never_left_out() {
        let (memory, test) = (Memory::default(), letter("test", Content::Test));
        memory.keep(from_ref(&test), "a");
        assert!(!memory.has(&test, "a"));
    }
}
