//! What Prometheus and Grafana get from the chart is what the files say, and it finds the operator.

use serde_json::{Value, json};

use crate::support::helm::Helm;
use crate::{objects, only, read, render};

const BASE: &str = "https://git.example.com/operator/";

fn full() -> Vec<Value> {
    objects(&render(Helm::Four, "full"))
}

#[test]
fn alerts_are_those_of_the_file_with_links_to_the_runbooks() {
    let shipped = read("charts/virtual-account-operator/files/alerts.yaml");
    let linked: Value =
        serde_saphyr::from_str(&shipped.replace("runbook_url: docs/", &format!("runbook_url: {BASE}docs/"))).unwrap();
    let all = full();
    let rule = only(&all, "PrometheusRule");
    assert_eq!(rule["spec"], linked);
    assert_eq!(rule["metadata"]["labels"]["release"], "prometheus");
    let first = &linked["groups"][0]["rules"][0];
    assert_eq!(first["annotations"]["runbook_url"], format!("{BASE}docs/runbooks/VirtualAccountTokenExpired.md"));
}

#[test]
fn without_an_address_of_the_runbooks_alerts_are_the_file_itself() {
    let chart = crate::support::helm::chart();
    let values = ["--set", "issuerUrl=https://issuer.example.com", "--set", "prometheusRule.enabled=true"];
    let text = Helm::Four.offline_ok(&[&["template", "example", &chart][..], &values].concat());
    let file: Value = serde_saphyr::from_str(&read("charts/virtual-account-operator/files/alerts.yaml")).unwrap();
    assert_eq!(only(&objects(&text), "PrometheusRule")["spec"], file);
}

#[test]
fn the_dashboard_is_that_of_the_file_and_the_sidecar_finds_it() {
    let all = full();
    let name = |object: &&Value| object["metadata"]["name"].as_str().unwrap().ends_with("-dashboard");
    let dashboard = all.iter().filter(|object| object["kind"] == "ConfigMap").find(name).unwrap();
    let text = dashboard["data"]["virtual-account-operator.json"].as_str().unwrap();
    let file = read("charts/virtual-account-operator/files/dashboard.json");
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), serde_json::from_str::<Value>(&file).unwrap());
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
}

#[test]
fn prometheus_finds_every_replica_and_keeps_the_labels_of_accounts() {
    let all = full();
    let monitor = only(&all, "ServiceMonitor");
    let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let selected: Vec<&Value> = all
        .iter()
        .filter(|object| object["kind"] == "Service")
        .filter(|service| wanted.iter().all(|(key, value)| service["metadata"]["labels"][key] == *value))
        .collect();
    let [service] = selected[..] else { panic!("one Service, not {}", selected.len()) };
    let endpoint = &monitor["spec"]["endpoints"][0];
    let port =
        service["spec"]["ports"].as_array().unwrap().iter().find(|port| port["name"] == endpoint["port"]).unwrap();
    let pod = &only(&all, "Deployment")["spec"]["template"];
    let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
    assert!(ports.iter().any(|listens| listens["name"] == port["targetPort"] && listens["containerPort"] == 9090));
    assert_eq!((&endpoint["path"], &endpoint["honorLabels"]), (&json!("/metrics"), &json!(true)));
    assert_eq!(service["spec"]["publishNotReadyAddresses"], true, "one that is not ready is scraped, too");
    // The commands of runbooks select by it.
    assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/name"], "virtual-account-operator");
}
