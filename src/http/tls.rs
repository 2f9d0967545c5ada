//! The certificate of the public listener: two PEM files, read again every 2 seconds, so that a renewed pair is served
//! without a restart and without ending a connection.
//!
//! It knows nothing of connections. Nothing that a file holds appears in an error: it might be the key.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode;
use zeroize::Zeroizing;

use crate::api::Instant;
use crate::clock;
use crate::config::TlsFiles;
use crate::lock::lock;
use crate::metrics::Metrics;

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
/// How often the files are read. A renewed Secret needs about a minute to reach a pod, so this is not what one waits for.
const LOOK: Duration = Duration::from_secs(2);

/// A pair of files that cannot be served. Each message names the flag and the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The file is not there or not readable.
    #[error("cannot read {flag} {file}: {reason}")]
    Read {
        /// Which of the two.
        flag: &'static str,
        /// Its path.
        file: String,
        /// What the system says.
        reason: String,
    },
    /// The file was read and is of no use.
    #[error("{flag} {file} {problem}")]
    Content {
        /// Which of the two.
        flag: &'static str,
        /// Its path.
        file: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// The certificate that new connections get.
pub struct Certificate {
    files: TlsFiles,
    served: Mutex<Pair>,
}

/// One pair, as it was read.
#[derive(Clone)]
struct Pair {
    key: Arc<CertifiedKey>,
    /// When the certificate (not its issuers') ends.
    expires_at: Instant,
    fingerprint: [u8; 32],
}

/// What a look at the files found.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Nothing to tell.
    Quiet,
    /// Another pair, which new connections get from now on.
    Renewed(Instant),
    /// The pair that is served stays.
    Broken(TlsError),
}

/// What earlier looks found wrong.
#[derive(Default)]
struct Complaint {
    error: Option<TlsError>,
    told: bool,
}

// The provider's Debug of a key tells nothing, but nothing depends on that then.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads the files, which must be a pair.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let served = Mutex::new(Pair::read(&files)?);
        Ok(Arc::new(Self { files, served }))
    }

    /// How connections are made: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
        let builder = builder.with_protocol_versions(&versions)?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::clone(self) as _);
        config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(<[u8]>::to_vec).into();
        Ok(Arc::new(config))
    }

    /// When the certificate that is served ends.
    pub fn expires_at(&self) -> Instant {
        lock(&self.served).expires_at
    }

    /// Follows the files until `stop`.
    pub async fn follow(self: Arc<Self>, metrics: Arc<Metrics>, stop: CancellationToken) {
        self.show(&metrics, "serving TLS");
        let mut looks = tokio::time::interval(LOOK);
        let mut complaint = Complaint::default();
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            let files = self.files.clone();
            // A file system may be slow.
            let Ok(read) = tokio::task::spawn_blocking(move || Pair::read(&files)).await else { continue };
            match self.take(read, &mut complaint) {
                Look::Quiet => {}
                Look::Renewed(_) => self.show(&metrics, "serving a renewed certificate"),
                Look::Broken(error) => warn!(%error, "the certificate in use stays; its renewal cannot be used"),
            }
        }
    }

    fn show(&self, metrics: &Metrics, message: &str) {
        let ends = self.expires_at();
        metrics.public_certificate(ends);
        if ends <= clock::now() {
            warn!(%ends, file = %self.files.cert.display(), "the certificate of the public listener has ended; renew it");
        } else {
            info!(%ends, "{message}");
        }
    }

    // Whoever writes two files one after the other shows two that do not fit for a moment: that is told only when a second
    // look finds it again, and then once.
    fn take(&self, read: Result<Pair, TlsError>, complaint: &mut Complaint) -> Look {
        let pair = match read {
            Ok(pair) => pair,
            Err(error) if complaint.error.as_ref() != Some(&error) => {
                *complaint = Complaint { error: Some(error), told: false };
                return Look::Quiet;
            }
            Err(_) if complaint.told => return Look::Quiet,
            Err(error) => {
                complaint.told = true;
                return Look::Broken(error);
            }
        };
        *complaint = Complaint::default();
        let mut served = lock(&self.served);
        if pair.fingerprint == served.fingerprint {
            return Look::Quiet;
        }
        *served = pair;
        Look::Renewed(served.expires_at)
    }
}

// Asked at each handshake, so a connection keeps the certificate that it began with.
impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&lock(&self.served).key))
    }
}

impl Pair {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let cert = read(CERT, &files.cert)?;
        let key = read(KEY, &files.key)?;
        let chain = chain(&files.cert, &cert)?;
        let expires_at = end(&files.cert, &chain)?;
        // The parser's own error may quote the file.
        let none = |_| content(KEY, &files.key, "holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1)");
        let secret = PrivateKeyDer::from_pem_slice(&key).map_err(none)?;
        let unusable = |error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let cert = files.cert.display();
                content(KEY, &files.key, format!("is not the key of the first certificate in {CERT} {cert}"))
            }
            error => content(KEY, &files.key, format!("or its certificate cannot be used: {error}")),
        };
        let certified = CertifiedKey::from_der(chain, secret, &default_provider()).map_err(unusable)?;
        Ok(Self { key: Arc::new(certified), expires_at, fingerprint: fingerprint(&cert, &key) })
    }
}

fn read(flag: &'static str, file: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed =
        |error: io::Error| TlsError::Read { flag, file: file.display().to_string(), reason: error.to_string() };
    std::fs::read(file).map(Zeroizing::new).map_err(failed)
}

fn content(flag: &'static str, file: &Path, problem: impl Into<String>) -> TlsError {
    TlsError::Content { flag, file: file.display().to_string(), problem: problem.into() }
}

fn chain(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = parsed.map_err(|_| content(CERT, file, "is not PEM, or ends in the middle of it"))?;
    if chain.is_empty() {
        return Err(content(CERT, file, "holds no certificate in PEM form"));
    }
    Ok(chain)
}

fn end(file: &Path, chain: &[CertificateDer<'_>]) -> Result<Instant, TlsError> {
    let leaf = chain.first().and_then(|first| CertificateInner::<Raw>::from_der(first).ok());
    let leaf = leaf.ok_or_else(|| content(CERT, file, "begins with something that is no X.509 certificate"))?;
    let end = leaf.tbs_certificate().validity().not_after.to_unix_duration();
    Ok(Instant::from_unix(i64::try_from(end.as_secs()).unwrap_or(i64::MAX)))
}

fn fingerprint(cert: &[u8], key: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in [cert, key] {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

#[cfg(test)]
mod tests;
