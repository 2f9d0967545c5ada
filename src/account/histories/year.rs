//! A year of an account of which people hear everything: each kind of notice comes exactly when it should, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::people::stores_at;
use super::post::all_told;
use super::steps::Sim;
use crate::account::desired::Limits;
use crate::api::NoticeKind::{
    DeliveryFailing, DeliveryRecovered, GraceEnding, TokenExpired, TokenExpiring, TokenRetired, TokenRevoked,
    TokenRotated,
};
use crate::api::{
    AutoRotate, DaysOrDuration, Instant, IssueReason, NoticeKind, NotificationState, Seconds, VirtualAccountSpec,
};

type Told = BTreeMap<NoticeKind, u32>;

fn rotation(interval: &str, grace: &str) -> Option<AutoRotate> {
    Some(AutoRotate {
        auto_rotate_interval: Some(DaysOrDuration::Duration(interval.into())),
        grace_period: Some(DaysOrDuration::Duration(grace.into())),
    })
}

/// An account with this spec, of which everybody hears everything; nothing goes wrong by itself.
fn account(edit: impl FnOnce(&mut VirtualAccountSpec)) -> Sim {
    let sim = Sim::new(0);
    {
        let mut world = sim.world();
        world.faults = false;
        world.limits = Arc::new(Limits {
            max_token_lifetime: Seconds::days(400),
            minimum_rotation_interval: Seconds::minutes(5),
            store_check_interval: Seconds::days(30),
            ..(*world.limits).clone()
        });
        world.change_account(|account| {
            account.spec.notification_targets = all_told();
            edit(&mut account.spec);
        });
    }
    sim
}

/// Passes at the instants that they ask for, until then; how many.
fn live(sim: &mut Sim, until: Instant) -> u32 {
    let mut passes = 0;
    while sim.world().now < until {
        let wake = sim.full_pass().report().wake_at;
        let mut world = sim.world();
        assert_eq!(world.violation, None, "{}", world.trace.join("\n"));
        assert!(wake.is_none_or(|at| at > world.now), "a pass asks to be woken at once: {wake:?}");
        world.now = wake.unwrap_or(until).min(until);
        passes += 1;
        assert!(passes < 2_000, "too many passes: {}", world.trace.join("\n"));
    }
    passes
}

fn days(sim: &mut Sim, days: i64) -> u32 {
    let until = sim.world().now + Seconds::days(days);
    live(sim, until)
}

fn told(sim: &Sim) -> Told {
    sim.world().told()
}

#[test]
fn a_year_with_rotation_tells_of_each_once() {
    let mut sim = account(|spec| spec.auto_rotate = rotation("30d", "8d"));
    let passes = days(&mut sim, 365);
    let told = told(&sim);
    let rotations = told[&TokenRotated];
    assert!((12..=13).contains(&rotations), "{told:?}");
    // The last grace may still run.
    assert!(rotations - told[&GraceEnding] <= 1 && told[&GraceEnding] - told[&TokenRetired] <= 1, "{told:?}");
    assert_eq!(told.len(), 3, "nothing else: {told:?}");
    assert!(passes <= 6 * rotations + 6, "{passes} passes for {rotations} rotations");
}

#[test]
fn short_graces_are_not_announced() {
    let mut sim = account(|spec| spec.auto_rotate = rotation("12h", "2h"));
    days(&mut sim, 30);
    let told = told(&sim);
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [TokenRotated, TokenRetired], "{told:?}");
    assert!(told[&TokenRotated] >= 59, "{told:?}");
}

#[test]
fn an_account_that_ends_is_warned_of_thrice_and_then_told() {
    // The simulated clock starts at 2027-01-15.
    let mut sim = account(|spec| spec.expiration_date = Some("2027-11-30".into()));
    days(&mut sim, 365);
    assert_eq!(told(&sim), Told::from([(TokenExpiring, 3), (TokenExpired, 1)]));
    let times = sim.world().told_at(TokenExpiring);
    let ends = sim.world().account.status.clone().unwrap().jwts[0].expires_at;
    assert_eq!(times, [30, 7, 1].map(|before| ends - Seconds::days(before)));
    assert_eq!(sim.world().told_at(TokenExpired), [ends]);
}

#[test]
fn a_short_life_is_not_warned_of_for_half_of_it() {
    let mut sim = account(|spec| {
        spec.auto_rotate = rotation("9d", "1d");
        spec.suspend = None;
    });
    days(&mut sim, 1);
    sim.world().edit("suspend", |spec| spec.suspend = Some(true));
    days(&mut sim, 40);
    // Of 10 days the 7 and 30 are not shorter than half.
    assert_eq!(told(&sim), Told::from([(TokenExpiring, 1), (TokenExpired, 1)]));
    sim.world().edit("resume", |spec| spec.suspend = None);
    days(&mut sim, 1);
    assert_eq!(told(&sim), Told::from([(TokenExpiring, 1), (TokenExpired, 1), (TokenRotated, 1)]));
}

#[test]
fn a_change_of_schedule_repeats_nothing() {
    let mut sim = account(|spec| spec.auto_rotate = rotation("60d", "10d"));
    days(&mut sim, 130);
    let before = told(&sim);
    assert_eq!(before[&TokenRotated], 2, "{before:?}");
    sim.world().edit("interval", |spec| spec.auto_rotate = rotation("20d", "4d"));
    days(&mut sim, 100);
    let after = told(&sim);
    assert!((6..=7).contains(&after[&TokenRotated]), "{after:?}");
    sim.world().edit("no rotation, an end", |spec| {
        spec.auto_rotate = None;
        spec.expiration_date = Some("2027-12-01".into());
    });
    days(&mut sim, 135);
    let last = told(&sim);
    assert_eq!((last[&TokenExpiring], last[&TokenExpired]), (3, 1), "{last:?}");
    assert_eq!(last[&GraceEnding], last[&TokenRetired], "{last:?}");
    assert!(!last.contains_key(&DeliveryFailing) && !last.contains_key(&TokenRevoked), "{last:?}");
}

#[test]
fn a_revocation_is_told_with_what_took_its_place() {
    let mut sim = account(|spec| spec.auto_rotate = rotation("30d", "8d"));
    days(&mut sim, 1);
    let first = sim.world().status().jwts[0].id.clone();
    sim.world().book.revoked.insert(first.clone());
    sim.world().book.cause(IssueReason::Revocation);
    sim.world().edit("revoke", |spec| spec.revoked_jwt_ids = Some(vec![first.clone()]));
    days(&mut sim, 1);
    assert_eq!(told(&sim), Told::from([(TokenRevoked, 1), (TokenRotated, 1)]));
    let notices = sim.world().status().notifications;
    let revoked = notices.iter().find(|notice| notice.kind == TokenRevoked).unwrap();
    let newest = sim.world().status().jwts[0].id.clone();
    assert_eq!((&revoked.jwt_id, revoked.other_jwt_id.as_ref()), (&first, Some(&newest)));
}

#[test]
fn a_target_that_fails_for_a_quarter_of_an_hour_is_told_and_so_is_its_recovery() {
    let mut sim = account(|spec| {
        spec.auto_rotate = rotation("30d", "8d");
        spec.secret_stores = stores_at([("a", "/p")].into_iter());
    });
    days(&mut sim, 1);
    for (minutes, expected) in [(5, Told::new()), (50, Told::from([(DeliveryFailing, 1), (DeliveryRecovered, 1)]))] {
        let now = sim.world().now;
        sim.world().vaults[0].dead_until = now + Seconds::minutes(minutes);
        sim.world().ask_for_sync();
        live(&mut sim, now + Seconds::days(1));
        assert_eq!(told(&sim), expected, "{minutes} minutes");
    }
    // Another target and another failure are told anew.
    let now = sim.world().now;
    sim.world().vaults[0].dead_until = now + Seconds::minutes(50);
    sim.world().ask_for_sync();
    live(&mut sim, now + Seconds::days(1));
    assert_eq!(told(&sim), Told::from([(DeliveryFailing, 2), (DeliveryRecovered, 2)]));
}

#[test]
fn a_dead_channel_changes_nothing_but_what_is_told() {
    let run = |dead: bool| {
        let mut sim = account(|spec| spec.auto_rotate = rotation("30d", "8d"));
        days(&mut sim, 29);
        if dead {
            sim.world().kill_channel(Seconds::days(3));
        }
        let passes = days(&mut sim, 20);
        let status = sim.world().status();
        (passes, status, told(&sim))
    };
    let ((_, well, told_well), (passes, ill, told_ill)) = (run(false), run(true));
    let issued = |status: &crate::api::VirtualAccountStatus| {
        status.jwts.iter().map(|entry| (entry.issued_at, entry.grace_ends_at)).collect::<Vec<_>>()
    };
    assert_eq!(issued(&well), issued(&ill));
    assert_eq!(well.next_scheduled_rotation, ill.next_scheduled_rotation);
    assert_eq!(told_well.get(&TokenRotated), Some(&1));
    assert_eq!(told_ill.get(&TokenRotated), None);
    let failed = ill.notifications.iter().filter(|notice| notice.state == NotificationState::Failed);
    assert_eq!(failed.map(|notice| notice.kind).collect::<Vec<_>>(), [TokenRotated], "given up once");
    assert!(passes < 30, "{passes} passes");
}
