//! A backup of etcd.

use std::path::PathBuf;
use std::process::Command;

use crate::support::plane::Plane;

/// etcd's data at one moment.
pub(super) struct Snapshot(PathBuf);

impl Snapshot {
    pub(super) fn take(plane: &Plane) -> Self {
        let copy = plane.dir().join("etcd-snapshot");
        without_etcd(plane, || run("cp", &["-a", &data(plane), &copy.to_string_lossy()]));
        Self(copy)
    }

    pub(super) fn put_back(&self, plane: &Plane) {
        without_etcd(plane, || {
            run("rm", &["-r", &data(plane)]);
            run("cp", &["-a", &self.0.to_string_lossy(), &data(plane)]);
        });
        // Whoever remembers the future has to be restarted after a restore.
        plane.command("restart kube-controller-manager");
    }
}

fn without_etcd(plane: &Plane, act: impl FnOnce()) {
    plane.command("stop kube-apiserver");
    plane.command("stop etcd");
    act();
    plane.command("start etcd");
    plane.command("start kube-apiserver");
}

fn data(plane: &Plane) -> String {
    plane.dir().join("etcd").to_string_lossy().into_owned()
}

pub(super) fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().expect("it can be run");
    assert!(status.success(), "{program} {args:?}: {status}");
}
