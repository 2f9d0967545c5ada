//! The gauges that change with the clock or that nobody else tells of.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;

use super::Base;
use crate::account::controller::Controller;
use crate::api::Seconds;
use crate::clock::{self, ServerClock};
use crate::http::ops::Readiness;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::token::RingState;

/// How often they are set: as often as anybody scrapes.
const INTERVAL: Duration = Duration::from_secs(5);

/// What they are read from.
pub(super) struct Gauges {
    metrics: Arc<Metrics>,
    leadership: Leadership,
    keys: Receiver<RingState>,
    rotation: Seconds,
    controller: Arc<Controller>,
    ready: Readiness,
    clock: ServerClock,
    max_skew: Seconds,
}

impl Gauges {
    pub(super) fn new(base: &Base, controller: Arc<Controller>, ready: Readiness) -> Self {
        Self {
            metrics: Arc::clone(&base.metrics),
            leadership: base.leadership.clone(),
            keys: base.keys.clone(),
            rotation: base.settings.signing_key_rotation,
            controller,
            ready,
            clock: base.server_clock.clone(),
            max_skew: base.settings.max_clock_skew,
        }
    }

    /// Sets them until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.set();
        }
    }

    fn set(&self) {
        let metrics = &self.metrics;
        metrics.leader(self.leadership.holds());
        metrics.queue_depth(self.controller.waiting());
        metrics.accounts_failing(self.controller.failing());
        metrics.namespaces_denied(self.controller.denied());
        metrics.replica_ready((self.ready)().is_ok());
        metrics.clock_trusted(self.clock.trusted(self.max_skew));
        let state = self.keys.borrow();
        metrics.key_ring_healthy(state.ring.is_some() && state.trouble.is_none());
        if let Some(ring) = state.ring.as_ref() {
            let now = clock::now();
            metrics.keys(ring.ages(now));
            metrics.key_rotation(ring.rotation_due(now, self.rotation));
        }
    }
}
