//! The online check (design, section 4, rule 5), shared by introspection and `verify`: absence is refusal.
//!
//! A token is accepted only if it verifies and the ledger of the account that it names has it. What the cache says is
//! enough to accept; what it lacks is confirmed by one read before it is refused, because a watch may lag behind a token
//! that was delivered a moment ago. When nothing was heard from the watch for too long, the cache is not asked at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use moka::future::Cache;
use tokio::sync::Mutex;

use crate::account::schedule::account_end;
use crate::api::{AccountId, Entry, Instant, VirtualAccount};
use crate::token::{AccountView, Refusal, Ring, Verified, against_ledger, strict};

/// A cache that heard nothing for longer is not asked.
const SILENCE: Duration = Duration::from_secs(30);
/// A read that takes longer has failed.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Reads of accounts a second, and at once: a flood of retired tokens must not become a load on the API server.
const READ_RATE: i64 = 50;
const READ_BURST: i64 = 100;
/// How long and how many confirmed refusals are remembered. A token is never revealed before its entry is recorded, so
/// only an adoption can make a refused one good again.
const REFUSED_FOR: Duration = Duration::from_secs(30);
const REFUSED: u64 = 10_000;
/// Accounts that are being read, or were a moment ago.
const FLIGHTS: u64 = 1_000;
const FLIGHT_KEPT: Duration = Duration::from_secs(10);

/// Reads the wall clock.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;
/// The key ring as last seen; none if none was.
pub type RingSource = Arc<dyn Fn() -> Option<Arc<Ring>> + Send + Sync>;
/// Whether the local clock agrees with the API server's.
pub type ClockTrust = Arc<dyn Fn() -> bool + Send + Sync>;

/// An account could not be read from the API server. The reason holds no content of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the account: {0}")]
pub struct ReadError(pub &'static str);

/// Where accounts come from.
pub trait Accounts: Send + Sync {
    /// The account as the watch last showed it.
    fn cached(&self, id: &AccountId) -> Option<Arc<VirtualAccount>>;
    /// How long ago the watch of this account last showed anything, bookmarks included; none if it never did.
    fn silence(&self, id: &AccountId) -> Option<Duration>;
    /// The account as it is now.
    fn read<'a>(&'a self, id: &'a AccountId) -> BoxFuture<'a, Result<Option<VirtualAccount>, ReadError>>;
}

/// A token that is good now.
#[derive(Clone, Debug)]
pub struct Active {
    /// What it says.
    pub verified: Verified,
    /// Its entry in the ledger.
    pub entry: Entry,
    /// Its account.
    pub account: Arc<VirtualAccount>,
}

impl Active {
    /// When it ends for an online check: its `exp`, or the end of its grace if that comes first.
    pub fn ends_at(&self) -> Instant {
        self.entry.grace_ends_at.map_or(self.entry.expires_at, |end| end.min(self.entry.expires_at))
    }
}

/// No answer "active". The text is for the one who holds the token (`verify`), never for a caller of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotActive {
    /// The token is not good.
    #[error("{0}")]
    Refused(Refusal),
    /// Nobody can say now; ask again.
    #[error("the token cannot be checked now: {0}")]
    Unavailable(&'static str),
}

/// The online check with what it remembers.
pub struct Check {
    ring: RingSource,
    accounts: Arc<dyn Accounts>,
    clock: Clock,
    trusted: ClockTrust,
    refused: Cache<Miss, Refusal>,
    // Accounts as read while the watch was silent; kept only as long as the watch's own news would be believed.
    recent: Cache<AccountId, Arc<VirtualAccount>>,
    flights: Cache<AccountId, Arc<Mutex<Flight>>>,
    // Numbers arrivals and reads, to tell which was first.
    order: AtomicU64,
    reads: SyncMutex<Bucket>,
}

impl Check {
    /// A check that remembers nothing yet.
    pub fn new(ring: RingSource, accounts: Arc<dyn Accounts>, clock: Clock, trusted: ClockTrust) -> Self {
        let reads = SyncMutex::new(Bucket { left: READ_BURST, at: clock() });
        Self {
            ring,
            accounts,
            clock,
            trusted,
            refused: Cache::builder().max_capacity(REFUSED).time_to_live(REFUSED_FOR).build(),
            recent: Cache::builder().max_capacity(FLIGHTS).time_to_live(SILENCE).build(),
            flights: Cache::builder().max_capacity(FLIGHTS).time_to_idle(FLIGHT_KEPT).build(),
            order: AtomicU64::new(1),
            reads,
        }
    }

    /// Whether the token is good now.
    pub async fn check(&self, token: &str) -> Result<Active, NotActive> {
        if !(self.trusted)() {
            return Err(NotActive::Unavailable(
                "the local clock and the API server's differ by more than --max-clock-skew",
            ));
        }
        let ring = (self.ring)().ok_or(NotActive::Unavailable("no key ring is known"))?;
        let verified = strict(token, &ring, (self.clock)()).map_err(NotActive::Refused)?;
        let id = &verified.account;
        if self.accounts.silence(id).is_none_or(|silence| silence > SILENCE) {
            let account = self.in_silence(&verified).await?;
            return self.judge(&verified, account);
        }
        // The watch speaks again: what was read in the silence is older than what it shows.
        self.recent.invalidate(id).await;
        let cached = self.accounts.cached(id);
        if has(cached.as_deref(), &verified) {
            return self.judge(&verified, cached);
        }
        self.confirm(&verified, cached.as_deref()).await
    }

    /// While the watch is silent one read answers, and answers for as long as the watch would have been believed: on a
    /// quiet cluster a busy caller costs one read per account and half a minute, not one per question.
    async fn in_silence(&self, verified: &Verified) -> Result<Option<Arc<VirtualAccount>>, NotActive> {
        let id = &verified.account;
        if let Some(recent) = self.recent.get(id).await.filter(|recent| has(Some(recent), verified)) {
            return Ok(Some(recent));
        }
        let account = self.read(id).await?;
        match &account {
            Some(account) => self.recent.insert(id.clone(), Arc::clone(account)).await,
            None => self.recent.invalidate(id).await,
        }
        Ok(account)
    }

    /// The cache lacks the token: ask the API server, once for each token and version of the account.
    async fn confirm(&self, verified: &Verified, cached: Option<&VirtualAccount>) -> Result<Active, NotActive> {
        let miss = Miss {
            account: verified.account.clone(),
            jti: verified.claims.jti.clone(),
            version: cached.and_then(|account| account.metadata.resource_version.clone()),
        };
        if let Some(refusal) = self.refused.get(&miss).await {
            return Err(NotActive::Refused(refusal));
        }
        let account = self.read(&verified.account).await?;
        let absent = !has(account.as_deref(), verified);
        let verdict = self.judge(verified, account);
        if let Err(NotActive::Refused(refusal)) = &verdict
            && absent
        {
            self.refused.insert(miss, *refusal).await;
        }
        verdict
    }

    fn judge(&self, verified: &Verified, account: Option<Arc<VirtualAccount>>) -> Result<Active, NotActive> {
        let account = account.ok_or(NotActive::Refused(Refusal::AccountUnknown))?;
        let view = view(&verified.account, &account);
        let entry = against_ledger(verified, Some(&view), (self.clock)()).map_err(NotActive::Refused)?.clone();
        Ok(Active { verified: verified.clone(), entry, account })
    }

    /// The account from the API server. Askers at the same time share a read, but only one that began after they
    /// arrived: an older one may have missed what they were just given.
    async fn read(&self, id: &AccountId) -> Result<Option<Arc<VirtualAccount>>, NotActive> {
        let arrived = self.order.fetch_add(1, Ordering::Relaxed);
        let flight = self.flights.get_with(id.clone(), async { Arc::default() }).await;
        let mut flight = flight.lock().await;
        if flight.began < arrived {
            if !self.reads.lock().unwrap_or_else(PoisonError::into_inner).take((self.clock)()) {
                return Err(NotActive::Unavailable("too many reads of accounts"));
            }
            let began = self.order.fetch_add(1, Ordering::Relaxed);
            let read = tokio::time::timeout(READ_TIMEOUT, self.accounts.read(id)).await;
            let answer = read.unwrap_or(Err(ReadError("the API server did not answer in time")));
            // Only now: a caller that left meanwhile must not leave an older answer under this number.
            *flight = Flight { began, answer: answer.map(|account| account.map(Arc::new)) };
        }
        flight.answer.clone().map_err(|ReadError(reason)| NotActive::Unavailable(reason))
    }
}

/// A refusal that a read confirmed. A changed account has another version and is looked at anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Miss {
    account: AccountId,
    jti: String,
    version: Option<String>,
}

/// The last read of an account, and its place in the order.
struct Flight {
    began: u64,
    answer: Result<Option<Arc<VirtualAccount>>, ReadError>,
}

impl Default for Flight {
    fn default() -> Self {
        Self { began: 0, answer: Ok(None) }
    }
}

/// A token bucket in whole seconds of the wall clock.
struct Bucket {
    left: i64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        // A clock that goes back refills nothing and is followed.
        let elapsed = (now - self.at).0.max(0);
        self.left = elapsed.saturating_mul(READ_RATE).saturating_add(self.left).min(READ_BURST);
        self.at = now;
        let some = self.left > 0;
        self.left -= i64::from(some);
        some
    }
}

fn has(account: Option<&VirtualAccount>, verified: &Verified) -> bool {
    account
        .is_some_and(|account| ledger(&verified.account, account).iter().any(|entry| entry.id == verified.claims.jti))
}

/// The ledger; a status that names another account, restored or copied, is none.
fn ledger<'a>(id: &AccountId, account: &'a VirtualAccount) -> &'a [Entry] {
    let own = account.status.as_ref().filter(|status| status.account.as_deref() == Some(id.to_string().as_str()));
    own.map_or(&[], |status| &status.jwts)
}

fn view<'a>(id: &'a AccountId, account: &'a VirtualAccount) -> AccountView<'a> {
    AccountView {
        id,
        ledger: ledger(id, account),
        disabled: account.spec.disabled == Some(true),
        deleting: account.metadata.deletion_timestamp.is_some(),
        end: account.spec.expiration_date.as_deref().and_then(account_end),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize};

    use serde_json::{Value, json};

    use super::*;
    use crate::token::{derive, fixtures};

    /// A watch cache and an API server behind it, which may differ.
    #[derive(Default)]
    pub(in crate::http) struct World {
        pub(in crate::http) cached: SyncMutex<HashMap<AccountId, VirtualAccount>>,
        pub(in crate::http) stored: SyncMutex<HashMap<AccountId, VirtualAccount>>,
        pub(in crate::http) reads: AtomicUsize,
        pub(in crate::http) silent: AtomicBool,
        pub(in crate::http) down: AtomicBool,
        pub(in crate::http) skewed: AtomicBool,
        pub(in crate::http) no_ring: AtomicBool,
        pub(in crate::http) now: AtomicI64,
    }

    impl Accounts for World {
        fn cached(&self, id: &AccountId) -> Option<Arc<VirtualAccount>> {
            self.cached.lock().unwrap().get(id).cloned().map(Arc::new)
        }
        fn silence(&self, _: &AccountId) -> Option<Duration> {
            Some(if self.silent.load(Ordering::SeqCst) { SILENCE + Duration::from_millis(1) } else { SILENCE })
        }
        fn read<'a>(&'a self, id: &'a AccountId) -> BoxFuture<'a, Result<Option<VirtualAccount>, ReadError>> {
            Box::pin(async move {
                self.reads.fetch_add(1, Ordering::SeqCst);
                let stored = self.stored.lock().unwrap().get(id).cloned();
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                if self.down.load(Ordering::SeqCst) { Err(ReadError("down")) } else { Ok(stored) }
            })
        }
    }

    impl World {
        pub(in crate::http) fn check(self: &Arc<Self>) -> Check {
            let (world, clock, ring) = (Arc::clone(self), Arc::clone(self), Arc::clone(self));
            Check::new(
                Arc::new(move || (!ring.no_ring.load(Ordering::SeqCst)).then(|| Arc::new(fixtures::ring()))),
                Arc::clone(self) as Arc<dyn Accounts>,
                Arc::new(move || fixtures::at(clock.now.load(Ordering::SeqCst))),
                Arc::new(move || !world.skewed.load(Ordering::SeqCst)),
            )
        }

        /// Cache and API server show the same account.
        pub(in crate::http) fn of(account: &VirtualAccount) -> Arc<Self> {
            let world = Self::default();
            world.cached.lock().unwrap().insert(fixtures::account(), account.clone());
            world.stored.lock().unwrap().insert(fixtures::account(), account.clone());
            Arc::new(world)
        }

        fn reads(&self) -> usize {
            self.reads.load(Ordering::SeqCst)
        }
    }

    pub(in crate::http) fn entry() -> Entry {
        fixtures::entry(fixtures::es256().kid())
    }

    pub(in crate::http) fn token(entry: &Entry) -> String {
        derive(entry, &fixtures::account(), &fixtures::ring()).unwrap().expose().to_owned()
    }

    pub(in crate::http) fn account(version: &str, ledger: &[Entry]) -> VirtualAccount {
        edited(version, ledger, |_| {})
    }

    pub(in crate::http) fn edited(version: &str, ledger: &[Entry], edit: impl FnOnce(&mut Value)) -> VirtualAccount {
        let id = fixtures::account();
        let mut value = json!({
            "apiVersion": "virtualaccounts.dev/v1alpha1",
            "kind": "VirtualAccount",
            "metadata": {"namespace": id.namespace, "name": id.name, "resourceVersion": version},
            "spec": {"permissions": [{"resourceFqn": "orders", "resourceType": "table", "roleId": "reader"}]},
            "status": {"account": id.to_string(), "jwts": ledger},
        });
        edit(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn refusal(verdict: &Result<Active, NotActive>) -> Option<Refusal> {
        match verdict {
            Err(NotActive::Refused(refusal)) => Some(*refusal),
            Ok(_) | Err(NotActive::Unavailable(_)) => None,
        }
    }

    fn unavailable(verdict: &Result<Active, NotActive>) -> bool {
        matches!(verdict, Err(NotActive::Unavailable(_)))
    }

    #[tokio::test]
    async fn a_token_in_the_cached_ledger_costs_no_read() {
        let world = World::of(&account("1", &[entry()]));
        let active = world.check().check(&token(&entry())).await.unwrap();
        assert_eq!((active.entry, world.reads()), (entry(), 0));
    }

    #[tokio::test]
    async fn a_refusal_by_the_cache_costs_no_read() {
        let revoked = Entry { phase: crate::api::Phase::Revoked, ..entry() };
        let cases = [
            (account("1", &[revoked]), Refusal::Revoked),
            (edited("1", &[entry()], |account| account["spec"]["disabled"] = json!(true)), Refusal::AccountDisabled),
            (
                edited("1", &[entry()], |account| account["spec"]["expirationDate"] = json!("2020-02-29")),
                Refusal::AccountExpired,
            ),
            (
                edited("1", &[entry()], |account| {
                    account["metadata"]["deletionTimestamp"] = json!("2026-11-22T08:30:00Z");
                }),
                Refusal::AccountDeleting,
            ),
        ];
        for (account, expected) in cases {
            let world = World::of(&account);
            assert_eq!(refusal(&world.check().check(&token(&entry())).await), Some(expected));
            assert_eq!(world.reads(), 0);
        }
    }

    #[tokio::test]
    async fn a_forged_token_is_refused_without_any_look_up() {
        let world = World::of(&account("1", &[]));
        assert_eq!(refusal(&world.check().check("a.b.c").await), Some(Refusal::Malformed));
        assert_eq!(world.reads(), 0);
    }

    #[tokio::test]
    async fn what_the_cache_lacks_is_read_before_it_is_refused() {
        let world = World::of(&account("1", &[]));
        let check = world.check();
        world.stored.lock().unwrap().insert(fixtures::account(), account("2", &[entry()]));
        assert!(check.check(&token(&entry())).await.is_ok());

        let world = World::of(&account("1", &[entry()]));
        world.cached.lock().unwrap().clear();
        assert!(world.check().check(&token(&entry())).await.is_ok());
        assert_eq!(world.reads(), 1);
    }

    #[tokio::test]
    async fn a_confirmed_refusal_is_remembered_for_that_version_only() {
        let world = World::of(&account("1", &[]));
        let check = world.check();
        for _ in 0..3 {
            assert_eq!(refusal(&check.check(&token(&entry())).await), Some(Refusal::NotInLedger));
        }
        assert_eq!(world.reads(), 1);
        world.cached.lock().unwrap().insert(fixtures::account(), account("2", &[]));
        world.stored.lock().unwrap().insert(fixtures::account(), account("3", &[entry()]));
        assert!(check.check(&token(&entry())).await.is_ok());
        assert_eq!(world.reads(), 2);
    }

    #[tokio::test]
    async fn an_unknown_account_is_refused_after_one_read() {
        let world = Arc::new(World::default());
        let check = world.check();
        for _ in 0..2 {
            assert_eq!(refusal(&check.check(&token(&entry())).await), Some(Refusal::AccountUnknown));
        }
        assert_eq!(world.reads(), 1);
    }

    #[tokio::test]
    async fn a_status_that_names_another_account_is_none() {
        let copied = edited("1", &[entry()], |account| account["status"]["account"] = json!("payments/other"));
        let world = World::of(&copied);
        assert_eq!(refusal(&world.check().check(&token(&entry())).await), Some(Refusal::NotInLedger));
    }

    #[tokio::test]
    async fn after_silence_the_cache_is_not_asked() {
        let world = World::of(&account("1", &[entry()]));
        world.stored.lock().unwrap().insert(fixtures::account(), account("2", &[]));
        let check = world.check();
        assert!(check.check(&token(&entry())).await.is_ok());
        world.silent.store(true, Ordering::SeqCst);
        assert_eq!(refusal(&check.check(&token(&entry())).await), Some(Refusal::NotInLedger));
        world.down.store(true, Ordering::SeqCst);
        assert!(unavailable(&check.check(&token(&entry())).await));
        assert_eq!(world.reads(), 2);
    }

    #[tokio::test]
    async fn in_a_silence_one_read_answers_many_questions() {
        let world = World::of(&account("1", &[entry()]));
        world.silent.store(true, Ordering::SeqCst);
        let check = world.check();
        for _ in 0..1_000 {
            assert!(check.check(&token(&entry())).await.is_ok());
        }
        assert_eq!(world.reads(), 1);
    }

    #[tokio::test]
    async fn what_was_read_in_a_silence_is_forgotten_when_the_watch_speaks() {
        let world = World::of(&account("1", &[entry()]));
        world.silent.store(true, Ordering::SeqCst);
        let check = world.check();
        assert!(check.check(&token(&entry())).await.is_ok());
        world.stored.lock().unwrap().insert(fixtures::account(), account("2", &[]));
        world.silent.store(false, Ordering::SeqCst);
        assert!(check.check(&token(&entry())).await.is_ok(), "the watch has not shown it yet");
        world.silent.store(true, Ordering::SeqCst);
        assert_eq!(refusal(&check.check(&token(&entry())).await), Some(Refusal::NotInLedger));
    }

    #[tokio::test]
    async fn a_failed_read_is_no_refusal_and_is_not_remembered() {
        let world = World::of(&account("1", &[]));
        let check = world.check();
        world.down.store(true, Ordering::SeqCst);
        assert!(unavailable(&check.check(&token(&entry())).await));
        world.down.store(false, Ordering::SeqCst);
        assert_eq!(refusal(&check.check(&token(&entry())).await), Some(Refusal::NotInLedger));
    }

    #[tokio::test]
    async fn a_crowd_shares_a_read_that_began_after_it_came() {
        let world = World::of(&account("1", &[entry()]));
        world.silent.store(true, Ordering::SeqCst);
        let check = world.check();
        let token = token(&entry());
        let crowd = futures::future::join_all((0..50).map(|_| check.check(&token))).await;
        assert!(crowd.iter().all(Result::is_ok));
        // The first reads alone; all who came while it was under way share the second.
        assert!(world.reads() <= 2, "{} reads", world.reads());
    }

    #[tokio::test]
    async fn a_read_under_way_does_not_answer_for_what_is_newer() {
        let world = World::of(&account("1", &[]));
        let check = world.check();
        let newer = Entry { id: "newer".into(), ..entry() };
        let (early, late) = (token(&entry()), token(&newer));
        let second = async {
            // The first read has looked already.
            while world.reads() == 0 {
                tokio::task::yield_now().await;
            }
            world.stored.lock().unwrap().insert(fixtures::account(), account("2", std::slice::from_ref(&newer)));
            check.check(&late).await
        };
        let (first, second) = tokio::join!(check.check(&early), second);
        assert_eq!(refusal(&first), Some(Refusal::NotInLedger));
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn past_the_rate_nobody_is_refused() {
        let world = World::of(&account("1", &[]));
        let check = world.check();
        let retired = |n: i64| token(&Entry { id: format!("retired-{n}"), ..entry() });
        for n in 0..READ_BURST {
            assert_eq!(refusal(&check.check(&retired(n)).await), Some(Refusal::NotInLedger));
        }
        assert!(unavailable(&check.check(&retired(-1)).await));
        assert_eq!(
            refusal(&check.check(&retired(0)).await),
            Some(Refusal::NotInLedger),
            "remembered ones need no read"
        );
        world.now.store(1, Ordering::SeqCst);
        assert_eq!(refusal(&check.check(&retired(-1)).await), Some(Refusal::NotInLedger));
    }

    #[test]
    fn the_bucket_follows_a_clock_that_goes_back() {
        let mut bucket = Bucket { left: 1, at: fixtures::at(0) };
        assert!(bucket.take(fixtures::at(-1_000)));
        assert!(!bucket.take(fixtures::at(-1_000)));
        assert!(bucket.take(fixtures::at(-999)));
        assert_eq!(bucket.left, READ_RATE - 1);
        assert!(bucket.take(Instant::MAX));
        assert_eq!(bucket.left, READ_BURST - 1);
    }

    #[tokio::test]
    async fn without_ring_or_clock_there_is_no_answer() {
        let world = World::of(&account("1", &[entry()]));
        let check = world.check();
        world.skewed.store(true, Ordering::SeqCst);
        assert!(unavailable(&check.check(&token(&entry())).await));
        world.skewed.store(false, Ordering::SeqCst);
        world.no_ring.store(true, Ordering::SeqCst);
        assert!(unavailable(&check.check(&token(&entry())).await));
    }
}
