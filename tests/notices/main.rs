//! Notices as people get them: a real API server, the operator with only its shipped rights, a real mail server, and
//! receivers that speak the providers' HTTP. Tests share plane and operator unless they kill it or move its clock; each
//! has a namespace, channels and a receiver of its own.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure is the test's verdict")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../stores/fake.rs"]
#[allow(dead_code, reason = "only the mail server and its certificate are used here")]
mod fake;

#[path = "../channels/email/post_office.rs"]
#[allow(dead_code, reason = "the operator opens the channels here")]
mod post_office;

mod crash;
mod dead;
mod digest;
mod kinds;
mod pages;
mod receiver;
mod story;
mod tenancy;
mod test_message;
mod world;

use support::{fault, server};
