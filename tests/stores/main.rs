//! What every secret store must do: one suite of clauses (`contract`), run against each provider on the most real server
//! there is. To add a provider, write a file with its `Instance` and one line of `contract!`, and name it here.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure is the test's verdict")]

#[path = "../support/mod.rs"]
mod support;

mod aws;
mod azure;
mod azure_login;
mod azure_pages;
mod azure_vault;
mod bao;
mod clauses;
mod contract;
mod fake;
mod google;
mod google_fake;
mod google_gate;
mod google_login;
mod google_page;
mod google_races;
mod logs;
mod memory;
mod moto;
mod pages;
mod parameter_store;
mod secrets_manager;
mod story;
mod troubles;
mod vault;

use support::{fault, server};
