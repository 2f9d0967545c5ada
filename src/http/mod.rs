//! What is served: the public listener (discovery, keys, online checks) and the ops listener (health, metrics).
//!
//! Nothing here decides about accounts or writes to the cluster; every replica answers from what it has seen.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

use listener::Guarded;

pub mod access;
pub mod check;
pub mod discovery;
pub mod introspect;
mod listener;
pub mod ops;
pub mod tls;

/// A request that takes longer is answered with 503.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long requests in flight may go on after a shutdown began.
const DRAIN: Duration = Duration::from_secs(5);

/// An address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; choose another address with --{listener}-address")]
pub struct BindError {
    listener: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// A bound socket, not yet served.
#[derive(Debug)]
pub struct Bound {
    name: &'static str,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
}

impl Bound {
    /// Binds the listener that `--<name>-address` configures (`public` or `ops`).
    pub async fn bind(name: &'static str, address: SocketAddr) -> Result<Self, BindError> {
        let failed = |source| BindError { listener: name, address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { name, listener, address, tls: None })
    }

    /// Speaks TLS and nothing else.
    #[must_use]
    pub fn with_tls(self, tls: Arc<ServerConfig>) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Where it is bound: the real port if port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then lets requests in flight end for a few seconds.
    pub async fn serve(self, routes: Router, shutdown: CancellationToken) {
        // Read by people and by tests: with port 0 it is the only place that knows the port.
        tracing::info!(listener = self.name, address = %self.address, tls = self.tls.is_some(), "listening");
        let routes = routes.layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, REQUEST_TIMEOUT));
        let stop = shutdown.clone();
        let server = axum::serve(Guarded::new(self.listener, self.tls.map(TlsAcceptor::from)), routes)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        let overdue = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            ended = server => {
                if let Err(error) = ended {
                    tracing::error!(listener = self.name, %error, "stopped serving");
                }
            }
            () = overdue => tracing::warn!(listener = self.name, "closed connections that did not end in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[tokio::test]
    async fn serves_until_it_is_told_to_stop() {
        let bound = Bound::bind("ops", any_port()).await.unwrap();
        let address = bound.address();
        assert_ne!(address.port(), 0);
        let shutdown = CancellationToken::new();
        let routes = Router::new().route("/", get(|| async { "hello" }));
        let server = tokio::spawn(bound.serve(routes, shutdown.clone()));

        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");

        let idle = TcpStream::connect(address).await.unwrap();
        shutdown.cancel();
        tokio::time::timeout(DRAIN * 2, server).await.expect("an idle connection does not hold it up").unwrap();
        drop(idle);
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_taken_address_names_the_flag() {
        let taken = Bound::bind("public", any_port()).await.unwrap();
        let error = Bound::bind("public", taken.address()).await.unwrap_err();
        assert!(error.to_string().contains("--public-address"), "{error}");
    }
}
