//! Two replicas and a key ring that one of them has forgotten: an older etcd was put back, or somebody put another ring in
//! the place of it, and only the leader started again. It accepts the keys that it finds; the other knows better ones.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use virtual_account_operator::api::Seconds;
use virtual_account_operator::clock;
use virtual_account_operator::token::{Algorithm, InUse, KeyMaterial, Ring, RingSettings, SECRET_NAME};

use crate::sound::jwks;
use crate::support::cluster::{PATIENCE, current, decode, secret_path, token, wait_for};
use crate::support::operator::{NAMESPACE, Operator, Options};
use crate::world::{APPS, World};

#[test]
fn a_replica_that_knows_more_than_the_leader_serves_every_key_and_may_lead_after_it() {
    let world = World::start();
    let mut leader = replica(&world, 0);
    let lost = issue(&world, "before");
    let follower = replica(&world, 1);
    leader.kill();
    let other = another_ring();
    put(&world, &other);
    leader.revive();
    leader.wait_up();
    world.cluster.wait_reason(APPS, "before", "KeyMissing");
    let new = issue(&world, "after");
    wait_for("the follower to serve all keys of the leader", PATIENCE, || {
        let (leads, follows) = (kids(&leader), kids(&follower));
        if leads.is_subset(&follows) { Ok(()) } else { Err(format!("{leads:?} {follows:?}")) }
    });
    assert!(kids(&follower).contains(&kid(&lost)) && kids(&leader).contains(&kid(&new)));
    assert!(follower.accepts(&new) && follower.accepts(&lost), "what it knows is still good");
    assert_eq!(follower.get_ops("/readyz").status, 200);

    // The ring goes on changing; the follower goes along.
    run(&leader, &["keys", "compromise", &kid(&new)]);
    wait_for("the follower to go along", PATIENCE, || {
        let (leads, follows) = (kids(&leader), kids(&follower));
        let along = leads.len() == 2 && leads.is_subset(&follows) && !follows.contains(&kid(&new));
        if along { Ok(()) } else { Err(format!("{leads:?} {follows:?}")) }
    });
    assert!(!follower.accepts(&new));

    let before = world.cluster.account(APPS, "before").expect("an account");
    run(&leader, &["keys", "init", "--accept-reissue"]);
    world.cluster.wait_successor(APPS, "before", current(&before).expect("a token"));
    wait_for("the same keys on both", PATIENCE, || {
        let (leads, follows) = (kids(&leader), kids(&follower));
        if leads == follows { Ok(()) } else { Err(format!("{leads:?} {follows:?}")) }
    });
    assert!(!follower.accepts(&lost) && follower.accepts(&held(&world, "before")));

    assert!(leader.terminate().success());
    let later = issue(&world, "later");
    assert!(follower.accepts(&later), "it issues");
}

/// A replica with a Lease that nobody takes while its holder starts again.
fn replica(world: &World, number: usize) -> Operator {
    let env = vec![("POD_NAME".to_owned(), format!("replica-{number}"))];
    let flags = Options::flags(&["--leader-elect-lease-duration", "60s"]);
    Operator::start(&world.plane, Options { env, ..flags })
}

/// A ring with other keys, which sign at once.
fn another_ring() -> Ring {
    let settings =
        RingSettings { rotation: Seconds::hours(720), algorithm: Algorithm::Es256, lead: RingSettings::LEAD };
    let all = InUse { keep_all: true, ..InUse::default() };
    let made = Ring::default().advance(clock::now(), &settings, &all, &[], &mut KeyMaterial::generate);
    made.expect("keys can be made").ring.expect("a new ring")
}

/// Puts this in the place of the ring that is stored.
fn put(world: &World, ring: &Ring) {
    let path = secret_path(NAMESPACE, SECRET_NAME);
    let mut secret = world.cluster.find(&path).expect("the key ring exists");
    let data: BTreeMap<String, String> =
        ring.data().into_iter().map(|(name, bytes)| (name, STANDARD.encode(bytes.0))).collect();
    secret["data"] = json!(data);
    world.cluster.replace(&path, &secret);
}

/// Creates an account; its token.
fn issue(world: &World, name: &str) -> String {
    world.cluster.create_account(APPS, name, json!({}));
    world.cluster.wait_ready(APPS, name);
    held(world, name)
}

fn held(world: &World, name: &str) -> String {
    token(&world.cluster.secret(APPS, &format!("{name}-token")).expect("a Secret"))
}

fn kids(operator: &Operator) -> BTreeSet<String> {
    jwks(operator).keys.into_iter().filter_map(|key| key.common.key_id).collect()
}

fn kid(token: &str) -> String {
    let header: Value = decode(token).0;
    header["kid"].as_str().expect("a key id").to_owned()
}

fn run(operator: &Operator, args: &[&str]) {
    let output = operator.command(args, "");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
