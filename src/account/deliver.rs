//! The calls of a pass to secret stores: look, write what is lacking, end older versions, clean up. What is to be done was
//! decided by [`super::stores`]; whether a path is ours is decided by [`crate::store::judge`] on what was just read there.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use futures::future::join_all;

use super::cluster::{CallError, Cluster};
use super::desired::{Desired, StorePath};
use super::ledger::Ledger;
use super::observe::Observed;
use super::stores::{
    NOT_OURS, Removal, RemovalAction, RemovalOutcome, StoreAction, StoreOutcome, StoreStep, is_hopeless, is_orphaned,
};
use crate::api::{AccountId, Entry};
use crate::integration::{ErrorKind, ProviderError};
use crate::store::{Held, Mark, Owner, Presence, UNMARKED, Value, Verdict, foreign, judge};
use crate::token::{Token, derive};

/// How often a path is looked at anew after something else was found there than expected.
const ROUNDS: usize = 2;

/// What a pass delivers to stores, and to whom it belongs.
pub(super) struct Delivery<'a, C> {
    cluster: &'a C,
    desired: &'a Desired,
    observed: &'a Observed,
    ledger: &'a Ledger,
    entry: &'a Entry,
    token: Token,
    digest: [u8; 32],
    mark: Mark,
}

impl<'a, C: Cluster> Delivery<'a, C> {
    /// The newest token of this ledger.
    pub(super) fn new(
        cluster: &'a C,
        desired: &'a Desired,
        observed: &'a Observed,
        ledger: &'a Ledger,
    ) -> Result<Self, CallError> {
        let unavailable = |why: &str| CallError::Unavailable(why.to_owned());
        let ring = observed.ring.as_ref().ok_or_else(|| unavailable("the key ring is not loaded"))?;
        let entry = ledger.newest().ok_or_else(|| unavailable("there is no token"))?;
        let token = derive(entry, &desired.account, ring).map_err(|error| unavailable(&error.to_string()))?;
        let mut sum = [0; 32];
        sum.copy_from_slice(digest(&SHA256, token.expose().as_bytes()).as_ref());
        let mark = Mark {
            owner: owner(desired),
            jti: entry.id.clone(),
            sequence: entry.issued_at.as_unix(),
            expires_at: entry.expires_at,
        };
        Ok(Self { cluster, desired, observed, ledger, entry, token, digest: sum, mark })
    }

    /// All paths at once; each has its own outcome. An error means that the pass stands on something stale.
    pub(super) async fn run(&self, steps: &[StoreStep]) -> Result<Vec<StoreOutcome>, CallError> {
        let all = join_all(steps.iter().map(|step| self.step(step))).await;
        all.into_iter().collect()
    }

    async fn step(&self, step: &StoreStep) -> Result<StoreOutcome, CallError> {
        let StoreAction::Deliver { take_over } = &step.action else { return Ok(StoreOutcome::Untouched) };
        match self.deliver(&step.at, take_over).await {
            Ok(holds) => Ok(holds),
            Err(Trouble::Store(error)) => Ok(StoreOutcome::Failed(error)),
            Err(Trouble::Stale(error)) => Err(error),
        }
    }

    async fn deliver(&self, at: &StorePath, take_over: &[String]) -> Result<StoreOutcome, Trouble> {
        let mut conflict = None;
        for _ in 0..ROUNDS {
            let held = self.cluster.read_store(at).await?;
            let unmarked = unmarked_but_ours(&held, self.ledger).then(|| UNMARKED.to_owned());
            let take_over: Vec<String> = take_over.iter().cloned().chain(unmarked).collect();
            match judge(&held, &self.mark, &self.digest, &take_over) {
                Verdict::Holds => {
                    let leftover = self.retire(at, &held).await.err();
                    return Ok(StoreOutcome::Holds { version: held.version.unwrap_or_default(), leftover });
                }
                Verdict::NotOurs { owner } => return Err(not_ours(at, &owner).into()),
                Verdict::NotOlder { jti } => self.confirm_older_or_unknown(&jti).await?,
                Verdict::Write => {}
            }
            let value = Value { token: &self.token, mark: &self.mark };
            match self.cluster.write_store(at, &value, &held).await {
                Ok(version) => {
                    let leftover = self.retire_replaced(at, &held).await.err();
                    return Ok(StoreOutcome::Holds { version, leftover });
                }
                Err(error) if error.kind == ErrorKind::Conflict => conflict = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(conflict.unwrap_or_else(|| overwritten(at)).into())
    }

    // Rule 1: a token that is not known to be older than ours is replaced only if an ordered read shows that it is, or that
    // neither the Secret nor the ledger has it.
    async fn confirm_older_or_unknown(&self, jti: &str) -> Result<(), Trouble> {
        let stale = |error| Trouble::Stale(error);
        let in_secret = self.is_in_secret(jti).await.map_err(stale)?;
        let read = self.cluster.read_account(&self.desired.account).await.map_err(stale)?;
        let status = read.and_then(|account| account.status).unwrap_or_default();
        let there = status.jwts.iter().find(|entry| entry.id == jti);
        let older = there.is_some_and(|there| there.issued_at < self.entry.issued_at);
        let unknown = there.is_none() && !in_secret;
        let current = status.jwts.iter().any(|entry| entry.id == self.entry.id);
        if current && (older || unknown) { Ok(()) } else { Err(stale(CallError::Conflict)) }
    }

    async fn is_in_secret(&self, jti: &str) -> Result<bool, CallError> {
        if !self.desired.secret.enabled {
            return Ok(false);
        }
        let id = AccountId::new(&self.desired.account.namespace, &self.desired.secret.name);
        let secret = self.cluster.read_secret(&id).await?;
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        Ok(data.get("jti").is_some_and(|value| value.0 == jti.as_bytes()))
    }

    // What was replaced is mostly in its grace; if not, its version ends at once.
    async fn retire_replaced(&self, at: &StorePath, before: &Held) -> Result<(), ProviderError> {
        let lives = |jti: &String| self.keep().contains(jti);
        // What was deleted comes back with its old version.
        let restored = before.presence == Presence::Deleted;
        if restored || before.older || before.jti.as_ref().is_some_and(|jti| *jti != self.mark.jti && !lives(jti)) {
            let held = self.cluster.read_store(at).await?;
            // Where nothing compares, a late write may have come after ours, and ours is an older version now.
            if held.jti.as_ref() != Some(&self.mark.jti) {
                return Err(overwritten(at));
            }
            return self.retire(at, &held).await;
        }
        Ok(())
    }

    // Versions whose token's grace is over; by a wrong clock none is.
    async fn retire(&self, at: &StorePath, held: &Held) -> Result<(), ProviderError> {
        if held.older && self.observed.clock_trusted && self.cluster.clock_trusted() {
            return self.cluster.retire_store(at, held, &self.keep()).await;
        }
        Ok(())
    }

    fn keep(&self) -> BTreeSet<String> {
        self.ledger.living(self.cluster.now() - self.desired.limits.max_clock_skew)
    }
}

/// Cleans up what is no longer wanted. All paths at once.
pub(super) async fn remove<C: Cluster>(
    cluster: &C,
    desired: &Desired,
    observed: &Observed,
    removals: &[Removal],
) -> Vec<RemovalOutcome> {
    join_all(removals.iter().map(|removal| remove_one(cluster, desired, observed, removal))).await
}

async fn remove_one<C: Cluster>(
    cluster: &C,
    desired: &Desired,
    observed: &Observed,
    removal: &Removal,
) -> RemovalOutcome {
    match removal.action {
        RemovalAction::Wait => RemovalOutcome::Untouched,
        RemovalAction::Release => RemovalOutcome::Gone,
        RemovalAction::GiveUp { ref why } => RemovalOutcome::LeftBehind { why: why.clone() },
        RemovalAction::Delete => match delete(cluster, desired, observed, &removal.at).await {
            Ok(()) => RemovalOutcome::Gone,
            // The credentials went with the namespace and do not come back.
            Err(error) if is_orphaned(desired, observed, &removal.at) && is_hopeless(&error) => {
                RemovalOutcome::LeftBehind { why: error.message }
            }
            Err(error) => RemovalOutcome::Failed(error),
        },
    }
}

async fn delete<C: Cluster>(
    cluster: &C,
    desired: &Desired,
    observed: &Observed,
    at: &StorePath,
) -> Result<(), ProviderError> {
    let held = cluster.read_store(at).await?;
    let ours = foreign(&held, &owner(desired), &[]).is_none() || unmarked_but_ours(&held, &observed.ledger);
    if held.presence == Presence::Present && ours {
        cluster.delete_store(at, &held).await?;
    }
    Ok(())
}

// Where value and mark are two calls, a writer may have died between them: the value alone tells whose it is.
fn unmarked_but_ours(held: &Held, ledger: &Ledger) -> bool {
    held.mark.is_none() && held.jti.as_deref().is_some_and(|jti| ledger.entry(jti).is_some())
}

fn owner(desired: &Desired) -> Owner {
    Owner { cluster: desired.limits.cluster_id.clone(), account: desired.account.to_string(), uid: desired.uid.clone() }
}

fn overwritten(at: &StorePath) -> ProviderError {
    ProviderError::new(ErrorKind::Conflict, "Conflict", format!("{at} is changed by somebody else"))
}

fn not_ours(at: &StorePath, owner: &str) -> ProviderError {
    let message = format!(
        "{at} belongs to {owner} and is left alone; choose another secretPath, delete what is there, or let the TokenStore \
         take it over (spec.takeOverFrom)"
    );
    ProviderError::new(ErrorKind::Invalid, NOT_OURS, message)
}

/// Why a path was not brought up to date.
enum Trouble {
    /// The store's.
    Store(ProviderError),
    /// What the pass stands on is stale, or the API server does not answer.
    Stale(CallError),
}

impl From<ProviderError> for Trouble {
    fn from(error: ProviderError) -> Self {
        Self::Store(error)
    }
}
