//! Requests to a vault, and what their answers say of a secret. Decides nothing about paths.

use std::collections::HashMap;
use std::time::Duration;

use azure_core::http::{RequestContent, Response};
use azure_core::time::OffsetDateTime;
use azure_security_keyvault_secrets::SecretClient;
use azure_security_keyvault_secrets::models::{
    Secret, SecretAttributes, SecretClientGetSecretOptions, SecretClientUpdateSecretPropertiesOptions,
    SetSecretParameters, UpdateSecretPropertiesParameters,
};
use futures::TryStreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use super::super::{ErrorKind, Mark, ProviderError, Value};
use super::error::{self, Failed, State};
use super::version::{Newest, Version};

const CONTENT_TYPE: &str = "application/jwt";
/// Of versions, 25 each. More than anybody has.
const PAGES: usize = 100;
/// How long to wait before looking again whether a recovery is done.
const PAUSE: Duration = Duration::from_millis(250);

/// A vault's client.
pub(super) struct Calls {
    pub(super) client: SecretClient,
    /// For each call.
    pub(super) timeout: Duration,
}

impl Calls {
    /// One request, with the login before it if one is due.
    async fn call<T>(&self, request: impl Future<Output = azure_core::Result<T>>) -> Result<T, Failed> {
        match timeout(self.timeout, request).await {
            Ok(answer) => answer.map_err(|error| error::classify(&error)),
            Err(_) => Err(error::timeout().into()),
        }
    }

    /// Whether a secret can be read, or would be if it were there.
    pub(super) async fn probe(&self, name: &str) -> Result<(), ProviderError> {
        match self.call(self.client.get_secret(name, None)).await {
            Err(failed) if failed.is(State::NotFound) || failed.is(State::Disabled) => Ok(()),
            answer => Ok(answer.map(drop)?),
        }
    }

    /// What consumers get now, or why they get nothing.
    pub(super) async fn newest(&self, name: &str) -> Result<Newest, ProviderError> {
        match self.call(self.client.get_secret(name, None)).await {
            Ok(answer) => current(model(answer)?),
            Err(failed) if failed.is(State::Disabled) => Ok(Newest::Disabled),
            Err(failed) if failed.is(State::NotFound) => self.deleted(name).await,
            Err(failed) => Err(failed.into()),
        }
    }

    async fn deleted(&self, name: &str) -> Result<Newest, ProviderError> {
        match self.call(self.client.get_deleted_secret(name, None)).await {
            Ok(answer) => {
                let secret = model(answer)?;
                Ok(Newest::Deleted(Version::new(&secret, secret.attributes.as_ref(), secret.tags.clone())?))
            }
            Err(failed) if failed.is(State::NotFound) => Ok(Newest::Absent),
            Err(failed) => Err(failed.into()),
        }
    }

    /// All versions, in no order; none if there is no such secret.
    pub(super) async fn versions(&self, name: &str) -> Result<Vec<Version>, ProviderError> {
        let pager = self.client.list_secret_properties_versions(name, None);
        let mut listing = pager.map_err(|error| error::classify(&error))?.into_pages();
        let mut versions = Vec::new();
        for _ in 0..PAGES {
            let page = match self.call(listing.try_next()).await {
                Ok(Some(page)) => model(page)?,
                Ok(None) => return Ok(versions),
                Err(failed) if failed.is(State::NotFound) => return Ok(vec![]),
                Err(failed) => return Err(failed.into()),
            };
            for item in page.value {
                versions.push(Version::new(&item, item.attributes.as_ref(), item.tags.clone())?);
            }
        }
        let message = format!("{name} has too many versions: delete the secret once");
        Err(ProviderError::new(ErrorKind::Invalid, "TooManyVersions", message))
    }

    /// Brings a deleted secret back and waits until it can be read: the vault takes its time.
    pub(super) async fn recover(&self, name: &str, deadline: Instant) -> Result<(), ProviderError> {
        match self.call(self.client.recover_deleted_secret(name, None)).await {
            Err(failed) if failed.is(State::NotFound) => return Err(changed(name)),
            answer => answer.map(drop)?,
        }
        while let Newest::Absent | Newest::Deleted(_) = self.newest(name).await? {
            pause(name, deadline).await?;
        }
        Ok(())
    }

    /// A new version. Others' tags are kept.
    pub(super) async fn put(
        &self,
        name: &str,
        value: &Value<'_>,
        tags: HashMap<String, String>,
        deadline: Instant,
    ) -> Result<String, ProviderError> {
        let parameters = SetSecretParameters {
            value: Some(value.token.expose().to_owned()),
            content_type: Some(CONTENT_TYPE.to_owned()),
            tags: Some(marked(tags, value.mark)),
            secret_attributes: Some(attributes(value.mark)),
        };
        loop {
            match self.call(self.client.set_secret(name, content(&parameters)?, None)).await {
                Ok(answer) => return Ok(read_version(&model(answer)?)?.id),
                Err(failed) if failed.is(State::BeingRecovered) => pause(name, deadline).await?,
                Err(failed) => return Err(failed.into()),
            }
        }
    }

    /// A new version that is as another one.
    pub(super) async fn put_again(&self, name: &str, version: &str) -> Result<(), ProviderError> {
        let version = Some(version.to_owned());
        let options = SecretClientGetSecretOptions { secret_version: version, ..Default::default() };
        let secret = model(self.call(self.client.get_secret(name, Some(options))).await?)?;
        let parameters = SetSecretParameters {
            value: secret.value,
            content_type: secret.content_type,
            tags: secret.tags,
            secret_attributes: secret.attributes,
        };
        self.call(self.client.set_secret(name, content(&parameters)?, None)).await?;
        Ok(())
    }

    /// Changes a version's metadata, which makes no new one.
    async fn update(
        &self,
        name: &str,
        version: &str,
        change: UpdateSecretPropertiesParameters,
    ) -> Result<(), ProviderError> {
        let version = Some(version.to_owned());
        let options = SecretClientUpdateSecretPropertiesOptions { secret_version: version, ..Default::default() };
        match self.call(self.client.update_secret_properties(name, content(&change)?, Some(options))).await {
            // It is gone with all its versions.
            Err(failed) if failed.is(State::NotFound) => Ok(()),
            answer => Ok(answer.map(drop)?),
        }
    }

    /// Corrects the mark of a version whose value is the right one.
    pub(super) async fn mark(&self, name: &str, version: &Version, mark: &Mark) -> Result<(), ProviderError> {
        if version.mark.as_ref() == Some(mark) {
            return Ok(());
        }
        let tags = Some(marked(version.tags.clone(), mark));
        let secret_attributes = Some(attributes(mark));
        let change = UpdateSecretPropertiesParameters { tags, secret_attributes, ..Default::default() };
        self.update(name, &version.id, change).await
    }

    /// Ends a version: nobody can read it any more, until somebody enables it.
    pub(super) async fn disable(&self, name: &str, version: &str) -> Result<(), ProviderError> {
        let secret_attributes = Some(SecretAttributes { enabled: Some(false), ..Default::default() });
        let change = UpdateSecretPropertiesParameters { secret_attributes, ..Default::default() };
        self.update(name, version, change).await
    }

    /// Deletes a secret with all its versions, softly.
    pub(super) async fn delete(&self, name: &str) -> Result<(), ProviderError> {
        match self.call(self.client.delete_secret(name, None)).await {
            Err(failed) if failed.is(State::NotFound) || failed.is(State::BeingDeleted) => Ok(()),
            answer => Ok(answer.map(drop)?),
        }
    }
}

/// The tags of a version: ours, and those that others put beside ours.
fn marked(mut tags: HashMap<String, String>, mark: &Mark) -> HashMap<String, String> {
    tags.extend(mark.pairs().map(|(name, value)| (name.to_owned(), value)));
    tags
}

fn attributes(mark: &Mark) -> SecretAttributes {
    let expires = OffsetDateTime::from_unix_timestamp(mark.expires_at.as_unix()).ok();
    SecretAttributes { enabled: Some(true), expires, ..Default::default() }
}

fn current(secret: Secret) -> Result<Newest, ProviderError> {
    Ok(Newest::Value(read_version(&secret)?, secret.value.ok_or_else(error::unreadable)?.into()))
}

fn read_version(secret: &Secret) -> Result<Version, ProviderError> {
    Version::new(secret, secret.attributes.as_ref(), secret.tags.clone())
}

fn model<T: DeserializeOwned>(answer: Response<T>) -> Result<T, ProviderError> {
    answer.into_model().map_err(|_| error::unreadable())
}

fn content<T: Serialize>(parameters: &T) -> Result<RequestContent<T>, ProviderError> {
    let body = serde_json::to_vec(parameters);
    body.map(RequestContent::from).map_err(|_| ProviderError::new(ErrorKind::Invalid, "InvalidRequest", "no JSON"))
}

async fn pause(name: &str, deadline: Instant) -> Result<(), ProviderError> {
    if Instant::now() + PAUSE >= deadline {
        let message = format!("{name} is being recovered, which takes a while");
        return Err(ProviderError::new(ErrorKind::Conflict, error::BEING_RECOVERED, message));
    }
    sleep(PAUSE).await;
    Ok(())
}

/// Somebody else came in between.
pub(super) fn changed(name: &str) -> ProviderError {
    ProviderError::new(ErrorKind::Conflict, "Changed", format!("{name} has changed since it was read"))
}
