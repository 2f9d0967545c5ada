//! How people are told: what every medium can do ([`Notifier`]), what a notice says ([`Letter`], [`Text`]), and when it is
//! sent. Knows no accounts: it is told what there is to tell, and says what became of it.
//!
//! ```text
//!  NotificationChannel --channels--> Box<dyn Notifier> --+
//!  Letters of accounts ----outbox (30 s windows)---------+--> send --> reports, by notice id
//! ```

use async_trait::async_trait;

use crate::api::{Instant, Seconds};
use crate::integration::{ErrorKind, ProviderError};

pub mod channels;
mod controller;
mod digest;
mod email;
mod health;
mod letter;
mod medium;
mod memory;
mod ms_teams_webhook;
pub mod open;
mod outbox;
mod pager_duty;
mod post;
mod slack;
mod slack_bot;
mod slack_webhook;
mod slot;
mod status;
mod text;
mod webhook;

pub use channels::{Admission, Channels};
pub use email::Email;
pub use letter::{Content, Letter, Owner};
pub use medium::Medium;
pub use memory::Memory;
pub use ms_teams_webhook::MsTeamsWebhook;
pub use open::{Open, media};
pub use outbox::{Courier, Outbox, Posted, Report};
pub use pager_duty::PagerDuty;
pub use slack_bot::SlackBot;
pub use slack_webhook::SlackWebhook;
pub use text::{Fact, Text};
pub use webhook::Webhook;

/// The longest wait that a provider may ask for.
const PATIENCE: Seconds = Seconds::hours(6);

/// What a medium can do. It does what it is told: to whom, and when, was decided before.
///
/// [`ProviderError`] says what comes next: `Invalid` is final for this message (the request itself is refused); all other
/// kinds are tried again later, `Denied` with credentials read anew.
#[async_trait]
pub trait Notifier: Send + Sync {
    /// Sends one message that tells of all its letters. Repeated with the same letters it carries the same ids.
    async fn send(&self, message: &Message) -> Result<(), ProviderError>;

    /// Whether credentials and reach are good, by a call that tells nobody anything.
    async fn check(&self) -> Result<(), ProviderError>;
}

/// One message: what goes out in one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it tells; one alone where the medium does not fold ([`Medium::folds`]).
    pub letters: Vec<Letter>,
    /// The addresses (mail) or channels (Slack bot) that the account named; empty: the medium's own.
    pub recipients: Vec<String>,
    /// `--cluster-name`.
    pub cluster: String,
    /// When it is sent: remaining times are counted from here.
    pub now: Instant,
}

/// An error that is the channel's fault: `Invalid` would be final for the message, which may go out once the channel is put
/// right.
fn of_the_channel(error: ProviderError) -> ProviderError {
    let kind = if error.kind == ErrorKind::Invalid { ErrorKind::Denied } else { error.kind };
    ProviderError { kind, ..error }
}
