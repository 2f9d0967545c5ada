//! Start-up of what accounts are integrated with: namespaces, stores, channels, and the outbox of notices.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;

use super::{Base, Stages};
use crate::api::{AccountId, ObjectId};
use crate::integration::{Concern, Namespaces, Network, ProviderError, TIMING, Tell};
use crate::notify::channels::Recovered;
use crate::notify::{self, Channels, Courier, Message, Outbox};
use crate::store::{self, Ambient, Registry, Users};
use crate::token::SECRET_NAME;

/// How long one step of a notification channel may take. A message of many steps has more: `Medium::timeouts`.
const CHANNEL_TIMEOUT: Duration = Duration::from_secs(15);

/// What accounts are integrated with, at work.
pub(super) struct Integrations {
    pub(super) namespaces: Arc<Namespaces>,
    pub(super) stores: Arc<Registry>,
    pub(super) channels: Arc<Channels>,
    pub(super) outbox: Arc<Outbox>,
}

impl Integrations {
    pub(super) fn start(base: &Base, stages: &Stages) -> Self {
        let working = &stages.working;
        let stop = &working.stop;
        let (namespaces, watch) = Namespaces::new(base.client.clone(), &base.settings.watch);
        // The outbox sends by the channels, and hears from them.
        let outbox: Arc<OnceLock<Arc<Outbox>>> = Arc::default();
        let tell = tell(base, Arc::clone(&outbox));
        let waiting = Arc::clone(&outbox);
        let recovered: Recovered = Arc::new(move |channel| {
            if let Some(outbox) = waiting.get() {
                outbox.recovered(channel);
            }
        });
        let about = Arc::clone(&tell);
        let of_namespace = move |name: &str| about(Concern::Namespace(name.to_owned()));
        working.spawn("namespaces", Arc::clone(&namespaces).run(watch, of_namespace, stop.clone()));
        let (stores, store_tasks) = stores(base, &namespaces, &tell);
        let users = Arc::clone(&base.seen);
        let users: Users = Arc::new(move |store| users.users_of(store));
        working.spawn("stores", Arc::clone(&stores).run(store_tasks, users, stop.clone()));
        let (channels, channel_tasks) = channels(base, &namespaces, &tell, recovered);
        working.spawn("channels", Arc::clone(&channels).run(channel_tasks, stop.clone()));
        let queue = Arc::clone(&base.queue);
        let told = Arc::new(move |account: AccountId| queue.add(account));
        let post = Post(Arc::clone(&channels));
        let outbox = Arc::clone(outbox.get_or_init(|| Outbox::new(Arc::new(post), base.cluster_name(), told)));
        let (sender, leadership, stop) = (Arc::clone(&outbox), base.leadership.clone(), stages.sending.stop.clone());
        stages.sending.spawn("outbox", async move { leadership.lead(&stop, || sender.run(stop.clone())).await });
        Self { namespaces, stores, channels, outbox }
    }

    /// Why the operator is not ready, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.stores.trouble().or_else(|| self.channels.trouble()).or_else(|| self.namespaces.trouble())
    }
}

/// The outbox' letters go out by the channels.
struct Post(Arc<Channels>);

#[async_trait]
impl Courier for Post {
    async fn deliver(&self, channel: &ObjectId, message: &Message) -> Result<(), ProviderError> {
        self.0.send(channel, message).await
    }
}

fn tell(base: &Base, outbox: Arc<OnceLock<Arc<Outbox>>>) -> Tell {
    let (seen, queue) = (Arc::clone(&base.seen), Arc::clone(&base.queue));
    Arc::new(move |concern| {
        if let (Concern::Channel(channel), Some(outbox)) = (&concern, outbox.get()) {
            outbox.changed(channel);
        }
        seen.concerned(&concern).into_iter().for_each(|id| queue.add(id));
    })
}

fn stores(base: &Base, namespaces: &Arc<Namespaces>, tell: &Tell) -> (Arc<Registry>, store::registry::Tasks) {
    let settings = &base.settings;
    Registry::new(store::registry::Parts {
        client: base.client.clone(),
        leadership: base.leadership.clone(),
        namespaces: Arc::clone(namespaces),
        open: store::open::providers(),
        network: Network {
            allow_local: settings.allow_local_endpoints,
            allow_http: false,
            timeout: Duration::from_secs(settings.store_timeout.0.unsigned_abs()),
        },
        concurrency: settings.store_concurrency,
        ambient: Ambient { namespace: settings.namespace.clone(), everywhere: settings.allow_ambient_credentials },
        keys: AccountId::new(&settings.namespace, SECRET_NAME),
        events: base.events.clone(),
        metrics: Arc::clone(&base.metrics),
        tell: Arc::clone(tell),
        timing: TIMING,
        scope: settings.watch.clone(),
    })
}

fn channels(
    base: &Base,
    namespaces: &Arc<Namespaces>,
    tell: &Tell,
    recovered: Recovered,
) -> (Arc<Channels>, notify::channels::Tasks) {
    let settings = &base.settings;
    Channels::new(notify::channels::Parts {
        client: base.client.clone(),
        leadership: base.leadership.clone(),
        namespaces: Arc::clone(namespaces),
        open: notify::open::media(),
        network: Network { allow_local: settings.allow_local_endpoints, allow_http: false, timeout: CHANNEL_TIMEOUT },
        keys: AccountId::new(&settings.namespace, SECRET_NAME),
        events: base.events.clone(),
        metrics: Arc::clone(&base.metrics),
        tell: Arc::clone(tell),
        recovered,
        timing: TIMING,
        cluster: base.cluster_name(),
        scope: settings.watch.clone(),
    })
}
