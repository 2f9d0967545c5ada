//! How the operator talks to the API server: no hidden retries, a limit on every wait, the server's clock taken from
//! every answer, every write counted.
//!
//! It knows no kinds and decides nothing. The limits are part of the client, so no caller can forget them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{DATE, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, Uri};
use kube::client::Body;
use kube::config::KubeconfigError;
use kube::{Client, Config};

use crate::clock::ServerClock;
use crate::leader::Leadership;

/// Called with the verb (`create`, `update`, `patch`, `delete`) and the resource (`secrets`, `virtualaccounts/status`)
/// of every write before it is sent.
pub type OnWrite = Arc<dyn Fn(&'static str, &str) + Send + Sync>;

const CONNECT: Duration = Duration::from_secs(5);
/// A request from its first byte to the last of its answer; of a watch only until its answer begins.
const PLAIN: Duration = Duration::from_secs(10);
/// A page of a list is up to 500 objects: more than 10 s on a loaded server must not make start-up impossible.
const PAGE: Duration = Duration::from_secs(30);
/// No byte for this long on a connection in use: the floor under the limits above, and under the watch's own (which is
/// shorter, so that the watch notices first).
const READ: Duration = Duration::from_secs(160);
const AGENT: HeaderValue = HeaderValue::from_static(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));

/// A request that took longer than allowed. Whether the server carried it out is not known.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
pub struct TimedOut(Duration);

/// Connects as `KUBECONFIG` or the pod's service account says.
pub async fn connect(clock: ServerClock, on_write: OnWrite) -> Result<Client, kube::Error> {
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    Ok(observed(Client::try_from(tuned(config))?, clock, on_write))
}

fn tuned(mut config: Config) -> Config {
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(PLAIN);
    config.read_timeout = Some(READ);
    // Otherwise the time that a pooled connection was idle counts against the next answer.
    config.reset_reader_on_write = true;
    // Writes are conditional and retried by planning again; a blind repeat could only hide an answer.
    config.default_retry = false;
    config.headers.push((USER_AGENT, AGENT));
    config
}

/// Wraps a client: limits every request, feeds the clock, counts writes. Requests other than watches are read to their
/// end before they are handed on.
pub fn observed(inner: Client, clock: ServerClock, on_write: OnWrite) -> Client {
    let namespace = inner.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (inner, clock) = (inner.clone(), clock.clone());
        if let Some((verb, resource)) = write(request.method(), request.uri().path()) {
            on_write(verb, &resource);
        }
        send(inner, clock, request)
    });
    Client::new(service, namespace)
}

/// Wraps a client: refuses every write while this replica does not lead. Its reads and watches go on.
pub fn fenced(inner: Client, leadership: Leadership) -> Client {
    let namespace = inner.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let inner = inner.clone();
        let held = if write(request.method(), request.uri().path()).is_some() { leadership.check() } else { Ok(()) };
        async move {
            held.map_err(|error| kube::Error::Service(Box::new(error)))?;
            inner.send(request).await
        }
    });
    Client::new(service, namespace)
}

async fn send(inner: Client, clock: ServerClock, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
    let (limit, whole) = limit(request.uri());
    let answer = async {
        let response = inner.send(request).await?;
        if let Some(date) = response.headers().get(DATE).and_then(|date| date.to_str().ok()) {
            clock.hear(date);
        }
        if !whole {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        Ok(Response::from_parts(parts, Body::from(body.collect_bytes().await?)))
    };
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(kube::Error::Service(Box::new(TimedOut(limit)))))
}

/// The limit of a request, and whether it covers the whole answer or only its beginning.
fn limit(uri: &Uri) -> (Duration, bool) {
    let has = |name: &str| uri.query().unwrap_or_default().split('&').any(|pair| pair.starts_with(name));
    match (has("watch=true"), has("limit=")) {
        (true, _) => (PLAIN, false),
        (_, true) => (PAGE, true),
        _ => (PLAIN, true),
    }
}

/// The verb and the resource of a write; `None` for a read. No names: the result labels a metric.
fn write<'a>(method: &Method, path: &'a str) -> Option<(&'static str, Cow<'a, str>)> {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => return None,
    };
    Some((verb, resource(path)))
}

fn resource(path: &str) -> Cow<'_, str> {
    let mut parts = path.trim_matches('/').split('/');
    let skip = match parts.next() {
        Some("api") => 1,
        Some("apis") => 2,
        _ => return "other".into(),
    };
    let parts: Vec<&str> = parts.skip(skip).collect();
    let parts = match parts.as_slice() {
        // A namespace's own subresources look like resources in it.
        ["namespaces", _, "status" | "finalize"] => parts.as_slice(),
        ["namespaces", _, inside @ ..] if !inside.is_empty() => inside,
        all => all,
    };
    match parts {
        [resource] | [resource, _] => (*resource).into(),
        [resource, _, subresource, ..] => format!("{resource}/{subresource}").into(),
        [] => "other".into(),
    }
}

/// What went wrong, fit for a log or a status: never a body, which may hold a Secret.
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.reason.is_empty() => format!("the API server answered {}", status.code),
        kube::Error::Api(status) => format!("the API server answered {} {}", status.code, status.reason),
        kube::Error::HyperError(error) => chain(error),
        kube::Error::Service(error) => chain(error.as_ref()),
        kube::Error::ReadEvents(_) => "the connection broke".to_owned(),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => "the API server's answer cannot be read".to_owned(),
        // Its text may hold what a credential plugin printed.
        kube::Error::Auth(_) => "no credentials for the API server".to_owned(),
        kube::Error::InferConfig(error) => infer(error),
        kube::Error::RustlsTls(error) => chain(error),
        _ => "the request failed".to_owned(),
    }
}

fn infer(error: &(dyn std::error::Error + 'static)) -> String {
    let mut sources = std::iter::successors(error.source(), |source| source.source());
    // The parser's message quotes the file, which may hold credentials.
    if sources.any(|source| matches!(source.downcast_ref(), Some(KubeconfigError::Parse(_)))) {
        return "the kubeconfig is not valid".to_owned();
    }
    chain(error)
}

/// An error with its sources, each once: some messages repeat their source.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        source = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::Secret;
    use kube::Api;
    use kube::api::{ListParams, PostParams, WatchParams};

    use super::*;
    use crate::api::Seconds;

    fn answering(status: u16, body: &'static str) -> (Client, ServerClock, Arc<Mutex<Vec<String>>>) {
        let inner = tower::service_fn(move |_: Request<Body>| async move {
            Response::builder()
                .status(status)
                .header(DATE, "Sun, 06 Nov 1994 08:49:37 GMT")
                .body(axum::body::Body::from(body))
        });
        let (clock, writes) = (ServerClock::new(), Arc::<Mutex<Vec<String>>>::default());
        let seen = Arc::clone(&writes);
        let on_write: OnWrite = Arc::new(move |verb, resource| seen.lock().unwrap().push(format!("{verb} {resource}")));
        (observed(Client::new(inner, "default"), clock.clone(), on_write), clock, writes)
    }

    #[tokio::test]
    async fn every_answer_sets_the_clock_and_every_write_is_counted() {
        let (client, clock, writes) = answering(200, r#"{"metadata":{"name":"s"}}"#);
        let secrets: Api<Secret> = Api::namespaced(client, "default");
        secrets.get("s").await.unwrap();
        assert!(!clock.trusted(Seconds::hours(1)));
        assert!(writes.lock().unwrap().is_empty(), "a read is no write");
        secrets.create(&PostParams::default(), &Secret::default()).await.unwrap();
        assert_eq!(*writes.lock().unwrap(), ["create secrets"]);
    }

    #[tokio::test]
    async fn a_replica_that_does_not_lead_reads_and_does_not_write() {
        let (client, _, writes) = answering(200, r#"{"metadata":{"name":"s"}}"#);
        let leadership = Leadership::always();
        let secrets: Api<Secret> = Api::namespaced(fenced(client, leadership.clone()), "default");
        secrets.create(&PostParams::default(), &Secret::default()).await.unwrap();
        leadership.end();
        let error = secrets.create(&PostParams::default(), &Secret::default()).await.unwrap_err();
        assert_eq!(describe(&error), "this replica does not hold the Lease");
        secrets.get("s").await.unwrap();
        assert_eq!(*writes.lock().unwrap(), ["create secrets"], "the second was not sent");
    }

    #[tokio::test]
    async fn a_refusal_and_a_watch_start_set_the_clock_too() {
        let (client, clock, _) =
            answering(404, r#"{"kind":"Status","status":"Failure","code":404,"reason":"NotFound"}"#);
        let error = Api::<Secret>::namespaced(client, "default").get("s").await.unwrap_err();
        assert_eq!(describe(&error), "the API server answered 404 NotFound");
        assert!(!clock.trusted(Seconds::hours(1)));

        let (client, clock, _) = answering(200, "");
        let secrets: Api<Secret> = Api::namespaced(client, "default");
        drop(secrets.watch(&WatchParams::default(), "1").await.unwrap());
        assert!(!clock.trusted(Seconds::hours(1)));
        assert!(secrets.list(&ListParams::default()).await.is_err());
    }

    #[test]
    fn resources_are_named_without_objects() {
        let cases = [
            ("/api/v1/namespaces/ns/secrets/name", "secrets"),
            ("/api/v1/namespaces/ns/secrets", "secrets"),
            ("/api/v1/namespaces/ns", "namespaces"),
            ("/api/v1/namespaces/ns/finalize", "namespaces/finalize"),
            ("/apis/virtualaccounts.dev/v1alpha1/namespaces/ns/virtualaccounts/a/status", "virtualaccounts/status"),
            ("/apis/events.k8s.io/v1/namespaces/ns/events", "events"),
            ("/apis/authentication.k8s.io/v1/tokenreviews", "tokenreviews"),
            ("/apis", "other"),
            ("/version", "other"),
        ];
        for (path, expected) in cases {
            assert_eq!(resource(path), expected, "{path}");
        }
        assert_eq!(write(&Method::PUT, "/api/v1/namespaces/n/secrets/s"), Some(("update", "secrets".into())));
        assert_eq!(write(&Method::GET, "/api/v1/namespaces/n/secrets/s"), None);
    }

    #[test]
    fn watches_are_limited_until_they_begin_and_all_else_to_its_end() {
        let of = |uri: &'static str| limit(&Uri::from_static(uri));
        assert_eq!(of("/api/v1/secrets?&watch=true&timeoutSeconds=290&resourceVersion=5"), (PLAIN, false));
        assert_eq!(of("/api/v1/secrets?&limit=500"), (PAGE, true));
        assert_eq!(of("/api/v1/secrets"), (PLAIN, true));
    }

    #[test]
    fn hidden_retries_are_off_and_waits_are_limited() {
        let config = tuned(Config::new(Uri::from_static("https://127.0.0.1")));
        assert!(!config.default_retry && config.reset_reader_on_write);
        assert_eq!((config.connect_timeout, config.read_timeout), (Some(CONNECT), Some(READ)));
        assert_eq!(config.headers, [(USER_AGENT, AGENT)]);
    }

    #[test]
    fn descriptions_hold_no_content() {
        let parse = serde_json::from_str::<u8>("\"canary\"").unwrap_err();
        assert!(!describe(&kube::Error::SerdeError(parse)).contains("canary"));
        let late = kube::Error::Service(Box::new(TimedOut(PLAIN)));
        assert_eq!(describe(&late), "no answer within 10 s");
    }
}
