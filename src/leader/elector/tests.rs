//! Candidates against a server that keeps one Lease, with its versions and refusals.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body as Answer;
use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::lock::lock;

const LEASE: Duration = Duration::from_secs(2);
/// Far more than anything here takes on any machine.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Default)]
struct Server {
    lease: Mutex<(u64, Option<Value>)>,
    /// The holders that were written, in order.
    holders: Mutex<Vec<String>>,
    broken: AtomicBool,
    attempts: Mutex<usize>,
}

impl Server {
    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let uri = request.uri().clone();
        let query = uri.query().unwrap_or_default().to_owned();
        match *request.method() {
            Method::GET if query.contains("watch=true") => return self.watch(&query).await,
            Method::GET if uri.path().ends_with("/leases") => {
                let (version, lease) = lock(&self.lease).clone();
                let items: Vec<Value> = lease.into_iter().collect();
                return ok(&json!({"metadata": {"resourceVersion": version.to_string()}, "items": items}));
            }
            Method::GET => return lock(&self.lease).1.as_ref().map_or_else(|| refusal(404), ok),
            _ => {}
        }
        *lock(&self.attempts) += 1;
        if self.broken.load(Ordering::SeqCst) {
            return refusal(500);
        }
        let mut lease: Value = serde_json::from_slice(&request.into_body().collect_bytes().await.unwrap()).unwrap();
        let mut stored = lock(&self.lease);
        let known = stored.1.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
        if known != lease["metadata"].get("resourceVersion").cloned() {
            return refusal(409);
        }
        stored.0 += 1;
        lease["metadata"]["resourceVersion"] = json!(stored.0.to_string());
        lease["metadata"]["namespace"] = json!("ns");
        lock(&self.holders).push(lease["spec"]["holderIdentity"].as_str().unwrap().to_owned());
        stored.1 = Some(lease.clone());
        ok(&lease)
    }

    /// One change, when there is one; then the stream ends, and the watch comes again.
    async fn watch(&self, query: &str) -> Response<Answer> {
        let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).unwrap();
        loop {
            let (version, lease) = lock(&self.lease).clone();
            if let Some(lease) = lease.filter(|_| version > from.parse().unwrap()) {
                let line = json!({"type": "MODIFIED", "object": lease});
                return Response::new(Answer::from(format!("{line}\n")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn client(self: &Arc<Self>) -> Client {
        let server = Arc::clone(self);
        let service = tower::service_fn(move |request| {
            let server = Arc::clone(&server);
            async move { Ok::<_, std::io::Error>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }
}

fn ok(body: &Value) -> Response<Answer> {
    Response::new(Answer::from(body.to_string()))
}

fn refusal(code: u16) -> Response<Answer> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "", "message": "",
        "metadata": {}, "code": code});
    Response::builder().status(code).body(Answer::from(status.to_string())).unwrap()
}

struct Replica {
    leadership: Leadership,
    fit: Arc<AtomicBool>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn replica(server: &Arc<Server>, pod: &str) -> Replica {
    let settings = Settings { namespace: "ns".into(), pod: Some(pod.into()), host: "host".into(), duration: LEASE };
    let (elector, leadership) = Elector::new(server.client(), &settings);
    let (fit, stop) = (Arc::new(AtomicBool::new(true)), CancellationToken::new());
    let able = Arc::clone(&fit);
    let task = tokio::spawn(elector.run(Arc::new(move || able.load(Ordering::SeqCst)), stop.clone()));
    Replica { leadership, fit, stop, task }
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let begun = Moment::now();
    while !is() {
        assert!(Moment::now().since(begun) < PATIENCE, "not {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_leader_that_cannot_work_lets_one_lead_that_can() {
    let server = Arc::new(Server::default());
    let first = replica(&server, "first");
    until("the first leads", || first.leadership.holds()).await;
    let second = replica(&server, "second");
    first.fit.store(false, Ordering::SeqCst);
    let unfit = Moment::now();
    until("the second leads", || second.leadership.holds()).await;
    assert!(!first.leadership.holds());
    assert!(Moment::now().since(unfit) >= LEASE * 2, "not for a moment's trouble");
    second.stop.cancel();
    second.task.await.unwrap();
    let holders = lock(&server.holders).clone();
    assert!(holders.iter().filter(|holder| holder.is_empty()).count() >= 2, "each gave it up: {holders:?}");
    first.stop.cancel();
    first.task.await.unwrap();
}

#[tokio::test]
async fn what_nobody_else_wants_it_takes_back() {
    let server = Arc::new(Server::default());
    let alone = replica(&server, "alone");
    until("it leads", || alone.leadership.holds()).await;
    alone.fit.store(false, Ordering::SeqCst);
    until("it makes way", || lock(&server.holders).last().is_some_and(String::is_empty)).await;
    let given_up = Moment::now();
    assert!(!alone.leadership.holds(), "its term ended before");
    until("it leads again", || alone.leadership.holds()).await;
    // The moment of the write was seen up to a poll late.
    assert!(Moment::now().since(given_up) + Duration::from_millis(500) >= LEASE, "others had the time to take it");
    alone.stop.cancel();
    alone.task.await.unwrap();
}

#[tokio::test]
async fn one_that_never_led_does_not_stand_unfit() {
    let server = Arc::new(Server::default());
    let replica = replica(&server, "ill");
    replica.fit.store(false, Ordering::SeqCst);
    tokio::time::sleep(LEASE * 2).await;
    assert_eq!((replica.leadership.holds(), *lock(&server.attempts)), (false, 0));
    replica.fit.store(true, Ordering::SeqCst);
    until("it leads", || replica.leadership.holds()).await;
    replica.stop.cancel();
    replica.task.await.unwrap();
}

#[tokio::test]
async fn attempts_that_fail_grow_rare() {
    let server = Arc::new(Server::default());
    server.broken.store(true, Ordering::SeqCst);
    let replica = replica(&server, "patient");
    tokio::time::sleep(LEASE * 2).await;
    let attempts = *lock(&server.attempts);
    // 50, 100 and 200 ms or more, then 250 ms or more each: without that it were 40.
    assert!((1..=19).contains(&attempts), "{attempts} in {LEASE:?} * 2");
    server.broken.store(false, Ordering::SeqCst);
    until("it leads", || replica.leadership.holds()).await;
    replica.stop.cancel();
    replica.task.await.unwrap();
}
