//! The real operator, run as its own service account with nothing but the shipped RBAC.
//!
//! It lives as long as the pipe to it: it is killed when its [`Operator`] is dropped and also when the test process dies
//! in any other way.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::cluster::{decode, wait_for};
use super::plane::Plane;
use super::rendered::Release;

/// The `iss` of all tokens: nothing needs to resolve it.
pub(crate) const ISSUER: &str = "https://issuer.example.com";
/// Where the operator of most tests lives.
pub(crate) const NAMESPACE: &str = "virtual-accounts";
/// A caller that may introspect, and one that may not; both in the operator's namespace.
const CALLER: &str = "checker";
const STRANGER: &str = "stranger";
const CALLERS: &str = r"---
apiVersion: v1
kind: ServiceAccount
metadata: {name: checker, namespace: NAMESPACE}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: stranger, namespace: NAMESPACE}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: NAMESPACE-RELEASE-checker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: RELEASE-introspection}
subjects: [{kind: ServiceAccount, name: checker, namespace: NAMESPACE}]
";

/// What of `config/default` gives the operator its name and its rights.
const RIGHTS: [&str; 3] = ["namespace.yaml", "serviceaccount.yaml", "rbac.yaml"];

const BINARY: &str = env!("CARGO_BIN_EXE_virtual-account-operator");
/// Moves the clock of a program that is started with it as `LD_PRELOAD`. The plain build of it races between threads:
/// about one reading in 100,000 shows the real time, and an operator that sees that takes its tokens for future ones.
pub(crate) const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
const START: Duration = Duration::from_secs(30);

// Prints the operator's process id, kills it when stdin ends and ends with its exit code. `env` and the operator take the
// place of the background shell, so the id is the operator's.
const KEEPER: &str = r#"log=$1; shift; exec 3<&0
"$@" </dev/null >>"$log" 2>&1 3<&- & pid=$!
echo $pid; exec >/dev/null
(read -r _ <&3; kill -KILL $pid) & keeper=$!
exec 3<&-; wait $pid; code=$?; kill $keeper; exit $code"#;

/// How to run the operator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Its namespace; default: [`NAMESPACE`].
    pub(crate) namespace: Option<String>,
    /// Its RBAC, in place of the shipped one for the whole cluster; its ServiceAccount included.
    pub(crate) rbac: Option<String>,
    /// More flags of `run`.
    pub(crate) flags: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Where it finds the API server, if not at the plane itself: `https://127.0.0.1:1234`.
    pub(crate) server: Option<String>,
    /// `RUST_LOG`.
    pub(crate) log: Option<String>,
    /// Runs it as this release of the chart, which is installed already, says. All else but the clock is the release's.
    pub(crate) release: Option<Release>,
    /// Its wall clock, as libfaketime has it (`+30d`); it can be moved by [`Operator::set_clock`]. Only the wall clock:
    /// timers go on as ever. The check against the API server's clock is switched off unless
    /// `--max-clock-skew` is among the flags.
    pub(crate) clock: Option<String>,
}

impl Options {
    /// Where the operator lives.
    fn namespace(&self) -> String {
        let release = self.release.as_ref().map(|release| release.namespace.clone());
        release.or_else(|| self.namespace.clone()).unwrap_or_else(|| NAMESPACE.to_owned())
    }

    /// The variables of its own.
    fn variables(&self) -> Vec<(String, String)> {
        let level = self.log.as_deref().unwrap_or("info");
        [("RUST_LOG".to_owned(), level.to_owned())].into_iter().chain(self.env.iter().cloned()).collect()
    }

    /// With these flags.
    pub(crate) fn flags(flags: &[&str]) -> Self {
        Self { flags: flags.iter().map(|flag| (*flag).to_owned()).collect(), ..Self::default() }
    }
}

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

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The head, as received.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
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

    /// `GET` on the public listener.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.get_with(path, "")
    }

    /// The same with more header lines, each ended by CRLF.
    pub(crate) fn get_with(&self, path: &str, headers: &str) -> Answer {
        http(&self.public, "GET", path, headers, "")
    }

    /// `GET` on the ops listener.
    pub(crate) fn get_ops(&self, path: &str) -> Answer {
        http(&self.ops, "GET", path, "", "")
    }

    pub(crate) fn metrics(&self) -> String {
        self.get_ops("/metrics").body
    }

    pub(crate) fn jwks(&self) -> Value {
        self.get("/jwks.json").json()
    }

    /// What the introspection endpoint says of a token to a caller that may ask.
    pub(crate) fn introspect(&self, token: &str) -> Value {
        let answer = self.introspect_as(Some(&self.caller), token);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Whether it says that the token is good.
    pub(crate) fn accepts(&self, token: &str) -> bool {
        self.introspect(token)["active"] == true
    }

    /// The same as somebody else.
    pub(crate) fn introspect_as(&self, caller: Option<&str>, token: &str) -> Answer {
        let authorization = caller.map(|caller| format!("authorization: Bearer {caller}\r\n")).unwrap_or_default();
        let headers = format!("{authorization}content-type: application/x-www-form-urlencoded\r\n");
        http(&self.public, "POST", "/introspect", &headers, &format!("token={token}"))
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

/// Runs the operator under its keeper; with the pipe to it and the operator's process id.
fn spawn(launch: &[String]) -> (Child, Option<ChildStdin>, u32) {
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

/// Installs what an administrator installs, into the operator's namespace. By the chart, if that is asked for.
fn prepare(plane: &Plane, options: &Options) -> Option<Release> {
    let namespace = options.namespace();
    let release = options.release.clone().or_else(|| {
        if options.rbac.is_some() {
            return None;
        }
        let asked = Release::asked(&namespace, &flags(options), &options.variables())?;
        asked.install(plane);
        Some(asked)
    });
    if release.is_none() {
        install(plane, &namespace, options.rbac.as_deref());
    }
    let introspection = release.as_ref().map_or("virtual-account-operator".to_owned(), Release::full_name);
    let callers = CALLERS.replace("NAMESPACE", &namespace).replace("RELEASE", &introspection);
    plane.kubectl_ok(&["apply", "-f", "-"], Some(&callers));
    release
}

/// The definitions, and of `config/default` what gives the operator its name and its rights.
fn install(plane: &Plane, namespace: &str, rbac: Option<&str>) {
    let crd = plane.kubectl(&["get", "crd", "virtualaccounts.virtualaccounts.dev"], None);
    if !crd.status.success() {
        plane.install(&virtual_account_operator::api::yaml().expect("the definitions can be printed"));
    }
    if let Some(rbac) = rbac {
        let own = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n");
        plane.kubectl_ok(&["apply", "-f", "-"], Some(&format!("{own}---\n{rbac}")));
        return;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/default");
    let shipped = RIGHTS.map(|file| fs::read_to_string(directory.join(file)).expect("config/default is complete"));
    let shipped = shipped.join("---\n");
    // As kustomize does it for an overlay: the namespace itself, and where others name it. A further operator on the same
    // plane needs a binding of its own.
    let mut objects = shipped.replace(&format!(": {NAMESPACE}\n"), &format!(": {namespace}\n"));
    if namespace != NAMESPACE {
        objects = objects.replace(
            "kind: ClusterRoleBinding\nmetadata:\n  name: virtual-account-operator\n",
            &format!("kind: ClusterRoleBinding\nmetadata:\n  name: virtual-account-operator-{namespace}\n"),
        );
    }
    plane.kubectl_ok(&["apply", "-f", "-"], Some(&objects));
}

fn token(plane: &Plane, namespace: &str, name: &str) -> String {
    // A moved clock must not make it expire.
    plane.kubectl_ok(&["create", "token", name, "-n", namespace, "--duration", "876000h"], None)
}

fn arguments(options: &Options, namespace: &str) -> Vec<String> {
    let mut arguments = vec!["run".to_owned()];
    let given = |flag: &str| options.flags.iter().any(|given| given.starts_with(flag));
    let usual = [
        ("--log-format", "json"),
        ("--issuer-url", ISSUER),
        ("--namespace", namespace),
        ("--public-address", "127.0.0.1:0"),
        ("--ops-address", "127.0.0.1:0"),
    ];
    for (flag, value) in usual.iter().filter(|(flag, _)| !given(flag)) {
        arguments.push(format!("{flag}={value}"));
    }
    arguments.extend(flags(options));
    arguments
}

/// The flags that were asked for, and those that go with them.
fn flags(options: &Options) -> Vec<String> {
    let mut flags = options.flags.clone();
    if options.clock.is_some() && !flags.iter().any(|given| given.starts_with("--max-clock-skew")) {
        flags.extend(["--max-clock-skew".to_owned(), "0".to_owned()]);
    }
    flags
}

// Set by `env` and not for the shell: nothing but the operator runs on a moved clock.
fn environment(clock: Option<&Path>) -> Vec<String> {
    let Some(file) = clock else { return Vec::new() };
    vec![
        format!("LD_PRELOAD={FAKETIME}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        "FAKETIME_NO_CACHE=1".to_owned(),
    ]
}

/// What is tested: the binary of this build, or the one that the environment names, such as the release build.
fn binary() -> String {
    std::env::var("VAO_TEST_BINARY").unwrap_or_else(|_| BINARY.to_owned())
}

/// Without settings and proxies of whoever runs the tests.
fn isolated(command: &mut Command) -> &mut Command {
    for (key, _) in std::env::vars() {
        if key.starts_with("VAO_") || key.to_ascii_lowercase().ends_with("_proxy") || key.starts_with("FAKETIME") {
            command.env_remove(key);
        }
    }
    command
}

/// One request on a connection of its own. All our answers have a length, so the end of the connection is the end of it.
fn http(address: &str, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let answer = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n");
        stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer {
        status: status.unwrap_or_else(|| panic!("{method} {path}: no HTTP answer: {answer:?}")),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}
