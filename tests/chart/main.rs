//! The chart: what it renders, what Helm makes of it on a real API server, and the operator run as it says.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure is the test's verdict")]

#[path = "../support/mod.rs"]
mod support;

mod admitted;
mod drills;
mod monitoring;
mod offline;
mod story;
mod values;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::helm::{Helm, chart};

/// The files under `ci/`.
const VALUES: [&str; 4] = ["default", "full", "minimal", "namespaced"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn values(name: &str) -> String {
    format!("{}/ci/{name}-values.yaml", chart())
}

/// What the chart renders to with these values, as text.
fn render(helm: Helm, name: &str) -> String {
    helm.offline_ok(&["template", "example", &chart(), "--namespace", "virtual-accounts", "--values", &values(name)])
}

/// The objects in a text; what is only comments is none.
fn objects(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}"));
    documents.into_iter().filter(Value::is_object).collect()
}

/// The one object of a kind.
fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<_> = objects.iter().filter(|object| object["kind"] == kind).collect();
    let [one] = found[..] else { panic!("one {kind}, not {}", found.len()) };
    one
}
