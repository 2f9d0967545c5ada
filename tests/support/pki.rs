//! Certificates for what tests serve by TLS, and files of them as a pod sees a mounted Secret.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, reason = "a failure is the test's verdict")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// An authority that issues certificates for this machine.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Its certificate, for those who trust it.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// An HTTP client that trusts it and nobody else.
    pub(crate) fn client(&self) -> reqwest::ClientBuilder {
        let trusted = reqwest::Certificate::from_pem(self.pem().as_bytes()).expect("a certificate");
        reqwest::Client::builder().no_proxy().tls_certs_only([trusted])
    }

    /// A certificate for the loopback address, with this name, that ends at the beginning of the given year.
    pub(crate) fn issue(&self, name: &str, year: i32) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("two names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let cert = params.signed_by(&key, &self.0).expect("a certificate");
        Pair { cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// A directory that is removed with the test.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        let unique = format!("{name}-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("the directory can be written");
        path
    }

    /// Mounts a Secret of type `kubernetes.io/tls`, or its next version, as kubelet does: a new directory, and one link that
    /// is swapped.
    pub(crate) fn mount(&self, pair: &Pair) {
        let version = format!("..{:016x}", rand::random::<u64>());
        fs::create_dir(self.path(&version)).expect("a directory");
        self.write(&format!("{version}/tls.crt"), &pair.cert);
        self.write(&format!("{version}/tls.key"), &pair.key);
        symlink(&version, self.path("..next")).expect("a link");
        fs::rename(self.path("..next"), self.path("..data")).expect("the links are swapped");
        for name in ["tls.crt", "tls.key"] {
            if fs::symlink_metadata(self.path(name)).is_err() {
                symlink(format!("..data/{name}"), self.path(name)).expect("a link");
            }
        }
    }

    /// The flags of `run` for what is mounted here.
    pub(crate) fn flags(&self) -> [String; 2] {
        let flag = |flag: &str, file: &str| format!("{flag}={}", self.path(file).display());
        [flag("--tls-cert", "tls.crt"), flag("--tls-key", "tls.key")]
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // A panic here would abort the test process.
        let _ = fs::remove_dir_all(&self.0);
    }
}
