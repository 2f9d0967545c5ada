//! Two operators at once. Nothing elects a leader yet, so safety rests on the ledger alone.

use std::time::Duration;

use virtual_account_operator::api::Seconds;

use crate::crowd::{Crowd, FLAGS, seed};
use crate::history::History;
use crate::sound::wait_sound;
use crate::world::World;

#[test]
fn two_operators_at_once_mint_nothing_twice() {
    let world = World::start();
    let one = world.operator(&FLAGS);
    let two = world.operator(&FLAGS);
    let history = History::record(&world.plane);
    // Without deletions of Secrets: a writer that is late may create an older token where a third party deletes.
    let mut crowd = Crowd::new(seed(), false);
    crowd.complete(&world);
    crowd.stir(&world, 8_000..=8_000);
    // Past every grace, so that nothing waits for room in a ledger.
    world.advance(&[&one, &two], Seconds::hours(4));
    for operator in [&one, &two] {
        wait_sound(&world, operator, Duration::from_mins(1));
    }
    history.assert_kept(&crowd.asked);
    println!("two operators: {}", history.summary());
}
