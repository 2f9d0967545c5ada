//! Tables: what a stored notice becomes, at the second before and at each deadline.

use super::*;
use crate::account::fixtures::{HOUR, Scene, at, entry, store_holding, superseded};
use crate::api::{Entry, ObjectId, SecretStoreStatus};
use crate::integration::ErrorKind;

const DAY: i64 = 24 * HOUR;

fn channel() -> ObjectId {
    ObjectId { namespace: "team".into(), name: "chat".into() }
}

fn target(kinds: &[NoticeKind]) -> Told {
    Told {
        channel: channel(),
        emails: Vec::new(),
        rooms: Vec::new(),
        recipients: None,
        kinds: kinds.iter().copied().collect(),
    }
}

/// A scene in which a chat hears of everything.
fn told(mut scene: Scene) -> Scene {
    scene.desired.told = vec![target(&NoticeKind::ALL)];
    open(scene)
}

fn open(mut scene: Scene) -> Scene {
    let admission = Admission::Open { medium: Medium::SlackWebhook, has_recipients: true };
    scene.observed.channels.insert(channel(), admission);
    scene
}

/// The notices after a pass that changes nothing but what the clock brings about.
fn look(scene: &Scene, seconds: i64) -> Vec<Notification> {
    notices_after(&change(scene, seconds))
}

fn change(scene: &Scene, seconds: i64) -> Change<'_> {
    let status = scene.observed.status.as_ref();
    let after = status.unwrap_or_else(|| panic!("a scene with a status"));
    let trusted = scene.observed.clock_trusted;
    Change { desired: &scene.desired, observed: &scene.observed, before: status, after, now: at(seconds), trusted }
}

fn kinds(notices: &[Notification]) -> Vec<NoticeKind> {
    notices.iter().map(|notice| notice.kind).collect()
}

fn storing(mut scene: Scene, notices: &[Notification]) -> Scene {
    if let Some(status) = &mut scene.observed.status {
        status.notifications = notices.to_vec();
    }
    scene
}

/// An account whose token ends in 100 days, and nothing will replace it.
fn doomed_scene() -> Scene {
    let mut scene = told(Scene::holding(&[Entry { expires_at: at(100 * DAY), ..entry("j1") }]));
    scene.desired.suspend = true;
    scene
}

/// One in its grace of 40 hours, which began at 0.
fn in_grace() -> Scene {
    let newest = Entry { delivered_at: Some(at(0)), issued_at: at(0), expires_at: at(100 * DAY), ..entry("j2") };
    let mut older = superseded("j1", 40 * HOUR);
    older.expires_at = at(50 * DAY);
    let mut scene = told(Scene::holding(&[newest, older]));
    if let Some(status) = &mut scene.observed.status {
        status.next_scheduled_rotation = Some(at(90 * DAY));
        status.jwt_id = Some("j2".into());
    }
    scene
}

#[test]
fn a_warning_comes_at_its_instant_and_the_last_one_counts() {
    let scene = doomed_scene();
    for (seconds, expected) in [
        (70 * DAY - 1, None),
        (70 * DAY, Some("30d")),
        (93 * DAY - 1, Some("30d")),
        (93 * DAY, Some("7d")),
        (99 * DAY, Some("1d")),
        (100 * DAY - 1, Some("1d")),
    ] {
        let notices = look(&scene, seconds);
        let about: Vec<&str> = notices.iter().filter_map(|notice| notice.about.as_deref()).collect();
        assert_eq!(about, expected.into_iter().collect::<Vec<_>>(), "{seconds}");
    }
    assert_eq!(kinds(&look(&scene, 100 * DAY)), [NoticeKind::TokenExpired]);
}

#[test]
fn a_token_ends_with_its_account_whatever_its_own_end_is() {
    let mut scene = doomed_scene();
    scene.desired.suspend = false;
    scene.desired.schedule.end = Some(at(60 * DAY));
    for (seconds, expected) in [
        (30 * DAY, [NoticeKind::TokenExpiring]),
        (60 * DAY - 1, [NoticeKind::TokenExpiring]),
        (60 * DAY, [NoticeKind::TokenExpired]),
    ] {
        let notices = look(&scene, seconds);
        assert_eq!((kinds(&notices).as_slice(), notices[0].ends_at), (&expected[..], Some(at(60 * DAY))), "{seconds}");
    }
}

#[test]
fn others_who_could_not_be_told_are_no_news() {
    let (mut scene, notices) = pending();
    scene.desired.told[0].recipients = Some("0123456789abcdef".into());
    let failed = [Notification { state: State::Failed, ..notices[0].clone() }];
    let scene = storing(scene, &failed);
    assert!(look(&scene, 31 * HOUR).iter().all(|notice| notice.state == State::Pending));
}

#[test]
fn a_warning_that_was_given_is_not_given_again_nor_one_that_is_over() {
    let scene = doomed_scene();
    let first = look(&scene, 70 * DAY);
    let sent = |notices: &[Notification]| -> Vec<Notification> {
        notices.iter().map(|notice| Notification { state: State::Sent, ..notice.clone() }).collect()
    };
    let scene = storing(scene, &sent(&first));
    assert_eq!(look(&scene, 80 * DAY), sent(&first), "nothing new");
    let second = look(&scene, 93 * DAY);
    assert_eq!(second.iter().map(|notice| notice.about.as_deref()).collect::<Vec<_>>(), [Some("7d"), Some("30d")]);
    // The clock goes back: the longer warning is not given again.
    let scene = storing(scene, &sent(&second[..1]));
    assert_eq!(look(&scene, 80 * DAY), sent(&second[..1]));
    // A pending one gives way to a shorter one, and to a rotation that will come.
    let mut scene = storing(scene, &first);
    assert_eq!(look(&scene, 99 * DAY)[0].about.as_deref(), Some("1d"));
    assert_eq!(look(&scene, 99 * DAY).len(), 1);
    if let Some(status) = &mut scene.observed.status {
        status.next_scheduled_rotation = Some(at(90 * DAY));
    }
    assert_eq!(look(&scene, 80 * DAY), []);
}

#[test]
fn the_end_of_a_long_grace_is_announced_when_a_quarter_is_left() {
    let scene = in_grace();
    assert_eq!(look(&scene, 30 * HOUR - 1), []);
    let notices = look(&scene, 30 * HOUR);
    assert_eq!(kinds(&notices), [NoticeKind::GraceEnding]);
    assert_eq!((notices[0].jwt_id.as_str(), notices[0].other_jwt_id.as_deref()), ("j1", Some("j2")));
    let scene = storing(scene, &notices);
    assert_eq!(look(&scene, 40 * HOUR - 1), notices);
    assert_eq!(look(&scene, 40 * HOUR), [], "the grace is over: too late to tell");
    let mut short = in_grace();
    if let Some(status) = &mut short.observed.status {
        status.jwts[1].grace_ends_at = Some(at(DAY - 1));
    }
    assert_eq!(look(&short, DAY - 2), [], "a grace under a day");
}

#[test]
fn a_target_that_fails_is_told_after_a_quarter_of_an_hour_and_its_recovery_once() {
    let failing = |since: Option<i64>| {
        let error = since.map(|_| TargetError { reason: "403".into(), message: "no".into() });
        let record = SecretStoreStatus { error, failing_since: since.map(at), ..store_holding("j1") };
        let next = |mut scene: Scene| {
            if let Some(status) = &mut scene.observed.status {
                status.next_scheduled_rotation = Some(at(DAY));
            }
            scene
        };
        next(told(Scene::holding(&[entry("j1")]).with_store(record)))
    };
    let scene = failing(Some(100));
    assert_eq!(look(&scene, 100 + 899), []);
    let notices = look(&scene, 100 + 900);
    assert_eq!(kinds(&notices), [NoticeKind::DeliveryFailing]);
    assert_eq!(notices[0].about.as_deref(), Some("/p in TokenStore team/vault"));
    assert_eq!(look(&storing(scene, &notices), 3 * HOUR), notices, "once");
    let well = storing(failing(None), &notices);
    let news = look(&well, 4 * HOUR);
    assert_eq!(kinds(&news), [NoticeKind::DeliveryRecovered]);
    assert_eq!((news[0].since, &news[0].about), (Some(at(100)), &notices[0].about));
    assert_eq!(look(&storing(failing(None), &news), 5 * HOUR), news, "once");
    // It fails again: another failure.
    let again = look(&storing(failing(Some(5 * HOUR)), &news), 6 * HOUR);
    assert_eq!(kinds(&again), [NoticeKind::DeliveryFailing, NoticeKind::DeliveryRecovered]);
    assert_ne!(again[0].id, notices[0].id);
    // The spec no longer has the target: there is nothing to tell.
    let mut gone = storing(failing(None), &notices);
    gone.desired.stores.clear();
    assert_eq!(look(&gone, 4 * HOUR), []);
}

fn pending() -> (Scene, Vec<Notification>) {
    let scene = in_grace();
    let notices = look(&scene, 30 * HOUR);
    (storing(scene, &notices), notices)
}

fn reporting(mut scene: Scene, notice: &Notification, report: Report) -> Scene {
    scene.observed.reports.insert(notice.id.clone(), report);
    scene
}

#[test]
fn what_became_of_a_notice_is_recorded() {
    let (scene, notices) = pending();
    let error = |kind| ProviderError::new(kind, "Timeout", "no answer in time");
    let after = |report| look(&reporting(scene.clone(), &notices[0], report), 31 * HOUR).remove(0);
    let sent = after(Report::Sent { at: at(30 * HOUR + 5) });
    assert_eq!((sent.state, sent.sent_at, sent.error), (State::Sent, Some(at(30 * HOUR + 5)), None));
    let failing = after(Report::Failing { error: error(ErrorKind::Unavailable) });
    assert_eq!((failing.state, failing.failing_since), (State::Pending, Some(at(31 * HOUR))));
    assert_eq!(failing.error.map(|error| error.reason), Some("Timeout".into()));
    let refused = after(Report::Refused { error: error(ErrorKind::Invalid) });
    assert_eq!((refused.state, refused.error.is_some()), (State::Failed, true));
}

#[test]
fn a_notice_is_given_up_a_day_after_its_first_failure_and_not_by_a_wrong_clock() {
    let scene = doomed_scene();
    let mut notices = look(&scene, 70 * DAY);
    notices[0].failing_since = Some(at(70 * DAY));
    notices[0].error = Some(TargetError { reason: "Timeout".into(), message: "no answer in time".into() });
    let scene = storing(scene, &notices);
    assert_eq!(look(&scene, 71 * DAY - 1), notices);
    let given_up = look(&scene, 71 * DAY);
    assert_eq!((given_up[0].state, given_up[0].error.is_some()), (State::Failed, true));
    assert_eq!(look(&storing(scene.clone(), &given_up), 72 * DAY), given_up, "it stays so");
    let mut wrong = scene;
    wrong.observed.clock_trusted = false;
    assert_eq!(look(&wrong, 99 * DAY), notices);
}

#[test]
fn a_channel_that_may_not_be_used_is_named_until_it_may() {
    let (mut scene, notices) = pending();
    let refused = Admission::Refused { reason: "NotAllowed", message: "not for you".into() };
    scene.observed.channels.insert(channel(), refused);
    let barred = look(&scene, 31 * HOUR);
    let error = barred[0].error.clone().map(|error| error.reason);
    assert_eq!((barred[0].state, error), (State::Pending, Some("NotAllowed".into())));
    let condition = says(&storing(scene.clone(), &barred), 31 * HOUR);
    assert_eq!(condition, ("False".into(), "NotAllowed".into(), "not for you".into()));
    let free = open(storing(scene, &barred));
    assert_eq!(look(&free, 32 * HOUR), notices, "as if nothing had been");
}

fn says(scene: &Scene, seconds: i64) -> (String, String, String) {
    let conditions = notified(&change(scene, seconds));
    let one = conditions.into_iter().find(|condition| condition.type_ == NOTIFIED).expect("the condition");
    (one.status, one.reason, one.message)
}

#[test]
fn recipients_that_are_missing_are_asked_for() {
    for (medium, has_recipients, field) in [
        (Medium::Email, true, Some("toEmails")),
        (Medium::SlackBot, false, Some("channels")),
        (Medium::SlackBot, true, None),
        (Medium::PagerDuty, true, None),
    ] {
        let (mut scene, _) = pending();
        scene.observed.channels.insert(channel(), Admission::Open { medium, has_recipients });
        let (status, reason, message) = says(&scene, 31 * HOUR);
        match field {
            Some(field) => {
                assert_eq!((status.as_str(), reason.as_str()), ("False", NO_RECIPIENTS), "{medium:?}");
                assert!(message.contains(&format!("spec.notificationTargets[].{field} ")), "{message}");
            }
            None => assert_eq!(status, "True", "{medium:?}"),
        }
    }
}

#[test]
fn notified_says_the_last_that_is_known_of_each_target() {
    let (scene, notices) = pending();
    let with = |change: fn(&mut Notification)| {
        let mut notices = notices.clone();
        change(&mut notices[0]);
        says(&storing(scene.clone(), &notices), 31 * HOUR)
    };
    let fail = |notice: &mut Notification| {
        notice.error = Some(TargetError { reason: "Timeout".into(), message: "no answer in time".into() });
        notice.failing_since = Some(at(30 * HOUR));
    };
    assert_eq!(with(|_| {}).0, "True");
    let (status, reason, message) = with(fail);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Timeout"));
    let until = at(30 * HOUR + DAY).to_string();
    assert!(message.contains("team/chat") && message.contains(&until) && message.contains("no answer in time"));
    let (status, _, message) = with(|notice| {
        notice.error = Some(TargetError { reason: "Refused".into(), message: "no".into() });
        notice.state = State::Failed;
    });
    assert!(status == "False" && message.contains("given up"), "{message}");
    let mut nobody = scene.clone();
    nobody.desired.told.clear();
    assert!(notified(&change(&nobody, 31 * HOUR)).iter().all(|condition| condition.type_ != NOTIFIED));
    assert_eq!(look(&nobody, 31 * HOUR), []);
}

#[test]
fn each_target_is_told_of_its_kinds_alone_and_two_are_two() {
    let mut scene = doomed_scene();
    let mail = Told { recipients: Some("0123456789abcdef".into()), ..target(&[NoticeKind::TokenExpiring]) };
    scene.desired.told = vec![target(&[NoticeKind::TokenRotated]), mail.clone(), target(&[NoticeKind::TokenExpired])];
    let notices = look(&scene, 70 * DAY);
    assert_eq!(notices.iter().map(|notice| notice.recipients.clone()).collect::<Vec<_>>(), [mail.recipients]);
    // The target is gone, and with it what it was to be told.
    scene.desired.told.remove(1);
    assert_eq!(look(&storing(scene, &notices), 70 * DAY), []);
}

#[test]
fn a_target_that_is_not_tried_any_more_has_not_recovered() {
    let error = TargetError { reason: "503".into(), message: "no".into() };
    let failing = SecretStoreStatus { error: Some(error), failing_since: Some(at(0)), ..store_holding("j0") };
    let scene = told(Scene::holding(&[entry("j1")]).with_store(failing));
    let notices = look(&scene, HOUR);
    assert_eq!(kinds(&notices), [NoticeKind::DeliveryFailing]);
    // The token has ended: nothing is delivered, and no error is recorded.
    let idle = told(Scene::holding(&[entry("j1")]).with_store(store_holding("j0")));
    let mut after = look(&storing(idle, &notices), 20 * HOUR);
    after.retain(|notice| notice.kind != NoticeKind::TokenExpired);
    assert_eq!(after, notices);
    // It fails again with its successor: still the same failure.
    let error = TargetError { reason: "503".into(), message: "no".into() };
    let again = SecretStoreStatus { error: Some(error), failing_since: Some(at(21 * HOUR)), ..store_holding("j0") };
    let again = storing(told(Scene::holding(&[entry("j1")]).with_store(again)), &notices);
    assert!(look(&again, 22 * HOUR).contains(&notices[0]) && kinds(&look(&again, 22 * HOUR)).len() <= 2);
}

#[test]
fn what_cannot_be_sent_is_given_up_and_not_dropped_in_silence() {
    let revoked = Entry { phase: Phase::Revoked, ..entry("j1") };
    let newer = Entry { issued_at: at(10), expires_at: at(90 * DAY), ..entry("j2") };
    let mut scene = told(Scene::holding(&[newer.clone(), revoked]));
    let before = storing(told(Scene::holding(&[newer, entry("j1")])), &[]);
    let stored = before.observed.status.clone();
    let mut notices = notices_after(&Change { before: stored.as_ref(), ..change(&scene, 20) });
    notices.retain(|notice| notice.kind == NoticeKind::TokenRevoked);
    assert_eq!((notices.len(), notices[0].other_jwt_id.as_deref()), (1, Some("j2")));
    scene = storing(scene, &notices);
    let find = |scene: &Scene, seconds| {
        look(scene, seconds)
            .into_iter()
            .find(|notice| notice.kind == NoticeKind::TokenRevoked)
            .map(|notice| notice.state)
    };
    assert_eq!(find(&scene, 20 + DAY), None, "nobody tried: too late");
    notices[0].failing_since = Some(at(HOUR));
    let scene = storing(scene, &notices);
    assert_eq!(find(&scene, HOUR + DAY - 1), Some(State::Pending));
    assert_eq!(find(&scene, HOUR + DAY), Some(State::Failed));
}

#[test]
fn an_older_token_is_no_successor_of_a_revoked_one() {
    let older = superseded("j0", 40 * HOUR);
    let scene = told(Scene::holding(&[Entry { phase: Phase::Revoked, ..entry("j1") }, older.clone()]));
    let before = Scene::holding(&[entry("j1"), older]).observed.status;
    let notices = notices_after(&Change { before: before.as_ref(), ..change(&scene, 20) });
    let revoked = notices.iter().find(|notice| notice.kind == NoticeKind::TokenRevoked).expect("it is told");
    assert_eq!(revoked.other_jwt_id, None);
}

#[test]
fn a_target_whose_recipients_are_corrected_hears_what_it_has_not_heard_and_nothing_twice() {
    let (mut scene, notices) = pending();
    scene.desired.told[0].recipients = Some("0123456789abcdef".into());
    let moved = look(&scene, 31 * HOUR);
    assert_eq!(moved.len(), 1);
    assert_eq!((&moved[0].id, &moved[0].recipients), (&notices[0].id, &scene.desired.told[0].recipients));
    let sent = [Notification { state: State::Sent, ..notices[0].clone() }];
    assert_eq!(look(&storing(scene, &sent), 31 * HOUR)[0].state, State::Sent);
}

#[test]
fn an_account_that_is_being_deleted_brings_nothing_new() {
    let mut scene = doomed_scene();
    scene.desired.deleted_at = Some(at(0));
    assert_eq!(look(&scene, 99 * DAY), []);
}

#[test]
fn what_is_kept_is_bounded() {
    let (scene, notices) = pending();
    let many: Vec<Notification> = (0..100)
        .map(|n| Notification {
            id: format!("{n:032}"),
            kind: NoticeKind::TokenRetired,
            jwt_id: format!("j-{n}"),
            state: State::Sent,
            at: at(n),
            ..notices[0].clone()
        })
        .collect();
    let newer = storing(scene.clone(), &many);
    assert_eq!(look(&newer, 20 * HOUR).len(), 100, "nothing new, nothing goes");
    let kept = look(&newer, 31 * HOUR);
    let sent = kept.iter().filter(|notice| notice.state == State::Sent);
    assert!(sent.clone().count() <= REMEMBERED, "{}", sent.count());
    assert_eq!(kept.iter().filter(|notice| notice.state == State::Sent).map(|notice| notice.at).max(), Some(at(99)));
    // For what is new there is no room: nothing that is known is forgotten for it.
    let full: Vec<Notification> = (0..MOST)
        .map(|n| Notification {
            id: format!("{n:032}"),
            kind: NoticeKind::TokenRevoked,
            jwt_id: format!("j-{n}"),
            failing_since: Some(at(70 * DAY)),
            ..notices[0].clone()
        })
        .collect();
    let stored = look(&storing(doomed_scene(), &full), 70 * DAY);
    assert!(stored.len() == MOST && stored.iter().all(|notice| notice.kind == NoticeKind::TokenRevoked));
}

#[test]
fn the_next_look_is_at_the_next_instant_that_brings_something_about() {
    let wake = |scene: &Scene, seconds| {
        wake_at(&scene.desired, scene.observed.status.as_ref().expect("a status"), at(seconds))
    };
    let scene = doomed_scene();
    for (now, next) in [(0, 70 * DAY), (70 * DAY, 93 * DAY), (93 * DAY, 99 * DAY), (99 * DAY, 100 * DAY)] {
        assert_eq!(wake(&scene, now), Some(at(next)), "{now}");
    }
    assert_eq!(wake(&scene, 100 * DAY), None);
    assert_eq!(wake(&in_grace(), 0), Some(at(30 * HOUR)));
    let mut nobody = doomed_scene();
    nobody.desired.told.clear();
    assert_eq!(wake(&nobody, 0), None);
}
