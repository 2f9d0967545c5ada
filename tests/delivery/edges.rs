//! The edges of a target's life: moved, removed, shared, taken over, orphaned; accounts, stores and namespaces that go.

use serde_json::{Value, json};

use crate::faults::Layer;
use crate::support::cluster::{PATIENCE, ready, wait_for};
use crate::{API, World, delivered, message, newest, vault_at};

/// The recorded targets: store, path, token.
fn targets(account: &Value) -> Vec<(String, String, Option<String>)> {
    let all = account["status"]["secretStores"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let row = |target: &Value| {
        (text(&target["storeRef"]["name"]).unwrap(), text(&target["secretPath"]).unwrap(), text(&target["jwtId"]))
    };
    all.iter().map(row).collect()
}

#[test]
fn another_path_is_filled_before_the_old_one_is_emptied() {
    let world = World::new("moved");
    let account = world.ready(world.at(&["old"]));
    world.edit(&world.at(&["new"]));
    let moved = world.wait("the new path alone", |account| {
        targets(account).iter().map(|target| &target.1).eq([&world.path("new")]) && delivered(account)
    });
    assert_eq!(newest(&moved), newest(&account), "nothing is minted");
    assert_eq!(world.bao.jti(&world.path("new")), Some(newest(&account)));
    assert_eq!(world.bao.metadata(&world.path("old")), None);
}

#[test]
fn another_store_that_fails_leaves_the_old_one_alone() {
    let world = World::new("restored");
    let layer = Layer::before(&world.bao.url());
    world.store("other", &vault_at(&layer.address()));
    let account = world.ready(world.at(&["a"]));
    layer.refuse(500);
    let mut spec = world.at(&["a"]);
    spec["secretStores"][0]["storeRef"]["name"] = json!("other");
    spec["secretStores"][0]["secretPath"] = json!(world.path("b"));
    world.edit(&spec);
    let waiting = world.reason("Delivering");
    assert!(message(&waiting).contains(&world.path("b")), "{}", message(&waiting));
    assert_eq!(world.bao.jti(&world.path("a")), Some(newest(&account)));
    layer.pass();
    world.nudge("other");
    let moved = world.wait("the new store alone", |account| {
        targets(account).iter().map(|target| &target.0).eq(["other"]) && delivered(account)
    });
    assert_eq!(world.bao.jti(&world.path("b")), Some(newest(&moved)));
    assert_eq!(world.bao.metadata(&world.path("a")), None);
}

#[test]
fn second_account_on_a_path_is_told_whose_it_is_and_waits_for_it() {
    let world = World::new("shared");
    let first = world.ready(world.at(&["a"]));
    world.cluster.create_account(&world.ns, "rival", world.at(&["a"]));
    let refused = world.cluster.wait_reason(&world.ns, "rival", "NotOurs");
    assert!(message(&refused).contains(&format!("virtual account {}/cart", world.ns)), "{}", message(&refused));
    assert_eq!(refused["status"]["tokenSecret"]["jwtId"], refused["status"]["jwtId"], "its Secret is delivered");
    assert!(world.cluster.wait_event(&world.ns, "rival", "NotOurs").contains("left alone"));
    assert_eq!(world.bao.jti(&world.path("a")), Some(newest(&first)));
    // Deleting the one that does not own it leaves it there.
    world.cluster.delete(&format!("{API}/namespaces/{}/virtualaccounts/rival", world.ns));
    wait_for("the rival to go", PATIENCE, || match world.cluster.account(&world.ns, "rival") {
        None => Ok(()),
        Some(_) => Err("it is there"),
    });
    assert_eq!(world.bao.jti(&world.path("a")), Some(newest(&first)));
}

#[test]
fn handmade_secret_is_left_alone_until_the_store_allows_to_take_it_over() {
    let world = World::new("takeover");
    let path = world.path("a");
    world.bao.put(&path, &json!({"token": "by hand"}));
    world.create(world.at(&["a"]));
    let refused = world.reason("NotOurs");
    assert!(message(&refused).contains("takeOverFrom"), "{}", message(&refused));
    assert_eq!(world.bao.data(&path).unwrap(), json!({"token": "by hand"}));
    world.cluster.patch(&world.store_path("bao"), &json!({"spec": {"takeOverFrom": ["unmarked"]}}));
    let account = world.cluster.wait_ready(&world.ns, "cart");
    assert_eq!(world.bao.jti(&path), Some(newest(&account)));
}

#[test]
fn store_that_is_deleted_stays_while_an_account_uses_it() {
    let world = World::new("inuse");
    world.ready(world.at(&["a"]));
    world.cluster.delete(&world.store_path("bao"));
    let told = wait_for("the store to say who uses it", PATIENCE, || {
        let store = world.cluster.find(&world.store_path("bao")).expect("it stays");
        let message = ready(&store)["message"].as_str().unwrap_or_default().to_owned();
        if message.contains("cart") { Ok(message) } else { Err(message) }
    });
    assert!(told.contains(&format!("{}/cart", world.ns)), "{told}");
    world.cluster.create_account(&world.ns, "late", world.at(&["late"]));
    let late = world.cluster.wait_reason(&world.ns, "late", "NotAllowed");
    assert!(message(&late).contains("is being deleted; name another store"), "{}", message(&late));
    world.cluster.delete(&format!("{API}/namespaces/{}/virtualaccounts/late", world.ns));
    let second = world.rotate("still");
    assert_eq!(world.bao.jti(&world.path("a")), Some(second), "it is still delivered to");
    world.delete();
    world.wait_gone();
    assert_eq!(world.bao.metadata(&world.path("a")), None);
    wait_for("the store to go", PATIENCE, || match world.cluster.find(&world.store_path("bao")) {
        None => Ok(()),
        Some(store) => Err(store["metadata"]["finalizers"].to_string()),
    });
}

#[test]
fn namespace_goes_with_its_accounts_stores_and_tokens() {
    let world = World::new("gone");
    world.ready(world.at(&["a"]));
    let ns = format!("/api/v1/namespaces/{}", world.ns);
    world.cluster.delete(&ns);
    wait_for("the namespace to go", PATIENCE * 2, || match world.cluster.find(&ns) {
        None => Ok(()),
        Some(namespace) => Err(namespace["status"].to_string()),
    });
    assert_eq!(world.bao.metadata(&world.path("a")), None);
}

#[test]
fn namespace_that_loses_its_permission_gets_it_back() {
    let world = World::bare("tenant");
    let owner = World::new("owner");
    let label = |value: Value| {
        let labels = json!({"metadata": {"labels": {"vault": value}}});
        world.cluster.patch(&format!("/api/v1/namespaces/{}", world.ns), &labels)
    };
    label(json!("yes"));
    owner.cluster.patch(
        &owner.store_path("bao"),
        &json!({"spec": {"pathPrefix": "/{namespace}/", "allowedNamespaces": {"from": "Selector",
            "selector": {"matchLabels": {"vault": "yes"}}}}}),
    );
    let mut spec = world.at(&["a"]);
    spec["secretStores"][0]["storeRef"]["namespace"] = json!(owner.ns);
    let first = world.ready(spec.clone());
    label(json!("no"));
    let refused = world.reason("NotAllowed");
    assert!(message(&refused).contains("allowedNamespaces.selector"), "{}", message(&refused));
    world.annotate("rotate", "meanwhile");
    let rotated = world.wait("the Secret's rotation", |account| {
        newest(account) != newest(&first) && account["status"]["tokenSecret"]["jwtId"] == account["status"]["jwtId"]
    });
    assert_eq!(world.bao.jti(&world.path("a")), Some(newest(&first)), "not written while it is not allowed");
    label(json!("yes"));
    world.wait("the delivery", delivered);
    assert_eq!(world.bao.jti(&world.path("a")), Some(newest(&rotated)));
    spec["secretStores"][0]["secretPath"] = json!("/elsewhere/a");
    world.edit(&spec);
    let outside = world.reason("NotAllowed");
    assert!(message(&outside).contains(&format!("begin it with /{}/", world.ns)), "{}", message(&outside));
    assert_eq!(world.bao.metadata("/elsewhere/a"), None);
}

#[test]
fn lost_status_mints_nothing_and_writes_no_version() {
    let world = World::new("lost");
    let account = world.ready(world.at(&["a"]));
    let mut lost = account.clone();
    lost["status"] = json!({});
    lost["metadata"]["resourceVersion"] = Value::Null;
    let path = format!("{API}/namespaces/{}/virtualaccounts/cart/status", world.ns);
    let current = world.cluster.account(&world.ns, "cart").unwrap();
    lost["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
    world.cluster.replace(&path, &lost);
    let back = world.wait("the status to be put together again", |account| {
        account["status"]["jwts"][0]["reason"] == "Adopted" && delivered(account)
    });
    assert_eq!(newest(&back), newest(&account));
    assert_eq!(world.bao.versions(&world.path("a")).0, ["1"]);
}

#[test]
fn account_deleted_while_its_store_is_down_waits_for_it() {
    let world = World::new("downdel");
    let layer = Layer::before(&world.bao.url());
    world.cluster.patch(&world.store_path("bao"), &json!({"spec": vault_at(&layer.address())}));
    world.ready(world.at(&["a"]));
    layer.cut();
    world.delete();
    let waiting = world.wait("a failed attempt", |account| account["status"]["secretStores"][0]["error"].is_object());
    assert_eq!(ready(&waiting)["reason"], "Deleting");
    layer.pass();
    world.nudge("bao");
    world.wait_gone();
    assert_eq!(world.bao.metadata(&world.path("a")), None);
}

#[test]
fn retained_secret_stays_when_its_entry_goes() {
    let world = World::new("retained");
    let mut spec = world.at(&["a"]);
    spec["secretStores"][0]["deletionPolicy"] = json!("Retain");
    let account = world.ready(spec);
    world.edit(&json!({"secretStores": null}));
    world.wait("no stores", |account| account["status"]["secretStores"].is_null());
    assert_eq!(world.bao.jti(&world.path("a")), Some(newest(&account)));
}

#[test]
fn another_name_for_the_same_secret_does_not_cost_it() {
    let world = World::new("alias");
    world.store("alias", &world.bao_spec());
    let account = world.ready(world.at(&["a"]));
    let mut spec = world.at(&["a"]);
    spec["secretStores"][0]["storeRef"]["name"] = json!("alias");
    world.edit(&spec);
    world.wait("the other name alone", |account| {
        targets(account).iter().map(|target| target.0.as_str()).eq(["alias"]) && delivered(account)
    });
    assert_eq!(world.bao.jti(&world.path("a")), Some(newest(&account)));
    assert_eq!(world.bao.versions(&world.path("a")).0, ["1"], "it was never removed");
}

#[test]
fn store_that_is_edited_to_lead_elsewhere_is_filled_there() {
    let world = World::new("elsewhere");
    let account = world.ready(world.at(&["a"]));
    let mount = format!("kv-{}", world.ns);
    let engine = json!({"type": "kv", "options": {"version": "2"}});
    assert_eq!(world.bao.send("POST", &format!("sys/mounts/{mount}"), Some(&engine)).0, 204);
    world.cluster.patch(&world.store_path("bao"), &json!({"spec": {"hashicorpVault": {"mount": mount}}}));
    wait_for("the token at the new place", PATIENCE, || {
        let (_, body) = world.bao.send("GET", &format!("{mount}/data{}", world.path("a")), None);
        if body["data"]["data"]["jti"] == newest(&account) { Ok(()) } else { Err(body.to_string()) }
    });
    let account = world.wait("the delivery", delivered);
    assert_eq!(account["status"]["jwts"].as_array().map(Vec::len), Some(1), "nothing is minted");
}

#[test]
fn retention_that_is_asked_for_last_counts() {
    let world = World::new("latekeep");
    let account = world.ready(world.at(&["a"]));
    let mut spec = world.at(&["a"]);
    spec["secretStores"][0]["deletionPolicy"] = json!("Retain");
    world.edit(&spec);
    world.delete();
    world.wait_gone();
    assert_eq!(world.bao.jti(&world.path("a")), Some(newest(&account)));
}
