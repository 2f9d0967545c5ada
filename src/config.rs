//! The command line: every setting is a flag with an environment twin, parsed once into [`Settings`].
//!
//! Behind this module no `Option` means "use the default" and no text is a duration or a URL. It does no I/O.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::api::Seconds;
use crate::store::UNMARKED;
use crate::token::{Algorithm, KeysCommand};
use crate::watch::Scope;

mod issuer_url;

pub use issuer_url::IssuerUrl;

/// Issues, delivers, rotates and verifies the tokens of virtual accounts.
#[derive(Debug, Parser)]
#[command(name = "virtual-account-operator", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// How log lines on stderr look. Their level comes from RUST_LOG (default info).
    #[arg(long, global = true, env = "VAO_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the operator.
    Run(Box<RunArgs>),
    /// Prints the custom resource definitions as YAML.
    Crd,
    /// Shows or changes the signing keys.
    Keys(KeysArgs),
    /// Checks the token on stdin online; exit code 0, or 1 with the reason.
    Verify(VerifyArgs),
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The operator's own namespace.
#[derive(Debug, Args)]
pub struct NamespaceArgs {
    /// The operator's own namespace, where the key ring lives.
    #[arg(long, env = "POD_NAMESPACE", value_parser = namespace)]
    pub namespace: String,
}

/// Arguments of `keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {
    /// Where the key ring is.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// What to do with the keys.
    #[command(subcommand)]
    pub command: KeysCommand,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Where the key ring is.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Answer nothing while the local clock and the API server's differ by more than this. 0 = off.
    #[arg(long, env = "VAO_MAX_CLOCK_SKEW", value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub max_clock_skew: Seconds,
}

/// The flags of `run`, as written. [`RunArgs::settings`] makes them usable.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The `iss` of every token, used exactly as written; unique per cluster. Verifiers fetch the keys below it.
    #[arg(long, env = "VAO_ISSUER_URL", value_name = "URL")]
    issuer_url: IssuerUrl,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// The `aud` of tokens whose account names none. [default: the issuer URL]
    #[arg(long, env = "VAO_DEFAULT_AUDIENCE", value_name = "AUDIENCE", value_parser = audience)]
    default_audience: Option<String>,
    /// Audiences that accounts may name, separated by commas. [default: the default audience]
    #[arg(long, env = "VAO_ALLOWED_AUDIENCES", value_name = "AUDIENCE,…", value_delimiter = ',', value_parser = audience)]
    allowed_audiences: Vec<String>,
    /// No account rotates by schedule or by an edit more often than this.
    #[arg(long, env = "VAO_MINIMUM_ROTATION_INTERVAL", value_name = "DURATION", default_value = "5m", value_parser = duration)]
    minimum_rotation_interval: Seconds,
    /// No token lives longer than this.
    #[arg(long, env = "VAO_MAX_TOKEN_LIFETIME", value_name = "DURATION", default_value = "400d", value_parser = duration)]
    max_token_lifetime: Seconds,
    /// While the local clock and the API server's differ by more than this, nothing is issued or retired and online
    /// checks do not answer. 0 = off.
    #[arg(long, env = "VAO_MAX_CLOCK_SKEW", value_name = "DURATION", default_value = "2m", value_parser = duration)]
    max_clock_skew: Seconds,
    /// Disaster recovery: take over tokens from Secrets of accounts that were restored under a new uid.
    #[arg(long, env = "VAO_ADOPT_RESTORED")]
    adopt_restored: bool,
    /// The algorithm of new signing keys.
    #[arg(long, env = "VAO_SIGNING_ALGORITHM", value_enum, ignore_case = true, default_value_t = Algorithm::Es256)]
    signing_algorithm: Algorithm,
    /// How long a key signs before its successor takes over.
    #[arg(long, env = "VAO_SIGNING_KEY_ROTATION", value_name = "DURATION", default_value = "90d", value_parser = duration)]
    signing_key_rotation: Seconds,
    /// After a limit was lowered: replaced tokens per second, over all accounts.
    #[arg(long, env = "VAO_REISSUE_RATE", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    reissue_rate: u32,
    /// How many accounts are worked on at the same time; those that wait for a store do not count.
    #[arg(long, env = "VAO_WORKERS", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// How many calls are made to one secret store at the same time.
    #[arg(long, env = "VAO_STORE_CONCURRENCY", value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    store_concurrency: u16,
    /// How long a call to a secret store may take.
    #[arg(long, env = "VAO_STORE_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    store_timeout: Seconds,
    /// How often each path in a secret store is looked at again: what was wiped or changed there is put right.
    #[arg(long, env = "VAO_STORE_CHECK_INTERVAL", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    store_check_interval: Seconds,
    /// How long a deleted account waits for a secret store that cannot be cleaned up.
    #[arg(long, env = "VAO_CLEANUP_DEADLINE", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    cleanup_deadline: Seconds,
    /// Lends the operator's own cloud credentials to TokenStores of every namespace, not of its own alone.
    #[arg(long, env = "VAO_ALLOW_AMBIENT_CREDENTIALS")]
    allow_ambient_credentials: bool,
    /// For tests: TokenStores and NotificationChannels may name loopback, link-local and metadata addresses, and plain http.
    #[arg(long, env = "VAO_ALLOW_LOCAL_ENDPOINTS")]
    allow_local_endpoints: bool,
    /// This cluster's id in the marks of secret stores; unique among clusters that share a store, and never to change.
    /// [default: the uid of namespace kube-system]
    #[arg(long, env = "VAO_CLUSTER_ID", value_name = "ID", value_parser = cluster_id)]
    cluster_id: Option<String>,
    /// What this cluster is called in notices, for people. [default: the cluster id]
    #[arg(long, env = "VAO_CLUSTER_NAME", value_name = "NAME", value_parser = cluster_name)]
    cluster_name: Option<String>,
    /// Replicas elect the one that writes, by a Lease in the operator's namespace. false: only where there is never another.
    #[arg(long, env = "VAO_LEADER_ELECT", value_name = "true|false", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    leader_elect: bool,
    /// How long other replicas wait for a leader that is silent before one of them takes over.
    #[arg(long, env = "VAO_LEADER_ELECT_LEASE_DURATION", value_name = "DURATION", default_value = "15s", value_parser = duration)]
    leader_elect_lease_duration: Seconds,
    /// Watches and works in these namespaces alone, separated by commas; needs --cluster-id, and no more than Roles there
    /// and in its own namespace. [default: the whole cluster]
    #[arg(long, env = "VAO_WATCH_NAMESPACES", value_name = "NAMESPACE,…", value_delimiter = ',', value_parser = namespace)]
    watch_namespaces: Vec<String>,
    /// Where discovery, keys and online checks are served.
    #[arg(long, env = "VAO_PUBLIC_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    public_address: SocketAddr,
    /// The certificate of the public listener and its issuers, PEM; with it the listener speaks TLS. Read again when it
    /// changes.
    #[arg(long, env = "VAO_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, PEM.
    #[arg(long, env = "VAO_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Where health and metrics are served.
    #[arg(long, env = "VAO_OPS_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    ops_address: SocketAddr,
}

/// Everything that `run` was told, checked and complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The `iss` of new tokens.
    pub issuer_url: IssuerUrl,
    /// The `aud` of tokens whose account names none; one of the allowed ones.
    pub default_audience: String,
    /// What accounts may name.
    pub allowed_audiences: BTreeSet<String>,
    /// The shortest time between two rotations.
    pub minimum_rotation_interval: Seconds,
    /// The longest life of a token.
    pub max_token_lifetime: Seconds,
    /// The tolerated difference between our clock and the API server's; zero = not checked.
    pub max_clock_skew: Seconds,
    /// Take over tokens of accounts restored under a new uid.
    pub adopt_restored: bool,
    /// The algorithm of new keys.
    pub signing_algorithm: Algorithm,
    /// How long a key signs.
    pub signing_key_rotation: Seconds,
    /// Re-issues per second after a limit was lowered.
    pub reissue_rate: u32,
    /// The operator's own namespace.
    pub namespace: String,
    /// Passes at the same time.
    pub workers: usize,
    /// Calls to one store at the same time.
    pub store_concurrency: usize,
    /// How long a call to a store may take.
    pub store_timeout: Seconds,
    /// How often each path in a store is looked at again.
    pub store_check_interval: Seconds,
    /// How long a deleted account waits for a store that cannot be cleaned up.
    pub cleanup_deadline: Seconds,
    /// Stores of any namespace may use the operator's own credentials.
    pub allow_ambient_credentials: bool,
    /// Stores may be on this machine, for tests.
    pub allow_local_endpoints: bool,
    /// What this cluster is called in marks; `None`: as its API server says, which is asked at start.
    pub cluster_id: Option<String>,
    /// What this cluster is called in notices; `None`: as its id.
    pub cluster_name: Option<String>,
    /// How long a silent leader's Lease is good; `None`: there is no election.
    pub lease_duration: Option<Duration>,
    /// Where accounts, their Secrets, stores and channels are watched.
    pub watch: Scope,
    /// Where the public listener binds.
    pub public_address: SocketAddr,
    /// The public listener's certificate; `None`: it speaks plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Where the ops listener binds.
    pub ops_address: SocketAddr,
}

/// A certificate and its key, as files in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `--tls-cert`: the certificate, then its issuers.
    pub cert: PathBuf,
    /// `--tls-key`
    pub key: PathBuf,
}

/// Flags that are right one by one and wrong together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// New tokens could carry an audience that is not allowed.
    #[error("--default-audience {0} is not one of --allowed-audiences; add it there")]
    DefaultAudience(String),
    /// A token would end before the next may be issued.
    #[error(
        "--max-token-lifetime {lifetime} must be longer than --minimum-rotation-interval {interval}; raise the first or lower the second"
    )]
    Lifetime {
        /// The one.
        lifetime: Seconds,
        /// The other.
        interval: Seconds,
    },
    /// Two edits could fight without a limit.
    #[error("--minimum-rotation-interval must be at least 1s")]
    Interval,
    /// A key needs 15 minutes in the JWKS before it signs, so a shorter rotation could not be kept.
    #[error("--signing-key-rotation {0} must be at least 15m; raise it")]
    KeyRotation(Seconds),
    /// No call could succeed.
    #[error("--store-timeout must be at least 1s")]
    StoreTimeout,
    /// A leader could not renew it in time on a slow machine, and nobody would have to lead for longer.
    #[error("--leader-elect-lease-duration {0} must be from 3s to 10m; 15s is usual")]
    LeaseDuration(Seconds),
    /// The uid of kube-system cannot be read with Roles alone.
    #[error(
        "--watch-namespaces needs --cluster-id: the operator reads no namespace then, so it cannot take the uid of kube-system; choose an id that is unique among clusters that share a store, and keep it"
    )]
    ClusterId,
    /// Every pass would look at every store.
    #[error("--store-check-interval {0} must be at least 1m; raise it")]
    StoreCheckInterval(Seconds),
    /// A certificate is of no use without its key, nor the other way round.
    #[error("--tls-cert and --tls-key go together; {0} is missing")]
    Tls(&'static str),
}

impl RunArgs {
    /// Resolves the defaults and checks the flags against each other.
    pub fn settings(self) -> Result<Settings, SettingsError> {
        self.check()?;
        let (default_audience, allowed_audiences) = audiences(&self)?;
        let watch = Scope::of(self.watch_namespaces);
        if !watch.is_cluster() && self.cluster_id.is_none() {
            return Err(SettingsError::ClusterId);
        }
        let tls = tls(self.tls_cert, self.tls_key)?;
        Ok(Settings {
            issuer_url: self.issuer_url,
            default_audience,
            allowed_audiences,
            minimum_rotation_interval: self.minimum_rotation_interval,
            max_token_lifetime: self.max_token_lifetime,
            max_clock_skew: self.max_clock_skew,
            adopt_restored: self.adopt_restored,
            signing_algorithm: self.signing_algorithm,
            signing_key_rotation: self.signing_key_rotation,
            reissue_rate: self.reissue_rate,
            namespace: self.namespace.namespace,
            workers: self.workers.into(),
            store_concurrency: self.store_concurrency.into(),
            store_timeout: self.store_timeout,
            store_check_interval: self.store_check_interval,
            cleanup_deadline: self.cleanup_deadline,
            allow_ambient_credentials: self.allow_ambient_credentials,
            allow_local_endpoints: self.allow_local_endpoints,
            cluster_id: self.cluster_id,
            cluster_name: self.cluster_name,
            lease_duration: self.leader_elect.then(|| self.leader_elect_lease_duration.as_duration()),
            watch,
            public_address: self.public_address,
            tls,
            ops_address: self.ops_address,
        })
    }

    // Durations that nothing could work with, alone or beside another.
    fn check(&self) -> Result<(), SettingsError> {
        let (lifetime, interval) = (self.max_token_lifetime, self.minimum_rotation_interval);
        if interval < Seconds(1) {
            return Err(SettingsError::Interval);
        }
        if lifetime <= interval {
            return Err(SettingsError::Lifetime { lifetime, interval });
        }
        if self.signing_key_rotation < Seconds::minutes(15) {
            return Err(SettingsError::KeyRotation(self.signing_key_rotation));
        }
        if self.store_timeout < Seconds(1) {
            return Err(SettingsError::StoreTimeout);
        }
        if self.store_check_interval < Seconds::minutes(1) {
            return Err(SettingsError::StoreCheckInterval(self.store_check_interval));
        }
        let lease = self.leader_elect_lease_duration;
        if !(Seconds(3)..=Seconds::minutes(10)).contains(&lease) {
            return Err(SettingsError::LeaseDuration(lease));
        }
        Ok(())
    }
}

// What a token is for if its account does not say, and all that it may be for.
fn audiences(flags: &RunArgs) -> Result<(String, BTreeSet<String>), SettingsError> {
    let default = flags.default_audience.clone().unwrap_or_else(|| flags.issuer_url.as_str().to_owned());
    let mut allowed: BTreeSet<String> = flags.allowed_audiences.iter().cloned().collect();
    if allowed.is_empty() {
        allowed.insert(default.clone());
    }
    if !allowed.contains(&default) {
        return Err(SettingsError::DefaultAudience(default));
    }
    Ok((default, allowed))
}

fn tls(cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<TlsFiles>, SettingsError> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(SettingsError::Tls("--tls-cert")),
        (Some(_), None) => Err(SettingsError::Tls("--tls-key")),
    }
}

fn duration(text: &str) -> Result<Seconds, &'static str> {
    if text == "0" {
        return Ok(Seconds::ZERO);
    }
    Seconds::parse(text, "dhms")
        .ok_or("not a duration; write a whole number and d, h, m or s, for example 90d, 12h, 5m, 30s")
}

// As in the schema of a ledger entry.
const AUDIENCE_LENGTH: usize = 256;

fn audience(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.len() > AUDIENCE_LENGTH || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("an audience has 1 to 256 characters, without white space");
    }
    Ok(text.to_owned())
}

// What every provider takes as the value of a label or tag.
fn cluster_id(text: &str) -> Result<String, &'static str> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if text == UNMARKED {
        return Err("unmarked has a meaning of its own in spec.takeOverFrom; choose another");
    }
    if (1..=63).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err("a cluster id has 1 to 63 lower-case letters, digits, '-' and '_'")
}

fn cluster_name(text: &str) -> Result<String, &'static str> {
    let name = text.trim();
    if (1..=128).contains(&name.chars().count()) && !name.contains(|c: char| c.is_control()) {
        return Ok(name.to_owned());
    }
    Err("a cluster name has 1 to 128 characters, on one line")
}

fn namespace(text: &str) -> Result<String, &'static str> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label =
        (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-');
    if label {
        Ok(text.to_owned())
    } else {
        Err("not the name of a namespace (1 to 63 lower-case letters, digits and '-')")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(more: &[&str]) -> Result<Settings, String> {
        let base = ["vao", "run", "--issuer-url", "https://va.example.com", "--namespace", "vao"];
        let cli = Cli::try_parse_from(base.iter().chain(more)).map_err(|error| error.to_string())?;
        match cli.command {
            Command::Run(args) => args.settings().map_err(|error| error.to_string()),
            other => Err(format!("{other:?}")),
        }
    }

    fn keys(arguments: &[&str]) -> Result<KeysCommand, String> {
        let base = ["vao", "keys", "--namespace", "vao"];
        let cli = Cli::try_parse_from(base.iter().chain(arguments)).map_err(|error| error.to_string())?;
        match cli.command {
            Command::Keys(args) => Ok(args.command),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_twin() {
        use clap::CommandFactory;
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for flag in run.get_arguments().filter(|flag| flag.get_id() != "help") {
            let name = flag.get_long().unwrap();
            let twin = if name == "namespace" {
                "POD_NAMESPACE".into()
            } else {
                format!("VAO_{}", name.replace('-', "_").to_uppercase())
            };
            assert_eq!(flag.get_env().and_then(|env| env.to_str()), Some(twin.as_str()), "{name}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let settings = run(&[]).unwrap();
        let issuer = "https://va.example.com";
        assert_eq!(
            settings,
            Settings {
                issuer_url: issuer.parse().unwrap(),
                default_audience: issuer.into(),
                allowed_audiences: [issuer.to_owned()].into(),
                minimum_rotation_interval: Seconds::minutes(5),
                max_token_lifetime: Seconds::days(400),
                max_clock_skew: Seconds::minutes(2),
                adopt_restored: false,
                signing_algorithm: Algorithm::Es256,
                signing_key_rotation: Seconds::days(90),
                reissue_rate: 5,
                namespace: "vao".into(),
                workers: 16,
                store_concurrency: 8,
                store_timeout: Seconds(10),
                store_check_interval: Seconds::hours(24),
                cleanup_deadline: Seconds::hours(1),
                allow_ambient_credentials: false,
                allow_local_endpoints: false,
                cluster_id: None,
                cluster_name: None,
                lease_duration: Some(Duration::from_secs(15)),
                watch: Scope::default(),
                public_address: "0.0.0.0:8080".parse().unwrap(),
                tls: None,
                ops_address: "0.0.0.0:9090".parse().unwrap(),
            }
        );
    }

    #[test]
    fn flags_are_read() {
        let settings = run(&[
            "--default-audience=a",
            "--allowed-audiences=b,a",
            "--max-clock-skew=0",
            "--signing-algorithm=rs256",
            "--minimum-rotation-interval=10s",
            "--adopt-restored",
            "--cluster-id=eu-1_a",
            "--cluster-name= Großes Cluster, eu-1 ",
            "--store-concurrency=2",
            "--allow-local-endpoints",
            "--leader-elect=false",
            "--watch-namespaces=payments,ledger",
            "--tls-cert=/tls/tls.crt",
            "--tls-key=/tls/tls.key",
        ])
        .unwrap();
        assert_eq!(settings.lease_duration, None);
        assert_eq!((settings.cluster_id.as_deref(), settings.store_concurrency), (Some("eu-1_a"), 2));
        assert_eq!(settings.cluster_name.as_deref(), Some("Großes Cluster, eu-1"));
        assert_eq!(settings.watch, Scope::of(["ledger".to_owned(), "payments".to_owned()]));
        assert!(settings.watch.covers("ledger") && !settings.watch.covers("vao") && !settings.watch.is_cluster());
        assert!(settings.allow_local_endpoints && !settings.allow_ambient_credentials);
        assert_eq!(settings.allowed_audiences, ["a".to_owned(), "b".to_owned()].into());
        assert_eq!(settings.max_clock_skew, Seconds::ZERO);
        assert_eq!(settings.signing_algorithm, Algorithm::Rs256);
        assert_eq!(settings.minimum_rotation_interval, Seconds(10));
        assert!(settings.adopt_restored);
        assert_eq!(settings.tls, Some(TlsFiles { cert: "/tls/tls.crt".into(), key: "/tls/tls.key".into() }));
    }

    #[test]
    fn mistakes_name_the_flag_and_the_cure() {
        for (flags, flag, cure) in [
            (&["--default-audience=x", "--allowed-audiences=a"][..], "--default-audience", "add it"),
            (&["--allowed-audiences=a"], "--default-audience", "add it"),
            (&["--max-token-lifetime=5m"], "--max-token-lifetime", "raise"),
            (&["--minimum-rotation-interval=0"], "--minimum-rotation-interval", "at least 1s"),
            (&["--signing-key-rotation=14m"], "--signing-key-rotation", "raise"),
            (&["--max-clock-skew=1w"], "--max-clock-skew", "for example 90d"),
            (&["--max-clock-skew=99999999999h"], "--max-clock-skew", "for example 90d"),
            (&["--workers=0"], "--workers", "1..=256"),
            (&["--store-concurrency=0"], "--store-concurrency", "1..=256"),
            (&["--store-timeout=0"], "--store-timeout", "at least 1s"),
            (&["--store-check-interval=59s"], "--store-check-interval", "raise"),
            (&["--cluster-id=unmarked"], "--cluster-id", "choose another"),
            (&["--cluster-id=EU 1"], "--cluster-id", "1 to 63"),
            (&["--cluster-name= "], "--cluster-name", "1 to 128"),
            (&["--cluster-name=a\nb"], "--cluster-name", "on one line"),
            (&[&format!("--cluster-name={}", "a".repeat(129))], "--cluster-name", "1 to 128"),
            (&["--allowed-audiences=a,,b"], "--allowed-audiences", "1 to 256"),
            (&["--watch-namespaces=payments"], "--watch-namespaces", "needs --cluster-id"),
            (&["--watch-namespaces=payments,*", "--cluster-id=a"], "--watch-namespaces", "1 to 63"),
            (&["--tls-cert=/tls/tls.crt"], "--tls-cert", "--tls-key is missing"),
            (&["--tls-key=/tls/tls.key"], "--tls-key", "--tls-cert is missing"),
            (&["--ops-address=nowhere"], "--ops-address", "invalid"),
        ] {
            let error = run(flags).unwrap_err();
            assert!(error.contains(flag) && error.contains(cure), "{flags:?}: {error}");
        }
        let error =
            Cli::try_parse_from(["vao", "run", "--issuer-url=ftp://x", "--namespace=vao"]).unwrap_err().to_string();
        assert!(error.contains("--issuer-url") && error.contains("must start with https://"), "{error}");
    }

    #[test]
    fn keys_commands_are_read() {
        assert_eq!(keys(&["list"]).unwrap(), KeysCommand::List);
        assert_eq!(keys(&["rotate"]).unwrap(), KeysCommand::Rotate);
        let one = KeysCommand::Compromise { kid: Some("k".into()), all: false };
        assert_eq!(keys(&["compromise", "k"]).unwrap(), one);
        assert_eq!(keys(&["compromise", "--all"]).unwrap(), KeysCommand::Compromise { kid: None, all: true });
        assert_eq!(keys(&["init", "--accept-reissue"]).unwrap(), KeysCommand::Init { accept_reissue: true });
        for wrong in [&["compromise"][..], &["compromise", "k", "--all"], &[]] {
            assert!(keys(wrong).is_err(), "{wrong:?}");
        }
    }
}
