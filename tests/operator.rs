//! What a user sees of the operator, on a real API server.
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

mod support;

use serde_json::json;
use support::cluster::{Cluster, decode, entries, token};
use support::operator::{ISSUER, Operator, Options};
use support::plane::Plane;

#[test]
fn first_issue() {
    let plane = Plane::shared();
    let operator = Operator::start(plane, Options::default());
    let cluster = Cluster::of(plane);
    let ns = plane.namespace("first");
    cluster.create_account(&ns, "cart", json!({}));
    let account = cluster.wait_ready(&ns, "cart");
    assert_eq!(entries(&account).len(), 1);
    let secret = cluster.secret(&ns, "cart-token").unwrap();
    let (_, claims) = decode(&token(&secret));
    assert_eq!(claims["iss"], ISSUER);
    let answer = operator.introspect(&token(&secret));
    assert_eq!(answer["active"], true, "{answer}");
}

#[test]
fn clock_smoke() {
    let plane = Plane::shared();
    let options = Options { namespace: Some("faked".into()), clock: Some("+30d".into()), ..Options::default() };
    let mut operator = Operator::start(plane, options.clone());
    let cluster = Cluster::of(plane);
    let ns = plane.namespace("fake");
    cluster.create_account(&ns, "cart", json!({"autoRotate": {"autoRotateInterval": "1h", "gracePeriod": "10m"}}));
    let account = cluster.wait_ready(&ns, "cart");
    println!("{}", account["status"]);
    let jti = entries(&account)[0]["id"].as_str().unwrap().to_owned();
    operator.set_clock("+2592000s");
    operator.set_clock("+31d");
    let account = cluster.wait_successor(&ns, "cart", &jti);
    println!("{}", account["status"]);
    println!("{}", operator.terminate());
    let mut operator = Operator::start(plane, options);
    operator.kill();
}
