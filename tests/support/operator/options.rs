//! How an operator is to be run, and the arguments that this makes.

use super::super::rendered::Release;
use super::{ISSUER, NAMESPACE};

/// How to run the operator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Its namespace; default: [`NAMESPACE`].
    pub(crate) namespace: Option<String>,
    /// Its RBAC, in place of the shipped one for the whole cluster; its ServiceAccount included.
    pub(crate) rbac: Option<String>,
    /// More flags of `run`.
    pub(crate) flags: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Where it finds the API server, if not at the plane itself: `https://127.0.0.1:1234`.
    pub(crate) server: Option<String>,
    /// `RUST_LOG`.
    pub(crate) log: Option<String>,
    /// Runs it as this release of the chart, which is installed already, says. All else but the clock is the release's.
    pub(crate) release: Option<Release>,
    /// Its wall clock, as libfaketime has it (`+30d`); it can be moved by [`super::Operator::set_clock`]. Only the wall clock:
    /// timers go on as ever. The check against the API server's clock is switched off unless
    /// `--max-clock-skew` is among the flags.
    pub(crate) clock: Option<String>,
}

impl Options {
    /// Where the operator lives.
    pub(super) fn namespace(&self) -> String {
        let release = self.release.as_ref().map(|release| release.namespace.clone());
        release.or_else(|| self.namespace.clone()).unwrap_or_else(|| NAMESPACE.to_owned())
    }

    /// The variables of its own.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let level = self.log.as_deref().unwrap_or("info");
        [("RUST_LOG".to_owned(), level.to_owned())].into_iter().chain(self.env.iter().cloned()).collect()
    }

    /// With these flags.
    pub(crate) fn flags(flags: &[&str]) -> Self {
        Self { flags: flags.iter().map(|flag| (*flag).to_owned()).collect(), ..Self::default() }
    }
}

pub(super) fn arguments(options: &Options, namespace: &str) -> Vec<String> {
    let mut arguments = vec!["run".to_owned()];
    let given = |flag: &str| options.flags.iter().any(|given| given.starts_with(flag));
    let usual = [
        ("--log-format", "json"),
        ("--issuer-url", ISSUER),
        ("--namespace", namespace),
        ("--public-address", "127.0.0.1:0"),
        ("--ops-address", "127.0.0.1:0"),
    ];
    for (flag, value) in usual.iter().filter(|(flag, _)| !given(flag)) {
        arguments.push(format!("{flag}={value}"));
    }
    arguments.extend(flags(options));
    arguments
}

/// The flags that were asked for, and those that go with them.
pub(super) fn flags(options: &Options) -> Vec<String> {
    let mut flags = options.flags.clone();
    if options.clock.is_some() && !flags.iter().any(|given| given.starts_with("--max-clock-skew")) {
        flags.extend(["--max-clock-skew".to_owned(), "0".to_owned()]);
    }
    flags
}
