//! The public listener with TLS: what clients get, and how a renewed certificate reaches them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use tokio::runtime::{Builder, Runtime};

use crate::support::cluster::{PATIENCE, wait_for};
use crate::support::operator::{Operator, Options};
use crate::support::pki::{Authority, Dir, Pair};
use crate::support::plane::Plane;

const DISCOVERY: &str = "/.well-known/openid-configuration";
const METRIC: &str = "virtual_account_public_certificate_expiry_timestamp_seconds";
/// 2090-01-01 and 2095-01-01, both at midnight.
const ENDS: [(i32, i64); 2] = [(2090, 3_786_912_000), (2095, 3_944_678_400)];

#[test]
fn a_renewed_certificate_is_served_without_a_restart_and_without_ending_a_connection() {
    let home = Home::start();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    // Each client trusts one authority alone: one that goes on after the change has kept its connection.
    home.mount.mount(&old.issue("va", ENDS[0].0));
    let operator = home.operator();
    let [http1, http2] = [false, true].map(|http2| Client::new(&operator, &old, http2));
    for client in [&http1, &http2] {
        client.get().expect("served with the old certificate");
    }
    assert!(metric(&operator) == Some(ENDS[0].1), "{:?}", metric(&operator));

    home.mount.mount(&new.issue("va", ENDS[1].0));
    wait_for("the new certificate", PATIENCE, || Client::new(&operator, &new, true).get());
    for client in [&http1, &http2] {
        client.get().expect("the connection is as it was");
    }
    assert!(Client::new(&operator, &old, true).get().is_err(), "the old certificate is served to nobody new");
    wait_for("the metric", PATIENCE, || match metric(&operator) {
        Some(at) if at == ENDS[1].1 => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_broken_renewal_changes_nothing_and_is_told_without_the_key() {
    let home = Home::start();
    let authority = Authority::new("one");
    let (good, other) = (authority.issue("va", ENDS[0].0), authority.issue("va", ENDS[1].0));
    home.mount.mount(&good);
    let operator = home.operator();
    home.mount.mount(&Pair { key: other.key.clone(), ..good.clone() });
    wait_for("a complaint", PATIENCE, || match complaints(&operator, "is not the key of the first certificate") {
        0 => Err("none"),
        _ => Ok(()),
    });
    // Cut off in the middle, as by a full disk.
    home.mount.mount(&Pair { cert: other.cert[..200].to_owned(), key: other.key.clone() });
    wait_for("another", PATIENCE, || match complaints(&operator, "ends in the middle of it") {
        0 => Err("none"),
        _ => Ok(()),
    });
    Client::new(&operator, &authority, true).get().expect("the old pair is served");
    assert_eq!(operator.get_ops("/readyz").status, 200);
    assert_eq!(metric(&operator), Some(ENDS[0].1));
    assert_eq!(complaints(&operator, "the certificate in use stays"), 2, "each is told once");

    home.mount.mount(&other);
    wait_for("the renewed certificate", PATIENCE, || match metric(&operator) {
        Some(at) if at == ENDS[1].1 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let log = operator.log();
    for line in [&good.key, &other.key].iter().flat_map(|key| key.lines().skip(1)).filter(|line| !line.contains("---"))
    {
        assert!(!log.contains(line), "a part of a key is in the log");
    }
}

#[test]
fn who_says_nothing_or_speaks_no_tls_holds_up_nobody() {
    let home = Home::start();
    let authority = Authority::new("one");
    home.mount.mount(&authority.issue("va", ENDS[0].0));
    let operator = home.operator();
    let silent: Vec<_> = (0..50).map(|_| TcpStream::connect(operator.public_address()).expect("accepted")).collect();
    Client::new(&operator, &authority, true).get().expect("served past the silent ones");

    let mut plain = TcpStream::connect(operator.public_address()).expect("accepted");
    plain.write_all(b"GET /jwks.json HTTP/1.1\r\nhost: x\r\n\r\n").expect("written");
    let mut answer = Vec::new();
    // Closed in order or reset: either way there is no answer.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "nothing is served in the clear");
    drop(silent);
}

#[test]
fn a_pair_that_cannot_be_used_ends_the_start_and_names_flag_and_file() {
    let home = Home::start();
    home.mount.mount(&Authority::new("one").issue("va", ENDS[0].0));
    let operator = home.operator();
    let elsewhere = Dir::new("tls-broken");
    let absent = elsewhere.path("tls.crt").display().to_string();
    let wrong = elsewhere.write("wrong.key", &Authority::new("two").issue("va", ENDS[0].0).key).display().to_string();
    let [cert, key] = home.mount.flags();
    for (flags, problem) in [
        ([format!("--tls-cert={absent}"), key], format!("error: cannot read --tls-cert {absent}: No such file")),
        (
            [cert, format!("--tls-key={wrong}")],
            format!("error: --tls-key {wrong} is not the key of the first certificate"),
        ),
    ] {
        let address = ["--public-address=127.0.0.1:0", "--ops-address=127.0.0.1:0", "--issuer-url=https://x"];
        let arguments: Vec<&str> = ["run"].into_iter().chain(address).chain(flags.iter().map(String::as_str)).collect();
        let output = operator.command(&arguments, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(&problem), "{said}");
    }
}

/// A plane and a mounted Secret.
struct Home {
    plane: Plane,
    mount: Dir,
}

impl Home {
    // Not a shared one: by the chart (hack/test-full.sh) two releases would install the definitions at the same time.
    fn start() -> Self {
        Self { plane: Plane::start(), mount: Dir::new("tls") }
    }

    fn operator(&self) -> Operator {
        let flags = self.mount.flags().to_vec();
        // The most that it ever says of TLS.
        let log = Some("info,rustls=trace,virtual_account_operator::http=trace".to_owned());
        Operator::start(&self.plane, Options { flags, log, ..Options::default() })
    }
}

/// A client of the public listener that trusts one authority.
struct Client {
    runtime: Runtime,
    http: reqwest::Client,
    url: String,
}

impl Client {
    fn new(operator: &Operator, trusted: &Authority, http2: bool) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let builder = if http2 { trusted.client() } else { trusted.client().http1_only() };
        let url = format!("https://{}{DISCOVERY}", operator.public_address());
        Self { runtime, http: builder.build().expect("a client"), url }
    }

    fn get(&self) -> Result<(), String> {
        let answer = self.runtime.block_on(async {
            let answer = self.http.get(&self.url).send().await?.error_for_status()?;
            answer.text().await
        });
        answer.map(drop).map_err(|error| format!("{error:?}"))
    }
}

fn metric(operator: &Operator) -> Option<i64> {
    let metrics = operator.metrics();
    let line = metrics.lines().find(|line| line.starts_with(METRIC))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn complaints(operator: &Operator, text: &str) -> usize {
    operator.log().lines().filter(|line| line.contains(text)).count()
}
