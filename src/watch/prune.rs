//! What is dropped from objects before they are kept: most of a Secret's metadata is never looked at.

use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use kube::core::{ObjectMeta, PartialObjectMeta};

/// Drops the managed fields, the larger half of most objects.
pub fn prune_managed_fields<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Keeps of a Secret's metadata what tells whose it is and whether it changed: a quarter of the memory. The annotation
/// in which kubectl keeps what was applied goes too, as it may hold the Secret's data.
pub fn prune_secret(object: &mut PartialObjectMeta<Secret>) {
    let mut meta = std::mem::take(&mut object.metadata);
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    object.types = None;
    object.metadata = ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        labels: meta.labels,
        annotations: meta.annotations,
        owner_references: meta.owner_references,
        finalizers: meta.finalizers,
        ..ObjectMeta::default()
    };
}
