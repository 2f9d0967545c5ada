//! A status that was lost, restored or forged.

use serde_json::{Value, json};

use crate::support::cluster::{account_path, current, entries, entry, ready, settled, stays};
use crate::{World, rotating};

#[test]
fn lost_status_is_read_back_from_the_secret_and_mints_nothing() {
    let world = World::new("lost");
    let first = world.ready(rotating());
    let second = world.rotate(&first, "one");
    let minted = minted(&world);
    wipe(&world);
    let back = world.given("cart");
    assert_eq!((&back.jti, &back.token), (&second.jti, &second.token));
    assert_eq!(entry(&back.account, &second.jti).unwrap()["reason"], "Adopted");
    assert_eq!(back.account["status"]["handledRotateRequests"], json!(["one"]), "it must not act again");
    assert!(world.operator.accepts(&second.token));
    assert!(world.operator.accepts(&first.token), "the previous token is in the Secret too");
    assert_eq!(minted_since(&world, minted), 0);
    world.cluster.wait_event(&world.ns, "cart", "Adopted");
}

#[test]
fn request_made_while_the_status_was_lost_still_counts() {
    let world = World::new("lostrotate");
    let first = world.ready(rotating());
    // Suspended, so that nothing is decided between the two changes.
    world.edit(&json!({"suspend": true}));
    world.reason("Suspended");
    wipe(&world);
    world.annotate("rotate", &json!("leak,grace=0s"));
    world.edit(&json!({"suspend": false}));
    let second = world.successor(&first);
    assert!(world.operator.accepts(&second.token) && !world.operator.accepts(&first.token));
}

#[test]
fn forged_entry_beyond_the_caps_is_never_signed() {
    let world = World::new("forged");
    let given = world.ready(rotating());
    let mut forged = entries(&given.account)[0].clone();
    forged["id"] = json!("forgedforgedforgedfor1");
    forged["issuedAt"] = json!("2026-01-01T00:00:00Z");
    forged["expiresAt"] = json!("2099-01-01T00:00:00Z");
    forged["audiences"] = json!(["https://evil.example.com"]);
    forged["phase"] = json!("Pending");
    // Newest, as far as a ledger sorted by time goes: one second after the true one.
    forged["issuedAt"] = json!(later(&entries(&given.account)[0]["issuedAt"]));
    world.cluster.patch_status(&world.ns, "cart", &json!({"jwts": [forged, entries(&given.account)[0]]}));
    let after = world.cluster.wait_account(&world.ns, "cart", "a token of its own", |account| {
        settled(account)
            && current(account).is_some_and(|current| current != "forgedforgedforgedfor1" && current != given.jti)
    });
    let secret = world.cluster.secret(&world.ns, "cart-token").unwrap();
    for key in ["jti", "previous-jti"] {
        assert_ne!(crate::support::cluster::text(&secret, key).as_deref(), Some("forgedforgedforgedfor1"));
    }
    assert_eq!(entry(&after, current(&after).unwrap()).unwrap()["reason"], "LimitChange");
    assert!(world.operator.accepts(&crate::support::cluster::token(&secret)));
    assert!(world.operator.accepts(&given.token), "what was delivered keeps its grace");
}

#[test]
fn forged_entry_of_a_foreign_key_is_neither_signed_nor_replaced() {
    let world = World::new("forgedkey");
    let given = world.ready(rotating());
    let mut forged = entries(&given.account)[0].clone();
    forged["id"] = json!("forgedforgedforgedfor2");
    forged["keyId"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    forged["phase"] = json!("Pending");
    forged["issuedAt"] = json!(later(&forged["issuedAt"]));
    world.cluster.patch_status(&world.ns, "cart", &json!({"jwts": [forged, entries(&given.account)[0]]}));
    let account = world.reason("KeyMissing");
    let message = ready(&account)["message"].as_str().unwrap();
    assert!(message.contains("keys compromise AAAAAAAA"), "{message}");
    let secret = world.cluster.secret(&world.ns, "cart-token").unwrap();
    assert_eq!(secret["data"], given.secret["data"]);
    assert!(world.operator.accepts(&given.token));
}

#[test]
fn status_of_another_account_counts_as_lost() {
    let world = World::new("copied");
    let mine = world.ready(rotating());
    world.create("basket", rotating());
    let theirs = world.given("basket");
    let mut copied = world.account();
    copied["status"] = theirs.account["status"].clone();
    world.cluster.replace(&format!("{}/status", account_path(&world.ns, "cart")), &copied);
    let after = world.cluster.wait_account(&world.ns, "cart", "its own status", |account| {
        settled(account)
            && account["status"]["account"] == format!("{}/cart", world.ns)
            && entries(account).first().is_some_and(|entry| entry["phase"] == "Current")
    });
    assert_eq!(current(&after), Some(mine.jti.as_str()));
    assert!(world.operator.accepts(&mine.token) && world.operator.accepts(&theirs.token));
}

#[test]
fn edited_conditions_are_put_right_at_the_next_change() {
    let world = World::new("conditions");
    let given = world.ready(rotating());
    world.cluster.patch_status(&world.ns, "cart", &json!({"conditions": [], "observedGeneration": 0}));
    let after = world.given("cart");
    assert_eq!(entries(&after.account), entries(&given.account));
    assert_eq!(ready(&after.account)["status"], "True");
}

#[test]
fn duplicate_ids_are_refused_by_the_api_server() {
    let world = World::new("duplicate");
    let given = world.ready(rotating());
    let entry = &entries(&given.account)[0];
    let change = json!({"status": {"jwts": [entry, entry]}});
    let path = format!("{}/status", account_path(&world.ns, "cart"));
    let refused = world.cluster.send("PATCH", &path, "application/merge-patch+json", Some(&change)).unwrap_err();
    assert!(refused.code == 422 && refused.message.contains("Duplicate value"), "{refused:?}");
}

#[test]
fn a_settled_status_is_not_written_again() {
    let world = World::new("settled");
    let given = world.ready(rotating());
    let version = |account: &Value| account["metadata"]["resourceVersion"].clone();
    stays("settled", std::time::Duration::from_secs(2), || {
        let account = world.account();
        if version(&account) == version(&given.account) { Ok(()) } else { Err(account["status"].to_string()) }
    });
}

/// As an administrator who lost it: what is left is the default.
fn wipe(world: &World) {
    let mut account = world.account();
    account["status"] = json!({});
    world.cluster.replace(&format!("{}/status", account_path(&world.ns, "cart")), &account);
}

fn later(instant: &Value) -> String {
    let next = crate::seconds(instant) + 1;
    jiff::Timestamp::from_second(next).unwrap().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How often a token of the account was recorded, by the log.
fn minted(world: &World) -> usize {
    let account = format!("\"account\":\"{}/cart\"", world.ns);
    world.operator.log().lines().filter(|line| line.contains("\"Recorded\"") && line.contains(&account)).count()
}

fn minted_since(world: &World, before: usize) -> usize {
    minted(world) - before
}
