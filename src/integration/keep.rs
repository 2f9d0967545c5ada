//! How an integration's own status is kept: who looks at it when, how it is written, and what is told of it.

use std::fmt::Debug;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::core::object::HasStatus;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{debug, info, warn};

use crate::api::{AccountId, Instant, ObjectId, Seconds};
use crate::client::describe;
use crate::clock;
use crate::events::{Notice, Severity};
use crate::queue::Queue;
use crate::watch::version;

/// After a write that failed, or while something is not known yet.
pub const RETRY: Seconds = Seconds(5);

/// Looks at the objects that the queue names, one after another, until it is closed. `look` says when to look again.
pub async fn keep<F>(queue: &Queue, kind: &'static str, look: impl Fn(AccountId) -> F)
where
    F: Future<Output = Result<Option<Instant>, kube::Error>>,
{
    while let Some(id) = queue.next().await {
        let wake = match AssertUnwindSafe(look(id.clone())).catch_unwind().await {
            Ok(Ok(wake)) => wake,
            Ok(Err(error)) => {
                debug!(kind, object = %*id, error = describe(&error), "an object's status or finalizer was not written");
                Some(clock::now() + RETRY)
            }
            Err(_) => {
                warn!(kind, object = %*id, "looking at an object panicked; this is a defect");
                Some(clock::now() + Seconds::minutes(1))
            }
        };
        queue.wake_at(id.clone(), wake);
    }
}

/// Writes a status over the one that was seen; the object as it then is.
pub async fn write_status<K>(client: &Client, seen: &K, status: K::Status) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + HasStatus
        + Clone
        + Serialize
        + DeserializeOwned
        + Debug,
{
    let mut next = seen.clone();
    *next.status_mut() = Some(status);
    let api: Api<K> = Api::namespaced(client.clone(), &seen.namespace().unwrap_or_default());
    api.replace_status(&seen.name_any(), &PostParams::default(), &next).await
}

/// The Event for a Ready condition that is another than before, which is also logged; `None`: it says the same. `reasons`:
/// of Events for good and for bad.
pub fn ready_news(
    about: &ObjectId,
    before: &[Condition],
    after: &[Condition],
    reasons: (&'static str, &'static str),
) -> Option<Notice> {
    let now = ready(after)?;
    if ready(before).is_some_and(|before| (&before.status, &before.reason) == (&now.status, &now.reason)) {
        return None;
    }
    let message = format!("{}: {}", now.reason, now.message);
    if now.status == "True" {
        info!(object = %about, reason = reasons.0, "{message}");
        return Some(Notice { type_: Severity::Normal, reason: reasons.0, action: "Check", message });
    }
    warn!(object = %about, reason = reasons.1, "{message}");
    Some(Notice { type_: Severity::Warning, reason: reasons.1, action: "Check", message })
}

fn ready(conditions: &[Condition]) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

/// As caches and queues name an object.
pub fn key(id: &ObjectId) -> AccountId {
    AccountId::new(&id.namespace, &id.name)
}

/// Which object this is.
pub fn identity(meta: &ObjectMeta) -> ObjectId {
    ObjectId { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}

/// The version of an object.
pub fn version_of(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().map_or(0, version)
}
