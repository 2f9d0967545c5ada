//! The end of an account, and what a new one of the same name may have of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::{PATIENCE, account, account_path, current, entries, ready, wait_for};
use crate::{Given, World, rotating};

#[test]
fn secret_goes_with_the_account_and_the_token_is_refused() {
    let world = World::new("deleted");
    let given = world.ready(rotating());
    world.cluster.delete_account(&world.ns, "cart");
    wait_for("the refusal", PATIENCE, || if world.operator.accepts(&given.token) { Err("active") } else { Ok(()) });
    wait_for("the garbage collector", PATIENCE, || {
        if world.cluster.secret(&world.ns, "cart-token").is_none() { Ok(()) } else { Err("the Secret is there") }
    });
    wait_for("the metrics of the account to go", PATIENCE, || {
        let metrics = world.operator.metrics();
        if metrics.contains(&format!("namespace=\"{}\"", world.ns)) { Err("they are there") } else { Ok(()) }
    });
}

#[test]
fn account_that_somebody_holds_back_is_refused_while_it_goes() {
    let world = World::new("finalizer");
    let given = world.ready(rotating());
    let path = account_path(&world.ns, "cart");
    world.cluster.patch(&path, &json!({"metadata": {"finalizers": ["example.com/hold"]}}));
    world.cluster.delete_account(&world.ns, "cart");
    let account = world.reason("Deleting");
    assert_eq!(ready(&account)["status"], "False");
    assert!(!world.operator.accepts(&given.token));
    world.annotate("rotate", &json!("too-late"));
    world.cluster.patch(&path, &json!({"metadata": {"finalizers": null}}));
    wait_for("the Secret to go", PATIENCE, || {
        if world.cluster.secret(&world.ns, "cart-token").is_none() { Ok(()) } else { Err("the Secret is there") }
    });
}

#[test]
fn retained_secret_stays_and_its_token_is_refused() {
    let world = World::new("retained");
    let given = world.ready(json!({"tokenSecret": {"deletionPolicy": "Retain"}}));
    assert_eq!(given.secret["metadata"]["ownerReferences"], Value::Null);
    world.cluster.delete_account(&world.ns, "cart");
    wait_for("the refusal", PATIENCE, || if world.operator.accepts(&given.token) { Err("active") } else { Ok(()) });
    // Long enough for the garbage collector, which takes 0.1 s.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(world.cluster.secret(&world.ns, "cart-token"), Some(given.secret));
}

#[test]
fn deletion_policy_can_change() {
    let world = World::new("policy");
    let given = world.ready(rotating());
    world.edit(&json!({"tokenSecret": {"deletionPolicy": "Retain"}}));
    let owners = |secret: &Value| secret["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
    world.cluster.wait_secret(&world.ns, "cart-token", "no owner", |secret| owners(secret) == 0);
    world.edit(&json!({"tokenSecret": {"deletionPolicy": "Delete"}}));
    let secret = world.cluster.wait_secret(&world.ns, "cart-token", "an owner", |secret| owners(secret) == 1);
    assert_eq!(secret["data"], given.secret["data"]);
}

#[test]
fn account_created_again_does_not_resurrect_a_token() {
    let world = World::new("again");
    let old = retained_then_deleted(&world);
    world.create("cart", json!({}));
    let new = world.given("cart");
    assert_ne!(new.jti, old.jti);
    assert_eq!(entries(&new.account).len(), 1);
    assert!(world.operator.accepts(&new.token) && !world.operator.accepts(&old.token));
    assert_eq!(new.secret["data"]["previous-token"], Value::Null);
}

#[test]
fn account_created_again_adopts_its_token_where_that_is_asked() {
    let world = World::new("adopt");
    let old = retained_then_deleted(&world);
    let mut again = account("cart", rotating());
    again["metadata"]["annotations"] = json!({"virtualaccounts.dev/adopt": "true"});
    let path = format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{}/virtualaccounts", world.ns);
    world.cluster.create(&path, &again);
    let new = world.given("cart");
    assert_eq!((current(&new.account), &new.token), (Some(old.jti.as_str()), &old.token));
    let [entry] = entries(&new.account) else { panic!("{}", new.account["status"]) };
    assert_eq!(entry["reason"], "Adopted");
    assert!(world.operator.accepts(&old.token));
    let owners = new.secret["metadata"]["ownerReferences"].as_array().unwrap();
    assert_eq!(owners[0]["uid"], new.account["metadata"]["uid"], "the policy is Delete again");
    world.cluster.wait_event(&world.ns, "cart", "Adopted");
}

fn retained_then_deleted(world: &World) -> Given {
    let given = world.ready(json!({
        "tokenSecret": {"deletionPolicy": "Retain"},
        "autoRotate": {"autoRotateInterval": "90d", "gracePeriod": "7d"},
    }));
    world.cluster.delete_account(&world.ns, "cart");
    wait_for("the refusal", PATIENCE, || if world.operator.accepts(&given.token) { Err("active") } else { Ok(()) });
    given
}

#[test]
fn namespace_goes_with_all_that_is_in_it() {
    let world = World::new("namespace");
    let given = world.ready(rotating());
    world.plane.kubectl_ok(&["delete", "namespace", &world.ns, "--timeout=30s"], None);
    assert!(!world.operator.accepts(&given.token));
    // The Secret may go before the account, and nothing can be created any more; nobody else waits for that.
    World::new("after").ready(json!({}));
}
