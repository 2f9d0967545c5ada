//! A server that checks every request before it answers as it was told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::fake::Certificate;

/// What is wrong with a request, by the provider's documentation.
pub(crate) type Judge = fn(&Request) -> Result<(), String>;
/// How the provider answers a request that is right.
pub(crate) type Answer = fn(&Request) -> ResponseTemplate;

/// A provider's server. What it was sent and must not have been is the test's failure.
pub(crate) struct Stage {
    server: MockServer,
    orders: Arc<Orders>,
}

struct Orders {
    judge: Judge,
    usual: Answer,
    next: Mutex<VecDeque<ResponseTemplate>>,
    always: Mutex<Option<ResponseTemplate>>,
    complaints: Mutex<Vec<String>>,
}

struct Answering(Arc<Orders>);

impl Stage {
    pub(crate) async fn new(judge: Judge, usual: Answer) -> Self {
        let server = MockServer::start().await;
        let orders = Arc::new(Orders {
            judge,
            usual,
            next: Mutex::default(),
            always: Mutex::default(),
            complaints: Mutex::default(),
        });
        Mock::given(any()).respond_with(Answering(orders.clone())).mount(&server).await;
        Self { server, orders }
    }

    pub(crate) fn url(&self) -> String {
        self.server.uri()
    }

    /// The answer to the next request, and then the one to the next but one.
    pub(crate) fn then(&self, answer: ResponseTemplate) -> &Self {
        lock(&self.orders.next).push_back(answer);
        self
    }

    /// The answer to all requests from now on.
    pub(crate) fn always(&self, answer: ResponseTemplate) -> &Self {
        *lock(&self.orders.always) = Some(answer);
        self
    }

    /// All requests so far; fails if one was not as documented.
    pub(crate) async fn requests(&self) -> Vec<Request> {
        let complaints = lock(&self.orders.complaints).clone();
        assert!(complaints.is_empty(), "{complaints:#?}");
        self.server.received_requests().await.unwrap_or_default()
    }

    /// The bodies of the requests that had one in JSON.
    pub(crate) async fn bodies(&self) -> Vec<Value> {
        let requests = self.requests().await;
        requests.iter().filter_map(|request| serde_json::from_slice(&request.body).ok()).collect()
    }
}

impl Respond for Answering {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let orders = &self.0;
        if let Err(complaint) = (orders.judge)(request) {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            lock(&orders.complaints).push(format!("{complaint}: {} {} {body}", request.method, request.url.path()));
        }
        let ordered = lock(&orders.next).pop_front().or_else(|| lock(&orders.always).clone());
        ordered.unwrap_or_else(|| (orders.usual)(request))
    }
}

/// A server on loopback with a certificate that nobody knows.
pub(crate) struct Stranger {
    pub(crate) url: String,
    serving: JoinHandle<()>,
}

impl Stranger {
    pub(crate) async fn start() -> Self {
        let acceptor = tokio::task::spawn_blocking(|| Certificate::shared().tls().acceptor).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // The client turns away when it sees the certificate.
                let _ = acceptor.accept(stream).await;
            }
        });
        Self { url, serving }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
