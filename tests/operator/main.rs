//! What a user sees of the operator, on a real API server. One plane and one operator for all but the tests of the key
//! ring, each test in a namespace of its own.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure is the test's verdict")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../monitoring/promtool.rs"]
mod promtool;

mod alerts;
mod deletion;
mod failure;
mod issue;
mod keys;
mod kubernetes;
mod logs;
mod look;
mod online;
mod restart;
mod revoke;
mod ring;
mod rotate;
mod secret;
mod status;
mod tls;

use std::sync::LazyLock;

use serde_json::{Value, json};
use support::cluster::{Cluster, current, token};
use support::operator::{ISSUER, Operator, Options};
use support::plane::Plane;

/// Two edits that ask for another token are this far apart at least.
const MINIMUM_INTERVAL_SECONDS: u64 = 10;
const OTHER_AUDIENCE: &str = "https://billing.example.com";

/// A namespace on the shared plane, under the shared operator.
struct World {
    plane: &'static Plane,
    operator: &'static Operator,
    cluster: Cluster,
    ns: String,
}

impl World {
    fn new(prefix: &str) -> Self {
        let (plane, operator) = (Plane::shared(), shared_operator());
        Self { plane, operator, cluster: Cluster::of(plane), ns: plane.namespace(prefix) }
    }

    /// Creates the account `cart` and waits for its token.
    fn ready(&self, spec: Value) -> Given {
        self.create("cart", spec);
        self.given("cart")
    }

    fn create(&self, name: &str, spec: Value) -> Value {
        self.cluster.create_account(&self.ns, name, spec)
    }

    /// Waits until an account is ready; what it then has.
    fn given(&self, name: &str) -> Given {
        self.given_as(self.cluster.wait_ready(&self.ns, name))
    }

    /// Waits until `cart` has another token than this; what it then has.
    fn successor(&self, before: &Given) -> Given {
        self.given_as(self.cluster.wait_successor(&self.ns, "cart", &before.jti))
    }

    /// Asks for a rotation of `cart` and waits for it.
    fn rotate(&self, before: &Given, request: &str) -> Given {
        self.annotate("rotate", &json!(request));
        self.successor(before)
    }

    fn given_as(&self, account: Value) -> Given {
        let name = account["status"]["tokenSecret"]["name"].as_str().expect("a Secret is recorded");
        let secret = self.cluster.secret(&self.ns, name).expect("the Secret exists");
        let jti = current(&account).expect("a token is delivered").to_owned();
        Given { jti, token: token(&secret), account, secret }
    }

    fn edit(&self, spec: &Value) -> Value {
        self.cluster.edit(&self.ns, "cart", spec)
    }

    fn annotate(&self, key: &str, value: &Value) -> Value {
        self.cluster.annotate(&self.ns, "cart", &format!("virtualaccounts.dev/{key}"), value)
    }

    fn account(&self) -> Value {
        self.cluster.account(&self.ns, "cart").expect("the account exists")
    }

    fn reason(&self, reason: &str) -> Value {
        self.cluster.wait_reason(&self.ns, "cart", reason)
    }
}

/// An account with its token.
struct Given {
    jti: String,
    token: String,
    account: Value,
    secret: Value,
}

fn shared_operator() -> &'static Operator {
    static SHARED: LazyLock<Operator> = LazyLock::new(|| {
        let interval = format!("{MINIMUM_INTERVAL_SECONDS}s");
        let audiences = format!("{ISSUER},{OTHER_AUDIENCE}");
        // Without the check of the clocks what is over leaves at once, and not 2 minutes later.
        Operator::start(
            Plane::shared(),
            Options::flags(&[
                "--allowed-audiences",
                &audiences,
                "--minimum-rotation-interval",
                &interval,
                "--max-clock-skew",
                "0",
            ]),
        )
    });
    &SHARED
}

/// Rotates seldom enough for every test, with a grace that no test lives to see the end of.
fn rotating() -> Value {
    json!({"autoRotate": {"autoRotateInterval": "90d", "gracePeriod": "7d"}})
}

fn seconds(instant: &Value) -> i64 {
    let text = instant.as_str().unwrap_or_else(|| panic!("{instant} is no instant"));
    text.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{text}: {error}")).as_second()
}
