//! promtool, which judges rules as Prometheus does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// The rules that the chart ships.
pub(crate) const RULES: &str = "charts/virtual-account-operator/files/alerts.yaml";

/// Runs promtool in the checkout; what it printed, as an error if it is not content.
pub(crate) fn promtool(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program()).args(arguments).current_dir(root()).output().expect("promtool runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// The checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        let script = root().join("hack/promtool.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().expect("the script runs");
        assert!(output.status.success(), "hack/promtool.sh: {}", output.status);
        String::from_utf8_lossy(&output.stdout).trim().into()
    });
    &PROGRAM
}
