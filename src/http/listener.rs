//! Connections with bounds: how many there are, and how long one may be silent. Without them a peer that opens
//! connections and sends nothing holds memory and file descriptors for ever; a timeout of requests does not see it.

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
use tokio::time::{Instant, Sleep};

/// Connections at the same time on one listener; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// A connection that received nothing for this long is closed, be it kept alive or in the middle of a request.
const SILENCE: Duration = Duration::from_secs(75);

/// A TCP listener whose connections are bounded.
pub(super) struct Guarded {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    silence: Duration,
}

impl Guarded {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, slots: Arc::new(Semaphore::new(CONNECTIONS)), silence: SILENCE }
    }
}

impl Listener for Guarded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok();
        // axum's own accept retries what may pass and logs the rest.
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        let timer = Box::pin(tokio::time::sleep(self.silence));
        (Connection { stream, timer, silence: self.silence, _slot: slot }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A TCP connection that ends after a long silence of its peer.
pub(super) struct Connection {
    stream: TcpStream,
    timer: Pin<Box<Sleep>>,
    silence: Duration,
    _slot: Option<OwnedSemaphorePermit>,
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
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn guarded(connections: usize, silence: Duration) -> (Guarded, SocketAddr) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (Guarded { listener, slots: Arc::new(Semaphore::new(connections)), silence }, address)
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
}
