//! A fake API server that answers requests in the order of a script, and checks what is asked and reported.

use std::collections::VecDeque;
use std::sync::Mutex;

use axum::body::Body as Answer;
use futures::stream;
use http::{Request as Http, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::account::seen::Seen;
use crate::api::AccountId;
use crate::token::Ledgers as _;

const FAST: Timing = Timing {
    silence: Duration::from_millis(200),
    backoff_first: Duration::from_millis(4),
    backoff_cap: Duration::from_millis(40),
    shortest: Duration::from_millis(20),
};

/// One answer of the server.
enum Step {
    /// A whole answer.
    Body(u16, Value),
    /// Watch lines, after which the stream ends in good order.
    Lines(Vec<Value>),
    /// Watch lines, after which the connection breaks.
    Broken(Vec<Value>),
    /// Watch lines, after which nothing comes any more.
    Hang(Vec<Value>),
    /// No connection.
    Refused,
}

#[derive(Default)]
struct Server {
    script: Mutex<VecDeque<Step>>,
    asked: Mutex<Vec<String>>,
}

impl Server {
    fn answer(&self, request: &Http<Body>) -> Result<Response<Answer>, std::io::Error> {
        let accept = request.headers().get("accept").map_or("", |accept| accept.to_str().unwrap());
        let metadata = if accept.contains("PartialObjectMetadata") { " metadata" } else { "" };
        let uri = request.uri();
        self.asked.lock().unwrap().push(format!("{}?{}{metadata}", uri.path(), uri.query().unwrap_or_default()));
        // The end of the script hangs, so that the watch under test stays where it is.
        let step = self.script.lock().unwrap().pop_front().unwrap_or(Step::Hang(vec![]));
        let lines = |lines: Vec<Value>| stream::iter(lines.into_iter().map(|line| Ok(format!("{line}\n"))));
        let broken = gone_away();
        let (status, body) = match step {
            Step::Body(status, value) => (status, Answer::from(value.to_string())),
            Step::Lines(all) => (200, Answer::from_stream(lines(all))),
            Step::Broken(all) => (200, Answer::from_stream(lines(all).chain(stream::iter([Err(broken)])))),
            Step::Hang(all) => (200, Answer::from_stream(lines(all).chain(stream::pending()))),
            Step::Refused => return Err(broken),
        };
        Ok(Response::builder().status(status).body(body).unwrap())
    }
}

/// A running watch against a scripted server.
struct Bench<K> {
    server: Arc<Server>,
    cache: Arc<Cache<K>>,
    reports: mpsc::UnboundedReceiver<String>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start<K>(script: Vec<Step>, watch: impl FnOnce(Client) -> Watch<K>) -> Bench<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Send + Sync + 'static,
{
    let server = Arc::new(Server { script: Mutex::new(script.into()), ..Server::default() });
    let answering = Arc::clone(&server);
    let service = tower::service_fn(move |request| std::future::ready(answering.answer(&request)));
    let mut watch = watch(Client::new(service, "default"));
    if watch.timing.silence == TIMING.silence {
        watch.timing = Timing { silence: TIMING.silence, ..FAST };
    }
    let (sender, reports) = mpsc::unbounded_channel();
    let report = move |change: Change<K>| {
        let told = |object: &K| {
            let meta = object.meta();
            format!("{}@{}", meta.name.as_deref().unwrap(), meta.resource_version.as_deref().unwrap())
        };
        let text = match change {
            Change::Applied(object) => format!("applied {}", told(&object)),
            Change::Deleted(object) => format!("deleted {}", told(&object)),
            Change::Synced(part) => format!("synced{part}"),
        };
        sender.send(text).unwrap();
    };
    let (cache, cancel) = (watch.cache(), CancellationToken::new());
    let task = tokio::spawn(watch.run(report, cancel.clone()));
    Bench { server, cache, reports, cancel, task }
}

fn maps(script: Vec<Step>) -> Bench<ConfigMap> {
    start(script, Watch::all)
}

impl<K> Bench<K> {
    /// The next `count` reports; those of a list come in any order, so they are sorted up to each `synced`.
    async fn reports(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.len() < count {
            match tokio::time::timeout(Duration::from_secs(10), self.reports.recv()).await {
                Ok(Some(report)) => seen.push(report),
                _ => panic!("only {seen:?} after 10 s; asked {:#?}", self.server.asked.lock().unwrap()),
            }
        }
        seen.split_inclusive_mut(|report| report == "synced").for_each(<[String]>::sort);
        seen
    }

    /// Waits until the server was asked this often, and gives the versions resumed at (`list` for a list).
    async fn asked(&self, count: usize) -> Vec<String> {
        for _ in 0..1000 {
            let asked = self.server.asked.lock().unwrap().clone();
            if asked.len() >= count {
                return asked.iter().map(|asked| kind_of_request(asked)).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("asked only {:#?}", self.server.asked.lock().unwrap());
    }
}

fn kind_of_request(asked: &str) -> String {
    match (asked.contains("watch=true"), asked.split_once("resourceVersion=")) {
        (true, Some((_, version))) => version.to_owned(),
        _ => "list".to_owned(),
    }
}

fn object(name: &str, version: u64) -> Value {
    json!({"metadata": {"namespace": "ns", "name": name, "resourceVersion": version.to_string(), "managedFields": [{}]}})
}

fn list(version: u64, items: &[Value]) -> Step {
    Step::Body(200, json!({"metadata": {"resourceVersion": version.to_string()}, "items": items}))
}

fn gone_away() -> std::io::Error {
    std::io::Error::other("connection reset")
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(version: u64) -> Value {
    let object = json!({"kind": "X", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}});
    event("BOOKMARK", &object)
}

fn gone() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"})
}

fn key(name: &str) -> AccountId {
    AccountId::new("ns", name)
}

#[tokio::test]
async fn lists_in_pages_then_watches_from_the_list() {
    let page = json!({"metadata": {"resourceVersion": "5", "continue": "next"}, "items": [object("a", 1)]});
    let lines =
        vec![event("ADDED", &object("c", 6)), event("MODIFIED", &object("a", 7)), event("DELETED", &object("b", 8))];
    let mut bench = maps(vec![Step::Body(200, page), list(5, &[object("b", 2)]), Step::Hang(lines)]);
    let expected = ["applied a@1", "applied b@2", "synced", "applied a@7", "applied c@6", "deleted b@2"];
    assert_eq!(bench.reports(6).await, expected);
    assert_eq!(bench.asked(3).await, ["list", "list", "5"]);
    let asked = bench.server.asked.lock().unwrap().clone();
    assert_eq!(asked[0], "/api/v1/configmaps?&limit=500", "a consistent read: no resourceVersion");
    assert!(asked[1].contains("continue=next") && asked[2].contains("allowWatchBookmarks=true"), "{asked:?}");
    assert!(bench.cache.synced() && bench.cache.len() == 2 && bench.cache.get(&key("b")).is_none());
    assert!(bench.cache.get(&key("a")).unwrap().metadata.managed_fields.is_none(), "pruned");
}

#[tokio::test]
async fn resumes_at_the_last_bookmark_without_a_list() {
    let bench = maps(vec![
        list(5, &[object("a", 1)]),
        Step::Lines(vec![event("MODIFIED", &object("a", 7)), bookmark(20)]),
        Step::Broken(vec![bookmark(30)]),
        Step::Lines(vec![bookmark(40)]),
    ]);
    assert_eq!(bench.asked(5).await, ["list", "5", "20", "30", "40"]);
}

#[tokio::test]
async fn what_vanished_while_the_watch_was_down_is_reported() {
    let mut bench = maps(vec![
        list(5, &[object("gone", 1), object("kept", 2), object("reset", 5)]),
        Step::Lines(vec![json!({"type": "ERROR", "object": gone()})]),
        list(90, &[object("kept", 2), object("reset", 3), object("new", 80)]),
    ]);
    assert_eq!(bench.reports(4).await, ["applied gone@1", "applied kept@2", "applied reset@5", "synced"]);
    let relisted = ["applied kept@2", "applied new@80", "applied reset@3", "deleted gone@1", "synced"];
    assert_eq!(bench.reports(5).await, relisted, "a list wins over a higher version in the cache");
    assert_eq!(bench.asked(4).await, ["list", "5", "list", "90"]);
}

#[tokio::test]
async fn an_expired_version_at_the_start_of_a_watch_lists_again() {
    let bench = maps(vec![list(5, &[]), Step::Body(410, gone()), list(9, &[])]);
    assert_eq!(bench.asked(4).await, ["list", "5", "list", "9"]);
}

#[tokio::test]
async fn an_expired_continue_token_starts_the_list_anew() {
    let page = json!({"metadata": {"resourceVersion": "5", "continue": "next"}, "items": [object("a", 1)]});
    let mut bench = maps(vec![Step::Body(200, page), Step::Body(410, gone()), list(9, &[object("b", 8)])]);
    assert_eq!(bench.reports(2).await, ["applied b@8", "synced"]);
}

#[tokio::test]
async fn old_news_is_ignored() {
    let lines = vec![event("MODIFIED", &object("a", 7)), event("MODIFIED", &object("b", 8))];
    let mut bench = maps(vec![list(5, &[object("a", 7), object("b", 2)]), Step::Hang(lines)]);
    assert_eq!(bench.reports(4).await, ["applied a@7", "applied b@2", "synced", "applied b@8"]);
}

#[test]
fn a_deletion_older_than_the_object_is_ignored() {
    let cache = Cache::<ConfigMap>::of(vec![Part::default()]);
    let item = |version| serde_json::from_value::<Item<ConfigMap>>(object("a", version)).unwrap();
    assert!(cache.apply(item(9)).is_some());
    assert!(cache.apply(item(8)).is_none() && cache.apply(item(9)).is_none());
    assert!(cache.remove(&item(8)).is_none());
    assert!(cache.remove(&item(10)).is_some() && cache.is_empty());
}

#[tokio::test]
async fn versions_that_fall_mean_a_restored_server_and_a_list() {
    let bench = maps(vec![list(50, &[]), Step::Hang(vec![bookmark(60), bookmark(12)]), list(12, &[])]);
    assert_eq!(bench.asked(4).await, ["list", "50", "list", "12"]);
}

#[tokio::test]
async fn a_line_without_sense_lists_again() {
    let bench = maps(vec![list(5, &[]), Step::Hang(vec![json!({"type": "NEWS", "object": {}})]), list(6, &[])]);
    assert_eq!(bench.asked(4).await, ["list", "5", "list", "6"]);
}

#[tokio::test]
async fn silence_resumes_and_the_second_silence_lists() {
    let script = vec![list(5, &[]), Step::Hang(vec![bookmark(6)]), Step::Hang(vec![]), list(7, &[])];
    let bench = start::<ConfigMap>(script, |client| Watch { timing: FAST, ..Watch::all(client) });
    assert_eq!(bench.asked(5).await, ["list", "5", "6", "list", "7"]);
}

#[tokio::test]
async fn one_object_that_cannot_be_read_stops_no_other() {
    let bad = |version: u64| json!({"metadata": {"namespace": "ns", "name": "bad", "resourceVersion": version.to_string()}, "data": 5});
    let lines = vec![
        event("ADDED", &object("b", 6)),
        event("MODIFIED", &object("bad", 7)),
        event("MODIFIED", &bad(8)),
        bookmark(9),
        event("DELETED", &bad(10)),
        event("ADDED", &object("c", 11)),
    ];
    let mut bench = maps(vec![list(5, &[bad(1), object("a", 2)]), Step::Lines(lines)]);
    assert_eq!(bench.reports(2).await, ["applied a@2", "synced"]);
    assert_eq!(bench.reports.recv().await.unwrap(), "applied b@6");
    assert_eq!(bench.reports.recv().await.unwrap(), "applied bad@7");
    assert_eq!(bench.reports.recv().await.unwrap(), "deleted bad@7");
    assert_eq!(bench.reports.recv().await.unwrap(), "applied c@11");
    assert!(bench.cache.unreadable().is_empty(), "gone for good");
    assert_eq!(bench.asked(3).await, ["list", "5", "11"]);
}

#[test]
fn the_cache_names_what_it_cannot_read() {
    let cache = Cache::<ConfigMap>::of(vec![Part::default()]);
    let item = |value| serde_json::from_value::<Item<ConfigMap>>(value).unwrap();
    let mut bad = object("a", 9);
    bad["data"] = json!(5);
    cache.apply(item(object("a", 8)));
    assert!(matches!(cache.apply(item(bad.clone())), Some(Change::Deleted(_))));
    assert_eq!((cache.get(&key("a")).is_none(), cache.unreadable().contains(&key("a"))), (true, true));
    assert!(matches!(cache.apply(item(object("a", 10))), Some(Change::Applied(_))));
    assert!(cache.unreadable().is_empty());
    cache.replace(0, vec![item(bad)], "1");
    assert!(cache.is_empty() && cache.unreadable().contains(&key("a")));
}

#[tokio::test]
async fn an_outage_is_known_retried_slowly_and_ends() {
    let mut script = vec![list(5, &[object("a", 1)]), Step::Lines(vec![bookmark(6)])];
    script.extend((0..12).map(|_| Step::Refused));
    script.push(Step::Body(
        503,
        json!({"kind": "Status", "status": "Failure", "code": 503, "reason": "ServiceUnavailable"}),
    ));
    script.push(Step::Hang(vec![event("MODIFIED", &object("a", 9))]));
    let started = Instant::now();
    let mut bench = maps(script);
    bench.reports(2).await;
    bench.asked(4).await;
    assert!(bench.cache.broken_for().is_some() && bench.cache.silence().is_some());
    assert_eq!(bench.reports(1).await, ["applied a@9"], "resumed, not listed");
    assert!(bench.cache.broken_for().is_none());
    assert_eq!(bench.asked(16).await[15], "6");
    // Half of 4 + 8 + 16 + 32 and nine times 40 ms at least.
    assert!(started.elapsed() >= Duration::from_millis(210), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_not_asked_in_a_tight_loop() {
    let mut script = vec![list(5, &[])];
    script.extend((0..100).map(|_| Step::Lines(vec![])));
    let bench = maps(script);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let asked = bench.server.asked.lock().unwrap().len();
    assert!((3..30).contains(&asked), "{asked} requests in 300 ms");
}

#[tokio::test]
async fn nothing_is_synced_before_the_first_list() {
    let mut script: Vec<Step> = (0..15).map(|_| Step::Refused).collect();
    script.push(list(5, &[]));
    let mut bench = maps(script);
    bench.asked(3).await;
    assert!(bench.cache.silence().is_none() && !bench.cache.synced() && bench.cache.broken_for().is_some());
    assert_eq!(bench.reports(1).await, ["synced"]);
    assert!(bench.cache.synced());
}

#[tokio::test]
async fn secrets_are_watched_by_metadata_and_kept_small() {
    let mut secret = object("s", 1);
    secret["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": "canary", "mine": "kept"});
    secret["metadata"]["generation"] = json!(3);
    let mut bench = start(vec![list(5, &[secret])], |client| Seen::new(&client, &Scope::default()).1.secrets);
    assert_eq!(bench.reports(2).await, ["applied s@1", "synced"]);
    bench.asked(2).await;
    for asked in bench.server.asked.lock().unwrap().iter() {
        assert!(
            asked.ends_with(" metadata") && asked.contains("labelSelector=virtualaccounts.dev%2Faccount"),
            "{asked}"
        );
    }
    let kept = serde_json::to_value(&bench.cache.get(&key("s")).unwrap().metadata).unwrap();
    assert_eq!(kept, json!({"namespace": "ns", "name": "s", "resourceVersion": "1", "annotations": {"mine": "kept"}}));
}

#[tokio::test]
async fn where_nothing_may_be_seen_there_may_be_tokens() {
    let service = tower::service_fn(|_: Http<Body>| std::future::ready(Err::<Response<Answer>, _>(gone_away())));
    let scope = Scope::of(["one".to_owned(), "two".to_owned()]);
    let (seen, _watches) = Seen::new(&Client::new(service, "default"), &scope);
    for part in [0, 1] {
        seen.accounts.heard(part, "5");
        seen.secrets.heard(part, "5");
    }
    let keeps = || (seen.any_entry(), seen.labelled_secret_with_empty_ledger());
    assert!(seen.synced());
    assert_eq!(keeps(), (false, false));
    seen.secrets.broke(1, true);
    assert_eq!((keeps(), seen.synced(), seen.denied().len()), ((true, true), true, 1), "no key is given up, none made");
    seen.secrets.connected(1);
    seen.accounts.broke(1, true);
    assert_eq!((keeps(), seen.denied().len()), ((true, true), 1));
    seen.accounts.connected(1);
    assert_eq!((keeps(), seen.denied().len()), ((false, false), 0));
}

#[tokio::test]
async fn a_list_counts_as_seen_only_once_all_of_it_was_reported() {
    let server = Arc::new(Server { script: Mutex::new([list(5, &[object("a", 1)])].into()), ..Server::default() });
    let service = tower::service_fn(move |request| std::future::ready(server.answer(&request)));
    let watch = Watch::<ConfigMap>::all(Client::new(service, "default"));
    let (cache, cancel) = (watch.cache(), CancellationToken::new());
    let (sender, mut reports) = mpsc::unbounded_channel();
    let seen = Arc::clone(&cache);
    tokio::spawn(watch.run(move |_| sender.send((seen.len(), seen.synced())).unwrap(), cancel.clone()));
    for _ in ["applied", "synced"] {
        assert_eq!(reports.recv().await, Some((1, false)));
    }
    for _ in 0..1000 {
        if cache.synced() {
            return cancel.cancel();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not synced after 10 s");
}

#[tokio::test]
async fn cancelling_ends_the_task() {
    let bench = maps(vec![list(5, &[])]);
    bench.asked(2).await;
    bench.cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), bench.task).await.unwrap().unwrap();
}

#[test]
fn versions_are_compared_as_numbers() {
    assert!(version("10") > version("9"));
    assert_eq!((version(""), version("x")), (0, 0));
}

#[test]
fn pauses_grow_to_the_cap_with_jitter() {
    for (failures, full) in [(1, 250), (2, 500), (3, 1000), (5, 4000), (6, 5000), (u32::MAX, 5000)] {
        for _ in 0..50 {
            let pause = TIMING.pause(failures).as_millis();
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause}");
        }
    }
}

fn in_namespace(namespace: &str, name: &str, version: u64) -> Item<ConfigMap> {
    let mut value = object(name, version);
    value["metadata"]["namespace"] = json!(namespace);
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_list_of_one_namespace_says_nothing_about_another() {
    let cache = Cache::<ConfigMap>::of(Scope::of(["one".to_owned(), "two".to_owned()]).parts());
    let told = |changes: Vec<Change<ConfigMap>>| {
        let text = |change: Change<ConfigMap>| match change {
            Change::Applied(object) => format!("applied {}", object.metadata.namespace.as_deref().unwrap()),
            Change::Deleted(object) => format!("deleted {}", object.metadata.namespace.as_deref().unwrap()),
            Change::Synced(part) => format!("synced{part}"),
        };
        changes.into_iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(cache.trouble("maps").unwrap(), "maps in namespace one are not listed yet");
    let first = cache.replace(0, vec![in_namespace("one", "a", 1)], "5");
    assert_eq!(told(first), ["applied one", "synced in namespace one"]);
    cache.heard(0, "5");
    assert!(!cache.synced() && cache.silence().is_none(), "the other is not listed");
    assert_eq!(cache.trouble("maps").unwrap(), "maps in namespace two are not listed yet");
    let second = cache.replace(1, vec![in_namespace("two", "a", 2)], "9");
    assert_eq!(told(second), ["applied two", "synced in namespace two"]);
    cache.heard(1, "9");
    assert!(cache.synced() && cache.trouble("maps").is_none());
    assert_eq!((cache.shown("one"), cache.shown("two"), cache.shown("three")), (5, 9, 0));
    let again = cache.replace(0, vec![], "3");
    assert_eq!(told(again), ["deleted one", "synced in namespace one"]);
    assert_eq!((cache.len(), cache.shown("one"), cache.shown("two")), (1, 3, 9));
}

#[test]
fn freshness_is_that_of_the_worst_stream() {
    let cache = Cache::<ConfigMap>::of(Scope::of(["one".to_owned(), "two".to_owned()]).parts());
    cache.heard(0, "1");
    std::thread::sleep(Duration::from_millis(30));
    cache.heard(1, "1");
    assert!(cache.silence().unwrap() >= Duration::from_millis(30), "that of the first");
    cache.broke(1, false);
    assert!(cache.broken_for().is_some());
    cache.connected(0);
    assert!(cache.broken_for().is_some(), "the second is still broken");
    cache.connected(1);
    assert!(cache.broken_for().is_none());
}

#[tokio::test]
async fn each_namespace_has_its_own_stream_and_a_refused_one_names_its_cure() {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let sink = Arc::clone(&asked);
    let service = tower::service_fn(move |request: Http<Body>| {
        let (path, watching) = (request.uri().path().to_owned(), request.uri().to_string().contains("watch=true"));
        sink.lock().unwrap().push(path.clone());
        let refusal = json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403});
        let page = json!({"metadata": {"resourceVersion": "5"}, "items": []});
        let (status, body) = match (path.contains("/two/"), watching) {
            (true, _) => (403, Answer::from(refusal.to_string())),
            (false, true) => (200, Answer::from_stream(stream::pending::<Result<String, std::io::Error>>())),
            (false, false) => (200, Answer::from(page.to_string())),
        };
        std::future::ready(Ok::<_, std::io::Error>(Response::builder().status(status).body(body).unwrap()))
    });
    let scope = Scope::of(["one".to_owned(), "two".to_owned()]);
    let watch = Watch::<ConfigMap>::within(Client::new(service, "default"), &scope);
    let (cache, cancel) = (watch.cache(), CancellationToken::new());
    let task = tokio::spawn(watch.run(|_| (), cancel.clone()));
    let trouble = "the operator may not list maps in namespace two; apply its RBAC there";
    for _ in 0..1000 {
        if cache.shown("one") == 5 && cache.trouble("maps").as_deref() == Some(trouble) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((cache.shown("one"), cache.trouble("maps").as_deref(), cache.synced()), (5, Some(trouble), false));
    let mut paths = asked.lock().unwrap().clone();
    paths.sort();
    paths.dedup();
    assert_eq!(paths, ["one", "two"].map(|namespace| format!("/api/v1/namespaces/{namespace}/configmaps")));
    cancel.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn whoever_is_woken_by_a_deletion_finds_it_in_what_is_shown() {
    let list = json!({"metadata": {"resourceVersion": "7"}, "items": [
        {"metadata": {"name": "a", "namespace": "ns", "resourceVersion": "5"}}]});
    let gone = json!({"type": "DELETED", "object": {"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "ns", "resourceVersion": "9"}}});
    let (sender, mut woken) = mpsc::unbounded_channel();
    let _bench = start::<ConfigMap>(vec![Step::Body(200, list), Step::Hang(vec![gone])], |client| {
        let watch = Watch::all(client);
        let cache = watch.cache();
        watch.then(move || sender.send((cache.shown("ns"), cache.len())).unwrap())
    });
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(tokio::time::timeout(Duration::from_secs(10), woken.recv()).await.unwrap().unwrap());
    }
    assert_eq!(seen, [(7, 1), (9, 0)], "the end of the list, then the deletion");
}
