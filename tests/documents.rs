//! What is committed beside the source says what the source says: the definitions, their descriptions, and the README's
//! tables of settings and metrics.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::CommandFactory;
use serde_json::Value;
use virtual_account_operator::api::{
    Instant, IssueReason, VirtualAccount, VirtualAccountSpec, VirtualAccountStatus, crds,
};
use virtual_account_operator::config::Cli;
use virtual_account_operator::metrics::Metrics;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rows of a README table whose first cell is code: the cells, without backticks.
fn rows(first_header: &str) -> Vec<Vec<String>> {
    let readme = read("README.md");
    let table = readme.split(&format!("| {first_header} |")).nth(1).expect("the table exists");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()).collect()
}

#[test]
fn every_field_has_a_description() {
    fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].as_str().is_none_or(str::is_empty) {
                missing.push(path.clone());
            }
            walk(&path, field, missing);
            walk(&path, &field["items"], missing);
        }
    }
    let mut missing = Vec::new();
    for crd in crds() {
        let name = crd.spec.names.singular.clone().unwrap();
        let crd = serde_json::to_value(&crd).unwrap();
        walk(&name, &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut missing);
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_committed_definitions_are_those_of_the_types() {
    let printed = Command::new(env!("CARGO_BIN_EXE_virtual-account-operator")).arg("crd").output().unwrap();
    let files: Vec<String> = crds().iter().map(|crd| format!("{}.yaml", crd.spec.names.plural)).collect();
    let listed: Vec<String> =
        read("crds/kustomization.yaml").lines().filter_map(|line| line.strip_prefix("- ").map(str::to_owned)).collect();
    assert_eq!(listed, files, "crds/kustomization.yaml");
    let committed: String = files.iter().map(|file| read(&format!("crds/{file}"))).collect();
    let ours = String::from_utf8(printed.stdout).unwrap();
    let difference = committed.lines().zip(ours.lines()).find(|(committed, ours)| committed != ours);
    assert!(committed == ours, "run `make crds`; first difference (committed, ours): {difference:?}");
}

#[test]
fn the_readme_lists_every_setting() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let flags = run.get_arguments().chain(command.get_arguments().filter(|flag| flag.is_global_set()));
    let expected: BTreeSet<(String, String)> = flags
        .filter_map(|flag| Some((format!("--{}", flag.get_long()?), flag.get_env()?.to_str()?.to_owned())))
        .collect();
    let rows = rows("flag");
    let listed: BTreeSet<_> = rows.iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(listed, expected);
    for flag in run.get_arguments().filter(|flag| !flag.get_default_values().is_empty()) {
        let row = rows.iter().find(|row| row[0].trim_start_matches("--") == flag.get_long().unwrap()).unwrap();
        assert_eq!([row[2].as_str()], flag.get_default_values(), "{}", row[0]);
    }
}

/// A family without a series is not in the text, so each gets one.
fn used_metrics() -> Metrics {
    let (metrics, instant) = (Metrics::new(Instant::from_unix(0)), Instant::from_unix(0));
    metrics.reconciled("ok");
    metrics.failed("Conflict");
    metrics.issued(IssueReason::First);
    metrics.wrote("update", "secrets");
    metrics.introspected("Active");
    metrics.store_called("hashicorpVault", "read", "ok", Duration::from_millis(1));
    metrics.notice_sent("email", "ok", Duration::from_millis(1));
    metrics.keys([("Active", instant)]);
    let mut account = VirtualAccount::new("a", VirtualAccountSpec::default());
    account.metadata.namespace = Some("b".into());
    account.status = Some(VirtualAccountStatus {
        expires_at: Some(instant),
        next_scheduled_rotation: Some(instant),
        ..VirtualAccountStatus::default()
    });
    metrics.account(&account);
    metrics
}

#[test]
fn the_readme_lists_every_metric() {
    let text = used_metrics().text().unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let expected: BTreeSet<String> =
        types.map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() }).collect();
    let listed: BTreeSet<String> = rows("metric").into_iter().map(|mut row| row.swap_remove(0)).collect();
    assert_eq!(listed, expected);
}
