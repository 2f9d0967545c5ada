//! One NotificationChannel as it is used: opened when it is needed, opened again when its credentials are refused, and what
//! its checks and messages came to. A new spec gets a new slot.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant as Monotonic;

use tokio::sync::Semaphore;

use super::health::Health;
use super::{Medium, Memory, Message, Notifier, Open, of_the_channel};
use crate::api::NotificationChannelSpec;
use crate::integration::{ErrorKind, Identity, Login, Network, Opened, ProviderError, Timing};
use crate::lock::lock;
use crate::metrics::Metrics;

/// Messages over one channel at the same time.
const MESSAGES: usize = 4;
/// The most of the network's timeouts that a check may take, if its medium is one of many steps: it holds up other channels'.
const CHECK: u32 = 4;

/// What a slot is made of.
pub(super) struct Blueprint {
    pub(super) uid: String,
    pub(super) spec: NotificationChannelSpec,
    pub(super) medium: Medium,
    pub(super) open: Open,
    pub(super) identity: Arc<dyn Identity>,
    pub(super) network: Network,
    pub(super) timing: Timing,
    pub(super) metrics: Arc<Metrics>,
}

/// One NotificationChannel in one generation of its spec.
pub(super) struct Slot {
    of: Blueprint,
    permits: Semaphore,
    login: Login<dyn Notifier>,
    /// Outlives what is opened.
    memory: Arc<Memory>,
    unopened: Mutex<Option<Unopened>>,
    health: Mutex<Health>,
}

/// The last attempt to open it, which failed.
struct Unopened {
    error: ProviderError,
    at: Monotonic,
}

impl Slot {
    pub(super) fn new(of: Blueprint) -> Self {
        Self {
            of,
            permits: Semaphore::new(MESSAGES),
            login: Login::default(),
            memory: Arc::default(),
            unopened: Mutex::default(),
            health: Mutex::default(),
        }
    }

    /// Whether it is this object with this spec.
    pub(super) fn is(&self, uid: &str, spec: &NotificationChannelSpec) -> bool {
        self.of.uid == uid && self.of.spec == *spec
    }

    /// What is known of it.
    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }

    /// Sends one message. Refused credentials are read again and the message is sent once more.
    pub(super) async fn send(&self, message: &Message) -> Result<(), ProviderError> {
        let _turn = self.permits.acquire().await;
        let start = Monotonic::now();
        let timeouts = self.of.medium.timeouts();
        let call = async |notifier: Arc<dyn Notifier>| self.within(timeouts, notifier.send(message)).await;
        let answer = self.login.call(self.of.timing.reopen.as_duration(), || self.open_unless_just_tried(), call).await;
        let result = answer.as_ref().err().map_or("ok", |error| error.kind.as_str());
        self.of.metrics.notice_sent(self.of.medium.as_str(), result, start.elapsed());
        answer
    }

    /// The channel's own check, with credentials and certificates read anew. It does not wait behind messages, which may take
    /// minutes.
    pub(super) async fn check(&self) -> Result<(), ProviderError> {
        let opened = self.open().await?;
        let notifier = opened.client();
        let answer = self.within(self.of.medium.timeouts().min(CHECK), notifier.check()).await;
        if answer.is_ok() {
            self.login.replace(opened).await;
        }
        answer
    }

    // While credentials are missing each message would read them again.
    async fn open_unless_just_tried(&self) -> Result<Opened<dyn Notifier>, ProviderError> {
        let reopen = self.of.timing.reopen.as_duration();
        let tried =
            lock(&self.unopened).as_ref().filter(|last| last.at.elapsed() < reopen).map(|last| last.error.clone());
        match tried {
            Some(error) => Err(error),
            None => self.open().await,
        }
    }

    async fn open(&self) -> Result<Opened<dyn Notifier>, ProviderError> {
        let Blueprint { spec, identity, network, open, .. } = &self.of;
        let opening = open(spec.clone(), Arc::clone(identity), *network, Arc::clone(&self.memory));
        let opened = self.within(1, opening).await.map_err(of_the_channel);
        let failed = opened.as_ref().err().map(|error| Unopened { error: error.clone(), at: Monotonic::now() });
        *lock(&self.unopened) = failed;
        opened.map(Opened::from)
    }

    // The outer bound: the medium has its own within it.
    async fn within<T>(
        &self,
        timeouts: u32,
        call: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        let limit = self.of.network.timeout * timeouts;
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", limit.as_secs_f32());
            Err(ProviderError::new(ErrorKind::Unavailable, "Timeout", message))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::FutureExt;
    use serde_json::json;
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, Request, ResponseTemplate};

    use super::*;
    use crate::api::{AccountId, Instant, Seconds, SecretKeyRef, ServiceAccountRef};
    use crate::integration::{Credential, TIMING};
    use crate::notify::{Content, Letter};

    struct Nobody;

    #[async_trait::async_trait]
    impl Identity for Nobody {
        async fn secret(&self, _: &SecretKeyRef) -> Result<Credential, ProviderError> {
            Err(error(ErrorKind::Denied))
        }

        async fn service_account_token(&self, _: &ServiceAccountRef, _: &str) -> Result<Credential, ProviderError> {
            Err(error(ErrorKind::Denied))
        }
    }

    fn error(kind: ErrorKind) -> ProviderError {
        ProviderError::new(kind, "Reason", "words")
    }

    fn at(seconds: i64) -> Instant {
        Instant::from_unix(1_800_000_000 + seconds)
    }

    /// A channel that cannot be opened, and how often that was tried.
    fn unopenable(timing: Timing) -> (Slot, Arc<AtomicUsize>) {
        let tried = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&tried);
        let open: Open = Arc::new(move |_, _, _, _| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Err(error(ErrorKind::Invalid)) }.boxed()
        });
        let slot = Slot::new(Blueprint {
            uid: "uid".into(),
            spec: serde_json::from_value(json!({})).unwrap(),
            medium: Medium::Webhook,
            open,
            identity: Arc::new(Nobody),
            network: Network { allow_local: false, allow_http: false, timeout: Duration::from_mins(1) },
            timing,
            metrics: Arc::new(Metrics::new(at(0))),
        });
        (slot, tried)
    }

    #[tokio::test]
    async fn a_channel_that_cannot_be_opened_is_not_opened_for_each_message() {
        let message = Message { letters: vec![], recipients: vec![], cluster: String::new(), now: at(0) };
        for (reopen, expected) in [(TIMING.reopen, 2), (Seconds::ZERO, 11)] {
            let (slot, tried) = unopenable(Timing { reopen, ..TIMING });
            for _ in 0..10 {
                let error = slot.send(&message).await.unwrap_err();
                assert_eq!(error.kind, ErrorKind::Denied, "not final: the message is not to blame");
            }
            slot.check().await.unwrap_err();
            assert_eq!(tried.load(Ordering::SeqCst), expected, "once, and for the check");
        }
    }

    /// Whatever it is asked takes so long.
    struct Slow(Duration);

    #[async_trait::async_trait]
    impl Notifier for Slow {
        async fn send(&self, _: &Message) -> Result<(), ProviderError> {
            tokio::time::sleep(self.0).await;
            Ok(())
        }

        async fn check(&self) -> Result<(), ProviderError> {
            self.send(&Message { letters: vec![], recipients: vec![], cluster: String::new(), now: at(0) }).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_medium_has_the_time_that_it_needs_and_no_more() {
        let message = Message { letters: vec![], recipients: vec![], cluster: String::new(), now: at(0) };
        for (medium, lasts, sends, checks) in [
            (Medium::Email, 14, true, true),
            (Medium::Email, 59, true, true),
            (Medium::Email, 315, true, false),
            (Medium::Email, 331, false, false),
            (Medium::SlackBot, 75, true, false),
            (Medium::SlackBot, 91, false, false),
            (Medium::PagerDuty, 30, true, true),
            (Medium::Webhook, 14, true, true),
            (Medium::Webhook, 16, false, false),
        ] {
            let (slot, _) = unopenable(TIMING);
            let network = Network { timeout: Duration::from_secs(15), ..slot.of.network };
            let open: Open = Arc::new(move |_, _, _, _| {
                let medium: Box<dyn Notifier> = Box::new(Slow(Duration::from_secs(lasts)));
                async { Ok(medium) }.boxed()
            });
            let slot = Slot::new(Blueprint { medium, open, network, ..slot.of });
            let answers = (slot.send(&message).await.is_ok(), slot.check().await.is_ok());
            assert_eq!(answers, (sends, checks), "{medium:?} {lasts}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_does_not_wait_behind_messages() {
        let (slot, _) = unopenable(TIMING);
        let network = Network { timeout: Duration::from_secs(15), ..slot.of.network };
        let open: Open = Arc::new(|_, _, _, _| {
            let medium: Box<dyn Notifier> = Box::new(Slow(Duration::from_secs(50)));
            async { Ok(medium) }.boxed()
        });
        let slot = Slot::new(Blueprint { medium: Medium::Email, open, network, ..slot.of });
        let message = Message { letters: vec![], recipients: vec![], cluster: String::new(), now: at(0) };
        let start = tokio::time::Instant::now();
        let messages = futures::future::join_all((0..5).map(|_| slot.send(&message)));
        let check = async { slot.check().await.map(|()| start.elapsed().as_secs()) };
        let (_, check) = tokio::join!(messages, check);
        assert_eq!((check, start.elapsed().as_secs()), (Ok(50), 100));
    }

    /// Secrets hold a token.
    struct Vault;

    #[async_trait::async_trait]
    impl Identity for Vault {
        async fn secret(&self, _: &SecretKeyRef) -> Result<Credential, ProviderError> {
            Ok(Credential::new("xoxb-1".into()))
        }

        async fn service_account_token(&self, _: &ServiceAccountRef, _: &str) -> Result<Credential, ProviderError> {
            Err(error(ErrorKind::Denied))
        }
    }

    /// A Slack that puts off the first message to channel `late`; what it took, by channel.
    async fn slack() -> (MockServer, Arc<Mutex<Vec<String>>>) {
        let (server, taken) = (MockServer::start().await, Arc::<Mutex<Vec<String>>>::default());
        let (there, late) = (Arc::clone(&taken), AtomicUsize::new(0));
        let answer = move |request: &Request| {
            let content: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            let Some(channel) = content["channel"].as_str() else { return json_answer(&json!({"ok": true})) };
            if channel == "late" && late.fetch_add(1, Ordering::SeqCst) == 0 {
                return json_answer(&json!({"ok": false, "error": "ratelimited"}));
            }
            lock(&there).push(channel.to_owned());
            json_answer(&json!({"ok": true}))
        };
        Mock::given(any()).respond_with(answer).mount(&server).await;
        (server, taken)
    }

    fn json_answer(content: &serde_json::Value) -> ResponseTemplate {
        ResponseTemplate::new(200).set_body_json(content)
    }

    #[tokio::test]
    async fn who_has_a_message_is_known_after_a_check() {
        let (server, taken) = slack().await;
        let bot =
            json!({"tokenRef": {"name": "slack", "key": "token"}, "endpoint": server.uri(), "channels": ["a", "late"]});
        let (slot, _) = unopenable(TIMING);
        let network = Network { allow_local: true, ..slot.of.network };
        let spec = serde_json::from_value(json!({"slackBot": bot})).unwrap();
        let (identity, open) = (Arc::new(Vault), crate::notify::media());
        let slot = Slot::new(Blueprint { spec, identity, open, network, medium: Medium::SlackBot, ..slot.of });
        let letter = Letter {
            id: "jti.TokenRetired".into(),
            incident: String::new(),
            account: AccountId::new("shop", "cart"),
            owner: None,
            description: None,
            jti: "jti".into(),
            at: at(0),
            content: Content::Retired { ended_at: at(0) },
        };
        let message = Message { letters: vec![letter], recipients: vec![], cluster: String::new(), now: at(0) };
        assert_eq!(slot.send(&message).await.unwrap_err().kind, ErrorKind::Throttled);
        slot.check().await.unwrap();
        slot.send(&message).await.unwrap();
        assert_eq!(*lock(&taken), ["a", "late"], "nobody gets it twice");
    }
}
