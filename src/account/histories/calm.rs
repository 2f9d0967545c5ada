//! Passes over one account without faults: what each costs, and that one which dies anywhere is finished by the next.

use std::sync::Arc;

use super::people::stores_at;
use super::steps::{Sim, plain_spec};
use super::world::Calls;
use crate::account::desired::Limits;
use crate::api::{IssueReason, Seconds};
use crate::store::Presence;

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

/// The same with a path in each of these stores.
fn calm_account_with(stores: &[&str]) -> Sim {
    let sim = calm_account();
    let stores = stores_at(stores.iter().map(|store| (*store, "/p")));
    sim.world().change_account(|account| account.spec.secret_stores = stores);
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

#[test]
fn calls_for_stores_are_counted() {
    let mut sim = calm_account_with(&["a"]);
    let mut spent = |what: &str, before: fn(&mut Sim), expected: Calls| {
        before(&mut sim);
        let done = sim.full_pass();
        holds(&sim);
        assert_eq!(done.calls, expected, "{what}");
        assert_eq!(done.result.map(drop), Ok(()), "{what}");
        assert!(sim.world().gone || sim.full_pass().silent(), "{what}, once more");
    };
    let calls = |writes, store_reads, store_writes| Calls { writes, reads: 0, store_writes, store_reads };
    spent("first issue, with the finalizer", |_| {}, calls(4, 1, 1));
    spent("rotation", Sim::go_to_wake, calls(3, 1, 1));
    spent("end of grace, with the old version", Sim::go_to_wake, calls(2, 1, 1));
    spent("the second before a check", before_check, calls(0, 0, 0));
    spent("check", Sim::go_to_wake, calls(1, 1, 0));
    spent("asked for a look", |sim| sim.world().ask_for_sync(), calls(1, 1, 0));
    spent("another path, the old one cleaned up", |sim| sim.world().move_store("a"), calls(2, 3, 2));
    spent("a second store", |sim| sim.world().switch_store("b"), calls(2, 1, 1));
    spent("no second store", |sim| sim.world().switch_store("b"), calls(2, 2, 1));
    spent("no store, no finalizer", |sim| sim.world().switch_store("a"), calls(3, 1, 1));
    spent("a store again, its old version with the name", |sim| sim.world().switch_store("a"), calls(3, 2, 2));
    spent("deletion", |sim| sim.world().delete_account(), calls(1, 1, 1));
}

// The check comes before the next rotation.
fn before_check(sim: &mut Sim) {
    {
        let mut world = sim.world();
        world.limits = Arc::new(Limits { store_check_interval: Seconds::hours(20), ..(*world.limits).clone() });
    }
    sim.go_to_wake();
    let mut world = sim.world();
    world.now = world.now - Seconds(1);
}

// The same with stores, up to the deletion.
#[test]
fn a_pass_over_stores_that_dies_anywhere_is_finished_by_the_next() {
    type Prepare = fn(&mut Sim);
    let story: [(&str, Prepare); 9] = [
        ("first issue", |_| {}),
        ("rotation", Sim::go_to_wake),
        ("end of grace", Sim::go_to_wake),
        ("another path", |sim| sim.world().move_store("a")),
        ("one store less", |sim| sim.world().switch_store("b")),
        ("one store more", |sim| sim.world().switch_store("b")),
        ("no Secret", |sim| sim.world().disable_secret()),
        ("rotation of stores alone", Sim::go_to_wake),
        ("deletion", |sim| sim.world().delete_account()),
    ];
    for (at, (name, prepare)) in story.iter().enumerate() {
        for lands in [false, true] {
            for turns in 0.. {
                let mut sim = calm_account_with(&["a", "b"]);
                for (_, before) in &story[..at] {
                    before(&mut sim);
                    sim.full_pass();
                }
                prepare(&mut sim);
                let ended = sim.cut_pass(turns, lands);
                sim.full_pass();
                assert!(sim.full_pass().silent(), "{name}, cut after {turns} turns: not settled in one pass");
                if *name != "deletion" {
                    sim.world().check_settled();
                }
                holds(&sim);
                check_paths(&sim, &format!("{name}, cut after {turns} turns"));
                if ended {
                    break;
                }
            }
        }
    }
}

// What the spec names is there, and nothing else; no token has two versions but where the path was emptied.
fn check_paths(sim: &Sim, when: &str) {
    let world = sim.world();
    for (at, shelf) in &world.shelves {
        let there = shelf.presence == Presence::Present;
        assert_eq!(there, world.is_named(at) && !world.gone, "{when}: {at}");
        let most = 1 + shelf.book.excuses;
        assert!(shelf.book.copies.values().all(|copies| *copies <= most), "{when}: {at}: {:?}", shelf.book.copies);
    }
    assert_eq!(world.gone, world.deleting(), "{when}");
    assert_eq!(world.book.told, 0, "{when}");
}
