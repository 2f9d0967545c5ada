//! Online checks: introspection, and the `verify` command with its reasons.

use serde_json::{Value, json};

use crate::support::cluster::{PATIENCE, entries, wait_for};
use crate::support::operator::ISSUER;
use crate::{Given, World, rotating, seconds};

#[test]
fn only_callers_with_the_permission_learn_anything() {
    let world = World::new("callers");
    let given = world.ready(rotating());
    let ask = |caller| world.operator.introspect_as(caller, &given.token);
    assert_eq!(ask(None).status, 401);
    assert_eq!(ask(Some("nonsense")).status, 401);
    // A token that the operator itself issued is no credential for the API server.
    assert_eq!(ask(Some(&given.token)).status, 401);
    let forbidden = ask(Some(world.operator.stranger()));
    assert_eq!(forbidden.status, 403);
    assert!(forbidden.body.contains("create on introspections.virtualaccounts.dev"), "{forbidden:?}");
    for answer in [ask(None), forbidden] {
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer")));
        assert!(!answer.body.contains(&given.jti));
    }
}

#[test]
fn active_answer_says_who_until_when_and_what_it_may() {
    let world = World::new("active");
    let given = world.ready(rotating());
    let entry = &entries(&given.account)[0];
    let subject = format!("va:{}:cart", world.ns);
    let expected = json!({
        "active": true, "iss": ISSUER, "sub": subject, "username": subject, "client_id": subject, "aud": ISSUER,
        "iat": seconds(&entry["issuedAt"]) - 60, "exp": seconds(&entry["expiresAt"]), "jti": given.jti,
        "token_type": "Bearer",
        "authorization_details": [{
            "type": "virtualaccounts.dev/permission", "resource_fqn": "shop.orders", "resource_type": "table",
            "role_id": "reader",
        }],
    });
    assert_eq!(world.operator.introspect(&given.token), expected);
}

#[test]
fn inactive_answer_is_the_same_whatever_the_reason() {
    let world = World::new("inactive");
    let revoked = world.ready(rotating());
    world.edit(&json!({"revokedJwtIds": [revoked.jti]}));
    let current = world.successor(&revoked);
    let mut tampered = current.token.clone();
    tampered.replace_range(tampered.len() - 10..tampered.len() - 9, "_");
    for token in ["x", "a.b.c", &tampered, &revoked.token, world.operator.stranger()] {
        let asked = world.operator.introspect(token);
        assert_eq!(asked, json!({"active": false}));
    }
}

#[test]
fn verify_says_until_when_or_why_not() {
    let world = World::new("verify");
    let first = world.ready(rotating());
    let (code, text) = verify(&world, &first.token);
    let until = first.account["status"]["expiresAt"].as_str().unwrap();
    assert_eq!(code, 0);
    assert_eq!(text, format!("active: token {} of account {}/cart, valid until {until}\n", first.jti, world.ns));

    let second = world.rotate(&first, "one,grace=1s");
    refused(&world, &first, "not in its account's ledger: it was retired or revoked");
    world.edit(&json!({"disabled": true}));
    refused(&world, &second, "disabled");
    world.edit(&json!({"disabled": false, "suspend": true, "revokedJwtIds": [second.jti]}));
    refused(&world, &second, "the token is revoked");
    world.cluster.delete_account(&world.ns, "cart");
    refused(&world, &second, "account does not exist");
    for token in ["", "nonsense", "a.b.c"] {
        let (code, text) = verify(&world, token);
        assert_eq!(code, 1, "{text}");
        assert!(text.starts_with("error: "), "{text}");
    }
}

#[test]
fn discovery_leads_any_client_to_the_keys() {
    let world = World::new("discovery");
    let paths = ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"];
    for path in paths {
        let answer = world.operator.get(path);
        assert_eq!(answer.status, 200, "{path}");
        let document = answer.json();
        assert_eq!(document["issuer"], ISSUER);
        assert_eq!(document["jwks_uri"], format!("{ISSUER}/jwks.json"));
        assert_eq!(document["introspection_endpoint"], format!("{ISSUER}/introspect"));
    }
    let answer = world.operator.get_with("/jwks.json", "origin: https://app.example.com\r\n");
    assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let keys = answer.json()["keys"].as_array().cloned().unwrap();
    assert_eq!(keys.len(), 2, "one signs, one is known to verifiers before it does: {keys:?}");
    for key in &keys {
        assert_eq!(
            (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
            (&json!("EC"), &json!("P-256"), &json!("ES256"), &json!("sig"))
        );
        assert_eq!(key["d"], Value::Null, "no private half");
    }
    let tag = answer.header("etag").unwrap().to_owned();
    let again = world.operator.get_with("/jwks.json", &format!("if-none-match: {tag}\r\n"));
    assert_eq!((again.status, again.body.as_str()), (304, ""));
}

/// Exit code, and what a user reads.
fn verify(world: &World, token: &str) -> (i32, String) {
    let output = world.operator.command(&["verify"], token);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("an exit code"), String::from_utf8(text).expect("text"))
}

fn refused(world: &World, given: &Given, why: &str) {
    wait_for(&format!("verify to say {why:?}"), PATIENCE, || {
        let (code, text) = verify(world, &given.token);
        if code == 1 && text.contains(why) { Ok(()) } else { Err(format!("{code}: {text}")) }
    });
}
