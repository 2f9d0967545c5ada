//! `virtual-account-operator keys …`: shows the ring, or leaves a request on its Secret and waits until the operator has
//! carried it out. Only the operator changes the ring; nothing here prints key material.

use std::fmt::Write as _;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{sleep, timeout};

use super::keeper::reason;
use super::{
    Action, KeyState, REQUEST_ANNOTATION, Request, Ring, RingError, SECRET_NAME, add_request, fresh_jti, read_requests,
};
use crate::api::Instant;

/// How long a command waits for the operator.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(500);
/// Writers that may be faster than we are before we give up.
const ATTEMPTS: usize = 5;

/// What can be done with the signing keys.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum KeysCommand {
    /// Show the keys, their states and their instants.
    List,
    /// Let the standby key sign as soon as verifiers know it (15 minutes after it was published).
    Rotate,
    /// Declare a key compromised, or gone: every token of it is refused by online checks and replaced.
    #[command(group(clap::ArgGroup::new("which").required(true).args(["kid", "all"])))]
    Compromise {
        /// The key's id, as `keys list` or an entry of a ledger shows it.
        // A thumbprint may start with a hyphen.
        #[arg(allow_hyphen_values = true)]
        kid: Option<String>,
        /// Every key of the ring.
        #[arg(long)]
        all: bool,
    },
    /// Permit a new key ring where the old one is lost.
    Init {
        /// Replace every token whose key is lost; without it they wait until the ring is restored.
        #[arg(long)]
        accept_reissue: bool,
    },
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The API server said no.
    #[error("{verb} Secret {SECRET_NAME} failed: {}", reason(source))]
    Api {
        /// What was tried.
        verb: &'static str,
        /// What came back; never printed whole.
        source: kube::Error,
    },
    /// Others wrote the Secret again and again.
    #[error("Secret {SECRET_NAME} changes too fast; try again")]
    Busy,
    /// There is no ring.
    #[error(
        "there is no Secret {SECRET_NAME}: is the operator running in this namespace? If the ring is lost, restore it from its backup, or run `keys init`"
    )]
    NoRing,
    /// The Secret does not hold a ring.
    #[error("{0}; restore Secret {SECRET_NAME} from its backup")]
    Ring(#[from] RingError),
    /// Too many requests wait.
    #[error("too many requests wait on Secret {SECRET_NAME}; is the operator running?")]
    QueueFull,
    /// The operator did not answer.
    #[error("the operator has not carried out the request within {} s; it stays on Secret {SECRET_NAME} until a running operator does", PATIENCE.as_secs())]
    NotHandled,
    /// No such key.
    #[error("no key {0} in the ring or in any ledger; nothing was done")]
    UnknownKey(String),
}

/// Carries out one command; what to print.
pub async fn keys(
    command: KeysCommand,
    client: Client,
    namespace: &str,
    clock: fn() -> Instant,
) -> Result<String, CommandError> {
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let Some(action) = action(command) else {
        let secret = read(&api).await?.ok_or(CommandError::NoRing)?;
        return Ok(table(&ring_of(&secret)?, clock()));
    };
    let id = fresh_jti();
    ask(&api, &Request { id: id.clone(), action: action.clone() }).await?;
    let ring = timeout(PATIENCE, handled(&api, &id)).await.map_err(|_| CommandError::NotHandled)??;
    outcome(&action, &ring, clock())
}

fn action(command: KeysCommand) -> Option<Action> {
    match command {
        KeysCommand::List => None,
        KeysCommand::Rotate => Some(Action::Rotate),
        KeysCommand::Compromise { kid: Some(kid), .. } => Some(Action::Compromise { kid }),
        KeysCommand::Compromise { kid: None, .. } => Some(Action::CompromiseAll),
        KeysCommand::Init { accept_reissue } => Some(Action::Init { accept_reissue }),
    }
}

async fn read(api: &Api<Secret>) -> Result<Option<Secret>, CommandError> {
    api.get_opt(SECRET_NAME).await.map_err(|source| CommandError::Api { verb: "reading", source })
}

fn ring_of(secret: &Secret) -> Result<Ring, RingError> {
    secret.data.as_ref().map_or(Err(RingError::Empty), Ring::parse)
}

fn annotation(secret: &Secret) -> Option<&str> {
    secret.metadata.annotations.as_ref()?.get(REQUEST_ANNOTATION).map(String::as_str)
}

/// Leaves the request; on a conflict it reads again.
async fn ask(api: &Api<Secret>, request: &Request) -> Result<(), CommandError> {
    let params = PostParams::default();
    for _ in 0..ATTEMPTS {
        let found = read(api).await?;
        let asked = add_request(found.as_ref().and_then(annotation), request.clone()).ok_or(CommandError::QueueFull)?;
        let answer = match (found, &request.action) {
            (Some(mut secret), _) => {
                secret.metadata.annotations.get_or_insert_default().insert(REQUEST_ANNOTATION.into(), asked);
                api.replace(SECRET_NAME, &params, &secret).await
            }
            (None, Action::Init { .. }) => {
                let annotations = Some([(REQUEST_ANNOTATION.to_owned(), asked)].into());
                let metadata = ObjectMeta { name: Some(SECRET_NAME.into()), annotations, ..ObjectMeta::default() };
                api.create(&params, &Secret { metadata, type_: Some("Opaque".into()), ..Secret::default() }).await
            }
            (None, _) => return Err(CommandError::NoRing),
        };
        match answer {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(source) => return Err(CommandError::Api { verb: "writing", source }),
        }
    }
    Err(CommandError::Busy)
}

/// The ring after the operator has cleared the request.
async fn handled(api: &Api<Secret>, id: &str) -> Result<Ring, CommandError> {
    loop {
        if let Some(secret) = read(api).await? {
            let waits = read_requests(annotation(&secret)).iter().any(|request| request.id == id);
            if !waits {
                return Ok(ring_of(&secret)?);
            }
        }
        sleep(POLL).await;
    }
}

fn outcome(action: &Action, ring: &Ring, now: Instant) -> Result<String, CommandError> {
    let signer = ring.signing_key(now).map(|key| key.kid().to_owned()).unwrap_or_default();
    let said = match action {
        Action::Rotate => match ring.keys.iter().filter(|key| key.signs_from > now).min_by_key(|key| key.signs_from) {
            Some(next) => format!("key {signer} signs; key {} takes over at {}", next.kid(), next.signs_from),
            None => format!("key {signer} signs; there is no room for another key, so rotation waits"),
        },
        Action::Compromise { kid } if !ring.is_compromised(kid) => {
            return Err(CommandError::UnknownKey(kid.clone()));
        }
        Action::Compromise { kid } => format!("key {kid} is compromised; key {signer} signs"),
        Action::CompromiseAll => format!("all earlier keys are compromised; key {signer} signs"),
        Action::Init { accept_reissue: true } => {
            format!("key {signer} signs; tokens of lost keys are being replaced")
        }
        Action::Init { accept_reissue: false } => format!("key {signer} signs"),
    };
    Ok(format!("{said}\n\n{}", table(ring, now)))
}

/// The keys, the newest first.
fn table(ring: &Ring, now: Instant) -> String {
    let mut keys: Vec<_> = ring.keys.iter().collect();
    keys.sort_by_key(|key| std::cmp::Reverse(key.age()));
    let mut text = row(["KID", "ALG", "STATE", "PUBLISHED", "SIGNS FROM", "SIGNS UNTIL", "COMPROMISED"]);
    let or_dash = |instant: Option<Instant>| instant.map_or("-".into(), |instant| instant.to_string());
    for key in keys {
        let state = match ring.state(key.kid(), now) {
            Some(KeyState::Published) => "Published",
            Some(KeyState::Active) => "Active",
            Some(KeyState::Retiring) => "Retiring",
            Some(KeyState::Compromised) | None => "Compromised",
        };
        text += &row([
            key.kid(),
            key.material.algorithm().name(),
            state,
            &key.published_at.to_string(),
            &key.signs_from.to_string(),
            &or_dash(key.signs_until),
            &or_dash(key.compromised_at),
        ]);
    }
    for (kid, at) in &ring.gone {
        text += &row([kid, "-", "Gone", "-", "-", "-", &at.to_string()]);
    }
    text
}

fn row(cells: [&str; 7]) -> String {
    let widths = [44, 6, 12, 21, 21, 21, 0];
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        // Writing to a String cannot fail.
        let _ = write!(line, "{cell:width$}");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::super::fixtures::{ES256_PEM, at, es256, ring, rs256};
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: KeysCommand,
    }

    #[test]
    fn the_command_line_says_what_is_asked() {
        Line::command().debug_assert();
        let parse = |line: &str| {
            Line::try_parse_from(["keys"].into_iter().chain(line.split(' '))).ok().map(|line| line.command)
        };
        let table = [
            ("rotate", Some(Action::Rotate)),
            ("compromise K", Some(Action::Compromise { kid: "K".into() })),
            ("compromise -K_", Some(Action::Compromise { kid: "-K_".into() })),
            ("compromise --all", Some(Action::CompromiseAll)),
            ("init", Some(Action::Init { accept_reissue: false })),
            ("init --accept-reissue", Some(Action::Init { accept_reissue: true })),
        ];
        for (line, expected) in table {
            assert_eq!(action(parse(line).unwrap()), expected, "{line}");
        }
        assert_eq!(parse("list").map(action), Some(None));
        for line in ["compromise", "compromise K --all", "explode"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_list_shows_states_and_no_material() {
        let mut ring = ring();
        ring.gone.insert("lost".into(), at(0));
        let text = table(&ring, at(0));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..3], [rs256().kid(), "RS256", "Published"]);
        assert_eq!(lines[2][..3], [es256().kid(), "ES256", "Active"]);
        assert_eq!(lines[3][..3], ["lost", "-", "Gone"]);
        let private: Vec<_> = ES256_PEM.lines().filter(|line| !line.starts_with('-')).collect();
        assert!(private.iter().all(|line| !text.contains(line)));
    }

    #[test]
    fn what_happened_is_said() {
        let said =
            |action: &Action| outcome(action, &ring(), at(0)).map(|text| text.lines().next().unwrap().to_owned());
        let (one, two) = (es256().kid().to_owned(), rs256().kid().to_owned());
        assert_eq!(said(&Action::Rotate).unwrap(), format!("key {one} signs; key {two} takes over at {}", at(9_000)));
        assert!(matches!(said(&Action::Compromise { kid: "x".into() }), Err(CommandError::UnknownKey(_))));
        let mut after = ring();
        after.keys[0].compromised_at = Some(at(0));
        let text = outcome(&Action::Compromise { kid: one.clone() }, &after, at(0)).unwrap();
        assert!(text.starts_with(&format!("key {one} is compromised; key {two} signs")));
    }
}
