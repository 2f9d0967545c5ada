//! A simulated year, and a week: each instant at which anything is due is visited, in order.
//!
//! Most visits touch the account, so that the operator looks at once; every twentieth leaves it to the operator's own
//! wake-ups, which look at the clock each second. Key rotations are always left to it.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant as Stopwatch};

use serde_json::json;
use virtual_account_operator::api::{AccountId, Instant, IssueReason, Phase, Seconds, VirtualAccount};

use crate::history::{Asked, History};
use crate::sound::{jwks, verify};
use crate::support::cluster::{ready, text};
use crate::support::operator::Operator;
use crate::world::{APPS, World};

/// Long enough for the successor that an account without rotation gets 30 days before its 400 are over.
const SPAN: Seconds = Seconds::days(372);
const PATIENCE: Duration = Duration::from_secs(15);
/// A poll of all accounts costs a few milliseconds.
const POLL: Duration = Duration::from_millis(5);

#[test]
fn through_a_year_the_delivered_token_always_verifies() {
    let world = World::start();
    let operator = world.operator(&[]);
    let history = History::record(&world.plane);
    let start = world.now();
    create_accounts(&world, start);
    let mut year = Year {
        next_key: Instant::MAX,
        keys: 0,
        held: BTreeMap::new(),
        previous: BTreeMap::new(),
        retired: BTreeMap::new(),
        world,
        operator,
    };
    year.settle();
    let mut visits = 0;
    while let Some(next) = year.next().filter(|next| *next <= start + SPAN) {
        year.visit(next, visits % 20 != 0);
        if visits % 25 == 0 {
            year.check_online();
        }
        visits += 1;
    }
    let least = |seconds| Asked { least_gap: seconds, ..Asked::default() };
    history.assert_kept(&BTreeMap::from([
        ("half-day".to_owned(), least(Seconds(12 * 3600 * 99 / 100))),
        ("quarter".to_owned(), least(Seconds::days(89))),
        ("unasked".to_owned(), least(Seconds::days(369))),
        ("ending".to_owned(), least(Seconds::days(29))),
    ]));
    year.assert_counts(&history);
    year.assert_warnings();
    year.assert_ended();
    println!("{visits} visits: {}", history.summary());
}

fn create_accounts(world: &World, start: Instant) {
    let rotate = |interval: &str, grace: &str| json!({"autoRotateInterval": interval, "gracePeriod": grace});
    let last_day = (start + Seconds::days(200)).to_string()[..10].to_owned();
    for (name, spec) in [
        ("half-day", json!({"autoRotate": rotate("12h", "3h")})),
        ("quarter", json!({"autoRotate": rotate("90d", "7d")})),
        ("unasked", json!({})),
        ("ending", json!({"autoRotate": rotate("30d", "2d"), "expirationDate": last_day})),
    ] {
        world.cluster.create_account(APPS, name, spec);
    }
}

struct Year {
    world: World,
    operator: Operator,
    /// When the next signing key takes over.
    next_key: Instant,
    /// How many have.
    keys: usize,
    /// What each Secret held after the last visit.
    held: BTreeMap<String, String>,
    /// The previous tokens beside them, and what was one before.
    previous: BTreeMap<String, String>,
    retired: BTreeMap<String, String>,
}

impl Year {
    /// The next instant at which something is due.
    fn next(&self) -> Option<Instant> {
        let accounts = self.world.accounts();
        accounts.values().flat_map(due).chain([self.next_key]).min()
    }

    fn visit(&mut self, next: Instant, touch: bool) {
        let before = self.world.accounts();
        self.world.advance(&[&self.operator], next - self.world.now());
        // All this time nothing has happened: so if what was delivered is good now, it was good at every moment.
        self.check_held(&before);
        for (name, account) in before.iter().filter(|_| touch) {
            if due(account).iter().any(|instant| *instant <= self.world.now()) {
                self.world.cluster.annotate(APPS, name, "drill", &json!(next.to_string()));
            }
        }
        self.settle();
    }

    /// Waits until nothing is due any more, then verifies what is delivered.
    fn settle(&mut self) {
        let started = Stopwatch::now();
        let accounts = loop {
            let accounts = self.world.accounts();
            let now = self.world.now();
            let Some((name, account)) = accounts.iter().find(|(_, account)| !settled(account, now)) else {
                break accounts;
            };
            assert!(started.elapsed() < PATIENCE, "{name} does not settle at {now}: {:?}", account.status);
            sleep(POLL);
        };
        if self.next_key == Instant::MAX || self.next_key <= self.world.now() {
            self.wait_keys();
        }
        self.held.clear();
        let before = std::mem::take(&mut self.previous);
        let (jwks, now) = (jwks(&self.operator), self.world.now());
        for (name, account) in accounts.iter().filter(|(_, account)| !expired(account)) {
            let secret = self.world.cluster.secret(APPS, &format!("{name}-token")).expect("the Secret exists");
            let ledger = &account.status.as_ref().expect("settled").jwts;
            let id = AccountId::new(APPS, name);
            let check = |token: &str, jti: &str| {
                let entry = ledger.iter().find(|entry| Some(&entry.id) == text(&secret, jti).as_ref());
                let entry = entry.unwrap_or_else(|| panic!("{name} at {now}: {jti} is not in the ledger"));
                verify(token, &jwks, now, &id, entry).unwrap_or_else(|problem| panic!("{name} at {now}: {problem}"));
            };
            let token = text(&secret, "token").expect("a token");
            check(&token, "jti");
            let previous = text(&secret, "previous-token");
            if let Some(previous) = &previous {
                check(previous, "previous-jti");
                self.previous.insert(name.clone(), previous.clone());
            }
            let superseded = ledger.iter().any(|entry| entry.phase == Phase::Superseded);
            assert_eq!(previous.is_some(), superseded, "{name} at {now}: the previous token while in its grace, only");
            self.held.insert(name.clone(), token);
        }
        self.retired.extend(before.into_iter().filter(|(name, token)| self.previous.get(name) != Some(token)));
    }

    fn check_held(&self, accounts: &BTreeMap<String, VirtualAccount>) {
        let (jwks, now) = (jwks(&self.operator), self.world.now());
        for (name, token) in &self.held {
            let account = &accounts[name];
            let entry = &account.status.as_ref().expect("settled").jwts[0];
            let over = account.spec.expiration_date.is_some() && entry.expires_at <= now;
            let verified = verify(token, &jwks, now, &AccountId::new(APPS, name), entry);
            assert!(over || verified.is_ok(), "{name} at {now}, before anything was done: {verified:?}");
        }
    }

    /// Waits until the ring has a standby again and no key that nothing needs.
    fn wait_keys(&mut self) {
        let started = Stopwatch::now();
        self.keys += usize::from(self.next_key != Instant::MAX);
        loop {
            let (ring, now) = (self.world.ring(), self.world.now());
            let accounts = self.world.accounts();
            let ledgers =
                accounts.values().filter_map(|account| account.status.as_ref()).flat_map(|status| &status.jwts);
            let named: BTreeSet<&str> = ledgers.map(|entry| entry.key_id.as_str()).collect();
            let idle = ring.keys.iter().filter(|key| !named.contains(key.kid())).count();
            let next = ring.keys.iter().map(|key| key.signs_from).filter(|from| *from > now).min();
            // The one that signs and the standby need not be named by anything yet.
            if let Some(next) = next.filter(|_| idle <= 2) {
                self.next_key = next;
                return;
            }
            assert!(started.elapsed() < PATIENCE, "the ring at {now}: {:?}", ring.keys);
            sleep(POLL);
        }
    }

    /// The online check agrees: what is delivered is good, and so is what it was before, until its grace is over.
    fn check_online(&self) {
        let now = self.world.now();
        for (name, token) in &self.held {
            assert!(self.operator.accepts(token), "{name}: the delivered token is refused at {now}");
        }
        for (name, token) in &self.previous {
            assert!(self.operator.accepts(token), "{name}: the previous token is refused in its grace at {now}");
        }
        for (name, token) in &self.retired {
            assert!(!self.operator.accepts(token), "{name}: a retired token is accepted at {now}");
        }
    }

    fn assert_counts(&self, history: &History) {
        let records = history.read();
        let issued = |name: &str, reason| records.entries(name).iter().filter(|entry| entry.reason == reason).count();
        let half_days = issued("half-day", IssueReason::Scheduled);
        // 744 half days; jitter is at most 1 % of one.
        assert!((743..=752).contains(&half_days), "{half_days} rotations of the account with 12h");
        assert_eq!(issued("quarter", IssueReason::Scheduled), 4, "rotations of the account with 90d");
        assert_eq!(issued("unasked", IssueReason::Scheduled), 1, "successors for the account without autoRotate");
        assert_eq!(issued("ending", IssueReason::Scheduled), 6, "rotations of the account that ends after 200 days");
        assert_eq!(self.keys, 4, "rotations of the signing key");
        let unasked = records.entries("unasked");
        assert!(unasked[0].expires_at - unasked[0].issued_at == Seconds::days(400), "the cap is the life");
    }

    /// The copy stays where it was, and is refused.
    fn assert_ended(&self) {
        let secret = self.world.cluster.secret(APPS, "ending-token").expect("the Secret stays");
        assert!(!self.operator.accepts(&text(&secret, "token").expect("a token")));
    }

    /// One, for the account that ended.
    fn assert_warnings(&self) {
        let events = self.world.cluster.find("/apis/events.k8s.io/v1/events").expect("a list");
        let warnings = events["items"].as_array().into_iter().flatten().filter(|event| event["type"] == "Warning");
        let told: Vec<_> = warnings.map(|event| (&event["regarding"]["name"], &event["reason"])).collect();
        assert_eq!(told, [(&json!("ending"), &json!("Expired"))]);
    }
}

/// The instants at which something is due for an account.
fn due(account: &VirtualAccount) -> Vec<Instant> {
    let Some(status) = &account.status else { return Vec::new() };
    let end = account.spec.expiration_date.as_ref().and(status.expires_at).filter(|_| !expired(account));
    let graces = status.jwts.iter().filter_map(|entry| entry.grace_ends_at);
    graces.chain(status.next_scheduled_rotation).chain(end).collect()
}

fn settled(account: &VirtualAccount, now: Instant) -> bool {
    let known = account.status.as_ref().is_some_and(|status| {
        let newest = status.jwts.first();
        status.observed_generation == account.metadata.generation
            && newest.is_some_and(|newest| newest.phase == Phase::Current)
    });
    known && (expired(account) || reason(account) == "Delivered") && due(account).iter().all(|instant| *instant > now)
}

fn expired(account: &VirtualAccount) -> bool {
    reason(account) == "Expired"
}

fn reason(account: &VirtualAccount) -> String {
    let account = serde_json::to_value(account).expect("an account");
    ready(&account)["reason"].as_str().unwrap_or_default().to_owned()
}
