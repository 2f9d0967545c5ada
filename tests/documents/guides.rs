//! What the guides show is what the API server takes, and their commands run, against the real operator.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use virtual_account_operator::token::SECRET_NAME;

use super::{blocks, pages, read, rows};
use crate::support::cluster::{Cluster, PATIENCE, account, ready, token, wait_for};
use crate::support::helm::{Helm, chart};
use crate::support::operator::{NAMESPACE, Operator, Options};
use crate::support::plane::Plane;

/// Groups that the control plane of the tests does not serve: their manifests must be YAML, no more is known here.
const FOREIGN: [&str; 10] = [
    "apiserver.config.k8s.io",
    "argoproj.io",
    "cert-manager.io",
    "gateway.networking.k8s.io",
    "helm.toolkit.fluxcd.io",
    "kustomize.config.k8s.io",
    "kustomize.toolkit.fluxcd.io",
    "monitoring.coreos.com",
    "source.toolkit.fluxcd.io",
    "velero.io",
];

/// Pages whose commands are run by tests of their own.
const ELSEWHERE: [&str; 8] = [
    "backup-and-restore.md",
    "gitops.md",
    "high-availability.md",
    "kubernetes-authentication.md",
    "logs.md",
    "metrics.md",
    "rbac.md",
    "tls.md",
];

/// What only the commands have that remove the operator.
const UNINSTALLS: &str = "clusterrolebinding";

/// Who everything in the guides is about.
const NAMESPACE_OF_GUIDES: &str = "reporting";
const ACCOUNT: &str = "report-reader";

#[test]
fn every_manifest_of_the_guides_is_taken_as_it_is() {
    let plane = Plane::shared();
    plane.install(&virtual_account_operator::api::yaml().unwrap());
    let mut taken = 0;
    for page in pages("docs") {
        for block in blocks(&page, "yaml") {
            let objects: Vec<Value> =
                serde_saphyr::from_multiple(&block).unwrap_or_else(|error| panic!("{page}: {error}: {block}"));
            let ours: Vec<&Value> = objects.iter().filter(|object| is_served(object)).collect();
            if ours.is_empty() {
                continue;
            }
            assert_eq!(ours.len(), objects.len(), "{page}: served and foreign kinds in one block: {block}");
            ours.iter().filter_map(|object| object["metadata"]["namespace"].as_str()).for_each(|it| ensure(plane, it));
            let flags = ["--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"];
            let output = plane.kubectl(&[&["apply", "-f", "-"][..], &flags].concat(), Some(&block));
            assert!(output.status.success(), "{page}: {}: {block}", String::from_utf8_lossy(&output.stderr));
            taken += ours.len();
        }
    }
    assert!(taken >= 7, "only {taken} manifests were tried");
}

/// Whether this is an object of a kind that the API server knows. A part of one, or values of a chart, is none.
fn is_served(object: &Value) -> bool {
    let (Some(version), Some(_)) = (object["apiVersion"].as_str(), object["kind"].as_str()) else { return false };
    let group = version.split_once('/').map_or("", |(group, _)| group);
    !FOREIGN.contains(&group)
}

fn ensure(plane: &Plane, namespace: &str) {
    if !plane.kubectl(&["get", "namespace", namespace], None).status.success() {
        plane.kubectl_ok(&["create", "namespace", namespace], None);
    }
}

#[test]
fn the_commands_of_the_guides_run() {
    let world = World::start();
    let mut run = 0;
    for page in pages("docs").iter().filter(|page| !ELSEWHERE.iter().any(|other| page.ends_with(other))) {
        // What removes the operator has a test of its own.
        for block in blocks(page, "sh").into_iter().filter(|block| !block.contains(UNINSTALLS)) {
            world.account();
            world.run(page, &block);
            run += 1;
        }
    }
    assert!(run >= 10, "only {run} blocks of commands were found");
}

#[test]
fn the_values_of_the_guide_are_the_charts() {
    let block = blocks("docs/install.md", "yaml").into_iter().find(|block| block.contains("issuerUrl:")).unwrap();
    let folder = folder("values");
    let values = folder.join("values.yaml");
    fs::write(&values, &block).unwrap();
    for helm in Helm::BOTH {
        let values = values.display().to_string();
        let rendered = helm.offline_ok(&["template", "virtual-account-operator", &chart(), "--values", &values]);
        for part in ["registry.example.com/virtual-account-operator@sha256:0000", "--cluster-name=production-eu"] {
            assert!(rendered.contains(part), "{helm:?} renders no {part}");
        }
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_overlay_of_the_guide_sets_issuer_and_image() {
    let block = blocks("docs/install.md", "yaml").into_iter().find(|block| block.contains("kind: Kustomization"));
    let folder = folder("overlay");
    // kustomize reads nothing above the folder that it is given, links included.
    let mut copy = Command::new("cp");
    copy.arg("-r").args(["config", "crds"]).arg(&folder).current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(copy.status().unwrap().success());
    let overlay = folder.join("config/production");
    fs::create_dir(&overlay).unwrap();
    fs::write(overlay.join("kustomization.yaml"), block.unwrap()).unwrap();
    let built = Plane::shared().kubectl_ok(&["kustomize", &overlay.display().to_string()], None);
    let objects: Vec<Value> = serde_saphyr::from_multiple(&built).unwrap();
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let image = container["image"].as_str().unwrap();
    assert!(image.starts_with("registry.example.com/virtual-account-operator@sha256:0000"), "{image}");
    let variables = container["env"].as_array().unwrap();
    let issuers: Vec<_> = variables.iter().filter(|variable| variable["name"] == "VAO_ISSUER_URL").collect();
    assert!(issuers.len() == 1 && issuers[0]["value"] == "https://va.example.com", "{issuers:?}");
    fs::remove_dir_all(folder).unwrap();
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("guide-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn the_commands_that_revoke_do_revoke() {
    let world = World::start();
    let ending: Vec<String> = blocks("docs/revocation.md", "sh")
        .into_iter()
        .filter(|block| block.contains("revokedJwtIds") || block.contains("grace=0s"))
        .collect();
    assert_eq!(ending.len(), 2);
    for block in ending {
        let token = world.account();
        world.cluster.edit(NAMESPACE_OF_GUIDES, ACCOUNT, &json!({"revokedJwtIds": ["earlier"]}));
        assert!(world.operator.accepts(&token));
        world.run("docs/revocation.md", &block);
        let reason = || world.operator.command(&["verify"], &token);
        wait_for("the token to be refused", PATIENCE, || {
            if reason().status.success() { Err("it is accepted") } else { Ok(()) }
        });
        let account = world.cluster.account(NAMESPACE_OF_GUIDES, ACCOUNT).unwrap();
        let revoked = account["spec"]["revokedJwtIds"].as_array().unwrap();
        assert!(revoked.contains(&json!("earlier")), "an earlier revocation is lost: {revoked:?}");
    }
}

#[test]
fn without_helm_an_uninstall_removes_what_runs_and_its_rights_alone() {
    let plane = Plane::start();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/default").display().to_string();
    plane.kubectl_ok(&["apply", "--server-side", "-k", &shipped], None);
    plane.kubectl_ok(&["create", "secret", "generic", SECRET_NAME, "-n", NAMESPACE], None);
    let left = |kinds: &str| {
        let label = "app.kubernetes.io/name=virtual-account-operator";
        plane.kubectl_ok(&["get", kinds, "-A", "-o", "name", "--selector", label], None)
    };
    let runs = "deployment,service,serviceaccount,pdb,networkpolicy";
    let rights = "role,rolebinding,clusterrole,clusterrolebinding";
    assert!(left(runs).lines().count() >= 6 && left(rights).lines().count() >= 8, "{}{}", left(runs), left(rights));
    let block = blocks("docs/uninstall.md", "sh").into_iter().find(|block| block.contains(UNINSTALLS)).unwrap();
    run("docs/uninstall.md", &block, &programs(&plane));
    assert_eq!((left(runs), left(rights)), (String::new(), String::new()));
    plane.kubectl_ok(&["get", "secret", SECRET_NAME, "-n", NAMESPACE], None);
    plane.kubectl_ok(&["get", "virtualaccounts,tokenstores,notificationchannels", "-A"], None);
}

#[test]
fn the_quota_of_the_guide_counts_accounts() {
    let plane = Plane::shared();
    plane.install(&virtual_account_operator::api::yaml().unwrap());
    let namespace = plane.namespace("quota");
    let block = blocks("docs/tenants.md", "yaml").into_iter().find(|block| block.contains("ResourceQuota")).unwrap();
    let quota = block.replace("namespace: reporting", &format!("namespace: {namespace}")).replace("\"50\"", "\"1\"");
    let probe = account("probe", json!({})).to_string();
    limit(plane, &namespace, &quota, "count/virtualaccounts.virtualaccounts.dev", 1, &probe);
    let cluster = Cluster::of(plane);
    let path = format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{namespace}/virtualaccounts");
    cluster.create_account(&namespace, "first", json!({}));
    let second = account("second", json!({}));
    let refused = cluster.send("POST", &path, "application/json", Some(&second)).unwrap_err();
    assert!(refused.code == 403 && refused.message.contains("exceeded quota"), "{refused:?}");
}

#[test]
fn a_used_up_quota_on_secrets_shows_in_the_status() {
    let world = World::start();
    let namespace = world.plane.namespace("quota");
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "virtual-accounts", "namespace": namespace},
        "spec": {"hard": {"secrets": "0"}},
    });
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "probe"}}).to_string();
    limit(&world.plane, &namespace, &quota.to_string(), "secrets", 0, &secret);
    world.cluster.create_account(&namespace, ACCOUNT, json!({}));
    let account = world.cluster.wait_account(&namespace, ACCOUNT, "to be refused a Secret", |account| {
        account["status"]["tokenSecret"]["failures"].as_u64().is_some_and(|failures| failures > 0)
    });
    let ready = ready(&account);
    assert!(ready["status"] == "False" && ready["message"].as_str().unwrap().contains("exceeded quota"), "{ready}");
    world.plane.kubectl_ok(&["delete", "quota", "virtual-accounts", "-n", &namespace], None);
    world.cluster.wait_ready(&namespace, ACCOUNT);
}

/// Makes a quota count: the plane has no quota controller, which would do that. Waits until the API server knows, which it
/// shows by what it says of a further object: its admission reads a cache.
fn limit(plane: &Plane, namespace: &str, quota: &str, resource: &str, hard: u32, object: &str) {
    plane.kubectl_ok(&["apply", "-f", "-"], Some(quota));
    for hard in [0, hard] {
        let status = json!({"status": {"hard": {resource: hard.to_string()}, "used": {resource: "0"}}}).to_string();
        let patch =
            ["patch", "quota", "virtual-accounts", "--subresource=status", "--type=merge", "-n", namespace, "-p"];
        plane.kubectl_ok(&[&patch[..], &[&status]].concat(), None);
        wait_for("the quota to count", PATIENCE, || {
            let output = plane.kubectl(&["create", "--dry-run=server", "-n", namespace, "-f", "-"], Some(object));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let as_wanted = if hard == 0 { said.contains("exceeded quota") } else { output.status.success() };
            if as_wanted { Ok(()) } else { Err(said) }
        });
    }
}

#[test]
fn the_page_on_versions_names_those_of_the_tests() {
    let rows = rows("docs/versions.md", "| version");
    let version = |what: &str| rows.iter().find(|row| row[0].starts_with(what)).unwrap()[1].clone();
    assert!(read("tests/plane/go.mod").contains(&format!("k8s.io/kubernetes v{}\n", version("control plane"))));
    let types = format!("\"v{}\"", version("API types").replace('.', "_"));
    assert!(read("Cargo.toml").contains(&types), "{types}");
    assert!(version("supported").starts_with(&version("API types")));
}

/// A control plane with the operator, the account of the guides, and a shell that has the guides' programs.
struct World {
    operator: Operator,
    cluster: Cluster,
    programs: PathBuf,
    plane: Plane,
}

impl World {
    fn start() -> Self {
        let plane = Plane::start();
        let operator = Operator::start(&plane, Options::default());
        let programs = programs(&plane);
        ensure(&plane, NAMESPACE_OF_GUIDES);
        Self { operator, cluster: Cluster::of(&plane), programs, plane }
    }

    /// Makes the account anew and waits for its token, which is returned.
    fn account(&self) -> String {
        let (namespace, name) = (NAMESPACE_OF_GUIDES, ACCOUNT);
        if !self.plane.kubectl(&["get", "crd", "virtualaccounts.virtualaccounts.dev"], None).status.success() {
            self.plane.install(&virtual_account_operator::api::yaml().unwrap());
        }
        if self.cluster.account(namespace, name).is_some() {
            self.plane.kubectl_ok(&["delete", "va", name, "-n", namespace, "--timeout=30s"], None);
        }
        self.cluster.create_account(namespace, name, json!({}));
        self.cluster.wait_ready(namespace, name);
        token(&self.cluster.secret(namespace, &format!("{name}-token")).unwrap())
    }

    fn run(&self, page: &str, block: &str) {
        run(page, block, &self.programs);
    }
}

/// A folder with the programs of the guides, for `PATH`.
fn programs(plane: &Plane) -> PathBuf {
    let programs = plane.dir().join("programs");
    fs::create_dir(&programs).unwrap();
    let kubeconfig = plane.kubeconfig_path().display().to_string();
    let cache = plane.dir().join("kubectl-cache").display().to_string();
    let kubectl = format!("{} kubectl --kubeconfig {kubeconfig} --cache-dir {cache}", plane.binary().display());
    let ours = format!("env KUBECONFIG={kubeconfig} {}", env!("CARGO_BIN_EXE_virtual-account-operator"));
    for (name, command) in [("kubectl", kubectl), ("virtual-account-operator", ours)] {
        let file = programs.join(name);
        fs::write(&file, format!("#!/bin/sh\nexec {command} \"$@\"\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    programs
}

fn run(page: &str, block: &str, programs: &Path) {
    let inherited = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths(std::iter::once(programs.to_owned()).chain(std::env::split_paths(&inherited)));
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", block]).env("PATH", path.unwrap()).current_dir(programs);
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{page}: {}: {said}\n{block}", output.status);
}

#[test]
fn the_guides_speak_of_one_operator() {
    let namespaces: BTreeSet<String> = pages("docs").iter().flat_map(|page| named(&read(page))).collect();
    assert_eq!(namespaces, BTreeSet::from([NAMESPACE.to_owned()]));
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/README.md").exists());
}

/// The namespaces that commands of the operator name.
fn named(text: &str) -> Vec<String> {
    let commands = text.lines().filter_map(|line| line.split_once("virtual-account-operator "));
    let after = commands.filter_map(|(_, rest)| rest.split_once("--namespace ")).map(|(_, rest)| rest);
    after.filter_map(|rest| rest.split([' ', '`', '\n']).next()).map(str::to_owned).collect()
}
