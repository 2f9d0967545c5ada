//! What every medium must do: one suite of clauses (`contract`), run against each on a server that checks every request
//! against what the provider documents. To add a medium, write a file with its `Instance` and one line of `contract!`, and
//! name it here.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure is the test's verdict")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../stores/fake.rs"]
#[allow(dead_code, reason = "only its certificate is used here")]
mod fake;

mod chat;
mod clauses;
mod contract;
mod email;
mod pager_duty;
mod shape;
mod stage;
mod story;
mod webhook;

use support::{fault, server};
