//! List and watch of one kind, in the whole cluster or in some namespaces, into a [`Cache`], with what kube's own watcher hides: when the server was last heard
//! (bookmarks), since when the stream is known to be broken, and what vanished while it was.
//!
//! It knows no accounts: it says what changed and leaves the meaning to its callback.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Request;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::client::describe;

mod cache;
mod item;
mod one;
mod position;
mod prune;
mod scope;
#[cfg(test)]
mod tests;

pub use cache::{Cache, Change, SILENT, version};
pub use one::{One, Sight, version_of};
pub(crate) use position::random;
pub use prune::{prune_managed_fields, prune_secret};
pub use scope::{Part, Scope};

use item::{Item, Page};
use position::{End, Position, TIMING, Timing};

/// Objects a page of a list.
const PAGE: u32 = 500;

/// A watch of one kind, run as a task by [`Watch::run`]. `PartialObjectMeta<K>` watches the metadata alone.
pub struct Watch<K> {
    client: Client,
    // One for each part of the cache.
    collections: Vec<Request>,
    labels: Option<String>,
    fields: Option<String>,
    prune: fn(&mut K),
    cache: Arc<Cache<K>>,
    timing: Timing,
    then: Arc<dyn Fn() + Send + Sync>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Send + Sync + 'static,
{
    /// All objects of the kind, in all namespaces.
    pub fn all(client: Client) -> Self {
        Self::of(client, Scope::default().parts())
    }

    /// The objects in these namespaces: one stream each, all into one cache.
    pub fn within(client: Client, scope: &Scope) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Self::of(client, scope.parts())
    }

    /// The objects of one namespace.
    pub fn namespaced(client: Client, namespace: &str) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Self::within(client, &Scope::of([namespace.to_owned()]))
    }

    fn of(client: Client, parts: Vec<Part>) -> Self {
        Self {
            client,
            collections: parts.iter().map(|part| Request::new(K::url_path(&(), part.namespace()))).collect(),
            labels: None,
            fields: None,
            prune: prune_managed_fields,
            cache: Arc::new(Cache::of(parts)),
            timing: TIMING,
            then: Arc::new(|| {}),
        }
    }

    /// Only objects that this label selector matches. One that stops matching is reported as deleted.
    #[must_use]
    pub fn labels(mut self, selector: &str) -> Self {
        self.labels = Some(selector.to_owned());
        self
    }

    /// Only objects that this field selector matches, such as `metadata.name=ring`.
    #[must_use]
    pub fn fields(mut self, selector: &str) -> Self {
        self.fields = Some(selector.to_owned());
        self
    }

    /// What to drop from each object before it is kept; by default the managed fields.
    #[must_use]
    pub fn prune(mut self, prune: fn(&mut K)) -> Self {
        self.prune = prune;
        self
    }

    /// To be called after each list and event, once also [`Cache::shown`] tells of it; must not block.
    #[must_use]
    pub fn then(mut self, then: impl Fn() + Send + Sync + 'static) -> Self {
        self.then = Arc::new(then);
        self
    }

    /// What the watch fills.
    pub fn cache(&self) -> Arc<Cache<K>> {
        Arc::clone(&self.cache)
    }

    /// Lists, then watches, until cancelled. Each change is in the cache before `report` hears of it; `report` must
    /// not block, as the watch waits for it.
    pub async fn run(self, report: impl Fn(Change<K>) + Send + Sync, cancel: CancellationToken) {
        let streams = (0..self.collections.len()).map(|part| self.follow(part, &report));
        cancel.run_until_cancelled(join_all(streams)).await;
    }

    async fn follow(&self, part: usize, report: &(impl Fn(Change<K>) + Send + Sync)) {
        let mut position = Position { part, ..Position::default() };
        loop {
            (position.connected, position.progress) = (None, false);
            let end = match &position.resume {
                Some(_) => self.stream(&mut position, report).await,
                None => match self.relist(part, report).await {
                    Ok(version) => {
                        position.resume = Some(version);
                        continue;
                    }
                    Err(error @ kube::Error::SerdeError(_)) => End::Failed(error),
                    Err(error) => End::from(error),
                },
            };
            if let Some(pause) = self.after(&end, &mut position) {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Decides how to go on after a stream or a list ended: what to forget, and how long to wait.
    fn after(&self, end: &End, position: &mut Position) -> Option<Duration> {
        let (kind, namespace) = (K::kind(&()), self.cache.part(position.part).namespace().map(str::to_owned));
        let settled = position.settled(self.timing.shortest);
        if settled {
            position.failures = 0;
        }
        match end {
            End::Closed if settled => return None,
            End::Closed => debug!(%kind, namespace, "the watch was closed at once"),
            End::Expired => {
                position.resume = None;
                info!(%kind, namespace, "the watch cannot be resumed, listing again");
            }
            End::Silent => {
                // A second time: the server may have been restored to a version before ours and hide all until then.
                position.silences += 1;
                if position.silences > 1 {
                    let Position { part, failures, .. } = *position;
                    *position = Position { part, failures, ..Position::default() };
                }
                warn!(%kind, namespace, "the watch was silent for too long, connecting again");
            }
            End::Failed(error) if position.failures == 0 => {
                warn!(%kind, namespace, error = describe(error), "the watch failed, trying again");
            }
            End::Failed(error) => debug!(%kind, namespace, error = describe(error), "the watch still fails"),
        }
        let denied = matches!(end, End::Failed(kube::Error::Api(status)) if status.code == 403);
        if self.cache.broke(position.part, denied) {
            warn!(%kind, namespace, "the operator has no right to watch this; apply its RBAC there");
        }
        position.failures = position.failures.saturating_add(1);
        Some(self.timing.pause(position.failures))
    }

    /// Reads the whole collection (a consistent read, in pages) and gives the version to watch from.
    async fn relist(&self, part: usize, report: &impl Fn(Change<K>)) -> Result<String, kube::Error> {
        let collection = &self.collections[part];
        let mut items = Vec::new();
        let mut params = ListParams { limit: Some(PAGE), ..ListParams::default() };
        params.label_selector.clone_from(&self.labels);
        params.field_selector.clone_from(&self.fields);
        let version = loop {
            let request = if K::metadata_api() { collection.list_metadata(&params) } else { collection.list(&params) };
            // Parsed here, as kube logs a body that it cannot parse.
            let text = self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
            let page: Page<K> = serde_json::from_str(&text).map_err(kube::Error::SerdeError)?;
            items.extend(page.items.unwrap_or_default().into_iter().map(|item| self.pruned(item)));
            params.continue_token = page.metadata.next.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                break page.metadata.resource_version;
            }
        };
        for change in self.cache.replace(part, items, &version) {
            report(change);
        }
        // Last, as in `accept`.
        self.cache.heard(part, &version);
        (self.then)();
        Ok(version)
    }

    async fn stream(&self, position: &mut Position, report: &impl Fn(Change<K>)) -> End {
        let from = position.resume.clone().unwrap_or_default();
        let params = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            // 240 to 290 s: watches that started together do not end together.
            timeout: Some(240 + u32::try_from(random() % 51).unwrap_or(0)),
            ..WatchParams::default()
        };
        let collection = &self.collections[position.part];
        let request = if K::metadata_api() {
            collection.watch_metadata(&params, &from)
        } else {
            collection.watch(&params, &from)
        };
        let request = match request {
            Ok(request) => request,
            Err(error) => return kube::Error::BuildRequest(error).into(),
        };
        let events = match self.client.request_events::<Item<K>>(request).await {
            Ok(events) => events,
            Err(error) => return error.into(),
        };
        self.cache.connected(position.part);
        position.connected = Some(Instant::now());
        let mut events = pin!(events);
        loop {
            let event = match tokio::time::timeout(self.timing.silence, events.next()).await {
                Err(_) => return End::Silent,
                Ok(None) => return End::Closed,
                Ok(Some(Err(error))) => return error.into(),
                Ok(Some(Ok(event))) => event,
            };
            if let Err(end) = self.accept(event, position, report) {
                return end;
            }
        }
    }

    fn accept(
        &self,
        event: WatchEvent<Item<K>>,
        position: &mut Position,
        report: &impl Fn(Change<K>),
    ) -> Result<(), End> {
        let (version, change) = match event {
            WatchEvent::Added(item) | WatchEvent::Modified(item) => {
                position.advance(item.version())?;
                (item.version().to_owned(), self.cache.apply(self.pruned(item)))
            }
            WatchEvent::Deleted(item) => {
                position.advance(item.version())?;
                (item.version().to_owned(), self.cache.remove(&item))
            }
            WatchEvent::Bookmark(bookmark) => {
                position.advance(&bookmark.metadata.resource_version)?;
                (bookmark.metadata.resource_version, None)
            }
            WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
        };
        if let Some(change) = change {
            report(change);
        }
        // Last, so that what the callback keeps is never behind what the cache claims to have shown.
        self.cache.heard(position.part, &version);
        (self.then)();
        Ok(())
    }

    fn pruned(&self, mut item: Item<K>) -> Item<K> {
        if let Item::Read(object) = &mut item {
            (self.prune)(object);
        }
        item
    }
}
