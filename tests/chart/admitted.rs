//! The API server takes the pod of the Deployment where Pod Security is at its strictest.

use serde_json::{Value, json};

use crate::support::helm::Helm;
use crate::support::plane::Plane;
use crate::{VALUES, objects, only, render};

#[test]
fn the_pod_is_admitted_where_pod_security_is_restricted() {
    let plane = Plane::shared();
    let namespace = plane.namespace("restricted");
    plane.kubectl_ok(&["label", "namespace", &namespace, "pod-security.kubernetes.io/enforce=restricted"], None);
    let create = |pod: &Value| {
        let output = plane.kubectl(
            &["create", "--dry-run=server", "--validate=strict", "-n", &namespace, "-f", "-"],
            Some(&pod.to_string()),
        );
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    for name in VALUES {
        let mut pod = pod(&objects(&render(Helm::Four, name)));
        let said = create(&pod);
        assert!(said.contains("pod/operator created") && !said.contains("Warning"), "{name}: {said}");

        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
        let said = create(&pod);
        assert!(said.contains("violates PodSecurity"), "nobody looks: {said}");
    }
}

/// The pod that the Deployment's controller would make.
fn pod(objects: &[Value]) -> Value {
    let template = &only(objects, "Deployment")["spec"]["template"];
    let mut metadata = template["metadata"].clone();
    metadata["name"] = "operator".into();
    let mut spec = template["spec"].clone();
    // Made by Kubernetes, in a namespace that is not of this test; it is no matter of Pod Security.
    spec.as_object_mut().unwrap().remove("priorityClassName");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}
