//! The NotificationChannels on a real API server, with the shipped rights alone. The media behind them are scripted.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::join_all;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;
use virtual_account_operator::api::{
    AccountId, Instant as Clock, NotificationChannelSpec, ObjectId, Seconds, SecretKeyRef,
};
use virtual_account_operator::events;
use virtual_account_operator::integration::{Concern, ErrorKind, Identity, Namespaces, Network, ProviderError, Timing};
use virtual_account_operator::leader::Leadership;
use virtual_account_operator::metrics::Metrics;
use virtual_account_operator::notify::channels::Parts;
use virtual_account_operator::notify::{
    Admission, Channels, Content, Courier, Letter, Medium, Message, Notifier, Open, Outbox, Posted,
};
use virtual_account_operator::watch::Scope;

use super::{FAST, OPERATOR, PATIENCE, PLANE, operator};

/// What the scripted media of one bench do, and what they were told to send.
#[derive(Default)]
struct Script {
    /// What messages end with.
    sends: Mutex<Option<ErrorKind>>,
    /// And how long they ask to wait.
    retry_after: Mutex<Option<Seconds>>,
    /// What checks end with.
    checks: Mutex<Option<ErrorKind>>,
    /// Messages hang until this is false again.
    hangs: Mutex<bool>,
    /// The credential that calls need, if any; it is read from Secret `creds` when a channel is opened.
    credential: Mutex<Option<String>>,
    /// That Secret, if it is another one.
    secret: Mutex<Option<&'static str>>,
    /// Those that were taken.
    taken: Mutex<Vec<Message>>,
    /// The ids of all that were begun.
    begun: Mutex<Vec<String>>,
    opened: Mutex<Vec<(NotificationChannelSpec, Network)>>,
    checked: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

struct Scripted {
    script: Arc<Script>,
    credential: Option<String>,
}

impl Script {
    async fn open(
        self: Arc<Self>,
        spec: NotificationChannelSpec,
        identity: Arc<dyn Identity>,
        network: Network,
    ) -> Result<Box<dyn Notifier>, ProviderError> {
        self.opened.lock().unwrap().push((spec, network));
        let needs = self.credential.lock().unwrap().is_some();
        let key = SecretKeyRef { name: self.secret.lock().unwrap().unwrap_or("creds").into(), key: "url".into() };
        let credential = if needs { Some(identity.secret(&key).await?.expose().to_owned()) } else { None };
        Ok(Box::new(Scripted { script: self, credential }))
    }

    fn begun(&self) -> Vec<String> {
        self.begun.lock().unwrap().clone()
    }

    fn taken(&self) -> usize {
        self.taken.lock().unwrap().len()
    }

    fn opened(&self) -> usize {
        self.opened.lock().unwrap().len()
    }

    fn checked(&self) -> usize {
        self.checked.load(Ordering::SeqCst)
    }
}

impl Scripted {
    fn answer(&self, error: Option<ErrorKind>) -> Result<(), ProviderError> {
        if self.credential != *self.script.credential.lock().unwrap() {
            return Err(ProviderError::new(ErrorKind::Denied, "invalid_auth", "the credential is not the right one"));
        }
        error.map_or(Ok(()), |kind| Err(ProviderError::new(kind, "Scripted", "as the script says")))
    }
}

struct Leaving<'a>(&'a AtomicUsize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Notifier for Scripted {
    async fn send(&self, message: &Message) -> Result<(), ProviderError> {
        let script = &self.script;
        script.begun.lock().unwrap().push(message.letters[0].id.clone());
        let at_once = script.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        script.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let _leaving = Leaving(&script.at_once);
        while *script.hangs.lock().unwrap() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let error = *script.sends.lock().unwrap();
        let retry_after = *script.retry_after.lock().unwrap();
        self.answer(error).map_err(|error| ProviderError { retry_after, ..error })?;
        script.taken.lock().unwrap().push(message.clone());
        Ok(())
    }

    async fn check(&self) -> Result<(), ProviderError> {
        self.script.checked.fetch_add(1, Ordering::SeqCst);
        let error = *self.script.checks.lock().unwrap();
        self.answer(error)
    }
}

/// They look after every channel of their cluster, so there is one at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Channels at work, for one test.
struct Bench {
    turn: Option<tokio::sync::MutexGuard<'static, ()>>,
    ns: String,
    channels: Arc<Channels>,
    script: Arc<Script>,
    told: Arc<Mutex<Vec<Concern>>>,
    recovered: Arc<AtomicUsize>,
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Bench {
    async fn new(name: &str) -> Self {
        Self::timed(name, PATIENCE, FAST).await
    }

    /// Calls may take so long, and a message that failed counts for long enough to be seen on a slow machine.
    async fn lasting(name: &str, timeout: Duration) -> Self {
        Self::timed(name, timeout, Timing { down: Seconds(8), ..FAST }).await
    }

    async fn timed(name: &str, timeout: Duration, timing: Timing) -> Self {
        let turn = TURN.lock().await;
        Self::over(PLANE.namespace(name), Arc::default(), timeout, timing, turn).await
    }

    /// Another one over the same channels and media, as after a restart.
    async fn again(&mut self) -> Self {
        self.stop.cancel();
        Self::over(self.ns.clone(), Arc::clone(&self.script), PATIENCE, FAST, self.turn.take().unwrap()).await
    }

    async fn over(
        ns: String,
        script: Arc<Script>,
        timeout: Duration,
        timing: Timing,
        turn: tokio::sync::MutexGuard<'static, ()>,
    ) -> Self {
        let (client, told, stop) = (operator().await, Arc::<Mutex<Vec<Concern>>>::default(), CancellationToken::new());
        let metrics = Arc::new(Metrics::new(Clock::from_unix(0)));
        let (events, poster) = events::channel(client.clone(), "test");
        tokio::spawn(poster.run(stop.clone()));
        let (scripted, heard, heard_too) = (Arc::clone(&script), Arc::clone(&told), Arc::clone(&told));
        let open: Open =
            Arc::new(move |spec, identity, network, _| Arc::clone(&scripted).open(spec, identity, network).boxed());
        let (namespaces, watch) = Namespaces::new(client.clone(), &Scope::default());
        let tell_of = move |name: &str| heard_too.lock().unwrap().push(Concern::Namespace(name.to_owned()));
        let (recovered, outbox) = (Arc::<AtomicUsize>::default(), Arc::<OnceLock<Arc<Outbox>>>::default());
        let (counter, waiting) = (Arc::clone(&recovered), Arc::clone(&outbox));
        let (channels, tasks) = Channels::new(Parts {
            client,
            namespaces: Arc::clone(&namespaces),
            open,
            network: Network { allow_local: false, allow_http: false, timeout },
            keys: AccountId::new(&ns, RING),
            events,
            leadership: Leadership::always(),
            metrics: Arc::clone(&metrics),
            tell: Arc::new(move |concern| heard.lock().unwrap().push(concern)),
            recovered: Arc::new(move |channel| {
                counter.fetch_add(1, Ordering::SeqCst);
                waiting.get().unwrap().recovered(channel);
            }),
            timing,
            cluster: "the cluster".into(),
            scope: Scope::default(),
        });
        let courier = Arc::new(Post(Arc::clone(&channels)));
        let outbox = Arc::clone(outbox.get_or_init(|| Outbox::new(courier, "c".into(), Arc::new(|_| ()))));
        let (sender, ended) = (Arc::clone(&outbox), stop.clone());
        tokio::spawn(async move { sender.run(ended).await });
        let turn = Some(turn);
        let bench = Self { turn, ns, channels, script, told, recovered, outbox, metrics, stop: stop.clone() };
        assert!(matches!(bench.admit(&bench.ns), Admission::Unknown { .. }), "nothing is known yet");
        assert_eq!(bench.send("early").await.unwrap_err().kind, ErrorKind::Unavailable);
        assert!(bench.channels.trouble().is_some());
        tokio::spawn(Arc::clone(&namespaces).run(watch, tell_of, stop.clone()));
        tokio::spawn(Arc::clone(&bench.channels).run(tasks, stop));
        bench.wait("the watches", || bench.channels.synced().then_some(()).ok_or("not synced")).await;
        assert_eq!(bench.channels.trouble(), None);
        bench
    }

    fn channel(&self) -> ObjectId {
        ObjectId { namespace: self.ns.clone(), name: "chat".into() }
    }

    /// Creates the channel with these fields added to its spec; by default it is a Slack webhook.
    fn create(&self, more: Json) {
        self.create_asking(more, None);
    }

    fn create_asking(&self, more: Json, test: Option<&str>) {
        let Json::Object(mut spec) = more else { panic!("an object") };
        if !spec.contains_key("slackBot") && !spec.contains_key("email") {
            spec.insert("slackWebhook".into(), json!({"urlRef": {"name": "creds", "key": "url"}}));
        }
        let annotations = test.map(|value| json!({"virtualaccounts.dev/test-requested-at": value}));
        let channel = json!({
            "apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "NotificationChannel",
            "metadata": {"name": "chat", "namespace": self.ns, "annotations": annotations}, "spec": spec,
        });
        PLANE.kubectl_ok(&["create", "-f", "-"], Some(&channel.to_string()));
    }

    fn patch(&self, patch: &Json) {
        PLANE.kubectl_ok(&["patch", "nc", "chat", "-n", &self.ns, "--type=merge", "-p", &patch.to_string()], None);
    }

    fn ask(&self, value: &str) {
        self.patch(&json!({"metadata": {"annotations": {"virtualaccounts.dev/test-requested-at": value}}}));
    }

    fn secret(&self, name: &str, value: &str) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": self.ns},
            "stringData": {"url": value},
        });
        PLANE.kubectl_ok(&["apply", "-f", "-"], Some(&secret.to_string()));
    }

    fn status(&self) -> Json {
        let output = PLANE.kubectl(&["get", "nc", "chat", "-n", &self.ns, "-o", "json", "--ignore-not-found"], None);
        let object: Json = serde_json::from_slice(&output.stdout).unwrap_or_default();
        object["status"].clone()
    }

    fn ready(&self) -> String {
        let ready = &self.status()["conditions"][0];
        let part = |name: &str| ready[name].as_str().unwrap_or("-").to_owned();
        format!("{} {} {}", part("status"), part("reason"), part("message"))
    }

    async fn wait_ready(&self, start: &str) -> String {
        self.wait(start, || {
            let ready = self.ready();
            if ready.starts_with(start) { Ok(ready) } else { Err(ready) }
        })
        .await
    }

    /// Waits until the test message with this value is recorded; its result and message.
    async fn wait_test(&self, value: &str) -> String {
        self.wait(&format!("a test {value}"), || {
            let last = &self.status()["lastTest"];
            let part = |name: &str| last[name].as_str().unwrap_or("-").to_owned();
            let there = last["requestedAt"] == value && last["at"].is_string();
            if there { Ok(format!("{} {}", part("result"), part("message"))) } else { Err(last.to_string()) }
        })
        .await
    }

    async fn wait<T, E: std::fmt::Display>(&self, what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
        let start = Instant::now();
        loop {
            match look() {
                Ok(found) => return found,
                Err(seen) if start.elapsed() > PATIENCE => panic!("waited for {what}; last seen: {seen}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn wait_told(&self, concern: Concern) {
        self.wait(&format!("{concern:?}"), || {
            let told = self.told.lock().unwrap();
            if told.contains(&concern) { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await;
    }

    async fn wait_event(&self, reason: &str) {
        self.wait(reason, || {
            let events = PLANE.kubectl_ok(&["get", "events", "-n", &self.ns], None);
            if events.contains(reason) { Ok(()) } else { Err(events) }
        })
        .await;
    }

    fn admit(&self, namespace: &str) -> Admission {
        self.channels.admit(namespace, &self.channel())
    }

    fn refused(&self, namespace: &str) -> String {
        match self.admit(namespace) {
            Admission::Refused { reason, message } => format!("{reason}: {message}"),
            other => panic!("{other:?}"),
        }
    }

    async fn send(&self, id: &str) -> Result<(), ProviderError> {
        self.send_to(id, vec![]).await
    }

    async fn send_to(&self, id: &str, recipients: Vec<String>) -> Result<(), ProviderError> {
        let message = Message { letters: vec![letter(id)], recipients, cluster: "c".into(), now: Clock::from_unix(0) };
        self.channels.send(&self.channel(), &message).await
    }

    /// Leaves a letter to the outbox.
    fn post(&self, id: &str) {
        let (channel, letter) = (self.channel(), letter(id));
        let posted = Posted { channel, medium: Medium::SlackWebhook, recipients: vec![], letter };
        self.outbox.post(&AccountId::new("team", id), vec![posted]);
    }

    /// Requests of the operator about this bench's channel.
    fn writes(&self) -> Vec<String> {
        let events = PLANE.audit().into_iter().filter(|event| {
            event.user == OPERATOR
                && event.resource == "notificationchannels"
                && event.namespace == self.ns
                && event.verb != "watch"
        });
        events.map(|event| format!("{} {} {}", event.verb, event.subresource, event.code)).collect()
    }

    /// Time enough for what must not happen.
    async fn rest(&self) {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
        if self.turn.is_some() {
            PLANE.kubectl(&["delete", "nc", "--all", "-n", &self.ns, "--wait=false"], None);
        }
    }
}

/// The outbox' letters go out by the channels, as in the operator.
struct Post(Arc<Channels>);

#[async_trait]
impl Courier for Post {
    async fn deliver(&self, channel: &ObjectId, message: &Message) -> Result<(), ProviderError> {
        self.0.send(channel, message).await
    }
}

fn letter(id: &str) -> Letter {
    Letter {
        id: id.into(),
        incident: id.into(),
        account: AccountId::new("team", "app"),
        owner: None,
        description: None,
        jti: "jti".into(),
        at: Clock::from_unix(0),
        content: Content::Retired { ended_at: Clock::from_unix(0) },
    }
}

/// The Secret that stands for the key ring.
const RING: &str = "ring";
const OK: &str = "update status 200";

impl Bench {
    /// How often accounts heard of this bench's own channel; others see theirs at the same time.
    fn told_of_own(&self) -> usize {
        let own = |concern: &&Concern| matches!(concern, Concern::Channel(channel) if channel.namespace == self.ns);
        self.told.lock().unwrap().iter().filter(own).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_ready_after_one_good_check_and_that_is_written_once() {
    let mut bench = Bench::new("channel").await;
    bench.create(json!({}));
    assert_eq!(bench.wait_ready("True").await, "True Checked credentials and reach are good");
    let status = bench.status();
    assert_eq!((&status["medium"], &status["observedGeneration"]), (&json!("slackWebhook"), &json!(1)));
    assert_eq!(bench.admit(&bench.ns), Admission::Open { medium: Medium::SlackWebhook, has_recipients: true });
    bench.send("one").await.unwrap();
    bench.wait_event("ChannelReady").await;
    bench.patch(&json!({"metadata": {"labels": {"a": "b"}}}));
    bench.rest().await;
    assert_eq!((bench.writes(), bench.script.checked()), (vec![OK.to_owned()], 1));
    assert_eq!(bench.script.taken(), 1, "a check tells nobody anything");
    let text = bench.metrics.text().unwrap();
    assert!(text.contains("notices_sent_total{medium=\"slackWebhook\",result=\"ok\"} 1"), "{text}");
    assert!(text.contains("virtual_account_channels_failing 0"), "{text}");

    let again = bench.again().await;
    again.wait("a check", || if again.script.checked() == 2 { Ok(()) } else { Err("none") }).await;
    again.rest().await;
    assert_eq!(again.writes(), [OK], "a restart writes nothing");
    assert_eq!((again.script.checked(), again.script.taken()), (2, 1), "a healthy channel is checked once an hour");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_credentials_of_a_channel_are_named_and_found_when_they_come() {
    let bench = Bench::new("channel-creds").await;
    *bench.script.credential.lock().unwrap() = Some("right".into());
    bench.create(json!({}));
    let ready = bench.wait_ready("False").await;
    let words = format!("Secret {}/creds does not exist; create it with key url", bench.ns);
    assert!(ready.starts_with("False SecretNotFound") && ready.ends_with(&words), "{ready}");
    bench.wait_event("ChannelNotReady").await;
    assert!(bench.metrics.text().unwrap().contains("virtual_account_channels_failing 1"));
    let error = bench.send("one").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "SecretNotFound"));
    assert!(matches!(bench.admit(&bench.ns), Admission::Open { .. }), "who may use it is another question");

    bench.secret("creds", "wrong");
    bench.wait_ready("False invalid_auth").await;
    bench.secret("creds", "right\n");
    bench.wait_ready("True").await;
    bench.send("one").await.unwrap();
    bench.wait_event("ChannelReady").await;
    let failing = || bench.metrics.text().unwrap().contains("virtual_account_channels_failing 0");
    bench.wait("the gauge", || if failing() { Ok(()) } else { Err("1") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_credential_of_a_channel_is_read_when_the_old_one_is_refused() {
    let bench = Bench::new("channel-rotated").await;
    *bench.script.credential.lock().unwrap() = Some("one".into());
    bench.secret("creds", "one");
    bench.create(json!({}));
    bench.wait_ready("True").await;
    let opened = bench.script.opened();
    bench.send("first").await.unwrap();
    assert_eq!(bench.script.opened(), opened, "what the check opened is used");
    bench.secret("creds", "two");
    *bench.script.credential.lock().unwrap() = Some("two".into());
    bench.send("second").await.unwrap();
    assert_eq!((bench.script.opened(), bench.script.taken()), (opened + 1, 2));
    assert_eq!(bench.script.begun(), ["first", "second", "second"]);
    assert!(bench.ready().starts_with("True"), "it was cured at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_ring_is_no_channels_credential() {
    let bench = Bench::new("channel-ring").await;
    *bench.script.credential.lock().unwrap() = Some("keys".into());
    *bench.script.secret.lock().unwrap() = Some(RING);
    bench.secret(RING, "keys");
    bench.create(json!({}));
    bench.wait_ready("False SecretNotAllowed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_serve_the_namespaces_that_their_owner_allows() {
    let bench = Bench::new("channel-tenancy").await;
    let other = PLANE.namespace("channel-tenant");
    let missing = bench.refused(&bench.ns);
    assert!(missing.starts_with("ChannelNotFound: ") && missing.contains("create it"), "{missing}");
    bench.create(json!({"slackBot": {"tokenRef": {"name": "creds", "key": "url"}}}));
    bench.wait_told(Concern::Channel(bench.channel())).await;
    assert_eq!(bench.admit(&bench.ns), Admission::Open { medium: Medium::SlackBot, has_recipients: false });
    let refusal = bench.refused(&other);
    assert!(
        refusal.starts_with("NotAllowed: NotificationChannel") && refusal.contains("serves namespace"),
        "{refusal}"
    );

    let allow = async |allowed: Json| {
        bench.told.lock().unwrap().clear();
        bench.patch(&json!({"spec": {"allowedNamespaces": allowed}}));
        bench.wait_told(Concern::Channel(bench.channel())).await;
    };
    allow(json!({"from": "All"})).await;
    assert!(matches!(bench.admit(&other), Admission::Open { .. }));
    allow(json!({"from": "Selector", "selector": {"matchLabels": {"chat": "yes"}}})).await;
    assert!(bench.refused(&other).contains("the labels of namespace"));
    PLANE.kubectl_ok(&["label", "namespace", &other, "chat=yes"], None);
    bench.wait_told(Concern::Namespace(other.clone())).await;
    assert!(matches!(bench.admit(&other), Admission::Open { .. }));
    let unseen = bench.admit("never-seen");
    assert!(matches!(&unseen, Admission::Unknown { message } if message.contains("was not seen yet")), "{unseen:?}");
    bench.told.lock().unwrap().clear();
    PLANE.kubectl_ok(&["label", "namespace", &other, "chat-"], None);
    bench.wait_told(Concern::Namespace(other.clone())).await;
    assert!(bench.refused(&other).starts_with("NotAllowed"));
    assert!(matches!(bench.admit(&bench.ns), Admission::Open { .. }), "its own namespace may always");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_taken_makes_the_channel_not_ready_until_one_is() {
    let bench = Bench::new("channel-down").await;
    bench.create(json!({}));
    bench.wait_ready("True").await;
    for kind in [ErrorKind::Unavailable, ErrorKind::Denied] {
        *bench.script.sends.lock().unwrap() = Some(kind);
        *bench.script.checks.lock().unwrap() = Some(kind);
        assert_eq!(bench.send("one").await.unwrap_err().kind, kind);
        assert_eq!(bench.wait_ready("False").await, "False Scripted as the script says");
        bench.wait_event("ChannelNotReady").await;
        let checked = bench.script.checked();
        bench.wait("checks", || if bench.script.checked() > checked + 1 { Ok(()) } else { Err("none") }).await;
        *bench.script.sends.lock().unwrap() = None;
        *bench.script.checks.lock().unwrap() = None;
        bench.wait_ready("True").await;
        bench.send("one").await.unwrap();
    }
    assert_eq!(bench.writes(), [OK; 5], "each change is written once");
}

#[tokio::test(flavor = "multi_thread")]
async fn good_checks_are_not_believed_while_messages_are_not_taken() {
    let bench = Bench::new("channel-flaps").await;
    bench.create(json!({}));
    bench.wait_ready("True").await;
    let checked = bench.script.checked();
    *bench.script.sends.lock().unwrap() = Some(ErrorKind::Unavailable);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        bench.send("one").await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(bench.script.checked() > checked, "it was checked in between");
    assert_eq!(bench.writes(), [OK; 2], "True, and then False all the time");
    *bench.script.sends.lock().unwrap() = None;
    bench.send("one").await.unwrap();
    bench.wait_ready("True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_patience_gets_it_whatever_the_checks_say() {
    for (kind, ready) in [(ErrorKind::Throttled, "True"), (ErrorKind::Unavailable, "False")] {
        let bench = Bench::new("channel-patience").await;
        *bench.script.checks.lock().unwrap() = Some(ErrorKind::Unavailable);
        bench.create(json!({}));
        bench.wait_ready("False").await;
        *bench.script.sends.lock().unwrap() = Some(kind);
        *bench.script.retry_after.lock().unwrap() = Some(Seconds(3600));
        bench.post("one");
        bench.wait("the message", || if bench.script.begun().len() == 1 { Ok(()) } else { Err("none") }).await;
        let (told, checked) = (bench.told_of_own(), bench.script.checked());
        *bench.script.checks.lock().unwrap() = None;
        bench.wait("the check", || if bench.script.checked() > checked { Ok(()) } else { Err("none") }).await;
        bench.rest().await;
        bench.rest().await;
        assert!(bench.ready().starts_with(ready), "{kind:?}: {}", bench.ready());
        assert!(bench.writes().len() <= 2, "{kind:?}: {:?}", bench.writes());
        assert_eq!((bench.script.begun().len(), bench.recovered.load(Ordering::SeqCst)), (1, 1), "{kind:?}");
        assert_eq!(bench.told_of_own(), told, "that its condition turns is no news for accounts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_goes_out_when_the_check_is_good_again() {
    let bench = Bench::new("channel-recovers").await;
    *bench.script.checks.lock().unwrap() = Some(ErrorKind::Denied);
    *bench.script.sends.lock().unwrap() = Some(ErrorKind::Denied);
    bench.create(json!({}));
    bench.wait_ready("False").await;
    bench.post("one");
    // Then it waits for 12 s at least.
    bench.wait("five attempts", || if bench.script.begun().len() >= 10 { Ok(()) } else { Err("less") }).await;
    *bench.script.sends.lock().unwrap() = None;
    *bench.script.checks.lock().unwrap() = None;
    let start = Instant::now();
    bench.wait("the message", || if bench.script.taken() == 1 { Ok(()) } else { Err("none") }).await;
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
    bench.wait_ready("True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_one_message_is_not_the_channels_fault() {
    let bench = Bench::lasting("channel-message", PATIENCE).await;
    bench.create(json!({}));
    bench.wait_ready("True").await;
    *bench.script.sends.lock().unwrap() = Some(ErrorKind::Invalid);
    assert_eq!(bench.send("one").await.unwrap_err().kind, ErrorKind::Invalid);
    *bench.script.sends.lock().unwrap() = Some(ErrorKind::Throttled);
    assert_eq!(bench.send("one").await.unwrap_err().kind, ErrorKind::Throttled);
    *bench.script.sends.lock().unwrap() = Some(ErrorKind::NotFound);
    assert_eq!(bench.send_to("one", vec!["#gone".into()]).await.unwrap_err().kind, ErrorKind::NotFound);
    bench.rest().await;
    assert_eq!((bench.writes(), bench.script.checked()), (vec![OK.to_owned()], 1));
    bench.send("one").await.unwrap_err();
    bench.wait_ready("False Scripted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_at_most_four_at_once_and_each_ends_in_time() {
    let bench = Bench::lasting("channel-hangs", Duration::from_millis(500)).await;
    bench.create(json!({}));
    bench.wait_ready("True").await;
    *bench.script.hangs.lock().unwrap() = true;
    let errors = join_all((0..12).map(|_| bench.send("one"))).await;
    assert!(errors.into_iter().all(|error| error.unwrap_err().reason == "Timeout"));
    assert_eq!(bench.script.most_at_once.load(Ordering::SeqCst), 4);
    bench.wait_ready("False Timeout no answer within 0.5 s").await;
    *bench.script.hangs.lock().unwrap() = false;
    bench.wait_ready("True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_message_is_sent_once_for_each_value() {
    let mut bench = Bench::new("channel-test").await;
    bench.create_asking(json!({}), Some("monday"));
    assert_eq!(bench.wait_test("monday").await, "Sent sent to the Slack channel of the webhook");
    bench.wait_ready("True").await;
    let message = bench.script.taken.lock().unwrap()[0].clone();
    let letter = &message.letters[0];
    assert_eq!((message.letters.len(), &letter.content, message.cluster.as_str()), (1, &Content::Test, "the cluster"));
    assert_eq!(letter.account, AccountId::new(&bench.ns, "chat"));
    assert!(message.recipients.is_empty() && letter.id.len() == 32, "{message:?}");
    assert_eq!(bench.writes(), [OK], "check and test are one write");

    let again = bench.again().await;
    again.wait("a check", || if again.script.checked() == 2 { Ok(()) } else { Err("none") }).await;
    again.patch(&json!({"metadata": {"annotations": {"other": "b"}}}));
    again.rest().await;
    assert_eq!((again.script.taken(), again.writes().len()), (1, 1), "not again");
    again.ask("tuesday");
    again.wait_test("tuesday").await;
    assert_eq!(again.script.taken(), 2);
    let begun = again.script.begun();
    assert_ne!(begun[0], begun[1], "another id");
    let long = "x".repeat(300);
    again.ask(&long);
    again.wait_test(&long[..256]).await;
    again.rest().await;
    assert_eq!(again.script.taken(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_test_is_recorded_and_not_tried_again() {
    let bench = Bench::lasting("channel-failed", PATIENCE).await;
    bench.create(json!({}));
    bench.wait_ready("True").await;
    *bench.script.sends.lock().unwrap() = Some(ErrorKind::Invalid);
    bench.ask("one");
    assert_eq!(bench.wait_test("one").await, "Failed Scripted: as the script says");
    bench.rest().await;
    assert_eq!(bench.script.begun().len(), 1);
    assert!(bench.ready().starts_with("True"), "the message alone was refused");
    *bench.script.sends.lock().unwrap() = Some(ErrorKind::Unavailable);
    bench.ask("two");
    bench.wait_test("two").await;
    bench.wait_ready("False Scripted").await;
    *bench.script.sends.lock().unwrap() = None;
    bench.wait_ready("True").await;
    assert_eq!(bench.script.begun().len(), 2);
    bench.ask("three");
    assert!(bench.wait_test("three").await.starts_with("Sent"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_whose_record_met_a_conflict_is_not_sent_again() {
    let bench = Bench::new("channel-conflict").await;
    bench.create(json!({}));
    bench.wait_ready("True").await;
    *bench.script.hangs.lock().unwrap() = true;
    bench.ask("one");
    bench.wait("the message", || if bench.script.begun().len() == 1 { Ok(()) } else { Err("none") }).await;
    bench.patch(&json!({"metadata": {"labels": {"somebody": "else"}}}));
    *bench.script.hangs.lock().unwrap() = false;
    bench.wait_test("one").await;
    assert_eq!(bench.script.begun().len(), 1);
    bench
        .wait("a conflict", || {
            let writes = bench.writes();
            if writes == [OK, "update status 409", OK] { Ok(()) } else { Err(format!("{writes:?}")) }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_that_a_stop_interrupted_is_repeated_with_the_same_id() {
    let mut bench = Bench::new("channel-crash").await;
    bench.create(json!({}));
    bench.wait_ready("True").await;
    *bench.script.hangs.lock().unwrap() = true;
    bench.ask("one");
    bench.wait("the message", || if bench.script.begun().len() == 1 { Ok(()) } else { Err("none") }).await;
    let again = bench.again().await;
    again.wait("the repeat", || if again.script.begun().len() == 2 { Ok(()) } else { Err("none") }).await;
    *again.script.hangs.lock().unwrap() = false;
    again.wait_test("one").await;
    let begun = again.script.begun();
    assert_eq!((begun.len(), &begun[0]), (2, &begun[1]));
    assert_eq!(again.script.taken(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_spec_is_a_new_channel_and_is_checked_at_once() {
    let bench = Bench::new("channel-edited").await;
    *bench.script.checks.lock().unwrap() = Some(ErrorKind::Denied);
    bench.create(json!({}));
    bench.wait_ready("False Scripted").await;
    assert!(!bench.script.opened.lock().unwrap()[0].1.allow_http);
    *bench.script.checks.lock().unwrap() = None;
    bench.wait_ready("True").await;
    let opened = bench.script.opened();
    bench.told.lock().unwrap().clear();
    bench.patch(&json!({"spec": {"allowInsecure": true}}));
    bench.wait_told(Concern::Channel(bench.channel())).await;
    bench
        .wait("the new generation", || {
            let status = bench.status();
            if status["observedGeneration"] == 2 { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    let all = bench.script.opened.lock().unwrap().clone();
    assert_eq!(all.len(), opened + 1);
    let (spec, network) = &all[opened];
    assert!(spec.allow_insecure == Some(true) && network.allow_http, "{network:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_channel_sends_nothing_and_those_who_use_it_hear_of_it() {
    let bench = Bench::new("channel-deleted").await;
    *bench.script.checks.lock().unwrap() = Some(ErrorKind::Denied);
    bench.create(json!({}));
    bench.wait_ready("False Scripted").await;
    // Somebody else holds it back.
    bench.patch(&json!({"metadata": {"finalizers": ["example.com/hold"]}}));
    bench.told.lock().unwrap().clear();
    PLANE.kubectl_ok(&["delete", "nc", "chat", "-n", &bench.ns, "--wait=false"], None);
    bench.wait_told(Concern::Channel(bench.channel())).await;
    bench.ask("one");
    assert!(bench.refused(&bench.ns).starts_with("ChannelNotFound: "));
    let error = bench.send("one").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::NotFound, "ChannelNotFound"));
    bench.rest().await;
    assert_eq!(bench.script.begun(), [""; 0]);
    bench.told.lock().unwrap().clear();
    bench.patch(&json!({"metadata": {"finalizers": []}}));
    bench.wait_told(Concern::Channel(bench.channel())).await;
    assert!(bench.metrics.text().unwrap().contains("virtual_account_channels_failing 0"));
}
