//! Start-up of `run`, written once: connect, watch, keep the keys, work, serve; and how it ends.

use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

mod base;
mod gauges;
mod integrations;
mod serving;
mod stages;

use base::{Base, Waiting};
use gauges::Gauges;
use integrations::Integrations;
use serving::{Listeners, readiness};
use stages::Stages;

pub use serving::read;

use crate::account::controller::{Controller, Parts};
use crate::account::desired::Limits;
use crate::api::AccountId;
use crate::config::Settings;
use crate::leader::{self, Leadership};
use crate::token::SECRET_NAME;

/// Runs the operator until SIGTERM or SIGINT, or until a task of it ends that should not; that is an error.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    // First, so that a signal is not lost while the API server lets start-up wait.
    let mut told = Told::listen()?;
    let stages = Stages::default();
    let leadership = tokio::select! {
        started = start(settings, &stages) => started?,
        () = told.recv() => {
            info!("stopped before the start was done");
            return Ok(());
        }
    };
    let failed = tokio::select! {
        biased;
        () = told.recv() => None,
        task = stages.failures.first() => Some(task),
    };
    if let Some(task) = failed {
        error!(task, "a task has ended that should not; stopping, to be started again");
    }
    stages.end(&leadership).await;
    info!("stopped");
    failed.map_or(Ok(()), |task| Err(anyhow::anyhow!("the task '{task}' has ended, which is a defect")))
}

async fn start(settings: Settings, stages: &Stages) -> anyhow::Result<Leadership> {
    let listeners = Listeners::bind(&settings).await?;
    let (base, Waiting { elector, watches }) = Base::start(settings, stages).await?;
    let integrations = Arc::new(Integrations::start(&base, stages));
    if let Some(elector) = elector {
        let standing = &stages.standing;
        standing.spawn("elector", elector.run(fit(&base, &integrations), standing.stop.clone()));
    }
    let working = &stages.working;
    let controller = controller(&base, &integrations);
    working.spawn("accounts", Arc::clone(&controller).run(watches, working.stop.clone()));
    let ready = readiness(&base, &integrations);
    working.spawn("gauges", Gauges::new(&base, controller, Arc::clone(&ready)).run(working.stop.clone()));
    listeners.serve(&base, ready, stages);
    Ok(base.leadership)
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

/// SIGTERM and SIGINT, from when this exists.
struct Told {
    terminate: Signal,
    interrupt: Signal,
}

impl Told {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
