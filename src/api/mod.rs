//! The types of the API group `virtualaccounts.dev`, a file per kind. No behaviour: what a field means is decided in
//! `account::desired`, what is written into a status in `account::status`.
//!
//! The committed `crds/` are printed from these types by `virtual-account-operator crd`.

use std::fmt;

mod duration;
mod instant;
mod notice;
pub mod notification_channel;
pub mod token_store;
pub mod virtual_account;

pub use duration::{DaysOrDuration, Seconds};
pub use instant::Instant;
pub use notice::{NoticeKind, Notification, NotificationState, NotificationTarget};
pub use notification_channel::*;
pub use token_store::*;
pub use virtual_account::*;

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use serde_json::json;

/// The API group; also the prefix of our labels and annotations.
pub const GROUP: &str = "virtualaccounts.dev";

/// Asks for one rotation: `<id>` or `<id>,grace=<duration>`. A value acts once.
pub const ROTATE_ANNOTATION: &str = "virtualaccounts.dev/rotate";
/// `"true"` lets an account adopt the Secret of an earlier account of the same name (another uid).
pub const ADOPT_ANNOTATION: &str = "virtualaccounts.dev/adopt";
/// Asks for one look at every store, whatever its value: a wiped or changed one is refilled with the same token.
pub const SYNC_ANNOTATION: &str = "virtualaccounts.dev/sync-requested-at";
/// On a NotificationChannel: asks for one test message, whatever its value.
pub const TEST_ANNOTATION: &str = "virtualaccounts.dev/test-requested-at";
/// Holds an account back until its paths in stores are cleaned up; there only while it has stores.
pub const STORES_FINALIZER: &str = "virtualaccounts.dev/stores";
/// Holds a TokenStore back while accounts use it.
pub const IN_USE_FINALIZER: &str = "virtualaccounts.dev/in-use";

/// All custom resource definitions, as they are committed in `crds/`.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![virtual_account::crd(), token_store::crd(), notification_channel::crd()]
}

/// What the derives cannot say: a rule at the root of the schema, and that a new object is in progress.
fn finish(mut crd: CustomResourceDefinition, rule: Option<&serde_json::Value>) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else {
            continue;
        };
        tidy(schema);
        if let Some(rule) = rule {
            schema.x_kubernetes_validations = serde_json::from_value(json!([rule])).ok();
        }
        if let Some(status) = schema.properties.as_mut().and_then(|properties| properties.get_mut("status")) {
            status.default = serde_json::from_value(json!({"observedGeneration": -1})).ok();
        }
    }
    crd
}

/// One line for each sentence, as `kubectl explain` and the YAML keep line ends; and no field is nullable: the API server
/// then drops a null, which a template's empty line leaves, instead of storing it.
fn tidy(schema: &mut JSONSchemaProps) {
    if let Some(description) = &mut schema.description {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ").replace(". ", ".\n");
    }
    schema.nullable = None;
    schema.properties.iter_mut().flat_map(BTreeMap::values_mut).for_each(tidy);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        tidy(items);
    }
}

/// The definitions as YAML, one document each.
pub fn yaml() -> Result<String, serde_saphyr::ser::Error> {
    crds().iter().map(|definition| serde_saphyr::to_string(definition).map(|text| format!("---\n{text}"))).collect()
}

/// Which account: its identity is its namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl AccountId {
    /// From its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The token's `sub` and `client_id`: `va:<namespace>:<name>`.
    pub fn subject(&self) -> String {
        format!("va:{}:{}", self.namespace, self.name)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
