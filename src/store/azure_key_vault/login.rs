//! Access tokens from Microsoft Entra ID: with a client secret, with a ServiceAccount's token, or with the identity of the
//! operator's own pod. Credentials are read for each login; the SDK keeps the access token until shortly before its end,
//! or until the vault refuses it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::cloud::CustomConfiguration;
use azure_core::credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions};
use azure_core::error::{Error, ErrorKind as Sdk};
use azure_core::http::{ClientMethodOptions, ClientOptions, RetryOptions};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use reqwest::redirect::Policy;

use super::super::{Credential, ErrorKind, Identity, Network, ProviderError};
use super::wire;
use crate::api::{AzureKeyVault, SecretKeyRef, ServiceAccountRef};

const PUBLIC_CLOUD: &str = "https://login.microsoftonline.com";
/// What the federated credential of the application must name as its audience.
const AUDIENCE: &str = "api://AzureADTokenExchange";
/// Set by Azure Workload Identity in pods that take part.
const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
/// The user-assigned identity of the pod.
const CLIENT_ID: &str = "AZURE_CLIENT_ID";

/// Who logs in, and how.
pub(super) struct Login {
    way: Way,
    identity: Arc<dyn Identity>,
    options: ClientOptions,
    network: Network,
}

enum Way {
    Secret { key: SecretKeyRef, tenant: String, client: String },
    Federated { account: ServiceAccountRef, tenant: String, client: String },
    Ambient { tenant: Option<String>, client: Option<String> },
}

impl Login {
    /// Parses how to log in. `client` sends the requests.
    pub(super) fn new(
        spec: &AzureKeyVault,
        identity: Arc<dyn Identity>,
        network: Network,
        client: reqwest::Client,
    ) -> Result<Self, ProviderError> {
        let way = way(spec)?;
        let mut options = options(client);
        if !matches!(way, Way::Ambient { .. }) {
            // Named even if it is the default: otherwise the SDK would look for it in the environment.
            let mut cloud = CustomConfiguration::default();
            let host = spec.authority_host.as_deref().unwrap_or(PUBLIC_CLOUD);
            cloud.authority_host = super::https("authorityHost", host, network)?.to_string();
            options.cloud = Some(Arc::new(cloud.into()));
        }
        Ok(Self { way, identity, options, network })
    }

    /// The credential as it is now.
    async fn credential(&self) -> azure_core::Result<Arc<dyn TokenCredential>> {
        let client_options = self.options.clone();
        match &self.way {
            Way::Secret { key, tenant, client } => {
                let secret = self.identity.secret(key).await.map_err(unread)?;
                let secret = Secret::new(secret.expose().to_owned());
                let options = Some(ClientSecretCredentialOptions { client_options });
                Ok(ClientSecretCredential::new(tenant, client.clone(), secret, options)?)
            }
            Way::Federated { account, tenant, client } => {
                let token = self.identity.service_account_token(account, AUDIENCE).await.map_err(unread)?;
                let options = Some(ClientAssertionCredentialOptions { client_options });
                Ok(ClientAssertionCredential::new(tenant.clone(), client.clone(), Assertion(token), options)?)
            }
            Way::Ambient { tenant, client } => self.ambient(tenant.clone(), client.clone()),
        }
    }

    /// The identity of the operator's own pod, as its environment tells.
    fn ambient(&self, tenant: Option<String>, client: Option<String>) -> azure_core::Result<Arc<dyn TokenCredential>> {
        if std::env::var_os(TOKEN_FILE).is_some() {
            let client_options = self.options.clone();
            let options = WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options },
                client_id: client,
                tenant_id: tenant,
                ..WorkloadIdentityCredentialOptions::default()
            };
            return Ok(WorkloadIdentityCredential::new(Some(options))?);
        }
        let client = client.or_else(|| std::env::var(CLIENT_ID).ok().filter(|id| !id.is_empty()));
        let options = ManagedIdentityCredentialOptions {
            user_assigned_id: client.map(UserAssignedId::ClientId),
            client_options: options(to_metadata(self.network)?),
        };
        Ok(ManagedIdentityCredential::new(Some(options))?)
    }
}

#[async_trait]
impl TokenCredential for Login {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        self.credential().await?.get_token(scopes, options).await
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

/// A ServiceAccount's token.
#[derive(Debug)]
struct Assertion(Credential);

#[async_trait]
impl ClientAssertion for Assertion {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.expose().to_owned())
    }
}

fn way(spec: &AzureKeyVault) -> Result<Way, ProviderError> {
    let invalid = |message: &str| ProviderError::new(ErrorKind::Invalid, "InvalidAuth", message);
    let (tenant, client) = (spec.tenant_id.clone(), spec.client_id.clone());
    let Some(auth) = &spec.auth else {
        // The operator's own federated token goes to the authority: nobody else may choose that.
        return match spec.authority_host {
            Some(_) => Err(invalid("spec.azureKeyVault.authorityHost goes with auth only")),
            None => Ok(Way::Ambient { tenant, client }),
        };
    };
    let (Some(tenant), Some(client)) = (tenant, client) else {
        return Err(invalid("spec.azureKeyVault.auth needs tenantId and clientId"));
    };
    match (auth.secret_ref.clone(), auth.service_account_ref.clone()) {
        (Some(key), None) => Ok(Way::Secret { key, tenant, client }),
        (None, Some(account)) => Ok(Way::Federated { account, tenant, client }),
        _ => Err(invalid("spec.azureKeyVault.auth must name exactly one of secretRef and serviceAccountRef")),
    }
}

fn options(client: reqwest::Client) -> ClientOptions {
    let transport = Some(wire::to_authority(client));
    ClientOptions { retry: RetryOptions::none(), transport, ..ClientOptions::default() }
}

/// The one client that may reach the cloud's metadata service, which speaks plain http. No tenant chooses its address.
fn to_metadata(network: Network) -> azure_core::Result<reqwest::Client> {
    let builder = reqwest::Client::builder().redirect(Policy::none()).timeout(network.timeout).no_proxy();
    builder.build().map_err(|error| Error::new(Sdk::Other, error))
}

/// A credential that could not be had.
fn unread(error: ProviderError) -> Error {
    Error::new(Sdk::Credential, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::AzureAuth;

    fn spec(auth: Option<AzureAuth>) -> AzureKeyVault {
        AzureKeyVault {
            tenant_id: Some("tenant".into()),
            client_id: Some("client".into()),
            auth,
            ..AzureKeyVault::default()
        }
    }

    fn message(spec: &AzureKeyVault) -> String {
        way(spec).err().map(|error| error.message).unwrap_or_default()
    }

    #[test]
    fn exactly_one_way_to_log_in_is_named() {
        let secret_ref = Some(SecretKeyRef { name: "n".into(), key: "k".into() });
        let service_account_ref = Some(ServiceAccountRef { name: "n".into() });
        let one = AzureAuth { secret_ref, ..AzureAuth::default() };
        let both = AzureAuth { service_account_ref, ..one.clone() };
        assert!(message(&spec(Some(AzureAuth::default()))).contains("exactly one"));
        assert!(message(&spec(Some(both))).contains("exactly one"));
        assert!(matches!(way(&spec(Some(one))), Ok(Way::Secret { .. })));
        assert!(matches!(way(&spec(None)), Ok(Way::Ambient { .. })));
    }

    #[test]
    fn what_logs_in_with_an_application_names_it() {
        let key = SecretKeyRef { name: "n".into(), key: "k".into() };
        let auth = Some(AzureAuth { secret_ref: Some(key), ..AzureAuth::default() });
        assert!(message(&AzureKeyVault { client_id: None, ..spec(auth) }).contains("tenantId and clientId"));
    }

    #[test]
    fn the_operators_own_token_goes_to_no_authority_that_a_store_names() {
        let elsewhere = AzureKeyVault { authority_host: Some("https://evil.example.com".into()), ..spec(None) };
        assert!(message(&elsewhere).contains("authorityHost goes with auth only"));
    }
}
