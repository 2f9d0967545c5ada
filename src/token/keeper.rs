//! The I/O around the key ring: watches its one Secret, asks `custody` every second what is to be done, writes with the
//! version that was seen, and publishes the ring. It keeps the ring in memory through every outage.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant as Tick, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::custody::{Facts, Found, Seen, decide};
use super::memory::Memory;
use super::{KeyMaterial, Ledgers, Ring, RingNotice, RingSettings, RingState, RingTrouble, SECRET_NAME};
use crate::api::Instant;
use crate::leader::Leadership;
use crate::watch::{One, SILENT, Sight, Watch, version, version_of};

/// No request waits longer for its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait after a failure: an API server that comes back is found within seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A watch may lag behind our own writes for so long; then the Secret is read. (Versions fall when etcd is restored.)
const LAG: Duration = Duration::from_secs(5);

/// What is served may be so old. Longer than a lag, all requests of one look and the wait after a failure.
const STUCK: Duration = Duration::from_mins(1);

// A replica that does not serve a new key within half of its lead must get no traffic: after the lead it signs.
const _: () = assert!(SILENT.as_secs() + STUCK.as_secs() < RingSettings::LEAD.0.unsigned_abs() / 2);

/// Who is told what happened to the ring.
pub type Tell = Arc<dyn Fn(RingNotice) + Send + Sync>;

/// Owns the ring's Secret. The leader's keeper writes, those of the others only serve; two writers do no harm, because each
/// write names the version it saw.
pub struct Keeper {
    api: Api<Secret>,
    watched: Arc<One<Secret>>,
    watch: Option<Watch<Secret>>,
    leadership: Leadership,
    settings: RingSettings,
    ledgers: Arc<dyn Ledgers>,
    clock: fn() -> Instant,
    tell: Tell,
    state: watch::Sender<RingState>,
    /// When it was last decided what is served, by all that is known.
    decided: watch::Sender<Tick>,
    seen: Seen,
    /// Since when the watch has shown an older Secret than the one that is known.
    lags: Option<Tick>,
    memory: Option<Memory>,
    /// The last notices that came without a write, so that a lasting state is told once.
    told: Vec<RingNotice>,
    /// The trouble that people know of.
    told_trouble: Option<RingTrouble>,
    failures: u32,
    wait_until: Option<Tick>,
}

/// Why a pass came to nothing.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("making a key failed: {0}")]
    Key(#[from] super::KeyError),
    #[error("writing the key ring failed: {}", reason(.0))]
    Write(kube::Error),
    #[error("reading the key ring failed: {}", reason(.0))]
    Read(kube::Error),
    #[error("no answer about the key ring within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

impl Keeper {
    /// A keeper of the ring in this namespace, and where its state can be read. The client's own retries are to be off:
    /// a write is repeated only after a new decision.
    pub fn new(
        (client, leadership): (Client, Leadership),
        namespace: &str,
        settings: RingSettings,
        ledgers: Arc<dyn Ledgers>,
        clock: fn() -> Instant,
        tell: Tell,
    ) -> (Self, watch::Receiver<RingState>) {
        let (state, receiver) = watch::channel(RingState::default());
        let (watched, watch) = One::new(client.clone(), namespace, SECRET_NAME);
        let keeper = Self {
            api: Api::namespaced(client, namespace),
            watched,
            watch: Some(watch),
            leadership,
            settings,
            ledgers,
            clock,
            tell,
            state,
            decided: watch::Sender::new(Tick::now()),
            seen: Seen::Unknown,
            lags: None,
            memory: None,
            told: Vec::new(),
            told_trouble: None,
            failures: 0,
            wait_until: None,
        };
        (keeper, receiver)
    }

    /// Why what is served may be out of date, if so.
    pub fn freshness(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let (watched, decided) = (Arc::clone(&self.watched), self.decided.subscribe());
        move || {
            let age = decided.borrow().elapsed();
            let stuck = || format!("the key ring that is served is {} s old", age.as_secs());
            watched.trouble("the key ring").or_else(|| (age > STUCK).then(stuck))
        }
    }

    /// Keeps the ring until `stop`; a write in hand is finished. Returns early if its watch has ended.
    pub async fn run(mut self, stop: CancellationToken) {
        let Some(watch) = self.watch.take() else { return };
        let mut watching = JoinSet::new();
        watching.spawn(Arc::clone(&self.watched).run(watch, stop.clone()));
        // Wall-clock instants are compared every second: a timer alone sleeps through a suspended machine.
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watched = Arc::clone(&self.watched);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = watching.join_next() => break,
                () = watched.changed() => {}
                _ = seconds.tick() => {}
            }
            self.look();
            if self.wait_until.is_none_or(|until| Tick::now() >= until) {
                let passed = self.pass().await;
                self.count(passed);
            }
        }
    }

    /// Takes what the watch has seen, unless it lags behind our own writes.
    fn look(&mut self) {
        let known = match &self.seen {
            Seen::Present(found) => found.metadata.resource_version.as_deref().map_or(0, version),
            Seen::Unknown | Seen::Absent => 0,
        };
        let shown = match self.watched.look() {
            Sight::Present(secret) if version_of(secret.as_ref()) > known => {
                self.seen = Seen::Present(Box::new(Found::new(secret.as_ref().clone())));
                known
            }
            Sight::Present(secret) => version_of(secret.as_ref()),
            Sight::Absent(shown) if shown >= known => {
                self.seen = Seen::Absent;
                known
            }
            Sight::Absent(shown) => shown,
            Sight::Unknown => known,
        };
        self.lags = (shown < known).then(|| self.lags.unwrap_or_else(Tick::now));
    }

    async fn pass(&mut self) -> Result<(), PassError> {
        if self.lags.is_some_and(|since| since.elapsed() > LAG) {
            self.lags = None;
            self.read().await?;
        }
        let leads = self.leadership.holds();
        let facts = Facts::of(&*self.ledgers, leads);
        let at = ((self.clock)(), &self.settings);
        let decision = decide(&self.seen, self.memory.as_ref(), &facts, at, &mut KeyMaterial::generate)?;
        self.memory = decision.memory;
        self.publish(decision.trouble);
        // While the watch lags, what is served may be older than what is stored.
        if self.lags.is_none() {
            self.decided.send_replace(Tick::now());
        }
        let Some(ring) = decision.write else {
            self.tell_once(decision.notices);
            return Ok(());
        };
        if let Some(secret) = self.write(&ring).await? {
            self.seen = Seen::Present(Box::new(Found::new(secret)));
            self.memory = Some(Memory::of(ring));
            self.publish(None);
            self.told.clear();
            decision.notices.into_iter().for_each(&*self.tell);
        }
        Ok(())
    }

    /// Stores the ring over what was seen. `None` if somebody was faster; then the Secret has been read again.
    async fn write(&mut self, ring: &Ring) -> Result<Option<Secret>, PassError> {
        let params = PostParams::default();
        let request = async {
            match &self.seen {
                Seen::Present(found) => self.api.replace(SECRET_NAME, &params, &found.with(ring.data())).await,
                Seen::Unknown | Seen::Absent => {
                    let metadata = ObjectMeta { name: Some(SECRET_NAME.into()), ..ObjectMeta::default() };
                    let secret = Found { metadata, ring: Err(super::RingError::Empty) }.with(ring.data());
                    self.api.create(&params, &secret).await
                }
            }
        };
        let answer = tokio::select! {
            answer = timeout(REQUEST_TIMEOUT, request) => answer,
            // The next leader's ring is not to be written over by a request of this term.
            () = self.leadership.ended() => return self.read().await.map(|()| None),
        };
        match answer.map_err(|_| PassError::Timeout) {
            Ok(Ok(secret)) => Ok(Some(secret)),
            Ok(Err(kube::Error::Api(status)))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                self.read().await.map(|()| None)
            }
            // The write may have been carried out: what is there now is seen before anything else is decided.
            Ok(Err(error)) => self.read().await.and(Err(PassError::Write(error))),
            Err(late) => self.read().await.and(Err(late)),
        }
    }

    async fn read(&mut self) -> Result<(), PassError> {
        let answer = timeout(REQUEST_TIMEOUT, self.api.get_opt(SECRET_NAME)).await.map_err(|_| PassError::Timeout)?;
        self.seen = match answer.map_err(PassError::Read)? {
            Some(secret) => Seen::Present(Box::new(Found::new(secret))),
            None => Seen::Absent,
        };
        Ok(())
    }

    fn publish(&mut self, trouble: Option<RingTrouble>) {
        let before = self.state.borrow().clone();
        let ring = match (&before.ring, self.memory.as_ref().map(|memory| &memory.served)) {
            (Some(shared), Some(ring)) if **shared == *ring => Some(shared.clone()),
            (_, ring) => ring.cloned().map(Arc::new),
        };
        let after = RingState { ring, trouble };
        let trouble = after.trouble.clone();
        if after != before {
            self.state.send_replace(after);
        }
        // The leader tells, also of what it saw before it led.
        if trouble.is_none() || (self.leadership.holds() && trouble != self.told_trouble) {
            if let Some(trouble) = &trouble {
                (self.tell)(RingNotice { warning: true, reason: trouble.reason(), message: trouble.to_string() });
            }
            self.told_trouble = trouble;
        }
    }

    fn tell_once(&mut self, notices: Vec<RingNotice>) {
        if notices != self.told {
            notices.iter().cloned().for_each(&*self.tell);
            self.told = notices;
        }
    }

    fn count(&mut self, passed: Result<(), PassError>) {
        match passed {
            Ok(()) => (self.failures, self.wait_until) = (0, None),
            Err(error) => {
                tracing::warn!(%error, failures = self.failures, "the key ring was not written; the known keys are served");
                let wait = Duration::from_millis(500 << self.failures.min(4)).min(LONGEST_WAIT);
                self.failures = self.failures.saturating_add(1);
                self.wait_until = Some(Tick::now() + wait);
            }
        }
    }
}

/// Never the whole error: an answer that does not parse may be quoted in it.
pub(super) fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.reason, status.code),
        kube::Error::SerdeError(_) => "unreadable answer".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::Body as Answer;
    use futures::StreamExt as _;
    use http::{Method, Request, Response};
    use k8s_openapi::List;
    use kube::client::Body;

    use super::super::Algorithm;
    use super::super::fixtures::{at, ring};
    use super::*;
    use crate::api::Seconds;
    use crate::clock;

    /// Nobody has a token.
    struct Nobody;

    impl Ledgers for Nobody {
        fn synced(&self) -> bool {
            true
        }
        fn kids_in_use(&self) -> BTreeSet<String> {
            BTreeSet::new()
        }
        fn any_entry(&self) -> bool {
            false
        }
        fn any_labelled_secret(&self) -> bool {
            false
        }
        fn labelled_secret_with_empty_ledger(&self) -> bool {
            false
        }
    }

    /// An API server that lists the ring, follows it without news, and takes every write of it.
    async fn answer(request: Request<Body>) -> Result<Response<Answer>, std::convert::Infallible> {
        let metadata = ObjectMeta {
            name: Some(SECRET_NAME.into()),
            namespace: Some("own".into()),
            resource_version: Some("7".into()),
            ..ObjectMeta::default()
        };
        let secret = Secret { metadata, data: Some(ring().data()), ..Secret::default() };
        let body = if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
            Answer::from_stream(futures::stream::pending::<Result<String, std::io::Error>>().boxed())
        } else if request.uri().path().ends_with(SECRET_NAME) {
            Answer::from(serde_json::to_vec(&secret).unwrap())
        } else {
            let mut list = List { items: vec![secret], ..List::default() };
            list.metadata.resource_version = Some("7".into());
            Answer::from(serde_json::to_vec(&list).unwrap())
        };
        Ok(Response::new(body))
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_that_nobody_looks_at_any_more_is_not_fresh() {
        let settings =
            RingSettings { rotation: Seconds::hours(1), algorithm: Algorithm::Es256, lead: RingSettings::LEAD };
        let client = Client::new(tower::service_fn(answer), "own");
        let leadership = Leadership::always();
        let tell: Tell = Arc::new(|_| {});
        let (keeper, mut state) =
            Keeper::new((client, leadership), "own", settings, Arc::new(Nobody), clock::now, tell);
        let trouble = keeper.freshness();
        assert!(trouble().unwrap().contains("not listed yet"));
        let task = tokio::spawn(keeper.run(CancellationToken::new()));
        state.wait_for(|state| state.ring.is_some()).await.unwrap();
        assert_eq!(trouble(), None);
        tokio::time::sleep(STUCK * 2).await;
        assert_eq!(trouble(), None, "it looks every second, whatever happens");
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        tokio::time::sleep(STUCK / 2).await;
        assert_eq!(trouble(), None);
        tokio::time::sleep(STUCK).await;
        assert!(trouble().unwrap().starts_with("the key ring that is served is "), "{:?}", trouble());
    }

    /// Nothing is there, and no write is answered.
    fn mute() -> Client {
        let service = tower::service_fn(|request: Request<Body>| async move {
            if request.method() != Method::GET {
                std::future::pending::<()>().await;
            }
            let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}"#;
            let answer = Response::builder().status(404).body(Answer::from(status));
            Ok::<_, std::io::Error>(answer.unwrap())
        });
        Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_cut_off_with_the_term() {
        let (leadership, second) = (Leadership::always(), Duration::from_secs(1));
        let settings =
            RingSettings { rotation: Seconds::days(90), algorithm: Algorithm::Es256, lead: RingSettings::LEAD };
        let parts = (mute(), leadership.clone());
        let (mut keeper, _state) = Keeper::new(parts, "ns", settings, Arc::new(Nobody), || at(0), Arc::new(|_| {}));
        keeper.seen = Seen::Absent;
        let begun = Tick::now();
        let end = async {
            tokio::time::sleep(second).await;
            leadership.end();
        };
        let ring = ring();
        let (written, ()) = tokio::join!(keeper.write(&ring), end);
        assert!(matches!(written, Ok(None)), "{written:?}");
        assert_eq!(begun.elapsed(), second, "not when the request's own time was over");
    }
}
