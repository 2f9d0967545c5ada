//! An operator that dies around sending: every notice arrives at least once, a repeat has the same id, and nothing else is
//! repeated. On a plane of their own.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::{PATIENCE, entries, ready, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;
use crate::world::{FLAGS, World, notices, to};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1";
/// From before anything is planned until after all is recorded.
const INSTANTS: [u64; 10] = [0, 15, 30, 45, 60, 80, 100, 130, 180, 300];

struct Stage<'a> {
    world: World<'a>,
    operator: Operator,
}

impl<'a> Stage<'a> {
    fn new(plane: &'a Plane) -> Self {
        let operator = Operator::start(plane, Options::flags(&FLAGS));
        let world = World::on(plane, "crash");
        world.channel("hook", &world.hook());
        Self { world, operator }
    }

    fn issue(&self, name: &str) {
        self.world.account(name, &json!([to("hook")]), &json!({}));
    }

    fn revive(&mut self) {
        self.operator.revive();
        self.operator.wait_up();
    }

    /// Waits until all is told and recorded, and nothing is but one rotation; how often it was told.
    fn told_of_one_rotation(&self, name: &str) -> usize {
        let account = self.world.wait_long(name, "one notice, which was sent", |account| {
            let state = |notice: &Value| notice["state"] == "Sent";
            entries(account).len() == 2 && notices(account).len() == 1 && notices(account).iter().all(state)
        });
        assert_eq!((&ready(&account)["status"], entries(&account).len()), (&json!("True"), 2), "{name}: one rotation");
        let told = self.world.receiver.ids(&format!("{}/{name}", self.world.ns));
        let ids = &told["TokenRotated"];
        assert_eq!(told.len(), 1, "{name}: nothing else is told: {told:?}");
        assert_eq!(distinct(ids).len(), 1, "{name}: repeats have the same id: {ids:?}");
        assert_eq!(notices(&account)[0]["id"], ids[0].as_str(), "{name}");
        ids.len()
    }
}

fn distinct(ids: &[String]) -> BTreeSet<&String> {
    ids.iter().collect()
}

/// From now on no status is taken that says that something was sent.
fn refuse_records(world: &World<'_>) {
    let policy = json!({
        "metadata": {"name": "forgetful"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{"apiGroups": ["virtualaccounts.dev"], "apiVersions": ["v1alpha1"],
                "operations": ["UPDATE"], "resources": ["virtualaccounts/status"]}]},
            "validations": [{
                "expression": "!has(object.status.notifications) || object.status.notifications.all(n, n.state != 'Sent')",
                "message": "nothing is recorded as sent",
            }],
        },
    });
    world.cluster.create(&format!("{POLICIES}/validatingadmissionpolicies"), &policy);
    let binding =
        json!({"metadata": {"name": "forgetful"}, "spec": {"policyName": "forgetful", "validationActions": ["Deny"]}});
    world.cluster.create(&format!("{POLICIES}/validatingadmissionpolicybindings"), &binding);
}

fn take_records(world: &World<'_>) {
    world.cluster.delete(&format!("{POLICIES}/validatingadmissionpolicybindings/forgetful"));
    world.cluster.delete(&format!("{POLICIES}/validatingadmissionpolicies/forgetful"));
}

/// A policy works, and ends, a moment after it was created or deleted: a trial write shows it.
fn wait_policy(world: &World<'_>, refuses: bool) {
    let path = format!("{}/status?dryRun=All", crate::support::cluster::account_path(&world.ns, "probe"));
    let sent = json!({"status": {"notifications": [{"id": "a", "kind": "TokenRotated", "jwtId": "a", "state": "Sent",
        "channelRef": {"namespace": "a", "name": "a"}, "at": "2026-01-01T00:00:00Z"}]}});
    wait_for(&format!("the policy to refuse: {refuses}"), PATIENCE, || {
        let answer = world.cluster.send("PATCH", &path, "application/merge-patch+json", Some(&sent));
        if answer.is_err() == refuses { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

#[test]
fn operator_that_dies_around_sending_tells_all_and_repeats_nothing_but_the_same_notice() {
    let plane = Plane::start();
    let mut stage = Stage::new(&plane);
    stage.issue("probe");

    // Killed while the receiver, who has the event, holds the answer back.
    stage.issue("unanswered");
    stage.world.receiver.hang();
    stage.world.ask("unanswered", "one");
    stage.world.receiver.wait_events(1);
    stage.operator.kill();
    stage.revive();
    assert_eq!(stage.told_of_one_rotation("unanswered"), 2, "the receiver took it, and nobody knew");

    // Killed when it has the answer and cannot record it.
    stage.issue("unrecorded");
    refuse_records(&stage.world);
    wait_policy(&stage.world, true);
    let before = stage.world.receiver.events().len();
    stage.world.ask("unrecorded", "one");
    stage.world.receiver.wait_events(before + 1);
    wait_for("the record to be refused", PATIENCE, || {
        let log = stage.operator.log();
        if log.contains("nothing is recorded as sent") { Ok(()) } else { Err("nothing in the log") }
    });
    let stored = stage.world.cluster.account(&stage.world.ns, "unrecorded").unwrap();
    assert_eq!(notices(&stored)[0]["state"], "Pending");
    stage.operator.kill();
    take_records(&stage.world);
    wait_policy(&stage.world, false);
    stage.revive();
    assert_eq!(stage.told_of_one_rotation("unrecorded"), 2);

    // The API server goes while the event is on its way; the operator dies before it is back.
    stage.issue("cutoff");
    stage.world.receiver.hold();
    stage.world.ask("cutoff", "one");
    stage.world.receiver.wait_held();
    plane.command("stop kube-apiserver");
    stage.world.receiver.release();
    stage.world.receiver.wait_events(before + 3);
    stage.operator.kill();
    plane.command("start kube-apiserver");
    stage.revive();
    assert_eq!(stage.told_of_one_rotation("cutoff"), 2);
}

#[test]
fn operator_that_is_killed_at_any_instant_tells_each_rotation() {
    let plane = Plane::start();
    let mut stage = Stage::new(&plane);
    let names: Vec<String> = INSTANTS.iter().map(|after| format!("after-{after}")).collect();
    for name in &names {
        stage.issue(name);
    }
    let mut repeats = 0;
    for (name, after) in names.iter().zip(INSTANTS) {
        stage.world.ask(name, "one");
        std::thread::sleep(Duration::from_millis(after));
        stage.operator.kill();
        stage.revive();
        repeats += stage.told_of_one_rotation(name) - 1;
    }
    // What was told and recorded is not told again, whatever dies later.
    let told: usize = names.iter().map(|name| stage.told_of_one_rotation(name)).sum();
    assert_eq!(told, names.len() + repeats);
}
