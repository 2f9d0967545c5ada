//! The clauses that all media keep that speak HTTP.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use virtual_account_operator::api::Seconds;
use virtual_account_operator::integration::{ErrorKind, Network, ProviderError};
use virtual_account_operator::notify::{Letter, Notifier};
use wiremock::ResponseTemplate;

use super::contract::{Instance, network};
use super::stage::{Stage, Stranger};
use super::story::{CANARY, every_kind, hostile, message, rotated};

const PATIENCE: Duration = Duration::from_secs(10);

/// A medium on a stage of its own.
struct Scene {
    stage: Stage,
    medium: Box<dyn Notifier>,
}

async fn scene(i: &dyn Instance) -> Scene {
    scene_for(i, PATIENCE).await
}

async fn scene_for(i: &dyn Instance, timeout: Duration) -> Scene {
    let stage = Stage::new(i.judge(), i.answer()).await;
    let medium = i.open(&stage.url(), network(timeout)).await.expect("its settings are good");
    Scene { stage, medium }
}

impl Scene {
    async fn send(&self, letters: Vec<Letter>) -> Result<(), ProviderError> {
        self.medium.send(&message(letters)).await
    }

    /// What people have seen so far.
    async fn seen(&self, i: &dyn Instance) -> Vec<String> {
        self.stage.requests().await.iter().flat_map(|request| i.seen(request)).collect()
    }
}

/// An error that can be shown to anybody.
fn discreet(error: &ProviderError) {
    let shown = format!("{error} {error:?} {} {}", error.condition_reason(), error.line());
    assert!(!shown.contains(CANARY), "a secret is told: {shown}");
    assert!(error.message.chars().count() <= 512 && !error.message.contains('\n'), "{shown}");
}

#[track_caller]
fn fails_with(result: Result<(), ProviderError>, kind: ErrorKind) -> ProviderError {
    let error = result.expect_err("it cannot work");
    assert_eq!(error.kind, kind, "{error}");
    discreet(&error);
    error
}

pub(crate) async fn every_kind_is_sent_as_documented(i: &dyn Instance) {
    for letter in every_kind() {
        let scene = scene(i).await;
        let text = letter.text("prod-eu", message(vec![]).now);
        scene.send(vec![letter]).await.unwrap();
        let seen = scene.seen(i).await.join("\n");
        assert!(seen.contains(&text.title), "{} is not in {seen}", text.title);
        assert!(seen.contains("prod-eu"), "the cluster is not in {seen}");
    }
}

pub(crate) async fn a_repeat_is_identical(i: &dyn Instance) {
    let (first, second) = (scene(i).await, scene(i).await);
    for scene in [&first, &second] {
        scene.send(vec![rotated(1)]).await.unwrap();
    }
    let told = first.stage.bodies().await;
    assert!(!told.is_empty());
    assert_eq!(told, second.stage.bodies().await);
}

pub(crate) async fn each_refusal_means_one_thing(i: &dyn Instance) {
    for (answer, kind) in i.refusals() {
        let scene = scene(i).await;
        scene.stage.always(answer);
        let error = fails_with(scene.send(vec![rotated(1)]).await, kind);
        assert!(!error.is_retryable() || kind == ErrorKind::Throttled || kind == ErrorKind::Unavailable, "{error}");
        scene.stage.requests().await;
    }
}

pub(crate) async fn patience_asked_for_is_given(i: &dyn Instance) {
    let scene = scene(i).await;
    scene.stage.then(ResponseTemplate::new(429).insert_header("Retry-After", "17").set_body_string(CANARY));
    let error = fails_with(scene.send(vec![rotated(1)]).await, ErrorKind::Throttled);
    assert_eq!(error.retry_after, Some(Seconds(17)));
    // A date in the past: at once.
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    scene.stage.then(ResponseTemplate::new(429).insert_header("Retry-After", date));
    let error = fails_with(scene.send(vec![rotated(1)]).await, ErrorKind::Throttled);
    assert_eq!(error.retry_after, Some(Seconds::ZERO));
    scene.send(vec![rotated(1)]).await.unwrap();
}

pub(crate) async fn a_failing_server_is_unavailable(i: &dyn Instance) {
    let scene = scene(i).await;
    for status in [500, 502, 503, 504] {
        scene.stage.always(ResponseTemplate::new(status).set_body_string(format!("<h1>{CANARY}</h1>")));
        fails_with(scene.send(vec![rotated(1)]).await, ErrorKind::Unavailable);
    }
}

pub(crate) async fn a_server_that_does_not_answer_is_given_up(i: &dyn Instance) {
    let timeout = Duration::from_millis(700);
    let scene = scene_for(i, timeout).await;
    scene.stage.always(ResponseTemplate::new(200).set_delay(Duration::from_mins(1)));
    let started = Instant::now();
    let error = fails_with(scene.send(vec![rotated(1)]).await, ErrorKind::Unavailable);
    assert_eq!(error.reason, "Timeout");
    assert!(started.elapsed() < 10 * timeout, "{:?}", started.elapsed());
    fails_with(scene.medium.check().await, ErrorKind::Unavailable);
}

pub(crate) async fn a_broken_connection_is_unavailable(i: &dyn Instance) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let closing = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let medium = i.open(&url, network(PATIENCE)).await.unwrap();
    fails_with(medium.send(&message(vec![rotated(1)])).await, ErrorKind::Unavailable);
    fails_with(medium.check().await, ErrorKind::Unavailable);
    closing.abort();
}

pub(crate) async fn a_server_that_is_not_there_is_unavailable(i: &dyn Instance) {
    // Nobody listens there: the port of the discard service.
    let medium = i.open("http://127.0.0.1:9", network(PATIENCE)).await.unwrap();
    let error = fails_with(medium.send(&message(vec![rotated(1)])).await, ErrorKind::Unavailable);
    assert_eq!(error.reason, "Unreachable");
    fails_with(medium.check().await, ErrorKind::Unavailable);
}

pub(crate) async fn a_server_with_an_unknown_certificate_is_not_told_anything(i: &dyn Instance) {
    let stranger = Stranger::start().await;
    let medium = i.open(&stranger.url, network(PATIENCE)).await.unwrap();
    let error = fails_with(medium.send(&message(vec![rotated(1)])).await, ErrorKind::Unavailable);
    assert!(error.message.to_lowercase().contains("cert"), "{error}");
    fails_with(medium.check().await, ErrorKind::Unavailable);
}

pub(crate) async fn redirects_are_not_followed(i: &dyn Instance) {
    let (scene, elsewhere) = (scene(i).await, scene(i).await);
    for status in [301, 302, 307, 308] {
        let location = format!("{}/{CANARY}", elsewhere.stage.url());
        scene.stage.always(ResponseTemplate::new(status).insert_header("Location", location.as_str()));
        let error = fails_with(scene.send(vec![rotated(1)]).await, ErrorKind::Denied);
        assert_eq!(error.reason, "Redirected", "{error}");
    }
    assert_eq!(elsewhere.stage.requests().await.len(), 0);
}

pub(crate) async fn a_name_that_leads_home_is_the_channels_fault(i: &dyn Instance) {
    let strict = Network { allow_local: false, ..network(PATIENCE) };
    let medium = i.open("https://localhost:9", strict).await.unwrap();
    let error = fails_with(medium.send(&message(vec![rotated(1)])).await, ErrorKind::Denied);
    assert_eq!(error.reason, "InvalidEndpoint", "{error}");
}

pub(crate) async fn a_wrong_credential_is_denied(i: &dyn Instance) {
    let scene = scene(i).await;
    scene.stage.always(i.wrong_credential());
    fails_with(scene.send(vec![rotated(1)]).await, ErrorKind::Denied);
    if i.check_proves_credential() {
        fails_with(scene.medium.check().await, ErrorKind::Denied);
    }
}

pub(crate) async fn the_check_tells_nobody_anything(i: &dyn Instance) {
    let scene = scene(i).await;
    scene.medium.check().await.unwrap();
    let requests = scene.stage.requests().await;
    assert!(!requests.is_empty(), "nothing was checked");
    assert!(!requests.iter().any(|request| i.tells(request)));
}

pub(crate) async fn hostile_texts_are_only_text(i: &dyn Instance) {
    for letter in hostile() {
        let scene = scene(i).await;
        let text = letter.text("prod-eu", message(vec![]).now);
        let owner = text.facts.iter().find(|fact| fact.name == "Owner").expect("it has one").value.clone();
        scene.send(vec![letter]).await.unwrap();
        let seen = scene.seen(i).await.join("\n");
        // As it was written, though it may be cut: nothing was taken for markup.
        let start: String = owner.chars().take(30).collect();
        assert!(seen.contains(&start), "{start:?} is not in {seen:?}");
    }
    if i.medium().folds() {
        let scene = scene(i).await;
        scene.send(hostile()).await.unwrap();
        assert_eq!(scene.stage.requests().await.len(), 1);
    }
}

pub(crate) async fn a_digest_names_every_account(i: &dyn Instance) {
    if !i.medium().folds() {
        return;
    }
    for count in [2, 3, 50, 200] {
        let scene = scene(i).await;
        scene.send((0..count).map(rotated).collect()).await.unwrap();
        assert_eq!(scene.stage.requests().await.len(), 1, "{count} letters are one message");
        let seen = scene.seen(i).await.join("\n");
        assert!(seen.contains(&format!("{count} notices")), "{seen}");
        let missing = (0..count).filter(|number| !names(&seen, &format!("shop/cart-{number}"))).count();
        assert_eq!(missing, 0, "of {count} accounts in {seen}");
    }
}

/// Whether a whole name is in a text: `cart-1` is not in `cart-10`.
fn names(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| !text[at + name.len()..].starts_with(|c: char| c.is_ascii_alphanumeric()))
}
