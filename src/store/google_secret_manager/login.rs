//! Logging in to Google: with a service account's key, by workload identity federation, or as the operator itself.
//!
//! Credentials are read again for each login; a login is kept for 15 minutes at most, so that a changed key or a lost
//! right is noticed. Requests to token endpoints are ours and not the library's, which follows redirects, resolves names
//! and waits as it likes: a tenant chooses these endpoints. A key's own addresses are never followed: it signs its access
//! token itself (AIP-4111).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use google_cloud_auth::credentials::{self, CacheableResource, Credentials, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use http::Extensions;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, Url};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::super::{Credential, ErrorKind, Identity, Network, ProviderError};
use super::token_endpoint::{exchange, impersonate};
use crate::api::{GoogleSecretManager, SecretKeyRef, ServiceAccountRef};
use crate::clock;

/// How long a login is kept at most, and how long before its end it is no longer used.
const LONGEST: Duration = Duration::from_mins(15);
const MARGIN: Duration = Duration::from_secs(30);
/// What an access token that a key signs itself is good for, and for how many seconds.
const AUDIENCE: &str = "https://secretmanager.googleapis.com/";
const LIFETIME: i64 = 3_600;
const STS: &str = "https://sts.googleapis.com";
const IAM: &str = "https://iamcredentials.googleapis.com";

/// Who logs in and how, and the login there is.
pub(super) struct Login {
    way: Way,
    identity: Arc<dyn Identity>,
    network: Network,
    client: Client,
    /// Locked while somebody logs in, so that others wait for that login.
    current: Mutex<Session>,
}

enum Way {
    Key(SecretKeyRef),
    Federation(Federation),
    /// What the machine has: a file, the environment, the metadata service.
    Ambient(Credentials),
}

struct Federation {
    account: ServiceAccountRef,
    provider: String,
    email: Option<String>,
    sts: Url,
    iam: Url,
}

/// An access token and how long it is used.
pub(super) struct Access {
    pub(super) token: Credential,
    pub(super) lifetime: Duration,
}

#[derive(Default)]
struct Session {
    headers: HeaderMap,
    until: Option<Instant>,
    /// How many logins there were.
    count: u64,
}

impl Login {
    /// Parses how to log in; nothing is called yet.
    pub(super) fn new(
        spec: &GoogleSecretManager,
        identity: Arc<dyn Identity>,
        network: Network,
    ) -> Result<Self, ProviderError> {
        let way = way(spec, network)?;
        Ok(Self { way, identity, network, client: network.client(None)?, current: Mutex::default() })
    }

    /// Makes sure that there is a login that is good for this call; which one.
    pub(super) async fn current(&self) -> Result<u64, ProviderError> {
        let mut current = self.current.lock().await;
        if current.until.is_none_or(|until| Instant::now() >= until) {
            self.renew(&mut current).await?;
        }
        Ok(current.count)
    }

    /// A fresh login in place of one that was refused, unless somebody else has logged in since.
    pub(super) async fn instead_of(&self, refused: u64) -> Result<(), ProviderError> {
        let mut current = self.current.lock().await;
        if current.count != refused {
            return Ok(());
        }
        current.until = None;
        self.renew(&mut current).await
    }

    async fn renew(&self, current: &mut Session) -> Result<(), ProviderError> {
        let since = Instant::now();
        let (headers, lifetime) = match &self.way {
            // The library keeps these itself, so it is asked each time.
            Way::Ambient(credentials) => (self.ambient(credentials).await?, Duration::ZERO),
            Way::Key(key) => bearer(&self_signed(&self.identity.secret(key).await?).await?)?,
            Way::Federation(federation) => bearer(&self.federated(federation).await?)?,
        };
        let until = since + lifetime.min(LONGEST).saturating_sub(MARGIN);
        *current = Session { headers, until: Some(until), count: current.count + 1 };
        Ok(())
    }

    async fn federated(&self, federation: &Federation) -> Result<Access, ProviderError> {
        let Federation { account, provider, email, sts, iam } = federation;
        let subject = self.identity.service_account_token(account, provider).await?;
        let federated = exchange(&self.client, sts, provider, &subject).await?;
        match email {
            Some(email) => impersonate(&self.client, iam, email, &federated).await,
            None => Ok(federated),
        }
    }

    async fn ambient(&self, credentials: &Credentials) -> Result<HeaderMap, ProviderError> {
        // The library's own words may hold the body of an answer.
        let failed = |kind, reason: &str| {
            ProviderError::new(
                kind,
                reason,
                "the operator's own Google credentials cannot be had: see the operator's set-up",
            )
        };
        match tokio::time::timeout(self.network.timeout, credentials.headers(Extensions::new())).await {
            Ok(Ok(CacheableResource::New { data, .. })) => Ok(data),
            Ok(Err(error)) if !error.is_transient() => Err(failed(ErrorKind::Denied, "NoAmbientCredentials")),
            _ => Err(failed(ErrorKind::Unavailable, "AmbientCredentialsUnavailable")),
        }
    }
}

/// Gives Google's client the login that [`Login::current`] has made.
pub(super) struct Bearer(pub(super) Arc<Login>);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(<redacted>)")
    }
}

impl CredentialsProvider for Bearer {
    async fn headers(&self, _: Extensions) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let data = self.0.current.lock().await.headers.clone();
        if data.is_empty() {
            return Err(CredentialsError::from_msg(false, "nobody has logged in"));
        }
        Ok(CacheableResource::New { entity_tag: EntityTag::new(), data })
    }

    async fn universe_domain(&self) -> Option<String> {
        None
    }
}

fn way(spec: &GoogleSecretManager, network: Network) -> Result<Way, ProviderError> {
    let Some(auth) = &spec.auth else {
        // The operator's own access token is good for all of Google Cloud: nobody else may have it sent elsewhere.
        if let Some(endpoint) = spec.endpoint.as_deref()
            && !network.allow_local
            && !is_googles(&network.endpoint(endpoint)?)
        {
            let elsewhere =
                "spec.googleSecretManager.endpoint must end in .googleapis.com unless auth names credentials";
            return Err(ProviderError::new(ErrorKind::Invalid, "InvalidAuth", elsewhere));
        }
        let unusable =
            "the operator has no Google credentials of its own: name others in spec.googleSecretManager.auth";
        let built = credentials::Builder::default().build();
        return built.map(Way::Ambient).map_err(|_| denied("NoAmbientCredentials", unusable));
    };
    match (&auth.secret_ref, &auth.service_account_ref, &auth.workload_identity_provider) {
        (Some(key), None, None) => Ok(Way::Key(key.clone())),
        (None, Some(account), Some(provider)) => Ok(Way::Federation(Federation {
            account: account.clone(),
            provider: provider.clone(),
            email: auth.service_account_email.clone(),
            sts: network.endpoint(spec.sts_endpoint.as_deref().unwrap_or(STS))?,
            iam: network.endpoint(spec.iam_endpoint.as_deref().unwrap_or(IAM))?,
        })),
        _ => Err(ProviderError::new(
            ErrorKind::Invalid,
            "InvalidAuth",
            "spec.googleSecretManager.auth must name exactly one of secretRef and serviceAccountRef, the latter with \
             workloadIdentityProvider",
        )),
    }
}

fn is_googles(endpoint: &Url) -> bool {
    endpoint.domain().is_some_and(|domain| domain.ends_with(".googleapis.com"))
}

fn bearer(access: &Access) -> Result<(HeaderMap, Duration), ProviderError> {
    let text = zeroize::Zeroizing::new(format!("Bearer {}", access.token.expose()));
    let unfit = |_| denied("InvalidCredential", "the access token has characters that no token has");
    let mut value = HeaderValue::from_str(&text).map_err(unfit)?;
    value.set_sensitive(true);
    Ok((HeaderMap::from_iter([(AUTHORIZATION, value)]), access.lifetime))
}

/// The access token that a service account's key signs for this service.
async fn self_signed(key: &Credential) -> Result<Access, ProviderError> {
    let unusable = |_: &dyn fmt::Debug| {
        denied("InvalidCredential", "the Secret does not hold the key of a service account in Google's JSON format")
    };
    let key: Value = serde_json::from_str(key.expose()).map_err(|error| unusable(&error))?;
    let kid = key["private_key_id"].as_str().unwrap_or_default().to_owned();
    if key["type"] != "service_account" || kid.is_empty() {
        return Err(unusable(&()));
    }
    let signer = credentials::service_account::Builder::new(key).build_signer().map_err(|error| unusable(&error))?;
    let email = signer.client_email().await.map_err(|error| unusable(&error))?;
    let now = clock::now().as_unix();
    let claims = json!({"iss": email, "sub": email, "aud": AUDIENCE, "iat": now, "exp": now + LIFETIME});
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": kid});
    let encoded = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = signer.sign(&encoded).await.map_err(|error| unusable(&error))?;
    let token = Credential::new(format!("{encoded}.{}", URL_SAFE_NO_PAD.encode(signature)));
    Ok(Access { token, lifetime: LONGEST + MARGIN })
}

fn denied(reason: &str, message: &str) -> ProviderError {
    ProviderError::new(ErrorKind::Denied, reason, message)
}
