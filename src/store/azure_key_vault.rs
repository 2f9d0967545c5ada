//! Azure Key Vault: a secret whose value is the token, with the mark as tags of each version.
//!
//! Value and mark are one call, so a version always tells whose it is. There is no compare-and-set: a writer looks before
//! and after it writes. If somebody else came in between it reports a conflict, and puts a newer token than its own on top
//! again. Only a writer that dies right after a late write leaves it there until the next look. A deleted secret blocks its name; it is recovered,
//! then written. Nothing is ever purged.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::http::{ClientOptions, RequestContent, Response, RetryOptions, Url};
use azure_core::time::OffsetDateTime;
use azure_security_keyvault_secrets::models::{
    Secret, SecretAttributes, SecretClientGetSecretOptions, SecretClientUpdateSecretPropertiesOptions,
    SetSecretParameters, UpdateSecretPropertiesParameters,
};
use azure_security_keyvault_secrets::{SecretClient, SecretClientOptions};
use futures::TryStreamExt as _;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use super::{ErrorKind, Held, Identity, Mark, Network, Store, StoreError, Value};
use crate::api::AzureKeyVault;

mod error;
mod login;
mod version;
mod wire;

use error::{Failed, State};
use login::Login;
use version::{Newest, Version, newest_of};

const CONTENT_TYPE: &str = "application/jwt";
/// A name that nobody uses, to see whether names can be read at all.
const PROBE: &str = "virtual-account-operator-check";
/// Of versions, 25 each. More than anybody has.
const PAGES: usize = 100;
/// How long to wait before looking again whether a recovery is done, for half of the time that a call may take.
const PAUSE: Duration = Duration::from_millis(250);

/// A key vault.
pub struct KeyVault {
    client: SecretClient,
    timeout: Duration,
}

impl KeyVault {
    /// Reads what the specification names; logs in at first use.
    pub async fn open(spec: &AzureKeyVault, identity: Arc<dyn Identity>, network: Network) -> Result<Self, StoreError> {
        let ca = match &spec.ca_bundle {
            Some(key) => Some(identity.secret(key).await?),
            None => None,
        };
        let vault = https("vaultUrl", &spec.vault_url, network)?;
        let client = network.client(ca.as_ref().map(super::Credential::expose))?;
        let login = Login::new(spec, identity, network, client.clone())?;
        let options = SecretClientOptions {
            client_options: ClientOptions {
                retry: RetryOptions::none(),
                transport: Some(wire::to_vault(client, vault.clone())),
                ..ClientOptions::default()
            },
            // The vault says what it wants a token for. It gets none for another domain than its own, but in tests.
            verify_challenge_resource: Some(!network.allow_local),
            ..SecretClientOptions::default()
        };
        let client = SecretClient::new(vault.as_str(), Arc::new(login), Some(options))
            .map_err(|error| error::classify(&error))?;
        Ok(Self { client, timeout: network.timeout })
    }

    /// One request, with the login before it if one is due.
    async fn call<T>(&self, request: impl Future<Output = azure_core::Result<T>>) -> Result<T, Failed> {
        match timeout(self.timeout, request).await {
            Ok(answer) => answer.map_err(|error| error::classify(&error)),
            Err(_) => Err(error::timeout().into()),
        }
    }

    /// What consumers get now, or why they get nothing.
    async fn newest(&self, name: &str) -> Result<Newest, StoreError> {
        match self.call(self.client.get_secret(name, None)).await {
            Ok(answer) => current(model(answer)?),
            Err(failed) if failed.is(State::Disabled) => Ok(Newest::Disabled),
            Err(failed) if failed.is(State::NotFound) => self.deleted(name).await,
            Err(failed) => Err(failed.into()),
        }
    }

    async fn deleted(&self, name: &str) -> Result<Newest, StoreError> {
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
    async fn versions(&self, name: &str) -> Result<Vec<Version>, StoreError> {
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
        Err(StoreError::new(ErrorKind::Invalid, "TooManyVersions", message))
    }

    /// Brings a deleted secret back and waits until it can be read: the vault takes its time.
    async fn recover(&self, name: &str, deadline: Instant) -> Result<Newest, StoreError> {
        match self.call(self.client.recover_deleted_secret(name, None)).await {
            Err(failed) if failed.is(State::NotFound) => return Err(changed(name)),
            answer => answer.map(drop)?,
        }
        loop {
            match self.newest(name).await? {
                Newest::Absent | Newest::Deleted(_) => pause(name, deadline).await?,
                back => return Ok(back),
            }
        }
    }

    /// A new version. Others' tags are kept.
    async fn put(
        &self,
        name: &str,
        value: &Value<'_>,
        tags: HashMap<String, String>,
        deadline: Instant,
    ) -> Result<String, StoreError> {
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

    /// Whether what was written is what consumers get. A newer token that came in between is put on top again: whoever
    /// wrote it believes that it is there.
    async fn look_back(&self, name: &str, mark: &Mark, before: &[Version], written: &str) -> Result<(), StoreError> {
        let mut versions = self.versions(name).await?;
        let there = versions.iter().any(|version| version.id == written);
        versions.retain(|version| version.id != written && !before.iter().any(|known| known.id == version.id));
        if there && versions.is_empty() {
            return Ok(());
        }
        match self.newest(name).await? {
            Newest::Value(version, _) if version.id == written => {}
            _ => return Err(changed(name)),
        }
        let Some(newer) = newest_of(&versions, |version| version.enabled && version.is_newer(mark)) else {
            return Ok(());
        };
        self.put_again(name, &newer.id).await?;
        Err(changed(name))
    }

    async fn put_again(&self, name: &str, version: &str) -> Result<(), StoreError> {
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
    ) -> Result<(), StoreError> {
        let version = Some(version.to_owned());
        let options = SecretClientUpdateSecretPropertiesOptions { secret_version: version, ..Default::default() };
        match self.call(self.client.update_secret_properties(name, content(&change)?, Some(options))).await {
            // It is gone with all its versions.
            Err(failed) if failed.is(State::NotFound) => Ok(()),
            answer => Ok(answer.map(drop)?),
        }
    }

    /// Corrects the mark of a version whose value is the right one.
    async fn mark(&self, name: &str, version: &Version, mark: &Mark) -> Result<(), StoreError> {
        if version.mark.as_ref() == Some(mark) {
            return Ok(());
        }
        let tags = Some(marked(version.tags.clone(), mark));
        let secret_attributes = Some(attributes(mark));
        let change = UpdateSecretPropertiesParameters { tags, secret_attributes, ..Default::default() };
        self.update(name, &version.id, change).await
    }
}

#[async_trait]
impl Store for KeyVault {
    async fn read(&self, path: &str) -> Result<Held, StoreError> {
        let name = name(path)?;
        let newest = self.newest(name).await?;
        let versions = match newest {
            Newest::Absent | Newest::Deleted(_) => vec![],
            Newest::Disabled | Newest::Value(..) => self.versions(name).await?,
        };
        Ok(newest.held(&versions))
    }

    async fn write(&self, path: &str, value: &Value<'_>, over: &Held) -> Result<String, StoreError> {
        let (name, deadline) = (name(path)?, Instant::now() + self.timeout / 2);
        let mut newest = self.newest(name).await?;
        if !newest.is(value) && !newest.still(over) {
            return Err(changed(name));
        }
        if matches!(newest, Newest::Deleted(_)) {
            newest = self.recover(name, deadline).await?;
        }
        if let Newest::Value(version, _) = &newest
            && newest.is(value)
        {
            self.mark(name, version, value.mark).await?;
            return Ok(version.id.clone());
        }
        let before = match newest {
            Newest::Absent => vec![],
            _ => self.versions(name).await?,
        };
        let written = self.put(name, value, newest.into_tags(), deadline).await?;
        self.look_back(name, value.mark, &before, &written).await?;
        Ok(written)
    }

    async fn retire(&self, path: &str, held: &Held, keep: &BTreeSet<String>) -> Result<(), StoreError> {
        let name = name(path)?;
        // In this order: what is listed before the newest one is looked at is older than that.
        let versions = self.versions(name).await?;
        match self.newest(name).await? {
            Newest::Absent | Newest::Deleted(_) => return Ok(()),
            newest if newest.still(held) => {}
            _ => return Err(changed(name)),
        }
        let older = versions.iter().filter(|version| version.enabled && Some(&version.id) != held.version.as_ref());
        for version in older.filter(|version| version.is_over(keep)) {
            let secret_attributes = Some(SecretAttributes { enabled: Some(false), ..Default::default() });
            let change = UpdateSecretPropertiesParameters { secret_attributes, ..Default::default() };
            self.update(name, &version.id, change).await?;
        }
        Ok(())
    }

    async fn delete(&self, path: &str, held: &Held) -> Result<(), StoreError> {
        let name = name(path)?;
        match self.newest(name).await? {
            Newest::Absent | Newest::Deleted(_) => return Ok(()),
            newest if newest.still(held) => {}
            _ => return Err(changed(name)),
        }
        match self.call(self.client.delete_secret(name, None)).await {
            Err(failed) if failed.is(State::NotFound) || failed.is(State::BeingDeleted) => Ok(()),
            answer => Ok(answer.map(drop)?),
        }
    }

    async fn check(&self) -> Result<(), StoreError> {
        match self.call(self.client.get_secret(PROBE, None)).await {
            Err(failed) if failed.is(State::NotFound) || failed.is(State::Disabled) => Ok(()),
            answer => Ok(answer.map(drop)?),
        }
    }
}

/// A URL of the specification, which must be https: access tokens go there.
fn https(field: &str, url: &str, network: Network) -> Result<Url, StoreError> {
    let url = network.endpoint(url)?;
    if url.scheme() == "https" {
        return Ok(url);
    }
    let message = format!("spec.azureKeyVault.{field} must begin with https://");
    Err(StoreError::new(ErrorKind::Invalid, "InvalidEndpoint", message))
}

/// A name of a secret, which the SDK puts into URLs as it is.
fn name(path: &str) -> Result<&str, StoreError> {
    if (1..=127).contains(&path.len()) && path.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Ok(path);
    }
    let message = format!("{path} cannot be a secret's name: these have 1 to 127 letters, digits and '-'");
    Err(StoreError::new(ErrorKind::Invalid, "InvalidPath", message))
}

fn current(secret: Secret) -> Result<Newest, StoreError> {
    Ok(Newest::Value(read_version(&secret)?, secret.value.ok_or_else(error::unreadable)?.into()))
}

fn read_version(secret: &Secret) -> Result<Version, StoreError> {
    Version::new(secret, secret.attributes.as_ref(), secret.tags.clone())
}

fn model<T: DeserializeOwned>(answer: Response<T>) -> Result<T, StoreError> {
    answer.into_model().map_err(|_| error::unreadable())
}

fn content<T: serde::Serialize>(parameters: &T) -> Result<RequestContent<T>, StoreError> {
    let body = serde_json::to_vec(parameters);
    body.map(RequestContent::from).map_err(|_| StoreError::new(ErrorKind::Invalid, "InvalidRequest", "no JSON"))
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

async fn pause(name: &str, deadline: Instant) -> Result<(), StoreError> {
    if Instant::now() + PAUSE >= deadline {
        let message = format!("{name} is being recovered, which takes a while");
        return Err(StoreError::new(ErrorKind::Conflict, error::BEING_RECOVERED, message));
    }
    sleep(PAUSE).await;
    Ok(())
}

fn changed(name: &str) -> StoreError {
    StoreError::new(ErrorKind::Conflict, "Changed", format!("{name} has changed since it was read"))
}
