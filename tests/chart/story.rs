//! What the chart installs works: the operator is run with the arguments, the environment and the rights of the Deployment.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use tokio::runtime::Builder;

use crate::support::cluster::{Cluster, current, token};
use crate::support::helm::{Helm, chart};
use crate::support::operator::{ISSUER, NAMESPACE, Operator, Options};
use crate::support::pki::{Authority, Dir};
use crate::support::plane::Plane;
use crate::support::rendered::Release;

#[test]
fn what_the_chart_installs_works() {
    let plane = Plane::start();
    let release = Release::new(Helm::Four, NAMESPACE, json!({"issuerUrl": ISSUER, "settings": {"workers": 4}}));
    release.install(&plane);
    let (env, arguments) = release.container(&plane, "pod-0");
    assert!(env.contains(&format!("VAO_ISSUER_URL={ISSUER}")) && env.contains(&"POD_NAME=pod-0".to_owned()), "{env:?}");
    assert!(env.contains(&format!("POD_NAMESPACE={NAMESPACE}")), "{env:?}");
    assert_eq!(arguments, ["run", "--log-format=json", "--workers=4"]);

    let operator = Operator::start(&plane, Options { release: Some(release.clone()), ..Options::default() });
    let cluster = Cluster::of(&plane);
    let apps = plane.namespace("apps");
    cluster.create_account(&apps, "cart", json!({}));
    let account = cluster.wait_ready(&apps, "cart");
    let secret = cluster.secret(&apps, "cart-token").expect("the Secret exists");
    assert_eq!(operator.get("/.well-known/openid-configuration").json()["issuer"], ISSUER);
    let answer = operator.introspect(&token(&secret));
    assert_eq!((&answer["active"], &answer["jti"]), (&json!(true), &json!(current(&account))), "{answer}");
    cluster.wait_event(&apps, "cart", "Issued");
    // The right to the key ring comes from the Role of the operator's namespace.
    assert!(cluster.secret(NAMESPACE, "virtual-account-operator-keys").is_some());
    cluster.annotate(&apps, "cart", "virtualaccounts.dev/rotate", &json!("now,grace=0s"));
    cluster.wait_successor(&apps, "cart", current(&account).unwrap());
    assert!(!operator.accepts(&token(&secret)));
    follow_the_notes(&plane);
    hand_over(&plane, operator, &release, &apps);
    follow_the_page_on_tls(&plane, &release);
    let refused = refusals(&plane);
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn both_helms_install_what_is_asked_for_and_no_more() {
    // Not a shared one: definitions and roles are the cluster's, and Helm does not install beside another who does.
    let plane = &Plane::start();
    for (helm, name) in [(Helm::Three, "three"), (Helm::Four, "four")] {
        let namespace = format!("vao-{name}");
        let mut release = Release::new(helm, &namespace, json!({"issuerUrl": ISSUER}));
        release.name = name.into();
        release.install(plane);
        let deployment = release.deployment(plane);
        assert_eq!(deployment["metadata"]["name"], format!("{name}-virtual-account-operator"));
        assert_eq!(deployment["spec"]["replicas"], 2);

        let pair = ["--from-literal=tls.crt=a certificate", "--from-literal=tls.key=a key"];
        plane.kubectl_ok(&[&["create", "secret", "generic", "pair", "-n", &namespace], &pair[..]].concat(), None);
        let settings = json!({"logFormat": "json", "reissueRate": 7});
        let tls = json!({"secretName": "pair"});
        release.values = json!({"issuerUrl": ISSUER, "replicas": 3, "tls": tls, "settings": settings});
        release.install(plane);
        let upgraded = release.deployment(plane);
        assert_eq!(upgraded["metadata"]["uid"], deployment["metadata"]["uid"], "{helm:?}: upgraded in place");
        assert_eq!(upgraded["spec"]["replicas"], 3);
        let [run, cert, key, format, rate] = &release.container(plane, "pod").1[..] else { panic!("five arguments") };
        assert_eq!([run, format, rate], ["run", "--log-format=json", "--reissue-rate=7"]);
        for (argument, flag, content) in [(cert, "--tls-cert=", "a certificate"), (key, "--tls-key=", "a key")] {
            let file = argument.strip_prefix(flag).unwrap_or_else(|| panic!("{argument} is not {flag}"));
            assert_eq!(std::fs::read_to_string(file).unwrap(), content);
        }

        release.uninstall(plane);
        let kinds = "deployment,service,serviceaccount,role,rolebinding,poddisruptionbudget,networkpolicy";
        let left = plane.kubectl_ok(&["get", kinds, "-n", &namespace, "-o", "name"], None);
        assert_eq!(left, "serviceaccount/default", "{helm:?}");
        let roles = plane.kubectl_ok(&["get", "clusterroles,clusterrolebindings", "-o", "name"], None);
        assert!(!roles.contains(&format!("/{name}-virtual-account-operator")), "{helm:?}: {roles}");
    }
}

/// The Deployment's second replica serves the same keys, and goes on when the first one goes.
fn hand_over(plane: &Plane, mut first: Operator, release: &Release, namespace: &str) {
    let env = vec![("POD_NAME".to_owned(), "operator-1".to_owned())];
    let second = Operator::start(plane, Options { release: Some(release.clone()), env, ..Options::default() });
    assert_eq!(second.jwks(), first.jwks());
    let lease = |column: &str| {
        let output = format!("-o=jsonpath={{.spec.{column}}}");
        plane.kubectl_ok(&["get", "lease", "virtual-account-operator", "-n", NAMESPACE, &output], None)
    };
    assert!(lease("holderIdentity").starts_with("operator-0"), "{}", lease("holderIdentity"));
    assert!(first.terminate().success(), "an orderly end");
    let cluster = Cluster::of(plane);
    cluster.create_account(namespace, "second", json!({}));
    cluster.wait_ready(namespace, "second");
    assert!(lease("holderIdentity").starts_with("operator-1"), "{}", lease("holderIdentity"));
}

/// What NOTES.txt tells the reader to do can be done.
fn follow_the_notes(plane: &Plane) {
    let notes = Helm::Four.on_ok(plane, &["get", "notes", "virtual-account-operator", "-n", NAMESPACE]);
    let manifest = notes.split("<<YAML\n").nth(1).and_then(|rest| rest.split("\n     YAML").next());
    let manifest = manifest.unwrap_or_else(|| panic!("a manifest: {notes}")).replace("\n     ", "\n");
    plane.kubectl_ok(&["apply", "--validate=strict", "-f", "-"], Some(manifest.trim_start()));
    Cluster::of(plane).wait_ready("default", "payments-api");
    for object in [
        "deployment/virtual-account-operator",
        "service/virtual-account-operator",
        "secret/virtual-account-operator-keys",
    ] {
        let (kind, name) = object.split_once('/').unwrap();
        assert!(notes.contains(name), "{notes}");
        plane.kubectl_ok(&["get", kind, name, "-n", NAMESPACE], None);
    }
}

/// The commands of docs/tls.md bring HTTPS to the release that is there, with the files of the Secret that they name.
fn follow_the_page_on_tls(plane: &Plane, release: &Release) {
    let (desk, authority) = (Dir::new("tls-page"), Authority::new("one"));
    let pair = authority.issue("va", 2090);
    let [cert, key] = [("cert.pem", &pair.cert), ("key.pem", &pair.key)]
        .map(|(name, text)| desk.write(name, text).display().to_string());
    let secret = ["create", "secret", "tls", "virtual-account-operator-tls", "--cert", &cert, "--key", &key];
    plane.kubectl_ok(&[&secret[..], &["-n", NAMESPACE]].concat(), None);
    // What the reader has at hand: a checkout, and the values of the release.
    desk.write("values.yaml", &release.values.to_string());
    symlink(Path::new(&chart()).parent().unwrap(), desk.path("charts")).unwrap();
    let page = crate::read("docs/tls.md");
    let blocks: Vec<&str> = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.iter().any(|block| block.contains("helm upgrade")), "{blocks:?}");
    for block in blocks {
        release.helm.shell_ok(plane, &desk.path("."), block);
    }

    let env = vec![("POD_NAME".to_owned(), "operator-2".to_owned())];
    let operator = Operator::start(plane, Options { release: Some(release.clone()), env, ..Options::default() });
    let url = format!("https://{}/.well-known/openid-configuration", operator.public_address());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let discovery = runtime.block_on(async {
        let answer = authority.client().build()?.get(url).send().await?.error_for_status()?;
        answer.json::<Value>().await
    });
    let issuer = discovery.unwrap()["issuer"].as_str().unwrap().to_owned();
    let (env, arguments) = release.container(plane, "operator-2");
    assert!(env.contains(&format!("VAO_ISSUER_URL={issuer}")), "{issuer} is not in {env:?}");
    assert!(arguments.contains(&"--workers=4".to_owned()), "other values are kept: {arguments:?}");
}

/// What RBAC refused to the operator.
fn refusals(plane: &Plane) -> Vec<String> {
    let operator = "system:serviceaccount:virtual-accounts:virtual-account-operator";
    let refused = plane.audit().into_iter().filter(|event| event.user == operator && event.code == 403);
    refused.map(|event| format!("{} {}", event.verb, event.request_uri)).collect()
}

#[test]
fn the_rendered_folder_is_applied_on_the_server_side() {
    let plane = Plane::start();
    let folder = crate::root().join("config/default").display().to_string();
    plane.kubectl_ok(&["apply", "--server-side", "--force-conflicts", "--validate=strict", "-k", &folder], None);
    let text =
        plane.kubectl_ok(&["get", "deployment", "virtual-account-operator", "-n", NAMESPACE, "-o", "json"], None);
    let deployment: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(deployment["spec"]["template"]["spec"]["serviceAccountName"], "virtual-account-operator");
    // What holds accounts and the key ring is not pruned.
    for object in ["crd", &format!("namespace/{NAMESPACE}")] {
        let text = plane.kubectl_ok(&["get", object, "-o", "json"], None);
        let found: Value = serde_json::from_str(&text).unwrap();
        let items = found["items"].as_array().cloned().unwrap_or_else(|| vec![found]);
        let kept = |item: &Value, key: &str| item["metadata"]["annotations"][key].as_str().map(str::to_owned);
        for item in &items {
            let (argo, flux) = ("argocd.argoproj.io/sync-options", "kustomize.toolkit.fluxcd.io/prune");
            assert_eq!(kept(item, argo).as_deref(), Some("Prune=false,Delete=false"), "{}", item["metadata"]);
            assert_eq!(kept(item, flux).as_deref(), Some("disabled"), "{}", item["metadata"]);
        }
        assert_eq!(items.len(), if object == "crd" { 3 } else { 1 });
    }
    let labels = plane.kubectl_ok(&["get", "namespace", NAMESPACE, "-o", "jsonpath={.metadata.labels}"], None);
    assert!(labels.contains("restricted"), "{labels}");
    let drift = plane.kubectl(&["diff", "--server-side", "--force-conflicts", "-k", &folder], None);
    assert!(drift.status.success(), "{}", String::from_utf8_lossy(&drift.stdout));
}
