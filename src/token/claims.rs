//! What a token says, and how a ledger entry becomes one: a pure function of the entry, the account's identity and the
//! key that the entry names.
//!
//! No authorization is in here: a role claim without scope would over-grant and outlive its removal.

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Algorithm, KeyError, Ring, Standing, Token, verify};
use crate::api::{AccountId, Entry, Instant, IssueReason, Phase, Seconds};

/// A token's media type (RFC 9068).
pub(super) const TYPE: &str = "at+jwt";

/// `iat` lies this long before `issuedAt`, because verifiers' clocks lag.
pub(super) const BACKDATED: Seconds = Seconds(60);

/// The protected header, closed: exactly these members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: String,
    pub(super) typ: String,
}

/// The claims, in the order in which they are signed; closed: a token with another member is not ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The issuer.
    pub iss: String,
    /// The account: `va:<namespace>:<name>`.
    pub sub: String,
    /// The same (RFC 9068 wants it).
    pub client_id: String,
    /// Who may accept the token.
    pub aud: Audience,
    /// Unix seconds, 60 before the entry's `issuedAt`.
    pub iat: i64,
    /// Unix seconds.
    pub exp: i64,
    /// The token's id.
    pub jti: String,
}

/// `aud`: a string if there is one audience, else a list (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// One.
    One(String),
    /// Any other number.
    Many(Vec<String>),
}

impl Audience {
    /// As a list.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(audience) => std::slice::from_ref(audience),
            Self::Many(audiences) => audiences,
        }
    }
}

impl From<&[String]> for Audience {
    fn from(audiences: &[String]) -> Self {
        match audiences {
            [one] => Self::One(one.clone()),
            many => Self::Many(many.to_vec()),
        }
    }
}

/// Why an entry cannot become a token now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// The ring lacks the key that the entry names.
    #[error(
        "the signing key of this token is not in the key ring: restore the ring from its backup, or declare the key gone (keys compromise KID)"
    )]
    KeyMissing,
    /// That key is compromised; its tokens are never signed again.
    #[error("the signing key of this token is compromised")]
    KeyCompromised,
    /// The key could not sign.
    #[error("signing failed: {0}")]
    Signing(KeyError),
}

impl DeriveError {
    /// For conditions, events and metric labels.
    pub fn reason(self) -> &'static str {
        match self {
            Self::KeyMissing => "KeyMissing",
            Self::KeyCompromised => "KeyCompromised",
            Self::Signing(_) => "SigningFailed",
        }
    }
}

/// The token of an entry: the same bytes whenever, wherever and however often it is asked for.
pub fn derive(entry: &Entry, account: &AccountId, ring: &Ring) -> Result<Token, DeriveError> {
    let key = match (ring.standing(&entry.key_id, entry.issued_at), ring.key(&entry.key_id)) {
        (Standing::Usable, Some(key)) => &key.material,
        (Standing::Compromised, _) => return Err(DeriveError::KeyCompromised),
        _ => return Err(DeriveError::KeyMissing),
    };
    let input = signing_input(key.algorithm(), &claims(entry, account), &entry.key_id);
    let signature = key.sign(input.as_bytes()).map_err(DeriveError::Signing)?;
    let signature = Zeroizing::new(URL_SAFE_NO_PAD.encode(signature));
    Ok(Token::new([input.as_str(), ".", signature.as_str()].concat()))
}

/// The claims of an entry's token.
pub(super) fn claims(entry: &Entry, account: &AccountId) -> Claims {
    Claims {
        iss: entry.issuer.clone(),
        sub: account.subject(),
        client_id: account.subject(),
        aud: Audience::from(entry.audiences.as_slice()),
        iat: entry.issued_at.as_unix() - BACKDATED.0,
        exp: entry.expires_at.as_unix(),
        jti: entry.id.clone(),
    }
}

fn signing_input(algorithm: Algorithm, claims: &Claims, kid: &str) -> String {
    let header = Header { alg: algorithm.name().into(), kid: kid.into(), typ: TYPE.into() };
    format!("{}.{}", URL_SAFE_NO_PAD.encode(json(&header)), URL_SAFE_NO_PAD.encode(json(claims)))
}

#[expect(clippy::expect_used, reason = "structs of strings and numbers always serialise")]
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("structs of strings and numbers always serialise")
}

/// Reads a token found in a Secret back into the entry that it was made of, with the given grace; `None` unless it is
/// ours, of this account, and signing that entry again gives exactly the same bytes. Times are not judged here.
pub fn entry_of(token: &str, account: &AccountId, ring: &Ring, grace: Seconds) -> Option<Entry> {
    let verified = verify::authentic(token, ring).ok().filter(|verified| verified.account == *account)?;
    let claims = verified.claims;
    let mut audiences = claims.aud.as_slice().to_vec();
    audiences.sort();
    let entry = Entry {
        id: claims.jti,
        key_id: verified.kid,
        issuer: claims.iss,
        audiences,
        issued_at: Instant::from_unix(claims.iat.saturating_add(BACKDATED.0)),
        expires_at: Instant::from_unix(claims.exp),
        grace,
        reason: IssueReason::Adopted,
        phase: Phase::Pending,
        grace_ends_at: None,
        delivered_at: None,
    };
    let again = derive(&entry, account, ring).ok()?;
    (again.expose() == token).then_some(entry)
}

/// A new token id: 128 random bits in base64url, the only random part of a token.
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "aws-lc ends the process rather than hand out no randomness"
)]
pub fn fresh_jti() -> String {
    let mut bits = [0; 16];
    rand::fill(&mut bits).expect("aws-lc ends the process rather than hand out no randomness");
    URL_SAFE_NO_PAD.encode(bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixtures::{account, at, entry, es256, ring, rs256};
    use super::*;

    const GOLDEN_ES256: &str = concat!(
        "eyJhbGciOiJFUzI1NiIsImtpZCI6Il9vSDlWOUJVZmdYcThLT0N2LU1MX3dROFYtYkg3c2NjN01NcDdNODgxODQiLCJ0eXAiOiJhdCtqd3QifQ.",
        "eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoidmE6cGF5bWVudHM6aW52b2ljZS1yZWFkZXIiLCJjbGllbnRfaWQiOiJ2YTpwYXltZW50czppbnZvaWNlLXJlYWRlciIsImF1ZCI6Imh0dHBzOi8vYXBpLmV4YW1wbGUiLCJpYXQiOjE3OTk5OTk5NDAsImV4cCI6MTgwMDAwMzYwMCwianRpIjoiQUFFQ0F3UUZCZ2NJQ1FvTERBME9EdyJ9.",
        "jWIl29wvP201VuzGbMRFWvyDk2PVAHliWeWYowtWZcF4Xbi28vxDayswbpuAart57SQ3LooSCAsOHEJ8cPudiQ",
    );
    const GOLDEN_RS256: &str = concat!(
        "eyJhbGciOiJSUzI1NiIsImtpZCI6Ik1NVDJJUjZuRGdqSURvNkpTQU1pTDBXeF80ZHMzZU5WOHJIaUJBNlJKSTQiLCJ0eXAiOiJhdCtqd3QifQ.",
        "eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoidmE6cGF5bWVudHM6aW52b2ljZS1yZWFkZXIiLCJjbGllbnRfaWQiOiJ2YTpwYXltZW50czppbnZvaWNlLXJlYWRlciIsImF1ZCI6Imh0dHBzOi8vYXBpLmV4YW1wbGUiLCJpYXQiOjE3OTk5OTk5NDAsImV4cCI6MTgwMDAwMzYwMCwianRpIjoiQUFFQ0F3UUZCZ2NJQ1FvTERBME9EdyJ9.",
        "n2jNe9RbfWSN9DcOLd822TybMAhiaoHuGB-9cuoREC2__hp6yS9DZVw7_N6h1bGj056VcwhCjjvuSZarGWhYcXPCuGgFSRbLbkG-",
        "8ZNuC32qLKTbMUhKALGVXDqPhrcpgp2PTMDfP7Pp18lWpP-OMXqv2hogj6mstiMfbUYieREhv5q75IN8qHbBKssXJeOb9uCFRuZn",
        "YLbIH4yQ9sDQwcr6dEjOcra7XD_y_jb9wVg_dY1ziX7ffiqVSkVBQ8zZqThXdUKEB8Y1K2szqrrGoyQekjXdREvvK4f0PIbeyrI7",
        "ggoTomt0425knVrY7iF6_vmNTHUDZwbY1t4km7IqbA",
    );

    #[test]
    fn the_bytes_of_a_token_never_change() {
        for (kid, golden) in [(es256().kid(), GOLDEN_ES256), (rs256().kid(), GOLDEN_RS256)] {
            assert_eq!(derive(&entry(kid), &account(), &ring()).unwrap().expose(), golden);
        }
    }

    #[test]
    fn header_and_claims_are_what_the_standard_and_the_entry_say() {
        let mut entry = entry(es256().kid());
        let part = |entry: &Entry, n: usize| {
            let token = derive(entry, &account(), &ring()).unwrap();
            let part = token.expose().split('.').nth(n).unwrap().to_owned();
            String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(part(&entry, 0), format!(r#"{{"alg":"ES256","kid":"{}","typ":"at+jwt"}}"#, es256().kid()));
        let one = r#"{"iss":"https://issuer.example","sub":"va:payments:invoice-reader","client_id":"va:payments:invoice-reader","aud":"https://api.example","iat":1799999940,"exp":1800003600,"jti":"AAECAwQFBgcICQoLDA0ODw"}"#;
        assert_eq!(part(&entry, 1), one);
        entry.audiences.push("https://b.example".into());
        assert!(part(&entry, 1).contains(r#""aud":["https://api.example","https://b.example"]"#));
    }

    #[test]
    fn what_no_token_is_made_of_changes_nothing() {
        let plain = entry(es256().kid());
        let other = Entry {
            phase: Phase::Superseded,
            grace: Seconds(1),
            reason: IssueReason::Adopted,
            grace_ends_at: Some(at(9)),
            ..plain.clone()
        };
        let token = |entry: &Entry| derive(entry, &account(), &ring()).unwrap().expose().to_owned();
        assert_eq!(token(&plain), token(&other));
    }

    #[test]
    fn a_missing_or_compromised_key_signs_nothing() {
        let entry = entry(es256().kid());
        let mut ring = ring();
        ring.keys[0].compromised_at = Some(at(0));
        assert_eq!(derive(&entry, &account(), &ring).err(), Some(DeriveError::KeyCompromised));
        ring.keys.remove(0);
        assert_eq!(derive(&entry, &account(), &ring).err(), Some(DeriveError::KeyMissing));
        ring.gone.insert(entry.key_id.clone(), at(0));
        assert_eq!(derive(&entry, &account(), &ring).err(), Some(DeriveError::KeyCompromised));
    }

    #[test]
    fn a_token_is_read_back_into_its_entry() {
        for kid in [es256().kid(), rs256().kid()] {
            let mut entry = entry(kid);
            entry.audiences.push("https://b.example".into());
            let token = derive(&entry, &account(), &ring()).unwrap();
            let adopted = Entry { reason: IssueReason::Adopted, phase: Phase::Pending, ..entry.clone() };
            assert_eq!(entry_of(token.expose(), &account(), &ring(), entry.grace), Some(adopted));
        }
    }

    #[test]
    fn a_token_that_is_not_exactly_ours_is_not_adopted() {
        let good = entry(es256().kid());
        let token = |entry: &Entry, account: &AccountId| derive(entry, account, &ring()).unwrap().expose().to_owned();
        let adopt = |token: &str, ring: &Ring| entry_of(token, &account(), ring, Seconds(1));
        let whole = token(&good, &account());
        assert!(adopt(&whole, &ring()).is_some());
        assert_eq!(adopt(&token(&good, &AccountId::new("payments", "other")), &ring()), None);
        let unsorted = Entry { audiences: vec!["b".into(), "a".into()], ..good.clone() };
        assert_eq!(adopt(&token(&unsorted, &account()), &ring()), None);
        assert_eq!(adopt(&format!("{whole}\n"), &ring()), None);
        let mut compromised = ring();
        compromised.keys[0].compromised_at = Some(at(0));
        assert_eq!(adopt(&whole, &compromised), None);
        // Signed by our key, but by somebody who drew another nonce: valid, yet not what we would deliver.
        let input = signing_input(Algorithm::Es256, &claims(&good, &account()), es256().kid());
        let forged = super::super::fixtures::randomized(&input);
        assert!(verify::authentic(&forged, &ring()).is_ok());
        assert_eq!(adopt(&forged, &ring()), None);
    }

    #[test]
    fn ids_are_128_random_bits() {
        let (one, two) = (fresh_jti(), fresh_jti());
        assert_eq!((one.len(), URL_SAFE_NO_PAD.decode(&one).unwrap().len()), (22, 16));
        assert_ne!(one, two);
    }

    proptest! {
        #[test]
        fn every_entry_is_read_back(id in "\\PC{1,40}", issuer in "\\PC{1,40}", mut audiences in prop::collection::vec("\\PC{1,20}", 1..5), issued in 60i64..5_000_000_000, life in 1i64..100_000_000) {
            audiences.sort();
            let issued_at = Instant::from_unix(issued);
            let good = Entry { id, issuer, audiences, issued_at, expires_at: issued_at + Seconds(life),
                reason: IssueReason::Adopted, phase: Phase::Pending, ..entry(es256().kid()) };
            let token = derive(&good, &account(), &ring()).unwrap();
            prop_assert_eq!(entry_of(token.expose(), &account(), &ring(), good.grace), Some(good));
        }
    }
}
