//! Reading objects one by one, so that one that cannot be read stops nothing.

use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::api::AccountId;

/// A page of a list.
#[derive(Deserialize)]
#[serde(bound = "K: Resource<DynamicType = ()> + DeserializeOwned")]
pub(super) struct Page<K> {
    pub(super) metadata: PageMeta,
    pub(super) items: Option<Vec<Item<K>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMeta {
    pub(super) resource_version: String,
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

/// An object, or what is known of one that does not fit the type.
#[derive(Clone)]
pub(super) enum Item<K> {
    Read(Box<K>),
    Unreadable { key: AccountId, version: String },
}

impl<K: Resource> Item<K> {
    pub(super) fn key(&self) -> AccountId {
        match self {
            Self::Read(object) => key(object.as_ref()),
            Self::Unreadable { key, .. } => key.clone(),
        }
    }

    pub(super) fn version(&self) -> &str {
        match self {
            Self::Read(object) => object.meta().resource_version.as_deref().unwrap_or_default(),
            Self::Unreadable { version, .. } => version,
        }
    }
}

impl<'de, K: Resource<DynamicType = ()> + DeserializeOwned> Deserialize<'de> for Item<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if let Ok(object) = K::deserialize(&value) {
            return Ok(Self::Read(Box::new(object)));
        }
        let text = |name: &str| value["metadata"][name].as_str().unwrap_or_default().to_owned();
        let key = AccountId::new(text("namespace"), text("name"));
        // Not the parser's message: it quotes content.
        tracing::warn!(kind = %K::kind(&()), object = %key, "an object cannot be read by this version; left alone until it changes");
        Ok(Self::Unreadable { key, version: text("resourceVersion") })
    }
}

/// The key of an object; the namespace of a cluster-wide one is empty.
pub(super) fn key<K: Resource>(object: &K) -> AccountId {
    let meta = object.meta();
    AccountId::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
