//! Google Secret Manager by our own fake (`tests/fakes`), as a child process that ends when its stdin does; and somebody
//! who works on it by hand.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};

use super::server::python;
use super::story::CANARY;

pub(crate) const PROJECT: &str = "some-project";
pub(crate) const EMAIL: &str = "writer@some-project.iam.gserviceaccount.com";
pub(crate) const POOL: &str =
    "//iam.googleapis.com/projects/123456789/locations/global/workloadIdentityPools/clusters/providers/one";
pub(crate) const SUBJECT: &str = "system:serviceaccount:platform:token-writer";

/// A running fake.
pub(crate) struct Fake {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) url: String,
}

impl Fake {
    /// One project, one service account, one workload identity provider, and no more rights than these.
    pub(crate) fn start(permissions: &[String]) -> Self {
        let mut child = Command::new(python().join("bin/python"))
            .arg(fakes().join("google_secret_manager.py"))
            .args(["--issued-tokens", "--project", PROJECT, "--service-account", EMAIL])
            .args(["--workload-audience", POOL, "--subject", SUBJECT])
            .args(["--permissions", &permissions.join(",")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("the fake says where it listens");
        let port = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("it does not start: {line:?}"));
        Self { child, stdin, url: format!("http://127.0.0.1:{port}") }
    }

    /// A call by hand; `Null` for what does not exist.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        let url = format!("{}/v1/projects/{PROJECT}/secrets{path}", self.url);
        let request = client.request(method.clone(), url).bearer_auth(access_token());
        let request = if method == Method::POST || method == Method::PATCH { request.json(&body) } else { request };
        let answer = request.send().await.expect("the fake answers");
        let (status, answer) = (answer.status(), answer.json::<Value>().await.expect("it answers in JSON"));
        match answer["error"]["status"].as_str() {
            None => answer,
            Some("NOT_FOUND" | "FAILED_PRECONDITION") => Value::Null,
            Some(_) => panic!("{method} {path}: {status} {answer}"),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, Value::Null).await
    }

    pub(crate) async fn add(&self, secret: &str, value: &str) {
        let payload = json!({"payload": {"data": STANDARD.encode(value)}});
        let added = self.call(Method::POST, &format!("/{secret}:addVersion"), payload).await;
        assert_ne!(added, Value::Null, "{secret} is not there");
    }

    pub(crate) async fn disable(&self, secret: &str, version: u64) {
        let path = format!("/{secret}/versions/{version}:disable");
        assert_ne!(self.call(Method::POST, &path, json!({})).await, Value::Null, "{path}");
    }

    /// A version's value (a number, `latest`), if it can be had.
    pub(crate) async fn value(&self, secret: &str, version: &str) -> Option<String> {
        let accessed = self.get(&format!("/{secret}/versions/{version}:access")).await;
        let data = accessed["payload"]["data"].as_str()?;
        Some(String::from_utf8(STANDARD.decode(data).expect("it is base64")).expect("it is text"))
    }

    /// How many versions were ever added.
    pub(crate) async fn versions(&self, secret: &str) -> usize {
        let listed = self.get(&format!("/{secret}/versions?pageSize=1000")).await;
        listed["versions"].as_array().map_or(0, Vec::len)
    }

    /// The values of all versions that can be used, the oldest first.
    pub(crate) async fn usable(&self, secret: &str) -> Vec<String> {
        let mut values = Vec::new();
        for version in 1..=self.versions(secret).await {
            values.extend(self.value(secret, &version.to_string()).await);
        }
        values
    }

    /// All access tokens that were handed out end.
    pub(crate) async fn revoke(&self) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        client.post(format!("{}/_fake/revoke", self.url)).send().await.expect("the fake answers");
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Where the fakes are.
pub(crate) fn fakes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes")
}

/// A JWT that the fake, which checks no signature, takes.
pub(crate) fn jwt(mut claims: Value) -> String {
    claims["iat"] = json!(now());
    claims["exp"] = json!(now() + 3_000);
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": "1"});
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{header}.{claims}.{CANARY}")
}

/// The token of a ServiceAccount, as the API server gives it.
pub(crate) fn projected(subject: &str, audience: &str) -> String {
    jwt(json!({"iss": "https://cluster.example", "sub": subject, "aud": [audience]}))
}

fn access_token() -> String {
    jwt(json!({"iss": EMAIL, "sub": EMAIL, "aud": "https://secretmanager.googleapis.com/"}))
}

fn now() -> i64 {
    virtual_account_operator::clock::now().as_unix()
}
