//! AWS Parameter Store, on moto: the contract, and what takes the place of a compare-and-set.

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use virtual_account_operator::api::AwsParameterStore;
use virtual_account_operator::integration::{ErrorKind, Network};
use virtual_account_operator::store::aws_parameter_store::ParameterStore;
use virtual_account_operator::store::{Presence, Store, Verdict};

use super::aws::{NETWORK, REGION, Refusing, access_key, any_key};
use super::contract::{Instance, Limits, Opening, contract, troubles};
use super::fault::{Errors, IsWrite};
use super::moto::Moto;
use super::story::{Issued, issued, issued_to};

contract!(OnMoto);
troubles!(OnMoto);

struct OnMoto;

#[async_trait]
impl Instance for OnMoto {
    async fn open(&self) -> Box<dyn Store> {
        Box::new(moto())
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
        |_, headers| headers.get("x-amz-target").is_some_and(|operation| operation != "AmazonSSM.GetParameterHistory")
    }

    fn errors(&self) -> Errors {
        |_| r#"{"message": "ordered by the test"}"#
    }

    fn limits(&self) -> Limits {
        Limits { no_compare_and_set: true, no_retire: true, ..Limits::default() }
    }

    async fn put_by_hand(&self, path: &str, value: &str) {
        let put = json!({"Value": value, "Type": "SecureString", "Overwrite": true});
        assert_eq!(call(path, "put_parameter", put)["error"], Json::Null);
    }

    async fn wipe(&self, path: &str) {
        call(path, "delete_parameter", json!({}));
    }

    async fn usable(&self, path: &str) -> Vec<String> {
        let history = history(path);
        history.iter().map(|version| version["Value"].as_str().unwrap().to_owned()).collect()
    }

    async fn versions(&self, path: &str) -> usize {
        history(path).len()
    }

    async fn value(&self, path: &str) -> Option<String> {
        let found = call(path, "get_parameter", json!({"WithDecryption": true}));
        found["Parameter"]["Value"].as_str().map(str::to_owned)
    }
}

pub(crate) fn settings(url: &str) -> AwsParameterStore {
    AwsParameterStore {
        region: REGION.into(),
        endpoint: Some(url.into()),
        auth: Some(access_key()),
        ..AwsParameterStore::default()
    }
}

fn store(settings: &AwsParameterStore, network: Network) -> ParameterStore {
    ParameterStore::open(settings, None, any_key(), network).unwrap()
}

fn moto() -> ParameterStore {
    store(&settings(&Moto::shared().url), NETWORK)
}

fn call(path: &str, operation: &str, mut arguments: Json) -> Json {
    arguments["Name"] = json!(path);
    Moto::shared().boto("ssm", operation, &arguments)
}

fn history(path: &str) -> Vec<Json> {
    let found = call(path, "get_parameter_history", json!({"WithDecryption": true, "MaxResults": 50}));
    found["Parameters"].as_array().cloned().unwrap_or_default()
}

fn tags(path: &str) -> Json {
    let tagged = json!({"ResourceType": "Parameter", "ResourceId": path});
    Moto::shared().boto("ssm", "list_tags_for_resource", &tagged)["TagList"].clone()
}

fn owner_tags(token: &Issued) -> Json {
    token.mark.owner.pairs().iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect()
}

#[tokio::test]
async fn it_is_a_secure_string_with_the_key_and_the_owners_tags() {
    let spec = AwsParameterStore { kms_key_id: Some("alias/tokens".into()), ..settings(&Moto::shared().url) };
    let (store, path, one, two) = (store(&spec, NETWORK), "/secure/string", issued(1), issued(2));
    one.settle(&store, path).await;
    two.settle(&store, path).await;
    for version in history(path) {
        assert_eq!((&version["Type"], &version["KeyId"]), (&json!("SecureString"), &json!("alias/tokens")));
    }
    assert_eq!(tags(path), owner_tags(&one));
}

#[tokio::test]
async fn a_value_under_our_description_is_not_taken_for_ours() {
    let (store, path, one) = (moto(), "/described", issued(1));
    one.settle(&store, path).await;
    // Moto lets the description stand, as the one who writes may do.
    OnMoto.put_by_hand(path, "by hand").await;
    let held = store.read(path).await.unwrap();
    assert_eq!((held.jti.clone(), held.mark.as_ref()), (None, Some(&one.mark)));
    let put = json!({"Value": "by hand", "Type": "SecureString", "Overwrite": true, "Description": "mine"});
    call(path, "put_parameter", put);
    let held = store.read(path).await.unwrap();
    assert_eq!((held.jti.clone(), held.mark.as_ref()), (None, Some(&one.mark)));
    assert_eq!(one.judge(&held), Verdict::Write);
    one.settle(&store, path).await;
    assert_eq!(OnMoto.value(path).await.as_deref(), Some(one.text()));
}

#[tokio::test]
async fn a_writer_that_comes_late_looks_once_more_and_writes_nothing() {
    let (store, path, one, two, three) = (moto(), "/late", issued(1), issued(2), issued(3));
    let absent = store.read(path).await.unwrap();
    let seen = one.settle(&store, path).await;
    let held = three.settle(&store, path).await;
    for over in [&absent, &seen] {
        let error = store.write(path, &two.value(), over).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    }
    assert_eq!(store.delete(path, &seen).await.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(store.read(path).await.unwrap(), held);
}

/// The one moment that no look can cover: between the late writer's look and its write.
#[tokio::test]
async fn a_newer_token_that_was_overwritten_all_the_same_comes_back() {
    let (store, path, one, two, three) = (moto(), "/overwritten", issued(1), issued(2), issued(3));
    one.settle(&store, path).await;
    let late = call(path, "get_parameter_history", json!({}))["Parameters"][0]["Description"].clone();
    let late = late.as_str().unwrap().replace(&one.jti(), &two.jti()).replace("version=1", "version=2");
    three.settle(&store, path).await;
    let put = json!({"Value": two.text(), "Type": "SecureString", "Overwrite": true, "Description": late});
    call(path, "put_parameter", put);
    let held = store.read(path).await.unwrap();
    assert_eq!((held.jti.clone(), three.judge(&held)), (None, Verdict::Write));
    three.settle(&store, path).await;
    assert_eq!(OnMoto.value(path).await.as_deref(), Some(three.text()));
}

#[tokio::test]
async fn a_parameter_that_is_taken_over_gets_the_owners_tags() {
    let (store, path) = (moto(), "/taken-over");
    let former = issued_to("shop/cart", "cluster-0", 1);
    former.settle(&store, path).await;
    let ours = issued(2);
    let held = store.read(path).await.unwrap();
    assert!(matches!(ours.judge(&held), Verdict::NotOurs { .. }));
    store.write(path, &ours.value(), &held).await.unwrap();
    assert_eq!(tags(path), owner_tags(&ours));
    assert_eq!(ours.judge(&store.read(path).await.unwrap()), Verdict::Holds);
}

#[tokio::test]
async fn many_versions_are_read_to_the_last() {
    let (store, path, one) = (moto(), "/many", issued(1));
    one.settle(&store, path).await;
    for number in 0..60 {
        OnMoto.put_by_hand(path, &format!("by hand {number}")).await;
    }
    let held = store.read(path).await.unwrap();
    assert_eq!((held.presence, held.version.as_deref()), (Presence::Present, Some("61")));
    assert_eq!((held.jti, held.mark), (None, Some(one.mark.clone())));
}
