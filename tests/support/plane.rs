//! A real Kubernetes control plane for tests: etcd, kube-apiserver and
//! kube-controller-manager as child processes, in a few seconds and without
//! containers.
//!
//! The program is `tests/plane`, a small Go module. Its first build takes
//! minutes; later ones are found in the user's cache. The plane lives as long as
//! the pipe to it: it ends when its [`Plane`] is dropped and also when the test
//! process dies in any other way.
//!
//! All failures panic: a test cannot go on without its control plane.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, clippy::panic, reason = "a broken control plane ends the test")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// How long service-account tokens live, and the most that the API server
/// grants: tests move the clocks of what they start.
const TOKEN_DURATION: &str = "876000h";
const START_ATTEMPTS: usize = 3;

/// A running control plane.
pub(crate) struct Plane {
    binary: PathBuf,
    dir: PathBuf,
    server: String,
    ca: PathBuf,
    process: Mutex<Process>,
    namespaces: AtomicU32,
}

/// The launcher and the pipes to it.
struct Process {
    child: Child,
    /// `None` once the plane is told to end.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// One request, as the API server's audit log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditEvent {
    /// `ResponseComplete`; a watch has a `ResponseStarted` before it.
    pub(crate) stage: String,
    pub(crate) user: String,
    /// As RBAC has it: `get`, `list`, `watch`, `create`, `update`, …
    pub(crate) verb: String,
    /// Empty for paths that are no resources, such as `/version`.
    pub(crate) resource: String,
    /// `status`, `token`, …; mostly empty.
    pub(crate) subresource: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// The HTTP status of the answer.
    pub(crate) code: u64,
    pub(crate) request_uri: String,
    /// When this stage was reached: RFC 3339 with microseconds, always in UTC
    /// and of one width, so it can be compared as a string.
    pub(crate) timestamp: String,
    /// When the request came, in the same form.
    pub(crate) received: String,
    pub(crate) user_agent: String,
    /// Which token of the user it was, `JTI=…`; empty for certificates.
    pub(crate) credential: String,
    /// The kind of the object in the answer; empty where the policy logs no answers.
    pub(crate) answered: String,
}

impl Plane {
    /// Starts a plane of its own, with RBAC and an audit log.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Plane::start`], with further flags for kube-apiserver, such as
    /// `--min-request-timeout=5` for watches that end soon.
    pub(crate) fn start_with(apiserver_flags: &[&str]) -> Self {
        // Ports are free when they are chosen; a connection of another test may
        // have one when it is bound.
        let mut starts = (0..START_ATTEMPTS).filter_map(|_| Self::try_start(apiserver_flags));
        starts.next().expect("the control plane starts (its reason is on stderr)")
    }

    fn try_start(apiserver_flags: &[&str]) -> Option<Self> {
        let binary = build();
        let dir = new_dir();
        let mut command = Command::new(&binary);
        command.args(["up", "--audit", "--dir"]).arg(&dir);
        for flag in apiserver_flags {
            command.args(["--apiserver-flag", flag]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", binary.display()));
        let mut process = Process {
            commands: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().expect("stdout is piped")),
            child,
        };
        let mut line = String::new();
        process.answers.read_line(&mut line).expect("the launcher's output can be read");
        let Ok(description) = serde_json::from_str::<Value>(&line) else {
            process.child.wait().expect("the launcher can be waited for");
            return None;
        };
        let path = |key: &str| text(&description, &[key]);
        Some(Self {
            server: path("server"),
            ca: path("caFile").into(),
            binary,
            dir,
            process: Mutex::new(process),
            namespaces: AtomicU32::new(0),
        })
    }

    /// The plane that the tests of one binary share, started at first use.
    ///
    /// It is never dropped: it ends because the process end closes the pipe.
    pub(crate) fn shared() -> &'static Self {
        // A `LazyLock`, since it does not try again: without a plane the second
        // test fails at once.
        static SHARED: LazyLock<Plane> = LazyLock::new(Plane::start);
        &SHARED
    }

    /// The URL of the API server.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// The certificate of the API server's CA, in PEM.
    pub(crate) fn ca_path(&self) -> &Path {
        &self.ca
    }

    /// Where all files of the plane are: logs, keys, kubeconfigs.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The program, which is kubectl as well: `binary kubectl …`.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig_path(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// A new client for the administrator.
    ///
    /// It is bound to the tokio runtime it was made in and each `#[tokio::test]`
    /// has its own, so do not keep it in a static.
    pub(crate) async fn client(&self) -> Client {
        client(&self.kubeconfig_path()).await
    }

    /// Runs kubectl as the administrator. A failure is the caller's to judge.
    pub(crate) fn kubectl(&self, args: &[&str], stdin: Option<&str>) -> Output {
        let (config, cache) = (self.kubeconfig_path(), self.dir.join("kubectl-cache"));
        // The usual place of the cache is keyed by host and port, and an earlier
        // plane may have had this port and served other types.
        let flags = ["kubectl", "--kubeconfig", &config.to_string_lossy(), "--cache-dir", &cache.to_string_lossy()];
        self.component(&[&flags, args].concat(), stdin)
    }

    /// What a GitOps tool makes of each of these objects: `kstatus`,
    /// `argocd-health FILE`, `argocd-actions FILE`, `argocd-action FILE NAME`
    /// or `flux FILE`.
    pub(crate) fn gitops(&self, args: &[&str], objects: &[Value]) -> Vec<Value> {
        let output = self.component(&[&["gitops"], args].concat(), Some(&json!(objects).to_string()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {}: {said}", output.status);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }

    /// Runs a component of the binary to its end.
    fn component(&self, args: &[&str], stdin: Option<&str>) -> Output {
        let mut child = Command::new(&self.binary)
            .args(args)
            .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", args[0]));
        let pipe = child.stdin.take();
        // From a thread: either side may have more to say than a pipe holds.
        std::thread::scope(|scope| {
            if let (Some(mut pipe), Some(input)) = (pipe, stdin) {
                // An error means that it gave up early and says why itself.
                scope.spawn(move || drop(pipe.write_all(input.as_bytes())));
            }
            child.wait_with_output().expect("it can be waited for")
        })
    }

    /// Runs kubectl, which must succeed, and returns its stdout without white
    /// space at the end.
    pub(crate) fn kubectl_ok(&self, args: &[&str], stdin: Option<&str>) -> String {
        let output = self.kubectl(args, stdin);
        assert!(
            output.status.success(),
            "kubectl {args:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Sends a command to the launcher and waits until it is done:
    /// `stop COMPONENT` (SIGKILL), `start COMPONENT` (same port, same data) or
    /// `restart COMPONENT`, where a component is `etcd`, `kube-apiserver` or
    /// `kube-controller-manager`; or `pids`.
    ///
    /// Returns the process ids of the components that run now.
    ///
    /// Other tests on the same plane see the interruption: stop things only in a
    /// plane of your own.
    pub(crate) fn command(&self, command: &str) -> BTreeMap<String, u32> {
        let answer = {
            // One test's panic is no reason for the others to fail.
            let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
            let pipe = process.commands.as_mut().expect("open until dropped");
            writeln!(pipe, "{command}").unwrap_or_else(|error| panic!("the control plane is gone: {error}"));
            process.answer(command)
        };
        if let Some(error) = answer["error"].as_str() {
            panic!("{command}: {error}");
        }
        // Without `pids` nothing runs.
        serde_json::from_value(answer["pids"].clone()).unwrap_or_default()
    }

    /// All requests so far, oldest first.
    ///
    /// A line is written when the answer is complete, which a client may see a
    /// moment earlier: wait for a line rather than expect it at once.
    pub(crate) fn audit(&self) -> Vec<AuditEvent> {
        let log = fs::read(self.dir.join("audit.log")).unwrap_or_default();
        log.split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
            // `stop kube-apiserver` may have torn a line.
            .filter_map(|line| serde_json::from_slice::<AuditLine>(line).ok())
            .map(AuditEvent::from)
            .collect()
    }

    /// Installs custom resource definitions and waits until they are served and
    /// the garbage collector knows them.
    pub(crate) fn install(&self, crds: &str) {
        self.kubectl_ok(&["apply", "--server-side", "-f", "-"], Some(crds));
        self.serve(crds);
    }

    /// Waits until definitions that were installed are served and the garbage collector knows them.
    pub(crate) fn serve(&self, crds: &str) {
        self.kubectl_ok(&["wait", "--for=condition=Established", "--timeout=30s", "-f", "-"], Some(crds));
        // Discovery and the schemas behind `kubectl explain` follow a moment after.
        for plural in crds.lines().filter_map(|line| line.trim().strip_prefix("plural: ")) {
            let deadline = Instant::now() + Duration::from_secs(30);
            while !self.kubectl(&["explain", plural], None).status.success() {
                assert!(Instant::now() < deadline, "the API server does not explain {plural}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        // The garbage collector looks for new types every 30 s, but also when it
        // starts, which takes 0.2 s.
        self.command("restart kube-controller-manager");
    }

    /// Creates a namespace of its own for a test and returns its name.
    pub(crate) fn namespace(&self, prefix: &str) -> String {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{number}");
        self.kubectl_ok(&["create", "namespace", &name], None);
        name
    }

    /// Writes a kubeconfig with a long-lived token of a `ServiceAccount` that
    /// exists. Its default namespace is the account's. Each call gives another token.
    pub(crate) fn serviceaccount_kubeconfig(&self, namespace: &str, name: &str) -> PathBuf {
        self.serviceaccount_kubeconfig_at(&self.server, namespace, name)
    }

    /// The same, for a server in front of the API server.
    pub(crate) fn serviceaccount_kubeconfig_at(&self, server: &str, namespace: &str, name: &str) -> PathBuf {
        let token = self.kubectl_ok(&["create", "token", name, "-n", namespace, "--duration", TOKEN_DURATION], None);
        self.kubeconfig(server, namespace, name, &token)
    }

    /// Writes a kubeconfig with a bearer token and nothing else.
    pub(crate) fn token_kubeconfig(&self, namespace: &str, name: &str, token: &str) -> PathBuf {
        self.kubeconfig(&self.server, namespace, name, token)
    }

    fn kubeconfig(&self, server: &str, namespace: &str, name: &str, token: &str) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // YAML includes JSON.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "default",
            "clusters": [{
                "name": "testplane",
                "cluster": {"server": server, "certificate-authority": self.ca},
            }],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{
                "name": "default",
                "context": {"cluster": "testplane", "user": name, "namespace": namespace},
            }],
        });
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{namespace}.{name}.{count}.kubeconfig"));
        fs::write(&path, config.to_string()).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }
}

/// A client for whoever a kubeconfig names.
pub(crate) async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig is readable");
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("the kubeconfig is complete");
    // A proxy of the environment cannot reach this machine's loopback.
    config.proxy_url = None;
    Client::try_from(config).expect("the kubeconfig makes a client")
}

impl Drop for Plane {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(process.commands.take());
        // A panic here would abort the test process, and nothing depends on these.
        let _ = process.child.wait();
        // The logs say why a test failed.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Process {
    /// The launcher's answer, one line of JSON.
    fn answer(&mut self, to: &str) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap_or_else(|error| panic!("no answer to {to}: {error}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("no answer to {to}: {error} in {line:?}"))
    }
}

impl AuditEvent {
    /// Whether the request meant to change something.
    pub(crate) fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }
}

/// A line of the audit log. What is not named here, such as most of the bodies,
/// is skipped and not parsed.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuditLine {
    stage: String,
    user: AuditUser,
    verb: String,
    object_ref: AuditObject,
    response_status: AuditStatus,
    #[serde(rename = "requestURI")]
    request_uri: String,
    request_received_timestamp: String,
    stage_timestamp: String,
    user_agent: String,
    response_object: AuditAnswer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuditAnswer {
    kind: String,
}

#[derive(Default, Deserialize)]
struct AuditUser {
    username: String,
    #[serde(default)]
    extra: AuditExtra,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuditExtra {
    #[serde(rename = "authentication.kubernetes.io/credential-id")]
    credential: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuditObject {
    resource: String,
    subresource: String,
    name: String,
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuditStatus {
    code: u64,
}

impl From<AuditLine> for AuditEvent {
    fn from(line: AuditLine) -> Self {
        Self {
            stage: line.stage,
            user: line.user.username,
            verb: line.verb,
            resource: line.object_ref.resource,
            subresource: line.object_ref.subresource,
            name: line.object_ref.name,
            namespace: line.object_ref.namespace,
            code: line.response_status.code,
            request_uri: line.request_uri,
            timestamp: line.stage_timestamp,
            received: line.request_received_timestamp,
            user_agent: line.user_agent,
            credential: line.user.extra.credential.into_iter().next().unwrap_or_default(),
            answered: line.response_object.kind,
        }
    }
}

/// The string at a path in an object; empty if it is absent.
fn text(object: &Value, path: &[&str]) -> String {
    path.iter().fold(object, |value, key| &value[*key]).as_str().unwrap_or_default().to_owned()
}

/// Builds the control plane unless it is in the cache; returns its binary.
fn build() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plane/build.sh");
    let output = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
    assert!(output.status.success(), "{}: {}", script.display(), output.status);
    String::from_utf8_lossy(&output.stdout).trim_end().into()
}

/// A new directory for a plane, named after this process.
///
/// Those of processes that have ended are removed: they were kept to be read, and
/// a shared plane cannot remove its own.
fn new_dir() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);

    let planes = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planes");
    for entry in fs::read_dir(&planes).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            // Another test binary may be removing it at this moment.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    // An earlier process may have had our id.
    loop {
        let dir = planes.join(format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        if !dir.exists() {
            return dir;
        }
    }
}
