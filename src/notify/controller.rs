//! The NotificationChannels' own status: when a channel is checked or tested, and what of it is written.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Message;
use super::channels::{Channels, Tasks};
use super::slot::Slot;
use super::status::{self, Finding};
use crate::api::{AccountId, ChannelTest, Instant, NotificationChannel, NotificationChannelStatus, ObjectId};
use crate::clock;
use crate::integration::{
    ErrorKind, ProviderError, RETRY, Refusal, identity, keep, ready_news, version_of, write_status,
};
use crate::lock::lock;

/// Channels looked at at the same time: one that hangs must not hold up the others.
const WORKERS: usize = 16;
const READY_POLL: Duration = Duration::from_millis(100);

impl Channels {
    /// Watches channels until `stop`, and keeps their statuses in each term of this replica; a write in hand is finished,
    /// unless the term ends. Returns early if one of its tasks has ended, as by a panic.
    pub async fn run(self: Arc<Self>, tasks: Tasks, stop: CancellationToken) {
        let mut running = JoinSet::new();
        let (on_channel, timer, working) = (Arc::clone(&self), Arc::clone(&self), Arc::clone(&self));
        let (stop_channels, stop_timer, stop_working) = (stop.clone(), stop.clone(), stop.clone());
        running.spawn(async move {
            tasks.channels.run(move |change| on_channel.channel_changed(&change), stop_channels).await;
        });
        running.spawn(async move { timer.queue.keep_time(stop_timer).await });
        running.spawn(async move {
            working.parts.leadership.lead(&stop_working, || working.term(&stop_working)).await;
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            _ = running.join_next() => return,
        }
        self.queue.close();
        while running.join_next().await.is_some() {}
    }

    // What the leader before did not come to is found by looking at all.
    async fn term(&self, stop: &CancellationToken) {
        if stop.run_until_cancelled(self.until_synced()).await.is_some() {
            // What was found in an earlier term may have changed under another leader.
            self.forget_slots();
            let _open = self.queue.open();
            self.seen.keys().into_iter().for_each(|id| self.queue.add(id));
            let look = async |id: AccountId| self.look(&id, stop).await;
            let work = (0..WORKERS).map(|_| keep(&self.queue, "NotificationChannel", look));
            futures::future::join_all(work).await;
        }
    }

    async fn until_synced(&self) {
        while !self.synced() {
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// One look at a channel; when to look again.
    async fn look(&self, id: &AccountId, stop: &CancellationToken) -> Result<Option<Instant>, kube::Error> {
        let there = self.seen.get(id).filter(|channel| channel.metadata.deletion_timestamp.is_none());
        let Some(channel) = there else { return Ok(None) };
        let id = identity(&channel.metadata);
        if self.written.lags(&id, version_of(&channel.metadata)) {
            return Ok(Some(clock::now() + RETRY));
        }
        let slot = self.slot(&channel);
        if let Ok(slot) = &slot {
            self.check_if_due(&id, slot, stop).await;
        }
        let test = self.test_if_asked(&id, &channel, slot.as_deref(), stop).await;
        let now = clock::now();
        if let Some(finding) = finding(slot.as_deref(), now) {
            self.count(&id, !matches!(finding, Finding::Good));
            self.write(&id, &channel, status::next(&channel, &finding, test, now)).await?;
        }
        Ok(slot.ok().and_then(|slot| slot.health().due(now)))
    }

    async fn check_if_due(&self, id: &ObjectId, slot: &Slot, stop: &CancellationToken) {
        let due = slot.health().is_due(&self.parts.timing, clock::now());
        if !due {
            return;
        }
        if let Some(result) = stop.run_until_cancelled(slot.check()).await {
            let works_again = slot.health().checked(result, &self.parts.timing, &id.to_string(), clock::now());
            if works_again {
                // What was held back goes out now.
                (self.parts.recovered)(id);
            }
        }
    }

    /// What came of the test message that is asked for; `None`: none is, or the operator stops. Then it may have gone out,
    /// and is repeated with the same id.
    async fn test_if_asked(
        &self,
        id: &ObjectId,
        channel: &NotificationChannel,
        slot: Result<&Slot, &Refusal>,
        stop: &CancellationToken,
    ) -> Option<ChannelTest> {
        let value = status::asked(channel)?;
        let uid = channel.uid().unwrap_or_default();
        let known = lock(&self.tested).get(id).cloned();
        if let Some((_, test)) = known.filter(|(of, test)| *of == uid && test.requested_at == value) {
            return Some(test);
        }
        let result = match slot {
            Ok(slot) => {
                let message = self.test_message(channel, &value);
                stop.run_until_cancelled(self.send_by(id, slot, &message)).await?
            }
            Err(refusal) => Err(ProviderError::new(ErrorKind::Denied, refusal.reason, refusal.message.clone())),
        };
        let test = status::tested(&channel.spec, value, &result, clock::now());
        lock(&self.tested).insert(id.clone(), (uid, test.clone()));
        Some(test)
    }

    fn test_message(&self, channel: &NotificationChannel, value: &str) -> Message {
        let now = clock::now();
        let letters = vec![status::letter(channel, value, now)];
        Message { letters, recipients: vec![], cluster: self.parts.cluster.clone(), now }
    }

    async fn write(
        &self,
        id: &ObjectId,
        channel: &NotificationChannel,
        status: NotificationChannelStatus,
    ) -> Result<(), kube::Error> {
        if channel.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let written = write_status(&self.parts.client, channel, status).await?;
        self.written.wrote(id, version_of(&written.metadata));
        let reasons = ("ChannelReady", "ChannelNotReady");
        if let Some(notice) = ready_news(id, conditions(channel), conditions(&written), reasons) {
            self.parts.events.publish(&written, notice);
        }
        Ok(())
    }
}

fn finding(slot: Result<&Slot, &Refusal>, now: Instant) -> Option<Finding> {
    match slot {
        Err(refusal) => Some(Finding::Refused(refusal.clone())),
        Ok(slot) => slot.health().finding(now).map(|result| result.err().map_or(Finding::Good, Finding::Failed)),
    }
}

fn conditions(channel: &NotificationChannel) -> &[Condition] {
    channel.status.as_ref().map_or(&[], |status| &status.conditions)
}
