//! One NotificationChannel as it is used: opened when it is needed, opened again when its credentials are refused, and what
//! its checks and messages came to. A new spec gets a new slot.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant as Monotonic;

use tokio::sync::Semaphore;

use super::{Medium, Memory, Message, Notifier, Open};
use crate::api::{Instant, NotificationChannelSpec, Seconds};
use crate::backoff;
use crate::integration::{Checked, ErrorKind, Identity, Login, Network, Opened, ProviderError, Timing};
use crate::lock::lock;
use crate::metrics::Metrics;

/// Calls to one channel at the same time.
const CALLS: usize = 4;

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

/// What is known of a channel.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// What its checks came to.
    checked: Checked,
    /// The last message was not taken.
    refused: Option<Trouble>,
}

/// What a message met. A good check does not end it at once: where the server answers but takes no message, the condition
/// would turn with every attempt.
#[derive(Clone, Debug)]
struct Trouble {
    error: ProviderError,
    failures: u32,
    since: Instant,
    until: Instant,
}

impl Trouble {
    /// Whether a good check is not believed yet. A clock that went back ends it.
    fn holds(&self, now: Instant) -> bool {
        self.since <= now && now < self.until
    }
}

impl Slot {
    pub(super) fn new(of: Blueprint) -> Self {
        Self {
            of,
            permits: Semaphore::new(CALLS),
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
        let call = async |notifier: Arc<dyn Notifier>| self.within(notifier.send(message)).await;
        let answer = self.login.call(self.of.timing.reopen.as_duration(), || self.open_unless_just_tried(), call).await;
        let result = answer.as_ref().err().map_or("ok", |error| error.kind.as_str());
        self.of.metrics.notice_sent(self.of.medium.as_str(), result, start.elapsed());
        answer
    }

    /// The channel's own check, with credentials and certificates read anew.
    pub(super) async fn check(&self) -> Result<(), ProviderError> {
        let _turn = self.permits.acquire().await;
        let opened = self.open().await?;
        let notifier = opened.client();
        let answer = self.within(notifier.check()).await;
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
        let opened = self.within(opening).await.map_err(not_of_the_message);
        let failed = opened.as_ref().err().map(|error| Unopened { error: error.clone(), at: Monotonic::now() });
        *lock(&self.unopened) = failed;
        opened.map(Opened::from)
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, ProviderError>>) -> Result<T, ProviderError> {
        let limit = self.of.network.timeout;
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", limit.as_secs_f32());
            Err(ProviderError::new(ErrorKind::Unavailable, "Timeout", message))
        })
    }
}

// `Invalid` would be final for the message, which may go out once the channel is put right.
fn not_of_the_message(error: ProviderError) -> ProviderError {
    let kind = if error.kind == ErrorKind::Invalid { ErrorKind::Denied } else { error.kind };
    ProviderError { kind, ..error }
}

impl Health {
    /// Takes what a check came to. `seed`: see [`Timing::wait`].
    pub(super) fn checked(&mut self, result: Result<(), ProviderError>, timing: &Timing, seed: &str, now: Instant) {
        let failures = if result.is_ok() { 0 } else { self.checked.failures.saturating_add(1) };
        let wait = timing.wait(&result, false, failures, seed);
        self.checked = Checked { last: Some(result), failures, due: Some(now + wait) };
    }

    /// Takes what a message came to; whether that may be news.
    pub(super) fn sent(
        &mut self,
        result: &Result<(), ProviderError>,
        timing: &Timing,
        seed: &str,
        now: Instant,
    ) -> bool {
        let Err(error) = result else { return self.refused.take().is_some() };
        let before = self.refused.as_ref();
        if before.is_some_and(|before| before.holds(now)) {
            return false;
        }
        let failures = before.map_or(1, |before| before.failures.saturating_add(1));
        // The first wait is two seconds: of one, clocks in whole seconds may leave nothing.
        let until = now + backoff::delay(failures.saturating_add(1), timing.healthy, seed);
        self.refused = Some(Trouble { error: error.clone(), failures, since: now, until });
        // A check that fails has its own pace.
        if self.checked.failures == 0 {
            self.checked.due = self.checked.due.map(|due| due.min(now + Seconds(1)));
        }
        true
    }

    /// Why it does not work, as far as is known at `now`; `None`: it was not tried yet.
    pub(super) fn finding(&self, now: Instant) -> Option<Result<(), ProviderError>> {
        match (&self.checked.last, &self.refused) {
            (Some(Err(error)), _) => Some(Err(error.clone())),
            (_, Some(trouble)) if trouble.holds(now) => Some(Err(trouble.error.clone())),
            (last, _) => last.clone(),
        }
    }

    /// Whether it is time for a check. One that is further ahead than any wait was set by a clock that went back since.
    pub(super) fn is_due(&self, timing: &Timing, now: Instant) -> bool {
        self.checked.due.is_none_or(|due| due <= now || due > now + timing.healthy + timing.healthy)
    }

    /// When to look at it again; `None`: it was not checked yet.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let until = self.refused.as_ref().filter(|trouble| trouble.holds(now)).map(|trouble| trouble.until);
        self.checked.due.into_iter().chain(until).min()
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
    use crate::api::{AccountId, SecretKeyRef, ServiceAccountRef};
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

    /// What the health says at each second: `-` unknown, `t`rue or `f`alse.
    fn seen(health: &Health, seconds: impl Iterator<Item = i64>) -> String {
        let letter = |finding| match finding {
            None => '-',
            Some(Ok(())) => 't',
            Some(Err(_)) => 'f',
        };
        seconds.map(|second| letter(health.finding(at(second)))).collect()
    }

    #[test]
    fn a_message_that_was_not_taken_outweighs_good_checks_for_a_growing_while() {
        let mut health = Health::default();
        assert_eq!((seen(&health, 0..1), health.is_due(&TIMING, at(0)), health.due(at(0))), ("-".into(), true, None));
        health.checked(Ok(()), &TIMING, "seed", at(0));
        assert_eq!((seen(&health, 0..1), health.is_due(&TIMING, at(0))), ("t".into(), false));
        let mut holds = Vec::new();
        let mut now = 10;
        for _ in 0..14 {
            assert!(health.sent(&Err(error(ErrorKind::Unavailable)), &TIMING, "seed", at(now)));
            assert!(!health.sent(&Err(error(ErrorKind::Unavailable)), &TIMING, "seed", at(now)), "no news");
            assert!(health.is_due(&TIMING, at(now + 1)), "it is checked soon");
            health.checked(Ok(()), &TIMING, "seed", at(now + 1));
            let held = (0..4_000).take_while(|more| health.finding(at(now + more)).unwrap().is_err()).count();
            holds.push(held);
            let until = now + i64::try_from(held).unwrap();
            assert_eq!(health.due(at(now)), Some(at(until)), "then it is looked at again");
            now = until;
        }
        assert_eq!(holds[0], 2);
        assert!(holds.windows(2).take(9).all(|pair| pair[0] < pair[1]), "{holds:?}");
        assert!(holds.iter().all(|held| *held <= 3_600), "{holds:?}");
        health.sent(&Err(error(ErrorKind::Denied)), &TIMING, "seed", at(now));
        assert!(health.sent(&Ok(()), &TIMING, "seed", at(now)), "one that is taken ends it at once");
        assert_eq!(seen(&health, now..=now), "t");
        assert!(!health.sent(&Ok(()), &TIMING, "seed", at(now)));
        health.sent(&Err(error(ErrorKind::Denied)), &TIMING, "seed", at(now));
        assert_eq!(health.finding(at(now + 2)), Some(Ok(())), "and it begins anew");
    }

    #[test]
    fn a_check_that_fails_keeps_its_own_pace_whatever_messages_meet() {
        let mut health = Health::default();
        for _ in 0..20 {
            health.checked(Err(error(ErrorKind::Unavailable)), &TIMING, "seed", at(0));
        }
        let due = health.due(at(0)).unwrap();
        assert!((at(225)..=at(300)).contains(&due), "{due}");
        health.sent(&Err(error(ErrorKind::Unavailable)), &TIMING, "seed", at(10));
        assert!(!health.is_due(&TIMING, at(11)));
        assert_eq!(health.finding(at(11)), Some(Err(error(ErrorKind::Unavailable))));
    }

    #[test]
    fn a_clock_that_went_back_holds_up_no_check() {
        let mut health = Health::default();
        health.checked(Ok(()), &TIMING, "seed", at(1_000_000));
        health.sent(&Err(error(ErrorKind::Denied)), &TIMING, "seed", at(1_000_000));
        assert!(health.is_due(&TIMING, at(0)));
        assert_eq!(seen(&health, 0..1), "t");
    }
}
