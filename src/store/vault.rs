//! HashiCorp Vault and OpenBao: a KV version 2 secrets engine.
//!
//! The value has the keys `token`, `jti` and `expires-at`; the mark is custom metadata of the secret. These are two calls,
//! always in this order: the value, with compare-and-set, then the mark. So nothing of others is ever touched: the first
//! write succeeds only where nothing was, and the mark is patched onto what exists, so it neither creates a secret nor
//! drops somebody else's metadata. A writer that dies in between leaves a value that tells its own `jti`, and writing the
//! same token again adds the mark alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use rustify::Endpoint;
use serde_json::json;
use tokio::sync::OnceCell;
use vaultrs::api::kv2::requests::{
    DeleteSecretMetadataRequest, DeleteSecretVersionsRequest, ReadSecretMetadataRequest, ReadSecretRequest,
    SetSecretRequest, SetSecretRequestOptions,
};
use vaultrs::api::kv2::responses::{ReadSecretMetadataResponse, SecretMetadata};

use super::{ErrorKind, Held, Identity, Mark, Network, Presence, ProviderError, Store, Value, digest};
use crate::api::{HashicorpVault, Instant, Seconds};
use crate::clock;

mod requests;
mod session;
mod transport;

use requests::{ReadMount, SetMark};
use session::Sessions;
use transport::{Answer, Transport};

const DEFAULT_MOUNT: &str = "secret";
/// A deletion that is this near counts as done: Vault's clock may differ from ours.
const SOON: Seconds = Seconds::minutes(1);

/// A KV version 2 secrets engine.
pub struct Vault {
    transport: Transport,
    sessions: Sessions,
    mount: String,
    /// Set once the mount was seen to be what it must be: elsewhere, paths would mean something else.
    mounted: OnceCell<()>,
}

/// The secret's metadata, as far as it matters.
struct Metadata {
    mark: Option<Mark>,
    current: u64,
    /// Older versions that can still be used.
    older: Vec<u64>,
}

/// One version's value.
struct Content {
    token: String,
    jti: Option<String>,
    expires_at: Option<String>,
}

impl Vault {
    /// Reads what the specification names; logs in at first use.
    pub async fn open(
        spec: &HashicorpVault,
        identity: Arc<dyn Identity>,
        network: Network,
    ) -> Result<Self, ProviderError> {
        let ca = match &spec.ca_bundle {
            Some(key) => Some(identity.secret(key).await?),
            None => None,
        };
        let address = network.endpoint(&spec.address)?;
        let client = network.client(ca.as_ref().map(super::Credential::expose))?;
        let mount = transport::mount("spec.hashicorpVault.mount", spec.mount.as_deref().unwrap_or(DEFAULT_MOUNT))?;
        Ok(Self {
            transport: Transport::new(client, &address, spec.namespace.clone())?,
            sessions: Sessions::new(&spec.auth, identity)?,
            mount,
            mounted: OnceCell::new(),
        })
    }

    /// One request, logged in. If it is refused, once more after a fresh login: the token may have been revoked.
    async fn call<E: Endpoint>(&self, endpoint: &E) -> Result<Option<Answer<E::Response>>, ProviderError> {
        let session = self.sessions.current(&self.transport).await?;
        match self.transport.call(Some(session.token()), endpoint).await {
            Err(error) if error.kind == ErrorKind::Denied => {
                let session = self.sessions.instead_of(&session, &self.transport).await?;
                self.transport.call(Some(session.token()), endpoint).await
            }
            answer => answer,
        }
    }

    /// Whether the mount is there and a KV engine of version 2.
    async fn look_at_mount(&self) -> Result<(), ProviderError> {
        let answer = match self.call(&ReadMount { mount: self.mount.clone() }).await {
            Err(error) if error.reason == transport::MOUNT_NOT_FOUND => None,
            answer => answer?,
        };
        match answer.and_then(|answer| answer.data) {
            Some(mount) => requests::is_kv2(&self.mount, &mount),
            None => Err(requests::no_mount(&self.mount)),
        }
    }

    /// The name in Vault, on a mount that was looked at once.
    async fn name(&self, path: &str) -> Result<String, ProviderError> {
        self.mounted.get_or_try_init(|| self.look_at_mount()).await?;
        Ok(path.trim_start_matches('/').to_owned())
    }

    async fn metadata(&self, name: &str) -> Result<Option<Metadata>, ProviderError> {
        let request = ReadSecretMetadataRequest { mount: self.mount.clone(), path: name.to_owned() };
        let answer = self.call(&request).await?;
        Ok(answer.and_then(|answer| answer.data).map(|metadata| Metadata::parse(&metadata, clock::now())))
    }

    /// A version's value; `None` if that was deleted.
    async fn content(&self, name: &str, version: u64) -> Result<Option<Content>, ProviderError> {
        let request = ReadSecretRequest { mount: self.mount.clone(), path: name.to_owned(), version: Some(version) };
        let answer = self.call(&request).await?;
        Ok(answer.and_then(|answer| answer.data).map(|read| Content::parse(&read.data)))
    }

    /// A new version, if the current one still is the one that was seen.
    async fn put(&self, name: &str, value: &Value<'_>, over: &Held) -> Result<String, ProviderError> {
        let seen = over.version.as_deref().unwrap_or("0");
        let cas = seen.parse().map_err(|_| changed(name))?;
        let data = json!({
            "token": value.token.expose(),
            "jti": value.mark.jti,
            "expires-at": value.mark.expires_at,
        });
        let request = SetSecretRequest {
            mount: self.mount.clone(),
            path: name.to_owned(),
            data,
            options: Some(SetSecretRequestOptions { cas }),
        };
        let answer = self.call(&request).await?.and_then(|answer| answer.data);
        answer.map(|written| written.version.to_string()).ok_or_else(transport::unreadable)
    }

    /// The metadata, if it is still the same owner's.
    async fn still(&self, name: &str, held: &Held) -> Result<Option<Metadata>, ProviderError> {
        let Some(metadata) = self.metadata(name).await? else { return Ok(None) };
        let owner = |mark: &Option<Mark>| mark.as_ref().map(|mark| mark.owner.clone());
        if owner(&metadata.mark) == owner(&held.mark) { Ok(Some(metadata)) } else { Err(changed(name)) }
    }
}

#[async_trait]
impl Store for Vault {
    async fn read(&self, path: &str) -> Result<Held, ProviderError> {
        let name = self.name(path).await?;
        let Some(metadata) = self.metadata(&name).await? else { return Ok(Held::default()) };
        let content = match metadata.current {
            0 => None,
            current => self.content(&name, current).await?,
        };
        Ok(held(metadata, content))
    }

    async fn write(&self, path: &str, value: &Value<'_>, over: &Held) -> Result<String, ProviderError> {
        let name = self.name(path).await?;
        let there = over.jti.as_ref() == Some(&value.mark.jti) && over.digest == Some(digest(value.token.expose()));
        let version = match &over.version {
            Some(version) if there => version.clone(),
            _ => self.put(&name, value, over).await?,
        };
        if over.mark.as_ref() != Some(value.mark) {
            let request = SetMark::new(&self.mount, &name, value.mark);
            self.call(&request).await?.ok_or_else(|| changed(&name))?;
        }
        Ok(version)
    }

    async fn retire(&self, path: &str, held: &Held, keep: &BTreeSet<String>) -> Result<(), ProviderError> {
        let name = self.name(path).await?;
        let Some(metadata) = self.still(&name, held).await? else { return Ok(()) };
        let seen = held.version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0);
        let mut versions = Vec::new();
        for version in metadata.older.into_iter().filter(|version| *version < seen) {
            if keep.is_empty() || self.is_over(&name, version, keep).await? {
                versions.push(version);
            }
        }
        if !versions.is_empty() {
            self.call(&DeleteSecretVersionsRequest { mount: self.mount.clone(), path: name, versions }).await?;
        }
        Ok(())
    }

    async fn delete(&self, path: &str, held: &Held) -> Result<(), ProviderError> {
        let name = self.name(path).await?;
        let Some(metadata) = self.still(&name, held).await? else { return Ok(()) };
        if Some(metadata.current.to_string()) != held.version {
            return Err(changed(&name));
        }
        self.call(&DeleteSecretMetadataRequest { mount: self.mount.clone(), path: name }).await?;
        Ok(())
    }

    async fn check(&self) -> Result<(), ProviderError> {
        self.look_at_mount().await
    }
}

impl Vault {
    /// Whether the token in a version is known not to be one of `keep`.
    async fn is_over(&self, name: &str, version: u64, keep: &BTreeSet<String>) -> Result<bool, ProviderError> {
        let content = self.content(name, version).await?;
        Ok(content.and_then(|content| content.jti).is_some_and(|jti| !keep.contains(&jti)))
    }
}

impl Metadata {
    fn parse(metadata: &ReadSecretMetadataResponse, now: Instant) -> Self {
        let empty = HashMap::new();
        let custom = metadata.custom_metadata.as_ref().unwrap_or(&empty);
        let current = metadata.current_version;
        let numbered = |(number, version)| Some((str::parse::<u64>(number).ok()?, version));
        let versions: BTreeMap<u64, &SecretMetadata> =
            metadata.versions.iter().filter_map(|(number, version)| numbered((number.as_str(), version))).collect();
        let usable = versions.range(..current).filter(|(_, version)| is_usable(version, now));
        Self {
            mark: Mark::parse(|name| custom.get(name).map(String::as_str)),
            current,
            older: usable.map(|(number, _)| *number).collect(),
        }
    }
}

impl Content {
    fn parse(data: &serde_json::Value) -> Self {
        let text = |key: &str| data[key].as_str().map(str::to_owned);
        Self { token: text("token").unwrap_or_default(), jti: text("jti"), expires_at: text("expires-at") }
    }
}

fn held(metadata: Metadata, content: Option<Content>) -> Held {
    let digest = content.as_ref().map(|content| digest(&content.token));
    let jti = content.and_then(|content| {
        let mark = metadata.mark.as_ref().filter(|mark| Some(&mark.jti) == content.jti.as_ref());
        let end = mark.map(|mark| mark.expires_at.to_string());
        // A wrong end beside the right token is somebody else's work.
        content.jti.filter(|_| end.is_none() || end == content.expires_at)
    });
    Held {
        presence: Presence::Present,
        mark: metadata.mark,
        jti,
        digest,
        version: Some(metadata.current.to_string()),
        older: !metadata.older.is_empty(),
    }
}

/// A version with `delete_version_after` has an instant of deletion that lies ahead.
fn is_usable(version: &SecretMetadata, now: Instant) -> bool {
    let deleted = match version.deletion_time.as_str() {
        "" => false,
        time => time.parse::<Instant>().is_ok_and(|time| time <= now + SOON),
    };
    !version.destroyed && !deleted
}

fn changed(name: &str) -> ProviderError {
    ProviderError::new(ErrorKind::Conflict, "Changed", format!("{name} has changed since it was read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Owner;

    fn metadata(versions: &[(&str, &str, bool)]) -> ReadSecretMetadataResponse {
        let versions: serde_json::Map<String, serde_json::Value> = versions
            .iter()
            .map(|(number, deletion_time, destroyed)| {
                let version = json!({"created_time": "", "deletion_time": deletion_time, "destroyed": destroyed});
                ((*number).to_owned(), version)
            })
            .collect();
        let current = versions.len();
        serde_json::from_value(json!({
            "cas_required": false, "created_time": "", "current_version": current, "delete_version_after": "0s",
            "max_versions": 0, "oldest_version": 0, "updated_time": "", "custom_metadata": null, "versions": versions,
        }))
        .unwrap()
    }

    fn content(token: &str, jti: &str, expires_at: &str) -> Option<Content> {
        Some(Content::parse(&json!({"token": token, "jti": jti, "expires-at": expires_at})))
    }

    fn marked() -> Metadata {
        let owner = Owner { cluster: "c".into(), account: "shop/cart".into(), uid: "u".into() };
        let mark = Mark { owner, jti: "one".into(), sequence: 1, expires_at: Instant::from_unix(60) };
        Metadata { mark: Some(mark), current: 1, older: vec![] }
    }

    #[test]
    fn older_versions_count_until_they_are_deleted() {
        let now: Instant = "2026-11-22T09:30:00Z".parse().unwrap();
        let versions = [
            ("1", "2026-11-22T09:29:59.123456789Z", false),
            ("2", "", true),
            ("3", "", false),
            ("4", "2026-11-22T09:30:30Z", false),
            ("5", "2027-11-22T09:30:00Z", false),
            ("6", "", false),
        ];
        assert_eq!(Metadata::parse(&metadata(&versions), now).older, [3, 5]);
    }

    #[test]
    fn a_value_tells_its_own_jti_and_a_wrong_end_makes_it_somebody_elses() {
        let end = "1970-01-01T00:01:00Z";
        assert_eq!(held(marked(), content("t", "one", end)).jti.as_deref(), Some("one"));
        assert_eq!(held(marked(), content("t", "one", "never")).jti, None);
        // The mark lags behind: its end is that of another token.
        assert_eq!(held(marked(), content("t", "two", "1970-01-01T00:02:00Z")).jti.as_deref(), Some("two"));
    }

    #[test]
    fn a_value_without_token_is_not_taken_for_one_that_nobody_can_read() {
        let parsed = Content::parse(&json!({"jti": "one", "expires-at": "1970-01-01T00:01:00Z"}));
        assert_eq!(held(marked(), Some(parsed)).digest, Some(digest("")));
        assert_eq!(held(marked(), None).digest, None);
    }
}
