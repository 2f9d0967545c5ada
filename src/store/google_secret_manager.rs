//! Google Secret Manager: the newest version of a secret is the token.
//!
//! A version has no metadata, so the secret's annotations say whose it is and which version holds which token (`record`).
//! A write is two calls, always in this order: the version is added, then the annotations are changed, if the secret
//! still has the etag that it was read with. So a writer that dies in between leaves a version that nobody knows; writing
//! the same token again finds it by its value and changes the annotations alone.
//!
//! Adding a version has no condition. A writer that freezes right before it puts an older token on top; it then fails at
//! the etag, and puts the newer token back on top itself. If it dies before that, the next look shows a version that is
//! not recorded, and the token is written again.
//!
//! Lists and `latest` may lag behind by minutes; a version by its number does not. So the newest version is found by
//! asking for the number after the highest that is known.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use google_cloud_secretmanager_v1::model::replication::user_managed::Replica;
use google_cloud_secretmanager_v1::model::replication::{Automatic, UserManaged};
use google_cloud_secretmanager_v1::model::{CustomerManagedEncryption, Replication, Secret};

use super::{ErrorKind, Held, Identity, Mark, Network, Presence, ProviderError, Store, Value, digest};
use crate::api::GoogleSecretManager as Spec;

mod api;
mod error;
mod login;
mod record;
mod token_endpoint;

use api::{Api, Content};
use record::Record;

/// The longest name of a secret.
const LONGEST: usize = 255;
/// The secret that a check asks for. It does not exist.
const PROBE: &str = "virtual-account-operator-check";
/// So many versions after the highest known one are looked for; more, and somebody else is at work.
const UNKNOWN: u64 = 64;

/// The secrets of a Google project.
pub struct GoogleSecretManager {
    api: Api,
    replication: Replication,
    probe: String,
}

/// A secret and its versions as they were seen.
struct Look {
    secret: Secret,
    record: Record,
    /// The highest number of a version; 0: there is none.
    newest: u64,
    /// The newest version's value, if that can be used: its digest, and the token it is.
    digest: Option<[u8; 32]>,
    jti: Option<String>,
    /// Whether an older version can be used.
    older: bool,
}

impl GoogleSecretManager {
    /// Reads what the specification names; logs in at first use. `prefix` is the TokenStore's pathPrefix.
    pub async fn open(
        spec: &Spec,
        prefix: Option<&str>,
        identity: Arc<dyn Identity>,
        network: Network,
    ) -> Result<Self, ProviderError> {
        let api = Api::open(spec, identity, network).await?;
        Ok(Self { api, replication: replication(spec), probe: probe(prefix) })
    }

    async fn look(&self, id: &str) -> Result<Option<Look>, ProviderError> {
        let Some(secret) = self.api.secret(id).await? else { return Ok(None) };
        let record = Record::of(&secret);
        let enabled = self.api.enabled(id).await?;
        let known = enabled.first().copied().unwrap_or(0);
        let newest = self.newest(id, known.max(record.newest()), known).await?;
        let (mut digest, mut jti) = (None, None);
        if newest > 0
            && let Content::Value(value) = self.api.content(id, newest).await?
        {
            digest = Some(digest_of(&value));
            jti = record.jti(newest).map(str::to_owned).or_else(|| record::claimed(&value));
        }
        let older = enabled.iter().any(|version| *version < newest);
        Ok(Some(Look { secret, record, newest, digest, jti, older }))
    }

    /// The highest number of a version. `from` is recorded or listed; `listed` is there for sure.
    async fn newest(&self, id: &str, from: u64, listed: u64) -> Result<u64, ProviderError> {
        // Somebody may have made the secret anew and kept the annotations.
        let mut newest = if from == listed || self.api.exists(id, from).await? { from } else { listed };
        for _ in 0..UNKNOWN {
            if !self.api.exists(id, newest + 1).await? {
                break;
            }
            newest += 1;
        }
        Ok(newest)
    }

    /// A new secret with its mark and no value.
    async fn create(&self, id: &str, mark: &Mark) -> Result<Look, ProviderError> {
        let mut record = Record::default();
        record.advance(mark, None);
        let secret = record.write(Secret::new().set_replication(self.replication.clone()));
        let secret = self.api.create(id, &secret).await?;
        Ok(Look { secret, record, newest: 0, digest: None, jti: None, older: false })
    }

    /// The token that a version holds, as its value says.
    async fn claimed(&self, id: &str, version: u64) -> Result<Option<String>, ProviderError> {
        Ok(match self.api.content(id, version).await? {
            Content::Value(value) => record::claimed(&value),
            Content::Ended | Content::Missing => None,
        })
    }

    /// The annotations say that this version holds the marked token.
    async fn record(&self, look: Look, mark: &Mark, version: u64) -> Result<(), ProviderError> {
        let Look { secret, mut record, .. } = look;
        let before = record.clone();
        record.advance(mark, Some(version));
        if record == before {
            return Ok(());
        }
        self.api.annotate(&record.write(secret)).await.map(drop)
    }

    /// After a conflict: if the version that was just added hides a newer token from consumers, that token is added again
    /// and ours ended. Should any of this fail, the next look puts it right.
    async fn give_way(&self, id: &str, ours: &Mark, added: u64) -> Result<(), ProviderError> {
        let Some(look) = self.look(id).await? else { return Ok(()) };
        let newer = |mark: &&Mark| mark.owner.same_account(&ours.owner) && mark.sequence > ours.sequence;
        let (Some(mark), Some(version)) = (look.record.mark.as_ref().filter(newer).cloned(), look.record.marked())
        else {
            return Ok(());
        };
        if look.newest == added {
            let Content::Value(value) = self.api.content(id, version).await? else { return Ok(()) };
            let again = self.api.add(id, &value).await?;
            self.record(look, &mark, again).await?;
        }
        self.api.disable(id, added).await
    }
}

impl Look {
    fn held(&self) -> Held {
        Held {
            presence: Presence::Present,
            mark: self.record.mark.clone(),
            jti: self.jti.clone(),
            digest: self.digest,
            version: (self.newest > 0).then(|| self.newest.to_string()),
            older: self.older,
        }
    }

    /// Whether it still is as it was seen. That `mark` was written since, by a call whose answer was lost, does not matter.
    fn still(&self, seen: &Held, mark: Option<&Mark>) -> Result<(), ProviderError> {
        let now = self.held();
        if now.version == seen.version && (now.mark == seen.mark || (mark.is_some() && now.mark.as_ref() == mark)) {
            return Ok(());
        }
        Err(changed())
    }
}

#[async_trait]
impl Store for GoogleSecretManager {
    async fn read(&self, path: &str) -> Result<Held, ProviderError> {
        Ok(self.look(name(path)?).await?.map_or_else(Held::default, |look| look.held()))
    }

    async fn write(&self, path: &str, value: &Value<'_>, over: &Held) -> Result<String, ProviderError> {
        let (id, token) = (name(path)?, value.token.expose());
        let look = match over.presence {
            Presence::Absent => self.create(id, value.mark).await?,
            Presence::Deleted | Presence::Present => {
                let look = self.look(id).await?.ok_or_else(changed)?;
                look.still(over, Some(value.mark))?;
                look
            }
        };
        if look.digest == Some(digest(token)) {
            let newest = look.newest;
            self.record(look, value.mark, newest).await?;
            return Ok(newest.to_string());
        }
        let added = self.api.add(id, token.as_bytes()).await?;
        match self.record(look, value.mark, added).await {
            Ok(()) => Ok(added.to_string()),
            Err(error) => {
                if error.kind == ErrorKind::Conflict {
                    let _ = self.give_way(id, value.mark, added).await;
                }
                Err(error)
            }
        }
    }

    async fn retire(&self, path: &str, held: &Held, keep: &BTreeSet<String>) -> Result<(), ProviderError> {
        let id = name(path)?;
        let current: u64 = held.version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0);
        let Some(secret) = self.api.secret(id).await? else { return Ok(()) };
        let record = Record::of(&secret);
        for version in self.api.enabled(id).await?.into_iter().filter(|version| *version < current) {
            let jti = match record.jti(version) {
                Some(jti) => Some(jti.to_owned()),
                None => self.claimed(id, version).await?,
            };
            if !jti.map_or(!keep.is_empty(), |jti| keep.contains(&jti)) {
                self.api.disable(id, version).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, path: &str, held: &Held) -> Result<(), ProviderError> {
        let id = name(path)?;
        let Some(look) = self.look(id).await? else { return Ok(()) };
        look.still(held, None)?;
        self.api.delete(id, &look.secret.etag).await
    }

    async fn check(&self) -> Result<(), ProviderError> {
        self.api.secret(&self.probe).await.map(drop)
    }
}

/// A secret's name, which is not looked at by Google alone: it becomes part of URLs.
fn name(path: &str) -> Result<&str, ProviderError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if (1..=LONGEST).contains(&path.len()) && path.chars().all(plain) {
        return Ok(path);
    }
    let message = format!("a secret of Google Secret Manager has a name of 1 to {LONGEST} letters, digits, - and _");
    Err(ProviderError::new(ErrorKind::Invalid, "InvalidPath", message))
}

/// The probe stands where the least policy allows asking: below the part of the prefix that all namespaces share.
fn probe(prefix: Option<&str>) -> String {
    let shared = prefix.unwrap_or_default().split('{').next().unwrap_or_default();
    let probe = format!("{}{PROBE}", shared.trim_start_matches('/').replace('/', "--"));
    if probe.len() <= LONGEST { probe } else { PROBE.to_owned() }
}

fn replication(spec: &Spec) -> Replication {
    let key = |location: &str| {
        let key = spec.kms_key.as_ref()?;
        Some(CustomerManagedEncryption::new().set_kms_key_name(key.replace("{location}", location)))
    };
    let replica = |location: &String| {
        Replica::new().set_location(location).set_or_clear_customer_managed_encryption(key(location))
    };
    match &spec.locations {
        Some(locations) => {
            Replication::new().set_user_managed(UserManaged::new().set_replicas(locations.iter().map(replica)))
        }
        None => {
            Replication::new().set_automatic(Automatic::new().set_or_clear_customer_managed_encryption(key("global")))
        }
    }
}

fn digest_of(value: &[u8]) -> [u8; 32] {
    // A value that is no text is not a token, and no token's digest.
    std::str::from_utf8(value).map_or([0; 32], digest)
}

fn changed() -> ProviderError {
    ProviderError::new(ErrorKind::Conflict, "Changed", "the secret was changed since it was read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_asks_below_the_shared_part_of_the_prefix() {
        for (prefix, expected) in [
            (None, "virtual-account-operator-check"),
            (Some("/"), "virtual-account-operator-check"),
            (Some("/{namespace}/"), "virtual-account-operator-check"),
            (Some("/team/{namespace}/"), "team--virtual-account-operator-check"),
            (Some("/team/a/"), "team--a--virtual-account-operator-check"),
        ] {
            assert_eq!(probe(prefix), expected, "{prefix:?}");
        }
        assert_eq!(probe(Some(&format!("/{}/", "a".repeat(250)))), PROBE);
    }

    #[test]
    fn only_names_that_google_has_are_asked_for() {
        let longest = "a".repeat(LONGEST);
        assert!(name(&longest).is_ok() && name("team--App_1").is_ok());
        for path in ["", "a/b", "a b", "a:b", "..", "é", &format!("{longest}a")] {
            assert_eq!(name(path).unwrap_err().reason, "InvalidPath", "{path}");
        }
    }

    #[test]
    fn a_key_is_named_for_each_location() {
        let key = "projects/p/locations/{location}/keyRings/r/cryptoKeys/k".to_owned();
        let spec = Spec { kms_key: Some(key), ..Spec::default() };
        let automatic = replication(&spec);
        let named = automatic.automatic().unwrap().customer_managed_encryption.as_ref().unwrap();
        assert_eq!(named.kms_key_name, "projects/p/locations/global/keyRings/r/cryptoKeys/k");
        let here = replication(&Spec { locations: Some(vec!["europe-west3".into()]), ..spec });
        let replica = &here.user_managed().unwrap().replicas[0];
        let named = &replica.customer_managed_encryption.as_ref().unwrap().kms_key_name;
        assert_eq!(
            (&*replica.location, &**named),
            ("europe-west3", "projects/p/locations/europe-west3/keyRings/r/cryptoKeys/k")
        );
        let plain = replication(&Spec::default());
        assert!(plain.automatic().unwrap().customer_managed_encryption.is_none());
    }
}
