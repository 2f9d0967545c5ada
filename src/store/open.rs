//! From a spec to a provider: the one place that knows them all.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::aws_parameter_store::ParameterStore;
use super::aws_secrets_manager::SecretsManager;
use super::azure_key_vault::KeyVault;
use super::google_secret_manager::GoogleSecretManager;
use super::vault::Vault;
use super::{ErrorKind, Identity, Network, ProviderError, Store};
use crate::api::TokenStoreSpec;

/// Opens the store that a spec describes, with these credentials: [`providers`], or what a test puts in their place.
pub type Open = Arc<
    dyn Fn(TokenStoreSpec, Arc<dyn Identity>, Network) -> BoxFuture<'static, Result<Box<dyn Store>, ProviderError>>
        + Send
        + Sync,
>;

/// The real providers.
pub fn providers() -> Open {
    Arc::new(|spec, identity, network| open(spec, identity, network).boxed())
}

async fn open(
    spec: TokenStoreSpec,
    identity: Arc<dyn Identity>,
    network: Network,
) -> Result<Box<dyn Store>, ProviderError> {
    let prefix = spec.path_prefix.as_deref();
    match &spec {
        TokenStoreSpec { hashicorp_vault: Some(vault), .. } => {
            Ok(Box::new(Vault::open(vault, identity, network).await?))
        }
        TokenStoreSpec { aws_secrets_manager: Some(aws), .. } => {
            Ok(Box::new(SecretsManager::open(aws, prefix, identity, network)?))
        }
        TokenStoreSpec { aws_parameter_store: Some(aws), .. } => {
            Ok(Box::new(ParameterStore::open(aws, prefix, identity, network)?))
        }
        TokenStoreSpec { google_secret_manager: Some(google), .. } => {
            Ok(Box::new(GoogleSecretManager::open(google, prefix, identity, network).await?))
        }
        TokenStoreSpec { azure_key_vault: Some(azure), .. } => {
            Ok(Box::new(KeyVault::open(azure, identity, network).await?))
        }
        _ => {
            Err(ProviderError::new(ErrorKind::Invalid, "InvalidSpec", "spec names no provider that this version knows"))
        }
    }
}
