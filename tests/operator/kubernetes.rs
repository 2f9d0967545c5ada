//! kube-apiserver accepts tokens of accounts by the sample `AuthenticationConfiguration`: as whom, which not, and what it
//! does not notice. What docs/kubernetes-authentication.md says is seen here.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, PATIENCE, decode, token, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::pki::{Authority, Dir};
use crate::support::plane::Plane;

const SAMPLE: &str = "config/samples/kube-apiserver/authentication-configuration.yaml";
const PAGE: &str = "docs/kubernetes-authentication.md";
const AUDIENCE: &str = "https://kubernetes.example.com";
/// An API server that could not reach its issuer tries again every 10 s.
const DISCOVERED: Duration = Duration::from_secs(40);

#[test]
fn kube_apiserver_accepts_the_tokens_that_the_sample_is_for_and_no_others() {
    let home = Home::start();
    let given = home.account("cart", json!({"audiences": [AUDIENCE], "autoRotate": daily()}));
    let user = wait_for("the API server to know the issuer", DISCOVERED, || home.whoami(&given));
    assert_eq!(user["username"], format!("va:{}:cart", home.ns));
    let groups =
        ["virtual-accounts".to_owned(), format!("virtual-accounts:{}", home.ns), "system:authenticated".to_owned()];
    assert_eq!(user["groups"], json!(groups));
    let jti = decode(&given).1["jti"].as_str().unwrap().to_owned();
    assert_eq!(user["extra"]["authentication.kubernetes.io/credential-id"], json!([format!("JTI={jti}")]));
    home.sample_of_the_page_works();

    let elsewhere = home.account("elsewhere", json!({"autoRotate": daily()}));
    home.refuses(&elsewhere, "audience");
    let lasting = home.account("lasting", json!({"audiences": [AUDIENCE]}));
    home.refuses(&lasting, "the token lives longer than a day");
    let (head, signature) = given.rsplit_once('.').unwrap();
    home.refuses(&format!("{head}.{}", signature.chars().rev().collect::<String>()), "signature");
    assert_eq!(home.whoami(&given).unwrap(), user, "the others did it no harm");

    // Those who came in before still do.
    let named = home.plane.kubectl_ok(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"], None);
    assert_eq!(named, "testplane-admin");
    let robot = home.plane.kubectl_ok(&["create", "token", "default", "-n", &home.ns], None);
    assert_eq!(home.whoami(&robot).unwrap()["username"], format!("system:serviceaccount:{}:default", home.ns));
    home.system_names_are_refused(&given);
}

#[test]
fn kube_apiserver_follows_rotations_and_learns_of_revocations_at_the_end_of_the_token() {
    let home = Home::start();
    let first = home.account("cart", json!({"audiences": [AUDIENCE], "autoRotate": daily()}));
    wait_for("the API server to know the issuer", DISCOVERED, || home.whoami(&first));

    let second = home.rotate("cart", "with-grace");
    home.accepts(&[&first, &second]);
    let third = home.rotate("cart", "leaked,grace=0s");
    assert!(!home.verifies(&second) && home.verifies(&third));
    home.accepts(&[&third]);
    // What the page warns of: revoked, and good here until it ends.
    home.accepts(&[&first, &second]);

    let standby = home.key("Published");
    home.keys(&["rotate"]);
    home.operator.set_clock("+16m");
    wait_for("the standby key to sign", PATIENCE, || if home.key("Active") == standby { Ok(()) } else { Err("no") });
    let fourth = home.rotate("cart", "new-key");
    assert_eq!(decode(&fourth).0["kid"], standby);
    home.accepts(&[&third, &fourth]);

    let leaked = home.key("Active");
    let before = home.jti("cart");
    home.keys(&["compromise", &leaked]);
    home.cluster.wait_successor(&home.ns, "cart", &before);
    let fifth = home.token("cart");
    assert!(!home.verifies(&fourth) && home.verifies(&fifth));
    // The API server keeps a key that it knows, until it is restarted or meets one that it does not know.
    home.accepts(&[&fourth]);
    home.plane.command("restart kube-apiserver");
    wait_for("the API server to know the issuer", DISCOVERED, || home.whoami(&fifth));
    home.refuses(&fourth, "signature");
}

/// Rotates often enough for the sample: 18 hours are less than a day.
fn daily() -> Value {
    json!({"autoRotateInterval": "12h", "gracePeriod": "6h"})
}

/// A plane whose API server trusts the operator on it.
struct Home {
    plane: Plane,
    operator: Operator,
    cluster: Cluster,
    ns: String,
    issuer: String,
    authority: Authority,
    dir: Dir,
}

impl Home {
    fn start() -> Self {
        let (dir, authority) = (Dir::new("kubernetes"), Authority::new("issuer"));
        // The URL is in the API server's configuration, so the port must be known before anything runs.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let issuer = format!("https://{address}");
        let plane = trusting(&dir, "config.yaml", &configuration(&issuer, &authority));
        dir.mount(&authority.issue("va", 2090));
        let mut flags = dir.flags().to_vec();
        flags.extend([format!("--issuer-url={issuer}"), format!("--public-address={address}")]);
        flags.push(format!("--allowed-audiences={issuer},{AUDIENCE}"));
        let operator = Operator::start(&plane, Options { flags, clock: Some("+0".to_owned()), ..Options::default() });
        let (cluster, ns) = (Cluster::of(&plane), plane.namespace("home"));
        Self { plane, operator, cluster, ns, issuer, authority, dir }
    }

    /// Creates an account and waits for its token.
    fn account(&self, name: &str, spec: Value) -> String {
        self.cluster.create_account(&self.ns, name, spec);
        self.cluster.wait_ready(&self.ns, name);
        self.token(name)
    }

    fn token(&self, name: &str) -> String {
        token(&self.cluster.secret(&self.ns, &format!("{name}-token")).expect("the Secret exists"))
    }

    fn jti(&self, name: &str) -> String {
        decode(&self.token(name)).1["jti"].as_str().expect("an id").to_owned()
    }

    fn rotate(&self, name: &str, request: &str) -> String {
        let before = self.jti(name);
        self.cluster.annotate(&self.ns, name, "virtualaccounts.dev/rotate", &json!(request));
        self.cluster.wait_successor(&self.ns, name, &before);
        self.token(name)
    }

    fn keys(&self, args: &[&str]) -> String {
        let output = self.operator.command(&[&["keys"], args].concat(), "");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// The id of the key in this state.
    fn key(&self, state: &str) -> String {
        let table = self.keys(&["list"]);
        let row = table.lines().find(|line| line.contains(state)).unwrap_or_else(|| panic!("no {state} key: {table}"));
        row.split_whitespace().next().unwrap().to_owned()
    }

    /// The operator's own answer.
    fn verifies(&self, token: &str) -> bool {
        self.operator.command(&["verify"], token).status.success()
    }

    /// Who the API server says that this token is.
    fn whoami(&self, token: &str) -> Result<Value, String> {
        whoami(&self.plane, token)
    }

    fn accepts(&self, tokens: &[&str]) {
        for token in tokens {
            let user = self.whoami(token).unwrap_or_else(|error| panic!("{}: {error}", decode(token).1));
            assert_eq!(user["username"], decode(token).1["sub"]);
        }
    }

    /// The API server refuses the token, for this reason.
    fn refuses(&self, token: &str, reason: &str) {
        refuses(&self.plane, token, reason);
    }

    /// The page's account with the page's RoleBinding, in the page's namespace, and its command with that account's token.
    fn sample_of_the_page_works(&self) {
        let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).expect("the page");
        let blocks = |language: &str| -> Vec<String> {
            let begins = format!("```{language}\n");
            page.split(&begins).skip(1).filter_map(|rest| rest.split("```").next().map(str::to_owned)).collect()
        };
        self.plane.kubectl_ok(&["create", "namespace", "shop"], None);
        for block in &blocks("yaml") {
            self.plane.kubectl_ok(&["apply", "-f", "-"], Some(block));
        }
        self.cluster.wait_ready("shop", "deployer");
        let given = token(&self.cluster.secret("shop", "deployer-token").expect("the Secret exists"));
        self.accepts(&[&given]);
        let config = self.plane.token_kubeconfig("shop", "deployer", &given);
        let may = |verb: &str, what: &str, namespace: &str| {
            let args = ["--kubeconfig", config.to_str().expect("text"), "auth", "can-i", verb, what, "-n", namespace];
            self.plane.kubectl(&args, None).status.success()
        };
        let edits = || if may("update", "deployments.apps", "shop") { Ok(()) } else { Err("not yet") };
        wait_for("its role to be known", PATIENCE, edits);
        let commands = blocks("sh");
        assert_eq!(commands.len(), 1, "{commands:?}");
        let said = self.run(&commands[0], &config);
        assert!(said.contains("va:shop:deployer") && said.contains("virtual-accounts:shop"), "{said}");
        assert!(!may("update", "deployments.apps", "default") && !may("create", "rolebindings", "shop"));
    }

    /// What the page's command prints where `deployer.kubeconfig` is this file.
    fn run(&self, command: &str, config: &Path) -> String {
        let desk = self.plane.dir().join("deployer");
        std::fs::create_dir(&desk).expect("a directory");
        std::fs::copy(config, desk.join("deployer.kubeconfig")).expect("a copy");
        let kubectl = format!("kubectl() {{ {} kubectl \"$@\"; }}\n", self.plane.binary().display());
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &(kubectl + command)]).current_dir(&desk).env("HOME", &desk);
        let output = bash.output().expect("bash runs");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    // Nothing in the sample can lead to such a name: its last rules are for whoever changes the mapping.
    fn system_names_are_refused(&self, token: &str) {
        for (mapping, expression, reason) in [
            ("username", "'system:' + claims.sub", "a name of Kubernetes' own"),
            ("groups", "['system:masters']", "a group of Kubernetes' own"),
        ] {
            let mut changed = configuration(&self.issuer, &self.authority);
            changed["jwt"][0]["claimMappings"][mapping]["expression"] = json!(expression);
            let plane = trusting(&self.dir, &format!("{mapping}.yaml"), &changed);
            refuses(&plane, token, reason);
        }
    }
}

/// The sample for this issuer.
fn configuration(issuer: &str, authority: &Authority) -> Value {
    let sample = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(SAMPLE)).expect("the sample");
    let mut configuration: Value = serde_saphyr::from_str(&sample).expect("YAML");
    configuration["jwt"][0]["issuer"]["url"] = json!(issuer);
    configuration["jwt"][0]["issuer"]["certificateAuthority"] = json!(authority.pem());
    configuration
}

fn trusting(dir: &Dir, name: &str, configuration: &Value) -> Plane {
    let file: PathBuf = dir.write(name, &configuration.to_string());
    Plane::start_with(&[&format!("--authentication-config={}", file.display())])
}

fn whoami(plane: &Plane, token: &str) -> Result<Value, String> {
    let config = plane.token_kubeconfig("default", "whoami", token);
    let args = ["--kubeconfig", config.to_str().expect("text"), "auth", "whoami", "-o", "json"];
    let output = plane.kubectl(&args, None);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let review: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    Ok(review["status"]["userInfo"].clone())
}

// The client is told nothing, so the reason is looked for in the server's log, from here on.
fn refuses(plane: &Plane, token: &str, reason: &str) {
    let log = || std::fs::read_to_string(plane.dir().join("kube-apiserver.log")).expect("the API server's log");
    let seen = log().len();
    wait_for(&format!("a refusal because of {reason:?}"), DISCOVERED, || {
        let error = whoami(plane, token).expect_err("the token must not be accepted");
        let log = log();
        let news = log.get(seen..).unwrap_or_default();
        if error.contains("Unauthorized") && news.contains(reason) { Ok(()) } else { Err(format!("{error}; {news}")) }
    });
}
