//! What the page on Azure tells users to do is done here: its samples are opened, and its role is enough and no more. And
//! the fake passes what Microsoft's own Python clients ask of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use virtual_account_operator::api::{AzureAuth, SecretKeyRef, TokenStore};
use virtual_account_operator::integration::{ErrorKind, ProviderError};
use virtual_account_operator::store::Store;
use virtual_account_operator::store::azure_key_vault::KeyVault;

use super::azure_vault::{AUDIENCE, Azure, NETWORK, TENANT, assertion, client_secret, credentials, open, settings};
use super::fake::{Certificate, fakes};
use super::server::python;
use super::story::{Given, issued};

const PAGE: &str = "docs/stores/azure-key-vault.md";

#[tokio::test]
async fn the_samples_work() {
    let samples = blocks("yaml");
    assert_eq!(samples.len(), 3);
    for text in samples {
        let mut spec = serde_saphyr::from_str::<TokenStore>(&text).unwrap().spec;
        let settings = spec.azure_key_vault.as_mut().unwrap();
        let url = Azure::shared().url();
        assert!(settings.vault_url.ends_with(".vault.azure.net"));
        settings.vault_url = url.clone();
        settings.tenant_id = Some(TENANT.into());
        settings.authority_host = Some(url);
        settings.ca_bundle = Some(SecretKeyRef { name: "ca".into(), key: "ca.crt".into() });
        let given = given(&mut settings.auth);
        settings.client_id.get_or_insert_with(|| "the-operator".into());
        let store = KeyVault::open(settings, given, NETWORK).await.unwrap();
        live(&store, &format!("sample--{}", issued(1).jti().replace('_', "-"))).await.unwrap();
    }
}

#[tokio::test]
async fn the_role_is_enough_and_no_more() {
    let actions = data_actions();
    live(&open(&settings(&Azure::shared().url()), &credentials()).await, "role").await.unwrap();
    for action in &actions {
        let others: Vec<String> = actions.iter().filter(|other| *other != action).cloned().collect();
        let azure = Azure::allowing(&others, &[]);
        let store = open(&settings(&azure.url()), &credentials()).await;
        let error = live(&store, "role").await.expect_err(action);
        assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "ForbiddenByRbac"), "{action}");
        assert!(error.message.contains(action.as_str()), "{error}");
    }
}

#[test]
fn the_fake_is_what_microsofts_python_clients_expect() {
    let mut command = Command::new(python().join("bin/python"));
    command.args(["-m", "unittest", "discover", "-p", "test_azure.py", "-s"]).arg(fakes());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the page's role allows.
pub(crate) fn data_actions() -> Vec<String> {
    let role: Value = serde_json::from_str(&blocks("json")[0]).unwrap();
    serde_json::from_value(role["DataActions"].clone()).unwrap()
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
    Ok(())
}

/// What a sample's credentials refer to. The operator's own are a pod's; here they are given by name.
fn given(auth: &mut Option<AzureAuth>) -> Arc<Given> {
    let auth = auth.get_or_insert_with(|| settings("").auth.unwrap());
    let given = Given::secret("ca", "ca.crt", &Certificate::shared().pem);
    if let Some(account) = &auth.service_account_ref {
        given.set(&account.name, AUDIENCE, &assertion("platform:writer"));
    }
    if let Some(secret) = &auth.secret_ref {
        given.set(&secret.name, &secret.key, &client_secret());
    }
    Arc::new(given)
}

fn blocks(language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).unwrap();
    let start = format!("```{language}\n");
    text.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}
