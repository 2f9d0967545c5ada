//! The heart: from a manifest to a delivered token.
//!
//! ```text
//!  VirtualAccount --desired--> Desired --+
//!  Secret, status, key ring -> Observed -+- plan(desired, observed, now) -> Plan -> apply -> Outcome -+
//!                                                                                                      |
//!                              status::finished(desired, observed, plan, outcome, clock) <-------------+
//! ```
//!
//! [`schedule`], [`ledger`], [`plan`] and [`status`] are pure; [`apply`] does what a plan says; [`controller`] decides
//! when a pass runs.

pub mod apply;
pub mod cluster;
pub mod condition;
pub mod controller;
mod deliver;
pub mod desired;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod happenings;
#[cfg(test)]
mod histories;
pub mod issue;
pub mod journal;
pub mod kubernetes;
pub mod ledger;
pub mod letters;
pub mod notices;
pub mod observe;
pub mod plan;
pub mod schedule;
pub mod secret;
pub mod seen;
pub mod status;
pub mod stores;
