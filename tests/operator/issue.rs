//! Issuing: the first token, and what a spec asks of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use virtual_account_operator::clock;

use crate::support::cluster::{PATIENCE, condition, decode, entries, entry, ready, settled, stays, text, wait_for};
use crate::support::operator::ISSUER;
use crate::{MINIMUM_INTERVAL_SECONDS, OTHER_AUDIENCE, World, rotating, seconds};

const DAY: i64 = 86_400;

#[test]
fn first_token_is_recorded_delivered_and_ready() {
    let world = World::new("first");
    let given = world.ready(rotating());
    let (status, ns) = (&given.account["status"], &world.ns);
    let [entry] = entries(&given.account) else { panic!("{status}") };
    let issued = seconds(&entry["issuedAt"]);

    assert_eq!(status["account"], format!("{ns}/cart"));
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!(status["jwtId"], given.jti.as_str());
    assert_eq!(status["rotation"], "90d");
    assert_eq!(seconds(&status["expiresAt"]), issued + 97 * DAY);
    let rotation = seconds(&status["nextScheduledRotation"]) - issued;
    assert!((90 * DAY - DAY / 2..=90 * DAY).contains(&rotation), "jitter is at most 12 h: {rotation}");
    assert_eq!(status["tokenSecret"]["name"], "cart-token");
    assert_eq!(status["tokenSecret"]["resourceVersion"], given.secret["metadata"]["resourceVersion"]);
    assert_eq!((&entry["phase"], &entry["reason"]), (&json!("Current"), &json!("First")));
    for (kind, status) in [("Ready", "True"), ("Delivered", "True"), ("Stalled", "False")] {
        let condition = condition(&given.account, kind);
        assert_eq!(condition["status"], status, "{condition}");
        assert_eq!(condition["observedGeneration"], 1, "{condition}");
    }
}

#[test]
fn first_issue_is_recorded_before_it_is_delivered() {
    let world = World::new("writes");
    let created = world.create("cart", rotating());
    let given = world.given("cart");
    let [pending, done] = &world.cluster.history(&world.ns, "cart", &created)[..] else { panic!("two status writes") };
    let status = &pending["status"];
    assert_eq!(status["observedGeneration"], -1, "in progress for those who judge by kstatus");
    assert_eq!((&ready(pending)["status"], &ready(pending)["reason"]), (&json!("False"), &json!("Issuing")));
    assert_eq!(entries(pending)[0]["phase"], "Pending");
    for key in ["account", "jwtId", "expiresAt", "nextScheduledRotation"] {
        assert_eq!(status[key], done["status"][key], "{key}");
    }
    assert_eq!(status["tokenSecret"], Value::Null);
    assert_eq!(done["status"], given.account["status"]);
}

#[test]
fn secret_holds_the_token_and_says_whose_it_is() {
    let world = World::new("content");
    let given = world.ready(rotating());
    let secret = &given.secret;
    let keys: Vec<_> = secret["data"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["expires-at", "issuer", "jti", "token"]);
    assert_eq!(secret["type"], "Opaque");
    assert_eq!(text(secret, "jti").as_deref(), Some(given.jti.as_str()));
    assert_eq!(text(secret, "issuer").as_deref(), Some(ISSUER));
    assert_eq!(text(secret, "expires-at").as_deref(), given.account["status"]["expiresAt"].as_str());
    let metadata = &secret["metadata"];
    assert_eq!(metadata["labels"]["virtualaccounts.dev/account"], "cart");
    assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "virtual-account-operator");
    assert_eq!(metadata["annotations"]["virtualaccounts.dev/account-uid"], given.account["metadata"]["uid"]);
    let owners = metadata["ownerReferences"].as_array().unwrap();
    assert_eq!(owners.len(), 1);
    assert_eq!(owners[0]["uid"], given.account["metadata"]["uid"]);
    assert_eq!(owners[0]["blockOwnerDeletion"], Value::Null);
}

#[test]
fn token_says_who_and_until_when_and_nothing_of_rights() {
    let world = World::new("claims");
    let given = world.ready(json!({}));
    let (header, claims) = decode(&given.token);
    let entry = &entries(&given.account)[0];
    assert_eq!(header, json!({"alg": "ES256", "kid": entry["keyId"], "typ": "at+jwt"}));
    let subject = format!("va:{}:cart", world.ns);
    let expected = json!({
        "iss": ISSUER, "sub": subject, "client_id": subject, "aud": ISSUER, "jti": given.jti,
        "iat": seconds(&entry["issuedAt"]) - 60, "exp": seconds(&entry["expiresAt"]),
    });
    assert_eq!(claims, expected);
    let keys = world.operator.jwks();
    let kids: Vec<_> = keys["keys"].as_array().unwrap().iter().map(|key| &key["kid"]).collect();
    assert!(kids.contains(&&entry["keyId"]), "{keys}");
}

#[test]
fn account_without_rotation_gets_a_successor_before_the_longest_life_ends() {
    let world = World::new("still");
    let given = world.ready(json!({}));
    let entry = &entries(&given.account)[0];
    let (issued, status) = (seconds(&entry["issuedAt"]), &given.account["status"]);
    assert_eq!(status["rotation"], "-");
    assert_eq!(seconds(&status["expiresAt"]) - issued, 400 * DAY);
    let next = seconds(&status["nextScheduledRotation"]) - issued;
    assert!((369 * DAY..=370 * DAY).contains(&next), "30 days before: {next}");
}

#[test]
fn token_ends_with_the_account() {
    let world = World::new("ends");
    let (day, next) = (date(3), date(4));
    let given = world.ready(json!({"expirationDate": day}));
    let end = given.account["status"]["expiresAt"].as_str().unwrap();
    assert_eq!(end, format!("{next}T00:00:00Z"));
    assert_eq!(given.account["status"]["nextScheduledRotation"], Value::Null, "it ends with the account");
}

#[test]
fn audiences_issue_at_once_and_once_in_the_minimum_interval() {
    let world = World::new("audience");
    let first = world.ready(rotating());
    world.edit(&json!({"audiences": [OTHER_AUDIENCE]}));
    let second = world.successor(&first);
    assert_eq!(decode(&second.token).1["aud"], OTHER_AUDIENCE);
    assert!(world.operator.accepts(&first.token), "the previous token has its grace");
    assert_eq!(text(&second.secret, "previous-jti").as_ref(), Some(&first.jti));

    world.edit(&json!({"audiences": [ISSUER, OTHER_AUDIENCE]}));
    let waiting = world.cluster.wait_account(&world.ns, "cart", "a message about the wait", |account| {
        settled(account) && ready(account)["message"].as_str().is_some_and(|text| text.contains("is issued at"))
    });
    assert_eq!(waiting["status"]["jwtId"], second.jti.as_str());
    assert_eq!(ready(&waiting)["status"], "True");
    let third = world.successor(&second);
    let mut audiences = [OTHER_AUDIENCE, ISSUER];
    audiences.sort_unstable();
    assert_eq!(decode(&third.token).1["aud"], json!(audiences));
    let issued = |given: &crate::Given| seconds(&entry(&given.account, &given.jti).unwrap()["issuedAt"]);
    assert!(issued(&third) - issued(&second) >= i64::try_from(MINIMUM_INTERVAL_SECONDS).unwrap());
}

#[test]
fn order_of_audiences_and_their_removal_issue_nothing() {
    let world = World::new("sameaud");
    let given = world.ready(json!({"audiences": [ISSUER, OTHER_AUDIENCE]}));
    world.edit(&json!({"audiences": [OTHER_AUDIENCE, ISSUER]}));
    world.reason("Delivered");
    world.edit(&json!({"audiences": null}));
    let after = world.reason("Delivered");
    assert_eq!(entries(&after), entries(&given.account));
    let next = world.rotate(&given, "now");
    assert_eq!(decode(&next.token).1["aud"], ISSUER);
}

#[test]
fn grants_and_descriptions_mint_nothing_and_are_seen_at_once() {
    let world = World::new("grants");
    let given = world.ready(rotating());
    let grant = json!({"resourceFqn": "shop.bills", "resourceType": "table", "roleId": "writer"});
    world.edit(&json!({"permissions": [grant], "description": "x", "ownedBy": {"team": "shop"}}));
    let after = world.reason("Delivered");
    assert_eq!(entries(&after), entries(&given.account));
    let details = json!([{
        "type": "virtualaccounts.dev/permission", "resource_fqn": "shop.bills", "resource_type": "table",
        "role_id": "writer",
    }]);
    wait_for("the grant in introspection", PATIENCE, || {
        let answer = world.operator.introspect(&given.token);
        if answer["authorization_details"] == details { Ok(()) } else { Err(answer.to_string()) }
    });
}

#[test]
fn foreign_audience_stops_issuing_and_not_revoking() {
    let world = World::new("invalid");
    let given = world.ready(rotating());
    world.edit(&json!({"audiences": ["https://evil.example.com"]}));
    let account = world.reason("InvalidSpec");
    let message = ready(&account)["message"].as_str().unwrap();
    assert!(
        message.starts_with("spec.audiences[0]: \"https://evil.example.com\" is not allowed; use one of:"),
        "{message}"
    );
    assert_eq!(condition(&account, "Stalled")["status"], "True");
    assert_eq!(condition(&account, "Delivered")["status"], "True", "unchanged");
    assert!(world.operator.accepts(&given.token));

    world.annotate("rotate", &json!("while-invalid"));
    world.edit(&json!({"revokedJwtIds": [given.jti]}));
    wait_for("the refusal", PATIENCE, || if world.operator.accepts(&given.token) { Err("active") } else { Ok(()) });
    let account = world.cluster.wait_account(&world.ns, "cart", "a revoked entry", |account| {
        entry(account, &given.jti).is_some_and(|entry| entry["phase"] == "Revoked")
    });
    assert_eq!(entries(&account).len(), 1, "nothing new while the spec is invalid");

    world.edit(&json!({"audiences": null}));
    let next = world.successor(&given);
    assert!(world.operator.accepts(&next.token));
    assert_eq!(condition(&next.account, "Stalled")["status"], "False");
}

#[test]
fn past_expiration_date_refuses_and_a_later_one_issues_anew() {
    let world = World::new("expired");
    let given = world.ready(rotating());
    world.edit(&json!({"expirationDate": date(-1)}));
    let account = world.reason("Expired");
    assert_eq!(ready(&account)["status"], "False");
    assert_eq!(condition(&account, "Stalled")["status"], "True");
    assert_eq!(account["status"]["nextScheduledRotation"], Value::Null);
    wait_for("the refusal", PATIENCE, || if world.operator.accepts(&given.token) { Err("active") } else { Ok(()) });
    assert_eq!(world.cluster.secret(&world.ns, "cart-token").unwrap()["data"], given.secret["data"], "copies stay");
    world.cluster.wait_event(&world.ns, "cart", "Expired");

    let (day, end) = (date(30), date(31));
    world.edit(&json!({"expirationDate": day}));
    let next = world.successor(&given);
    assert_eq!(next.account["status"]["expiresAt"], format!("{end}T00:00:00Z"));
    assert!(world.operator.accepts(&next.token));

    world.edit(&json!({"expirationDate": null}));
    let account = world.reason("Delivered");
    assert_eq!(entries(&account), entries(&next.account), "what was delivered keeps its end");
    assert!(account["status"]["nextScheduledRotation"].is_string(), "and gets a successor in time");
}

#[test]
fn account_that_is_over_from_the_start_gets_nothing() {
    let world = World::new("over");
    world.create("cart", json!({"expirationDate": "2020-02-29"}));
    let account = world.reason("Expired");
    assert!(entries(&account).is_empty());
    assert_eq!(
        ready(&account)["message"],
        "the account ended at 2020-03-01T00:00:00Z; set a later spec.expirationDate to issue a new token"
    );
    assert!(world.cluster.secret(&world.ns, "cart-token").is_none());
}

#[test]
fn disabled_account_is_refused_within_two_seconds_and_comes_back() {
    let world = World::new("disabled");
    let given = world.ready(rotating());
    assert!(world.operator.accepts(&given.token));
    // The best of three: others share the machine.
    let soonest = (0..3).map(|_| {
        world.edit(&json!({"disabled": false}));
        wait_for(
            "no refusal",
            PATIENCE,
            || if world.operator.accepts(&given.token) { Ok(()) } else { Err("inactive") },
        );
        world.edit(&json!({"disabled": true}));
        let edited = Instant::now();
        wait_for("the refusal", PATIENCE, || if world.operator.accepts(&given.token) { Err("active") } else { Ok(()) });
        edited.elapsed()
    });
    let soonest = soonest.min().unwrap();
    assert!(soonest < Duration::from_secs(2), "refused after {soonest:?}");
    let account = world.reason("Disabled");
    assert_eq!(ready(&account)["status"], "True");
    let next = world.rotate(&given, "while-disabled").token;
    assert!(!world.operator.accepts(&next), "rotation goes on, refusal too");
    world.edit(&json!({"disabled": false}));
    wait_for("the end of it", PATIENCE, || if world.operator.accepts(&next) { Ok(()) } else { Err("inactive") });
}

#[test]
fn suspended_account_issues_nothing_until_it_is_resumed() {
    let world = World::new("suspended");
    world.create("cart", json!({"suspend": true}));
    let account = world.reason("Suspended");
    assert_eq!(ready(&account)["status"], "False");
    assert!(entries(&account).is_empty() && world.cluster.secret(&world.ns, "cart-token").is_none());

    world.edit(&json!({"suspend": false}));
    let given = world.given("cart");
    world.edit(&json!({"suspend": true, "audiences": [OTHER_AUDIENCE]}));
    world.annotate("rotate", &json!("while-suspended"));
    let account = world.reason("Suspended");
    assert_eq!(ready(&account)["status"], "True", "with a token");
    assert_eq!(account["status"]["nextScheduledRotation"], Value::Null);
    stays("suspended", Duration::from_secs(1), || {
        let account = world.account();
        if entries(&account).len() == 1 { Ok(()) } else { Err(account["status"].to_string()) }
    });

    world.edit(&json!({"suspend": false}));
    let next = world.successor(&given);
    assert_eq!(entries(&next.account).len(), 2, "one token for all that waited");
    assert_eq!(decode(&next.token).1["aud"], OTHER_AUDIENCE);
    assert_eq!(next.account["status"]["handledRotateRequests"], json!(["while-suspended"]));
}

/// `yyyy-mm-dd`, so many days from today, UTC.
fn date(days: i64) -> String {
    let then = jiff::Timestamp::from_second(clock::now().as_unix() + days * DAY).unwrap();
    then.strftime("%Y-%m-%d").to_string()
}
