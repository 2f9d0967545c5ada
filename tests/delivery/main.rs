//! Delivery to secret stores as users see it: a real API server, the operator with only its shipped rights, and real
//! OpenBao. One of each for all tests but those that say otherwise; each test has a namespace and paths of its own.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure is the test's verdict")]

#[path = "../support/mod.rs"]
mod support;

mod edges;
mod faults;
mod restart;
mod story;
mod tenancy;

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};
use support::bao::Bao;
use support::cluster::{Cluster, PATIENCE, ready, wait_for};
use support::operator::{Operator, Options};
use support::plane::Plane;

const API: &str = "/apis/virtualaccounts.dev/v1alpha1";
/// What the operator of these tests runs with.
const FLAGS: [&str; 9] = [
    "--max-clock-skew",
    "0",
    "--minimum-rotation-interval",
    "4s",
    "--store-timeout",
    "2s",
    "--cluster-id",
    "test-cluster",
    "--allow-local-endpoints",
];

/// A namespace on the shared plane with a TokenStore `bao`, under the shared operator.
struct World {
    plane: &'static Plane,
    operator: &'static Operator,
    bao: &'static Bao,
    cluster: Cluster,
    ns: String,
}

impl World {
    fn new(prefix: &str) -> Self {
        let world = Self::bare(prefix);
        world.secret("bao-token", "token", &world.bao.root);
        world.store("bao", &world.bao_spec());
        world
    }

    /// Without a store.
    fn bare(prefix: &str) -> Self {
        let (plane, operator) = (Plane::shared(), shared_operator());
        Self { plane, operator, bao: Bao::shared(), cluster: Cluster::of(plane), ns: plane.namespace(prefix) }
    }

    /// A TokenStore's spec: the shared OpenBao, with its root token.
    fn bao_spec(&self) -> Value {
        vault_at(&self.bao.url())
    }

    fn store(&self, name: &str, spec: &Value) -> Value {
        let store = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore",
            "metadata": {"name": name}, "spec": spec});
        self.cluster.create(&format!("{API}/namespaces/{}/tokenstores", self.ns), &store)
    }

    fn store_path(&self, name: &str) -> String {
        format!("{API}/namespaces/{}/tokenstores/{name}", self.ns)
    }

    fn secret(&self, name: &str, key: &str, value: &str) {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}});
        self.cluster.create(&format!("/api/v1/namespaces/{}/secrets", self.ns), &secret);
    }

    /// A path that no other test has.
    fn path(&self, name: &str) -> String {
        format!("/{}/{name}", self.ns)
    }

    /// An account spec with these paths in store `bao`.
    fn at(&self, names: &[&str]) -> Value {
        let stores = names.iter().map(|name| json!({"storeRef": {"name": "bao"}, "secretPath": self.path(name)}));
        json!({"autoRotate": {"autoRotateInterval": "90d", "gracePeriod": "7d"}, "secretStores": stores.collect::<Vec<_>>()})
    }

    fn create(&self, spec: Value) -> Value {
        self.cluster.create_account(&self.ns, "cart", spec)
    }

    /// Creates the account `cart` and waits until it is delivered everywhere.
    fn ready(&self, spec: Value) -> Value {
        self.create(spec);
        self.cluster.wait_ready(&self.ns, "cart")
    }

    fn edit(&self, spec: &Value) -> Value {
        self.cluster.edit(&self.ns, "cart", spec)
    }

    fn annotate(&self, key: &str, value: &str) -> Value {
        self.cluster.annotate(&self.ns, "cart", &format!("virtualaccounts.dev/{key}"), &json!(value))
    }

    fn delete(&self) {
        self.cluster.delete(&format!("{API}/namespaces/{}/virtualaccounts/cart", self.ns));
    }

    fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.cluster.wait_account(&self.ns, "cart", what, holds)
    }

    fn wait_for(&self, patience: Duration, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, patience, || {
            let account = self.cluster.account(&self.ns, "cart").expect("it exists");
            if holds(&account) { Ok(account) } else { Err(account["status"].to_string()) }
        })
    }

    /// A new generation of a store is checked at once; one that is down would be checked within the minute.
    fn nudge(&self, store: &str) {
        self.cluster.patch(&self.store_path(store), &json!({"spec": {"takeOverFrom": ["another-cluster"]}}));
    }

    fn reason(&self, reason: &str) -> Value {
        self.cluster.wait_reason(&self.ns, "cart", reason)
    }

    fn wait_gone(&self) {
        wait_for("the account to be gone", PATIENCE, || match self.cluster.account(&self.ns, "cart") {
            None => Ok(()),
            Some(account) => Err(format!("{} {}", account["metadata"]["finalizers"], account["status"])),
        });
    }

    /// Asks for a rotation and waits until it is delivered everywhere; the new token's id.
    fn rotate(&self, request: &str) -> String {
        let before = newest(&self.cluster.account(&self.ns, "cart").expect("it exists"));
        self.annotate("rotate", request);
        let after = self.wait("a successor everywhere", |account| newest(account) != before && delivered(account));
        newest(&after)
    }
}

/// A store's spec: Vault at this address, with the token in Secret `bao-token`.
fn vault_at(address: &str) -> Value {
    json!({"hashicorpVault": {"address": address, "auth": {"tokenRef": {"name": "bao-token", "key": "token"}}}})
}

/// The id of the newest token.
fn newest(account: &Value) -> String {
    account["status"]["jwtId"].as_str().unwrap_or_default().to_owned()
}

/// Every target holds the newest token, as the account's own condition says.
fn delivered(account: &Value) -> bool {
    let stores = account["status"]["secretStores"].as_array().cloned().unwrap_or_default();
    let holds = |target: &Value| target["jwtId"] == account["status"]["jwtId"];
    stores.iter().all(holds) && ready(account)["reason"] == "Delivered"
}

/// The message of the Ready condition.
fn message(account: &Value) -> String {
    ready(account)["message"].as_str().unwrap_or_default().to_owned()
}

fn shared_operator() -> &'static Operator {
    static SHARED: LazyLock<Operator> = LazyLock::new(|| Operator::start(Plane::shared(), Options::flags(&FLAGS)));
    &SHARED
}
