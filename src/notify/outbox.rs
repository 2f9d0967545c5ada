//! What is waiting to be sent, in memory. It is told again and again, per account, the whole set of letters that are still
//! to be sent; it sends each once and reports by notice id. A set without a letter is the acknowledgement of its report.
//!
//! Knows neither the accounts' rules nor the media. Nothing here is durable: after a restart everything is handed in again.
//!
//! ```text
//!  post --> desk: accounts' letters --> lanes (channel and recipients) --> run --> Courier
//!  reports <-------- verdicts <------------------------------------------------------+
//! ```

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tokio::time::Instant as Monotonic;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Letter, Medium, Message};
use crate::api::{AccountId, Instant, ObjectId};
use crate::clock;
use crate::integration::{ErrorKind, ProviderError};
use crate::lock::lock;

mod desk;
mod lane;
#[cfg(test)]
mod tests;
mod turns;

use desk::{Batch, Desk};

/// One letter on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The channel that it goes over.
    pub channel: ObjectId,
    /// The channel's medium.
    pub medium: Medium,
    /// The addresses or chat channels that the account named; empty: the medium's own.
    pub recipients: Vec<String>,
    /// What it says.
    pub letter: Letter,
}

/// What became of a notice, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The channel took it.
    Sent {
        /// When.
        at: Instant,
    },
    /// Tried, itself or what is before it on its way, and will be tried again.
    Failing {
        /// Why the last attempt failed.
        error: ProviderError,
    },
    /// Refused for good.
    Refused {
        /// Why.
        error: ProviderError,
    },
}

/// Who hands messages to the channels. Each call ends within a time of its own.
#[async_trait]
pub trait Courier: Send + Sync + 'static {
    /// Sends one message over a channel. `Invalid` is final for its letters; after all other errors it is tried again.
    async fn deliver(&self, channel: &ObjectId, message: &Message) -> Result<(), ProviderError>;
}

/// What is in hand when the outbox stops has so long: a channel answers within it, mostly. Work in hand waits for this.
const LAST: Duration = Duration::from_millis(500);

/// Called when an account has a new report; must not block.
type Tell = Arc<dyn Fn(AccountId) + Send + Sync>;

/// The letters that wait, and what became of those that were sent.
///
/// A *lane* is one channel with the same recipients. On it one message goes after the other. Where a medium folds
/// ([`Medium::folds`]) a message tells all that waits, up to 100 letters, and then the lane waits half a minute. A lane
/// that fails waits longer each time, up to an hour, or as long as the provider asks, up to six.
pub struct Outbox {
    courier: Arc<dyn Courier>,
    cluster: String,
    tell: Tell,
    desk: Mutex<Desk>,
    // Something may have become ready to be sent.
    news: Notify,
}

impl Outbox {
    /// An empty outbox. `cluster`: `--cluster-name`. `tell` is called when an account has a new report; it must not block.
    pub fn new(courier: Arc<dyn Courier>, cluster: String, tell: Tell) -> Arc<Self> {
        Arc::new(Self { courier, cluster, tell, desk: Mutex::default(), news: Notify::new() })
    }

    /// The whole set of letters still to be sent for an account: new ones are queued, queued ones that are missing from it
    /// are dropped, reports of missing ones are forgotten. Of letters with the same id the last one counts. Never waits;
    /// costs nothing for an account without letters.
    pub fn post(&self, account: &AccountId, letters: Vec<Posted>) {
        let may_start = !letters.is_empty();
        self.desk().post(account, letters);
        if may_start {
            self.news.notify_one();
        }
    }

    /// The reports for these letters, by notice id; `tell` is called when there is a new one. Of a letter that goes on
    /// failing only the first failure, and those for another reason, are told.
    pub fn reports(&self, account: &AccountId) -> BTreeMap<String, Report> {
        self.desk().reports(account)
    }

    /// The channel is new, gone or has another spec: its lanes that failed are tried at once. The half minute after a message
    /// is kept, and lanes count their failures until one message gets through.
    pub fn changed(&self, channel: &ObjectId) {
        self.desk().changed(channel);
        self.news.notify_one();
    }

    /// The channel's check had failed and is good now: as [`Outbox::changed`], but not before the time that the provider
    /// asked for.
    pub fn recovered(&self, channel: &ObjectId) {
        self.desk().recovered(channel, Monotonic::now());
        self.news.notify_one();
    }

    /// Sends until stopped; what is in hand then is finished and its report kept, if that does not take long. What is cut off
    /// may have gone out, and is repeated with the same id. Dropped, as at the end of a term, it forgets everything: whoever
    /// leads then is told anew what is still to be sent.
    pub async fn run(&self, stop: CancellationToken) {
        let mut lost = Forget(Some(self));
        let mut sending = FuturesUnordered::new();
        while !stop.is_cancelled() {
            let (batches, due) = self.take();
            sending.extend(batches.into_iter().map(|batch| self.send(batch, stop.clone())));
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.news.notified() => {}
                Some(()) = sending.next() => {}
                () = until(due) => {}
            }
        }
        // Who takes over waits for this process.
        let _ = tokio::time::timeout(LAST, sending.for_each(|()| std::future::ready(()))).await;
        lost.0 = None;
    }

    /// All messages that may start now, and when to look again if nothing happens.
    fn take(&self) -> (Vec<Batch>, Option<Monotonic>) {
        let mut desk = self.desk();
        let now = Monotonic::now();
        (std::iter::from_fn(|| desk.start(now)).collect(), desk.due())
    }

    async fn send(&self, mut batch: Batch, stop: CancellationToken) {
        if stop.is_cancelled() {
            self.desk().put_back(batch);
            return;
        }
        let message = Message {
            letters: std::mem::take(&mut batch.letters),
            recipients: batch.address.recipients.clone(),
            cluster: self.cluster.clone(),
            now: clock::now(),
        };
        let result = self.deliver(&batch.address.channel, &message).await;
        let told = self.desk().finish(batch, result, Monotonic::now(), clock::now());
        self.news.notify_one();
        for account in told {
            (self.tell)(account);
        }
    }

    async fn deliver(&self, channel: &ObjectId, message: &Message) -> Result<(), ProviderError> {
        let attempt = async { self.courier.deliver(channel, message).await };
        let result = AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or_else(|_| {
            warn!(%channel, "sending a notice panicked; this is a defect");
            Err(ProviderError::new(ErrorKind::Unavailable, "Panicked", "sending panicked; this is a defect"))
        });
        if let Err(error) = &result {
            debug!(%channel, letters = message.letters.len(), error = %error.line(), "a notice was not sent");
        }
        result
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        lock(&self.desk)
    }
}

/// Empties the outbox.
struct Forget<'a>(Option<&'a Outbox>);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(outbox) = self.0 {
            *outbox.desk() = Desk::default();
        }
    }
}

async fn until(due: Option<Monotonic>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
