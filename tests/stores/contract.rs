//! The clauses that need no fault: what [`Store`] promises, against a server that works.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use virtual_account_operator::store::{ErrorKind, Presence, Store, UNMARKED, Verdict};

use super::fault::{Errors, IsWrite};
use super::story::{Issued, issued, issued_to};

/// A provider on its server, and somebody else who works on that server by hand.
#[async_trait]
pub(crate) trait Instance: Send + Sync {
    /// The store, with the rights that the documentation asks for and no more.
    async fn open(&self) -> Box<dyn Store>;

    /// The store as it is opened under other circumstances; `None`: the provider does not know them.
    async fn open_as(&self, how: Opening) -> Option<Box<dyn Store>>;

    /// Where the server listens for plain http, so that something can be put before it.
    fn server(&self) -> Option<String> {
        None
    }

    /// Whether a request to that server changes something.
    fn is_write(&self) -> IsWrite {
        |method, _| *method != Method::GET
    }

    /// The body of an error as that server writes it.
    fn errors(&self) -> Errors {
        |_| r#"{"errors":["ordered by the test"]}"#
    }

    /// What the provider cannot do.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// A path in the form that the provider gets it in.
    fn path(&self, unique: &str) -> String {
        format!("/contract/{unique}/token")
    }

    /// Somebody writes a value: a new secret without mark, or a new version of what is there.
    async fn put_by_hand(&self, path: &str, value: &str);

    /// Somebody removes the secret with all versions for good.
    async fn wipe(&self, path: &str);

    /// How many versions the path has that can still be used.
    async fn usable(&self, path: &str) -> Vec<String>;

    /// How many versions were ever written since the path was empty.
    async fn versions(&self, path: &str) -> usize;

    /// What consumers get now.
    async fn value(&self, path: &str) -> Option<String>;
}

/// Other circumstances.
#[derive(Clone, Debug)]
pub(crate) enum Opening {
    /// The server is at this address, and a call may take so long.
    At(String, Duration),
    /// Credentials that the server refuses.
    Refused,
    /// Good credentials, but what paths stand in does not exist.
    Nowhere,
}

/// What a provider cannot do; the clauses then ask for less.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// A writer that read before another one wrote is not refused: the next look puts it right.
    pub(crate) no_compare_and_set: bool,
    /// Of the older versions only the newest can be had.
    pub(crate) one_older: bool,
    /// Older versions cannot be ended.
    pub(crate) no_retire: bool,
    /// Somebody else's new value cannot be told from ours.
    pub(crate) hidden_values: bool,
}

/// A fresh path.
pub(crate) fn path(instance: &dyn Instance, clause: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    instance.path(&format!("{clause}-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

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

/// Two tokens, one after the other.
async fn rotated(store: &dyn Store, path: &str) -> [Issued; 2] {
    let both = [issued(1), issued(2)];
    for token in &both {
        token.settle(store, path).await;
    }
    both
}

/// One test a clause, for one provider. The expression makes its `Instance`; it may await.
macro_rules! contract {
    ($instance:expr) => {
        crate::contract::clauses! { $instance => contract:
            an_absent_path_reads_as_absent,
            the_first_write_creates_with_a_mark_and_reads_back_as_held,
            a_hundred_passes_leave_one_version,
            the_same_jti_written_again_adds_no_version,
            rotation_adds_a_version_and_the_older_one_stays_usable_until_it_is_retired,
            a_version_whose_token_nobody_can_tell_stays_while_one_is_in_its_grace,
            a_writer_that_read_before_another_wrote_replaces_nothing,
            an_older_token_does_not_replace_a_newer_one,
            a_path_without_a_mark_is_somebody_elses_until_it_may_be_taken_over,
            marks_of_others_are_reported_with_their_owner,
            a_former_clusters_secret_is_taken_over_on_request,
            a_value_changed_by_hand_is_put_right_with_the_same_token,
            a_wiped_path_is_filled_again,
            deletion_removes_all_and_the_name_can_be_used_again,
            deleting_twice_is_harmless,
            what_changed_since_it_was_read_is_not_deleted,
            a_good_store_passes_its_check,
        }
    };
}

/// One test a clause about failures, for a provider with a server over plain http.
macro_rules! troubles {
    ($instance:expr) => {
        crate::contract::clauses! { $instance => troubles:
            a_server_that_is_not_there_is_unavailable,
            a_server_that_does_not_answer_is_given_up,
            refused_credentials_are_denied,
            a_missing_parent_is_told,
            a_lost_answer_leaves_one_version,
            a_broken_connection_leaves_one_version,
            an_answer_lost_in_a_rotation_leaves_one_version_per_token,
            an_answer_lost_in_a_deletion_is_made_up_for,
            an_answer_lost_in_a_retirement_is_made_up_for,
            patience_asked_for_is_given,
            a_failing_server_is_unavailable,
            a_refusal_is_denied_and_harms_nothing,
        }
    };
}

macro_rules! clauses {
    ($instance:expr => $suite:ident: $($clause:ident,)+) => {
        $(#[tokio::test]
        async fn $clause() {
            crate::$suite::$clause(&$instance).await;
        })+
    };
}

pub(crate) use {clauses, contract, troubles};
