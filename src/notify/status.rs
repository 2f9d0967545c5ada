//! What is told about a NotificationChannel in its status, and what its test message says. Pure.

use aws_lc_rs::digest::{SHA256, digest};
use kube::ResourceExt;

use super::{Content, Letter, Medium};
use crate::api::{
    AccountId, ChannelTest, Instant, NotificationChannel, NotificationChannelSpec, NotificationChannelStatus,
    TEST_ANNOTATION,
};
use crate::condition::{self, Says};
use crate::integration::{INVALID_SPEC, ProviderError, Refusal};

/// So much of the annotation's value counts, in characters: the status has room for it.
const VALUE: usize = 256;

/// What is known of a channel.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// Nobody may use it as its spec is.
    Refused(Refusal),
    /// Its last check failed, or its last message was not taken.
    Failed(ProviderError),
    /// Its last check was good.
    Good,
}

/// The status of a channel. `test`: what came of a test message that is not recorded yet.
pub(super) fn next(
    channel: &NotificationChannel,
    finding: &Finding,
    test: Option<ChannelTest>,
    now: Instant,
) -> NotificationChannelStatus {
    let before = channel.status.clone().unwrap_or_default();
    let generation = channel.metadata.generation.unwrap_or_default();
    let medium = Medium::of(&channel.spec);
    let (status, reason, message) = match finding {
        Finding::Good => (true, "Checked".into(), checked(medium).into()),
        Finding::Refused(refusal) => (false, refusal.reason.into(), refusal.message.clone()),
        Finding::Failed(error) => (false, error.condition_reason(), error.line()),
    };
    let says = Says { status, reason: &reason, message: &message };
    let conditions = condition::set(before.conditions, "Ready", &says, generation, now);
    NotificationChannelStatus {
        observed_generation: Some(generation),
        medium: medium.map(|medium| medium.as_str().to_owned()),
        conditions: condition::set_stalled(conditions, &says, reason == INVALID_SPEC, generation, now),
        last_test: test.or(before.last_test),
    }
}

// Some media answer before they look at credentials.
fn checked(medium: Option<Medium>) -> &'static str {
    match medium {
        Some(Medium::Webhook | Medium::MsTeamsWebhook | Medium::PagerDuty) => {
            "the server answers; only a message shows that it takes them"
        }
        _ => "credentials and reach are good",
    }
}

/// The test message that is asked for and not recorded: the annotation's value.
pub(super) fn asked(channel: &NotificationChannel) -> Option<String> {
    let value: String = channel.annotations().get(TEST_ANNOTATION)?.chars().take(VALUE).collect();
    let last = channel.status.as_ref().and_then(|status| status.last_test.as_ref());
    last.is_none_or(|last| last.requested_at != value).then_some(value)
}

/// The test message. Its id is the same in every repeat for one value.
pub(super) fn letter(channel: &NotificationChannel, value: &str, now: Instant) -> Letter {
    let seed = format!("{}{value}", channel.uid().unwrap_or_default());
    let start =
        digest(&SHA256, seed.as_bytes()).as_ref().iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte));
    let id = format!("{start:032x}");
    Letter {
        incident: id.clone(),
        id,
        account: AccountId::new(channel.namespace().unwrap_or_default(), channel.name_any()),
        owner: None,
        description: None,
        jti: String::new(),
        at: now,
        content: Content::Test,
    }
}

/// What came of a test message.
pub(super) fn tested(
    spec: &NotificationChannelSpec,
    value: String,
    result: &Result<(), ProviderError>,
    now: Instant,
) -> ChannelTest {
    let (result, message) = match result {
        Ok(()) => ("Sent", format!("sent to {}", receiver(spec))),
        Err(error) => ("Failed", format!("{}: {}", error.condition_reason(), error.line())),
    };
    ChannelTest {
        requested_at: value,
        at: Some(now),
        result: result.into(),
        message: message.chars().take(1024).collect(),
    }
}

/// Who gets a message that names no recipients, for people. URLs may be credentials.
fn receiver(spec: &NotificationChannelSpec) -> String {
    match spec {
        NotificationChannelSpec { email: Some(email), .. } => email.reply_to.as_ref().unwrap_or(&email.from).clone(),
        NotificationChannelSpec { slack_bot: Some(bot), .. } => bot.channels.clone().unwrap_or_default().join(", "),
        NotificationChannelSpec { slack_webhook: Some(_), .. } => "the Slack channel of the webhook".into(),
        NotificationChannelSpec { ms_teams_webhook: Some(_), .. } => "the Microsoft Teams workflow".into(),
        NotificationChannelSpec { pager_duty: Some(_), .. } => "the PagerDuty service of the integration key".into(),
        _ => "the webhook".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::integration::ErrorKind;

    fn channel(spec: &Value, annotation: Option<&str>, status: &Value) -> NotificationChannel {
        serde_json::from_value(json!({
            "apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "NotificationChannel",
            "metadata": {
                "namespace": "platform", "name": "mail", "generation": 2, "uid": "one",
                "annotations": annotation.map(|value| json!({TEST_ANNOTATION: value})),
            },
            "spec": spec, "status": status,
        }))
        .unwrap()
    }

    fn slack() -> Value {
        json!({"slackWebhook": {"urlRef": {"name": "slack", "key": "url"}}})
    }

    fn failed(reason: &str, message: &str) -> Finding {
        Finding::Failed(ProviderError::new(ErrorKind::Denied, reason, message))
    }

    #[test]
    fn ready_says_what_was_found() {
        for (finding, expected) in [
            (Finding::Good, "True Checked credentials and reach are good"),
            (
                Finding::Refused(Refusal::new("InvalidSpec", "set allowInsecure: true")),
                "False InvalidSpec set allowInsecure: true",
            ),
            (failed("invalid_auth", "no rights"), "False invalid_auth no rights"),
            (failed("403", "two\nlines  here"), "False Denied two lines here"),
        ] {
            let status = next(&channel(&slack(), None, &json!({})), &finding, None, Instant::from_unix(0));
            let ready = &status.conditions[0];
            assert_eq!(format!("{} {} {}", ready.status, ready.reason, ready.message), expected);
            assert_eq!((ready.type_.as_str(), ready.observed_generation), ("Ready", Some(2)));
            let stalled = &status.conditions[1];
            let hopeless = if expected.contains("InvalidSpec") { "True" } else { "False" };
            assert_eq!((stalled.type_.as_str(), stalled.status.as_str()), ("Stalled", hopeless));
            assert_eq!((status.medium.as_deref(), status.observed_generation), (Some("slackWebhook"), Some(2)));
        }
        let status = next(&channel(&json!({}), None, &json!({})), &Finding::Good, None, Instant::from_unix(0));
        assert_eq!(status.medium, None, "of a newer version");
    }

    #[test]
    fn the_same_finding_is_the_same_status_and_the_last_test_stays() {
        let test = ChannelTest { requested_at: "a".into(), result: "Sent".into(), ..ChannelTest::default() };
        let mut channel = channel(&slack(), None, &json!({}));
        let once = next(&channel, &Finding::Good, Some(test.clone()), Instant::from_unix(10));
        assert_eq!(once.last_test, Some(test));
        channel.status = Some(once.clone());
        assert_eq!(next(&channel, &Finding::Good, None, Instant::from_unix(99)), once);
    }

    #[test]
    fn a_test_is_asked_for_by_each_value_that_is_not_the_recorded_one() {
        let recorded = |value: &str| json!({"lastTest": {"requestedAt": value, "result": "Sent", "message": ""}});
        let (long, cut) = ("ä".repeat(300), "ä".repeat(256));
        for (annotation, status, expected) in [
            (None, json!({}), None),
            (None, recorded("a"), None),
            (Some("a"), json!({}), Some("a")),
            (Some("a"), recorded("a"), None),
            (Some("b"), recorded("a"), Some("b")),
            (Some(""), json!({}), Some("")),
            (Some(long.as_str()), json!({}), Some(cut.as_str())),
            (Some(long.as_str()), recorded(&cut), None),
        ] {
            assert_eq!(asked(&channel(&slack(), annotation, &status)).as_deref(), expected, "{annotation:?} {status}");
        }
    }

    #[test]
    fn a_test_message_has_one_id_for_one_value_of_one_channel() {
        let of = |value: &str| letter(&channel(&slack(), None, &json!({})), value, Instant::from_unix(1));
        // printf one2026 | sha256sum
        assert_eq!(of("2026").id, "f4e7ef8da550016281760a07ab8d90e2");
        assert_eq!(of("2026"), of("2026"));
        assert_ne!(of("2026").id, of("2027").id);
        let mut other = channel(&slack(), None, &json!({}));
        other.metadata.uid = Some("two".into());
        assert_ne!(letter(&other, "2026", Instant::from_unix(1)).id, of("2026").id);
        let letter = of("2026");
        assert_eq!((letter.account.to_string().as_str(), &letter.content), ("platform/mail", &Content::Test));
        assert_eq!(letter.incident, letter.id);
    }

    #[test]
    fn a_test_says_where_it_went_or_why_not() {
        let key = json!({"name": "a", "key": "b"});
        for (spec, expected) in [
            (json!({"email": {"host": "smtp", "from": "va@example.com"}}), "sent to va@example.com"),
            (
                json!({"email": {"host": "smtp", "from": "va@example.com", "replyTo": "me@example.com"}}),
                "sent to me@example.com",
            ),
            (json!({"slackBot": {"tokenRef": key, "channels": ["#a", "C02"]}}), "sent to #a, C02"),
            (slack(), "sent to the Slack channel of the webhook"),
            (
                json!({"webhook": {"url": "https://in.example.com/?key=secret", "signingSecretRef": key}}),
                "sent to the webhook",
            ),
        ] {
            let test = tested(&channel(&spec, None, &json!({})).spec, "x".into(), &Ok(()), Instant::from_unix(5));
            assert_eq!((test.result.as_str(), test.message.as_str()), ("Sent", expected));
            assert_eq!((test.requested_at.as_str(), test.at), ("x", Some(Instant::from_unix(5))));
        }
        let error = Err(ProviderError::new(ErrorKind::Denied, "invalid_auth", format!("no\n{}", "x".repeat(3_000))));
        let test = tested(&channel(&slack(), None, &json!({})).spec, "x".into(), &error, Instant::from_unix(5));
        assert_eq!(test.result, "Failed");
        assert!(test.message.starts_with("invalid_auth: no xxx") && test.message.len() < 600, "{}", test.message);
    }
}
