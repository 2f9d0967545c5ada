//! The real operator, run as its own service account with nothing but the shipped RBAC.
//!
//! It lives as long as the pipe to it: it is killed when its [`Operator`] is dropped and also when the test process dies
//! in any other way.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

mod http;
mod install;
mod options;
mod process;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

pub(crate) use self::http::Answer;
use self::install::{CALLER, STRANGER, prepare, token};
pub(crate) use self::options::Options;
use self::options::arguments;
use self::process::{BINARY, KEEPER, binary, environment, isolated, spawn};
use super::cluster::{decode, wait_for};
use super::plane::Plane;

/// The `iss` of all tokens: nothing needs to resolve it.
pub(crate) const ISSUER: &str = "https://issuer.example.com";
/// Where the operator of most tests lives.
pub(crate) const NAMESPACE: &str = "virtual-accounts";
/// Moves the clock of a program that is started with it as `LD_PRELOAD`. The plain build of it races between threads:
/// about one reading in 100,000 shows the real time, and an operator that sees that takes its tokens for future ones.
pub(crate) const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
const START: Duration = Duration::from_secs(30);

/// A running operator.
pub(crate) struct Operator {
    child: Child,
    /// `None` once it is told to end.
    stdin: Option<ChildStdin>,
    pid: u32,
    /// How the shell is called.
    launch: Vec<String>,
    log: PathBuf,
    /// How much of the log is of earlier lives.
    seen: usize,
    clock: Option<PathBuf>,
    namespace: String,
    token: String,
    admin: PathBuf,
    public: String,
    ops: String,
    caller: String,
    stranger: String,
}

impl Operator {
    /// Installs CRDs and RBAC if need be, starts the operator and waits until it is ready. A second one in the same
    /// namespace of the same plane takes over the first one's key ring.
    pub(crate) fn start(plane: &Plane, options: Options) -> Self {
        Self::launch(plane, options).wait_ready()
    }

    /// As [`Operator::start`], without waiting for `/readyz`: for one that has reasons not to get ready.
    pub(crate) fn launch(plane: &Plane, options: Options) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let namespace = options.namespace();
        let release = prepare(plane, &options);
        let account = release.as_ref().map(|release| release.service_account(plane));
        let account = account.unwrap_or_else(|| "virtual-account-operator".to_owned());
        let server = options.server.as_deref().unwrap_or_else(|| plane.server());
        let kubeconfig = plane.serviceaccount_kubeconfig_at(server, &namespace, &account);
        let stem = plane.dir().join(format!("operator-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let log = stem.with_extension("log");
        let clock = options.clock.as_ref().map(|clock| {
            let file = stem.with_extension("clock");
            fs::write(&file, clock).expect("the plane's directory can be written");
            file
        });
        let mut launch = vec!["-c".to_owned(), KEEPER.to_owned(), "keeper".to_owned(), log.display().to_string()];
        launch.extend(["env".to_owned(), format!("KUBECONFIG={}", kubeconfig.display())]);
        // As a pod's container that starts again: it need not wait for the Lease of the life before.
        let named = options.env.iter().find(|(name, _)| name == "POD_NAME").map(|(_, pod)| pod.clone());
        let pod = named.unwrap_or_else(|| "operator-0".to_owned());
        let arguments = if let Some(release) = &release {
            let (env, arguments) = release.container(plane, &pod);
            // A container has no variables but its own.
            launch.insert(launch.len() - 1, "-i".to_owned());
            launch.extend(env);
            arguments
        } else {
            launch.push(format!("RUST_LOG={}", options.log.as_deref().unwrap_or("info")));
            launch.push(format!("POD_NAME={pod}"));
            let arguments = arguments(&options, &namespace);
            launch.extend(options.env.into_iter().map(|(key, value)| format!("{key}={value}")));
            arguments
        };
        launch.extend(environment(clock.as_deref()));
        launch.push(binary());
        launch.extend(arguments);
        let (child, stdin, pid) = spawn(&launch);
        let mut operator = Self {
            child,
            stdin,
            pid,
            launch,
            log,
            seen: 0,
            clock,
            caller: token(plane, &namespace, CALLER),
            stranger: token(plane, &namespace, STRANGER),
            token: own_token(&kubeconfig),
            namespace,
            admin: plane.kubeconfig_path(),
            public: String::new(),
            ops: String::new(),
        };
        operator.public = operator.wait_address("public");
        operator.ops = operator.wait_address("ops");
        operator
    }

    /// Waits until `/readyz` says so.
    pub(crate) fn wait_ready(mut self) -> Self {
        self.await_readiness();
        self
    }

    fn await_readiness(&mut self) {
        let what = format!("the operator to be ready (log: {})", self.log.display());
        wait_for(&what, START, || {
            self.assert_running();
            match self.get_ops("/readyz") {
                Answer { status: 200, .. } => Ok(()),
                other => Err(other.body),
            }
        });
    }

    /// SIGKILL, and waits for its end.
    pub(crate) fn kill(&mut self) {
        drop(self.stdin.take());
        self.child.wait().expect("the shell can be waited for");
    }

    /// Starts it again after its end, as it was, without waiting for anything. Its ports are others.
    pub(crate) fn revive(&mut self) {
        self.seen = self.log().len();
        (self.child, self.stdin, self.pid) = spawn(&self.launch);
    }

    /// Waits until a revived one is ready.
    pub(crate) fn wait_up(&mut self) {
        self.public = self.wait_address("public");
        self.ops = self.wait_address("ops");
        self.await_readiness();
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        // The shell's builtin: the id is ours as long as we have not waited for the shell.
        let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.pid)]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the operator had ended before");
        self.child.wait().expect("the shell can be waited for")
    }

    /// Waits for its end, which somebody has asked for.
    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        self.child.wait().expect("the shell can be waited for")
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Moves its wall clock: `+2h` from the real one. Only for one that was started with a clock.
    pub(crate) fn set_clock(&self, clock: &str) {
        let file = self.clock.as_ref().expect("started with a clock");
        // It reads the file whenever it reads the clock, so the file must never be seen half written.
        let next = file.with_extension("next");
        fs::write(&next, clock).and_then(|()| fs::rename(next, file)).expect("the plane's directory can be written");
    }

    /// Another command of the binary, as the administrator, with the operator's clock.
    pub(crate) fn command(&self, args: &[&str], stdin: &str) -> Output {
        let mut command = Command::new("env");
        command.args(environment(self.clock.as_deref())).arg(binary()).args(args);
        if self.clock.is_some() && args.first() == Some(&"verify") {
            command.args(["--max-clock-skew", "0"]);
        }
        command.env("KUBECONFIG", &self.admin).env("POD_NAMESPACE", &self.namespace).env("RUST_LOG", "warn");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = isolated(&mut command).spawn().unwrap_or_else(|error| panic!("cannot run {BINARY}: {error}"));
        let mut pipe = child.stdin.take().expect("stdin is piped");
        // A command that reads no stdin may have closed it.
        let _ = pipe.write_all(stdin.as_bytes());
        drop(pipe);
        child.wait_with_output().expect("the command can be waited for")
    }

    /// Where the public listener is.
    pub(crate) fn public_address(&self) -> &str {
        &self.public
    }

    /// The token of a service account that may introspect.
    pub(crate) fn caller(&self) -> &str {
        &self.caller
    }

    /// The token of a service account without any role.
    pub(crate) fn stranger(&self) -> &str {
        &self.stranger
    }

    /// The operator's namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The user name that the audit log has for it.
    pub(crate) fn user(&self) -> String {
        format!("system:serviceaccount:{}:virtual-account-operator", self.namespace)
    }

    /// What tells its requests in the audit log from those of other replicas.
    pub(crate) fn credential(&self) -> String {
        let id = &decode(&self.token).1["jti"];
        format!("JTI={}", id.as_str().expect("a ServiceAccount's token has an id"))
    }

    /// Its own ServiceAccount's token.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Where a listener is bound: with port 0 only the log knows.
    fn wait_address(&mut self, listener: &str) -> String {
        wait_for(&format!("the {listener} listener (log: {})", self.log.display()), START, || {
            self.assert_running();
            let log = self.log();
            let mut lines = log.get(self.seen..).unwrap_or_default().lines();
            lines.find_map(|line| bound(line, listener)).ok_or("no such line")
        })
    }

    fn assert_running(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("the operator ended with {status}: {}", self.log());
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // A panic here would abort the test process.
        let _ = self.child.wait();
    }
}

fn own_token(kubeconfig: &Path) -> String {
    let config: Value = serde_json::from_slice(&fs::read(kubeconfig).expect("the kubeconfig is there")).expect("JSON");
    config["users"][0]["user"]["token"].as_str().expect("a token").to_owned()
}

/// The address in the line that says where this listener is bound, in either format of the log.
fn bound(line: &str, listener: &str) -> Option<String> {
    let Ok(line) = serde_json::from_str::<Value>(line) else {
        let (_, address) = line.split_once(&format!("listening listener=\"{listener}\" address="))?;
        return address.split(' ').next().map(str::to_owned);
    };
    let found = line["message"] == "listening" && line["listener"] == listener;
    line["address"].as_str().filter(|_| found).map(str::to_owned)
}
