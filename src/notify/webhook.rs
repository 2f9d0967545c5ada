//! Any HTTP server: each notice is one CloudEvent 1.0 as JSON (structured mode), signed as Standard Webhooks says.
//!
//! A repeat has the same id and the same body; only the time of the attempt, and with it the signature, is new. Nothing
//! of an answer but its status and `Retry-After` is used: what a tenant's server writes is told to nobody.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use reqwest::{Client, Url};

use super::post::{Answer, json, post, reach};
use super::{Letter, Message, Notifier};
use crate::api;
use crate::integration::{Credential, ErrorKind, Identity, Network, ProviderError};

mod event;
mod headers;
mod signature;

use event::Event;
use signature::Secrets;

const CLOUD_EVENT: HeaderValue = HeaderValue::from_static("application/cloudevents+json; charset=utf-8");
/// Some gateways refuse clients that do not say who they are.
const OPERATOR: HeaderValue = HeaderValue::from_static(concat!("virtual-account-operator/", env!("CARGO_PKG_VERSION")));

/// A server that takes signed events.
pub struct Webhook {
    client: Client,
    url: Url,
    secrets: Secrets,
    /// What goes with every event: our own and those that the channel names.
    headers: HeaderMap,
}

impl Webhook {
    /// Reads what the specification names; calls nobody.
    pub async fn open(
        spec: &api::Webhook,
        identity: Arc<dyn Identity>,
        network: Network,
    ) -> Result<Self, ProviderError> {
        let url = network.endpoint(&spec.url)?;
        let secrets = Secrets::parse(&identity.secret(&spec.signing_secret_ref).await?)?;
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, CLOUD_EVENT), (USER_AGENT, OPERATOR)]);
        headers.extend(headers::read(spec.headers.as_deref().unwrap_or_default(), &*identity).await?);
        let ca = match &spec.ca_bundle {
            Some(key) => Some(identity.secret(key).await?),
            None => None,
        };
        let client = network.client(ca.as_ref().map(Credential::expose))?;
        Ok(Self { client, url, secrets, headers })
    }

    async fn post(&self, letter: &Letter, message: &Message) -> Result<(), ProviderError> {
        let id = event::id(&letter.id);
        let body = json(&Event::new(letter, &id, &message.cluster))?;
        let now = message.now.as_unix();
        let mut headers = self.headers.clone();
        headers.insert("webhook-id", value(&id)?);
        headers.insert("webhook-timestamp", now.into());
        headers.insert("webhook-signature", value(&self.secrets.sign(&id, now, &body))?);
        let answer = post(&self.client, self.url.clone(), headers, body).await?;
        if answer.status.is_success() { Ok(()) } else { Err(refused(&answer)) }
    }
}

#[async_trait]
impl Notifier for Webhook {
    async fn send(&self, message: &Message) -> Result<(), ProviderError> {
        for letter in &message.letters {
            self.post(letter, message).await?;
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), ProviderError> {
        reach(&self.client, self.url.clone()).await.map(drop)
    }
}

fn value(text: &str) -> Result<HeaderValue, ProviderError> {
    let unfit = |_| ProviderError::new(ErrorKind::Invalid, "InvalidNotice", "the notice's id is not fit for a header");
    HeaderValue::from_str(text).map_err(unfit)
}

/// What an answer other than success means, and what to do about it.
fn refused(answer: &Answer) -> ProviderError {
    let error = answer.error("the webhook");
    let cure = match answer.status.as_u16() {
        401 | 403 => "the receiver must know a secret of spec.webhook.signingSecretRef and take spec.webhook.headers",
        404 => "is spec.webhook.url right?",
        410 => "the receiver wants no more events; change spec.webhook.url, or delete the channel",
        _ => return error,
    };
    ProviderError { message: format!("{}: {cure}", error.message), ..error }
}
