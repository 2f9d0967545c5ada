//! Start-up of `run`, written once: connect, watch, keep the keys, work, serve; and the orderly end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

mod gauges;
mod integrations;

use gauges::Gauges;
use integrations::Integrations;

use crate::account::cluster::CallError;
use crate::account::controller::{Controller, Parts};
use crate::account::desired::Limits;
use crate::account::kubernetes::Kubernetes;
use crate::account::seen::Seen;
use crate::api::{AccountId, VirtualAccount};
use crate::client;
use crate::clock::{self, ServerClock};
use crate::config::Settings;
use crate::events::{self, Events, Notice, Severity};
use crate::http::access::{Callers, KubeReviews};
use crate::http::check::{Accounts, Check, ReadError};
use crate::http::tls::Certificate;
use crate::http::{Bound, discovery, introspect, ops};
use crate::integration;
use crate::leader::{self, Elector, Leadership};
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::token::{Keeper, RingNotice, RingSettings, RingState, SECRET_NAME, Tell};
use crate::watch::{SILENT, Scope};

// A replica that does not see a new key within half of its lead must get no traffic: after the lead it signs.
const _: () = assert!(SILENT.as_secs() < RingSettings::LEAD.0.unsigned_abs() / 2);
/// So many reads for online checks at once; their rate is limited as well.
const CHECKS: usize = 16;
/// How long what is in hand may go on after a shutdown began. The next leader waits for it.
const FINISH: Duration = Duration::from_secs(4);
/// How long work that lost its right to write may take to end.
const CUT_OFF: Duration = Duration::from_secs(1);

/// What runs, in the order in which it is told to stop: what is sent is recorded by those that work, and the Lease is given
/// up when nobody writes any more.
#[derive(Default)]
struct Stages {
    sending: Stage,
    working: Stage,
    standing: Stage,
    serving: Stage,
}

#[derive(Default)]
struct Stage {
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Runs the operator until SIGTERM or SIGINT.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let stages = Stages::default();
    let Stage { tasks, stop } = &stages.working;
    let metrics = Arc::new(Metrics::new(clock::now()));
    let server_clock = ServerClock::new();
    let counted = Arc::clone(&metrics);
    let on_write: client::OnWrite = Arc::new(move |verb, resource| counted.wrote(verb, resource));
    let asking = client::connect(server_clock.clone(), on_write).await.context("cannot connect to the API server")?;
    let public = public(&settings, &metrics, tasks, stop).await?;
    let operations = Bound::bind("ops", settings.ops_address).await?;
    let cluster_id = cluster_id(&settings, &asking).await?;
    let (elector, leadership) = candidate(&settings, &server_clock).await?;
    let client = client::fenced(asking.clone(), leadership.clone());

    let (events, poster) = events::channel(client.clone(), instance());
    tasks.spawn(poster.run(stop.clone()));
    let (seen, watches) = Seen::new(&client, &settings.watch);
    let (keeper, keys) = keeper(&settings, (client.clone(), leadership.clone()), &seen, &events);
    let ring_trouble = keeper.freshness();
    tasks.spawn(keeper.run(stop.clone()));
    let queue = Arc::new(Queue::new());
    let parts = integrations::Parts {
        settings: &settings,
        client: &client,
        leadership: &leadership,
        seen: &seen,
        queue: &queue,
        events: &events,
        metrics: &metrics,
        cluster_id: &cluster_id,
    };
    let integrations = Arc::new(Integrations::start(&parts, &stages));
    if let Some(elector) = elector {
        let Stage { tasks, stop } = &stages.standing;
        tasks.spawn(elector.run(fit(&seen, &integrations), stop.clone()));
    }
    let controller = Controller::new(Parts {
        client: client.clone(),
        leadership: leadership.clone(),
        limits: limits(&settings, cluster_id),
        server_clock: server_clock.clone(),
        keys: keys.clone(),
        events,
        metrics: Arc::clone(&metrics),
        reissue_rate: settings.reissue_rate,
        workers: settings.workers,
        seen: Arc::clone(&seen),
        queue,
        stores: Arc::clone(&integrations.stores),
        namespaces: Arc::clone(&integrations.namespaces),
        channels: Arc::clone(&integrations.channels),
        outbox: Arc::clone(&integrations.outbox),
    });
    tasks.spawn(Arc::clone(&controller).run(watches, stop.clone()));
    let Stage { tasks: serving, stop: stop_serving } = &stages.serving;
    let ready = readiness(&seen, &integrations, &keys, ring_trouble);
    let gauges = Gauges {
        metrics: Arc::clone(&metrics),
        leadership: leadership.clone(),
        keys: keys.clone(),
        rotation: settings.signing_key_rotation,
        controller,
        ready: Arc::clone(&ready),
        clock: server_clock.clone(),
        max_skew: settings.max_clock_skew,
    };
    tasks.spawn(gauges.run(stop.clone()));
    serving.spawn(operations.serve(ops::routes(ready, Arc::clone(&metrics)), stop_serving.clone()));
    let routes = routes(&settings, &asking, &server_clock, &seen, &keys, &metrics);
    serving.spawn(public.serve(routes, stop_serving.clone()));

    until_told().await?;
    stages.end(&leadership).await;
    info!("stopped");
    Ok(())
}

impl Stages {
    async fn end(self, leadership: &Leadership) {
        info!("stopping: passes in hand are finished");
        self.sending.finish(FINISH).await;
        // With the watches: nothing is answered from what they do not follow any more.
        self.serving.stop.cancel();
        self.working.finish(FINISH).await;
        // What is not finished by now is cut off, as a crash would; only then may another replica lead.
        leadership.close();
        self.working.finish(CUT_OFF).await;
        self.standing.finish(FINISH).await;
        self.serving.finish(FINISH * 2).await;
    }
}

impl Stage {
    /// Tells it to stop, and gives it some time for what is in hand.
    async fn finish(&self, within: Duration) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(within, self.tasks.wait()).await;
    }
}

/// A candidate for the Lease, and what it may do. Without election there is none, and everything is allowed.
async fn candidate(settings: &Settings, server_clock: &ServerClock) -> anyhow::Result<(Option<Elector>, Leadership)> {
    let Some(duration) = settings.lease_duration else { return Ok((None, Leadership::always())) };
    let uncounted: client::OnWrite = Arc::new(|_, _| {});
    let client = client::connect(server_clock.clone(), uncounted).await.context("cannot connect to the API server")?;
    let pod = std::env::var("POD_NAME").ok().filter(|pod| !pod.is_empty());
    let candidate = leader::Settings { namespace: settings.namespace.clone(), pod, host: instance(), duration };
    let (elector, leadership) = Elector::new(client, &candidate);
    Ok((Some(elector), leadership))
}

// Without the key ring: only a leader makes the first.
fn fit(seen: &Arc<Seen>, integrations: &Arc<Integrations>) -> leader::Fit {
    let (seen, integrations) = (Arc::clone(seen), Arc::clone(integrations));
    Arc::new(move || seen.trouble().or_else(|| integrations.trouble()).is_none())
}

/// The settings that passes depend on.
pub fn limits(settings: &Settings, cluster_id: String) -> Arc<Limits> {
    Arc::new(Limits {
        issuer: settings.issuer_url.as_str().to_owned(),
        default_audience: settings.default_audience.clone(),
        allowed_audiences: settings.allowed_audiences.clone(),
        minimum_rotation_interval: settings.minimum_rotation_interval,
        max_token_lifetime: settings.max_token_lifetime,
        max_clock_skew: settings.max_clock_skew,
        adopt_restored: settings.adopt_restored,
        algorithm: settings.signing_algorithm,
        ring_secret: AccountId::new(&settings.namespace, SECRET_NAME),
        cluster_id,
        store_check_interval: settings.store_check_interval,
        cleanup_deadline: settings.cleanup_deadline,
    })
}

async fn public(
    settings: &Settings,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Bound> {
    let certificate = settings.tls.clone().map(Certificate::load).transpose()?;
    let bound = Bound::bind("public", settings.public_address).await?;
    let Some(certificate) = certificate else { return Ok(bound) };
    let tls = certificate.server_config().context("cannot serve TLS")?;
    tasks.spawn(certificate.follow(Arc::clone(metrics), stop.clone()));
    Ok(bound.with_tls(tls))
}

// Read once: it is in the mark of every secret that is written, and never changes.
async fn cluster_id(settings: &Settings, client: &Client) -> anyhow::Result<String> {
    if let Some(id) = &settings.cluster_id {
        return Ok(id.clone());
    }
    let id = integration::cluster_identity::cluster_id(client).await;
    id.context("cannot read namespace kube-system, whose uid is the cluster's id; set --cluster-id")
}

fn keeper(
    settings: &Settings,
    writer: (Client, Leadership),
    seen: &Arc<Seen>,
    events: &Events,
) -> (Keeper, Receiver<RingState>) {
    let ring = RingSettings {
        rotation: settings.signing_key_rotation,
        algorithm: settings.signing_algorithm,
        lead: RingSettings::LEAD,
    };
    let tell = tell(events.clone(), settings.namespace.clone());
    Keeper::new(writer, &settings.namespace, ring, Arc::clone(seen) as _, clock::now, tell)
}

fn tell(events: Events, namespace: String) -> Tell {
    Arc::new(move |notice: RingNotice| {
        let type_ = if notice.warning { Severity::Warning } else { Severity::Normal };
        match type_ {
            Severity::Warning => warn!(reason = notice.reason, "{}", notice.message),
            Severity::Normal => info!(reason = notice.reason, "{}", notice.message),
        }
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Secret".into()),
            name: Some(SECRET_NAME.into()),
            namespace: Some(namespace.clone()),
            ..ObjectReference::default()
        };
        events
            .publish_about(about, Notice { type_, reason: notice.reason, action: "KeepKeys", message: notice.message });
    })
}

fn readiness(
    seen: &Arc<Seen>,
    integrations: &Arc<Integrations>,
    keys: &Receiver<RingState>,
    ring_trouble: impl Fn() -> Option<String> + Send + Sync + 'static,
) -> ops::Readiness {
    let (seen, integrations, keys) = (Arc::clone(seen), Arc::clone(integrations), keys.clone());
    let trouble = move || seen.trouble().or_else(|| integrations.trouble()).or_else(&ring_trouble);
    Arc::new(move || match (trouble(), &*keys.borrow()) {
        (Some(trouble), _) => Err(trouble),
        (None, RingState { ring: None, trouble: None }) => Err("the key ring is not loaded yet".into()),
        (None, RingState { ring: None, trouble: Some(trouble) }) => Err(trouble.to_string()),
        (None, _) => Ok(()),
    })
}

fn routes(
    settings: &Settings,
    client: &Client,
    server_clock: &ServerClock,
    seen: &Arc<Seen>,
    keys: &Receiver<RingState>,
    metrics: &Arc<Metrics>,
) -> axum::Router {
    let (served, checked) = (keys.clone(), keys.clone());
    let (trusted, skew) = (server_clock.clone(), settings.max_clock_skew);
    let check = Check::new(
        Arc::new(move || checked.borrow().ring.clone()),
        Arc::new(Watched {
            seen: Arc::clone(seen),
            scope: settings.watch.clone(),
            kubernetes: Kubernetes::new(client.clone(), CHECKS),
        }),
        Arc::new(clock::now),
        Arc::new(move || trusted.trusted(skew)),
    );
    let jwks: discovery::Jwks = Arc::new(move || served.borrow().ring.as_ref().map(|ring| ring.jwks()));
    let introspection = introspect::Introspection {
        callers: Callers::new(Arc::new(KubeReviews(client.clone()))),
        check: Arc::new(check),
        metrics: Arc::clone(metrics),
    };
    discovery::routes(&settings.issuer_url, settings.signing_algorithm, jwks)
        .merge(introspect::routes(&settings.issuer_url, introspection))
}

/// The accounts of the online check: the watch, and one read where it does not know.
struct Watched {
    seen: Arc<Seen>,
    scope: Scope,
    kubernetes: Kubernetes,
}

impl Accounts for Watched {
    fn cached(&self, id: &AccountId) -> Option<Arc<VirtualAccount>> {
        self.seen.accounts.get(id)
    }

    fn silence(&self, id: &AccountId) -> Option<Duration> {
        self.seen.accounts.silence_of(&id.namespace)
    }

    fn read<'a>(&'a self, id: &'a AccountId) -> BoxFuture<'a, Result<Option<VirtualAccount>, ReadError>> {
        // Of a namespace that was taken off the list nothing is known: nobody would say so if its token were revoked.
        if !self.scope.covers(&id.namespace) {
            return async { Ok(None) }.boxed();
        }
        read(&self.kubernetes, id).boxed()
    }
}

/// Reads one account for an online check.
pub async fn read(kubernetes: &Kubernetes, id: &AccountId) -> Result<Option<VirtualAccount>, ReadError> {
    kubernetes.read_account(id).await.map_err(|error| match error {
        CallError::Refused { .. } => ReadError("the API server refuses"),
        CallError::Conflict | CallError::Unavailable(_) => ReadError("the API server is not available"),
    })
}

async fn until_told() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

fn instance() -> String {
    std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| "local".into())
}
