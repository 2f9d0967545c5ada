//! Kill test: SIGKILL at random moments.

use std::time::Duration;

use virtual_account_operator::api::{Phase, Seconds, VirtualAccount};

use crate::crowd::{Crowd, FLAGS, seed};
use crate::history::History;
use crate::sound::wait_sound;
use crate::support::cluster::wait_for;
use crate::support::operator::Operator;
use crate::world::World;

const KILLS: usize = 40;
/// So many tokens must have been on their way.
const CAUGHT: usize = 10;
/// Without a request for so long, it is at rest.
const REST: Duration = Duration::from_secs(3);
/// Two of these make the accounts with the shorter interval due.
const JUMP: Seconds = Seconds::hours(7);

#[test]
fn killed_at_any_moment_it_mints_nothing_twice_and_loses_nothing() {
    let world = World::start();
    let mut operator = world.operator(&FLAGS);
    let history = History::record(&world.plane);
    let mut crowd = Crowd::new(seed(), true);
    let mut caught = 0;
    let mut round = 0;
    // A slow machine catches less at a time. A test that never interrupts anything proves nothing.
    while round < KILLS || (caught < CAUGHT && round < 4 * KILLS) {
        // From before it is ready until long after; every other time while it rotates what a moved clock made due.
        crowd.stir(&world, 0..=1200);
        if round % 2 == 1 {
            operator.wait_up();
            world.advance(&[&operator], JUMP);
            crowd.stir(&world, 0..=1200);
        }
        operator.kill();
        caught += under_way(&world);
        // What changes while it is down counts as well.
        crowd.stir(&world, 0..=100);
        operator.revive();
        round += 1;
    }
    crowd.complete(&world);
    operator.wait_up();
    // Past every grace, so that nothing waits for room in a ledger.
    world.advance(&[&operator], Seconds::hours(4));
    wait_sound(&world, &operator, Duration::from_mins(3));
    history.assert_kept(&crowd.asked);
    println!("{round} kills caught {caught} tokens on their way: {}", history.summary());
    assert!(caught >= CAUGHT, "{caught} tokens were on their way at {round} kills");
    assert_at_rest(&world, &operator);
}

/// Accounts whose newest token is recorded and not known to be delivered.
fn under_way(world: &World) -> usize {
    let newest = |account: &VirtualAccount| account.status.as_ref().and_then(|status| status.jwts.first()).cloned();
    let accounts = world.accounts();
    accounts.values().filter_map(newest).filter(|entry| entry.phase == Phase::Pending).count()
}

/// Once everything is sound, the operator writes nothing more.
fn assert_at_rest(world: &World, operator: &Operator) {
    // The last Events may still be on their way: they go one after the other.
    wait_for("the operator to be at rest", Duration::from_mins(1), || {
        let mark = world.plane.audit().len();
        std::thread::sleep(REST);
        let requests = world.requests_since(mark, operator);
        let own: Vec<_> = requests.iter().filter(|request| !request.starts_with("watch ")).collect();
        if own.is_empty() { Ok(()) } else { Err(format!("requests at rest: {own:?}")) }
    });
}
