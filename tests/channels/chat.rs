//! Chat: the Slack webhook, the Slack bot and Microsoft Teams keep the contract.

use std::sync::Arc;
use std::time::Duration;

use virtual_account_operator::api::{NotificationChannelSpec, SecretKeyRef};
use virtual_account_operator::integration::{ErrorKind, Network, ProviderError};
use virtual_account_operator::notify::{Notifier, media};

use super::story::{CANARY, Given};

mod block_kit;
mod bot;
mod card;
mod pages;
mod parts;
mod slack;
mod teams;

/// Where credentials are.
fn key() -> SecretKeyRef {
    SecretKeyRef { name: "chat".into(), key: "credential".into() }
}

/// What the operator makes of a channel whose credential is this.
async fn opened(
    spec: NotificationChannelSpec,
    credential: &str,
    network: Network,
) -> Result<Box<dyn Notifier>, ProviderError> {
    media()(spec, Given::secret("chat", "credential", credential), network, Arc::default()).await
}

/// URLs that no channel may have: the error says which field and why, and not the URL.
async fn refuses_bad_urls(spec: fn() -> NotificationChannelSpec, field: &str) {
    let network = Network { allow_local: false, allow_http: false, timeout: Duration::from_secs(1) };
    for (url, why) in [
        (format!("http://chat.example.com/{CANARY}"), "must begin with https://"),
        (format!("https://127.0.0.1/{CANARY}"), "loopback"),
        (format!("https://169.254.169.254/{CANARY}"), "metadata"),
        (format!("{CANARY} is no URL"), "cannot be used"),
        (format!("data:{CANARY}"), "has no host"),
        (String::new(), "cannot be used"),
    ] {
        let error = opened(spec(), &url, network).await.err().expect(&url);
        let shown = format!("{error} {error:?}");
        assert_eq!(error.kind, ErrorKind::Denied, "{shown}");
        assert!(error.message.contains(field) && error.message.contains(why), "{shown}");
        assert!(!shown.contains(CANARY), "{shown}");
    }
    let plain = NotificationChannelSpec { allow_insecure: Some(true), ..spec() };
    assert!(opened(plain, &format!("http://chat.example.com/{CANARY}"), network).await.is_ok());
    let missing = media()(spec(), Arc::new(Given::default()), network, Arc::default()).await;
    assert_eq!(missing.err().expect("no Secret").reason, "SecretNotFound");
}
