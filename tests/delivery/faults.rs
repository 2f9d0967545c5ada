//! A store that fails in every way while a token is issued, rotated and removed: the Secret and other stores do not wait,
//! nothing is written twice, and all converges when the fault is over.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::support::cluster::{PATIENCE, ready, stays, wait_for};
use crate::support::fault::{Fault, Faults};
use crate::{World, delivered, newest, vault_at};

/// A layer of faults before OpenBao.
pub(crate) struct Layer(Faults);

impl Layer {
    pub(crate) fn before(server: &str) -> Self {
        let is_write = |method: &http::Method, _: &http::HeaderMap| method != http::Method::GET;
        let errors = |_| r#"{"errors":["it fails"]}"#;
        Self(RUNTIME.block_on(Faults::before(server.to_owned(), is_write, errors)))
    }

    pub(crate) fn address(&self) -> String {
        self.0.address()
    }

    pub(crate) fn pass(&self) {
        self.0.all(Fault::Pass);
    }

    /// Connections break before the server gets anything.
    pub(crate) fn cut(&self) {
        self.0.all(Fault::Cut);
    }

    pub(crate) fn refuse(&self, status: u16) {
        self.0.all(Fault::Answer(status, None));
    }

    pub(crate) fn requests(&self) -> usize {
        self.0.requests()
    }
}

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime"));

const FAULTS: [Fault; 6] = [
    Fault::Cut,
    Fault::LoseAnswer,
    Fault::Hang,
    Fault::Answer(429, Some(1)),
    Fault::Answer(500, None),
    Fault::Answer(403, None),
];

/// An account with a path in a store behind a layer, and another in one without.
fn behind_a_layer(prefix: &str) -> (World, Layer, Value) {
    let world = World::new(prefix);
    let layer = Layer::before(&world.bao.url());
    world.store("layered", &vault_at(&layer.address()));
    let mut spec = world.at(&["plain", "layered"]);
    spec["secretStores"][1]["storeRef"]["name"] = json!("layered");
    (world, layer, spec)
}

fn store_ready(world: &World, name: &str) {
    wait_for("the store to be Ready", PATIENCE * 4, || {
        let store = world.cluster.find(&world.store_path(name)).unwrap();
        if ready(&store)["status"] == "True" { Ok(()) } else { Err(ready(&store).to_string()) }
    });
}

fn name(fault: Fault) -> String {
    let text = format!("{fault:?}").to_lowercase();
    text.chars().filter(char::is_ascii_alphanumeric).collect()
}

#[test]
fn first_issue_goes_through_every_fault() {
    for fault in FAULTS {
        let (world, layer, spec) = behind_a_layer(&format!("f{}", name(fault)));
        store_ready(&world, "layered");
        layer.0.all(fault);
        world.create(spec);
        // The Secret and the other store do not wait.
        let half = world.wait("Secret and the plain store", |account| {
            let status = &account["status"];
            status["jwtId"].is_string()
                && status["tokenSecret"]["jwtId"] == status["jwtId"]
                && status["secretStores"][0]["jwtId"] == status["jwtId"]
                && status["secretStores"][1]["error"].is_object()
        });
        assert_eq!(ready(&half)["reason"], "Delivering", "{fault:?}");
        layer.pass();
        world.nudge("layered");
        let whole = world.wait("all of it", delivered);
        assert_eq!(newest(&whole), newest(&half), "{fault:?}: nothing is minted");
        for path in ["plain", "layered"] {
            assert_eq!(world.bao.versions(&world.path(path)).0, ["1"], "{fault:?}: one version of one token");
        }
    }
}

#[test]
fn rotation_goes_through_every_fault() {
    for fault in FAULTS {
        let (world, layer, spec) = behind_a_layer(&format!("r{}", name(fault)));
        let first = world.ready(spec);
        layer.0.next_write(fault);
        let second = world.rotate("one");
        assert_ne!(second, newest(&first));
        for path in ["plain", "layered"] {
            assert_eq!(world.bao.jti(&world.path(path)).as_ref(), Some(&second), "{fault:?}");
            assert_eq!(world.bao.versions(&world.path(path)).0.len(), 2, "{fault:?}: one version for each token");
        }
    }
}

#[test]
fn while_a_store_lacks_the_newest_token_the_one_it_holds_stays_good() {
    let (world, layer, spec) = behind_a_layer("holds");
    let first = world.ready(spec);
    layer.cut();
    world.annotate("rotate", "one,grace=1s");
    let failing = world.wait("the delivery to fail", |account| {
        newest(account) != newest(&first) && ready(account)["reason"] == "DeliveryFailing"
    });
    assert_eq!(
        (&ready(&failing)["status"], &failing["status"]["jwts"][1]["phase"]),
        (&json!("True"), &json!("Current"))
    );
    let held = world.bao.data(&world.path("layered")).unwrap()["token"].as_str().unwrap().to_owned();
    stays("the old token is good", Duration::from_secs(3), || {
        if world.operator.accepts(&held) { Ok(()) } else { Err("refused".into()) }
    });
    // By itself: its own check comes once a minute.
    layer.pass();
    world.wait_for(PATIENCE * 6, "all of it", delivered);
    wait_for("the grace to end", PATIENCE, || if world.operator.accepts(&held) { Err("accepted") } else { Ok(()) });
}

#[test]
fn removal_goes_through_every_fault() {
    for fault in FAULTS {
        let (world, layer, spec) = behind_a_layer(&format!("d{}", name(fault)));
        world.ready(spec);
        layer.0.next_write(fault);
        world.delete();
        world.wait_gone();
        for path in ["plain", "layered"] {
            assert_eq!(world.bao.metadata(&world.path(path)), None, "{fault:?}");
        }
    }
}

#[test]
fn two_hundred_accounts_on_a_dead_store_make_few_calls_and_disturb_nobody() {
    let world = World::new("dead");
    let layer = Layer::before(&world.bao.url());
    world.store("dead", &vault_at(&layer.address()));
    store_ready(&world, "dead");
    layer.0.all(Fault::Hang);
    let names: Vec<String> = (0..200).map(|n| format!("dead-{n}")).collect();
    let mut spec = world.at(&["a"]);
    spec["secretStores"][0]["storeRef"]["name"] = json!("dead");
    let before = layer.requests();
    // One path for all: none of them gets as far as to find out.
    world.cluster.create_accounts(&world.ns, names.iter().map(String::as_str), &spec);
    let down = |account: &Value| account["status"]["secretStores"][0]["error"]["reason"].is_string();
    wait_for("all Secrets, without the store", PATIENCE * 3, || {
        let accounts = world.cluster.accounts(&world.ns);
        let done =
            accounts.iter().filter(|account| account["status"]["tokenSecret"]["jwtId"].is_string() && down(account));
        let done = done.count();
        if done == names.len() { Ok(()) } else { Err(format!("{done} of {}", names.len())) }
    });
    // At most --store-concurrency calls were under way when it was found to be down; since then only its own check calls.
    let calls = layer.requests() - before;
    assert!(calls <= 8 + 4, "{calls} calls for 200 accounts");
    let mark = world.plane.audit().len();
    let another = World::new("alive");
    another.ready(another.at(&["a"]));
    let requests = |verb: &str, resource: &str| {
        let own = |event: &&crate::support::plane::AuditEvent| {
            event.user == world.operator.user() && event.namespace == another.ns && event.verb == verb
        };
        world.plane.audit().iter().skip(mark).filter(own).filter(|event| event.resource == resource).count()
    };
    let seen =
        || (["update", "patch", "get"].map(|verb| requests(verb, "virtualaccounts")), requests("create", "secrets"));
    let wanted = ([2, 1, 0], 1);
    // A status can be read before the line of its write is in the log.
    wait_for("two statuses, a finalizer, a Secret", PATIENCE, || match seen() {
        counts if counts == wanted => Ok(()),
        counts => Err(format!("{counts:?}")),
    });
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(seen(), wanted, "and no more");
    assert!(layer.requests() - before <= calls + 3, "accounts do not call a store that is down");
}
