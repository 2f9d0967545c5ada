//! Revocation by id.

use serde_json::{Value, json};

use crate::support::cluster::{PATIENCE, current, entries, entry, ready, settled, text, wait_for};
use crate::{World, rotating};

#[test]
fn revoked_current_token_is_refused_and_replaced() {
    let world = World::new("current");
    let first = world.ready(rotating());
    world.edit(&json!({"revokedJwtIds": [first.jti]}));
    wait_for("the refusal", PATIENCE, || if world.operator.accepts(&first.token) { Err("active") } else { Ok(()) });
    let second = world.successor(&first);
    assert!(world.operator.accepts(&second.token));
    assert_eq!(entry(&second.account, &second.jti).unwrap()["reason"], "Revocation");
    assert_eq!(second.secret["data"]["previous-token"], Value::Null, "a revoked token is not handed out again");
    let account = world.cluster.wait_account(&world.ns, "cart", "one entry", |account| entries(account).len() == 1);
    assert_eq!(account["status"]["jwtId"], second.jti.as_str());
    let note = world.cluster.wait_event(&world.ns, "cart", "Revoked");
    let until = first.account["status"]["expiresAt"].as_str().unwrap();
    assert!(note.contains(&first.jti) && note.contains("offline") && note.ends_with(until), "{note}");
}

#[test]
fn revoked_previous_token_leaves_the_secret_and_the_current_one_stays() {
    let world = World::new("previous");
    let first = world.ready(rotating());
    let second = world.rotate(&first, "one");
    world.edit(&json!({"revokedJwtIds": [first.jti]}));
    wait_for("the refusal", PATIENCE, || if world.operator.accepts(&first.token) { Err("active") } else { Ok(()) });
    let secret = world
        .cluster
        .wait_secret(&world.ns, "cart-token", "no previous token", |secret| secret["data"]["previous-token"].is_null());
    assert_eq!(text(&secret, "token"), Some(second.token.clone()));
    let account = world.cluster.wait_account(&world.ns, "cart", "one entry", |account| entries(account).len() == 1);
    assert_eq!(current(&account), Some(second.jti.as_str()));
    assert!(world.operator.accepts(&second.token));
}

#[test]
fn unknown_ids_are_ignored() {
    let world = World::new("unknown");
    let given = world.ready(rotating());
    world.edit(&json!({"revokedJwtIds": ["AAAAAAAAAAAAAAAAAAAAAA", "never-was"]}));
    let account = world.reason("Delivered");
    assert_eq!(entries(&account), entries(&given.account));
    assert!(world.operator.accepts(&given.token));
}

#[test]
fn revocation_works_while_suspended_and_its_successor_waits() {
    let world = World::new("both");
    let first = world.ready(rotating());
    world.edit(&json!({"suspend": true, "revokedJwtIds": [first.jti]}));
    let account = world.cluster.wait_account(&world.ns, "cart", "Revoked", |account| {
        settled(account) && ready(account)["reason"] == "Revoked"
    });
    assert_eq!(ready(&account)["status"], "False");
    assert!(ready(&account)["message"].as_str().unwrap().contains("waits for spec.suspend to end"), "{account}");
    assert_eq!(account["status"]["jwtId"], Value::Null, "no token is good");
    assert!(!world.operator.accepts(&first.token));
    world.edit(&json!({"suspend": false}));
    let second = world.successor(&first);
    assert!(world.operator.accepts(&second.token));
}

#[test]
fn revoking_each_current_token_in_turn_always_ends_with_a_good_one() {
    let world = World::new("turns");
    let mut given = world.ready(rotating());
    let mut revoked = Vec::new();
    for _ in 0..5 {
        revoked.push(given.jti.clone());
        world.edit(&json!({"revokedJwtIds": revoked}));
        given = world.successor(&given);
    }
    assert!(world.operator.accepts(&given.token));
    world.cluster.wait_account(&world.ns, "cart", "one entry", |account| entries(account).len() == 1);
}
