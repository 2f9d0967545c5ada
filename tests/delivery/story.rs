//! The main story: filled at first issue, again at each rotation, looked at on request, emptied at the end.

use serde_json::{Value, json};

use crate::support::cluster::{PATIENCE, current, entries, ready, text, token, wait_for};
use crate::{API, World, message};

fn target(account: &Value, at: usize) -> Value {
    account["status"]["secretStores"][at].clone()
}

#[test]
fn token_is_in_the_store_with_its_mark_and_in_the_status() {
    let world = World::new("filled");
    let account = world.ready(world.at(&["a"]));
    let (path, jti) = (world.path("a"), current(&account).unwrap().to_owned());
    let secret = world.cluster.secret(&world.ns, "cart-token").unwrap();
    let data = world.bao.data(&path).unwrap();
    assert_eq!(data["token"], json!(token(&secret)), "the same bytes as in the Secret");
    assert_eq!((&data["jti"], data["expires-at"].as_str()), (&json!(jti), text(&secret, "expires-at").as_deref()));
    let mark = world.bao.metadata(&path).unwrap()["custom_metadata"].clone();
    assert_eq!(mark["virtualaccounts-account"], format!("{}/cart", world.ns));
    assert_eq!((&mark["virtualaccounts-jti"], &mark["virtualaccounts-cluster"]), (&json!(jti), &json!("test-cluster")));
    let target = target(&account, 0);
    assert_eq!(target["storeRef"], json!({"namespace": world.ns, "name": "bao"}));
    assert_eq!((&target["secretPath"], &target["jwtId"], &target["version"]), (&json!(path), &json!(jti), &json!("1")));
    assert!(target["syncedAt"].is_string() && target["error"].is_null() && target["failures"].is_null(), "{target}");
    assert_eq!(account["metadata"]["finalizers"], json!(["virtualaccounts.dev/stores"]));
    let expected = format!("Secret cart-token, {path} in TokenStore {}/bao hold the newest token", world.ns);
    assert_eq!(message(&account), expected);
    assert!(world.cluster.wait_event(&world.ns, "cart", "Issued").contains(&format!("{path} in TokenStore")));
}

#[test]
fn rotation_adds_a_version_and_the_old_one_ends_with_its_grace() {
    let world = World::new("rotated");
    let first = world.ready(world.at(&["a"]));
    let path = world.path("a");
    let second = world.rotate("one,grace=10s");
    assert_eq!(world.bao.jti(&path), Some(second.clone()));
    assert_eq!(world.bao.versions(&path).1, ["1", "2"], "in its grace the old version can be read");
    let account = world.wait("the grace to end", |account| entries(account).len() == 1);
    assert_eq!(world.bao.versions(&path), (vec!["1".into(), "2".into()], vec!["2".into()]));
    assert_eq!((current(&account), target(&account, 0)["version"].as_str()), (Some(second.as_str()), Some("2")));
    assert_ne!(current(&first), current(&account));
}

#[test]
fn wiped_and_changed_paths_are_refilled_with_the_same_token_on_request() {
    let world = World::new("sync");
    let account = world.ready(world.at(&["wiped", "changed", "same"]));
    let jti = current(&account).unwrap();
    let paths = ["wiped", "changed", "same"].map(|name| world.path(name));
    world.bao.wipe(&paths[0]);
    world.bao.put(&paths[1], &json!({"token": "stolen", "jti": jti}));
    world.annotate("sync-requested-at", "now");
    let handled = |account: &Value| account["status"]["handledSyncRequest"] == "now";
    let account =
        world.wait("the request to be handled", |account| handled(account) && ready(account)["status"] == "True");
    let token = token(&world.cluster.secret(&world.ns, "cart-token").unwrap());
    for path in &paths {
        assert_eq!(world.bao.data(path).unwrap()["token"], json!(token), "{path}");
    }
    assert_eq!(current(&account), Some(jti), "nothing is minted");
    assert_eq!(world.bao.versions(&paths[2]).0, ["1"], "what was right is not written again");
}

#[test]
fn account_without_a_secret_lives_in_its_stores_alone() {
    let world = World::new("nosecret");
    let mut spec = world.at(&["a"]);
    spec["tokenSecret"] = json!({"enabled": false});
    let account = world.ready(spec);
    assert!(account["status"]["tokenSecret"].is_null());
    assert_eq!(world.cluster.secret(&world.ns, "cart-token"), None);
    let second = world.rotate("one");
    assert_eq!(world.bao.jti(&world.path("a")), Some(second));
    // And back again: the Secret appears with the same token; without it, it goes.
    world.edit(&json!({"tokenSecret": null}));
    let account = world.wait("a Secret", |account| {
        account["status"]["tokenSecret"]["jwtId"] == account["status"]["jwtId"] && ready(account)["status"] == "True"
    });
    let secret = world.cluster.secret(&world.ns, "cart-token").unwrap();
    assert_eq!(text(&secret, "jti"), Some(crate::newest(&account)));
    world.edit(&json!({"tokenSecret": {"enabled": false}}));
    wait_for("the Secret to go", PATIENCE, || match world.cluster.secret(&world.ns, "cart-token") {
        None => Ok(()),
        Some(_) => Err("it is there"),
    });
}

#[test]
fn secret_goes_from_the_store_with_the_account_or_stays_by_policy() {
    let world = World::new("emptied");
    let mut spec = world.at(&["deleted", "kept"]);
    spec["secretStores"][1]["deletionPolicy"] = json!("Retain");
    world.ready(spec);
    world.delete();
    world.wait_gone();
    assert_eq!(world.bao.metadata(&world.path("deleted")), None);
    assert!(world.bao.jti(&world.path("kept")).is_some());
}

#[test]
fn finalizer_is_there_only_while_there_are_stores() {
    let world = World::new("finalizer");
    let account = world.ready(json!({}));
    assert!(account["metadata"]["finalizers"].is_null());
    world.edit(&world.at(&["a"]));
    let held = world.wait("the store", |account| target(account, 0)["jwtId"] == account["status"]["jwtId"]);
    assert_eq!(held["metadata"]["finalizers"], json!(["virtualaccounts.dev/stores"]));
    assert_eq!(world.bao.jti(&world.path("a")).as_deref(), current(&account), "the same token, nothing minted");
    world.edit(&json!({"secretStores": null}));
    world.wait("no finalizer", |account| {
        account["metadata"]["finalizers"].is_null() && account["status"]["secretStores"].is_null()
    });
    assert_eq!(world.bao.metadata(&world.path("a")), None);
}

#[test]
fn hundred_passes_leave_one_version() {
    let world = World::new("hundred");
    world.ready(world.at(&["a"]));
    for n in 0..100 {
        world.annotate("sync-requested-at", &n.to_string());
    }
    world.wait("the last request", |account| account["status"]["handledSyncRequest"] == "99");
    assert_eq!(world.bao.versions(&world.path("a")).0, ["1"]);
}

#[test]
fn store_says_whether_it_is_ready() {
    let world = World::new("look");
    let at = |name: &str| format!("{API}/namespaces/{}/tokenstores/{name}", world.ns);
    wait_for("the store to be Ready", PATIENCE, || {
        let store = world.cluster.find(&at("bao")).unwrap();
        if ready(&store)["status"] == "True" { Ok(()) } else { Err(store["status"].to_string()) }
    });
    let table = world.plane.kubectl_ok(&["-n", &world.ns, "get", "ts"], None);
    assert!(table.contains("PROVIDER") && table.contains("hashicorpVault") && table.contains("True"), "{table}");
}
