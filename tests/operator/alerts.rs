//! The alerts find in the metrics of a real operator what they look for, and the commands of their runbooks work.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use virtual_account_operator::api::Seconds;
use virtual_account_operator::clock;

use crate::promtool::{RULES, promtool, root};
use crate::support::cluster::{Cluster, PATIENCE, secret_path, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;
use crate::{World, rotating};

/// Two metric ticks of the operator, and promtool.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn alerts_fire_on_what_a_real_operator_shows() {
    let plane = Plane::start();
    let options = Options { clock: Some("+0".into()), ..Options::flags(&["--max-clock-skew", "2m"]) };
    let operator = Operator::start(&plane, options);
    let (cluster, ns) = (Cluster::of(&plane), plane.namespace("alerts"));
    let stage = Stage { operator: &operator, folder: plane.dir() };
    cluster.create_account(&ns, "cart", rotating());
    cluster.wait_ready(&ns, "cart");
    stage.wait_firing(Seconds::ZERO, "", &[]);

    // It ends with its account, within the week.
    let soon = (clock::now() + Seconds::days(3)).to_string()[..10].to_owned();
    cluster.create_account(&ns, "ends", json!({"expirationDate": soon}));
    // Its Secret is somebody else's.
    let foreign = json!({"metadata": {"name": "taken-token"}, "stringData": {"password": "theirs"}});
    cluster.create(&format!("/api/v1/namespaces/{ns}/secrets"), &foreign);
    cluster.create_account(&ns, "taken", rotating());
    channel(&cluster, &ns);
    cluster.wait_reason(&ns, "taken", "SecretNotOwned");
    let of = |alert: &str, name: &str| format!("{alert}\",severity=\"warning\",namespace=\"{ns}\",name=\"{name}\"");
    stage.wait_firing(
        Seconds::ZERO,
        "",
        &[
            of("VirtualAccountTokenEndsUnrotated", "ends"),
            of("VirtualAccountDeliveryFailing", "taken"),
            format!("{},reason=\"SecretNotOwned\"", of("VirtualAccountNotReady", "taken")),
            "VirtualAccountChannelFailing\",severity=\"warning\"".to_owned(),
        ],
    );

    // A clock that has run away: nothing is rotated any more, and the tokens go on ending.
    operator.set_clock("+92d");
    stage.wait_firing(
        Seconds::days(92),
        "alertname=~\".*(Overdue|Expired|Clock).*\",name!=\"taken\"",
        &[
            of("VirtualAccountRotationOverdue", "cart"),
            "VirtualAccountClockUntrusted\",severity=\"critical\"".to_owned(),
        ],
    );
}

/// A channel whose credentials are not there.
fn channel(cluster: &Cluster, ns: &str) {
    let channel = json!({
        "apiVersion": "virtualaccounts.dev/v1alpha1",
        "kind": "NotificationChannel",
        "metadata": {"name": "hook"},
        "spec": {"slackWebhook": {"urlRef": {"name": "slack", "key": "url"}}},
    });
    cluster.create(&format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{ns}/notificationchannels"), &channel);
}

struct Stage<'a> {
    operator: &'a Operator,
    folder: &'a Path,
}

impl Stage<'_> {
    /// Waits until exactly these alerts would fire, of those that `which` matches, if the metrics stayed for 90 minutes as
    /// they are. `ahead`: of the operator's clock.
    fn wait_firing(&self, ahead: Seconds, which: &str, alerts: &[String]) {
        wait_for("the alerts to fire", SOON, || {
            let metrics = self.operator.metrics();
            let case = case(&metrics, (clock::now() + ahead).as_unix(), which, alerts);
            let file = self.folder.join("alerts.test.yaml");
            fs::write(&file, &case).expect("the plane's directory can be written");
            promtool(&["test", "rules", &file.to_string_lossy()]).map_err(|told| format!("{told}\n{case}"))
        });
    }
}

/// A test for promtool. Its time starts at 0, so instants are counted from `now`.
fn case(metrics: &str, now: i64, which: &str, alerts: &[String]) -> String {
    let mut text = format!("rule_files: [{}]\ntests:\n- interval: 1m\n  input_series:\n", root().join(RULES).display());
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let value = if name.ends_with("_timestamp_seconds") {
            (value.parse::<i64>().expect("an instant") - now).to_string()
        } else {
            // Without an exponent, which promtool does not read.
            value.parse::<f64>().expect("a number").to_string()
        };
        // As a scrape with honor_labels leaves it.
        let comma = if labels.starts_with('}') { "" } else { "," };
        let series = format!("{name}{{job=\"operator\",instance=\"one\"{comma}{labels}");
        writeln!(text, "  - {{series: '{series}', values: '{value}x90'}}").expect("memory");
    }
    writeln!(
        text,
        "  promql_expr_test:\n  - expr: 'ALERTS{{alertstate=\"firing\",{which}}}'\n    eval_time: 90m\n    exp_samples:"
    )
    .expect("memory");
    for alert in alerts {
        writeln!(text, "    - {{labels: 'ALERTS{{alertstate=\"firing\",alertname=\"{alert}}}', value: 1}}")
            .expect("memory");
    }
    text
}

#[test]
fn the_commands_of_the_runbooks_work() {
    let world = World::new("runbooks");
    world.ready(rotating());
    channel(&world.cluster, &world.ns);
    let tools = tools(world.plane);
    let mut commands = 0;
    let mut books: Vec<_> =
        fs::read_dir(root().join("docs/runbooks")).unwrap().map(|book| book.unwrap().path()).collect();
    books.push(root().join("docs/logs.md"));
    books.sort();
    for book in books {
        let text = fs::read_to_string(&book).unwrap();
        for block in text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            commands += block.lines().count();
            let output = Command::new("bash")
                .args(["-euo", "pipefail", "-c", block])
                .env("PATH", format!("{}:/usr/bin:/bin", tools.display()))
                .env("KUBECONFIG", world.plane.kubeconfig_path())
                .envs([("NAMESPACE", world.ns.as_str()), ("NAME", "cart"), ("CHANNEL", "hook")])
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {block}{told}", book.display());
        }
    }
    assert!(commands > 41, "few commands: are they found?");
    // What the cures did is done by the operator.
    wait_for("the channel's test message", PATIENCE, || {
        let path = format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{}/notificationchannels/hook", world.ns);
        let channel = world.cluster.find(&path).unwrap();
        if channel["status"]["lastTest"]["result"] == "Failed" { Ok(()) } else { Err(channel["status"].to_string()) }
    });
    assert!(world.cluster.find(&secret_path(&world.ns, "cart-token")).is_some());
}

/// A folder with `kubectl` and the operator's binary, for `PATH`.
fn tools(plane: &Plane) -> std::path::PathBuf {
    let folder = plane.dir().join("tools");
    fs::create_dir_all(&folder).unwrap();
    let built = Command::new(root().join("tests/plane/build.sh")).output().unwrap();
    let binary = String::from_utf8(built.stdout).unwrap();
    let kubectl = folder.join("kubectl");
    let cache = plane.dir().join("kubectl-cache");
    fs::write(&kubectl, format!("#!/bin/sh\nexec {} kubectl --cache-dir {} \"$@\"\n", binary.trim(), cache.display()))
        .unwrap();
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    symlink(env!("CARGO_BIN_EXE_virtual-account-operator"), folder.join("virtual-account-operator")).unwrap();
    folder
}
