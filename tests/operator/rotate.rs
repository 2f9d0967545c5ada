//! Rotation on request, the grace of the previous token, and a full ledger.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use virtual_account_operator::clock;

use crate::support::cluster::{PATIENCE, current, entries, entry, ready, settled, stays, text, wait_for};
use crate::{World, rotating, seconds};

#[test]
fn previous_token_is_good_until_its_grace_ends() {
    let world = World::new("grace");
    let first = world.ready(rotating());
    let second = world.rotate(&first, "incident-1,grace=10s");
    let ends = {
        let previous = entry(&second.account, &first.jti).unwrap();
        assert_eq!(previous["phase"], "Superseded");
        seconds(&previous["graceEndsAt"])
    };
    assert_eq!(text(&second.secret, "previous-token").as_ref(), Some(&first.token));
    assert_eq!(text(&second.secret, "previous-jti").as_ref(), Some(&first.jti));
    assert!(world.operator.accepts(&second.token));
    let answer = world.operator.introspect(&first.token);
    assert_eq!((&answer["active"], &answer["exp"]), (&json!(true), &json!(ends)), "{answer}");

    wait_for("the end of the grace", PATIENCE, || {
        let asked = clock::now().as_unix();
        let accepted = world.operator.accepts(&first.token);
        let answered = clock::now().as_unix();
        if accepted {
            assert!(asked <= ends, "graceEndsAt {ends}, accepted when asked at {asked}");
            return Err("active");
        }
        assert!(answered >= ends, "graceEndsAt {ends}, refused by {answered}");
        Ok(())
    });
    world.cluster.wait_secret(&world.ns, "cart-token", "no previous token", |secret| {
        secret["data"]["previous-token"].is_null() && secret["data"]["previous-jti"].is_null()
    });
    let account = world.cluster.wait_account(&world.ns, "cart", "one entry", |account| entries(account).len() == 1);
    assert_eq!(current(&account), Some(second.jti.as_str()));
    assert!(world.cluster.wait_event(&world.ns, "cart", "Rotated").contains(&first.jti));
    assert!(world.cluster.wait_event(&world.ns, "cart", "Retired").contains(&first.jti));
}

#[test]
fn rotation_is_recorded_first_and_leaves_the_conditions_alone() {
    let world = World::new("writes");
    let first = world.ready(rotating());
    let asked = world.annotate("rotate", &json!("one"));
    let second = world.successor(&first);
    let [pending, done] = &world.cluster.history(&world.ns, "cart", &asked)[..] else { panic!("two status writes") };
    assert_eq!(pending["status"]["conditions"], first.account["status"]["conditions"]);
    let phases = |account: &Value| entries(account).iter().map(|entry| entry["phase"].clone()).collect::<Vec<_>>();
    assert_eq!(phases(pending), ["Pending", "Current"]);
    assert_eq!(pending["status"]["handledRotateRequests"], json!(["one"]));
    assert_eq!(pending["status"]["tokenSecret"], first.account["status"]["tokenSecret"]);
    assert_eq!(phases(done), ["Current", "Superseded"]);
    assert_eq!(done["status"], second.account["status"]);
}

#[test]
fn request_without_a_grace_takes_that_of_the_spec() {
    let world = World::new("owngrace");
    let first = world.ready(rotating());
    let second = world.rotate(&first, "by-hand");
    let entry = entry(&second.account, &first.jti).unwrap();
    let newest = &entries(&second.account)[0];
    assert_eq!((&newest["reason"], &newest["grace"]), (&json!("Request"), &json!("7d")));
    // Right after the first issue the clock of the ledger may be a second ahead: no two entries share one.
    let grace = seconds(&entry["graceEndsAt"]) - seconds(&newest["issuedAt"]);
    assert!((7 * 86_400 - 1..7 * 86_400 + 20).contains(&grace), "{grace}");
    assert_eq!(second.account["status"]["handledRotateRequests"], json!(["by-hand"]));
    let annotation = &second.secret["metadata"]["annotations"]["virtualaccounts.dev/rotate-handled"];
    assert_eq!(annotation, "by-hand");
}

#[test]
fn no_grace_revokes_all_older_tokens_in_the_write_that_records_the_new_one() {
    let world = World::new("nograce");
    let first = world.ready(rotating());
    let second = world.rotate(&first, "one");
    assert!(world.operator.accepts(&first.token));
    world.annotate("rotate", &json!("leak,grace=0s"));
    wait_for("both older tokens refused", PATIENCE, || {
        match [&first, &second].map(|given| world.operator.accepts(&given.token)) {
            [false, false] => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
    let third = world.successor(&second);
    assert!(world.operator.accepts(&third.token));
    assert_eq!(third.secret["data"]["previous-token"], Value::Null);
    let account = world.cluster.wait_account(&world.ns, "cart", "one entry", |account| entries(account).len() == 1);
    assert_eq!(current(&account), Some(third.jti.as_str()));
}

#[test]
fn unreadable_request_rotates_nothing_and_says_so() {
    let world = World::new("unreadable");
    let given = world.ready(rotating());
    for value in ["now,grace=7w", "now, grace=1h", "", "two words", "now,grace=99999999999999999999h"] {
        world.annotate("rotate", &json!(value));
        let account = world.cluster.wait_account(&world.ns, "cart", "a message", |account| {
            ready(account)["message"]
                .as_str()
                .is_some_and(|text| text.contains("virtualaccounts.dev/rotate cannot be read"))
        });
        assert_eq!(
            (&ready(&account)["status"], &ready(&account)["reason"]),
            (&json!("True"), &json!("Delivered")),
            "{value}"
        );
        assert_eq!(entries(&account), entries(&given.account), "{value}");
        world.annotate("rotate", &Value::Null);
        world.cluster.wait_account(&world.ns, "cart", "no message", |account| {
            ready(account)["message"].as_str().is_some_and(|text| !text.contains("cannot be read"))
        });
    }
}

#[test]
fn a_request_acts_once() {
    let world = World::new("once");
    let first = world.ready(rotating());
    let second = world.rotate(&first, "one");
    world.annotate("rotate", &Value::Null);
    world.annotate("rotate", &json!("one"));
    let third = world.rotate(&second, "two");
    world.annotate("rotate", &json!("one"));
    stays("handled", Duration::from_secs(1), || {
        let account = world.account();
        if current(&account) == Some(&third.jti) { Ok(()) } else { Err(account["status"].to_string()) }
    });
    assert_eq!(world.account()["status"]["handledRotateRequests"], json!(["two", "one"]));
    assert_eq!(entries(&world.account()).len(), 3);
}

#[test]
fn request_that_stands_at_first_issue_counts_as_handled() {
    let world = World::new("standing");
    let mut account = crate::support::cluster::account("cart", json!({}));
    account["metadata"]["annotations"] = json!({"virtualaccounts.dev/rotate": "from-git"});
    world
        .cluster
        .create(&format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{}/virtualaccounts", world.ns), &account);
    let given = world.given("cart");
    assert_eq!(given.account["status"]["handledRotateRequests"], json!(["from-git"]));
    assert_eq!(entries(&given.account).len(), 1);
}

#[test]
fn full_ledger_lets_requests_wait_and_revocations_through() {
    let world = World::new("full");
    let mut given = world.ready(rotating());
    for request in 1..8 {
        given = world.rotate(&given, &request.to_string());
    }
    world.annotate("rotate", &json!("one-too-many"));
    let account = world.cluster.wait_account(&world.ns, "cart", "LedgerFull", |account| {
        settled(account) && ready(account)["reason"] == "LedgerFull"
    });
    assert_eq!(ready(&account)["status"], "True");
    assert_eq!(entries(&account).len(), 8);
    let leaves = entries(&account).iter().filter_map(|entry| entry["graceEndsAt"].as_str()).min().unwrap();
    assert!(ready(&account)["message"].as_str().unwrap().ends_with(&format!("the next entry leaves at {leaves}")));
    assert_eq!(account["status"]["nextScheduledRotation"], leaves);

    world.edit(&json!({"revokedJwtIds": [given.jti]}));
    let next = world.successor(&given);
    assert!(world.operator.accepts(&next.token) && !world.operator.accepts(&given.token));
}

#[test]
fn a_rotation_is_done_in_a_moment() {
    let world = World::new("moment");
    let mut given = world.ready(rotating());
    // The best of three: others share the machine.
    let took = ["one", "two", "three"].map(|request| {
        let started = Instant::now();
        given = world.rotate(&given, request);
        started.elapsed()
    });
    assert!(took.iter().min() < Some(&Duration::from_secs(5)), "{took:?}");
}
