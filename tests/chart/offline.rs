//! Without a cluster: both Helms agree, the manifests are right by the schemas of the oldest and the newest Kubernetes, and
//! what is generated is up to date.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::helm::{Helm, chart, script, succeeded, tools};
use crate::{VALUES, objects, only, read, render, root, values};

#[test]
fn both_helms_find_nothing_to_complain_about() {
    for helm in Helm::BOTH {
        for name in VALUES {
            let said = helm.offline_ok(&["lint", "--strict", &chart(), "--values", &values(name)]);
            assert!(said.contains("0 chart(s) failed"), "{helm:?} {name}: {said}");
        }
    }
}

#[test]
fn both_helms_render_the_same() {
    let sorted = |helm, name| {
        let mut objects = objects(&render(helm, name));
        objects.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]["name"]));
        objects
    };
    for name in VALUES {
        let (three, four) = (sorted(Helm::Three, name), sorted(Helm::Four, name));
        assert!(three.len() > 4, "{name}: {}", three.len());
        assert_eq!(three, four, "{name}");
    }
}

#[test]
fn kubernetes_1_33_and_1_37_know_every_field() {
    let schemas = script("hack/schemas.sh");
    for version in ["1.33", "1.37"] {
        for name in VALUES {
            let rendered = render(Helm::Four, name);
            let complaints = validate(&schemas.join(version), &rendered);
            assert_eq!(complaints, None, "Kubernetes {version}, {name}");
        }
        let misspelt = render(Helm::Four, "default").replace("maxUnavailable: 0", "maxUnavailible: 0");
        let complaints = validate(&schemas.join(version), &misspelt).expect("a misspelt field is found");
        assert!(complaints.contains("maxUnavailible"), "{complaints}");
    }
}

/// What kubeconform says against it.
fn validate(schemas: &Path, manifests: &str) -> Option<String> {
    let location = format!("{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", schemas.display());
    // Kinds of the Prometheus operator; all others must have a schema.
    let skipped = "monitoring.coreos.com/v1/ServiceMonitor,monitoring.coreos.com/v1/PrometheusRule";
    let mut child = Command::new(tools().join("kubeconform"))
        .args(["-strict", "-schema-location", &location, "-skip", skipped, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(manifests.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn definitions_in_the_chart_are_those_of_the_repository() {
    let folder = format!("{}/files/crds", chart());
    let mut copies = 0;
    for copy in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        let original = root().join("crds").join(copy.file_name().unwrap());
        assert_eq!(fs::read_to_string(&copy).unwrap(), fs::read_to_string(original).unwrap(), "run `make crds`");
        copies += 1;
    }
    assert_eq!(copies, virtual_account_operator::api::crds().len());
}

#[test]
fn definitions_stay_when_the_release_goes() {
    let annotation = |object: &Value| object["metadata"]["annotations"]["helm.sh/resource-policy"].clone();
    let kept = json!({
        "helm.sh/resource-policy": "keep",
        "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
        "kustomize.toolkit.fluxcd.io/prune": "disabled",
    });
    for helm in Helm::BOTH {
        let objects = objects(&render(helm, "default"));
        let (definitions, others): (Vec<_>, Vec<_>) =
            objects.iter().partition(|object| object["kind"] == "CustomResourceDefinition");
        assert_eq!(definitions.len(), virtual_account_operator::api::crds().len());
        assert!(definitions.iter().all(|object| object["metadata"]["annotations"] == kept));
        // Nothing else outlives it: neither a Secret nor a namespace of the release holds tokens or keys.
        assert!(others.iter().all(|object| annotation(object).is_null()));
        assert!(others.iter().all(|object| object["kind"] != "Secret" && object["kind"] != "Namespace"));
        let set = ["--set", "issuerUrl=https://tokens.example.com", "--set", "crds.keep=false"];
        let unkept = crate::objects(&helm.offline_ok(&[&["template", "example", &chart()], &set[..]].concat()));
        let mut definitions = unkept.iter().filter(|object| object["kind"] == "CustomResourceDefinition");
        assert!(definitions.all(|object| object["metadata"]["annotations"].is_null()), "as was asked for");
    }
}

#[test]
fn the_rendered_folder_is_up_to_date() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{}", std::process::id()));
    let rendered = folder.join("default");
    let output = Command::new(root().join("hack/render.sh")).arg(&rendered).output().unwrap();
    succeeded("hack/render.sh", &output);
    let files = [root().join("config/default"), rendered].map(|folder| files(&folder));
    fs::remove_dir_all(folder).unwrap();
    assert_eq!(files[0], files[1], "run `make render`");
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().display().to_string(), fs::read_to_string(&path).unwrap())).collect()
}

/// A change here restarts every installation's pods in another way than before: it should be meant.
#[test]
fn the_pod_is_as_safe_as_it_can_be() {
    let objects = objects(&render(Helm::Three, "default"));
    let spec = &only(&objects, "Deployment")["spec"];
    assert_eq!(spec["replicas"], 2);
    assert_eq!(spec["strategy"]["rollingUpdate"], serde_json::json!({"maxSurge": 1, "maxUnavailable": 0}));
    let pod = &spec["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert_eq!(container["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
    assert!(container["resources"]["limits"]["cpu"].is_null(), "a throttled leader may lose its Lease");
    for (probe, path) in [("startupProbe", "/healthz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
        assert_eq!(container[probe]["httpGet"], serde_json::json!({"path": path, "port": "ops"}), "{probe}");
    }
    // The drain of the listeners and the passes in hand come after preStop; see src/http and src/run.
    assert!(pod["terminationGracePeriodSeconds"].as_u64() >= Some(30));
}

#[test]
fn ports_are_those_of_the_flags() {
    let run = <virtual_account_operator::config::Cli as clap::CommandFactory>::command();
    let run = run.find_subcommand("run").unwrap();
    let objects = objects(&render(Helm::Three, "default"));
    let ports = &only(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["ports"];
    for (port, name) in ports.as_array().unwrap().iter().zip(["public", "ops"]) {
        assert_eq!(port["name"], name);
        let flag = run.get_arguments().find(|flag| flag.get_long() == Some(&format!("{name}-address"))).unwrap();
        let default = flag.get_default_values()[0].to_str().unwrap();
        assert_eq!(default, format!("0.0.0.0:{}", port["containerPort"]));
    }
}

#[test]
fn the_version_is_that_of_the_program() {
    let chart: Value = serde_saphyr::from_str(&read("charts/virtual-account-operator/Chart.yaml")).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_rule_has_its_reason() {
    for (name, template) in [("default", "rbac"), ("namespaced", "rbac"), ("default", "user-roles")] {
        let template = format!("templates/{template}.yaml");
        let only = ["--show-only", &template, "--values", &values(name)];
        let rendered = Helm::Three.offline_ok(&[&["template", "example", &chart()], &only[..]].concat());
        let lines: Vec<_> = rendered.lines().collect();
        let rules: Vec<_> = (1..lines.len()).filter(|&at| lines[at].starts_with("- apiGroups:")).collect();
        assert!(rules.len() >= 4, "{name} {template}: {rules:?}");
        for &at in &rules {
            assert!(explained(&lines, &rules, at), "{name} {template}: no reason for {}", lines[at..at + 3].join(" "));
        }
    }
}

/// Whether a comment stands directly above this rule, or it goes on with the resources of the rule before, which has one.
fn explained(lines: &[&str], rules: &[usize], at: usize) -> bool {
    if lines[at - 1].starts_with("# ") {
        return true;
    }
    let before = rules.iter().rev().find(|&&rule| rule < at).filter(|&&rule| !lines[rule..at].contains(&"---"));
    before.is_some_and(|&before| lines[before..before + 2] == lines[at..at + 2] && explained(lines, rules, before))
}

#[test]
fn a_rule_without_a_reason_would_be_found() {
    let rule = |resource: &str| format!("- apiGroups: [a]\n  resources: [{resource}]\n  verbs: [get]\n");
    let two = |between: &str, second: &str| format!("rules:\n# Why.\n{}{between}{}", rule("x"), rule(second));
    for (text, expected) in [
        (two("", "x"), true),
        (two("# Why.\n", "y"), true),
        (two("", "y"), false),
        (two("---\nrules:\n", "x"), false),
        (format!("# Far above.\nrules:\n{}{}", rule("x"), rule("x")), false),
    ] {
        let lines: Vec<_> = text.lines().collect();
        let rules: Vec<_> = (1..lines.len()).filter(|&at| lines[at].starts_with("- apiGroups:")).collect();
        assert_eq!(rules.iter().all(|&at| explained(&lines, &rules, at)), expected, "{text}");
    }
}
