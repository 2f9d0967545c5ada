//! How a store logs in to Microsoft Entra ID, whom it trusts, and that nothing secret gets into logs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use virtual_account_operator::api::AzureKeyVault;
use virtual_account_operator::integration::{ErrorKind, Network};
use virtual_account_operator::store::Store;
use virtual_account_operator::store::azure_key_vault::KeyVault;

use super::azure_vault::{
    AUDIENCE, Azure, CLIENT, NETWORK, TENANT, assertion, credentials, open, settings, settings_for_workload_identity,
};
use super::fake::Certificate;
use super::logs::Logs;
use super::story::{CANARY, Given, issued};

#[tokio::test]
async fn a_service_accounts_token_logs_in() {
    let azure = Azure::shared();
    let (spec, given) = (settings_for_workload_identity(&azure.url()), credentials());
    let store = open(&spec, &given).await;
    let before = given.asked();
    issued(1).settle(&store, "workload-identity").await;
    assert_eq!(given.asked() - before, 1, "one login is enough");

    given.set("writer", AUDIENCE, &assertion("shop:other"));
    let error = open(&spec, &given).await.check().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "AADSTS700213"));
}

#[tokio::test]
async fn credentials_are_read_again_when_the_access_token_is_refused() {
    let azure = Azure::start(&[]);
    let given = credentials();
    let store = open(&settings(&azure.url()), &given).await;
    let held = issued(1).settle(&store, "again").await;
    azure.revoke().await;
    let before = given.asked();
    assert_eq!(store.read("again").await.unwrap(), held);
    assert_eq!(given.asked() - before, 1);

    azure.revoke().await;
    given.set("azure", "secret", &format!("{CANARY}-wrong"));
    let error = store.read("again").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "AADSTS7000215"));
}

#[tokio::test]
async fn a_missing_credential_is_told_as_such() {
    let given = Arc::new(Given::secret("ca", "ca.crt", &Certificate::shared().pem));
    let store = open(&settings(&Azure::shared().url()), &given).await;
    let error = store.check().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "SecretNotFound"));
}

#[tokio::test]
async fn urls_are_https_and_lead_nowhere_local() {
    let refused = async |spec: AzureKeyVault, allow_local| {
        let network = Network { allow_local, allow_http: false, ..NETWORK };
        let error = KeyVault::open(&spec, credentials(), network).await.err().expect("it is refused");
        (error.kind, error.reason)
    };
    let expected = (ErrorKind::Invalid, "InvalidEndpoint".to_owned());
    assert_eq!(refused(settings("http://127.0.0.1:1"), true).await, expected);
    for url in ["https://127.0.0.1", "https://169.254.169.254", "https://[::1]:8443", "http://vault.example.com"] {
        assert_eq!(refused(settings(url), false).await, expected, "{url}");
        let authority = AzureKeyVault { vault_url: "https://tokens.vault.azure.net".into(), ..settings(url) };
        assert_eq!(refused(authority, false).await, expected, "{url}");
    }
}

const IN_A_CHILD: &str = "azure_login::what_a_pod_with_its_own_identity_does";

/// Runs the next test in a process with this environment.
fn in_a_child(how: &str, variables: &[(&str, &str)]) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([IN_A_CHILD, "--exact"]).env("AZURE_TEST_AS", how);
    child.env("AZURE_TEST_URL", Azure::shared().url()).env("AZURE_TEST_CA", &Certificate::shared().pem);
    let output = child.envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn a_pods_own_identity_is_used_only_without_auth() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("federated-{}", std::process::id()));
    std::fs::write(&file, assertion("platform:writer")).unwrap();
    let path = file.to_str().unwrap();
    let url = Azure::shared().url();
    let own = [
        ("AZURE_FEDERATED_TOKEN_FILE", path),
        ("AZURE_CLIENT_ID", CLIENT),
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_AUTHORITY_HOST", url.as_str()),
    ];
    in_a_child("ambient", &own);
    let misleading = [
        ("AZURE_FEDERATED_TOKEN_FILE", "/nowhere"),
        ("AZURE_CLIENT_ID", "nobody"),
        ("AZURE_TENANT_ID", "nowhere"),
        ("AZURE_CLIENT_SECRET", "wrong"),
        ("AZURE_AUTHORITY_HOST", "https://127.0.0.1:9"),
        ("HTTPS_PROXY", "http://127.0.0.1:9"),
    ];
    in_a_child("application", &misleading);
    std::fs::remove_file(file).unwrap();
}

/// Nothing, unless the test above runs it.
#[tokio::test]
async fn what_a_pod_with_its_own_identity_does() {
    let (Ok(url), Ok(how)) = (std::env::var("AZURE_TEST_URL"), std::env::var("AZURE_TEST_AS")) else { return };
    let given = credentials();
    given.set("ca", "ca.crt", &std::env::var("AZURE_TEST_CA").unwrap());
    let spec = match how.as_str() {
        "ambient" => {
            AzureKeyVault { vault_url: url.clone(), ca_bundle: settings(&url).ca_bundle, ..AzureKeyVault::default() }
        }
        _ => settings(&url),
    };
    issued(1).settle(&open(&spec, &given).await, &format!("pod-{how}")).await;
}

#[tokio::test]
async fn nothing_secret_is_logged_even_at_trace_level() {
    let (logs, logging) = Logs::capture(LevelFilter::TRACE);
    let (azure, given) = (Azure::shared(), credentials());
    let specs = [settings(&azure.url()), settings_for_workload_identity(&azure.url())];
    for (spec, sequences) in specs.iter().zip([[1, 2], [3, 4]]) {
        let store = open(spec, &given).await;
        for sequence in sequences {
            let held = issued(sequence).settle(&store, "logged").await;
            store.retire("logged", &held, &BTreeSet::new()).await.unwrap();
        }
        store.delete("logged", &store.read("logged").await.unwrap()).await.unwrap();
    }
    given.set("azure", "secret", &format!("{CANARY}-wrong"));
    open(&settings(&azure.url()), &given).await.check().await.unwrap_err();
    drop(logging);

    let text = logs.text();
    assert!(text.contains("/secrets/logged"), "the client's own log is there: {text}");
    // Access tokens are JWTs.
    for secret in [CANARY, "Bearer ey", "eyJ0eXAi"] {
        assert!(!text.contains(secret), "{secret} is logged");
    }
}
