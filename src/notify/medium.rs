//! Which medium a channel uses, and how it is used.

use super::email;
use crate::api::NotificationChannelSpec;

/// A medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Medium {
    /// Mail.
    Email,
    /// A Slack incoming webhook.
    SlackWebhook,
    /// Any HTTP server.
    Webhook,
    /// A Slack bot.
    SlackBot,
    /// A Microsoft Teams workflow.
    MsTeamsWebhook,
    /// PagerDuty.
    PagerDuty,
}

impl Medium {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Email, Self::SlackWebhook, Self::Webhook, Self::SlackBot, Self::MsTeamsWebhook, Self::PagerDuty];

    /// The one that a spec names; `None`: none that this version knows.
    pub fn of(spec: &NotificationChannelSpec) -> Option<Self> {
        match spec {
            NotificationChannelSpec { email: Some(_), .. } => Some(Self::Email),
            NotificationChannelSpec { slack_webhook: Some(_), .. } => Some(Self::SlackWebhook),
            NotificationChannelSpec { webhook: Some(_), .. } => Some(Self::Webhook),
            NotificationChannelSpec { slack_bot: Some(_), .. } => Some(Self::SlackBot),
            NotificationChannelSpec { ms_teams_webhook: Some(_), .. } => Some(Self::MsTeamsWebhook),
            NotificationChannelSpec { pager_duty: Some(_), .. } => Some(Self::PagerDuty),
            _ => None,
        }
    }

    /// The name of its field in the spec.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::SlackWebhook => "slackWebhook",
            Self::Webhook => "webhook",
            Self::SlackBot => "slackBot",
            Self::MsTeamsWebhook => "msTeamsWebhook",
            Self::PagerDuty => "pagerDuty",
        }
    }

    /// How many of the network's timeouts a message may take: more than the medium itself gives its steps, so that it is the
    /// medium that gives up, and knows who was reached.
    pub(super) fn timeouts(self) -> u32 {
        match self {
            Self::Email => email::SESSION + 1,
            // At most twenty channels, four at a time.
            Self::SlackBot => 6,
            // A test opens an alert and resolves it.
            Self::PagerDuty => 3,
            // One call, which ends by itself.
            Self::SlackWebhook | Self::Webhook | Self::MsTeamsWebhook => 1,
        }
    }

    /// Whether one message may tell of many accounts: people read it, not programs.
    pub fn folds(self) -> bool {
        !matches!(self, Self::Webhook | Self::PagerDuty)
    }
}
