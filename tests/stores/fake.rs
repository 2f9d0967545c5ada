//! Our own fakes of cloud services (`tests/fakes`), as child processes that end when their stdin does: with this process,
//! whatever becomes of it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, LazyLock};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::fault::Tls;
use super::server::python;

/// A running fake.
pub(crate) struct Fake {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) port: u16,
}

impl Fake {
    /// Runs a script of `tests/fakes` on a port of the kernel's choice.
    pub(crate) fn start(script: &str, options: &[&str]) -> Self {
        let mut child = Command::new(python().join("bin/python"))
            .arg(fakes().join(script))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("the fake says where it listens");
        let port = line.trim().strip_prefix("listening on ").and_then(|port| port.parse().ok());
        Self { child, stdin, port: port.unwrap_or_else(|| panic!("{script} does not start: {line:?}")) }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// A certificate for loopback that signs itself.
pub(crate) struct Certificate {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// What clients trust.
    pub(crate) pem: String,
}

impl Certificate {
    /// The one that all tests of this process share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<Certificate> = LazyLock::new(Certificate::make);
        &SHARED
    }

    fn make() -> Self {
        let dir = fresh_directory();
        let made = Command::new(python().join("bin/python")).arg(fakes().join("tls.py")).arg(&dir).status();
        assert!(made.expect("Python runs").success());
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        let pem = std::fs::read_to_string(&cert).expect("it was just made");
        Self { cert, key, pem }
    }

    /// For clients of our own.
    pub(crate) fn trusted(&self) -> reqwest::Certificate {
        reqwest::Certificate::from_pem(self.pem.as_bytes()).expect("it is PEM")
    }

    /// For a layer of faults before a server that has it.
    pub(crate) fn tls(&self) -> Tls {
        Tls { trusted: self.trusted(), acceptor: self.acceptor() }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let chain = vec![CertificateDer::from_pem_file(&self.cert).expect("it is PEM")];
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("it is PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("the usual versions").with_no_client_auth().with_single_cert(chain, key);
        TlsAcceptor::from(Arc::new(config.expect("the key is the certificate's")))
    }
}

/// A directory of this process; those of processes that have ended are removed.
fn fresh_directory() -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tls");
    let dir = all.join(std::process::id().to_string());
    std::fs::create_dir_all(&dir).expect("the directory can be made");
    for other in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(other.file_name()).exists() {
            // Another process may be removing it at this moment.
            let _ = std::fs::remove_dir_all(other.path());
        }
    }
    dir
}

/// Where the scripts are.
pub(crate) fn fakes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes")
}
