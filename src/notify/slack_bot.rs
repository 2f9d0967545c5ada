//! A Slack app's bot: `chat.postMessage` with its token, once for each channel.
//!
//! Channels fail one by one. A message that did not reach all of them is sent again, and then only to those that do not
//! have it: [`Memory`].

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use reqwest::header::HeaderValue;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::post::{Answer, bearer, post_json};
use super::{Letter, Memory, Message, Notifier, slack};
use crate::api;
use crate::integration::{ErrorKind, Identity, Network, ProviderError, line};

const SLACK: &str = "https://slack.com";
/// The right to post.
const SCOPE: &str = "chat:write";
/// Calls at a time: twenty channels, each too slow to answer, then take five time-outs.
const AT_A_TIME: usize = 4;
/// The longest message of an error.
const LONGEST: usize = 500;

/// A Slack bot.
pub struct SlackBot {
    client: Client,
    api: Url,
    token: HeaderValue,
    channels: Vec<String>,
    memory: Arc<Memory>,
}

/// The part that all of Slack's answers have.
#[derive(Deserialize)]
struct Said {
    ok: bool,
    #[serde(default)]
    error: Option<String>,
}

impl SlackBot {
    /// Reads the token.
    pub async fn open(
        spec: &api::SlackBot,
        identity: Arc<dyn Identity>,
        network: Network,
        memory: Arc<Memory>,
    ) -> Result<Self, ProviderError> {
        let endpoint = spec.endpoint.as_deref().unwrap_or(SLACK).trim_end_matches('/');
        let api = network.endpoint(&format!("{endpoint}/api/"))?;
        let token = identity.secret(&spec.token_ref).await?;
        Ok(Self {
            client: network.client(None)?,
            api,
            token: bearer("spec.slackBot.tokenRef", &token)?,
            channels: spec.channels.clone().unwrap_or_default(),
            memory,
        })
    }

    /// Calls a method; Slack says in the body whether it succeeded.
    async fn call(&self, method: &str, content: &Value) -> Result<Answer, ProviderError> {
        let url = self.api.join(method).map_err(|error| {
            ProviderError::new(ErrorKind::Denied, "InvalidEndpoint", format!("spec.slackBot.endpoint: {error}"))
        })?;
        let answer = post_json(&self.client, url, Some(&self.token), content).await?;
        understand(&answer)?;
        Ok(answer)
    }

    /// Posts to a channel what is not there yet.
    async fn post(&self, channel: &str, message: &Message) -> Result<(), ProviderError> {
        let lacks = |letter: &&Letter| !self.memory.has(letter, channel);
        let letters: Vec<_> = message.letters.iter().filter(lacks).cloned().collect();
        if letters.is_empty() {
            return Ok(());
        }
        let part = Message { letters, recipients: Vec::new(), cluster: message.cluster.clone(), now: message.now };
        let mut content = slack::payload(&part);
        content["channel"] = json!(channel);
        content["parse"] = json!("none");
        self.call("chat.postMessage", &content).await?;
        self.memory.keep(&part.letters, channel);
        Ok(())
    }

    fn channels<'a>(&'a self, message: &'a Message) -> Result<BTreeSet<&'a str>, ProviderError> {
        let named = if message.recipients.is_empty() { &self.channels } else { &message.recipients };
        if named.is_empty() {
            return Err(ProviderError::new(
                ErrorKind::Invalid,
                "NoChannels",
                "no Slack channel is named: set channels in spec.notificationTargets of the account, or spec.slackBot.channels of the NotificationChannel",
            ));
        }
        Ok(named.iter().map(String::as_str).collect())
    }
}

#[async_trait]
impl Notifier for SlackBot {
    async fn send(&self, message: &Message) -> Result<(), ProviderError> {
        // Collected: a stream of borrows would not be Send here.
        let channels = self.channels(message)?;
        let calls: Vec<_> =
            channels.iter().map(|&channel| async move { (channel, self.post(channel, message).await) }).collect();
        let results: Vec<_> = stream::iter(calls).buffered(AT_A_TIME).collect().await;
        let failures: Vec<_> =
            results.into_iter().filter_map(|(channel, result)| Some((channel, result.err()?))).collect();
        together(failures)?;
        self.memory.forget(&message.letters, channels);
        Ok(())
    }

    async fn check(&self) -> Result<(), ProviderError> {
        let answer = self.call("auth.test", &json!({})).await?;
        let scopes = answer.headers.get("x-oauth-scopes").and_then(|scopes| scopes.to_str().ok());
        match scopes {
            Some(scopes) if !scopes.split(',').any(|scope| scope.trim() == SCOPE) => Err(ProviderError::new(
                ErrorKind::Denied,
                "missing_scope",
                format!("the token works{}", cure("missing_scope")),
            )),
            _ => Ok(()),
        }
    }
}

/// One error for all channels that failed: the one that leaves most hope, since what may still be sent is sent again.
fn together(failures: Vec<(&str, ProviderError)>) -> Result<(), ProviderError> {
    let told: Vec<String> =
        failures.iter().map(|(channel, error)| format!("channel {}: {}", line(channel), error.message)).collect();
    let message: String = told.join("; ").chars().take(LONGEST).collect();
    let retry_after = failures.iter().filter_map(|(_, error)| error.retry_after).max();
    match failures.into_iter().min_by_key(|(_, error)| hopeless(error.kind)) {
        Some((_, error)) => Err(ProviderError { message, retry_after, ..error }),
        None => Ok(()),
    }
}

fn hopeless(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::Conflict => 0,
        ErrorKind::Denied => 1,
        ErrorKind::NotFound => 2,
        ErrorKind::Invalid => 3,
    }
}

fn understand(answer: &Answer) -> Result<(), ProviderError> {
    let said: Option<Said> = serde_json::from_slice(&answer.body).ok();
    if answer.status.is_success() && said.as_ref().is_some_and(|said| said.ok) {
        return Ok(());
    }
    let code = said.and_then(|said| said.error).and_then(|error| slack::code(&error).map(str::to_owned));
    let Some(code) = code else {
        return Err(if answer.status.is_success() { unreadable() } else { answer.error("Slack") });
    };
    let error = answer.error("Slack");
    // Refusals come with status 200, which says nothing.
    let other = if answer.status.is_success() { ErrorKind::Invalid } else { error.kind };
    let kind = slack::meaning(&code).unwrap_or(other);
    Err(ProviderError { kind, message: format!("Slack answered {code}{}", cure(&code)), reason: code, ..error })
}

fn unreadable() -> ProviderError {
    ProviderError::new(
        ErrorKind::Unavailable,
        "UnreadableAnswer",
        "the answer is not one of Slack: is spec.slackBot.endpoint right?",
    )
}

fn cure(code: &str) -> &'static str {
    match code {
        "missing_scope" => {
            "; give the app the scope chat:write, install it again and write the new token into the Secret"
        }
        "invalid_auth"
        | "not_authed"
        | "account_inactive"
        | "token_revoked"
        | "token_expired"
        | "not_allowed_token_type" => {
            "; write a bot token (xoxb-…) of an app that is installed in the workspace into the Secret"
        }
        "not_in_channel" => "; invite the bot to the channel",
        "channel_not_found" => "; invite the bot to the channel, or correct the channel's name or id",
        "is_archived" => "; the channel is archived: name another one",
        "restricted_action" | "restricted_action_read_only_channel" => {
            "; the workspace does not let the bot post there: name another channel, or ask its administrator"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Seconds;

    #[test]
    fn what_may_still_work_decides_whether_it_is_sent_again() {
        let error =
            |kind, after| ProviderError { retry_after: after, ..ProviderError::new(kind, "r", format!("{kind:?}")) };
        let failures = vec![
            ("a", error(ErrorKind::Invalid, None)),
            ("b", error(ErrorKind::NotFound, None)),
            ("c", error(ErrorKind::Throttled, Some(Seconds(7)))),
        ];
        let all = together(failures.clone()).unwrap_err();
        assert_eq!((all.kind, all.retry_after), (ErrorKind::Throttled, Some(Seconds(7))));
        assert_eq!(all.message, "channel a: Invalid; channel b: NotFound; channel c: Throttled");
        assert_eq!(together(failures[..2].to_vec()).unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(together(failures[..1].to_vec()).unwrap_err().kind, ErrorKind::Invalid);
        assert_eq!(together(vec![]), Ok(()));
    }
}
