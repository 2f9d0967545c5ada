//! The signed webhook: it keeps the contract, its receiver checks every signature and every field, and other languages'
//! libraries take what it sends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};
use virtual_account_operator::api::{self, Instant, NotificationChannel, Seconds, SecretKeyRef, WebhookHeader};
use virtual_account_operator::integration::{ErrorKind, Network, ProviderError};
use virtual_account_operator::notify::{Letter, Medium, Message, Notifier, Webhook, media};
use wiremock::{Request, ResponseTemplate};

use super::contract::{Instance, contract, network};
use super::fake::Certificate;
use super::fault::Faults;
use super::shape::texts;
use super::stage::Stage;
use super::story::{CANARY, Given, every_kind, letter, message, rotated};

mod judge;
mod python;

use judge::judge;

const PAGE: &str = "docs/notifications/webhook.md";
const PATIENCE: Duration = Duration::from_secs(10);
const KEY: [u8; 32] = *b"the key that the receiver knows.";

struct Receiver;

contract!(Receiver);

#[async_trait]
impl Instance for Receiver {
    fn medium(&self) -> Medium {
        Medium::Webhook
    }

    async fn open(&self, server: &str, network: Network) -> Result<Box<dyn Notifier>, ProviderError> {
        Ok(Box::new(Webhook::open(&spec(server), given(), network).await?))
    }

    fn judge(&self) -> fn(&Request) -> Result<(), String> {
        judge
    }

    fn answer(&self) -> fn(&Request) -> ResponseTemplate {
        |request| ResponseTemplate::new(if request.method == Method::HEAD { 405 } else { 204 })
    }

    fn refusals(&self) -> Vec<(ResponseTemplate, ErrorKind)> {
        let invalid = [400, 402, 405, 406, 409, 413, 415, 422, 451].map(|status| (status, ErrorKind::Invalid));
        let others = [
            (401, ErrorKind::Denied),
            (403, ErrorKind::Denied),
            (404, ErrorKind::NotFound),
            (410, ErrorKind::NotFound),
            (408, ErrorKind::Unavailable),
            (425, ErrorKind::Unavailable),
            (429, ErrorKind::Throttled),
            (501, ErrorKind::Unavailable),
        ];
        let answer = |(status, kind)| (ResponseTemplate::new(status).set_body_string(CANARY), kind);
        invalid.into_iter().chain(others).map(answer).collect()
    }

    fn wrong_credential(&self) -> ResponseTemplate {
        ResponseTemplate::new(401).set_body_string(format!("{CANARY} is no bearer token"))
    }

    fn check_proves_credential(&self) -> bool {
        false
    }

    fn tells(&self, request: &Request) -> bool {
        request.method == Method::POST
    }

    fn seen(&self, request: &Request) -> Vec<String> {
        let event: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let owner = &event["data"]["owner"];
        // As media that people read write it.
        let owner = format!("{} ({})", owner["team"].as_str().unwrap_or(""), owner["account"].as_str().unwrap_or(""));
        texts(&event).into_iter().chain([owner]).collect()
    }
}

fn secret(key: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(key))
}

fn reference(key: &str) -> SecretKeyRef {
    SecretKeyRef { name: "hook".into(), key: key.into() }
}

fn spec(server: &str) -> api::Webhook {
    let authorization = WebhookHeader { name: "Authorization".into(), value_ref: reference("authorization") };
    api::Webhook {
        url: format!("{server}/hooks/tokens?team=a"),
        signing_secret_ref: reference("signing"),
        headers: Some(vec![authorization]),
        ca_bundle: None,
    }
}

fn given() -> Arc<Given> {
    let given = Given::secret("hook", "signing", &secret(&KEY));
    given.set("hook", "authorization", &format!("Bearer {CANARY}"));
    given
}

async fn stage() -> Stage {
    Stage::new(judge, Receiver.answer()).await
}

async fn open(stage: &Stage, given: Arc<Given>) -> Result<Webhook, ProviderError> {
    Webhook::open(&spec(&stage.url()), given, network(PATIENCE)).await
}

fn header<'a>(request: &'a Request, name: &str) -> Result<&'a str, String> {
    let value = request.headers.get(name).ok_or_else(|| format!("{name} is missing"))?;
    value.to_str().map_err(|_| format!("{name} is no text"))
}

fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn page() -> String {
    std::fs::read_to_string(checkout(PAGE)).unwrap()
}

/// What receivers get of these letters, sent at this instant.
async fn requests(letters: Vec<Letter>, now: Instant, given: Arc<Given>) -> Vec<Request> {
    let stage = stage().await;
    let webhook = open(&stage, given).await.unwrap();
    webhook.send(&Message { now, ..message(letters) }).await.unwrap();
    stage.requests().await
}

#[tokio::test]
async fn a_repeat_has_the_same_id_and_body_and_a_new_time() {
    let stage = stage().await;
    let webhook = open(&stage, given()).await.unwrap();
    let now = message(vec![]).now;
    for later in [0, 7_200] {
        webhook.send(&Message { now: now + Seconds(later), ..message(every_kind()) }).await.unwrap();
    }
    let requests = stage.requests().await;
    let (first, second) = requests.split_at(every_kind().len());
    for ((first, second), letter) in first.iter().zip(second).zip(every_kind()) {
        assert_eq!(header(first, "webhook-id"), Ok(letter.id.as_str()));
        assert_eq!(header(second, "webhook-id"), Ok(letter.id.as_str()));
        assert_eq!(first.body, second.body);
        assert_eq!(header(first, "webhook-timestamp").unwrap(), now.as_unix().to_string());
        assert_eq!(header(second, "webhook-timestamp").unwrap(), (now.as_unix() + 7_200).to_string());
    }
}

#[tokio::test]
async fn letters_go_out_in_order_until_one_fails() {
    let stage = stage().await;
    let webhook = open(&stage, given()).await.unwrap();
    stage.then(ResponseTemplate::new(200)).then(ResponseTemplate::new(503));
    webhook.send(&message((1..=3).map(rotated).collect())).await.unwrap_err();
    let told: Vec<_> = stage.bodies().await.iter().map(|event| event["subject"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, ["shop/cart-1", "shop/cart-2"]);
}

#[tokio::test]
async fn an_event_says_all_that_there_is_to_say() {
    let requests = requests(every_kind(), message(vec![]).now, given()).await;
    let data: Vec<Value> =
        requests.iter().map(|request| serde_json::from_slice::<Value>(&request.body).unwrap()["data"].take()).collect();
    let rotated = &data[0];
    assert_eq!(rotated["account"], json!({"namespace": "shop", "name": "cart-0"}));
    assert_eq!(rotated["owner"], json!({"team": "payments", "account": "jo"}));
    assert_eq!(rotated["reason"], "Scheduled");
    assert_eq!(rotated["places"], json!(["Secret cart-token", "/team/cart in TokenStore platform/vault"]));
    assert_eq!(rotated["previous"]["jwtId"], "jti-before");
    let find = |kind: &str| data.iter().find(|data| data["kind"] == kind).unwrap();
    assert_eq!(find("DeliveryFailing")["error"], "403: forbidden");
    assert_eq!(find("TokenRevoked")["successorJwtId"], "jti-new");
    assert_eq!(find("Test")["channel"]["namespace"], "shop");
}

#[tokio::test]
async fn the_page_names_every_type_and_field() {
    let page = page();
    for request in requests(every_kind(), message(vec![]).now, given()).await {
        let event: Value = serde_json::from_slice(&request.body).unwrap();
        let mut names = vec![event["type"].as_str().unwrap().to_owned()];
        names.extend(event.as_object().unwrap().keys().cloned());
        for value in [&event["data"], &event["data"]["owner"], &event["data"]["previous"]] {
            names.extend(value.as_object().into_iter().flat_map(|fields| fields.keys().cloned()));
        }
        for name in names {
            assert!(page.contains(&format!("`{name}`")), "{name} is not on the page");
        }
    }
}

#[tokio::test]
async fn the_pages_sample_is_opened() {
    let yaml = page().split("```yaml\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
    let mut channel: NotificationChannel = serde_saphyr::from_str(&yaml).unwrap();
    let given = Given::secret("deploy-hook", "signing", &secret(&KEY));
    given.set("deploy-hook", "authorization", &format!("Bearer {CANARY}"));
    given.set("deploy-hook-ca", "ca.crt", &Certificate::shared().pem);
    let stage = stage().await;
    let webhook = channel.spec.webhook.as_mut().unwrap();
    webhook.url = spec(&stage.url()).url;
    let webhook = media()(channel.spec, given, network(PATIENCE), Arc::default()).await.unwrap();
    webhook.check().await.unwrap();
    webhook.send(&message(every_kind())).await.unwrap();
    assert_eq!(stage.bodies().await.len(), every_kind().len());
}

#[tokio::test]
async fn a_server_with_a_private_certificate_is_trusted_by_its_ca_bundle_alone() {
    let stage = stage().await;
    let faults = Faults::before_tls(stage.url(), |_, _| true, |_| "", Certificate::shared().tls()).await;
    let given = given();
    given.set("hook", "ca.crt", &Certificate::shared().pem);
    let trusting = api::Webhook { ca_bundle: Some(reference("ca.crt")), ..spec(&faults.address()) };
    let webhook = Webhook::open(&trusting, given.clone(), network(PATIENCE)).await.unwrap();
    webhook.check().await.unwrap();
    webhook.send(&message(vec![rotated(1)])).await.unwrap();
    assert_eq!(stage.bodies().await.len(), 1);
    let strict = Webhook::open(&spec(&faults.address()), given.clone(), network(PATIENCE)).await.unwrap();
    let error = strict.send(&message(vec![rotated(1)])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(stage.bodies().await.len(), 1);
    given.set("hook", "ca.crt", "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n");
    let error = Webhook::open(&trusting, given, network(PATIENCE)).await.err().unwrap();
    assert_eq!(error.reason, "InvalidCaBundle");
}

#[tokio::test]
async fn what_the_receiver_wants_is_told_to_whoever_must_act() {
    let stage = stage().await;
    let webhook = open(&stage, given()).await.unwrap();
    for (status, reason, cure) in [
        (401, "Denied", "spec.webhook.signingSecretRef"),
        (404, "NotFound", "spec.webhook.url"),
        (410, "Gone", "wants no more events"),
    ] {
        stage.then(ResponseTemplate::new(status));
        let error = webhook.send(&message(vec![rotated(1)])).await.unwrap_err();
        assert_eq!(error.reason, reason);
        assert!(error.message.contains(cure) && error.message.contains(&status.to_string()), "{error}");
    }
}

#[tokio::test]
async fn headers_that_are_not_the_channels_are_refused() {
    let stage = stage().await;
    for name in [
        "Content-Type",
        "content-length",
        "HOST",
        "Connection",
        "Transfer-Encoding",
        "Upgrade",
        "TE",
        "webhook-id",
        "Webhook-Signature",
        "webhook-anything",
        "with space",
        "ümlaut",
        "",
        "AUTHORIZATION",
    ] {
        let mut spec = spec(&stage.url());
        let header = WebhookHeader { name: name.into(), value_ref: reference("authorization") };
        spec.headers.get_or_insert_default().push(header);
        let error = Webhook::open(&spec, given(), network(PATIENCE)).await.err().unwrap();
        assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Invalid, "InvalidHeader"), "{name}");
        assert!(error.message.contains("spec.webhook.headers"), "{error}");
    }
}

#[tokio::test]
async fn credentials_that_cannot_be_used_are_denied_and_not_told() {
    let stage = stage().await;
    for (key, value, reason) in [
        ("authorization", format!("Bearer {CANARY}\r\nx: y"), "InvalidHeaderValue"),
        ("authorization", format!("Bärer {CANARY}"), "InvalidHeaderValue"),
        ("signing", format!("whsec_{CANARY}"), "InvalidSigningSecret"),
        ("signing", format!("{} {CANARY}", secret(&KEY)), "InvalidSigningSecret"),
        ("signing", String::new(), "InvalidSigningSecret"),
    ] {
        let given = given();
        given.set("hook", key, &value);
        let error = open(&stage, given).await.err().unwrap();
        assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, reason));
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error}");
    }
    assert!(stage.requests().await.is_empty());
}

#[tokio::test]
async fn plain_http_and_local_addresses_need_permission() {
    let network = |allow_http| Network { allow_local: false, allow_http, timeout: PATIENCE };
    for (url, allow_http, good) in [
        ("http://hooks.example.com", false, false),
        ("http://hooks.example.com", true, true),
        ("https://hooks.example.com", false, true),
        ("https://127.0.0.1", true, false),
        ("http://169.254.169.254", true, false),
    ] {
        let opened = Webhook::open(&spec(url), given(), network(allow_http)).await;
        assert_eq!(opened.is_ok(), good, "{url}");
    }
}

#[tokio::test]
async fn odd_names_of_clusters_and_notices_stay_what_they_are() {
    let stage = Stage::new(|_| Ok(()), Receiver.answer()).await;
    let webhook = open(&stage, given()).await.unwrap();
    let mut odd = letter(1, rotated(1).content);
    odd.id = "jti.1\r\nx: ü/TokenRotated".into();
    let sent = Message { cluster: "Prod EU/1: größte\n".into(), ..message(vec![odd]) };
    webhook.send(&sent).await.unwrap();
    let requests = stage.requests().await;
    let event: Value = serde_json::from_slice(&requests[0].body).unwrap();
    assert_eq!(event["source"], "urn:virtualaccounts:cluster:Prod%20EU%2F1%3A%20gr%C3%B6%C3%9Fte%0A");
    assert_eq!(event["id"], "jti%2E1%0D%0Ax:%20%C3%BC/TokenRotated");
    assert_eq!(event["id"], header(&requests[0], "webhook-id").unwrap());
    assert_eq!(event["data"]["cluster"], "Prod EU/1: größte");
}
