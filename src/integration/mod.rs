//! What all integrations (TokenStore, NotificationChannel) share: who may use one, whose credentials it gets, where its calls
//! may go, and what a failed call means.

mod answer;
mod check;
pub mod cluster_identity;
mod concern;
mod error;
mod identity;
mod keep;
mod login;
mod namespaces;
mod network;
mod news;
mod tenancy;
mod written;

pub use answer::{body, line, retry_after, unsent};
pub use check::{Checked, TIMING, Timing};
pub use cluster_identity::ClusterIdentity;
pub use concern::{Concern, Tell};
pub use error::{ErrorKind, ProviderError};
pub use identity::{Credential, Identity};
pub use keep::{RETRY, identity, keep, key, ready_news, version_of, write_status};
pub use login::{Login, Opened};
pub use namespaces::{NamespaceWatch, Namespaces, Objection};
pub use network::{Network, is_local, refusal, resolve};
pub use news::News;
pub use tenancy::{INVALID_SPEC, NOT_ALLOWED, Refusal, Tenancy};
pub use written::Written;
