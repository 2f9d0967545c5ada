//! Is the cluster as it should be: each account ready, and ledger, Secret, keys and JWKS in agreement.

use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use virtual_account_operator::api::{AccountId, Entry, Instant, Phase, VirtualAccount};
use virtual_account_operator::token::{Ring, derive};

use crate::support::cluster::{decode, ready, text, wait_for};
use crate::support::operator::{ISSUER, Operator};
use crate::world::{APPS, World};

/// Waits until every account is sound; says what is not.
pub(crate) fn wait_sound(world: &World, operator: &Operator, deadline: Duration) {
    wait_for("every account to be sound", deadline, || {
        let problems = problems(world, operator);
        if problems.is_empty() { Ok(()) } else { Err(format!("{} problems, first: {}", problems.len(), problems[0])) }
    });
}

/// What is wrong, account by account.
pub(crate) fn problems(world: &World, operator: &Operator) -> Vec<String> {
    let (ring, jwks) = (world.ring(), jwks(operator));
    let accounts = world.accounts();
    let problems = accounts.iter().filter_map(|(name, account)| {
        problem(world, &ring, &jwks, name, account).err().map(|problem| format!("{name}: {problem}"))
    });
    problems.collect()
}

pub(crate) fn jwks(operator: &Operator) -> JwkSet {
    serde_json::from_value(operator.jwks()).expect("a JWKS")
}

fn problem(world: &World, ring: &Ring, jwks: &JwkSet, name: &str, account: &VirtualAccount) -> Result<(), String> {
    let status = account.status.as_ref().ok_or("no status")?;
    check(status.observed_generation == account.metadata.generation, || "the spec was not seen".into())?;
    let value = serde_json::to_value(account).map_err(|error| error.to_string())?;
    let (is_ready, reason) = (&ready(&value)["status"], &ready(&value)["reason"]);
    check(is_ready == "True" && reason == "Delivered", || format!("{}", ready(&value)))?;
    let newest = status.jwts.first().ok_or("an empty ledger")?;
    let phases: Vec<Phase> = status.jwts.iter().map(|entry| entry.phase).collect();
    let current = phases.iter().filter(|phase| **phase == Phase::Current).count();
    check(newest.phase == Phase::Current && current == 1 && !phases.contains(&Phase::Pending), || {
        format!("{phases:?}")
    })?;
    check(as_asked(account, newest), || "not what the spec asks for".into())?;
    let secret = status.token_secret.as_ref().and_then(|secret| world.cluster.secret(APPS, &secret.name));
    let secret = secret.ok_or("no Secret")?;
    check(carries_labels(account, &secret), || "the Secret lacks labels of the spec".into())?;

    let id = AccountId::new(APPS, name);
    let holds = |jti: &str, token: &str, entry: &Entry| -> Result<(), String> {
        let derived = derive(entry, &id, ring).map_err(|error| error.to_string())?;
        check(text(&secret, jti).as_ref() == Some(&entry.id), || format!("{jti} is not {}", entry.id))?;
        check(text(&secret, token).as_deref() == Some(derived.expose()), || format!("{token} has other bytes"))?;
        verify(derived.expose(), jwks, world.now(), &id, entry)
    };
    holds("jti", "token", newest)?;
    let now = world.now();
    let in_grace = |entry: &&Entry| entry.phase == Phase::Superseded && entry.grace_ends_at > Some(now);
    match status.jwts.iter().skip(1).find(in_grace) {
        Some(previous) => holds("previous-jti", "previous-token", previous),
        None => check(text(&secret, "previous-token").is_none(), || "a previous token past its grace".into()),
    }
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// The last request was handled and the newest token has the audiences that the spec names.
fn as_asked(account: &VirtualAccount, newest: &Entry) -> bool {
    let annotations = account.metadata.annotations.as_ref();
    let request = annotations.and_then(|all| all.get("virtualaccounts.dev/rotate"));
    let id = request.map(|value| value.split(',').next().unwrap_or_default());
    let handled = account.status.as_ref().map_or(&[][..], |status| &status.handled_rotate_requests);
    let wanted = account.spec.audiences.clone().map(|mut audiences| {
        audiences.sort();
        audiences
    });
    id.is_none_or(|id| handled.iter().any(|value| value.split(',').next() == Some(id)))
        && wanted.is_none_or(|audiences| audiences == newest.audiences)
}

fn carries_labels(account: &VirtualAccount, secret: &Value) -> bool {
    let wanted = account.spec.token_secret.as_ref().and_then(|secret| secret.labels.as_ref());
    wanted.is_none_or(|labels| labels.iter().all(|(key, value)| secret["metadata"]["labels"][key] == value.as_str()))
}

/// Verifies a token as a service would that knows nothing but the JWKS, at an instant of the moved clock.
pub(crate) fn verify(
    token: &str,
    jwks: &JwkSet,
    now: Instant,
    account: &AccountId,
    entry: &Entry,
) -> Result<(), String> {
    let kid = decode(token).0["kid"].as_str().unwrap_or_default().to_owned();
    let jwk = jwks.find(&kid).ok_or(format!("key {kid} is not in the JWKS"))?;
    let key = DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?;
    let mut rules = Validation::new(Algorithm::ES256);
    rules.set_audience(&entry.audiences);
    rules.set_issuer(&[ISSUER]);
    rules.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
    // The library would ask the real clock.
    rules.validate_exp = false;
    let claims = jsonwebtoken::decode::<Value>(token, &key, &rules).map_err(|error| error.to_string())?.claims;
    let instant = |name: &str| claims[name].as_i64().map(Instant::from_unix);
    check(instant("exp") > Some(now), || format!("{} is over at {now}", entry.id))?;
    check(instant("iat").is_some_and(|iat| iat <= now), || format!("{} begins after {now}", entry.id))?;
    check(claims["sub"] == account.subject(), || format!("sub is {}", claims["sub"]))
}
