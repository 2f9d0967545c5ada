//! Argo CD's actions: which are offered, and what comes of the patch that each sends.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::bao::Bao;
use crate::support::cluster::{Cluster, PATIENCE, account, current, entries, stays, token, wait_for};
use crate::support::plane::Plane;
use crate::{WORLD, apply, argo_cd, bao_store, object, path, told, wait_reason, webhook};

const ROTATE: &str = "virtualaccounts.dev/rotate";

/// An object under Argo CD, on the shared plane.
struct Stage {
    plane: &'static Plane,
    cluster: Cluster,
    ns: String,
    path: String,
}

impl Stage {
    fn new(prefix: &str, objects: &[Value], kind: &str, name: &str) -> Self {
        let plane = WORLD.plane;
        let ns = plane.namespace(prefix);
        apply(plane, &ns, objects);
        Self { plane, cluster: Cluster::of(plane), path: path(&ns, kind, name), ns }
    }

    fn live(&self) -> Value {
        self.cluster.find(&self.path).expect("it is there")
    }

    /// The actions that can be used now.
    fn offered(&self) -> Vec<String> {
        let found = self.plane.gitops(&["argocd-actions", &argo_cd()], &[self.live()]).remove(0);
        let found = found.as_object().expect("names").clone();
        found.into_iter().filter(|(_, enabled)| *enabled == true).map(|(name, _)| name).collect()
    }

    /// Carries out an action; returns the patch that was sent.
    fn act(&self, name: &str) -> Value {
        let patch = self.plane.gitops(&["argocd-action", &argo_cd(), name], &[self.live()]).remove(0);
        self.cluster.patch(&self.path, &patch);
        patch
    }

    fn health(&self) -> String {
        told(self.plane, &[self.live()]).remove(0)
    }
}

fn cart(spec: Value) -> Stage {
    let stage = Stage::new("action", &[account("cart", spec)], "VirtualAccount", "cart");
    stage.cluster.wait_ready(&stage.ns, "cart");
    stage
}

#[test]
fn rotate_rotates_once_each_time() {
    let stage = cart(json!({"autoRotate": {"autoRotateInterval": "90d", "gracePeriod": "7d"}}));
    assert_eq!(stage.offered(), ["rotate", "suspend"]);
    let first = current(&stage.live()).expect("delivered").to_owned();
    let patch = stage.act("rotate");
    let value = patch["metadata"]["annotations"][ROTATE].as_str().expect("a value").to_owned();
    assert_eq!(patch, json!({"metadata": {"annotations": {ROTATE: value}}}), "nothing else is changed");
    let rotated = stage.cluster.wait_successor(&stage.ns, "cart", &first);
    // The same patch again, as a tool that lost the answer sends it, is no other request.
    stage.cluster.patch(&stage.path, &patch);
    stays("two tokens", Duration::from_secs(1), || {
        let live = stage.live();
        if entries(&live).len() == 2 { Ok(()) } else { Err(live["status"].to_string()) }
    });
    let second = current(&rotated).expect("delivered").to_owned();
    let again = stage.act("rotate");
    assert_ne!(again["metadata"]["annotations"][ROTATE], value, "a new value each time");
    let live = stage.cluster.wait_successor(&stage.ns, "cart", &second);
    assert_eq!(entries(&live).len(), 3);
    assert_eq!(live["status"]["handledRotateRequests"][1], value);
}

#[test]
fn suspend_and_resume_are_offered_in_turn() {
    let stage = cart(json!({}));
    assert_eq!(stage.act("suspend"), json!({"spec": {"suspend": true}}));
    wait_reason(&stage.cluster, &stage.path, "Suspended");
    assert_eq!(stage.offered(), ["resume"]);
    assert_eq!(stage.health(), "Current Suspended Current");
    assert_eq!(stage.act("resume"), json!({"spec": {"suspend": false}}));
    wait_reason(&stage.cluster, &stage.path, "Delivered");
    assert_eq!(stage.offered(), ["rotate", "suspend"]);
    assert_eq!(stage.health(), "Current Healthy Current");
}

#[test]
fn sync_refills_a_wiped_store_with_the_same_token() {
    let (bao, wiped) = (Bao::shared(), "/gitops/wiped");
    let mut objects = bao_store("bao");
    let stores = json!({"secretStores": [{"storeRef": {"name": "bao"}, "secretPath": wiped}]});
    objects.push(account("cart", stores));
    let stage = Stage::new("sync", &objects, "VirtualAccount", "cart");
    stage.cluster.wait_ready(&stage.ns, "cart");
    assert_eq!(stage.offered(), ["rotate", "suspend", "sync"]);
    bao.wipe(wiped);
    stage.act("sync");
    let data = wait_for("the path to be refilled", PATIENCE, || bao.data(wiped).ok_or("nothing is there"));
    assert_eq!(data["token"], json!(token(&stage.cluster.secret(&stage.ns, "cart-token").expect("a Secret"))));
    assert_eq!(entries(&stage.live()).len(), 1, "nothing is minted");
}

#[test]
fn test_sends_a_test_message_each_time() {
    let stage = Stage::new("test", &webhook("hook"), "NotificationChannel", "hook");
    wait_reason(&stage.cluster, &stage.path, "Checked");
    assert_eq!(stage.offered(), ["test"]);
    let mut values = Vec::new();
    for _ in 0..2 {
        let patch = stage.act("test");
        let value = &patch["metadata"]["annotations"]["virtualaccounts.dev/test-requested-at"];
        wait_for("the test to be recorded", PATIENCE, || {
            let live = stage.live();
            if live["status"]["lastTest"]["requestedAt"] == *value { Ok(()) } else { Err(live["status"].to_string()) }
        });
        values.push(value.clone());
    }
    assert_ne!(values[0], values[1]);
}

#[test]
fn an_action_keeps_what_lua_cannot_tell_apart() {
    // An empty object and an empty list are one to Lua.
    let mut odd = object("VirtualAccount", "odd", &json!({"permissions": [], "autoRotate": {}}));
    odd["metadata"]["resourceVersion"] = "7".into();
    odd["metadata"]["annotations"] = json!({});
    odd["status"] = json!({"observedGeneration": -1});
    let patch = WORLD.plane.gitops(&["argocd-action", &argo_cd(), "suspend"], std::slice::from_ref(&odd)).remove(0);
    assert_eq!(patch, json!({"spec": {"suspend": true}}));
    let patch = WORLD.plane.gitops(&["argocd-action", &argo_cd(), "rotate"], &[odd]).remove(0);
    let value = patch["metadata"]["annotations"][ROTATE].as_str().expect("a value");
    assert!(value.starts_with("argocd-20") && value.ends_with("-7"), "{value}");
}
