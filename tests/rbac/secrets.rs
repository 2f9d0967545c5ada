//! What the operator reads of Secrets, though it could read all: the metadata of those with its label.

use serde_json::json;

use crate::support::cluster::{Cluster, PATIENCE, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;
use crate::{OPERATOR, rotating};

const FOREIGN: usize = 2_000;
const BYTES: usize = 40_000;
/// What their metadata may add to the operator's memory; a page of their contents alone would add as much.
const BOUND_MIB: u64 = 25;

#[test]
fn contents_of_other_secrets_are_never_read() {
    let plane = Plane::start();
    let mut operator = Operator::start(&plane, Options::default());
    let cluster = Cluster::of(&plane);
    let (ns, others) = (plane.namespace("mine"), plane.namespace("others"));
    cluster.create_account(&ns, "cart", rotating());
    cluster.wait_ready(&ns, "cart");
    let before = peak_mib(operator.pid());
    let content = "x".repeat(BYTES);
    let secret = |number: usize| {
        // Half of them claim to be an account's.
        let labels = if number.is_multiple_of(2) { json!({"virtualaccounts.dev/account": "ghost"}) } else { json!({}) };
        json!({"metadata": {"name": format!("secret-{number}"), "labels": labels}, "stringData": {"big": content}})
    };
    let all: Vec<usize> = (0..FOREIGN).collect();
    for some in all.chunks(100) {
        cluster.create_all(&format!("/api/v1/namespaces/{others}/secrets"), some.iter().copied().map(secret));
    }
    let watched = peak_mib(operator.pid());
    operator.terminate();
    operator.revive();
    operator.wait_up();
    cluster.annotate(&ns, "cart", "virtualaccounts.dev/rotate", &json!("after"));
    wait_for("a rotation", PATIENCE, || {
        let account = cluster.account(&ns, "cart").unwrap();
        if account["status"]["handledRotateRequests"] == json!(["after"]) {
            Ok(())
        } else {
            Err(account["status"].to_string())
        }
    });
    let listed = peak_mib(operator.pid());
    println!(
        "peak memory: {before} MiB; {FOREIGN} Secrets of {BYTES} bytes watched {watched} MiB, listed {listed} MiB"
    );
    assert!(watched.max(listed) < before + BOUND_MIB, "{before} MiB, then {watched} and {listed} MiB");

    let mut events = plane.audit();
    events.retain(|event| event.user == OPERATOR && event.resource == "secrets");
    let (scans, reads): (Vec<_>, Vec<_>) =
        events.iter().partition(|event| matches!(event.verb.as_str(), "list" | "watch"));
    let selected = |uri: &str| {
        uri.contains("labelSelector=virtualaccounts.dev%2Faccount")
            || uri.contains("fieldSelector=metadata.name%3Dvirtual-account-operator-keys")
    };
    assert!(scans.len() >= 8, "two watches and two lists in each of two lives: {}", scans.len());
    assert!(scans.iter().all(|event| selected(&event.request_uri)), "{scans:?}");
    assert!(reads.iter().all(|event| event.namespace != others), "no Secret of others by name");
    // The policy of the test plane has what was answered to lists, but for the key ring, which is the operator's own.
    let mut answered: Vec<_> =
        scans.iter().map(|event| event.answered.as_str()).filter(|kind| !kind.is_empty()).collect();
    assert!(answered.len() > FOREIGN / 2 / 500, "a list, and one in pages of 500: {answered:?}");
    answered.dedup();
    assert_eq!(answered, ["PartialObjectMetadataList"], "their metadata alone");
}

/// The most memory that the process ever had.
fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
