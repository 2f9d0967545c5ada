//! The code in the guide for consumers does what the guide says, in every language that this machine has: it reads the
//! token for each call, and asks once more with the previous one.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

use super::blocks;
use crate::support::server;

#[allow(unreachable_pub, reason = "as the guide shows it")]
#[path = "consumers/rust.rs"]
mod rust;

const GUIDE: &str = "docs/consumers.md";

/// A service that knows some tokens, and notes which it was shown.
#[derive(Clone, Default)]
struct Service(Arc<Mutex<(BTreeSet<String>, Vec<String>)>>);

impl Respond for Service {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let shown = request.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let shown = shown.strip_prefix("Bearer ").unwrap_or("not a bearer token").to_owned();
        let mut state = self.0.lock().unwrap();
        let status = if state.0.contains(&shown) { 200 } else { 401 };
        state.1.push(shown);
        ResponseTemplate::new(status)
    }
}

impl Service {
    /// What one call comes to, and which tokens it shows, when the service knows these.
    fn call(&self, knows: &[&str], consumer: impl FnOnce() -> u16) -> (u16, Vec<String>) {
        *self.0.lock().unwrap() = (knows.iter().map(|token| (*token).to_owned()).collect(), Vec::new());
        let status = consumer();
        (status, std::mem::take(&mut self.0.lock().unwrap().1))
    }
}

/// A mounted Secret: files behind a link that the kubelet moves.
struct Mounted(PathBuf);

impl Mounted {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("consumer-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for key in ["token", "previous-token"] {
            std::os::unix::fs::symlink(format!("..data/{key}"), folder.join(key)).unwrap();
        }
        Self(folder)
    }

    fn holds(&self, number: u32, keys: &[(&str, &str)]) {
        let version = self.0.join(format!("..{number}"));
        fs::create_dir(&version).unwrap();
        for (key, value) in keys {
            fs::write(version.join(key), value).unwrap();
        }
        let next = self.0.join("..next");
        std::os::unix::fs::symlink(version.file_name().unwrap(), &next).unwrap();
        fs::rename(next, self.0.join("..data")).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One rotation, as a consumer lives it.
fn lives_through_a_rotation(service: &Service, mounted: &Mounted, mut call: impl FnMut() -> u16) {
    let mut seen = |knows: &[&str]| service.call(knows, &mut call);
    let shown = |tokens: &[&str]| tokens.iter().map(|token| (*token).to_owned()).collect::<Vec<_>>();
    mounted.holds(1, &[("token", "one")]);
    assert_eq!(seen(&["one"]), (200, shown(&["one"])));
    mounted.holds(2, &[("token", "two"), ("previous-token", "one")]);
    assert_eq!(seen(&["one", "two"]), (200, shown(&["two"])), "it reads the file for each call");
    assert_eq!(seen(&["one"]), (200, shown(&["two", "one"])), "it falls back");
    assert_eq!(seen(&[]), (401, shown(&["two", "one"])), "it asks once more, not for ever");
    mounted.holds(3, &[("token", "two")]);
    assert_eq!(seen(&["one"]), (401, shown(&["two"])), "there is no previous token now");
}

fn started() -> (tokio::runtime::Runtime, MockServer, Service) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let service = Service::default();
    let server = runtime.block_on(MockServer::start());
    runtime.block_on(Mock::given(matchers::any()).respond_with(service.clone()).mount(&server));
    (runtime, server, service)
}

/// The guide's code in a language, beside a program of ours that calls it for each line on stdin.
fn in_another_language(language: &str, file: &str, program: &str, arguments: impl Fn(&Path) -> Command) {
    let (_runtime, mocked, service) = started();
    let mounted = Mounted::new(language);
    let code = mounted.0.join("..code");
    fs::create_dir(&code).unwrap();
    let [shown] = blocks(GUIDE, language).try_into().expect("one block of the language");
    fs::write(code.join(file), shown).unwrap();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/documents/consumers").join(program);
    fs::copy(ours, code.join(program)).unwrap();
    let mut command = arguments(&code);
    command.arg(&mounted.0).arg(mocked.uri()).current_dir(&code);
    let mut caller = Caller::start(command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1"));
    lives_through_a_rotation(&service, &mounted, || caller.call());
}

/// A program that calls for each line on stdin and prints the status; it ends with its stdin.
struct Caller {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Caller {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it can be run");
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout }
    }

    fn call(&mut self) -> u16 {
        writeln!(self.stdin.as_mut().unwrap(), "call").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().parse().unwrap_or_else(|_| panic!("no status: {line:?}"))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn the_python_of_the_guide_lives_through_a_rotation() {
    in_another_language("python", "consumer.py", "calls.py", |code| {
        let mut python = Command::new(server::python().join("bin/python"));
        python.arg("-B").arg(code.join("calls.py"));
        python
    });
}

#[test]
fn the_go_of_the_guide_lives_through_a_rotation() {
    in_another_language("go", "consumer.go", "calls.go", |code| {
        let built = code.join("calls");
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(&built).arg(code.join("consumer.go")).arg(code.join("calls.go"));
        // Outside a module: the standard library alone.
        assert!(go.env("GO111MODULE", "off").status().expect("go can be run").success());
        Command::new(built)
    });
}

#[test]
fn the_javascript_of_the_guide_lives_through_a_rotation() {
    in_another_language("js", "consumer.mjs", "calls.mjs", |code| {
        let mut node = Command::new("node");
        node.arg(code.join("calls.mjs"));
        node
    });
}

/// Java is nothing that the tests need otherwise: where it is not installed, its block is only looked at.
#[test]
fn the_java_of_the_guide_lives_through_a_rotation() {
    assert_eq!(blocks(GUIDE, "java").len(), 1);
    if Command::new("javac").arg("-version").output().is_err() {
        eprintln!("there is no javac here: the guide's Java is not run");
        return;
    }
    in_another_language("java", "Consumer.java", "Calls.java", |code| {
        let sources = [code.join("Consumer.java"), code.join("Calls.java")];
        let built = Command::new("javac").arg("-d").arg(code).args(sources).status().unwrap();
        assert!(built.success());
        let mut java = Command::new("java");
        java.arg("-cp").arg(code).arg("Calls");
        java
    });
}

#[test]
fn the_rust_of_the_guide_lives_through_a_rotation() {
    let source = super::read("tests/documents/consumers/rust.rs");
    let [shown] = blocks(GUIDE, "rust").try_into().expect("one block of Rust");
    assert_eq!(source.split_once("\n\n").unwrap().1, shown, "the guide shows what is run here");
    let (runtime, mocked, service) = started();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (mounted, client) = (Mounted::new("rust"), reqwest::Client::builder().no_proxy().build().unwrap());
    lives_through_a_rotation(&service, &mounted, || {
        runtime.block_on(rust::call(&client, &mounted.0, &mocked.uri())).unwrap().status().as_u16()
    });
}
