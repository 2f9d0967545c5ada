//! Many accounts on one Slack channel: few messages, and nobody is left out.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::cluster::{PATIENCE, account_path, ready, wait_for};
use crate::world::{World, notices, to};

const MANY: usize = 100;
const SLACK: &str = "slack";

#[test]
fn hundred_rotations_become_three_messages_that_tell_each_once() {
    let world = World::shared("digest");
    world.channel(SLACK, &json!({"allowInsecure": true, "slackWebhook": {"urlRef": {"name": "slack", "key": "url"}}}));
    let names: Vec<String> = (0..MANY).map(|number| format!("cart-{number:03}")).collect();
    let spec = json!({"notificationTargets": [to(SLACK)]});
    world.cluster.create_accounts(&world.ns, names.iter().map(String::as_str), &spec);
    wait_all(&world, "to be issued", |account| ready(account)["reason"] == "Delivered");
    let rotate = json!({"metadata": {"annotations": {"virtualaccounts.dev/rotate": "one"}}});
    for name in &names {
        world.cluster.patch(&account_path(&world.ns, name), &rotate);
    }
    // The first comes while the others are still on their way or in their window.
    wait_for("the first message", PATIENCE, || if world.receiver.slack().is_empty() { Err("none") } else { Ok(()) });
    wait_all(&world, "to be told", |account| notices(account).first().is_some_and(|notice| notice["state"] == "Sent"));
    let messages = world.receiver.slack();
    assert!(messages.len() <= 3, "{} messages: {messages:#?}", messages.len());
    let ids: BTreeSet<String> = world
        .cluster
        .accounts(&world.ns)
        .iter()
        .flat_map(|account| notices(account).iter().map(|notice| notice["id"].to_string()).collect::<Vec<_>>())
        .collect();
    assert_eq!(ids.len(), MANY, "one notice for each");
    for name in &names {
        let title = format!("{}/{name}: new token", world.ns);
        let listed = messages.iter().filter(|message| message.contains(&title)).count();
        assert_eq!(listed, 1, "{name} in {messages:#?}");
    }
}

fn wait_all(world: &World<'_>, what: &str, is: impl Fn(&serde_json::Value) -> bool) {
    wait_for(&format!("all accounts {what}"), PATIENCE * 6, || {
        let done = world.cluster.accounts(&world.ns).iter().filter(|account| is(account)).count();
        if done == MANY { Ok(()) } else { Err(format!("{done} of {MANY}")) }
    });
}
