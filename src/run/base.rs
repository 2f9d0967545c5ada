//! What every part of the operator stands on: the clients, the leadership, the watches of accounts, the key ring.

use std::sync::Arc;

use anyhow::Context;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::watch::Receiver;
use tracing::{info, warn};

use super::Stages;
use crate::account::seen::{Seen, Watches};
use crate::client;
use crate::clock::{self, ServerClock};
use crate::config::Settings;
use crate::events::{self, Events, Notice, Severity};
use crate::integration;
use crate::leader::{self, Elector, Leadership};
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::token::{Keeper, RingNotice, RingSettings, RingState, SECRET_NAME, Tell};

/// What every part stands on.
pub(super) struct Base {
    pub(super) settings: Settings,
    pub(super) metrics: Arc<Metrics>,
    pub(super) server_clock: ServerClock,
    /// Of the cluster: in the mark of every secret that is written.
    pub(super) cluster_id: String,
    /// For reviews and reads: not held back while another replica leads.
    pub(super) asking: Client,
    /// For the work: its writes are held back while another replica leads.
    pub(super) client: Client,
    pub(super) leadership: Leadership,
    pub(super) events: Events,
    pub(super) seen: Arc<Seen>,
    pub(super) queue: Arc<Queue>,
    pub(super) keys: Receiver<RingState>,
    /// Why the key ring may be out of date, if so.
    pub(super) ring_trouble: Arc<dyn Fn() -> Option<String> + Send + Sync>,
}

/// What is started once the base stands.
pub(super) struct Waiting {
    pub(super) elector: Option<Elector>,
    pub(super) watches: Watches,
}

impl Base {
    /// Connects, and keeps the keys from then on.
    pub(super) async fn start(settings: Settings, stages: &Stages) -> anyhow::Result<(Self, Waiting)> {
        let working = &stages.working;
        let metrics = Arc::new(Metrics::new(clock::now()));
        let server_clock = ServerClock::new();
        let counted = Arc::clone(&metrics);
        let asking = connect(&server_clock, Arc::new(move |verb, resource| counted.wrote(verb, resource))).await?;
        let cluster_id = cluster_id(&settings, &asking).await?;
        let (elector, leadership) = candidate(&settings, &server_clock).await?;
        let client = client::fenced(asking.clone(), leadership.clone());
        let (events, poster) = events::channel(client.clone(), instance());
        working.spawn("events", poster.run(working.stop.clone()));
        let (seen, watches) = Seen::new(&client, &settings.watch);
        let (keeper, keys) = keeper(&settings, (client.clone(), leadership.clone()), &seen, &events);
        let ring_trouble = Arc::new(keeper.freshness());
        working.spawn("keeper", keeper.run(working.stop.clone()));
        let queue = Arc::new(Queue::new());
        let base = Self {
            settings,
            metrics,
            server_clock,
            cluster_id,
            asking,
            client,
            leadership,
            events,
            seen,
            queue,
            keys,
            ring_trouble,
        };
        Ok((base, Waiting { elector, watches }))
    }

    /// What people call the cluster.
    pub(super) fn cluster_name(&self) -> String {
        self.settings.cluster_name.clone().unwrap_or_else(|| self.cluster_id.clone())
    }
}

async fn connect(server_clock: &ServerClock, on_write: client::OnWrite) -> anyhow::Result<Client> {
    client::connect(server_clock.clone(), on_write).await.context("cannot connect to the API server")
}

/// A candidate for the Lease, and what it may do. Without election there is none, and everything is allowed.
async fn candidate(settings: &Settings, server_clock: &ServerClock) -> anyhow::Result<(Option<Elector>, Leadership)> {
    let Some(duration) = settings.lease_duration else { return Ok((None, Leadership::always())) };
    let client = connect(server_clock, Arc::new(|_, _| {})).await?;
    let pod = std::env::var("POD_NAME").ok().filter(|pod| !pod.is_empty());
    let candidate = leader::Settings { namespace: settings.namespace.clone(), pod, host: instance(), duration };
    let (elector, leadership) = Elector::new(client, &candidate);
    Ok((Some(elector), leadership))
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

fn instance() -> String {
    std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| "local".into())
}
