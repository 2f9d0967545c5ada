//! Plans, compared whole, so that a step too much fails too.

use super::*;
use crate::account::desired::{Limits, Request};
use crate::account::fixtures::{HOUR, Scene, at, entry, superseded};
use crate::account::secret::{ACCOUNT_LABEL, UID_ANNOTATION};
use crate::account::status::Outcome;
use crate::api::{Phase, VirtualAccountStatus};
use crate::token::fixtures::{es256, rs256};
use crate::token::{Key, Ring};

/// The token that is issued at this time.
fn issued(now: Instant, reason: IssueReason) -> Entry {
    let kid = if now >= at(9_000) { rs256().kid().to_owned() } else { es256().kid().to_owned() };
    Entry {
        key_id: kid,
        issued_at: now,
        expires_at: now + Seconds::hours(14),
        reason,
        phase: Phase::Pending,
        ..entry("new")
    }
}

fn image(token: &Entry, previous: Option<&Entry>) -> Image {
    Image { token: token.clone(), previous: previous.cloned(), handled: None }
}

/// Nothing happens.
fn rest(scene: &Scene, now: Instant) -> Act {
    let ledger = scene.observed.ledger.clone();
    Act {
        at: now,
        record: false,
        record_stores: None,
        ledger,
        issued: None,
        block: None,
        secret: SecretStep::Keep,
        strays: Vec::new(),
        stores: Vec::new(),
        removals: Vec::new(),
    }
}

fn blocked(scene: &Scene, now: Instant, block: Block) -> Act {
    Act { block: Some(block), ..rest(scene, now) }
}

#[test]
fn the_first_token_is_recorded_and_then_created() {
    let new = issued(at(0), IssueReason::First);
    let expected = Act {
        at: at(0),
        record: true,
        ledger: Ledger { entries: vec![new.clone()], ..Ledger::default() },
        issued: Some(IssueReason::First),
        block: None,
        secret: SecretStep::Create(image(&new, None)),
        ..rest(&Scene::new(), at(0))
    };
    assert_eq!(Scene::new().act(at(0)), expected);
}

#[test]
fn a_rotation_comes_at_its_second_and_not_before() {
    let scene = Scene::holding(&[entry("j1")]);
    let (before, due) = (at(12 * HOUR - 1), at(12 * HOUR));
    assert_eq!(scene.act(before), rest(&scene, before));
    let new = issued(due, IssueReason::Scheduled);
    let expected = Act {
        record: true,
        ledger: Ledger { entries: vec![new.clone(), entry("j1")], ..scene.observed.ledger.clone() },
        issued: Some(IssueReason::Scheduled),
        secret: SecretStep::Replace { image: image(&new, Some(&entry("j1"))), base: scene.meta("10") },
        ..rest(&scene, due)
    };
    assert_eq!(scene.act(due), expected);
}

#[test]
fn a_grace_ends_at_its_second_plus_the_skew() {
    let scene = Scene::holding(&[entry("j2"), superseded("j1", HOUR)]);
    for quiet in [HOUR - 1, HOUR, HOUR + 119] {
        assert_eq!(scene.act(at(quiet)), rest(&scene, at(quiet)), "{quiet}");
    }
    let now = at(HOUR + 120);
    let secret = SecretStep::Replace { image: image(&entry("j2"), None), base: scene.meta("10") };
    assert_eq!(scene.act(now), Act { secret, ..rest(&scene, now) });
}

#[test]
fn a_plan_that_was_carried_out_leaves_nothing_to_do() {
    let starts = [
        (Scene::new(), at(0)),
        (Scene::holding(&[entry("j1")]), at(12 * HOUR)),
        (Scene::holding(&[entry("j2"), superseded("j1", HOUR)]), at(HOUR + 120)),
    ];
    for (scene, now) in starts {
        let status = scene.finish(now, &Outcome::Delivered { version: "30".into() });
        let again = scene.with_status(status).watching("30");
        assert!(again.silent(now), "{:?}", again.act(now));
    }
}

#[test]
fn what_cannot_be_issued_waits_and_says_why() {
    let due = at(12 * HOUR);
    let holding = || Scene::holding(&[entry("j1")]);
    let mut clock = holding();
    clock.observed.clock_trusted = false;
    let mut trouble = holding();
    trouble.observed.ring_trouble = Some("emptied".into());
    let mut missing = Scene::holding(&[Entry { key_id: "gone".into(), ..entry("j1") }]);
    missing.observed.ledger.secret.jti = Some("j1".into());
    let mut reissue = holding();
    reissue.observed.may_reissue = false;
    let table = [
        (clock, Block::Clock),
        (trouble, Block::KeyRing("emptied".into())),
        (limited(reissue), Block::ReissueRate),
        (missing, Block::KeyMissing("gone".into())),
    ];
    for (scene, block) in table {
        let act = scene.act(due);
        assert_eq!((act.issued, act.record, act.block), (None, false, Some(block)));
    }
}

/// The same, with a maximum lifetime that the first token exceeds.
fn limited(mut scene: Scene) -> Scene {
    let limits = Limits { max_token_lifetime: Seconds::hours(13), ..(*scene.desired.limits).clone() };
    scene.desired.limits = std::sync::Arc::new(limits);
    scene.desired.schedule.max_life = Seconds::hours(13);
    scene
}

#[test]
fn a_token_beyond_the_limits_gets_a_successor_and_is_not_signed_again() {
    let scene = limited(Scene::holding(&[entry("j1")]));
    let act = scene.act(at(1));
    assert_eq!(act.issued, Some(IssueReason::LimitChange));
    let new = Entry { expires_at: at(1) + Seconds::hours(13), ..issued(at(1), IssueReason::LimitChange) };
    assert_eq!(act.ledger.entries, [new.clone(), entry("j1")]);
    assert_eq!(act.secret, SecretStep::Replace { image: image(&new, None), base: scene.meta("10") });
}

#[test]
fn spec_changes_come_at_most_once_in_the_minimum_interval() {
    let asks = |mut scene: Scene| {
        scene.desired.audiences = Some(vec!["other".into()]);
        scene
    };
    let first = asks(Scene::holding(&[entry("j1")]));
    assert_eq!(first.act(at(1)).issued, Some(IssueReason::SpecChange));
    let second = asks(Scene::holding(&[Entry { reason: IssueReason::SpecChange, ..entry("j1") }]));
    assert_eq!(second.act(at(299)), blocked(&second, at(299), Block::TooSoon(at(300))));
    assert_eq!(second.act(at(300)).issued, Some(IssueReason::SpecChange));
}

#[test]
fn a_full_ledger_holds_back_requests_but_not_the_schedule() {
    let old = |n: i64| Entry { issued_at: at(-n), ..superseded(&format!("o{n}"), HOUR + n) };
    let entries: Vec<Entry> = std::iter::once(entry("j1")).chain((1..8).map(old)).collect();
    let mut scene = Scene::holding(&entries);
    scene.desired.request = Some(Request { value: "r1".into(), grace: None });
    assert_eq!(scene.act(at(1)), blocked(&scene, at(1), Block::LedgerFull(Some(at(HOUR + 1 + 120)))));
    let late: Vec<Entry> = entries
        .iter()
        .map(|e| Entry {
            grace_ends_at: e.grace_ends_at.map(|_| at(14 * HOUR)),
            expires_at: at(14 * HOUR),
            ..e.clone()
        })
        .collect();
    scene = Scene::holding(&late);
    assert_eq!(scene.act(at(12 * HOUR)).issued, Some(IssueReason::Scheduled));
}

#[test]
fn a_request_acts_once_and_without_grace_revokes_what_is_older() {
    let mut scene = Scene::holding(&[entry("j1")]);
    scene.desired.request = Some(Request { value: "r1,grace=0s".into(), grace: Some(Seconds::ZERO) });
    let act = scene.act(at(1));
    let new = Entry { grace: Seconds::ZERO, ..issued(at(1), IssueReason::Request) };
    assert_eq!(act.ledger.entries, [new.clone(), Entry { phase: Phase::Revoked, ..entry("j1") }]);
    assert_eq!(act.ledger.handled, ["r1,grace=0s"]);
    let image = Image { handled: Some("r1,grace=0s".into()), ..image(&new, None) };
    assert_eq!(act.secret, SecretStep::Replace { image, base: scene.meta("10") });
    scene.observed.ledger.handled = vec!["r1,grace=0s".into()];
    let scene = scene.clone().watching("10");
    assert_eq!(scene.act(at(1)), rest(&scene, at(1)));
}

#[test]
fn a_newest_entry_far_in_the_future_is_replaced() {
    let ahead = |seconds| Entry { issued_at: at(seconds), expires_at: at(seconds + 14 * HOUR), ..entry("j1") };
    let near = Scene::holding(&[ahead(300)]);
    assert_eq!(near.act(at(0)), rest(&near, at(0)));
    let far = Scene::holding(&[ahead(301)]);
    let act = far.act(at(0));
    assert_eq!(act.issued, Some(IssueReason::ClockChange));
    assert_eq!(act.ledger.entries, [issued(at(0), IssueReason::ClockChange)]);
}

#[test]
fn a_compromised_key_revokes_its_tokens_in_the_write_that_adds_the_successor() {
    let mut scene = Scene::holding(&[entry("j2"), superseded("j1", HOUR)]);
    let ring = scene.observed.ring.as_deref().cloned().unwrap();
    let keys =
        ring.keys.into_iter().map(|key| Key { compromised_at: (key.kid() == es256().kid()).then(|| at(0)), ..key });
    scene.observed.ring = Some(std::sync::Arc::new(Ring { keys: keys.collect(), ..Ring::default() }));
    let act = scene.act(at(1));
    let new = Entry { key_id: rs256().kid().into(), ..issued(at(1), IssueReason::KeyChange) };
    let revoked = |entry: Entry| Entry { phase: Phase::Revoked, ..entry };
    assert_eq!(act.ledger.entries, [new.clone(), revoked(entry("j2")), revoked(superseded("j1", HOUR))]);
    assert_eq!(act.secret, SecretStep::Replace { image: image(&new, None), base: scene.meta("10") });
}

#[test]
fn revocation_waits_for_nothing() {
    let mut scene = Scene::holding(&[entry("j1")]);
    scene.desired.revoked = ["j1".to_owned()].into();
    scene.desired.suspend = true;
    scene.observed.ring = None;
    let act = scene.act(at(1));
    assert_eq!(act.ledger.entries, [Entry { phase: Phase::Revoked, ..entry("j1") }]);
    assert_eq!((act.record, act.issued, act.secret), (true, None, SecretStep::Nothing));
}

#[test]
fn what_the_watch_shows_decides_whether_to_read() {
    let plan_of = |scene: &Scene| plan(&scene.desired, &scene.observed, at(1));
    let holding = Scene::holding(&[entry("j1")]);
    let with = |meta: Option<&str>, position| {
        let meta = meta.map(|version| holding.meta(version));
        let secret = SecretView::Watched { meta, position };
        Scene { observed: Observed { secret, ..holding.observed.clone() }, ..holding.clone() }
    };
    let table = [
        (with(Some("10"), 10), false, "as recorded"),
        (with(Some("11"), 11), true, "somebody wrote"),
        (with(Some("9"), 9), false, "the watch lags"),
        (with(None, 9), false, "the watch has not shown it yet"),
        (with(None, 10), true, "deleted"),
    ];
    for (scene, reads, why) in table {
        assert_eq!(plan_of(&scene) == Plan::ReadInOrder, reads, "{why}");
    }
    let mut restored = with(Some("9"), 9);
    restored.observed.version = 8;
    assert_eq!(plan_of(&restored), Plan::ReadInOrder, "the recorded version is from another etcd");
    let lost = Scene::new().watching("10");
    assert_eq!(plan_of(&lost), Plan::ReadInOrder, "the status is lost");
}

#[test]
fn a_secret_of_somebody_else_is_left_alone() {
    let scene = Scene::new().reading(&image(&entry("x"), None), |secret| {
        secret.metadata.labels.get_or_insert_default().insert(ACCOUNT_LABEL.into(), "b".into());
        secret.metadata.owner_references = None;
    });
    let act = scene.act(at(0));
    assert_eq!(act.secret, SecretStep::NotOwned { owner: "virtual account b".into() });
    assert_eq!(act.issued, Some(IssueReason::First));
}

#[test]
fn the_secret_of_an_earlier_account_is_adopted_only_if_asked() {
    let earlier = |secret: &mut k8s_openapi::api::core::v1::Secret| {
        secret.metadata.annotations.get_or_insert_default().insert(UID_ANNOTATION.into(), "uid-before".into());
        secret.metadata.owner_references = None;
    };
    let mut scene = Scene::new().reading(&image(&entry("x"), None), earlier);
    let act = scene.act(at(1));
    assert_eq!((act.issued, act.ledger.entries.len()), (Some(IssueReason::First), 1));
    scene.desired.adopt = true;
    let act = scene.act(at(1));
    let adopted = Entry { reason: IssueReason::Adopted, phase: Phase::Pending, ..entry("x") };
    assert_eq!((act.issued, act.ledger.entries), (None, vec![adopted]));
    assert!(matches!(act.secret, SecretStep::Replace { .. }), "the mark and the owner are put right: {:?}", act.secret);
}

#[test]
fn a_lost_status_is_read_back_and_mints_nothing() {
    let (token, previous) = (entry("j2"), superseded("j1", HOUR));
    let scene = Scene::new().reading(&image(&token, Some(&previous)), |_| {});
    let act = scene.act(at(1));
    let adopted = |entry: &Entry| Entry {
        reason: IssueReason::Adopted,
        phase: Phase::Pending,
        grace_ends_at: None,
        ..entry.clone()
    };
    assert_eq!(act.ledger.entries, [adopted(&token), adopted(&previous)]);
    assert_eq!((act.issued, act.secret), (None, SecretStep::Confirm { version: "20".into() }));
}

#[test]
fn a_secret_that_cannot_be_changed_is_made_again() {
    let scene = Scene::holding(&[entry("j1")]);
    let scene = scene.reading(&image(&entry("j1"), None), |secret| secret.immutable = Some(true));
    assert!(matches!(scene.act(at(1)).secret, SecretStep::Recreate { .. }));
}

#[test]
fn a_failed_delivery_waits_for_its_time_unless_something_changes() {
    let old = entry("j1");
    let scene = Scene::holding(std::slice::from_ref(&old));
    let (due, failed) =
        (at(12 * HOUR), Outcome::Failed(crate::api::TargetError { reason: "Forbidden".into(), message: "no".into() }));
    let status = scene.finish(due, &failed);
    let scene = scene.with_status(status);
    let retry = scene.observed.secret_status("a-token").and_then(|secret| secret.next_attempt_at).unwrap();
    assert_eq!(retry, due + Seconds(1));
    let waiting = scene.act(due);
    assert_eq!((waiting.record, &waiting.secret), (false, &SecretStep::Wait));
    assert!(matches!(scene.act(retry).secret, SecretStep::Replace { .. }));
    let mut edited = scene.clone();
    edited.desired.generation = 2;
    assert!(matches!(edited.act(due).secret, SecretStep::Replace { .. }));
    let mut far = scene.clone();
    let status = far.observed.status.clone().map(|mut status: VirtualAccountStatus| {
        status.token_secret.as_mut().unwrap().next_attempt_at = Some(due + Seconds::minutes(15) + Seconds(1));
        status
    });
    far.observed.status = status;
    assert!(matches!(far.act(due).secret, SecretStep::Replace { .. }), "further ahead than the cap counts as now");
}

#[test]
fn a_refused_repair_is_not_forgotten_before_its_next_attempt() {
    let bare = |scene: &Scene| {
        let mut meta = scene.meta("10");
        meta.labels.remove(ACCOUNT_LABEL);
        SecretView::Watched { meta: Some(meta), position: 50 }
    };
    let mut scene = Scene::holding(&[entry("j1")]);
    scene.observed.secret = bare(&scene);
    assert_eq!(plan(&scene.desired, &scene.observed, at(60)), Plan::ReadInOrder, "a label is missing");
    let status = scene.observed.status.clone().map(|mut status: VirtualAccountStatus| {
        let error = crate::api::TargetError { reason: "Forbidden".into(), message: "no".into() };
        let secret = status.token_secret.as_mut().unwrap();
        (secret.error, secret.next_attempt_at) = (Some(error), Some(at(90)));
        status
    });
    let scene = scene.with_status(status.unwrap());
    assert_eq!(scene.act(at(60)).secret, SecretStep::Wait, "though it holds the newest token");
    let kept = scene.finish(at(60), &Outcome::Untouched).token_secret.unwrap();
    assert_eq!((kept.error.map(|error| error.reason), kept.next_attempt_at), (Some("Forbidden".into()), Some(at(90))));
    assert_eq!(plan(&scene.desired, &scene.observed, at(90)), Plan::ReadInOrder, "its time has come");
}
