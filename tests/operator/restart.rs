//! What a start finds, other settings, and two operators at once. Each test has a plane of its own.

use serde_json::{Value, json};

use crate::rotating;
use crate::support::cluster::{
    Cluster, PATIENCE, account_path, current, decode, entries, entry, ready, secret_path, token, wait_for,
};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;

const DAY: i64 = 86_400;

#[test]
fn what_changed_while_the_operator_was_down_is_found_at_its_start() {
    let home = Home::new();
    let mut operator = Operator::start(&home.plane, Options::default());
    let names = ["rotated", "revoked", "renamed", "damaged", "emptied", "deleted", "disabled"];
    let before = names.map(|name| home.ready(name));
    let token_of = |name: &str| {
        let at = names.iter().position(|known| *known == name).unwrap();
        before[at].1.clone()
    };
    assert!(operator.terminate().success(), "an orderly end");
    drop(operator);

    let (cluster, ns) = (&home.cluster, home.ns.as_str());
    cluster.create_account(ns, "created", rotating());
    cluster.annotate(ns, "rotated", "virtualaccounts.dev/rotate", &json!("while-down"));
    let revoked = current(&before[1].0).unwrap();
    cluster.edit(ns, "revoked", &json!({"revokedJwtIds": [revoked]}));
    cluster.edit(ns, "renamed", &json!({"tokenSecret": {"name": "another"}}));
    cluster.patch(&secret_path(ns, "damaged-token"), &json!({"data": null}));
    cluster.delete(&secret_path(ns, "emptied-token"));
    cluster.delete_account(ns, "deleted");
    cluster.edit(ns, "disabled", &json!({"disabled": true}));

    let operator = Operator::start(&home.plane, Options::default());
    cluster.wait_ready(ns, "created");
    for (at, name) in [(0, "rotated"), (1, "revoked")] {
        cluster.wait_successor(ns, name, current(&before[at].0).unwrap());
        assert!(operator.accepts(&home.token(name)), "{name}");
    }
    assert!(!operator.accepts(&token_of("revoked")) && operator.accepts(&token_of("rotated")));
    cluster.wait_secret(ns, "another", "the token moved here", |secret| token(secret) == token_of("renamed"));
    for name in ["damaged", "emptied"] {
        cluster.wait_secret(ns, &format!("{name}-token"), "its token again", |secret| {
            secret["data"]["token"].is_string() && token(secret) == token_of(name)
        });
    }
    cluster.wait_reason(ns, "disabled", "Disabled");
    assert!(!operator.accepts(&token_of("disabled")) && !operator.accepts(&token_of("deleted")));
    wait_for("the Secrets that nobody names to go", PATIENCE, || {
        let left = ["renamed-token", "deleted-token"].into_iter().find(|name| cluster.secret(ns, name).is_some());
        left.map_or(Ok(()), Err)
    });
}

#[test]
fn lowered_limit_replaces_what_exceeds_it_with_grace() {
    let home = Home::new();
    let mut operator = Operator::start(&home.plane, Options::default());
    let (before, old) = home.ready("cart");
    operator.terminate();
    drop(operator);

    let operator = Operator::start(&home.plane, Options::flags(&["--max-token-lifetime", "60d"]));
    let after = home.cluster.wait_successor(&home.ns, "cart", current(&before).unwrap());
    let newest = &entries(&after)[0];
    assert_eq!(newest["reason"], "LimitChange");
    assert_eq!(crate::seconds(&newest["expiresAt"]) - crate::seconds(&newest["issuedAt"]), 60 * DAY);
    let next = crate::seconds(&after["status"]["nextScheduledRotation"]);
    assert!(next < crate::seconds(&newest["expiresAt"]) - 7 * DAY, "a successor in time");
    assert!(operator.accepts(&old) && operator.accepts(&home.token("cart")));
    let secret = home.cluster.secret(&home.ns, "cart-token").unwrap();
    assert_eq!(secret["data"]["previous-token"], Value::Null, "it is beyond the limit, so it is not handed out again");
}

#[test]
fn other_defaults_are_used_from_the_next_issue_on() {
    let home = Home::new();
    let mut operator = Operator::start(&home.plane, Options::default());
    let (before, old) = home.ready("cart");
    operator.terminate();
    drop(operator);

    let both = format!("{},https://new.example.com", crate::support::operator::ISSUER);
    let flags = ["--default-audience", "https://new.example.com", "--allowed-audiences", &both];
    let operator = Operator::start(&home.plane, Options::flags(&flags));
    assert!(operator.accepts(&old));
    let now = home.cluster.account(&home.ns, "cart").unwrap();
    assert_eq!(now["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"], "nothing was written");
    home.cluster.annotate(&home.ns, "cart", "virtualaccounts.dev/rotate", &json!("one"));
    home.cluster.wait_successor(&home.ns, "cart", current(&before).unwrap());
    assert_eq!(decode(&home.token("cart")).1["aud"], "https://new.example.com");
    assert!(operator.accepts(&old), "judged by its own entry");
}

#[test]
fn rs256_by_choice_is_as_deterministic() {
    let home = Home::new();
    let operator = Operator::start(&home.plane, Options::flags(&["--signing-algorithm", "rs256"]));
    let (_, first) = home.ready("cart");
    assert_eq!(decode(&first).0["alg"], "RS256");
    assert_eq!(operator.jwks()["keys"][0]["kty"], "RSA");
    assert!(operator.accepts(&first));
    home.cluster.delete(&secret_path(&home.ns, "cart-token"));
    home.cluster.wait_secret(&home.ns, "cart-token", "the same token", |secret| token(secret) == first);
}

#[test]
fn two_operators_at_once_mint_once() {
    let home = Home::new();
    // Nobody leads: all safety is in the ledger.
    let one = Operator::start(&home.plane, Options::flags(&["--leader-elect=false"]));
    let two = Operator::start(&home.plane, Options::flags(&["--leader-elect=false"]));
    let names: Vec<_> = (0..20).map(|number| format!("account-{number}")).collect();
    home.cluster.create_accounts(&home.ns, names.iter().map(String::as_str), &rotating());
    for name in &names {
        let account = home.cluster.wait_ready(&home.ns, name);
        assert_eq!(entries(&account).len(), 1, "{}", account["status"]);
    }
    let change = json!({"metadata": {"annotations": {"virtualaccounts.dev/rotate": "one"}}});
    for name in &names {
        home.cluster.patch(&account_path(&home.ns, name), &change);
    }
    for name in &names {
        let account = home.cluster.wait_account(&home.ns, name, "two tokens, the newer delivered", |account| {
            entries(account).len() >= 2
                && entries(account)[0]["phase"] == "Current"
                && ready(account)["reason"] == "Delivered"
        });
        let phases: Vec<_> = entries(&account).iter().map(|entry| entry["phase"].as_str().unwrap()).collect();
        assert_eq!(phases, ["Current", "Superseded"], "{}", account["status"]);
        let held = home.token(name);
        assert!(entry(&account, decode(&held).1["jti"].as_str().unwrap()).is_some());
        assert!(one.accepts(&held) && two.accepts(&held), "{name}");
    }
}

/// A plane of its own, with a namespace.
struct Home {
    cluster: Cluster,
    ns: String,
    plane: Plane,
}

impl Home {
    fn new() -> Self {
        let plane = Plane::start();
        Self { cluster: Cluster::of(&plane), ns: plane.namespace("home"), plane }
    }

    /// Creates an account and waits for its token: the account, the token.
    fn ready(&self, name: &str) -> (Value, String) {
        self.cluster.create_account(&self.ns, name, rotating());
        (self.cluster.wait_ready(&self.ns, name), self.token(name))
    }

    fn token(&self, name: &str) -> String {
        token(&self.cluster.secret(&self.ns, &format!("{name}-token")).expect("the Secret exists"))
    }
}
