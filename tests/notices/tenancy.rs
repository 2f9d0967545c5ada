//! Channels of somebody else, channels that are missing, and recipients that are: said in `Notified`, and sent once that
//! is put right.

use serde_json::json;

use crate::support::cluster::ready;
use crate::world::{World, notices, to};

#[test]
fn channel_of_another_namespace_is_used_once_it_allows_it() {
    let (owner, tenant) = (World::shared("owner"), World::shared("tenant"));
    owner.channel("hook", &owner.hook());
    let target = json!([{"channelRef": {"namespace": owner.ns, "name": "hook"}}]);
    let first = tenant.account("cart", &target, &json!({}));
    let message = tenant.wait_notified("cart", "NotAllowed");
    assert!(message.contains(&format!("{}/hook", owner.ns)) && message.contains("allowedNamespaces"), "{message}");
    let rotated = tenant.rotate("cart", "one");
    assert_eq!(ready(&rotated), ready(&first), "of no concern to Ready");
    let pending = tenant.wait("cart", "a notice", |account| !notices(account).is_empty());
    assert_eq!(notices(&pending)[0]["state"], "Pending");
    assert_eq!(notices(&pending)[0]["error"]["reason"], "NotAllowed");
    assert_eq!(owner.receiver.events().len(), 0);

    let all = json!({"spec": {"allowedNamespaces": {"from": "All"}}});
    owner.cluster.patch(&owner.channel_path("hook"), &all);
    let told = tenant.wait_told("cart", 1);
    assert!(notices(&told)[0]["error"].is_null() && notices(&told)[0]["failingSince"].is_null(), "{told}");
    tenant.wait_notified("cart", "Notified");
    let events = owner.receiver.events();
    assert_eq!((events.len(), &events[0]["id"]), (1, &notices(&told)[0]["id"]), "{events:#?}");
}

#[test]
fn channel_that_is_missing_is_used_once_it_exists() {
    let world = World::shared("missing");
    world.account("cart", &json!([to("hook")]), &json!({}));
    world.rotate("cart", "one");
    let message = world.wait_notified("cart", "ChannelNotFound");
    assert!(message.contains(&format!("{}/hook", world.ns)) && message.contains("create it"), "{message}");
    world.create_channel("hook", &world.hook());
    world.wait_told("cart", 1);
    world.wait_notified("cart", "Notified");
    assert_eq!(world.receiver.events().len(), 1);
}

#[test]
fn mail_without_recipients_is_sent_once_it_has_some() {
    let world = World::shared("nobody");
    world.channel("mail", &world.mail());
    world.account("cart", &json!([to("mail")]), &json!({}));
    let message = world.wait_notified("cart", "NoRecipients");
    assert!(message.contains("spec.notificationTargets[].toEmails"), "{message}");
    world.rotate("cart", "one");
    assert_eq!(world.mails().len(), 0);
    world.patch(
        "cart",
        &json!({"spec": {"notificationTargets":
        [{"channelRef": {"name": "mail"}, "toEmails": ["payments@example.com"]}]}}),
    );
    world.wait_notified("cart", "Notified");
    world.wait("cart", "a notice that was sent", |account| {
        notices(account).first().is_some_and(|notice| notice["state"] == "Sent")
    });
    let mails = world.wait_mails(1);
    assert_eq!(mails[0].recipients, ["payments@example.com"]);
}
