//! Real OpenBao, and what a consumer or an administrator of it sees.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::cluster::{PATIENCE, wait_for};
use super::server::Server;

/// A running OpenBao in development mode: KV version 2 at `secret`.
pub(crate) struct Bao {
    server: Server,
    pub(crate) root: String,
}

impl Bao {
    /// One for all tests of this binary.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<Bao> = LazyLock::new(Bao::start);
        &SHARED
    }

    pub(crate) fn start() -> Self {
        let root = format!("root-{:016x}", rand::random::<u64>());
        let flags = ["server", "-dev", "-dev-no-store-token", "-dev-root-token-id"].map(String::from);
        let server = Server::start(Path::new(env!("CARGO_TARGET_TMPDIR")), "bao", |port| {
            let mut arguments = flags.to_vec();
            arguments.extend([root.clone(), format!("-dev-listen-address=127.0.0.1:{port}")]);
            arguments
        });
        let bao = Self { server, root };
        wait_for("OpenBao to be ready", PATIENCE, || match bao.send("GET", "sys/internal/ui/mounts/secret", None).0 {
            200 => Ok(()),
            status => Err(status),
        });
        bao
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port)
    }

    /// The current version's data; `None`: there is none.
    pub(crate) fn data(&self, path: &str) -> Option<Value> {
        let (status, body) = self.send("GET", &format!("secret/data{path}"), None);
        (status == 200).then(|| body["data"]["data"].clone())
    }

    /// The id of the token that a consumer finds.
    pub(crate) fn jti(&self, path: &str) -> Option<String> {
        self.data(path)?["jti"].as_str().map(str::to_owned)
    }

    /// The metadata: versions and `custom_metadata`; `None`: there is nothing at all.
    pub(crate) fn metadata(&self, path: &str) -> Option<Value> {
        let (status, body) = self.send("GET", &format!("secret/metadata{path}"), None);
        (status == 200).then(|| body["data"].clone())
    }

    /// The numbers of all versions, and of those that can be read.
    pub(crate) fn versions(&self, path: &str) -> (Vec<String>, Vec<String>) {
        let metadata = self.metadata(path).unwrap_or_default();
        let all = metadata["versions"].as_object().cloned().unwrap_or_default();
        let lives = |version: &Value| version["deletion_time"] == "" && version["destroyed"] == false;
        let living = all.iter().filter(|(_, version)| lives(version)).map(|(number, _)| number.clone()).collect();
        (all.keys().cloned().collect(), living)
    }

    /// Somebody else writes there.
    pub(crate) fn put(&self, path: &str, data: &Value) {
        let (status, body) = self.send("POST", &format!("secret/data{path}"), Some(&json!({"data": data})));
        assert_eq!(status, 200, "{body}");
    }

    /// Somebody wipes the path.
    pub(crate) fn wipe(&self, path: &str) {
        let (status, body) = self.send("DELETE", &format!("secret/metadata{path}"), None);
        assert_eq!(status, 204, "{body}");
    }

    /// One request as the administrator: status and body.
    pub(crate) fn send(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        runtime().block_on(async {
            let method = method.parse().expect("a method");
            let mut request = client().request(method, format!("{}/v1/{path}", self.url()));
            request = request.header("X-Vault-Token", &self.root);
            if let Some(body) = body {
                request = request.json(body);
            }
            let answer = request.send().await.expect("OpenBao answers");
            (answer.status().as_u16(), answer.json().await.unwrap_or_default())
        })
    }
}

// A runtime for each request: tests run in threads of their own.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}
