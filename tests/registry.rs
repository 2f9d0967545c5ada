//! The registry of TokenStores on a real API server, with the shipped rights alone. The stores behind it are scripted. In
//! `channels`, the same for NotificationChannels.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use kube::Client;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;
use virtual_account_operator::api::{
    AccountId, IN_USE_FINALIZER, Instant as Clock, ObjectId, Seconds, SecretKeyRef, ServiceAccountRef, yaml,
};
use virtual_account_operator::events;
use virtual_account_operator::integration::cluster_identity::{ClusterIdentity, cluster_id};
use virtual_account_operator::integration::{Concern, ErrorKind, Identity, Namespaces, Network, ProviderError, Timing};
use virtual_account_operator::leader::Leadership;
use virtual_account_operator::metrics::Metrics;
use virtual_account_operator::store::registry::Parts;
use virtual_account_operator::store::{Admission, Ambient, Held, Open, Registry, STORE_DOWN, Store, Users, Value};
use virtual_account_operator::watch::Scope;

#[path = "support/plane.rs"]
mod plane;
use plane::{Plane, client};

#[path = "registry/channels.rs"]
mod channels;

const OPERATOR: &str = "system:serviceaccount:virtual-accounts:virtual-account-operator";
const PATIENCE: Duration = Duration::from_secs(20);

static PLANE: LazyLock<&'static Plane> = LazyLock::new(|| {
    let plane = Plane::shared();
    plane.install(&yaml().unwrap());
    for file in ["namespace.yaml", "serviceaccount.yaml", "rbac.yaml"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/default").join(file);
        plane.kubectl_ok(&["apply", "-f", &file.display().to_string()], None);
    }
    plane
});

/// What the scripted stores of one bench do.
#[derive(Default)]
struct Script {
    /// What calls end with.
    error: Mutex<Option<(ErrorKind, &'static str)>>,
    /// Calls hang.
    hangs: Mutex<bool>,
    /// The credential that calls need, if any; it is read from Secret `creds` when a store is opened.
    credential: Mutex<Option<String>>,
    opened: AtomicUsize,
    called: AtomicUsize,
    checked: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

struct Scripted {
    script: Arc<Script>,
    credential: Option<String>,
}

impl Script {
    fn answers(&self, error: Option<(ErrorKind, &'static str)>) {
        *self.error.lock().unwrap() = error;
    }

    fn count(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::SeqCst)
    }

    async fn open(self: Arc<Self>, identity: Arc<dyn Identity>) -> Result<Box<dyn Store>, ProviderError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let needs = self.credential.lock().unwrap().is_some();
        let key = SecretKeyRef { name: "creds".into(), key: "token".into() };
        let credential = if needs { Some(identity.secret(&key).await?.expose().to_owned()) } else { None };
        Ok(Box::new(Scripted { script: self, credential }))
    }
}

impl Scripted {
    async fn call(&self, counter: &AtomicUsize) -> Result<(), ProviderError> {
        let script = &self.script;
        counter.fetch_add(1, Ordering::SeqCst);
        let at_once = script.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        script.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let _leaving = Leaving(&script.at_once);
        if *script.hangs.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        if self.credential != *script.credential.lock().unwrap() {
            return Err(ProviderError::new(ErrorKind::Denied, "Forbidden", "the credential is not the right one"));
        }
        let error = *script.error.lock().unwrap();
        error.map_or(Ok(()), |(kind, message)| Err(ProviderError::new(kind, "Scripted", message)))
    }
}

struct Leaving<'a>(&'a AtomicUsize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Store for Scripted {
    async fn read(&self, path: &str) -> Result<Held, ProviderError> {
        self.call(&self.script.called).await?;
        Ok(Held { version: Some(path.to_owned()), ..Held::default() })
    }

    async fn write(&self, _: &str, _: &Value<'_>, _: &Held) -> Result<String, ProviderError> {
        unimplemented!("the tests of the registry write nothing")
    }

    async fn retire(&self, _: &str, _: &Held, _: &BTreeSet<String>) -> Result<(), ProviderError> {
        self.call(&self.script.called).await
    }

    async fn delete(&self, _: &str, _: &Held) -> Result<(), ProviderError> {
        self.call(&self.script.called).await
    }

    async fn check(&self) -> Result<(), ProviderError> {
        self.call(&self.script.checked).await
    }
}

/// A registry looks after every store of its cluster, so there is one at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A registry at work, for one test.
struct Bench {
    turn: Option<tokio::sync::MutexGuard<'static, ()>>,
    ns: String,
    namespaces: Arc<Namespaces>,
    registry: Arc<Registry>,
    script: Arc<Script>,
    users: Arc<Mutex<Vec<AccountId>>>,
    told: Arc<Mutex<Vec<Concern>>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

/// A check a second, so that a test need not wait for a minute.
const FAST: Timing = Timing { healthy: Seconds(3600), down: Seconds(2), failing: Seconds(1), reopen: Seconds(0) };

async fn operator() -> Client {
    client(&PLANE.serviceaccount_kubeconfig("virtual-accounts", "virtual-account-operator")).await
}

impl Bench {
    async fn new(name: &str) -> Self {
        Self::within(name, PATIENCE).await
    }

    /// Calls may take so long.
    async fn within(name: &str, timeout: Duration) -> Self {
        let turn = TURN.lock().await;
        Self::over(PLANE.namespace(name), timeout, turn).await
    }

    /// Another one over the same stores, as after a restart.
    async fn again(&mut self) -> Self {
        self.stop.cancel();
        Self::over(self.ns.clone(), PATIENCE, self.turn.take().unwrap()).await
    }

    async fn over(ns: String, timeout: Duration, turn: tokio::sync::MutexGuard<'static, ()>) -> Self {
        let (client, script) = (operator().await, Arc::<Script>::default());
        let (users, told) = (Arc::<Mutex<Vec<AccountId>>>::default(), Arc::<Mutex<Vec<Concern>>>::default());
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::new(Clock::from_unix(0)));
        let (events, poster) = events::channel(client.clone(), "test");
        tokio::spawn(poster.run(stop.clone()));
        let (scripted, heard) = (Arc::clone(&script), Arc::clone(&told));
        let open: Open = Arc::new(move |_, identity, _| Arc::clone(&scripted).open(identity).boxed());
        let (namespaces, watch) = Namespaces::new(client.clone(), &Scope::default());
        let heard_too = Arc::clone(&heard);
        let tell_of = move |name: &str| heard_too.lock().unwrap().push(Concern::Namespace(name.to_owned()));
        tokio::spawn(Arc::clone(&namespaces).run(watch, tell_of, stop.clone()));
        let (registry, tasks) = Registry::new(Parts {
            client,
            namespaces: Arc::clone(&namespaces),
            open,
            network: Network { allow_local: true, allow_http: false, timeout },
            concurrency: 4,
            ambient: Ambient { namespace: "virtual-accounts".into(), everywhere: false },
            keys: AccountId::new("virtual-accounts", "virtual-account-operator-keys"),
            events,
            leadership: Leadership::always(),
            metrics: Arc::clone(&metrics),
            tell: Arc::new(move |concern| heard.lock().unwrap().push(concern)),
            timing: FAST,
            scope: Scope::default(),
        });
        let using = Arc::clone(&users);
        let users_of: Users = Arc::new(move |_| Some(using.lock().unwrap().clone()));
        tokio::spawn(Arc::clone(&registry).run(tasks, users_of, stop.clone()));
        let bench = Self { turn: Some(turn), ns, namespaces, registry, script, users, told, metrics, stop };
        bench.wait("the watches", || bench.registry.synced().then_some(()).ok_or("not synced")).await;
        bench
    }

    fn store(&self) -> ObjectId {
        ObjectId { namespace: self.ns.clone(), name: "vault".into() }
    }

    /// Creates the TokenStore with these fields added to its spec.
    fn create(&self, more: Json) {
        let mut spec = json!({"hashicorpVault": {"address": "https://vault", "auth": {"tokenRef": {"name": "creds", "key": "token"}}}});
        if more.get("awsSecretsManager").is_some() {
            spec = json!({});
        }
        let Json::Object(more) = more else { panic!("an object") };
        spec.as_object_mut().unwrap().extend(more);
        let store = json!({
            "apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore",
            "metadata": {"name": "vault", "namespace": self.ns}, "spec": spec,
        });
        PLANE.kubectl_ok(&["create", "-f", "-"], Some(&store.to_string()));
    }

    fn secret(&self, value: &str) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "creds", "namespace": self.ns},
            "stringData": {"token": value},
        });
        PLANE.kubectl_ok(&["apply", "-f", "-"], Some(&secret.to_string()));
    }

    fn object(&self) -> Json {
        let output = PLANE.kubectl(&["get", "ts", "vault", "-n", &self.ns, "-o", "json", "--ignore-not-found"], None);
        serde_json::from_slice(&output.stdout).unwrap_or(Json::Null)
    }

    fn ready(&self) -> String {
        let object = self.object();
        let ready = &object["status"]["conditions"][0];
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

    fn admit(&self, namespace: &str, path: &str) -> Admission {
        self.registry.admit(namespace, &self.store(), path)
    }

    /// Why the path is refused.
    fn refused(&self, namespace: &str, path: &str) -> String {
        match self.admit(namespace, path) {
            Admission::Refused { reason, message } => format!("{reason}: {message}"),
            other => panic!("{other:?}"),
        }
    }

    async fn read(&self) -> Result<Held, ProviderError> {
        self.registry.read(&self.store(), "/a/b").await
    }

    /// Requests of the operator about this bench's store.
    fn writes(&self) -> Vec<String> {
        let events = PLANE.audit().into_iter().filter(|event| {
            event.user == OPERATOR
                && event.resource == "tokenstores"
                && event.namespace == self.ns
                && event.verb != "watch"
        });
        events.map(|event| format!("{} {} {}", event.verb, event.subresource, event.code)).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
        PLANE.kubectl(&["delete", "ts", "--all", "-n", &self.ns, "--wait=false"], None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_ready_after_one_good_check_and_that_is_written_once() {
    let mut bench = Bench::new("good").await;
    bench.create(json!({"takeOverFrom": ["unmarked"]}));
    assert_eq!(bench.wait_ready("True").await, "True Checked credentials and reach are good");
    let object = bench.object();
    assert_eq!(object["status"]["provider"], "hashicorpVault");
    assert_eq!(object["status"]["observedGeneration"], 1);
    assert_eq!(bench.admit(&bench.ns, "/a/b"), Admission::Open { take_over: vec!["unmarked".into()] });
    assert_eq!(bench.read().await.unwrap().version.as_deref(), Some("a/b"), "the provider's own name");
    bench
        .wait("an Event", || {
            let events = PLANE.kubectl_ok(&["get", "events", "-n", &bench.ns], None);
            if events.contains("StoreReady") { Ok(()) } else { Err(events) }
        })
        .await;
    assert_eq!(bench.writes(), ["update status 200"]);

    let again = bench.again().await;
    let checked = || Script::count(&again.script.checked);
    again.wait("a check", || if checked() > 0 { Ok(()) } else { Err("none") }).await;
    again.registry.used(&again.store());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.writes(), ["update status 200"], "a restart writes nothing");
    assert_eq!(checked(), 1, "a healthy store is checked once an hour");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_credentials_are_named_and_found_when_they_come() {
    let bench = Bench::new("creds").await;
    *bench.script.credential.lock().unwrap() = Some("right".into());
    bench.create(json!({}));
    let ready = bench.wait_ready("False").await;
    let words = format!("Secret {}/creds does not exist; create it with key token", bench.ns);
    assert!(ready.starts_with("False SecretNotFound") && ready.ends_with(&words), "{ready}");
    let refusal = bench.refused(&bench.ns, "/a/b");
    assert!(refusal.starts_with("StoreNotReady: ") && refusal.ends_with(&words), "{refusal}");
    let error = bench.read().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "SecretNotFound"));
    bench.told.lock().unwrap().clear();

    bench.secret("wrong");
    bench.wait_ready("False Forbidden").await;
    assert!(bench.ready().ends_with("the credential is not the right one"));
    bench.secret("right\n");
    bench.wait_ready("True").await;
    bench.wait_told(Concern::Store(bench.store())).await;
    bench.read().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_credential_is_read_when_the_old_one_is_refused() {
    let bench = Bench::new("rotated").await;
    *bench.script.credential.lock().unwrap() = Some("one".into());
    bench.secret("one");
    bench.create(json!({}));
    bench.wait_ready("True").await;
    let opened = Script::count(&bench.script.opened);
    bench.secret("two");
    *bench.script.credential.lock().unwrap() = Some("two".into());
    bench.read().await.unwrap();
    assert_eq!(Script::count(&bench.script.opened), opened + 1);
    *bench.script.credential.lock().unwrap() = Some("three".into());
    assert_eq!(bench.read().await.unwrap_err().kind, ErrorKind::Denied, "once is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_to_a_dead_store_are_few_and_its_own_check_finds_it_alive() {
    let bench = Bench::within("dead", Duration::from_millis(500)).await;
    bench.create(json!({}));
    bench.wait_ready("True").await;
    *bench.script.hangs.lock().unwrap() = true;
    let (calls, checks) = (|| Script::count(&bench.script.called), || Script::count(&bench.script.checked));
    let before = (calls(), checks());
    let start = Instant::now();
    let all = (0..200).map(|_| bench.read());
    let errors: Vec<ProviderError> = futures::future::join_all(all).await.into_iter().map(Result::unwrap_err).collect();
    // One after the other, four at once, it would be 25 s.
    assert!(start.elapsed() < Duration::from_secs(10), "those who wait fail at once: {:?}", start.elapsed());
    assert!(calls() - before.0 <= 8, "{} calls", calls() - before.0);
    assert!(Script::count(&bench.script.most_at_once) <= 4, "--store-concurrency");
    assert!(errors.iter().all(|error| error.kind == ErrorKind::Unavailable));
    assert!(errors.iter().filter(|error| error.reason == STORE_DOWN).count() >= 192);

    let ready = bench.wait_ready("False StoreDown").await;
    assert!(ready.contains("(Timeout: no answer within 0.5 s)"), "{ready}");
    let Admission::Down { message } = bench.admit(&bench.ns, "/a/b") else { panic!("not down") };
    let down = calls();
    bench.wait("two probes", || if checks() >= before.1 + 2 { Ok(()) } else { Err(checks()) }).await;
    assert_eq!(bench.admit(&bench.ns, "/a/b"), Admission::Down { message }, "the message stays");
    assert_eq!(bench.read().await.unwrap_err().reason, STORE_DOWN);
    assert_eq!(calls(), down, "only its own check calls it");
    assert!(bench.metrics.text().unwrap().contains("virtual_account_stores_down 1"));

    bench.told.lock().unwrap().clear();
    *bench.script.hangs.lock().unwrap() = false;
    bench.wait_told(Concern::Store(bench.store())).await;
    bench.read().await.unwrap();
    bench.wait_ready("True").await;
    assert_eq!(bench.writes(), ["update status 200"; 3]);
    assert!(bench.metrics.text().unwrap().contains("virtual_account_stores_down 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_asks_for_patience_or_refuses_one_path_is_not_down() {
    let bench = Bench::new("patience").await;
    bench.create(json!({}));
    bench.wait_ready("True").await;
    for error in [(ErrorKind::Throttled, "429"), (ErrorKind::Denied, "403"), (ErrorKind::Invalid, "400")] {
        bench.script.answers(Some(error));
        for _ in 0..5 {
            assert_eq!(bench.read().await.unwrap_err().kind, error.0);
        }
    }
    assert!(matches!(bench.admit(&bench.ns, "/a/b"), Admission::Open { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_spec_is_a_new_store() {
    let bench = Bench::new("edited").await;
    bench.script.answers(Some((ErrorKind::Unavailable, "no route")));
    bench.create(json!({}));
    bench.wait_ready("False StoreDown").await;
    let opened = Script::count(&bench.script.opened);
    bench.script.answers(None);
    bench.told.lock().unwrap().clear();
    let patch = json!({"spec": {"hashicorpVault": {"address": "https://other"}}}).to_string();
    PLANE.kubectl_ok(&["patch", "ts", "vault", "-n", &bench.ns, "--type=merge", "-p", &patch], None);
    bench.wait_told(Concern::Store(bench.store())).await;
    bench
        .wait("the new generation", || {
            let observed = bench.object()["status"]["observedGeneration"].clone();
            if observed == 2 { Ok(()) } else { Err(observed) }
        })
        .await;
    bench.wait_ready("True").await;
    assert!(Script::count(&bench.script.opened) > opened);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_use_is_held_until_the_last_account_lets_it_go() {
    let bench = Bench::new("held").await;
    let names = || {
        let object = bench.object();
        object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default()
    };
    bench.create(json!({"takeOverFrom": ["former"]}));
    bench.wait_ready("True").await;
    assert_eq!(names(), [json!(null); 0], "nobody uses it");
    *bench.users.lock().unwrap() = (1..=5).map(|n| AccountId::new("team", format!("a{n}"))).collect();
    bench.registry.used(&bench.store());
    bench
        .wait("the finalizer", || {
            if names() == [json!(IN_USE_FINALIZER)] { Ok(()) } else { Err(format!("{:?}", names())) }
        })
        .await;
    assert_eq!(bench.object()["spec"]["takeOverFrom"], json!(["former"]), "all else stays");
    assert!(!bench.registry.deleting(&bench.store()));

    bench.told.lock().unwrap().clear();
    PLANE.kubectl_ok(&["delete", "ts", "vault", "-n", &bench.ns, "--wait=false"], None);
    bench.wait_told(Concern::Store(bench.store())).await;
    assert!(bench.registry.deleting(&bench.store()));
    let ready = bench.wait_ready("True Deleting").await;
    assert!(
        ready.ends_with("it stays until 5 accounts no longer use it: team/a1, team/a2, team/a3 and 2 more"),
        "{ready}"
    );
    assert!(matches!(bench.admit(&bench.ns, "/a/b"), Admission::Open { .. }), "who uses it goes on");
    bench.read().await.unwrap();

    bench.users.lock().unwrap().truncate(1);
    bench.registry.used(&bench.store());
    bench
        .wait("one name", || if bench.ready().ends_with("uses it: team/a1") { Ok(()) } else { Err(bench.ready()) })
        .await;
    bench.users.lock().unwrap().clear();
    bench.registry.used(&bench.store());
    bench.wait("its end", || if bench.object().is_null() { Ok(()) } else { Err(bench.ready()) }).await;
    let gone = || matches!(bench.admit(&bench.ns, "/a/b"), Admission::Refused { reason: "StoreNotFound", .. });
    bench.wait("the refusal", || if gone() { Ok(()) } else { Err("admitted") }).await;
    assert_eq!(bench.read().await.unwrap_err().reason, "StoreNotFound");
    assert!(bench.writes().iter().all(|write| write.ends_with("200")), "no conflicts: {:?}", bench.writes());
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_allowed_by_their_labels_as_they_are_now() {
    let bench = Bench::new("labels").await;
    let other = PLANE.namespace("tenant");
    bench.create(json!({
        "allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"vault": "yes"}}},
        "pathPrefix": "/{namespace}/",
    }));
    bench.wait_ready("True").await;
    let (inside, outside) = (format!("/{other}/token"), "/elsewhere/token");
    let refusal = bench.refused(&other, &inside);
    assert!(refusal.starts_with("NotAllowed: the labels of namespace"), "{refusal}");
    bench.told.lock().unwrap().clear();
    PLANE.kubectl_ok(&["label", "namespace", &other, "vault=yes"], None);
    bench.wait_told(Concern::Namespace(other.clone())).await;
    assert!(matches!(bench.admit(&other, &inside), Admission::Open { .. }));
    assert!(bench.refused(&other, outside).ends_with(&format!("begin it with /{other}/")));
    bench.told.lock().unwrap().clear();
    PLANE.kubectl_ok(&["label", "namespace", &other, "vault-"], None);
    bench.wait_told(Concern::Namespace(other.clone())).await;
    assert!(bench.refused(&other, &inside).starts_with("NotAllowed"));

    assert!(!bench.namespaces.terminating(&other));
    PLANE.kubectl_ok(&["delete", "namespace", &other, "--wait=false"], None);
    let ends = || bench.namespaces.terminating(&other);
    bench.wait("the namespace's end", || if ends() { Ok(()) } else { Err("not terminating") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_own_credentials_are_not_lent() {
    let bench = Bench::new("ambient").await;
    bench.create(json!({"awsSecretsManager": {"region": "eu-central-1"}}));
    let ready = bench.wait_ready("False AmbientCredentialsNotAllowed").await;
    assert!(ready.contains("set spec.awsSecretsManager.auth"), "{ready}");
    assert!(bench.refused(&bench.ns, "/a/b").starts_with("NotAllowed: TokenStore"));
    assert_eq!(bench.read().await.unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(Script::count(&bench.script.opened), 0, "it is never opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_service_accounts_need_the_namespace_owners_role() {
    let ns = PLANE.namespace("tokens");
    let (identity, account) =
        (ClusterIdentity::new(operator().await, &ns), ServiceAccountRef { name: "vault-writer".into() });
    let error = identity.service_account_token(&account, "vault").await.unwrap_err();
    assert_eq!(error.reason, "TokenRequestForbidden");
    assert!(error.message.contains("config/samples/token-request"), "{error}");
    let opt_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/samples/token-request");
    let role = PLANE.kubectl_ok(&["kustomize", &opt_in.display().to_string()], None);
    PLANE.kubectl_ok(&["apply", "-n", &ns, "-f", "-"], Some(&role));
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        let error = identity.service_account_token(&account, "vault").await.unwrap_err();
        if error.reason != "TokenRequestForbidden" || Instant::now() > deadline {
            break error;
        }
    };
    assert_eq!(error.reason, "ServiceAccountNotFound", "{error}");
    PLANE.kubectl_ok(&["create", "serviceaccount", "vault-writer", "-n", &ns], None);
    let token = identity.service_account_token(&account, "vault").await.unwrap();
    assert_eq!(token.expose().split('.').count(), 3);
    assert!(!cluster_id(&operator().await).await.unwrap().is_empty());
}
