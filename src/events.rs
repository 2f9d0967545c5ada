//! Kubernetes Events: what `kubectl describe` and `kubectl events` show under an object.
//!
//! Telling is never worth waiting for: a notice goes into a bounded channel, one task posts them in order, each once.
//! kube's `Recorder` is not used: it folds notices of one reason into a series that keeps the first one's text, so the
//! second of two revocations would never be seen.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::client::describe;
use crate::clock;

/// Our name as the reporting controller.
const CONTROLLER: &str = "virtualaccounts.dev/operator";
/// Notices that wait to be posted.
const WAITING: usize = 1024;
/// The API server refuses longer notes.
const NOTE_BYTES: usize = 1024;
/// The same notice about the same object is posted once in this time.
const REPEAT: Duration = Duration::from_mins(10);
/// How many posted notices are remembered for that.
const REMEMBERED: usize = 4096;

/// How a notice is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

/// One thing to tell about an object. Never holds a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notice {
    /// Normal or Warning.
    pub type_: Severity,
    /// Why, in PascalCase: `Rotated`.
    pub reason: &'static str,
    /// What was done, in PascalCase: `Rotate`.
    pub action: &'static str,
    /// For people; cut at 1 KiB.
    pub message: String,
}

/// Where notices are handed in. Clones share the channel.
#[derive(Clone)]
pub struct Events {
    sender: mpsc::Sender<(ObjectReference, Notice)>,
    dropped: Arc<AtomicU64>,
}

/// The task that posts them.
pub struct Poster {
    client: Client,
    instance: String,
    receiver: mpsc::Receiver<(ObjectReference, Notice)>,
    posted: Posted,
}

/// Both ends of the channel. `instance` says which replica reports (its pod's name).
pub fn channel(client: Client, instance: impl Into<String>) -> (Events, Poster) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let events = Events { sender, dropped: Arc::default() };
    (events, Poster { client, instance: instance.into(), receiver, posted: Posted::default() })
}

impl Events {
    /// Tells about an object; the Event is made in its namespace (`default` for a cluster-wide one). Never waits: with
    /// 1024 notices waiting this one is dropped and counted.
    pub fn publish<K: Resource<DynamicType = ()>>(&self, about: &K, notice: Notice) {
        self.publish_about(about.object_ref(&()), notice);
    }

    /// As [`Events::publish`], for an object that is known by reference only.
    pub fn publish_about(&self, about: ObjectReference, notice: Notice) {
        if self.sender.try_send((about, notice)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notices dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Poster {
    /// Posts until cancelled or until all [`Events`] are gone; what waits then is not posted.
    pub async fn run(mut self, cancel: CancellationToken) {
        while let Some(Some((about, notice))) = cancel.run_until_cancelled(self.receiver.recv()).await {
            if self.posted.is_new((&about.namespace, &about.name, &about.uid, &notice), Instant::now()) {
                cancel.run_until_cancelled(self.post(about, notice)).await;
            }
        }
    }

    async fn post(&self, about: ObjectReference, notice: Notice) {
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let reason = notice.reason;
        let event = event(about, notice, &namespace, &self.instance);
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            warn!(reason, error = describe(&error), "an Event was not posted");
        }
    }
}

fn event(about: ObjectReference, notice: Notice, namespace: &str, instance: &str) -> Event {
    let mut note = notice.message;
    note.truncate(note.floor_char_boundary(NOTE_BYTES));
    let name = about.name.as_deref().unwrap_or("unnamed");
    Event {
        metadata: ObjectMeta {
            // The server adds what makes it unique, and refuses the customary dot at the end.
            generate_name: Some(format!("{name}-")),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Timestamp::from_second(clock::now().as_unix()).ok().map(MicroTime),
        type_: Some(match notice.type_ {
            Severity::Normal => "Normal".to_owned(),
            Severity::Warning => "Warning".to_owned(),
        }),
        reason: Some(notice.reason.to_owned()),
        action: Some(notice.action.to_owned()),
        note: Some(note),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        regarding: Some(about),
        ..Event::default()
    }
}

/// What was posted lately, by hash: a collision hides one notice in 2^64.
#[derive(Default)]
struct Posted {
    hasher: RandomState,
    at: HashMap<u64, Instant>,
}

impl Posted {
    fn is_new(&mut self, notice: impl std::hash::Hash, now: Instant) -> bool {
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < REPEAT;
        let hash = self.hasher.hash_one(notice);
        if self.at.get(&hash).is_some_and(fresh) {
            return false;
        }
        if self.at.len() >= REMEMBERED {
            self.at.retain(|_, at| fresh(at));
        }
        if self.at.len() >= REMEMBERED {
            self.at.clear();
        }
        self.at.insert(hash, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::Value;

    use super::*;
    use crate::api::VirtualAccount;

    fn notice(message: &str) -> Notice {
        Notice { type_: Severity::Warning, reason: "Revoked", action: "Revoke", message: message.to_owned() }
    }

    fn account() -> VirtualAccount {
        let mut account = VirtualAccount::new("robot", crate::api::VirtualAccountSpec::default());
        account.metadata.namespace = Some("team".to_owned());
        account.metadata.uid = Some("uid-1".to_owned());
        account
    }

    async fn posted(status: u16, notices: Vec<Notice>) -> Vec<Value> {
        let seen = Arc::<Mutex<Vec<Value>>>::default();
        let bodies = Arc::clone(&seen);
        let service = tower::service_fn(move |request: Request<Body>| {
            let bodies = Arc::clone(&bodies);
            async move {
                assert_eq!(request.uri().path(), "/apis/events.k8s.io/v1/namespaces/team/events");
                let bytes = request.into_body().collect_bytes().await.unwrap();
                bodies.lock().unwrap().push(serde_json::from_slice(&bytes).unwrap());
                Response::builder().status(status).body(axum::body::Body::from("{}"))
            }
        });
        let (events, poster) = channel(Client::new(service, "default"), "pod-1");
        for notice in notices {
            events.publish(&account(), notice);
        }
        drop(events);
        poster.run(CancellationToken::new()).await;
        seen.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn an_event_names_its_object_and_has_what_the_api_requires() {
        let events = posted(201, vec![notice("jti-1 verifies offline until noon")]).await;
        let [event] = events.as_slice() else { panic!("{} events", events.len()) };
        assert_eq!(event["regarding"]["kind"], "VirtualAccount");
        assert_eq!(event["regarding"]["apiVersion"], "virtualaccounts.dev/v1alpha1");
        assert_eq!(event["regarding"]["uid"], "uid-1");
        assert_eq!(event["metadata"]["generateName"], "robot-");
        assert_eq!((&event["type"], &event["reason"]), (&"Warning".into(), &"Revoked".into()));
        assert_eq!(event["note"], "jti-1 verifies offline until noon");
        for required in ["eventTime", "action", "reportingController", "reportingInstance"] {
            assert!(event[required].is_string(), "{required}");
        }
    }

    #[tokio::test]
    async fn a_repeated_notice_is_told_once_and_another_text_is_told() {
        let events = posted(201, vec![notice("one"), notice("one"), notice("two")]).await;
        let notes: Vec<_> = events.iter().map(|event| event["note"].as_str().unwrap()).collect();
        assert_eq!(notes, ["one", "two"]);
    }

    #[tokio::test]
    async fn a_refused_event_is_not_tried_again_and_stops_none() {
        assert_eq!(posted(403, vec![notice("one"), notice("two")]).await.len(), 2);
    }

    #[tokio::test]
    async fn a_full_channel_drops_and_counts() {
        let service =
            tower::service_fn(|_: Request<Body>| async { Response::builder().body(axum::body::Body::empty()) });
        let (events, _poster) = channel(Client::new(service, "default"), "pod-1");
        for n in 0..WAITING + 3 {
            events.publish(&account(), notice(&n.to_string()));
        }
        assert_eq!(events.dropped(), 3);
    }

    #[test]
    fn a_long_note_is_cut_at_a_character() {
        let long = "é".repeat(NOTE_BYTES);
        let note = event(ObjectReference::default(), notice(&format!("x{long}")), "team", "pod-1").note.unwrap();
        assert_eq!(note.len(), NOTE_BYTES - 1);
    }

    #[test]
    fn memory_of_posted_notices_is_bounded_and_ends() {
        let (mut posted, start) = (Posted::default(), Instant::now());
        for n in 0..3 * REMEMBERED {
            assert!(posted.is_new(n, start));
            assert!(posted.at.len() <= REMEMBERED);
        }
        assert!(!posted.is_new(3 * REMEMBERED - 1, start + Duration::from_secs(599)));
        assert!(posted.is_new(3 * REMEMBERED - 1, start + Duration::from_mins(10)));
    }
}
