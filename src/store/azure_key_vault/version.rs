//! What a vault shows of a secret and its versions, and what that says about a path.

use std::collections::{BTreeSet, HashMap};

use azure_core::time::OffsetDateTime;
use azure_security_keyvault_secrets::ResourceExt;
use azure_security_keyvault_secrets::models::SecretAttributes;
use zeroize::Zeroizing;

use super::super::{Held, Mark, Presence, ProviderError, Value, digest};
use super::error;

/// A version, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) id: String,
    pub(super) enabled: bool,
    /// In whole seconds: two versions may share one.
    pub(super) created: i64,
    pub(super) tags: HashMap<String, String>,
    pub(super) mark: Option<Mark>,
}

/// What a name stands for.
pub(super) enum Newest {
    Absent,
    /// It was deleted, and can be recovered.
    Deleted(Version),
    /// Somebody disabled the newest version: nothing can be read.
    Disabled,
    Value(Version, Zeroizing<String>),
}

impl Version {
    /// From what the SDK read.
    pub(super) fn new(
        resource: &impl ResourceExt,
        attributes: Option<&SecretAttributes>,
        tags: Option<HashMap<String, String>>,
    ) -> Result<Self, ProviderError> {
        let resource = resource.resource_id().map_err(|_| error::unreadable())?;
        let created = attributes.and_then(|attributes| attributes.created);
        let tags = tags.unwrap_or_default();
        Ok(Self {
            id: resource.version.unwrap_or_default(),
            enabled: attributes.and_then(|attributes| attributes.enabled).unwrap_or(true),
            created: created.map_or(0, OffsetDateTime::unix_timestamp),
            mark: Mark::parse(|name| tags.get(name).map(String::as_str)),
            tags,
        })
    }

    /// Whether its token is none of `keep`, as far as it tells.
    pub(super) fn is_over(&self, keep: &BTreeSet<String>) -> bool {
        self.mark.as_ref().map_or(keep.is_empty(), |mark| !keep.contains(&mark.jti))
    }

    /// Whether it has a later token of the same account.
    pub(super) fn is_newer(&self, than: &Mark) -> bool {
        let later = |mark: &Mark| mark.owner.same_account(&than.owner) && mark.sequence > than.sequence;
        self.mark.as_ref().is_some_and(later)
    }

    /// When it was written. The mark's sequence tells versions of the same second apart.
    fn age(&self) -> (i64, i64) {
        (self.created, self.mark.as_ref().map_or(i64::MIN, |mark| mark.sequence))
    }
}

impl Newest {
    /// What the path holds. `versions`: all of them, if there is something.
    pub(super) fn held(&self, versions: &[Version]) -> Held {
        match self {
            Self::Absent => Held::default(),
            Self::Deleted(version) => Held {
                presence: Presence::Deleted,
                mark: version.mark.clone(),
                version: Some(version.id.clone()),
                ..Held::default()
            },
            Self::Disabled => present(newest_of(versions, |_| true), None, versions),
            Self::Value(version, value) => present(Some(version), Some(value), versions),
        }
    }

    /// Whether it is this value already, with a mark that names its token.
    pub(super) fn is(&self, value: &Value<'_>) -> bool {
        let Self::Value(version, current) = self else { return false };
        version.mark.as_ref().is_some_and(|mark| mark.jti == value.mark.jti) && **current == *value.token.expose()
    }

    /// Whether it still is what was seen, as far as it tells.
    pub(super) fn still(&self, seen: &Held) -> bool {
        match self {
            Self::Absent => seen.presence == Presence::Absent,
            Self::Deleted(version) => seen.presence == Presence::Deleted && seen.version.as_ref() == Some(&version.id),
            // Which one is the newest, only a list would tell.
            Self::Disabled => seen.presence == Presence::Present && seen.digest.is_none(),
            Self::Value(version, _) => seen.presence == Presence::Present && seen.version.as_ref() == Some(&version.id),
        }
    }

    /// Whether it is what was seen deleted, and nothing else.
    pub(super) fn is_recovered(&self, seen: &Held) -> bool {
        match self {
            Self::Value(version, _) => seen.version.as_ref() == Some(&version.id),
            // It was disabled when it was deleted.
            Self::Disabled => true,
            Self::Absent | Self::Deleted(_) => false,
        }
    }

    /// The newest version's tags.
    pub(super) fn into_tags(self) -> HashMap<String, String> {
        match self {
            Self::Value(version, _) | Self::Deleted(version) => version.tags,
            Self::Absent | Self::Disabled => HashMap::new(),
        }
    }
}

fn present(newest: Option<&Version>, value: Option<&Zeroizing<String>>, versions: &[Version]) -> Held {
    let own = newest.and_then(|version| version.mark.as_ref());
    // A version that somebody made by hand has no mark; those below it tell whose the path is.
    let marked = newest_of(versions, |version| version.mark.is_some());
    Held {
        presence: Presence::Present,
        mark: own.or(marked.and_then(|version| version.mark.as_ref())).cloned(),
        jti: own.filter(|_| value.is_some()).map(|mark| mark.jti.clone()),
        digest: value.map(|value| digest(value)),
        version: newest.map(|version| version.id.clone()),
        older: versions.iter().any(|version| version.enabled && Some(&version.id) != newest.map(|newest| &newest.id)),
    }
}

/// The newest of those versions that are meant.
pub(super) fn newest_of(versions: &[Version], meant: impl Fn(&Version) -> bool) -> Option<&Version> {
    versions.iter().filter(|version| meant(version)).max_by_key(|version| version.age())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Instant;
    use crate::store::Owner;

    fn mark(jti: &str, sequence: i64) -> Mark {
        let owner = Owner { cluster: "c".into(), account: "shop/cart".into(), uid: "u".into() };
        Mark { owner, jti: jti.into(), sequence, expires_at: Instant::from_unix(60) }
    }

    fn version(id: &str, created: i64, mark: Option<Mark>) -> Version {
        Version { id: id.into(), enabled: true, created, tags: HashMap::new(), mark }
    }

    #[test]
    fn a_version_made_by_hand_leaves_the_path_ours_and_tells_no_jti() {
        let versions =
            [version("b", 5, Some(mark("one", 1))), version("a", 5, Some(mark("two", 2))), version("c", 5, None)];
        let newest = Newest::Value(versions[2].clone(), "by hand".to_owned().into());
        let held = newest.held(&versions);
        assert_eq!((held.mark, held.jti, held.older), (Some(mark("two", 2)), None, true));
        assert_eq!(held.digest, Some(digest("by hand")));
    }

    #[test]
    fn a_disabled_newest_version_gives_consumers_nothing() {
        let versions = [version("a", 5, Some(mark("one", 1))), version("b", 6, Some(mark("two", 2)))];
        let held = Newest::Disabled.held(&versions);
        assert_eq!((held.mark, held.jti, held.digest), (Some(mark("two", 2)), None, None));
        assert_eq!((held.version.as_deref(), held.older), (Some("b"), true));
    }

    #[test]
    fn a_deleted_secret_tells_whose_it_was() {
        let held = Newest::Deleted(version("a", 5, Some(mark("one", 1)))).held(&[]);
        assert_eq!((held.presence, held.mark, held.jti), (Presence::Deleted, Some(mark("one", 1)), None));
    }

    #[test]
    fn a_version_is_over_when_its_token_is_not_kept() {
        let [none, one] = [BTreeSet::new(), BTreeSet::from(["one".to_owned()])];
        let marked = |jti| version("a", 1, Some(mark(jti, 1)));
        assert_eq!((marked("one").is_over(&none), marked("one").is_over(&one)), (true, false));
        assert!(marked("two").is_over(&one));
        let untold = version("a", 1, None);
        assert_eq!((untold.is_over(&none), untold.is_over(&one)), (true, false));
    }
}
