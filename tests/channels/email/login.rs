//! How a session begins: encryption, whose server it is, and who logs in.

use std::sync::Arc;
use std::time::Duration;

use virtual_account_operator::api::EmailSecurity;
use virtual_account_operator::integration::{ErrorKind, Network};
use virtual_account_operator::notify::{Email, Notifier as _};

use super::post_office::{Office, Secrets, key, network, office, open, open_with, try_open};
use super::{fails_with, letter, message};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_check_logs_in_encrypted_and_sends_nothing() {
    let domain = "check.example";
    office().channel(&format!("tokens@{domain}")).await.check().await.unwrap();
    let hello = format!("EHLO {domain}");
    let expected = [hello.as_str(), "STARTTLS", &hello, "AUTH PLAIN encrypted", "NOOP", "QUIT"];
    assert_eq!(office().sessions(domain), [expected]);
    assert!(office().mails(domain).is_empty());
}

#[tokio::test]
async fn tls_from_the_first_byte_and_the_older_login_work() {
    let domain = "implicit.example";
    let office = Office::start(EmailSecurity::Tls, &["--without", "PLAIN"]);
    let email = office.channel(&format!("tokens@{domain}")).await;
    email.check().await.unwrap();
    email.send(&message(vec![letter("cart")], &["ann@example.com"])).await.unwrap();
    assert_eq!(office.mail(domain).recipients, ["ann@example.com"]);
    let hello = format!("EHLO {domain}");
    let sender = format!("MAIL tokens@{domain}");
    let login = [hello.as_str(), "AUTH LOGIN encrypted"];
    let sent = [&login[..], &[&sender, "RCPT ann@example.com", "DATA", "QUIT"]].concat();
    assert_eq!(office.sessions(domain), [[&login[..], &["NOOP", "QUIT"]].concat(), sent]);
}

#[tokio::test]
async fn without_encryption_only_where_the_channel_says_so() {
    let domain = "plain.example";
    let office = Office::start(EmailSecurity::None, &[]);
    let spec = office.spec(&format!("tokens@{domain}"));
    open(&spec).await.check().await.unwrap();
    let strict = Network { allow_local: false, ..network(PATIENCE) };
    let secrets = || Arc::new(Secrets { password: "canary" });
    let refused = Email::open(&spec, secrets(), strict, Arc::default()).await;
    fails_with(refused, ErrorKind::Invalid, "InvalidSpec");
    assert!(Email::open(&spec, secrets(), Network { allow_http: true, ..strict }, Arc::default()).await.is_ok());
}

#[tokio::test]
async fn a_server_without_starttls_is_told_nothing() {
    let domain = "stripped.example";
    let office = Office::start(EmailSecurity::None, &[]);
    let mut spec = office.spec(&format!("tokens@{domain}"));
    spec.security = Some(EmailSecurity::StartTls);
    let email = open(&spec).await;
    let error = fails_with(email.check().await, ErrorKind::Unavailable, "StartTlsNotOffered");
    assert!(error.message.contains("spec.email.security: TLS"), "{error}");
    let sent = email.send(&message(vec![letter("cart")], &["ann@example.com"])).await;
    fails_with(sent, ErrorKind::Unavailable, "StartTlsNotOffered");
    let hello = format!("EHLO {domain}");
    assert_eq!(office.sessions(domain), [[hello.as_str()], [hello.as_str()]]);
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_is_told_nothing() {
    for office in [office(), &Office::start(EmailSecurity::Tls, &[])] {
        let mut spec = office.spec("tokens@authority.example");
        spec.ca_bundle = None;
        let error = fails_with(open(&spec).await.check().await, ErrorKind::Unavailable, "UnknownAuthority");
        assert!(error.message.contains("spec.email.caBundle"), "{error}");
        assert!(!office.sessions("authority.example").iter().flatten().any(|event| event.starts_with("AUTH")));
    }
}

#[tokio::test]
async fn a_server_with_the_certificate_of_another_is_told_nothing() {
    // The certificate is one for 127.0.0.1.
    let office = Office::start(EmailSecurity::StartTls, &["--host", "127.0.0.2"]);
    let mut spec = office.spec("tokens@name.example");
    spec.host = "127.0.0.2".into();
    let error = fails_with(open(&spec).await.check().await, ErrorKind::Unavailable, "CertificateNameMismatch");
    assert!(error.message.contains("127.0.0.2") && error.message.contains("spec.email.host"), "{error}");
    assert!(!office.sessions("name.example").iter().flatten().any(|event| event.starts_with("AUTH")));
}

#[tokio::test]
async fn tls_at_the_wrong_point_names_the_cure() {
    let mut spec = office().spec("tokens@wrong-mode.example");
    spec.security = Some(EmailSecurity::Tls);
    let error = fails_with(open(&spec).await.check().await, ErrorKind::Unavailable, "TlsFailed");
    assert!(error.message.contains("StartTLS"), "{error}");

    let implicit = Office::start(EmailSecurity::Tls, &[]);
    let mut spec = implicit.spec("tokens@wrong-mode.example");
    spec.security = Some(EmailSecurity::StartTls);
    // It waits for us, and we for it.
    let email = try_open(&spec, Duration::from_millis(700)).await.unwrap();
    let error = fails_with(email.check().await, ErrorKind::Unavailable, "Timeout");
    assert!(error.message.contains("spec.email.security: TLS"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_not_told() {
    let domain = "password.example";
    let email = open_with(&office().spec(&format!("tokens@{domain}")), "canary-wrong").await;
    let error = fails_with(email.check().await, ErrorKind::Denied, "LoginRefused");
    assert!(error.message.contains("535") && error.message.contains("spec.email.auth"), "{error}");
    let sent = email.send(&message(vec![letter("cart")], &["ann@example.com"])).await;
    fails_with(sent, ErrorKind::Denied, "LoginRefused");
    assert!(office().mails(domain).is_empty());
}

#[tokio::test]
async fn a_login_that_is_missing_or_not_offered_is_denied() {
    let mut spec = office().spec("tokens@nobody.example");
    spec.auth = None;
    let sent = open(&spec).await.send(&message(vec![letter("cart")], &["ann@example.com"])).await;
    let error = fails_with(sent, ErrorKind::Denied, "LoginRequired");
    assert!(error.message.contains("spec.email.auth"), "{error}");

    let relay = Office::open(EmailSecurity::StartTls, &[]);
    let error =
        fails_with(relay.channel("tokens@relay.example").await.check().await, ErrorKind::Denied, "LoginNotOffered");
    assert!(error.message.contains("spec.email.auth"), "{error}");
    let mut spec = relay.spec("tokens@relay.example");
    spec.auth = None;
    open(&spec).await.send(&message(vec![letter("cart")], &["ann@example.com"])).await.unwrap();
    assert_eq!(relay.mails("relay.example").len(), 1);
}

#[tokio::test]
async fn what_cannot_be_used_is_said_when_the_channel_is_opened() {
    let spec = || office().spec("tokens@open.example");
    for (broken, kind, reason) in [
        (
            virtual_account_operator::api::Email { ca_bundle: Some(key("empty")), ..spec() },
            ErrorKind::Invalid,
            "InvalidCaBundle",
        ),
        (
            virtual_account_operator::api::Email { ca_bundle: Some(key("torn")), ..spec() },
            ErrorKind::Invalid,
            "InvalidCaBundle",
        ),
        (
            virtual_account_operator::api::Email { ca_bundle: Some(key("none")), ..spec() },
            ErrorKind::Denied,
            "KeyNotFound",
        ),
        (
            virtual_account_operator::api::Email { from: "tokens at open".into(), ..spec() },
            ErrorKind::Invalid,
            "InvalidAddress",
        ),
        (
            virtual_account_operator::api::Email { reply_to: Some("größe at open".into()), ..spec() },
            ErrorKind::Invalid,
            "InvalidAddress",
        ),
    ] {
        let opened = try_open(&broken, PATIENCE).await;
        assert_eq!(opened.as_ref().err().map(|error| (error.kind, error.reason.as_str())), Some((kind, reason)));
    }
}
