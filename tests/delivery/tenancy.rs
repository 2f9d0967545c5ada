//! What a tenant may not do with stores, each refused with the cure: on a plane of its own, whose operator has neither
//! `--allow-local-endpoints` nor `--allow-ambient-credentials`.

use serde_json::{Value, json};

use crate::API;
use crate::message;
use crate::support::bao::Bao;
use crate::support::cluster::{Cluster, PATIENCE, ready, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::plane::Plane;

fn store(cluster: &Cluster, ns: &str, name: &str, spec: &Value) {
    let store = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore", "metadata": {"name": name},
        "spec": spec});
    cluster.create(&format!("{API}/namespaces/{ns}/tokenstores"), &store);
}

/// The Ready condition of a store once it is False.
fn refusal(cluster: &Cluster, ns: &str, name: &str) -> (String, String) {
    wait_for("the store to be refused", PATIENCE, || {
        let store = cluster.find(&format!("{API}/namespaces/{ns}/tokenstores/{name}")).unwrap();
        let text = |field: &str| ready(&store)[field].as_str().unwrap_or_default().to_owned();
        if text("status") == "False" { Ok((text("reason"), text("message"))) } else { Err(store["status"].to_string()) }
    })
}

#[test]
fn tenants_reach_no_local_address_no_foreign_identity_and_no_foreign_path() {
    let plane = Plane::start();
    let cluster = Cluster::of(&plane);
    let _operator = Operator::start(&plane, Options::flags(&["--store-timeout", "2s"]));
    for ns in ["tenant", "other"] {
        plane.kubectl_ok(&["create", "namespace", ns], None);
    }
    let secret = json!({"metadata": {"name": "credentials"}, "stringData": {"token": "canary-credential"}});
    cluster.create("/api/v1/namespaces/tenant/secrets", &secret);
    let vault = |address: &str| {
        let auth = json!({"tokenRef": {"name": "credentials", "key": "token"}});
        json!({"hashicorpVault": {"address": address, "auth": auth}})
    };
    let bao = Bao::shared();
    for (name, address) in [
        ("plain", bao.url()),
        ("loopback", bao.url().replace("http://", "https://")),
        ("named", format!("https://localhost:{}", bao.url().rsplit(':').next().unwrap())),
        ("metadata", "https://169.254.169.254".to_owned()),
        ("mapped", "https://[::ffff:169.254.169.254]".to_owned()),
    ] {
        store(&cluster, "tenant", name, &vault(&address));
        let (reason, message) = refusal(&cluster, "tenant", name);
        assert_eq!(reason, "InvalidEndpoint", "{name}: {message}");
        assert!(!message.contains("canary-credential"));
    }
    // The operator's own cloud identity is not lent.
    let aws = json!({"awsSecretsManager": {"region": "eu-central-1"}});
    store(&cluster, "tenant", "ambient", &aws);
    let (reason, _) = refusal(&cluster, "tenant", "ambient");
    assert_eq!(reason, "AmbientCredentialsNotAllowed");
    // A Secret of another namespace cannot be named, and one that is not there is said by name.
    store(&cluster, "other", "stolen", &vault("https://vault.example.com"));
    let (_, told) = refusal(&cluster, "other", "stolen");
    assert!(told.contains("credentials"), "{told}");
    // An account that names what its namespace may not use.
    let spec = |ns: &str, name: &str| json!({"secretStores": [{"storeRef": {"namespace": ns, "name": name}, "secretPath": "/a/b"}]});
    cluster.create_account("other", "foreign", spec("tenant", "metadata"));
    cluster.create_account("other", "nowhere", spec("tenant", "absent"));
    cluster.create_account("tenant", "ambient", spec("tenant", "ambient"));
    for (ns, name) in [("other", "foreign"), ("other", "nowhere"), ("tenant", "ambient")] {
        let account = cluster.wait_reason(ns, name, "NotAllowed");
        assert!(
            account["status"]["tokenSecret"]["jwtId"].is_string(),
            "{name}: its Secret is delivered: {}",
            message(&account)
        );
        assert!(account["metadata"]["finalizers"].is_null(), "{name}: nothing was written anywhere");
    } // To name somebody else's store is not to hold it.
    let metadata = format!("{API}/namespaces/tenant/tokenstores/metadata");
    cluster.delete(&metadata);
    wait_for("the store to go", PATIENCE, || match cluster.find(&metadata) {
        None => Ok(()),
        Some(store) => Err(store["metadata"]["finalizers"].to_string()),
    });
}
