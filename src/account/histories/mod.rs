//! Random histories: the real pass, driven by two writers against a simulated API server.
//!
//! Writers freeze, crash, lose answers, read stale caches and have wrong clocks; people edit everything; the status is
//! lost or restored. After each step the invariants are checked; then the faults stop, and the account must settle, stay
//! silent and run to its end. `HISTORIES=n` says how many, `HISTORY_SEED=n` runs that one alone.

mod invariants;
mod steps;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng;

use crate::api::{IssueReason, Seconds};
use steps::{Sim, first_spec, plain_spec};

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
        let from = failure.trace.len().saturating_sub(if count == 1 { 60 } else { 25 });
        println!("seed {}: {}\n    {}", failure.seed, failure.why, failure.trace[from..].join("\n    "));
    }
    let seeds: Vec<u64> = failures.iter().take(20).map(|failure| failure.seed).collect();
    assert!(failures.is_empty(), "{} of {count} histories fail: {kinds:#?}; seeds {seeds:?}", failures.len());
}

/// An account without faults: rotation every 40 h with a grace of 10 h.
fn calm_account() -> Sim {
    let sim = Sim::new(0);
    {
        let mut world = sim.world();
        world.faults = false;
        plain_spec(&mut world);
    }
    sim
}

fn holds(sim: &Sim) {
    let world = sim.world();
    assert_eq!(world.violation, None, "{}", world.trace.join("\n"));
}

#[test]
fn calls_are_counted() {
    let mut sim = calm_account();
    let spent = |sim: &mut Sim| {
        let done = sim.full_pass();
        holds(sim);
        ((done.calls.writes, done.calls.reads), done.report())
    };
    let (first, report) = spent(&mut sim);
    assert_eq!((first, report.issued), ((3, 0), Some(IssueReason::First)));
    assert_eq!(spent(&mut sim).0, (0, 0), "steady state");
    let due = report.wake_at.unwrap();
    sim.world().now = due - Seconds(1);
    assert_eq!(spent(&mut sim).0, (0, 0), "the second before");
    sim.world().now = due;
    let (rotation, report) = spent(&mut sim);
    assert_eq!((rotation, report.issued), ((3, 0), Some(IssueReason::Scheduled)));
    sim.world().now = report.wake_at.unwrap();
    assert_eq!(spent(&mut sim).0, (2, 0), "end of grace");
    sim.world().touch();
    assert_eq!(spent(&mut sim).0, (1, 2), "a foreign touch of the Secret");
    sim.world().delete_secret_by_hand();
    assert_eq!(spent(&mut sim).0, (2, 2), "repair: the Secret and the status");
    assert_eq!(spent(&mut sim).0, (0, 0), "steady state");
}

// First issue, rotation, end of grace, repair and rename, each cut off at every turn, with the last write sent or lost.
#[test]
fn a_pass_that_dies_anywhere_is_finished_by_the_next() {
    type Prepare = fn(&mut Sim);
    let story: [(&str, Prepare); 6] = [
        ("first issue", |_| {}),
        ("rotation", |sim| sim.go_to_wake()),
        ("end of grace", |sim| sim.go_to_wake()),
        ("repair", |sim| sim.world().delete_secret_by_hand()),
        ("immutable", |sim| sim.world().freeze_secret()),
        ("rename", |sim| sim.world().rename()),
    ];
    for (at, (name, _)) in story.iter().enumerate() {
        for lands in [false, true] {
            for turns in 0.. {
                let mut sim = calm_account();
                for (_, before) in &story[..at] {
                    before(&mut sim);
                    sim.full_pass();
                }
                (story[at].1)(&mut sim);
                let ended = sim.cut_pass(turns, lands);
                sim.full_pass();
                assert!(sim.full_pass().silent(), "{name}, cut after {turns} turns: not settled in one pass");
                sim.world().check_settled();
                holds(&sim);
                assert_eq!(sim.world().secrets.len(), 1, "{name}, cut after {turns} turns");
                if ended {
                    break;
                }
            }
        }
    }
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
    settle(sim);
    if !sim.violated() {
        run_out(sim);
    }
}

fn settle(sim: &mut Sim) {
    sim.world().cure();
    let mut quiet = 0;
    for _ in 0..200 {
        quiet = if sim.full_pass().silent() { quiet + 1 } else { 0 };
        if quiet == 3 || sim.violated() {
            break;
        }
        sim.world().await_retry();
    }
    let mut world = sim.world();
    if quiet < 3 {
        world.bad("does not settle");
    }
    world.check_settled();
}

// From here on a pass runs when the last one asked for it, and nothing may be missed by that.
fn run_out(sim: &mut Sim) {
    let (until, zero_until) = {
        let world = sim.world();
        let end = world.desired.schedule.end.unwrap_or(world.now + Seconds::hours(500));
        (end.min(world.now + Seconds::hours(1_000)) + Seconds::hours(20), world.now + Seconds::hours(110))
    };
    let mut wake = sim.full_pass().report().wake_at;
    while sim.world().now < until && !sim.violated() {
        let due = wake.unwrap_or(until).min(until);
        let (now, early) = {
            let mut world = sim.world();
            (world.now, world.chance(0.3))
        };
        if early && due - now > Seconds(1) {
            let before = Seconds(sim.world().rng.random_range(1..(due - now).0));
            sim.world().now = now + before;
            if !sim.full_pass().silent() {
                sim.world().bad("a pass before its time does something");
            }
        }
        let mut world = sim.world();
        world.now = due;
        world.check();
        drop(world);
        wake = undisturbed(sim);
        sim.world().check_settled();
        if sim.world().now >= zero_until {
            sim.world().check_request();
        }
    }
}

// A pass that is due, with the calls that it may cost; once more, and it has nothing to do.
fn undisturbed(sim: &mut Sim) -> Option<crate::api::Instant> {
    let done = sim.full_pass();
    let report = done.report();
    let (issued, calls) = (report.issued.is_some(), done.calls);
    let mut world = sim.world();
    if done.result.is_err() {
        world.bad(format!("an undisturbed pass fails: {:?}", done.result));
    }
    let right = if issued { calls.writes == 3 } else { calls.writes <= 2 };
    if !right || (calls.reads != 0 && !done.ended) {
        world.bad(format!("{calls:?} for a pass that issued {:?}", report.issued));
    }
    let now = world.now;
    if report.wake_at.is_some_and(|at| at <= now) {
        world.bad("a pass asks to be woken at once");
    }
    drop(world);
    if !sim.full_pass().silent() {
        sim.world().bad("the same pass once more does something");
    }
    report.wake_at
}
