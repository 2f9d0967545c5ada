//! What the page on GitOps says is what happens.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use crate::health::STATES;
use crate::support::cluster::{Cluster, account};
use crate::{WORLD, shipped};

fn page() -> String {
    fs::read_to_string(shipped("docs/gitops.md")).expect("the page")
}

/// The blocks of the page in this language.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page().split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_table_of_states_is_what_the_tools_say() {
    let text = page();
    let table = text.split("| kind | `Ready` |").nth(1).expect("the table").lines().skip(2);
    let mut listed = BTreeSet::new();
    for row in table.take_while(|line| line.starts_with('|')) {
        let cells: Vec<String> = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let [kind, status, reasons, kstatus, argo] = cells.as_slice() else { panic!("{row}") };
        let verdict = format!("{kstatus} {argo} {kstatus}");
        listed.extend(reasons.split(", ").map(|reason| format!("{kind} {status} {reason} {verdict}")));
    }
    // The table cannot name what a provider says.
    let named = |kind: &str, reason: &str| {
        let own = kind == "VirtualAccount" || matches!(reason, "Checked" | "InvalidSpec");
        if own { reason.to_owned() } else { "what the check said".to_owned() }
    };
    let tested = STATES.iter().map(|(kind, status, reason, _, verdict)| {
        let reason = named(kind, reason);
        format!("{kind} {status} {reason} {verdict}")
    });
    assert_eq!(listed, tested.collect());
}

#[test]
fn the_sample_is_accepted_and_can_be_waited_for() {
    let plane = WORLD.plane;
    let ns = plane.namespace("page");
    let yaml = blocks("yaml");
    plane.kubectl_ok(&["apply", "--validate=strict", "-n", &ns, "-f", "-"], Some(&yaml[0]));
    let wait = blocks("sh").remove(0);
    let command: Vec<&str> = wait.split_whitespace().skip(1).collect();
    plane.kubectl_ok(&[&command, ["-n", ns.as_str()].as_slice()].concat(), None);
    let cluster = Cluster::of(plane);
    // The annotation alone, as the page has it.
    let rotate = yaml[1].lines().find_map(|line| line.trim().strip_prefix("virtualaccounts.dev/rotate: ")).expect("it");
    let first = cluster.wait_ready(&ns, "cart");
    cluster.annotate(&ns, "cart", "virtualaccounts.dev/rotate", &json!(rotate));
    let jti = first["status"]["jwtId"].as_str().expect("issued");
    cluster.wait_successor(&ns, "cart", jti);
}

#[test]
fn the_keys_can_be_merged_into_a_config_map_that_has_others() {
    let plane = WORLD.plane;
    plane.kubectl(&["create", "namespace", "argocd"], None);
    plane.kubectl_ok(&["create", "configmap", "argocd-cm", "-n", "argocd", "--from-literal=url=https://cd.test"], None);
    let patch = blocks("sh").remove(1);
    let file = shipped("config/gitops/argocd/argocd-cm.yaml");
    let command = patch.replace("config/gitops/argocd/argocd-cm.yaml", &file);
    plane.kubectl_ok(&command.split_whitespace().skip(1).collect::<Vec<_>>(), None);
    let merged = Cluster::of(plane).find("/api/v1/namespaces/argocd/configmaps/argocd-cm").expect("a ConfigMap");
    let keys: BTreeSet<&str> = merged["data"].as_object().expect("keys").keys().map(String::as_str).collect();
    assert!(keys.contains("url") && keys.len() == 6, "{keys:?}");
}

#[test]
fn the_expression_of_the_page_fails_at_once_where_a_store_may_not_be_used() {
    let shipped = fs::read_to_string(shipped("config/gitops/flux/kustomization-virtual-accounts.yaml")).expect("it");
    let usual = "status.conditions.exists(c, c.type == 'Stalled' && c.status == 'True')";
    assert!(shipped.contains(usual));
    let file = WORLD.plane.dir().join("flux.yaml");
    fs::write(&file, shipped.replace(usual, blocks("text")[0].trim())).expect("the plane's directory can be written");
    let mut refused = account("cart", json!({}));
    refused["status"] = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "NotAllowed"}]});
    let told = WORLD.plane.gitops(&["flux", &file.to_string_lossy()], &[refused]);
    assert_eq!(told[0]["status"], "Failed");
}
