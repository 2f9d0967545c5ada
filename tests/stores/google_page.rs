//! What the page on Google Secret Manager tells users to do is done here: its samples are opened, and its role is enough
//! and no more. Of IAM, the fake knows permissions, but neither bindings nor conditions.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use virtual_account_operator::api::{GoogleAuth, TokenStore, TokenStoreSpec};
use virtual_account_operator::integration::{ErrorKind, ProviderError};
use virtual_account_operator::store::path::name;
use virtual_account_operator::store::{GoogleSecretManager, Provider, Store};

use super::google::{NETWORK, federated, open, shared};
use super::google_fake::{Fake, POOL, SUBJECT, fakes, projected};
use super::google_login::key;
use super::server::python;
use super::story::{Given, issued};

const PAGE: &str = "docs/stores/google-secret-manager.md";

#[tokio::test]
async fn the_samples_work() {
    let samples = samples();
    assert_eq!(samples.len(), 4);
    for spec in samples {
        let mut settings = spec.google_secret_manager.clone().unwrap();
        settings.endpoint = Some(shared().url.clone());
        settings.sts_endpoint = settings.endpoint.clone();
        settings.iam_endpoint = settings.endpoint.clone();
        let given = given(&mut settings.auth);
        let store = GoogleSecretManager::open(&settings, spec.path_prefix.as_deref(), given, NETWORK).await.unwrap();
        live(&store, &within(&spec)).await.unwrap();
    }
}

#[tokio::test]
async fn the_role_is_enough_and_no_more() {
    let permissions = permissions();
    let all = Fake::start(&permissions);
    live(&store(&all).await, "all").await.unwrap();
    for permission in &permissions {
        let others: Vec<String> = permissions.iter().filter(|other| *other != permission).cloned().collect();
        let fake = Fake::start(&others);
        let error = live(&store(&fake).await, "less").await.expect_err(permission);
        assert_eq!((error.kind, &*error.reason), (ErrorKind::Denied, "PERMISSION_DENIED"), "{permission}");
        assert!(error.message.contains(permission.as_str()), "{permission}: {error}");
    }
}

#[test]
fn the_fake_is_what_googles_own_client_for_python_expects() {
    let python = python().join("bin/python");
    let run = Command::new(python).args(["-B", "-m", "unittest", "test_google"]).current_dir(fakes()).output();
    let run = run.expect("Python runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

/// The permissions of the page's role.
pub(super) fn permissions() -> Vec<String> {
    let role: Value = serde_saphyr::from_str(&blocks("yaml")[0]).unwrap();
    serde_json::from_value(role["includedPermissions"].clone()).unwrap()
}

async fn store(fake: &Fake) -> GoogleSecretManager {
    let (mut spec, given) = federated(&fake.url);
    spec["stsEndpoint"] = fake.url.clone().into();
    open(spec, given, NETWORK).await.unwrap()
}

/// All that a store is asked to do, once.
async fn live(store: &dyn Store, path: &str) -> Result<(), ProviderError> {
    store.check().await?;
    for sequence in 1..=3 {
        let token = issued(sequence);
        token.deliver(store, path).await?;
        let held = store.read(path).await?;
        store.retire(path, &held, &BTreeSet::new()).await?;
        if sequence == 2 {
            store.delete(path, &store.read(path).await?).await?;
        }
    }
    store.delete(path, &store.read(path).await?).await
}

/// The name of a path that the store's prefix allows.
fn within(spec: &TokenStoreSpec) -> String {
    let path = format!("{}cart", spec.path_prefix.as_deref().unwrap_or("/").replace("{namespace}", "shop"));
    name(Provider::GoogleSecretManager, &path).unwrap()
}

/// What a sample's credentials refer to. The operator's own are a pod's; here they are a key.
fn given(auth: &mut Option<GoogleAuth>) -> Arc<Given> {
    let auth = auth.get_or_insert_with(|| {
        let secret_ref = serde_json::from_value(serde_json::json!({"name": "own", "key": "key.json"})).unwrap();
        GoogleAuth { secret_ref, ..GoogleAuth::default() }
    });
    let given = Given::default();
    if let Some(account) = &auth.service_account_ref {
        given.set(&account.name, POOL, &projected(SUBJECT, POOL));
    }
    if let Some(secret) = &auth.secret_ref {
        given.set(&secret.name, &secret.key, &key().to_string());
    }
    Arc::new(given)
}

fn samples() -> Vec<TokenStoreSpec> {
    let stores = blocks("yaml").into_iter().filter(|text| text.starts_with("apiVersion"));
    stores.map(|text| serde_saphyr::from_str::<TokenStore>(&text).unwrap().spec).collect()
}

fn blocks(language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).unwrap();
    let start = format!("```{language}\n");
    text.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}
