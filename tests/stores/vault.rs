//! Vault's provider on a real OpenBao, with the policy, the commands and the sample of `docs/stores/vault.md`.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use virtual_account_operator::api::HashicorpVault;
use virtual_account_operator::integration::{Network, ProviderError};
use virtual_account_operator::store::{Store, Vault};

use super::bao::Bao;
use super::contract::{Instance, Opening, contract, troubles};
use super::story::{CANARY, Given};

mod edges;
mod login;

contract!(OpenBao);
troubles!(OpenBao);

const TIMEOUT: Duration = Duration::from_secs(10);

/// The server that the tests share, with the documented policy and AppRole, and the ids of that role.
pub(super) struct Prepared {
    pub(super) bao: Bao,
    role_id: String,
    secret_id: String,
}

pub(super) fn shared() -> &'static Prepared {
    static SHARED: LazyLock<Prepared> = LazyLock::new(|| {
        let bao = Bao::start();
        bao.follow("The policy");
        bao.follow("AppRole");
        let (role_id, secret_id) = (bao.file("role-id"), bao.file("secret-id"));
        Prepared { bao, role_id, secret_id }
    });
    &SHARED
}

/// The store that a specification names, as a test may open it.
pub(super) async fn open(spec: Value, given: Arc<Given>) -> Result<Vault, ProviderError> {
    open_within(TIMEOUT, spec, given).await
}

async fn open_within(timeout: Duration, spec: Value, given: Arc<Given>) -> Result<Vault, ProviderError> {
    let spec: HashicorpVault = serde_json::from_value(spec).expect("a specification");
    Vault::open(&spec, given, Network { allow_local: true, allow_http: false, timeout }).await
}

/// The AppRole of the page and its credentials.
pub(super) fn app_role(address: &str, mount: &str) -> (Value, Arc<Given>) {
    let auth = json!({"appRole": {
        "roleId": shared().role_id,
        "secretIdRef": {"name": "vault-approle", "key": "secret-id"},
    }});
    let given = Given::secret("vault-approle", "secret-id", &shared().secret_id);
    (json!({"address": address, "mount": mount, "auth": auth}), Arc::new(given))
}

struct OpenBao;

impl OpenBao {
    async fn metadata(path: &str) -> Option<Value> {
        shared().bao.get(&format!("secret/metadata{path}")).await
    }

    async fn content(path: &str, version: u64) -> Option<String> {
        let read = shared().bao.get(&format!("secret/data{path}?version={version}")).await?;
        let data = &read["data"]["data"];
        data["token"].as_str().or(data["by-hand"].as_str()).map(str::to_owned)
    }
}

#[async_trait]
impl Instance for OpenBao {
    async fn open(&self) -> Box<dyn Store> {
        let (spec, given) = app_role(&shared().bao.url(), "secret");
        Box::new(open(spec, given).await.expect("the store opens"))
    }

    async fn open_as(&self, how: Opening) -> Option<Box<dyn Store>> {
        let url = shared().bao.url();
        let opened = match how {
            Opening::At(address, timeout) => {
                let (spec, given) = app_role(&address, "secret");
                open_within(timeout, spec, given).await
            }
            Opening::Refused => {
                let (spec, given) = app_role(&url, "secret");
                given.set("vault-approle", "secret-id", &format!("{CANARY}-wrong"));
                open(spec, given).await
            }
            Opening::Nowhere => {
                let (spec, given) = app_role(&url, "nowhere");
                open(spec, given).await
            }
        };
        Some(Box::new(opened.expect("the store opens")))
    }

    fn server(&self) -> Option<String> {
        Some(shared().bao.url())
    }

    fn path(&self, unique: &str) -> String {
        format!("/virtual-accounts/{unique}/token")
    }

    async fn put_by_hand(&self, path: &str, value: &str) {
        shared().bao.post(&format!("secret/data{path}"), json!({"data": {"by-hand": value}})).await;
    }

    async fn wipe(&self, path: &str) {
        shared().bao.delete(&format!("secret/metadata{path}")).await;
    }

    async fn usable(&self, path: &str) -> Vec<String> {
        let mut values = Vec::new();
        for version in 1..=self.versions(path).await {
            values.extend(Self::content(path, version as u64).await);
        }
        values
    }

    async fn versions(&self, path: &str) -> usize {
        let current = Self::metadata(path).await.and_then(|metadata| metadata["data"]["current_version"].as_u64());
        usize::try_from(current.unwrap_or(0)).expect("few versions")
    }

    async fn value(&self, path: &str) -> Option<String> {
        Self::content(path, 0).await
    }
}
