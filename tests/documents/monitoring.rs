//! Metrics, alerts, runbooks and dashboard agree with each other, and the alerts behave as they say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use virtual_account_operator::api::{Instant, IssueReason, VirtualAccount, VirtualAccountSpec, VirtualAccountStatus};
use virtual_account_operator::metrics::Metrics;

use super::promtool::{RULES, promtool, root};
use super::{read, rows};

const PAGE: &str = "docs/metrics.md";
const CASES: &str = "tests/monitoring/alerts.test.yaml";
const CALM: &str = "tests/monitoring/calm.test.yaml";
const DASHBOARD: &str = "charts/virtual-account-operator/files/dashboard.json";
/// What Prometheus adds to each series.
const TARGET: [&str; 4] = ["job", "instance", "pod", "namespace"];

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
    metrics.public_certificate(instant);
    metrics.keys([("Active", instant)]);
    metrics.key_rotation(Some(instant));
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

/// Name, type and labels of each metric.
fn exposed() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = used_metrics().text().unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| {
            let suffix = match kind {
                "counter" => "_total",
                "histogram" => "_count",
                _ => "",
            };
            let sample = format!("{name}{suffix}");
            let of_it = |line: &&str| line.strip_prefix(&sample).is_some_and(|rest| rest.starts_with([' ', '{']));
            let line = text.lines().find(of_it).unwrap_or_else(|| panic!("no series of {name}: use it above"));
            let name = if kind == "counter" { sample } else { name.to_owned() };
            (name, (kind.to_owned(), labels(line)))
        })
        .collect()
}

fn labels(line: &str) -> BTreeSet<String> {
    let inside = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(inside, _)| inside);
    inside.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn the_page_on_metrics_lists_every_metric_as_it_is() {
    let cells = |cell: &str| cell.split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
    let rows = rows(PAGE, "metric");
    let listed: BTreeMap<_, (String, BTreeSet<String>)> =
        rows.iter().map(|row| (row[0].clone(), (row[1].clone(), cells(&row[2])))).collect();
    assert_eq!(listed, exposed());
    assert_eq!(listed.len(), rows.len(), "one is listed twice");
    for row in rows {
        assert!(row.len() == 5 && !row[3].is_empty() && !row[4].is_empty(), "unit and meaning: {row:?}");
    }
}

fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&read(RULES)).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn name(alert: &Value) -> String {
    alert["alert"].as_str().unwrap().to_owned()
}

#[test]
fn every_alert_says_what_it_is_and_where_its_runbook_is() {
    for alert in alerts() {
        let name = name(&alert);
        assert!(matches!(alert["labels"]["severity"].as_str(), Some("critical" | "warning")), "{name}");
        for key in ["summary", "description"] {
            assert!(alert["annotations"][key].as_str().is_some_and(|text| !text.is_empty()), "{name}: {key}");
        }
        assert_eq!(alert["annotations"]["runbook_url"], format!("docs/runbooks/{name}.md"));
    }
}

#[test]
fn there_is_a_runbook_for_every_alert_and_no_other() {
    let files = fs::read_dir(root().join("docs/runbooks")).unwrap();
    let files: BTreeSet<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap().replace(".md", "")).collect();
    assert_eq!(files, alerts().iter().map(name).collect());
    for name in files {
        let text = read(&format!("docs/runbooks/{name}.md"));
        let headings: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
        let title = format!("# {name}");
        assert_eq!(headings, [&title, "## What it means", "## Impact", "## How to look", "## How to cure"], "{name}");
    }
}

#[test]
fn the_page_on_metrics_lists_every_alert() {
    let expected: Vec<_> = alerts()
        .iter()
        .map(|alert| {
            let name = name(alert);
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let link = format!("[{name}](runbooks/{name}.md)");
            vec![name, text(&alert["labels"]["severity"]), text(&alert["for"]), link]
        })
        .collect();
    assert_eq!(rows(PAGE, "alert"), expected);
}

#[test]
fn alerts_fire_when_they_should_and_not_every_day() {
    promtool(&["check", "rules", RULES]).unwrap_or_else(|text| panic!("{text}"));
    promtool(&["test", "rules", CASES, CALM]).unwrap_or_else(|text| panic!("{text}"));
}

#[test]
fn every_alert_is_seen_to_fire_and_to_wait() {
    let cases: Value = serde_saphyr::from_str(&read(CASES)).unwrap();
    let tests = cases["tests"].as_array().unwrap().iter();
    let all: Vec<&Value> = tests.filter_map(|test| test["alert_rule_test"].as_array()).flatten().collect();
    let those = |fire: bool| -> BTreeSet<String> {
        let some = |case: &&&Value| case["exp_alerts"].as_array().is_some_and(|alerts| alerts.is_empty() != fire);
        all.iter().filter(some).map(|case| case["alertname"].as_str().unwrap().to_owned()).collect()
    };
    let names: BTreeSet<String> = alerts().iter().map(name).collect();
    assert_eq!((those(true), those(false)), (names.clone(), names));
}

#[test]
fn prometheus_takes_the_sample_of_a_scrape() {
    let page = read(PAGE);
    let sample = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("there is a sample");
    // Debian builds promtool without Kubernetes.
    let found = "kubernetes_sd_configs:\n  - role: endpoints\n    namespaces: {names: [virtual-accounts]}\n";
    assert!(sample.contains(found), "{sample}");
    let sample = sample.replace(found, "static_configs:\n  - targets: [localhost:9090]\n");
    let file = std::env::temp_dir().join(format!("vao-scrape-{}.yaml", std::process::id()));
    fs::write(&file, sample).unwrap();
    let told = promtool(&["check", "config", file.to_str().unwrap()]);
    fs::remove_file(&file).unwrap();
    told.unwrap_or_else(|text| panic!("{text}"));
}

/// The everyday events do touch the alerts: if they did not wait, most would fire.
#[test]
fn without_their_wait_alerts_would_fire_every_day() {
    let folder = std::env::temp_dir().join(format!("vao-alerts-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let impatient: Vec<String> =
        read(RULES).lines().filter(|line| !line.starts_with("    for:")).map(str::to_owned).collect();
    fs::write(folder.join("alerts.yaml"), impatient.join("\n")).unwrap();
    let calm = read(CALM).replace(&format!("../../{RULES}"), "alerts.yaml");
    fs::write(folder.join("calm.yaml"), calm).unwrap();
    let told = promtool(&["test", "rules", folder.join("calm.yaml").to_str().unwrap()]).unwrap_err();
    fs::remove_dir_all(&folder).unwrap();
    for name in [
        "RotationOverdue",
        "DeliveryFailing",
        "StoreDown",
        "ChannelFailing",
        "NotReady",
        "KeyMissing",
        "KeyOverdue",
        "NoLeader",
        "ReplicaNotReady",
        "ReconcileErrors",
        "ClockUntrusted",
        "OnlineCheckUnavailable",
    ] {
        assert!(told.contains(&format!("\"VirtualAccount{name}\"")), "{name} in {told}");
    }
}

/// Each query of the dashboard, with its legend.
fn panels() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| (text(&target["expr"]), text(&target["legendFormat"]))).collect()
}

/// Metric and labels of each selector of each query.
fn selectors(queries: &[String]) -> Vec<Vec<(String, Vec<String>)>> {
    let script = root().join("hack/python-env.sh");
    let environment = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    let python = format!("{}/bin/python", String::from_utf8(environment.stdout).unwrap().trim());
    let mut child = Command::new(python)
        .arg(root().join("tests/monitoring/queries.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_string(queries).unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "queries.py: {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_and_labels_that_exist() {
    let metrics = exposed();
    let panels = panels();
    let shown = panels.iter().map(|(query, _)| query.replace("$__rate_interval", "5m"));
    let alerts = alerts();
    let queries: Vec<String> =
        alerts.iter().map(|alert| alert["expr"].as_str().unwrap().to_owned()).chain(shown).collect();
    let mut seen = BTreeSet::new();
    for (query, selectors) in queries.iter().zip(selectors(&queries)) {
        assert!(!selectors.is_empty() || query == "time()", "{query} asks for nothing");
        for (metric, labels) in selectors {
            let family = metric.strip_suffix("_bucket").unwrap_or(&metric);
            let (kind, own) = metrics.get(family).unwrap_or_else(|| panic!("{query}: there is no {metric}"));
            assert_eq!(kind == "histogram", metric.ends_with("_bucket"), "{query}: {metric}");
            for label in labels {
                let known = own.contains(&label) || TARGET.contains(&&*label) || kind == "histogram" && label == "le";
                assert!(known, "{query}: {metric} has no label {label}");
            }
            seen.insert(family.to_owned());
        }
    }
    let unused: Vec<_> = metrics.keys().filter(|metric| !seen.contains(*metric)).collect();
    // For people who look closer.
    let left = [
        "process_start_time_seconds",
        "virtual_account_build_info",
        "virtual_account_notice_send_duration_seconds",
        "virtual_account_signing_key_published_timestamp_seconds",
    ];
    assert_eq!(unused, left);
}

#[test]
fn legends_of_the_dashboard_name_what_their_queries_give() {
    let mut legends = 0;
    for (query, legend) in panels() {
        for name in legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap()) {
            let given = query
                .split("by (")
                .skip(1)
                .any(|rest| rest.split(')').next().is_some_and(|labels| labels.split(", ").any(|label| label == name)));
            assert!(given, "{query} gives no {name}");
            legends += 1;
        }
    }
    assert!(legends > 8, "few legends: are they found?");
}

#[test]
fn panels_of_the_dashboard_are_told_apart() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title}");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is beyond the edge");
        for cell in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} lies on another");
        }
    }
}
