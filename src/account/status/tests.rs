//! What stands in the status: conditions, counts, times.

use super::*;
use crate::account::condition::Reason;
use crate::account::desired::Invalid;
use crate::account::fixtures::{HOUR, Scene, at, entry, store_holding, superseded};
use crate::api::{SecretStoreStatus, TargetError};
use crate::integration::{ErrorKind, ProviderError};
use crate::store::Admission;

fn failed(reason: &str) -> Outcome {
    Outcome::Failed(TargetError { reason: reason.into(), message: "no".into() })
}

fn delivered() -> Outcome {
    Outcome::Delivered { version: "30".into() }
}

/// `Ready Delivered Stalled` and the reason of the first.
fn shown(status: &VirtualAccountStatus) -> (String, String) {
    let of = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind);
    let short = |kind| of(kind).map_or("-", |condition| &condition.status);
    let all = format!("{} {} {}", short("Ready"), short("Delivered"), short("Stalled"));
    (all, of("Ready").map(|ready| ready.reason.clone()).unwrap_or_default())
}

/// A settled account, with its conditions.
fn settled() -> Scene {
    let scene = Scene::holding(&[entry("j1")]);
    let status = scene.finish(at(0), &Outcome::Untouched);
    scene.with_status(status)
}

#[test]
fn every_state_has_its_conditions() {
    let due = at(12 * HOUR);
    let change = |change: fn(&mut Scene)| {
        let mut scene = settled();
        change(&mut scene);
        scene
    };
    let invalid = change(|s| s.desired.invalid = Some(Invalid { field: "spec".into(), message: "is wrong".into() }));
    let suspended = change(|s| s.desired.suspend = true);
    let mut never = Scene::new();
    never.desired.suspend = true;
    let disabled = change(|s| s.desired.disabled = true);
    let mut revoked = change(|s| s.desired.revoked = ["j1".to_owned()].into());
    let held_back = Scene { desired: Desired { suspend: true, ..revoked.desired.clone() }, ..revoked.clone() };
    revoked.desired.suspend = false;
    let expired = change(|s| s.desired.schedule.end = Some(at(14 * HOUR)));
    let missing = change(|s| s.observed.ledger.entries[0].key_id = "gone".into());
    let deleting = change(|s| s.desired.deleted_at = Some(at(0)));
    let renamed = change(|s| {
        s.desired.secret.name = "other".into();
        *s = s.clone().with_status(s.observed.status.clone().unwrap_or_default());
        s.observed.secret = crate::account::observe::SecretView::Watched { meta: None, position: 50 };
    });
    let unreadable = change(|s| s.desired.remarks = vec!["unreadable".into()]);
    let (quiet, fails) = (Outcome::Untouched, failed("Forbidden"));
    let table = vec![
        ("first issue", Scene::new(), at(0), delivered(), "True True False", Reason::Delivered),
        ("first fails", Scene::new(), at(0), fails.clone(), "False False False", Reason::Delivering),
        ("delivered", settled(), at(1), quiet.clone(), "True True False", Reason::Delivered),
        ("fails", settled(), due, fails.clone(), "True False False", Reason::DeliveryFailing),
        ("fails, not ending", settled(), at(13 * HOUR - 1), fails.clone(), "True False False", Reason::DeliveryFailing),
        ("fails, ending", settled(), at(13 * HOUR), fails.clone(), "False False False", Reason::TokenEnding),
        ("renamed", renamed, at(1), fails.clone(), "False False False", Reason::Delivering),
        ("invalid", invalid, at(1), quiet.clone(), "False True True", Reason::InvalidSpec),
        ("suspended", suspended, at(1), quiet.clone(), "True True False", Reason::Suspended),
        ("never issued", never, at(1), quiet.clone(), "False - False", Reason::Suspended),
        ("disabled", disabled, at(1), quiet.clone(), "True True False", Reason::Disabled),
        ("revoked", revoked, at(1), fails.clone(), "False False False", Reason::Revoked),
        ("revoked, suspended", held_back, at(1), quiet.clone(), "False False False", Reason::Revoked),
        ("expired", expired.clone(), at(14 * HOUR), quiet.clone(), "False True True", Reason::Expired),
        ("not yet expired", expired, at(14 * HOUR - 1), quiet.clone(), "True True False", Reason::Delivered),
        ("key missing", missing, at(1), quiet.clone(), "False True False", Reason::KeyMissing),
        ("deleting", deleting, at(1), quiet.clone(), "False True False", Reason::Deleting),
        ("not owned", settled(), due, failed("SecretNotOwned"), "False False False", Reason::SecretNotOwned),
        ("remark", unreadable, at(1), quiet, "True True False", Reason::Delivered),
    ];
    for (name, scene, now, outcome, conditions, reason) in table {
        let status = scene.finish(now, &outcome);
        assert_eq!(shown(&status), (conditions.to_owned(), reason.as_str().to_owned()), "{name}");
        let generations = status.conditions.iter().map(|condition| condition.observed_generation);
        assert!(generations.clone().all(|generation| generation == Some(1)), "{name}");
    }
}

#[test]
fn the_first_write_says_issuing_and_the_one_of_a_rotation_leaves_the_conditions_alone() {
    let first = Scene::new();
    let status = recorded(&first.desired, &first.observed, &first.act(at(0)), at(0));
    assert_eq!(shown(&status), ("False False False".to_owned(), "Issuing".to_owned()));
    assert_eq!((status.observed_generation, status.jwt_id.as_deref()), (Some(-1), Some("new")));
    assert_eq!(status.token_secret, None);
    let rotation = settled();
    let due = at(12 * HOUR);
    let status = recorded(&rotation.desired, &rotation.observed, &rotation.act(due), due);
    let before = rotation.observed.status.clone().unwrap_or_default();
    assert_eq!(status.conditions, before.conditions);
    assert_eq!(status.token_secret, before.token_secret);
}

#[test]
fn a_token_that_is_adopted_is_recorded_as_not_seen_yet() {
    let mut lost = settled();
    lost.observed.status = None;
    let status = recorded(&lost.desired, &lost.observed, &lost.act(at(0)), at(0));
    assert_eq!((status.observed_generation, status.jwts.len()), (Some(-1), 1));
    assert_eq!(status.conditions, []);
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let scene = settled();
    let time = |status: &VirtualAccountStatus| status.conditions[0].last_transition_time.0.as_second();
    let mut later = scene.clone();
    later.desired.disabled = true;
    assert_eq!(time(&later.finish(at(9), &Outcome::Untouched)), at(0).as_unix());
    later.desired.invalid = Some(Invalid { field: "spec".into(), message: "is wrong".into() });
    assert_eq!(time(&later.finish(at(9), &Outcome::Untouched)), at(9).as_unix());
}

#[test]
fn a_grace_period_counts_from_the_clock_after_the_delivery_and_never_beyond_the_end() {
    let scene = settled();
    let (due, slow) = (at(12 * HOUR), at(12 * HOUR + 50));
    let after = |now, trusted| {
        let status =
            finished(&scene.desired, &scene.observed, &scene.act(due), &delivered().into(), Clock { now, trusted });
        (status.jwts[0].phase, status.jwts[1].phase, status.jwts[1].grace_ends_at)
    };
    assert_eq!(after(slow - Seconds(51), true).2, Some(at(14 * HOUR - 1)));
    assert_eq!(after(slow, true), (Phase::Current, Phase::Superseded, Some(at(14 * HOUR))), "its own end is nearer");
    assert_eq!(after(slow, false), (Phase::Pending, Phase::Current, None), "an untrusted clock ends nothing");
}

#[test]
fn retries_double_up_to_the_cap_and_success_forgets_them() {
    let mut scene = settled();
    let mut now = at(12 * HOUR);
    let mut waits = Vec::new();
    for count in 1..=14 {
        let status = scene.finish(now, &failed("Forbidden"));
        let secret = status.token_secret.clone().unwrap_or_default();
        assert_eq!(secret.failures, Some(count));
        let next = secret.next_attempt_at.unwrap_or(now);
        waits.push((next - now).0);
        (scene, now) = (scene.with_status(status), next);
    }
    let cap = retry_cap(&scene.desired).0;
    assert_eq!(cap, 15 * 60, "a quarter of the grace is longer");
    for (n, wait) in waits.iter().enumerate() {
        let full = (1_i64 << n).min(cap);
        assert!(*wait >= full - full / 4 && *wait <= full, "{waits:?}");
    }
    let secret = scene.finish(now, &delivered()).token_secret.unwrap_or_default();
    assert_eq!((secret.failures, secret.next_attempt_at, secret.error), (None, None, None));
    scene.desired.schedule.grace = Seconds::minutes(4);
    assert_eq!(retry_cap(&scene.desired), Seconds::minutes(1));
}

#[test]
fn what_is_nobodys_fault_is_not_counted() {
    let scene = settled();
    let secret = scene.finish(at(12 * HOUR), &Outcome::Untouched).token_secret.unwrap_or_default();
    assert_eq!((secret.failures, secret.error), (None, None));
}

#[test]
fn an_entry_stays_until_the_secret_without_it_is_written() {
    let scene = Scene::holding(&[entry("j2"), superseded("j1", HOUR)]);
    let now = at(HOUR + 120);
    let left = |outcome: &Outcome| scene.finish(now, outcome).jwts.len() == 1;
    assert!(left(&delivered()));
    assert!(!left(&failed("Forbidden")));
    assert!(!left(&Outcome::Untouched));
}

#[test]
fn the_next_pass_is_at_the_next_instant_that_matters() {
    let scene = Scene::holding(&[entry("j2"), superseded("j1", HOUR)]);
    let wake = |scene: &Scene, now: Instant, outcome: &Outcome| {
        let status = scene.finish(now, outcome);
        wake_at(&scene.desired, &status, scene.act(now).block.as_ref(), now)
    };
    assert_eq!(wake(&scene, at(1), &Outcome::Untouched), Some(at(HOUR + 120)));
    assert_eq!(wake(&settled(), at(1), &Outcome::Untouched), Some(at(12 * HOUR)));
    assert_eq!(wake(&settled(), at(12 * HOUR), &failed("Forbidden")), Some(at(12 * HOUR + 1)));
    let mut clock = settled();
    clock.observed.clock_trusted = false;
    assert_eq!(wake(&clock, at(12 * HOUR), &Outcome::Untouched), Some(at(12 * HOUR + 10)));
    let mut ends = settled();
    (ends.desired.schedule.end, ends.desired.suspend) = (Some(at(60)), true);
    assert_eq!(wake(&ends, at(1), &Outcome::Untouched), Some(at(60)));
}

/// `Ready Delivered Stalled`, the reason and the message of the first, after a pass in which this came of the path `/p`.
fn shown_with_store(scene: &Scene, now: Instant, store: StoreOutcome) -> (String, String, String) {
    let outcomes = Outcomes { secret: Outcome::Untouched, stores: vec![store], removed: Vec::new() };
    let clock = Clock { now, trusted: true };
    let status = finished(&scene.desired, &scene.observed, &scene.act(now), &outcomes, clock);
    let (all, reason) = shown(&status);
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    (all, reason, ready.map(|ready| ready.message.clone()).unwrap_or_default())
}

fn store_error(reason: &str) -> StoreOutcome {
    StoreOutcome::Failed(ProviderError::new(ErrorKind::Denied, reason, "the store said no"))
}

#[test]
fn every_state_of_a_path_in_a_store_has_its_conditions() {
    let place = "/p in TokenStore team/vault";
    let old = Entry { issued_at: at(-HOUR), expires_at: at(13 * HOUR), ..entry("j0") };
    let holding = |jti: &str| Scene::holding(&[entry("j1"), old.clone()]).with_store(store_holding(jti));
    let empty = SecretStoreStatus { jwt_id: None, version: None, synced_at: None, ..store_holding("") };
    let lacking = || Scene::holding(&[entry("j1")]).with_store(empty.clone());
    let refused = |reason| Admission::Refused { reason, message: format!("{place} may not be used") };
    let down = Admission::Down { message: "TokenStore team/vault does not answer".into() };
    let holds = StoreOutcome::Holds { version: "v2".into(), leftover: None };
    let (none, no) = (StoreOutcome::Untouched, || store_error("AccessDenied"));
    let until = at(13 * HOUR).to_string();
    let good = ("True False False", "DeliveryFailing", vec![place, "the store said no", "j0", &until]);
    let table = vec![
        ("delivered", holding("j0"), 1, holds, ("True True False", "Delivered", vec!["Secret a-token", place])),
        ("fails", holding("j0"), 1, no(), good.clone()),
        ("fails, the second before it ends", holding("j0"), 12 * HOUR - 1, no(), good),
        ("fails, ending", holding("j0"), 12 * HOUR, no(), ("False False False", "TokenEnding", vec![place, &until])),
        ("empty", lacking(), 1, no(), ("False False False", "Delivering", vec![place, "the store said no"])),
        ("foreign", lacking(), 1, store_error("NotOurs"), ("False False False", "NotOurs", vec!["the store said no"])),
        (
            "not allowed",
            holding("j1").admitting(refused("NotAllowed")),
            1,
            none.clone(),
            ("False False False", "NotAllowed", vec![place]),
        ),
        (
            "no such store",
            holding("j1").admitting(refused("StoreNotFound")),
            1,
            none.clone(),
            ("False False False", "NotAllowed", vec![place]),
        ),
        (
            "down, holds an older one",
            holding("j0").admitting(down.clone()),
            1,
            none.clone(),
            ("True False False", "DeliveryFailing", vec![place, "does not answer", &until]),
        ),
        ("down, holds it", holding("j1").admitting(down), 1, none, ("True True False", "Delivered", vec![place])),
    ];
    for (name, scene, now, store, (conditions, reason, says)) in table {
        let (all, why, message) = shown_with_store(&scene, at(now), store);
        assert_eq!((all.as_str(), why.as_str()), (conditions, reason), "{name}: {message}");
        assert!(says.iter().all(|word| message.contains(word)), "{name}: {message}");
    }
}

#[test]
fn a_failing_store_changes_nothing_about_the_secret_and_holds_back_the_grace() {
    let old = Entry { issued_at: at(-HOUR), expires_at: at(13 * HOUR), ..entry("j0") };
    let scene = Scene::holding(&[entry("j1"), old]).with_store(store_holding("j0"));
    let after = |store: StoreOutcome| {
        let outcomes = Outcomes { secret: Outcome::Untouched, stores: vec![store], removed: Vec::new() };
        let clock = Clock { now: at(5), trusted: true };
        finished(&scene.desired, &scene.observed, &scene.act(at(1)), &outcomes, clock)
    };
    let failed = after(store_error("AccessDenied"));
    let secret = failed.token_secret.clone().unwrap_or_default();
    assert_eq!((secret.jwt_id.as_deref(), secret.error, secret.failures), (Some("j1"), None, None));
    assert_eq!((failed.jwts[0].phase, failed.jwts[1].grace_ends_at), (Phase::Pending, None));
    let held = after(StoreOutcome::Holds { version: "v2".into(), leftover: None });
    let grace_ends = at(5) + Seconds::hours(2);
    assert_eq!((held.jwts[0].phase, held.jwts[1].grace_ends_at), (Phase::Current, Some(grace_ends)));
}

#[test]
fn a_look_that_was_asked_for_is_remembered_once_it_was_taken() {
    let mut scene = Scene::holding(&[entry("j1")]).with_store(store_holding("j1"));
    scene.desired.sync = Some("now".into());
    let handled = |store: StoreOutcome| {
        let outcomes = Outcomes { secret: Outcome::Untouched, stores: vec![store], removed: Vec::new() };
        let clock = Clock { now: at(1), trusted: true };
        finished(&scene.desired, &scene.observed, &scene.act(at(1)), &outcomes, clock).handled_sync_request
    };
    assert_eq!(handled(StoreOutcome::Untouched), None, "the store was down");
    assert_eq!(handled(store_error("AccessDenied")).as_deref(), Some("now"));
    assert_eq!(handled(StoreOutcome::Holds { version: "v".into(), leftover: None }).as_deref(), Some("now"));
}
