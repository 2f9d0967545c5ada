//! What every medium must do, each against the most real server there is.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure is the test's verdict")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../stores/fake.rs"]
#[allow(dead_code, reason = "only a part is used here")]
mod fake;

mod email;

use support::{fault, server};
