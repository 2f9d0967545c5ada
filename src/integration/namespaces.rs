//! The namespaces: their labels decide who may use an integration, their end what becomes of what is in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::core::PartialObjectMeta;
use tokio_util::sync::CancellationToken;

use super::{News, Tenancy};
use crate::api::{AccountId, AllowedFrom};
use crate::watch::{Cache, Change, Scope, Watch, prune_managed_fields};

/// The metadata of a namespace.
type NamespaceObject = PartialObjectMeta<Namespace>;

/// All namespaces; or, where the operator works in some of them alone, which those are.
pub struct Namespaces {
    scope: Scope,
    seen: Arc<Cache<NamespaceObject>>,
    news: News,
}

/// The watch that fills it, to be run by [`Namespaces::run`]. None in some namespaces alone: whoever has only Roles cannot
/// read a namespace.
pub struct NamespaceWatch(Option<Watch<NamespaceObject>>);

/// Why an account may not use an integration, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    /// It may not; what to change.
    Refused(String),
    /// It is not known yet.
    NotSeen(String),
}

impl Namespaces {
    /// The namespaces, and the watch that fills them.
    pub fn new(client: Client, scope: &Scope) -> (Arc<Self>, NamespaceWatch) {
        let watch = Watch::<NamespaceObject>::all(client).prune(prune);
        let namespaces = Self { scope: scope.clone(), seen: watch.cache(), news: News::default() };
        (Arc::new(namespaces), NamespaceWatch(scope.is_cluster().then_some(watch)))
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
                Change::Synced(_) => return,
            };
            let meta = &namespace.metadata;
            let name = meta.name.as_deref().unwrap_or_default();
            if self.news.of_namespace(key(name), there.then_some(meta)) {
                tell(name);
            }
        };
        match watch.0 {
            Some(watch) => watch.run(report, stop).await,
            // Nothing is watched where only some namespaces are.
            None => stop.cancelled().await,
        }
    }

    /// Whether all have been listed, if they ever are.
    pub fn synced(&self) -> bool {
        self.seen.synced() || !self.scope.is_cluster()
    }

    /// Why what is known may be out of date, if so.
    pub fn trouble(&self) -> Option<String> {
        self.scope.is_cluster().then(|| self.seen.trouble("namespaces")).flatten()
    }

    /// Whether accounts of this namespace may use the object.
    pub fn allow(&self, namespace: &str, tenancy: &Tenancy<'_>) -> Result<(), Objection> {
        let by_labels = tenancy.from() == AllowedFrom::Selector && namespace != tenancy.id.namespace;
        let labels = match self.seen.get(&key(namespace)) {
            Some(seen) => seen.metadata.labels.clone().unwrap_or_default(),
            None if by_labels && !self.scope.is_cluster() => return Err(Objection::Refused(tenancy.no_labels())),
            None if by_labels => return Err(Objection::NotSeen(format!("namespace {namespace} was not seen yet"))),
            None => BTreeMap::new(),
        };
        tenancy.allows(namespace, &labels).map_err(Objection::Refused)
    }

    /// Why objects of this namespace are not seen, if they never are. `field`: the one that names the object.
    pub fn unwatched(&self, namespace: &str, field: &str) -> Option<String> {
        (!self.scope.covers(namespace)).then(|| {
            format!(
                "namespace {namespace} is not one of --watch-namespaces, so nothing in it is seen; add it there, or name an object of a namespace that is, in {field}"
            )
        })
    }

    /// Whether the namespace is being deleted, or gone; where namespaces cannot be read, never.
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
