//! A test message, asked for on the channel. On a plane of its own, because the operator is killed.

use serde_json::{Value, json};

use crate::support::cluster::{PATIENCE, stays, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;
use crate::world::{A_WHILE, FLAGS, World};

fn ask(world: &World<'_>, channel: &str, value: &str) {
    let annotation = json!({"metadata": {"annotations": {"virtualaccounts.dev/test-requested-at": value}}});
    world.cluster.patch(&world.channel_path(channel), &annotation);
}

/// What the status says of this test.
fn wait_test(world: &World<'_>, channel: &str, value: &str) -> Value {
    wait_for(&format!("test {value} of {channel}"), PATIENCE, || {
        let channel = world.cluster.find(&world.channel_path(channel)).expect("it exists");
        let test = channel["status"]["lastTest"].clone();
        if test["requestedAt"] == value { Ok(test) } else { Err(channel["status"].to_string()) }
    })
}

#[test]
fn test_message_goes_out_once_for_each_value_and_says_what_became_of_it() {
    let plane = Plane::start();
    let mut operator = Operator::start(&plane, Options::flags(&FLAGS));
    let world = World::on(&plane, "test");
    let mut mail = world.mail();
    mail["email"]["replyTo"] = json!("platform@example.com");
    world.channel("mail", &mail);
    assert_eq!(world.mails().len(), 0, "a check tells nobody anything");
    ask(&world, "mail", "first");
    let test = wait_test(&world, "mail", "first");
    assert_eq!((&test["result"], &test["message"]), (&json!("Sent"), &json!("sent to platform@example.com")));
    let mails = world.wait_mails(1);
    assert_eq!(mails[0].recipients, ["platform@example.com"]);
    assert!(mails[0].text.contains("This is a test."), "{}", mails[0].text);

    // The same value again, another annotation, and a restart ask for nothing.
    ask(&world, "mail", "first");
    world.cluster.patch(&world.channel_path("mail"), &json!({"metadata": {"annotations": {"example.com/a": "b"}}}));
    operator.kill();
    operator.revive();
    operator.wait_up();
    world.channel("hook", &world.hook());
    stays("one mail", A_WHILE, || if world.mails().len() == 1 { Ok(()) } else { Err("more".into()) });

    ask(&world, "mail", "second");
    assert_eq!(wait_test(&world, "mail", "second")["result"], "Sent");
    let mails = world.wait_mails(2);
    assert_eq!(mails.len(), 2);
    assert_ne!(mails[0].header("Message-ID"), mails[1].header("Message-ID"));

    // One that fails says why.
    world.receiver.refuse(503);
    ask(&world, "hook", "third");
    let test = wait_test(&world, "hook", "third");
    assert_eq!(test["result"], "Failed");
    assert!(test["message"].as_str().unwrap().contains("503"), "{test}");
}
