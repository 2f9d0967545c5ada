//! SIGTERM before the start is done: the API server gives no answer.

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::cluster::wait_for;
use crate::support::operator::ISSUER;

/// Killed when the test ends, however it does.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_that_waits_for_the_api_server_goes_when_it_is_told_to() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("start-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let kubeconfig = dir.join("kubeconfig");
    let server = format!("http://{}", silent.local_addr().expect("bound"));
    std::fs::write(
        &kubeconfig,
        format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
             clusters: [{{name: c, cluster: {{server: '{server}'}}}}], users: [{{name: u, user: {{}}}}]}}"
        ),
    )
    .expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtual-account-operator"));
    command.args(["run", "--issuer-url", ISSUER, "--namespace", "virtual-accounts"]);
    command.args(["--public-address", "127.0.0.1:0", "--ops-address", "127.0.0.1:0"]);
    command.env("KUBECONFIG", &kubeconfig).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut operator = Started(command.spawn().expect("the operator starts"));
    // It asks, and gets no answer.
    let (mut asked, _) = silent.accept().expect("a connection");
    assert!(asked.read(&mut [0; 1]).is_ok_and(|read| read == 1));
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", operator.0.id())]).status();
    assert!(sent.is_ok_and(|status| status.success()));
    // Without an answer it would give up after 10 s, with an error.
    let ended = wait_for("its end", Duration::from_mins(1), || match operator.0.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    });
    assert!(ended.success(), "{ended}, signal {:?}", ended.signal());
    let _ = std::fs::remove_dir_all(dir);
}
