//! A delivery that the API server refuses, and the way back.

use serde_json::{Value, json};

use crate::support::cluster::{PATIENCE, condition, current, entries, ready, wait_for};
use crate::{World, rotating};

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

#[test]
fn refused_delivery_keeps_the_old_token_and_recovers_with_the_spec() {
    let world = World::new("refused");
    let first = world.ready(rotating());
    let policy = Policy::refuse_secrets(&world);
    world.annotate("rotate", &json!("one"));
    let account = world.reason("DeliveryFailing");
    assert_eq!(ready(&account)["status"], "True", "what the Secret holds is good for long");
    assert_eq!(condition(&account, "Delivered")["status"], "False");
    let message = ready(&account)["message"].as_str().unwrap();
    let until = entries(&first.account)[0]["expiresAt"].as_str().unwrap();
    assert!(
        message.contains("no Secrets today") && message.contains(&first.jti) && message.contains(until),
        "{message}"
    );
    let target = &account["status"]["tokenSecret"];
    assert!(target["failures"].as_i64() >= Some(1) && target["nextAttemptAt"].is_string(), "{target}");
    assert_eq!(current(&account), Some(first.jti.as_str()));
    assert!(world.operator.accepts(&first.token));
    world.cluster.wait_event(&world.ns, "cart", "DeliveryFailed");
    let failures = |account: &Value| account["status"]["tokenSecret"]["failures"].as_i64().unwrap_or_default();
    let account = world.cluster.wait_account(&world.ns, "cart", "three attempts", |account| failures(account) >= 3);
    let jti = account["status"]["jwtId"].as_str().unwrap().to_owned();

    drop(policy);
    wait_for("the recovery", PATIENCE, || {
        // A new generation is tried at once, whatever the retry delay.
        world.edit(&json!({"description": format!("{:?}", std::time::Instant::now())}));
        let account = world.account();
        if current(&account) == Some(&jti) { Ok(()) } else { Err(account["status"].to_string()) }
    });
    let given = world.given("cart");
    assert_eq!(given.jti, jti, "the token that was recorded, and no other");
    assert!(given.account["status"]["tokenSecret"]["failures"].is_null());
    assert!(world.operator.accepts(&first.token) && world.operator.accepts(&given.token));
}

#[test]
fn first_delivery_that_is_refused_says_so_and_harms_nobody_else() {
    let world = World::new("refusedfirst");
    let policy = Policy::refuse_secrets(&world);
    world.create("cart", rotating());
    let account = world.reason("Delivering");
    assert_eq!(ready(&account)["status"], "False");
    assert!(ready(&account)["message"].as_str().unwrap().contains("no Secrets today"), "{account}");
    let other = World::new("unharmed");
    other.ready(json!({}));
    drop(policy);
    let given = world.given("cart");
    assert_eq!(entries(&given.account).len(), 1);
}

/// A policy of the cluster's administrator that forbids writes of Secrets in one namespace; gone when dropped.
struct Policy<'a> {
    world: &'a World,
}

impl<'a> Policy<'a> {
    fn refuse_secrets(world: &'a World) -> Self {
        let name = &world.ns;
        let rules = [
            json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["secrets"]}),
        ];
        let spec = json!({
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": rules,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
            },
            "validations": [{"expression": "false", "message": "no Secrets today"}],
        });
        create(world, "ValidatingAdmissionPolicy", "validatingadmissionpolicies", &spec);
        let binding = json!({"policyName": name, "validationActions": ["Deny"]});
        create(world, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", &binding);
        let trial = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "trial"}});
        wait_for("the policy to work", PATIENCE, || {
            let path = format!("/api/v1/namespaces/{name}/secrets?dryRun=All");
            match world.cluster.send("POST", &path, "application/json", Some(&trial)) {
                Ok(_) => Err("not yet"),
                Err(_) => Ok(()),
            }
        });
        Self { world }
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        for kind in ["validatingadmissionpolicybindings", "validatingadmissionpolicies"] {
            self.world.cluster.delete(&format!("{ADMISSION}/{kind}/{}", self.world.ns));
        }
    }
}

fn create(world: &World, kind: &str, plural: &str, spec: &Value) {
    let object = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": world.ns}, "spec": spec,
    });
    world.cluster.create(&format!("{ADMISSION}/{plural}"), &object);
}
