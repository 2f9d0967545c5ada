//! What is told in these tests, to whom, and with whose credentials.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use virtual_account_operator::api::{AccountId, Instant, IssueReason, Seconds, SecretKeyRef, ServiceAccountRef};
use virtual_account_operator::integration::{Credential, ErrorKind, Identity, ProviderError};
use virtual_account_operator::notify::{Content, Letter, Message, Owner};

/// Part of every credential: nothing that can be seen may hold it.
pub(crate) const CANARY: &str = "canary4f1d9c";

/// The instant of all these tests.
pub(crate) fn now() -> Instant {
    Instant::from_unix(1_795_000_000)
}

/// One message of these letters, to the medium's own recipients.
pub(crate) fn message(letters: Vec<Letter>) -> Message {
    Message { letters, recipients: Vec::new(), cluster: "prod-eu".into(), now: now() }
}

/// One letter with an owner and a description.
pub(crate) fn letter(number: usize, content: Content) -> Letter {
    Letter {
        id: format!("jti-{number}/{}", content.name()),
        incident: format!("shop/cart-{number}/incident"),
        account: AccountId::new("shop", format!("cart-{number}")),
        owner: Some(Owner { team: "payments".into(), account: Some("jo".into()) }),
        description: Some("Talks to the bank".into()),
        jti: format!("jti-{number}"),
        at: now() - Seconds(5),
        content,
    }
}

/// A rotation.
pub(crate) fn rotated(number: usize) -> Letter {
    letter(number, rotation())
}

fn rotation() -> Content {
    Content::Rotated {
        why: IssueReason::Scheduled,
        places: vec!["Secret cart-token".into(), "/team/cart in TokenStore platform/vault".into()],
        previous: Some(("jti-before".into(), now() + Seconds::hours(36))),
        expires_at: Some(now() + Seconds::hours(24 * 120)),
        next: Some(now() + Seconds::hours(24 * 90)),
    }
}

/// One letter of each kind.
pub(crate) fn every_kind() -> Vec<Letter> {
    let (past, future) = (now() - Seconds::hours(1), now() + Seconds::hours(30));
    let contents = [
        rotation(),
        Content::GraceEnding { ends_at: future, newer: Some("jti-new".into()) },
        Content::Retired { ended_at: past },
        Content::Expiring { ends_at: future, why: "The account is suspended. Set suspend: false.".into() },
        Content::Expired { ended_at: past, why: "Set a later expirationDate.".into() },
        Content::Failing { target: "Secret cart-token".into(), since: past, error: "403: forbidden".into() },
        Content::Recovered { target: "Secret cart-token".into(), since: past },
        Content::Revoked { by: "in spec.revokedJwtIds".into(), successor: Some("jti-new".into()), until: Some(future) },
        Content::Test,
    ];
    contents.into_iter().enumerate().map(|(number, content)| letter(number, content)).collect()
}

/// What somebody may write who wants more than to be told.
pub(crate) const HOSTILE: [&str; 12] = [
    "<script>alert(1)</script><b>bold</b>",
    "<!channel> <!here> <@U0123456> <#C0123456> @here @channel",
    "<https://evil.example.com|click here>",
    "[click here](https://evil.example.com) ![x](https://evil.example.com/x.png)",
    "*bold* _italic_ ~gone~ `code` ```block``` > quote # head",
    "- list\n1. list\n| a | b |",
    "a\r\nBcc: evil@example.com\r\n\r\nbody",
    "{{DATE(2026-02-14T06:00:00Z,SHORT)}} ${secret} @{outputs('x')} {{TIME(2026-02-14T06:00:00Z)}}",
    "<at>everyone</at> &lt;tag&gt; &amp; & \" ' \\",
    "abc\u{202e}fdp.exe\u{2066} שלום عالم",
    "tab\tnull\u{0}bell\u{7}line\u{2028}end",
    ":smile: :warning: 🔥 Größe",
];

/// Letters in which all that users can write is hostile; the last is very long.
pub(crate) fn hostile() -> Vec<Letter> {
    let long = "x<&>*_".repeat(834);
    let texts = HOSTILE.iter().map(|text| (*text).to_owned()).chain([long, "🔥".repeat(5_000)]);
    texts.enumerate().map(|(number, text)| written_by(number, &text)).collect()
}

fn written_by(number: usize, text: &str) -> Letter {
    let content = Content::Failing { target: text.into(), since: now() - Seconds::hours(1), error: text.into() };
    Letter {
        account: AccountId::new("shop", text),
        owner: Some(Owner { team: text.into(), account: Some(text.into()) }),
        description: Some(text.into()),
        ..letter(number, content)
    }
}

/// Credentials that somebody gave.
#[derive(Debug, Default)]
pub(crate) struct Given {
    secrets: Mutex<BTreeMap<(String, String), String>>,
}

impl Given {
    pub(crate) fn secret(name: &str, key: &str, value: &str) -> Arc<Self> {
        let given = Self::default();
        given.set(name, key, value);
        Arc::new(given)
    }

    pub(crate) fn set(&self, name: &str, key: &str, value: &str) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.insert((name.into(), key.into()), value.into());
    }
}

#[async_trait]
impl Identity for Given {
    async fn secret(&self, key: &SecretKeyRef) -> Result<Credential, ProviderError> {
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let value = secrets.get(&(key.name.clone(), key.key.clone()));
        let missing = || ProviderError::new(ErrorKind::Denied, "SecretNotFound", format!("no Secret {}", key.name));
        value.map(|value| Credential::new(value.clone())).ok_or_else(missing)
    }

    async fn service_account_token(&self, account: &ServiceAccountRef, _: &str) -> Result<Credential, ProviderError> {
        Err(ProviderError::new(ErrorKind::Denied, "NotGiven", account.name.clone()))
    }
}
