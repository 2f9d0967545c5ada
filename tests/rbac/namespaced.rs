//! An operator for some namespaces, with Roles there and no ClusterRole.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, PATIENCE, account_path, entries, secret_path, token, wait_for};
use crate::support::link::Link;
use crate::support::operator::{Operator, Options};
use crate::support::plane::{AuditEvent, Plane};
use crate::{OPERATOR, kubectl_as, read, rendered, rotating};

const STORES: &str = "/apis/virtualaccounts.dev/v1alpha1/namespaces/two/tokenstores";
const RING: &str = "virtual-account-operator-keys";
/// A watch that is broken for longer is trouble: 30 s.
const BROKEN: Duration = Duration::from_secs(35);

/// Roles for these namespaces, and nothing else.
fn roles(namespaces: &[&str]) -> String {
    let values = json!({"watchNamespaces": namespaces, "settings": {"clusterId": "test"}});
    let roles = rendered(&["serviceaccount", "rbac"], &values);
    assert!(!roles.contains("kind: Cluster"), "Roles alone: {roles}");
    roles
}

fn options(rbac: &[&str], watched: &str) -> Options {
    let flags = ["--cluster-id=test", &format!("--watch-namespaces={watched}")].map(str::to_owned).into();
    Options { rbac: Some(roles(rbac)), flags, ..Options::default() }
}

struct Stage {
    plane: Plane,
    cluster: Cluster,
}

impl Stage {
    fn new() -> Self {
        let plane = Plane::start();
        plane.install(&virtual_account_operator::api::yaml().unwrap());
        for namespace in ["one", "two", "three"] {
            plane.kubectl_ok(&["create", "namespace", namespace], None);
        }
        let cluster = Cluster::of(&plane);
        Self { plane, cluster }
    }

    /// What the operator asked of the API server.
    fn asked(&self) -> Vec<AuditEvent> {
        let mut events = self.plane.audit();
        events.retain(|event| event.user == OPERATOR && !event.resource.is_empty());
        events
    }

    /// The tokens of an account in each of the two namespaces.
    fn tokens(&self) -> [String; 2] {
        ["one", "two"].map(|namespace| {
            self.cluster.create_account(namespace, "cart", rotating());
            self.cluster.wait_ready(namespace, "cart");
            token(&self.cluster.secret(namespace, "cart-token").unwrap())
        })
    }

    /// Binds what online checks need; `token` is a good one.
    fn let_callers_ask(&self, operator: &Operator, token: &str) {
        let callers = "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: caller}\n\
            roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: virtual-account-operator-introspection}\n\
            subjects: [{kind: ServiceAccount, name: checker, namespace: virtual-accounts}]\n";
        let sample = read("config/samples/namespaced-introspection.yaml");
        self.plane.kubectl_ok(&["apply", "-f", "-"], Some(&(sample + callers)));
        wait_for("the caller to be known", PATIENCE, || {
            let answer = operator.introspect_as(Some(operator.caller()), token);
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        });
    }

    /// Has an account's token rotated.
    fn rotate(&self, namespace: &str) {
        let account = self.cluster.account(namespace, "cart").unwrap();
        self.cluster.annotate(namespace, "cart", "virtualaccounts.dev/rotate", &json!("again"));
        self.cluster.wait_successor(namespace, "cart", account["status"]["jwtId"].as_str().unwrap());
    }

    /// Why the token of an account in namespace `one` is not in this store.
    fn refusal(&self, account: &str, store: &Value) -> String {
        let spec = json!({"secretStores": [{"storeRef": store, "secretPath": "/one/cart"}]});
        self.cluster.create_account("one", account, spec);
        wait_for("the store to be refused", PATIENCE, || {
            let account = self.cluster.account("one", account).unwrap();
            let message = account["status"]["secretStores"][0]["error"]["message"].as_str().map(str::to_owned);
            message.ok_or_else(|| account["status"].to_string())
        })
    }
}

#[test]
fn roles_alone_are_enough_for_the_namespaces_that_are_watched() {
    let stage = Stage::new();
    let cluster = &stage.cluster;
    let unseen = cluster.create_account("three", "cart", rotating());
    let operator = Operator::start(&stage.plane, options(&["one", "two"], "one,two"));
    for namespace in ["one", "two"] {
        cluster.create_account(namespace, "cart", rotating());
        let before = cluster.wait_ready(namespace, "cart");
        let jti = before["status"]["jwtId"].as_str().unwrap();
        cluster.annotate(namespace, "cart", "virtualaccounts.dev/rotate", &json!("now"));
        cluster.wait_successor(namespace, "cart", jti);
        let given = cluster.secret(namespace, "cart-token").unwrap();
        cluster.delete(&secret_path(namespace, "cart-token"));
        cluster.wait_secret(namespace, "cart-token", "back with its token", |secret| secret["data"] == given["data"]);
    }
    let vault = json!({
        "hashicorpVault": {"address": "https://vault.example", "auth": {"tokenRef": {"name": "creds", "key": "token"}}},
        "pathPrefix": "/{namespace}/",
        "allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"vault": "yes"}}},
    });
    cluster.create(
        STORES,
        &json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore",
        "metadata": {"name": "vault"}, "spec": vault}),
    );
    let by_labels = stage.refusal("labels", &json!({"namespace": "two", "name": "vault"}));
    assert!(by_labels.contains("spec.allowedNamespaces.from of TokenStore two/vault"), "{by_labels}");
    assert!(by_labels.contains("--watch-namespaces") && by_labels.contains("set it to All"), "{by_labels}");
    let elsewhere = stage.refusal("elsewhere", &json!({"namespace": "three", "name": "vault"}));
    assert!(elsewhere.contains("namespace three is not one of --watch-namespaces"), "{elsewhere}");
    assert!(elsewhere.contains("spec.secretStores[].storeRef"), "{elsewhere}");
    cluster.delete_account("two", "cart");
    wait_for("the account to go", PATIENCE, || cluster.account("two", "cart").map_or(Ok(()), |_| Err("there")));

    assert_eq!(cluster.account("three", "cart").unwrap(), unseen, "not touched");
    let asked = stage.asked();
    let known = ["one", "two", "virtual-accounts"];
    let strange: Vec<_> = asked.iter().filter(|event| !known.contains(&event.namespace.as_str())).collect();
    assert!(strange.is_empty(), "{strange:?}");
    let refused: Vec<_> = asked.iter().filter(|event| event.code == 403).collect();
    assert!(refused.is_empty() && asked.len() > 20, "{refused:?}");
    assert_eq!(operator.get_ops("/readyz").status, 200);
}

#[test]
fn online_checks_need_one_binding_and_know_the_watched_namespaces_alone() {
    let stage = Stage::new();
    let plane = &stage.plane;
    let operator = Operator::start(plane, options(&["one", "two"], "one,two"));
    let tokens = stage.tokens();
    let answer = operator.introspect_as(Some(operator.caller()), &tokens[0]);
    assert_eq!((answer.status, answer.header("retry-after")), (503, None));
    assert!(answer.body.contains("bind ClusterRole system:auth-delegator to its ServiceAccount"), "{}", answer.body);

    stage.let_callers_ask(&operator, &tokens[0]);
    assert!(tokens.iter().all(|token| operator.accepts(token)));

    drop(operator);
    let operator = Operator::start(plane, options(&["one", "two"], "one"));
    assert!(operator.accepts(&tokens[0]));
    assert_eq!(operator.introspect(&tokens[1]), json!({"active": false}), "nobody would say if it were revoked");
}

#[test]
fn nothing_is_done_until_every_watched_namespace_can_be_seen() {
    let stage = Stage::new();
    let (plane, cluster) = (&stage.plane, &stage.cluster);
    cluster.create_account("one", "cart", rotating());
    let operator = Operator::launch(plane, options(&["one"], "one,two"));
    let cure = "the operator may not list accounts in namespace two; apply its RBAC there";
    wait_for("the cure", PATIENCE, || {
        let answer = operator.get_ops("/readyz");
        if answer.body.contains(cure) { Ok(()) } else { Err(answer.body) }
    });
    // Tokens of namespace two may need a ring that is not there, so none is made.
    assert_eq!((operator.get("/jwks.json").status, cluster.secret("virtual-accounts", RING)), (503, None));
    assert!(entries(&cluster.find(&account_path("one", "cart")).unwrap()).is_empty());
    plane.kubectl_ok(&["apply", "-f", "-"], Some(&roles(&["one", "two"])));
    let _operator = operator.wait_ready();
    cluster.wait_ready("one", "cart");
}

#[test]
fn a_namespace_whose_role_is_taken_away_stops_no_other() {
    let stage = Stage::new();
    let (plane, cluster) = (&stage.plane, &stage.cluster);
    let operator = Operator::start(plane, options(&["one", "two"], "one,two"));
    let tokens = stage.tokens();
    stage.let_callers_ask(&operator, &tokens[0]);
    let denied = |count: usize| {
        let line = format!("virtual_account_namespaces_denied {count}\n");
        wait_for(&line, PATIENCE * 2, || {
            let metrics = operator.metrics();
            if metrics.contains(&line) { Ok(()) } else { Err(metrics) }
        });
    };
    let ready = || {
        wait_for("readiness", PATIENCE, || {
            let answer = operator.get_ops("/readyz");
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        });
    };
    // As the owner of a namespace may. Watches that are open go on, so they are made to begin anew.
    plane.kubectl_ok(&["delete", "rolebinding", "--all", "--namespace", "two"], None);
    plane.command("restart kube-apiserver");
    denied(1);
    assert!(operator.log().contains("the operator has no right to watch this"), "{}", operator.log());
    std::thread::sleep(BROKEN);
    ready();
    stage.rotate("one");
    assert!(operator.accepts(&tokens[0]), "in its grace");
    assert_eq!(operator.get("/jwks.json").status, 200);
    let answer = operator.introspect_as(Some(operator.caller()), &tokens[1]);
    assert_eq!(answer.status, 503, "it may have been revoked, and nobody would say so: {}", answer.body);
    let known = cluster.account("two", "cart").unwrap();

    plane.kubectl_ok(&["apply", "-f", "-"], Some(&roles(&["one", "two"])));
    denied(0);
    ready();
    assert!(operator.accepts(&tokens[1]));
    assert_eq!(cluster.account("two", "cart").unwrap()["status"], known["status"], "nothing was given up");
    stage.rotate("two");
}

#[test]
fn a_replica_that_may_not_follow_the_key_ring_gets_no_traffic() {
    let stage = Stage::new();
    let (plane, cluster) = (&stage.plane, &stage.cluster);
    let (all, named) = (roles(&["one"]), "resourceNames: [virtual-account-operator-keys]\n  verbs: ");
    let blind = all.replace(&format!("{named}[get, list, watch, update]"), &format!("{named}[get, update]"));
    assert_ne!(blind, all);
    let server: SocketAddr = plane.server().trim_start_matches("https://").parse().unwrap();
    let link = Link::to(server);
    let flags = options(&["one"], "one");
    let way = Some(format!("https://{}", link.address()));
    let operator = Operator::launch(plane, Options { rbac: Some(blind.clone()), server: way, ..flags });
    let unready = |cure: &str, patience| {
        wait_for("the cure", patience, || {
            let answer = operator.get_ops("/readyz");
            if answer.status == 503 && answer.body.contains(cure) { Ok(()) } else { Err(answer.body) }
        });
    };
    unready("the operator may not list the key ring in namespace virtual-accounts; apply its RBAC there", PATIENCE);
    let apply = |roles: &str| drop(plane.kubectl_ok(&["apply", "-f", "-"], Some(roles)));
    let ready = || {
        wait_for("the operator to be ready", PATIENCE, || {
            let answer = operator.get_ops("/readyz");
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        });
    };
    apply(&all);
    ready();
    let keys = operator.jwks();

    apply(&blind);
    let asked = ["auth", "can-i", "watch", &format!("secrets/{RING}"), "-n", "virtual-accounts"];
    wait_for("the right to be gone", PATIENCE, || match kubectl_as(plane, OPERATOR, &asked, None) {
        Ok(yes) => Err(yes),
        Err(_no) => Ok(()),
    });
    // A watch that runs goes on for minutes.
    link.cut();
    unready(
        "the operator may no longer watch the key ring in namespace virtual-accounts, since",
        Duration::from_mins(2),
    );
    assert_eq!(operator.jwks(), keys, "whoever asks it all the same gets what it has");
    apply(&all);
    ready();
    assert!(cluster.secret("virtual-accounts", RING).is_some());
}
