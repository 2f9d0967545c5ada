//! Mail, by SMTP (RFC 5321): one session for each message, to the channel's own server.
//!
//! A recipient who is refused for good does not keep the others from getting the mail. One who is refused for now makes the
//! message come again, perhaps with more letters; then each recipient gets what he does not have yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use lettre::Address;
use lettre::transport::smtp::extension::ClientId;

use super::{Memory, Message, Notifier};
use crate::api::{self, EmailSecurity};
use crate::integration::{Credential, ErrorKind, Identity, Network, ProviderError};

mod address;
mod answer;
mod page;
mod render;
mod session;
mod wire;

pub(super) use session::SESSION;

use answer::Refusal;
use render::{Mail, Recipients, Sender};
use session::{Login, Server, Session};

/// A mail server and who sends by it.
pub struct Email {
    server: Server,
    sender: Sender,
    memory: Arc<Memory>,
}

/// What became of the recipients of a message.
#[derive(Default)]
struct Tally {
    /// Got it, now or before.
    have_it: usize,
    /// For now.
    deferred: Vec<Refusal>,
    /// For good.
    refused: Vec<Refusal>,
}

impl Email {
    /// Reads the credentials and certificates that the specification names; connects at first use.
    pub async fn open(
        spec: &api::Email,
        identity: Arc<dyn Identity>,
        network: Network,
        memory: Arc<Memory>,
    ) -> Result<Self, ProviderError> {
        let security = spec.security.unwrap_or_default();
        if security == EmailSecurity::None && !network.allow_http && !network.allow_local {
            let message = "spec.email.security: None needs spec.allowInsecure: true";
            return Err(ProviderError::new(ErrorKind::Invalid, "InvalidSpec", message));
        }
        let from = address::mailbox("spec.email.from", &spec.from)?;
        let reply_to = spec.reply_to.as_deref().map(|text| address::mailbox("spec.email.replyTo", text)).transpose()?;
        let ca = match &spec.ca_bundle {
            Some(key) => Some(identity.secret(key).await?),
            None => None,
        };
        let tls = match security {
            EmailSecurity::None => None,
            _ => Some(session::tls(&spec.host, ca.as_ref().map(Credential::expose))?),
        };
        let server = Server {
            host: spec.host.clone(),
            port: spec.port.unwrap_or(default_port(security)),
            security,
            tls,
            login: login(spec, &*identity).await?,
            hello: ClientId::Domain(from.email.domain().to_owned()),
            network,
        };
        Ok(Self { server, sender: Sender { from, reply_to }, memory })
    }

    /// All recipients who lack the same letters get one mail, which is mostly everybody.
    async fn deliver(&self, session: &mut Session<'_>, message: &Message, to: &[Address]) -> Result<(), ProviderError> {
        let mut groups: BTreeMap<Vec<usize>, Vec<&Address>> = BTreeMap::new();
        for address in to {
            let lacks = |n: &usize| !self.memory.has(&message.letters[*n], address.as_ref());
            groups.entry((0..message.letters.len()).filter(lacks).collect()).or_default().push(address);
        }
        let mut tally = Tally::default();
        for (lacking, group) in groups {
            if lacking.is_empty() {
                tally.have_it += group.len();
                continue;
            }
            let letters = lacking.iter().map(|n| message.letters[*n].clone()).collect();
            let part = Message { letters, recipients: Vec::new(), ..message.clone() };
            let mail = self.sender.mail(&part, to)?;
            let taken = self.transact(session, &mail, &group, &mut tally).await?;
            for address in &taken {
                self.memory.keep(&part.letters, address.as_ref());
            }
        }
        let result = tally.verdict(to.len());
        if result.is_ok() {
            self.memory.forget(&message.letters, to.iter().map(AsRef::as_ref));
        }
        result
    }

    /// One transaction: every recipient in turn, then the content for those who were taken.
    async fn transact<'a>(
        &self,
        session: &mut Session<'_>,
        mail: &Mail,
        group: &[&'a Address],
        tally: &mut Tally,
    ) -> Result<Vec<&'a Address>, ProviderError> {
        session.sender(&self.sender.from.email).await?;
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        for &address in group {
            match session.recipient(address).await? {
                None => taken.push(address),
                Some(refusal) if refusal.error.is_retryable() => tally.deferred.push(refusal),
                Some(refusal) => refused.push(refusal),
            }
        }
        if !taken.is_empty() {
            session.content(&mail.bytes).await?;
        }
        if let Some(refusal) = refused.first() {
            let (count, code) = (refused.len(), refusal.code.as_str());
            tracing::warn!(
                refused = count,
                recipients = group.len(),
                code,
                id = mail.id,
                "recipients of a notice are refused"
            );
        }
        tally.have_it += taken.len();
        tally.refused.append(&mut refused);
        Ok(taken)
    }
}

impl Tally {
    fn verdict(&self, all: usize) -> Result<(), ProviderError> {
        match (self.deferred.first(), self.refused.first()) {
            (Some(refusal), _) => Err(refusal.of(self.deferred.len(), all)),
            (None, Some(refusal)) if self.have_it == 0 => Err(refusal.of(self.refused.len(), all)),
            _ => Ok(()),
        }
    }
}

impl Refusal {
    /// As the error of the message.
    fn of(&self, count: usize, all: usize) -> ProviderError {
        let message = format!("{count} of {all} recipients were not taken; {}", self.error.message);
        ProviderError { message, ..self.error.clone() }
    }
}

#[async_trait]
impl Notifier for Email {
    async fn send(&self, message: &Message) -> Result<(), ProviderError> {
        let Recipients { to, unusable } = self.sender.recipients(message)?;
        if unusable > 0 {
            let id = message.letters.first().map(|letter| letter.id.as_str());
            tracing::warn!(unusable, id, "recipients of a notice are no addresses that can be used");
        }
        let mut session = self.server.session().await?;
        let result = self.deliver(&mut session, message, &to).await;
        session.quit().await;
        result
    }

    async fn check(&self) -> Result<(), ProviderError> {
        let mut session = self.server.session().await?;
        let result = session.noop().await;
        session.quit().await;
        result
    }
}

async fn login(spec: &api::Email, identity: &dyn Identity) -> Result<Option<Login>, ProviderError> {
    let Some(auth) = &spec.auth else { return Ok(None) };
    let login = Login {
        username: identity.secret(&auth.username_ref).await?,
        password: identity.secret(&auth.password_ref).await?,
    };
    // NUL separates the two in AUTH PLAIN (RFC 4616).
    if [&login.username, &login.password].iter().any(|text| text.expose().is_empty() || text.expose().contains('\0')) {
        let message = "the user name or the password of spec.email.auth is empty or has a NUL in it";
        return Err(ProviderError::new(ErrorKind::Denied, "InvalidCredential", message));
    }
    Ok(Some(login))
}

/// RFC 8314; without encryption it can only be a relay.
fn default_port(security: EmailSecurity) -> u16 {
    match security {
        EmailSecurity::StartTls => 587,
        EmailSecurity::Tls => 465,
        EmailSecurity::None => 25,
    }
}
