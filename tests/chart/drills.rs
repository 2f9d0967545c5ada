//! What a platform team does to an installation with accounts in it: no token is minted by any of that.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::root;
use crate::support::cluster::{Cluster, stays, token};
use crate::support::helm::{Helm, chart};
use crate::support::operator::{ISSUER, NAMESPACE, Operator, Options};
use crate::support::plane::Plane;
use crate::support::rendered::Release;

const NAMES: [&str; 3] = ["cart", "ledger", "report"];

#[test]
fn helm_3_uninstalls_and_reinstalls_without_minting() {
    uninstall_and_reinstall(Helm::Three);
}

#[test]
fn helm_4_uninstalls_and_reinstalls_without_minting() {
    uninstall_and_reinstall(Helm::Four);
}

fn uninstall_and_reinstall(helm: Helm) {
    let installation = Installation::new();
    let release = release(helm);
    release.install(&installation.plane);
    let before = installation.fill(&release);

    release.uninstall(&installation.plane);
    assert_eq!(installation.seen(), before, "accounts and Secrets outlive the release");
    assert!(installation.cluster.secret(NAMESPACE, "virtual-account-operator-keys").is_some(), "and the keys");

    let other = Release { name: "other".into(), ..release };
    let plain = ["install", "other", &chart(), "-n", NAMESPACE, "--set", &format!("issuerUrl={ISSUER}")];
    let refused = installation.helm(helm, &plain);
    assert!(
        refused.contains("exists and cannot be imported"),
        "the definitions belong to the other release: {refused}"
    );
    other.install(&installation.plane);
    installation.find_unchanged(&other, &before);
}

#[test]
fn an_upgrade_from_an_earlier_chart_mints_nothing() {
    let installation = Installation::new();
    let first = release(Helm::Three);
    first.install_from(&installation.plane, &root().join("tests/chart/previous").display().to_string());
    assert!(!installation.explains(), "its definitions are older");
    let before = installation.fill(&first);
    if let Some(chart) = chart_of_the_commit_before(installation.plane.dir()) {
        first.install_from(&installation.plane, &chart.display().to_string());
        installation.find_unchanged(&first, &before);
    }
    first.install(&installation.plane);
    assert!(installation.explains(), "the definitions are upgraded too");
    installation.find_unchanged(&first, &before);
    // Who changes from Helm 3 to Helm 4 does it on a running installation.
    let then = Release { helm: Helm::Four, ..first };
    then.install(&installation.plane);
    installation.find_unchanged(&then, &before);
}

fn release(helm: Helm) -> Release {
    Release::new(helm, NAMESPACE, json!({"issuerUrl": ISSUER}))
}

/// The chart as the commit before this one has it. A shallow clone has no such commit; the committed one is used anyway.
fn chart_of_the_commit_before(directory: &Path) -> Option<PathBuf> {
    let archive = "git archive HEAD~1 charts/virtual-account-operator | tar --extract --directory \"$0\"";
    let output = Command::new("sh").args(["-c", archive]).arg(directory).current_dir(root()).output().unwrap();
    let chart = directory.join("charts/virtual-account-operator");
    if !chart.join("Chart.yaml").exists() {
        eprintln!("no chart of the commit before: {}", String::from_utf8_lossy(&output.stderr).trim());
        return None;
    }
    Some(chart)
}

/// A plane with accounts.
struct Installation {
    plane: Plane,
    cluster: Cluster,
    apps: String,
}

impl Installation {
    fn new() -> Self {
        let plane = Plane::start();
        let (cluster, apps) = (Cluster::of(&plane), plane.namespace("apps"));
        Self { plane, cluster, apps }
    }

    fn operator(&self, release: &Release) -> Operator {
        Operator::start(&self.plane, Options { release: Some(release.clone()), ..Options::default() })
    }

    /// Creates the accounts under this release; what they are when its operator has ended.
    fn fill(&self, release: &Release) -> Value {
        let mut operator = self.operator(release);
        for name in NAMES {
            self.cluster.create_account(&self.apps, name, json!({"autoRotate": {"autoRotateInterval": "90d"}}));
        }
        for name in NAMES {
            self.cluster.wait_ready(&self.apps, name);
        }
        assert!(operator.terminate().success(), "an orderly end");
        self.seen()
    }

    /// The statuses of the accounts, and their Secrets.
    fn seen(&self) -> Value {
        let account = |name: &&str| {
            let account = self.cluster.account(&self.apps, name).expect("the account exists");
            let secret = self.cluster.secret(&self.apps, &format!("{name}-token")).expect("the Secret exists");
            json!({"status": account["status"], "data": secret["data"], "version": secret["metadata"]["resourceVersion"]})
        };
        NAMES.iter().map(account).collect()
    }

    /// Runs the operator of this release until it has seen everything: it finds nothing to do.
    fn find_unchanged(&self, release: &Release, before: &Value) {
        let writes = self.writes();
        let mut operator = self.operator(release);
        for name in NAMES {
            let secret = self.cluster.secret(&self.apps, &format!("{name}-token")).expect("the Secret exists");
            assert!(operator.accepts(&token(&secret)), "{name}");
        }
        // It leads and works: it does so for an account that is new.
        let fresh = format!("fresh-{}", self.cluster.accounts(&self.apps).len());
        self.cluster.create_account(&self.apps, &fresh, json!({}));
        self.cluster.wait_ready(&self.apps, &fresh);
        stays("an account changes", Duration::from_secs(1), || {
            if self.seen() == *before { Ok(()) } else { Err(self.seen().to_string()) }
        });
        assert!(operator.terminate().success(), "an orderly end");
        assert_eq!(self.writes(), writes, "no token minted, none delivered again");
    }

    /// What any ServiceAccount of the operator's namespace has written to these accounts and Secrets, by the audit log.
    fn writes(&self) -> Vec<String> {
        let resources = ["virtualaccounts", "secrets"];
        let of_these = |name: &str| NAMES.contains(&name.strip_suffix("-token").unwrap_or(name));
        // Helm's own records are Secrets too, but Helm is the administrator.
        let ours = |user: &str| user.starts_with("system:serviceaccount:virtual-accounts:");
        let written = self.plane.audit().into_iter().filter(|event| {
            event.stage == "ResponseComplete"
                && event.is_write()
                && ours(&event.user)
                && of_these(&event.name)
                && resources.contains(&event.resource.as_str())
        });
        written.map(|event| format!("{} {} {} {}", event.timestamp, event.verb, event.resource, event.name)).collect()
    }

    /// Whether the definitions describe their fields.
    fn explains(&self) -> bool {
        let description = "-o=jsonpath={.spec.versions[0].schema.openAPIV3Schema.description}";
        !self.plane.kubectl_ok(&["get", "crd/virtualaccounts.virtualaccounts.dev", description], None).is_empty()
    }

    /// What it says when it refuses.
    fn helm(&self, helm: Helm, args: &[&str]) -> String {
        let output = helm.on(&self.plane, args);
        assert!(!output.status.success(), "{helm:?} {args:?} must be refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}
