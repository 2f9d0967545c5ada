//! The admission policies of the chart: under them the operator does all it does, and nobody else what it alone may.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, PATIENCE, account, current, entries, ready, secret_path, settled, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;
use crate::{OPERATOR, kubectl_as, rendered, rotating};

const API: &str = "/apis/virtualaccounts.dev/v1alpha1";
const RING: &str = "virtual-account-operator-keys";
const RESTORER: &str = "system:serviceaccount:velero:velero";

const ONLY: &str = "the operator changes neither spec nor labels, annotations or owner references, only \
                    metadata.finalizers and status";

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
        match kubectl_as(&plane, OPERATOR, &secret, None) {
            Err(said) if said.contains("writes only Secrets with the label") => Ok(()),
            Ok(said) | Err(said) => Err(said),
        }
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

    /// One of each that nobody can reach.
    fn create_store_and_channel(&self) {
        let key = json!({"name": "missing", "key": "key"});
        let vault = json!({"address": "https://vault.invalid", "auth": {"tokenRef": key}});
        let mail = json!({"host": "mail.invalid", "from": "tokens@example.com",
            "auth": {"usernameRef": key, "passwordRef": key}});
        for (kind, plural, name, spec) in [
            ("TokenStore", "tokenstores", "vault", json!({"hashicorpVault": vault})),
            ("NotificationChannel", "notificationchannels", "mail", json!({"email": mail})),
        ] {
            let object = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
            self.cluster.create(&format!("{API}/namespaces/{}/{plural}", self.ns), &object);
        }
    }

    /// Waits until the operator has said of this spec whether it is `Ready`.
    fn wait_judged(&self, object: &str) {
        let (kind, name) = object.split_once('/').unwrap();
        let path = format!("{API}/namespaces/{}/{kind}s/{name}", self.ns);
        wait_for(&format!("the operator to judge {object}"), PATIENCE, || {
            let found = self.cluster.find(&path).ok_or("it is not there")?;
            if settled(&found) && !ready(&found).is_null() { Ok(()) } else { Err(found["status"].to_string()) }
        });
    }

    /// What the API server says to a thief of the operator's token.
    fn thief(&self, args: &[&str], stdin: Option<&str>) -> String {
        kubectl_as(&STAGE.plane, OPERATOR, &[args, &["-n", &self.ns]].concat(), stdin).expect_err("refused")
    }

    fn patch_status_as(&self, user: &[&str], object: &str, status: &str) -> Result<String, String> {
        let patch = ["patch", object, "-n", &self.ns, "--subresource=status", "--type=merge", "-p", status];
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
    world.create_store_and_channel();
    for object in ["virtualaccount/cart", "tokenstore/vault", "notificationchannel/mail"] {
        // So the operator's own writes pass.
        world.wait_judged(object);
        let refused = world.patch_status_as(&[], object, r#"{"status":{"observedGeneration":-1}}"#).unwrap_err();
        for words in [
            "status is written by the operator alone",
            OPERATOR,
            "not by testplane-admin",
            "admissionPolicies.statusWriters",
        ] {
            assert!(refused.contains(words), "{object}: {words}: {refused}");
        }
    }
    let spec = world.cluster.edit(&world.ns, "cart", &json!({"description": "is still theirs"}));
    assert_eq!(spec["spec"]["description"], "is still theirs");
    let restorer = format!("--as={RESTORER}");
    for object in ["tokenstore/vault", "notificationchannel/mail"] {
        world.patch_status_as(&[&restorer], object, r#"{"status":null}"#).unwrap();
        world.wait_judged(object);
    }
    // Lost in a restore: the token in the Secret is adopted, not replaced.
    world.patch_status_as(&[&restorer], "virtualaccount/cart", r#"{"status":null}"#).unwrap();
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
    // Another test deletes it, with other rights; then it is away for a moment.
    let ring = wait_for("the ring to be there", PATIENCE, || {
        let refused = kubectl_as(&STAGE.plane, OPERATOR, &["delete", "secret", RING, "-n", "virtual-accounts"], None)
            .unwrap_err();
        if refused.contains("NotFound") { Err(refused) } else { Ok(refused) }
    });
    assert!(ring.contains(mark), "the ring is never deleted: {ring}");
    // It is no hindrance to anybody else.
    world.cluster.patch(&secret_path(&world.ns, "theirs"), &json!({"data": {"password": "eg=="}}));
    world.cluster.delete(&secret_path(&world.ns, "theirs"));
}

#[test]
fn a_stolen_operator_token_changes_nothing_but_finalizers_and_status() {
    let world = World::new("spec");
    let (_, given) = world.issue(rotating());
    let account = world.cluster.account(&world.ns, "cart").unwrap();
    let patch = |change: &str| {
        let args = ["patch", "virtualaccounts", "cart", "-n", &world.ns, "--type=merge", "-p", change];
        kubectl_as(&STAGE.plane, OPERATOR, &args, None)
    };
    let owner =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "00000000-0000-0000-0000-000000000001"});
    for change in [
        json!({"spec": {"disabled": true}}),
        json!({"metadata": {"ownerReferences": [owner]}}),
        json!({"metadata": {"annotations": {"virtualaccounts.dev/rotate": "loot,grace=0s"}}}),
        json!({"metadata": {"annotations": {"virtualaccounts.dev/adopt": "true"}}}),
        json!({"metadata": {"labels": {"argocd.argoproj.io/instance": "theirs"}}}),
    ] {
        let refused = patch(&change.to_string()).unwrap_err();
        assert!(refused.contains(ONLY), "{change}: {refused}");
    }
    let now = world.cluster.account(&world.ns, "cart").unwrap();
    assert_eq!(
        (&now["metadata"]["annotations"], &now["spec"]),
        (&account["metadata"]["annotations"], &account["spec"])
    );
    assert_eq!(world.cluster.secret(&world.ns, "cart-token").unwrap()["data"], given["data"]);
    // What it does do with accounts and stores.
    patch(r#"{"metadata":{"finalizers":["virtualaccounts.dev/cleanup"]}}"#).unwrap();
    patch(r#"{"metadata":{"finalizers":null}}"#).unwrap();
    let collection = format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{}/tokenstores", world.ns);
    let mut store = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore", "metadata": {"name": "vault"},
        "spec": {"hashicorpVault": {"address": "https://vault.invalid", "auth": {"tokenRef": {"name": "creds", "key": "token"}}}}});
    world.cluster.create(&collection, &store);
    store["metadata"]["namespace"] = json!(world.ns);
    store["metadata"]["finalizers"] = json!(["virtualaccounts.dev/in-use"]);
    let replace = |store: &Value| {
        // Without a version kubectl takes that of now; the operator may write in between.
        let mut store = store.clone();
        store["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        wait_for("no write in between", PATIENCE, || {
            match kubectl_as(&STAGE.plane, OPERATOR, &["replace", "-f", "-"], Some(&store.to_string())) {
                Err(said) if said.contains("the object has been modified") => Err(said),
                answer => Ok(answer),
            }
        })
    };
    replace(&store).unwrap();
    store["spec"]["hashicorpVault"]["address"] = json!("https://thief.invalid");
    assert!(replace(&store).unwrap_err().contains(ONLY));
    let mut taken = world.cluster.find(&format!("{collection}/vault")).unwrap();
    taken["metadata"]["ownerReferences"] = json!([owner]);
    assert!(replace(&taken).unwrap_err().contains(ONLY));
    // All of it is still its owner's to change.
    let labelled = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}}});
    world.cluster.patch(&format!("{collection}/vault"), &labelled);
    // And finalizers go on being the operator's where there are labels and annotations.
    let mut store = world.cluster.find(&format!("{collection}/vault")).unwrap();
    store["metadata"]["finalizers"] = json!(null);
    replace(&store).unwrap();
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

#[test]
fn finalizers_are_set_whatever_else_the_metadata_has() {
    let world = World::new("finalizers");
    world.create_store_and_channel();
    let store = format!("{API}/namespaces/{}/tokenstores/vault", world.ns);
    let metadata = json!({"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}});
    world.cluster.patch(&store, &metadata);
    let mut account =
        account("cart", json!({"secretStores": [{"storeRef": {"name": "vault"}, "secretPath": "/one/cart"}]}));
    account["metadata"]["labels"] = metadata["metadata"]["labels"].clone();
    account["metadata"]["annotations"] = metadata["metadata"]["annotations"].clone();
    let collection = format!("{API}/namespaces/{}/virtualaccounts", world.ns);
    world.cluster.create(&collection, &account);
    for path in [store, format!("{collection}/cart")] {
        let found = wait_for(&format!("the finalizer of {path}"), PATIENCE, || {
            let found = world.cluster.find(&path).ok_or_else(|| "it is not there".to_owned())?;
            if found["metadata"]["finalizers"].is_null() { Err(found.to_string()) } else { Ok(found) }
        });
        assert_eq!(found["metadata"]["annotations"]["note"], "b");
    }
}
