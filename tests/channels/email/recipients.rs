//! Several recipients, not all of whom are taken.

use std::sync::Arc;

use virtual_account_operator::integration::ErrorKind;
use virtual_account_operator::notify::{Memory, Notifier as _};

use super::post_office::{office, open_knowing};
use super::{assert_discreet, fails_with, letter, logs, message};

#[tokio::test]
async fn one_refused_recipient_does_not_keep_the_others_from_the_mail() {
    let domain = "some-refused.example";
    let (logs, _guard) = logs();
    let email = office().channel(&format!("tokens@{domain}")).await;
    email.send(&message(vec![letter("a")], &["ann@x.example", "refused@x.example", "bob@x.example"])).await.unwrap();
    assert_eq!(office().mail(domain).recipients, ["ann@x.example", "bob@x.example"]);
    let told = logs.text();
    assert!(told.contains("refused=1 recipients=3 code=\"550 5.1.1\" id=\"<jti-a.TokenRotated@"), "{told}");
    assert_discreet(&told);
}

#[tokio::test]
async fn a_mail_that_nobody_may_have_is_final() {
    let domain = "all-refused.example";
    let email = office().channel(&format!("tokens@{domain}")).await;
    let sent = email.send(&message(vec![letter("a")], &["refused-1@x.example", "refused-2@x.example"])).await;
    let error = fails_with(sent, ErrorKind::Invalid, "RecipientsRefused");
    assert!(error.message.starts_with("2 of 2 recipients") && error.message.contains("550"), "{error}");
    assert!(office().mails(domain).is_empty());
    let ends = ["RCPT refused-1@x.example", "RCPT refused-2@x.example", "QUIT"];
    assert!(office().sessions(domain)[0].ends_with(&ends.map(String::from)), "nothing is sent for nobody");
}

#[tokio::test]
async fn a_repeat_goes_to_those_only_who_do_not_have_it() {
    let domain = "some-deferred.example";
    let email = office().channel(&format!("tokens@{domain}")).await;
    let all = ["ann@x.example", "once@some-deferred.example", "refused@x.example"];
    let mail = message(vec![letter("a")], &all);
    let error = fails_with(email.send(&mail).await, ErrorKind::Throttled, "RecipientsDeferred");
    assert!(error.is_retryable() && error.message.starts_with("1 of 3 recipients"), "{error}");
    email.send(&mail).await.unwrap();
    let mails = office().mails(domain);
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0].recipients, ["ann@x.example"]);
    assert_eq!(mails[1].recipients, ["once@some-deferred.example"]);
    assert_eq!(mails[0].header("Message-ID"), mails[1].header("Message-ID"));
    assert_eq!(mails[0].to, mails[1].to, "everybody sees who else is told");

    // It is done: the next one with the same id, if anybody wants it, goes to all.
    email.send(&mail).await.unwrap();
    assert_eq!(office().mails(domain)[2].recipients, ["ann@x.example", "once@some-deferred.example"]);
}

#[tokio::test]
async fn who_has_it_is_known_after_credentials_were_read_anew() {
    let domain = "opened-anew.example";
    let (spec, memory) = (office().spec(&format!("tokens@{domain}")), Arc::<Memory>::default());
    let mail = message(vec![letter("a")], &["ann@x.example", "once@opened-anew.example"]);
    let first = open_knowing(&spec, &memory).await.send(&mail).await;
    fails_with(first, ErrorKind::Throttled, "RecipientsDeferred");
    open_knowing(&spec, &memory).await.send(&mail).await.unwrap();
    let recipients: Vec<_> = office().mails(domain).into_iter().map(|mail| mail.recipients.join(" ")).collect();
    assert_eq!(recipients, ["ann@x.example", "once@opened-anew.example"]);
}

#[tokio::test]
async fn a_repeat_with_more_letters_tells_nobody_the_same_twice() {
    let domain = "joined.example";
    let email = office().channel(&format!("tokens@{domain}")).await;
    let all = ["ann@x.example", "once@joined.example"];
    let first = email.send(&message(vec![letter("a")], &all)).await;
    fails_with(first, ErrorKind::Throttled, "RecipientsDeferred");
    email.send(&message(vec![letter("a"), letter("b")], &all)).await.unwrap();
    let mails: Vec<_> = office()
        .mails(domain)
        .into_iter()
        .map(|mail| {
            let subject = mail.header("Subject").to_owned();
            (mail.recipients.join(" "), subject)
        })
        .collect();
    let expected = [
        ("ann@x.example", "team/a: new token"),
        ("once@joined.example", "2 notices: team/a, team/b"),
        ("ann@x.example", "team/b: new token"),
    ];
    assert_eq!(mails, expected.map(|(to, subject)| (to.to_owned(), subject.to_owned())));
}

#[tokio::test]
async fn letters_that_part_of_a_group_may_not_have_do_not_mix_transactions() {
    let domain = "reset.example";
    let email = office().channel(&format!("tokens@{domain}")).await;
    let all = ["ann@x.example", "busy@x.example"];
    fails_with(email.send(&message(vec![letter("a")], &all)).await, ErrorKind::Throttled, "RecipientsDeferred");
    let more = message(vec![letter("a"), letter("b")], &all);
    fails_with(email.send(&more).await, ErrorKind::Throttled, "RecipientsDeferred");
    let mails = office().mails(domain);
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[1].recipients, ["ann@x.example"]);
    assert_eq!(mails[1].header("Subject"), "team/b: new token", "the transaction for the others was ended");
    fails_with(email.send(&more).await, ErrorKind::Throttled, "RecipientsDeferred");
    assert_eq!(office().mails(domain).len(), 2, "she has both now");
}

#[tokio::test]
async fn those_who_have_it_count_when_the_others_are_refused_in_the_end() {
    let domain = "late-refusal.example";
    let email = office().channel(&format!("tokens@{domain}")).await;
    let busy = message(vec![letter("a")], &["ann@x.example", "busy@x.example"]);
    fails_with(email.send(&busy).await, ErrorKind::Throttled, "RecipientsDeferred");
    fails_with(email.send(&busy).await, ErrorKind::Throttled, "RecipientsDeferred");
    email.send(&message(vec![letter("a")], &["ann@x.example", "refused@x.example"])).await.unwrap();
    assert_eq!(office().mails(domain).len(), 1, "Ann gets it once");
}

#[tokio::test]
async fn fifty_recipients_get_one_mail() {
    let domain = "fifty.example";
    let names: Vec<String> = (10..60).map(|n| format!("somebody-with-a-long-name-{n}@department.x.example")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    office().channel(&format!("tokens@{domain}")).await.send(&message(vec![letter("a")], &all)).await.unwrap();
    let mail = office().mail(domain);
    assert_eq!((&mail.recipients, &mail.to), (&names, &names));
    assert!(mail.clean && mail.defects.is_empty() && mail.longest <= 200, "{} {:?}", mail.longest, mail.defects);
}

#[tokio::test]
async fn what_is_no_address_reaches_no_server() {
    let domain = "no-address.example";
    let email = office().channel(&format!("tokens@{domain}")).await;
    let odd = ["größe@x.example", "a@x.example\r\nRCPT TO:<evil@x.example>", "<b@x.example>", "nobody"];
    let sent = email.send(&message(vec![letter("a")], &odd)).await;
    fails_with(sent, ErrorKind::Invalid, "NoRecipients");
    fails_with(email.send(&message(vec![letter("a")], &[])).await, ErrorKind::Invalid, "NoRecipients");
    assert!(office().sessions(domain).is_empty());

    let (logs, _guard) = logs();
    let mixed = [&odd[..], &["ann@x.example", "ann@x.example"]].concat();
    email.send(&message(vec![letter("a")], &mixed)).await.unwrap();
    assert_eq!(office().mail(domain).recipients, ["ann@x.example"]);
    assert!(logs.text().contains("unusable=4"), "{}", logs.text());
    assert_discreet(&logs.text());
}
