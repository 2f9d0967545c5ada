//! Google Secret Manager, on our fake: the contract, and what others may do meanwhile.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use serde_json::{Value, json};
use virtual_account_operator::api::GoogleSecretManager as Spec;
use virtual_account_operator::integration::{Network, ProviderError};
use virtual_account_operator::store::{GoogleSecretManager, Held, Presence, Store, Verdict};

use super::contract::{Instance, Opening, contract, troubles};
use super::fault::{Errors, IsWrite};
use super::google_fake::{Fake, POOL, PROJECT, SUBJECT, projected};
use super::google_page::permissions;
use super::story::{Given, Issued, issued};

contract!(OnFake);
troubles!(OnFake);

pub(super) const NETWORK: Network = Network { allow_local: true, allow_http: false, timeout: Duration::from_secs(10) };

pub(super) fn shared() -> &'static Fake {
    static SHARED: LazyLock<Fake> = LazyLock::new(|| Fake::start(&permissions()));
    &SHARED
}

/// The provider with workload identity federation; token endpoints are the fake's own.
pub(super) fn federated(endpoint: &str) -> (Value, Arc<Given>) {
    let auth = json!({"serviceAccountRef": {"name": "token-writer"}, "workloadIdentityProvider": POOL});
    let fake = &shared().url;
    let spec = json!({
        "projectId": PROJECT, "endpoint": endpoint, "stsEndpoint": fake, "iamEndpoint": fake, "auth": auth,
    });
    (spec, Arc::new(Given::secret("token-writer", POOL, &projected(SUBJECT, POOL))))
}

pub(super) async fn open(
    spec: Value,
    given: Arc<Given>,
    network: Network,
) -> Result<GoogleSecretManager, ProviderError> {
    let spec: Spec = serde_json::from_value(spec).expect("a specification");
    GoogleSecretManager::open(&spec, None, given, network).await
}

pub(super) struct OnFake;

#[async_trait]
impl Instance for OnFake {
    async fn open(&self) -> Box<dyn Store> {
        let (spec, given) = federated(&shared().url);
        Box::new(open(spec, given, NETWORK).await.unwrap())
    }

    async fn open_as(&self, how: Opening) -> Option<Box<dyn Store>> {
        let (mut spec, given) = federated(&shared().url);
        let mut network = NETWORK;
        match how {
            Opening::At(url, timeout) => {
                spec["endpoint"] = json!(url);
                network.timeout = timeout;
            }
            Opening::Refused => given.set("token-writer", POOL, &projected("system:serviceaccount:other:one", POOL)),
            Opening::Nowhere => spec["projectId"] = json!("another-project"),
        }
        Some(Box::new(open(spec, given, network).await.unwrap()))
    }

    fn server(&self) -> Option<String> {
        Some(shared().url.clone())
    }

    fn is_write(&self) -> IsWrite {
        |method, _| *method != Method::GET
    }

    fn errors(&self) -> Errors {
        |code| match code {
            403 => r#"{"error":{"code":403,"message":"ordered by the test","status":"PERMISSION_DENIED"}}"#,
            429 => r#"{"error":{"code":429,"message":"ordered by the test","status":"RESOURCE_EXHAUSTED"}}"#,
            503 => r#"{"error":{"code":503,"message":"ordered by the test","status":"UNAVAILABLE"}}"#,
            // As a proxy answers.
            502 => "<html>Bad Gateway</html>",
            _ => r#"{"error":{"code":500,"message":"ordered by the test","status":"INTERNAL"}}"#,
        }
    }

    fn path(&self, unique: &str) -> String {
        format!("contract--{unique}--token")
    }

    async fn put_by_hand(&self, path: &str, value: &str) {
        if shared().get(&format!("/{path}")).await.is_null() {
            create_by_hand(path).await;
        }
        shared().add(path, value).await;
    }

    async fn wipe(&self, path: &str) {
        shared().call(Method::DELETE, &format!("/{path}"), Value::Null).await;
    }

    async fn usable(&self, path: &str) -> Vec<String> {
        shared().usable(path).await
    }

    async fn versions(&self, path: &str) -> usize {
        shared().versions(path).await
    }

    async fn value(&self, path: &str) -> Option<String> {
        shared().value(path, "latest").await
    }
}

async fn create_by_hand(path: &str) {
    let secret = json!({"replication": {"automatic": {}}});
    shared().call(Method::POST, &format!("?secretId={path}"), secret).await;
}

/// One path of a store on the shared fake.
pub(super) struct Path {
    store: GoogleSecretManager,
    pub(super) path: &'static str,
}

impl Path {
    pub(super) async fn new(path: &'static str) -> Self {
        Self::at(path, &shared().url).await
    }

    pub(super) async fn at(path: &'static str, endpoint: &str) -> Self {
        let (spec, given) = federated(endpoint);
        Self { store: open(spec, given, NETWORK).await.unwrap(), path }
    }

    pub(super) async fn read(&self) -> Held {
        self.store.read(self.path).await.unwrap()
    }

    pub(super) async fn write(&self, token: &Issued, over: &Held) -> Result<String, ProviderError> {
        self.store.write(self.path, &token.value(), over).await
    }

    pub(super) async fn settle(&self, token: &Issued) -> Held {
        token.settle(&self.store, self.path).await
    }

    pub(super) async fn retire(&self, keep: &[&Issued]) {
        let keep: BTreeSet<String> = keep.iter().map(|token| token.jti()).collect();
        self.store.retire(self.path, &self.read().await, &keep).await.unwrap();
    }

    pub(super) async fn usable(&self) -> Vec<String> {
        shared().usable(self.path).await
    }

    pub(super) async fn latest(&self) -> Option<String> {
        shared().value(self.path, "latest").await
    }
}

#[tokio::test]
async fn only_versions_whose_token_is_in_its_grace_stay() {
    let path = Path::new("graces").await;
    let tokens = [issued(1), issued(2), issued(3), issued(4)];
    for token in &tokens {
        path.settle(token).await;
    }
    path.retire(&[&tokens[1]]).await;
    assert_eq!(path.usable().await, [tokens[1].text(), tokens[3].text()]);
    assert!(path.read().await.older);
    path.retire(&[]).await;
    assert_eq!(path.usable().await, [tokens[3].text()]);
}

#[tokio::test]
async fn a_version_that_somebody_disabled_is_replaced() {
    let (path, one) = (Path::new("disabled").await, issued(1));
    path.settle(&one).await;
    shared().disable(path.path, 1).await;
    let held = path.read().await;
    assert_eq!((held.jti, held.version.as_deref()), (None, Some("1")));
    path.settle(&one).await;
    assert_eq!(path.latest().await.as_deref(), Some(one.text()));
}

#[tokio::test]
async fn many_versions_are_listed_to_their_end() {
    let (path, one) = (Path::new("many").await, issued(1));
    path.settle(&one).await;
    for version in 0..30 {
        shared().add(path.path, &format!("by-hand-{version}")).await;
    }
    let held = path.settle(&one).await;
    assert_eq!(held.version.as_deref(), Some("32"));
    path.retire(&[]).await;
    assert_eq!(path.usable().await, [one.text()]);
}

#[tokio::test]
async fn a_secret_that_was_made_anew_with_old_annotations_is_filled() {
    let path = Path::new("anew").await;
    for sequence in 1..=3 {
        path.settle(&issued(sequence)).await;
    }
    let annotations = shared().get("/anew").await["annotations"].clone();
    OnFake.wipe(path.path).await;
    create_by_hand(path.path).await;
    shared().call(Method::PATCH, "/anew?updateMask=annotations", json!({ "annotations": annotations })).await;
    let held = path.read().await;
    assert_eq!((held.presence, held.jti.clone(), held.version.clone()), (Presence::Present, None, None));
    let newest = issued(9);
    assert_eq!(newest.judge(&held), Verdict::Write);
    path.settle(&newest).await;
    assert_eq!(path.latest().await.as_deref(), Some(newest.text()));
}

#[tokio::test]
async fn new_secrets_are_kept_and_encrypted_as_the_store_says() {
    let key = "projects/p/locations/{location}/keyRings/r/cryptoKeys/k";
    for (name, locations) in [("kept-here", Some(vec!["europe-west3", "europe-west1"])), ("kept-anywhere", None)] {
        let (mut spec, given) = federated(&shared().url);
        spec["kmsKey"] = json!(key);
        spec["locations"] = json!(locations);
        let store = open(spec, given, NETWORK).await.unwrap();
        issued(1).settle(&store, name).await;
        let made = shared().get(&format!("/{name}")).await["replication"].clone();
        let encrypted = |place: &str| json!({"kmsKeyName": key.replace("{location}", place)});
        let expected = match locations {
            Some(places) => {
                let replica = |place| json!({"location": place, "customerManagedEncryption": encrypted(place)});
                json!({"userManaged": {"replicas": places.into_iter().map(replica).collect::<Vec<_>>()}})
            }
            None => json!({"automatic": {"customerManagedEncryption": encrypted("global")}}),
        };
        assert_eq!(made, expected);
    }
}
