//! Virtual accounts for Kubernetes: see README.md for users and the docs of each module for the reasons.
//!
//! Data flows one way: [`api`] is parsed into what is desired, the cluster is observed, a pure plan is made, applied,
//! and the status says what came of it.

pub mod account;
pub mod api;
pub mod backoff;
pub mod client;
pub mod clock;
pub mod condition;
pub mod config;
pub mod events;
pub mod fingerprint;
pub mod http;
pub mod integration;
pub mod leader;
pub mod lock;
pub mod metrics;
pub mod notify;
pub mod queue;
pub mod run;
pub mod store;
pub mod telemetry;
pub mod token;
pub mod verify;
pub mod watch;
