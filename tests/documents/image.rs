//! The Dockerfile, as far as it can be judged without building it. `make test-full` runs its commands.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use super::read;

#[test]
fn the_dockerfile_has_no_findings() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let environment =
        Command::new(checkout.join("hack/python-env.sh")).stderr(Stdio::inherit()).output().expect("it can be run");
    let environment = String::from_utf8(environment.stdout).unwrap();
    let hadolint = Path::new(environment.trim_end()).join("bin/hadolint");
    // Comments that silence a rule do not count.
    let found =
        Command::new(hadolint).arg("--disable-ignore-pragma").arg(checkout.join("Dockerfile")).output().unwrap();
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

/// What follows an instruction of the Dockerfile, once for each time that it is there.
fn instructions(name: &str) -> Vec<String> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
