//! A layer of faults before any server: it passes requests on, or does what it was told to do instead. It ends with the
//! test's runtime.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use http::{HeaderMap, Method, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

const LIMIT: usize = 1 << 20;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is passed on.
    Pass,
    /// Nothing ever comes back.
    Hang,
    /// It is held up until [`Faults::release`], then passed on.
    Hold,
    /// The connection breaks before the server gets it.
    Cut,
    /// The server carries it out, then the connection breaks.
    LoseAnswer,
    /// The server carries it out, and nothing ever comes back.
    HangAnswer,
    /// It is answered with this status, with a `Retry-After` of so many seconds.
    Answer(u16, Option<u32>),
}

/// Whether a request changes something.
pub(crate) type IsWrite = fn(&Method, &HeaderMap) -> bool;
/// The body of an error with this status.
pub(crate) type Errors = fn(u16) -> &'static str;

/// The layer.
pub(crate) struct Faults {
    address: String,
    shared: Arc<Shared>,
}

/// What a server's certificate is for those who call it, and for those who answer in its place.
pub(crate) struct Tls {
    pub(crate) trusted: reqwest::Certificate,
    pub(crate) acceptor: TlsAcceptor,
}

struct Shared {
    server: String,
    is_write: IsWrite,
    errors: Errors,
    client: reqwest::Client,
    plan: Mutex<Plan>,
    requests: AtomicUsize,
    /// How many requests are held up, and how many may go on.
    held: Semaphore,
    released: Semaphore,
}

struct Plan {
    /// Whether only writes are meant; the others pass.
    writes: bool,
    /// What happens to the next ones that are meant, and then to all others.
    next: VecDeque<Fault>,
    then: Fault,
}

impl Faults {
    /// Before a server (`http://127.0.0.1:1234`); everything passes.
    pub(crate) async fn before(server: String, is_write: IsWrite, errors: Errors) -> Self {
        Self::with(server, is_write, errors, None).await
    }

    /// Before a server (`https://127.0.0.1:1234`), with its certificate.
    pub(crate) async fn before_tls(server: String, is_write: IsWrite, errors: Errors, tls: Tls) -> Self {
        Self::with(server, is_write, errors, Some(tls)).await
    }

    async fn with(server: String, is_write: IsWrite, errors: Errors, tls: Option<Tls>) -> Self {
        let mut client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        if let Some(tls) = &tls {
            client = client.tls_certs_only([tls.trusted.clone()]);
        }
        let plan = Mutex::new(Plan { writes: false, next: VecDeque::new(), then: Fault::Pass });
        let client = client.build().expect("a plain client");
        let (requests, held, released) = (AtomicUsize::new(0), Semaphore::new(0), Semaphore::new(0));
        let shared = Arc::new(Shared { server, is_write, errors, client, plan, requests, held, released });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = format!("{scheme}://{}", listener.local_addr().expect("it is bound"));
        let app = Router::new().fallback(handle).with_state(Arc::clone(&shared));
        let service = app.into_make_service_with_connect_info::<Wire>();
        let listener = Cuttable { listener, tls: tls.map(|tls| tls.acceptor) };
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { address, shared }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// From now on.
    pub(crate) fn all(&self, fault: Fault) {
        *self.plan() = Plan { writes: false, next: VecDeque::new(), then: fault };
    }

    /// Once, to the next request that changes something.
    pub(crate) fn next_write(&self, fault: Fault) {
        self.nth_write(0, fault);
    }

    /// Once, after so many requests that change something.
    pub(crate) fn nth_write(&self, after: usize, fault: Fault) {
        let mut next = VecDeque::from(vec![Fault::Pass; after]);
        next.push_back(fault);
        *self.plan() = Plan { writes: true, next, then: Fault::Pass };
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Waits until a request is held up.
    pub(crate) async fn held(&self) {
        self.shared.held.acquire().await.expect("it is never closed").forget();
    }

    /// Lets it go on.
    pub(crate) fn release(&self) {
        self.shared.released.add_permits(1);
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn fault(&self, request: &Request) -> Fault {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if plan.writes && !(self.is_write)(request.method(), request.headers()) {
            return Fault::Pass;
        }
        plan.next.pop_front().unwrap_or(plan.then)
    }

    /// Carries a request out.
    async fn pass(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let body = to_bytes(body, LIMIT).await.expect("requests of tests are small");
        let sent = self.client.request(parts.method, format!("{}{path}", self.server));
        let answer = match sent.headers(end_to_end(&parts.headers)).body(body).send().await {
            Ok(answer) => answer,
            Err(error) => return status(StatusCode::BAD_GATEWAY, Body::from(error.to_string())),
        };
        let (code, headers) = (answer.status(), end_to_end(answer.headers()));
        let mut response = status(code, Body::from(answer.bytes().await.unwrap_or_default()));
        *response.headers_mut() = headers;
        response
    }
}

async fn handle(State(shared): State<Arc<Shared>>, ConnectInfo(wire): ConnectInfo<Wire>, request: Request) -> Response {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    match shared.fault(&request) {
        Fault::Pass => shared.pass(request).await,
        Fault::Hang => pending().await,
        Fault::Hold => {
            shared.held.add_permits(1);
            shared.released.acquire().await.expect("it is never closed").forget();
            shared.pass(request).await
        }
        Fault::Cut => wire.cut(),
        Fault::LoseAnswer => {
            shared.pass(request).await;
            wire.cut()
        }
        Fault::HangAnswer => {
            shared.pass(request).await;
            pending().await
        }
        Fault::Answer(code, retry_after) => {
            let body = Body::from((shared.errors)(code));
            let mut response = status(StatusCode::from_u16(code).expect("a status"), body);
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            response
        }
    }
}

fn status(code: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
}

/// Headers but those that belong to one connection.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers
}

/// A listener whose connections can be cut by the one who answers on them.
struct Cuttable {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// A connection, and whether it is to break at the next byte.
struct Line {
    stream: Box<dyn Stream>,
    wire: Wire,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

#[derive(Clone, Default)]
struct Wire(Arc<AtomicBool>);

impl Wire {
    /// What is returned is never sent.
    fn cut(&self) -> Response {
        self.0.store(true, Ordering::SeqCst);
        Response::new(Body::empty())
    }
}

impl Listener for Cuttable {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        loop {
            let (stream, peer) = Listener::accept(&mut self.listener).await;
            // Who does not like the certificate is gone.
            if let Some(stream) = self.secure(stream).await {
                return (Line { stream, wire: Wire::default() }, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Cuttable {
    async fn secure(&self, stream: TcpStream) -> Option<Box<dyn Stream>> {
        let Some(tls) = &self.tls else { return Some(Box::new(stream)) };
        tls.accept(stream).await.ok().map(|stream| Box::new(stream) as Box<dyn Stream>)
    }
}

impl Connected<IncomingStream<'_, Cuttable>> for Wire {
    fn connect_info(stream: IncomingStream<'_, Cuttable>) -> Self {
        stream.io().wire.clone()
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.wire.0.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
