//! Connections with bounds: how many there are, how long a TLS handshake may take, and how long one may be silent. Without
//! them a peer that opens connections and sends nothing holds memory and file descriptors for ever; a timeout of requests
//! does not see it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// Connections at the same time on one listener; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// A connection that received nothing for this long is closed, be it kept alive or in the middle of a request.
const SILENCE: Duration = Duration::from_secs(75);

/// A TLS handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A TCP listener whose connections are bounded; with TLS if it has an acceptor.
pub(super) struct Guarded {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    // Each in a task of its own, so that a slow one holds up nobody; those under way end with the listener.
    handshakes: JoinSet<Option<(Connection, SocketAddr)>>,
    slots: Arc<Semaphore>,
    bounds: Bounds,
}

#[derive(Clone, Copy)]
struct Bounds {
    silence: Duration,
    handshake: Duration,
}

type Slot = Option<OwnedSemaphorePermit>;
type Stream = Either<TcpStream, TlsStream<TcpStream>>;

impl Guarded {
    pub(super) fn new(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        Self::with(listener, tls, CONNECTIONS, Bounds { silence: SILENCE, handshake: HANDSHAKE })
    }

    fn with(listener: TcpListener, tls: Option<TlsAcceptor>, connections: usize, bounds: Bounds) -> Self {
        Self { listener, tls, handshakes: JoinSet::new(), slots: Arc::new(Semaphore::new(connections)), bounds }
    }
}

impl Listener for Guarded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (slot, stream, peer) = tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Some(connected)) => return connected,
                    Ok(None) | Err(_) => continue,
                },
                incoming = incoming(&self.slots, &mut self.listener) => incoming,
            };
            let silence = self.bounds.silence;
            match self.tls.clone() {
                None => return (Connection::new(Either::Left(stream), silence, slot), peer),
                Some(tls) => {
                    let within = self.bounds.handshake;
                    self.handshakes.spawn(async move {
                        let stream = handshake(&tls, stream, within).await?;
                        Some((Connection::new(Either::Right(stream), silence, slot), peer))
                    });
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn incoming(slots: &Arc<Semaphore>, listener: &mut TcpListener) -> (Slot, TcpStream, SocketAddr) {
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    // axum's own accept retries what may pass and logs the rest.
    let (stream, peer) = Listener::accept(listener).await;
    (slot, stream, peer)
}

// Why a handshake failed is the peer's affair, and anybody can make one fail: no line at the usual level.
async fn handshake(tls: &TlsAcceptor, stream: TcpStream, within: Duration) -> Option<TlsStream<TcpStream>> {
    match timeout(within, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("a TLS handshake took too long");
            None
        }
    }
}

/// A connection that ends after a long silence of its peer.
pub(super) struct Connection {
    stream: Stream,
    timer: Pin<Box<Sleep>>,
    silence: Duration,
    _slot: Slot,
}

impl Connection {
    fn new(stream: Stream, silence: Duration, slot: Slot) -> Self {
        Self { stream, timer: Box::pin(tokio::time::sleep(silence)), silence, _slot: slot }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            let deadline = Instant::now() + self.silence;
            self.timer.as_mut().reset(deadline);
            return Poll::Ready(read);
        }
        self.timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    use super::*;

    async fn guarded(connections: usize, silence: Duration) -> (Guarded, SocketAddr) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (Guarded::with(listener, None, connections, Bounds { silence, handshake: HANDSHAKE }), address)
    }

    #[tokio::test]
    async fn a_silent_peer_is_dropped() {
        let (mut guarded, address) = guarded(1, Duration::from_millis(20)).await;
        let peer = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = guarded.accept().await;
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(peer);
    }

    #[tokio::test]
    async fn a_closed_connection_makes_room() {
        let (mut guarded, address) = guarded(1, SILENCE).await;
        let _one = TcpStream::connect(address).await.unwrap();
        let _two = TcpStream::connect(address).await.unwrap();
        let (first, _) = guarded.accept().await;
        assert!(tokio::time::timeout(Duration::from_millis(20), guarded.accept()).await.is_err());
        drop(first);
        guarded.accept().await;
    }

    /// A listener that speaks TLS, and a client that trusts it.
    async fn secured(connections: usize, handshake: Duration) -> (Guarded, SocketAddr, TlsConnector) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let der = signed.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
        let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(server.with_single_cert(vec![der.clone()], key).unwrap()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider);
        let client = client.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let connector = TlsConnector::from(Arc::new(client.with_no_client_auth()));
        let bounds = Bounds { silence: SILENCE, handshake };
        (Guarded::with(listener, Some(acceptor), connections, bounds), address, connector)
    }

    #[tokio::test]
    async fn a_peer_that_never_ends_its_handshake_holds_up_nobody() {
        let (mut guarded, address, connector) = secured(2, SILENCE).await;
        let silent = TcpStream::connect(address).await.unwrap();
        let client = tokio::spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream
        });
        let accepted = timeout(HANDSHAKE, guarded.accept()).await;
        let (mut connection, _) = accepted.expect("the silent one is not waited for");
        assert_eq!(connection.read_u8().await.unwrap(), b'x');
        drop((silent, client.await.unwrap()));
    }

    #[tokio::test]
    async fn a_handshake_that_takes_too_long_makes_room() {
        let (mut guarded, address, connector) = secured(1, Duration::from_millis(20)).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut byte = [0];
        tokio::select! {
            _ = guarded.accept() => panic!("it never ended its handshake"),
            read = silent.read(&mut byte) => assert_eq!(read.unwrap(), 0, "it was dropped"),
        }
        guarded.bounds.handshake = HANDSHAKE;
        let server = tokio::spawn(async move { guarded.accept().await.1 });
        let stream = TcpStream::connect(address).await.unwrap();
        let client = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        assert_eq!(server.await.unwrap(), client.get_ref().0.local_addr().unwrap());
    }

    #[tokio::test]
    async fn one_who_speaks_no_tls_is_dropped() {
        let (mut guarded, address, _) = secured(1, HANDSHAKE).await;
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        tokio::select! {
            _ = guarded.accept() => panic!("it is no connection"),
            // Closed with an alert or reset: the request was not read to its end.
            _ = plain.read_to_end(&mut answer) => {}
        }
        assert!(!answer.starts_with(b"HTTP"));
    }
}
