//! An operator that dies in the middle, and ends that come too late: on a plane of their own, with a short
//! `--cleanup-deadline`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::faults::Layer;
use crate::support::bao::Bao;
use crate::support::cluster::{Cluster, PATIENCE, account_path, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;
use crate::{API, FLAGS, delivered, newest};

const DEADLINE: &str = "6s";

/// A plane, an operator that can be killed, and a store behind a layer of faults.
struct Stage {
    plane: Plane,
    cluster: Cluster,
    operator: Operator,
    layer: Layer,
    bao: &'static Bao,
}

impl Stage {
    fn new() -> Self {
        let (plane, bao) = (Plane::start(), Bao::shared());
        let cluster = Cluster::of(&plane);
        let flags: Vec<&str> = FLAGS.iter().copied().chain(["--cleanup-deadline", DEADLINE]).collect();
        let operator = Operator::start(&plane, Options::flags(&flags));
        Self { plane, cluster, operator, layer: Layer::before(&bao.url()), bao }
    }

    /// A namespace with a store.
    fn namespace(&self, ns: &str) {
        self.plane.kubectl_ok(&["create", "namespace", ns], None);
        let secret = json!({"metadata": {"name": "bao-token"}, "stringData": {"token": self.bao.root}});
        self.cluster.create(&format!("/api/v1/namespaces/{ns}/secrets"), &secret);
        let auth = json!({"tokenRef": {"name": "bao-token", "key": "token"}});
        let store = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore", "metadata": {"name": "bao"},
            "spec": {"hashicorpVault": {"address": self.layer.address(), "auth": auth}}});
        self.cluster.create(&format!("{API}/namespaces/{ns}/tokenstores"), &store);
    }

    fn create(&self, ns: &str, path: &str) -> Value {
        self.cluster.create_account(ns, "cart", at(path))
    }

    fn wait(&self, ns: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, PATIENCE * 5, || {
            let account = self.cluster.account(ns, "cart").ok_or("it is gone")?;
            if holds(&account) { Ok(account) } else { Err(account["status"].to_string()) }
        })
    }

    fn wait_gone(&self, path: &str) {
        wait_for("it to go", PATIENCE * 5, || match self.cluster.find(path) {
            None => Ok(()),
            Some(object) => Err(format!("{} {}", object["metadata"]["finalizers"], object["status"])),
        });
    }

    /// Kills the operator while something is under way, and starts it again.
    fn kill_and_revive(&mut self, after: Duration) {
        std::thread::sleep(after);
        self.operator.kill();
        self.operator.revive();
        self.operator.wait_up();
    }
}

fn at(path: &str) -> Value {
    json!({"autoRotate": {"autoRotateInterval": "90d", "gracePeriod": "7d"},
        "secretStores": [{"storeRef": {"name": "bao"}, "secretPath": path}]})
}

#[test]
fn operator_that_dies_in_the_middle_finishes_later_and_what_cannot_be_cleaned_is_named() {
    let mut stage = Stage::new();
    // Killed at different moments of first issue, rotation, path change and removal; once with answers that are lost.
    for (round, after) in [0, 5, 20, 60, 150].into_iter().enumerate() {
        let ns = format!("round-{round}");
        let after = Duration::from_millis(after);
        stage.namespace(&ns);
        let path = |name: &str| format!("/{ns}/{name}");
        stage.create(&ns, &path("a"));
        stage.kill_and_revive(after);
        let first = stage.wait(&ns, "the first token", delivered);
        let request = json!("one");
        stage.cluster.annotate(&ns, "cart", "virtualaccounts.dev/rotate", &request);
        stage.kill_and_revive(after);
        let second =
            stage.wait(&ns, "its successor", |account| newest(account) != newest(&first) && delivered(account));
        assert_eq!(stage.bao.versions(&path("a")).0.len(), 2, "{after:?}: one version for each token");
        assert_eq!(second["status"]["jwts"].as_array().map(Vec::len), Some(2), "{after:?}: one token for each cause");
        stage.cluster.edit(&ns, "cart", &at(&path("b")));
        stage.kill_and_revive(after);
        stage.wait(&ns, "the other path alone", |account| {
            let stores = &account["status"]["secretStores"];
            delivered(account) && stores.as_array().map(Vec::len) == Some(1) && stores[0]["secretPath"] == path("b")
        });
        assert_eq!((stage.bao.metadata(&path("a")), stage.bao.jti(&path("b"))), (None, Some(newest(&second))));
        stage.cluster.delete(&account_path(&ns, "cart"));
        stage.kill_and_revive(after);
        stage.wait_gone(&account_path(&ns, "cart"));
        assert_eq!(stage.bao.metadata(&path("b")), None, "{after:?}");
    }

    // The store is down when the account goes: the deadline passes, and people are told what is left.
    stage.namespace("late");
    stage.create("late", "/late/a");
    stage.wait("late", "the token", delivered);
    stage.layer.cut();
    stage.cluster.delete(&account_path("late", "cart"));
    stage.wait_gone(&account_path("late", "cart"));
    let event = stage.cluster.wait_event("late", "cart", "LeftBehind");
    assert!(event.contains("/late/a in TokenStore late/bao"), "{event}");
    assert!(stage.bao.jti("/late/a").is_some());
    stage.layer.pass();

    // The credentials are gone for good when the namespace goes: nobody waits for the deadline.
    stage.namespace("orphaned");
    stage.create("orphaned", "/orphaned/a");
    stage.wait("orphaned", "the token", delivered);
    stage.operator.kill();
    stage.cluster.delete("/api/v1/namespaces/orphaned/secrets/bao-token");
    stage.cluster.delete("/api/v1/namespaces/orphaned");
    let started = std::time::Instant::now();
    stage.operator.revive();
    stage.operator.wait_up();
    stage.wait_gone("/api/v1/namespaces/orphaned");
    assert!(stage.bao.jti("/orphaned/a").is_some(), "after {:?}", started.elapsed());
    assert!(stage.operator.log().contains("LeftBehind") && stage.operator.log().contains("/orphaned/a"));
}
