//! What arrives.

use virtual_account_operator::api::Seconds;
use virtual_account_operator::notify::{Content, Letter, Notifier as _, Owner};

use super::post_office::{Mail, office};
use super::{letter, message, now};

#[tokio::test]
async fn a_mail_reader_sees_both_parts_and_all_letters_of_all_languages() {
    let domain = "parts.example";
    let email = office().channel(&format!("Größe & Söhne <tokens@{domain}>")).await;
    email.send(&message(vec![letter("cart")], &["ann@example.com", "bob@example.com"])).await.unwrap();
    let mail = sound(office().mail(domain));
    assert_eq!(mail.types, ["multipart/alternative", "text/plain", "text/html"]);
    assert_eq!(mail.charsets, ["utf-8", "utf-8"]);
    assert_eq!(mail.from, [("Größe & Söhne".to_owned(), format!("tokens@{domain}"))]);
    assert_eq!((mail.to.as_slice(), mail.recipients.as_slice()), (&recipients()[..], &recipients()[..]));
    assert_eq!(mail.header("Subject"), "team/cart: new token");
    assert_eq!(mail.header("Message-ID"), format!("<jti-cart.TokenRotated@{domain}>"));
    assert_eq!(mail.header("X-Virtual-Account-Notice"), "jti-cart.TokenRotated");
    assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
    assert_eq!(mail.header("Date"), "Fri, 15 Jan 2027 08:01:00 +0000");
    assert!(!mail.headers.iter().any(|(name, _)| name == "Reply-To"));
    for part in [
        "What to do: Nothing, where the token",
        "Owner: Zahlungsverkehr",
        "Cluster: prod",
        "in 1 day 5 hours",
        "„Kasse“ 名前",
    ] {
        assert!(mail.text.contains(part), "{part}: {}", mail.text);
    }
    for part in ["<b>What to do:</b> Nothing", ">Zahlungsverkehr</td>", "Größe &amp; Söhne: „Kasse“ 名前"] {
        assert!(mail.html.contains(part), "{part}: {}", mail.html);
    }
}

fn recipients() -> [String; 2] {
    ["ann@example.com".into(), "bob@example.com".into()]
}

#[tokio::test]
async fn a_digest_lists_every_notice_and_its_ids() {
    let domain = "digest.example";
    let email = office().channel(&format!("tokens@{domain}")).await;
    let names: Vec<String> = (0..40).map(|number| format!("account-{number:02}")).collect();
    let letters: Vec<Letter> = names.iter().map(|name| letter(name)).collect();
    let turned = letters.iter().rev().cloned().collect();
    email.send(&message(letters, &["ann@example.com"])).await.unwrap();
    email.send(&message(turned, &["ann@example.com"])).await.unwrap();
    let mails: Vec<Mail> = office().mails(domain).into_iter().map(sound).collect();
    assert_eq!(mails[0].header("Subject"), "40 notices: team/account-00, team/account-01 and 38 more");
    for name in &names {
        let (title, id) = (format!("team/{name}: new token"), format!("jti-{name}.TokenRotated"));
        assert!(mails[0].text.contains(&title) && mails[0].html.contains(&title), "{name}");
        assert!(mails[0].header("X-Virtual-Account-Notice").split(' ').any(|this| this == id), "{id}");
    }
    let id = mails[0].header("Message-ID");
    assert_eq!(id.len(), "<@>".len() + 32 + domain.len(), "{id}");
    assert_eq!(mails[1].header("Message-ID"), id, "the order does not matter");
}

#[tokio::test]
async fn a_repeat_carries_the_same_ids() {
    let domain = "repeat.example";
    let email = office().channel(&format!("tokens@{domain}")).await;
    let first = message(vec![letter("cart")], &["ann@example.com"]);
    email.send(&first).await.unwrap();
    let mut later = first.clone();
    later.now = later.now + Seconds(3_600);
    // Another process: what the first one kept in mind is gone.
    office().channel(&format!("tokens@{domain}")).await.send(&later).await.unwrap();
    let mails = office().mails(domain);
    assert_eq!(mails.len(), 2);
    for name in ["Message-ID", "X-Virtual-Account-Notice", "Subject"] {
        assert_eq!(mails[0].header(name), mails[1].header(name));
    }
    assert_ne!(mails[0].header("Date"), mails[1].header("Date"));
}

#[tokio::test]
async fn a_test_message_goes_to_whoever_runs_the_channel() {
    for (domain, reply_to, expected) in [
        ("test-reply.example", Some("Ops <ops@example.com>"), "ops@example.com"),
        ("test-sender.example", None, "tokens@test-sender.example"),
    ] {
        let mut spec = office().spec(&format!("tokens@{domain}"));
        spec.reply_to = reply_to.map(Into::into);
        let email = super::post_office::open(&spec).await;
        let test = Letter { content: Content::Test, jti: String::new(), ..letter("mail") };
        email.send(&message(vec![test], &[])).await.unwrap();
        let mail = sound(office().mail(domain));
        assert_eq!((mail.to, mail.recipients), (vec![expected.to_owned()], vec![expected.to_owned()]));
        let answers = mail.headers.iter().find(|(name, _)| name == "Reply-To").map(|(_, value)| value.as_str());
        assert_eq!(answers, reply_to);
        assert!(mail.text.contains("Somebody asked the NotificationChannel"), "{}", mail.text);
    }
}

#[tokio::test]
async fn hostile_texts_stay_texts() {
    let domain = "hostile.example";
    let evil =
        "x\r\nBcc: evil@example.com\r\n\r\n<script>alert(1)</script>\n.\nQUIT\r\n<img src=//e.example> =?utf-8?q?=41?=";
    let turned = format!("\u{202e}{evil}\u{2066}שלום \u{0}\u{7}");
    let email = office().channel(&format!("A, (b) \"c\" =?x?q?y?= <tokens@{domain}>")).await;
    let content =
        Content::Failing { target: turned.clone(), since: now(), error: format!("{evil} {}", "ü".repeat(9_000)) };
    let odd = Letter {
        id: "id\r\nBcc: evil@example.com".into(),
        account: virtual_account_operator::api::AccountId::new(turned.as_str(), evil),
        owner: Some(Owner { team: evil.into(), account: Some(turned.clone()) }),
        description: Some("y".repeat(20_000)),
        content,
        ..letter("cart")
    };
    email.send(&message(vec![odd.clone()], &["ann@example.com"])).await.unwrap();
    email.send(&message(vec![odd, letter("cart")], &["ann@example.com"])).await.unwrap();
    let mails: Vec<Mail> = office().mails(domain).into_iter().map(sound).collect();
    assert_eq!(mails.len(), 2);
    for mail in mails {
        assert_eq!(mail.recipients, ["ann@example.com"]);
        assert!(!mail.headers.iter().any(|(name, _)| name == "Bcc"), "{:?}", mail.headers);
        assert!(mail.header("Subject").contains("= ?utf-8?q?=41?="), "{}", mail.header("Subject"));
        assert_eq!(mail.from[0].1, format!("tokens@{domain}"));
        assert!(!mail.html.contains("<script") && !mail.html.contains("<img"), "{}", mail.html);
        assert!(mail.html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        let hidden = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{2066}');
        for text in [&mail.text, &mail.html, mail.header("Subject"), &mail.from[0].0] {
            assert!(!text.contains(hidden), "{text:?}");
        }
        assert!(mail.text.contains("שלום"));
    }
}

#[tokio::test]
async fn nothing_is_loaded_from_elsewhere_and_no_colour_is_set() {
    let domain = "quiet.example";
    office()
        .channel(&format!("tokens@{domain}"))
        .await
        .send(&message(vec![letter("a")], &["a@example.com"]))
        .await
        .unwrap();
    let mail = office().mail(domain);
    for banned in ["http:", "https:", "src=", "href=", "url(", "<script", "<link", " color:", "background", "bgcolor"] {
        assert!(!mail.html.contains(banned), "{banned}: {}", mail.html);
    }
    assert!(mail.html.contains("<meta name=\"color-scheme\" content=\"light dark\">"));
}

/// What holds of every mail.
fn sound(mail: Mail) -> Mail {
    assert_eq!(mail.defects, Vec::<String>::new(), "{}", mail.raw);
    assert!(mail.clean && mail.longest <= 200, "{} {}", mail.longest, mail.raw);
    mail
}
