//! Logging in to Google: every way, credentials that change or are refused, and addresses that are not followed.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use axum::Router;
use axum::response::Redirect;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use virtual_account_operator::integration::{ErrorKind, Network, ProviderError};
use virtual_account_operator::store::Store;

use super::google::{NETWORK, federated, open, shared};
use super::google_fake::{EMAIL, Fake, POOL, PROJECT, SUBJECT, projected};
use super::google_page::permissions;
use super::story::{CANARY, Given, issued};

/// Where a process finds its own identity.
const AMBIENT: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// The JSON file of a service account's key, with addresses that nobody must follow.
pub(super) fn key() -> Value {
    static PEM: LazyLock<String> = LazyLock::new(|| {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let lines: Vec<String> = STANDARD
            .encode(der.as_ref())
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into())
            .collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    });
    json!({
        "type": "service_account", "project_id": PROJECT, "private_key_id": "0123", "private_key": *PEM,
        "client_email": EMAIL, "token_uri": "http://127.0.0.1:9/token", "auth_uri": "http://127.0.0.1:9/auth",
    })
}

fn with_key(fake: &Fake, key: &Value) -> (Value, Arc<Given>) {
    let auth = json!({"secretRef": {"name": "google", "key": "key.json"}});
    let spec = json!({"projectId": PROJECT, "endpoint": fake.url, "auth": auth});
    (spec, Arc::new(Given::secret("google", "key.json", &key.to_string())))
}

fn discreet(error: &ProviderError) {
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(CANARY) && !shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test]
async fn a_key_signs_its_access_tokens_itself() {
    let (spec, given) = with_key(shared(), &key());
    let store = open(spec, given.clone(), NETWORK).await.unwrap();
    issued(1).settle(&store, "by-key").await;
    assert_eq!(given.asked(), 1, "one login serves many calls");
}

/// Runs this test alone again, in a process whose own identity is this key.
fn again_as(test: &str, name: &str, key: &Value) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("google-{name}-{}.json", std::process::id()));
    std::fs::write(&file, key.to_string()).unwrap();
    let run =
        Command::new(std::env::current_exe().unwrap()).args([test, "--exact"]).env(AMBIENT, &file).output().unwrap();
    std::fs::remove_file(file).unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn without_auth_the_operators_own_identity_is_used() {
    if std::env::var_os(AMBIENT).is_none() {
        return again_as("google_login::without_auth_the_operators_own_identity_is_used", "own", &key());
    }
    let spec = json!({"projectId": PROJECT, "endpoint": shared().url});
    issued(1).settle(&open(spec, Arc::default(), NETWORK).await.unwrap(), "ambient").await;
}

#[tokio::test]
async fn the_operators_own_token_goes_to_no_server_but_googles() {
    let named = Network { allow_local: false, ..NETWORK };
    for elsewhere in ["https://vault.example.com", "https://googleapis.com.example.com", "https://203.0.113.7"] {
        let spec = json!({"projectId": PROJECT, "endpoint": elsewhere});
        let error = open(spec, Arc::default(), named).await.err().unwrap_or_else(|| panic!("{elsewhere} is taken"));
        assert_eq!((error.kind, &*error.reason), (ErrorKind::Invalid, "InvalidAuth"), "{elsewhere}");
        assert!(error.to_string().contains("googleSecretManager.endpoint"), "{error}");
        // A key makes tokens of its own.
        let auth = json!({"secretRef": {"name": "google", "key": "key.json"}});
        let spec = json!({"projectId": PROJECT, "endpoint": elsewhere, "auth": auth});
        let given = Given::secret("google", "key.json", &key().to_string());
        assert!(open(spec, Arc::new(given), named).await.is_ok(), "{elsewhere}");
    }
    // Private Service Connect; there may be no identity here, which is told after.
    let spec = json!({"projectId": PROJECT, "endpoint": "https://secretmanager-a.p.googleapis.com"});
    let reason = open(spec, Arc::default(), named).await.err().map(|error| error.reason);
    assert!(reason.as_deref().is_none_or(|reason| reason == "NoAmbientCredentials"), "{reason:?}");
}

#[tokio::test]
async fn with_auth_the_operators_own_identity_is_not_looked_at() {
    let (mut external, mut stranger) = (key(), key());
    external["type"] = json!("external_account");
    stranger["client_email"] = json!("stranger@some-project.iam.gserviceaccount.com");
    if std::env::var_os(AMBIENT).is_none() {
        let test = "google_login::with_auth_the_operators_own_identity_is_not_looked_at";
        again_as(test, "external", &external);
        return again_as(test, "stranger", &stranger);
    }
    for (spec, given) in [federated(&shared().url), with_key(shared(), &key())] {
        open(spec, given, NETWORK).await.unwrap().check().await.unwrap();
    }
}

#[tokio::test]
async fn a_changed_key_is_picked_up_when_the_old_one_is_refused() {
    let mut other = key();
    other["client_email"] = json!("stranger@some-project.iam.gserviceaccount.com");
    let (spec, given) = with_key(shared(), &other);
    let store = open(spec, given.clone(), NETWORK).await.unwrap();
    let error = store.check().await.unwrap_err();
    assert_eq!((error.kind, &*error.reason), (ErrorKind::Denied, "UNAUTHENTICATED"));
    discreet(&error);
    given.set("google", "key.json", &key().to_string());
    store.check().await.unwrap();
}

#[tokio::test]
async fn what_is_no_service_accounts_key_is_denied_and_not_shown() {
    let mut external = key();
    external["type"] = json!("external_account");
    let mut damaged = key();
    damaged["private_key"] = json!(format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"));
    for bad in [json!(CANARY), json!({}), external, damaged] {
        let (spec, given) = with_key(shared(), &bad);
        let error = open(spec, given, NETWORK).await.unwrap().check().await.unwrap_err();
        assert_eq!((error.kind, &*error.reason), (ErrorKind::Denied, "InvalidCredential"));
        discreet(&error);
    }
}

#[tokio::test]
async fn a_service_account_can_be_impersonated() {
    let (mut spec, given) = federated(&shared().url);
    spec["auth"]["serviceAccountEmail"] = json!(EMAIL);
    issued(1).settle(&open(spec.clone(), given.clone(), NETWORK).await.unwrap(), "impersonated").await;
    spec["auth"]["serviceAccountEmail"] = json!("stranger@some-project.iam.gserviceaccount.com");
    let error = open(spec, given, NETWORK).await.unwrap().check().await.unwrap_err();
    assert_eq!((error.kind, &*error.reason), (ErrorKind::Denied, "PERMISSION_DENIED"));
    assert!(error.message.starts_with("the impersonation: "), "{error}");
}

#[tokio::test]
async fn a_refused_exchange_tells_googles_reason() {
    let (spec, given) = federated(&shared().url);
    given.set("token-writer", POOL, &projected(SUBJECT, "https://other"));
    let error = open(spec, given, NETWORK).await.unwrap().check().await.unwrap_err();
    assert_eq!((error.kind, &*error.reason), (ErrorKind::Denied, "invalid_grant"));
    assert_eq!(error.message, "the token exchange: The audience in ID Token does not match the expected audience.");
}

#[tokio::test]
async fn a_revoked_login_is_made_anew() {
    let fake = Fake::start(&permissions());
    let (mut spec, given) = federated(&fake.url);
    spec["stsEndpoint"] = json!(fake.url);
    let store = open(spec, given.clone(), NETWORK).await.unwrap();
    store.check().await.unwrap();
    fake.revoke().await;
    store.check().await.unwrap();
    assert_eq!(given.asked(), 2);
}

#[tokio::test]
async fn token_endpoints_that_fail_are_unavailable() {
    for (endpoint, field) in [("http://127.0.0.1:9", "stsEndpoint"), ("http://127.0.0.1:9", "iamEndpoint")] {
        let (mut spec, given) = federated(&shared().url);
        spec[field] = json!(endpoint);
        spec["auth"]["serviceAccountEmail"] = json!(EMAIL);
        let error = open(spec, given, NETWORK).await.unwrap().check().await.unwrap_err();
        assert_eq!((error.kind, &*error.reason), (ErrorKind::Unavailable, "Unreachable"), "{field}");
        discreet(&error);
    }
}

#[tokio::test]
async fn local_and_metadata_addresses_are_refused() {
    let network = Network { allow_local: false, allow_http: false, timeout: Duration::from_secs(5) };
    let good = "https://secretmanager.example";
    for (endpoint, sts) in [
        ("http://secretmanager.example", good),
        ("https://127.0.0.1:8443", good),
        ("https://169.254.169.254", good),
        ("https://[::1]", good),
        ("https://localhost:1", good),
        (good, "http://sts.example"),
        (good, "https://169.254.169.254"),
        (good, "https://localhost:1"),
    ] {
        let (mut spec, given) = federated(endpoint);
        spec["stsEndpoint"] = json!(sts);
        spec["iamEndpoint"] = json!(good);
        // What is looked up comes first; these names are only looked up where they must be.
        if endpoint == good {
            spec.as_object_mut().unwrap().remove("endpoint");
        }
        let refused = match open(spec, given, network).await {
            Ok(store) => store.check().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(
            (refused.kind, &*refused.reason),
            (ErrorKind::Invalid, "InvalidEndpoint"),
            "{endpoint} {sts}: {refused}"
        );
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let followed = Arc::new(AtomicUsize::new(0));
    let target = Arc::clone(&followed);
    let app = Router::new()
        .route(
            "/elsewhere",
            axum::routing::any(move || async move {
                target.fetch_add(1, Ordering::SeqCst);
            }),
        )
        .fallback(|| async { Redirect::temporary("/elsewhere") });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    for field in ["endpoint", "stsEndpoint", "iamEndpoint"] {
        let (mut spec, given) = federated(&shared().url);
        spec[field] = json!(url);
        spec["auth"]["serviceAccountEmail"] = json!(EMAIL);
        let error = open(spec, given, NETWORK).await.unwrap().check().await.unwrap_err();
        assert_eq!((error.kind, &*error.reason), (ErrorKind::Invalid, "Redirected"), "{field}");
    }
    assert_eq!(followed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn exactly_one_way_to_log_in_is_named() {
    let one = json!({"name": "google", "key": "key.json"});
    for auth in [
        json!({}),
        json!({"serviceAccountRef": {"name": "a"}}),
        json!({"secretRef": one, "serviceAccountRef": {"name": "a"}, "workloadIdentityProvider": POOL}),
    ] {
        let spec = json!({"projectId": PROJECT, "auth": auth});
        let error = open(spec, Arc::default(), NETWORK).await.err().unwrap();
        assert_eq!((error.kind, &*error.reason), (ErrorKind::Invalid, "InvalidAuth"));
    }
}
