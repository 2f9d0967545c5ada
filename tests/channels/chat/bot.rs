//! Slack's bots.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use virtual_account_operator::api::{NotificationChannelSpec, Seconds, SlackBot};
use virtual_account_operator::integration::{ErrorKind, Network, ProviderError};
use virtual_account_operator::notify::{Content, Medium, Message, Notifier};
use wiremock::{Request, ResponseTemplate};

use super::super::contract::{Instance, contract, network};
use super::super::stage::{Answer, Judge, Stage};
use super::super::story::{CANARY, letter, message, rotated};
use super::parts::{check, header, json_body};
use super::{block_kit, key, opened};

contract!(Bot);

struct Bot;

fn token() -> String {
    format!("xoxb-{CANARY}")
}

fn spec(server: &str, channels: &[&str]) -> NotificationChannelSpec {
    let channels = Some(channels).filter(|channels| !channels.is_empty());
    let bot = SlackBot {
        token_ref: key(),
        channels: channels.map(|channels| channels.iter().map(|channel| (*channel).to_owned()).collect()),
        endpoint: Some(server.to_owned()),
    };
    NotificationChannelSpec { slack_bot: Some(bot), ..Default::default() }
}

pub(super) fn fails(code: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({"ok": false, "error": code}))
}

/// As Slack answers: who the bot is, or that a channel refuses it.
fn answer(request: &Request) -> ResponseTemplate {
    if request.url.path() == "/api/auth.test" {
        let bot = json!({"ok": true, "url": "https://x.slack.com/", "team": "x", "user": "bot", "team_id": "T0", "user_id": "U0", "bot_id": "B0"});
        return ResponseTemplate::new(200).set_body_json(bot).insert_header("x-oauth-scopes", "chat:write,users:read");
    }
    match json_body(request).ok().and_then(|body| body["channel"].as_str().map(str::to_owned)).as_deref() {
        Some("closed") => fails("not_in_channel"),
        Some("gone") => fails("channel_not_found"),
        channel => ResponseTemplate::new(200)
            .set_body_json(json!({"ok": true, "channel": channel, "ts": "1503435956.000247", "message": {}})),
    }
}

#[async_trait]
impl Instance for Bot {
    fn medium(&self) -> Medium {
        Medium::SlackBot
    }

    async fn open(&self, server: &str, network: Network) -> Result<Box<dyn Notifier>, ProviderError> {
        opened(spec(server, &["ops"]), &token(), network).await
    }

    fn judge(&self) -> Judge {
        |request| {
            check(request.method == http::Method::POST, "method")?;
            check(header(request, "authorization") == Some(&format!("Bearer {}", token())), "authorization")?;
            check(header(request, "content-type") == Some("application/json; charset=utf-8"), "charset")?;
            match request.url.path() {
                "/api/auth.test" => check(json_body(request)?.is_empty(), "auth.test has no arguments"),
                "/api/chat.postMessage" => block_kit::post_message(request).map(drop),
                other => Err(format!("no method {other}")),
            }
        }
    }

    fn answer(&self) -> Answer {
        answer
    }

    fn refusals(&self) -> Vec<(ResponseTemplate, ErrorKind)> {
        let codes = |codes: &[&str], kind| codes.iter().map(|code| (fails(code), kind)).collect::<Vec<_>>();
        let page = format!("<html>{CANARY}</html>");
        let mut all =
            codes(&["msg_too_long", "invalid_blocks", "msg_blocks_too_long", "some_new_code"], ErrorKind::Invalid);
        all.extend(codes(
            &["invalid_auth", "account_inactive", "token_revoked", "missing_scope", "not_authed"],
            ErrorKind::Denied,
        ));
        all.extend(codes(
            &["channel_not_found", "not_in_channel", "is_archived", "restricted_action"],
            ErrorKind::NotFound,
        ));
        all.extend(codes(&["internal_error", "fatal_error", "service_unavailable"], ErrorKind::Unavailable));
        all.extend(codes(&["ratelimited", "rate_limited"], ErrorKind::Throttled));
        // What is no code is not passed on, and what is no JSON is not Slack's.
        all.extend(codes(&[CANARY, "<html>"], ErrorKind::Unavailable));
        all.push((ResponseTemplate::new(200).set_body_string(&page), ErrorKind::Unavailable));
        all.push((ResponseTemplate::new(404).set_body_string(&page), ErrorKind::NotFound));
        all.push((ResponseTemplate::new(403).set_body_string(page), ErrorKind::Denied));
        all.push((ResponseTemplate::new(400), ErrorKind::Invalid));
        all
    }

    fn wrong_credential(&self) -> ResponseTemplate {
        fails("invalid_auth")
    }

    fn tells(&self, request: &Request) -> bool {
        request.url.path() != "/api/auth.test"
    }

    fn seen(&self, request: &Request) -> Vec<String> {
        block_kit::seen(request)
    }
}

pub(super) async fn stage(channels: &[&str]) -> (Stage, Box<dyn Notifier>) {
    let stage = Stage::new(Bot.judge(), Bot.answer()).await;
    let network = network(Duration::from_secs(10));
    let bot = opened(spec(&stage.url(), channels), &token(), network).await.unwrap();
    (stage, bot)
}

/// The channels that were posted to, in order of their names.
async fn posted(stage: &Stage) -> Vec<String> {
    let mut channels: Vec<String> =
        stage.bodies().await.iter().filter_map(|body| body["channel"].as_str().map(str::to_owned)).collect();
    channels.sort();
    channels
}

fn to(channels: &[&str], message: Message) -> Message {
    Message { recipients: channels.iter().map(|channel| (*channel).to_owned()).collect(), ..message }
}

#[tokio::test]
async fn the_accounts_channels_go_before_the_bots_own() {
    let (stage, bot) = stage(&["ops", "C024BE91L"]).await;
    bot.send(&message(vec![rotated(1)])).await.unwrap();
    bot.send(&to(&["#team", "#team"], message(vec![rotated(1)]))).await.unwrap();
    assert_eq!(posted(&stage).await, ["#team", "C024BE91L", "ops"]);
}

#[tokio::test]
async fn without_any_channel_the_message_is_refused_and_both_fields_are_named() {
    let (stage, bot) = stage(&[]).await;
    let error = bot.send(&message(vec![rotated(1)])).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Invalid, "NoChannels"));
    for field in ["spec.notificationTargets", "spec.slackBot.channels"] {
        assert!(error.message.contains(field), "{error}");
    }
    assert_eq!(stage.requests().await.len(), 0);
}

#[tokio::test]
async fn a_channel_that_fails_keeps_no_other_from_the_message_and_a_repeat_is_for_it_alone() {
    let (stage, bot) = stage(&["a", "closed", "gone", "z"]).await;
    let first = message(vec![rotated(1)]);
    let error = bot.send(&first).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::NotFound, "not_in_channel"));
    assert_eq!(
        error.message,
        "channel closed: Slack answered not_in_channel; invite the bot to the channel; channel gone: Slack answered channel_not_found; invite the bot to the channel, or correct the channel's name or id"
    );
    assert_eq!(posted(&stage).await, ["a", "closed", "gone", "z"]);

    // Somebody invites the bot; meanwhile there is one more letter.
    let both = message(vec![rotated(1), rotated(2)]);
    assert!(bot.send(&both).await.is_err());
    let last: Vec<_> = stage.requests().await.split_off(4).iter().map(block_kit::seen).collect();
    let singles = last.iter().filter(|seen| seen[0] == "shop/cart-2: new token").count();
    let lists = last.iter().filter(|seen| seen[0].starts_with("2 notices")).count();
    assert_eq!((last.len(), singles, lists), (4, 2, 2));
}

#[tokio::test]
async fn one_of_two_channels_that_is_throttled_is_tried_again_when_slack_says() {
    let (stage, bot) = stage(&["a", "b"]).await;
    stage.then(
        ResponseTemplate::new(429)
            .insert_header("Retry-After", "30")
            .set_body_json(json!({"ok": false, "error": "ratelimited"})),
    );
    let error = bot.send(&message(vec![rotated(1)])).await.unwrap_err();
    assert_eq!((error.kind, error.retry_after), (ErrorKind::Throttled, Some(Seconds(30))));
    bot.send(&message(vec![rotated(1)])).await.unwrap();
    assert_eq!(posted(&stage).await.len(), 3);
    // It is done: whoever sends it now wants it again.
    bot.send(&message(vec![rotated(1)])).await.unwrap();
    assert_eq!(posted(&stage).await.len(), 5);
}

#[tokio::test]
async fn a_test_message_is_posted_each_time() {
    let (stage, bot) = stage(&["a"]).await;
    for _ in 0..2 {
        bot.send(&message(vec![letter(1, Content::Test)])).await.unwrap();
    }
    assert_eq!(posted(&stage).await, ["a", "a"]);
}

#[tokio::test]
async fn the_check_looks_at_the_scopes() {
    let (stage, bot) = stage(&["a"]).await;
    for (scopes, good) in
        [("users:read", false), ("chat:write.public,users:read", false), ("users:read, chat:write", true)]
    {
        stage.then(
            ResponseTemplate::new(200).set_body_json(json!({"ok": true})).insert_header("x-oauth-scopes", scopes),
        );
        let result = bot.check().await;
        assert_eq!(result.is_ok(), good, "{scopes}");
        if let Err(error) = result {
            assert_eq!(error.kind, ErrorKind::Denied);
            assert!(error.message.contains("chat:write"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_one_is_never_told() {
    let network = network(Duration::from_secs(10));
    let error =
        opened(spec("https://slack.example.com", &["a"]), &format!("xoxb\n{CANARY}"), network).await.err().unwrap();
    let shown = format!("{error} {error:?}");
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(shown.contains("spec.slackBot.tokenRef") && !shown.contains(CANARY), "{shown}");
}
