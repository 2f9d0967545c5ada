//! Azure Key Vault: a secret whose value is the token, with the mark as tags of each version.
//!
//! Value and mark are one call, so a version always tells whose it is. There is no compare-and-set: a writer looks before
//! and after it writes. If somebody else came in between it reports a conflict, and puts a newer token than its own on top
//! again. Only a writer that dies right after a late write leaves it there until the next look. A deleted secret blocks its
//! name; it is recovered, then written. Nothing is ever purged.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::http::{ClientOptions, RetryOptions, Url};
use azure_security_keyvault_secrets::{SecretClient, SecretClientOptions};
use tokio::time::Instant;

use super::{ErrorKind, Held, Identity, Mark, Network, ProviderError, Store, Value};
use crate::api::AzureKeyVault;

mod calls;
mod error;
mod login;
mod version;
mod wire;

use calls::{Calls, changed};
use login::Login;
use version::{Newest, Version, newest_of};

/// A name that nobody uses, to see whether names can be read at all.
const PROBE: &str = "virtual-account-operator-check";
/// A key vault.
pub struct KeyVault(Calls);

impl KeyVault {
    /// Reads what the specification names; logs in at first use.
    pub async fn open(
        spec: &AzureKeyVault,
        identity: Arc<dyn Identity>,
        network: Network,
    ) -> Result<Self, ProviderError> {
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
        Ok(Self(Calls { client, timeout: network.timeout }))
    }

    /// Whether what was written is what consumers get. A newer token that came in between is put on top again: whoever
    /// wrote it believes that it is there.
    async fn look_back(&self, name: &str, mark: &Mark, before: &[Version], written: &str) -> Result<(), ProviderError> {
        let mut versions = self.0.versions(name).await?;
        let there = versions.iter().any(|version| version.id == written);
        versions.retain(|version| version.id != written && !before.iter().any(|known| known.id == version.id));
        if there && versions.is_empty() {
            return Ok(());
        }
        match self.0.newest(name).await? {
            Newest::Value(version, _) if version.id == written => {}
            _ => return Err(changed(name)),
        }
        let Some(newer) = newest_of(&versions, |version| version.enabled && version.is_newer(mark)) else {
            return Ok(());
        };
        self.0.put_again(name, &newer.id).await?;
        Err(changed(name))
    }
}

#[async_trait]
impl Store for KeyVault {
    async fn read(&self, path: &str) -> Result<Held, ProviderError> {
        let name = name(path)?;
        let newest = self.0.newest(name).await?;
        let versions = match newest {
            Newest::Absent | Newest::Deleted(_) => vec![],
            Newest::Disabled | Newest::Value(..) => self.0.versions(name).await?,
        };
        Ok(newest.held(&versions))
    }

    async fn write(&self, path: &str, value: &Value<'_>, over: &Held) -> Result<String, ProviderError> {
        // A recovery may take half of the time: what comes after it needs some too.
        let (name, deadline) = (name(path)?, Instant::now() + self.0.timeout / 2);
        // In this order, so that what comes after the list is noticed.
        let mut before = self.0.versions(name).await?;
        let mut newest = self.0.newest(name).await?;
        if !newest.is(value) && !newest.still(over) {
            return Err(changed(name));
        }
        if let Newest::Deleted(_) = newest {
            self.0.recover(name, deadline).await?;
            before = self.0.versions(name).await?;
            newest = self.0.newest(name).await?;
            if !newest.is_recovered(over) {
                return Err(changed(name));
            }
        }
        if let Newest::Value(version, _) = &newest
            && newest.is(value)
        {
            self.0.mark(name, version, value.mark).await?;
            return Ok(version.id.clone());
        }
        let written = self.0.put(name, value, newest.into_tags(), deadline).await?;
        self.look_back(name, value.mark, &before, &written).await?;
        Ok(written)
    }

    async fn retire(&self, path: &str, held: &Held, keep: &BTreeSet<String>) -> Result<(), ProviderError> {
        let name = name(path)?;
        // In this order: what is listed before the newest one is looked at is older than that.
        let versions = self.0.versions(name).await?;
        match self.0.newest(name).await? {
            Newest::Absent | Newest::Deleted(_) => return Ok(()),
            newest if newest.still(held) => {}
            _ => return Err(changed(name)),
        }
        let older = versions.iter().filter(|version| version.enabled && Some(&version.id) != held.version.as_ref());
        for version in older.filter(|version| version.is_over(keep)) {
            self.0.disable(name, &version.id).await?;
        }
        Ok(())
    }

    async fn delete(&self, path: &str, held: &Held) -> Result<(), ProviderError> {
        let name = name(path)?;
        match self.0.newest(name).await? {
            Newest::Absent | Newest::Deleted(_) => return Ok(()),
            newest if newest.still(held) => {}
            _ => return Err(changed(name)),
        }
        self.0.delete(name).await
    }

    async fn check(&self) -> Result<(), ProviderError> {
        self.0.probe(PROBE).await
    }
}

/// A URL of the specification, which must be https: access tokens go there.
fn https(field: &str, url: &str, network: Network) -> Result<Url, ProviderError> {
    let url = network.endpoint(url)?;
    if url.scheme() == "https" {
        return Ok(url);
    }
    let message = format!("spec.azureKeyVault.{field} must begin with https://");
    Err(ProviderError::new(ErrorKind::Invalid, "InvalidEndpoint", message))
}

/// A name of a secret, which the SDK puts into URLs as it is.
fn name(path: &str) -> Result<&str, ProviderError> {
    if (1..=127).contains(&path.len()) && path.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Ok(path);
    }
    let message = format!("{path} cannot be a secret's name: these have 1 to 127 letters, digits and '-'");
    Err(ProviderError::new(ErrorKind::Invalid, "InvalidPath", message))
}
