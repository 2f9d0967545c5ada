//! The sample policy that limits what the accounts of a namespace may declare.

use serde_json::{Value, json};

use crate::read;
use crate::support::cluster::{Cluster, PATIENCE, Refused, account, account_path, wait_for};
use crate::support::plane::Plane;

const ACCOUNTS: &str = "/apis/virtualaccounts.dev/v1alpha1/namespaces";

#[test]
fn a_namespace_declares_what_its_limits_name_and_nothing_else() {
    let plane = Plane::start();
    plane.install(&virtual_account_operator::api::yaml().unwrap());
    for namespace in ["payments", "unlisted", "virtual-accounts"] {
        plane.kubectl_ok(&["create", "namespace", namespace], None);
    }
    let cluster = Cluster::of(&plane);
    let declare = |namespace: &str, name: &str, role: &str, more: Value| {
        let mut spec = json!({"permissions": [{"resourceFqn": "a", "resourceType": "b", "roleId": role}]});
        let Value::Object(more) = more else { panic!("an object") };
        spec.as_object_mut().unwrap().extend(more);
        let body = account(name, spec);
        let uri = format!("{ACCOUNTS}/{namespace}/virtualaccounts?dryRun=All");
        cluster.send("POST", &uri, "application/json", Some(&body)).map(drop)
    };
    let older =
        account("older", json!({"permissions": [{"resourceFqn": "a", "resourceType": "b", "roleId": "owner"}]}));
    cluster.create(&format!("{ACCOUNTS}/payments/virtualaccounts"), &older);
    plane.kubectl_ok(&["apply", "-f", "-"], Some(&read("config/samples/account-limits.yaml")));
    wait_for("the policy to be enforced", PATIENCE, || match declare("payments", "probe", "owner", json!({})) {
        // For a moment the parameters are not known to it.
        Err(refused) if refused.message.contains("spec.permissions[].roleId") => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    let refused = |answer: Result<(), Refused>| {
        let refused = answer.unwrap_err();
        assert_eq!(refused.code, 403, "{}", refused.message);
        refused.message
    };
    declare("payments", "reader", "reader", json!({})).unwrap();
    let role = refused(declare("payments", "owner", "owner", json!({})));
    let cure = "spec.permissions[].roleId: owner is not allowed in namespace payments; use one of [reader, writer]";
    assert!(role.contains(cure) && role.contains("payments.roleIds of ConfigMap virtual-account-limits"), "{role}");
    declare("payments", "api", "writer", json!({"audiences": ["https://api.example.com"]})).unwrap();
    let audience = refused(declare("payments", "other", "writer", json!({"audiences": ["https://other.example"]})));
    assert!(audience.contains("spec.audiences: https://other.example is not allowed"), "{audience}");
    let store = |path: &str| json!({"secretStores": [{"storeRef": {"name": "vault"}, "secretPath": path}]});
    declare("payments", "stored", "writer", store("/payments/cart")).unwrap();
    let path = refused(declare("payments", "stray", "writer", store("/ledger/cart")));
    assert!(path.contains("spec.secretStores[].secretPath: /ledger/cart") && path.contains("[/payments/]"), "{path}");
    let unlisted = refused(declare("unlisted", "reader", "reader", json!({})));
    assert!(unlisted.contains("unlisted.roleIds"), "{unlisted}");

    // What was declared before can still end, and not change.
    let path = account_path("payments", "older");
    cluster.patch(&path, &json!({"metadata": {"finalizers": ["example.com/held"]}}));
    cluster.patch(&path, &json!({"metadata": {"finalizers": null}}));
    let edit = json!({"spec": {"description": "new"}});
    refused(cluster.send("PATCH", &path, "application/merge-patch+json", Some(&edit)).map(drop));

    cluster.delete("/api/v1/namespaces/virtual-accounts/configmaps/virtual-account-limits");
    wait_for("nothing to be allowed without limits", PATIENCE, || {
        declare("payments", "reader", "reader", json!({})).map_or_else(|_| Ok(()), |()| Err("it is allowed"))
    });
}
