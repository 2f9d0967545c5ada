//! AWS Systems Manager Parameter Store: a `SecureString` whose value is the bare token.
//!
//! There is no compare-and-set, and tags cannot be written together with a new value. So the mark is in the description,
//! which belongs to a version as its value does, and beside it the number that the version should get: it is wrong where
//! somebody else wrote in between, or wrote a value and let the description stand, and then the version does not tell
//! whose token it holds. A writer looks once more just before it writes, and learns from the number that it was given
//! whether it replaced what it saw; what it replaced wrongly, the next look puts right. The owner is in tags too: rights
//! can depend on them. Old versions cannot be ended.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::{ParameterHistory, ParameterType, ResourceTypeForTagging, Tag};

use super::aws::{Place, Session, probe};
use super::{ErrorKind, Held, Identity, Mark, Network, Presence, ProviderError, Store, Value};
use crate::api::AwsParameterStore;

/// In the description, beside the mark's.
const VERSION: &str = "virtualaccounts-version";
/// The most versions that come in one answer.
const PAGE: i32 = 50;

/// A region of AWS Systems Manager Parameter Store, used with one identity.
pub struct ParameterStore {
    session: Session<Client>,
    kms_key_id: Option<String>,
    probe: String,
}

impl ParameterStore {
    /// Checks the settings; nothing is called yet. `prefix` is the TokenStore's pathPrefix.
    pub fn open(
        spec: &AwsParameterStore,
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
        let session = Session::new(&place, identity, network, Client::new)?;
        Ok(Self { session, kms_key_id: spec.kms_key_id.clone(), probe: probe(prefix) })
    }

    /// All versions; none if there is no such parameter. Their values are not decrypted.
    async fn versions(&self, path: &str) -> Result<Vec<ParameterHistory>, ProviderError> {
        let (mut versions, mut next) = (Vec::new(), None);
        loop {
            let page = self.session.call("GetParameterHistory", |aws| {
                let request = aws.get_parameter_history().name(path).max_results(PAGE).with_decryption(false);
                request.set_next_token(next.clone()).send()
            });
            let page = match page.await {
                Err(error) if error.reason == "ParameterNotFound" => return Ok(Vec::new()),
                page => page?,
            };
            versions.extend(page.parameters.unwrap_or_default());
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(versions);
            }
        }
    }

    /// Whether the path still is as it was seen, as far as a look can tell.
    async fn still(&self, path: &str, seen: &Held) -> Result<(), ProviderError> {
        let now = held(&self.versions(path).await?);
        if now == *seen { Ok(()) } else { Err(changed()) }
    }

    /// Writes a version on top of this one (0: a new parameter); the number that it got.
    async fn put(&self, path: &str, value: &Value<'_>, after: i64) -> Result<i64, ProviderError> {
        let put = self.session.call("PutParameter", |aws| {
            let request = aws.put_parameter().name(path).r#type(ParameterType::SecureString);
            let request = request.value(value.token.expose()).set_key_id(self.kms_key_id.clone());
            let request = request.description(describe(value.mark, after + 1));
            match after {
                0 => request.set_tags(Some(tags(value.mark))),
                _ => request.overwrite(true),
            }
            .send()
        });
        Ok(put.await.map_err(raced)?.version())
    }

    async fn tag(&self, path: &str, mark: &Mark) -> Result<(), ProviderError> {
        let tagged = self.session.call("AddTagsToResource", |aws| {
            let request = aws.add_tags_to_resource().resource_type(ResourceTypeForTagging::Parameter);
            request.resource_id(path).set_tags(Some(tags(mark))).send()
        });
        tagged.await.map(drop).map_err(raced)
    }
}

#[async_trait]
impl Store for ParameterStore {
    async fn read(&self, path: &str) -> Result<Held, ProviderError> {
        Ok(held(&self.versions(path).await?))
    }

    async fn write(&self, path: &str, value: &Value<'_>, over: &Held) -> Result<String, ProviderError> {
        if over.jti.as_ref() == Some(&value.mark.jti) && over.mark.as_ref() == Some(value.mark) {
            return over.version.clone().ok_or_else(changed);
        }
        self.still(path, over).await?;
        // First, so that a crash leaves the path as it was to be taken over.
        let owner = over.mark.as_ref().map(|mark| &mark.owner);
        if over.presence == Presence::Present && owner != Some(&value.mark.owner) {
            self.tag(path, value.mark).await?;
        }
        let after = over.version.as_ref().and_then(|version| version.parse().ok()).unwrap_or_default();
        let version = self.put(path, value, after).await?;
        if version == after + 1 { Ok(version.to_string()) } else { Err(changed()) }
    }

    async fn retire(&self, _: &str, _: &Held, _: &BTreeSet<String>) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn delete(&self, path: &str, seen: &Held) -> Result<(), ProviderError> {
        if self.versions(path).await?.is_empty() {
            return Ok(());
        }
        self.still(path, seen).await?;
        match self.session.call("DeleteParameter", |aws| aws.delete_parameter().name(path).send()).await {
            Err(error) if error.reason != "ParameterNotFound" => Err(error),
            _ => Ok(()),
        }
    }

    async fn check(&self) -> Result<(), ProviderError> {
        self.versions(&self.probe).await.map(drop)
    }
}

fn held(versions: &[ParameterHistory]) -> Held {
    let mut versions: Vec<&ParameterHistory> = versions.iter().collect();
    versions.sort_by_key(|version| version.version());
    let Some(current) = versions.last() else { return Held::default() };
    Held {
        presence: Presence::Present,
        // Whoever changes the value by hand may drop the description; the parameter is the account's all the same.
        mark: versions.iter().rev().find_map(|version| Some(described(version)?.0)),
        jti: described(current).filter(|(_, number)| *number == current.version()).map(|(mark, _)| mark.jti),
        digest: None,
        version: Some(current.version().to_string()),
        older: false,
    }
}

/// The mark, and the number of the version that it belongs to.
fn describe(mark: &Mark, version: i64) -> String {
    let pairs = mark.pairs().map(|(name, value)| format!("{name}={value}"));
    format!("Token of a virtual account, kept by virtual-account-operator. {} {VERSION}={version}", pairs.join(" "))
}

fn described(version: &ParameterHistory) -> Option<(Mark, i64)> {
    let text = version.description()?;
    let value = |name: &str| {
        let mut pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    Some((Mark::parse(value)?, value(VERSION)?.parse().ok()?))
}

/// Only what stays the same from token to token.
fn tags(mark: &Mark) -> Vec<Tag> {
    let owner = mark.owner.pairs().into_iter();
    owner.filter_map(|(key, value)| Tag::builder().key(key).value(value).build().ok()).collect()
}

/// As a conflict, if the error says that the parameter is not as it was read.
fn raced(error: ProviderError) -> ProviderError {
    match error.reason.as_str() {
        "ParameterAlreadyExists" | "ParameterNotFound" | "InvalidResourceId" => {
            ProviderError { kind: ErrorKind::Conflict, ..error }
        }
        _ => error,
    }
}

fn changed() -> ProviderError {
    ProviderError::new(ErrorKind::Conflict, "Changed", "the parameter was written meanwhile")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Instant;
    use crate::store::Owner;

    fn mark() -> Mark {
        let owner = Owner { cluster: "c-1".into(), account: "shop/cart".into(), uid: "u-1".into() };
        Mark { owner, jti: "j-1".into(), sequence: 7, expires_at: Instant::from_unix(1_800_000_000) }
    }

    fn version(number: i64, description: Option<String>) -> ParameterHistory {
        ParameterHistory::builder().version(number).set_description(description).build()
    }

    #[test]
    fn a_version_tells_its_token_only_under_the_number_that_it_was_written_for() {
        let ours = describe(&mark(), 2);
        let right = held(&[version(1, None), version(2, Some(ours.clone()))]);
        assert_eq!(
            (right.jti.as_deref(), right.mark, right.version.as_deref()),
            (Some("j-1"), Some(mark()), Some("2"))
        );
        let overwritten = held(&[version(2, Some(ours.clone())), version(3, Some(ours.clone()))]);
        assert_eq!((overwritten.jti, overwritten.mark), (None, Some(mark())));
        let undescribed = held(&[version(3, Some("mine now".into())), version(2, Some(ours))]);
        assert_eq!((undescribed.jti, undescribed.mark), (None, Some(mark())));
        assert_eq!(
            held(&[version(1, None)]),
            Held { presence: Presence::Present, version: Some("1".into()), ..Held::default() }
        );
        assert_eq!(held(&[]), Held::default());
    }

    #[test]
    fn a_description_has_room_for_the_longest_names() {
        let owner = Owner { cluster: "c".repeat(64), account: "a".repeat(100), uid: "u".repeat(36) };
        let text = describe(&Mark { owner, jti: "j".repeat(128), ..mark() }, i64::MAX);
        assert!(text.len() <= 1024, "{}", text.len());
    }
}
