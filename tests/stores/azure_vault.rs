//! A fake vault, somebody who works on it by hand, and the ways to open it as a store.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use virtual_account_operator::api::{AzureAuth, AzureKeyVault, SecretKeyRef, ServiceAccountRef};
use virtual_account_operator::integration::Network;
use virtual_account_operator::store::azure_key_vault::KeyVault;

use super::fake::{Certificate, Fake};
use super::story::{CANARY, Given, Issued};

pub(crate) const NETWORK: Network = Network { allow_local: true, allow_http: false, timeout: Duration::from_secs(10) };
pub(crate) const AUDIENCE: &str = "api://AzureADTokenExchange";
pub(crate) const TENANT: &str = "00000000-0000-0000-0000-000000000001";
/// The application of the stores, which has the rights of the documentation and no more.
pub(crate) const CLIENT: &str = "the-operator";
/// Who may do all.
const HAND: &str = "somebody";
const VERSION: &str = "api-version=7.4";

/// A fake vault.
pub(crate) struct Azure {
    fake: Fake,
    hand: reqwest::Client,
}

impl Azure {
    /// The one that most tests share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<Azure> = LazyLock::new(|| Azure::start(&[]));
        &SHARED
    }

    /// One for a single test.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::allowing(&super::azure_pages::data_actions(), options)
    }

    /// One in which stores may do this.
    pub(crate) fn allowing(actions: &[String], options: &[&str]) -> Self {
        let (tls, actions) = (Certificate::shared(), actions.join(","));
        let (cert, key) = (tls.cert.to_string_lossy(), tls.key.to_string_lossy());
        let usual = ["--cert", &cert, "--key", &key, "--data-actions", &actions, "--limited", CLIENT];
        let subject = ["--subject", "system:serviceaccount:platform:writer", "--client-secret", &client_secret()];
        Self { fake: Fake::start("azure_key_vault.py", &[&usual[..], &subject[..], options].concat()), hand: hand() }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.fake.port)
    }

    /// Access tokens so far are refused from now on.
    pub(crate) async fn revoke(&self) {
        self.hand.post(format!("{}/_fake/revoke", self.url())).send().await.unwrap().error_for_status().unwrap();
    }

    /// A call by hand. What is not there is null.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let request = self.hand.request(method, format!("{}{path}?{VERSION}", self.url()));
        let request = request.bearer_auth(self.token().await);
        let answer = request.json(&body.unwrap_or(json!({}))).send().await.unwrap();
        match answer.status().as_u16() {
            200 => answer.json().await.unwrap(),
            204 | 404 => Value::Null,
            403 => json!("forbidden"),
            other => panic!("{path}: {other}: {}", answer.text().await.unwrap()),
        }
    }

    async fn token(&self) -> String {
        let secret = client_secret();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", HAND),
            ("client_secret", &secret),
            ("scope", "https://vault.azure.net/.default"),
        ];
        let body: Vec<String> = form.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = self.hand.post(format!("{}/{TENANT}/oauth2/v2.0/token", self.url()));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(body.join("&"));
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    pub(crate) async fn put(&self, name: &str, value: &str, tags: Option<HashMap<&str, String>>) {
        self.call(Method::PUT, &format!("/secrets/{name}"), Some(json!({"value": value, "tags": tags}))).await;
    }

    /// As a writer does it that was frozen before its call.
    pub(crate) async fn put_late(&self, name: &str, token: &Issued) {
        self.put(name, token.text(), Some(token.mark.pairs().into())).await;
    }

    pub(crate) async fn current(&self, name: &str) -> Value {
        self.call(Method::GET, &format!("/secrets/{name}"), None).await
    }

    /// The current version's own id.
    pub(crate) async fn current_id(&self, name: &str) -> String {
        let current = self.current(name).await;
        current["id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    }

    pub(crate) async fn purge(&self, name: &str) {
        self.call(Method::DELETE, &format!("/secrets/{name}"), None).await;
        self.call(Method::DELETE, &format!("/deletedsecrets/{name}"), None).await;
    }

    /// The descriptions of all versions, in no order. All pages of them.
    pub(crate) async fn versions(&self, name: &str) -> Vec<Value> {
        let (mut versions, mut next) = (vec![], Some(format!("{}/secrets/{name}/versions?{VERSION}", self.url())));
        while let Some(url) = next {
            let answer = self.hand.get(url).bearer_auth(self.token().await).send().await.unwrap();
            let page: Value = answer.json().await.unwrap();
            versions.extend(page["value"].as_array().cloned().unwrap_or_default());
            next = page["nextLink"].as_str().map(str::to_owned);
        }
        versions
    }

    /// The values of the versions that are enabled, the oldest token first, and what has no mark before them.
    pub(crate) async fn usable(&self, name: &str) -> Vec<String> {
        let mut found = vec![];
        for version in self.versions(name).await {
            if version["attributes"]["enabled"] == true {
                let id = version["id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
                let read = self.call(Method::GET, &format!("/secrets/{name}/{id}"), None).await;
                let sequence = version["tags"]["virtualaccounts-sequence"].as_str().unwrap_or_default().to_owned();
                found.push((sequence, read["value"].as_str().unwrap().to_owned()));
            }
        }
        found.sort();
        found.into_iter().map(|(_, value)| value).collect()
    }
}

fn hand() -> reqwest::Client {
    // Connections end with the runtime of the test that made them.
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
    client.tls_certs_only([Certificate::shared().trusted()]).build().expect("a plain client")
}

pub(crate) fn client_secret() -> String {
    format!("{CANARY}-client-secret")
}

/// The store's settings, with a client secret.
pub(crate) fn settings(url: &str) -> AzureKeyVault {
    let key = |name: &str, key: &str| SecretKeyRef { name: name.into(), key: key.into() };
    AzureKeyVault {
        vault_url: url.into(),
        tenant_id: Some(TENANT.into()),
        client_id: Some(CLIENT.into()),
        ca_bundle: Some(key("ca", "ca.crt")),
        authority_host: Some(url.into()),
        auth: Some(AzureAuth { secret_ref: Some(key("azure", "secret")), service_account_ref: None }),
    }
}

/// The same, with a ServiceAccount.
pub(crate) fn settings_for_workload_identity(url: &str) -> AzureKeyVault {
    let account = ServiceAccountRef { name: "writer".into() };
    let auth = AzureAuth { secret_ref: None, service_account_ref: Some(account) };
    AzureKeyVault { auth: Some(auth), ..settings(url) }
}

/// What the settings refer to.
pub(crate) fn credentials() -> Arc<Given> {
    let given = Given::secret("azure", "secret", &client_secret());
    given.set("ca", "ca.crt", &Certificate::shared().pem);
    given.set("writer", AUDIENCE, &assertion("platform:writer"));
    Arc::new(given)
}

/// A token of a ServiceAccount, as the API server would issue it, but for the signature.
pub(crate) fn assertion(account: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = json!({
        "iss": "https://cluster.example.com",
        "sub": format!("system:serviceaccount:{account}"),
        "aud": [AUDIENCE],
        "exp": 4_102_444_800_i64,
        "note": CANARY,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(&json!({"alg": "RS256", "kid": "1"})), part(&claims), URL_SAFE_NO_PAD.encode(CANARY))
}

pub(crate) async fn open(settings: &AzureKeyVault, given: &Arc<Given>) -> KeyVault {
    KeyVault::open(settings, given.clone(), NETWORK).await.unwrap()
}
