//! What each tool says of each state.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, condition, ready, settled};
use crate::{SIX, STRANGE_AUDIENCE, WORLD, argo_cd, object, path, told, wait_reason};

const IN_PROGRESS: &str = "InProgress Progressing InProgress";
const CURRENT: &str = "Current Healthy Current";
const FAILED: &str = "Failed Degraded Failed";
/// Others can cure it: tools that wait go on waiting, and Argo CD shows a broken heart.
const BROKEN: &str = "InProgress Degraded InProgress";

#[test]
fn a_new_object_of_every_kind_is_in_progress_until_the_operator_has_looked_at_it() {
    let world = &*WORLD;
    assert_eq!(told(world.plane, &world.before), [IN_PROGRESS; 6], "{:?}", world.before);
    let cluster = Cluster::of(world.plane);
    let after: Vec<Value> =
        SIX.iter().map(|(kind, name, reason)| wait_reason(&cluster, &path("before", kind, name), reason)).collect();
    assert_eq!(told(world.plane, &after), [CURRENT, FAILED, CURRENT, FAILED, CURRENT, FAILED]);
    let stalled = |object: &Value| condition(object, "Stalled")["status"] == "True";
    assert_eq!(after.iter().map(stalled).collect::<Vec<_>>(), [false, true, false, true, false, true]);
}

#[test]
fn argo_cd_shows_why() {
    let world = &*WORLD;
    let cluster = Cluster::of(world.plane);
    for (kind, name, reason) in SIX {
        let object = wait_reason(&cluster, &path("before", kind, name), reason);
        let health = world.plane.gitops(&["argocd-health", &argo_cd()], std::slice::from_ref(&object)).remove(0);
        let why = format!("{reason}: {}", ready(&object)["message"].as_str().unwrap());
        assert_eq!(health["message"], why, "{kind} {name}");
    }
}

/// Reason of `Ready`, whether the spec has been seen, and what each tool says.
fn line(object: &Value, told: &str) -> String {
    let reason = ready(object)["reason"].as_str().unwrap_or("-");
    format!("{reason} {} {told}", if settled(object) { "seen" } else { "unseen" })
}

#[test]
fn every_version_of_an_account_that_a_tool_can_read_tells_where_it_is() {
    let world = &*WORLD;
    let (cluster, ns) = (Cluster::of(world.plane), world.plane.namespace("cycle"));
    let created = cluster.create_account(&ns, "cart", json!({}));
    cluster.wait_ready(&ns, "cart");
    for (edit, reason) in [
        (json!({"suspend": true}), "Suspended"),
        (json!({"suspend": null, "disabled": true}), "Disabled"),
        (json!({"disabled": null, "audiences": [STRANGE_AUDIENCE]}), "InvalidSpec"),
        (json!({"audiences": null}), "Delivered"),
        (json!({"expirationDate": "2020-01-01"}), "Expired"),
    ] {
        cluster.edit(&ns, "cart", &edit);
        cluster.wait_reason(&ns, "cart", reason);
    }
    let mut versions = cluster.history(&ns, "cart", &created);
    versions.insert(0, created);
    let told = told(world.plane, &versions);
    let seen: BTreeSet<String> = versions.iter().zip(&told).map(|(object, told)| line(object, told)).collect();
    let expected = [
        format!("- unseen {IN_PROGRESS}"),
        format!("Issuing unseen {IN_PROGRESS}"),
        format!("Delivered seen {CURRENT}"),
        format!("Delivered unseen {IN_PROGRESS}"),
        "Suspended seen Current Suspended Current".to_owned(),
        format!("Suspended unseen {IN_PROGRESS}"),
        format!("Disabled seen {CURRENT}"),
        format!("Disabled unseen {IN_PROGRESS}"),
        format!("InvalidSpec seen {FAILED}"),
        format!("InvalidSpec unseen {IN_PROGRESS}"),
        format!("Expired seen {FAILED}"),
    ];
    assert_eq!(seen, BTreeSet::from(expected));
}

fn said(kind: &str, status: &str, reason: &str, stalled: &str) -> Value {
    let mut object = object(kind, "cart", &json!({"suspend": reason == "Suspended"}));
    object["metadata"]["generation"] = 3.into();
    let condition =
        |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": reason, "message": "m"});
    object["status"] =
        json!({"observedGeneration": 3, "conditions": [condition("Ready", status), condition("Stalled", stalled)]});
    object
}

// The table of the design: what Ready says is what tools conclude.
pub(crate) const STATES: [(&str, &str, &str, &str, &str); 23] = [
    ("VirtualAccount", "False", "Issuing", "False", IN_PROGRESS),
    ("VirtualAccount", "False", "Delivering", "False", IN_PROGRESS),
    ("VirtualAccount", "False", "Deleting", "False", IN_PROGRESS),
    ("VirtualAccount", "True", "Delivered", "False", CURRENT),
    ("VirtualAccount", "True", "DeliveryFailing", "False", CURRENT),
    ("VirtualAccount", "True", "Disabled", "False", CURRENT),
    ("VirtualAccount", "True", "LedgerFull", "False", CURRENT),
    ("VirtualAccount", "True", "Suspended", "False", "Current Suspended Current"),
    ("VirtualAccount", "False", "Suspended", "False", "InProgress Suspended InProgress"),
    ("VirtualAccount", "False", "TokenEnding", "False", BROKEN),
    ("VirtualAccount", "False", "KeyMissing", "False", BROKEN),
    ("VirtualAccount", "False", "Revoked", "False", BROKEN),
    ("VirtualAccount", "False", "SecretNotOwned", "False", BROKEN),
    ("VirtualAccount", "False", "NotOurs", "False", BROKEN),
    ("VirtualAccount", "False", "NotAllowed", "False", BROKEN),
    ("VirtualAccount", "False", "InvalidSpec", "True", FAILED),
    ("VirtualAccount", "False", "Expired", "True", FAILED),
    ("TokenStore", "True", "Checked", "False", CURRENT),
    ("TokenStore", "False", "AccessDenied", "False", BROKEN),
    ("TokenStore", "False", "InvalidSpec", "True", FAILED),
    ("NotificationChannel", "True", "Checked", "False", CURRENT),
    ("NotificationChannel", "False", "invalid_auth", "False", BROKEN),
    ("NotificationChannel", "False", "InvalidSpec", "True", FAILED),
];

#[test]
fn every_reason_has_its_verdict() {
    let objects: Vec<Value> =
        STATES.iter().map(|(kind, status, reason, stalled, _)| said(kind, status, reason, stalled)).collect();
    let told = told(WORLD.plane, &objects);
    for ((kind, status, reason, _, expected), told) in STATES.iter().zip(&told) {
        assert_eq!(told, expected, "{kind} {status} {reason}");
    }
}

#[test]
fn a_status_without_conditions_is_no_error() {
    let lacking = |kind: &str, status: Value| {
        let mut object = said(kind, "True", "Checked", "False");
        object["status"] = status;
        object
    };
    let kinds = ["VirtualAccount", "TokenStore", "NotificationChannel"];
    let statuses = [json!({"observedGeneration": -1}), json!({"observedGeneration": -1, "conditions": []})];
    let objects: Vec<Value> = kinds
        .iter()
        .flat_map(|kind| statuses.iter().map(|status| lacking(kind, status.clone())).collect::<Vec<_>>())
        .collect();
    assert_eq!(told(WORLD.plane, &objects), [IN_PROGRESS; 6]);
    // Seen, but nothing said: only Flux can be told to wait.
    let silent: Vec<Value> = kinds.iter().map(|kind| lacking(kind, json!({"observedGeneration": 3}))).collect();
    assert_eq!(told(WORLD.plane, &silent), ["Current Progressing InProgress"; 3]);
}
