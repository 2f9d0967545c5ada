//! The types of the API group `virtualaccounts.dev`, a file per kind. No behaviour: what a field means is decided in
//! `account::desired`, what is written into a status in `account::status`.
//!
//! The committed `crds/` are printed from these types by `virtual-account-operator crd`.

use std::fmt;

mod duration;
mod instant;
pub mod virtual_account;

pub use duration::{DaysOrDuration, Seconds};
pub use instant::Instant;
pub use virtual_account::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// The API group; also the prefix of our labels and annotations.
pub const GROUP: &str = "virtualaccounts.dev";

/// Asks for one rotation: `<id>` or `<id>,grace=<duration>`. A value acts once.
pub const ROTATE_ANNOTATION: &str = "virtualaccounts.dev/rotate";
/// `"true"` lets an account adopt the Secret of an earlier account of the same name (another uid).
pub const ADOPT_ANNOTATION: &str = "virtualaccounts.dev/adopt";

/// All custom resource definitions, as they are committed in `crds/`.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![virtual_account::crd()]
}

/// The definitions as YAML, one document each.
pub fn yaml() -> Result<String, serde_saphyr::ser::Error> {
    crds().iter().map(|crd| serde_saphyr::to_string(crd).map(|text| format!("---\n{text}"))).collect()
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
