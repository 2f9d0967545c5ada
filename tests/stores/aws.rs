//! What tests of the AWS stores share, and how these stores log in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use tokio::net::TcpListener;
use virtual_account_operator::api::{AwsAccessKey, AwsAuth, AwsSecretsManager, SecretKeyRef, ServiceAccountRef};
use virtual_account_operator::integration::{ErrorKind, Network};
use virtual_account_operator::store::Store;
use virtual_account_operator::store::aws_secrets_manager::SecretsManager;

use super::moto::Moto;
use super::story::{CANARY, Given};

pub(crate) const REGION: &str = "eu-central-1";
const ROLE: &str = "arn:aws:iam::123456789012:role/virtual-accounts";
pub(crate) const NETWORK: Network = Network { allow_local: true, allow_http: false, timeout: Duration::from_secs(10) };

/// An access key in the store's namespace.
pub(crate) fn key(id: &str, secret: &str) -> Arc<Given> {
    let given = Given::secret("aws", "id", id);
    given.set("aws", "secret", secret);
    Arc::new(given)
}

pub(crate) fn any_key() -> Arc<Given> {
    key("AKIAONE", CANARY)
}

pub(crate) fn access_key() -> AwsAuth {
    let key = |key: &str| SecretKeyRef { name: "aws".into(), key: key.into() };
    let key = AwsAccessKey { access_key_id: key("id"), secret_access_key: key("secret"), session_token: None };
    AwsAuth { secret_ref: Some(key), service_account_ref: None }
}

fn service_account() -> AwsAuth {
    AwsAuth { secret_ref: None, service_account_ref: Some(ServiceAccountRef { name: "writer".into() }) }
}

pub(crate) fn settings(url: &str) -> AwsSecretsManager {
    AwsSecretsManager {
        region: REGION.into(),
        endpoint: Some(url.into()),
        sts_endpoint: Some(url.into()),
        auth: Some(access_key()),
        ..AwsSecretsManager::default()
    }
}

fn open(settings: &AwsSecretsManager, namespace: &Arc<Given>) -> SecretsManager {
    SecretsManager::open(settings, Some("/team/"), namespace.clone(), NETWORK).unwrap()
}

#[tokio::test]
async fn a_service_accounts_token_is_exchanged_once_while_the_credentials_last() {
    let spec = AwsSecretsManager {
        role_arn: Some(ROLE.into()),
        auth: Some(service_account()),
        ..settings(&Moto::shared().url)
    };
    let namespace = Arc::new(Given::secret("writer", "sts.amazonaws.com", CANARY));
    let store = open(&spec, &namespace);
    for _ in 0..3 {
        store.check().await.unwrap();
    }
    assert_eq!(namespace.asked(), 1);
}

#[tokio::test]
async fn an_access_key_can_assume_a_role() {
    let spec = AwsSecretsManager { role_arn: Some(ROLE.into()), ..settings(&Moto::shared().url) };
    open(&spec, &any_key()).check().await.unwrap();
}

#[tokio::test]
async fn a_changed_secret_is_picked_up_and_a_refused_one_is_read_again_once() {
    let aws = Refusing::start("AKIANEW").await;
    let namespace = key("AKIAOLD", CANARY);
    let store = open(&settings(&aws.url), &namespace);
    let error = store.check().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "UnrecognizedClientException"));
    assert_eq!(aws.calls(), 2);

    namespace.set("aws", "id", "AKIANEW");
    store.check().await.unwrap();
    assert_eq!(aws.calls(), 4);
    store.check().await.unwrap();
    assert_eq!(aws.calls(), 5);
}

#[tokio::test]
async fn a_missing_secret_is_told_as_it_is() {
    let store = open(&settings(&Moto::shared().url), &Arc::new(Given::default()));
    let error = store.check().await.unwrap_err();
    assert_eq!(error.to_string(), "SecretNotFound: Secret aws has no key id");
}

#[tokio::test]
async fn a_server_that_does_not_answer_or_is_not_there_is_unavailable() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let namespace = any_key();
    let network = Network { timeout: Duration::from_millis(300), ..NETWORK };
    let store = SecretsManager::open(&settings(&url), None, namespace, network).unwrap();
    let error = store.check().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Unavailable, "Timeout"));
    drop(silent);
    let store = SecretsManager::open(&settings(&url), None, any_key(), NETWORK).unwrap();
    let error = store.check().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Unavailable, "Unreachable"));
}

#[tokio::test]
async fn local_addresses_are_refused_as_literals_and_through_dns() {
    let network = Network { allow_local: false, allow_http: false, ..NETWORK };
    let namespace = any_key();
    for url in ["http://sm.example.com", "https://127.0.0.1", "https://169.254.169.254", "https://[fd00:ec2::254]"] {
        for sts in [false, true] {
            let mut spec = settings("https://sm.example.com");
            *if sts { &mut spec.sts_endpoint } else { &mut spec.endpoint } = Some(url.into());
            let opened = SecretsManager::open(&spec, None, namespace.clone(), network);
            assert_eq!(opened.err().map(|error| error.reason).as_deref(), Some("InvalidEndpoint"), "{url}");
        }
    }
    let spec = settings("https://localhost:1");
    let error = SecretsManager::open(&spec, None, namespace, network).unwrap().check().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Invalid, "InvalidEndpoint"), "{error}");
}

/// The environment counts only if no credentials are named. Environments are of whole processes, so this test runs itself
/// again in one.
#[tokio::test]
async fn the_environment_is_used_only_without_auth() {
    const NAME: &str = "aws::the_environment_is_used_only_without_auth";
    let Ok(url) = std::env::var("TEST_AWS_URL") else {
        let aws = Refusing::start("AKIAAMBIENT").await;
        let url = aws.url.clone();
        let run = tokio::task::spawn_blocking(move || {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", NAME, "--nocapture"])
                .envs([("TEST_AWS_URL", url.as_str()), ("AWS_ACCESS_KEY_ID", "AKIAAMBIENT")])
                .envs([("AWS_SECRET_ACCESS_KEY", "ambient"), ("AWS_REGION", "us-west-1")])
                .output()
                .unwrap()
        });
        let run = run.await.unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        assert_eq!(aws.calls(), 3);
        return;
    };
    let namespace = key("AKIAOTHER", "other");
    let error = open(&settings(&url), &namespace).check().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    let ambient = AwsSecretsManager { auth: None, ..settings(&url) };
    open(&ambient, &namespace).check().await.unwrap();
}

/// AWS as it treats unknown access keys; whoever has the known one asks for a secret that does not exist.
pub(crate) struct Refusing {
    pub(crate) url: String,
    state: Arc<(String, AtomicU32)>,
}

impl Refusing {
    pub(crate) async fn start(known: &str) -> Self {
        let state = Arc::new((known.to_owned(), AtomicU32::new(0)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    pub(crate) fn calls(&self) -> u32 {
        self.state.1.load(Ordering::SeqCst)
    }
}

async fn answer(State(state): State<Arc<(String, AtomicU32)>>, headers: HeaderMap) -> Response {
    state.1.fetch_add(1, Ordering::SeqCst);
    let signed = headers["authorization"].to_str().unwrap();
    // The region is the store's, whatever the environment says.
    let known = signed.contains(&format!("Credential={}/", state.0)) && signed.contains(&format!("/{REGION}/"));
    let code = if known { "ResourceNotFoundException" } else { "UnrecognizedClientException" };
    let body = format!(r#"{{"__type":"{code}","message":"for {signed}"}}"#);
    (StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.1")], body).into_response()
}
