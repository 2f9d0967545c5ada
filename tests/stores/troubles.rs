//! The clauses about servers, connections and credentials that fail: what it is taken for, that nothing secret is told,
//! and that the next passes put everything right with one version per token.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use virtual_account_operator::api::Seconds;
use virtual_account_operator::integration::{ErrorKind, ProviderError};
use virtual_account_operator::store::{Store, Verdict};

use super::contract::{Instance, Opening, path};
use super::fault::{Fault, Faults};
use super::story::{CANARY, Issued, issued};

const PATIENCE: Duration = Duration::from_secs(10);
/// Nobody listens there: the port of the discard service.
const NOBODY: &str = "http://127.0.0.1:9";

/// The store behind a layer of faults.
struct Behind {
    faults: Faults,
    store: Box<dyn Store>,
    path: String,
}

async fn behind(i: &dyn Instance, clause: &str) -> Option<Behind> {
    let (server, is_write, errors) = (i.server()?, i.is_write(), i.errors());
    let faults = match i.tls() {
        Some(tls) => Faults::before_tls(server, is_write, errors, tls).await,
        None => Faults::before(server, is_write, errors).await,
    };
    let store = i.open_as(Opening::At(faults.address(), PATIENCE)).await.expect("a server over http has an address");
    // Opened and logged in, so that what follows hits the call that is meant.
    store.check().await.expect("the layer passes everything on");
    Some(Behind { faults, store, path: path(i, clause) })
}

impl Behind {
    /// The writes of a delivery fail one after the other, each in its own delivery; then all works again.
    async fn stumble(&self, token: &Issued, fault: Fault) {
        for write in 0..3 {
            self.faults.nth_write(write, fault);
            let _ = token.deliver(&*self.store, &self.path).await.map_err(|error| discreet(&error));
        }
        self.faults.all(Fault::Pass);
        token.settle(&*self.store, &self.path).await;
    }
}

/// An error that can be shown to anybody.
fn discreet(error: &ProviderError) {
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(CANARY), "a secret is told: {shown}");
    assert!(error.message.chars().count() <= 400 && !error.message.contains('\n'), "{shown}");
}

#[track_caller]
fn fails_with<T: std::fmt::Debug>(result: Result<T, ProviderError>, kind: ErrorKind) -> ProviderError {
    let error = result.expect_err("it cannot work");
    assert_eq!(error.kind, kind, "{error}");
    discreet(&error);
    error
}

pub(crate) async fn a_server_that_is_not_there_is_unavailable(i: &dyn Instance) {
    let Some(store) = i.open_as(Opening::At(NOBODY.to_owned(), PATIENCE)).await else { return };
    fails_with(store.check().await, ErrorKind::Unavailable);
    let path = path(i, "nobody");
    let error = fails_with(store.read(&path).await, ErrorKind::Unavailable);
    assert!(error.is_retryable());
    fails_with(issued(1).deliver(&*store, &path).await, ErrorKind::Unavailable);
}

pub(crate) async fn a_server_that_does_not_answer_is_given_up(i: &dyn Instance) {
    let timeout = Duration::from_millis(700);
    let Some(behind) = behind(i, "silent").await else { return };
    let opened = i.open_as(Opening::At(behind.faults.address(), timeout)).await;
    let hasty = opened.expect("a server over http has an address");
    // Logged in, so that the read is what hangs; on a slow machine one try may be too short for that.
    for _ in 0..20 {
        if hasty.check().await.is_ok() {
            break;
        }
    }
    behind.faults.all(Fault::Hang);
    let started = Instant::now();
    fails_with(hasty.read(&behind.path).await, ErrorKind::Unavailable);
    assert!(started.elapsed() < 10 * timeout, "{:?}", started.elapsed());
    behind.faults.all(Fault::Pass);
    issued(1).settle(&*behind.store, &behind.path).await;
    assert_eq!(i.versions(&behind.path).await, 1);
}

pub(crate) async fn refused_credentials_are_denied(i: &dyn Instance) {
    let Some(store) = i.open_as(Opening::Refused).await else { return };
    fails_with(store.check().await, ErrorKind::Denied);
    fails_with(store.read(&path(i, "refused")).await, ErrorKind::Denied);
}

pub(crate) async fn a_missing_parent_is_told(i: &dyn Instance) {
    let Some(store) = i.open_as(Opening::Nowhere).await else { return };
    for error in [store.check().await.err(), store.read(&path(i, "nowhere")).await.err()] {
        let error = error.expect("it cannot work");
        assert!(matches!(error.kind, ErrorKind::NotFound | ErrorKind::Denied), "{error}");
        assert!(!error.is_retryable());
        discreet(&error);
    }
}

pub(crate) async fn a_lost_answer_leaves_one_version(i: &dyn Instance) {
    let Some(behind) = behind(i, "lost").await else { return };
    let first = issued(1);
    behind.stumble(&first, Fault::LoseAnswer).await;
    assert_eq!(i.versions(&behind.path).await, 1);
    assert_eq!(i.value(&behind.path).await.as_deref(), Some(first.text()));
}

pub(crate) async fn a_broken_connection_leaves_one_version(i: &dyn Instance) {
    let Some(behind) = behind(i, "cut").await else { return };
    let first = issued(1);
    behind.stumble(&first, Fault::Cut).await;
    assert_eq!(i.versions(&behind.path).await, 1);
    assert_eq!(i.value(&behind.path).await.as_deref(), Some(first.text()));
}

pub(crate) async fn an_answer_lost_in_a_rotation_leaves_one_version_per_token(i: &dyn Instance) {
    for fault in [Fault::LoseAnswer, Fault::Cut, Fault::Answer(500, None)] {
        let Some(behind) = behind(i, "turned").await else { return };
        let (first, second) = (issued(1), issued(2));
        first.settle(&*behind.store, &behind.path).await;
        behind.stumble(&second, fault).await;
        assert_eq!(i.versions(&behind.path).await, 2, "{fault:?}");
        assert_eq!(i.value(&behind.path).await.as_deref(), Some(second.text()));
        if !i.limits().no_retire {
            assert_eq!(i.usable(&behind.path).await, [first.text(), second.text()], "{fault:?}");
        }
    }
}

pub(crate) async fn an_answer_lost_in_a_deletion_is_made_up_for(i: &dyn Instance) {
    let Some(behind) = behind(i, "removed").await else { return };
    let held = issued(1).settle(&*behind.store, &behind.path).await;
    behind.faults.next_write(Fault::LoseAnswer);
    fails_with(behind.store.delete(&behind.path, &held).await, ErrorKind::Unavailable);
    behind.store.delete(&behind.path, &held).await.unwrap();
    assert_eq!(i.value(&behind.path).await, None);
}

pub(crate) async fn an_answer_lost_in_a_retirement_is_made_up_for(i: &dyn Instance) {
    if i.limits().no_retire {
        return;
    }
    let Some(behind) = behind(i, "retired").await else { return };
    issued(1).settle(&*behind.store, &behind.path).await;
    let second = issued(2);
    let held = second.settle(&*behind.store, &behind.path).await;
    behind.faults.next_write(Fault::LoseAnswer);
    fails_with(behind.store.retire(&behind.path, &held, &BTreeSet::new()).await, ErrorKind::Unavailable);
    behind.store.retire(&behind.path, &held, &BTreeSet::new()).await.unwrap();
    assert_eq!(i.usable(&behind.path).await, [second.text()]);
}

pub(crate) async fn patience_asked_for_is_given(i: &dyn Instance) {
    let Some(behind) = behind(i, "throttled").await else { return };
    behind.faults.all(Fault::Answer(429, Some(17)));
    let before = behind.faults.requests();
    let error = fails_with(behind.store.read(&behind.path).await, ErrorKind::Throttled);
    assert_eq!(error.retry_after, Some(Seconds(17)));
    assert_eq!(behind.faults.requests() - before, 1, "the caller decides when to try again");
}

pub(crate) async fn a_failing_server_is_unavailable(i: &dyn Instance) {
    for code in [500, 502, 503] {
        let Some(behind) = behind(i, "failing").await else { return };
        behind.faults.all(Fault::Answer(code, None));
        let before = behind.faults.requests();
        fails_with(behind.store.read(&behind.path).await, ErrorKind::Unavailable);
        assert_eq!(behind.faults.requests() - before, 1, "the caller decides when to try again");
        fails_with(behind.store.check().await, ErrorKind::Unavailable);
    }
}

pub(crate) async fn a_refusal_is_denied_and_harms_nothing(i: &dyn Instance) {
    let Some(behind) = behind(i, "forbidden").await else { return };
    let (first, second) = (issued(1), issued(2));
    first.settle(&*behind.store, &behind.path).await;
    behind.faults.all(Fault::Answer(403, None));
    fails_with(second.deliver(&*behind.store, &behind.path).await, ErrorKind::Denied);
    behind.faults.all(Fault::Pass);
    assert_eq!(i.value(&behind.path).await.as_deref(), Some(first.text()));
    assert_eq!(second.deliver(&*behind.store, &behind.path).await, Ok(Verdict::Write));
}
