//! The clauses that need no fault: what [`Store`] promises, against a server that works.

use std::collections::BTreeSet;

use virtual_account_operator::integration::ErrorKind;
use virtual_account_operator::store::{Presence, Store, UNMARKED, Verdict};

use super::contract::{Instance, Opening, path};
use super::logs::Logs;
use super::story::{CANARY, Issued, issued, issued_to};

pub(crate) async fn an_absent_path_reads_as_absent(i: &dyn Instance) {
    let held = i.open().await.read(&path(i, "absent")).await.unwrap();
    assert_eq!(held.presence, Presence::Absent);
    assert_eq!((held.mark, held.jti, held.version, held.older), (None, None, None, false));
}

pub(crate) async fn the_first_write_creates_with_a_mark_and_reads_back_as_held(i: &dyn Instance) {
    let (store, path, first) = (i.open().await, path(i, "first"), issued(1));
    let held = store.read(&path).await.unwrap();
    assert_eq!(first.judge(&held), Verdict::Write);
    let version = store.write(&path, &first.value(), &held).await.unwrap();
    let held = store.read(&path).await.unwrap();
    assert_eq!(first.judge(&held), Verdict::Holds, "{held:?}");
    assert_eq!((&held.mark, &held.jti), (&Some(first.mark.clone()), &Some(first.jti())));
    assert_eq!((held.version, held.older), (Some(version), false));
    assert_eq!(i.value(&path).await.as_deref(), Some(first.text()));
}

pub(crate) async fn a_hundred_passes_leave_one_version(i: &dyn Instance) {
    let (store, path, first) = (i.open().await, path(i, "hundred"), issued(1));
    for _ in 0..100 {
        first.deliver(&*store, &path).await.unwrap();
    }
    assert_eq!(i.versions(&path).await, 1);
}

pub(crate) async fn the_same_jti_written_again_adds_no_version(i: &dyn Instance) {
    let (store, path, first) = (i.open().await, path(i, "again"), issued(1));
    let absent = store.read(&path).await.unwrap();
    store.write(&path, &first.value(), &absent).await.unwrap();
    let held = store.read(&path).await.unwrap();
    for _ in 0..3 {
        let version = store.write(&path, &first.value(), &held).await.unwrap();
        assert_eq!(Some(version), held.version);
    }
    // As after a lost answer: it may be told of the conflict, but nothing is added.
    match store.write(&path, &first.value(), &absent).await {
        Ok(version) => assert_eq!(Some(version), held.version),
        Err(error) => assert_eq!(error.kind, ErrorKind::Conflict, "{error}"),
    }
    assert_eq!(first.judge(&store.read(&path).await.unwrap()), Verdict::Holds);
    assert_eq!(i.versions(&path).await, 1);
}

pub(crate) async fn rotation_adds_a_version_and_the_older_one_stays_usable_until_it_is_retired(i: &dyn Instance) {
    let (store, path) = (i.open().await, path(i, "rotation"));
    let [first, second] = rotated(&*store, &path).await;
    assert_eq!(i.value(&path).await.as_deref(), Some(second.text()));
    if i.limits().no_retire {
        return;
    }
    assert_eq!(i.usable(&path).await, [first.text(), second.text()]);
    let held = store.read(&path).await.unwrap();
    assert!(held.older, "{held:?}");

    // In its grace: it stays.
    store.retire(&path, &held, &BTreeSet::from([first.jti()])).await.unwrap();
    assert_eq!(i.usable(&path).await, [first.text(), second.text()]);

    // Over; twice is harmless.
    for _ in 0..2 {
        let held = store.read(&path).await.unwrap();
        store.retire(&path, &held, &BTreeSet::new()).await.unwrap();
        assert_eq!(i.usable(&path).await, [second.text()]);
    }
    let held = store.read(&path).await.unwrap();
    assert!(!held.older, "{held:?}");
    assert_eq!(second.judge(&held), Verdict::Holds);
    assert_eq!(i.value(&path).await.as_deref(), Some(second.text()));
}

pub(crate) async fn a_version_whose_token_nobody_can_tell_stays_while_one_is_in_its_grace(i: &dyn Instance) {
    if i.limits().no_retire || i.limits().hidden_values {
        return;
    }
    let (store, path, first, second) = (i.open().await, path(i, "untold"), issued(1), issued(2));
    first.settle(&*store, &path).await;
    i.put_by_hand(&path, "made-by-hand").await;
    let held = second.settle(&*store, &path).await;
    store.retire(&path, &held, &BTreeSet::from([first.jti()])).await.unwrap();
    let stays = if i.limits().one_older { "made-by-hand" } else { first.text() };
    assert!(i.usable(&path).await.contains(&stays.to_owned()));
    store.retire(&path, &held, &BTreeSet::new()).await.unwrap();
    assert_eq!(i.usable(&path).await, [second.text()]);
}

pub(crate) async fn a_writer_that_read_before_another_wrote_replaces_nothing(i: &dyn Instance) {
    let (store, path, first, second) = (i.open().await, path(i, "frozen"), issued(1), issued(2));
    let absent = store.read(&path).await.unwrap();
    first.settle(&*store, &path).await;
    let seen = store.read(&path).await.unwrap();
    let newest = issued(3);
    newest.settle(&*store, &path).await;
    for (late, seen) in [(&first, &absent), (&second, &seen)] {
        let result = store.write(&path, &late.value(), seen).await;
        if i.limits().no_compare_and_set {
            // Nothing can refuse it. What counts is that the next look shows it and puts it right.
            continue;
        }
        assert_eq!(result.map_err(|error| error.kind), Err(ErrorKind::Conflict));
        assert_eq!(i.value(&path).await.as_deref(), Some(newest.text()));
    }
    newest.settle(&*store, &path).await;
    assert_eq!(i.value(&path).await.as_deref(), Some(newest.text()));
}

pub(crate) async fn an_older_token_does_not_replace_a_newer_one(i: &dyn Instance) {
    let (store, path) = (i.open().await, path(i, "older"));
    let newer = issued(2);
    newer.settle(&*store, &path).await;
    let verdict = issued(1).judge(&store.read(&path).await.unwrap());
    assert_eq!(verdict, Verdict::NotOlder { jti: newer.jti() });
}

pub(crate) async fn a_path_without_a_mark_is_somebody_elses_until_it_may_be_taken_over(i: &dyn Instance) {
    let (store, path, ours) = (i.open().await, path(i, "unmarked"), issued(1));
    i.put_by_hand(&path, "made-by-hand").await;
    let held = store.read(&path).await.unwrap();
    assert_eq!((held.presence, &held.mark, &held.jti), (Presence::Present, &None, &None));
    let Verdict::NotOurs { owner } = ours.judge(&held) else { panic!("{held:?}") };
    assert!(owner.contains("no mark"), "{owner}");

    assert_eq!(ours.judge_with(&held, &[UNMARKED.to_owned()]), Verdict::Write);
    store.write(&path, &ours.value(), &held).await.unwrap();
    assert_eq!(ours.judge(&store.read(&path).await.unwrap()), Verdict::Holds);
    assert_eq!(i.value(&path).await.as_deref(), Some(ours.text()));
}

pub(crate) async fn marks_of_others_are_reported_with_their_owner(i: &dyn Instance) {
    let store = i.open().await;
    let cases = [
        (issued_to("shop/basket", "cluster-1", 1), "virtual account shop/basket"),
        (issued_to("shop/cart", "cluster-2", 1), "virtual account shop/cart of cluster cluster-2"),
    ];
    for (theirs, expected) in cases {
        let path = path(i, "others");
        theirs.settle(&*store, &path).await;
        let held = store.read(&path).await.unwrap();
        assert_eq!(issued(9).judge(&held), Verdict::NotOurs { owner: expected.to_owned() });
    }
}

pub(crate) async fn a_former_clusters_secret_is_taken_over_on_request(i: &dyn Instance) {
    let (store, path, ours) = (i.open().await, path(i, "former"), issued(9));
    issued_to("shop/cart", "cluster-0", 1).settle(&*store, &path).await;
    let held = store.read(&path).await.unwrap();
    assert_eq!(ours.judge_with(&held, &["cluster-0".to_owned()]), Verdict::Write);
    store.write(&path, &ours.value(), &held).await.unwrap();
    assert_eq!(ours.judge(&store.read(&path).await.unwrap()), Verdict::Holds);
}

pub(crate) async fn a_value_changed_by_hand_is_put_right_with_the_same_token(i: &dyn Instance) {
    let (store, path, first) = (i.open().await, path(i, "changed"), issued(1));
    first.settle(&*store, &path).await;
    i.put_by_hand(&path, "changed-by-hand").await;
    if !i.limits().hidden_values {
        let held = store.read(&path).await.unwrap();
        assert_eq!(first.judge(&held), Verdict::Write, "{held:?}");
        assert_ne!(held.jti, Some(first.jti()), "the value's own jti, not the mark's");
    }
    first.settle(&*store, &path).await;
    if !i.limits().hidden_values {
        assert_eq!(i.value(&path).await.as_deref(), Some(first.text()));
    }
}

pub(crate) async fn a_wiped_path_is_filled_again(i: &dyn Instance) {
    let (store, path, first) = (i.open().await, path(i, "wiped"), issued(1));
    first.settle(&*store, &path).await;
    i.wipe(&path).await;
    assert_eq!(store.read(&path).await.unwrap().presence, Presence::Absent);
    first.settle(&*store, &path).await;
    assert_eq!(i.value(&path).await.as_deref(), Some(first.text()));
}

pub(crate) async fn deletion_removes_all_and_the_name_can_be_used_again(i: &dyn Instance) {
    let (store, path) = (i.open().await, path(i, "deleted"));
    rotated(&*store, &path).await;
    let held = store.read(&path).await.unwrap();
    store.delete(&path, &held).await.unwrap();
    assert_eq!(i.value(&path).await, None);
    let gone = store.read(&path).await.unwrap();
    assert_ne!(gone.presence, Presence::Present, "{gone:?}");

    let again = issued(9);
    again.settle(&*store, &path).await;
    assert_eq!(i.value(&path).await.as_deref(), Some(again.text()));
}

pub(crate) async fn deleting_twice_is_harmless(i: &dyn Instance) {
    let (store, path, first) = (i.open().await, path(i, "twice"), issued(1));
    let held = first.settle(&*store, &path).await;
    store.delete(&path, &held).await.unwrap();
    store.delete(&path, &held).await.unwrap();
    assert_eq!(i.value(&path).await, None);
}

pub(crate) async fn what_changed_since_it_was_read_is_not_deleted(i: &dyn Instance) {
    if i.limits().no_compare_and_set {
        return;
    }
    let (store, path) = (i.open().await, path(i, "replaced"));
    let seen = issued(1).settle(&*store, &path).await;
    let second = issued(2);
    second.settle(&*store, &path).await;
    assert_eq!(store.delete(&path, &seen).await.map_err(|error| error.kind), Err(ErrorKind::Conflict));
    assert_eq!(i.value(&path).await.as_deref(), Some(second.text()));
}

pub(crate) async fn a_good_store_passes_its_check(i: &dyn Instance) {
    i.open().await.check().await.unwrap();
}

pub(crate) async fn the_operators_log_holds_no_secret(i: &dyn Instance) {
    let (logs, guard) = Logs::of_operator();
    let (store, path) = (i.open().await, path(i, "logged"));
    rotated(&*store, &path).await;
    let held = store.read(&path).await.unwrap();
    store.retire(&path, &held, &BTreeSet::new()).await.unwrap();
    store.delete(&path, &held).await.unwrap();
    if let Some(store) = i.open_as(Opening::Refused).await {
        store.check().await.unwrap_err();
    }
    drop(guard);
    assert!(!logs.text().contains(CANARY), "{}", logs.text());
}

/// Two tokens, one after the other.
async fn rotated(store: &dyn Store, path: &str) -> [Issued; 2] {
    let both = [issued(1), issued(2)];
    for token in &both {
        token.settle(store, path).await;
    }
    both
}
