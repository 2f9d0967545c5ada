//! Random histories: the real pass, driven by two writers against a simulated API server.
//!
//! Writers freeze, crash, lose answers, read stale caches and have wrong clocks; stores fail, are closed and tampered with;
//! people edit everything; the status is lost or restored. After each step the invariants are checked; then the faults stop,
//! and the account must settle, stay silent and run to its end, or be deleted and leave nothing behind. `HISTORIES=n` says how many, `HISTORY_SEED=n` runs that one alone.

mod calm;
mod ending;
mod invariants;
mod people;
mod post;
mod steps;
mod stores;
mod targets;
mod world;
mod writer;
mod year;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::IssueReason;
use ending::end;
use steps::{Sim, first_spec};

const STEPS: u32 = 250;

/// What a history came to.
struct Failure {
    seed: u64,
    why: String,
    trace: Vec<String>,
}

type Mints = BTreeMap<IssueReason, u32>;

#[test]
fn every_history_keeps_the_promises() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (from, count) = match number("HISTORY_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("HISTORIES").unwrap_or(10_000)),
    };
    let next = AtomicU64::new(from);
    let work = || {
        let (mut mints, mut failures) = (Mints::new(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + count {
                return (mints, failures);
            }
            match history(seed) {
                Ok(more) => count_up(&mut mints, more),
                Err(failure) => failures.push(failure),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let (mut mints, mut failures) = (Mints::new(), Vec::new());
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in running {
            let (more, failed) = thread.join().unwrap();
            count_up(&mut mints, more);
            failures.extend(failed);
        }
    });
    report(&mut failures, count);
    println!("{count} histories; entries added: {mints:?}");
    if count >= 1_000 {
        assert!(mints.len() >= 7, "some reason never occurs: {mints:?}");
    }
}

fn count_up(mints: &mut Mints, more: Mints) {
    for (reason, n) in more {
        *mints.entry(reason).or_default() += n;
    }
}

// One failure of each kind.
fn distinct(failures: &[Failure]) -> impl Iterator<Item = &Failure> {
    let mut kinds = std::collections::BTreeSet::new();
    failures.iter().filter(move |failure| kinds.insert(kind(failure)))
}

fn kind(failure: &Failure) -> String {
    let words = failure.why.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

fn report(failures: &mut [Failure], count: u64) {
    failures.sort_by_key(|failure| failure.seed);
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    for failure in failures.iter() {
        *kinds.entry(kind(failure)).or_default() += 1;
    }
    for failure in distinct(failures) {
        let from = failure.trace.len().saturating_sub(if count == 1 { 60 } else { 40 });
        println!("seed {}: {}\n    {}", failure.seed, failure.why, failure.trace[from..].join("\n    "));
    }
    let seeds: Vec<u64> = failures.iter().take(20).map(|failure| failure.seed).collect();
    assert!(failures.is_empty(), "{} of {count} histories fail: {kinds:#?}; seeds {seeds:?}", failures.len());
}

fn history(seed: u64) -> Result<Mints, Failure> {
    let mut sim = Sim::new(seed);
    let ran = catch_unwind(AssertUnwindSafe(|| live(&mut sim)));
    let panicked = |_| "the code panicked".to_owned();
    let why = ran.map_err(panicked).err();
    let world = match why {
        // The lock is poisoned; nothing of the world is left to see.
        Some(why) => return Err(Failure { seed, why, trace: Vec::new() }),
        None => sim.world(),
    };
    match &world.violation {
        Some(why) => Err(Failure { seed, why: why.clone(), trace: world.trace.clone() }),
        None => Ok(world.book.mints.clone()),
    }
}

fn live(sim: &mut Sim) {
    first_spec(&mut sim.world());
    for _ in 0..STEPS {
        sim.step();
        if sim.violated() {
            return;
        }
    }
    sim.calm();
    end(sim);
}
