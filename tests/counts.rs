//! How many requests things cost, exactly, from the API server's audit log. Events are not counted.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure is the test's verdict")]

mod support;

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::cluster::{Cluster, PATIENCE, account_path, entries, ready, secret_path, wait_for};
use support::operator::{Operator, Options};
use support::plane::Plane;
use support::requests::{STATUS, line, lines, mark, refused, requests, since};

const MANY: usize = 200;
/// Longer than the bookmarks are apart and than anything that repeats by the minute.
const IDLE: Duration = Duration::from_secs(125);

const READ_IN_ORDER: [&str; 2] = ["get secrets", "get virtualaccounts"];

#[test]
fn first_issue_costs_three_writes_and_no_read() {
    let scene = Scene::new("first");
    let requests = scene.requests(|| {
        scene.issue();
    });
    assert_eq!(requests, [STATUS, "create secrets", STATUS]);
}

#[test]
fn rotation_costs_three_writes_and_no_read() {
    let scene = Scene::new("rotation");
    scene.issue();
    let requests = scene.requests(|| scene.rotate("one"));
    assert_eq!(requests, [STATUS, "update secrets", STATUS]);
}

#[test]
fn end_of_a_grace_costs_two_writes_and_no_read() {
    let scene = Scene::new("grace");
    scene.issue();
    let requests = scene.requests(|| {
        scene.rotate("one,grace=2s");
        scene.cluster.wait_account(&scene.ns, "cart", "one entry", |account| entries(account).len() == 1);
    });
    assert_eq!(requests, [STATUS, "update secrets", STATUS, "update secrets", STATUS]);
}

#[test]
fn revocation_of_the_current_token_costs_a_rotation_and_one_write() {
    let scene = Scene::new("revocation");
    let account = scene.issue();
    let jti = account["status"]["jwtId"].as_str().unwrap();
    let requests = scene.requests(|| {
        scene.cluster.edit(&scene.ns, "cart", &json!({"revokedJwtIds": [jti]}));
        scene.cluster.wait_successor(&scene.ns, "cart", jti);
        scene.cluster.wait_account(&scene.ns, "cart", "one entry", |account| entries(account).len() == 1);
    });
    assert_eq!(requests[..2], [STATUS, "update secrets"]);
    assert!(requests.len() <= 4 && requests[2..].iter().all(|request| request == STATUS), "{requests:?}");
}

#[test]
fn repair_of_a_secret_costs_two_reads_and_two_writes() {
    let scene = Scene::new("repair");
    scene.issue();
    let path = secret_path(&scene.ns, "cart-token");
    let before = scene.cluster.secret(&scene.ns, "cart-token").unwrap();
    let edit = json!({"data": {"token": STANDARD.encode("garbage")}});
    let edited = scene.requests(|| {
        scene.cluster.patch(&path, &edit);
        scene.seen(|secret| secret["data"] == before["data"]);
    });
    assert_eq!(edited, [READ_IN_ORDER.as_slice(), &["update secrets", STATUS]].concat());
    let deleted = scene.requests(|| {
        scene.cluster.delete(&path);
        scene.seen(|secret| secret["metadata"]["uid"] != before["metadata"]["uid"]);
    });
    assert_eq!(deleted, [READ_IN_ORDER.as_slice(), &["create secrets", STATUS]].concat());
}

#[test]
fn foreign_touch_of_a_secret_costs_two_reads_and_one_write() {
    let scene = Scene::new("touch");
    scene.issue();
    let requests = scene.requests(|| {
        let touch = json!({"metadata": {"labels": {"team": "shop"}}});
        let touched = scene.cluster.patch(&secret_path(&scene.ns, "cart-token"), &touch);
        scene.seen(|secret| secret["metadata"]["resourceVersion"] == touched["metadata"]["resourceVersion"]);
    });
    assert_eq!(requests, [READ_IN_ORDER.as_slice(), &[STATUS]].concat());
}

#[test]
fn change_that_asks_for_no_token_costs_one_write_and_noise_none() {
    let scene = Scene::new("noise");
    scene.issue();
    let changed = scene.requests(|| {
        scene.cluster.edit(&scene.ns, "cart", &json!({"description": "new"}));
        scene.cluster.wait_ready(&scene.ns, "cart");
    });
    assert_eq!(changed, [STATUS], "observedGeneration");
    let noise = scene.requests(|| {
        let labels = json!({"metadata": {"labels": {"seen": "yes"}, "annotations": {"example.com/seen": "yes"}}});
        scene.cluster.patch(&account_path(&scene.ns, "cart"), &labels);
        // Nothing shows when nothing is done.
        std::thread::sleep(Duration::from_secs(1));
    });
    assert_eq!(noise, [""; 0]);
}

#[test]
fn many_accounts_cost_no_more_at_rest_and_at_a_restart_than_their_watches() {
    let plane = Plane::start();
    let mut operator = Operator::start(&plane, Options::default());
    let user = operator.user();
    let cluster = Cluster::of(&plane);
    let ns = plane.namespace("many");
    let names: Vec<_> = (0..MANY).map(|number| format!("account-{number}")).collect();
    let from = mark(&plane, &cluster);
    cluster.create_accounts(&ns, names.iter().map(String::as_str), &spec());
    all_ready(&cluster, &ns, MANY);
    let issued = since(&plane, &cluster, &from, &user);
    let count = |what: &str| issued.iter().filter(|event| line(event) == what).count();
    assert_eq!(
        (count(STATUS), count("create secrets"), issued.len()),
        (2 * MANY, MANY, 3 * MANY),
        "{}",
        refused(&issued)
    );

    let from = mark(&plane, &cluster);
    std::thread::sleep(IDLE);
    assert_eq!(lines(&since(&plane, &cluster, &from, &user)), [""; 0], "nothing but watches while idle");

    operator.terminate();
    drop(operator);
    let from = mark(&plane, &cluster);
    let operator = Operator::start(&plane, Options::default());
    // One pass over each account and one more second, in which the key ring is looked at again.
    wait_for("a pass over each account", PATIENCE, || {
        let metrics = operator.metrics();
        let passes =
            metrics.lines().find_map(|line| line.strip_prefix("virtual_account_reconciles_total{result=\"ok\"} "));
        match passes.and_then(|passes| passes.parse::<usize>().ok()) {
            Some(passes) if passes >= MANY => Ok(()),
            seen => Err(format!("{seen:?} passes")),
        }
    });
    std::thread::sleep(Duration::from_secs(2));
    let restart = lines(&since(&plane, &cluster, &from, &user));
    let lists = |resource: &str| restart.iter().filter(|request| **request == format!("list {resource}")).count();
    let lists = ["virtualaccounts", "secrets", "tokenstores", "notificationchannels", "namespaces"].map(lists);
    // And one read of kube-system, whose uid is the cluster's id.
    assert_eq!((lists, restart.len()), ([1, 2, 1, 1, 1], 7), "{restart:?}");
}

/// With the release binary and more accounts (hack/test-full.sh) it prints what docs/limits.md says.
#[test]
fn an_account_costs_little_memory() {
    let count = std::env::var("VAO_TEST_ACCOUNTS").map_or(MANY, |count| count.parse().unwrap());
    let plane = Plane::start();
    // The first leads. The second sees all that it sees, and does none of it.
    let replicas = ["operator-0", "operator-1"].map(|pod| {
        let env = vec![("POD_NAME".to_owned(), pod.to_owned())];
        Operator::start(&plane, Options { env, ..Options::default() })
    });
    let (cluster, ns) = (Cluster::of(&plane), plane.namespace("memory"));
    let before = replicas.each_ref().map(resident);
    let names: Vec<_> = (0..count).map(|number| format!("account-{number}")).collect();
    for names in names.chunks(MANY) {
        cluster.create_accounts(&ns, names.iter().map(String::as_str), &spec());
    }
    all_ready(&cluster, &ns, count);
    let stored = cluster.account(&ns, &names[0]).unwrap().to_string().len();
    println!("one account has {stored} bytes");
    for (operator, before) in replicas.iter().zip(before) {
        let metrics = wait_for("all accounts to be seen", PATIENCE, || {
            let metrics = operator.metrics();
            let accounts = metrics.lines().filter(|line| line.starts_with("virtual_account_info{"));
            let seen = accounts.filter(|line| line.contains("reason=\"Delivered\"")).count();
            if seen == count { Ok(metrics) } else { Err(format!("{seen} are")) }
        });
        let what = if metrics.contains("virtual_account_leader 1\n") { "leader" } else { "follower" };
        let after = resident(operator);
        let each = after.saturating_sub(before) / count;
        println!("{what}: {before} KiB without accounts, {after} KiB with {count}: {each} KiB for each");
        // A burst leaves something with the allocator, which weighs more if accounts are few.
        assert!(each < 128, "{what}: {each} KiB for each account");
    }
}

/// The memory of its process, in KiB.
fn resident(operator: &Operator) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn all_ready(cluster: &Cluster, ns: &str, count: usize) {
    let patience = PATIENCE * 3 + Duration::from_millis(50) * u32::try_from(count).unwrap();
    wait_for("all accounts to be ready", patience, || {
        let accounts = cluster.accounts(ns);
        let done = accounts.iter().filter(|account| ready(account)["reason"] == "Delivered").count();
        if done == count { Ok(()) } else { Err(format!("{done} are")) }
    });
}

/// A namespace on a plane that all but the tests of many accounts share.
struct Scene {
    plane: &'static Plane,
    operator: &'static Operator,
    cluster: Cluster,
    ns: String,
}

impl Scene {
    fn new(prefix: &str) -> Self {
        // Without the check of the clocks what is over leaves at once, and not 2 minutes later.
        static OPERATOR: LazyLock<Operator> =
            LazyLock::new(|| Operator::start(Plane::shared(), Options::flags(&["--max-clock-skew", "0"])));
        let plane = Plane::shared();
        Self { plane, operator: &OPERATOR, cluster: Cluster::of(plane), ns: plane.namespace(prefix) }
    }

    fn issue(&self) -> Value {
        self.cluster.create_account(&self.ns, "cart", spec());
        self.cluster.wait_ready(&self.ns, "cart")
    }

    fn rotate(&self, request: &str) {
        let account = self.cluster.account(&self.ns, "cart").unwrap();
        let jti = account["status"]["jwtId"].as_str().unwrap();
        self.cluster.annotate(&self.ns, "cart", "virtualaccounts.dev/rotate", &json!(request));
        self.cluster.wait_successor(&self.ns, "cart", jti);
    }

    /// Waits until the Secret is as told and the status has its version.
    fn seen(&self, is: impl Fn(&Value) -> bool) {
        let secret = self.cluster.wait_secret(&self.ns, "cart-token", "as it should be", is);
        self.cluster.wait_account(&self.ns, "cart", "the Secret's version", |account| {
            account["status"]["tokenSecret"]["resourceVersion"] == secret["metadata"]["resourceVersion"]
        });
    }

    /// What the operator asks of the API server about this namespace while something is done, and a moment longer.
    fn requests(&self, work: impl FnOnce()) -> Vec<String> {
        requests(self.plane, &self.cluster, &self.operator.user(), &self.ns, work)
    }
}

fn spec() -> Value {
    json!({"autoRotate": {"autoRotateInterval": "90d", "gracePeriod": "7d"}})
}
