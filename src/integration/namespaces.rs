//! The namespaces: their labels decide who may use an integration, their end what becomes of what is in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::core::PartialObjectMeta;
use tokio_util::sync::CancellationToken;

use super::News;
use crate::api::AccountId;
use crate::watch::{Cache, Change, Watch, prune_managed_fields};

/// The metadata of a namespace.
type NamespaceObject = PartialObjectMeta<Namespace>;

/// All namespaces.
pub struct Namespaces {
    seen: Arc<Cache<NamespaceObject>>,
    news: News,
}

/// The watch that fills it, to be run by [`Namespaces::run`].
pub struct NamespaceWatch(Watch<NamespaceObject>);

impl Namespaces {
    /// The namespaces, and the watch that fills them.
    pub fn new(client: Client) -> (Arc<Self>, NamespaceWatch) {
        let watch = Watch::<NamespaceObject>::all(client).prune(prune);
        (Arc::new(Self { seen: watch.cache(), news: News::default() }), NamespaceWatch(watch))
    }

    /// Watches until `stop`; `tell` hears of each namespace that is new, gone, has other labels or is being deleted.
    pub async fn run(
        self: Arc<Self>,
        watch: NamespaceWatch,
        tell: impl Fn(&str) + Send + Sync,
        stop: CancellationToken,
    ) {
        let report = |change: Change<NamespaceObject>| {
            let (namespace, there) = match &change {
                Change::Applied(namespace) => (namespace, true),
                Change::Deleted(namespace) => (namespace, false),
                Change::Synced => return,
            };
            let meta = &namespace.metadata;
            let name = meta.name.as_deref().unwrap_or_default();
            if self.news.of_namespace(key(name), there.then_some(meta)) {
                tell(name);
            }
        };
        watch.0.run(report, stop).await;
    }

    /// Whether all have been listed.
    pub fn synced(&self) -> bool {
        self.seen.synced()
    }

    /// Why what is known may be out of date, if so.
    pub fn trouble(&self) -> Option<String> {
        self.seen.trouble("namespaces")
    }

    /// The labels of a namespace; `None`: it was not seen yet.
    pub fn labels(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        let seen = self.seen.get(&key(namespace))?;
        Some(seen.metadata.labels.clone().unwrap_or_default())
    }

    /// Whether the namespace is being deleted, or gone.
    pub fn terminating(&self, namespace: &str) -> bool {
        let seen = self.seen.get(&key(namespace));
        seen.map_or_else(|| self.seen.synced(), |seen| seen.metadata.deletion_timestamp.is_some())
    }
}

fn key(namespace: &str) -> AccountId {
    AccountId::new("", namespace)
}

fn prune(namespace: &mut NamespaceObject) {
    prune_managed_fields(namespace);
    namespace.types = None;
    namespace.metadata.annotations = None;
    namespace.metadata.owner_references = None;
}
