//! What an administrator installs before an operator runs: by `config/default`, by its own RBAC or by the chart.

use std::fs;
use std::path::Path;

use super::super::plane::Plane;
use super::super::rendered::Release;
use super::NAMESPACE;
use super::options::{Options, flags};

/// A caller that may introspect, and one that may not; both in the operator's namespace.
pub(super) const CALLER: &str = "checker";
pub(super) const STRANGER: &str = "stranger";
const CALLERS: &str = r"---
apiVersion: v1
kind: ServiceAccount
metadata: {name: checker, namespace: NAMESPACE}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: stranger, namespace: NAMESPACE}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: NAMESPACE-RELEASE-checker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: RELEASE-introspection}
subjects: [{kind: ServiceAccount, name: checker, namespace: NAMESPACE}]
";

/// What of `config/default` gives the operator its name and its rights.
const RIGHTS: [&str; 3] = ["namespace.yaml", "serviceaccount.yaml", "rbac.yaml"];

/// Installs what an administrator installs, into the operator's namespace. By the chart, if that is asked for.
pub(super) fn prepare(plane: &Plane, options: &Options) -> Option<Release> {
    let namespace = options.namespace();
    let release = options.release.clone().or_else(|| {
        if options.rbac.is_some() {
            return None;
        }
        let asked = Release::asked(&namespace, &flags(options), &options.variables())?;
        asked.install(plane);
        Some(asked)
    });
    if release.is_none() {
        install(plane, &namespace, options.rbac.as_deref());
    }
    let introspection = release.as_ref().map_or("virtual-account-operator".to_owned(), Release::full_name);
    let callers = CALLERS.replace("NAMESPACE", &namespace).replace("RELEASE", &introspection);
    plane.kubectl_ok(&["apply", "-f", "-"], Some(&callers));
    release
}

/// The definitions, and of `config/default` what gives the operator its name and its rights.
fn install(plane: &Plane, namespace: &str, rbac: Option<&str>) {
    let crd = plane.kubectl(&["get", "crd", "virtualaccounts.virtualaccounts.dev"], None);
    if !crd.status.success() {
        plane.install(&virtual_account_operator::api::yaml().expect("the definitions can be printed"));
    }
    if let Some(rbac) = rbac {
        let own = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n");
        plane.kubectl_ok(&["apply", "-f", "-"], Some(&format!("{own}---\n{rbac}")));
        return;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/default");
    let shipped = RIGHTS.map(|file| fs::read_to_string(directory.join(file)).expect("config/default is complete"));
    let shipped = shipped.join("---\n");
    // As kustomize does it for an overlay: the namespace itself, and where others name it. A further operator on the same
    // plane needs a binding of its own.
    let mut objects = shipped.replace(&format!(": {NAMESPACE}\n"), &format!(": {namespace}\n"));
    if namespace != NAMESPACE {
        objects = objects.replace(
            "kind: ClusterRoleBinding\nmetadata:\n  name: virtual-account-operator\n",
            &format!("kind: ClusterRoleBinding\nmetadata:\n  name: virtual-account-operator-{namespace}\n"),
        );
    }
    plane.kubectl_ok(&["apply", "-f", "-"], Some(&objects));
}

pub(super) fn token(plane: &Plane, namespace: &str, name: &str) -> String {
    // A moved clock must not make it expire.
    plane.kubectl_ok(&["create", "token", name, "-n", namespace, "--duration", "876000h"], None)
}
