//! What people and machines look at: kubectl, Events, health, metrics.

use serde_json::json;

use crate::support::cluster::{PATIENCE, secret_path, wait_for};
use crate::{World, rotating};

#[test]
fn kubectl_shows_the_account_in_one_line() {
    let world = World::new("kubectl");
    let mut spec = rotating();
    spec["ownedBy"] = json!({"team": "shop"});
    let given = world.ready(spec);
    let status = &given.account["status"];
    let columns = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let listed = world.plane.kubectl_ok(&["get", "va", "-n", &world.ns], None);
    let (head, row) = listed.split_once('\n').unwrap();
    assert_eq!(columns(head), ["NAME", "READY", "REASON", "ROTATION", "NEXT", "ROTATION", "EXPIRES", "AGE"]);
    let next = status["nextScheduledRotation"].as_str().unwrap();
    let ends = status["expiresAt"].as_str().unwrap();
    assert_eq!(columns(row)[..6], ["cart", "True", "Delivered", "90d", next, ends]);
    let wide = world.plane.kubectl_ok(&["get", "va", "-n", &world.ns, "-o", "wide", "--no-headers"], None);
    assert_eq!(columns(&wide)[7..], [given.jti.as_str(), "shop"]);
}

#[test]
fn kubectl_describe_tells_the_story_and_waiting_works() {
    let world = World::new("describe");
    world.create("cart", rotating());
    world.plane.kubectl_ok(&["wait", "va/cart", "-n", &world.ns, "--for=condition=Ready", "--timeout=20s"], None);
    let given = world.given("cart");
    world.rotate(&given, "one");
    world.cluster.wait_event(&world.ns, "cart", "Rotated");
    let told = world.plane.kubectl_ok(&["describe", "va", "cart", "-n", &world.ns], None);
    for text in ["Issued", "Rotated", "Secret cart-token holds the newest token", &given.jti] {
        assert!(told.contains(text), "{text} is missing in {told}");
    }
    assert!(!told.contains(&given.token));
}

#[test]
fn events_tell_what_happened_once_and_nothing_of_routine() {
    let world = World::new("events");
    let given = world.ready(rotating());
    world.cluster.wait_event(&world.ns, "cart", "Issued");
    world.cluster.patch(&secret_path(&world.ns, "cart-token"), &json!({"metadata": {"labels": {"seen": "yes"}}}));
    world.edit(&json!({"description": "new"}));
    world.reason("Delivered");
    world.rotate(&given, "one,grace=1s");
    world.cluster.wait_event(&world.ns, "cart", "Retired");
    let events = world.cluster.events(&world.ns, "cart");
    let reasons: Vec<_> = events.iter().map(|(kind, reason, _)| (kind.as_str(), reason.as_str())).collect();
    assert_eq!(reasons, [("Normal", "Issued"), ("Normal", "Rotated"), ("Normal", "Retired")], "{events:?}");
    let told = &events[0].2;
    assert!(told.contains(&given.jti) && told.contains("is in Secret cart-token"), "{told}");
}

#[test]
fn health_and_readiness_answer() {
    let world = World::new("health");
    for path in ["/healthz", "/readyz"] {
        let answer = world.operator.get_ops(path);
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{path}");
    }
    assert_eq!(world.operator.get("/metrics").status, 404, "not on the public listener");
    assert_eq!(world.operator.get_ops("/introspect").status, 404);
}

#[test]
fn metrics_count_and_carry_no_names_but_in_the_gauges_of_accounts() {
    let world = World::new("metrics");
    let given = world.ready(rotating());
    world.operator.introspect(&given.token);
    let ends = crate::seconds(&given.account["status"]["expiresAt"]);
    let wanted = [
        "virtual_account_reconciles_total{result=\"ok\"}".to_owned(),
        "virtual_account_tokens_issued_total{reason=\"First\"}".to_owned(),
        "virtual_account_api_writes_total{verb=\"create\",resource=\"secrets\"}".to_owned(),
        "virtual_account_api_writes_total{verb=\"update\",resource=\"virtualaccounts/status\"}".to_owned(),
        "virtual_account_introspections_total{result=\"Active\"}".to_owned(),
        "virtual_account_signing_keys{state=\"Active\"} 1".to_owned(),
        "virtual_account_signing_keys{state=\"Published\"} 1".to_owned(),
        "virtual_account_signing_key_rotation_timestamp_seconds{}".to_owned(),
        "virtual_account_key_ring_healthy 1\n".to_owned(),
        "virtual_account_leader 1\n".to_owned(),
        "virtual_account_replica_ready 1\n".to_owned(),
        "virtual_account_clock_trusted 1\n".to_owned(),
        format!("virtual_account_targets_failing{{namespace=\"{}\",name=\"cart\"}} 0\n", world.ns),
        "virtual_account_build_info{".to_owned(),
        "process_start_time_seconds".to_owned(),
        format!("virtual_account_token_expiry_timestamp_seconds{{namespace=\"{}\",name=\"cart\"}} {ends}", world.ns),
        format!("virtual_account_next_rotation_timestamp_seconds{{namespace=\"{}\",name=\"cart\"}}", world.ns),
        "virtual_account_info{".to_owned(),
    ];
    wait_for("all metrics", PATIENCE, || {
        let metrics = world.operator.metrics();
        match wanted.iter().find(|line| !metrics.contains(line.as_str())) {
            None => Ok(()),
            Some(missing) => Err(format!("{missing} is missing in {metrics}")),
        }
    });
    let metrics = world.operator.metrics();
    let named = metrics.lines().filter(|line| line.contains(&world.ns));
    let allowed = [
        "virtual_account_token_expiry",
        "virtual_account_next_rotation",
        "virtual_account_targets_failing",
        "virtual_account_info",
    ];
    for line in named {
        assert!(allowed.iter().any(|name| line.starts_with(name)), "{line}");
    }
}

#[test]
fn a_hundred_accounts_at_once_are_ready_in_seconds() {
    let world = World::new("many");
    let names: Vec<_> = (0..100).map(|number| format!("account-{number}")).collect();
    world.cluster.create_accounts(&world.ns, names.iter().map(String::as_str), &rotating());
    wait_for("100 accounts to be ready", PATIENCE * 2, || {
        let accounts = world.cluster.accounts(&world.ns);
        let ready =
            accounts.iter().filter(|account| crate::support::cluster::ready(account)["reason"] == "Delivered").count();
        if ready == names.len() { Ok(()) } else { Err(format!("{ready} are")) }
    });
}
