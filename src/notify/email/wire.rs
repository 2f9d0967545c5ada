//! The connection under a session: it ends when a server says too much.
//!
//! lettre reads a line of an answer to its end, however long that is. A server that a tenant chose could fill the
//! operator's memory with one.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead as _, AsyncWrite as _};
#[allow(deprecated, reason = "the only way to a connection that is encrypted from its first byte")]
use lettre::transport::smtp::client::AsyncNetworkStream;
use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a server may say in a session. Fifty recipients get 50 lines of at most 512 bytes; TLS adds a few KiB.
const LONGEST: usize = 512 << 10;

/// A connection with a limit on what is read.
#[derive(Debug)]
pub(super) struct Wire {
    #[allow(deprecated, reason = "as above")]
    stream: AsyncNetworkStream,
    left: usize,
}

impl Wire {
    #[allow(deprecated, reason = "as above")]
    pub(super) fn new(stream: AsyncNetworkStream) -> Self {
        Self { stream, left: LONGEST }
    }
}

impl AsyncTokioStream for Wire {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the mail server says too much")));
        }
        let most = buffer.remaining().min(self.left);
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer.initialize_unfilled_to(most)))?;
        buffer.advance(read);
        self.left -= read;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}
