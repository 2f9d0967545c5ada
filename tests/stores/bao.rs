//! A real OpenBao in development mode, and its administrator.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use super::server::{Server, python};

/// Made for this server alone.
pub(super) const ROOT: &str = "eyJcanary-root";
const START: Duration = Duration::from_secs(30);

/// A server with a KV engine of version 2 at `secret`, and a directory for what its set-up writes.
pub(super) struct Bao {
    server: Server,
    dir: PathBuf,
    scheme: &'static str,
}

impl Bao {
    /// A server over http.
    pub(super) fn start() -> Self {
        Self::start_with("http", &[])
    }

    /// A server over https; its CA is in the file `vault-ca.pem`.
    pub(super) fn start_tls() -> Self {
        Self::start_with("https", &["-dev-tls", "-dev-tls-cert-dir=."])
    }

    fn start_with(scheme: &'static str, flags: &[&str]) -> Self {
        let dir = directory();
        let server = Server::start(&dir, "bao", |port| {
            let mut arguments = vec!["server".to_owned(), "-dev".to_owned(), "-dev-no-store-token".to_owned()];
            arguments.push(format!("-dev-root-token-id={ROOT}"));
            arguments.push(format!("-dev-listen-address=127.0.0.1:{port}"));
            arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
            arguments
        });
        let bao = Self { server, dir, scheme };
        bao.wait_mounted();
        bao
    }

    /// It listens before it is ready.
    fn wait_mounted(&self) {
        let deadline = Instant::now() + START;
        loop {
            let output = self.sh("bao read sys/internal/ui/mounts/secret", &[]);
            if output.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "OpenBao is not ready: {output:?}");
        }
    }

    pub(super) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.server.port)
    }

    /// What a command of the page wrote into a file.
    pub(super) fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).expect("a command wrote it").trim().to_owned()
    }

    /// Runs the commands under a heading of the page, as the administrator.
    pub(super) fn follow(&self, heading: &str) {
        self.follow_with(heading, &[]);
    }

    /// With variables that the page says the user has.
    pub(super) fn follow_with(&self, heading: &str, variables: &[(&str, &str)]) {
        fs::write(self.dir.join("policy.hcl"), block("The policy", "hcl")).expect("the directory can be written");
        let output = self.sh(&block(heading, "sh"), variables);
        assert!(output.status.success(), "{heading}: {output:?}");
    }

    pub(super) fn write(&self, name: &str, content: &str) {
        fs::write(self.dir.join(name), content).expect("the directory can be written");
    }

    fn sh(&self, script: &str, variables: &[(&str, &str)]) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        if self.scheme == "https" {
            command.env("BAO_CACERT", self.dir.join("vault-ca.pem"));
        }
        command
            .args(["-euc", script])
            .current_dir(&self.dir)
            .env("PATH", format!("{}:{path}", python().join("bin").display()))
            .env("HOME", &self.dir)
            .env("BAO_ADDR", self.url())
            .env("BAO_TOKEN", ROOT)
            .envs(variables.iter().copied())
            .output()
            .expect("bash is there")
    }

    /// What the administrator reads; `None`: there is nothing.
    pub(super) async fn get(&self, path: &str) -> Option<Value> {
        self.request(Method::GET, path, &Value::Null).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Option<Value> {
        self.request(Method::POST, path, &body).await
    }

    pub(super) async fn delete(&self, path: &str) {
        self.request(Method::DELETE, path, &Value::Null).await;
    }

    async fn request(&self, method: Method, path: &str, body: &Value) -> Option<Value> {
        let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        let request = client.request(method.clone(), format!("{}/v1/{path}", self.url()));
        let request = request.header("X-Vault-Token", ROOT);
        let request = if body.is_null() { request } else { request.json(body) };
        let answer = request.send().await.expect("OpenBao answers");
        let status = answer.status();
        if status == 404 {
            return None;
        }
        let text = answer.text().await.expect("OpenBao answers");
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        Some(serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}

/// The fenced block of a language under a heading of the page.
pub(super) fn block(heading: &str, language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/stores/vault.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let section = page.split_once(&format!("# {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}")).1;
    let block = section.split_once(&format!("```{language}\n")).and_then(|(_, block)| block.split_once("```"));
    block.unwrap_or_else(|| panic!("no {language} under {heading}")).0.to_owned()
}

/// A directory of its own, named after this process. Those of processes that have ended are removed: a shared server is
/// never dropped, so nobody else can.
fn directory() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let servers = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bao");
    for entry in fs::read_dir(&servers).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            // Another test binary may be removing it at this moment.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let dir = servers.join(format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&dir).expect("the directory can be made");
    dir
}
