//! The conditions: one pass over the facts, first matching reason wins. Pure.
//!
//! No message counts time, so that a status changes only at an instant that the ledger or a retry names.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::desired::Desired;
use super::issue::Block;
use super::ledger::{Hold, Ledger, is_at};
use super::observe::Observed;
use super::stores::NOT_OURS;
use crate::api::{
    Entry, Instant, Phase, Seconds, SecretStoreStatus, TargetError, TokenSecretStatus, VirtualAccountStatus,
};
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
    /// The paths in stores after the pass.
    pub stores: &'a [SecretStoreStatus],
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
    /// What a path in a store holds is somebody else's.
    NotOurs,
    /// A store may not be used, or not at that path.
    NotAllowed,
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
            Self::NotOurs => NOT_OURS,
            Self::NotAllowed => "NotAllowed",
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

    fn says(&self) -> Says<'_> {
        Says { status: self.status, reason: self.reason.as_str(), message: &self.message }
    }
}

/// The reason that a failed attempt records for a Secret of somebody else.
pub const SECRET_NOT_OWNED: &str = "SecretNotOwned";

/// The conditions while the first token is on its way.
pub fn issuing(before: &[Condition], generation: i64, now: Instant) -> Vec<Condition> {
    let message = "the first token is recorded and on its way";
    let all = [("Ready", false), ("Delivered", false), ("Stalled", false)];
    all.iter().fold(before.to_vec(), |list, (kind, status)| {
        set(list, kind, &Verdict::new(*status, Reason::Issuing, message), generation, now)
    })
}

/// All conditions after a pass.
pub fn conditions(before: &[Condition], facts: &Facts) -> Vec<Condition> {
    let ready = ready(facts);
    let (generation, now) = (facts.desired.generation, facts.now);
    let hopeless = matches!(ready.reason, Reason::InvalidSpec | Reason::Expired);
    let mut list = set(before.to_vec(), "Ready", &ready, generation, now);
    if let Some(delivered) = delivered(facts, &ready) {
        list = set(list, "Delivered", &delivered, generation, now);
    } else {
        list = restamp(list, "Delivered", generation);
    }
    condition::set_stalled(list, &ready.says(), hopeless, generation, now)
}

/// When a delivery that fails turns from `DeliveryFailing` into `TokenEnding`: what a target holds is then good for less
/// than `min(grace, 1h)`. `None` where it ends with the account anyway, or nothing fails.
pub fn token_ending(desired: &Desired, status: &VirtualAccountStatus) -> Option<Instant> {
    let secret = status.token_secret.iter().map(|secret| (&secret.error, &secret.jwt_id));
    let stores = status.secret_stores.iter().map(|store| (&store.error, &store.jwt_id));
    let failing = secret.chain(stores).filter(|(error, _)| error.is_some());
    let held = failing.filter_map(|(_, jti)| status.jwts.iter().find(|entry| Some(&entry.id) == jti.as_ref()));
    held.filter_map(|held| warns_at(desired, held)).min()
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
    if desired.deleting() {
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
    let revoked = |entry: &Entry| entry.phase == Phase::Revoked;
    let over = revoked(newest) || targets(facts).iter().filter_map(|target| target.held).any(revoked);
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

fn failure(facts: &Facts) -> Option<String> {
    let failures: Vec<String> = targets(facts).iter().filter_map(Target::failure).collect();
    (!failures.is_empty()).then(|| failures.join("; "))
}

/// One place where the token should be.
struct Target<'a> {
    name: String,
    held: Option<&'a Entry>,
    delivered: bool,
    error: Option<&'a TargetError>,
}

impl Target<'_> {
    fn failure(&self) -> Option<String> {
        self.error.map(|error| error.message.clone())
    }
}

fn targets<'a>(facts: &Facts<'a>) -> Vec<Target<'a>> {
    let (desired, ledger) = (facts.desired, facts.ledger);
    let newest = ledger.newest();
    let target = |name: String, hold: &Hold, error: Option<&'a TargetError>| Target {
        name,
        held: hold.jti.as_deref().filter(|_| hold.version.is_some()).and_then(|jti| ledger.entry(jti)),
        delivered: newest.is_some_and(|newest| hold.is(&newest.id)),
        error,
    };
    let secret_error = facts.secret.and_then(|secret| secret.error.as_ref());
    let secret =
        desired.secret.enabled.then(|| target(format!("Secret {}", desired.secret.name), &ledger.secret, secret_error));
    let stores = ledger.stores.iter().map(|store| {
        let record = facts.stores.iter().find(|record| is_at(record, &store.at));
        target(store.at.to_string(), &store.hold, record.and_then(|record| record.error.as_ref()))
    });
    secret.into_iter().chain(stores).collect()
}

/// Whether an error's reason means that a store may not be used, or not like this.
pub fn is_refusal(reason: &str) -> bool {
    matches!(reason, "NotAllowed" | "AmbientCredentialsNotAllowed" | "StoreNotFound" | "InvalidPath")
}

/// Where the token goes, for people.
pub fn places(desired: &Desired) -> String {
    let secret = desired.secret.enabled.then(|| format!("Secret {}", desired.secret.name));
    let stores = desired.stores.iter().map(|store| store.at.to_string());
    secret.into_iter().chain(stores).collect::<Vec<_>>().join(", ")
}

// What the targets' states say; of several the worst.
fn delivery(facts: &Facts) -> Option<Verdict> {
    let targets = targets(facts);
    let all = targets.iter().filter_map(|target| {
        let error = target.error?;
        let reason = match error.reason.as_str() {
            SECRET_NOT_OWNED => Reason::SecretNotOwned,
            NOT_OURS => Reason::NotOurs,
            reason if is_refusal(reason) => Reason::NotAllowed,
            _ => return None,
        };
        Some(Verdict::new(false, reason, error.message.clone()))
    });
    if let Some(refused) = all.reduce(joined) {
        return Some(refused);
    }
    let newest = facts.ledger.newest()?;
    let lacking = targets.iter().filter(|target| !target.delivered).map(|target| lacking(facts, newest, target));
    lacking.reduce(joined)
}

fn lacking(facts: &Facts, newest: &Entry, target: &Target) -> Verdict {
    let name = &target.name;
    let why = target.failure().unwrap_or_else(|| "the token is on its way".into());
    let Some(held) = target.held else {
        return Verdict::new(false, Reason::Delivering, format!("{name} holds no token yet: {why}"));
    };
    let (ends, held_id) = (held.expires_at, &held.id);
    let message = format!(
        "{name} lacks the newest token {}: {why}. It holds token {held_id}, which stays valid until {ends}",
        newest.id
    );
    let ending = warns_at(facts.desired, held).is_some_and(|at| facts.now >= at);
    let reason = if ending { Reason::TokenEnding } else { Reason::DeliveryFailing };
    Verdict::new(!ending, reason, message)
}

// The first of the worst gives the reason; the messages of all stand in it, as many as fit.
fn joined(one: Verdict, other: Verdict) -> Verdict {
    let message = format!("{}; {}", one.message, other.message).chars().take(LONGEST_MESSAGE).collect();
    let first = if one.status && !other.status { other } else { one };
    Verdict { message, ..first }
}

/// The API server takes 32,768; nobody reads that.
const LONGEST_MESSAGE: usize = 2_048;

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
        _ => Verdict::new(true, Reason::Delivered, holds(desired)),
    }
}

const CLOCK: &str =
    "the operator's clock and the API server's differ by more than --max-clock-skew; set the clock right";

fn holds(desired: &Desired) -> String {
    let holds = if desired.stores.len() + usize::from(desired.secret.enabled) > 1 { "hold" } else { "holds" };
    format!("{} {holds} the newest token", places(desired))
}

// `None` where the state says "unchanged".
fn delivered(facts: &Facts, ready: &Verdict) -> Option<Verdict> {
    match ready.reason {
        Reason::InvalidSpec | Reason::Expired | Reason::KeyMissing | Reason::Suspended | Reason::Deleting => {
            (facts.ledger.delivered() && ready.reason == Reason::Suspended)
                .then(|| Verdict::new(true, Reason::Delivered, holds(facts.desired)))
        }
        Reason::Disabled | Reason::LedgerFull | Reason::Delivered => {
            Some(Verdict::new(true, Reason::Delivered, holds(facts.desired)))
        }
        _ => Some(Verdict::new(false, ready.reason, ready.message.clone())),
    }
}

fn set(list: Vec<Condition>, kind: &str, verdict: &Verdict, generation: i64, now: Instant) -> Vec<Condition> {
    condition::set(list, kind, &verdict.says(), generation, now)
}

fn restamp(mut list: Vec<Condition>, kind: &str, generation: i64) -> Vec<Condition> {
    if let Some(condition) = list.iter_mut().find(|condition| condition.type_ == kind) {
        condition.observed_generation = Some(generation);
    }
    list
}
