//! What the operator does when somebody harms its key ring.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::keys::{Keys, RING};
use crate::support::cluster::{Cluster, PATIENCE, entries, ready, secret_path, token, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;

#[test]
fn edited_ring_stops_issuing_serves_the_known_keys_and_heals() {
    let keys = Keys::new("edited");
    let content = stored(&keys);
    let mut edited = content.clone();
    for value in edited["data"].as_object_mut().unwrap().values_mut() {
        *value = json!(STANDARD.encode("garbage"));
    }
    harm_and_heal(&keys, &edited["data"], "from its backup", || {
        keys.cluster.patch(&ring_path(&keys), &json!({"data": content["data"]}));
    });
}

#[test]
fn emptied_ring_stops_issuing_and_init_puts_it_back() {
    let keys = Keys::new("emptied");
    harm_and_heal(&keys, &Value::Null, "was emptied", || {
        keys.keys(&["init"]);
    });
}

#[test]
fn deleted_ring_is_put_back_from_memory_with_a_warning() {
    let keys = Keys::new("deleted");
    let (account, token) = keys.ready("cart");
    let (before, served) = (stored(&keys), keys.served());
    keys.cluster.delete(&ring_path(&keys));
    let after = keys.cluster.wait_secret(keys.operator.namespace(), RING, "back", |secret| {
        secret["metadata"]["uid"] != before["metadata"]["uid"]
    });
    assert_eq!(after["data"], before["data"]);
    assert_eq!(keys.served(), served);
    let note = keys.cluster.wait_event(keys.operator.namespace(), RING, "KeyRingPutBack");
    assert!(note.contains("put back from memory"), "{note}");
    assert!(keys.operator.accepts(&token));
    assert_eq!(entries(&keys.cluster.account(&keys.ns, "cart").unwrap()), entries(&account));
}

#[test]
fn lost_ring_is_never_replaced_silently_and_its_loss_can_be_accepted() {
    let plane = Plane::start();
    let mut operator = Operator::start(&plane, Options::default());
    let cluster = Cluster::of(&plane);
    let ns = plane.namespace("lost");
    cluster.create_account(&ns, "cart", crate::rotating());
    let before = cluster.wait_ready(&ns, "cart");
    let secret = cluster.secret(&ns, "cart-token").unwrap();
    operator.terminate();
    cluster.delete(&secret_path(operator.namespace(), RING));
    drop(operator);

    let operator = Operator::launch(&plane, Options::default());
    let account = cluster.wait_account(&ns, "cart", "KeyMissing", |account| ready(account)["reason"] == "KeyMissing");
    assert!(ready(&account)["message"].as_str().unwrap().contains("keys init --accept-reissue"), "{account}");
    let answer = operator.get_ops("/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("key ring"), "{}", answer.body);
    assert!(cluster.secret(operator.namespace(), RING).is_none());
    assert_eq!(cluster.secret(&ns, "cart-token"), Some(secret.clone()), "untouched");

    let output = operator.command(&["keys", "init", "--accept-reissue"], "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let jti = before["status"]["jwtId"].as_str().unwrap();
    cluster.wait_successor(&ns, "cart", jti);
    let operator = operator.wait_ready();
    assert!(!operator.accepts(&token(&secret)));
    assert!(operator.accepts(&token(&cluster.secret(&ns, "cart-token").unwrap())));
}

/// Puts this into the ring, looks at what goes on and what does not, and heals it.
fn harm_and_heal(keys: &Keys, data: &Value, cure: &str, heal: impl FnOnce()) {
    let (_, old) = keys.ready("cart");
    let served = keys.served();
    keys.cluster.patch(&ring_path(keys), &json!({"data": null}));
    if !data.is_null() {
        keys.cluster.patch(&ring_path(keys), &json!({"data": data}));
    }
    let written = stored(keys)["data"].clone();
    keys.cluster.create_account(&keys.ns, "till", crate::rotating());
    let account =
        keys.cluster.wait_account(&keys.ns, "till", "KeyMissing", |account| ready(account)["reason"] == "KeyMissing");
    assert!(ready(&account)["message"].as_str().unwrap().contains(cure), "{account}");
    assert!(entries(&account).is_empty(), "nothing is issued");
    assert_eq!(keys.served(), served, "verifiers go on");
    assert!(keys.operator.accepts(&old));
    assert_eq!(stored(keys)["data"], written, "never replaced silently");
    wait_healthy(keys, false);

    heal();
    wait_for("the ring as it was", PATIENCE, || {
        let now = keys.served();
        if now == served && stored(keys)["data"] != written { Ok(()) } else { Err(format!("{now:?}")) }
    });
    keys.cluster.wait_ready(&keys.ns, "till");
    assert!(keys.operator.accepts(&keys.token("till")) && keys.operator.accepts(&old));
    wait_healthy(keys, true);
}

/// Waits until the metrics say so.
fn wait_healthy(keys: &Keys, healthy: bool) {
    let line = format!("\nvirtual_account_key_ring_healthy {}\n", u8::from(healthy));
    wait_for("the metric of the ring", PATIENCE, || {
        let metrics = keys.operator.metrics();
        if metrics.contains(&line) { Ok(()) } else { Err(metrics) }
    });
}

fn ring_path(keys: &Keys) -> String {
    secret_path(keys.operator.namespace(), RING)
}

fn stored(keys: &Keys) -> Value {
    keys.cluster.secret(keys.operator.namespace(), RING).expect("the ring's Secret exists")
}
