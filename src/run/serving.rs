//! Start-up of the listeners: the public one, which all replicas serve, and the one for probes and metrics.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Base, Integrations, Stages};
use crate::account::cluster::CallError;
use crate::account::kubernetes::Kubernetes;
use crate::account::seen::Seen;
use crate::api::{AccountId, VirtualAccount};
use crate::clock;
use crate::config::Settings;
use crate::http::access::{Callers, KubeReviews};
use crate::http::check::{Accounts, Check, ReadError};
use crate::http::tls::Certificate;
use crate::http::{Bound, discovery, introspect, ops};
use crate::token::RingState;
use crate::watch::Scope;

/// So many reads for online checks at once; their rate is limited as well.
const CHECKS: usize = 16;

/// The listeners, with their ports taken.
pub(super) struct Listeners {
    public: Bound,
    certificate: Option<Arc<Certificate>>,
    operations: Bound,
}

impl Listeners {
    /// Takes the ports, and reads the certificate.
    pub(super) async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let certificate = settings.tls.clone().map(Certificate::load).transpose()?;
        let mut public = Bound::bind("public", settings.public_address).await?;
        if let Some(certificate) = &certificate {
            public = public.with_tls(certificate.server_config().context("cannot serve TLS")?);
        }
        let operations = Bound::bind("ops", settings.ops_address).await?;
        Ok(Self { public, certificate, operations })
    }

    /// Serves until the last stage ends.
    pub(super) fn serve(self, base: &Base, ready: ops::Readiness, stages: &Stages) {
        let (working, serving) = (&stages.working, &stages.serving);
        if let Some(certificate) = self.certificate {
            working.spawn("certificate", certificate.follow(Arc::clone(&base.metrics), working.stop.clone()));
        }
        let operations = ops::routes(ready, Arc::clone(&base.metrics));
        serving.spawn("ops listener", self.operations.serve(operations, serving.stop.clone()));
        serving.spawn("public listener", self.public.serve(routes(base), serving.stop.clone()));
    }
}

/// Whether traffic may come here, and why not.
pub(super) fn readiness(base: &Base, integrations: &Arc<Integrations>) -> ops::Readiness {
    let (seen, integrations, keys) = (Arc::clone(&base.seen), Arc::clone(integrations), base.keys.clone());
    let ring_trouble = Arc::clone(&base.ring_trouble);
    let trouble = move || seen.trouble().or_else(|| integrations.trouble()).or_else(|| ring_trouble());
    Arc::new(move || match (trouble(), &*keys.borrow()) {
        (Some(trouble), _) => Err(trouble),
        (None, RingState { ring: None, trouble: None }) => Err("the key ring is not loaded yet".into()),
        (None, RingState { ring: None, trouble: Some(trouble) }) => Err(trouble.to_string()),
        (None, _) => Ok(()),
    })
}

fn routes(base: &Base) -> axum::Router {
    let settings = &base.settings;
    let (served, checked) = (base.keys.clone(), base.keys.clone());
    let (trusted, skew) = (base.server_clock.clone(), settings.max_clock_skew);
    let check = Check::new(
        Arc::new(move || checked.borrow().ring.clone()),
        Arc::new(Watched {
            seen: Arc::clone(&base.seen),
            scope: settings.watch.clone(),
            kubernetes: Kubernetes::new(base.asking.clone(), CHECKS),
        }),
        Arc::new(clock::now),
        Arc::new(move || trusted.trusted(skew)),
    );
    let jwks: discovery::Jwks = Arc::new(move || served.borrow().ring.as_ref().map(|ring| ring.jwks()));
    let introspection = introspect::Introspection {
        callers: Callers::new(Arc::new(KubeReviews(base.asking.clone()))),
        check: Arc::new(check),
        metrics: Arc::clone(&base.metrics),
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
