//! What accounts should hear of: only what changed about an integration or a namespace, and only what matters to them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::AccountId;
use crate::lock::lock;

/// What was told last.
#[derive(Debug, Default)]
pub struct News {
    told: Mutex<HashMap<AccountId, Told>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Object { uid: Option<String>, generation: Option<i64>, deleting: bool },
    Namespace { labels: Option<BTreeMap<String, String>>, deleting: bool },
}

impl News {
    /// Whether an integration is new, gone, has another spec or is being deleted since.
    pub fn of_object(&self, key: AccountId, meta: Option<&ObjectMeta>) -> bool {
        let told = |meta: &ObjectMeta| Told::Object {
            uid: meta.uid.clone(),
            generation: meta.generation,
            deleting: meta.deletion_timestamp.is_some(),
        };
        self.is_news(key, meta.map(told))
    }

    /// Whether a namespace is new, gone, has other labels or is being deleted since.
    pub fn of_namespace(&self, key: AccountId, meta: Option<&ObjectMeta>) -> bool {
        let told = |meta: &ObjectMeta| Told::Namespace {
            labels: meta.labels.clone(),
            deleting: meta.deletion_timestamp.is_some(),
        };
        self.is_news(key, meta.map(told))
    }

    fn is_news(&self, key: AccountId, now: Option<Told>) -> bool {
        let mut told = lock(&self.told);
        match now {
            Some(now) if told.get(&key) == Some(&now) => false,
            Some(now) => {
                told.insert(key, now);
                true
            }
            None => told.remove(&key).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_differences_that_matter_are_news() {
        let (news, key) = (News::default(), || AccountId::new("platform", "vault"));
        let store = |meta: Value| news.of_object(key(), serde_json::from_value(meta).ok().as_ref());
        assert!(store(json!({"uid": "a", "generation": 1})));
        assert!(!store(json!({"uid": "a", "generation": 1, "resourceVersion": "9", "finalizers": ["x"]})));
        assert!(store(json!({"uid": "a", "generation": 2})));
        assert!(store(json!({"uid": "b", "generation": 2})));
        assert!(store(json!({"uid": "b", "generation": 2, "deletionTimestamp": "2026-11-22T08:30:00Z"})));
        assert!(news.of_object(key(), None) && !news.of_object(key(), None));

        let namespace =
            |meta: Value| news.of_namespace(AccountId::new("", "team"), serde_json::from_value(meta).ok().as_ref());
        assert!(namespace(json!({})));
        assert!(!namespace(json!({"annotations": {"a": "b"}, "generation": 2})));
        assert!(namespace(json!({"labels": {"a": "b"}})));
        assert!(namespace(json!({"labels": {"a": "b"}, "deletionTimestamp": "2026-11-22T08:30:00Z"})));
    }
}
