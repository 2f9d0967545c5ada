//! A server of somebody else as a child process, that ends with the test process whatever happens.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failure is the test's verdict")]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

// Prints the server's process id and kills it when stdin ends, which it does when this process ends in any way.
const KEEPER: &str = r#"exec 3<&0; log=$1; shift
"$@" </dev/null >"$log" 2>&1 3<&- & pid=$!
echo $pid; exec >/dev/null 2>&1
(read -r _ <&3; kill -KILL $pid) & keeper=$!
exec 3<&-; wait $pid; code=$?; kill $keeper; exit $code"#;
const START: Duration = Duration::from_secs(30);

/// A running server.
pub(crate) struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) port: u16,
}

impl Server {
    /// Starts a program of the Python environment on a free port, in a directory where it may leave files, and waits until
    /// it takes connections. The port is free when it is chosen; somebody else may be quicker, so there are more tries.
    pub(crate) fn start(dir: &Path, program: &str, arguments: impl Fn(u16) -> Vec<String>) -> Self {
        let mut seen = String::new();
        for _ in 0..3 {
            match Self::try_start(dir, program, &arguments) {
                Ok(server) => return server,
                Err(error) => seen = error,
            }
        }
        panic!("{program} does not start: {seen}");
    }

    fn try_start(dir: &Path, program: &str, arguments: &impl Fn(u16) -> Vec<String>) -> Result<Self, String> {
        let port = free_port();
        let log = dir.join(format!("{program}-{port}.log"));
        let mut child = Command::new("bash")
            .args(["-c", KEEPER, "keeper"])
            .arg(&log)
            .arg(python().join("bin").join(program))
            .args(arguments(port))
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash is there");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let mut pid = String::new();
        BufReader::new(stdout).read_line(&mut pid).expect("the keeper tells the process id");
        let mut server = Self { child, stdin, port };
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() && server.runs() {
                let _ = std::fs::remove_file(log);
                return Ok(server);
            }
            if !server.runs() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(std::fs::read_to_string(log).unwrap_or_default())
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// A port of the kernel's choice.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// The Python environment of the tests, made if need be.
pub(crate) fn python() -> &'static Path {
    static ENVIRONMENT: LazyLock<PathBuf> = LazyLock::new(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/python-env.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().expect("the script runs");
        assert!(output.status.success(), "hack/python-env.sh: {}", output.status);
        String::from_utf8_lossy(&output.stdout).trim().into()
    });
    &ENVIRONMENT
}
