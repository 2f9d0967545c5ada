//! What GitOps tools make of our objects: the kstatus library, Argo CD's interpreter with our scripts and Flux's expressions
//! on statuses of a real API server, actions carried out, and the absence of drift.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure is the test's verdict")]

#[path = "../support/mod.rs"]
mod support;

mod actions;
mod drift;
mod health;
mod page;

use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};
use support::bao::Bao;
use support::cluster::{Cluster, PATIENCE, account, ready, settled, wait_for};
use support::operator::{Operator, Options};
use support::plane::Plane;
use virtual_account_operator::api::{crds, yaml};

const API: &str = "/apis/virtualaccounts.dev/v1alpha1";
/// The namespace of the objects that are older than the operator.
const BEFORE: &str = "before";
/// An audience that the operator does not allow.
const STRANGE_AUDIENCE: &str = "https://nobody-allows-this.example.com";

/// The plane and the operator of all tests, and the objects that were there before it.
struct World {
    plane: &'static Plane,
    _operator: Operator,
    /// As they were while there was no operator.
    before: Vec<Value>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let plane = Plane::shared();
    let before = before(plane);
    let flags = ["--allow-local-endpoints", "--minimum-rotation-interval", "4s", "--max-clock-skew", "0"];
    World { plane, _operator: Operator::start(plane, Options::flags(&flags)), before }
});

/// Two of each kind, one of which no operator can use. The schema refuses such stores and channels, so they are made under
/// definitions without its rules, as those of an earlier version might be.
fn before(plane: &Plane) -> Vec<Value> {
    plane.install(&crds().iter().map(|crd| lenient(&json!(crd)).to_string() + "\n---\n").collect::<String>());
    plane.kubectl_ok(&["create", "namespace", BEFORE], None);
    apply(plane, BEFORE, &[old_store(), old_channel()]);
    plane.install(&yaml().expect("the definitions can be printed"));
    let wrong = account("wrong", json!({"audiences": [STRANGE_AUDIENCE]}));
    let mut objects = vec![account("cart", json!({})), wrong];
    objects.extend(bao_store("bao"));
    objects.extend(webhook("hook"));
    apply(plane, BEFORE, &objects);
    let cluster = Cluster::of(plane);
    SIX.iter().map(|(kind, name, _)| cluster.find(&path(BEFORE, kind, name)).expect("it was created")).collect()
}

/// The objects that are older than the operator, and the reason that `Ready` gives for each.
const SIX: [(&str, &str, &str); 6] = [
    ("VirtualAccount", "cart", "Delivered"),
    ("VirtualAccount", "wrong", "InvalidSpec"),
    ("TokenStore", "bao", "Checked"),
    ("TokenStore", "old", "InvalidSpec"),
    ("NotificationChannel", "hook", "Checked"),
    ("NotificationChannel", "old", "InvalidSpec"),
];

fn lenient(crd: &Value) -> Value {
    let mut crd = crd.clone();
    let spec = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec").expect("a schema");
    spec.as_object_mut().expect("an object").remove("x-kubernetes-validations");
    crd
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn secret(name: &str, key: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}})
}

/// For others, and without the prefix that keeps these apart.
fn old_store() -> Value {
    let mut store = bao_store("old").remove(1);
    store["spec"]["allowedNamespaces"] = json!({"from": "All"});
    store
}

/// Plain http that nobody allowed.
fn old_channel() -> Value {
    let mut channel = webhook("old").remove(1);
    channel["spec"].as_object_mut().expect("an object").remove("allowInsecure");
    channel
}

/// A store at the real OpenBao, behind the Secret that it needs.
fn bao_store(name: &str) -> Vec<Value> {
    let bao = Bao::shared();
    let auth = json!({"tokenRef": {"name": "bao-token", "key": "token"}});
    let spec = json!({"hashicorpVault": {"address": bao.url(), "auth": auth}});
    vec![secret("bao-token", "token", &bao.root), object("TokenStore", name, &spec)]
}

/// A channel to a server that answers, behind the Secret that it needs.
fn webhook(name: &str) -> Vec<Value> {
    let key = json!({"name": "signing", "key": "secret"});
    let url = format!("{}/v1/hook", Bao::shared().url());
    let spec = json!({"allowInsecure": true, "webhook": {"url": url, "signingSecretRef": key}});
    // 24 bytes, as they must be.
    vec![
        secret("signing", "secret", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"),
        object("NotificationChannel", name, &spec),
    ]
}

fn path(namespace: &str, kind: &str, name: &str) -> String {
    format!("{API}/namespaces/{namespace}/{}s/{name}", kind.to_lowercase())
}

fn apply(plane: &Plane, namespace: &str, objects: &[Value]) {
    plane.kubectl_ok(&["apply", "-n", namespace, "-f", "-"], Some(&list(objects)));
}

fn list(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

/// Waits until the operator has seen the object's present spec and its check says this; returns it.
fn wait_reason(cluster: &Cluster, path: &str, reason: &str) -> Value {
    wait_for(&format!("{path}: {reason}"), PATIENCE, || {
        let object = cluster.find(path).ok_or("no such object")?;
        let good = settled(&object) && ready(&object)["reason"] == reason;
        if good { Ok(object) } else { Err(object["status"].to_string()) }
    })
}

/// What kstatus, Argo CD and Flux say of these objects, a line for each.
fn told(plane: &Plane, objects: &[Value]) -> Vec<String> {
    let kstatus = plane.gitops(&["kstatus"], objects);
    let argo = plane.gitops(&["argocd-health", &argo_cd()], objects);
    let flux = plane.gitops(&["flux", &shipped("config/gitops/flux/kustomization-virtual-accounts.yaml")], objects);
    let status = |verdict: &Value| verdict["status"].as_str().expect("each says something").to_owned();
    let all = kstatus.iter().zip(&argo).zip(&flux);
    all.map(|((kstatus, argo), flux)| format!("{} {} {}", status(kstatus), status(argo), status(flux))).collect()
}

fn argo_cd() -> String {
    shipped("config/gitops/argocd/argocd-cm.yaml")
}

fn shipped(file: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file).display().to_string()
}
