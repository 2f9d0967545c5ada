//! The strict verifier, in two layers: what a token says about itself, then what the ledger says about it.
//!
//! It trusts no library's defaults: the algorithm is the key's own, header and claims are closed, and everything that a
//! lenient parser would forgive (padding, loose trailing bits, repeated members, another `typ`) is a refusal. No refusal
//! repeats any part of the token.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;

use super::claims::{BACKDATED, Header, TYPE};
use super::{Audience, Claims, Ring};
use crate::api::{AccountId, Entry, Instant, Phase, Seconds};

/// A longer token is refused unread. Ours have about 700 bytes; 16 audiences of 256 bytes fit.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How far `iat` may lie ahead of the verifier's clock.
const LEEWAY: Seconds = Seconds(30);

/// A token whose signature and form are right; whether it is valid now, the ledger says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The account that `sub` names.
    pub account: AccountId,
    /// The key that signed it.
    pub kid: String,
    /// What it says.
    pub claims: Claims,
}

/// What the second layer knows of an account.
#[derive(Clone, Copy, Debug)]
pub struct AccountView<'a> {
    /// Which account.
    pub id: &'a AccountId,
    /// Its ledger.
    pub ledger: &'a [Entry],
    /// `spec.disabled`.
    pub disabled: bool,
    /// Whether it has a deletion timestamp.
    pub deleting: bool,
    /// The instant at which it ends: 00:00:00Z after `expirationDate`.
    pub end: Option<Instant>,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Longer than 8 KiB.
    TooLarge,
    /// Not three segments of canonical base64url.
    Malformed,
    /// The header is not exactly `alg`, `kid`, `typ`.
    HeaderInvalid,
    /// `typ` is not `at+jwt`.
    WrongType,
    /// No such key.
    KeyUnknown,
    /// The key is compromised.
    KeyCompromised,
    /// `alg` is not the key's own.
    WrongAlgorithm,
    /// The signature is not the key's.
    SignatureInvalid,
    /// The claims are not exactly those that the operator writes.
    ClaimsInvalid,
    /// `iat` is in the future.
    IssuedInFuture,
    /// There is no such account.
    AccountUnknown,
    /// The account is being deleted.
    AccountDeleting,
    /// The account is disabled.
    AccountDisabled,
    /// The account's expiration date is past.
    AccountExpired,
    /// The token is of another account.
    WrongAccount,
    /// The ledger has no such token.
    NotInLedger,
    /// The ledger's entry has another key, issuer, audience or time.
    EntryDiffers,
    /// The token is revoked.
    Revoked,
    /// The token's end is past.
    Expired,
    /// A newer token replaced it and its grace period is over.
    GraceOver,
}

impl Refusal {
    /// For logs and metric labels.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "TooLarge",
            Self::Malformed => "Malformed",
            Self::HeaderInvalid => "HeaderInvalid",
            Self::WrongType => "WrongType",
            Self::KeyUnknown => "KeyUnknown",
            Self::KeyCompromised => "KeyCompromised",
            Self::WrongAlgorithm => "WrongAlgorithm",
            Self::SignatureInvalid => "SignatureInvalid",
            Self::ClaimsInvalid => "ClaimsInvalid",
            Self::IssuedInFuture => "IssuedInFuture",
            Self::AccountUnknown => "AccountUnknown",
            Self::AccountDeleting => "AccountDeleting",
            Self::AccountDisabled => "AccountDisabled",
            Self::AccountExpired => "AccountExpired",
            Self::WrongAccount => "WrongAccount",
            Self::NotInLedger => "NotInLedger",
            Self::EntryDiffers => "EntryDiffers",
            Self::Revoked => "Revoked",
            Self::Expired => "Expired",
            Self::GraceOver => "GraceOver",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the token is longer than 8 KiB",
            Self::Malformed => "the token is not three segments of base64url",
            Self::HeaderInvalid => "the token's header is not exactly alg, kid and typ",
            Self::WrongType => "the token's typ is not at+jwt",
            Self::KeyUnknown => "the token names a key that this issuer does not have",
            Self::KeyCompromised => "the key that signed the token is compromised",
            Self::WrongAlgorithm => "the token's alg is not that of its key",
            Self::SignatureInvalid => "the token's signature is wrong",
            Self::ClaimsInvalid => "the token's claims are not those of this issuer",
            Self::IssuedInFuture => "the token was issued in the future; compare the clocks",
            Self::AccountUnknown => "the token's account does not exist",
            Self::AccountDeleting => "the token's account is being deleted",
            Self::AccountDisabled => "the token's account is disabled",
            Self::AccountExpired => "the token's account is past its expiration date",
            Self::WrongAccount => "the token belongs to another account",
            Self::NotInLedger => "the token is not in its account's ledger: it was retired or revoked, or never issued",
            Self::EntryDiffers => "the token differs from its entry in its account's ledger",
            Self::Revoked => "the token is revoked",
            Self::Expired => "the token has expired",
            Self::GraceOver => "the token was replaced and its grace period is over",
        })
    }
}

impl std::error::Error for Refusal {}

/// Layer 1: form, key, signature and claims. Knows no account.
pub fn strict(token: &str, ring: &Ring, now: Instant) -> Result<Verified, Refusal> {
    let verified = authentic(token, ring)?;
    if verified.claims.iat > (now + LEEWAY).as_unix() {
        return Err(Refusal::IssuedInFuture);
    }
    Ok(verified)
}

/// Layer 1 without the clock.
pub(super) fn authentic(token: &str, ring: &Ring) -> Result<Verified, Refusal> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::TooLarge);
    }
    let mut segments = token.split('.');
    let (Some(head), Some(body), Some(tail), None) =
        (segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return Err(Refusal::Malformed);
    };
    // This engine refuses padding, foreign letters and trailing bits that are not zero: one spelling for each token.
    let decode = |segment: &str| URL_SAFE_NO_PAD.decode(segment).map_err(|_| Refusal::Malformed);
    let (header, claims, signature) = (decode(head)?, decode(body)?, decode(tail)?);
    let header: Header = object(&header).ok_or(Refusal::HeaderInvalid)?;
    if header.typ != TYPE {
        return Err(Refusal::WrongType);
    }
    if ring.is_compromised(&header.kid) {
        return Err(Refusal::KeyCompromised);
    }
    let key = &ring.key(&header.kid).ok_or(Refusal::KeyUnknown)?.material;
    if header.alg != key.algorithm().name() {
        return Err(Refusal::WrongAlgorithm);
    }
    let signed = &token.as_bytes()[..head.len() + 1 + body.len()];
    if !key.verifies(signed, &signature) {
        return Err(Refusal::SignatureInvalid);
    }
    let claims: Claims = object(&claims).ok_or(Refusal::ClaimsInvalid)?;
    let account = account_of(&claims.sub).ok_or(Refusal::ClaimsInvalid)?;
    if matches!(&claims.aud, Audience::Many(audiences) if audiences.len() < 2) {
        return Err(Refusal::ClaimsInvalid);
    }
    Ok(Verified { account, kid: header.kid, claims })
}

/// A JSON object with exactly the members of `T`. serde's derived visitor refuses unknown and repeated members, but would
/// take an array for a struct.
fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    if json.first() != Some(&b'{') {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn account_of(subject: &str) -> Option<AccountId> {
    let (namespace, name) = subject.strip_prefix("va:")?.split_once(':')?;
    let plain = |part: &str| !part.is_empty() && !part.contains([':', '/']);
    (plain(namespace) && plain(name)).then(|| AccountId::new(namespace, name))
}

/// Layer 2: the ledger of the account that the token names. Absence is refusal.
pub fn against_ledger<'a>(
    verified: &Verified,
    account: Option<&AccountView<'a>>,
    now: Instant,
) -> Result<&'a Entry, Refusal> {
    let account = account.ok_or(Refusal::AccountUnknown)?;
    let claims = &verified.claims;
    let subject = account.id.subject();
    if verified.account != *account.id || claims.sub != subject || claims.client_id != subject {
        return Err(Refusal::WrongAccount);
    }
    if account.deleting {
        return Err(Refusal::AccountDeleting);
    }
    if account.disabled {
        return Err(Refusal::AccountDisabled);
    }
    if account.end.is_some_and(|end| now >= end) {
        return Err(Refusal::AccountExpired);
    }
    let entry = account.ledger.iter().find(|entry| entry.id == claims.jti).ok_or(Refusal::NotInLedger)?;
    if !is_of(entry, verified) {
        return Err(Refusal::EntryDiffers);
    }
    match entry.phase {
        Phase::Revoked => Err(Refusal::Revoked),
        _ if now >= entry.expires_at => Err(Refusal::Expired),
        Phase::Pending | Phase::Current => Ok(entry),
        Phase::Superseded if entry.grace_ends_at.is_some_and(|end| now < end) => Ok(entry),
        Phase::Superseded => Err(Refusal::GraceOver),
    }
}

fn is_of(entry: &Entry, Verified { kid, claims, .. }: &Verified) -> bool {
    entry.key_id == *kid
        && entry.issuer == claims.iss
        && entry.audiences == claims.aud.as_slice()
        && entry.issued_at.as_unix() - BACKDATED.0 == claims.iat
        && entry.expires_at.as_unix() == claims.exp
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::fixtures::{account, at, entry, es256, ring, rs256};
    use super::super::{KeyMaterial, claims, derive};
    use super::*;

    fn b64(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// A token of exactly this header and these claims, rightly signed by the key.
    fn signed(key: &KeyMaterial, header: &str, claims: &str) -> String {
        let input = format!("{}.{}", b64(header), b64(claims));
        let signature = key.sign(input.as_bytes()).unwrap();
        format!("{input}.{}", b64(signature))
    }

    fn header(key: &KeyMaterial) -> String {
        format!(r#"{{"alg":"{}","kid":"{}","typ":"at+jwt"}}"#, key.algorithm(), key.kid())
    }

    fn good_claims() -> String {
        serde_json::to_string(&claims::claims(&entry(es256().kid()), &account())).unwrap()
    }

    fn good() -> String {
        derive(&entry(es256().kid()), &account(), &ring()).unwrap().expose().to_owned()
    }

    fn with_header(edit: impl FnOnce(&mut Value)) -> String {
        let mut value: Value = serde_json::from_str(&header(&es256())).unwrap();
        edit(&mut value);
        signed(&es256(), &value.to_string(), &good_claims())
    }

    fn with_claim(name: &str, member: Value) -> String {
        let mut value: Value = serde_json::from_str(&good_claims()).unwrap();
        value[name] = member;
        signed(&es256(), &header(&es256()), &value.to_string())
    }

    fn refusal(token: &str) -> Option<Refusal> {
        strict(token, &ring(), at(10)).err()
    }

    #[test]
    fn our_own_tokens_pass() {
        for key in [es256(), rs256()] {
            let token = derive(&entry(key.kid()), &account(), &ring()).unwrap();
            let verified = strict(token.expose(), &ring(), at(0)).unwrap();
            assert_eq!((verified.account, verified.kid.as_str()), (account(), key.kid()));
        }
    }

    #[test]
    fn an_algorithm_that_is_not_the_keys_own_is_refused() {
        for bits in 0..16 {
            let none: String = "none"
                .chars()
                .enumerate()
                .map(|(n, c)| if bits >> n & 1 == 1 { c.to_ascii_uppercase() } else { c })
                .collect();
            let whole = with_header(|header| header["alg"] = json!(none));
            assert_eq!(refusal(&whole), Some(Refusal::WrongAlgorithm), "{none}");
            let unsigned = format!("{}.", whole.rsplit_once('.').unwrap().0);
            assert_eq!(refusal(&unsigned), Some(Refusal::WrongAlgorithm), "{none}");
        }
        for alg in ["HS256", "RS256", "ES384", "es256", "ES256 ", "", "EdDSA", "PS256"] {
            assert_eq!(refusal(&with_header(|header| header["alg"] = json!(alg))), Some(Refusal::WrongAlgorithm));
        }
    }

    #[test]
    fn a_mac_made_with_the_public_key_is_refused() {
        use aws_lc_rs::hmac;
        for (key, alg) in [(es256(), "ES256"), (rs256(), "RS256")] {
            for named in ["HS256", alg] {
                let header = header(&key).replace(alg, named);
                let input = format!("{}.{}", b64(header), b64(good_claims()));
                let public = key.jwk().to_string();
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes()), input.as_bytes());
                let expected = if named == alg { Refusal::SignatureInvalid } else { Refusal::WrongAlgorithm };
                assert_eq!(refusal(&format!("{input}.{}", b64(tag))), Some(expected));
            }
        }
    }

    #[test]
    fn a_header_with_anything_else_is_refused() {
        let jwk = es256().jwk();
        let extras = [
            ("crit", json!(["b64"])),
            ("crit", json!([])),
            ("b64", json!(false)),
            ("jku", json!("https://evil.example/jwks.json")),
            ("x5u", json!("https://evil.example/cert.pem")),
            ("x5c", json!([])),
            ("jwk", jwk),
            ("cty", json!("JWT")),
            ("zip", json!("DEF")),
            ("ALG", json!("none")),
            ("", Value::Null),
        ];
        for (name, member) in extras {
            let token = with_header(|header| header[name] = member);
            assert_eq!(refusal(&token), Some(Refusal::HeaderInvalid), "{name}");
        }
        for name in ["alg", "kid", "typ"] {
            for member in [Value::Null, json!(1), json!(["ES256"]), json!({})] {
                assert_eq!(refusal(&with_header(|header| header[name] = member)), Some(Refusal::HeaderInvalid));
            }
            let without = with_header(|header| {
                header.as_object_mut().unwrap().remove(name);
            });
            assert_eq!(refusal(&without), Some(Refusal::HeaderInvalid), "{name}");
        }
        for typ in ["JWT", "AT+JWT", "at+JWT", "application/at+jwt", "at+jwt ", ""] {
            assert_eq!(refusal(&with_header(|header| header["typ"] = json!(typ))), Some(Refusal::WrongType), "{typ}");
        }
    }

    #[test]
    fn repeated_members_are_refused_whatever_their_spelling() {
        let (header, claims) = (header(&es256()), good_claims());
        for extra in [r#""alg":"ES256","#, r#""alg":"none","#, r#""\u0061lg":"ES256","#] {
            let twice = header.replacen('{', &format!("{{{extra}"), 1);
            assert_eq!(refusal(&signed(&es256(), &twice, &claims)), Some(Refusal::HeaderInvalid), "{extra}");
        }
        for name in ["iss", "sub", "client_id", "aud", "jti", "\\u0073ub"] {
            let twice = claims.replacen('{', &format!("{{\"{name}\":\"x\","), 1);
            assert_eq!(refusal(&signed(&es256(), &header, &twice)), Some(Refusal::ClaimsInvalid), "{name}");
        }
        for name in ["iat", "exp"] {
            let twice = claims.replacen('{', &format!("{{\"{name}\":1,"), 1);
            assert_eq!(refusal(&signed(&es256(), &header, &twice)), Some(Refusal::ClaimsInvalid), "{name}");
        }
    }

    #[test]
    fn foreign_and_compromised_keys_are_refused() {
        let foreign = KeyMaterial::generate(crate::token::Algorithm::Es256).unwrap();
        assert_eq!(refusal(&signed(&foreign, &header(&foreign), &good_claims())), Some(Refusal::KeyUnknown));
        assert_eq!(refusal(&signed(&foreign, &header(&es256()), &good_claims())), Some(Refusal::SignatureInvalid));
        for kid in ["", "../../dev/null", "' OR 1=1 --", "\0"] {
            assert_eq!(refusal(&with_header(|header| header["kid"] = json!(kid))), Some(Refusal::KeyUnknown));
        }
        let mut ring = ring();
        ring.keys[0].compromised_at = Some(at(0));
        assert_eq!(strict(&good(), &ring, at(0)).err(), Some(Refusal::KeyCompromised));
        ring.keys.remove(0);
        ring.gone.insert(es256().kid().into(), at(0));
        assert_eq!(strict(&good(), &ring, at(0)).err(), Some(Refusal::KeyCompromised));
    }

    #[test]
    fn a_signature_in_any_other_form_is_refused() {
        let good = good();
        let (input, tail) = good.rsplit_once('.').unwrap();
        let raw = URL_SAFE_NO_PAD.decode(tail).unwrap();
        let der = p256::ecdsa::Signature::from_slice(&raw).unwrap().to_der();
        let order = [
            255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 188, 230, 250, 173, 167, 23, 158,
            132, 243, 185, 202, 194, 252, 99, 37, 81,
        ];
        let mut flipped = raw.clone();
        flipped[63] ^= 1;
        let table: [Vec<u8>; 10] = [
            der.as_bytes().to_vec(),
            vec![0; 64],
            [&raw[..32], &[0; 32]].concat(),
            [&[0; 32], &raw[32..]].concat(),
            [order, order].concat(),
            vec![255; 64],
            raw[..63].to_vec(),
            [raw.as_slice(), &[0]].concat(),
            vec![],
            flipped,
        ];
        for signature in table {
            let token = format!("{input}.{}", b64(&signature));
            assert_eq!(refusal(&token), Some(Refusal::SignatureInvalid), "{signature:?}");
        }
    }

    #[test]
    fn there_is_one_spelling_of_a_token() {
        let good = good();
        let parts: Vec<_> = good.split('.').collect();
        // The last letter of an 86-letter signature carries 4 bits that say nothing and must be zero.
        let loose = format!("{}{}", &good[..good.len() - 1], next_letter(&good));
        let table = [
            String::new(),
            ".".into(),
            "..".into(),
            "...".into(),
            parts[..2].join("."),
            format!("{good}."),
            format!(".{good}"),
            format!("{good}.{}", parts[0]),
            format!("{good}=="),
            format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
            format!(" {good}"),
            format!("{good}\n"),
            format!("Bearer {good}"),
            good.replacen('.', ".\u{200b}", 1),
            loose,
        ];
        for token in table {
            let seen = refusal(&token);
            assert!(matches!(seen, Some(Refusal::Malformed | Refusal::HeaderInvalid)), "{token}: {seen:?}");
        }
        for foreign in ["+", "/", "=", "%2B", " ", "\0"] {
            assert_eq!(refusal(&good.replacen('.', &format!("{foreign}."), 1)), Some(Refusal::Malformed), "{foreign}");
        }
    }

    fn next_letter(token: &str) -> char {
        char::from(token.bytes().last().unwrap() + 1)
    }

    #[test]
    fn claims_of_wrong_type_and_other_claims_are_refused() {
        let deep = |n: usize| (0..n).fold(json!("x"), |inner, _| json!([inner]));
        let table = [
            ("iss", json!(1)),
            ("iss", json!(["https://issuer.example"])),
            ("iss", json!({"a": 1})),
            ("iss", Value::Null),
            ("aud", json!(1)),
            ("aud", json!([1])),
            ("aud", json!([["x"]])),
            ("aud", json!([])),
            ("aud", json!(["https://api.example"])),
            ("aud", json!({"0": "https://api.example"})),
            ("aud", Value::Null),
            ("aud", deep(100)),
            ("aud", deep(500)),
            ("sub", json!(7)),
            ("sub", json!("payments/invoice-reader")),
            ("sub", json!("va:payments")),
            ("sub", json!("va::x")),
            ("sub", json!("va:a:b:c")),
            ("sub", json!("system:serviceaccount:a:b")),
            ("iat", json!("1799999940")),
            ("iat", json!(1.5)),
            ("iat", json!(1e300)),
            ("exp", json!(null)),
            ("exp", json!(true)),
            ("exp", json!(u64::MAX)),
            ("jti", json!(1)),
            ("nbf", json!(1)),
            ("scope", json!("admin")),
            ("roles", json!(["admin"])),
            ("__proto__", json!({})),
        ];
        for (name, member) in table {
            let token = with_claim(name, member.clone());
            assert_eq!(refusal(&token), Some(Refusal::ClaimsInvalid), "{name}: {member}");
        }
        for claims in ["", "{}", "[]", "null", "1", "{", " {}", &good_claims()[1..], &format!("{}{{}}", good_claims())]
        {
            assert_eq!(refusal(&signed(&es256(), &header(&es256()), claims)), Some(Refusal::ClaimsInvalid), "{claims}");
        }
        let array = r#"["i","va:a:b","va:a:b","x",1,2,"j"]"#;
        assert_eq!(refusal(&signed(&es256(), &header(&es256()), array)), Some(Refusal::ClaimsInvalid));
        let array = format!(r#"["ES256","{}","at+jwt"]"#, es256().kid());
        assert_eq!(refusal(&signed(&es256(), &array, &good_claims())), Some(Refusal::HeaderInvalid));
    }

    #[test]
    fn huge_and_deep_input_is_refused_unread() {
        assert_eq!(refusal(&"a".repeat(MAX_TOKEN_BYTES + 1)), Some(Refusal::TooLarge));
        assert_eq!(refusal(&"a".repeat(MAX_TOKEN_BYTES)), Some(Refusal::Malformed));
        assert_eq!(refusal(&with_claim("iss", json!("x".repeat(20_000_000)))), Some(Refusal::TooLarge));
        let deep = format!("{{\"alg\":{}", "[".repeat(5_000));
        assert_eq!(refusal(&signed(&es256(), &deep, "{}")), Some(Refusal::HeaderInvalid));
        let most = with_claim("aud", json!(vec!["x".repeat(256); 16]));
        assert!(refusal(&most).is_none(), "the largest token that the schema allows");
    }

    #[test]
    fn a_token_from_the_future_is_refused_beyond_the_leeway() {
        // iat lies 60 s before the entry's issuedAt, at(0).
        for (now, refused) in [(-91, true), (-90, false), (-89, false)] {
            let seen = strict(&good(), &ring(), at(now)).err();
            assert_eq!(seen, refused.then_some(Refusal::IssuedInFuture), "{now}");
        }
    }

    fn check(entry: &Entry, view: impl FnOnce(&mut AccountView<'_>), now: i64) -> Option<Refusal> {
        let (id, ledger) = (account(), [entry.clone()]);
        let mut account = AccountView { id: &id, ledger: &[], disabled: false, deleting: false, end: None };
        account.ledger = &ledger;
        view(&mut account);
        against_ledger(&strict(&good(), &ring(), at(0)).unwrap(), Some(&account), at(now)).err()
    }

    #[test]
    fn the_phase_and_its_instants_decide_to_the_second() {
        let base = entry(es256().kid());
        let table = [
            (Phase::Pending, None, 0, None),
            (Phase::Pending, None, 3_599, None),
            (Phase::Pending, None, 3_600, Some(Refusal::Expired)),
            (Phase::Current, None, 3_599, None),
            (Phase::Current, None, 3_600, Some(Refusal::Expired)),
            (Phase::Superseded, Some(1_000), 999, None),
            (Phase::Superseded, Some(1_000), 1_000, Some(Refusal::GraceOver)),
            (Phase::Superseded, Some(9_000), 3_600, Some(Refusal::Expired)),
            (Phase::Superseded, None, 0, Some(Refusal::GraceOver)),
            (Phase::Revoked, None, 0, Some(Refusal::Revoked)),
        ];
        for (phase, grace, now, expected) in table {
            let entry = Entry { phase, grace_ends_at: grace.map(at), ..base.clone() };
            assert_eq!(check(&entry, |_| {}, now), expected, "{phase:?} {grace:?} {now}");
        }
    }

    #[test]
    fn the_account_decides_too() {
        let base = entry(es256().kid());
        let other = AccountId::new("payments", "other");
        assert_eq!(check(&base, |view| view.disabled = true, 0), Some(Refusal::AccountDisabled));
        assert_eq!(check(&base, |view| view.deleting = true, 0), Some(Refusal::AccountDeleting));
        assert_eq!(check(&base, |view| view.ledger = &[], 0), Some(Refusal::NotInLedger));
        for (now, expected) in [(9, None), (10, Some(Refusal::AccountExpired))] {
            assert_eq!(check(&base, |view| view.end = Some(at(10)), now), expected);
        }
        let verified = strict(&good(), &ring(), at(0)).unwrap();
        let view = AccountView { id: &other, ledger: &[], disabled: false, deleting: false, end: None };
        assert_eq!(against_ledger(&verified, Some(&view), at(0)), Err(Refusal::WrongAccount));
        assert_eq!(against_ledger(&verified, None, at(0)), Err(Refusal::AccountUnknown));
        let split = strict(&with_claim("client_id", json!("va:payments:other")), &ring(), at(0)).unwrap();
        let view = AccountView { id: &account(), ledger: std::slice::from_ref(&base), ..view };
        assert_eq!(against_ledger(&split, Some(&view), at(0)), Err(Refusal::WrongAccount));
    }

    #[test]
    fn a_token_that_differs_from_its_entry_is_refused() {
        let base = entry(es256().kid());
        let table = [
            Entry { key_id: rs256().kid().into(), ..base.clone() },
            Entry { issuer: "https://other.example".into(), ..base.clone() },
            Entry { audiences: vec!["https://other.example".into()], ..base.clone() },
            Entry { issued_at: at(1), ..base.clone() },
            Entry { expires_at: at(3_601), ..base.clone() },
        ];
        for entry in table {
            assert_eq!(check(&entry, |_| {}, 0), Some(Refusal::EntryDiffers), "{entry:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_on_any_text(text in "\\PC*", parts in prop::collection::vec("[A-Za-z0-9_-]{0,60}", 0..5)) {
            prop_assert!(refusal(&text).is_some());
            prop_assert!(refusal(&parts.join(".")).is_some());
        }

        #[test]
        fn nothing_panics_on_any_header_and_claims(header in "\\PC{0,200}", claims in "\\PC{0,200}") {
            prop_assert!(refusal(&signed(&es256(), &header, &claims)).is_some());
        }

        #[test]
        fn no_mutation_of_a_token_passes(place in 0usize..1_000, letter in any::<char>(), cut in any::<bool>()) {
            let good = good();
            let mut letters: Vec<char> = good.chars().collect();
            let place = place % letters.len();
            if cut { letters.remove(place); } else { letters[place] = letter; }
            let mutated: String = letters.into_iter().collect();
            prop_assert!(mutated == good || refusal(&mutated).is_some());
        }
    }
}
