//! The operator as a process: under a keeper that ends it, with a clock that can be moved, without what the tester's own
//! environment has.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::FAKETIME;

pub(super) const BINARY: &str = env!("CARGO_BIN_EXE_virtual-account-operator");

// Prints the operator's process id, kills it when stdin ends and ends with its exit code. `env` and the operator take the
// place of the background shell, so the id is the operator's.
pub(super) const KEEPER: &str = r#"log=$1; shift; exec 3<&0
"$@" </dev/null >>"$log" 2>&1 3<&- & pid=$!
echo $pid; exec >/dev/null
(read -r _ <&3; kill -KILL $pid) & keeper=$!
exec 3<&-; wait $pid; code=$?; kill $keeper; exit $code"#;

/// Runs the operator under its keeper; with the pipe to it and the operator's process id.
pub(super) fn spawn(launch: &[String]) -> (Child, Option<ChildStdin>, u32) {
    let mut command = Command::new("sh");
    // The shell's remarks about what it killed are no news.
    command.args(launch).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = isolated(&mut command).spawn().unwrap_or_else(|error| panic!("cannot run sh: {error}"));
    let mut pid = String::new();
    let stdout = child.stdout.take().expect("stdout is piped");
    BufReader::new(stdout).read_line(&mut pid).expect("the shell prints the operator's process id");
    let pid = pid.trim().parse().unwrap_or_else(|_| panic!("no process id in {pid:?}"));
    let stdin = child.stdin.take();
    (child, stdin, pid)
}

// Set by `env` and not for the shell: nothing but the operator runs on a moved clock.
pub(super) fn environment(clock: Option<&Path>) -> Vec<String> {
    let Some(file) = clock else { return Vec::new() };
    vec![
        format!("LD_PRELOAD={FAKETIME}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        "FAKETIME_NO_CACHE=1".to_owned(),
    ]
}

/// What is tested: the binary of this build, or the one that the environment names, such as the release build.
pub(super) fn binary() -> String {
    std::env::var("VAO_TEST_BINARY").unwrap_or_else(|_| BINARY.to_owned())
}

/// Without settings and proxies of whoever runs the tests.
pub(super) fn isolated(command: &mut Command) -> &mut Command {
    for (key, _) in std::env::vars() {
        if key.starts_with("VAO_") || key.to_ascii_lowercase().ends_with("_proxy") || key.starts_with("FAKETIME") {
            command.env_remove(key);
        }
    }
    command
}
