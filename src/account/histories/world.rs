//! A simulated API server with one account, and what is under way to it. Writes are judged by `invariants` when they take
//! effect, those to stores by `targets`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::invariants::Book;
use super::post::Post;
use super::stores::{Put, Remove, Retire, Shelf, Vault};
use crate::account::cluster::CallError;
use crate::account::desired::{Desired, Limits, StorePath};
use crate::account::fixtures;
use crate::account::observe::version_number;
use crate::account::secret::{ACCOUNT_LABEL, SecretMeta};
use crate::api::{AccountId, Instant, Permission, STORES_FINALIZER, Seconds, VirtualAccount, VirtualAccountStatus};
use crate::integration::ProviderError;
use crate::token::{Key, KeyMaterial, Ring};

pub(super) const ACCOUNT: &str = "a";
pub(super) const START: i64 = 1_800_000_000;
pub(super) const MAX_LIFE: Seconds = Seconds::hours(400);
pub(super) const MIN_INTERVAL: Seconds = Seconds::hours(10);
pub(super) const SKEW: Seconds = Seconds::minutes(2);
pub(super) const CHECK: Seconds = Seconds::hours(60);
/// How many versions back a stale read may go.
const STALE: usize = 4;
/// How many writes may be on their way without anybody who waits for them.
const ADRIFT: usize = 4;
const KEYS: u8 = 6;

/// What one writer process knows and what its machine does.
#[derive(Default)]
pub(super) struct Local {
    /// Own last write of the account.
    pub(super) memory: Option<Arc<VirtualAccount>>,
    /// The version of the account that its pass stands on.
    pub(super) base: u64,
    /// The version of the Secret that it read last.
    pub(super) read: Option<String>,
    /// Local clock less true time.
    pub(super) offset: Seconds,
}

/// The state of the watch of Secrets after one change.
struct View {
    from: u64,
    metas: Vec<SecretMeta>,
}

/// A write as it was sent.
#[derive(Clone)]
pub(super) enum Write {
    Status { uid: Option<String>, version: Option<String>, status: Box<VirtualAccountStatus> },
    Create(Box<Secret>),
    Replace(Box<Secret>),
    Delete { name: String, uid: String, version: String },
    Finalizer { uid: Option<String>, version: Option<String>, there: bool },
    Put(Box<Put>),
    Retire(Box<Retire>),
    Remove(Box<Remove>),
}

pub(super) enum Answer {
    Account(Box<VirtualAccount>),
    Version(String),
    Stored(Result<String, ProviderError>),
}

/// A write between its departure and the answer.
struct Flight {
    id: u64,
    by: usize,
    write: Write,
    answer: Option<Result<Answer, CallError>>,
    awaited: bool,
}

/// Calls that took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    pub(super) writes: u32,
    pub(super) reads: u32,
    pub(super) store_writes: u32,
    pub(super) store_reads: u32,
}

impl Calls {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            reads: self.reads - before.reads,
            store_writes: self.store_writes - before.store_writes,
            store_reads: self.store_reads - before.store_reads,
        }
    }
}

pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) now: Instant,
    /// Whether anything may go wrong.
    pub(super) faults: bool,
    pub(super) version: u64,
    pub(super) ids: u64,
    pub(super) account: VirtualAccount,
    /// The account was deleted and nothing held it back any more.
    pub(super) gone: bool,
    /// Its namespace is being deleted.
    pub(super) terminating: bool,
    accounts: Vec<Arc<VirtualAccount>>,
    pub(super) desired: Desired,
    pub(super) limits: Arc<Limits>,
    pub(super) secrets: BTreeMap<String, Secret>,
    views: Vec<View>,
    /// The key ring, and the one before the last change, which a lagging watch still shows.
    pub(super) ring: Arc<Ring>,
    pub(super) ring_before: Arc<Ring>,
    /// Until then the ring cannot sign anew, or is not even known.
    pub(super) ring_away_until: Instant,
    pub(super) ring_unknown: bool,
    pub(super) refused_until: Instant,
    pub(super) down_until: Instant,
    pub(super) vaults: [Vault; 2],
    pub(super) shelves: BTreeMap<StorePath, Shelf>,
    pub(super) locals: [Local; 2],
    flights: Vec<Flight>,
    pub(super) calls: Calls,
    pub(super) post: Post,
    pub(super) book: Book,
    pub(super) trace: Vec<String>,
    pub(super) violation: Option<String>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let account = fixtures::account(ACCOUNT);
        let limits = Arc::new(Limits {
            default_audience: "a0".into(),
            allowed_audiences: ["a0", "a1", "a2"].map(String::from).into(),
            minimum_rotation_interval: MIN_INTERVAL,
            max_token_lifetime: MAX_LIFE,
            max_clock_skew: SKEW,
            store_check_interval: CHECK,
            ..(*fixtures::limits()).clone()
        });
        let now = Instant::from_unix(START);
        let ring = Arc::new(ring(now));
        Self {
            rng: StdRng::seed_from_u64(seed),
            now,
            faults: true,
            version: 1,
            ids: 0,
            desired: Desired::parse(&account, &limits),
            accounts: vec![Arc::new(account.clone())],
            account,
            gone: false,
            terminating: false,
            limits,
            secrets: BTreeMap::new(),
            views: vec![View { from: 1, metas: Vec::new() }],
            ring_before: Arc::clone(&ring),
            ring,
            ring_away_until: now,
            ring_unknown: false,
            refused_until: now,
            down_until: now,
            vaults: [Vault::new("a", now), Vault::new("b", now)],
            shelves: BTreeMap::new(),
            locals: [Local::default(), Local::default()],
            flights: Vec::new(),
            calls: Calls::default(),
            post: Post::default(),
            book: Book::default(),
            trace: Vec::new(),
            violation: None,
        }
    }

    pub(super) fn log(&mut self, line: impl AsRef<str>) {
        let age = self.now.as_unix() - START;
        self.trace.push(format!("{:4}:{:02}:{:02} {}", age / 3_600, age / 60 % 60, age % 60, line.as_ref()));
        if self.trace.len() > 60 {
            self.trace.drain(..35);
        }
    }

    /// The first violation counts.
    pub(super) fn bad(&mut self, why: impl Into<String>) {
        self.violation.get_or_insert(why.into());
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.random_range(0..of.len())]
    }

    /// An hour is the unit of schedules.
    pub(super) fn pick_hours(&mut self, of: &[i64]) -> Seconds {
        Seconds::hours(self.pick(of))
    }

    pub(super) fn id(&self) -> AccountId {
        self.desired.account.clone()
    }

    pub(super) fn status(&self) -> VirtualAccountStatus {
        self.account.status.clone().unwrap_or_default()
    }

    /// The token Secret that the spec names.
    pub(super) fn secret(&self) -> Option<&Secret> {
        self.secrets.get(&self.desired.secret.name)
    }

    pub(super) fn bump(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// Somebody changes the account.
    pub(super) fn change_account(&mut self, change: impl FnOnce(&mut VirtualAccount)) {
        let mut account = self.account.clone();
        change(&mut account);
        if account.spec != self.account.spec {
            account.metadata.generation = account.metadata.generation.map(|generation| generation + 1);
        }
        if account != self.account {
            self.store_account(account);
        }
    }

    fn store_account(&mut self, mut account: VirtualAccount) {
        account.metadata.resource_version = Some(self.bump());
        self.desired = Desired::parse(&account, &self.limits);
        self.account = account;
        self.accounts.push(Arc::new(self.account.clone()));
        let surplus = self.accounts.len().saturating_sub(STALE);
        self.accounts.drain(..surplus);
    }

    /// Somebody changes or deletes a Secret.
    pub(super) fn store_secret(&mut self, name: &str, secret: Option<Secret>) -> String {
        let version = self.bump();
        match secret {
            None => drop(self.secrets.remove(name)),
            Some(mut secret) => {
                secret.metadata.resource_version = Some(version.clone());
                self.secrets.insert(name.to_owned(), secret);
            }
        }
        let labelled = |meta: &SecretMeta| meta.labels.get(ACCOUNT_LABEL).map(String::as_str) == Some(ACCOUNT);
        let metas = self.secrets.values().map(|secret| SecretMeta::of(&secret.metadata)).filter(labelled).collect();
        self.views.push(View { from: self.version, metas });
        let surplus = self.views.len().saturating_sub(STALE);
        self.views.drain(..surplus);
        version
    }

    pub(super) fn change_ring(&mut self, change: impl FnOnce(&mut Ring)) {
        let mut ring = (*self.ring).clone();
        change(&mut ring);
        self.ring_before = std::mem::replace(&mut self.ring, Arc::new(ring));
    }

    /// A write that is still on its way takes effect now, whatever became of the writer.
    pub(super) fn land(&mut self) {
        let waiting: Vec<usize> = (0..self.flights.len()).filter(|at| self.flights[*at].answer.is_none()).collect();
        if waiting.is_empty() {
            return;
        }
        let at = self.pick(&waiting);
        let (write, by) = (self.flights[at].write.clone(), self.flights[at].by);
        self.log("a write lands");
        let answer = self.perform(&write, by);
        if self.flights[at].awaited {
            self.flights[at].answer = Some(answer);
        } else {
            self.flights.remove(at);
        }
    }

    /// A writer is gone; what it sent is not.
    pub(super) fn abandon(&mut self, writer: usize) {
        for flight in self.flights.iter_mut().filter(|flight| flight.by == writer) {
            flight.awaited = false;
        }
        self.flights.retain(|flight| flight.awaited || flight.answer.is_none());
        while self.flights.iter().filter(|flight| !flight.awaited).count() > ADRIFT {
            if let Some(at) = self.flights.iter().position(|flight| !flight.awaited) {
                self.flights.remove(at);
            }
        }
    }

    /// What nobody waits for never lands.
    pub(super) fn drop_drifting(&mut self) {
        self.flights.retain(|flight| flight.awaited);
    }

    pub(super) fn depart(&mut self, write: Write, by: usize) -> u64 {
        self.ids += 1;
        self.flights.push(Flight { id: self.ids, by, write, answer: None, awaited: true });
        self.ids
    }

    // The writer wakes up: its write has landed already, takes effect now, or never answers.
    pub(super) fn arrive(&mut self, id: u64) -> Result<Answer, CallError> {
        let lost = || Err(CallError::Unavailable("no answer".into()));
        let Some(at) = self.flights.iter().position(|flight| flight.id == id) else { return lost() };
        let (write, by) = (self.flights[at].write.clone(), self.flights[at].by);
        if self.flights[at].answer.is_none() && self.faults && self.chance(0.03) {
            self.flights[at].awaited = false;
            self.log("times out");
            return lost();
        }
        let flight = self.flights.remove(at);
        let answer = flight.answer.unwrap_or_else(|| self.perform(&write, by));
        if self.faults && self.chance(0.06) {
            self.log("answer lost");
            return lost();
        }
        answer
    }

    fn perform(&mut self, write: &Write, by: usize) -> Result<Answer, CallError> {
        match write {
            Write::Put(put) => return Ok(Answer::Stored(self.put(put, by))),
            Write::Retire(retire) => return Ok(Answer::Stored(self.retire(retire))),
            Write::Remove(remove) => return Ok(Answer::Stored(self.remove(remove, by))),
            _ => self.reachable()?,
        }
        match write {
            Write::Status { uid, version, status } => self.put_status(by, uid.as_ref(), version.as_ref(), status),
            Write::Create(secret) => self.create_secret(by, secret),
            Write::Replace(secret) => self.replace_secret(by, secret),
            Write::Delete { name, uid, version } => self.delete_secret(name, uid, version),
            Write::Finalizer { uid, version, there } => self.put_finalizer(by, uid.as_ref(), version.as_ref(), *there),
            Write::Put(_) | Write::Retire(_) | Write::Remove(_) => unreachable!("a store's"),
        }
    }

    pub(super) fn reachable(&self) -> Result<(), CallError> {
        if self.now < self.down_until { Err(CallError::Unavailable("down".into())) } else { Ok(()) }
    }

    fn put_status(
        &mut self,
        by: usize,
        uid: Option<&String>,
        version: Option<&String>,
        status: &VirtualAccountStatus,
    ) -> Result<Answer, CallError> {
        self.same_version(uid, version)?;
        self.calls.writes += 1;
        if self.account.status.as_ref() != Some(status) {
            self.judge_status(status, by);
            let account = VirtualAccount { status: Some(status.clone()), ..self.account.clone() };
            self.store_account(account);
        }
        Ok(Answer::Account(Box::new(self.account.clone())))
    }

    fn same_version(&self, uid: Option<&String>, version: Option<&String>) -> Result<(), CallError> {
        let meta = &self.account.metadata;
        let same = meta.uid.as_ref() == uid && meta.resource_version.as_ref() == version;
        if same && !self.gone { Ok(()) } else { Err(CallError::Conflict) }
    }

    fn put_finalizer(
        &mut self,
        by: usize,
        uid: Option<&String>,
        version: Option<&String>,
        there: bool,
    ) -> Result<Answer, CallError> {
        self.same_version(uid, version)?;
        self.log(format!("w{by} {} the finalizer", if there { "sets" } else { "removes" }));
        if there && self.deleting() {
            return Err(CallError::Unavailable("Invalid: no new finalizers can be added".into()));
        }
        self.calls.writes += 1;
        self.change_account(|account| {
            account.metadata.finalizers = there.then(|| vec![STORES_FINALIZER.to_owned()]);
        });
        self.go_if_free();
        Ok(Answer::Account(Box::new(self.account.clone())))
    }

    pub(super) fn deleting(&self) -> bool {
        self.account.metadata.deletion_timestamp.is_some()
    }

    /// An account that is being deleted goes when no finalizer holds it back.
    pub(super) fn go_if_free(&mut self) {
        if self.deleting() && self.account.metadata.finalizers.is_none() {
            self.gone = true;
            self.release_retained();
            self.log("the account is gone");
        }
    }

    fn refuses(&self, name: &str) -> Result<(), CallError> {
        let refused = self.now < self.refused_until && name == self.desired.secret.name;
        let answer = || CallError::Refused { reason: "Forbidden".into(), message: "denied by a webhook".into() };
        if refused { Err(answer()) } else { Ok(()) }
    }

    fn create_secret(&mut self, by: usize, secret: &Secret) -> Result<Answer, CallError> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        if self.secrets.contains_key(&name) {
            return Err(CallError::Conflict);
        }
        self.refuses(&name)?;
        self.judge_secret(by, &name, None, secret);
        let mut secret = secret.clone();
        secret.metadata.uid = Some(format!("secret-{}", self.version));
        self.calls.writes += 1;
        Ok(Answer::Version(self.store_secret(&name, Some(secret))))
    }

    fn replace_secret(&mut self, by: usize, secret: &Secret) -> Result<Answer, CallError> {
        let meta = &secret.metadata;
        let name = meta.name.clone().unwrap_or_default();
        let Some(old) = self.secrets.get(&name).cloned() else { return Err(CallError::Conflict) };
        let other_uid = meta.uid.is_some() && meta.uid != old.metadata.uid;
        if meta.resource_version != old.metadata.resource_version || other_uid {
            return Err(CallError::Conflict);
        }
        self.refuses(&name)?;
        if secret.type_ != old.type_ || (old.immutable == Some(true) && secret.data != old.data) {
            return Err(CallError::Refused { reason: "Invalid".into(), message: "field is immutable".into() });
        }
        self.judge_secret(by, &name, Some(&old), secret);
        self.calls.writes += 1;
        let mut secret = secret.clone();
        secret.metadata.uid.clone_from(&old.metadata.uid);
        if secret == old {
            return Ok(Answer::Version(meta.resource_version.clone().unwrap_or_default()));
        }
        Ok(Answer::Version(self.store_secret(&name, Some(secret))))
    }

    fn delete_secret(&mut self, name: &str, uid: &str, version: &str) -> Result<Answer, CallError> {
        let same = |secret: &Secret| {
            secret.metadata.uid.as_deref() == Some(uid) && secret.metadata.resource_version.as_deref() == Some(version)
        };
        if !self.secrets.get(name).is_some_and(same) {
            return Err(CallError::Conflict);
        }
        self.refuses(name)?;
        self.calls.writes += 1;
        self.log(format!("delete {name}"));
        Ok(Answer::Version(self.store_secret(name, None)))
    }

    fn stale(&mut self, len: usize) -> usize {
        if self.faults && self.chance(0.3) { self.rng.random_range(0..len) } else { len - 1 }
    }

    pub(super) fn cached_account(&mut self, writer: usize) -> Option<Arc<VirtualAccount>> {
        let (shown, known) = (self.accounts.len() + usize::from(self.gone), self.accounts.len());
        let at = self.stale(shown);
        if at == known {
            return None;
        }
        let cached = Arc::clone(&self.accounts[at]);
        let version =
            |account: &VirtualAccount| version_number(account.metadata.resource_version.as_deref().unwrap_or_default());
        Some(match &self.locals[writer].memory {
            Some(own) if version(own) > version(&cached) => Arc::clone(own),
            _ => cached,
        })
    }

    // The position is that of any moment at which the watch looked like this; a bookmark may have moved it on.
    pub(super) fn cached_secrets(&mut self) -> (Vec<SecretMeta>, u64) {
        let at = self.stale(self.views.len());
        let last = self.views.get(at + 1).map_or(self.version, |next| next.from - 1);
        let from = self.views[at].from;
        let position = if self.faults { self.rng.random_range(from..=last) } else { from };
        (self.views[at].metas.clone(), position)
    }
}

/// What a valid spec asks for.
pub(super) fn valid_permissions() -> Vec<Permission> {
    fixtures::account(ACCOUNT).spec.permissions
}

// All keys are in the ring from the start, as a standby is long before it signs; the first one signs.
fn ring(now: Instant) -> Ring {
    let keys = (0..KEYS).map(|n| Key {
        material: material(n),
        published_at: now - Seconds::days(1),
        signs_from: if n == 0 { now - Seconds::days(1) } else { Instant::MAX },
        signs_until: None,
        compromised_at: None,
    });
    Ring { keys: keys.collect(), ..Ring::default() }
}

// Parsed once: that costs more than a signature.
fn material(n: u8) -> Arc<KeyMaterial> {
    use p256::pkcs8::{EncodePrivateKey as _, LineEnding};
    static KEYS_PARSED: std::sync::LazyLock<Vec<Arc<KeyMaterial>>> = std::sync::LazyLock::new(|| {
        let pem = |n: u8| p256::SecretKey::from_slice(&[n + 1; 32]).unwrap().to_pkcs8_pem(LineEnding::LF).unwrap();
        (0..KEYS).map(|n| Arc::new(KeyMaterial::from_pem(&pem(n)).unwrap())).collect()
    });
    Arc::clone(&KEYS_PARSED[usize::from(n)])
}
