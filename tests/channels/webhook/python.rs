//! Receivers in Python: the libraries of Standard Webhooks and of CloudEvents, used as the page tells users to.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use virtual_account_operator::api::Seconds;
use virtual_account_operator::clock;
use wiremock::Request;

use super::super::server::python;
use super::super::story::{every_kind, hostile, rotated};
use super::{KEY, PAGE, checkout, given, requests, secret};

#[tokio::test]
async fn libraries_of_another_language_take_every_event() {
    let letters: Vec<_> = every_kind().into_iter().chain(hostile()).collect();
    let requests = requests(letters, clock::now(), given()).await;
    let deliveries: Vec<Value> = requests.iter().map(|request| delivery(&secret(&KEY), request)).collect();
    let output = receive(&deliveries);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let events: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), every_kind().len() + hostile().len());
    for (event, request) in events.iter().zip(&requests) {
        let mut sent: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(event["data"], sent["data"].take());
        assert_eq!(event["attributes"]["id"], sent["id"]);
        assert_eq!(event["attributes"]["time"], sent["time"].as_str().unwrap().replace('Z', "+00:00"));
    }
}

#[tokio::test]
async fn libraries_of_another_language_refuse_what_was_changed() {
    let requests = requests(vec![rotated(1)], clock::now(), given()).await;
    let good = delivery(&secret(&KEY), &requests[0]);
    assert!(receive(std::slice::from_ref(&good)).status.success());
    refused(&delivery(&secret(&[7; 32]), &requests[0]));
    let body = good["body"].as_str().unwrap();
    let mut tampered = good.clone();
    tampered["body"] = json!(body.replacen("shop", "shed", 1));
    refused(&tampered);
    for (header, value) in [
        ("webhook-id", "another".to_owned()),
        ("webhook-timestamp", (clock::now() - Seconds(60)).as_unix().to_string()),
    ] {
        let mut tampered = good.clone();
        tampered["headers"][header] = json!(value);
        refused(&tampered);
    }
}

#[tokio::test]
async fn a_recorded_event_is_refused_later() {
    let requests = requests(vec![rotated(1)], clock::now() - Seconds::minutes(10), given()).await;
    refused(&delivery(&secret(&KEY), &requests[0]));
}

#[tokio::test]
async fn while_a_secret_is_replaced_receivers_may_know_either() {
    let given = given();
    let other = secret(&[9; 24]);
    given.set("hook", "signing", &format!("{other}\n{}\n", secret(&KEY)));
    let requests = requests(vec![rotated(1)], clock::now(), given).await;
    let either = [delivery(&secret(&KEY), &requests[0]), delivery(&other, &requests[0])];
    assert!(receive(&either).status.success());
}

/// What a receiver in Python makes of deliveries, with the code of the page.
fn receive(deliveries: &[Value]) -> Output {
    let mut receiver = Command::new(python().join("bin/python"))
        .arg(checkout("tests/channels/receive.py"))
        .arg(checkout(PAGE))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = deliveries.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    // One that refuses to go on may have closed it.
    let _ = receiver.stdin.take().unwrap().write_all(lines.as_bytes());
    receiver.wait_with_output().unwrap()
}

#[track_caller]
fn refused(delivery: &Value) {
    let output = receive(std::slice::from_ref(delivery));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("refused: "), "{delivery}: {said}");
}

/// A request as a receiver gets it who knows this secret.
fn delivery(secret: &str, request: &Request) -> Value {
    let headers: BTreeMap<&str, &str> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    json!({"secret": secret, "headers": headers, "body": String::from_utf8_lossy(&request.body)})
}
