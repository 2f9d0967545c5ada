//! The values: a misspelt one is refused in words that help, every flag has one, and each is documented.

use std::collections::BTreeSet;

use clap::CommandFactory;
use serde_json::Value;
use virtual_account_operator::config::Cli;

use crate::support::helm::{Helm, chart};
use crate::support::rendered::camel;
use crate::{VALUES, objects, only, read, render, values};

const SCHEMA: &str = "charts/virtual-account-operator/values.schema.json";
const GIVEN: &str = "issuerUrl=https://tokens.example.com";

/// Flags that are not among the settings: they come from other values, or are the same in every pod.
const ELSEWHERE: [&str; 7] =
    ["issuer-url", "namespace", "ops-address", "public-address", "tls-cert", "tls-key", "watch-namespaces"];

#[test]
fn what_is_wrong_is_named() {
    for (set, words) in [
        ("replica=3", "'replica' not allowed"),
        ("settings.maxTokenLifetme=300d", "'maxTokenLifetme' not allowed"),
        ("settings.maxTokenLifetime=300x", "/settings/maxTokenLifetime"),
        ("settings.workers=0", "/settings/workers"),
        ("settings.signingAlgorithm=HS256", "/settings/signingAlgorithm"),
        ("issuerUrl=tokens.example.com", "/issuerUrl"),
        ("issuerUrl=", "issuerUrl is required: the URL under which verifiers reach"),
        ("image.digest=sha256:0", "/image/digest"),
        ("image.tags=v1", "'tags' not allowed"),
        ("service.type=ExternalName", "/service/type"),
        ("podDisruptionBudget.maxUnavailable=some", "/podDisruptionBudget/maxUnavailable"),
        ("watchNamespaces={Payments}", "/watchNamespaces/0"),
        ("watchNamespaces={payments}", "settings.clusterId is required with watchNamespaces"),
        ("serviceAccount.create=false", "serviceAccount.name is required"),
        ("settings.leaderElect=false", "settings.leaderElect: false needs replicas: 1"),
        ("podSecurityContext.runAsNonRoot=false", "/podSecurityContext/runAsNonRoot"),
        ("podSecurityContext.seccompProfile.type=Unconfined", "/podSecurityContext/seccompProfile"),
        ("rbac.aggregate=true,settings.clusterId=a,watchNamespaces={payments}", "namespaced-user-roles.yaml"),
        ("tls=null", "missing property 'tls'"),
        ("settings=null", "missing property 'settings'"),
        ("image=null", "missing property 'image'"),
        ("image.registry=null", "missing property 'registry'"),
        ("service=null", "missing property 'service'"),
        ("watchNamespaces=null", "missing property 'watchNamespaces'"),
        ("admissionPolicies.statusWriters=null", "missing property 'statusWriters'"),
    ] {
        for helm in Helm::BOTH {
            let output = helm.offline(&["template", "example", &chart(), "--set", GIVEN, "--set", set]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains(words), "{helm:?} {set}: {said}");
        }
    }
}

/// Helm takes null for "without this value", also where values.yaml has one: the chart does without, or says what is missing.
#[test]
fn a_null_is_refused_or_the_same_as_nothing() {
    let defaults: Value = serde_saphyr::from_str(&read("charts/virtual-account-operator/values.yaml")).unwrap();
    let mut paths = Vec::new();
    for (name, value) in defaults.as_object().unwrap() {
        paths.push(name.clone());
        let below = value.as_object().into_iter().flatten();
        paths.extend(below.map(|(key, _)| format!("{name}.{key}")));
    }
    let mut rendered = 0;
    for path in paths.iter().filter(|path| *path != "issuerUrl") {
        // What is off by default is looked at, too.
        let on = ["admissionPolicies", "serviceMonitor", "prometheusRule", "dashboard"];
        let on = on.map(|name| ["--set".into(), format!("{name}.enabled=true")]).concat();
        let set = ["--set".into(), GIVEN.into(), "--set".into(), format!("{path}=null")];
        let words: Vec<&str> = on.iter().chain(&set).map(String::as_str).collect();
        let output = Helm::Four.offline(&[&["template", "example", &chart()], words.as_slice()].concat());
        let key = path.rsplit('.').next().unwrap();
        if output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(!text.contains("<nil>") && !text.contains("<no value>"), "{path}: {text}");
            let all = objects(&text);
            let service = all.iter().find(|object| object["kind"] == "Service").unwrap();
            assert_eq!(service["spec"]["ports"][0]["appProtocol"], "http", "{path}");
            assert!(only(&all, "Deployment")["spec"]["replicas"].is_u64(), "{path}");
            rendered += 1;
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains(&format!("missing property '{key}'")), "{path}: {said}");
        }
    }
    assert!(rendered > 20, "{rendered}");
}

#[test]
fn an_empty_list_is_no_flag() {
    for helm in Helm::BOTH {
        let template = ["template", "example", &chart(), "--set", GIVEN];
        let without = helm.offline_ok(&template);
        let empty = ["--set-json", "settings.allowedAudiences=[]"];
        let text = helm.offline_ok(&[&template[..], &empty].concat());
        let arguments = |text: &str| {
            only(&objects(text), "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"].clone()
        };
        assert_eq!(arguments(&text), arguments(&without), "{helm:?}");
    }
}

/// kustomize and post-renderers refuse a mapping that has a key twice; those that take the last one would run as root.
#[test]
fn no_key_is_there_twice_and_ours_win() {
    let theirs = r#"{"app.kubernetes.io/name": "x", "app.kubernetes.io/instance": "y", "team": "platform"}"#;
    let monitoring = ["serviceMonitor", "prometheusRule", "dashboard"];
    let labels = monitoring.iter().map(|name| format!("{name}={{\"enabled\": true, \"labels\": {theirs}}}"));
    let more = [
        format!("podLabels={theirs}"),
        r#"podAnnotations={"kubectl.kubernetes.io/default-container": "sidecar", "note": ""}"#.into(),
        r#"podSecurityContext={"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}, "fsGroup": 0}"#
            .into(),
    ];
    let set: Vec<String> = labels.chain(more).flat_map(|set| ["--set-json".to_owned(), set]).collect();
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    for helm in Helm::BOTH {
        let text = helm.offline_ok(&[&["template", "example", &chart(), "--set", GIVEN], &set[..]].concat());
        // The reader is a strict one.
        assert!(serde_saphyr::from_str::<Value>("a: 1\na: 2\n").is_err());
        let all = objects(&text);
        let pod = &only(&all, "Deployment")["spec"]["template"];
        let labelled = ["ServiceMonitor", "PrometheusRule", "ConfigMap"].map(|kind| only(&all, kind));
        for object in labelled.into_iter().chain([pod]) {
            let labels = &object["metadata"]["labels"];
            assert_eq!(labels["app.kubernetes.io/name"], "virtual-account-operator", "{helm:?} {object}");
            assert_eq!(
                (&labels["app.kubernetes.io/instance"], &labels["team"]),
                (&"example".into(), &"platform".into())
            );
        }
        let annotations = serde_json::json!({"kubectl.kubernetes.io/default-container": "sidecar", "note": ""});
        assert_eq!(pod["metadata"]["annotations"], annotations);
        assert_eq!(
            pod["spec"]["securityContext"],
            serde_json::json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 65532,
                "runAsGroup": 65532, "fsGroup": 0}),
        );
    }
}

#[test]
fn without_peers_nobody_reads_metrics_and_everybody_fetches_keys() {
    let rules = |set: &[&str]| {
        let text = Helm::Four.offline_ok(&[&["template", "example", &chart(), "--set", GIVEN], set].concat());
        only(&objects(&text), "NetworkPolicy")["spec"]["ingress"].clone()
    };
    let public = serde_json::json!({"ports": [{"port": "public"}]});
    let ops = serde_json::json!({"ports": [{"port": "ops"}], "from": [{"namespaceSelector": {}}]});
    assert_eq!(rules(&[]), serde_json::json!([public, ops]));
    assert_eq!(rules(&["--set-json", "networkPolicy.opsFrom=[]"]), serde_json::json!([public]));
}

#[test]
fn one_replica_without_election_is_replaced_and_not_doubled() {
    let set = [GIVEN, "settings.leaderElect=false", "replicas=1"].map(|set| ["--set", set]).concat();
    let text = Helm::Four.offline_ok(&[&["template", "example", &chart()], set.as_slice()].concat());
    assert!(text.contains("type: Recreate") && !text.contains("maxSurge"), "{text}");
}

#[test]
fn some_namespaces_only_need_nothing_cluster_wide_but_the_definitions() {
    let set = [GIVEN, "watchNamespaces={payments}", "settings.clusterId=a", "admissionPolicies.enabled=true"];
    let set = set.map(|set| ["--set", set]).concat();
    let text = Helm::Four.offline_ok(&[&["template", "example", &chart()], set.as_slice()].concat());
    assert!(!text.contains("kind: ClusterRole"), "{text}");
    // Another operator's accounts are not this one's to guard.
    let (_, policy) = text.split_once("name: example-virtual-account-operator-objects").expect("the policy");
    let (constraints, _) = policy.split_once("variables:").expect("the policy");
    assert!(constraints.contains("namespaceSelector") && constraints.contains("- payments"), "{constraints}");
}

#[test]
fn an_older_kubernetes_is_refused() {
    for helm in Helm::BOTH {
        let template = ["template", "example", &chart(), "--set", GIVEN, "--kube-version"];
        let output = helm.offline(&[&template[..], &["1.32.9"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(">=1.33"), "{helm:?}: {said}");
        // As managed clusters write theirs.
        helm.offline_ok(&[&template[..], &["v1.33.4-eks-1"]].concat());
    }
}

#[test]
fn every_flag_of_run_has_a_value() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let flags = run.get_arguments().chain(command.get_arguments().filter(|flag| flag.is_global_set()));
    let flags: BTreeSet<&str> = flags.filter_map(clap::Arg::get_long).filter(|flag| *flag != "help").collect();
    let expected: BTreeSet<String> =
        flags.iter().filter(|flag| !ELSEWHERE.contains(flag)).map(|flag| camel(flag)).collect();
    let schema: Value = serde_json::from_str(&read(SCHEMA)).unwrap();
    let settings = schema["properties"]["settings"]["properties"].as_object().unwrap();
    assert_eq!(settings.keys().cloned().collect::<BTreeSet<_>>(), expected, "{SCHEMA}: settings");
    let full: Value = serde_saphyr::from_str(&std::fs::read_to_string(values("full")).unwrap()).unwrap();
    assert_eq!(full["settings"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), expected, "ci/full");
}

/// The program itself takes what the chart makes of every value: the mapping from camelCase, lists and switches.
#[test]
fn the_program_takes_the_arguments_of_every_value() {
    for name in VALUES {
        let objects = objects(&render(Helm::Four, name));
        let container = &only(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
        let arguments = container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
        let given: Vec<&str> = std::iter::once("virtual-account-operator")
            .chain(arguments.filter(|argument| !argument.starts_with("--tls-")))
            .chain(["--issuer-url=https://tokens.example.com", "--namespace=virtual-accounts"])
            .collect();
        let parsed = Cli::command().try_get_matches_from(&given);
        assert!(parsed.is_ok(), "{name}: {given:?}: {}", parsed.unwrap_err());
    }
}

#[test]
fn switches_lists_and_numbers_become_flags() {
    let objects = objects(&render(Helm::Four, "full"));
    let container = &only(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let arguments = container["args"].as_array().unwrap();
    for argument in [
        "--adopt-restored",
        "--allowed-audiences=https://tokens.example.com/issuer,https://api.example.com",
        "--cluster-name=Example, east",
        "--leader-elect=true",
        "--reissue-rate=10",
        "--tls-cert=/etc/virtual-account-operator/tls/tls.crt",
    ] {
        assert!(arguments.contains(&argument.into()), "{argument}: {arguments:?}");
    }
    assert!(!arguments.iter().any(|argument| argument.as_str().unwrap().starts_with("--allow-local-endpoints")));
}

#[test]
fn the_schema_knows_every_value_and_no_other() {
    let schema: Value = serde_json::from_str(&read(SCHEMA)).unwrap();
    let defaults: Value = serde_saphyr::from_str(&read("charts/virtual-account-operator/values.yaml")).unwrap();
    compare("", &schema, &defaults);
}

fn compare(path: &str, schema: &Value, defaults: &Value) {
    // Those are explained by the program; which have a default here is a matter of taste.
    if path == ".settings" || schema["additionalProperties"] != false {
        return;
    }
    let known: BTreeSet<&String> =
        schema["properties"].as_object().unwrap().keys().filter(|key| *key != "global").collect();
    let Some(given) = defaults.as_object() else { return };
    let given: BTreeSet<&String> = given.keys().collect();
    if path == ".resources" {
        assert!(given.is_subset(&known), "{path}");
        return;
    }
    assert_eq!(known, given, "{path}: schema and values.yaml");
    for key in known {
        compare(&format!("{path}.{key}"), &schema["properties"][key], &defaults[key]);
    }
}
