//! Mail, on aiosmtpd. What arrives is read with Python's `email` package.

use std::sync::LazyLock;

use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::Registry;
use virtual_account_operator::api::{AccountId, Instant, IssueReason, Seconds};
use virtual_account_operator::integration::{ErrorKind, ProviderError};
use virtual_account_operator::notify::{Content, Letter, Message, Owner};

mod content;
mod login;
#[path = "../stores/logs.rs"]
#[allow(dead_code, reason = "only a part is used here")]
mod logs;
mod post_office;
mod recipients;
mod troubles;

fn now() -> Instant {
    Instant::from_unix(1_800_000_000)
}

/// A rotation of `team/<name>`.
fn letter(name: &str) -> Letter {
    let content = Content::Rotated {
        why: IssueReason::Scheduled,
        places: vec![format!("Secret {name}-token")],
        previous: Some(("before".into(), now() + Seconds::hours(30))),
        expires_at: Some(now() + Seconds::hours(24 * 90)),
        next: Some(now() + Seconds::hours(24 * 60)),
    };
    Letter {
        id: format!("jti-{name}.TokenRotated"),
        incident: name.into(),
        account: AccountId::new("team", name),
        owner: Some(Owner { team: "Zahlungsverkehr".into(), account: None }),
        description: Some("Größe & Söhne: „Kasse“ 名前".into()),
        jti: format!("jti-{name}"),
        at: now(),
        content,
    }
}

fn message(letters: Vec<Letter>, recipients: &[&str]) -> Message {
    let recipients = recipients.iter().map(|&address| address.to_owned()).collect();
    Message { letters, recipients, cluster: "prod".into(), now: now() + Seconds(60) }
}

/// What this thread logs until the guard is dropped.
fn logs() -> (logs::Logs, DefaultGuard) {
    // While there is but one subscriber, tracing asks that of the thread that meets a log statement first whether anybody
    // wants it, and that may be a thread of another test, which has none.
    static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Registry::default()));
    LazyLock::force(&ANOTHER);
    logs::Logs::capture(LevelFilter::TRACE)
}

/// An error of this kind, that can be shown to anybody.
#[track_caller]
fn fails_with<T>(result: Result<T, ProviderError>, kind: ErrorKind, reason: &str) -> ProviderError {
    let error = result.err().expect("it cannot work");
    let shown = format!("{error} {error:?}");
    assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{shown}");
    assert_discreet(&shown);
    assert!(!shown.contains('@'), "an address is told: {shown}");
    assert!(error.message.chars().count() <= 512 && !error.message.contains('\n'), "{shown}");
    error
}

#[track_caller]
fn assert_discreet(shown: &str) {
    for secret in ["canary", "Y2FuYXJ5", "@x.example"] {
        assert!(!shown.contains(secret), "{secret} is told: {shown}");
    }
}
