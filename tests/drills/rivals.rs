//! Two operators at once, both without election: safety rests on the ledger alone.

use std::process::Command;
use std::time::Duration;

use virtual_account_operator::api::Seconds;

use crate::crowd::{Crowd, FLAGS, seed};
use crate::history::History;
use crate::sound::wait_sound;
use crate::support::operator::Operator;
use crate::world::World;

const FREEZES: usize = 16;
/// Two of these make the accounts with the shorter interval due.
const JUMP: Seconds = Seconds::hours(7);

#[test]
fn two_operators_at_once_mint_nothing_twice() {
    let world = World::start();
    let flags = [FLAGS.as_slice(), &["--leader-elect=false"]].concat();
    let one = world.operator(&flags);
    let two = world.operator(&flags);
    let history = History::record(&world.plane);
    // Without deletions of Secrets: a writer that is late may create an older token where a third party deletes.
    let mut crowd = Crowd::new(seed(), false);
    crowd.complete(&world);
    crowd.stir(&world, 2_000..=2_000);
    for round in 0..FREEZES {
        // Both rotate everything; one of them stops in the middle, and goes on with what it had in mind.
        world.advance(&[&one, &two], JUMP);
        let frozen = [&one, &two][round % 2];
        crowd.stir(&world, 0..=600);
        signal(frozen, "STOP");
        crowd.stir(&world, 300..=900);
        signal(frozen, "CONT");
    }
    // Past every grace, so that nothing waits for room in a ledger.
    world.advance(&[&one, &two], Seconds::hours(4));
    for operator in [&one, &two] {
        wait_sound(&world, operator, Duration::from_mins(3));
    }
    history.assert_kept(&crowd.asked);
    println!("two operators: {}", history.summary());
}

fn signal(operator: &Operator, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", operator.pid())]).status();
    assert!(sent.is_ok_and(|status| status.success()), "the operator had ended");
}
