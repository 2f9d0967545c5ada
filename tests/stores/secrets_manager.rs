//! AWS Secrets Manager, on moto: the contract, every crash point of a write, and what others may do meanwhile.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value as Json, json};
use virtual_account_operator::api::{AwsSecretsManager, Instant};
use virtual_account_operator::clock;
use virtual_account_operator::integration::{ErrorKind, Network};
use virtual_account_operator::store::aws_secrets_manager::SecretsManager;
use virtual_account_operator::store::{Held, Presence, Store, Verdict};

use super::aws::{NETWORK, Refusing, any_key, settings};
use super::contract::{Instance, Limits, Opening, contract, troubles};
use super::fault::{Errors, IsWrite};
use super::moto::Moto;
use super::story::{Issued, issued};

contract!(OnMoto);
troubles!(OnMoto);

struct OnMoto;

#[async_trait]
impl Instance for OnMoto {
    async fn open(&self) -> Box<dyn Store> {
        Box::new(store(&settings(&Moto::shared().url), NETWORK))
    }

    async fn open_as(&self, how: Opening) -> Option<Box<dyn Store>> {
        Some(Box::new(match how {
            Opening::At(url, timeout) => store(&settings(&url), Network { timeout, ..NETWORK }),
            Opening::Refused => store(&settings(&Refusing::start("AKIAOTHER").await.url), NETWORK),
            Opening::Nowhere => return None,
        }))
    }

    fn server(&self) -> Option<String> {
        Some(Moto::shared().url.clone())
    }

    fn is_write(&self) -> IsWrite {
        |_, headers| headers.get("x-amz-target").is_some_and(|operation| operation != "secretsmanager.DescribeSecret")
    }

    fn errors(&self) -> Errors {
        |_| r#"{"message": "ordered by the test"}"#
    }

    fn limits(&self) -> Limits {
        Limits { one_older: true, ..Limits::default() }
    }

    async fn put_by_hand(&self, path: &str, value: &str) {
        let put = call(path, "put_secret_value", json!({"SecretString": value}));
        if put["error"] == "ResourceNotFoundException" {
            let secret = json!({"Name": path, "SecretString": value});
            Moto::shared().boto("secretsmanager", "create_secret", &secret);
        }
    }

    async fn wipe(&self, path: &str) {
        call(path, "delete_secret", json!({"ForceDeleteWithoutRecovery": true}));
    }

    async fn usable(&self, path: &str) -> Vec<String> {
        let stages = ["AWSPREVIOUS", STAGE, "AWSCURRENT"].into_iter();
        stages.filter_map(|stage| staged(path, stage).as_str().map(str::to_owned)).collect()
    }

    async fn versions(&self, path: &str) -> usize {
        call(path, "describe_secret", json!({}))["VersionIdsToStages"].as_object().map_or(0, serde_json::Map::len)
    }

    async fn value(&self, path: &str) -> Option<String> {
        staged(path, "AWSCURRENT").as_str().map(str::to_owned)
    }
}

const STAGE: &str = "VIRTUALACCOUNTS";

fn store(settings: &AwsSecretsManager, network: Network) -> SecretsManager {
    SecretsManager::open(settings, None, any_key(), network).unwrap()
}

fn call(path: &str, operation: &str, mut arguments: Json) -> Json {
    arguments["SecretId"] = json!(path);
    Moto::shared().boto("secretsmanager", operation, &arguments)
}

/// The stage is named for the current version too, since moto's default does not follow it when it is moved; AWS' does.
fn staged(path: &str, stage: &str) -> Json {
    call(path, "get_secret_value", json!({"VersionStage": stage}))["SecretString"].clone()
}

/// One path of a store.
struct Path {
    store: SecretsManager,
    path: String,
}

impl Path {
    fn new(path: &str) -> Self {
        Self::with(path, &settings(&Moto::shared().url))
    }

    fn with(path: &str, settings: &AwsSecretsManager) -> Self {
        Self { store: store(settings, NETWORK), path: path.to_owned() }
    }

    async fn read(&self) -> Held {
        self.store.read(&self.path).await.unwrap()
    }

    async fn settle(&self, token: &Issued) -> Held {
        token.settle(&self.store, &self.path).await
    }

    async fn retire(&self, keep: &[&Issued]) {
        let keep: BTreeSet<String> = keep.iter().map(|token| token.jti()).collect();
        self.store.retire(&self.path, &self.read().await, &keep).await.unwrap();
    }

    async fn delete(&self, held: &Held) {
        self.store.delete(&self.path, held).await.unwrap();
    }

    fn call(&self, operation: &str, arguments: Json) -> Json {
        call(&self.path, operation, arguments)
    }

    /// As a writer that dies then: the token is put, but is not current.
    fn put(&self, token: &Issued) {
        let put = json!({"ClientRequestToken": id(token), "SecretString": token.text(), "VersionStages": [STAGE]});
        self.call("put_secret_value", put);
    }

    fn make_current(&self, to: &Issued, from: &Issued) {
        let moved = json!({"VersionStage": "AWSCURRENT", "MoveToVersionId": id(to), "RemoveFromVersionId": id(from)});
        self.call("update_secret_version_stage", moved);
    }

    fn tag(&self, token: &Issued) {
        let pairs = token.mark.pairs();
        let tags: Vec<Json> = pairs.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
        self.call("tag_resource", json!({"Tags": tags}));
    }

    /// The versions with their stages are these and no others.
    fn has(&self, expected: &[(&Issued, &[&str])]) {
        let expected: serde_json::Map<_, _> =
            expected.iter().map(|(token, stages)| (id(token), json!(stages))).collect();
        assert_eq!(self.call("describe_secret", json!({}))["VersionIdsToStages"], json!(expected));
    }
}

/// The version's id: the jti's bits in hexadecimal.
fn id(token: &Issued) -> String {
    let bits = URL_SAFE_NO_PAD.decode(token.jti()).unwrap();
    bits.iter().fold(String::new(), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}

#[tokio::test]
async fn the_first_write_describes_the_secret_and_names_the_key() {
    let spec = AwsSecretsManager { kms_key_id: Some("alias/tokens".into()), ..settings(&Moto::shared().url) };
    let (path, one) = (Path::with("/first/write", &spec), issued(1));
    path.settle(&one).await;
    path.has(&[(&one, &["AWSCURRENT"])]);
    let described = path.call("describe_secret", json!({}));
    assert_eq!(described["KmsKeyId"], "alias/tokens");
    assert!(described["Description"].as_str().unwrap().contains("shop/cart"), "{described}");
}

#[tokio::test]
async fn a_crash_after_each_step_is_finished_by_the_next_pass() {
    for steps in 0..=3 {
        let (path, one, two) = (Path::new(&format!("/crash/{steps}")), issued(1), issued(2));
        path.settle(&one).await;
        if steps >= 1 {
            path.put(&two);
        }
        if steps >= 2 {
            path.make_current(&two, &one);
        }
        if steps >= 3 {
            path.tag(&two);
        }
        let held = path.read().await;
        let (current, mark) = (if steps < 2 { &one } else { &two }, if steps < 3 { &one } else { &two });
        assert_eq!((held.jti, held.mark), (Some(current.jti()), Some(mark.mark.clone())), "{steps}");
        assert_eq!(held.older, steps >= 1, "{steps}");
        path.settle(&two).await;
        let label: &[&str] = if steps == 3 { &[STAGE, "AWSCURRENT"] } else { &["AWSCURRENT"] };
        path.has(&[(&one, &["AWSPREVIOUS"]), (&two, label)]);
    }
}

#[tokio::test]
async fn what_a_dead_writer_left_is_retired_unless_its_token_is_kept() {
    let (path, one, two) = (Path::new("leftover"), issued(1), issued(2));
    path.settle(&one).await;
    path.put(&two);
    path.retire(&[&two]).await;
    path.has(&[(&one, &["AWSCURRENT"]), (&two, &[STAGE])]);
    path.retire(&[&one]).await;
    path.has(&[(&one, &["AWSCURRENT"]), (&two, &[])]);
    // It can still be made current.
    path.settle(&two).await;
    path.has(&[(&one, &["AWSPREVIOUS"]), (&two, &["AWSCURRENT"])]);
}

#[tokio::test]
async fn a_frozen_writer_fails_and_its_leftover_can_be_retired() {
    let (path, one, two, three) = (Path::new("frozen"), issued(1), issued(2), issued(3));
    let seen = path.settle(&one).await;
    let held = path.settle(&three).await;
    let late = path.store.write(&path.path, &two.value(), &seen).await.unwrap_err();
    assert_eq!(late.kind, ErrorKind::Conflict, "{late}");
    path.has(&[(&one, &["AWSPREVIOUS"]), (&two, &[STAGE]), (&three, &["AWSCURRENT"])]);
    assert_eq!(two.judge(&path.read().await), Verdict::NotOlder { jti: three.jti() });
    path.retire(&[]).await;
    assert_eq!(path.read().await, Held { older: false, ..held });
}

#[tokio::test]
async fn a_mark_that_a_frozen_writer_set_back_is_put_right() {
    let (path, one, two) = (Path::new("lagging"), issued(1), issued(2));
    path.settle(&one).await;
    let held = path.settle(&two).await;
    path.tag(&one);
    let lagging = path.read().await;
    assert_eq!((lagging.jti.clone(), two.judge(&lagging)), (Some(two.jti()), Verdict::Write));
    assert_eq!(path.settle(&two).await, held);
}

#[tokio::test]
async fn a_value_put_by_hand_gives_way_to_the_same_version_again() {
    let (path, one) = (Path::new("by-hand"), issued(1));
    path.settle(&one).await;
    path.call("put_secret_value", json!({"SecretString": "by hand"}));
    path.settle(&one).await;
    assert_eq!(OnMoto.versions("by-hand").await, 2);
}

#[tokio::test]
async fn a_secret_without_a_value_is_filled_once_it_may_be_taken_over() {
    let (path, one) = (Path::new("/empty"), issued(1));
    let tag = json!({"Key": "team", "Value": "a"});
    Moto::shared().boto("secretsmanager", "create_secret", &json!({"Name": "/empty", "Tags": [tag]}));
    let held = path.read().await;
    assert_eq!(held, Held { presence: Presence::Present, ..Held::default() });
    assert!(matches!(one.judge(&held), Verdict::NotOurs { .. }));
    path.store.write(&path.path, &one.value(), &held).await.unwrap();
    path.settle(&one).await;
    path.has(&[(&one, &["AWSCURRENT"])]);
    assert!(path.call("describe_secret", json!({}))["Tags"].as_array().unwrap().contains(&tag));
}

#[tokio::test]
async fn a_secret_that_waits_for_its_end_is_restored_and_written() {
    let (path, one, two) = (Path::new("/restored"), issued(1), issued(2));
    let held = path.settle(&one).await;
    path.delete(&held).await;
    let deleted = path.read().await;
    assert_eq!(deleted, Held { presence: Presence::Deleted, ..held });
    path.delete(&deleted).await;
    path.settle(&two).await;
    path.has(&[(&one, &["AWSPREVIOUS"]), (&two, &["AWSCURRENT"])]);
}

#[tokio::test]
async fn the_recovery_window_is_as_it_was_set() {
    for (days, after) in [(Some(7), Presence::Deleted), (None, Presence::Deleted), (Some(0), Presence::Absent)] {
        let spec = AwsSecretsManager { recovery_window_days: days, ..settings(&Moto::shared().url) };
        let path = Path::with(&format!("/window/{days:?}"), &spec);
        let held = path.settle(&issued(1)).await;
        path.delete(&held).await;
        assert_eq!(path.read().await.presence, after, "{days:?}");
        if after == Presence::Deleted {
            let ends = path.call("describe_secret", json!({}))["DeletedDate"].as_str().unwrap().replace(' ', "T");
            let left = ends.parse::<Instant>().unwrap() - clock::now();
            assert!((left.0 - days.map_or(30, i64::from) * 86_400).abs() < 60, "{days:?}: {left}");
        }
    }
}

#[tokio::test]
async fn a_token_with_an_id_of_another_form_is_known_by_its_mark() {
    let (path, two) = (Path::new("adopted"), issued(2));
    let mut one = issued(1);
    one.mark.jti = "adopted-by-hand".into();
    assert_eq!(path.settle(&one).await.jti.as_deref(), Some("adopted-by-hand"));
    path.settle(&two).await;
    path.retire(&[&one]).await;
    assert!(path.read().await.older);
    path.retire(&[&two]).await;
    assert!(!path.read().await.older);
}
