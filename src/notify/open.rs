//! From a spec to a medium: the one place that knows them all.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Email, Memory, MsTeamsWebhook, Notifier, PagerDuty, SlackBot, SlackWebhook, Webhook};
use crate::api::NotificationChannelSpec;
use crate::integration::{ErrorKind, Identity, Network, ProviderError};

/// Opens the medium that a spec describes, with these credentials and what the channel remembers: [`media`], or what a test
/// puts in their place.
pub type Open = Arc<
    dyn Fn(
            NotificationChannelSpec,
            Arc<dyn Identity>,
            Network,
            Arc<Memory>,
        ) -> BoxFuture<'static, Result<Box<dyn Notifier>, ProviderError>>
        + Send
        + Sync,
>;

/// The real media.
pub fn media() -> Open {
    Arc::new(|spec, identity, network, memory| open(spec, identity, network, memory).boxed())
}

async fn open(
    spec: NotificationChannelSpec,
    identity: Arc<dyn Identity>,
    network: Network,
    memory: Arc<Memory>,
) -> Result<Box<dyn Notifier>, ProviderError> {
    let network = Network { allow_http: spec.allow_insecure.unwrap_or_default(), ..network };
    match &spec {
        NotificationChannelSpec { email: Some(email), .. } => {
            Ok(Box::new(Email::open(email, identity, network, memory).await?))
        }
        NotificationChannelSpec { slack_webhook: Some(slack), .. } => {
            Ok(Box::new(SlackWebhook::open(slack, identity, network).await?))
        }
        NotificationChannelSpec { webhook: Some(webhook), .. } => {
            Ok(Box::new(Webhook::open(webhook, identity, network).await?))
        }
        NotificationChannelSpec { slack_bot: Some(slack), .. } => {
            Ok(Box::new(SlackBot::open(slack, identity, network, memory).await?))
        }
        NotificationChannelSpec { ms_teams_webhook: Some(teams), .. } => {
            Ok(Box::new(MsTeamsWebhook::open(teams, identity, network).await?))
        }
        NotificationChannelSpec { pager_duty: Some(pager_duty), .. } => {
            Ok(Box::new(PagerDuty::open(pager_duty, identity, network).await?))
        }
        _ => Err(ProviderError::new(ErrorKind::Invalid, "InvalidSpec", "spec names no medium that this version knows")),
    }
}
