//! A wrong clock: nothing is issued by it and nothing is checked by it.

use std::time::Duration;

use serde_json::json;
use virtual_account_operator::api::Seconds;

use crate::support::cluster::{PATIENCE, ready, stays, token, wait_for};
use crate::support::operator::Operator;
use crate::world::{APPS, World};

#[test]
fn with_a_wrong_clock_nothing_is_issued_and_no_check_is_answered() {
    let world = World::start();
    let operator = world.operator(&["--max-clock-skew", "2m"]);
    world.cluster.create_account(APPS, "before", json!({}));
    world.cluster.wait_ready(APPS, "before");
    let good = token(&world.cluster.secret(APPS, "before-token").expect("a Secret"));
    assert!(operator.accepts(&good));

    for (name, wrong) in [("ahead", Seconds::minutes(10)), ("behind", Seconds::minutes(-10))] {
        world.advance(&[&operator], wrong);
        world.cluster.create_account(APPS, name, json!({}));
        says_so(&world, name);
        assert_eq!(asked(&operator, &good), 503, "{name}");
        stays(&format!("nothing is issued with a clock {name}"), Duration::from_secs(4), || {
            let account = world.account(name);
            let issued = account.status.is_some_and(|status| !status.jwts.is_empty());
            if issued { Err("a token is in the ledger".into()) } else { Ok(()) }
        });
        assert!(world.cluster.secret(APPS, &format!("{name}-token")).is_none());

        world.advance(&[&operator], Seconds(-wrong.0));
        world.cluster.wait_ready(APPS, name);
        wait_for("an answer", PATIENCE, || match asked(&operator, &good) {
            200 => Ok(()),
            other => Err(other),
        });
        assert!(operator.accepts(&good));
    }
}

fn says_so(world: &World, name: &str) {
    let account = world.cluster.wait_account(APPS, name, "a condition", |account| !ready(account).is_null());
    let message = ready(&account)["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(ready(&account)["status"], "False");
    assert!(message.contains("clock"), "{message}");
}

fn asked(operator: &Operator, token: &str) -> u16 {
    operator.introspect_as(Some(operator.caller()), token).status
}
