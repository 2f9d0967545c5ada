//! Kill test: SIGKILL at random moments.

use std::time::Duration;

use virtual_account_operator::api::{Phase, Seconds, VirtualAccount};

use crate::crowd::{Crowd, FLAGS, seed};
use crate::history::History;
use crate::sound::wait_sound;
use crate::support::operator::Operator;
use crate::world::World;

const KILLS: usize = 40;
/// Two of these make the accounts with the shorter interval due.
const JUMP: Seconds = Seconds::hours(7);

#[test]
fn killed_at_any_moment_it_mints_nothing_twice_and_loses_nothing() {
    let world = World::start();
    let mut operator = world.operator(&FLAGS);
    let history = History::record(&world.plane);
    let mut crowd = Crowd::new(seed(), true);
    let mut caught = 0;
    for round in 0..KILLS {
        // From before it is ready until long after; every other time while it rotates what a moved clock made due.
        crowd.stir(&world, 0..=1200);
        if round % 2 == 1 {
            world.advance(&[&operator], JUMP);
            crowd.stir(&world, 0..=1200);
        }
        operator.kill();
        caught += under_way(&world);
        // What changes while it is down counts as well.
        crowd.stir(&world, 0..=100);
        operator.revive();
    }
    crowd.complete(&world);
    operator.wait_up();
    // Past every grace, so that nothing waits for room in a ledger.
    world.advance(&[&operator], Seconds::hours(4));
    wait_sound(&world, &operator, Duration::from_mins(1));
    history.assert_kept(&crowd.asked);
    println!("{KILLS} kills caught {caught} tokens on their way: {}", history.summary());
    // A test that never interrupts anything proves nothing.
    assert!(caught >= 10, "{caught} tokens were on their way at {KILLS} kills");
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
    // The last Events may still be on their way.
    std::thread::sleep(Duration::from_secs(2));
    let mark = world.plane.audit().len();
    std::thread::sleep(Duration::from_secs(3));
    let requests = world.requests_since(mark, operator);
    let own: Vec<_> = requests.iter().filter(|request| !request.starts_with("watch ")).collect();
    assert!(own.is_empty(), "requests at rest: {own:?}");
}
