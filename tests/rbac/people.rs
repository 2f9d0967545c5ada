//! The roles for people: who may do what with our kinds.

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, PATIENCE, wait_for};
use crate::support::plane::Plane;
use crate::{read, rendered};

/// Whether somebody in namespace `team` may do this there.
fn may(cluster: &Cluster, user: &str, verb: &str, resource: &str) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let group = if resource == "secrets" { "" } else { "virtualaccounts.dev" };
    let attributes =
        json!({"namespace": "team", "verb": verb, "group": group, "resource": resource, "subresource": subresource});
    let review = json!({"spec": {"user": user, "resourceAttributes": attributes}});
    let answer = cluster.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review);
    answer["status"]["allowed"] == true
}

#[test]
fn each_role_gives_what_its_name_says() {
    let plane = Plane::start();
    let cluster = Cluster::of(&plane);
    plane.install(&virtual_account_operator::api::yaml().unwrap());
    plane.kubectl_ok(&["create", "namespace", "team"], None);
    plane.kubectl_ok(&["apply", "-f", "-"], Some(&rendered(&["user-roles"], &json!({}))));
    for role in ["view", "edit", "admin"] {
        let (ours, builtin) =
            (format!("--clusterrole=virtual-account-operator-{role}"), format!("--clusterrole={role}"));
        plane.kubectl_ok(&["create", "rolebinding", role, &ours, "--user", role, "-n", "team"], None);
        let user = format!("builtin-{role}");
        plane.kubectl_ok(&["create", "rolebinding", &user, &builtin, "--user", &user, "-n", "team"], None);
    }
    let kinds = ["virtualaccounts", "tokenstores", "notificationchannels"];
    for kind in kinds {
        for verb in ["get", "list", "watch"] {
            assert!(["view", "edit", "admin"].iter().all(|user| may(&cluster, user, verb, kind)), "{verb} {kind}");
        }
        for verb in ["create", "update", "patch", "delete", "deletecollection"] {
            let allowed = ["view", "edit", "admin"].map(|user| may(&cluster, user, verb, kind));
            assert_eq!(allowed, [false, kind == "virtualaccounts", true], "{verb} {kind}");
        }
        assert!(!may(&cluster, "admin", "update", &format!("{kind}/status")), "{kind}");
    }
    assert!(!may(&cluster, "admin", "get", "secrets"), "our roles give no Secret");
    assert!(!may(&cluster, "builtin-admin", "get", "virtualaccounts"), "nothing is aggregated by default");

    let aggregated = rendered(&["user-roles"], &json!({"rbac": {"aggregate": true}}));
    plane.kubectl_ok(&["apply", "-f", "-"], Some(&aggregated));
    wait_for("the built-in roles to follow", PATIENCE, || {
        // The last is in our admin role alone, which comes after the two that admin gets by way of edit.
        let all = [
            ("view", "get", "virtualaccounts"),
            ("edit", "create", "virtualaccounts"),
            ("admin", "delete", "virtualaccounts"),
            ("admin", "create", "tokenstores"),
        ];
        let seen = all.map(|(role, verb, kind)| may(&cluster, &format!("builtin-{role}"), verb, kind));
        if seen == [true; 4] { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert!(!may(&cluster, "builtin-edit", "create", "tokenstores"));
}

/// With watchNamespaces the chart makes none of them; the sample does.
#[test]
fn the_sample_for_namespaced_operators_gives_what_the_chart_gives() {
    let roles = |text: &str| -> Vec<Value> {
        let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        let part = |role: Value| json!([role["kind"], role["metadata"]["name"], role["rules"]]);
        all.into_iter().filter(Value::is_object).map(part).collect()
    };
    let chart = roles(&rendered(&["user-roles"], &json!({})));
    assert_eq!(chart.len(), 3);
    assert_eq!(roles(&read("config/samples/namespaced-user-roles.yaml")), chart);
}
