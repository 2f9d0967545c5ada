//! What the operator asks of the API server, exactly, from its audit log. Events, watches and the Lease are not counted.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

use std::time::Duration;

use super::cluster::Cluster;
use super::plane::{AuditEvent, Plane};

/// The write of an account's status.
pub(crate) const STATUS: &str = "update virtualaccounts/status";

/// What this user asks of the API server about a namespace while something is done, and a moment longer. None may be
/// refused.
pub(crate) fn requests(plane: &Plane, cluster: &Cluster, user: &str, ns: &str, work: impl FnOnce()) -> Vec<String> {
    let from = mark(plane, cluster);
    work();
    // What comes too late to be waited for comes now.
    std::thread::sleep(Duration::from_millis(500));
    let mut events = since(plane, cluster, from, user);
    events.retain(|event| event.namespace == ns);
    let missing = |event: &AuditEvent| event.code == 404 && event.verb == "get";
    assert!(events.iter().all(|event| event.code < 400 || missing(event)), "{}", refused(&events));
    lines(&events)
}

/// A place in the audit log behind all that is done now: a line is written in full before the next request is answered.
pub(crate) fn mark(plane: &Plane, cluster: &Cluster) -> usize {
    cluster.find("/version").expect("the server has a version");
    plane.audit().len()
}

/// The operator's requests since then, without watches, Events and the Lease.
pub(crate) fn since(plane: &Plane, cluster: &Cluster, from: usize, user: &str) -> Vec<AuditEvent> {
    mark(plane, cluster);
    let mut events = plane.audit().split_off(from);
    events.retain(|event| {
        event.user == user
            && event.stage == "ResponseComplete"
            && event.verb != "watch"
            && !["events", "leases"].contains(&event.resource.as_str())
    });
    events
}

/// `update virtualaccounts/status`
pub(crate) fn line(event: &AuditEvent) -> String {
    let subresource = if event.subresource.is_empty() { String::new() } else { format!("/{}", event.subresource) };
    format!("{} {}{subresource}", event.verb, event.resource)
}

pub(crate) fn lines(events: &[AuditEvent]) -> Vec<String> {
    events.iter().map(line).collect()
}

pub(crate) fn refused(events: &[AuditEvent]) -> String {
    let refused: Vec<_> =
        events.iter().filter(|event| event.code >= 400).map(|event| (event.code, line(event))).collect();
    format!("refused: {refused:?}")
}
