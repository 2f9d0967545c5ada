//! What the pages on AWS tell users to do is done here: their samples are opened, and their policies are enough and no
//! more. Of IAM, moto enforces signatures and actions, but neither resources nor conditions.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use virtual_account_operator::api::{AwsAuth, TokenStore, TokenStoreSpec};
use virtual_account_operator::integration::{ErrorKind, Identity, ProviderError};
use virtual_account_operator::store::Store;
use virtual_account_operator::store::aws_parameter_store::ParameterStore;
use virtual_account_operator::store::aws_secrets_manager::SecretsManager;

use super::aws::{NETWORK, access_key, key, settings};
use super::moto::Moto;
use super::parameter_store;
use super::story::{Given, issued};

const SECRETS_MANAGER: &str = "docs/stores/aws-secrets-manager.md";
const PARAMETER_STORE: &str = "docs/stores/aws-parameter-store.md";

#[tokio::test]
async fn the_samples_for_secrets_manager_work() {
    for spec in samples(SECRETS_MANAGER, 3) {
        let mut settings = spec.aws_secrets_manager.clone().unwrap();
        (settings.endpoint, settings.sts_endpoint) = (here(), here());
        let given = given(&mut settings.auth);
        let store = SecretsManager::open(&settings, spec.path_prefix.as_deref(), given, NETWORK).unwrap();
        live(&store, &within(&spec)).await.unwrap();
    }
}

#[tokio::test]
async fn the_samples_for_parameter_store_work() {
    for spec in samples(PARAMETER_STORE, 2) {
        let mut settings = spec.aws_parameter_store.clone().unwrap();
        (settings.endpoint, settings.sts_endpoint) = (here(), here());
        let given = given(&mut settings.auth);
        let store = ParameterStore::open(&settings, spec.path_prefix.as_deref(), given, NETWORK).unwrap();
        live(&store, &within(&spec)).await.unwrap();
    }
}

#[tokio::test]
async fn the_policy_for_secrets_manager_is_enough_and_no_more() {
    let moto = Moto::start();
    let open = |given| SecretsManager::open(&settings(&moto.url), Some("/team/"), given, NETWORK).unwrap();
    enough_and_no_more(&moto, SECRETS_MANAGER, open).await;
}

#[tokio::test]
async fn the_policy_for_parameter_store_is_enough_and_no_more() {
    let moto = Moto::start();
    let settings = parameter_store::settings(&moto.url);
    let open = |given| ParameterStore::open(&settings, Some("/team/"), given, NETWORK).unwrap();
    enough_and_no_more(&moto, PARAMETER_STORE, open).await;
}

async fn enough_and_no_more<S: Store>(moto: &Moto, page: &str, open: impl Fn(Arc<dyn Identity>) -> S) {
    let actions = actions(page);
    let users = Users::of(moto, &actions).await;
    live(&open(users.all()), "/team/all").await.unwrap();
    for action in &actions {
        let path = format!("/team/{}", action.replace(':', "-"));
        let error = live(&open(users.without(action)), &path).await.expect_err(action);
        assert_eq!(error.kind, ErrorKind::Denied, "{action}");
        assert!(error.message.starts_with(action.split(':').next_back().unwrap()), "{action}: {error}");
    }
    assert_eq!(open(users.impostor()).check().await.unwrap_err().kind, ErrorKind::Denied);
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
    // What was an account's before it was created again.
    let mut token = issued(4);
    token.mark.owner.uid = "another".into();
    token.deliver(store, path).await.map(drop)
}

fn here() -> Option<String> {
    Some(Moto::shared().url.clone())
}

/// A path that the store's prefix allows.
fn within(spec: &TokenStoreSpec) -> String {
    format!("{}cart", spec.path_prefix.as_deref().unwrap_or("/").replace("{namespace}", "shop"))
}

/// What a sample's credentials refer to. The operator's own are a pod's; here they are given by name.
fn given(auth: &mut Option<AwsAuth>) -> Arc<Given> {
    let auth = auth.get_or_insert_with(access_key);
    let given = Given::default();
    if let Some(account) = &auth.service_account_ref {
        given.set(&account.name, "sts.amazonaws.com", "a.projected.token");
    }
    if let Some(secret) = &auth.secret_ref {
        given.set(&secret.access_key_id.name, &secret.access_key_id.key, "AKIAONE");
        given.set(&secret.secret_access_key.name, &secret.secret_access_key.key, "one");
    }
    Arc::new(given)
}

fn samples(page: &str, count: usize) -> Vec<TokenStoreSpec> {
    let stores = blocks(page, "yaml").into_iter().map(|text| serde_saphyr::from_str::<TokenStore>(&text).unwrap());
    let specs: Vec<_> = stores.map(|store| store.spec).collect();
    assert_eq!(specs.len(), count);
    specs
}

/// What the page's first policy allows.
fn actions(page: &str) -> BTreeSet<String> {
    let policy: Value = serde_json::from_str(&blocks(page, "json")[0]).unwrap();
    let statements = policy["Statement"].as_array().unwrap().iter();
    statements
        .flat_map(|statement| serde_json::from_value::<Vec<String>>(statement["Action"].clone()).unwrap())
        .collect()
}

fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let start = format!("```{language}\n");
    text.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Users of IAM: one who may do all, and for each action one who may do all but that.
struct Users(Vec<(String, Value)>);

impl Users {
    /// From now on moto lets nobody else in.
    async fn of(moto: &Moto, actions: &BTreeSet<String>) -> Self {
        let mut users = vec![(String::new(), user(moto, "all", actions))];
        for (index, action) in actions.iter().enumerate() {
            let others = actions.iter().filter(|other| *other != action).cloned().collect();
            users.push((action.clone(), user(moto, &format!("user-{index}"), &others)));
        }
        let reset = format!("{}/moto-api/reset-auth", moto.url);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.post(reset).body("0").send().await.unwrap().error_for_status().unwrap();
        Self(users)
    }

    fn all(&self) -> Arc<Given> {
        self.without("")
    }

    fn without(&self, action: &str) -> Arc<Given> {
        let (_, access) = self.0.iter().find(|(lacks, _)| lacks == action).unwrap();
        key(access["AccessKeyId"].as_str().unwrap(), access["SecretAccessKey"].as_str().unwrap())
    }

    /// With somebody's id, and without the secret.
    fn impostor(&self) -> Arc<Given> {
        key(self.0[0].1["AccessKeyId"].as_str().unwrap(), "guessed")
    }
}

fn user(moto: &Moto, name: &str, actions: &BTreeSet<String>) -> Value {
    let statement = json!({"Effect": "Allow", "Action": actions, "Resource": "*"});
    let policy = json!({"Version": "2012-10-17", "Statement": [statement]}).to_string();
    moto.boto("iam", "create_user", &json!({"UserName": name}));
    let put = json!({"UserName": name, "PolicyName": "page", "PolicyDocument": policy});
    assert_eq!(moto.boto("iam", "put_user_policy", &put)["error"], Value::Null);
    moto.boto("iam", "create_access_key", &json!({"UserName": name}))["AccessKey"].clone()
}
