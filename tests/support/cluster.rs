//! The API server as tests use it: JSON in, JSON out, blocking, as the administrator. And waiting for things.
//!
//! All failures panic: they are the test's verdict.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Request;
use kube::Client;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::plane::Plane;

const ACCOUNTS: &str = "/apis/virtualaccounts.dev/v1alpha1";
/// Long enough for a loaded machine; nobody waits for it unless something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(40);

/// The API server, for one test.
pub(crate) struct Cluster {
    runtime: Runtime,
    client: Client,
}

/// What the API server said no with.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: u16,
    pub(crate) message: String,
}

impl Cluster {
    /// As the administrator.
    pub(crate) fn of(plane: &Plane) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(plane.client());
        Self { runtime, client }
    }

    /// One request. `kind` is the content type of the body.
    pub(crate) fn send(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Result<Value, Refused> {
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body);
        let answer = self.runtime.block_on(self.client.request::<Value>(request.expect("a request")));
        answer.map_err(|error| match error {
            kube::Error::Api(status) => Refused { code: status.code, message: status.message.clone() },
            other => panic!("{method} {path}: {other}"),
        })
    }

    /// Reads an object; `None` if there is none.
    pub(crate) fn find(&self, path: &str) -> Option<Value> {
        match self.send("GET", path, JSON, None) {
            Ok(object) => Some(object),
            Err(Refused { code: 404, .. }) => None,
            Err(refused) => panic!("GET {path}: {refused:?}"),
        }
    }

    pub(crate) fn create(&self, collection: &str, object: &Value) -> Value {
        self.send("POST", collection, JSON, Some(object)).unwrap_or_else(|refused| panic!("POST {object}: {refused:?}"))
    }

    pub(crate) fn replace(&self, path: &str, object: &Value) -> Value {
        self.send("PUT", path, JSON, Some(object)).unwrap_or_else(|refused| panic!("PUT {object}: {refused:?}"))
    }

    /// Merges a patch (RFC 7396).
    pub(crate) fn patch(&self, path: &str, change: &Value) -> Value {
        self.send("PATCH", path, "application/merge-patch+json", Some(change))
            .unwrap_or_else(|refused| panic!("PATCH {path} {change}: {refused:?}"))
    }

    /// Deletes in the background; what is not there is fine.
    pub(crate) fn delete(&self, path: &str) {
        match self.send("DELETE", path, JSON, None) {
            Ok(_) | Err(Refused { code: 404, .. }) => {}
            Err(refused) => panic!("DELETE {path}: {refused:?}"),
        }
    }

    /// Creates an account with this spec; `permissions` need not be given.
    pub(crate) fn create_account(&self, namespace: &str, name: &str, spec: Value) -> Value {
        self.create(&format!("{ACCOUNTS}/namespaces/{namespace}/virtualaccounts"), &account(name, spec))
    }

    /// Creates many at once: for numbers, not for looks.
    pub(crate) fn create_accounts<'a>(&self, namespace: &str, names: impl IntoIterator<Item = &'a str>, spec: &Value) {
        let uri = format!("{ACCOUNTS}/namespaces/{namespace}/virtualaccounts");
        self.create_all(&uri, names.into_iter().map(|name| account(name, spec.clone())));
    }

    /// Creates all these at once.
    pub(crate) fn create_all(&self, collection: &str, objects: impl IntoIterator<Item = Value>) {
        let create = |object: Value| {
            let request = Request::post(collection).header("content-type", JSON);
            let request = request.body(object.to_string().into_bytes()).expect("a request");
            self.client.request::<Value>(request)
        };
        let all = futures::future::join_all(objects.into_iter().map(create));
        for answer in self.runtime.block_on(all) {
            answer.unwrap_or_else(|error| panic!("cannot create an object in {collection}: {error}"));
        }
    }

    pub(crate) fn account(&self, namespace: &str, name: &str) -> Option<Value> {
        self.find(&account_path(namespace, name))
    }

    /// All accounts of a namespace.
    pub(crate) fn accounts(&self, namespace: &str) -> Vec<Value> {
        let path = format!("{ACCOUNTS}/namespaces/{namespace}/virtualaccounts");
        let list = self.find(&path).expect("the collection exists");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// What became of the account since this version of it, oldest first: one object for each write.
    pub(crate) fn history(&self, namespace: &str, name: &str, since: &Value) -> Vec<Value> {
        let version = since["metadata"]["resourceVersion"].as_str().expect("an object has a version");
        let uri = format!(
            "{ACCOUNTS}/namespaces/{namespace}/virtualaccounts?watch=true&timeoutSeconds=1&resourceVersion={version}"
        );
        let request = Request::get(uri).body(Vec::new()).expect("a request");
        let text = self.runtime.block_on(self.client.request_text(request)).expect("a watch");
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        events.map(|event| event["object"].clone()).filter(|object| object["metadata"]["name"] == name).collect()
    }

    /// Changes the spec, by merge patch.
    pub(crate) fn edit(&self, namespace: &str, name: &str, spec: &Value) -> Value {
        self.patch(&account_path(namespace, name), &json!({"spec": spec}))
    }

    /// Sets an annotation of an account; `null` removes it.
    pub(crate) fn annotate(&self, namespace: &str, name: &str, key: &str, value: &Value) -> Value {
        self.patch(&account_path(namespace, name), &json!({"metadata": {"annotations": {key: value}}}))
    }

    pub(crate) fn delete_account(&self, namespace: &str, name: &str) {
        self.delete(&account_path(namespace, name));
    }

    /// Merges into the status, as an administrator who meddles.
    pub(crate) fn patch_status(&self, namespace: &str, name: &str, status: &Value) -> Value {
        self.patch(&format!("{}/status", account_path(namespace, name)), &json!({"status": status}))
    }

    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<Value> {
        self.find(&secret_path(namespace, name))
    }

    /// All Events about an object, as `(type, reason, note)`, oldest first.
    pub(crate) fn events(&self, namespace: &str, about: &str) -> Vec<(String, String, String)> {
        let list = self.find(&format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")).expect("a list");
        let mut events = list["items"].as_array().cloned().unwrap_or_default();
        events.retain(|event| event["regarding"]["name"] == about);
        let version = |event: &Value| event["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok());
        events.sort_by_key(version);
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        events.iter().map(|event| (text(event, "type"), text(event, "reason"), text(event, "note"))).collect()
    }

    /// Waits until the account has this `Ready` reason for its present spec; returns it.
    pub(crate) fn wait_reason(&self, namespace: &str, name: &str, reason: &str) -> Value {
        self.wait_account(namespace, name, &format!("Ready reason {reason}"), |account| {
            settled(account) && ready(account)["reason"] == reason
        })
    }

    /// Waits until the account is delivered and its present spec has been seen; returns it.
    pub(crate) fn wait_ready(&self, namespace: &str, name: &str) -> Value {
        self.wait_account(namespace, name, "Ready and delivered", |account| {
            settled(account) && ready(account)["reason"] == "Delivered" && entries(account)[0]["phase"] == "Current"
        })
    }

    /// Waits until another token than `jti` is delivered and everything is at rest; returns the account.
    pub(crate) fn wait_successor(&self, namespace: &str, name: &str, jti: &str) -> Value {
        self.wait_account(namespace, name, &format!("a successor of token {jti}"), |account| {
            settled(account)
                && current(account).is_some_and(|current| current != jti)
                && entries(account)[0]["phase"] == "Current"
        })
    }

    /// Waits until the account is as told; returns it.
    pub(crate) fn wait_account(&self, namespace: &str, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("account {namespace}/{name}: {what}"), PATIENCE, || {
            let account = self.account(namespace, name).ok_or("no such account")?;
            if is(&account) { Ok(account) } else { Err(account["status"].to_string()) }
        })
    }

    /// Waits until the Secret is as told; returns it.
    pub(crate) fn wait_secret(&self, namespace: &str, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("Secret {namespace}/{name}: {what}"), PATIENCE, || {
            let secret = self.secret(namespace, name).ok_or("no such Secret")?;
            // The content is a credential, if only of a test.
            if is(&secret) {
                Ok(secret)
            } else {
                Err(format!("jti {:?}, {}", text(&secret, "jti"), secret["metadata"]))
            }
        })
    }

    /// Waits for an Event with this reason about an object; returns its note.
    pub(crate) fn wait_event(&self, namespace: &str, about: &str, reason: &str) -> String {
        wait_for(&format!("Event {reason} about {namespace}/{about}"), PATIENCE, || {
            let events = self.events(namespace, about);
            let found = events.iter().rfind(|(_, seen, _)| seen == reason).map(|(_, _, note)| note.clone());
            found.ok_or_else(|| format!("{events:?}"))
        })
    }
}

const JSON: &str = "application/json";

/// An account; without `permissions` in the spec it gets one.
pub(crate) fn account(name: &str, mut spec: Value) -> Value {
    if spec["permissions"].is_null() {
        spec["permissions"] = json!([{"resourceFqn": "shop.orders", "resourceType": "table", "roleId": "reader"}]);
    }
    json!({
        "apiVersion": "virtualaccounts.dev/v1alpha1",
        "kind": "VirtualAccount",
        "metadata": {"name": name},
        "spec": spec,
    })
}

pub(crate) fn account_path(namespace: &str, name: &str) -> String {
    format!("{ACCOUNTS}/namespaces/{namespace}/virtualaccounts/{name}")
}

pub(crate) fn secret_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets/{name}")
}

/// Tries again and again until it is `Ok`; panics after the deadline with what was asked for and what was last seen.
pub(crate) fn wait_for<T, E: std::fmt::Display>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if started.elapsed() > deadline => {
                panic!("waited {} s for {what}; last seen: {seen}", deadline.as_secs())
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Looks for a while that something stays true; for what must *not* happen.
pub(crate) fn stays(what: &str, span: Duration, mut look: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    while started.elapsed() < span {
        if let Err(seen) = look() {
            panic!("{what} after {:.1} s: {seen}", started.elapsed().as_secs_f32());
        }
        std::thread::sleep(POLL);
    }
}

/// A condition of an account; `null` if it is absent.
pub(crate) fn condition<'a>(account: &'a Value, kind: &str) -> &'a Value {
    let conditions = account["status"]["conditions"].as_array();
    conditions.and_then(|all| all.iter().find(|condition| condition["type"] == kind)).unwrap_or(&Value::Null)
}

pub(crate) fn ready(account: &Value) -> &Value {
    condition(account, "Ready")
}

/// Whether the operator has seen the present spec.
pub(crate) fn settled(account: &Value) -> bool {
    account["status"]["observedGeneration"] == account["metadata"]["generation"]
}

/// The ledger, newest first.
pub(crate) fn entries(account: &Value) -> &[Value] {
    account["status"]["jwts"].as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn entry<'a>(account: &'a Value, jti: &str) -> Option<&'a Value> {
    entries(account).iter().find(|entry| entry["id"] == jti)
}

/// The id of the token that the Secret is recorded to hold.
pub(crate) fn current(account: &Value) -> Option<&str> {
    account["status"]["tokenSecret"]["jwtId"].as_str()
}

/// One key of a Secret, decoded.
pub(crate) fn text(secret: &Value, key: &str) -> Option<String> {
    let bytes = STANDARD.decode(secret["data"][key].as_str()?).expect("the API server sends base64");
    Some(String::from_utf8(bytes).expect("the Secret holds text"))
}

/// The token in a Secret.
pub(crate) fn token(secret: &Value) -> String {
    text(secret, "token").expect("the Secret holds a token")
}

/// A token's header and claims; nothing is verified.
pub(crate) fn decode(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| {
        let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64url");
        serde_json::from_slice(&bytes).unwrap_or_default()
    });
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}
