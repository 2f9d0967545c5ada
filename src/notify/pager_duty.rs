//! PagerDuty, by its Events API v2: each notice is an alert; that a delivery works again resolves the alert that it failed.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Url};
use serde::Deserialize;

use super::post::{Answer, json, post, reach};
use super::{Content, Letter, Message, Notifier};
use crate::api::{self, NoticeKind, PagerDutySeverity};
use crate::integration::{Credential, ErrorKind, Identity, Network, ProviderError, line};

mod event;

use event::Event;

const ENDPOINT: &str = "https://events.pagerduty.com";
const PATH: &str = "/v2/enqueue";
const KEY_LENGTH: usize = 32;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A service of PagerDuty.
pub struct PagerDuty {
    client: Client,
    url: Url,
    key: Credential,
    severities: BTreeMap<NoticeKind, PagerDutySeverity>,
}

/// PagerDuty's form of an error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    message: String,
    errors: Vec<String>,
}

impl PagerDuty {
    /// Reads the key and looks at its form; calls nobody.
    pub async fn open(
        spec: &api::PagerDuty,
        identity: Arc<dyn Identity>,
        network: Network,
    ) -> Result<Self, ProviderError> {
        let mut url = network.endpoint(spec.endpoint.as_deref().unwrap_or(ENDPOINT))?;
        url.set_path(PATH);
        let key = identity.secret(&spec.integration_key_ref).await?;
        if key.expose().len() != KEY_LENGTH || !key.expose().chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(denied("the Secret does not hold an integration key, which has 32 letters and digits"));
        }
        let client = network.client(None)?;
        Ok(Self { client, url, key, severities: spec.severities.clone().unwrap_or_default() })
    }

    async fn tell(&self, letter: &Letter, message: &Message) -> Result<(), ProviderError> {
        let (key, severity) = (self.key.expose(), self.severity(letter.content.kind()));
        if !matches!(letter.content, Content::Recovered { .. }) {
            self.post(&Event::trigger(key, letter, message, severity)).await?;
        }
        // A test is over at once, so that nobody is woken.
        if matches!(letter.content, Content::Recovered { .. } | Content::Test) {
            self.post(&Event::resolve(key, letter, message, severity)).await?;
        }
        Ok(())
    }

    async fn post(&self, event: &Event<'_>) -> Result<(), ProviderError> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, JSON)]);
        let answer = post(&self.client, self.url.clone(), headers, json(event)?).await?;
        if answer.status.is_success() { Ok(()) } else { Err(self.refused(&answer)) }
    }

    /// What an answer other than success means, in PagerDuty's words where it has some.
    fn refused(&self, answer: &Answer) -> ProviderError {
        let error = answer.error("PagerDuty");
        match answer.status.as_u16() {
            400 => {
                let said = said(&answer.body);
                let told = self.without_key(&said);
                // The notice is good, and waits until somebody has put the key right.
                if is_about_the_key(&said) {
                    return denied(&format!("PagerDuty refuses the key: {told}"));
                }
                ProviderError { message: format!("PagerDuty refuses the event: {told}"), ..error }
            }
            401 | 403 => denied(&error.message),
            404 => ProviderError { message: format!("{}: is spec.pagerDuty.endpoint right?", error.message), ..error },
            _ => error,
        }
    }

    fn without_key(&self, said: &str) -> String {
        let tells_key = said.to_ascii_lowercase().contains(&self.key.expose().to_ascii_lowercase());
        if said.is_empty() || tells_key { "it does not say why".to_owned() } else { line(said) }
    }

    fn severity(&self, kind: Option<NoticeKind>) -> PagerDutySeverity {
        let Some(kind) = kind else { return PagerDutySeverity::Info };
        self.severities.get(&kind).copied().unwrap_or_else(|| usual(kind))
    }
}

#[async_trait]
impl Notifier for PagerDuty {
    async fn send(&self, message: &Message) -> Result<(), ProviderError> {
        for letter in &message.letters {
            self.tell(letter, message).await?;
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), ProviderError> {
        reach(&self.client, self.url.clone()).await.map(drop)
    }
}

/// The severity of a kind for which the channel names none.
fn usual(kind: NoticeKind) -> PagerDutySeverity {
    match kind {
        NoticeKind::TokenExpired => PagerDutySeverity::Critical,
        NoticeKind::DeliveryFailing => PagerDutySeverity::Error,
        NoticeKind::TokenExpiring | NoticeKind::GraceEnding | NoticeKind::TokenRevoked => PagerDutySeverity::Warning,
        NoticeKind::TokenRotated | NoticeKind::TokenRetired | NoticeKind::DeliveryRecovered => PagerDutySeverity::Info,
    }
}

/// PagerDuty's message and the first of its errors; empty if it has another form.
fn said(body: &[u8]) -> String {
    let said: Said = serde_json::from_slice(body).unwrap_or_default();
    let parts = [Some(said.message), said.errors.into_iter().next()].into_iter().flatten();
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

fn is_about_the_key(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["routing_key", "routing key", "integration key", "invalid key"].iter().any(|words| said.contains(words))
}

fn denied(what: &str) -> ProviderError {
    let message = format!(
        "{what}; write the key of an Events API v2 integration of the service into the Secret of \
         spec.pagerDuty.integrationKeyRef"
    );
    ProviderError::new(ErrorKind::Denied, "InvalidIntegrationKey", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{SecretKeyRef, ServiceAccountRef};

    struct Key;

    #[async_trait]
    impl Identity for Key {
        async fn secret(&self, _: &SecretKeyRef) -> Result<Credential, ProviderError> {
            Ok(Credential::new("0".repeat(KEY_LENGTH)))
        }

        async fn service_account_token(&self, _: &ServiceAccountRef, _: &str) -> Result<Credential, ProviderError> {
            Err(denied("not asked for"))
        }
    }

    #[tokio::test]
    async fn events_go_to_pager_dutys_own_address_or_to_another_regions() {
        let network = Network { allow_local: false, allow_http: false, timeout: std::time::Duration::from_secs(1) };
        for (endpoint, url) in [
            (None, "https://events.pagerduty.com/v2/enqueue"),
            (Some("https://events.eu.pagerduty.com"), "https://events.eu.pagerduty.com/v2/enqueue"),
            (Some("https://events.eu.pagerduty.com/"), "https://events.eu.pagerduty.com/v2/enqueue"),
        ] {
            let spec = api::PagerDuty { endpoint: endpoint.map(str::to_owned), ..api::PagerDuty::default() };
            assert_eq!(PagerDuty::open(&spec, Arc::new(Key), network).await.unwrap().url.as_str(), url);
        }
    }
}
