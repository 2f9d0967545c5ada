//! One pass over an account: observe, plan, do what the plan says, record what came of it.
//!
//! Every write is conditional. A conflict is never retried blindly: the Secret and then the account are read, in this
//! order, and a new plan is made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::cluster::{CallError, Cluster};
use super::condition::SECRET_NOT_OWNED;
use super::deliver::{Delivery, remove};
use super::desired::{Desired, StorePath};
use super::issue::Block;
use super::ledger::{Hold, Ledger, is_at};
use super::letters::letters;
use super::observe::{Observed, SecretView, version_number};
use super::plan::{Act, Plan, SecretStep, deliverable, plan};
use super::secret::{Image, SecretMeta, SecretSeen, released, render};
use super::status::{Clock, Outcome, Outcomes, finished, ledger_after, recorded, told, wake_at};
use super::stores::{RemovalAction, RemovalOutcome, StoreAction, StoreOutcome, StoreStep};
use crate::api::{
    AccountId, DeletionPolicy, Entry, Instant, IssueReason, ObjectId, Phase, STORES_FINALIZER, Seconds,
    SecretStoreStatus, TargetError, VirtualAccount, VirtualAccountStatus,
};
use crate::notify;
use crate::store::{Admission, Held, NOT_ALLOWED};

/// What a pass leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// When the next pass is worth making.
    pub wake_at: Option<Instant>,
    /// Why a token was issued, if one was.
    pub issued: Option<IssueReason>,
    /// Why something due was not issued.
    pub block: Option<Block>,
}

/// How often a pass starts again after a conflict before it gives way to others.
const ROUNDS: usize = 5;

/// One pass over one account. `Ok(None)`: the account is gone.
pub async fn pass<C: Cluster>(cluster: &C, id: &AccountId) -> Result<Option<Report>, CallError> {
    let Some(mut account) = cluster.account(id) else { return Ok(None) };
    let mut read: Option<Read> = None;
    for _ in 0..ROUNDS {
        let desired = Desired::parse(&account, &cluster.limits());
        read = read.filter(|read| read.name == desired.secret.name);
        let mut observed = observe(cluster, &account, &desired, read.as_ref());
        observed.marks = marks(cluster, &desired, &observed).await;
        // The clock may have gone wrong while stores answered.
        observed.clock_trusted &= cluster.clock_trusted();
        if let Plan::Act(act) = plan(&desired, &observed, cluster.now()) {
            let pass = Pass { cluster, desired: &desired, observed: &observed, act: &act };
            match pass.apply(Arc::clone(&account)).await {
                Err(CallError::Conflict) => {}
                done => return done.map(Some),
            }
        }
        if desired.secret.enabled {
            let name = desired.secret.name.clone();
            let secret = cluster.read_secret(&AccountId::new(&id.namespace, &name)).await?;
            read = Some(Read { name, secret });
        }
        let Some(newer) = cluster.read_account(id).await? else { return Ok(None) };
        cluster.remember(id, Some(&newer));
        account = Arc::new(newer);
    }
    Err(CallError::Conflict)
}

/// A Secret that was read before the account was.
struct Read {
    name: String,
    secret: Option<Secret>,
}

fn observe<C: Cluster>(cluster: &C, account: &VirtualAccount, desired: &Desired, read: Option<&Read>) -> Observed {
    let (ring, ring_trouble) = cluster.keys();
    let (metas, position) = cluster.secrets(&desired.account);
    let is_named = |meta: &SecretMeta| desired.secret.enabled && meta.name == desired.secret.name;
    let (named, others): (Vec<_>, Vec<_>) = metas.into_iter().partition(is_named);
    let secret = match (read, &ring) {
        (Some(read), Some(ring)) => {
            SecretView::Read(read.secret.as_ref().map(|secret| Box::new(SecretSeen::read(secret, desired, ring))))
        }
        _ => SecretView::Watched { meta: named.into_iter().next(), position },
    };
    let status = account.status.clone().filter(|status| status.account.as_ref() == Some(&desired.account.to_string()));
    Observed {
        version: version_number(&account.resource_version().unwrap_or_default()),
        ledger: believed(cluster, desired, status.as_ref()),
        admissions: admissions(cluster, desired, status.as_ref()),
        places: places(cluster, desired, status.as_ref()),
        channels: channels(cluster, desired),
        reports: cluster.reports(&desired.account),
        marks: BTreeSet::new(),
        finalizer: account.finalizers().iter().any(|finalizer| finalizer == STORES_FINALIZER),
        namespace_terminating: cluster.namespace_terminating(&desired.account.namespace),
        status,
        secret,
        strays: others.into_iter().filter(|meta| meta.same_uid(desired)).collect(),
        ring,
        ring_trouble,
        clock_trusted: cluster.clock_trusted(),
        fresh_id: cluster.fresh_id(),
        may_reissue: cluster.may_reissue(),
    }
}

// A TokenStore that was edited to lead elsewhere holds nothing there yet, whatever is recorded.
fn believed<C: Cluster>(cluster: &C, desired: &Desired, status: Option<&VirtualAccountStatus>) -> Ledger {
    let mut ledger = Ledger::of(status, desired);
    let records = |at: &StorePath| status.and_then(|s| s.secret_stores.iter().find(|record| is_at(record, at)));
    for store in &mut ledger.stores {
        let before = records(&store.at).and_then(|record| record.place.as_ref());
        if let (Some(before), Some(now)) = (before, cluster.place(&store.at))
            && *before != now
        {
            store.hold = Hold::default();
        }
    }
    ledger
}

fn places<C: Cluster>(
    cluster: &C,
    desired: &Desired,
    status: Option<&VirtualAccountStatus>,
) -> BTreeMap<StorePath, String> {
    let recorded = status.into_iter().flat_map(|status| &status.secret_stores);
    let recorded =
        recorded.map(|record| StorePath { store: record.store_ref.clone(), path: record.secret_path.clone() });
    let all = desired.stores.iter().map(|store| store.at.clone()).chain(recorded);
    all.filter_map(|at| Some((at.clone(), cluster.place(&at)?))).collect()
}

fn channels<C: Cluster>(cluster: &C, desired: &Desired) -> BTreeMap<ObjectId, notify::Admission> {
    let named = desired.told.iter().map(|told| &told.channel);
    named.map(|channel| (channel.clone(), cluster.channel(&desired.account.namespace, channel))).collect()
}

fn admissions<C: Cluster>(
    cluster: &C,
    desired: &Desired,
    status: Option<&VirtualAccountStatus>,
) -> BTreeMap<StorePath, Admission> {
    let recorded = status.into_iter().flat_map(|status| &status.secret_stores);
    let recorded =
        recorded.map(|record| StorePath { store: record.store_ref.clone(), path: record.secret_path.clone() });
    let all = desired.stores.iter().map(|store| store.at.clone()).chain(recorded);
    // A refusal is recorded, too.
    let counts = |record: &SecretStoreStatus| {
        record.jwt_id.is_some() || record.error.as_ref().is_none_or(|error| error.reason != NOT_ALLOWED)
    };
    let used = |at: &StorePath| {
        let mut records = status.into_iter().flat_map(|status| &status.secret_stores);
        records.any(|record| record.store_ref == at.store && counts(record))
    };
    let admission = |at: &StorePath| match cluster.admit(&desired.account.namespace, at) {
        // Those that use it go on until they leave it.
        Admission::Open { .. } if !used(at) && cluster.store_deleting(&at.store) => Admission::Refused {
            reason: NOT_ALLOWED,
            message: format!("TokenStore {} is being deleted; name another store", at.store),
        },
        admission => admission,
    };
    all.map(|at| (at.clone(), admission(&at))).collect()
}

// Only where a Secret that was read holds something to adopt: what a store has then counts as delivered, too. A store that
// cannot be read says nothing.
async fn marks<C: Cluster>(cluster: &C, desired: &Desired, observed: &Observed) -> BTreeSet<String> {
    let unknown = |entry: &crate::api::Entry| observed.ledger.entry(&entry.id).is_none();
    let carried = observed.secret_read().map(|seen| [&seen.carried.token, &seen.carried.previous]);
    if !carried.into_iter().flatten().flatten().any(unknown) {
        return BTreeSet::new();
    }
    let open = desired.stores.iter().filter(|store| matches!(observed.admission(&store.at), Admission::Open { .. }));
    let read = futures::future::join_all(open.map(|store| cluster.read_store(&store.at))).await;
    // A mark may lag behind the value.
    let named = |held: Held| held.mark.map(|mark| mark.jti).into_iter().chain(held.jti);
    read.into_iter().flatten().flat_map(named).collect()
}

/// One plan on its way.
struct Pass<'a, C> {
    cluster: &'a C,
    desired: &'a Desired,
    observed: &'a Observed,
    act: &'a Act,
}

impl<C: Cluster> Pass<'_, C> {
    async fn apply(&self, account: Arc<VirtualAccount>) -> Result<Report, CallError> {
        let Self { cluster, desired, observed, act } = *self;
        let mut account = account;
        if act.delivers_to_stores() && !observed.finalizer {
            account = self.set_finalizer(&account, true).await?;
        }
        if act.record || act.record_stores.is_some() {
            let clock = Clock { now: cluster.now(), trusted: observed.clock_trusted };
            let status = recorded(desired, observed, act, clock.now);
            let status = told(desired, observed, observed.status.as_ref(), status, clock);
            account = self.write(&account, status).await?;
        }
        let (secret, trouble) = match self.write_secret().await {
            Ok(outcome) => (outcome, None),
            Err(CallError::Conflict) => return Err(CallError::Conflict),
            Err(other) => (Outcome::Untouched, Some(other)),
        };
        let stores = if trouble.is_none() { self.write_stores(&secret).await? } else { Vec::new() };
        let mut outcomes = Outcomes { secret, stores, removed: Vec::new() };
        // The clock may have gone wrong since the plan was made.
        let clock = || Clock { now: cluster.now(), trusted: observed.clock_trusted && cluster.clock_trusted() };
        let ledger = ledger_after(desired, act, &outcomes, clock());
        if trouble.is_none() && self.replaces_strays(&outcomes.secret, &ledger) {
            self.clear_strays().await?;
        }
        if trouble.is_none() && self.may_clean_up(&ledger) {
            outcomes.removed = remove(cluster, desired, observed, &act.removals).await;
            // Before the record goes: told twice is better than never.
            self.tell_left_behind(&account, &outcomes.removed);
            self.look_again(&mut outcomes).await?;
        }
        let clock = clock();
        let status = finished(desired, observed, act, &outcomes, clock);
        let before = account.status.as_ref().filter(|before| before.account == status.account);
        let status = told(desired, observed, before, status, clock);
        let wake_at = wake_at(desired, &status, act.block.as_ref(), clock.now);
        let wake_at = if self.skipped_stores(&outcomes) { Some(clock.now + Seconds(1)) } else { wake_at };
        let free =
            observed.finalizer && status.secret_stores.is_empty() && (desired.deleting() || desired.stores.is_empty());
        if account.status.as_ref() != Some(&status) && !(free && desired.deleting()) {
            account = self.write(&account, status).await?;
        }
        if free {
            self.set_finalizer(&account, false).await?;
        }
        // Only what the API server has accepted is told to anybody.
        cluster.post(&desired.account, letters(&account, desired, observed));
        match trouble {
            Some(trouble) => Err(trouble),
            None => Ok(Report { wake_at, issued: act.issued, block: act.block.clone() }),
        }
    }

    async fn set_finalizer(&self, account: &VirtualAccount, there: bool) -> Result<Arc<VirtualAccount>, CallError> {
        let id = &self.desired.account;
        self.cluster.remember(id, None);
        let written = self.cluster.write_finalizer(account, there).await?;
        self.cluster.remember(id, Some(&written));
        Ok(Arc::new(written))
    }

    // With a token Secret a store is written only where the Secret is known to be right, or was read before the account.
    async fn write_stores(&self, secret: &Outcome) -> Result<Vec<StoreOutcome>, CallError> {
        let Self { cluster, desired, observed, act } = *self;
        if !act.delivers_to_stores() || !self.knows_secret(secret) {
            return Ok(vec![StoreOutcome::Untouched; act.stores.len()]);
        }
        Delivery::new(cluster, desired, observed, &act.ledger)?.run(&act.stores).await
    }

    fn knows_secret(&self, outcome: &Outcome) -> bool {
        !self.desired.secret.enabled || self.observed.was_read() || self.delivered(outcome)
    }

    // The Secret's write failed in a pass that had not read it: the next pass reads it first.
    fn skipped_stores(&self, outcomes: &Outcomes) -> bool {
        self.act.delivers_to_stores() && !self.knows_secret(&outcomes.secret)
    }

    fn replaces_strays(&self, outcome: &Outcome, after: &Ledger) -> bool {
        if self.desired.secret.enabled { self.delivered(outcome) } else { after.delivered() }
    }

    // What is no longer wanted goes when its successor is there, or when nobody can use it any more. By a wrong clock a token
    // only seems to be over, and a key that is away may come back.
    fn may_clean_up(&self, after: &Ledger) -> bool {
        let Self { cluster, desired, observed, .. } = *self;
        let (now, trusted) = (cluster.now(), observed.clock_trusted && cluster.clock_trusted());
        let over = |newest: &Entry| newest.phase == Phase::Revoked || (trusted && now >= newest.expires_at);
        let ended = trusted && desired.schedule.ended(now);
        after.delivered() || desired.deleting() || ended || after.newest().is_none_or(over)
    }

    // Another name may lead to the same secret: after something was deleted, what is wanted is looked at once more.
    async fn look_again(&self, outcomes: &mut Outcomes) -> Result<(), CallError> {
        let Self { cluster, desired, observed, act } = *self;
        let deleted = act
            .removals
            .iter()
            .zip(&outcomes.removed)
            .any(|(removal, outcome)| removal.action == RemovalAction::Delete && *outcome == RemovalOutcome::Gone);
        if !deleted || desired.stores.is_empty() || !deliverable(desired, observed, &act.ledger, cluster.now()) {
            return Ok(());
        }
        let look = |at: &StorePath| match observed.admission(at) {
            Admission::Open { take_over } => StoreAction::Deliver { take_over: take_over.clone() },
            _ => StoreAction::Keep,
        };
        let look = |step: &StoreStep| StoreStep { at: step.at.clone(), action: look(&step.at) };
        let steps: Vec<StoreStep> = act.stores.iter().map(look).collect();
        let seen = Delivery::new(cluster, desired, observed, &act.ledger)?.run(&steps).await?;
        let seen = seen.into_iter().enumerate().map(|(at, outcome)| match outcome {
            StoreOutcome::Untouched => outcomes.stores.get(at).cloned().unwrap_or(StoreOutcome::Untouched),
            outcome => outcome,
        });
        outcomes.stores = seen.collect();
        Ok(())
    }

    fn tell_left_behind(&self, account: &VirtualAccount, removed: &[RemovalOutcome]) {
        for (removal, outcome) in self.act.removals.iter().zip(removed) {
            if let RemovalOutcome::LeftBehind { why } = outcome {
                self.cluster.left_behind(account, &removal.at, why);
            }
        }
    }

    // A lost answer leaves it open whether the write took place, so what is remembered is forgotten first.
    async fn write(
        &self,
        account: &VirtualAccount,
        status: VirtualAccountStatus,
    ) -> Result<Arc<VirtualAccount>, CallError> {
        let id = &self.desired.account;
        self.cluster.remember(id, None);
        let written = self.cluster.write_status(account, status).await?;
        self.cluster.remember(id, Some(&written));
        Ok(Arc::new(written))
    }

    // A refusal is an outcome of this target; anything else is an error of the pass.
    async fn write_secret(&self) -> Result<Outcome, CallError> {
        let written = match &self.act.secret {
            SecretStep::Keep | SecretStep::Confirm { .. } | SecretStep::Nothing | SecretStep::Wait => {
                return Ok(Outcome::Untouched);
            }
            SecretStep::NotOwned { owner } => return Ok(Outcome::Failed(not_owned(&self.desired.secret.name, owner))),
            SecretStep::Create(image) => self.cluster.create_secret(&self.render(image, None)?).await,
            SecretStep::Replace { image, base } => self.cluster.replace_secret(&self.render(image, Some(base))?).await,
            SecretStep::Recreate { image, base } => self.recreate(image, base).await,
        };
        match written {
            Ok(version) => Ok(Outcome::Delivered { version }),
            Err(CallError::Refused { reason, message }) => Ok(Outcome::Failed(TargetError { reason, message })),
            Err(other) => Err(other),
        }
    }

    async fn recreate(&self, image: &Image, base: &SecretMeta) -> Result<String, CallError> {
        let mut secret = self.render(image, Some(base))?;
        secret.metadata.resource_version = None;
        secret.metadata.uid = None;
        self.cluster.delete_secret(&self.desired.account.namespace, base).await?;
        self.cluster.create_secret(&secret).await
    }

    // With `base`, the write succeeds only if the Secret still is that very object in that very version.
    fn render(&self, image: &Image, base: Option<&SecretMeta>) -> Result<Secret, CallError> {
        let no_key = |error: &dyn std::error::Error| CallError::Unavailable(error.to_string());
        let ring =
            self.observed.ring.as_ref().ok_or_else(|| CallError::Unavailable("the key ring is not loaded".into()))?;
        let mut secret = render(image, self.desired, ring, base).map_err(|error| no_key(&error))?;
        secret.metadata.resource_version = base.map(|base| base.version.clone());
        secret.metadata.uid = base.map(|base| base.uid.clone()).filter(|uid| !uid.is_empty());
        Ok(secret)
    }

    fn delivered(&self, outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Delivered { .. })
            || matches!(self.act.secret, SecretStep::Keep | SecretStep::Confirm { .. })
    }

    // Secrets that an earlier spec named. One that has changed meanwhile is looked at again at its watch event.
    async fn clear_strays(&self) -> Result<(), CallError> {
        let namespace = &self.desired.account.namespace;
        for stray in &self.act.strays {
            let cleared = match self.desired.secret.policy {
                DeletionPolicy::Delete => self.cluster.delete_secret(namespace, stray).await,
                DeletionPolicy::Retain => self.release(namespace, stray).await,
            };
            match cleared {
                Ok(()) | Err(CallError::Conflict | CallError::Refused { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    async fn release(&self, namespace: &str, stray: &SecretMeta) -> Result<(), CallError> {
        match self.cluster.read_secret(&AccountId::new(namespace, &stray.name)).await? {
            Some(secret) if secret.uid().as_ref() == Some(&stray.uid) => {
                self.cluster.replace_secret(&released(&secret, &self.desired.account)).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }
}

fn not_owned(name: &str, owner: &str) -> TargetError {
    TargetError {
        reason: SECRET_NOT_OWNED.into(),
        message: format!(
            "Secret {name} belongs to {owner} and is left alone; set spec.tokenSecret.name to another name, or delete that Secret"
        ),
    }
}
