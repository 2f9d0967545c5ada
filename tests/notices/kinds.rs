//! Every kind of notice, each exactly once, on an operator whose clock moves. On a plane of its own.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use virtual_account_operator::api::{Instant, Seconds};
use virtual_account_operator::clock;

use crate::support::bao::Bao;
use crate::support::cluster::{PATIENCE, current, ready, wait_for};
use crate::support::fault::{Fault, Faults};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;
use crate::world::{API, FLAGS, World, to};

struct Stage<'a> {
    world: World<'a>,
    operator: Operator,
    start: Instant,
}

impl Stage<'_> {
    /// Moves the operator's clock to this instant.
    fn advance_to(&self, instant: Instant) {
        self.operator.set_clock(&format!("{:+}", (instant - clock::now()).0));
    }

    /// Waits until the account's receiver was told so many of this kind; the last one's data.
    fn told(&self, name: &str, kind: &str, count: usize) -> Value {
        let subject = format!("{}/{name}", self.world.ns);
        wait_for(&format!("{count} {kind} of {name}"), PATIENCE, || {
            let events = self.world.receiver.events();
            let of = |event: &&Value| event["subject"] == subject && event["data"]["kind"] == kind;
            let all: Vec<_> = events.iter().filter(of).collect();
            if all.len() >= count { Ok(all[all.len() - 1]["data"].clone()) } else { Err(format!("{events:#?}")) }
        })
    }

    /// How often each kind was told of an account; each with an id of its own.
    fn counts(&self, name: &str) -> BTreeMap<String, usize> {
        let ids = self.world.receiver.ids(&format!("{}/{name}", self.world.ns));
        for (kind, ids) in &ids {
            let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
            assert_eq!(distinct.len(), ids.len(), "{name}, {kind}: nothing is repeated");
        }
        ids.into_iter().map(|(kind, ids)| (kind, ids.len())).collect()
    }
}

fn counted(all: &[(&str, usize)]) -> BTreeMap<String, usize> {
    all.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
}

#[test]
fn each_kind_is_told_exactly_once() {
    let plane = Plane::start();
    let operator = Operator::start(&plane, Options { clock: Some("+0".into()), ..Options::flags(&FLAGS) });
    let stage = Stage { world: World::on(&plane, "kinds"), operator, start: clock::now() };
    stage.world.channel("hook", &stage.world.hook());
    let end = Instant::from_unix((stage.start + Seconds::days(63)).as_unix() / 86_400 * 86_400);
    let date = (end - Seconds(1)).to_string()[..10].to_owned();
    let hook = json!([to("hook")]);
    stage.world.account("ending", &hook, &json!({"autoRotate": null, "expirationDate": date}));
    let every = json!([{"channelRef": {"name": "hook"}, "events": ["GraceEnding", "TokenRetired"]}]);
    stage.world.account("grace", &every, &json!({}));

    revoked(&stage, &hook);
    stuck(&stage, &hook);
    stage.world.rotate("grace", "one");
    // Not before the first is recorded, or its grace would be that of a later day.
    stage.advance_to(clock::now() + Seconds::days(6));
    stage.told("grace", "GraceEnding", 1);
    stage.advance_to(stage.start + Seconds::days(9));
    stage.told("grace", "TokenRetired", 1);
    for (count, days) in [(1, 30), (2, 7), (3, 1)] {
        stage.advance_to(end - Seconds::days(days) + Seconds(60));
        let warning = stage.told("ending", "TokenExpiring", count);
        assert_eq!(warning["endsAt"], end.to_string());
        assert!(warning["why"].as_str().unwrap().contains("spec.expirationDate"), "{warning}");
    }
    stage.advance_to(end + Seconds(60));
    stage.told("ending", "TokenExpired", 1);
    stage.world.cluster.wait_reason(&stage.world.ns, "ending", "Expired");

    assert_eq!(stage.counts("ending"), counted(&[("TokenExpired", 1), ("TokenExpiring", 3)]));
    assert_eq!(stage.counts("grace"), counted(&[("GraceEnding", 1), ("TokenRetired", 1)]));
    assert_eq!(
        stage.counts("stuck"),
        counted(&[("DeliveryFailing", 1), ("DeliveryRecovered", 1), ("TokenRotated", 1)])
    );
    assert_eq!(stage.counts("revoked"), counted(&[("TokenRevoked", 2), ("TokenRotated", 2)]));
}

/// By the spec, and by a request without grace.
fn revoked(stage: &Stage<'_>, targets: &Value) {
    let world = &stage.world;
    let first = world.account("revoked", targets, &json!({}));
    let jti = current(&first).unwrap();
    world.cluster.edit(&world.ns, "revoked", &json!({"revokedJwtIds": [jti]}));
    let second = world.cluster.wait_successor(&world.ns, "revoked", jti);
    let told = stage.told("revoked", "TokenRevoked", 1);
    assert_eq!((&told["jwtId"], &told["by"]), (&json!(jti), &json!("by spec.revokedJwtIds")));
    assert_eq!(told["successorJwtId"], json!(current(&second)), "what was issued in its place");
    stage.told("revoked", "TokenRotated", 1);
    let third = world.rotate("revoked", "one,grace=0s");
    let told = stage.told("revoked", "TokenRevoked", 2);
    assert_eq!((&told["jwtId"], &told["successorJwtId"]), (&json!(current(&second)), &json!(current(&third))));
    assert_eq!(told["by"], "by the annotation rotate with grace=0s");
    stage.told("revoked", "TokenRotated", 2);
}

/// A store that is away for more than a quarter of an hour.
fn stuck(stage: &Stage<'_>, targets: &Value) {
    let (world, bao) = (&stage.world, Bao::shared());
    let layer = crate::receiver::block_on(Faults::before(bao.url(), |_, _| true, |_| "{}"));
    world.secret("bao", &json!({"token": bao.root}));
    let spec = json!({"hashicorpVault": {"address": layer.address(),
        "auth": {"tokenRef": {"name": "bao", "key": "token"}}}});
    let store = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore",
        "metadata": {"name": "vault"}, "spec": spec});
    world.cluster.create(&format!("{API}/namespaces/{}/tokenstores", world.ns), &store);
    let path = format!("/{}/stuck", world.ns);
    let more = json!({"secretStores": [{"storeRef": {"name": "vault"}, "secretPath": path}]});
    world.account("stuck", targets, &more);
    layer.all(Fault::Cut);
    world.ask("stuck", "one");
    world
        .wait("stuck", "the store to fail", |account| account["status"]["secretStores"][0]["failingSince"].is_string());
    stage.advance_to(clock::now() + Seconds::minutes(10));
    world.wait_long("stuck", "another attempt", |account| {
        account["status"]["secretStores"][0]["failures"].as_i64() > Some(0) && ready(account)["reason"] != "Delivered"
    });
    assert_eq!(stage.counts("stuck"), counted(&[]), "that was too short to be told");
    stage.advance_to(clock::now() + Seconds::minutes(16));
    let told = stage.told("stuck", "DeliveryFailing", 1);
    assert_eq!(told["target"], format!("{path} in TokenStore {}/vault", world.ns));
    layer.all(Fault::Pass);
    stage.advance_to(clock::now() + Seconds::minutes(50));
    stage.told("stuck", "DeliveryRecovered", 1);
    stage.told("stuck", "TokenRotated", 1);
}
