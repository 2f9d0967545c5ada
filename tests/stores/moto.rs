//! AWS by moto, in a process of its own that ends with this one; and boto3 to look at it with other eyes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, Mutex};

use serde_json::{Value, json};

use super::server::python;

/// AWS.
pub(crate) struct Moto {
    pub(crate) url: String,
    process: Mutex<Process>,
}

struct Process {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Moto {
    /// The one that tests share; it ends because the end of this process closes the pipe.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<Moto> = LazyLock::new(Moto::start);
        &SHARED
    }

    pub(crate) fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/serve_moto.py");
        let mut child = Command::new(python().join("bin/python"))
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python runs");
        let commands = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let port = line(&mut answers);
        let process = Mutex::new(Process { child, commands, answers });
        Self { url: format!("http://127.0.0.1:{port}"), process }
    }

    /// One call of boto3: what it returned, or `{"error": <code>}`.
    pub(crate) fn boto(&self, service: &str, operation: &str, arguments: &Value) -> Value {
        let mut process = self.process.lock().expect("no test panicked inside a call");
        let commands = process.commands.as_mut().expect("moto is running");
        writeln!(commands, "{}", json!([service, operation, arguments])).expect("moto reads");
        let answer = line(&mut process.answers);
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{operation}: {error}: {answer}"))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        if let Ok(process) = self.process.get_mut() {
            drop(process.commands.take());
            let _ = process.child.wait();
        }
    }
}

fn line(answers: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    answers.read_line(&mut line).expect("moto answers");
    assert!(!line.is_empty(), "moto has ended");
    line.trim().to_owned()
}
