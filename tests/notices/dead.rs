//! A channel that takes nothing for a day: tokens do not notice, people with `kubectl` do, and then there is silence. On a
//! plane of its own, because the clock moves.

use std::time::Duration;

use serde_json::json;

use crate::support::cluster::{entries, ready, stays, token};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;
use crate::world::{A_WHILE, FLAGS, World, notices, notified, to};

#[test]
fn channel_that_is_dead_for_a_day_disturbs_nothing_and_is_told_once() {
    let plane = Plane::start();
    let operator = Operator::start(&plane, Options { clock: Some("+0".into()), ..Options::flags(&FLAGS) });
    let world = World::on(&plane, "dead");
    world.channel("hook", &world.hook());
    let first = world.account("cart", &json!([to("hook")]), &json!({}));
    let old = token(&world.cluster.secret(&world.ns, "cart-token").unwrap());
    world.receiver.cut();

    // The token is rotated and its grace ends as ever.
    let rotated = world.rotate("cart", "one,grace=4s");
    assert_eq!(ready(&rotated), ready(&first), "of no concern to Ready");
    world.wait("cart", "the grace to end", |account| entries(account).len() == 1);
    assert!(!operator.accepts(&old));
    let message = world.wait_notified("cart", "ConnectionBroken");
    let failing = world.wait("cart", "a failure", |account| notices(account)[0]["failingSince"].is_string());
    let first_notice = notices(&failing)[0].clone();
    let channel = format!("NotificationChannel {}/hook", world.ns);
    for words in [channel.as_str(), "TokenRotated", "tried until"] {
        assert!(message.contains(words), "{words} in {message}");
    }
    assert_eq!(world.wait_channel("hook", "False")["status"]["conditions"][0]["type"], "Ready");

    // Half a day later: still tried.
    operator.set_clock("+12h");
    world.receiver.refuse(500);
    let account = world.rotate("cart", "two");
    assert_eq!(ready(&account), ready(&first));
    assert!(notices(&account).iter().any(|notice| notice["id"] == first_notice["id"] && notice["state"] == "Pending"));
    world.wait_long("cart", "the second to be tried", |account| notices(account)[0]["failingSince"].is_string());

    // A day after the first: given up.
    operator.set_clock("+25h");
    let given_up = world.wait("cart", "the first notice to be given up", |account| {
        notices(account).iter().any(|notice| notice["id"] == first_notice["id"] && notice["state"] == "Failed")
    });
    assert_eq!((ready(&given_up), &notified(&given_up)["status"]), (ready(&first), &json!("False")));
    let note = world.cluster.wait_event(&world.ns, "cart", "NotificationFailed");
    assert!(note.contains(&channel) && note.contains("given up"), "{note}");
    operator.set_clock("+38h");
    world.wait("cart", "the second to be given up", |account| {
        notices(account).iter().all(|notice| notice["state"] == "Failed")
    });
    let (attempts, status) = (world.receiver.attempts(), world.cluster.account(&world.ns, "cart").unwrap());
    stays("there is silence", A_WHILE, || {
        let events = world.cluster.events(&world.ns, "cart");
        let told = events.iter().filter(|(_, reason, _)| reason == "NotificationFailed").count();
        let now = world.cluster.account(&world.ns, "cart").unwrap();
        let heads = world.receiver.attempts() - attempts;
        // The channel's own check goes on.
        if told <= 2 && now == status && heads <= 2 { Ok(()) } else { Err(format!("{events:?} {heads} {now}")) }
    });
    assert_eq!(world.receiver.events().len(), 0);

    // Cured: what is given up is not told, what comes next is.
    world.receiver.pass();
    operator.set_clock("+39h");
    world.wait_channel("hook", "True");
    let account = world.rotate("cart", "three");
    world.wait("cart", "to be told", |account| notified(account)["status"] == "True");
    let events = world.receiver.wait_events(1);
    assert_eq!((events.len(), &events[0]["data"]["jwtId"]), (1, &account["status"]["jwtId"]), "{events:#?}");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(world.receiver.events().len(), 1);
}
