//! The key ring: the issuer's keys with their instants, and what follows from them at a given time.
//!
//! A key's state is computed from its instants and never stored, so that the clock alone causes no write. How a ring
//! changes is decided in `rotation`; who reads and writes its Secret is not known here.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroize;

use super::{Algorithm, KeyError, KeyMaterial};
use crate::api::{Instant, Seconds};

/// The most keys a ring holds; verifiers and the 1 MiB of a Secret set the order of magnitude.
pub const MAX_KEYS: usize = 64;
/// The most keys that are remembered as gone.
pub(super) const MAX_GONE: usize = 256;
/// The data key of what is remembered of keys that are gone. No thumbprint has a dot.
const GONE_KEY: &str = "gone.json";

/// One key of the ring and its instants.
#[derive(Clone, Debug)]
pub struct Key {
    /// The private key; shared, because rings are compared and replaced as values.
    pub material: Arc<KeyMaterial>,
    /// In the JWKS from here on.
    pub published_at: Instant,
    /// Signs from here on.
    pub signs_from: Instant,
    /// The instant at which its successor takes over, once that is known.
    pub signs_until: Option<Instant>,
    /// Set: no token of this key is valid, signed or repaired.
    pub compromised_at: Option<Instant>,
}

impl Key {
    /// The key's name.
    pub fn kid(&self) -> &str {
        self.material.kid()
    }

    // Two keys may sign from the same second; then the one published later is the newer, whatever else.
    pub(super) fn age(&self) -> (Instant, Instant, &str) {
        (self.signs_from, self.published_at, self.kid())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (self.age(), self.signs_until, self.compromised_at) == (other.age(), other.signs_until, other.compromised_at)
    }
}

/// Where a key is in its life at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum KeyState {
    /// In the JWKS, does not sign yet.
    Published,
    /// Signs new tokens.
    Active,
    /// Signs no new tokens; its tokens are valid and repaired.
    Retiring,
    /// Its tokens are refused; not in the JWKS.
    Compromised,
}

impl KeyState {
    /// For metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Published => "Published",
            Self::Active => "Active",
            Self::Retiring => "Retiring",
            Self::Compromised => "Compromised",
        }
    }
}

/// Whether an entry that names a key can be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The key is here.
    Usable,
    /// The key is compromised, or an administrator said that it is gone: the entry is to be replaced.
    Compromised,
    /// The key is not here and nobody said why: the entry is neither signed nor replaced.
    Missing,
}

/// All keys, and what is remembered of keys that are gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ring {
    /// The keys, in no order that matters.
    pub keys: Vec<Key>,
    /// Keys that an administrator declared gone, with the instant; their entries count as compromised.
    pub gone: BTreeMap<String, Instant>,
    /// Entries issued before this instant whose key is unknown count as compromised (`keys init --accept-reissue`).
    pub accept_reissue_before: Option<Instant>,
}

/// Why the Secret's content is not a ring. Names data keys, never their content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// No key at all.
    #[error("the key ring has no key")]
    Empty,
    /// More keys than allowed.
    #[error("the key ring has {0} keys; at most {MAX_KEYS} are allowed")]
    TooManyKeys(usize),
    /// A data entry is not the JSON that the operator writes.
    #[error("the data entry {0} of the key ring is not what the operator wrote")]
    Unreadable(String),
    /// A data entry's private key cannot be used.
    #[error("the data entry {name} of the key ring cannot be used: {source}")]
    Key {
        /// The data key.
        name: String,
        /// What is wrong with it.
        source: KeyError,
    },
    /// A key is stored under another key's name.
    #[error("the data entry {0} of the key ring holds another key than its name says")]
    WrongName(String),
    /// Every key is compromised: the operator never writes such a ring.
    #[error("every key of the key ring is marked compromised")]
    AllCompromised,
}

impl RingError {
    /// For conditions, events and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "KeyRingEmpty",
            Self::TooManyKeys(_) => "KeyRingTooLarge",
            Self::Unreadable(_) => "KeyRingUnreadable",
            Self::Key { source, .. } => source.reason(),
            Self::WrongName(_) => "KeyRingWrongName",
            Self::AllCompromised => "KeyRingCompromised",
        }
    }
}

impl Ring {
    /// The key of this name, whatever its state.
    pub fn key(&self, kid: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.kid() == kid)
    }

    /// Whether this name is that of a compromised key or of one that was declared gone.
    pub fn is_compromised(&self, kid: &str) -> bool {
        self.gone.contains_key(kid) || self.key(kid).is_some_and(|key| key.compromised_at.is_some())
    }

    /// Whether an entry of this key, issued at that instant, can be signed.
    pub fn standing(&self, kid: &str, issued_at: Instant) -> Standing {
        if self.is_compromised(kid) {
            Standing::Compromised
        } else if self.key(kid).is_some() {
            Standing::Usable
        } else if self.accept_reissue_before.is_some_and(|instant| issued_at < instant) {
            Standing::Compromised
        } else {
            Standing::Missing
        }
    }

    /// The key that signs new tokens: the newest whose time has come. With a clock that went back before all of them,
    /// the oldest, so that issuing never stops for it. `None` only for a ring without a usable key.
    pub fn signing_key(&self, now: Instant) -> Option<&Key> {
        let newest = self.usable().filter(|key| key.signs_from <= now).max_by_key(|key| key.age());
        newest.or_else(|| self.usable().min_by_key(|key| key.age()))
    }

    /// Where a key is in its life; `None` if it is not here.
    pub fn state(&self, kid: &str, now: Instant) -> Option<KeyState> {
        let key = self.key(kid)?;
        let active = self.signing_key(now).map(Key::age);
        Some(if key.compromised_at.is_some() {
            KeyState::Compromised
        } else {
            match active.map(|active| key.age().cmp(&active)) {
                Some(std::cmp::Ordering::Less) => KeyState::Retiring,
                Some(std::cmp::Ordering::Equal) => KeyState::Active,
                Some(std::cmp::Ordering::Greater) | None => KeyState::Published,
            }
        })
    }

    /// State and publication of each key, for metrics.
    pub fn ages(&self, now: Instant) -> Vec<(&'static str, Instant)> {
        let state = |key: &Key| self.state(key.kid(), now).map(|state| (state.name(), key.published_at));
        self.keys.iter().filter_map(state).collect()
    }

    /// When the time of the key that signs is over. Its successor takes over then, so an instant in the past means that
    /// there is none.
    pub fn rotation_due(&self, now: Instant, rotation: Seconds) -> Option<Instant> {
        self.signing_key(now).map(|key| key.signs_from + rotation)
    }

    /// The public keys (RFC 7517): every key from the moment it is in the ring; a compromised one leaves at once. The
    /// newest first.
    pub fn jwks(&self) -> Value {
        let mut keys: Vec<&Key> = self.usable().collect();
        keys.sort_by_key(|key| std::cmp::Reverse(key.age()));
        json!({"keys": keys.iter().map(|key| key.material.jwk()).collect::<Vec<_>>()})
    }

    /// The keys that are not compromised.
    pub(super) fn usable(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(|key| key.compromised_at.is_none())
    }

    /// Reads the Secret's data. Strict: what the operator would not write is an error, never a guess.
    pub fn parse(data: &BTreeMap<String, ByteString>) -> Result<Self, RingError> {
        let mut ring = Self::default();
        let count = data.keys().filter(|name| *name != GONE_KEY).count();
        if count > MAX_KEYS {
            return Err(RingError::TooManyKeys(count));
        }
        for (name, bytes) in data {
            if name == GONE_KEY {
                let stored: StoredGone = read(name, bytes)?;
                ring.gone = stored.gone;
                ring.accept_reissue_before = stored.accept_reissue_before;
            } else {
                ring.keys.push(read_key(name, bytes)?);
            }
        }
        if ring.keys.is_empty() {
            return Err(RingError::Empty);
        }
        if ring.usable().next().is_none() {
            return Err(RingError::AllCompromised);
        }
        Ok(ring)
    }

    /// The Secret's data: one entry for each key, named by its `kid`, and one for the keys that are gone, if any.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let entry = |name: &str, value: Value| (name.to_owned(), ByteString(value.to_string().into_bytes()));
        let keys = self.keys.iter().map(|key| entry(key.kid(), stored_key(key)));
        let gone = (!self.gone.is_empty() || self.accept_reissue_before.is_some()).then(|| {
            entry(
                GONE_KEY,
                without_nulls(json!({"gone": self.gone, "acceptReissueBefore": self.accept_reissue_before})),
            )
        });
        keys.chain(gone).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredKey {
    algorithm: Algorithm,
    private_key: String,
    published_at: Instant,
    signs_from: Instant,
    signs_until: Option<Instant>,
    compromised_at: Option<Instant>,
}

impl Drop for StoredKey {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredGone {
    gone: BTreeMap<String, Instant>,
    accept_reissue_before: Option<Instant>,
}

// The parser's own message may quote the content, so it is dropped.
fn read<'de, T: Deserialize<'de>>(name: &str, bytes: &'de ByteString) -> Result<T, RingError> {
    serde_json::from_slice(&bytes.0).map_err(|_| RingError::Unreadable(name.to_owned()))
}

fn read_key(name: &str, bytes: &ByteString) -> Result<Key, RingError> {
    let stored: StoredKey = read(name, bytes)?;
    let material = KeyMaterial::from_pem(&stored.private_key)
        .map_err(|source| RingError::Key { name: name.to_owned(), source })?;
    if material.kid() != name || material.algorithm() != stored.algorithm {
        return Err(RingError::WrongName(name.to_owned()));
    }
    Ok(Key {
        material: Arc::new(material),
        published_at: stored.published_at,
        signs_from: stored.signs_from,
        signs_until: stored.signs_until,
        compromised_at: stored.compromised_at,
    })
}

fn stored_key(key: &Key) -> Value {
    without_nulls(json!({
        "algorithm": key.material.algorithm(),
        "privateKey": key.material.pem(),
        "publishedAt": key.published_at,
        "signsFrom": key.signs_from,
        "signsUntil": key.signs_until,
        "compromisedAt": key.compromised_at,
    }))
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{at, es256, key, ring, rs256};
    use super::*;

    #[test]
    fn states_follow_from_the_instants() {
        let (first, second) = (es256().kid().to_owned(), rs256().kid().to_owned());
        let table = [
            (8_999, KeyState::Active, KeyState::Published),
            (9_000, KeyState::Retiring, KeyState::Active),
            (9_001, KeyState::Retiring, KeyState::Active),
            // The clock before everything: the oldest signs.
            (-9_001, KeyState::Active, KeyState::Published),
        ];
        for (now, one, two) in table {
            let states = (ring().state(&first, at(now)), ring().state(&second, at(now)));
            assert_eq!(states, (Some(one), Some(two)), "{now}");
        }
        assert_eq!(ring().state("other", at(0)), None);
    }

    #[test]
    fn a_compromised_key_neither_signs_nor_is_published() {
        let mut ring = ring();
        ring.keys[0].compromised_at = Some(at(0));
        let kid = es256().kid().to_owned();
        assert_eq!(ring.state(&kid, at(0)), Some(KeyState::Compromised));
        assert_eq!(ring.signing_key(at(0)).unwrap().kid(), rs256().kid());
        assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 1);
        assert!(ring.is_compromised(&kid));
    }

    #[test]
    fn an_entry_of_an_unknown_key_waits_until_somebody_says_that_the_key_is_gone() {
        let mut ring = ring();
        assert_eq!(ring.standing(es256().kid(), at(0)), Standing::Usable);
        assert_eq!(ring.standing("other", at(0)), Standing::Missing);
        ring.accept_reissue_before = Some(at(1));
        assert_eq!(ring.standing("other", at(0)), Standing::Compromised);
        assert_eq!(ring.standing("other", at(1)), Standing::Missing);
        assert_eq!(ring.standing(es256().kid(), at(0)), Standing::Usable);
        ring.gone.insert("other".into(), at(1));
        assert_eq!(ring.standing("other", at(1)), Standing::Compromised);
    }

    #[test]
    fn a_ring_survives_its_secret() {
        let mut ring = ring();
        ring.keys[0].signs_until = Some(at(9_000));
        assert_eq!(Ring::parse(&ring.data()).as_ref().map(Ring::data), Ok(ring.data()));
        ring.keys[0].compromised_at = Some(at(3));
        ring.gone.insert("lost".into(), at(5));
        ring.accept_reissue_before = Some(at(7));
        let again = Ring::parse(&ring.data()).unwrap();
        assert_eq!((again.data(), &again.gone), (ring.data(), &ring.gone));
        assert!(ring.keys.iter().all(|key| again.key(key.kid()) == Some(key)));
    }

    #[test]
    fn an_edited_secret_is_named_and_never_quoted() {
        let good = ring().data();
        let kid = es256().kid().to_owned();
        let text = String::from_utf8(good[&kid].0.clone()).unwrap();
        let with = |name: &str, text: &str| {
            let mut data = good.clone();
            data.insert(name.into(), ByteString(text.as_bytes().to_vec()));
            data
        };
        let mut all = ring();
        all.keys.iter_mut().for_each(|key| key.compromised_at = Some(at(0)));
        let many: BTreeMap<_, _> = (0..65).map(|n| (format!("k{n}"), ByteString(vec![]))).collect();
        let table = [
            (BTreeMap::new(), "KeyRingEmpty"),
            (with(&kid, ""), "KeyRingUnreadable"),
            (with(&kid, "SECRET"), "KeyRingUnreadable"),
            (with(&kid, &text.replace("\"publishedAt\":\"20", "\"publishedAt\":\"SECRET")), "KeyRingUnreadable"),
            (with(&kid, &text.replace("MIGH", "SECR")), "KeyNotPkcs8"),
            (with(&kid, &text.replace("ES256", "RS256")), "KeyRingWrongName"),
            (with(&kid, &text.replace('}', ",\"SECRET\":1}")), "KeyRingUnreadable"),
            (with("copy", &text), "KeyRingWrongName"),
            (with("gone.json", "[]"), "KeyRingUnreadable"),
            (all.data(), "KeyRingCompromised"),
            (many, "KeyRingTooLarge"),
        ];
        for (data, reason) in table {
            let error = Ring::parse(&data).unwrap_err();
            assert_eq!(error.reason(), reason, "{error}");
            assert!(!format!("{error} {error:?}").contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn two_keys_of_the_same_second_have_one_order() {
        let ring = Ring { keys: vec![key(es256(), 0, 5), key(rs256(), 1, 5)], ..Ring::default() };
        assert_eq!(ring.signing_key(at(5)).unwrap().kid(), rs256().kid());
        assert_eq!(ring.signing_key(at(4)).unwrap().kid(), es256().kid());
    }
}
