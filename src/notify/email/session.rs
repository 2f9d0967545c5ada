//! One session with a mail server: connect, encrypt, log in, transactions, QUIT. Each step within the network's timeout, but
//! for the answer to a message.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
#[allow(deprecated, reason = "the only way to a connection that is encrypted from its first byte")]
use lettre::transport::smtp::client::AsyncNetworkStream;
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::commands::{Data, Mail, Noop, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension};
use lettre::transport::smtp::response::Response;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{self, Refusal, Secrets, Step};
use super::wire::Wire;
use crate::api::EmailSecurity;
use crate::integration::{self, Credential, ErrorKind, Network, ProviderError};
use crate::notify::of_the_channel;

/// How many of the network's timeouts the steps before a message may take together.
const BEFORE: u32 = 12;
/// How many the server has for its answer to a message. RFC 5321 (4.5.3.2.6) wants ten minutes, which would hold up the other
/// messages; with 15 seconds these are two. Whoever gives up sooner sends a message again that was taken late.
const ANSWER: u32 = 8;
/// How many a session ends within: the goodbye has one.
pub(in crate::notify) const SESSION: u32 = BEFORE + ANSWER + 1;

/// Where a mail server is, and how to be let in.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: EmailSecurity,
    /// Absent without encryption.
    pub(super) tls: Option<TlsParameters>,
    pub(super) login: Option<Login>,
    /// What EHLO says. A pod has no name that others know, so it is the sender's domain.
    pub(super) hello: ClientId,
    pub(super) network: Network,
}

/// Who logs in.
pub(super) struct Login {
    pub(super) username: Credential,
    pub(super) password: Credential,
}

/// A session that is logged in.
pub(super) struct Session<'a> {
    connection: AsyncSmtpConnection,
    call: Call<'a>,
    begun: bool,
}

/// What every command needs beside the connection.
struct Call<'a> {
    host: &'a str,
    secrets: Secrets,
    /// Of one step.
    timeout: Duration,
    /// Of all steps before a message.
    deadline: Instant,
}

/// Why a command did not succeed.
enum Failure {
    Refused(Refusal),
    Broken(ProviderError),
}

impl From<Failure> for ProviderError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => refusal.error,
            Failure::Broken(error) => error,
        }
    }
}

/// What TLS with a host of this name must look like: signed by these certificates (PEM) alone, or else by those that the
/// machine trusts.
pub(super) fn tls(host: &str, ca_bundle: Option<&str>) -> Result<TlsParameters, ProviderError> {
    let invalid = |message: &str| ProviderError::new(ErrorKind::Invalid, "InvalidCaBundle", message);
    let mut builder = TlsParametersBuilder::new(host.to_owned());
    if let Some(pem) = ca_bundle {
        if CertificateDer::pem_slice_iter(pem.as_bytes()).next().is_none() {
            return Err(invalid("the caBundle has no certificate; it must be PEM"));
        }
        let unreadable = |_| invalid("the caBundle has a certificate that cannot be read");
        let certificates = Certificate::from_pem(pem.as_bytes()).map_err(unreadable)?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(certificates);
    }
    builder.build().map_err(|_| {
        if ca_bundle.is_some() {
            return invalid("the caBundle has a certificate that cannot be used");
        }
        let message = "the operator's machine has no list of certificates to trust; name one in spec.email.caBundle";
        ProviderError::new(ErrorKind::Unavailable, "NoTrustedCertificates", message)
    })
}

impl Server {
    /// Connects, encrypts and logs in.
    pub(super) async fn session(&self) -> Result<Session<'_>, ProviderError> {
        let secrets = self.login.as_ref().map(|login| Secrets::of(&login.username, &login.password));
        let call = Call {
            host: &self.host,
            secrets: secrets.unwrap_or_default(),
            timeout: self.network.timeout,
            deadline: Instant::now() + self.network.timeout * BEFORE,
        };
        let mut connection = self.connect(&call).await?;
        if let (EmailSecurity::StartTls, Some(tls)) = (self.security, &self.tls) {
            if !connection.can_starttls() {
                return Err(not_offered());
            }
            call.run(Step::Encrypt, connection.starttls(tls.clone(), &self.hello)).await?;
        }
        if let Some(login) = &self.login {
            log_in(&mut connection, &call, login).await?;
        }
        Ok(Session { connection, call, begun: false })
    }

    #[allow(deprecated, reason = "as above")]
    async fn connect(&self, call: &Call<'_>) -> Result<AsyncSmtpConnection, ProviderError> {
        let addresses = timeout_at(call.next(), self.addresses()).await;
        let addresses = addresses.map_err(|_| answer::silent(Step::Connect))??;
        // Each address gets its share of the time, so that a dead one does not hide those after it.
        let share = self.network.timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let tls = self.tls.clone().filter(|_| self.security == EmailSecurity::Tls);
        let stream = AsyncNetworkStream::connect_tokio1(addresses.as_slice(), Some(share), tls, None);
        let wire = Wire::new(call.run(Step::Connect, stream).await?);
        let greeting = AsyncSmtpConnection::connect_with_transport(Box::new(wire), &self.hello);
        Ok(call.run(Step::Connect, greeting).await?)
    }

    /// Those that integrations may use.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, ProviderError> {
        let found = if self.network.allow_local {
            tokio::net::lookup_host((self.host.as_str(), 0)).await.map(Iterator::collect).map_err(Into::into)
        } else {
            integration::resolve(&self.host).await
        };
        let mut addresses = found.map_err(|error| {
            let unresolved = || {
                let message = format!("{} cannot be resolved: {}", self.host, integration::line(&error.to_string()));
                ProviderError::new(ErrorKind::Unavailable, "Unreachable", message)
            };
            integration::refusal(&*error).map_or_else(unresolved, of_the_channel)
        })?;
        for address in &mut addresses {
            address.set_port(self.port);
        }
        Ok(addresses)
    }
}

async fn log_in(connection: &mut AsyncSmtpConnection, call: &Call<'_>, login: &Login) -> Result<(), ProviderError> {
    if connection.server_info().get_auth_mechanism(DEFAULT_MECHANISMS).is_none() {
        let message =
            "the mail server offers no login by PLAIN or LOGIN; leave out spec.email.auth or use another port";
        return Err(ProviderError::new(ErrorKind::Denied, "LoginNotOffered", message));
    }
    let credentials = Credentials::new(login.username.expose().to_owned(), login.password.expose().to_owned());
    let answer = call.run(Step::Login, connection.auth(DEFAULT_MECHANISMS, &credentials)).await?;
    expect(235, Step::Login, &answer)
}

impl Session<'_> {
    /// A command that does nothing.
    pub(super) async fn noop(&mut self) -> Result<(), ProviderError> {
        let answer = self.call.run(Step::Check, self.connection.command(Noop)).await?;
        expect(250, Step::Check, &answer)
    }

    /// Begins a transaction, and ends one that has begun.
    pub(super) async fn sender(&mut self, address: &Address) -> Result<(), ProviderError> {
        if self.begun {
            let answer = self.call.run(Step::Sender, self.connection.command(Rset)).await?;
            expect(250, Step::Sender, &answer)?;
        }
        self.begun = true;
        let mail = Mail::new(Some(address.clone()), Vec::new());
        let answer = self.call.run(Step::Sender, self.connection.command(mail)).await?;
        expect(250, Step::Sender, &answer)
    }

    /// Adds a recipient; `Some`: the server does not take this one, and may take others.
    pub(super) async fn recipient(&mut self, address: &Address) -> Result<Option<Refusal>, ProviderError> {
        let rcpt = Rcpt::new(address.clone(), Vec::new());
        match self.call.run(Step::Recipient, self.connection.command(rcpt)).await {
            Ok(answer) if matches!(u16::from(answer.code()), 250..=252) => Ok(None),
            Ok(_) => Err(answer::unexpected(Step::Recipient)),
            Err(Failure::Refused(refusal)) if !refusal.closes && refusal.error.kind != ErrorKind::Denied => {
                Ok(Some(refusal))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Ends the transaction: from now on the server is responsible.
    pub(super) async fn content(&mut self, message: &[u8]) -> Result<(), ProviderError> {
        let answer = self.call.run(Step::Content, self.connection.command(Data)).await?;
        expect(354, Step::Content, &answer)?;
        let until = Instant::now() + self.call.timeout * ANSWER;
        let answer = self.call.run_until(until, Step::Content, self.connection.message(message)).await?;
        expect(250, Step::Content, &answer)
    }

    /// Says goodbye. What was done stays done, whatever comes back.
    pub(super) async fn quit(mut self) {
        let _ = timeout(self.call.timeout, self.connection.quit()).await;
    }
}

impl Call<'_> {
    /// When a step that begins now must have ended.
    fn next(&self) -> Instant {
        self.deadline.min(Instant::now() + self.timeout)
    }

    async fn run<T>(&self, step: Step, work: impl Future<Output = Result<T, smtp::Error>>) -> Result<T, Failure> {
        self.run_until(self.next(), step, work).await
    }

    async fn run_until<T>(
        &self,
        until: Instant,
        step: Step,
        work: impl Future<Output = Result<T, smtp::Error>>,
    ) -> Result<T, Failure> {
        match timeout_at(until, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(match answer::refusal(step, &error, &self.secrets) {
                Some(refusal) => Failure::Refused(refusal),
                None => Failure::Broken(answer::broken(step, self.host, &error)),
            }),
            Err(_) => Err(Failure::Broken(answer::silent(step))),
        }
    }
}

fn expect(code: u16, step: Step, answer: &Response) -> Result<(), ProviderError> {
    if answer.has_code(code) { Ok(()) } else { Err(answer::unexpected(step)) }
}

fn not_offered() -> ProviderError {
    ProviderError::new(
        ErrorKind::Unavailable,
        "StartTlsNotOffered",
        format!(
            "the mail server does not offer {}, and nothing is sent in the clear; where TLS begins with the first byte (port 465), set spec.email.security: TLS",
            Extension::StartTls
        ),
    )
}
