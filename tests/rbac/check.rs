//! The check of all tests' audit logs against the roles (`testplane rbac`) finds what it is for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::{rendered, root, run};

const ROLES: &str = "kind: ClusterRole
metadata: {name: operator}
rules:
# Needed.
- {apiGroups: [''], resources: [secrets], verbs: [get, update]}
# Not seen in the tests: delete widgets.example.com, which only a full disk needs.
- {apiGroups: [example.com], resources: [widgets], verbs: [delete]}
---
kind: Role
metadata: {name: own}
rules:
- {apiGroups: [''], resources: [secrets], resourceNames: [ring], verbs: [get]}
---
kind: ClusterRole
metadata: {name: for-people}
rules:
- {apiGroups: [''], resources: [pods], verbs: [get]}
---
kind: ClusterRoleBinding
roleRef: {kind: ClusterRole, name: operator}
---
kind: RoleBinding
roleRef: {kind: Role, name: own}
";

fn seen(verb: &str, place: &str, more: &Value) -> Value {
    let mut request = json!({"group": "", "resource": "secrets", "verb": verb, "where": place});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

/// What is needed and nothing else.
fn good() -> Vec<Value> {
    let ring = json!({"name": "ring"});
    vec![seen("get", "other", &json!({})), seen("update", "other", &json!({})), seen("get", "own", &ring)]
}

fn harvest(name: &str, uses: &[Value]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("harvest-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("1.json"), Value::from(uses).to_string()).unwrap();
    dir
}

/// Whether the check passes, and what it prints.
fn check(dir: &Path, arguments: &[&str], roles: &str) -> (bool, String) {
    let script = root().join("tests/plane/build.sh");
    let binary = Command::new(script).output().unwrap().stdout;
    let binary = String::from_utf8(binary).unwrap();
    let output = run(Command::new(binary.trim_end()).arg("rbac").args(arguments).arg(dir), roles);
    (output.status.success(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_is_needed_and_no_more_passes() {
    let (passes, text) = check(&harvest("good", &good()), &["-complete"], ROLES);
    assert!(passes && text.contains("3 kinds of requests seen, 0 problems"), "{text}");
}

#[test]
fn a_right_that_nothing_needs_is_named_unless_its_comment_says_why() {
    for (missing, problem) in [
        (1, "ClusterRole operator allows what no test needs: update secrets"),
        (2, "Role own allows what no test needs: get secrets [ring]"),
    ] {
        let mut uses = good();
        uses.remove(missing);
        let dir = harvest(&format!("unused-{missing}"), &uses);
        let (passes, text) = check(&dir, &["-complete"], ROLES);
        assert!(!passes && text.contains(problem) && text.contains("1 problems"), "{text}");
        assert!(check(&dir, &[], ROLES).0, "some tests alone cannot tell");
    }
    let widget = json!({"group": "example.com", "resource": "widgets", "verb": "delete", "where": "other"});
    let dir = harvest("excuse", &[good(), vec![widget]].concat());
    let (passes, text) = check(&dir, &["-complete"], ROLES);
    assert!(!passes && text.contains("says that no test needs delete widgets.example.com, but one does"), "{text}");
    let sometimes = ROLES.replace("Not seen", "Not always seen");
    assert!(check(&dir, &["-complete"], &sometimes).0, "seen this time");
    assert!(check(&harvest("sometimes", &good()), &["-complete"], &sometimes).0, "and not this time");
}

#[test]
fn a_refused_request_is_named_unless_a_test_means_it() {
    let refused = vec![seen("delete", "own", &json!({"refused": true}))];
    let dir = harvest("refused", &[good(), refused].concat());
    let (passes, text) = check(&dir, &[], ROLES);
    assert!(!passes && text.contains("refused by RBAC, and no test means it to be: delete secrets own"), "{text}");
    let expected = dir.join("expected");
    fs::write(&expected, "delete secrets own # by a test of this\n").unwrap();
    assert!(check(&dir, &["-expected", expected.to_str().unwrap()], ROLES).0);
}

#[test]
fn secrets_that_are_listed_without_our_label_are_named() {
    let selected = seen("list", "cluster", &json!({"selector": "virtualaccounts.dev/account"}));
    assert!(check(&harvest("selected", &[selected]), &[], ROLES).0);
    for selector in [json!({}), json!({"selector": "app=cart"})] {
        let (passes, text) = check(&harvest("unselected", &[seen("watch", "cluster", &selector)]), &[], ROLES);
        assert!(!passes && text.contains("Secrets of others are read"), "{text}");
    }
}

#[test]
fn the_roles_of_the_chart_are_those_that_are_checked() {
    let (passes, text) = check(&harvest("none", &[]), &["-complete"], &rendered(&["rbac"], &json!({})));
    assert!(!passes, "nothing was needed");
    for right in [
        "ClusterRole virtual-account-operator allows what no test needs: get secrets",
        "create leases.coordination.k8s.io",
    ] {
        assert!(text.contains(right), "{right}: {text}");
    }
    assert!(!text.contains("introspections"), "that is a role for others");
}
