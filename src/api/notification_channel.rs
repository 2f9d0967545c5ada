//! `NotificationChannel`: how people are told, and with whose credentials.
//!
//! `///` comments on fields are what users read in `kubectl explain`; notes for ourselves are `//`.

// The derives repeat each struct inside a function of their own.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::CustomResourceExt;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::notice::ADDRESS;
use super::{AllowedNamespaces, Instant, NoticeKind, SecretKeyRef};

/// A way to tell people that accounts may name in spec.notificationTargets: exactly one medium.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "virtualaccounts.dev",
    version = "v1alpha1",
    kind = "NotificationChannel",
    doc = "A way to tell people about virtual accounts: mail, Slack, a webhook, Microsoft Teams or PagerDuty. Short name: nc.",
    plural = "notificationchannels",
    shortname = "nc",
    category = "all",
    namespaced,
    status = "NotificationChannelStatus",
    derive = "PartialEq",
    printcolumn(name = "Medium", type_ = "string", json_path = ".status.medium"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Last test", type_ = "string", json_path = ".status.lastTest.result"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(ONE_MEDIUM).message("name exactly one of email, slackWebhook, webhook, slackBot, msTeamsWebhook and pagerDuty"))]
#[x_kube(validation = Rule::new("!has(self.email) || !has(self.email.security) || self.email.security != 'None' || (has(self.allowInsecure) && self.allowInsecure)").message("email.security: None sends passwords and notices in the clear; use StartTLS or TLS, or set allowInsecure: true"))]
#[x_kube(validation = Rule::new("!has(self.webhook) || self.webhook.url.startsWith('https://') || (has(self.allowInsecure) && self.allowInsecure)").message("webhook.url must begin with https://, or set allowInsecure: true"))]
#[x_kube(validation = Rule::new("!has(self.slackBot) || !has(self.slackBot.endpoint) || self.slackBot.endpoint.startsWith('https://') || (has(self.allowInsecure) && self.allowInsecure)").message("slackBot.endpoint must begin with https://, or set allowInsecure: true"))]
#[x_kube(validation = Rule::new("!has(self.pagerDuty) || !has(self.pagerDuty.endpoint) || self.pagerDuty.endpoint.startsWith('https://') || (has(self.allowInsecure) && self.allowInsecure)").message("pagerDuty.endpoint must begin with https://, or set allowInsecure: true"))]
pub struct NotificationChannelSpec {
    /// Which namespaces' accounts may use the channel. Default: its own alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,

    /// True: plain http URLs and mail servers without TLS may be used. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_insecure: Option<bool>,

    /// Mail, by SMTP. Each account names its recipients in toEmails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,

    /// A Slack incoming webhook: posts to the one channel that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack_webhook: Option<SlackWebhook>,

    /// Any HTTP server: CloudEvents 1.0 as JSON, signed as Standard Webhooks says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,

    /// A Slack app's bot: posts to the channels that the account names, or to its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack_bot: Option<SlackBot>,

    /// A Microsoft Teams workflow ("When a Teams webhook request is received"): posts an Adaptive Card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms_teams_webhook: Option<MsTeamsWebhook>,

    /// PagerDuty, by its Events API v2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pager_duty: Option<PagerDuty>,
}

const ONE_MEDIUM: &str = "[has(self.email), has(self.slackWebhook), has(self.webhook), has(self.slackBot), \
    has(self.msTeamsWebhook), has(self.pagerDuty)].filter(there, there).size() == 1";

/// Mail, by SMTP.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Email {
    /// The mail server's name, for example `smtp.example.com`.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$|^[0-9A-Fa-f:.]+$")
    )]
    pub host: String,
    /// Its port. Default: 587 with StartTLS, 465 with TLS, 25 with None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// How the connection is encrypted: StartTLS (the default; refused if the server does not offer it), TLS from the first
    /// byte, or None, which needs allowInsecure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // Of an optional enum the API server would get the enum's description, not the field's.
    #[schemars(with = "String", extend("enum" = ["StartTLS", "TLS", "None"]))]
    pub security: Option<EmailSecurity>,
    /// Who logs in (SMTP AUTH). Default: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<EmailAuth>,
    /// The sender: `tokens@example.com`, or with a name, `Virtual accounts <tokens@example.com>`.
    #[schemars(length(min = 3, max = 320))]
    #[x_kube(validation = Rule::new(format!("self.matches('^([^<>[:cntrl:]]*<{ADDRESS}>|{ADDRESS})$')")).message("must be an e-mail address, tokens@example.com, or a name and an address, Virtual accounts <tokens@example.com>"))]
    pub from: String,
    /// Where answers go. Default: to the sender. Test messages go there, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 320))]
    #[x_kube(validation = Rule::new(format!("self.matches('^([^<>[:cntrl:]]*<{ADDRESS}>|{ADDRESS})$')")).message("must be an e-mail address, tokens@example.com, or a name and an address, Virtual accounts <tokens@example.com>"))]
    pub reply_to: Option<String>,
    /// The certificates (PEM) to trust. Default: the operator's own list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<SecretKeyRef>,
}

/// How a connection to a mail server is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EmailSecurity {
    /// By STARTTLS (RFC 3207), always.
    #[default]
    #[serde(rename = "StartTLS")]
    StartTls,
    /// From the first byte (RFC 8314).
    #[serde(rename = "TLS")]
    Tls,
    /// Not at all.
    None,
}

/// Who logs in to a mail server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmailAuth {
    /// The user name.
    pub username_ref: SecretKeyRef,
    /// The password.
    pub password_ref: SecretKeyRef,
}

/// A Slack incoming webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlackWebhook {
    /// Its URL, which is a credential: `https://hooks.slack.com/services/…`.
    pub url_ref: SecretKeyRef,
}

/// Any HTTP server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Where events are posted.
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https?://[^\s@#]+$"))]
    pub url: String,
    /// The secret that events are signed with: `whsec_` and 24 to 64 bytes in base64. Several, with white space between
    /// them, all sign: so a secret can be replaced without a gap.
    pub signing_secret_ref: SecretKeyRef,
    /// More headers, at most 16, for example Authorization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.all(a, self.exists_one(b, a.name.lowerAscii() == b.name.lowerAscii()))").message("the same header is listed twice; remove one of them")
    )]
    pub headers: Option<Vec<WebhookHeader>>,
    /// The certificates (PEM) to trust. Default: the operator's own list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<SecretKeyRef>,
}

/// A header of a webhook's requests.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookHeader {
    /// Its name. Those of the event itself are refused: content-type, content-length, host and webhook-….
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['content-type', 'content-length', 'host', 'connection', 'transfer-encoding']) && !self.lowerAscii().startsWith('webhook-')").message("is set by the operator itself; remove it"))]
    pub name: String,
    /// Its value.
    pub value_ref: SecretKeyRef,
}

/// A Slack app's bot.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlackBot {
    /// Its token, `xoxb-…`, with the scope chat:write.
    pub token_ref: SecretKeyRef,
    /// Where it posts if an account names no channels: ids or names, at most 20. The bot must be a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20), inner(length(min = 1, max = 80), regex(pattern = r"^#?[^\s#,]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub channels: Option<Vec<String>>,
    /// Another Slack than `https://slack.com`, for example `https://slack-gov.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub endpoint: Option<String>,
}

/// A Microsoft Teams workflow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MsTeamsWebhook {
    /// Its URL, which is a credential.
    pub url_ref: SecretKeyRef,
}

/// PagerDuty, by its Events API v2.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PagerDuty {
    /// The integration key of a service (32 characters).
    pub integration_key_ref: SecretKeyRef,
    /// The severity of each kind of notice: critical, error, warning or info. Default: critical for TokenExpired, error for
    /// DeliveryFailing, warning for TokenExpiring, GraceEnding and TokenRevoked, info for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.all(k, k in ['TokenRotated', 'GraceEnding', 'TokenRetired', 'TokenExpiring', 'TokenExpired', 'DeliveryFailing', 'DeliveryRecovered', 'TokenRevoked'])").message("each key must be a kind of notice, for example TokenExpiring"))]
    #[schemars(schema_with = "severities")]
    pub severities: Option<BTreeMap<NoticeKind, PagerDutySeverity>>,
    /// Another region than `https://events.pagerduty.com`: `https://events.eu.pagerduty.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub endpoint: Option<String>,
}

// The API server takes no schema for the keys of a map.
fn severities(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": {"type": "string", "enum": ["critical", "error", "warning", "info"]},
    })
}

/// How bad something is, in PagerDuty's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PagerDutySeverity {
    /// The worst.
    Critical,
    /// Something failed.
    Error,
    /// Something will fail.
    Warning,
    /// All is well.
    Info,
}

/// What the operator found out about the channel. Written by the operator alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationChannelStatus {
    /// The generation of the spec that this status describes; -1 before the first check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The medium in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub medium: Option<String>,
    /// Ready: credentials and reach were checked with a real call that told nobody anything. Stalled: nothing but a change
    /// of the spec can help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The last test message, asked for by the annotation virtualaccounts.dev/test-requested-at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_test: Option<ChannelTest>,
}

/// A test message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelTest {
    /// The value of the annotation that asked for it.
    #[schemars(length(max = 256))]
    pub requested_at: String,
    /// When it was sent, or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Instant>,
    /// Sent or Failed.
    #[schemars(length(max = 16))]
    pub result: String,
    /// Where it went, or why not.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// The definition, with what the derive cannot say.
pub(super) fn crd() -> CustomResourceDefinition {
    super::finish(NotificationChannel::crd(), None)
}
