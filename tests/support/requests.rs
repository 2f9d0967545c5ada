//! What the operator asks of the API server, exactly, from its audit log. Events, watches and the Lease are not counted.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::cluster::{Cluster, PATIENCE, wait_for};
use super::plane::{AuditEvent, Plane};

/// The write of an account's status.
pub(crate) const STATUS: &str = "update virtualaccounts/status";

/// What this user asks of the API server about a namespace while something is done, and a moment longer. None may be
/// refused.
pub(crate) fn requests(plane: &Plane, cluster: &Cluster, user: &str, ns: &str, work: impl FnOnce()) -> Vec<String> {
    let from = mark(plane, cluster);
    work();
    let mut events = since(plane, cluster, &from, user);
    events.retain(|event| event.namespace == ns);
    let missing = |event: &AuditEvent| event.code == 404 && event.verb == "get";
    assert!(events.iter().all(|event| event.code < 400 || missing(event)), "{}", refused(&events));
    lines(&events)
}

/// Now, by the API server's clock. No place in the audit log would do: what a request changed can be read before its line
/// is there.
pub(crate) fn mark(plane: &Plane, cluster: &Cluster) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let path = format!("/version?mark={}", COUNT.fetch_add(1, Ordering::Relaxed));
    cluster.find(&path).expect("the server has a version");
    wait_for("the line of our own request", PATIENCE, || {
        let own = plane.audit().into_iter().find(|event| event.request_uri == path);
        own.map(|event| event.received).ok_or("it is not there")
    })
}

/// The operator's requests since then, without watches, Events and the Lease.
pub(crate) fn since(plane: &Plane, cluster: &Cluster, from: &str, user: &str) -> Vec<AuditEvent> {
    // What comes too late to be waited for comes now, and so do the last lines.
    std::thread::sleep(Duration::from_millis(500));
    mark(plane, cluster);
    let mut events = plane.audit();
    events.retain(|event| {
        *event.received > *from
            && event.user == user
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
