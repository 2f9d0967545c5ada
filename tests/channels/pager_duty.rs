//! PagerDuty: it keeps the contract, on a server that checks each event against the documented fields and limits.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use serde_json::{Value, json};
use virtual_account_operator::api::{self, NoticeKind, NotificationChannel, PagerDutySeverity, SecretKeyRef};
use virtual_account_operator::integration::{ErrorKind, Network, ProviderError};
use virtual_account_operator::notify::{Content, Letter, Medium, Message, Notifier, PagerDuty, media};
use wiremock::{Request, ResponseTemplate};

use super::contract::{Instance, contract, network};
use super::shape::{Check, instant, line, object, one_of, texts};
use super::stage::Stage;
use super::story::{CANARY, Given, every_kind, hostile, letter, message, now, rotated};

const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST: usize = 512_000;

struct Events;

contract!(Events);

#[async_trait]
impl Instance for Events {
    fn medium(&self) -> Medium {
        Medium::PagerDuty
    }

    async fn open(&self, server: &str, network: Network) -> Result<Box<dyn Notifier>, ProviderError> {
        Ok(Box::new(PagerDuty::open(&spec(server), given(&key()), network).await?))
    }

    fn judge(&self) -> fn(&Request) -> Result<(), String> {
        judge
    }

    fn answer(&self) -> fn(&Request) -> ResponseTemplate {
        |request| {
            if request.method == Method::HEAD {
                return ResponseTemplate::new(404);
            }
            let event: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let answer = json!({"status": "success", "message": "Event processed", "dedup_key": event["dedup_key"]});
            ResponseTemplate::new(202).set_body_json(answer)
        }
    }

    fn refusals(&self) -> Vec<(ResponseTemplate, ErrorKind)> {
        vec![
            (invalid("'payload.severity' is invalid"), ErrorKind::Invalid),
            (ResponseTemplate::new(400).set_body_string(format!("<p>{CANARY}</p>")), ErrorKind::Invalid),
            (ResponseTemplate::new(413).set_body_string(CANARY), ErrorKind::Invalid),
            (ResponseTemplate::new(401).set_body_string(CANARY), ErrorKind::Denied),
            (ResponseTemplate::new(403).set_body_string(CANARY), ErrorKind::Denied),
            (ResponseTemplate::new(404).set_body_string(CANARY), ErrorKind::NotFound),
            (ResponseTemplate::new(429).set_body_string(CANARY), ErrorKind::Throttled),
        ]
    }

    fn wrong_credential(&self) -> ResponseTemplate {
        invalid("Length of 'routing_key' is incorrect (should be 32 characters)")
    }

    fn check_proves_credential(&self) -> bool {
        false
    }

    fn tells(&self, request: &Request) -> bool {
        request.method == Method::POST
    }

    fn seen(&self, request: &Request) -> Vec<String> {
        let event: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        texts(&event["payload"])
    }
}

/// PagerDuty's answer to an event that it does not take.
fn invalid(error: &str) -> ResponseTemplate {
    let answer = json!({"status": "invalid event", "message": "Event object is invalid", "errors": [error]});
    ResponseTemplate::new(400).set_body_json(answer)
}

/// An integration key.
fn key() -> String {
    format!("{CANARY:0<32}")
}

fn given(key: &str) -> Arc<Given> {
    Given::secret("pagerduty", "integration-key", key)
}

fn spec(server: &str) -> api::PagerDuty {
    let integration_key_ref = SecretKeyRef { name: "pagerduty".into(), key: "integration-key".into() };
    api::PagerDuty { integration_key_ref, severities: None, endpoint: Some(server.into()) }
}

async fn stage() -> Stage {
    Stage::new(judge, Events.answer()).await
}

async fn open(stage: &Stage) -> PagerDuty {
    PagerDuty::open(&spec(&stage.url()), given(&key()), network(PATIENCE)).await.unwrap()
}

/// The events that become of letters.
async fn events(letters: Vec<Letter>) -> Vec<Value> {
    let stage = stage().await;
    open(&stage).await.send(&message(letters)).await.unwrap();
    stage.bodies().await
}

/// What is wrong with a request to the Events API v2.
fn judge(request: &Request) -> Result<(), String> {
    if request.url.path() != "/v2/enqueue" || request.url.query().is_some() {
        return Err("that is not the URL".into());
    }
    match request.method {
        Method::HEAD if request.body.is_empty() => Ok(()),
        Method::POST => judge_event(request),
        _ => Err("only events and checks are sent".into()),
    }
}

fn judge_event(request: &Request) -> Result<(), String> {
    if request.headers.get("content-type").is_none_or(|kind| kind != "application/json") {
        return Err("that is no JSON".into());
    }
    if request.body.len() > LARGEST {
        return Err(format!("{} bytes are too many", request.body.len()));
    }
    let event: Value = serde_json::from_slice(&request.body).map_err(|error| error.to_string())?;
    if event["routing_key"] != key() {
        return Err("Length of 'routing_key' is incorrect (should be 32 characters)".into());
    }
    let required: [(&str, Check); 4] = [
        ("routing_key", |value| line(value, 32)),
        ("event_action", |value| one_of(value, &["trigger", "resolve"])),
        ("dedup_key", |value| line(value, 255)),
        ("payload", payload),
    ];
    object(&event, &required, &[("client", |value| line(value, 255))])
}

fn payload(value: &Value) -> Result<(), String> {
    let required: [(&str, Check); 3] = [
        ("summary", |value| line(value, 1_024)),
        ("source", name),
        ("severity", |value| one_of(value, &["critical", "error", "warning", "info"])),
    ];
    let optional: [(&str, Check); 5] =
        [("timestamp", instant), ("component", name), ("group", name), ("class", name), ("custom_details", details)];
    object(value, &required, &optional)
}

fn name(value: &Value) -> Result<(), String> {
    line(value, 255)
}

fn details(value: &Value) -> Result<(), String> {
    let details = value.as_object().ok_or("no object")?;
    details.values().try_for_each(|value| line(value, 2_000))
}

#[tokio::test]
async fn an_alert_says_all_that_there_is_to_say() {
    let letter = rotated(1);
    let told = letter.text("prod-eu", now());
    let [event] = &events(vec![letter]).await[..] else { panic!("one letter is one event") };
    assert_eq!((&event["event_action"], &event["dedup_key"]), (&json!("trigger"), &json!("shop/cart-1/incident")));
    assert_eq!(event["client"], "virtual-account-operator");
    let payload = &event["payload"];
    assert_eq!(payload["summary"], told.title);
    assert_eq!(payload["source"], "prod-eu");
    assert_eq!(payload["component"], "shop/cart-1");
    assert_eq!(payload["group"], "payments");
    assert_eq!(payload["class"], "TokenRotated");
    assert_eq!(payload["timestamp"], rotated(1).at.to_string());
    assert_eq!(payload["custom_details"]["What to do"], told.todo);
    for fact in told.facts {
        assert_eq!(payload["custom_details"][fact.name], fact.value);
    }
}

#[tokio::test]
async fn without_an_owner_and_a_cluster_name_there_is_still_a_group_and_a_source() {
    let stage = stage().await;
    let nameless = Message { cluster: String::new(), ..message(vec![Letter { owner: None, ..rotated(1) }]) };
    open(&stage).await.send(&nameless).await.unwrap();
    let payload = &stage.bodies().await[0]["payload"];
    assert_eq!((&payload["group"], &payload["source"]), (&json!("shop"), &json!("Kubernetes")));
}

#[tokio::test]
async fn a_recovery_resolves_the_alert_that_the_failure_opened() {
    let target = || "Secret cart-token".to_owned();
    let failing = Content::Failing { target: target(), since: now(), error: "403".into() };
    let recovered = Content::Recovered { target: target(), since: now() };
    let told = events(vec![letter(1, failing), letter(1, recovered)]).await;
    let actions: Vec<_> = told.iter().map(|event| event["event_action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["trigger", "resolve"]);
    assert_eq!(told[0]["dedup_key"], told[1]["dedup_key"]);
    assert_eq!(told[1].get("client"), None);
}

#[tokio::test]
async fn a_test_is_over_at_once() {
    let told = events(vec![letter(1, Content::Test)]).await;
    let actions: Vec<_> = told.iter().map(|event| event["event_action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["trigger", "resolve"]);
    assert_eq!(told[0]["dedup_key"], told[1]["dedup_key"]);
    assert_eq!(told[0]["payload"]["severity"], "info");
}

#[tokio::test]
async fn a_test_that_is_not_resolved_has_failed() {
    let stage = stage().await;
    stage.then(ResponseTemplate::new(202)).then(ResponseTemplate::new(500));
    let error = open(&stage).await.send(&message(vec![letter(1, Content::Test)])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(stage.bodies().await.len(), 2);
}

#[tokio::test]
async fn each_kind_has_its_severity_and_the_channel_may_name_another() {
    use PagerDutySeverity::{Critical, Error, Info, Warning};
    let usual = [
        (NoticeKind::TokenRotated, Info),
        (NoticeKind::GraceEnding, Warning),
        (NoticeKind::TokenRetired, Info),
        (NoticeKind::TokenExpiring, Warning),
        (NoticeKind::TokenExpired, Critical),
        (NoticeKind::DeliveryFailing, Error),
        (NoticeKind::DeliveryRecovered, Info),
        (NoticeKind::TokenRevoked, Warning),
    ];
    let other = BTreeMap::from([(NoticeKind::TokenRotated, Critical), (NoticeKind::TokenExpired, Info)]);
    let changed = usual.map(|(kind, severity)| (kind, other.get(&kind).copied().unwrap_or(severity)));
    for (severities, expected) in [(None, usual), (Some(BTreeMap::new()), usual), (Some(other), changed)] {
        let stage = stage().await;
        let spec = api::PagerDuty { severities, ..spec(&stage.url()) };
        let medium = PagerDuty::open(&spec, given(&key()), network(PATIENCE)).await.unwrap();
        medium.send(&message(every_kind())).await.unwrap();
        let told = stage.bodies().await;
        for (kind, severity) in expected {
            let event = told.iter().find(|event| event["payload"]["class"] == kind.as_str()).unwrap();
            assert_eq!(event["payload"]["severity"], json!(severity), "{kind}");
        }
    }
}

#[tokio::test]
async fn long_texts_fit_into_pager_dutys_limits() {
    let mut long = letter(1, rotated(1).content);
    long.account.name = "n".repeat(5_000);
    long.incident = "i".repeat(5_000);
    let told = events(hostile().into_iter().chain([long]).collect()).await;
    let last = told.last().unwrap();
    assert_eq!(last["payload"]["summary"].as_str().unwrap().chars().count(), 1_024);
    assert_eq!(last["dedup_key"].as_str().unwrap().len(), 43);
    assert!(told.iter().all(|event| event.to_string().len() < LARGEST / 10));
}

#[tokio::test]
async fn a_key_of_the_wrong_form_is_denied_before_any_call() {
    let stage = stage().await;
    let long = format!("{}0", key());
    for wrong in ["", &key()[1..], &long, &format!("{}-", &key()[1..]), &format!("{}\u{fc}", &key()[2..])] {
        let error = PagerDuty::open(&spec(&stage.url()), given(wrong), network(PATIENCE)).await.err().unwrap();
        assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "InvalidIntegrationKey"), "{wrong}");
        assert!(error.message.contains("spec.pagerDuty.integrationKeyRef"), "{error}");
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error}");
    }
    assert!(stage.requests().await.is_empty());
}

#[tokio::test]
async fn pager_dutys_own_words_are_told_but_never_the_key() {
    let stage = stage().await;
    let medium = open(&stage).await;
    let long = "x".repeat(5_000);
    let about = format!("Invalid routing key: {}", key());
    for (said, told, kind) in [
        ("'payload.severity' is invalid", "'payload.severity' is invalid", ErrorKind::Invalid),
        ("one\r\nline", "one line", ErrorKind::Invalid),
        (&long, "xxx", ErrorKind::Invalid),
        (&key(), "it does not say why", ErrorKind::Invalid),
        (&key().to_uppercase(), "it does not say why", ErrorKind::Invalid),
        (&about, "it does not say why", ErrorKind::Denied),
        ("Invalid routing key", "spec.pagerDuty.integrationKeyRef", ErrorKind::Denied),
    ] {
        stage.then(invalid(said));
        let error = medium.send(&message(vec![rotated(1)])).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(told), "{error}");
        assert!(error.message.len() <= 512 && !error.message.contains('\n'), "{error}");
        assert!(!format!("{error:?}").to_lowercase().contains(CANARY), "{error}");
    }
}

#[tokio::test]
async fn the_pages_sample_is_opened() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/notifications/pagerduty.md");
    let page = std::fs::read_to_string(page).unwrap();
    let yaml = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let mut channel: NotificationChannel = serde_saphyr::from_str(yaml).unwrap();
    let stage = stage().await;
    channel.spec.pager_duty.as_mut().unwrap().endpoint = Some(stage.url());
    let medium = media()(channel.spec, given(&key()), network(PATIENCE), Arc::default()).await.unwrap();
    medium.check().await.unwrap();
    medium.send(&message(every_kind())).await.unwrap();
    let told = stage.bodies().await;
    let expiring = told.iter().find(|event| event["payload"]["class"] == "TokenExpiring").unwrap();
    assert_eq!(expiring["payload"]["severity"], "error");
}
