//! Least privilege, on a real API server: Roles alone, policies that hold the operator to its own objects, roles for people,
//! and what the operator reads of Secrets. In `check`, the proof that all tests together need what the roles allow.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure is the test's verdict")]

#[path = "../support/mod.rs"]
mod support;

mod check;
mod limits;
mod namespaced;
mod page;
mod people;
mod policies;
mod secrets;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use support::helm::{Helm, chart};
use support::plane::Plane;

/// As the audit log and policies name the operator.
const OPERATOR: &str = "system:serviceaccount:virtual-accounts:virtual-account-operator";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// These templates of the chart, in the namespace of the tests, with these values.
fn rendered(templates: &[&str], values: &Value) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut values = values.clone();
    values["issuerUrl"] = json!("https://issuer.example");
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("values-{}-{number}.json", std::process::id()));
    std::fs::write(&file, values.to_string()).unwrap();
    let templates: Vec<String> = templates.iter().map(|template| format!("templates/{template}.yaml")).collect();
    let (chart, path) = (chart(), file.display().to_string());
    let mut args = vec!["template", "virtual-account-operator", &chart, "--namespace", "virtual-accounts", "-f", &path];
    args.extend(templates.iter().flat_map(|template| ["-s", template.as_str()]));
    let text = Helm::Four.offline_ok(&args);
    std::fs::remove_file(&file).unwrap();
    text
}

fn run(command: &mut Command, stdin: &str) -> Output {
    use std::io::Write as _;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that has seen enough may have closed it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// What kubectl says as somebody else: `Ok` if it succeeds.
fn kubectl_as(plane: &Plane, user: &str, args: &[&str], stdin: Option<&str>) -> Result<String, String> {
    let user = format!("--as={user}");
    let output = plane.kubectl(&[args, &[user.as_str()]].concat(), stdin);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn rotating() -> Value {
    json!({"autoRotate": {"autoRotateInterval": "90d", "gracePeriod": "7d"}})
}
