//! What the AWS stores share: the connection to a region, and calls on it with one account's credentials. Knows neither
//! secrets nor parameters.
//!
//! Nothing is taken from the environment (`AWS_…`, profiles, metadata services) unless the credentials are to come from
//! there: see [`login`]. The SDK retries nothing: whoever calls a store does.

use std::sync::Arc;

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_sts::config::SharedHttpClient;
use aws_sdk_sts::config::http::HttpResponse;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use tokio::sync::RwLock;

use super::{ErrorKind, Identity, Network, ProviderError};
use crate::api::AwsAuth;
use crate::integration::resolve;

mod error;
mod login;

use error::classify;
use login::{Login, REFRESH_BEFORE};

/// What every AWS store is told about its place and its credentials.
pub(super) struct Place<'a> {
    pub(super) region: &'a str,
    pub(super) endpoint: Option<&'a str>,
    pub(super) sts_endpoint: Option<&'a str>,
    pub(super) role_arn: Option<&'a str>,
    pub(super) auth: Option<&'a AwsAuth>,
}

/// Calls on one service, with credentials that are read again when AWS refuses them.
pub(super) struct Session<C> {
    config: SdkConfig,
    network: Network,
    client: fn(&SdkConfig) -> C,
    /// How often credentials were read again, and the client that has the last ones.
    current: RwLock<(u64, C)>,
}

impl<C: Clone> Session<C> {
    /// Checks the settings; nothing is called yet. `client` makes the service's client.
    pub(super) fn new(
        place: &Place<'_>,
        identity: Arc<dyn Identity>,
        network: Network,
        client: fn(&SdkConfig) -> C,
    ) -> Result<Self, ProviderError> {
        let base = base(place.region, network);
        let login = Login::new(place, identity, at(&base, place.sts_endpoint, network)?)?;
        let config = at(&base, place.endpoint, network)?
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(login))
            .build();
        let first = client(&with_fresh_credentials(&config, network));
        Ok(Self { config, network, client, current: RwLock::new((0, first)) })
    }

    /// One call. If AWS refuses the credentials they are read again, once, since they may have been changed. `what` is
    /// the operation's name, for people.
    pub(super) async fn call<T, E, F>(&self, what: &str, send: impl Fn(C) -> F) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let (age, client) = self.current.read().await.clone();
        let error = match send(client).await {
            Ok(done) => return Ok(done),
            Err(error) => classify(what, &error),
        };
        if error.kind != ErrorKind::Denied {
            return Err(error);
        }
        let client = self.renewed(age).await;
        send(client).await.map_err(|error| classify(what, &error))
    }

    /// A client that reads its credentials anew, unless another call has made one meanwhile.
    async fn renewed(&self, age: u64) -> C {
        let mut current = self.current.write().await;
        if current.0 == age {
            *current = (age + 1, (self.client)(&with_fresh_credentials(&self.config, self.network)));
        }
        current.1.clone()
    }
}

fn base(region: &str, network: Network) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().operation_timeout(network.timeout).connect_timeout(network.timeout).build();
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(region.to_owned()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .http_client(http_client(network))
        .build()
}

fn at(base: &SdkConfig, endpoint: Option<&str>, network: Network) -> Result<SdkConfig, ProviderError> {
    let Some(endpoint) = endpoint else { return Ok(base.clone()) };
    let url = network.endpoint(endpoint)?;
    Ok(base.to_builder().endpoint_url(url.as_str().trim_end_matches('/')).build())
}

/// With an empty cache: the first call logs in. What has no end of its own is read again after the SDK's 15 minutes.
fn with_fresh_credentials(config: &SdkConfig, network: Network) -> SdkConfig {
    let cache = IdentityCache::lazy().load_timeout(network.timeout).buffer_time(REFRESH_BEFORE).build();
    config.to_builder().identity_cache(cache).build()
}

/// Follows no redirect and knows no proxy.
fn http_client(network: Network) -> SharedHttpClient {
    let builder = Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    if network.allow_local { builder.build_https() } else { builder.build_with_resolver(Elsewhere) }
}

/// Hides addresses that stores may not use.
#[derive(Clone, Debug)]
struct Elsewhere;

impl ResolveDns for Elsewhere {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let addresses = resolve(name).await.map_err(ResolveDnsError::new)?;
            Ok(addresses.into_iter().map(|address| address.ip()).collect())
        })
    }
}

/// A path to ask for, to see whether credentials and reach are good. It stands where the least policy allows asking: below
/// the part of the TokenStore's pathPrefix that all namespaces share.
pub(super) fn probe(prefix: Option<&str>) -> String {
    let shared = prefix.unwrap_or_default().split('{').next().unwrap_or_default();
    format!("{shared}virtual-account-operator-check")
}
