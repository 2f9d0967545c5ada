//! Many letters as one list. What fits is told, the rest is named, and what cannot even be named is counted: nothing is
//! left out in silence. Pure.

use super::{Content, Letter, Message};

/// Characters of one entry's title and of what stands below it.
const TITLE: usize = 150;
const DETAIL: usize = 600;
/// What "And 12 more: … and 3 more" needs beside the names.
const WORDS: usize = 60;

/// A list of letters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Digest {
    /// What it is a list of.
    pub(super) heading: String,
    /// What is told.
    pub(super) entries: Vec<Entry>,
    /// Whom else it concerns, if not all could be told.
    pub(super) rest: Option<String>,
}

/// One letter in the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// What happened to whom.
    pub(super) title: String,
    /// Kind, owner and, where there is room, more.
    pub(super) detail: String,
}

/// The letters as a list, troubles first. `room`: how much the medium takes; `size`: how much of it an entry needs.
pub(super) fn digest(message: &Message, room: usize, size: impl Fn(&Entry) -> usize) -> Digest {
    let mut letters: Vec<&Letter> = message.letters.iter().collect();
    letters.sort_by_key(|letter| rank(&letter.content));
    let heading = format!("{} notices of virtual accounts in {}", letters.len(), message.cluster);
    for with_body in [true, false] {
        let entries: Vec<Entry> = letters.iter().map(|letter| entry(letter, message, with_body)).collect();
        if entries.iter().map(&size).sum::<usize>() <= room {
            return Digest { heading, entries, rest: None };
        }
    }
    cut_short(heading, &letters, message, room, size)
}

/// Three quarters of the room for entries, the last for names.
fn cut_short(
    heading: String,
    letters: &[&Letter],
    message: &Message,
    room: usize,
    size: impl Fn(&Entry) -> usize,
) -> Digest {
    let for_names = room / 4;
    let mut left = room - for_names;
    let mut entries = Vec::new();
    for letter in letters {
        let entry = entry(letter, message, false);
        let Some(less) = left.checked_sub(size(&entry)) else { break };
        left = less;
        entries.push(entry);
    }
    let untold = &letters[entries.len()..];
    let fits = |text: &str| size(&Entry { title: text.to_owned(), detail: String::new() }) + WORDS <= for_names;
    Digest { heading, entries, rest: Some(rest(untold, fits)) }
}

fn rest(untold: &[&Letter], fits: impl Fn(&str) -> bool) -> String {
    let mut list = String::new();
    let mut named = 0;
    for letter in untold {
        let name = cut(&super::text::plain(&letter.account.to_string()), TITLE);
        let more = if named == 0 { name } else { format!("{list}, {name}") };
        if !fits(&more) {
            break;
        }
        (list, named) = (more, named + 1);
    }
    let (count, others) = (untold.len(), untold.len() - named);
    match (named, others) {
        (0, _) => format!("And {count} more."),
        (_, 0) => format!("And {count} more: {list}."),
        _ => format!("And {count} more: {list} and {others} more."),
    }
}

fn entry(letter: &Letter, message: &Message, with_body: bool) -> Entry {
    let text = letter.text(&message.cluster, message.now);
    let owner = text.facts.iter().find(|fact| fact.name == "Owner");
    let mut detail = letter.content.name().to_owned();
    if let Some(owner) = owner {
        detail = format!("{detail}, owner {}", cut(&owner.value, TITLE));
    }
    if with_body {
        detail = format!("{detail}. {}", text.body);
    }
    Entry { title: cut(&text.title, TITLE), detail: cut(&detail, DETAIL) }
}

/// What somebody should see first.
fn rank(content: &Content) -> u8 {
    match content {
        Content::Expired { .. } => 0,
        Content::Failing { .. } => 1,
        Content::Revoked { .. } => 2,
        Content::Expiring { .. } => 3,
        Content::GraceEnding { .. } => 4,
        Content::Rotated { .. } | Content::Retired { .. } | Content::Recovered { .. } | Content::Test => 5,
    }
}

/// At most so many characters; what was cut shows.
fn cut(text: &str, most: usize) -> String {
    cut_by(text, most, |_| 1)
}

/// At most so much, where a character needs what `cost` says; what was cut shows.
pub(super) fn cut_by(text: &str, most: usize, cost: impl Fn(char) -> usize) -> String {
    const MORE: char = '…';
    if text.chars().map(&cost).sum::<usize>() <= most {
        return text.to_owned();
    }
    let mut left = most.saturating_sub(cost(MORE));
    let kept = text.chars().take_while(|c| left.checked_sub(cost(*c)).map(|less| left = less).is_some());
    let kept: String = kept.collect();
    format!("{kept}{MORE}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{AccountId, Instant};

    fn message(count: usize) -> Message {
        let now = Instant::from_unix(1_800_000_000);
        let letter = |number: usize| Letter {
            id: number.to_string(),
            incident: String::new(),
            account: AccountId::new("shop", format!("cart-{number:04}")),
            owner: None,
            description: None,
            jti: "jti".into(),
            at: now,
            content: match number {
                3 => Content::Failing { target: "t".into(), since: now, error: "e".into() },
                _ => Content::Retired { ended_at: now },
            },
        };
        Message { letters: (0..count).map(letter).collect(), recipients: vec![], cluster: "prod".into(), now }
    }

    fn size(entry: &Entry) -> usize {
        entry.title.chars().count() + entry.detail.chars().count()
    }

    #[test]
    fn the_more_letters_there_are_the_less_is_told_of_each_and_none_is_lost() {
        let few = digest(&message(5), 2_000, size);
        assert_eq!((few.entries.len(), few.rest), (5, None));
        assert!(few.entries[1].detail.contains("stopped working"), "{:?}", few.entries);

        let more = digest(&message(30), 2_000, size);
        assert_eq!((more.entries.len(), more.rest), (30, None));
        assert_eq!(more.entries[1].detail, "TokenRetired");

        let many = digest(&message(50), 2_000, size);
        let (told, rest) = (many.entries.len(), many.rest.unwrap());
        assert!(told > 20 && rest.starts_with(&format!("And {} more: shop/cart-00", 50 - told)), "{rest}");
        assert!(rest.ends_with(", shop/cart-0049."), "{rest}");

        let crowd = digest(&message(5_000), 2_000, size);
        let rest = crowd.rest.unwrap();
        let named = rest.matches("shop/cart").count();
        assert!(rest.ends_with(&format!(" and {} more.", 5_000 - crowd.entries.len() - named)), "{rest}");
        assert!(crowd.entries.iter().map(size).sum::<usize>() + rest.chars().count() <= 2_000);
        assert_eq!(crowd.heading, "5000 notices of virtual accounts in prod");
    }

    #[test]
    fn troubles_come_first() {
        assert_eq!(digest(&message(5), 2_000, size).entries[0].title, "shop/cart-0003: delivery is failing");
    }

    #[test]
    fn what_is_cut_shows_and_is_never_too_long() {
        assert_eq!(cut_by("abc", 3, |_| 1), "abc");
        assert_eq!(cut_by("abcd", 3, |_| 1), "ab…");
        let escaped = |c| if c == '<' { 4 } else { 1 };
        assert_eq!(cut_by("a<<b", 9, escaped), "a<…");
        assert_eq!(cut_by("a<<b", 10, escaped), "a<<b");
    }
}
