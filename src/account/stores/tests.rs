//! What is done with paths in stores, second by second, and what is recorded of them.

use std::sync::Arc;

use super::*;
use crate::account::desired::{Limits, Request};
use crate::account::fixtures::{HOUR, Scene, at, entry, store_holding, store_path, superseded};
use crate::account::status::{Clock, Outcome, Outcomes, finished};
use crate::api::{ObjectId, Phase};

fn open() -> Admission {
    Admission::Open { take_over: Vec::new() }
}

fn not_allowed(reason: &'static str) -> Admission {
    Admission::Refused { reason, message: "not for you".into() }
}

fn down() -> Admission {
    Admission::Down { message: "it is down".into() }
}

fn deliver() -> StoreAction {
    StoreAction::Deliver { take_over: Vec::new() }
}

fn refused_for(reason: &str, message: &str) -> StoreAction {
    StoreAction::Refused { error: TargetError { reason: reason.into(), message: message.into() } }
}

/// A path that lacks the newest token because an attempt failed; the next one is at 100.
fn failing() -> SecretStoreStatus {
    SecretStoreStatus {
        failures: Some(3),
        next_attempt_at: Some(at(100)),
        error: Some(TargetError { reason: "AccessDenied".into(), message: "403".into() }),
        ..store_holding("j0")
    }
}

fn empty() -> SecretStoreStatus {
    SecretStoreStatus { jwt_id: None, version: None, synced_at: None, ..store_holding("") }
}

/// Checks come 9 s after the last look: an interval under 10 s has no jitter.
fn often(mut scene: Scene) -> Scene {
    let limits = Limits { store_check_interval: Seconds(9), ..(*scene.desired.limits).clone() };
    scene.desired.limits = Arc::new(limits);
    scene
}

fn settled() -> Scene {
    Scene::holding(&[entry("j1")]).with_store(store_holding("j1"))
}

fn action_of(scene: &Scene, now: Instant) -> StoreAction {
    let Scene { desired, observed } = scene;
    store_steps(desired, observed, &observed.ledger, now).remove(0).action
}

#[test]
fn a_path_is_left_alone_while_it_holds_the_newest_token() {
    let with = |record| Scene::holding(&[entry("j1")]).with_store(record);
    let sync = |mut scene: Scene, handled: Option<&str>| {
        scene.desired.sync = Some("now".into());
        let mut status = scene.observed.status.clone().unwrap_or_default();
        status.handled_sync_request = handled.map(str::to_owned);
        scene.with_status(status)
    };
    let edited = |mut scene: Scene| {
        scene.desired.generation = 2;
        scene
    };
    let requested = |mut scene: Scene| {
        scene.desired.request = Some(Request { value: "r1".into(), grace: None });
        scene
    };
    let far = SecretStoreStatus { next_attempt_at: Some(at(50 + 15 * 60 + 1)), ..failing() };
    let failed_before = SecretStoreStatus { jwt_id: Some("j1".into()), ..failing() };
    let revoked = Scene::holding(&[Entry { phase: Phase::Revoked, ..entry("j1") }]).with_store(store_holding("j0"));
    let mut unrecorded = with(empty());
    unrecorded.observed.status.as_mut().unwrap().secret_stores.clear();
    let table = vec![
        ("holds it", settled(), 50, StoreAction::Keep),
        ("holds it, the second before a check", often(settled()), 8, StoreAction::Keep),
        ("holds it, a check is due", often(settled()), 9, deliver()),
        ("holds an older one", with(store_holding("j0")), 50, deliver()),
        ("holds nothing", with(empty()), 50, deliver()),
        ("is new", unrecorded, 50, deliver()),
        ("failed, the second before", with(failing()), 99, StoreAction::Wait),
        ("failed, its time has come", with(failing()), 100, deliver()),
        ("failed, the spec changed", edited(with(failing())), 50, deliver()),
        ("failed, a rotation is asked for", requested(with(failing())), 50, deliver()),
        ("failed, a look is asked for", sync(with(failing()), None), 50, deliver()),
        ("failed, further ahead than the cap", with(far), 50, deliver()),
        ("holds it, but old versions could not be ended", with(failed_before), 100, deliver()),
        ("a look is asked for", sync(settled(), None), 50, deliver()),
        ("a look was asked for and taken", sync(settled(), Some("now")), 50, StoreAction::Keep),
        ("the newest token is revoked", revoked, 50, StoreAction::Keep),
        ("is refused", settled().admitting(not_allowed("NotAllowed")), 50, refused_for("NotAllowed", "not for you")),
        ("down, holds it", settled().admitting(down()), 50, StoreAction::Keep),
        ("down", with(failing()).admitting(down()), 50, refused_for(STORE_DOWN, "it is down")),
    ];
    for (name, scene, now, expected) in table {
        assert_eq!(action_of(&scene, at(now)), expected, "{name}");
    }
}

#[test]
fn take_over_is_handed_on() {
    let take_over = vec!["unmarked".to_owned()];
    let scene = Scene::holding(&[entry("j1")]).with_store(empty());
    let scene = scene.admitting(Admission::Open { take_over: take_over.clone() });
    assert_eq!(action_of(&scene, at(1)), StoreAction::Deliver { take_over });
}

#[test]
fn a_path_is_looked_at_when_an_older_token_leaves() {
    let scene = Scene::holding(&[entry("j2"), superseded("j1", HOUR)]).with_store(store_holding("j2"));
    assert_eq!(action_of(&scene, at(HOUR + 119)), StoreAction::Keep);
    assert_eq!(action_of(&scene, at(HOUR + 120)), deliver());
}

#[test]
fn checks_are_spread_over_a_tenth_of_their_interval() {
    let scene = settled();
    let check = |path: &str| {
        let record = SecretStoreStatus { secret_path: path.into(), ..store_holding("j1") };
        check_at(&scene.desired, &record).unwrap()
    };
    let all: std::collections::BTreeSet<Instant> = (0..50).map(|n| check(&format!("/p{n}"))).collect();
    assert!(all.len() > 40, "{}", all.len());
    assert!(all.iter().all(|due| *due <= at(24 * HOUR) && *due > at(24 * HOUR - 24 * HOUR / 10)), "{all:?}");
    assert_eq!(check("/p"), check("/p"));
    assert_eq!(check_at(&scene.desired, &empty()), None, "never seen to be right");
}

#[test]
fn no_more_paths_are_used_than_are_remembered() {
    let crowded = |others: usize| {
        let mut scene = Scene::holding(&[entry("j1")]).with_store(empty());
        let status = scene.observed.status.as_mut().unwrap();
        let old = |n: usize| SecretStoreStatus { secret_path: format!("/old{n}"), ..store_holding("j0") };
        status.secret_stores = (0..others).map(old).collect();
        scene
    };
    assert_eq!(action_of(&crowded(MAX_RECORDED - 1), at(1)), deliver());
    let StoreAction::Refused { error } = action_of(&crowded(MAX_RECORDED), at(1)) else { panic!("not refused") };
    assert_eq!(error.reason, TOO_MANY);
    let scene = crowded(MAX_RECORDED);
    let status = scene.finish(at(1), &Outcome::Untouched);
    assert!(!status.secret_stores.iter().any(|record| is_at(record, &store_path())), "nor is it remembered");
}

/// The same account, whose spec names no store any more.
fn unnamed(record: SecretStoreStatus, admission: Admission) -> Scene {
    let mut scene = Scene::holding(&[entry("j1")]).with_store(record).admitting(admission);
    scene.desired.stores.clear();
    let status = scene.observed.status.clone().unwrap_or_default();
    scene.with_status(status)
}

/// The account is being deleted since 0: the deadline is at an hour.
fn deleting(record: SecretStoreStatus, admission: Admission) -> Scene {
    let mut scene = unnamed(record, admission);
    scene.desired.deleted_at = Some(at(0));
    scene
}

fn removal_of(scene: &Scene, now: i64) -> RemovalAction {
    removals(&scene.desired, &scene.observed, at(now)).remove(0).action
}

fn give_up(why: &str) -> RemovalAction {
    RemovalAction::GiveUp { why: why.into() }
}

#[test]
fn a_path_that_is_not_wanted_is_removed_if_it_was_used() {
    let used = || store_holding("j1");
    let retained = SecretStoreStatus { deletion_policy: DeletionPolicy::Retain, ..used() };
    let forgotten = SecretStoreStatus { jwt_id: None, version: None, ..used() };
    let tried = SecretStoreStatus { failures: Some(0), ..empty() };
    let table = vec![
        ("used", unnamed(used(), open()), 1, RemovalAction::Delete),
        ("to be retained", unnamed(retained, down()), 1, RemovalAction::Release),
        ("refused, used", unnamed(used(), not_allowed("NotAllowed")), 1, RemovalAction::Delete),
        ("refused, never used", unnamed(empty(), not_allowed("NotAllowed")), 1, RemovalAction::Release),
        ("refused, perhaps used", unnamed(tried, not_allowed("NotAllowed")), 1, RemovalAction::Delete),
        ("refused, used before", unnamed(forgotten, not_allowed("NotAllowed")), 1, RemovalAction::Delete),
        ("the store is gone", unnamed(used(), not_allowed("StoreNotFound")), 1, RemovalAction::Wait),
        ("the store is gone, never used", unnamed(empty(), not_allowed("StoreNotFound")), 1, RemovalAction::Release),
        ("down", unnamed(used(), down()), 1, RemovalAction::Wait),
        ("failed, the second before", unnamed(failing(), open()), 99, RemovalAction::Wait),
        ("failed, its time has come", unnamed(failing(), open()), 100, RemovalAction::Delete),
        ("no deadline without a deletion", unnamed(used(), down()), 100 * HOUR, RemovalAction::Wait),
    ];
    for (name, scene, now, expected) in table {
        assert_eq!(removal_of(&scene, now), expected, "{name}");
    }
}

#[test]
fn a_cleanup_is_given_up_at_its_deadline_or_in_a_namespace_that_goes() {
    let late = || SecretStoreStatus { next_attempt_at: Some(at(HOUR)), ..failing() };
    let used = || store_holding("j1");
    let going = |mut scene: Scene| {
        scene.observed.namespace_terminating = true;
        scene
    };
    let refused = || not_allowed("NotAllowed");
    let table = vec![
        ("failing, the second before", deleting(late(), open()), HOUR - 1, RemovalAction::Wait),
        ("failing, at the deadline", deleting(late(), open()), HOUR, give_up("403")),
        ("nobody tried in time", deleting(used(), open()), 2 * HOUR, RemovalAction::Delete),
        ("nobody tried since long", deleting(failing(), open()), 2 * HOUR, RemovalAction::Delete),
        ("down, the second before", deleting(used(), down()), HOUR - 1, RemovalAction::Wait),
        ("down, at the deadline", deleting(used(), down()), HOUR, give_up("it is down")),
        ("refused, the second before", deleting(used(), refused()), HOUR - 1, RemovalAction::Delete),
        ("refused, at the deadline", deleting(used(), refused()), HOUR, give_up("not for you")),
        ("refused, the namespace goes", going(deleting(used(), refused())), 1, give_up("not for you")),
        ("the namespace goes, the store answers", going(deleting(used(), open())), 1, RemovalAction::Delete),
        ("refused, the namespace goes, the account stays", going(unnamed(used(), refused())), 1, RemovalAction::Delete),
        ("never used, at the deadline", deleting(empty(), refused()), HOUR, RemovalAction::Release),
    ];
    for (name, scene, now, expected) in table {
        assert_eq!(removal_of(&scene, now), expected, "{name}");
    }
}

#[test]
fn a_deletion_waits_for_what_is_recorded_and_after_a_lost_status_for_what_the_spec_names() {
    let mut scene = settled();
    scene.desired.deleted_at = Some(at(0));
    let unwanted = |scene: &Scene| scene.observed.unwanted_stores(&scene.desired);
    assert_eq!(unwanted(&scene), [store_holding("j1")]);
    scene.observed.status.as_mut().unwrap().secret_stores.clear();
    assert_eq!(unwanted(&scene), [], "all that is known is gone");
    scene.observed.status = None;
    assert_eq!(unwanted(&scene), [SecretStoreStatus { failures: Some(0), ..empty() }]);
    scene.observed.finalizer = false;
    assert_eq!(unwanted(&scene), [], "nothing was ever written");
}

#[test]
fn what_may_be_written_or_removed_is_recorded_first() {
    let records = |scene: &Scene| scene.act(at(1)).record_stores;
    assert_eq!(records(&settled()), None);
    let mut new = settled();
    new.observed.status.as_mut().unwrap().secret_stores.clear();
    let status = new.observed.status.clone().unwrap();
    let new = new.with_status(status);
    assert_eq!(records(&new), Some(vec![SecretStoreStatus { failures: Some(0), ..empty() }]));
    let doubted = SecretStoreStatus { jwt_id: None, version: None, failures: Some(0), ..store_holding("j1") };
    assert_eq!(records(&unnamed(store_holding("j1"), open())), Some(vec![doubted.clone()]), "it may be named again");
    assert_eq!(records(&unnamed(doubted, open())), None, "once is enough");
    assert_eq!(records(&unnamed(store_holding("j1"), down())), None, "nothing is removed now");
    assert_eq!(records(&deleting(store_holding("j1"), open())), None, "it will not be named again");
}

/// The record after a pass at 100 in which this came of the path.
fn after(scene: &Scene, outcome: StoreOutcome) -> SecretStoreStatus {
    let act = scene.act(at(100));
    let outcomes = Outcomes { secret: Outcome::Untouched, stores: vec![outcome], removed: Vec::new() };
    let status = finished(&scene.desired, &scene.observed, &act, &outcomes, Clock { now: at(100), trusted: true });
    status.secret_stores.into_iter().next().unwrap_or_default()
}

fn broken(retry_after: Option<Seconds>) -> StoreOutcome {
    let error = ProviderError::new(ErrorKind::Throttled, "SlowDown", "not so fast");
    StoreOutcome::Failed(ProviderError { retry_after, ..error })
}

#[test]
fn a_failure_is_counted_and_its_retry_is_no_sooner_than_the_store_asks() {
    let scene = Scene::holding(&[entry("j1")]).with_store(failing());
    let error = Some(TargetError { reason: "SlowDown".into(), message: "not so fast".into() });
    let record = after(&scene, broken(None));
    assert_eq!((record.failures, &record.error, record.jwt_id.as_deref()), (Some(4), &error, Some("j0")));
    let wait = record.next_attempt_at.unwrap() - at(100);
    assert!((6..=8).contains(&wait.0), "{wait:?}");
    let next = |retry_after| after(&scene, broken(Some(retry_after))).next_attempt_at;
    assert_eq!(next(Seconds(60)), Some(at(160)));
    assert_eq!(next(Seconds::hours(9)), Some(at(100 + 15 * 60)), "the cap");
    let mut edited = scene.clone();
    edited.desired.generation = 2;
    assert_eq!(after(&edited, broken(None)).failures, Some(1), "a new generation starts the count anew");
}

#[test]
fn success_forgets_failures_and_a_version_that_could_not_be_ended_is_one() {
    let scene = Scene::holding(&[entry("j1")]).with_store(failing());
    let holds = |leftover| StoreOutcome::Holds { version: "v2".into(), leftover };
    let good = SecretStoreStatus { version: Some("v2".into()), synced_at: Some(at(100)), ..store_holding("j1") };
    assert_eq!(after(&scene, holds(None)), good);
    let leftover = after(&scene, holds(Some(ProviderError::new(ErrorKind::Denied, "AccessDenied", "403"))));
    assert_eq!((leftover.jwt_id, leftover.synced_at), (good.jwt_id, good.synced_at));
    assert_eq!((leftover.failures, leftover.error.map(|error| error.reason)), (Some(4), Some("AccessDenied".into())));
}

#[test]
fn a_store_that_is_known_to_be_down_counts_on_nobody_and_changes_nothing() {
    let scene = Scene::holding(&[entry("j1")]).with_store(failing()).admitting(down());
    let status = scene.finish(at(100), &Outcome::Untouched);
    let record = &status.secret_stores[0];
    let error = TargetError { reason: STORE_DOWN.into(), message: "it is down".into() };
    assert_eq!((record.error.as_ref(), record.next_attempt_at, record.failures), (Some(&error), None, Some(0)));
    let waiting = scene.with_status(status.clone());
    for later in [101, 5_000, 10_000] {
        assert_eq!(waiting.finish(at(later), &Outcome::Untouched), status, "at {later}");
        assert!(waiting.silent(at(later)), "at {later}");
    }
    assert_eq!(action_of(&waiting.admitting(open()), at(101)), deliver(), "at once when it is back");
}

#[test]
fn what_was_lost_with_a_status_counts_as_perhaps_written() {
    let mut scene = Scene::holding(&[entry("j1")]).with_store(empty());
    (scene.observed.status, scene.desired.suspend) = (None, true);
    scene.observed.ledger = Ledger::of(None, &scene.desired);
    scene.desired.secret.enabled = false;
    let record = |scene: &Scene| scene.finish(at(1), &Outcome::Untouched).secret_stores;
    assert_eq!(record(&scene), [SecretStoreStatus { failures: Some(0), ..empty() }]);
    scene.observed.finalizer = false;
    assert_eq!(record(&scene), [], "without the finalizer nothing was ever written");
}

#[test]
fn the_next_look_is_at_a_retry_a_check_or_the_deadline() {
    let wake = |scene: &Scene| wake_at(&scene.desired, scene.observed.status.as_ref().unwrap(), at(1));
    assert_eq!(wake(&often(settled())), Some(at(9)));
    assert_eq!(wake(&Scene::holding(&[entry("j1")]).with_store(failing())), Some(at(100)));
    assert_eq!(wake(&deleting(failing(), open())), Some(at(100)));
    assert_eq!(wake(&deleting(store_holding("j1"), down())), Some(at(HOUR)));
    assert_eq!(wake(&Scene::holding(&[entry("j1")])), None);
}

#[test]
fn in_a_namespace_that_goes_only_what_may_pass_is_tried_again() {
    let kinds = [ErrorKind::Unavailable, ErrorKind::Throttled, ErrorKind::Conflict];
    assert!(kinds.iter().all(|kind| !is_hopeless(&ProviderError::new(*kind, "", ""))));
    let kinds = [ErrorKind::Denied, ErrorKind::NotFound, ErrorKind::Invalid];
    assert!(kinds.iter().all(|kind| is_hopeless(&ProviderError::new(*kind, "", ""))));
}

#[test]
fn targets_are_told_apart_by_store_and_path() {
    let other = |change: fn(&mut SecretStoreStatus)| {
        let mut record = store_holding("j1");
        change(&mut record);
        is_at(&record, &store_path())
    };
    assert!(other(|_| {}));
    assert!(!other(|record| record.secret_path = "/q".into()));
    assert!(!other(|record| record.store_ref = ObjectId { namespace: "other".into(), name: "vault".into() }));
}
