//! Random users: they create, rotate, edit and delete accounts, and delete Secrets by hand.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use virtual_account_operator::api::Seconds;

use crate::history::Asked;
use crate::support::cluster::secret_path;
use crate::support::operator::ISSUER;
use crate::world::{APPS, World};

/// The accounts that a crowd creates, if nobody says otherwise.
const ACCOUNTS: usize = 100;
/// At most so many of them are deleted again.
const DELETIONS: usize = 12;

/// For an operator that is to allow what the crowd asks for.
pub(crate) const FLAGS: [&str; 4] = [
    "--minimum-rotation-interval",
    "1s",
    "--allowed-audiences",
    "https://issuer.example.com,https://a.example.com,https://b.example.com",
];

const A: &str = "https://a.example.com";
const B: &str = "https://b.example.com";
/// The shortest interval is 12h and the longest grace 3h. An edit can end a token's time early: `expiresAt`, at least 13h
/// after `issuedAt`, less the grace and the jitter.
const LEAST_GAP: Seconds = Seconds::hours(9);

pub(crate) struct Crowd {
    rng: StdRng,
    alive: Vec<String>,
    accounts: usize,
    created: usize,
    count: usize,
    audiences: BTreeMap<String, Value>,
    /// What was asked of each account.
    pub(crate) asked: BTreeMap<String, Asked>,
    /// Whether Secrets and accounts are deleted, too.
    destructive: bool,
}

impl Crowd {
    /// Always the same acts for a seed, but not at the same moments.
    pub(crate) fn new(seed: u64, destructive: bool) -> Self {
        println!("DRILL_SEED={seed}");
        Self {
            rng: StdRng::seed_from_u64(seed),
            alive: Vec::new(),
            accounts: ACCOUNTS,
            created: 0,
            count: 0,
            audiences: BTreeMap::new(),
            asked: BTreeMap::new(),
            destructive,
        }
    }

    /// The same, with so many accounts.
    pub(crate) fn of(mut self, accounts: usize) -> Self {
        self.accounts = accounts;
        self
    }

    /// Acts for a random time out of a range of milliseconds.
    pub(crate) fn stir(&mut self, world: &World, milliseconds: RangeInclusive<u64>) {
        let span = Duration::from_millis(self.rng.random_range(milliseconds));
        let started = Instant::now();
        while started.elapsed() < span {
            self.act(world);
            sleep(Duration::from_millis(self.rng.random_range(0..8)));
        }
    }

    /// Creates the accounts that are still to come.
    pub(crate) fn complete(&mut self, world: &World) {
        while self.created < self.accounts {
            self.create(world);
        }
    }

    fn act(&mut self, world: &World) {
        if self.created < self.accounts && self.rng.random_ratio(1, 3) {
            return self.create(world);
        }
        let Some(name) = self.alive.choose(&mut self.rng).cloned() else { return };
        match self.rng.random_range(0..20) {
            0..=5 => self.request(world, &name),
            6..=9 => self.change_audiences(world, &name),
            10..=12 => {
                let label = format!("v{}", self.count);
                world.cluster.edit(APPS, &name, &json!({"tokenSecret": {"labels": {"drill": label}}}));
            }
            13..=15 => {
                let grace = self.grace();
                world.cluster.edit(APPS, &name, &json!({"autoRotate": {"gracePeriod": grace}}));
            }
            16..=18 if self.destructive => {
                world.cluster.delete(&secret_path(APPS, &format!("{name}-token")));
            }
            19 if self.destructive && self.created - self.alive.len() < DELETIONS => {
                world.cluster.delete_account(APPS, &name);
                self.alive.retain(|alive| *alive != name);
            }
            _ => {}
        }
        self.count += 1;
    }

    fn create(&mut self, world: &World) {
        let name = format!("drill-{:03}", self.created);
        let interval = *["12h", "24h"].choose(&mut self.rng).expect("two");
        let audiences = self.pick_audiences();
        let spec = json!({
            "autoRotate": {"autoRotateInterval": interval, "gracePeriod": self.grace()},
            "audiences": audiences,
        });
        world.cluster.create_account(APPS, &name, spec);
        self.asked.insert(name.clone(), Asked { least_gap: LEAST_GAP, ..Asked::default() });
        self.audiences.insert(name.clone(), audiences);
        self.alive.push(name);
        self.created += 1;
    }

    /// By annotation; now and then with a grace of its own.
    fn request(&mut self, world: &World, name: &str) {
        let suffix = *["", "", "", ",grace=30m", ",grace=0s"].choose(&mut self.rng).expect("five");
        let value = format!("request-{}{suffix}", self.count);
        world.cluster.annotate(APPS, name, "virtualaccounts.dev/rotate", &json!(value));
        self.asked.entry(name.to_owned()).or_default().requests += 1;
    }

    fn change_audiences(&mut self, world: &World, name: &str) {
        let audiences = self.pick_audiences();
        if self.audiences.insert(name.to_owned(), audiences.clone()).as_ref() != Some(&audiences) {
            world.cluster.edit(APPS, name, &json!({"audiences": audiences}));
            self.asked.entry(name.to_owned()).or_default().changes += 1;
        }
    }

    fn pick_audiences(&mut self) -> Value {
        [json!([ISSUER]), json!([A]), json!([A, B])].choose(&mut self.rng).expect("three").clone()
    }

    fn grace(&mut self) -> &'static str {
        ["1h", "2h", "3h"].choose(&mut self.rng).expect("three")
    }
}

/// The seed of this run: `DRILL_SEED`, or a new one.
pub(crate) fn seed() -> u64 {
    std::env::var("DRILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random)
}
