//! A Slack incoming webhook: posts to the one channel that it was made for. Its URL is the credential.

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{Client, Url};
use serde_json::{Value, json};

use super::post::{Answer, post_json, secret_url};
use super::{Message, Notifier, slack};
use crate::api;
use crate::integration::{ErrorKind, Identity, Network, ProviderError};

/// Slack's answers to a message without any content, which it never posts: the URL was accepted.
const EMPTY: [&str; 4] = ["no_text", "invalid_payload", "missing_text_or_fallback_or_attachments", "invalid_blocks"];

/// A Slack incoming webhook.
pub struct SlackWebhook {
    client: Client,
    url: Url,
}

impl SlackWebhook {
    /// Reads the URL.
    pub async fn open(
        spec: &api::SlackWebhook,
        identity: Arc<dyn Identity>,
        network: Network,
    ) -> Result<Self, ProviderError> {
        let url = identity.secret(&spec.url_ref).await?;
        let url = secret_url("spec.slackWebhook.urlRef", &url, &network)?;
        Ok(Self { client: network.client(None)?, url })
    }

    async fn post(&self, content: &Value) -> Result<Answer, ProviderError> {
        post_json(&self.client, self.url.clone(), None, content).await
    }
}

#[async_trait]
impl Notifier for SlackWebhook {
    async fn send(&self, message: &Message) -> Result<(), ProviderError> {
        understand(&self.post(&slack::payload(message)).await?)
    }

    async fn check(&self) -> Result<(), ProviderError> {
        let answer = self.post(&json!({})).await?;
        match slack::code(&answer.text()) {
            Some(code) if answer.status == 400 && EMPTY.contains(&code) => Ok(()),
            _ => understand(&answer),
        }
    }
}

fn understand(answer: &Answer) -> Result<(), ProviderError> {
    let text = answer.text();
    if answer.status == 200 && text.trim() == "ok" {
        return Ok(());
    }
    if answer.status.is_success() {
        return Err(ProviderError::new(
            ErrorKind::Unavailable,
            "UnreadableAnswer",
            "the answer is not one of Slack: is the URL right?",
        ));
    }
    let error = answer.error("Slack");
    let code = slack::code(&text);
    let kind = code.and_then(slack::meaning).unwrap_or(error.kind);
    let said = code.map(|code| format!(" ({code})")).unwrap_or_default();
    let message = format!("{}{said}{}", error.message, cure(kind));
    Err(ProviderError { kind, reason: code.map_or(error.reason, str::to_owned), message, ..error })
}

fn cure(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "; make a new webhook for a channel that exists and write its URL into the Secret",
        ErrorKind::Denied => {
            "; the webhook was revoked or may not post there: make a new one and write its URL into the Secret, or ask the workspace's administrator"
        }
        _ => "",
    }
}
