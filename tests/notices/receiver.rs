//! A server that takes signed events and posts of chats and PagerDuty, behind a layer of faults. It checks each event's
//! signature.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::support::cluster::{PATIENCE, wait_for};
use crate::support::fault::{Fault, Faults};

/// What events are signed with.
const KEY: [u8; 32] = [7; 32];

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime"));

/// Runs something of the receivers' kind, which lives as long as this process.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.block_on(work)
}

/// A receiver.
pub(crate) struct Receiver {
    server: MockServer,
    layer: Faults,
}

impl Receiver {
    /// One that takes everything.
    pub(crate) fn start() -> Self {
        RUNTIME.block_on(async {
            let server = MockServer::start().await;
            let ok = |at: &str| Mock::given(path(at));
            ok("/events").respond_with(ResponseTemplate::new(204)).mount(&server).await;
            ok("/slack").and(method("POST")).respond_with(slack).mount(&server).await;
            ok("/api/auth.test").respond_with(bot).mount(&server).await;
            ok("/api/chat.postMessage").respond_with(bot).mount(&server).await;
            let enqueued = ResponseTemplate::new(202).set_body_string(r#"{"status":"success"}"#);
            ok("/v2/enqueue").respond_with(enqueued).mount(&server).await;
            let is_event = |method: &http::Method, _: &http::HeaderMap| method == http::Method::POST;
            let layer = Faults::before(server.uri(), is_event, |_| "it fails").await;
            Self { server, layer }
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.layer.address())
    }

    /// What the channel's Secret holds.
    pub(crate) fn signing_secret() -> String {
        format!("whsec_{}", STANDARD.encode(KEY))
    }

    pub(crate) fn pass(&self) {
        self.layer.all(Fault::Pass);
    }

    /// Connections break.
    pub(crate) fn cut(&self) {
        self.layer.all(Fault::Cut);
    }

    pub(crate) fn refuse(&self, status: u16) {
        self.layer.all(Fault::Answer(status, None));
    }

    /// The next event is taken, and nothing comes back.
    pub(crate) fn hang(&self) {
        self.layer.next_write(Fault::HangAnswer);
    }

    /// The next event is held up until [`Receiver::release`].
    pub(crate) fn hold(&self) {
        self.layer.next_write(Fault::Hold);
    }

    pub(crate) fn wait_held(&self) {
        let held = async { tokio::time::timeout(PATIENCE, self.layer.held()).await };
        RUNTIME.block_on(held).expect("an event is held up");
    }

    pub(crate) fn release(&self) {
        self.layer.release();
    }

    /// How many requests came, taken or not.
    pub(crate) fn attempts(&self) -> usize {
        self.layer.requests()
    }

    fn posts(&self, path: &str) -> Vec<Request> {
        let all = RUNTIME.block_on(self.server.received_requests()).expect("they are recorded");
        all.into_iter().filter(|request| request.url.path() == path && request.method == http::Method::POST).collect()
    }

    /// The events so far, oldest first.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.posts("/events").iter().map(event).collect()
    }

    /// The events about this account, by kind: the ids, each as often as it came.
    pub(crate) fn ids(&self, account: &str) -> BTreeMap<String, Vec<String>> {
        let mut all = BTreeMap::<String, Vec<String>>::new();
        for event in self.events().into_iter().filter(|event| event["subject"] == account) {
            all.entry(string(&event["data"]["kind"])).or_default().push(string(&event["id"]));
        }
        all
    }

    /// Waits until so many events have come, and returns all.
    pub(crate) fn wait_events(&self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} events"), PATIENCE, || {
            let events = self.events();
            if events.len() >= count { Ok(events) } else { Err(format!("{events:#?}")) }
        })
    }

    /// All bodies that were ever received.
    #[allow(dead_code, reason = "the canary run alone looks at all media")]
    pub(crate) fn bodies(&self) -> String {
        let all = RUNTIME.block_on(self.server.received_requests()).expect("they are recorded");
        all.iter().map(|post| String::from_utf8_lossy(&post.body).into_owned() + "\n").collect()
    }

    /// The texts that people saw in Slack: a check has none.
    pub(crate) fn slack(&self) -> Vec<String> {
        let posts = self.posts("/slack");
        let bodies = posts.iter().map(|post| String::from_utf8(post.body.clone()).expect("text"));
        bodies.filter(|body| body != "{}").collect()
    }
}

// A token says itself whether it is good.
fn bot(request: &Request) -> ResponseTemplate {
    let token = request.headers.get("authorization").and_then(|token| token.to_str().ok()).unwrap_or_default();
    let answer = if token.contains("wrong") { r#"{"ok":false,"error":"invalid_auth"}"# } else { r#"{"ok":true}"# };
    ResponseTemplate::new(200).set_body_string(answer)
}

fn slack(request: &Request) -> ResponseTemplate {
    let (status, text) = if request.body == b"{}" { (400, "no_text") } else { (200, "ok") };
    ResponseTemplate::new(status).set_body_string(text)
}

fn event(request: &Request) -> Value {
    let header = |name: &str| request.headers[name].to_str().expect("text").to_owned();
    let (id, time) = (header("webhook-id"), header("webhook-timestamp"));
    let signed = [format!("{id}.{time}.").as_bytes(), &request.body].concat();
    let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &KEY), &signed);
    assert_eq!(header("webhook-signature"), format!("v1,{}", STANDARD.encode(expected)));
    let event: Value = serde_json::from_slice(&request.body).expect("an event is JSON");
    assert_eq!(event["id"], id, "{event}");
    event
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
