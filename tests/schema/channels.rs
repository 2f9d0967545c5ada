//! NotificationChannels, and the targets of accounts that name them: every rule of their schema, and what lists and
//! `kubectl explain` show.

use kube::api::{Api, ApiResource, DynamicObject};
use serde_json::{Map, Value, json};
use virtual_account_operator::api::{NoticeKind, NotificationChannel};

use super::{PLANE, create, replace_status};

async fn channels(namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(PLANE.client().await, namespace, &ApiResource::erase::<NotificationChannel>(&()))
}

fn channel(spec: &Value) -> Value {
    json!({
        "apiVersion": "virtualaccounts.dev/v1alpha1",
        "kind": "NotificationChannel",
        "metadata": {"name": "sample", "namespace": "default"},
        "spec": spec,
    })
}

fn key() -> Value {
    json!({"name": "a", "key": "b"})
}

/// A spec with this medium, which has these fields beside or instead of the ones it needs.
fn medium(name: &str, more: &Value) -> Value {
    let mut medium = match name {
        "email" => json!({"host": "smtp.example.com", "from": "va@example.com"}),
        "webhook" => json!({"url": "https://in.example.com/va", "signingSecretRef": key()}),
        "slackBot" => json!({"tokenRef": key()}),
        "pagerDuty" => json!({"integrationKeyRef": key()}),
        _ => json!({"urlRef": key()}),
    };
    merge(&mut medium, more);
    json!({ name: medium })
}

fn merge(object: &mut Value, more: &Value) {
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
}

fn insecure(mut spec: Value) -> Value {
    merge(&mut spec, &json!({"allowInsecure": true}));
    spec
}

const MEDIA: [&str; 6] = ["email", "slackWebhook", "webhook", "slackBot", "msTeamsWebhook", "pagerDuty"];

/// Each of these specs is refused in these words.
async fn refused(table: Vec<(Value, &str)>) {
    let api = channels("default").await;
    for (spec, words) in table {
        let shown: String = spec.to_string().chars().take(160).collect();
        match create(&api, &channel(&spec), true).await {
            Err(message) => assert!(message.contains(words), "{shown}: {message}"),
            Ok(_) => panic!("{shown} was accepted"),
        }
    }
}

/// Each of these specs is accepted, and kept as it is.
async fn accepted(table: Vec<Value>) {
    let api = channels("default").await;
    for spec in table {
        let sent = channel(&spec);
        match create(&api, &sent, true).await {
            Ok(answer) => assert_eq!(answer.data["spec"], sent["spec"], "the spec has no defaults"),
            Err(message) => panic!("{}: {message}", sent["spec"]),
        }
    }
}

#[tokio::test]
async fn a_channel_has_exactly_one_medium() {
    const ONE: &str = "spec: Invalid value: name exactly one of email, slackWebhook, webhook, slackBot, \
                       msTeamsWebhook and pagerDuty";
    accepted(MEDIA.map(|name| medium(name, &json!({}))).into()).await;
    let mut table = vec![(json!({}), ONE), (json!({"email": null}), ONE)];
    for pair in MEDIA.windows(2) {
        let mut both = medium(pair[0], &json!({}));
        merge(&mut both, &medium(pair[1], &json!({})));
        table.push((both, ONE));
    }
    refused(table).await;
}

#[tokio::test]
async fn every_medium_has_its_credentials() {
    let mut table = Vec::new();
    for (name, field, words) in [
        ("slackWebhook", "urlRef", "spec.slackWebhook.urlRef: Required value"),
        ("webhook", "signingSecretRef", "spec.webhook.signingSecretRef: Required value"),
        ("webhook", "url", "spec.webhook.url: Required value"),
        ("slackBot", "tokenRef", "spec.slackBot.tokenRef: Required value"),
        ("msTeamsWebhook", "urlRef", "spec.msTeamsWebhook.urlRef: Required value"),
        ("pagerDuty", "integrationKeyRef", "spec.pagerDuty.integrationKeyRef: Required value"),
        ("email", "host", "spec.email.host: Required value"),
        ("email", "from", "spec.email.from: Required value"),
    ] {
        table.push((medium(name, &json!({ field: null })), words));
    }
    let nameless = medium("slackBot", &json!({"tokenRef": {"key": "b"}}));
    table.push((nameless, "spec.slackBot.tokenRef.name: Required value"));
    let half = medium("email", &json!({"auth": {"usernameRef": key()}}));
    table.push((half, "spec.email.auth.passwordRef: Required value"));
    refused(table).await;
}

#[tokio::test]
async fn what_is_sent_in_the_clear_needs_allow_insecure() {
    let open = [
        (
            medium("email", &json!({"security": "None"})),
            "email.security: None sends passwords and notices in the clear",
        ),
        (medium("webhook", &json!({"url": "http://in.example.com"})), "webhook.url must begin with https://"),
        (medium("slackBot", &json!({"endpoint": "http://slack"})), "slackBot.endpoint must begin with https://"),
        (medium("pagerDuty", &json!({"endpoint": "http://pager"})), "pagerDuty.endpoint must begin with https://"),
    ];
    accepted(open.iter().map(|(spec, _)| insecure(spec.clone())).collect()).await;
    accepted(vec![
        insecure(medium("slackWebhook", &json!({}))),
        medium("slackBot", &json!({"endpoint": "https://slack-gov.com/"})),
        medium("pagerDuty", &json!({"endpoint": "https://events.eu.pagerduty.com"})),
    ])
    .await;
    let mut table = Vec::new();
    for (spec, words) in open {
        let mut not = spec.clone();
        merge(&mut not, &json!({"allowInsecure": false}));
        table.extend([(spec.clone(), words), (spec, "or set allowInsecure: true"), (not, words)]);
    }
    refused(table).await;
}

#[tokio::test]
async fn mail_servers_and_senders_are_plain() {
    const FROM: &str = "must be an e-mail address, tokens@example.com, or a name and an address, \
                        Virtual accounts <tokens@example.com>";
    let email = |field: &str, value: Value| medium("email", &json!({ field: value }));
    let mut good: Vec<Value> =
        ["a@b", "o'brien+va@mail.example.com", "Größe, Team <va@example.com>", "<va@example.com>"]
            .into_iter()
            .flat_map(|text| [email("from", text.into()), email("replyTo", text.into())])
            .collect();
    good.extend(["smtp", "smtp.example.com", "10.0.0.25", "2001:db8::25"].map(|host| email("host", host.into())));
    good.extend(["StartTLS", "TLS"].map(|security| email("security", security.into())));
    good.extend([1, 25, 65_535].map(|port| email("port", port.into())));
    good.push(email("auth", json!({"usernameRef": key(), "passwordRef": key()})));
    good.push(email("caBundle", key()));
    accepted(good).await;
    let mut table = vec![
        (email("port", 0.into()), "spec.email.port in body should be greater than or equal to 1"),
        (email("port", 65_536.into()), "spec.email.port in body should be less than or equal to 65535"),
        (email("security", "SSL".into()), "supported values: \"StartTLS\", \"TLS\", \"None\""),
        (email("host", "smtp.example.com:25".into()), "spec.email.host in body should match"),
        (email("host", "smtp example".into()), "spec.email.host in body should match"),
        (email("host", "smtp\r\nQUIT".into()), "spec.email.host in body should match"),
    ];
    for bad in [
        "va",
        "va@",
        "@example.com",
        "va@a..b",
        "va@-a",
        "va @example.com",
        "va@example.com\r\nBcc: x@y.z",
        "Team\r\nBcc: x@y.z <va@example.com>",
        "Team <va@example.com",
        "va@example.com>",
        "a@b, c@d",
        "Team <a@b> <c@d>",
    ] {
        table.push((email("from", bad.into()), FROM));
        table.push((email("replyTo", bad.into()), FROM));
    }
    refused(table).await;
}

#[tokio::test]
async fn a_webhooks_headers_are_not_those_of_the_event() {
    const RESERVED: &str = "is set by the operator itself; remove it";
    const URL: &str = "spec.webhook.url in body should match";
    let headers = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|name| json!({"name": name, "valueRef": key()})).collect();
        medium("webhook", &json!({ "headers": list }))
    };
    let many = |count: usize| {
        let list: Vec<Value> = (0..count).map(|n| json!({"name": format!("x-{n}"), "valueRef": key()})).collect();
        medium("webhook", &json!({ "headers": list }))
    };
    let url = |url: &str| medium("webhook", &json!({ "url": url }));
    accepted(vec![
        headers(&["Authorization", "X-Scope"]),
        many(16),
        url("https://in.example.com:8443/a/b?c=d"),
        medium("webhook", &json!({"caBundle": key()})),
    ])
    .await;
    let mut table = vec![
        (many(17), "spec.webhook.headers: Too many: 17: must have at most 16 items"),
        (headers(&["a", "a"]), "Duplicate value"),
        (headers(&["X-A", "x-a"]), "the same header is listed twice; remove one of them"),
        (headers(&[""]), "spec.webhook.headers[0].name in body should be at least 1 chars long"),
        (headers(&["a b"]), "spec.webhook.headers[0].name in body should match"),
        (headers(&["a\r\nb"]), "spec.webhook.headers[0].name in body should match"),
        (headers(&["a:"]), "spec.webhook.headers[0].name in body should match"),
        (medium("webhook", &json!({"headers": [{"name": "a"}]})), "spec.webhook.headers[0].valueRef: Required value"),
    ];
    for name in ["Content-Type", "content-length", "Host", "Connection", "Transfer-Encoding", "webhook-id", "Webhook-X"]
    {
        table.push((headers(&[name]), RESERVED));
    }
    for bad in ["in.example.com", "ftp://in", "https://user:password@in", "https://in#part", "https://in /", "https://"]
    {
        table.push((url(bad), URL));
    }
    refused(table).await;
}

#[tokio::test]
async fn a_bots_channels_and_endpoints_are_plain() {
    const ENDPOINT: &str = "endpoint in body should match";
    let bot = |channels: &Value| medium("slackBot", &json!({ "channels": channels }));
    let many = |count: usize| json!((0..count).map(|n| format!("#c{n}")).collect::<Vec<_>>());
    accepted(vec![bot(&json!(["#alerts", "C0123456789", "größe"])), bot(&many(20))]).await;
    let mut table = vec![
        (bot(&json!([])), "spec.slackBot.channels in body should have at least 1 items"),
        (bot(&many(21)), "spec.slackBot.channels: Too many: 21: must have at most 20 items"),
        (bot(&json!(["a", "a"])), "spec.slackBot.channels[1]: Duplicate value: \"a\""),
        (bot(&json!(["a b"])), "spec.slackBot.channels[0] in body should match"),
        (bot(&json!(["#a,#b"])), "spec.slackBot.channels[0] in body should match"),
        (bot(&json!([""])), "spec.slackBot.channels[0] in body should"),
        (bot(&json!(["x".repeat(81)])), "spec.slackBot.channels[0]: Too long: may not be more than 80"),
    ];
    for name in ["slackBot", "pagerDuty"] {
        for bad in ["slack.com", "https://slack.com/api", "https://a@slack.com", "https://slack.com?a=b"] {
            table.push((medium(name, &json!({ "endpoint": bad })), ENDPOINT));
        }
    }
    refused(table).await;
}

#[tokio::test]
async fn severities_are_pagerdutys_and_go_by_kind() {
    let severities = |severities: Value| medium("pagerDuty", &json!({ "severities": severities }));
    let all: Map<String, Value> = NoticeKind::ALL.iter().map(|kind| (kind.to_string(), "warning".into())).collect();
    let each = ["critical", "error", "warning", "info"].map(|one| severities(json!({"TokenExpired": one})));
    accepted([each.to_vec(), vec![severities(all.into()), severities(json!({}))]].concat()).await;
    refused(vec![
        (
            severities(json!({"TokenExpired": "fatal"})),
            "Unsupported value: \"fatal\": supported values: \"critical\", \"error\", \"warning\", \"info\"",
        ),
        (severities(json!({"Rotated": "info"})), "each key must be a kind of notice, for example TokenExpiring"),
        (severities(json!({"tokenExpired": "info"})), "each key must be a kind of notice"),
    ])
    .await;
}

#[tokio::test]
async fn the_owner_says_which_namespaces_may_use_a_channel() {
    const SELECTOR: &str = "selector goes with from: Selector, and only with it";
    let allowed = |allowed: Value| {
        let mut spec = medium("slackWebhook", &json!({}));
        merge(&mut spec, &json!({ "allowedNamespaces": allowed }));
        spec
    };
    let labels = json!({"matchLabels": {"chat": "yes"}});
    accepted(vec![
        allowed(json!({"from": "Same"})),
        allowed(json!({"from": "All"})),
        allowed(json!({"from": "Selector", "selector": labels})),
    ])
    .await;
    refused(vec![
        (allowed(json!({"from": "Selector"})), SELECTOR),
        (allowed(json!({"from": "All", "selector": labels})), SELECTOR),
        (allowed(json!({"from": "Some"})), "spec.allowedNamespaces.from: Unsupported value: \"Some\""),
    ])
    .await;
}

fn targets(targets: &[Value]) -> Value {
    json!({ "notificationTargets": targets })
}

fn target(more: &Value) -> Value {
    let mut target = json!({"channelRef": {"name": "mail"}});
    merge(&mut target, more);
    targets(&[target])
}

fn to(addresses: impl IntoIterator<Item = impl Into<String>>) -> Value {
    let addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
    target(&json!({ "toEmails": addresses }))
}

fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("person-{n}@{}.example.com", "x".repeat(63)))
}

#[tokio::test]
async fn an_account_names_whom_to_tell() {
    const ADDRESS: &str = "toEmails: Invalid value: each must be a bare e-mail address, for example alice@example.com";
    let one = |namespace: &str| json!({"channelRef": {"namespace": namespace, "name": "mail"}});
    let full: Vec<Value> = (0..8)
        .map(|n| json!({"channelRef": {"name": format!("c{n}")}, "toEmails": numbered(50).collect::<Vec<_>>()}))
        .collect();
    let kinds: Vec<String> = NoticeKind::ALL.iter().map(ToString::to_string).collect();
    super::accepted(vec![
        targets(&[]),
        targets(&full),
        targets(&[one("a"), one("b"), one("a")]),
        to(["a@b", "o'brien+va@mail.example.com", "UPPER_case.x@EXAMPLE.com"]),
        target(&json!({"channels": ["#alerts", "C0123456789"]})),
        target(&json!({ "events": kinds })),
    ])
    .await;
    let nine: Vec<Value> = (0..9).map(|n| json!({"channelRef": {"name": format!("c{n}")}})).collect();
    let mut table = vec![
        (targets(&nine), "spec.notificationTargets: Too many: 9: must have at most 8 items"),
        (targets(&[json!({})]), "spec.notificationTargets[0].channelRef: Required value"),
        (targets(&[json!({"channelRef": {}})]), "spec.notificationTargets[0].channelRef.name: Required value"),
        (to(numbered(51)), "spec.notificationTargets[0].toEmails: Too many: 51: must have at most 50 items"),
        (to([""; 0]), "spec.notificationTargets[0].toEmails in body should have at least 1 items"),
        (to(["a@b", "a@b"]), "spec.notificationTargets[0].toEmails[1]: Duplicate value: \"a@b\""),
        (to([format!("a@{}", "b.".repeat(127))]), "toEmails[0]: Too long: may not be more than 254"),
        (target(&json!({"channels": []})), "spec.notificationTargets[0].channels in body should have at least 1 items"),
        (target(&json!({"channels": ["a b"]})), "spec.notificationTargets[0].channels[0] in body should match"),
        (target(&json!({"events": []})), "spec.notificationTargets[0].events in body should have at least 1 items"),
        (target(&json!({"events": ["Rotated"]})), "Unsupported value: \"Rotated\": supported values: \"TokenRotated\""),
        (target(&json!({"events": ["TokenExpired", "TokenExpired"]})), "events[1]: Duplicate value: \"TokenExpired\""),
    ];
    let bad =
        ["a@b..c", "a@.b", "a@b.", "a@-b", "a@b-", "@b.c", "a b@c", "a@b\r\nBcc: x@y", "A <a@b>", "a@b@c", "a@[1]"];
    table.extend(bad.map(|address| (to([address]), ADDRESS)));
    super::refused(table).await;
}

#[test]
fn unknown_fields_of_channels_are_named() {
    for (spec, field) in [
        (json!({"mail": {}}), "unknown field \"spec.mail\""),
        (medium("slackWebhook", &json!({"url": "https://secret"})), "unknown field \"spec.slackWebhook.url\""),
        (medium("email", &json!({"password": "x"})), "unknown field \"spec.email.password\""),
    ] {
        let output = PLANE.kubectl(&["create", "--dry-run=server", "-f", "-"], Some(&channel(&spec).to_string()));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(field), "{message}");
    }
}

#[tokio::test]
async fn lists_show_medium_readiness_and_the_last_test() {
    let namespace = PLANE.namespace("channels");
    let api = channels(&namespace).await;
    let mut sent = channel(&medium("slackBot", &json!({})));
    sent["metadata"]["namespace"] = namespace.as_str().into();
    let answer = create(&api, &sent, false).await.unwrap();
    assert_eq!(answer.data["status"], json!({"observedGeneration": -1}), "nobody has seen it");
    let status = json!({
        "medium": "slackBot", "observedGeneration": 1,
        "conditions": [{
            "type": "Ready", "status": "False", "reason": "invalid_auth", "message": "the token is refused",
            "lastTransitionTime": "2026-11-22T08:30:00Z",
        }],
        "lastTest": {"requestedAt": "x", "at": "2026-11-22T08:30:00Z", "result": "Failed", "message": "it is refused"},
    });
    let answer = replace_status(&api, "sample", status.clone()).await.unwrap();
    assert_eq!(answer.data["status"], status);
    let text = PLANE.kubectl_ok(&["get", "nc", "-n", &namespace], None);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "MEDIUM", "READY", "REASON", "LAST", "TEST", "AGE"]);
    assert_eq!(lines[1][..5], ["sample", "slackBot", "False", "invalid_auth", "Failed"]);
    let all = PLANE.kubectl_ok(&["get", "all", "-n", &namespace], None);
    assert!(all.contains("notificationchannel.virtualaccounts.dev/sample"), "{all}");
}

#[test]
fn the_fields_of_channels_explain_themselves() {
    for (field, words) in [
        ("nc", "A way to tell people about virtual accounts: mail, Slack, a webhook, Microsoft Teams or PagerDuty."),
        ("nc.spec", "exactly one medium"),
        ("nc.spec.allowedNamespaces", "Default: its own alone."),
        ("nc.spec.allowInsecure", "Default: false."),
        ("nc.spec.email.port", "Default: 587 with StartTLS, 465 with TLS, 25 with None."),
        ("nc.spec.email.security", "refused if the server does not offer it"),
        ("nc.spec.email.replyTo", "Default: to the sender."),
        ("nc.spec.email.auth", "Who logs in (SMTP AUTH). Default: nobody."),
        ("nc.spec.webhook.signingSecretRef", "whsec_"),
        ("nc.spec.webhook.headers", "for example Authorization"),
        ("nc.spec.slackBot.channels", "The bot must be a member."),
        ("nc.spec.slackBot.tokenRef", "with the scope chat:write"),
        ("nc.spec.msTeamsWebhook.urlRef", "which is a credential"),
        ("nc.spec.pagerDuty.severities", "Default: critical for TokenExpired"),
        ("nc.status.conditions", "told nobody anything"),
        ("nc.status.lastTest", "asked for by the annotation virtualaccounts.dev/test-requested-at"),
        ("va.spec.notificationTargets", "Who is told, at most 8"),
        ("va.spec.notificationTargets.toEmails", "Needed for mail"),
        ("va.spec.notificationTargets.events", "On request: GraceEnding and TokenRetired"),
        ("va.status.notifications", "the last that were"),
    ] {
        let text = PLANE.kubectl_ok(&["explain", field], None);
        let flowing = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flowing.contains(words), "{field}: {text}");
    }
}
