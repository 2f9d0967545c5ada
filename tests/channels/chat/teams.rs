//! Teams' workflows.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use virtual_account_operator::api::{MsTeamsWebhook, NotificationChannelSpec};
use virtual_account_operator::integration::{ErrorKind, Network, ProviderError};
use virtual_account_operator::notify::{Medium, Notifier};
use wiremock::{Request, ResponseTemplate};

use super::super::contract::{Instance, contract, network};
use super::super::stage::{Answer, Judge, Stage};
use super::super::story::{CANARY, hostile, message, rotated};
use super::parts::check;
use super::{card, key, opened, refuses_bad_urls};

contract!(Teams);

struct Teams;

const PATH: &str = "/workflows/0123456789abcdef/triggers/manual/paths/invoke";

fn query() -> String {
    format!("api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig={CANARY}")
}

fn spec() -> NotificationChannelSpec {
    NotificationChannelSpec { ms_teams_webhook: Some(MsTeamsWebhook { url_ref: key() }), ..Default::default() }
}

pub(super) fn fails(status: u16, code: &str) -> ResponseTemplate {
    let message = format!("The request with {CANARY} failed.");
    ResponseTemplate::new(status).set_body_json(json!({"error": {"code": code, "message": message}}))
}

#[async_trait]
impl Instance for Teams {
    fn medium(&self) -> Medium {
        Medium::MsTeamsWebhook
    }

    async fn open(&self, server: &str, network: Network) -> Result<Box<dyn Notifier>, ProviderError> {
        opened(spec(), &format!("{server}{PATH}?{}", query()), network).await
    }

    fn judge(&self) -> Judge {
        |request| {
            check(request.url.path() == PATH && request.url.query() == Some(&query()), "URL")?;
            match request.method.as_str() {
                "HEAD" => check(request.body.is_empty(), "a HEAD has no body"),
                "POST" => card::message(request),
                other => Err(format!("method {other}")),
            }
        }
    }

    fn answer(&self) -> Answer {
        // A workflow is started by POST alone.
        |request| ResponseTemplate::new(if request.method == http::Method::POST { 202 } else { 404 })
    }

    fn refusals(&self) -> Vec<(ResponseTemplate, ErrorKind)> {
        let page = ResponseTemplate::new(400).set_body_string(format!("<html>{CANARY}</html>"));
        vec![
            (page, ErrorKind::Invalid),
            (fails(400, "TriggerInputSchemaMismatch"), ErrorKind::Invalid),
            (fails(400, CANARY), ErrorKind::Invalid),
            (fails(413, "RequestEntityTooLarge"), ErrorKind::Invalid),
            (fails(400, "WorkflowTriggerIsNotEnabled"), ErrorKind::NotFound),
            (fails(401, "DirectApiAuthorizationRequired"), ErrorKind::Denied),
            (fails(403, "AuthorizationFailed"), ErrorKind::Denied),
            (fails(404, "WorkflowNotFound"), ErrorKind::NotFound),
            (fails(410, "Gone"), ErrorKind::NotFound),
            (fails(429, "TooManyRequests"), ErrorKind::Throttled),
            (fails(502, "NoResponse"), ErrorKind::Unavailable),
        ]
    }

    fn wrong_credential(&self) -> ResponseTemplate {
        fails(401, "DirectApiAuthorizationRequired")
    }

    fn check_proves_credential(&self) -> bool {
        false
    }

    fn tells(&self, request: &Request) -> bool {
        request.method != http::Method::HEAD
    }

    fn seen(&self, request: &Request) -> Vec<String> {
        card::seen(request)
    }
}

pub(super) async fn stage() -> (Stage, Box<dyn Notifier>) {
    let stage = Stage::new(Teams.judge(), Teams.answer()).await;
    let medium = Teams.open(&stage.url(), network(Duration::from_secs(10))).await.unwrap();
    (stage, medium)
}

#[tokio::test]
async fn a_url_that_is_a_credential_is_never_told() {
    refuses_bad_urls(spec, "spec.msTeamsWebhook.urlRef").await;
}

#[tokio::test]
async fn the_workflows_own_code_is_told_with_its_cure() {
    let (stage, medium) = stage().await;
    for (status, code, cure) in [
        (400, "WorkflowTriggerIsNotEnabled", "turn the workflow on"),
        (404, "WorkflowNotFound", "make a new workflow and write its URL into the Secret"),
        (401, "DirectApiAuthorizationRequired", "copy its whole URL again"),
    ] {
        stage.then(fails(status, code));
        let error = medium.send(&message(vec![rotated(1)])).await.unwrap_err();
        assert_eq!(error.reason, code);
        assert!(error.message.contains(code) && error.message.contains(cure), "{error}");
    }
}

#[tokio::test]
async fn any_answer_to_the_check_is_reach() {
    let (stage, medium) = stage().await;
    for status in [200, 202, 400, 401, 404, 405] {
        stage.then(ResponseTemplate::new(status));
        medium.check().await.unwrap();
    }
}

#[tokio::test]
async fn one_letter_is_a_title_its_body_its_facts_and_what_to_do() {
    let (stage, medium) = stage().await;
    stage.then(ResponseTemplate::new(200));
    medium.send(&message(vec![rotated(1)])).await.unwrap();
    let seen: Vec<String> = stage.requests().await.iter().flat_map(card::seen).collect();
    assert_eq!(seen[0], "shop/cart-1: new token");
    assert!(seen[1].contains("in 1 day 12 hours"), "{seen:#?}");
    for fact in ["Owner: payments (jo)", "Why: schedule", "Token id: jti-1", "Description: Talks to the bank"] {
        assert!(seen.contains(&fact.to_owned()), "{fact} is not in {seen:#?}");
    }
    assert!(seen.last().unwrap().starts_with("What to do: "), "{seen:#?}");
}

#[tokio::test]
async fn what_does_not_fit_is_counted() {
    let (stage, medium) = stage().await;
    let letters: Vec<_> = (0..70).flat_map(|_| hostile()).collect();
    let count = letters.len();
    medium.send(&message(letters)).await.unwrap();
    let seen: Vec<String> = stage.requests().await.iter().flat_map(card::seen).collect();
    // The first is the title, the last the rest.
    let told = seen.len() - 2;
    let rest = seen.last().unwrap();
    assert!(told > 5 && rest.starts_with(&format!("And {} more: ", count - told)), "{told} of {count}: {rest}");
    assert!(rest.ends_with(" more."), "{rest}");
}
