//! The `keys` commands, on a plane of their own: a ring concerns all accounts.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, PATIENCE, decode, entries, entry, ready, token, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;

pub(crate) const RING: &str = "virtual-account-operator-keys";

/// A plane with an operator whose key ring tests may harm, one after the other.
pub(crate) struct Keys {
    pub(crate) operator: MutexGuard<'static, Operator>,
    pub(crate) cluster: Cluster,
    pub(crate) ns: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        static PLANE: LazyLock<Plane> = LazyLock::new(Plane::start);
        static OPERATOR: LazyLock<Mutex<Operator>> =
            LazyLock::new(|| Mutex::new(Operator::start(&PLANE, Options::default())));
        let operator = OPERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        Self { operator, cluster: Cluster::of(&PLANE), ns: PLANE.namespace(prefix) }
    }

    /// Runs `keys …`, which must succeed.
    pub(crate) fn keys(&self, args: &[&str]) -> String {
        let output = self.operator.command(&[&["keys"], args].concat(), "");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs `keys …`, which must fail; what it says.
    pub(crate) fn keys_fail(&self, args: &[&str]) -> String {
        let output = self.operator.command(&[&["keys"], args].concat(), "");
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).expect("text")
    }

    /// The id of the key in this state.
    pub(crate) fn key(&self, state: &str) -> String {
        let table = self.keys(&["list"]);
        let row = table.lines().find(|line| line.contains(state)).unwrap_or_else(|| panic!("no {state} key: {table}"));
        row.split_whitespace().next().unwrap().to_owned()
    }

    pub(crate) fn served(&self) -> Vec<String> {
        let keys = self.operator.jwks();
        let kids = keys["keys"].as_array().unwrap().iter();
        kids.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    /// Creates an account and waits for its token: the account, the token.
    pub(crate) fn ready(&self, name: &str) -> (Value, String) {
        self.cluster.create_account(&self.ns, name, crate::rotating());
        let account = self.cluster.wait_ready(&self.ns, name);
        (account, self.token(name))
    }

    pub(crate) fn token(&self, name: &str) -> String {
        token(&self.cluster.secret(&self.ns, &format!("{name}-token")).expect("the Secret exists"))
    }
}

#[test]
fn list_shows_a_key_that_signs_and_one_that_waits() {
    let keys = Keys::new("list");
    let table = keys.keys(&["list"]);
    assert!(table.starts_with("KID "), "{table}");
    let mut kids = [keys.key("Active"), keys.key("Published")];
    let mut served = keys.served();
    kids.sort_unstable();
    served.sort_unstable();
    assert_eq!(served, kids);
    let (account, token) = keys.ready("cart");
    assert_eq!(decode(&token).0["kid"], keys.key("Active"));
    assert_eq!(entries(&account)[0]["keyId"], keys.key("Active"));
    assert!(!table.contains("PRIVATE"));
}

#[test]
fn rotate_lets_the_standby_sign_when_verifiers_know_it() {
    let keys = Keys::new("rotate");
    let (active, standby) = (keys.key("Active"), keys.key("Published"));
    let said = keys.keys(&["rotate"]);
    assert!(said.starts_with(&format!("key {active} signs; key {standby} takes over at ")), "{said}");
    assert_eq!(keys.key("Active"), active, "not before 15 minutes in the JWKS");
    keys.keys(&["rotate"]);
    let note = keys.cluster.wait_event(keys.operator.namespace(), RING, "KeyRotating");
    assert!(note.contains(&standby), "{note}");
}

#[test]
fn compromise_replaces_every_token_of_the_key_at_once() {
    let keys = Keys::new("compromise");
    let names = ["cart", "basket", "till"];
    let before: Vec<_> = names.iter().map(|name| keys.ready(name)).collect();
    let (active, standby) = (keys.key("Active"), keys.key("Published"));
    let said = keys.keys(&["compromise", &active]);
    assert!(said.starts_with(&format!("key {active} is compromised; key {standby} signs")), "{said}");
    assert!(!keys.served().contains(&active), "the JWKS is without it at once");
    for (name, (account, old)) in names.iter().zip(&before) {
        let jti = entries(account)[0]["id"].as_str().unwrap();
        let after = keys.cluster.wait_successor(&keys.ns, name, jti);
        let newest = &entries(&after)[0];
        assert_eq!((&newest["reason"], &newest["keyId"]), (&json!("KeyChange"), &json!(standby)), "{name}");
        assert!(entry(&after, jti).is_none_or(|old| old["phase"] == "Revoked"));
        assert!(keys.operator.accepts(&keys.token(name)) && !keys.operator.accepts(old), "{name}");
        let secret = keys.cluster.secret(&keys.ns, &format!("{name}-token")).unwrap();
        assert_eq!(secret["data"]["previous-token"], Value::Null);
    }
    wait_for("a new standby", PATIENCE, || if keys.served().len() == 2 { Ok(()) } else { Err(keys.keys(&["list"])) });
    keys.cluster.wait_event(keys.operator.namespace(), RING, "KeyCompromised");
}

#[test]
fn compromise_of_an_unknown_key_does_nothing_and_says_so() {
    let keys = Keys::new("nokey");
    let served = keys.served();
    let said = keys.keys_fail(&["compromise", "no-such-key"]);
    assert!(said.contains("no key no-such-key in the ring or in any ledger; nothing was done"), "{said}");
    assert_eq!(keys.served(), served);
}

#[test]
fn init_of_a_ring_that_exists_changes_nothing() {
    let keys = Keys::new("init");
    let served = keys.served();
    keys.keys(&["init"]);
    assert_eq!(keys.served(), served);
}

#[test]
fn interval_below_the_minimum_is_raised_and_the_condition_says_so() {
    let keys = Keys::new("clamp");
    let rotate = json!({"autoRotate": {"autoRotateInterval": "1m", "gracePeriod": "1m"}});
    keys.cluster.create_account(&keys.ns, "cart", rotate);
    let account = keys.cluster.wait_ready(&keys.ns, "cart");
    assert_eq!(account["status"]["rotation"], "5m");
    let message = ready(&account)["message"].as_str().unwrap();
    assert!(
        message.ends_with("spec.autoRotate.autoRotateInterval 1m is raised to the operator's minimum of 5m"),
        "{message}"
    );
}
