//! Writers of Google Secret Manager that die or freeze at any point of a write, or meet another one there.

use http::Method;
use serde_json::json;
use virtual_account_operator::integration::ErrorKind;
use virtual_account_operator::store::{Held, Presence, Verdict};

use super::contract::Instance as _;
use super::fault::{Fault, Faults};
use super::google::{OnFake, Path, shared};
use super::google_gate::Gate;
use super::story::issued;

#[tokio::test]
async fn a_crash_after_each_step_is_finished_by_the_next_pass() {
    for (steps, name) in [(1, "crash-created"), (2, "crash-added")] {
        let faults = Faults::before(shared().url.clone(), |method, _| *method != Method::GET, |_| "").await;
        let (path, one) = (Path::at(name, &faults.address()).await, issued(1));
        path.read().await;
        faults.nth_write(steps, Fault::Cut);
        path.write(&one, &Held::default()).await.unwrap_err();
        let held = path.read().await;
        assert_eq!(
            (held.presence, &held.mark, &held.jti),
            (Presence::Present, &Some(one.mark.clone()), &None),
            "{name}"
        );
        assert_eq!(held.version.is_some(), steps == 2, "{name}");
        faults.all(Fault::Pass);
        let held = path.settle(&one).await;
        assert_eq!((held.jti, held.version.as_deref()), (Some(one.jti()), Some("1")), "{name}");
    }
}

#[tokio::test]
async fn a_writer_that_froze_before_it_added_its_version_puts_the_newer_token_back() {
    let gate = Gate::before(shared().url.clone()).await;
    let (late, path) = (Path::at("frozen-add", &gate.address()).await, Path::new("frozen-add").await);
    let (one, two, three) = (issued(1), issued(2), issued(3));
    path.settle(&one).await;
    let seen = late.read().await;
    let three_written = async {
        gate.reached(":addVersion").await;
        path.settle(&three).await;
        gate.open();
    };
    let (written, ()) = tokio::join!(late.write(&two, &seen), three_written);
    assert_eq!(written.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(path.latest().await.as_deref(), Some(three.text()));
    assert_eq!(path.usable().await, [one.text(), three.text(), three.text()]);
    let held = path.read().await;
    assert_eq!((three.judge(&held), held.jti), (Verdict::Holds, Some(three.jti())));
    path.retire(&[&one]).await;
    assert_eq!(path.usable().await, [one.text(), three.text()]);
}

#[tokio::test]
async fn a_writer_that_died_after_it_added_an_older_token_is_made_up_for() {
    let (path, one, two) = (Path::new("frozen-dead").await, issued(1), issued(2));
    path.settle(&one).await;
    path.settle(&two).await;
    shared().add(path.path, one.text()).await;
    let held = path.read().await;
    assert_eq!((held.jti.clone(), two.judge(&held)), (None, Verdict::Write));
    assert_eq!(one.judge(&held), Verdict::NotOlder { jti: two.jti() });
    path.settle(&two).await;
    assert_eq!(path.latest().await.as_deref(), Some(two.text()));
    path.retire(&[]).await;
    assert_eq!(path.usable().await, [two.text()]);
}

#[tokio::test]
async fn a_writer_that_froze_before_its_mark_keeps_its_version_when_only_a_label_changed() {
    let gate = Gate::before(shared().url.clone()).await;
    let (late, path) = (Path::at("relabelled", &gate.address()).await, Path::new("relabelled").await);
    let (one, two) = (issued(1), issued(2));
    path.settle(&one).await;
    let seen = late.read().await;
    let labelled = async {
        gate.reached("updateMask").await;
        let labels = json!({"labels": {"cost": "7"}});
        shared().call(Method::PATCH, "/relabelled?updateMask=labels", labels).await;
        gate.open();
    };
    let (written, ()) = tokio::join!(late.write(&two, &seen), labelled);
    assert_eq!(written.unwrap_err().kind, ErrorKind::Conflict);
    path.settle(&two).await;
    assert_eq!(path.usable().await, [one.text(), two.text()]);
    let secret = shared().get("/relabelled").await;
    assert_eq!(secret["labels"], json!({"cost": "7", "managed-by": "virtual-account-operator"}));
}

#[tokio::test]
async fn a_secret_that_is_deleted_in_the_middle_of_a_write_is_a_conflict() {
    for awaited in [":addVersion", "updateMask"] {
        let gate = Gate::before(shared().url.clone()).await;
        let (late, path) = (Path::at("vanished", &gate.address()).await, Path::new("vanished").await);
        path.settle(&issued(1)).await;
        let (two, seen) = (issued(2), late.read().await);
        let deleted = async {
            gate.reached(awaited).await;
            OnFake.wipe(path.path).await;
            gate.open();
        };
        let (written, ()) = tokio::join!(late.write(&two, &seen), deleted);
        assert_eq!(written.unwrap_err().kind, ErrorKind::Conflict, "{awaited}");
        path.settle(&two).await;
        assert_eq!(path.usable().await, [two.text()]);
        OnFake.wipe(path.path).await;
    }
}

#[tokio::test]
async fn two_writers_of_one_token_at_once_end_with_it() {
    let (path, one) = (Path::new("twins").await, issued(1));
    path.settle(&one).await;
    let (two, seen) = (issued(2), path.read().await);
    let (first, second) = tokio::join!(path.write(&two, &seen), path.write(&two, &seen));
    for written in [first, second] {
        assert!(written.as_ref().err().is_none_or(|error| error.kind == ErrorKind::Conflict), "{written:?}");
    }
    path.settle(&two).await;
    path.retire(&[]).await;
    assert_eq!(path.usable().await, [two.text()]);
}
