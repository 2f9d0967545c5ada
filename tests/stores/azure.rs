//! Azure Key Vault, on a fake: the contract, soft deletion, what others do meanwhile, and how a store logs in.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use serde_json::json;
use virtual_account_operator::api::AzureKeyVault;
use virtual_account_operator::store::azure_key_vault::KeyVault;
use virtual_account_operator::store::{ErrorKind, Network, Presence, Store, Verdict};

use super::azure_vault::{
    AUDIENCE, Azure, CLIENT, NETWORK, TENANT, assertion, credentials, open, settings, settings_for_workload_identity,
};
use super::contract::{Instance, Opening, contract, troubles};
use super::fake::Certificate;
use super::fault::{Errors, IsWrite};
use super::story::{CANARY, Given, issued, issued_to};

contract!(OnFake(Azure::shared()));
troubles!(OnFake(Azure::shared()));

struct OnFake(&'static Azure);

#[async_trait]
impl Instance for OnFake {
    async fn open(&self) -> Box<dyn Store> {
        Box::new(open(&settings(&self.0.url()), &credentials()).await)
    }

    async fn open_as(&self, how: Opening) -> Option<Box<dyn Store>> {
        let (mut spec, mut network, given) = (settings(&self.0.url()), NETWORK, credentials());
        match how {
            Opening::At(url, timeout) => {
                spec = settings(&url.replace("http://", "https://"));
                network.timeout = timeout;
            }
            Opening::Refused => given.set("azure", "secret", &format!("{CANARY}-wrong")),
            Opening::Nowhere => spec.tenant_id = Some("no-such-tenant".into()),
        }
        Some(Box::new(KeyVault::open(&spec, given, network).await.unwrap()))
    }

    fn server(&self) -> Option<String> {
        Some(self.0.url())
    }

    fn certificate(&self) -> Option<&Certificate> {
        Some(Certificate::shared())
    }

    /// Logins are forms.
    fn is_write(&self) -> IsWrite {
        |method, headers| {
            let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            *method != Method::GET && kind != "application/x-www-form-urlencoded"
        }
    }

    fn errors(&self) -> Errors {
        |_| r#"{"error":{"code":"Ordered","message":"ordered by the test"}}"#
    }

    fn path(&self, unique: &str) -> String {
        format!("contract--{}--token", unique.replace('_', "-"))
    }

    async fn put_by_hand(&self, path: &str, value: &str) {
        self.0.put(path, value, None).await;
    }

    async fn wipe(&self, path: &str) {
        self.0.purge(path).await;
    }

    async fn usable(&self, path: &str) -> Vec<String> {
        self.0.usable(path).await
    }

    async fn versions(&self, path: &str) -> usize {
        self.0.versions(path).await.len()
    }

    async fn value(&self, path: &str) -> Option<String> {
        self.0.current(path).await["value"].as_str().map(str::to_owned)
    }
}

/// The store, on the vault that all share.
async fn shared() -> (&'static Azure, KeyVault) {
    let azure = Azure::shared();
    (azure, open(&settings(&azure.url()), &credentials()).await)
}

#[tokio::test]
async fn a_version_has_the_tokens_end_and_keeps_tags_of_others() {
    let (azure, store) = shared().await;
    issued(1).settle(&store, "attributes").await;
    let id = azure.current_id("attributes").await;
    let mut tags = azure.current("attributes").await["tags"].clone();
    tags["cost-centre"] = json!("42");
    azure.call(Method::PATCH, &format!("/secrets/attributes/{id}"), Some(json!({"tags": tags}))).await;

    let second = issued(2);
    second.settle(&store, "attributes").await;
    let current = azure.current("attributes").await;
    assert_eq!(current["attributes"]["exp"], second.mark.expires_at.as_unix());
    assert_eq!(current["contentType"], "application/jwt");
    assert_eq!(current["tags"]["cost-centre"], "42");
    assert_eq!(current["tags"]["virtualaccounts-jti"], second.jti());
}

#[tokio::test]
async fn a_mark_that_was_changed_is_put_right_without_a_new_version() {
    let (azure, store) = shared().await;
    let first = issued(1);
    first.settle(&store, "marked").await;
    let mut lagging = first.mark.clone();
    lagging.sequence -= 1;
    let tags: std::collections::HashMap<&str, String> = lagging.pairs().into();
    let id = azure.current_id("marked").await;
    azure.call(Method::PATCH, &format!("/secrets/marked/{id}"), Some(json!({"tags": tags}))).await;
    assert_eq!(first.deliver(&store, "marked").await, Ok(Verdict::Write));
    assert_eq!(first.deliver(&store, "marked").await, Ok(Verdict::Holds));
    assert_eq!(azure.versions("marked").await.len(), 1);
}

#[tokio::test]
async fn a_version_that_somebody_disabled_is_replaced() {
    let (azure, store) = shared().await;
    let first = issued(1);
    first.settle(&store, "disabled").await;
    let id = azure.current_id("disabled").await;
    let off = json!({"attributes": {"enabled": false}});
    azure.call(Method::PATCH, &format!("/secrets/disabled/{id}"), Some(off)).await;
    let held = store.read("disabled").await.unwrap();
    assert_eq!((held.presence, &held.mark, &held.jti), (Presence::Present, &Some(first.mark.clone()), &None));
    first.settle(&store, "disabled").await;
    assert_eq!(azure.usable("disabled").await, [first.text()]);
}

#[tokio::test]
async fn a_late_write_of_an_older_token_is_put_right_at_the_next_look() {
    let (azure, store) = shared().await;
    let (old, new) = (issued(1), issued(2));
    old.settle(&store, "late").await;
    new.settle(&store, "late").await;
    azure.put_late("late", &old).await;
    assert_eq!(new.deliver(&store, "late").await, Ok(Verdict::Write));
    assert_eq!(azure.current("late").await["value"], new.text());

    // All versions of the old token end with its grace.
    let held = store.read("late").await.unwrap();
    store.retire("late", &held, &BTreeSet::from([old.jti()])).await.unwrap();
    assert_eq!(azure.usable("late").await.iter().filter(|value| *value == old.text()).count(), 2);
    store.retire("late", &held, &BTreeSet::new()).await.unwrap();
    assert_eq!(azure.usable("late").await, [new.text()]);
}

#[tokio::test]
async fn retiring_does_not_end_what_came_after_the_look() {
    let (azure, store) = shared().await;
    issued(1).settle(&store, "after").await;
    let seen = issued(2).settle(&store, "after").await;
    let newest = issued(3);
    azure.put_late("after", &newest).await;
    let error = store.retire("after", &seen, &BTreeSet::new()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(azure.usable("after").await.len(), 3);
}

#[tokio::test]
async fn more_versions_than_a_page_has_are_all_seen() {
    let (azure, store) = shared().await;
    for sequence in 0..30 {
        azure.put_late("many", &issued(sequence)).await;
    }
    let newest = issued(40);
    let held = newest.settle(&store, "many").await;
    store.retire("many", &held, &BTreeSet::new()).await.unwrap();
    assert_eq!(azure.usable("many").await, [newest.text()]);
    assert_eq!(azure.versions("many").await.len(), 31);
}

#[tokio::test]
async fn a_deleted_secret_comes_back_with_its_token_and_no_new_version() {
    let (azure, store) = shared().await;
    let first = issued(1);
    let held = first.settle(&store, "deleted").await;
    store.delete("deleted", &held).await.unwrap();
    let gone = store.read("deleted").await.unwrap();
    assert_eq!((gone.presence, &gone.mark), (Presence::Deleted, &Some(first.mark.clone())));
    first.settle(&store, "deleted").await;
    assert_eq!(azure.versions("deleted").await.len(), 1);

    store.delete("deleted", &held).await.unwrap();
    let second = issued(2);
    second.settle(&store, "deleted").await;
    assert_eq!(azure.usable("deleted").await, [first.text(), second.text()]);
}

#[tokio::test]
async fn what_others_deleted_is_not_recovered() {
    let (_, store) = shared().await;
    let held = issued_to("shop/basket", "cluster-1", 1).settle(&store, "theirs").await;
    store.delete("theirs", &held).await.unwrap();
    let Verdict::NotOurs { owner } = issued(2).judge(&store.read("theirs").await.unwrap()) else { panic!() };
    assert_eq!(owner, "virtual account shop/basket");
}

#[tokio::test]
async fn deletion_and_recovery_may_take_their_time() {
    let azure = Azure::start(&["--slow-delete", "600"]);
    let (patient, given) = (open(&settings(&azure.url()), &credentials()).await, credentials());
    let hasty = Network { timeout: Duration::from_millis(900), ..NETWORK };
    let hasty = KeyVault::open(&settings(&azure.url()), given, hasty).await.unwrap();
    hasty.check().await.unwrap();
    let first = issued(1);
    let held = first.settle(&patient, "slow").await;
    patient.delete("slow", &held).await.unwrap();

    // It shows nowhere, and its name is taken.
    assert_eq!(patient.read("slow").await.unwrap().presence, Presence::Absent);
    let error = issued(2).deliver(&patient, "slow").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Conflict, "ObjectIsBeingDeleted"));
    patient.delete("slow", &held).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while patient.read("slow").await.unwrap().presence != Presence::Deleted {
        assert!(std::time::Instant::now() < deadline, "the deletion does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Whoever has no time is told so; a later pass goes on from there.
    let second = issued(2);
    let error = second.deliver(&hasty, "slow").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Conflict, "ObjectIsBeingRecovered"));
    while patient.read("slow").await.unwrap().presence != Presence::Present {
        assert!(std::time::Instant::now() < deadline, "the recovery does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    second.settle(&patient, "slow").await;
    assert_eq!(azure.usable("slow").await, [first.text(), second.text()]);

    // Whoever has time sees it through.
    let held = patient.read("slow").await.unwrap();
    patient.delete("slow", &held).await.unwrap();
    while patient.read("slow").await.unwrap().presence != Presence::Deleted {
        assert!(std::time::Instant::now() < deadline, "the deletion does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let third = issued(3);
    assert_eq!(third.deliver(&patient, "slow").await, Ok(Verdict::Write));
    assert_eq!(azure.current("slow").await["value"], third.text());
}

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
    let given = std::sync::Arc::new(Given::secret("ca", "ca.crt", &Certificate::shared().pem));
    let store = open(&settings(&Azure::shared().url()), &given).await;
    let error = store.check().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "SecretNotFound"));
}

#[tokio::test]
async fn urls_are_https_and_lead_nowhere_local() {
    let refused = async |spec: AzureKeyVault, allow_local| {
        let network = Network { allow_local, ..NETWORK };
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

#[tokio::test]
async fn names_that_no_secret_has_are_refused() {
    let (_, store) = shared().await;
    for path in ["", "a/b", "a_b", "..", "a?b", &"x".repeat(128)] {
        assert_eq!(store.read(path).await.unwrap_err().reason, "InvalidPath", "{path}");
    }
}

const IN_A_CHILD: &str = "azure::what_a_pod_with_its_own_identity_does";

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
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("federated-{}", std::process::id()));
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
