//! What the pages about channels show is what the API server takes, from whoever copies it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::plane::Plane;
use crate::world::shared_operator;

/// The blocks of YAML on a page.
fn blocks(page: &str) -> Vec<String> {
    page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_manifest_of_the_pages_is_taken_as_it_is() {
    shared_operator();
    let (plane, cluster) = (Plane::shared(), Cluster::of(Plane::shared()));
    for namespace in ["platform", "reporting"] {
        if cluster.find(&format!("/api/v1/namespaces/{namespace}")).is_none() {
            plane.kubectl_ok(&["create", "namespace", namespace], None);
        }
    }
    cluster.create_account("default", "page", json!({}));
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/notifications");
    let (mut channels, mut targets) = (0, 0);
    for page in fs::read_dir(pages).unwrap() {
        let page = page.unwrap().path();
        for block in blocks(&fs::read_to_string(&page).unwrap()) {
            if block.contains("kind:") {
                // Dry, so that pages may use the same names; unknown fields are refused.
                let args = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
                let taken = plane.kubectl_ok(&args, Some(&block));
                channels += taken.matches("notificationchannel").count();
            } else {
                targets += usize::from(of_an_account(plane, &block)["spec"]["notificationTargets"].is_array());
            }
        }
    }
    assert!(channels >= 6 && targets >= 3, "{channels} channels, {targets} targets of accounts");
    cluster.delete_account("default", "page");
}

/// An account with this part of a spec, as the API server would keep it.
fn of_an_account(plane: &Plane, block: &str) -> Value {
    let part = block.strip_prefix("spec:\n").map_or_else(|| block.replace('\n', "\n  "), str::to_owned);
    let patch = format!("spec:\n  {}", part.trim_start());
    let args = ["patch", "va", "page", "--type=merge", "--dry-run=server", "-o", "json", "--patch", &patch];
    serde_json::from_str(&plane.kubectl_ok(&args, None)).unwrap()
}
