//! Slack's incoming webhooks.

use std::time::Duration;

use async_trait::async_trait;
use virtual_account_operator::api::{NotificationChannelSpec, SlackWebhook};
use virtual_account_operator::integration::{ErrorKind, Network, ProviderError};
use virtual_account_operator::notify::{Medium, Notifier};
use wiremock::{Request, ResponseTemplate};

use super::super::contract::{Instance, contract, network};
use super::super::stage::{Answer, Judge, Stage};
use super::super::story::{CANARY, every_kind, hostile, message, rotated};
use super::parts::{check, json_body};
use super::{block_kit, key, opened, refuses_bad_urls};

contract!(Webhook);

pub(super) struct Webhook;

fn path() -> String {
    format!("/services/T00000000/B00000000/{CANARY}")
}

fn spec() -> NotificationChannelSpec {
    NotificationChannelSpec { slack_webhook: Some(SlackWebhook { url_ref: key() }), ..Default::default() }
}

pub(super) fn says(status: u16, body: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_string(body)
}

#[async_trait]
impl Instance for Webhook {
    fn medium(&self) -> Medium {
        Medium::SlackWebhook
    }

    async fn open(&self, server: &str, network: Network) -> Result<Box<dyn Notifier>, ProviderError> {
        opened(spec(), &format!("{server}{}", path()), network).await
    }

    fn judge(&self) -> Judge {
        |request| {
            check(request.method == http::Method::POST, "method")?;
            check(request.url.path() == path(), "path")?;
            // The check's: refused by Slack for want of text.
            if json_body(request)?.is_empty() { Ok(()) } else { block_kit::message(request).map(drop) }
        }
    }

    fn answer(&self) -> Answer {
        |request| if request.body == b"{}" { says(400, "no_text") } else { says(200, "ok") }
    }

    fn refusals(&self) -> Vec<(ResponseTemplate, ErrorKind)> {
        let page = format!("<html>{CANARY}</html>");
        vec![
            (says(400, "invalid_payload"), ErrorKind::Invalid),
            (says(400, "invalid_blocks"), ErrorKind::Invalid),
            (says(400, "some_new_code"), ErrorKind::Invalid),
            (says(400, &page), ErrorKind::Invalid),
            (says(400, "user_not_found"), ErrorKind::NotFound),
            (says(403, "invalid_token"), ErrorKind::Denied),
            (says(403, "action_prohibited"), ErrorKind::Denied),
            (says(403, &page), ErrorKind::Denied),
            (says(404, "no_service"), ErrorKind::NotFound),
            (says(404, "channel_not_found"), ErrorKind::NotFound),
            (says(410, "channel_is_archived"), ErrorKind::NotFound),
            (says(413, &page), ErrorKind::Invalid),
            (says(429, "rate_limited"), ErrorKind::Throttled),
            (says(500, "rollup_error"), ErrorKind::Unavailable),
            (says(200, &page), ErrorKind::Unavailable),
        ]
    }

    fn wrong_credential(&self) -> ResponseTemplate {
        says(403, "invalid_token")
    }

    fn tells(&self, request: &Request) -> bool {
        request.body != b"{}"
    }

    fn seen(&self, request: &Request) -> Vec<String> {
        block_kit::seen(request)
    }
}

pub(super) async fn stage() -> (Stage, Box<dyn Notifier>) {
    let stage = Stage::new(Webhook.judge(), Webhook.answer()).await;
    let medium = Webhook.open(&stage.url(), network(Duration::from_secs(10))).await.unwrap();
    (stage, medium)
}

#[tokio::test]
async fn a_url_that_is_a_credential_is_never_told() {
    refuses_bad_urls(spec, "spec.slackWebhook.urlRef").await;
}

#[tokio::test]
async fn slacks_own_code_is_told_with_its_cure() {
    let (stage, medium) = stage().await;
    stage.then(says(404, "no_service\n"));
    let error = medium.send(&message(vec![rotated(1)])).await.unwrap_err();
    assert_eq!(error.reason, "no_service");
    assert_eq!(
        error.message,
        "Slack answered 404 Not Found (no_service); make a new webhook for a channel that exists and write its URL into the Secret"
    );
}

#[tokio::test]
async fn the_check_takes_only_a_refusal_of_its_emptiness_for_a_good_url() {
    let (stage, medium) = stage().await;
    for good in ["no_text", "invalid_payload", "missing_text_or_fallback_or_attachments"] {
        stage.then(says(400, good));
        medium.check().await.unwrap();
    }
    for (status, said, kind) in [
        (404, "no_service", ErrorKind::NotFound),
        (410, "channel_is_archived", ErrorKind::NotFound),
        (403, "invalid_token", ErrorKind::Denied),
        (404, "no_text", ErrorKind::Invalid),
        (400, "<html>", ErrorKind::Invalid),
        (302, "", ErrorKind::Denied),
        (500, "rollup_error", ErrorKind::Unavailable),
    ] {
        stage.then(says(status, said));
        assert_eq!(medium.check().await.unwrap_err().kind, kind, "{status} {said}");
    }
}

#[tokio::test]
async fn one_letter_is_a_header_its_body_its_facts_and_what_to_do() {
    let (stage, medium) = stage().await;
    medium.send(&message(vec![rotated(1)])).await.unwrap();
    let seen: Vec<String> = stage.requests().await.iter().flat_map(block_kit::seen).collect();
    assert_eq!(seen[0], "shop/cart-1: new token");
    assert!(seen[1].contains("in 1 day 12 hours"), "{seen:#?}");
    for fact in ["Owner: payments (jo)", "Why: schedule", "Token id: jti-1", "Description: Talks to the bank"] {
        assert!(seen.contains(&fact.to_owned()), "{fact} is not in {seen:#?}");
    }
    assert!(seen.last().unwrap().starts_with("What to do: "), "{seen:#?}");
    let body = &stage.bodies().await[0];
    assert!(body["text"].as_str().unwrap().starts_with("shop/cart-1: new token. The token of"), "{body:#}");
}

#[tokio::test]
async fn a_list_names_kind_and_owner_and_troubles_come_first() {
    let (stage, medium) = stage().await;
    medium.send(&message(every_kind())).await.unwrap();
    let seen: Vec<String> = stage.requests().await.iter().flat_map(block_kit::seen).collect();
    assert_eq!(seen[0], "9 notices of virtual accounts in prod-eu");
    assert!(
        seen[1].starts_with("• shop/cart-4: the token has ended\nTokenExpired, owner payments (jo). "),
        "{seen:#?}"
    );
}

#[tokio::test]
async fn what_does_not_fit_is_counted() {
    let (stage, medium) = stage().await;
    let letters: Vec<_> = (0..70).flat_map(|_| hostile()).collect();
    let count = letters.len();
    medium.send(&message(letters)).await.unwrap();
    let seen: Vec<String> = stage.requests().await.iter().flat_map(block_kit::seen).collect();
    let told = seen.iter().map(|text| text.matches("• ").count()).sum::<usize>();
    let rest = seen.last().unwrap();
    assert!(told > 5 && rest.starts_with(&format!("And {} more: ", count - told)), "{told} of {count}: {rest}");
    assert!(rest.ends_with(" more."), "{rest}");
}
