//! How histories end, once nothing goes wrong any more.

use rand::Rng;

use super::steps::Sim;
use crate::api::{Instant, Seconds};

/// An account that is not being deleted settles first. Then it runs to its end, or is deleted.
pub(super) fn end(sim: &mut Sim) {
    if sim.world().deleting() {
        return go_away(sim);
    }
    settle(sim);
    if sim.violated() {
        return;
    }
    let outage = sim.world().chance(0.15);
    let deletion = sim.world().chance(0.3);
    if outage {
        long_outage(sim);
    }
    if deletion && !sim.violated() {
        delete(sim);
    } else if !sim.violated() {
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
    world.check_told();
}

// While stores fail the Secret does not suffer.
fn long_outage(sim: &mut Sim) {
    let until = {
        let mut world = sim.world();
        if world.desired.stores.is_empty() || !world.desired.secret.enabled {
            return;
        }
        let until = world.now + Seconds::hours(900);
        let breaker = world.chance(0.5);
        world.log("a long outage of the stores");
        for vault in &mut world.vaults {
            (vault.dead_until, vault.breaker) = (until, breaker);
        }
        until
    };
    while sim.world().now < until && !sim.violated() {
        {
            let mut world = sim.world();
            world.now = world.now + Seconds::hours(9);
        }
        sim.full_pass();
        sim.world().check_secret_during_outage();
    }
    sim.world().heal_stores();
    sim.world().ask_for_sync();
    for _ in 0..4 {
        sim.full_pass();
    }
    sim.world().check_settled();
}

// The account is deleted: with its status lost, with stores dead for good, or while the operator sleeps.
fn delete(sim: &mut Sim) {
    let trouble = {
        let mut world = sim.world();
        let trouble = world.pick(&["none", "none", "none", "lost", "dead", "denied", "asleep"]);
        world.log(format!("trouble: {trouble}"));
        let long = world.now + Seconds::hours(50);
        let which = usize::from(world.chance(0.5));
        let breaker = world.chance(0.5);
        match trouble {
            "lost" => world.lose(None),
            "dead" => (world.vaults[which].dead_until, world.vaults[which].breaker) = (long, breaker),
            "denied" => (world.vaults[which].denied_until, world.terminating) = (long, true),
            _ => {}
        }
        world.delete_account();
        if trouble == "asleep" {
            world.now = world.now + Seconds::hours(20);
        }
        trouble
    };
    go_away(sim);
    let mut world = sim.world();
    if world.book.told > 0 && !matches!(trouble, "dead" | "denied") {
        world.bad("something is left behind without need");
    }
}

// A pass runs when the last one asked for it, until the account is gone.
fn go_away(sim: &mut Sim) {
    let started = sim.world().now;
    let deadline = started + sim.world().limits.cleanup_deadline;
    while !sim.world().gone && !sim.violated() {
        let done = sim.full_pass();
        let mut world = sim.world();
        match done.report().wake_at {
            _ if world.gone => {}
            Some(at) if at > world.now => world.now = at,
            next => world.bad(format!("the account waits for nothing: {next:?}, {:?}", done.result)),
        }
        if world.now > deadline + Seconds::minutes(30) {
            world.bad("the account does not go");
        }
    }
    sim.world().check();
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
        sim.world().check_told();
        if sim.world().now >= zero_until {
            sim.world().check_request();
        }
    }
}

// A pass that is due, with the calls that it may cost; once more, and it has nothing to do.
fn undisturbed(sim: &mut Sim) -> Option<Instant> {
    let done = sim.full_pass();
    let report = done.report();
    let (issued, calls) = (report.issued.is_some(), done.calls);
    let mut world = sim.world();
    if done.result.is_err() {
        world.bad(format!("an undisturbed pass fails: {:?}", done.result));
    }
    let (secret, paths) = (u32::from(world.desired.secret.enabled), world.desired.stores.len());
    let most = 2 * u32::try_from(paths).unwrap_or_default();
    let right = if issued { calls.writes == 2 + secret } else { calls.writes <= 1 + secret };
    let right = right && calls.store_reads <= most && calls.store_writes <= most;
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
