//! A watch of a single object: what it last was, and a wake-up when that changes.

use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Cache, Watch, version};
use crate::api::AccountId;

/// One object of a namespace, as last seen.
pub struct One<K> {
    key: AccountId,
    cache: Arc<Cache<K>>,
    news: Notify,
}

/// What is known of the object.
pub enum Sight<K> {
    /// Nothing yet.
    Unknown,
    /// It does not exist, as of this version.
    Absent(u64),
    /// It exists.
    Present(Arc<K>),
}

impl<K> One<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Send + Sync + 'static,
{
    /// The object, and the watch of it, to be run by [`One::run`].
    pub fn new(client: Client, namespace: &str, name: &str) -> (Arc<Self>, Watch<K>) {
        let watch = Watch::<K>::namespaced(client, namespace).fields(&format!("metadata.name={name}"));
        let one = Self { key: AccountId::new(namespace, name), cache: watch.cache(), news: Notify::new() };
        (Arc::new(one), watch)
    }

    /// Watches until cancelled.
    pub async fn run(self: Arc<Self>, watch: Watch<K>, stop: CancellationToken) {
        // Not with the report of a change: an absence is known only once the version that shows it is.
        let one = Arc::clone(&self);
        watch.then(move || one.news.notify_one()).run(|_| {}, stop).await;
    }

    /// What it is now.
    pub fn look(&self) -> Sight<K> {
        // In this order: what arrives in between makes the version too old, never too new.
        let shown = self.cache.shown(&self.key.namespace);
        match self.cache.get(&self.key) {
            Some(object) => Sight::Present(object),
            None if self.cache.synced() && self.cache.unreadable().is_empty() => Sight::Absent(shown),
            None => Sight::Unknown,
        }
    }

    /// Ends when something may have changed since the last call. One waiter at a time.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// Why what is known may be out of date, if so.
    pub fn trouble(&self, what: &str) -> Option<String> {
        self.cache.trouble(what)
    }
}

/// The version of an object that may have none.
pub fn version_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().map_or(0, version)
}
