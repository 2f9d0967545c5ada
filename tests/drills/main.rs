//! Drills: the real operator on a real control plane while things go wrong around it.
//!
//! Each drill has a plane of its own, because it stops things or moves the clock. Whatever happens, the same two
//! questions are asked at the end: does the recorded history break a rule of the ledger ([`history`]), and is the cluster
//! as it should be ([`sound`])?
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

mod clock;
mod crowd;
mod downtime;
mod history;
mod kill;
mod leader;
mod leader_start;
mod outage;
mod restore;
mod ring;
mod rivals;
mod sound;
#[path = "../support/mod.rs"]
mod support;
mod world;
mod year;
