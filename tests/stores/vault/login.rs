//! Logging in to a real OpenBao, in each way that the page documents, and staying logged in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use virtual_account_operator::integration::ErrorKind;
use virtual_account_operator::store::{Store as _, Vault};

use super::super::bao::block;
use super::super::story::{CANARY, Given, issued};
use super::super::support::plane::Plane;
use super::{open, shared};

#[tokio::test]
async fn a_service_account_logs_in_through_a_real_token_review() {
    let plane = tokio::task::spawn_blocking(Plane::shared).await.unwrap();
    let token = |namespace: &str, name: &str, audience: &[&str]| {
        let mut arguments = vec!["create", "token", name, "-n", namespace];
        arguments.extend(audience);
        plane.kubectl_ok(&arguments, None)
    };
    for namespace in ["platform", "elsewhere"] {
        plane.kubectl_ok(&["create", "namespace", namespace], None);
        plane.kubectl_ok(&["create", "serviceaccount", "vault-writer", "-n", namespace], None);
    }
    plane.kubectl_ok(&["create", "serviceaccount", "reviewer", "-n", "platform"], None);
    let (role, subject) = ("--clusterrole=system:auth-delegator", "--serviceaccount=platform:reviewer");
    plane.kubectl_ok(&["create", "clusterrolebinding", "reviewer", role, subject], None);

    let bao = &shared().bao;
    bao.write("ca.crt", &std::fs::read_to_string(plane.ca_path()).unwrap());
    let reviewer = token("platform", "reviewer", &[]);
    bao.follow_with("Kubernetes", &[("KUBERNETES_HOST", plane.server()), ("REVIEWER", &reviewer)]);

    // The page's sample, at this server's address.
    let sample: Value = serde_saphyr::from_str(&block("A store", "yaml")).unwrap();
    let mut spec = sample["spec"]["hashicorpVault"].clone();
    spec["address"] = json!(bao.url());
    spec.as_object_mut().unwrap().remove("caBundle");
    let given =
        Arc::new(Given::secret("vault-writer", "vault", &token("platform", "vault-writer", &["--audience=vault"])));
    let store = open(spec, Arc::clone(&given)).await.unwrap();
    store.check().await.unwrap();
    issued(1).settle(&store, "/virtual-accounts/kubernetes/token").await;

    let strangers = [("elsewhere", "--audience=vault"), ("platform", "--audience=other")];
    for (namespace, audience) in strangers {
        let jwt = token(namespace, "vault-writer", &[audience]);
        let given = Arc::new(Given::secret("vault-writer", "vault", &jwt));
        let auth = json!({"kubernetes": {"role": "virtual-accounts", "serviceAccountRef": {"name": "vault-writer"}}});
        let store = open(json!({"address": bao.url(), "auth": auth}), given).await.unwrap();
        let error = store.check().await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "LoginRefused"), "{namespace} {audience}");
        assert!(!format!("{error:?}").contains(&jwt));
    }
}

#[tokio::test]
async fn a_token_of_the_page_logs_in_and_its_successor_is_picked_up_when_it_is_revoked() {
    let bao = &shared().bao;
    bao.follow("A token");
    let first = bao.file("token");
    let given = Arc::new(Given::secret("vault-token", "token", &first));
    let store = with_token(&bao.url(), &given).await;
    issued(1).settle(&store, "/virtual-accounts/with-a-token/token").await;
    let asked = given.asked();
    assert_eq!(asked, 1, "it is read once for all calls");

    bao.post("auth/token/revoke", json!({"token": first})).await;
    let error = store.check().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    bao.follow("A token");
    given.set("vault-token", "token", &bao.file("token"));
    issued(2).settle(&store, "/virtual-accounts/with-a-token/token").await;
}

#[tokio::test]
async fn a_changed_secret_id_is_picked_up_without_a_restart() {
    let (spec, given) = super::app_role(&shared().bao.url(), "secret");
    let good = given.value("vault-approle", "secret-id");
    given.set("vault-approle", "secret-id", &format!("{CANARY}-wrong"));
    let store = open(spec, Arc::clone(&given)).await.unwrap();
    let error = store.check().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "LoginRefused"));
    given.set("vault-approle", "secret-id", &good);
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_login_is_renewed_replaced_at_its_end_and_replaced_when_it_is_revoked() {
    let bao = &shared().bao;
    bao.post("sys/auth/team/approle", json!({"type": "approle"})).await;
    let role = json!({"token_policies": "virtual-accounts", "token_ttl": "2s", "token_max_ttl": "4s"});
    bao.post("auth/team/approle/role/brief", role).await;
    let role_id = bao.get("auth/team/approle/role/brief/role-id").await.unwrap()["data"]["role_id"].clone();
    let secret_id = bao.post("auth/team/approle/role/brief/secret-id", json!({})).await.unwrap();
    let given = Arc::new(Given::secret("s", "k", secret_id["data"]["secret_id"].as_str().unwrap()));
    let auth = json!({"mountPath": "team/approle", "roleId": role_id, "secretIdRef": {"name": "s", "key": "k"}});
    let store = open(json!({"address": bao.url(), "auth": {"appRole": auth}}), Arc::clone(&given)).await.unwrap();

    // Longer than the longest life of one login: what is waited for is that life.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        store.check().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let logins = given.asked();
    assert!((2..=3).contains(&logins), "{logins} logins in 5 s, each good for 4 s with renewals");

    bao.post("sys/leases/revoke-prefix/auth/team/approle", json!({})).await;
    store.read("/virtual-accounts/brief/token").await.unwrap();
    assert_eq!(given.asked(), logins + 1);
}

#[tokio::test]
async fn an_unknown_role_or_method_is_told() {
    let bao = &shared().bao;
    let given = Arc::new(Given::secret("s", "vault", CANARY));
    let auth =
        |mount: &str| json!({"kubernetes": {"mountPath": mount, "role": "nobody", "serviceAccountRef": {"name": "s"}}});
    let nowhere = open(json!({"address": bao.url(), "auth": auth("nowhere")}), given).await.unwrap();
    let error = nowhere.check().await.unwrap_err();
    assert!(!error.is_retryable() && error.message.starts_with("the login is refused"), "{error}");
    assert!(!error.message.contains(CANARY));
}

async fn with_token(address: &str, given: &Arc<Given>) -> Vault {
    let auth = json!({"tokenRef": {"name": "vault-token", "key": "token"}});
    open(json!({"address": address, "auth": auth}), Arc::clone(given)).await.unwrap()
}
