//! The Dockerfile, as far as it can be judged without building it. `make test-full` runs its commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::read;
use crate::support::cluster::{Cluster, PATIENCE, ready, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::pki::Dir;
use crate::support::plane::Plane;
use crate::support::server::{Server, python};

#[test]
fn the_dockerfile_has_no_findings() {
    let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile");
    // Comments that silence a rule do not count.
    let found =
        Command::new(python().join("bin/hadolint")).arg("--disable-ignore-pragma").arg(dockerfile).output().unwrap();
    let said = [found.stdout, found.stderr].concat();
    assert!(found.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_bases_are_named_by_digest_and_fit_the_source() {
    let bases = instructions("FROM");
    let [build, runtime] = bases.as_slice() else { panic!("{bases:?}") };
    let rust =
        read("Cargo.toml").lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().replace('"', "");
    // What is linked with a newer glibc does not start on an older one: both are Debian 13.
    assert_eq!(*build, format!("docker.io/library/rust:{rust}-slim-trixie@${{RUST_DIGEST}} AS build"));
    assert_eq!(*runtime, "gcr.io/distroless/cc-debian13:nonroot@${RUNTIME_DIGEST}");
    let page = read("docs/image.md");
    for base in [build, runtime] {
        let name = base.split('@').next().unwrap();
        assert!(page.contains(&format!("imagetools inspect {name} ")), "docs/image.md does not look up {name}");
    }
}

#[test]
fn the_context_has_what_is_copied_and_nothing_else() {
    let copied = instructions("COPY").into_iter().filter(|line| !line.starts_with("--from"));
    let copied: BTreeSet<String> = copied
        .flat_map(|line| {
            let mut names: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            names.pop();
            names
        })
        .collect();
    let text = read(".dockerignore");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines[0], "*", "an allow list");
    assert_eq!(lines[1..].iter().map(|line| line.replacen('!', "", 1)).collect::<BTreeSet<_>>(), copied);
}

#[test]
fn the_image_runs_as_nobody_and_says_what_it_is() {
    let user = instructions("USER").concat();
    let ids: Vec<u32> =
        user.split(':').map(|id| id.parse().expect("a number: Kubernetes cannot judge a name")).collect();
    assert!(ids.len() == 2 && ids.iter().all(|id| *id > 0), "{user}");
    assert_eq!(instructions("ENTRYPOINT"), [r#"["/usr/local/bin/virtual-account-operator"]"#]);
    let copies = instructions("COPY");
    assert!(copies.iter().any(|line| line.ends_with(" /usr/local/bin/virtual-account-operator")), "{copies:?}");
    assert!(copies.iter().any(|line| line.ends_with(" /etc/ssl/certs/ca-certificates.crt")), "no CA certificates");
    let labels = instructions("LABEL").concat();
    for label in ["title", "description", "licenses", "base.name", "version", "revision", "created", "source"] {
        assert!(labels.contains(&format!("org.opencontainers.image.{label}=")), "no label {label}");
    }
}

#[test]
fn every_tls_client_trusts_the_same_file() {
    // A crate with a list of certificates of its own would trust what the image's owner cannot change.
    let lock = read("Cargo.lock");
    assert!(lock.contains("name = \"rustls-native-certs\"") && !lock.contains("name = \"webpki-roots\""));
}

/// hack/test-full.sh tests what hack/release.py prints, and all checkouts share the place where that is built.
#[test]
fn each_checkout_gets_the_binary_of_its_own_source() {
    let folder = Dir::new("release");
    let [newer, older] = ["newer", "older"].map(|word| checkout(&folder, word));
    // By the times of its files alone nothing of the second one is new.
    let touched = Command::new("touch").args(["-d", "2001-01-01"]).arg(older.join("src/main.rs")).status();
    assert!(touched.unwrap().success());
    let (first, _) = release(&newer, &folder);
    let (second, _) = release(&older, &folder);
    let said = |binary: &Path| String::from_utf8(Command::new(binary).output().unwrap().stdout).unwrap();
    assert_eq!([said(&first), said(&second)], ["newer", "older"], "and the first one is still there");
    let (again, log) = release(&older, &folder);
    assert!(again == second && !log.contains("Compiling"), "what has not changed is built again: {log}");
}

/// A checkout of a program that prints this word.
fn checkout(folder: &Dir, word: &str) -> PathBuf {
    let root = folder.path(word);
    for directory in ["src", "hack"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for file in ["Dockerfile", ".dockerignore", "hack/release.py"] {
        fs::write(root.join(file), read(file)).unwrap();
    }
    let package = "name = \"virtual-account-operator\"\nversion = \"0.1.0\"\n";
    fs::write(root.join("Cargo.toml"), format!("[workspace]\n[package]\n{package}edition = \"2024\"\n")).unwrap();
    fs::write(root.join("Cargo.lock"), format!("version = 4\n\n[[package]]\n{package}")).unwrap();
    fs::write(root.join("src/main.rs"), format!("fn main() {{ print!(\"{word}\") }}\n")).unwrap();
    root
}

/// The binary that it makes of a checkout, and what cargo says.
fn release(checkout: &Path, folder: &Dir) -> (PathBuf, String) {
    let mut command = Command::new(python().join("bin/python"));
    let output = command.arg("-B").arg(checkout.join("hack/release.py")).arg(folder.path("work")).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    (String::from_utf8_lossy(&output.stdout).trim_end().into(), log)
}

#[test]
fn certificates_that_the_environment_names_are_trusted() {
    let plane = Plane::start();
    let folder = plane.dir().join("bao");
    fs::create_dir(&folder).unwrap();
    // It makes an authority of its own, and leaves its certificate in the folder.
    let bao = Server::start(&folder, "bao", |port| {
        let own = format!("-dev-tls-cert-dir={}", folder.display());
        let address = format!("-dev-listen-address=127.0.0.1:{port}");
        ["server", "-dev", "-dev-tls", &own, "-dev-no-store-token", "-dev-root-token-id=root", &address]
            .map(str::to_owned)
            .to_vec()
    });
    let authority = folder.join("vault-ca.pem").display().to_string();
    let cluster = Cluster::of(&plane);
    let ns = plane.namespace("trust");
    let store = json!({
        "apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore", "metadata": {"name": "bao"},
        "spec": {"hashicorpVault": {
            "address": format!("https://127.0.0.1:{}", bao.port),
            "auth": {"tokenRef": {"name": "bao", "key": "token"}},
        }},
    });
    let secret = json!({"metadata": {"name": "bao"}, "stringData": {"token": "root"}});
    cluster.create(&format!("/api/v1/namespaces/{ns}/secrets"), &secret);
    let stores = format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{ns}/tokenstores");
    let options = Options::flags(&["--allow-local-endpoints"]);
    let stranger = Operator::start(&plane, options.clone());
    cluster.create(&stores, &store);
    assert_eq!(judged(&cluster, &stores, "False")["reason"], "Unreachable");
    drop(stranger);
    let env = vec![("SSL_CERT_FILE".to_owned(), authority)];
    let _friend = Operator::start(&plane, Options { env, ..options });
    judged(&cluster, &stores, "True");
}

/// The store's `Ready` condition, once it says so.
fn judged(cluster: &Cluster, stores: &str, status: &str) -> Value {
    wait_for(&format!("the store to be Ready={status}"), PATIENCE * 2, || {
        let store = cluster.find(&format!("{stores}/bao")).unwrap_or_default();
        let ready = ready(&store);
        if ready["status"] == status { Ok(ready.clone()) } else { Err(store["status"].to_string()) }
    })
}

/// What follows an instruction of the Dockerfile, once for each time that it is there.
fn instructions(name: &str) -> Vec<String> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
