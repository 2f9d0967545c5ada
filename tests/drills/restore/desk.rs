//! An administrator who does what docs/backup-and-restore.md says, word for word.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::snapshot::run;
use crate::support::operator::NAMESPACE;
use crate::world::World;

const PAGE: &str = "docs/backup-and-restore.md";

/// An administrator's desk: an empty directory, with kubectl and the operator's binary at hand.
pub(super) struct Desk {
    pub(super) dir: PathBuf,
    path: String,
}

impl Desk {
    pub(super) fn new(world: &World) -> Self {
        let dir = world.plane.dir().join("desk");
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin).expect("a directory");
        let kubeconfig = world.plane.kubeconfig_path();
        let operator = env!("CARGO_BIN_EXE_virtual-account-operator");
        for (name, program) in [
            ("kubectl", format!("{} kubectl", world.plane.binary().display())),
            ("virtual-account-operator", operator.to_owned()),
        ] {
            let script = format!(
                "#!/bin/sh\nexport KUBECONFIG={} POD_NAMESPACE={NAMESPACE}\nexec {program} \"$@\"\n",
                kubeconfig.display()
            );
            std::fs::write(bin.join(name), script).expect("a script");
            run("chmod", &["+x", &bin.join(name).to_string_lossy()]);
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        Self { dir, path }
    }

    /// Runs the page's commands: the block of `sh` at this place below a heading. What they print is returned.
    pub(super) fn runs(&self, heading: &str, block: usize) -> String {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
        let page = std::fs::read_to_string(page).expect("the page");
        let section = page.split(&format!("{heading}\n")).nth(1).and_then(|rest| rest.split("\n## ").next());
        let section = section.unwrap_or_else(|| panic!("no {heading}"));
        let commands = section.split("```sh\n").nth(block + 1).and_then(|rest| rest.split("```").next());
        let commands = commands.unwrap_or_else(|| panic!("{heading} has no block {block}"));
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", commands]).current_dir(&self.dir).env("PATH", &self.path);
        let output = bash.output().expect("bash runs");
        assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}
