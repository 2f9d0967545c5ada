//! AWS Secrets Manager: the value is the bare token, the mark is in the secret's tags, and the version's id tells its jti.
//!
//! A version's id is the `ClientRequestToken` of the request that put it, so the same token never makes two versions. A
//! new version is put under a label of ours, and then `AWSCURRENT` is moved to it *from the version that was seen*, which
//! Secrets Manager refuses if another is current by then. Every step may be the last one before a crash: the next
//! [`Store::write`] of the same token repeats what is done already without effect, and does the rest.
//!
//! ```text
//!  put (our label) -> move AWSCURRENT -> tags -> drop our label
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::operation::describe_secret::DescribeSecretOutput;
use aws_sdk_secretsmanager::types::Tag;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::aws::{Place, Session, probe};
use super::{ErrorKind, Held, Identity, Mark, Network, Presence, ProviderError, Store, Value};
use crate::api::AwsSecretsManager;
use crate::fingerprint::fingerprint;

/// Where a version stands until it is current.
const OURS: &str = "VIRTUALACCOUNTS";
const CURRENT: &str = "AWSCURRENT";
const PREVIOUS: &str = "AWSPREVIOUS";
const RECOVERY_WINDOW_DAYS: i32 = 30;

/// A region of AWS Secrets Manager, used with one identity.
pub struct SecretsManager {
    session: Session<Client>,
    kms_key_id: Option<String>,
    recovery_window_days: i32,
    probe: String,
}

impl SecretsManager {
    /// Checks the settings; nothing is called yet. `prefix` is the TokenStore's pathPrefix.
    pub fn open(
        spec: &AwsSecretsManager,
        prefix: Option<&str>,
        identity: Arc<dyn Identity>,
        network: Network,
    ) -> Result<Self, ProviderError> {
        let place = Place {
            region: &spec.region,
            endpoint: spec.endpoint.as_deref(),
            sts_endpoint: spec.sts_endpoint.as_deref(),
            role_arn: spec.role_arn.as_deref(),
            auth: spec.auth.as_ref(),
        };
        Ok(Self {
            session: Session::new(&place, identity, network, Client::new)?,
            kms_key_id: spec.kms_key_id.clone(),
            recovery_window_days: spec.recovery_window_days.unwrap_or(RECOVERY_WINDOW_DAYS),
            probe: probe(prefix),
        })
    }

    async fn describe(&self, path: &str) -> Result<Option<DescribeSecretOutput>, ProviderError> {
        let found = self.session.call("DescribeSecret", |aws| aws.describe_secret().secret_id(path).send()).await;
        match found {
            Ok(secret) => Ok(Some(secret)),
            Err(error) if error.reason == "ResourceNotFoundException" => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, path: &str, value: &Value<'_>, version: &str) -> Result<(), ProviderError> {
        let owner = &value.mark.owner;
        let description = format!(
            "Token of virtual account {} in cluster {}, kept by virtual-account-operator.",
            owner.account, owner.cluster
        );
        let created = self.session.call("CreateSecret", |aws| {
            aws.create_secret()
                .name(path)
                .description(&description)
                .set_kms_key_id(self.kms_key_id.clone())
                .set_tags(Some(tags(value.mark)))
                .client_request_token(version)
                .secret_string(value.token.expose())
                .send()
        });
        created.await.map_err(|error| raced(error, &["ResourceExistsException"]))?;
        // It also succeeds, as a repetition, when the token was there once and a newer one is by now.
        match self.read(path).await?.version {
            Some(current) if current == version => Ok(()),
            _ => Err(changed()),
        }
    }

    async fn restore(&self, path: &str) -> Result<(), ProviderError> {
        let restored = self.session.call("RestoreSecret", |aws| aws.restore_secret().secret_id(path).send());
        restored.await.map(drop).map_err(|error| raced(error, &[]))
    }

    /// Whether the version is current already: the first one of a secret without a value is at once.
    async fn put(&self, path: &str, value: &Value<'_>, version: &str) -> Result<bool, ProviderError> {
        let put = self.session.call("PutSecretValue", |aws| {
            aws.put_secret_value()
                .secret_id(path)
                .client_request_token(version)
                .secret_string(value.token.expose())
                .version_stages(OURS)
                .send()
        });
        match put.await {
            Ok(put) => Ok(put.version_stages().iter().any(|stage| stage == CURRENT)),
            Err(error) if error.reason == "ResourceExistsException" => Err(ProviderError::new(
                ErrorKind::Invalid,
                error.reason,
                format!("version {version} of the secret holds something else; delete the secret"),
            )),
            Err(error) => Err(raced(error, &[])),
        }
    }

    async fn move_stage(
        &self,
        path: &str,
        stage: &str,
        to: Option<&str>,
        from: Option<&str>,
    ) -> Result<(), ProviderError> {
        let moved = self.session.call("UpdateSecretVersionStage", |aws| {
            aws.update_secret_version_stage()
                .secret_id(path)
                .version_stage(stage)
                .set_move_to_version_id(to.map(str::to_owned))
                .set_remove_from_version_id(from.map(str::to_owned))
                .send()
        });
        // It names a version that does not have the stage (any more): somebody moved it since it was seen.
        moved.await.map(drop).map_err(|error| raced(error, &["InvalidParameterException", "InvalidRequestException"]))
    }

    async fn tag(&self, path: &str, mark: &Mark) -> Result<(), ProviderError> {
        let tagged = self
            .session
            .call("TagResource", |aws| aws.tag_resource().secret_id(path).set_tags(Some(tags(mark))).send());
        tagged.await.map(drop).map_err(|error| raced(error, &[]))
    }
}

#[async_trait]
impl Store for SecretsManager {
    async fn read(&self, path: &str) -> Result<Held, ProviderError> {
        Ok(self.describe(path).await?.map_or_else(Held::default, |secret| held(&secret)))
    }

    async fn write(&self, path: &str, value: &Value<'_>, over: &Held) -> Result<String, ProviderError> {
        let version = version_id(&value.mark.jti);
        match over.presence {
            Presence::Absent => return self.create(path, value, &version).await.map(|()| version),
            Presence::Deleted => self.restore(path).await?,
            Presence::Present => {}
        }
        if over.version.as_ref() != Some(&version) && !self.put(path, value, &version).await? {
            self.move_stage(path, CURRENT, Some(&version), over.version.as_deref()).await?;
        }
        self.tag(path, value.mark).await?;
        gone(self.move_stage(path, OURS, None, Some(&version)).await)?;
        Ok(version)
    }

    async fn retire(&self, path: &str, _: &Held, keep: &BTreeSet<String>) -> Result<(), ProviderError> {
        let Some(secret) = self.describe(path).await? else { return Ok(()) };
        for (version, stage) in older(&secret) {
            if !keeps(version, keep) {
                gone(self.move_stage(path, stage, None, Some(version)).await)?;
            }
        }
        Ok(())
    }

    async fn delete(&self, path: &str, seen: &Held) -> Result<(), ProviderError> {
        let now = self.read(path).await?;
        if now.presence != Presence::Present {
            return Ok(());
        }
        // There is no conditional delete; this makes the moment short in which somebody else's write would be lost.
        if (&now.mark, &now.version) != (&seen.mark, &seen.version) {
            return Err(changed());
        }
        let days = i64::from(self.recovery_window_days);
        let deleted = self.session.call("DeleteSecret", |aws| {
            let request = aws.delete_secret().secret_id(path);
            match days {
                0 => request.force_delete_without_recovery(true),
                days => request.recovery_window_in_days(days),
            }
            .send()
        });
        match deleted.await {
            Err(error) if error.reason != "ResourceNotFoundException" => Err(raced(error, &[])),
            _ => Ok(()),
        }
    }

    async fn check(&self) -> Result<(), ProviderError> {
        self.describe(&self.probe).await.map(drop)
    }
}

fn held(secret: &DescribeSecretOutput) -> Held {
    let tag = |name: &str| secret.tags().iter().find(|tag| tag.key() == Some(name)).and_then(Tag::value);
    let mark = Mark::parse(tag);
    let version = staged(secret, CURRENT).map(str::to_owned);
    let jti = version.as_deref().and_then(|version| jti_of(version, mark.as_ref()));
    let presence = if secret.deleted_date().is_some() { Presence::Deleted } else { Presence::Present };
    Held { presence, mark, jti, digest: None, version, older: older(secret).next().is_some() }
}

fn staged<'a>(secret: &'a DescribeSecretOutput, stage: &str) -> Option<&'a str> {
    let versions = secret.version_ids_to_stages()?;
    versions.iter().find(|(_, stages)| stages.iter().any(|has| has == stage)).map(|(version, _)| version.as_str())
}

/// Versions that consumers can still ask for by a stage, and which. What was put and never became current counts too.
fn older(secret: &DescribeSecretOutput) -> impl Iterator<Item = (&str, &'static str)> {
    let current = staged(secret, CURRENT);
    let found = [PREVIOUS, OURS].into_iter().filter_map(|stage| Some((staged(secret, stage)?, stage)));
    found.filter(move |(version, _)| Some(*version) != current)
}

/// Our ids tell which token it is, others' do not.
fn keeps(version: &str, keep: &BTreeSet<String>) -> bool {
    let ours = matches!(version.len(), 32 | 64) && version.bytes().all(|byte| byte.is_ascii_hexdigit());
    if ours { keep.iter().any(|jti| version_id(jti) == version) } else { !keep.is_empty() }
}

/// The id of a token's version: its jti's 128 bits in hexadecimal, or a digest for a jti of another form.
fn version_id(jti: &str) -> String {
    match URL_SAFE_NO_PAD.decode(jti).ok().and_then(|bits| bits.try_into().ok()) {
        Some(bits) => format!("{:032x}", u128::from_be_bytes(bits)),
        None => fingerprint(&[jti], 64),
    }
}

/// The token of a version, as its id tells; a digest tells it if it is the marked one.
fn jti_of(version: &str, mark: Option<&Mark>) -> Option<String> {
    if let Some(mark) = mark.filter(|mark| version_id(&mark.jti) == version) {
        return Some(mark.jti.clone());
    }
    let bits = u128::from_str_radix(version, 16).ok()?;
    let jti = URL_SAFE_NO_PAD.encode(bits.to_be_bytes());
    (version_id(&jti) == version).then_some(jti)
}

fn tags(mark: &Mark) -> Vec<Tag> {
    mark.pairs().into_iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// As a conflict, if the error says that the secret is not as it was read: gone, marked as deleted, or one of `codes`.
fn raced(error: ProviderError, codes: &[&str]) -> ProviderError {
    let deleted = error.reason == "InvalidRequestException" && error.message.contains("delet");
    if deleted || error.reason == "ResourceNotFoundException" || codes.contains(&error.reason.as_str()) {
        return ProviderError { kind: ErrorKind::Conflict, ..error };
    }
    error
}

fn changed() -> ProviderError {
    ProviderError::new(ErrorKind::Conflict, "Changed", "the secret was written meanwhile")
}

/// Removing a stage that the version does not have (any more) is no error.
fn gone(removed: Result<(), ProviderError>) -> Result<(), ProviderError> {
    match removed {
        Err(error) if error.kind != ErrorKind::Conflict => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::fresh_jti;

    #[test]
    fn a_versions_id_tells_its_token() {
        let jti = fresh_jti();
        let version = version_id(&jti);
        assert_eq!((version.len(), jti_of(&version, None)), (32, Some(jti)));
        assert_eq!(version_id("AAECAwQFBgcICQoLDA0ODw"), "000102030405060708090a0b0c0d0e0f");
    }

    #[test]
    fn ids_of_others_tell_nothing() {
        let others = ["4f6c9a1e-1b2c-4d3e-8f4a-5b6c7d8e9f0a", "+00102030405060708090a0b0c0d0e0f", "terraform-2024", ""];
        for version in others {
            assert_eq!(jti_of(version, None), None, "{version}");
            assert!(keeps(version, &BTreeSet::from([fresh_jti()])) && !keeps(version, &BTreeSet::new()), "{version}");
        }
        // Not 16 bytes, and 16 bytes that are not written in the one right way.
        for jti in ["adopted-by-hand", "AAECAwQFBgcICQoLDA0ODx"] {
            let version = version_id(jti);
            assert_eq!((version.len(), jti_of(&version, None)), (64, None), "{jti}");
            assert!(keeps(&version, &BTreeSet::from([jti.to_owned()])), "{jti}");
            assert!(!keeps(&version, &BTreeSet::from([fresh_jti()])), "{jti}");
        }
    }
}
