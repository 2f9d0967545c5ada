//! The pages about chat are true: their samples open, and each reason in their tables means what the page says.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use virtual_account_operator::api::{NotificationChannel, NotificationTarget, SecretKeyRef};
use virtual_account_operator::integration::{ErrorKind, Network};
use virtual_account_operator::notify::{Medium, Notifier, media};
use wiremock::ResponseTemplate;

use super::super::stage::Stage;
use super::super::story::{Given, message, rotated};
use super::{bot, slack, teams};

const SLACK: &str = "slack-webhook.md";
const BOT: &str = "slack-bot.md";
const TEAMS: &str = "ms-teams.md";

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/notifications").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn blocks(name: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    page(name).split(&start).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Reasons and what the page says about them.
fn table(name: &str) -> Vec<(String, String)> {
    let page = page(name);
    let errors = page.split("## Errors").nth(1).unwrap();
    let rows = errors.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<String> = line.split('|').map(str::to_owned).collect();
        cells[1].split('`').skip(1).step_by(2).map(|code| (code.to_owned(), cells[2].clone())).collect::<Vec<_>>()
    };
    rows.flat_map(row).collect()
}

/// What a row says.
fn means(said: &str, kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Invalid => said.contains("not sent again") || said.contains("names one"),
        ErrorKind::Throttled => said.contains("sent again when"),
        ErrorKind::Unavailable => said.contains("sent again later") || said.contains("something other"),
        ErrorKind::Denied | ErrorKind::NotFound => !said.contains("sent again"),
        ErrorKind::Conflict => false,
    }
}

async fn as_said(name: &str, stage: &Stage, medium: &dyn Notifier, answer: impl Fn(&str) -> Option<ResponseTemplate>) {
    let mut count = 0;
    for (number, (code, said)) in table(name).into_iter().enumerate() {
        let Some(answer) = answer(&code) else { continue };
        stage.then(answer);
        let error = medium.send(&message(vec![rotated(number)])).await.expect_err(&code);
        assert_eq!(error.reason, code);
        assert!(means(&said, error.kind), "{code} is {:?}, and the page says: {said}", error.kind);
        count += 1;
    }
    assert!(count >= 5, "{name} has only {count} rows that can be checked");
}

fn is_slacks(code: &str) -> bool {
    code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

#[tokio::test]
async fn each_reason_means_what_the_webhooks_page_says() {
    let (stage, medium) = slack::stage().await;
    as_said(SLACK, &stage, &*medium, |code| is_slacks(code).then(|| slack::says(400, code))).await;
}

#[tokio::test]
async fn each_reason_means_what_the_bots_page_says() {
    let (stage, medium) = bot::stage(&["a"]).await;
    as_said(BOT, &stage, &*medium, |code| is_slacks(code).then(|| bot::fails(code))).await;
}

#[tokio::test]
async fn each_reason_means_what_the_page_of_teams_says() {
    let (stage, medium) = teams::stage().await;
    let answer = |code: &str| {
        let status = match code {
            "NotFound" => 404,
            "Gone" => 410,
            "Denied" => 403,
            "Refused" => 400,
            "RateLimited" => 429,
            "ServerError" => 500,
            "DirectApiAuthorizationRequired" => return Some(teams::fails(401, code)),
            "WorkflowNotFound" => return Some(teams::fails(404, code)),
            _ if code.starts_with("Workflow") || code.starts_with("Trigger") => return Some(teams::fails(400, code)),
            _ => return None,
        };
        Some(ResponseTemplate::new(status))
    };
    as_said(TEAMS, &stage, &*medium, answer).await;
}

/// The channel that a page shows.
fn sample(name: &str) -> NotificationChannel {
    serde_saphyr::from_str(&blocks(name, "yaml")[0]).unwrap()
}

async fn opens(name: &str, key: impl Fn(&NotificationChannel) -> SecretKeyRef, credential: &str) -> Medium {
    let channel = sample(name);
    let key = key(&channel);
    let created = format!("kubectl create secret generic {} -n platform --from-file={}", key.name, key.key);
    assert!(blocks(name, "sh")[0].contains(&created), "the page creates another Secret than {created}");
    let network = Network { allow_local: false, allow_http: false, timeout: std::time::Duration::from_secs(1) };
    let given = Given::secret(&key.name, &key.key, credential);
    assert!(media()(channel.spec.clone(), given, network, std::sync::Arc::default()).await.is_ok());
    Medium::of(&channel.spec).unwrap()
}

#[tokio::test]
async fn the_samples_open() {
    let url = "https://hooks.slack.com/services/T00000000/B00000000/abc";
    let key = |channel: &NotificationChannel| channel.spec.slack_webhook.clone().unwrap().url_ref;
    assert_eq!(opens(SLACK, key, url).await, Medium::SlackWebhook);
    let key = |channel: &NotificationChannel| channel.spec.slack_bot.clone().unwrap().token_ref;
    assert_eq!(opens(BOT, key, "xoxb-1").await, Medium::SlackBot);
    let key = |channel: &NotificationChannel| channel.spec.ms_teams_webhook.clone().unwrap().url_ref;
    assert_eq!(
        opens(TEAMS, key, "https://x.api.powerplatform.com:443/workflows/1?sig=a").await,
        Medium::MsTeamsWebhook
    );
}

#[test]
fn an_account_names_its_channels_as_the_page_shows() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        notification_targets: Vec<NotificationTarget>,
    }
    #[derive(Deserialize)]
    struct Part {
        spec: Spec,
    }
    let part: Part = serde_saphyr::from_str(&blocks(BOT, "yaml")[1]).unwrap();
    let target = &part.spec.notification_targets[0];
    assert_eq!(target.channel_ref.name, sample(BOT).metadata.name.unwrap());
    assert_eq!(target.channels.as_deref(), Some(&["C0PAYMENTS".to_owned()][..]));
}

#[test]
fn the_apps_ask_for_one_scope_each() {
    for (name, scope) in [(SLACK, "incoming-webhook"), (BOT, "chat:write")] {
        let app: Value = serde_json::from_str(&blocks(name, "json")[0]).unwrap();
        assert_eq!(app["oauth_config"]["scopes"], serde_json::json!({"bot": [scope]}), "{name}");
    }
}
