//! What only Vault can do to us: steps between two calls, versions deleted by hand, other engines, namespaces, redirects.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::header::LOCATION;
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;
use virtual_account_operator::api::{HashicorpVault, TokenStore};
use virtual_account_operator::integration::{ErrorKind, Network};
use virtual_account_operator::store::{Store as _, UNMARKED, Vault, Verdict};

use super::super::bao::{Bao, ROOT, block};
use super::super::contract::{Instance as _, Opening};
use super::super::fault::{Fault, Faults};
use super::super::logs::Logs;
use super::super::story::{CANARY, Given, issued};
use super::{OpenBao, TIMEOUT, app_role, open, shared};

#[test]
fn the_sample_is_a_store() {
    let sample: TokenStore = serde_saphyr::from_str(&block("A store", "yaml")).unwrap();
    assert_eq!(sample.spec.hashicorp_vault.unwrap().mount.as_deref(), Some("secret"));
    for heading in ["AppRole", "A token"] {
        let auth: Value = serde_saphyr::from_str(&block(heading, "yaml")).unwrap();
        let spec: HashicorpVault =
            serde_json::from_value(json!({"address": "https://v", "auth": auth["auth"]})).unwrap();
        assert!(spec.auth.app_role.is_some() != spec.auth.token_ref.is_some());
    }
}

#[tokio::test]
async fn a_writer_that_died_before_the_mark_is_made_up_for() {
    let path = "/virtual-accounts/died/token";
    let faults = Faults::before(shared().bao.url(), OpenBao.is_write(), OpenBao.errors()).await;
    let store = OpenBao.open_as(Opening::At(faults.address(), TIMEOUT)).await.unwrap();
    store.check().await.unwrap();
    let (first, second) = (issued(1), issued(2));
    faults.nth_write(1, Fault::Cut);
    assert_eq!(first.deliver(&*store, path).await.unwrap_err().kind, ErrorKind::Unavailable);

    let held = store.read(path).await.unwrap();
    assert_eq!((&held.mark, &held.jti), (&None, &Some(first.jti())));
    // Another token cannot know whose this is, unless the caller knows that jti; and then not how old it is.
    assert!(matches!(second.judge(&held), Verdict::NotOurs { .. }));
    assert_eq!(second.judge_with(&held, &[UNMARKED.to_owned()]), Verdict::NotOlder { jti: first.jti() });
    // The same token is its own proof.
    assert_eq!(first.deliver(&*store, path).await, Ok(Verdict::Write));
    assert_eq!(first.deliver(&*store, path).await, Ok(Verdict::Holds));
    assert_eq!(OpenBao.versions(path).await, 1);

    // At a rotation the mark lags, and is put right by the next pass.
    faults.nth_write(1, Fault::Cut);
    second.deliver(&*store, path).await.unwrap_err();
    let held = store.read(path).await.unwrap();
    assert_eq!((held.mark.as_ref().unwrap().jti.clone(), held.jti.clone()), (first.jti(), Some(second.jti())));
    assert_eq!(second.deliver(&*store, path).await, Ok(Verdict::Write));
    assert_eq!(second.deliver(&*store, path).await, Ok(Verdict::Holds));
    assert_eq!(OpenBao.versions(path).await, 2);
}

#[tokio::test]
async fn a_secret_that_somebody_makes_first_is_never_marked() {
    let path = "/virtual-accounts/first/token";
    let (store, token) = (OpenBao.open().await, issued(1));
    let absent = store.read(path).await.unwrap();
    OpenBao.put_by_hand(path, "made-by-hand").await;
    let error = store.write(path, &token.value(), &absent).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    let metadata = OpenBao::metadata(path).await.unwrap();
    assert_eq!(metadata["data"]["custom_metadata"], Value::Null);
    assert!(matches!(token.judge(&store.read(path).await.unwrap()), Verdict::NotOurs { .. }));
}

#[tokio::test]
async fn other_custom_metadata_is_kept() {
    let path = "/virtual-accounts/metadata/token";
    let (store, first) = (OpenBao.open().await, issued(1));
    first.settle(&*store, path).await;
    let metadata = OpenBao::metadata(path).await.unwrap();
    let mut custom = metadata["data"]["custom_metadata"].clone();
    custom["team"] = json!("shop");
    shared().bao.post(&format!("secret/metadata{path}"), json!({"custom_metadata": custom})).await;
    issued(2).settle(&*store, path).await;
    let metadata = OpenBao::metadata(path).await.unwrap();
    assert_eq!(metadata["data"]["custom_metadata"]["team"], "shop");
}

#[tokio::test]
async fn a_version_deleted_or_destroyed_by_hand_is_written_again() {
    let path = "/virtual-accounts/undone/token";
    let (store, first) = (OpenBao.open().await, issued(1));
    first.settle(&*store, path).await;
    for (undo, version) in [("delete", 1), ("destroy", 2)] {
        shared().bao.post(&format!("secret/{undo}{path}"), json!({"versions": [version]})).await;
        let held = store.read(path).await.unwrap();
        assert_eq!((first.judge(&held), held.older), (Verdict::Write, false), "{undo}: {held:?}");
        first.settle(&*store, path).await;
        assert_eq!(OpenBao.value(path).await.as_deref(), Some(first.text()));
    }
}

#[tokio::test]
async fn each_key_of_the_value_is_looked_at() {
    let path = "/virtual-accounts/keys/token";
    let (store, first) = (OpenBao.open().await, issued(1));
    first.settle(&*store, path).await;
    let end = first.mark.expires_at.to_string();
    let forged = [
        json!({"token": "forged", "jti": first.jti(), "expires-at": end}),
        json!({"token": first.text(), "jti": first.jti(), "expires-at": "2099-01-01T00:00:00Z"}),
        json!({"token": first.text(), "expires-at": end}),
        json!({"jti": first.jti(), "expires-at": end}),
    ];
    for data in forged {
        shared().bao.post(&format!("secret/data{path}"), json!({"data": data})).await;
        assert_eq!(first.judge(&store.read(path).await.unwrap()), Verdict::Write, "{data}");
        first.settle(&*store, path).await;
    }
}

#[tokio::test]
async fn another_engine_is_refused_by_every_call() {
    shared().bao.post("sys/mounts/plain", json!({"type": "kv", "options": {"version": "1"}})).await;
    let store = with_root(&shared().bao.url(), json!({"mount": "plain"})).await;
    for error in [store.check().await.unwrap_err(), store.read("/a").await.unwrap_err()] {
        assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Invalid, "WrongEngine"), "{error}");
    }
}

#[tokio::test]
async fn a_mount_that_nobody_may_see_is_told_from_bad_credentials() {
    let store = OpenBao.open_as(Opening::Nowhere).await.unwrap();
    let error = store.check().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::NotFound, "MountNotFound"), "{error}");
    assert!(error.message.contains("spec.hashicorpVault.mount"), "{error}");
}

#[tokio::test]
async fn a_path_outside_the_policy_is_denied() {
    let error = OpenBao.open().await.read("/elsewhere/token").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "PermissionDenied"), "{error}");
}

#[tokio::test]
async fn a_namespace_is_used() {
    let bao = &shared().bao;
    bao.post("sys/namespaces/team", json!({})).await;
    bao.post("team/sys/mounts/kv", json!({"type": "kv", "options": {"version": "2"}})).await;
    let store = with_root(&bao.url(), json!({"mount": "kv", "namespace": "team"})).await;
    let first = issued(1);
    first.settle(&store, "/shop/cart").await;
    let read = bao.get("team/kv/data/shop/cart").await.unwrap();
    let expected = json!({"token": first.text(), "jti": first.jti(), "expires-at": first.mark.expires_at});
    assert_eq!(read["data"]["data"], expected);
}

#[tokio::test]
async fn a_real_rate_limit_asks_for_patience() {
    let bao = &shared().bao;
    bao.post("sys/mounts/busy", json!({"type": "kv", "options": {"version": "2"}})).await;
    bao.post("sys/quotas/config", json!({"enable_rate_limit_response_headers": true})).await;
    bao.post("sys/quotas/rate-limit/busy", json!({"path": "busy/", "rate": 0.1, "interval": "60s"})).await;
    let store = with_root(&bao.url(), json!({"mount": "busy"})).await;
    let mut last = store.read("/a").await;
    for _ in 0..20 {
        last = store.read("/a").await;
        if last.is_err() {
            break;
        }
    }
    let error = last.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Throttled, "RateLimited"), "{error}");
    assert!(error.retry_after.is_some(), "{error:?}");
}

#[tokio::test]
async fn the_given_ca_is_trusted_and_no_other() {
    let bao = tokio::task::spawn_blocking(Bao::start_tls).await.unwrap();
    let ca = json!({"name": "vault-ca", "key": "ca.crt"});
    let given = |pem: &str| {
        let given = Given::secret("vault-ca", "ca.crt", pem);
        given.set("root", "token", ROOT);
        Arc::new(given)
    };
    let auth = json!({"tokenRef": {"name": "root", "key": "token"}});
    let trusting = json!({"address": bao.url(), "caBundle": ca, "auth": auth});
    let store = open(trusting, given(&bao.file("vault-ca.pem"))).await.unwrap();
    store.check().await.unwrap();

    let store = open(json!({"address": bao.url(), "auth": auth}), given("")).await.unwrap();
    let error = store.check().await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Unavailable, "Unreachable"), "{error}");
    assert!(error.message.contains("certificate"), "{error}");
}

#[tokio::test]
async fn local_addresses_are_refused_unless_they_are_allowed() {
    let network = Network { allow_local: false, allow_http: false, timeout: Duration::from_secs(1) };
    for address in ["http://127.0.0.1:8200", "https://127.0.0.1:8200", "https://169.254.169.254", "http://vault:8200"] {
        let (spec, given) = app_role(address, "secret");
        let spec: HashicorpVault = serde_json::from_value(spec).unwrap();
        let error = Vault::open(&spec, given, network).await.err().unwrap();
        assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Invalid, "InvalidEndpoint"), "{address}");
    }
    let (spec, given) = app_role("https://localhost:8200", "secret");
    let spec: HashicorpVault = serde_json::from_value(spec).unwrap();
    let error = Vault::open(&spec, given, network).await.unwrap().check().await.unwrap_err();
    assert!(error.message.contains("loopback"), "{error}");
}

#[tokio::test]
async fn what_is_not_vault_is_told_and_not_followed_and_not_quoted() {
    let elsewhere = shared().bao.url();
    let redirect = (http::StatusCode::TEMPORARY_REDIRECT, [(LOCATION, elsewhere)], String::new());
    let no_headers = [(LOCATION, String::new())];
    let page = (http::StatusCode::OK, no_headers.clone(), format!("<html>{CANARY}</html>"));
    let failing = (http::StatusCode::FORBIDDEN, no_headers.clone(), format!("<html>{CANARY}</html>"));
    let endless = (http::StatusCode::OK, no_headers, format!("{{\"data\":\"{}\"}}", "x".repeat(2 << 20)));
    let cases = [
        (redirect, ErrorKind::Invalid, "redirects are not followed"),
        (page, ErrorKind::Unavailable, "not one of Vault"),
        (failing, ErrorKind::Denied, "Vault answered 403"),
        (endless, ErrorKind::Unavailable, "not one of Vault"),
    ];
    for (answer, kind, expected) in cases {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(move || std::future::ready(answer.clone()));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let error = with_root(&address, json!({})).await.check().await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(expected) && !error.message.contains(CANARY), "{error}");
    }
}

#[tokio::test]
async fn no_library_logs_a_secret_at_any_level() {
    let (logs, guard) = Logs::capture(LevelFilter::TRACE);
    let path = "/virtual-accounts/logged/token";
    let store = OpenBao.open().await;
    issued(1).settle(&*store, path).await;
    let held = issued(2).settle(&*store, path).await;
    store.retire(path, &held, &BTreeSet::new()).await.unwrap();
    store.delete(path, &held).await.unwrap();
    OpenBao.open_as(Opening::Refused).await.unwrap().check().await.unwrap_err();
    drop(guard);
    let text = logs.text();
    assert!(text.contains("hyper"), "libraries do log: {text}");
    // A token of OpenBao is `s.` and 24 characters.
    let login = |word: &str| word.len() >= 26 && word.trim_matches('"').starts_with("s.");
    let secret = |word: &&str| word.contains(CANARY) || word.contains(&shared().secret_id) || login(word);
    assert_eq!(text.split_whitespace().find(secret), None);
}

/// With the root token, and these fields beside.
async fn with_root(address: &str, fields: Value) -> Vault {
    let mut spec = json!({"address": address, "auth": {"tokenRef": {"name": "root", "key": "token"}}});
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    open(spec, Arc::new(Given::secret("root", "token", ROOT))).await.unwrap()
}
