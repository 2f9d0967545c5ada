//! The main story: a rotation is told once by mail and once by webhook.

use serde_json::{Value, json};

use crate::support::cluster::{entries, ready};
use crate::support::requests::{STATUS, requests};
use crate::world::{CLUSTER, World, notices, notified, shared_operator, to};

fn both() -> Value {
    json!([{"channelRef": {"name": "mail"}, "toEmails": ["payments@example.com"]}, to("hook")])
}

#[test]
fn rotation_is_told_once_by_mail_and_by_webhook() {
    let world = World::shared("story");
    world.channel("mail", &world.mail());
    world.channel("hook", &world.hook());
    let first = world.account("cart", &both(), &json!({"description": "Talks to the bank"}));
    assert_eq!((notices(&first), &notified(&first)["status"]), ([].as_slice(), &json!("True")), "nothing to tell yet");
    world.rotate("cart", "one");
    let account = world.wait_told("cart", 2);
    let (mails, events) = (world.mails(), world.receiver.events());
    assert_eq!((mails.len(), events.len()), (1, 1), "{mails:#?} {events:#?}");
    let (mail, event) = (&mails[0], &events[0]);

    let id = |name: &str| {
        let notice = notices(&account).iter().find(|notice| notice["channelRef"]["name"] == name).unwrap();
        assert_eq!((&notice["kind"], &notice["jwtId"]), (&json!("TokenRotated"), &account["status"]["jwtId"]));
        notice["id"].as_str().unwrap().to_owned()
    };
    assert!(mail.header("Message-ID").starts_with(&format!("<{}@", id("mail"))), "{}", mail.header("Message-ID"));
    assert_eq!(mail.header("X-Virtual-Account-Notice"), id("mail"));
    assert_eq!(event["id"], id("hook"));
    assert_eq!(mail.recipients, ["payments@example.com"]);

    let end = entries(&account)[1]["graceEndsAt"].as_str().unwrap();
    let name = format!("{}/cart", world.ns);
    let todo = "Nothing, where the token is read again when it changes.";
    for words in [&name, end, "Secret cart-token", "payments (jo)", CLUSTER, "request (annotation rotate)", todo] {
        assert!(mail.text.contains(words), "{words} in {}", mail.text);
        assert!(mail.html.contains(words), "{words} in {}", mail.html);
    }
    let data = &event["data"];
    assert_eq!((&event["subject"], &data["previous"]["endsAt"]), (&json!(name), &json!(end)));
    assert_eq!(data["places"], json!(["Secret cart-token"]));
    assert_eq!((&data["owner"], &data["cluster"]), (&json!({"team": "payments", "account": "jo"}), &json!(CLUSTER)));
    assert!(data["todo"].as_str().unwrap().starts_with(todo), "{data}");

    assert_eq!((&notified(&account)["status"], &notified(&account)["reason"]), (&json!("True"), &json!("Notified")));
    assert_eq!(ready(&account), ready(&first), "of no concern to Ready");
}

#[test]
fn telling_a_rotation_costs_one_write_for_each_answer_and_nothing_else() {
    let world = World::shared("writes");
    let operator = shared_operator();
    world.channel("hook", &world.hook());
    let count = |work: &dyn Fn()| requests(world.plane, &world.cluster, &operator.user(), &world.ns, work);
    let first = count(&|| {
        world.account("cart", &json!([to("hook")]), &json!({}));
    });
    assert_eq!(first, [STATUS, "create secrets", STATUS]);
    let rotation = count(&|| {
        world.rotate("cart", "one");
        world.wait_told("cart", 1);
    });
    assert_eq!(rotation, [STATUS, "update secrets", STATUS, STATUS]);
    let rest = count(&|| std::thread::sleep(crate::world::A_WHILE));
    assert_eq!(rest, [""; 0]);
}
