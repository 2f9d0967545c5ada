//! The admission policies of the chart: under them the operator does all it does, and nobody else what it alone may.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, PATIENCE, current, entries, ready, secret_path, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;
use crate::{OPERATOR, kubectl_as, rendered, rotating};

const RING: &str = "virtual-account-operator-keys";
const RESTORER: &str = "system:serviceaccount:velero:velero";

/// A plane with the policies, and an operator under them.
struct Stage {
    plane: Plane,
    operator: Operator,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let plane = Plane::start();
    let operator = Operator::start(&plane, Options::flags(&["--max-clock-skew", "0"]));
    let values = json!({"admissionPolicies": {"enabled": true, "statusWriters": [RESTORER]}});
    plane.kubectl_ok(&["apply", "-f", "-"], Some(&rendered(&["admission-policies"], &values)));
    let binding =
        ["create", "clusterrolebinding", "velero", "--clusterrole=cluster-admin", "--serviceaccount=velero:velero"];
    plane.kubectl_ok(&binding, None);
    wait_for("the policies to be enforced", PATIENCE, || {
        let secret = ["create", "secret", "generic", "probe", "-n", "default", "--dry-run=server"];
        kubectl_as(&plane, OPERATOR, &secret, None).map_or_else(|_| Ok(()), Err)
    });
    Stage { plane, operator }
});

struct World {
    cluster: Cluster,
    ns: String,
}

impl World {
    fn new(prefix: &str) -> Self {
        Self { ns: STAGE.plane.namespace(prefix), cluster: Cluster::of(&STAGE.plane) }
    }

    fn issue(&self, spec: Value) -> (Value, Value) {
        self.cluster.create_account(&self.ns, "cart", spec);
        (self.cluster.wait_ready(&self.ns, "cart"), self.cluster.secret(&self.ns, "cart-token").unwrap())
    }

    fn rotate(&self, request: &str) -> Value {
        let before = self.cluster.account(&self.ns, "cart").unwrap();
        self.cluster.annotate(&self.ns, "cart", "virtualaccounts.dev/rotate", &json!(request));
        self.cluster.wait_successor(&self.ns, "cart", before["status"]["jwtId"].as_str().unwrap())
    }

    /// Somebody's own Secret.
    fn foreign(&self) -> Value {
        let secret = json!({"metadata": {"name": "theirs"}, "stringData": {"password": "x"}});
        self.cluster.create(&format!("/api/v1/namespaces/{}/secrets", self.ns), &secret)
    }

    /// What the API server says to a thief of the operator's token.
    fn thief(&self, args: &[&str], stdin: Option<&str>) -> String {
        kubectl_as(&STAGE.plane, OPERATOR, &[args, &["-n", &self.ns]].concat(), stdin).expect_err("refused")
    }

    fn patch_status_as(&self, user: &[&str], status: &str) -> Result<String, String> {
        let patch =
            ["patch", "virtualaccounts", "cart", "-n", &self.ns, "--subresource=status", "--type=merge", "-p", status];
        let output = STAGE.plane.kubectl(&[&patch, user].concat(), None);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}

#[test]
fn tokens_are_issued_rotated_graced_revoked_and_removed() {
    let world = World::new("life");
    let (account, _) = world.issue(rotating());
    let first = current(&account).unwrap().to_owned();
    let second = world.rotate("one,grace=2s");
    world.cluster.wait_account(&world.ns, "cart", "one entry", |account| entries(account).len() == 1);
    let second = current(&second).unwrap().to_owned();
    assert_ne!(first, second);
    world.cluster.edit(&world.ns, "cart", &json!({"revokedJwtIds": [second]}));
    world.cluster.wait_successor(&world.ns, "cart", &second);
    world.cluster.delete_account(&world.ns, "cart");
    wait_for("the Secret to go", PATIENCE, || {
        world.cluster.secret(&world.ns, "cart-token").map_or(Ok(()), |_| Err("it is there"))
    });
}

#[test]
fn secrets_are_put_right_whatever_was_done_to_them() {
    let world = World::new("repair");
    let (_, given) = world.issue(rotating());
    let path = secret_path(&world.ns, "cart-token");
    let back = |what: &str, is: &dyn Fn(&Value) -> bool| {
        world.cluster.wait_secret(&world.ns, "cart-token", what, |secret| secret["data"] == given["data"] && is(secret))
    };
    world.cluster.patch(&path, &json!({"data": {"token": "Z2FyYmFnZQ=="}}));
    back("its content", &|_| true);
    world.cluster.patch(&path, &json!({"metadata": {"labels": {"virtualaccounts.dev/account": null}}}));
    back("its label", &|secret| secret["metadata"]["labels"]["virtualaccounts.dev/account"] == "cart");
    world.cluster.delete(&path);
    back("back", &|secret| secret["metadata"]["uid"] != given["metadata"]["uid"]);
    let uid = world.cluster.patch(&path, &json!({"immutable": true}))["metadata"]["uid"].clone();
    let rotated = world.rotate("immutable");
    let secret =
        world.cluster.wait_secret(&world.ns, "cart-token", "made again", |secret| secret["metadata"]["uid"] != uid);
    assert_eq!(crate::support::cluster::text(&secret, "jti").as_deref(), current(&rotated));
}

#[test]
fn a_secret_that_is_left_behind_loses_its_label() {
    let world = World::new("left");
    let (_, given) = world.issue(json!({"tokenSecret": {"deletionPolicy": "Retain"}}));
    world.cluster.edit(&world.ns, "cart", &json!({"tokenSecret": {"name": "other"}}));
    let old = world.cluster.wait_secret(&world.ns, "cart-token", "without our label", |secret| {
        secret["metadata"]["labels"]["virtualaccounts.dev/account"].is_null()
    });
    assert_eq!(old["data"], given["data"]);
}

#[test]
fn the_key_ring_is_rotated_and_put_back() {
    let world = World::new("ring");
    let ring = || world.cluster.secret("virtual-accounts", RING).unwrap();
    let before = ring();
    let output = STAGE.operator.command(&["keys", "rotate"], "");
    assert!(output.status.success(), "{output:?}");
    let rotated = world.cluster.wait_secret("virtual-accounts", RING, "another version", |ring| {
        ring["data"] != before["data"] && ring["metadata"]["annotations"]["virtualaccounts.dev/key-request"].is_null()
    });
    world.cluster.delete(&secret_path("virtual-accounts", RING));
    wait_for("the ring to be back", PATIENCE, || match world.cluster.secret("virtual-accounts", RING) {
        Some(ring) if ring["metadata"]["uid"] != rotated["metadata"]["uid"] => Ok(()),
        seen => Err(format!("there: {}", seen.is_some())),
    });
}

#[test]
fn administrators_write_no_status_and_a_restore_does() {
    let world = World::new("status");
    let (account, _) = world.issue(rotating());
    let refused = world.patch_status_as(&[], r#"{"status":{"jwts":[]}}"#).unwrap_err();
    for words in [
        "status is written by the operator alone",
        OPERATOR,
        "not by testplane-admin",
        "admissionPolicies.statusWriters",
    ] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    let spec = world.cluster.edit(&world.ns, "cart", &json!({"description": "is still theirs"}));
    assert_eq!(spec["spec"]["description"], "is still theirs");
    // Lost in a restore: the token in the Secret is adopted, not replaced.
    world.patch_status_as(&[&format!("--as={RESTORER}")], r#"{"status":null}"#).unwrap();
    let adopted = world.cluster.wait_account(&world.ns, "cart", "adopted", |account| {
        ready(account)["reason"] == "Delivered" && entries(account).iter().any(|entry| entry["reason"] == "Adopted")
    });
    assert_eq!(current(&adopted), current(&account));
}

#[test]
fn a_stolen_operator_token_harms_no_foreign_secret() {
    let world = World::new("thief");
    let mut foreign = world.foreign();
    let mark = "changes and deletes only Secrets that carry its mark";
    let own = "writes only Secrets with the label virtualaccounts.dev/account";
    let created = world.thief(&["create", "secret", "generic", "loot"], None);
    assert!(created.contains(own), "{created}");
    foreign["data"] = json!({"password": "eQ=="});
    let replaced = world.thief(&["replace", "-f", "-"], Some(&foreign.to_string()));
    assert!(replaced.contains(own) || replaced.contains(mark), "{replaced}");
    foreign["metadata"]["labels"] = json!({"virtualaccounts.dev/account": "cart"});
    let claimed = world.thief(&["replace", "-f", "-"], Some(&foreign.to_string()));
    assert!(claimed.contains(mark) && claimed.contains("put the label"), "{claimed}");
    assert!(world.thief(&["delete", "secret", "theirs"], None).contains(mark));
    let credential = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "credential", "labels": {"virtualaccounts.dev/account": "cart"},
            "annotations": {"kubernetes.io/service-account.name": "default"}},
    });
    let credential = world.thief(&["create", "-f", "-"], Some(&credential.to_string()));
    assert!(credential.contains("only Secrets of type Opaque"), "{credential}");
    let ring = kubectl_as(&STAGE.plane, OPERATOR, &["delete", "secret", RING, "-n", "virtual-accounts"], None);
    assert!(ring.unwrap_err().contains(mark), "the ring is never deleted");
    // It is no hindrance to anybody else.
    world.cluster.patch(&secret_path(&world.ns, "theirs"), &json!({"data": {"password": "eg=="}}));
    world.cluster.delete(&secret_path(&world.ns, "theirs"));
}

#[test]
fn a_stolen_operator_token_changes_no_spec() {
    let world = World::new("spec");
    world.issue(rotating());
    let patch = |change: &str| {
        let args = ["patch", "virtualaccounts", "cart", "-n", &world.ns, "--type=merge", "-p", change];
        kubectl_as(&STAGE.plane, OPERATOR, &args, None)
    };
    let refused = patch(r#"{"spec":{"disabled":true}}"#).unwrap_err();
    assert!(refused.contains("the operator changes no spec, only metadata.finalizers and status"), "{refused}");
    // What it does do with accounts and stores.
    patch(r#"{"metadata":{"finalizers":["virtualaccounts.dev/cleanup"]}}"#).unwrap();
    patch(r#"{"metadata":{"finalizers":null}}"#).unwrap();
    let collection = format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{}/tokenstores", world.ns);
    let mut store = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore", "metadata": {"name": "vault"},
        "spec": {"hashicorpVault": {"address": "https://vault.invalid", "auth": {"tokenRef": {"name": "creds", "key": "token"}}}}});
    world.cluster.create(&collection, &store);
    store["metadata"]["namespace"] = json!(world.ns);
    store["metadata"]["finalizers"] = json!(["virtualaccounts.dev/in-use"]);
    let replace = |store: &Value| kubectl_as(&STAGE.plane, OPERATOR, &["replace", "-f", "-"], Some(&store.to_string()));
    replace(&store).unwrap();
    store["spec"]["hashicorpVault"]["address"] = json!("https://thief.invalid");
    assert!(replace(&store).unwrap_err().contains("the operator changes no spec"));
}

#[test]
fn a_secret_without_any_mark_is_refused_and_the_account_says_so() {
    let world = World::new("bare");
    world.issue(json!({"tokenSecret": {"deletionPolicy": "Retain"}}));
    let bare = json!({"metadata": {"labels": null, "annotations": null}});
    world.cluster.patch(&secret_path(&world.ns, "cart-token"), &bare);
    let account = world.cluster.wait_account(&world.ns, "cart", "the policy's message", |account| {
        let error = account["status"]["tokenSecret"]["error"].to_string();
        error.contains("put the label virtualaccounts.dev/account")
    });
    assert_eq!(entries(&account).len(), 1, "nothing is minted for it");
    let label = json!({"metadata": {"labels": {"virtualaccounts.dev/account": "cart"}}});
    world.cluster.patch(&secret_path(&world.ns, "cart-token"), &label);
    world
        .cluster
        .wait_account(&world.ns, "cart", "healed", |account| account["status"]["tokenSecret"]["error"].is_null());
}
