//! The token Secret: repaired with the same token, never taken from somebody else, moved where the spec says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::cluster::{condition, current, decode, entries, ready, secret_path, settled};
use crate::{Given, World, rotating};

#[test]
fn edited_secret_is_put_right_with_the_same_bytes() {
    let world = World::new("edited");
    let given = world.ready(rotating());
    let path = secret_path(&world.ns, "cart-token");
    let mine = json!({"metadata": {"labels": {"team": "shop"}, "annotations": {"note": "keep"}}});
    let damages = [
        json!({"data": {"token": STANDARD.encode("garbage")}}),
        json!({"data": {"token": null}}),
        json!({"data": null}),
        json!({"data": {"more": STANDARD.encode("x")}}),
        json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}}),
        json!({"metadata": {"annotations": {"virtualaccounts.dev/account-uid": null}}}),
        json!({"metadata": {"ownerReferences": null}}),
    ];
    world.cluster.patch(&path, &mine);
    for damage in damages {
        world.cluster.patch(&path, &damage);
        let secret =
            world.cluster.wait_secret(&world.ns, "cart-token", &format!("repaired after {damage}"), |secret| {
                same(&given, secret)
                    && secret["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "virtual-account-operator"
            });
        assert_eq!(secret["metadata"]["labels"]["team"], "shop");
        assert_eq!(secret["metadata"]["annotations"]["note"], "keep");
    }
    let account = world.reason("Delivered");
    assert_eq!(entries(&account), entries(&given.account), "nothing was minted");
}

#[test]
fn secret_without_our_label_is_found_again() {
    let world = World::new("label");
    let given = world.ready(rotating());
    let change = json!({"metadata": {"labels": {"virtualaccounts.dev/account": null}}});
    world.cluster.patch(&secret_path(&world.ns, "cart-token"), &change);
    let secret = world.cluster.wait_secret(&world.ns, "cart-token", "our label", |secret| {
        secret["metadata"]["labels"]["virtualaccounts.dev/account"] == "cart"
    });
    assert!(same(&given, &secret));
    assert_eq!(secret["metadata"]["uid"], given.secret["metadata"]["uid"], "not deleted and created");
}

#[test]
fn deleted_secret_is_back_with_the_same_bytes() {
    let world = World::new("gone");
    let given = world.ready(rotating());
    let second = world.rotate(&given, "one");
    world.cluster.delete(&secret_path(&world.ns, "cart-token"));
    let secret = world.cluster.wait_secret(&world.ns, "cart-token", "another uid", |secret| {
        secret["metadata"]["uid"] != second.secret["metadata"]["uid"]
    });
    assert_eq!(secret["data"], second.secret["data"], "also the previous token");
    let account = world.cluster.wait_account(&world.ns, "cart", "its version", |account| {
        account["status"]["tokenSecret"]["resourceVersion"] == secret["metadata"]["resourceVersion"]
    });
    assert_eq!(entries(&account), entries(&second.account));
}

#[test]
fn immutable_secret_is_replaced_when_it_has_to_change() {
    let world = World::new("immutable");
    let given = world.ready(rotating());
    world.cluster.patch(&secret_path(&world.ns, "cart-token"), &json!({"immutable": true}));
    let next = world.rotate(&given, "one");
    assert_eq!(next.secret["immutable"], Value::Null);
    assert_ne!(next.secret["metadata"]["uid"], given.secret["metadata"]["uid"]);
    assert!(world.operator.accepts(&next.token));
}

#[test]
fn secret_of_another_type_is_replaced_if_it_is_ours() {
    let world = World::new("type");
    let labels = json!({"virtualaccounts.dev/account": "cart"});
    let data = json!({"username": STANDARD.encode("u"), "password": STANDARD.encode("p")});
    secret(&world, "cart-token", &json!({"type": "kubernetes.io/basic-auth", "data": data}), &labels);
    let given = world.ready(json!({}));
    assert_eq!(given.secret["type"], "Opaque");
    assert_eq!(given.secret["data"]["password"], Value::Null);
}

#[test]
fn foreign_secret_is_never_touched_and_another_name_heals() {
    let world = World::new("foreign");
    let data = json!({"data": {"token": STANDARD.encode("mine")}});
    let theirs = secret(&world, "cart-token", &data, &json!({"owner": "somebody"}));
    world.create("cart", rotating());
    let account = world.reason("SecretNotOwned");
    assert_eq!(
        (&ready(&account)["status"], &condition(&account, "Delivered")["status"]),
        (&json!("False"), &json!("False"))
    );
    assert_eq!(condition(&account, "Stalled")["status"], "False", "others can cure it");
    let message = ready(&account)["message"].as_str().unwrap();
    assert!(message.contains("set spec.tokenSecret.name to another name, or delete that Secret"), "{message}");
    assert!(account["status"]["tokenSecret"]["nextAttemptAt"].is_string());
    world.cluster.wait_event(&world.ns, "cart", "SecretNotOwned");

    world.edit(&json!({"tokenSecret": {"name": "mine"}}));
    let given = world.given("cart");
    assert!(world.operator.accepts(&given.token));
    assert_eq!(entries(&given.account).len(), 1, "one token, whatever was tried");
    assert_eq!(world.cluster.secret(&world.ns, "cart-token"), Some(theirs));
}

#[test]
fn foreign_secret_that_goes_away_makes_room() {
    let world = World::new("room");
    secret(&world, "cart-token", &json!({}), &json!({}));
    world.create("cart", json!({}));
    world.reason("SecretNotOwned");
    world.cluster.delete(&secret_path(&world.ns, "cart-token"));
    let given = world.given("cart");
    assert!(given.account["status"]["tokenSecret"]["failures"].is_null());
}

#[test]
fn secret_that_two_accounts_name_is_the_first_ones() {
    let world = World::new("two");
    let name = json!({"tokenSecret": {"name": "shared"}});
    let first = world.ready(name.clone());
    world.create("basket", name);
    let account = world.cluster.wait_reason(&world.ns, "basket", "SecretNotOwned");
    assert!(ready(&account)["message"].as_str().unwrap().contains("belongs to virtual account cart"), "{account}");
    assert_eq!(world.cluster.secret(&world.ns, "shared"), Some(first.secret));
    let next = world.rotate(&world.given("cart"), "still-mine");
    assert_eq!(decode(&next.token).1["sub"], format!("va:{}:cart", world.ns));
}

#[test]
fn renamed_secret_moves_with_its_token() {
    let world = World::new("renamed");
    let given = world.ready(rotating());
    world.edit(&json!({"tokenSecret": {"name": "other"}}));
    let moved = wait_name(&world, "other");
    assert_eq!((&moved.token, entries(&moved.account)), (&given.token, entries(&given.account)));
    crate::support::cluster::wait_for("the old Secret to go", crate::support::cluster::PATIENCE, || {
        if world.cluster.secret(&world.ns, "cart-token").is_none() { Ok(()) } else { Err("it is there") }
    });
    assert!(world.operator.accepts(&given.token));
}

#[test]
fn renamed_secret_that_is_retained_stays_without_our_label() {
    let world = World::new("kept");
    let given = world.ready(json!({"tokenSecret": {"deletionPolicy": "Retain"}}));
    world.edit(&json!({"tokenSecret": {"name": "other"}}));
    let moved = wait_name(&world, "other");
    assert_eq!(moved.token, given.token);
    let old = world.cluster.wait_secret(&world.ns, "cart-token", "no label of ours", |secret| {
        secret["metadata"]["labels"]["virtualaccounts.dev/account"].is_null()
    });
    assert_eq!(old["data"], given.secret["data"]);
}

#[test]
fn labels_and_annotations_of_the_spec_come_and_go() {
    let world = World::new("labels");
    let given =
        world.ready(json!({"tokenSecret": {"labels": {"app": "cart", "tier": "a"}, "annotations": {"why": "x"}}}));
    assert_eq!(given.secret["metadata"]["labels"]["app"], "cart");
    let path = secret_path(&world.ns, "cart-token");
    world.cluster.patch(&path, &json!({"metadata": {"labels": {"theirs": "kept"}}}));
    world.edit(&json!({"tokenSecret": {"labels": {"app": null, "tier": "b"}, "annotations": null}}));
    let secret = world.cluster.wait_secret(&world.ns, "cart-token", "the new labels", |secret| {
        let labels = &secret["metadata"]["labels"];
        labels["tier"] == "b" && labels["app"].is_null() && secret["metadata"]["annotations"]["why"].is_null()
    });
    assert_eq!(secret["metadata"]["labels"]["theirs"], "kept");
    assert!(same(&given, &secret));
}

#[test]
fn key_ring_is_nobodys_token_secret() {
    let world = World::new("ringname");
    let name = format!("ringname-{}", std::process::id());
    let ns = world.operator.namespace();
    let before = world.cluster.secret(ns, "virtual-account-operator-keys");
    world.cluster.create_account(ns, &name, json!({"tokenSecret": {"name": "virtual-account-operator-keys"}}));
    let account = world.cluster.wait_reason(ns, &name, "InvalidSpec");
    assert!(ready(&account)["message"].as_str().unwrap().contains("is the operator's key ring"));
    assert_eq!(world.cluster.secret(ns, "virtual-account-operator-keys"), before);
    world.cluster.delete_account(ns, &name);
}

fn same(given: &Given, secret: &Value) -> bool {
    secret["data"] == given.secret["data"]
        && secret["metadata"]["annotations"]["virtualaccounts.dev/account-uid"] == given.account["metadata"]["uid"]
        && secret["metadata"]["ownerReferences"] == given.secret["metadata"]["ownerReferences"]
}

/// Waits until the account's token is delivered to the Secret of this name.
fn wait_name(world: &World, name: &str) -> Given {
    let account = world.cluster.wait_account(&world.ns, "cart", &format!("delivered to {name}"), |account| {
        settled(account) && account["status"]["tokenSecret"]["name"] == name && current(account).is_some()
    });
    world.given_as(account)
}

/// Creates somebody's Secret.
fn secret(world: &World, name: &str, content: &Value, labels: &Value) -> Value {
    let mut secret = content.clone();
    secret["apiVersion"] = json!("v1");
    secret["kind"] = json!("Secret");
    secret["metadata"] = json!({"name": name, "labels": labels});
    world.cluster.create(&format!("/api/v1/namespaces/{}/secrets", world.ns), &secret)
}
