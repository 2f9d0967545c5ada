//! All NotificationChannels: who may use which, and the messages that go out by them.
//!
//! Knows no accounts: it tells which channels have changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use kube::{Client, Resource};

use super::health::says_nothing;
use super::slot::{Blueprint, Slot};
use super::{Medium, Message, Open};
use crate::api::{AccountId, ChannelTest, NotificationChannel, ObjectId, TEST_ANNOTATION};
use crate::clock;
use crate::events::Events;
use crate::integration::{
    ClusterIdentity, Concern, ErrorKind, NOT_ALLOWED, Namespaces, Network, News, Objection, ProviderError, Refusal,
    Tell, Tenancy, Timing, Written, identity, key,
};
use crate::leader::Leadership;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::watch::{Cache, Change, Part, Scope, Watch, prune_managed_fields};

mod spec;

use spec::{has_recipients, is_insecure, usable};

/// There is no such NotificationChannel.
const CHANNEL_NOT_FOUND: &str = "ChannelNotFound";
/// Whether there is such a NotificationChannel is not known.
const CHANNEL_UNKNOWN: &str = "ChannelUnknown";

/// Called when a channel works again, by its checks; must not block.
pub type Recovered = Arc<dyn Fn(&ObjectId) + Send + Sync>;

/// What the channels are made of.
pub struct Parts {
    /// The client; its own retries off.
    pub client: Client,
    /// When objects are checked and their statuses written.
    pub leadership: Leadership,
    /// The namespaces.
    pub namespaces: Arc<Namespaces>,
    /// How a channel is opened: [`super::open::media`].
    pub open: Open,
    /// What calls may reach, and how long each may take.
    pub network: Network,
    /// The key ring's Secret, which is nobody's credential.
    pub keys: AccountId,
    /// Where Events go.
    pub events: Events,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Who hears of changes.
    pub tell: Tell,
    /// Who hears of channels whose check had failed and is good now.
    pub recovered: Recovered,
    /// How often channels are checked: [`crate::integration::TIMING`].
    pub timing: Timing,
    /// `--cluster-name`
    pub cluster: String,
    /// `--watch-namespaces`
    pub scope: Scope,
}

/// The watch, to be run by [`Channels::run`].
pub struct Tasks {
    pub(super) channels: Watch<NotificationChannel>,
}

/// All NotificationChannels.
pub struct Channels {
    pub(super) parts: Parts,
    pub(super) seen: Arc<Cache<NotificationChannel>>,
    slots: Mutex<HashMap<ObjectId, Arc<Slot>>>,
    news: News,
    // Channels by namespace and name.
    pub(super) queue: Queue,
    pub(super) written: Written,
    // What came of each channel's last test message, by its uid: a write that failed must not send it again.
    pub(super) tested: Mutex<HashMap<ObjectId, (String, ChannelTest)>>,
    failing: Mutex<HashSet<ObjectId>>,
}

/// Whether accounts of a namespace may use a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// They may.
    Open {
        /// How it tells people.
        medium: Medium,
        /// Whether it knows whom to tell where an account names nobody.
        has_recipients: bool,
    },
    /// They may not.
    Refused {
        /// For programs: `NotAllowed`, `ChannelNotFound` or `InvalidSpec`.
        reason: &'static str,
        /// For people: what to change.
        message: String,
    },
    /// Nothing is known yet.
    Unknown {
        /// Why.
        message: String,
    },
}

impl Channels {
    /// The channels, and the watch that fills them.
    pub fn new(parts: Parts) -> (Arc<Self>, Tasks) {
        let channels = Watch::<NotificationChannel>::within(parts.client.clone(), &parts.scope).prune(prune);
        let this = Self {
            parts,
            seen: channels.cache(),
            slots: Mutex::default(),
            news: News::default(),
            queue: Queue::new(),
            written: Written::default(),
            tested: Mutex::default(),
            failing: Mutex::default(),
        };
        (Arc::new(this), Tasks { channels })
    }

    /// Whether channels and namespaces have been seen; before, [`Channels::admit`] knows nothing.
    pub fn synced(&self) -> bool {
        self.seen.synced() && self.parts.namespaces.synced()
    }

    /// Why the operator is not ready, if so.
    pub fn trouble(&self) -> Option<String> {
        self.seen.trouble("channels")
    }

    /// The parts whose channels the operator has no right to see.
    pub fn denied(&self) -> BTreeSet<Part> {
        self.seen.denied()
    }

    /// Whether accounts of this namespace may use the channel. Never waits.
    pub fn admit(&self, namespace: &str, channel: &ObjectId) -> Admission {
        let Some(object) = self.there(channel) else {
            return match self.unseen(channel) {
                Some(message) => Admission::Unknown { message },
                None => refused(self.absent(channel)),
            };
        };
        let allowed = object.spec.allowed_namespaces.as_ref();
        let tenancy = Tenancy { kind: "NotificationChannel", noun: "channel", id: channel, allowed };
        // First, so that others learn nothing about it.
        match self.parts.namespaces.allow(namespace, &tenancy) {
            Err(Objection::Refused(message)) => return refused(Refusal::new(NOT_ALLOWED, message)),
            Err(Objection::NotSeen(message)) => return Admission::Unknown { message },
            Ok(()) => {}
        }
        match usable(&object.spec) {
            Ok(medium) => Admission::Open { medium, has_recipients: has_recipients(&object.spec) },
            Err(refusal) => refused(of(channel, &refusal)),
        }
    }

    /// Sends one message by the channel. [`ErrorKind::Invalid`] is about the message; all else may pass.
    pub async fn send(&self, channel: &ObjectId, message: &Message) -> Result<(), ProviderError> {
        let Some(object) = self.there(channel) else {
            return Err(match self.unseen(channel) {
                Some(why) => ProviderError::new(ErrorKind::Unavailable, CHANNEL_UNKNOWN, why),
                None => error(ErrorKind::NotFound, self.absent(channel)),
            });
        };
        let slot = self.slot(&object).map_err(|refusal| error(ErrorKind::Denied, of(channel, &refusal)))?;
        self.send_by(channel, &slot, message).await
    }

    pub(super) async fn send_by(
        &self,
        channel: &ObjectId,
        slot: &Slot,
        message: &Message,
    ) -> Result<(), ProviderError> {
        self.parts.leadership.check()?;
        let answer = slot.send(message).await;
        if !says_nothing(&answer, message) {
            let news = slot.health().sent(&answer, &self.parts.timing, clock::now());
            if news {
                self.queue.add(key(channel));
            }
        }
        answer
    }

    // One that is being deleted is used no more.
    fn there(&self, channel: &ObjectId) -> Option<Arc<NotificationChannel>> {
        self.seen.get(&key(channel)).filter(|channel| channel.metadata.deletion_timestamp.is_none())
    }

    // Why nothing can be said about a channel that is not there.
    fn unseen(&self, channel: &ObjectId) -> Option<String> {
        if !self.synced() {
            return Some("NotificationChannels are not listed yet".into());
        }
        let unreadable = self.seen.unreadable().contains(&key(channel));
        let why = || format!("NotificationChannel {channel} cannot be read by this version of the operator; update it");
        unreadable.then(why)
    }

    pub(super) fn forget_slots(&self) {
        lock(&self.slots).clear();
    }

    fn absent(&self, channel: &ObjectId) -> Refusal {
        match self.parts.namespaces.unwatched(&channel.namespace, "spec.notificationTargets[].channelRef") {
            Some(why) => {
                Refusal::new(CHANNEL_NOT_FOUND, format!("NotificationChannel {channel} cannot be used: {why}"))
            }
            None => not_found(channel),
        }
    }

    /// The slot of a channel as it is now: a new one for a new spec.
    pub(super) fn slot(&self, channel: &NotificationChannel) -> Result<Arc<Slot>, Refusal> {
        let id = identity(channel.meta());
        let medium = usable(&channel.spec)?;
        let uid = channel.metadata.uid.clone().unwrap_or_default();
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(&id).filter(|slot| slot.is(&uid, &channel.spec)) {
            return Ok(Arc::clone(slot));
        }
        let slot = Arc::new(Slot::new(Blueprint {
            uid,
            medium,
            open: Arc::clone(&self.parts.open),
            identity: Arc::new(
                ClusterIdentity::new(self.parts.client.clone(), &id.namespace).without(self.parts.keys.clone()),
            ),
            network: Network { allow_http: is_insecure(&channel.spec), ..self.parts.network },
            timing: self.parts.timing,
            metrics: Arc::clone(&self.parts.metrics),
            spec: channel.spec.clone(),
        }));
        slots.insert(id, Arc::clone(&slot));
        Ok(slot)
    }

    pub(super) fn count(&self, channel: &ObjectId, failing: bool) {
        let mut all = lock(&self.failing);
        if failing {
            all.insert(channel.clone());
        } else {
            all.remove(channel);
        }
        self.parts.metrics.channels_failing(all.len());
    }

    pub(super) fn channel_changed(&self, change: &Change<NotificationChannel>) {
        let (channel, there) = match change {
            Change::Applied(channel) => (channel, true),
            Change::Deleted(channel) => (channel, false),
            Change::Synced(part) => return self.written.listed(part),
        };
        let (id, meta) = (identity(channel.meta()), channel.meta());
        if !there {
            lock(&self.slots).remove(&id);
            lock(&self.tested).remove(&id);
            self.written.forget(&id);
            self.count(&id, false);
        }
        if self.news.of_object(key(&id), there.then_some(meta)) {
            (self.parts.tell)(Concern::Channel(id.clone()));
        }
        self.queue.add(key(&id));
    }
}

fn not_found(channel: &ObjectId) -> Refusal {
    Refusal::new(
        CHANNEL_NOT_FOUND,
        format!(
            "NotificationChannel {channel} does not exist; create it, or name another in spec.notificationTargets[].channelRef"
        ),
    )
}

/// The same, for those who see the account and not the channel.
fn of(channel: &ObjectId, refusal: &Refusal) -> Refusal {
    Refusal::new(refusal.reason, format!("NotificationChannel {channel}: {}", refusal.message))
}

fn refused(Refusal { reason, message }: Refusal) -> Admission {
    Admission::Refused { reason, message }
}

fn error(kind: ErrorKind, refusal: Refusal) -> ProviderError {
    ProviderError::new(kind, refusal.reason, refusal.message)
}

fn prune(channel: &mut NotificationChannel) {
    prune_managed_fields(channel);
    channel.metadata.labels = None;
    if let Some(annotations) = &mut channel.metadata.annotations {
        annotations.retain(|key, _| key == TEST_ANNOTATION);
    }
}
