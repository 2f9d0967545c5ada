//! How AWS credentials are had: read from Secrets, exchanged at the Security Token Service (STS), or the operator's own.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_sts::Client;
use aws_sdk_sts::types::Credentials as Assumed;

use super::{Place, classify};
use crate::api::{AwsAccessKey, ServiceAccountRef};
use crate::integration::{ErrorKind, Identity, ProviderError};

/// Credentials that end are replaced this long before.
pub(super) const REFRESH_BEFORE: Duration = Duration::from_mins(1);
/// What STS expects in the token of a ServiceAccount.
const AUDIENCE: &str = "sts.amazonaws.com";
/// How the operator's calls are named in CloudTrail.
const SESSION: &str = "virtual-account-operator";
const PROVIDER: &str = "virtual-account-operator";

/// Whose credentials, before a role is assumed.
enum Source {
    Key(AwsAccessKey),
    ServiceAccount(ServiceAccountRef),
    /// The environment's, as the operator runs in it.
    Ambient,
}

/// Logs in anew each time it is asked. The SDK keeps what it gets until shortly before that ends.
pub(super) struct Login {
    source: Source,
    role: Option<String>,
    identity: Arc<dyn Identity>,
    /// Without credentials.
    sts: SdkConfig,
}

impl Login {
    pub(super) fn new(place: &Place<'_>, identity: Arc<dyn Identity>, sts: SdkConfig) -> Result<Self, ProviderError> {
        let source = match place.auth {
            None => Source::Ambient,
            Some(auth) => match (&auth.secret_ref, &auth.service_account_ref) {
                (Some(key), None) => Source::Key(key.clone()),
                (None, Some(account)) => Source::ServiceAccount(account.clone()),
                _ => return Err(invalid("auth must name exactly one of secretRef and serviceAccountRef")),
            },
        };
        let role = place.role_arn.map(str::to_owned);
        if matches!(source, Source::ServiceAccount(_)) && role.is_none() {
            return Err(invalid("roleArn is needed with auth.serviceAccountRef"));
        }
        Ok(Self { source, role, identity, sts })
    }

    async fn credentials(&self) -> Result<Credentials, ProviderError> {
        let own = match (&self.source, &self.role) {
            (Source::ServiceAccount(account), Some(role)) => return self.web_identity(account, role).await,
            (Source::ServiceAccount(_), None) => return Err(invalid("roleArn is missing")),
            (Source::Key(key), _) => self.key(key).await?,
            (Source::Ambient, _) => self.ambient().await?,
        };
        match &self.role {
            Some(role) => self.assume(own, role).await,
            None => Ok(own),
        }
    }

    async fn key(&self, key: &AwsAccessKey) -> Result<Credentials, ProviderError> {
        let id = self.identity.secret(&key.access_key_id).await?;
        let secret = self.identity.secret(&key.secret_access_key).await?;
        let session = match &key.session_token {
            Some(token) => Some(self.identity.secret(token).await?.expose().to_owned()),
            None => None,
        };
        Ok(Credentials::new(id.expose(), secret.expose(), session, None, PROVIDER))
    }

    async fn ambient(&self) -> Result<Credentials, ProviderError> {
        let region: Option<Region> = self.sts.region().cloned();
        let chain = DefaultCredentialsChain::builder().region(region).build().await;
        chain.provide_credentials().await.map_err(|error| {
            let message = match error {
                CredentialsError::CredentialsNotLoaded(_) => {
                    "the operator runs without AWS credentials: give its ServiceAccount a role (IRSA, Pod Identity), or \
                     name credentials in auth"
                }
                _ => "the operator's own AWS credentials cannot be had: see the role of its ServiceAccount",
            };
            ProviderError::new(ErrorKind::Denied, "NoCredentials", message)
        })
    }

    async fn web_identity(&self, account: &ServiceAccountRef, role: &str) -> Result<Credentials, ProviderError> {
        let token = self.identity.service_account_token(account, AUDIENCE).await?;
        let request = Client::new(&self.sts).assume_role_with_web_identity();
        let request = request.role_arn(role).role_session_name(SESSION).web_identity_token(token.expose());
        let answer = request.send().await.map_err(|error| classify("AssumeRoleWithWebIdentity", &error))?;
        assumed(answer.credentials)
    }

    async fn assume(&self, own: Credentials, role: &str) -> Result<Credentials, ProviderError> {
        let config = self.sts.to_builder().credentials_provider(SharedCredentialsProvider::new(own)).build();
        let request = Client::new(&config).assume_role().role_arn(role).role_session_name(SESSION);
        let answer = request.send().await.map_err(|error| classify("AssumeRole", &error))?;
        assumed(answer.credentials)
    }
}

impl ProvideCredentials for Login {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        // `classify` finds the store's own error among the sources again.
        future::ProvideCredentials::new(async { self.credentials().await.map_err(CredentialsError::provider_error) })
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(<redacted>)")
    }
}

fn assumed(credentials: Option<Assumed>) -> Result<Credentials, ProviderError> {
    let invalid = || ProviderError::new(ErrorKind::Unavailable, "InvalidResponse", "STS answered without credentials");
    let given = credentials.ok_or_else(invalid)?;
    let ends = SystemTime::try_from(*given.expiration()).map_err(|_| invalid())?;
    let token = Some(given.session_token().to_owned());
    Ok(Credentials::new(given.access_key_id(), given.secret_access_key(), token, Some(ends), PROVIDER))
}

fn invalid(message: &str) -> ProviderError {
    ProviderError::new(ErrorKind::Invalid, "InvalidSpec", message)
}
