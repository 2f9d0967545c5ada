//! A gate before a server that speaks plain http: the first request whose URL has a given text waits until the gate is
//! opened, as a writer that freezes would. It ends with the test's runtime.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::header;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const PATIENCE: Duration = Duration::from_secs(10);

/// The gate.
pub(crate) struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: String,
    client: reqwest::Client,
    /// What the next request to wait has in its URL.
    awaited: Mutex<Option<String>>,
    arrived: Semaphore,
    opened: Semaphore,
}

impl Gate {
    /// Before a server (`http://127.0.0.1:1234`); everything passes until somebody waits.
    pub(crate) async fn before(server: String) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        let (arrived, opened) = (Semaphore::new(0), Semaphore::new(0));
        let shared = Arc::new(Shared { server, client, awaited: Mutex::default(), arrived, opened });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let app = Router::new().fallback(handle).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, shared }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until a request with this text in its URL waits.
    pub(crate) async fn reached(&self, text: &str) {
        *self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
        let arrived = tokio::time::timeout(PATIENCE, self.shared.arrived.acquire()).await;
        arrived.unwrap_or_else(|_| panic!("no request with {text} came")).expect("it is not closed").forget();
    }

    /// Lets it go on.
    pub(crate) fn open(&self) {
        self.shared.opened.add_permits(1);
    }
}

impl Shared {
    fn is_awaited(&self, url: &str) -> bool {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.take_if(|text| url.contains(text.as_str())).is_some()
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    if shared.is_awaited(&path) {
        shared.arrived.add_permits(1);
        shared.opened.acquire().await.expect("it is not closed").forget();
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    let body = to_bytes(body, 1 << 20).await.expect("requests of tests are small");
    let sent = shared.client.request(parts.method, format!("{}{path}", shared.server)).headers(parts.headers);
    let answer = sent.body(body).send().await.expect("the server answers");
    let mut response = Response::builder().status(answer.status());
    if let Some(kind) = answer.headers().get(header::CONTENT_TYPE) {
        response = response.header(header::CONTENT_TYPE, kind);
    }
    response.body(Body::from(answer.bytes().await.unwrap_or_default())).expect("an answer")
}
