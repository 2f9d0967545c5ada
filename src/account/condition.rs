//! The conditions: one pass over the facts, first matching reason wins. Pure.
//!
//! No message counts time, so that a status changes only at an instant that the ledger or a retry names.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::desired::Desired;
use super::issue::Block;
use super::ledger::Ledger;
use super::observe::Observed;
use crate::api::{Entry, Instant, Phase, Seconds, TokenSecretStatus, VirtualAccountStatus};
use crate::condition::{self, Says};
use crate::token::Standing;

/// All that conditions depend on.
pub struct Facts<'a> {
    /// What should be.
    pub desired: &'a Desired,
    /// What was seen.
    pub observed: &'a Observed,
    /// The ledger after the pass.
    pub ledger: &'a Ledger,
    /// Why something due was not issued.
    pub block: Option<&'a Block>,
    /// The Secret after the pass.
    pub secret: Option<&'a TokenSecretStatus>,
    /// After the pass.
    pub now: Instant,
}

/// Why `Ready` is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The account is being deleted.
    Deleting,
    /// The spec cannot be used.
    InvalidSpec,
    /// Past its expirationDate.
    Expired,
    /// The newest token's key is not in the ring, or the ring cannot sign.
    KeyMissing,
    /// The newest token is revoked and its successor not delivered.
    Revoked,
    /// The Secret of that name is somebody else's.
    SecretNotOwned,
    /// A target still lacks the first token.
    Delivering,
    /// A target fails and what it holds ends soon.
    TokenEnding,
    /// A target fails; what it holds is good.
    DeliveryFailing,
    /// The first issue is under way.
    Issuing,
    /// `spec.suspend`.
    Suspended,
    /// `spec.disabled`.
    Disabled,
    /// Something waits for room in the ledger.
    LedgerFull,
    /// All is well.
    Delivered,
}

impl Reason {
    /// As it stands in the condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleting => "Deleting",
            Self::InvalidSpec => "InvalidSpec",
            Self::Expired => "Expired",
            Self::KeyMissing => "KeyMissing",
            Self::Revoked => "Revoked",
            Self::SecretNotOwned => "SecretNotOwned",
            Self::Delivering => "Delivering",
            Self::TokenEnding => "TokenEnding",
            Self::DeliveryFailing => "DeliveryFailing",
            Self::Issuing => "Issuing",
            Self::Suspended => "Suspended",
            Self::Disabled => "Disabled",
            Self::LedgerFull => "LedgerFull",
            Self::Delivered => "Delivered",
        }
    }
}

/// One condition as decided: status, reason, message.
struct Verdict {
    status: bool,
    reason: Reason,
    message: String,
}

impl Verdict {
    fn new(status: bool, reason: Reason, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }
}

/// The reason that a failed attempt records for a Secret of somebody else.
pub const SECRET_NOT_OWNED: &str = "SecretNotOwned";

/// The conditions while the first token is on its way.
pub fn issuing(before: &[Condition], generation: i64, now: Instant) -> Vec<Condition> {
    let message = "the first token is recorded and on its way to the Secret";
    let all = [("Ready", false), ("Delivered", false), ("Stalled", false)];
    all.iter().fold(before.to_vec(), |list, (kind, status)| {
        set(list, kind, &Verdict::new(*status, Reason::Issuing, message), generation, now)
    })
}

/// All conditions after a pass.
pub fn conditions(before: &[Condition], facts: &Facts) -> Vec<Condition> {
    let ready = ready(facts);
    let (generation, now) = (facts.desired.generation, facts.now);
    let stalled = matches!(ready.reason, Reason::InvalidSpec | Reason::Expired);
    let stalled = Verdict { status: stalled, reason: ready.reason, message: stalled_message(stalled, &ready) };
    let mut list = set(before.to_vec(), "Ready", &ready, generation, now);
    if let Some(delivered) = delivered(facts, &ready) {
        list = set(list, "Delivered", &delivered, generation, now);
    } else {
        list = restamp(list, "Delivered", generation);
    }
    set(list, "Stalled", &stalled, generation, now)
}

/// When a delivery that fails turns from `DeliveryFailing` into `TokenEnding`: what the Secret holds is then good for
/// less than `min(grace, 1h)`. `None` where it ends with the account anyway, or nothing fails.
pub fn token_ending(desired: &Desired, status: &VirtualAccountStatus) -> Option<Instant> {
    let secret = status.token_secret.as_ref()?;
    secret.error.as_ref()?;
    let held = status.jwts.iter().find(|entry| Some(&entry.id) == secret.jwt_id.as_ref())?;
    warns_at(desired, held)
}

fn warns_at(desired: &Desired, held: &Entry) -> Option<Instant> {
    let ends_with_account = desired.schedule.end.is_some_and(|end| held.expires_at >= end);
    (!ends_with_account).then(|| held.expires_at - desired.schedule.grace.min(Seconds::hours(1)))
}

fn ready(facts: &Facts) -> Verdict {
    let mut verdict = blocked(facts).or_else(|| delivery(facts)).unwrap_or_else(|| at_rest(facts));
    if verdict.reason != Reason::InvalidSpec {
        for remark in &facts.desired.remarks {
            verdict.message = format!("{}; {remark}", verdict.message);
        }
    }
    verdict
}

// What no delivery can cure.
fn blocked(facts: &Facts) -> Option<Verdict> {
    let desired = facts.desired;
    if desired.deleting {
        return Some(Verdict::new(
            false,
            Reason::Deleting,
            "the account is being deleted; its tokens are refused online",
        ));
    }
    if let Some(invalid) = &desired.invalid {
        let message = format!("{}: {}; nothing new is issued until then", invalid.field, invalid.message);
        return Some(Verdict::new(false, Reason::InvalidSpec, message));
    }
    if let Some(end) = desired.schedule.end.filter(|end| facts.now >= *end) {
        let message = format!("the account ended at {end}; set a later spec.expirationDate to issue a new token");
        return Some(Verdict::new(false, Reason::Expired, message));
    }
    key_missing(facts).or_else(|| revoked(facts))
}

fn key_missing(facts: &Facts) -> Option<Verdict> {
    let newest = facts.ledger.newest();
    let lost = newest.filter(|n| n.phase != Phase::Revoked && facts.observed.standing(n) == Standing::Missing);
    let message = match (lost, newest, facts.block) {
        (Some(_), _, Some(Block::KeyRing(why))) => why.clone(),
        (Some(lost), ..) => format!(
            "the signing key {} of the newest token is not in the key ring; restore the key ring's Secret from its backup, or \
             say that the key is gone: virtual-account-operator keys compromise {}",
            lost.key_id, lost.key_id
        ),
        (None, None, Some(Block::KeyRing(why))) => why.clone(),
        _ => return None,
    };
    Some(Verdict::new(false, Reason::KeyMissing, message))
}

fn revoked(facts: &Facts) -> Option<Verdict> {
    let ledger = facts.ledger;
    let newest = ledger.newest()?;
    let held = ledger.secret.jti.as_deref().and_then(|jti| ledger.entry(jti));
    let over = newest.phase == Phase::Revoked || held.is_some_and(|held| held.phase == Phase::Revoked);
    over.then(|| {
        let next = match (facts.desired.suspend, newest.phase) {
            (true, Phase::Revoked) => "its successor waits for spec.suspend to end",
            (false, Phase::Revoked) => "its successor is not issued yet",
            _ => "its successor is not delivered yet",
        };
        let failure = failure(facts).map(|text| format!(": {text}")).unwrap_or_default();
        Verdict::new(false, Reason::Revoked, format!("the delivered token is revoked; {next}{failure}"))
    })
}

fn failure<'a>(facts: &Facts<'a>) -> Option<&'a str> {
    facts.secret.and_then(|secret| secret.error.as_ref()).map(|error| error.message.as_str())
}

// What the target's state says.
fn delivery(facts: &Facts) -> Option<Verdict> {
    let ledger = facts.ledger;
    let not_owned = facts.secret.and_then(|s| s.error.as_ref()).filter(|error| error.reason == SECRET_NOT_OWNED);
    if let Some(error) = not_owned {
        return Some(Verdict::new(false, Reason::SecretNotOwned, error.message.clone()));
    }
    let newest = ledger.newest()?;
    if ledger.delivered() {
        return None;
    }
    let name = &facts.desired.secret.name;
    let why = failure(facts).unwrap_or("the token is on its way");
    let held = ledger.secret.jti.as_deref().filter(|_| ledger.secret.version.is_some());
    match held.and_then(|jti| ledger.entry(jti)) {
        None => Some(Verdict::new(false, Reason::Delivering, format!("Secret {name} holds no token yet: {why}"))),
        Some(held) => {
            let ends = held.expires_at;
            let message = format!(
                "Secret {name} lacks the newest token {}: {why}. It holds token {}, which stays valid until {ends}",
                newest.id, held.id
            );
            let ending = warns_at(facts.desired, held).is_some_and(|at| facts.now >= at);
            let reason = if ending { Reason::TokenEnding } else { Reason::DeliveryFailing };
            Some(Verdict::new(!ending, reason, message))
        }
    }
}

fn at_rest(facts: &Facts) -> Verdict {
    let (desired, ledger) = (facts.desired, facts.ledger);
    let issued = ledger.newest().is_some();
    if desired.suspend {
        let message = if issued {
            "suspended: nothing new is issued"
        } else {
            "suspended before the first token was issued; set spec.suspend to false"
        };
        return Verdict::new(issued, Reason::Suspended, message);
    }
    if !issued {
        let why = match facts.block {
            Some(Block::Clock) => CLOCK,
            _ => "the first token is not issued yet",
        };
        return Verdict::new(false, Reason::Issuing, why);
    }
    if desired.disabled {
        return Verdict::new(
            true,
            Reason::Disabled,
            "disabled: online checks refuse the account's tokens; rotation goes on",
        );
    }
    match facts.block {
        Some(Block::LedgerFull(at)) => {
            let at = at.map(|at| format!(" at {at}")).unwrap_or_default();
            Verdict::new(
                true,
                Reason::LedgerFull,
                format!("a new token waits for room in the ledger; the next entry leaves{at}"),
            )
        }
        Some(Block::TooSoon(at)) => Verdict::new(
            true,
            Reason::Delivered,
            format!("the newest token is delivered; the spec's change is issued at {at}"),
        ),
        Some(Block::KeyRing(why)) => {
            Verdict::new(true, Reason::Delivered, format!("the newest token is delivered; its successor waits: {why}"))
        }
        Some(Block::Clock) => Verdict::new(
            true,
            Reason::Delivered,
            format!("the newest token is delivered; its successor waits: {CLOCK}"),
        ),
        _ => Verdict::new(true, Reason::Delivered, format!("Secret {} holds the newest token", desired.secret.name)),
    }
}

const CLOCK: &str =
    "the operator's clock and the API server's differ by more than --max-clock-skew; set the clock right";

// `None` where the state says "unchanged".
fn delivered(facts: &Facts, ready: &Verdict) -> Option<Verdict> {
    match ready.reason {
        Reason::InvalidSpec | Reason::Expired | Reason::KeyMissing | Reason::Suspended | Reason::Deleting => {
            let name = &facts.desired.secret.name;
            (facts.ledger.delivered() && ready.reason == Reason::Suspended)
                .then(|| Verdict::new(true, Reason::Delivered, format!("Secret {name} holds the newest token")))
        }
        Reason::Disabled | Reason::LedgerFull | Reason::Delivered => {
            let name = &facts.desired.secret.name;
            Some(Verdict::new(true, Reason::Delivered, format!("Secret {name} holds the newest token")))
        }
        _ => Some(Verdict::new(false, ready.reason, ready.message.clone())),
    }
}

fn stalled_message(stalled: bool, ready: &Verdict) -> String {
    if stalled { ready.message.clone() } else { "nothing waits for a change of the spec".into() }
}

fn set(list: Vec<Condition>, kind: &str, verdict: &Verdict, generation: i64, now: Instant) -> Vec<Condition> {
    let says = Says { status: verdict.status, reason: verdict.reason.as_str(), message: &verdict.message };
    condition::set(list, kind, &says, generation, now)
}

fn restamp(mut list: Vec<Condition>, kind: &str, generation: i64) -> Vec<Condition> {
    if let Some(condition) = list.iter_mut().find(|condition| condition.type_ == kind) {
        condition.observed_generation = Some(generation);
    }
    list
}
