//! What a channel's spec alone says: whether anybody may use it, how it tells people, and whom. Pure.

use crate::api::{EmailSecurity, NotificationChannelSpec};
use crate::integration::{INVALID_SPEC, Refusal};
use crate::notify::Medium;

/// Why nobody may use a channel with this spec, if so; else its medium.
pub(super) fn usable(spec: &NotificationChannelSpec) -> Result<Medium, Refusal> {
    let medium = Medium::of(spec).ok_or_else(|| {
        Refusal::new(INVALID_SPEC, "spec names no medium that this version of the operator knows; update it")
    })?;
    let open = |url: Option<&String>| url.is_some_and(|url| !url.starts_with("https://"));
    let in_the_clear = match spec {
        NotificationChannelSpec { allow_insecure: Some(true), .. } => None,
        NotificationChannelSpec { email: Some(email), .. } if email.security == Some(EmailSecurity::None) => {
            Some("spec.email.security None sends passwords and notices in the clear; use StartTLS or TLS")
        }
        NotificationChannelSpec { webhook: Some(webhook), .. } if open(Some(&webhook.url)) => {
            Some("spec.webhook.url must begin with https://")
        }
        NotificationChannelSpec { slack_bot: Some(bot), .. } if open(bot.endpoint.as_ref()) => {
            Some("spec.slackBot.endpoint must begin with https://")
        }
        NotificationChannelSpec { pager_duty: Some(pager), .. } if open(pager.endpoint.as_ref()) => {
            Some("spec.pagerDuty.endpoint must begin with https://")
        }
        _ => None,
    };
    match in_the_clear {
        Some(why) => Err(Refusal::new(INVALID_SPEC, format!("{why}, or set spec.allowInsecure: true"))),
        None => Ok(medium),
    }
}

/// Whether plain http is allowed.
pub(super) fn is_insecure(spec: &NotificationChannelSpec) -> bool {
    spec.allow_insecure.unwrap_or_default()
}

/// Whether it knows whom to tell where an account names nobody.
pub(super) fn has_recipients(spec: &NotificationChannelSpec) -> bool {
    match spec {
        NotificationChannelSpec { email: Some(_), .. } => false,
        NotificationChannelSpec { slack_bot: Some(bot), .. } => {
            bot.channels.as_ref().is_some_and(|channels| !channels.is_empty())
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(spec: Value) -> NotificationChannelSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn email(more: &Value) -> Value {
        let mut email = json!({"email": {"host": "smtp.example.com", "from": "va@example.com"}});
        email["email"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        email
    }

    #[test]
    fn what_is_sent_in_the_clear_needs_consent() {
        let key = json!({"name": "a", "key": "b"});
        let webhook = |url: &str| json!({"webhook": {"url": url, "signingSecretRef": key}});
        let bot = |endpoint: &str| json!({"slackBot": {"tokenRef": key, "endpoint": endpoint}});
        let pager = |endpoint: &str| json!({"pagerDuty": {"integrationKeyRef": key, "endpoint": endpoint}});
        for (open, words) in [
            (email(&json!({"security": "None"})), "spec.email.security None"),
            (webhook("http://in.example.com"), "spec.webhook.url must begin with https://"),
            (bot("http://slack.example.com"), "spec.slackBot.endpoint must begin with https://"),
            (pager("http://pager.example.com"), "spec.pagerDuty.endpoint must begin with https://"),
        ] {
            let refusal = usable(&spec(open.clone())).unwrap_err();
            assert_eq!(refusal.reason, "InvalidSpec");
            assert!(refusal.message.contains(words), "{}", refusal.message);
            assert!(refusal.message.ends_with("or set spec.allowInsecure: true"), "{}", refusal.message);
            let mut allowed = open;
            allowed["allowInsecure"] = true.into();
            assert!(usable(&spec(allowed.clone())).is_ok());
            allowed["allowInsecure"] = false.into();
            assert!(usable(&spec(allowed)).is_err());
        }
        for closed in [
            email(&json!({})),
            email(&json!({"security": "TLS"})),
            webhook("https://in.example.com"),
            bot("https://slack-gov.com"),
            pager("https://events.eu.pagerduty.com"),
        ] {
            assert!(usable(&spec(closed)).is_ok());
        }
        let refusal = usable(&spec(json!({}))).unwrap_err();
        assert!(refusal.message.contains("no medium that this version of the operator knows"), "{}", refusal.message);
    }

    #[test]
    fn mail_has_no_recipients_of_its_own_and_a_bot_may_have() {
        let key = json!({"name": "a", "key": "b"});
        for (given, expected) in [
            (email(&json!({"replyTo": "me@example.com"})), false),
            (json!({"slackBot": {"tokenRef": key}}), false),
            (json!({"slackBot": {"tokenRef": key, "channels": ["#a"]}}), true),
            (json!({"slackWebhook": {"urlRef": key}}), true),
            (json!({"pagerDuty": {"integrationKeyRef": key}}), true),
        ] {
            assert_eq!(has_recipients(&spec(given.clone())), expected, "{given}");
        }
    }
}
