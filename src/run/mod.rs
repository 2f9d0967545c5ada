//! Start-up of `run`, written once: connect, watch, keep the keys, work, serve; and the orderly end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

mod base;
mod gauges;
mod integrations;
mod serving;

use base::{Base, Waiting};
use gauges::Gauges;
use integrations::Integrations;
use serving::{Listeners, readiness};

pub use serving::read;

use crate::account::controller::{Controller, Parts};
use crate::account::desired::Limits;
use crate::api::AccountId;
use crate::config::Settings;
use crate::leader::{self, Leadership};
use crate::token::SECRET_NAME;

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
    let leadership = start(settings, &stages).await?;
    until_told().await?;
    stages.end(&leadership).await;
    info!("stopped");
    Ok(())
}

async fn start(settings: Settings, stages: &Stages) -> anyhow::Result<Leadership> {
    let listeners = Listeners::bind(&settings).await?;
    let (base, Waiting { elector, watches }) = Base::start(settings, stages).await?;
    let integrations = Arc::new(Integrations::start(&base, stages));
    if let Some(elector) = elector {
        let Stage { tasks, stop } = &stages.standing;
        tasks.spawn(elector.run(fit(&base, &integrations), stop.clone()));
    }
    let Stage { tasks, stop } = &stages.working;
    let controller = controller(&base, &integrations);
    tasks.spawn(Arc::clone(&controller).run(watches, stop.clone()));
    let ready = readiness(&base, &integrations);
    tasks.spawn(Gauges::new(&base, controller, Arc::clone(&ready)).run(stop.clone()));
    listeners.serve(&base, ready, stages);
    Ok(base.leadership)
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

// Without the key ring: only a leader makes the first.
fn fit(base: &Base, integrations: &Arc<Integrations>) -> leader::Fit {
    let (seen, integrations) = (Arc::clone(&base.seen), Arc::clone(integrations));
    Arc::new(move || seen.trouble().or_else(|| integrations.trouble()).is_none())
}

fn controller(base: &Base, integrations: &Integrations) -> Arc<Controller> {
    Controller::new(Parts {
        client: base.client.clone(),
        leadership: base.leadership.clone(),
        limits: limits(&base.settings, base.cluster_id.clone()),
        server_clock: base.server_clock.clone(),
        keys: base.keys.clone(),
        events: base.events.clone(),
        metrics: Arc::clone(&base.metrics),
        reissue_rate: base.settings.reissue_rate,
        workers: base.settings.workers,
        seen: Arc::clone(&base.seen),
        queue: Arc::clone(&base.queue),
        stores: Arc::clone(&integrations.stores),
        namespaces: Arc::clone(&integrations.namespaces),
        channels: Arc::clone(&integrations.channels),
        outbox: Arc::clone(&integrations.outbox),
    })
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

async fn until_told() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}
