//! Servers that refuse, wait, stop or are not there.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use virtual_account_operator::api::EmailSecurity;
use virtual_account_operator::integration::{ErrorKind, Network};
use virtual_account_operator::notify::{Email, Notifier as _};

use super::post_office::{PASSWORD, Secrets, network, office, open, try_open};
use super::{assert_discreet, fails_with, letter, logs, message};

const SHORT: Duration = Duration::from_millis(700);

#[tokio::test]
async fn each_refusal_means_one_thing() {
    for (sender, kind, reason, code) in [
        ("banned", ErrorKind::Denied, "SenderRefused", "550"),
        ("throttled", ErrorKind::Throttled, "RateLimited", "421"),
        ("stopping", ErrorKind::Unavailable, "ServiceUnavailable", "421"),
        ("spam", ErrorKind::Invalid, "ContentRefused", "554"),
        ("later", ErrorKind::Unavailable, "Deferred", "451"),
    ] {
        let domain = format!("{sender}.example");
        let email = office().channel(&format!("{sender}@{domain}")).await;
        let sent = email.send(&message(vec![letter("a")], &["ann@x.example"])).await;
        let error = fails_with(sent, kind, reason);
        assert!(error.message.contains(&format!("answered {code} to the ")), "{error}");
        assert!(office().mails(&domain).is_empty());
        assert_eq!(office().sessions(&domain)[0].last().map(String::as_str), Some("QUIT"), "we leave politely");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let mut spec = office().spec("silent@silence.example");
    spec.security = Some(EmailSecurity::StartTls);
    // Of one step; the answer to the content has eight of them.
    let email = try_open(&spec, Duration::from_secs(2)).await.unwrap();
    let started = Instant::now();
    let sent = email.send(&message(vec![letter("a")], &["ann@x.example"])).await;
    let error = fails_with(sent, ErrorKind::Unavailable, "Timeout");
    assert!(error.message.contains("to the message"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_mail_that_is_taken_late_is_taken() {
    let domain = "slow.example";
    // The server takes five seconds for the content, and is quick else.
    let email = try_open(&office().spec(&format!("slow@{domain}")), Duration::from_secs(2)).await.unwrap();
    email.send(&message(vec![letter("a")], &["ann@x.example"])).await.unwrap();
    assert_eq!(office().mail(domain).recipients, ["ann@x.example"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut spec = office().spec("tokens@nowhere.example");
    spec.port = Some(port);
    let error = fails_with(open(&spec).await.check().await, ErrorKind::Unavailable, "Unreachable");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_server_that_is_no_mail_server_is_told_as_such() {
    for (greeting, reason) in [
        (&b""[..], "UnreadableAnswer"),
        (b"SSH-2.0-canary\r\n", "UnreadableAnswer"),
        (b"\xff\xfe\r\n", "Unreachable"),
        (b"554 no service for canary-user@x.example\r\n", "ServiceUnavailable"),
    ] {
        let mut spec = office().spec("tokens@no-mail.example");
        spec.port = Some(says(greeting).await);
        fails_with(open(&spec).await.check().await, ErrorKind::Unavailable, reason);
    }
}

/// A server that greets like this and closes.
async fn says(greeting: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(greeting).await.unwrap();
        stream.shutdown().await.unwrap();
        drain(stream).await;
    });
    port
}

/// Reads to the end, so that the connection is closed and not broken.
async fn drain(mut stream: TcpStream) {
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

#[tokio::test]
async fn a_server_that_never_ends_a_line_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut spec = office().spec("tokens@babble.example");
    spec.port = Some(listener.local_addr().unwrap().port());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut written = 0_usize;
        while stream.write_all(&[b'2'; 4096]).await.is_ok() {
            written += 4096;
        }
        written
    });
    let email = try_open(&spec, Duration::from_mins(1)).await.unwrap();
    let error = fails_with(email.check().await, ErrorKind::Unavailable, "Unreachable");
    assert!(error.message.contains("says too much"), "{error}");
    // What was not read is in buffers of the kernel.
    let written = server.await.unwrap();
    assert!(written < 32 << 20, "{written} bytes were taken");
}

#[tokio::test]
async fn a_mute_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut spec = office().spec("tokens@mute.example");
    spec.port = Some(listener.local_addr().unwrap().port());
    for security in [EmailSecurity::StartTls, EmailSecurity::Tls] {
        spec.security = Some(security);
        let email = try_open(&spec, SHORT).await.unwrap();
        let started = Instant::now();
        fails_with(email.check().await, ErrorKind::Unavailable, "Timeout");
        assert!(started.elapsed() < 10 * SHORT, "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn local_addresses_are_not_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let strict = Network { allow_local: false, ..network(SHORT) };
    for host in ["127.0.0.1", "localhost", "169.254.169.254", "::ffff:127.0.0.1"] {
        let mut spec = office().spec("tokens@local.example");
        (spec.host, spec.port) = (host.into(), Some(port));
        let email =
            Email::open(&spec, std::sync::Arc::new(Secrets { password: PASSWORD }), strict, std::sync::Arc::default())
                .await
                .unwrap();
        fails_with(email.check().await, ErrorKind::Denied, "InvalidEndpoint");
        let sent = email.send(&message(vec![letter("a")], &["ann@x.example"])).await;
        fails_with(sent, ErrorKind::Denied, "InvalidEndpoint");
    }
    let seen = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(seen.is_err(), "somebody connected");
}

#[tokio::test]
async fn answers_slipped_in_before_encryption_are_noticed() {
    // Somebody between us and the server adds an answer to EHLO behind that to STARTTLS (RFC 3207, section 6).
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut spec = office().spec("tokens@slipped.example");
    spec.port = Some(listener.local_addr().unwrap().port());
    let real = office().port();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(("127.0.0.1", real)).await.unwrap();
        between(client, server).await;
    });
    let email = open(&spec).await;
    let sent = email.send(&message(vec![letter("a")], &["ann@x.example"])).await;
    fails_with(sent, ErrorKind::Unavailable, "UnexpectedAnswer");
    assert!(office().mails("slipped.example").is_empty());
}

/// Passes everything on, and adds an answer to the one that STARTTLS gets.
async fn between(client: TcpStream, server: TcpStream) {
    use tokio::io::AsyncReadExt as _;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
        let mut answer = buffer[..read].to_vec();
        if answer.starts_with(b"220 ") && answer.windows(5).any(|word| word == b"Ready") {
            answer.extend_from_slice(b"250-mail.test\r\n250 AUTH PLAIN LOGIN\r\n");
        }
        if to_client.write_all(&answer).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn nothing_secret_is_logged() {
    let (logs, _guard) = logs();
    let email = office().channel("tokens@logs.example").await;
    email.check().await.unwrap();
    email.send(&message(vec![letter("a")], &["ann@x.example"])).await.unwrap();
    tracing::info!("the log is captured");
    let wrong = super::post_office::open_with(&office().spec("tokens@logs.example"), "canary-wrong").await;
    fails_with(wrong.check().await, ErrorKind::Denied, "LoginRefused");
    assert!(logs.text().contains("the log is captured"));
    assert_discreet(&logs.text());
}
