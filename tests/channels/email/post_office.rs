//! Mail servers (`tests/fakes/smtp_server.py`), what they got, and a channel to them.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use virtual_account_operator::api::{self, EmailAuth, EmailSecurity, SecretKeyRef, ServiceAccountRef};
use virtual_account_operator::integration::{Credential, ErrorKind, Identity, Network, ProviderError};
use virtual_account_operator::notify::{Email, Memory};

use crate::fake::{Certificate, Fake};

pub(super) const USER: &str = "canary-user";
/// With what a URL, base64 and a shell would change.
pub(super) const PASSWORD: &str = "canary+/=pass wörd%20";
const PATIENCE: Duration = Duration::from_secs(20);

/// A mail server.
pub(super) struct Office {
    fake: Fake,
    dir: PathBuf,
    security: EmailSecurity,
}

/// A mail that was taken, as Python's `email` package reads it.
#[derive(Debug, Deserialize)]
pub(super) struct Mail {
    pub(super) sender: String,
    pub(super) recipients: Vec<String>,
    pub(super) headers: Vec<(String, String)>,
    /// Name and address.
    pub(super) from: Vec<(String, String)>,
    pub(super) to: Vec<String>,
    pub(super) types: Vec<String>,
    pub(super) charsets: Vec<String>,
    pub(super) text: String,
    pub(super) html: String,
    pub(super) defects: Vec<String>,
    pub(super) longest: usize,
    /// ASCII, and no line end but CRLF.
    pub(super) clean: bool,
    pub(super) raw: String,
}

impl Mail {
    pub(super) fn header(&self, name: &str) -> &str {
        let mut all = self.headers.iter().filter(|(this, _)| this == name);
        let (Some((_, value)), None) = (all.next(), all.next()) else { panic!("{name} once in {:?}", self.headers) };
        value
    }
}

/// The usual one: STARTTLS and a login. Tests share it, each with a domain of its own.
pub(super) fn office() -> &'static Office {
    static SHARED: LazyLock<Office> = LazyLock::new(|| Office::start(EmailSecurity::StartTls, &[]));
    &SHARED
}

impl Office {
    /// One with a login.
    pub(super) fn start(security: EmailSecurity, options: &[&str]) -> Self {
        Self::open(security, &[&["--username", USER, "--password", PASSWORD], options].concat())
    }

    /// One without.
    pub(super) fn open(security: EmailSecurity, options: &[&str]) -> Self {
        let (dir, certificate) = (directory(), Certificate::shared());
        let path = |path: &PathBuf| path.to_str().expect("the path is text").to_owned();
        let (dir_text, cert, key) = (path(&dir), path(&certificate.cert), path(&certificate.key));
        let tls = match security {
            EmailSecurity::StartTls => "starttls",
            EmailSecurity::Tls => "implicit",
            EmailSecurity::None => "none",
        };
        let mut arguments = vec![dir_text.as_str(), "--tls", tls, "--cert", &cert, "--key", &key];
        arguments.extend(options);
        Self { fake: Fake::start("smtp_server.py", &arguments), dir, security }
    }

    pub(super) fn port(&self) -> u16 {
        self.fake.port
    }

    /// A channel to it that logs in, for senders of this domain.
    pub(super) fn spec(&self, from: &str) -> api::Email {
        api::Email {
            host: "127.0.0.1".into(),
            port: Some(self.port()),
            security: Some(self.security),
            auth: Some(EmailAuth { username_ref: key("username"), password_ref: key("password") }),
            from: from.into(),
            reply_to: None,
            ca_bundle: Some(key("ca")),
        }
    }

    pub(super) async fn channel(&self, from: &str) -> Email {
        open(&self.spec(from)).await
    }

    /// The mails of senders of this domain, oldest first.
    pub(super) fn mails(&self, domain: &str) -> Vec<Mail> {
        let files = fs::read_dir(&self.dir).expect("the directory is there");
        let mut files: Vec<PathBuf> = files.map(|file| file.expect("it can be read").path()).collect();
        files.retain(|file| file.extension().is_some_and(|end| end == "json"));
        files.sort();
        let read = |file: &PathBuf| -> Mail {
            serde_json::from_str(&fs::read_to_string(file).expect("it is whole")).expect("it is JSON")
        };
        let end = format!("@{domain}");
        files.iter().map(read).filter(|mail| mail.sender.ends_with(&end)).collect()
    }

    /// The one mail.
    pub(super) fn mail(&self, domain: &str) -> Mail {
        let mut mails = self.mails(domain);
        assert_eq!(mails.len(), 1, "{mails:?}");
        mails.remove(0)
    }

    /// The commands of each session of clients of this domain.
    pub(super) fn sessions(&self, domain: &str) -> Vec<Vec<String>> {
        let text = fs::read_to_string(self.dir.join("events")).expect("the server makes it");
        let mut sessions: std::collections::BTreeMap<u32, Vec<String>> = std::collections::BTreeMap::new();
        for line in text.lines() {
            let (number, event): (u32, String) = serde_json::from_str(line).expect("it is JSON");
            sessions.entry(number).or_default().push(event);
        }
        let hello = format!("EHLO {domain}");
        sessions.into_values().filter(|events| events.first() == Some(&hello)).collect()
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub(super) async fn open(spec: &api::Email) -> Email {
    try_open(spec, PATIENCE).await.unwrap()
}

pub(super) async fn try_open(spec: &api::Email, timeout: Duration) -> Result<Email, ProviderError> {
    Email::open(spec, Arc::new(Secrets { password: PASSWORD }), network(timeout), Arc::default()).await
}

/// With what the channel knows of who has what.
pub(super) async fn open_knowing(spec: &api::Email, memory: &Arc<Memory>) -> Email {
    let secrets = Arc::new(Secrets { password: PASSWORD });
    Email::open(spec, secrets, network(PATIENCE), Arc::clone(memory)).await.unwrap()
}

pub(super) async fn open_with(spec: &api::Email, password: &'static str) -> Email {
    Email::open(spec, Arc::new(Secrets { password }), network(PATIENCE), Arc::default()).await.unwrap()
}

pub(super) fn network(timeout: Duration) -> Network {
    Network { allow_local: true, allow_http: false, timeout }
}

/// A key of the channel's Secret.
pub(super) fn key(key: &str) -> SecretKeyRef {
    SecretKeyRef { name: "mail".into(), key: key.into() }
}

/// The channel's Secret.
pub(super) struct Secrets {
    pub(super) password: &'static str,
}

#[async_trait]
impl Identity for Secrets {
    async fn secret(&self, key: &SecretKeyRef) -> Result<Credential, ProviderError> {
        let value = match key.key.as_str() {
            "username" => USER,
            "password" => self.password,
            "ca" => &Certificate::shared().pem,
            "empty" => "no certificate",
            "torn" => "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            _ => return Err(ProviderError::new(ErrorKind::Denied, "KeyNotFound", "no such key")),
        };
        Ok(Credential::new(value.to_owned()))
    }

    async fn service_account_token(&self, _: &ServiceAccountRef, _: &str) -> Result<Credential, ProviderError> {
        Err(ProviderError::new(ErrorKind::Denied, "NoToken", "mail asks for none"))
    }
}

/// A directory of its own; those of processes that have ended are removed, for a shared server is never dropped.
fn directory() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let all = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("mail");
    for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !PathBuf::from("/proc").join(name.split('-').next().unwrap_or_default()).exists() {
            // Another process may be removing it at this moment.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let dir = all.join(format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&dir).expect("the directory can be made");
    dir
}
