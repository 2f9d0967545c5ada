//! Tokens and discovery, checked by libraries that are not ours: PyJWT (Python), jose (JavaScript), go-oidc (Go) and
//! jsonwebtoken (Rust). Each is given the issuer's URL, the audience and tokens, as any service would be.
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

mod support;

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use support::cluster::{Cluster, decode, entries, text, token};
use support::operator::{FAKETIME, Operator, Options};
use support::plane::Plane;

const LEDGER: &str = "https://ledger.example.com";
const REPORTS: &str = "https://reports.example.com";

#[test]
fn es256_tokens_verify_elsewhere() {
    verify_elsewhere("ES256", Algorithm::ES256);
}

#[test]
fn rs256_tokens_verify_elsewhere() {
    verify_elsewhere("RS256", Algorithm::RS256);
}

fn verify_elsewhere(name: &str, algorithm: Algorithm) {
    // A plane of its own: the operators of both would work on the same accounts.
    let plane = Plane::start();
    // Under a path, where discovery is easiest to get wrong.
    let address = free_address();
    let issuer = format!("http://{address}/accounts");
    let audiences = format!("--allowed-audiences={issuer},{LEDGER},{REPORTS}");
    let operator = Operator::start(
        &plane,
        Options::flags(&[
            &format!("--issuer-url={issuer}"),
            &format!("--public-address={address}"),
            &format!("--signing-algorithm={name}"),
            &audiences,
        ]),
    );
    let tokens = rotated(&Cluster::of(&plane), &plane.namespace("verifiers"));
    for token in &tokens {
        assert_eq!(decode(token).0["alg"], name);
        assert!(operator.accepts(token));
    }

    for service in services() {
        for audience in [LEDGER, REPORTS] {
            let claims: Vec<Value> = tokens.iter().map(|token| decode(token).1).collect();
            assert_eq!(service.claims(&issuer, audience, &tokens), claims, "{}", service.name);
        }
        service.refuses(&issuer, &issuer, &tokens[0], "aud");
        service.refuses(&issuer, LEDGER, &forged(&tokens[0]), "signature");
        service.refuses(&format!("http://{address}"), LEDGER, &tokens[0], "issuer");
    }
    // More than `iat` allows for: a moved clock does matter.
    let late = Service { clock: Some("-90s"), ..pyjwt() };
    late.refuses(&issuer, LEDGER, &tokens[0], "iat");

    for token in &tokens {
        let claims = jsonwebtoken_claims(&operator, algorithm, &issuer, token);
        assert_eq!(claims.expect("jsonwebtoken accepts the token"), decode(token).1);
    }
    assert!(jsonwebtoken_claims(&operator, algorithm, &issuer, &forged(&tokens[0])).is_err());
}

/// The tokens of an account with two audiences after a rotation: the new one and the previous one.
fn rotated(cluster: &Cluster, namespace: &str) -> Vec<String> {
    cluster.create_account(namespace, "cart", json!({"audiences": [LEDGER, REPORTS]}));
    let account = cluster.wait_ready(namespace, "cart");
    let jti = entries(&account)[0]["id"].as_str().expect("an id").to_owned();
    cluster.annotate(namespace, "cart", "virtualaccounts.dev/rotate", &json!("1,grace=1h"));
    cluster.wait_successor(namespace, "cart", &jti);
    let secret = cluster.secret(namespace, "cart-token").expect("the Secret exists");
    vec![token(&secret), text(&secret, "previous-token").expect("the previous token is kept")]
}

/// A program that verifies tokens with somebody else's library.
struct Service {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<PathBuf>,
    /// How wrong its clock is, for libfaketime.
    clock: Option<&'static str>,
}

fn services() -> Vec<Service> {
    let node = Service {
        name: "jose",
        program: "node".into(),
        arguments: vec![script("hack/node-env.sh").join("verify.mjs")],
        clock: None,
    };
    let go = Service { name: "go-oidc", program: go_oidc(), arguments: Vec::new(), clock: None };
    let slow = Service { name: "PyJWT, its clock 20 s behind", clock: Some("-20s"), ..pyjwt() };
    vec![pyjwt(), slow, node, go]
}

fn pyjwt() -> Service {
    Service {
        name: "PyJWT",
        program: script("hack/python-env.sh").join("bin/python"),
        arguments: vec![checkout().join("tests/verifiers/python/verify.py")],
        clock: None,
    }
}

fn go_oidc() -> PathBuf {
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("go-oidc-{}", std::process::id()));
    if !binary.exists() {
        // Two tests of this process may build it at the same time: each moves a whole file into place.
        let mine = binary.with_extension(format!("{:?}", std::thread::current().id()));
        let mut build = Command::new("go");
        build.arg("build").arg("-C").arg(checkout().join("tests/verifiers/go")).arg("-o").arg(&mine);
        let output = build.output().expect("go can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(mine, &binary).expect("the target directory can be written");
    }
    binary
}

impl Service {
    /// The claims of the tokens, all of which it must accept.
    fn claims(&self, issuer: &str, audience: &str, tokens: &[String]) -> Vec<Value> {
        let output = self.run(issuer, audience, tokens);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}: {stderr}", self.name, output.status);
        let stdout = String::from_utf8(output.stdout).expect("it prints JSON");
        stdout.lines().map(|line| serde_json::from_str(line).expect("it prints JSON")).collect()
    }

    /// It must refuse the token, with this word in the reason.
    fn refuses(&self, issuer: &str, audience: &str, token: &str, because: &str) {
        let output = self.run(issuer, audience, &[token.to_owned()]);
        let stderr = String::from_utf8_lossy(&output.stderr).to_lowercase();
        let refused = !output.status.success() && output.stdout.is_empty() && stderr.contains(because);
        assert!(refused, "{} must refuse because of the {because}: {stderr}", self.name);
    }

    fn run(&self, issuer: &str, audience: &str, tokens: &[String]) -> Output {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .args([issuer, audience])
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1");
        if let Some(clock) = self.clock {
            command.env("LD_PRELOAD", FAKETIME).env("FAKETIME", clock);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {}: {error}", self.name));
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // One that refuses to begin may have closed it.
        let _ = stdin.write_all((tokens.join("\n") + "\n").as_bytes());
        drop(stdin);
        child.wait_with_output().expect("it can be waited for")
    }
}

/// What the crate jsonwebtoken makes of the token and the served keys.
fn jsonwebtoken_claims(
    operator: &Operator,
    algorithm: Algorithm,
    issuer: &str,
    token: &str,
) -> jsonwebtoken::errors::Result<Value> {
    let keys: JwkSet = serde_json::from_value(operator.jwks()).expect("the JWKS is one");
    let kid = jsonwebtoken::decode_header(token)?.kid.expect("the token names its key");
    let key = DecodingKey::from_jwk(keys.find(&kid).expect("the key is served"))?;
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&[LEDGER]);
    validation.set_issuer(&[issuer]);
    validation.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
    validation.leeway = 0;
    jsonwebtoken::decode(token, &key, &validation).map(|data| data.claims)
}

/// The token with another subject under the same signature.
fn forged(token: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let (_, mut claims) = decode(token);
    claims["sub"] = json!("va:kube-system:admin");
    let parts: Vec<&str> = token.split('.').collect();
    format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2])
}

/// An address that was free a moment ago: the issuer's URL names the port, so it must be known before the start.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").to_string()
}

/// Runs a script of the checkout that prints a path.
fn script(path: &str) -> PathBuf {
    let output = Command::new(checkout().join(path)).stderr(Stdio::inherit()).output().expect("the script can be run");
    assert!(output.status.success(), "{path}: {}", output.status);
    String::from_utf8_lossy(&output.stdout).trim_end().into()
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
