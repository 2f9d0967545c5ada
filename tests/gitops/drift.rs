//! No drift: what was applied from Git stays as it was applied, whatever the operator does; and what GitOps tools write on
//! an account stays there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, PATIENCE, account, current, ready, settled, wait_for};
use crate::support::plane::Plane;
use crate::{API, WORLD, bao_store, list, object, webhook};

/// Nobody listens there.
const NOWHERE: &str = "https://127.0.0.1:1";

/// What stands in Git: the samples, and the least of each kind.
fn manifests() -> String {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/samples");
    let files = fs::read_dir(samples).expect("the samples").map(|file| file.expect("a file").path());
    let yaml = files.filter(|file| file.is_file()).map(|file| fs::read_to_string(file).expect("text"));
    let ours = yaml.filter(|yaml| {
        yaml.contains("\napiVersion: virtualaccounts.dev/") || yaml.starts_with("apiVersion: virtualaccounts.dev/")
    });
    let mut all: Vec<String> = ours.map(|yaml| harmless(&yaml)).collect();
    assert!(all.len() >= 10, "{} samples", all.len());
    let mut least = vec![account("least", json!({}))];
    least.extend(bao_store("bao"));
    least.extend(webhook("hook"));
    let elsewhere = json!([{"storeRef": {"name": "bao"}, "secretPath": "NAMESPACE-stored"}]);
    least.push(account("stored", json!({"secretStores": elsewhere, "autoRotate": {}})));
    least.extend(least_stores());
    least.extend(least_channels());
    all.push(list(&least));
    all.join("\n---\n")
}

/// Those that need no server.
fn least_stores() -> [Value; 4] {
    let aws = json!({"region": "eu-central-1", "endpoint": NOWHERE});
    [
        object("TokenStore", "aws", &json!({"awsSecretsManager": aws})),
        object("TokenStore", "parameters", &json!({"awsParameterStore": aws})),
        object(
            "TokenStore",
            "google",
            &json!({"googleSecretManager": {"projectId": "some-project", "endpoint": NOWHERE}}),
        ),
        object("TokenStore", "azure", &json!({"azureKeyVault": {"vaultUrl": NOWHERE}})),
    ]
}

/// Their Secret is not there, so nobody is called.
fn least_channels() -> [Value; 5] {
    let key = json!({"name": "missing", "key": "key"});
    let channel = |name: &str, spec: &Value| object("NotificationChannel", name, spec);
    [
        channel("least-mail", &json!({"email": {"host": "127.0.0.1", "port": 1, "from": "tokens@example.com"}})),
        channel("least-slack", &json!({"slackWebhook": {"urlRef": key}})),
        channel("least-bot", &json!({"slackBot": {"tokenRef": key, "endpoint": NOWHERE}})),
        channel("least-teams", &json!({"msTeamsWebhook": {"urlRef": key}})),
        channel("least-pager", &json!({"pagerDuty": {"integrationKeyRef": key, "endpoint": NOWHERE}})),
    ]
}

/// The samples name servers of the world; a test calls none of them.
fn harmless(yaml: &str) -> String {
    let servers = [
        "https://hooks.slack.com",
        "https://example.westeurope.logic.azure.com",
        "https://events.example.com",
        "https://vault.example.com",
    ];
    let yaml = servers.iter().fold(yaml.to_owned(), |yaml, server| yaml.replace(server, NOWHERE));
    yaml.replace("smtp.example.com", "127.0.0.1")
        .replace("# endpoint: https://events.eu.pagerduty.com", &format!("endpoint: {NOWHERE}"))
        .replace("  slackBot:\n", &format!("  slackBot:\n    endpoint: {NOWHERE}\n"))
}

/// How manifests are applied and compared.
#[derive(Clone, Copy)]
struct Applier(&'static [&'static str]);

/// As GitOps tools do it: what others have set meanwhile is taken back.
const SERVER_SIDE: Applier = Applier(&["--server-side", "--force-conflicts"]);
const CLIENT_SIDE: Applier = Applier(&[]);

impl Applier {
    fn run(self, plane: &Plane, verb: &str, ns: &str, manifest: &str) -> std::process::Output {
        let manifest = manifest.replace("NAMESPACE", ns);
        plane.kubectl(&[&[verb, "-n", ns, "-f", "-"], self.0].concat(), Some(&manifest))
    }

    fn apply(self, plane: &Plane, ns: &str, manifest: &str) {
        let output = self.run(plane, "apply", ns, manifest);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Exit code 0: no difference; 1: some; more: an error.
    fn assert_no_drift(self, plane: &Plane, ns: &str, when: &str) {
        let output = self.run(plane, "diff", ns, &manifests());
        let (told, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{:?} {when}: {told}{error}", self.0);
    }
}

const KINDS: [&str; 3] = ["virtualaccounts", "tokenstores", "notificationchannels"];

/// All objects of our kinds in a namespace.
fn all(cluster: &Cluster, ns: &str) -> Vec<Value> {
    let list = |kind: &&str| cluster.find(&format!("{API}/namespaces/{ns}/{kind}")).expect("a list");
    KINDS.iter().flat_map(|kind| list(kind)["items"].as_array().cloned().unwrap_or_default()).collect()
}

/// Waits until the operator has said of every object what there is to say.
fn settle(cluster: &Cluster, ns: &str) {
    wait_for(&format!("everything in {ns} to settle"), PATIENCE * 3, || {
        let unsettled = all(cluster, ns).into_iter().find(|object| {
            let issued = object["status"]["jwtId"].is_null() || ready(object)["status"] == "True";
            !settled(object) || ready(object).is_null() || !issued
        });
        unsettled.map_or(Ok(()), |object| Err(format!("{}: {}", object["metadata"]["name"], object["status"])))
    });
}

fn stays_as_applied(applier: Applier, prefix: &str) {
    let plane = WORLD.plane;
    let (cluster, ns) = (Cluster::of(plane), plane.namespace(prefix));
    applier.apply(plane, &ns, &manifests());
    settle(&cluster, &ns);
    applier.assert_no_drift(plane, &ns, "after the first issue");
    for issued in cluster.accounts(&ns) {
        let (name, jti) = (issued["metadata"]["name"].as_str().expect("a name"), current(&issued).expect("delivered"));
        cluster.annotate(&ns, name, "virtualaccounts.dev/rotate", &json!("incident-1"));
        cluster.wait_successor(&ns, name, jti);
    }
    settle(&cluster, &ns);
    applier.assert_no_drift(plane, &ns, "after a rotation");
}

#[test]
fn what_was_applied_server_side_shows_no_drift() {
    stays_as_applied(SERVER_SIDE, "ssa");
}

#[test]
fn what_was_applied_client_side_shows_no_drift() {
    stays_as_applied(CLIENT_SIDE, "csa");
}

#[test]
fn a_diff_that_finds_something_would_fail_the_tests_above() {
    let plane = WORLD.plane;
    let (cluster, ns) = (Cluster::of(plane), plane.namespace("drift"));
    for applier in [SERVER_SIDE, CLIENT_SIDE] {
        let name = format!("touched-{}", applier.0.len());
        let manifest = account(&name, json!({"description": "as in Git"})).to_string();
        applier.apply(plane, &ns, &manifest);
        cluster.edit(&ns, &name, &json!({"description": "by hand"}));
        assert_eq!(applier.run(plane, "diff", &ns, &manifest).status.code(), Some(1), "{:?}", applier.0);
    }
}

#[test]
fn a_field_set_by_an_action_is_drift_only_if_git_names_it() {
    let plane = WORLD.plane;
    let (cluster, ns) = (Cluster::of(plane), plane.namespace("action"));
    for applier in [SERVER_SIDE, CLIENT_SIDE] {
        for (spec, expected) in [(json!({}), 0), (json!({"suspend": false}), 1)] {
            let name = format!("suspended-{}-{expected}", applier.0.len());
            let manifest = account(&name, spec).to_string();
            applier.apply(plane, &ns, &manifest);
            cluster.edit(&ns, &name, &json!({"suspend": true}));
            cluster.annotate(&ns, &name, "virtualaccounts.dev/rotate", &json!("argocd-1"));
            // A diff is two requests; a status that is written between them would show.
            cluster.wait_reason(&ns, &name, "Suspended");
            let output = applier.run(plane, "diff", &ns, &manifest);
            assert_eq!(output.status.code(), Some(expected), "{name}");
        }
    }
}

/// What Argo CD, Flux, Helm and kubectl track by.
fn tracked(ns: &str) -> Value {
    let mut tracked = account("cart", json!({"autoRotate": {"autoRotateInterval": "90d"}}));
    tracked["metadata"]["labels"] = json!({
        "app.kubernetes.io/instance": "shop",
        "app.kubernetes.io/managed-by": "Helm",
        "argocd.argoproj.io/instance": "shop",
        "kustomize.toolkit.fluxcd.io/name": "shop",
        "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
        "helm.toolkit.fluxcd.io/name": "shop",
        "helm.toolkit.fluxcd.io/namespace": "flux-system",
        "team": "payments",
    });
    tracked["metadata"]["annotations"] = json!({
        "argocd.argoproj.io/tracking-id": format!("shop:virtualaccounts.dev/VirtualAccount:{ns}/cart"),
        "argocd.argoproj.io/sync-wave": "5",
        "kustomize.toolkit.fluxcd.io/prune": "disabled",
        "meta.helm.sh/release-name": "shop",
    });
    tracked
}

fn keys(object: &Value, part: &str) -> BTreeSet<String> {
    object["metadata"][part].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
}

#[test]
fn what_tools_track_by_is_never_copied_to_the_secret() {
    let plane = WORLD.plane;
    let (cluster, ns) = (Cluster::of(plane), plane.namespace("tracked"));
    // By the client, so that kubectl's own annotation is there too.
    CLIENT_SIDE.apply(plane, &ns, &tracked(&ns).to_string());
    let issued = cluster.wait_ready(&ns, "cart");
    assert!(keys(&issued, "annotations").contains("kubectl.kubernetes.io/last-applied-configuration"));
    let labels = ["app.kubernetes.io/managed-by", "virtualaccounts.dev/account"];
    let set = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>();
    let first = cluster.secret(&ns, "cart-token").expect("a Secret");
    assert_eq!(first["metadata"]["labels"]["app.kubernetes.io/managed-by"], "virtual-account-operator");
    assert_eq!(keys(&first, "labels"), set(&labels));
    assert_eq!(keys(&first, "annotations"), set(&["virtualaccounts.dev/account-uid"]));
    cluster.annotate(&ns, "cart", "virtualaccounts.dev/rotate", &json!("once"));
    cluster.wait_successor(&ns, "cart", current(&issued).expect("delivered"));
    let second = cluster.secret(&ns, "cart-token").expect("a Secret");
    assert_eq!(keys(&second, "labels"), set(&labels));
    let annotations = set(&["virtualaccounts.dev/account-uid", "virtualaccounts.dev/rotate-handled"]);
    assert_eq!(keys(&second, "annotations"), annotations);
}
