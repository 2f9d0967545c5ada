//! Azure Key Vault, on a fake: the contract, soft deletion, and what others do meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use serde_json::json;
use virtual_account_operator::integration::{ErrorKind, Network};
use virtual_account_operator::store::azure_key_vault::KeyVault;
use virtual_account_operator::store::{Presence, Store, Verdict};

use super::azure_vault::{Azure, NETWORK, credentials, open, settings};
use super::contract::{Instance, Opening, contract, troubles};
use super::fake::Certificate;
use super::fault::{Errors, Fault, Faults, IsWrite, Tls};
use super::story::{CANARY, issued, issued_to};

contract!(OnFake(Azure::shared()));
troubles!(OnFake(Azure::shared()));

struct OnFake(&'static Azure);

#[async_trait]
impl Instance for OnFake {
    async fn open(&self) -> Box<dyn Store> {
        Box::new(open(&settings(&self.0.url()), &credentials()).await)
    }

    async fn open_as(&self, how: Opening) -> Option<Box<dyn Store>> {
        let (mut spec, mut network, given) = (settings(&self.0.url()), NETWORK, credentials());
        match how {
            Opening::At(url, timeout) => {
                spec = settings(&url.replace("http://", "https://"));
                network.timeout = timeout;
            }
            Opening::Refused => given.set("azure", "secret", &format!("{CANARY}-wrong")),
            Opening::Nowhere => spec.tenant_id = Some("no-such-tenant".into()),
        }
        Some(Box::new(KeyVault::open(&spec, given, network).await.unwrap()))
    }

    fn server(&self) -> Option<String> {
        Some(self.0.url())
    }

    fn tls(&self) -> Option<Tls> {
        Some(Certificate::shared().tls())
    }

    /// Logins are forms.
    fn is_write(&self) -> IsWrite {
        |method, headers| {
            let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            *method != Method::GET && kind != "application/x-www-form-urlencoded"
        }
    }

    fn errors(&self) -> Errors {
        |_| r#"{"error":{"code":"Ordered","message":"ordered by the test"}}"#
    }

    fn path(&self, unique: &str) -> String {
        format!("contract--{}--token", unique.replace('_', "-"))
    }

    async fn put_by_hand(&self, path: &str, value: &str) {
        self.0.put(path, value, None).await;
    }

    async fn wipe(&self, path: &str) {
        self.0.purge(path).await;
    }

    async fn usable(&self, path: &str) -> Vec<String> {
        self.0.usable(path).await
    }

    async fn versions(&self, path: &str) -> usize {
        self.0.versions(path).await.len()
    }

    async fn value(&self, path: &str) -> Option<String> {
        self.0.current(path).await["value"].as_str().map(str::to_owned)
    }
}

/// The store, on the vault that all share.
async fn shared() -> (&'static Azure, KeyVault) {
    let azure = Azure::shared();
    (azure, open(&settings(&azure.url()), &credentials()).await)
}

#[tokio::test]
async fn a_version_has_the_tokens_end_and_keeps_tags_of_others() {
    let (azure, store) = shared().await;
    issued(1).settle(&store, "attributes").await;
    let id = azure.current_id("attributes").await;
    let mut tags = azure.current("attributes").await["tags"].clone();
    tags["cost-centre"] = json!("42");
    azure.call(Method::PATCH, &format!("/secrets/attributes/{id}"), Some(json!({"tags": tags}))).await;

    let second = issued(2);
    second.settle(&store, "attributes").await;
    let current = azure.current("attributes").await;
    assert_eq!(current["attributes"]["exp"], second.mark.expires_at.as_unix());
    assert_eq!(current["contentType"], "application/jwt");
    assert_eq!(current["tags"]["cost-centre"], "42");
    assert_eq!(current["tags"]["virtualaccounts-jti"], second.jti());
}

#[tokio::test]
async fn a_mark_that_was_changed_is_put_right_without_a_new_version() {
    let (azure, store) = shared().await;
    let first = issued(1);
    first.settle(&store, "marked").await;
    let mut lagging = first.mark.clone();
    lagging.sequence -= 1;
    let tags: std::collections::HashMap<&str, String> = lagging.pairs().into();
    let id = azure.current_id("marked").await;
    azure.call(Method::PATCH, &format!("/secrets/marked/{id}"), Some(json!({"tags": tags}))).await;
    assert_eq!(first.deliver(&store, "marked").await, Ok(Verdict::Write));
    assert_eq!(first.deliver(&store, "marked").await, Ok(Verdict::Holds));
    assert_eq!(azure.versions("marked").await.len(), 1);
}

#[tokio::test]
async fn a_version_that_somebody_disabled_is_replaced() {
    let (azure, store) = shared().await;
    let first = issued(1);
    first.settle(&store, "disabled").await;
    let id = azure.current_id("disabled").await;
    let off = json!({"attributes": {"enabled": false}});
    azure.call(Method::PATCH, &format!("/secrets/disabled/{id}"), Some(off)).await;
    let held = store.read("disabled").await.unwrap();
    assert_eq!((held.presence, &held.mark, &held.jti), (Presence::Present, &Some(first.mark.clone()), &None));
    first.settle(&store, "disabled").await;
    assert_eq!(azure.usable("disabled").await, [first.text()]);
}

#[tokio::test]
async fn a_late_write_of_an_older_token_is_put_right_at_the_next_look() {
    let (azure, store) = shared().await;
    let (old, new) = (issued(1), issued(2));
    old.settle(&store, "late").await;
    new.settle(&store, "late").await;
    azure.put_late("late", &old).await;
    assert_eq!(new.deliver(&store, "late").await, Ok(Verdict::Write));
    assert_eq!(azure.current("late").await["value"], new.text());

    // All versions of the old token end with its grace.
    let held = store.read("late").await.unwrap();
    store.retire("late", &held, &BTreeSet::from([old.jti()])).await.unwrap();
    assert_eq!(azure.usable("late").await.iter().filter(|value| *value == old.text()).count(), 2);
    store.retire("late", &held, &BTreeSet::new()).await.unwrap();
    assert_eq!(azure.usable("late").await, [new.text()]);
}

#[tokio::test]
async fn a_writer_that_was_held_up_puts_a_newer_token_back_on_top() {
    let azure = Azure::shared();
    let (writes, errors) = (OnFake(azure).is_write(), OnFake(azure).errors());
    let faults = Faults::before_tls(azure.url(), writes, errors, Certificate::shared().tls()).await;
    let slow = open(&settings(&faults.address()), &credentials()).await;
    let (_, quick) = shared().await;
    let [first, second, third] = [issued(1), issued(2), issued(3)];
    first.settle(&slow, "held-up").await;

    faults.next_write(Fault::Hold);
    let meanwhile = async {
        faults.held().await;
        third.settle(&quick, "held-up").await;
        faults.release();
    };
    let (late, ()) = tokio::join!(second.deliver(&slow, "held-up"), meanwhile);
    assert_eq!(late.map_err(|error| error.kind), Err(ErrorKind::Conflict));
    assert_eq!(third.deliver(&quick, "held-up").await, Ok(Verdict::Holds));
    assert_eq!(azure.current("held-up").await["attributes"]["exp"], third.mark.expires_at.as_unix());

    // What came in between and is older, or nobody's, is simply replaced.
    faults.next_write(Fault::Hold);
    let fourth = issued(4);
    let meanwhile = async {
        faults.held().await;
        azure.put("held-up", "by hand", None).await;
        faults.release();
    };
    let (late, ()) = tokio::join!(fourth.deliver(&slow, "held-up"), meanwhile);
    assert_eq!(late, Ok(Verdict::Write));
    assert_eq!(fourth.deliver(&quick, "held-up").await, Ok(Verdict::Holds));
}

#[tokio::test]
async fn retiring_does_not_end_what_came_after_the_look() {
    let (azure, store) = shared().await;
    issued(1).settle(&store, "after").await;
    let seen = issued(2).settle(&store, "after").await;
    let newest = issued(3);
    azure.put_late("after", &newest).await;
    let error = store.retire("after", &seen, &BTreeSet::new()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(azure.usable("after").await.len(), 3);
}

#[tokio::test]
async fn more_versions_than_a_page_has_are_all_seen() {
    let (azure, store) = shared().await;
    for sequence in 0..30 {
        azure.put_late("many", &issued(sequence)).await;
    }
    let newest = issued(40);
    let held = newest.settle(&store, "many").await;
    store.retire("many", &held, &BTreeSet::new()).await.unwrap();
    assert_eq!(azure.usable("many").await, [newest.text()]);
    assert_eq!(azure.versions("many").await.len(), 31);
}

#[tokio::test]
async fn a_deleted_secret_comes_back_with_its_token_and_no_new_version() {
    let (azure, store) = shared().await;
    let first = issued(1);
    let held = first.settle(&store, "deleted").await;
    store.delete("deleted", &held).await.unwrap();
    let gone = store.read("deleted").await.unwrap();
    assert_eq!((gone.presence, &gone.mark), (Presence::Deleted, &Some(first.mark.clone())));
    first.settle(&store, "deleted").await;
    assert_eq!(azure.versions("deleted").await.len(), 1);

    store.delete("deleted", &held).await.unwrap();
    let second = issued(2);
    second.settle(&store, "deleted").await;
    assert_eq!(azure.usable("deleted").await, [first.text(), second.text()]);
}

#[tokio::test]
async fn what_others_deleted_is_not_recovered() {
    let (_, store) = shared().await;
    let held = issued_to("shop/basket", "cluster-1", 1).settle(&store, "theirs").await;
    store.delete("theirs", &held).await.unwrap();
    let Verdict::NotOurs { owner } = issued(2).judge(&store.read("theirs").await.unwrap()) else { panic!() };
    assert_eq!(owner, "virtual account shop/basket");
}

#[tokio::test]
async fn deletion_and_recovery_may_take_their_time() {
    let azure = Azure::start(&["--slow-delete", "2000"]);
    let (patient, given) = (open(&settings(&azure.url()), &credentials()).await, credentials());
    let hasty = Network { timeout: Duration::from_secs(3), ..NETWORK };
    let hasty = KeyVault::open(&settings(&azure.url()), given, hasty).await.unwrap();
    hasty.check().await.unwrap();
    let first = issued(1);
    let held = first.settle(&patient, "slow").await;
    patient.delete("slow", &held).await.unwrap();

    // It shows nowhere, and its name is taken.
    assert_eq!(patient.read("slow").await.unwrap().presence, Presence::Absent);
    let error = issued(2).deliver(&patient, "slow").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Conflict, "ObjectIsBeingDeleted"));
    patient.delete("slow", &held).await.unwrap();
    wait_until(&patient, Presence::Deleted).await;

    // Whoever has no time is told so; a later pass goes on from there.
    let second = issued(2);
    let error = second.deliver(&hasty, "slow").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Conflict, "ObjectIsBeingRecovered"));
    wait_until(&patient, Presence::Present).await;
    second.settle(&patient, "slow").await;
    assert_eq!(azure.usable("slow").await, [first.text(), second.text()]);

    // Whoever has time sees it through.
    let held = patient.read("slow").await.unwrap();
    patient.delete("slow", &held).await.unwrap();
    wait_until(&patient, Presence::Deleted).await;
    let third = issued(3);
    assert_eq!(third.deliver(&patient, "slow").await, Ok(Verdict::Write));
    assert_eq!(azure.current("slow").await["value"], third.text());
}

async fn wait_until(store: &KeyVault, presence: Presence) {
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while store.read("slow").await.unwrap().presence != presence {
        assert!(std::time::Instant::now() < deadline, "it does not get {presence:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn names_that_no_secret_has_are_refused() {
    let (_, store) = shared().await;
    for path in ["", "a/b", "a_b", "..", "a?b", &"x".repeat(128)] {
        assert_eq!(store.read(path).await.unwrap_err().reason, "InvalidPath", "{path}");
    }
}
