//! Helm 3 and Helm 4, offline or on a plane.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use super::plane::Plane;

/// One of the two that people use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helm {
    Three,
    Four,
}

impl Helm {
    pub(crate) const BOTH: [Self; 2] = [Self::Three, Self::Four];

    /// Runs it without a cluster.
    pub(crate) fn offline(self, args: &[&str]) -> Output {
        run(self.command(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("helm")).args(args))
    }

    /// As [`Helm::offline`]; it must succeed. Its stdout.
    pub(crate) fn offline_ok(self, args: &[&str]) -> String {
        succeeded(&format!("{self:?} {args:?}"), &self.offline(args))
    }

    /// Runs it as the administrator of a plane.
    pub(crate) fn on(self, plane: &Plane, args: &[&str]) -> Output {
        let mut command = self.command(&plane.dir().join("helm"));
        run(command.env("KUBECONFIG", plane.kubeconfig_path()).args(args))
    }

    /// As [`Helm::on`]; it must succeed. Its stdout.
    pub(crate) fn on_ok(self, plane: &Plane, args: &[&str]) -> String {
        succeeded(&format!("{self:?} {args:?}"), &self.on(plane, args))
    }

    /// Runs the commands of a page in this directory, as the administrator of a plane, whose `helm` it is. They must
    /// succeed.
    pub(crate) fn shell_ok(self, plane: &Plane, directory: &Path, commands: &str) {
        let bin = plane.dir().join(format!("{self:?}"));
        fs::create_dir_all(&bin).expect("the plane's directory can be written");
        if !bin.join("helm").exists() {
            symlink(self.program(), bin.join("helm")).expect("the plane's directory can be written");
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = Self::around(Command::new("bash"), &plane.dir().join("helm"));
        shell.args(["-euo", "pipefail", "-c", commands]).current_dir(directory);
        shell.env("PATH", path).env("KUBECONFIG", plane.kubeconfig_path());
        succeeded(commands, &run(&mut shell));
    }

    fn program(self) -> PathBuf {
        tools().join(match self {
            Self::Three => "helm3",
            Self::Four => "helm4",
        })
    }

    fn command(self, home: &Path) -> Command {
        Self::around(Command::new(self.program()), home)
    }

    fn around(mut command: Command, home: &Path) -> Command {
        // Nothing of whoever runs the tests: neither plugins nor what another cluster on the same port once served.
        command.env("HOME", home).env("KUBECACHEDIR", home.join("discovery"));
        for directory in ["CACHE", "CONFIG", "DATA"] {
            command.env(format!("HELM_{directory}_HOME"), home.join(directory.to_lowercase()));
        }
        command
    }
}

/// The chart's directory.
pub(crate) fn chart() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/virtual-account-operator").display().to_string()
}

/// Where Helm and kubeconform are.
pub(crate) fn tools() -> &'static Path {
    static TOOLS: LazyLock<PathBuf> = LazyLock::new(|| script("hack/helm.sh"));
    &TOOLS
}

/// Runs a script of ours that prints a path.
pub(crate) fn script(path: &str) -> PathBuf {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let output = command.stderr(Stdio::inherit()).output().unwrap_or_else(|error| panic!("cannot run {path}: {error}"));
    assert!(output.status.success(), "{path}: {}", output.status);
    String::from_utf8_lossy(&output.stdout).trim_end().into()
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// The stdout of what must have succeeded.
pub(crate) fn succeeded(what: &str, output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
