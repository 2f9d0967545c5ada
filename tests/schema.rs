//! What the API server takes and refuses, and the words in which it says so: every rule of the schema on a real API
//! server, and the YAML that we ship and print in the README.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use kube::Error;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use serde_json::{Map, Value, json};
use virtual_account_operator::api::{VirtualAccount, crds, yaml};

#[path = "support/plane.rs"]
mod plane;
use plane::Plane;

#[path = "schema/stores.rs"]
mod stores;

#[path = "schema/channels.rs"]
mod channels;

/// A name that the rule refuses, on an account that is older than the rule.
const ODD_NAME: &str = "x";
const NAME_RULE: &str = "metadata.name must have 3 to 36 characters: lower-case letters, digits and '-', a letter \
                         first, a letter or digit last";

/// The plane with our definition and one account that was made under an earlier one, without the name rule.
static PLANE: LazyLock<&'static Plane> = LazyLock::new(|| {
    let plane = Plane::shared();
    let mut earlier = crds().remove(0);
    for version in &mut earlier.spec.versions {
        let schema = version.schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
        schema.x_kubernetes_validations = None;
    }
    plane.install(&serde_json::to_string(&earlier).unwrap());
    plane.kubectl_ok(&["create", "-f", "-"], Some(&account(ODD_NAME, json!({})).to_string()));
    plane.install(&yaml().unwrap());
    // Here, once: two that apply the same at the same time get in each other's way.
    install_rights(plane);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let output =
            plane.kubectl(&["create", "--dry-run=server", "-f", "-"], Some(&account("ab", json!({})).to_string()));
        if String::from_utf8_lossy(&output.stderr).contains(NAME_RULE) {
            break plane;
        }
        assert!(Instant::now() < deadline, "the definition's update is not served: {output:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
});

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn permission(number: usize) -> Value {
    json!({"resourceFqn": format!("fqn-{number}"), "resourceType": "dataset", "roleId": "reader"})
}

/// A valid account, with these fields added to its spec.
fn account(name: &str, more: Value) -> Value {
    let mut spec = json!({"permissions": [permission(0)]});
    let Value::Object(more) = more else { panic!("an object") };
    spec.as_object_mut().unwrap().extend(more);
    json!({
        "apiVersion": "virtualaccounts.dev/v1alpha1",
        "kind": "VirtualAccount",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    })
}

/// Accounts as they are on the wire, so that a test can send what our types cannot say.
async fn accounts() -> Api<DynamicObject> {
    Api::default_namespaced_with(PLANE.client().await, &ApiResource::erase::<VirtualAccount>(&()))
}

async fn create(api: &Api<DynamicObject>, account: &Value, dry_run: bool) -> Result<DynamicObject, String> {
    let account = serde_json::from_value(account.clone()).unwrap();
    told(api.create(&PostParams { dry_run, ..PostParams::default() }, &account).await)
}

async fn replace_status(api: &Api<DynamicObject>, name: &str, status: Value) -> Result<DynamicObject, String> {
    let mut account = api.get(name).await.unwrap();
    account.data["status"] = status;
    told(api.replace_status(name, &PostParams::default(), &account).await)
}

/// What the user is told.
fn told(answer: Result<DynamicObject, Error>) -> Result<DynamicObject, String> {
    answer.map_err(|error| match error {
        Error::Api(status) => status.message.clone(),
        other => panic!("{other}"),
    })
}

/// Each of these specs is refused in these words.
async fn refused(table: Vec<(Value, &str)>) {
    let api = accounts().await;
    for (spec, words) in table {
        let shown: String = spec.to_string().chars().take(120).collect();
        match create(&api, &account("sample", spec), true).await {
            Err(message) => assert!(message.contains(words), "{shown}: {message}"),
            Ok(_) => panic!("{shown} was accepted"),
        }
    }
}

/// Each of these specs is accepted, and kept as it is.
async fn accepted(table: Vec<Value>) {
    let api = accounts().await;
    for spec in table {
        let sent = account("sample", spec);
        match create(&api, &sent, true).await {
            Ok(answer) => assert_eq!(answer.data["spec"], sent["spec"], "the spec has no defaults"),
            Err(message) => panic!("{}: {message}", sent["spec"]),
        }
    }
}

fn rotate(interval: impl Into<Value>) -> Value {
    json!({"autoRotate": {"autoRotateInterval": interval.into()}})
}

fn grace(period: impl Into<Value>) -> Value {
    json!({"autoRotate": {"gracePeriod": period.into()}})
}

fn secret(field: &str, value: Value) -> Value {
    json!({"tokenSecret": Map::from_iter([(field.to_owned(), value)])})
}

fn keyed(field: &str, key: &str, value: &str) -> Value {
    secret(field, Value::Object(Map::from_iter([(key.to_owned(), value.into())])))
}

#[tokio::test]
async fn names_follow_the_rule() {
    let api = accounts().await;
    let long = "a".repeat(36);
    for name in ["abc", "a-1", "a1b", &long] {
        assert!(create(&api, &account(name, json!({})), true).await.is_ok(), "{name}");
    }
    let longer = "a".repeat(37);
    for name in ["ab", &longer, "1abc", "a.bc", "Abc", "abc-", "-abc"] {
        let message = create(&api, &account(name, json!({})), true).await.unwrap_err();
        assert!(message.contains(NAME_RULE), "{name}: {message}");
    }
}

#[tokio::test]
async fn permissions_are_bounded_and_unique() {
    let spec = |permissions: Vec<Value>| json!({ "permissions": permissions });
    let with = |field: &str, value: &str| {
        let mut one = permission(0);
        one[field] = value.into();
        spec(vec![one])
    };
    let words = |length: usize| "x".repeat(length);
    accepted(vec![
        spec((0..256).map(permission).collect()),
        with("resourceFqn", &words(128)),
        with("resourceType", &words(64)),
        with("roleId", &words(64)),
    ])
    .await;
    refused(vec![
        (spec(vec![]), "spec.permissions in body should have at least 1 items"),
        (spec((0..257).map(permission).collect()), "spec.permissions: Too many: 257: must have at most 256 items"),
        (
            spec(vec![permission(1), permission(2), permission(1)]),
            "spec.permissions: Invalid value: the same permission is listed twice; remove one of them",
        ),
        (with("resourceFqn", ""), "spec.permissions[0].resourceFqn in body should be at least 1 chars long"),
        (with("resourceType", ""), "spec.permissions[0].resourceType in body should be at least 1 chars long"),
        (with("roleId", ""), "spec.permissions[0].roleId in body should be at least 1 chars long"),
        (with("resourceFqn", &words(129)), "spec.permissions[0].resourceFqn: Too long: may not be more than 128"),
        (with("resourceType", &words(65)), "spec.permissions[0].resourceType: Too long: may not be more than 64"),
        (with("roleId", &words(65)), "spec.permissions[0].roleId: Too long: may not be more than 64"),
        (spec(vec![json!({"resourceFqn": "a", "resourceType": "b"})]), "spec.permissions[0].roleId: Required value"),
        (json!({"permissions": null}), "spec.permissions: Required value"),
    ])
    .await;
}

#[tokio::test]
async fn dates_are_real() {
    const DATE: &str = "must be a real date, yyyy-mm-dd, for example 2027-02-28";
    let date = |text: &str| json!({"expirationDate": text});
    accepted(vec![date("2027-02-28"), date("2028-02-29"), date("9999-12-31")]).await;
    refused(vec![
        (date("2027-02-30"), DATE),
        (date("2027-02-29"), DATE),
        (date("2027-13-01"), DATE),
        (date("0000-00-00"), DATE),
        (date("2027-2-3"), DATE),
        (date("27-02-03"), DATE),
        (date("03/02/2027"), DATE),
        (date("tomorrow"), DATE),
        (date(""), DATE),
        (date("2027-02-03T00:00:00Z"), "spec.expirationDate: Too long: may not be more than 10 bytes"),
        (json!({"expirationDate": 20_270_203}), "spec.expirationDate in body must be of type string"),
    ])
    .await;
}

#[tokio::test]
async fn intervals_and_graces_are_days_or_durations() {
    const PATTERN: &str = "in body should match '^[1-9][0-9]{0,4}[mhd]$'";
    accepted(vec![
        rotate(30),
        rotate(3650),
        rotate("1m"),
        rotate("12h"),
        rotate("99999d"),
        grace(1),
        grace("30m"),
        json!({"autoRotate": {}}),
    ])
    .await;
    let low = "spec.autoRotate.autoRotateInterval in body should be greater than or equal to 30";
    let mut table = vec![
        (rotate(29), low),
        (rotate(0), low),
        (rotate(-90), low),
        (rotate(3651), "spec.autoRotate.autoRotateInterval in body should be less than or equal to 3650"),
        (rotate(30.5), "must be of type integer,string"),
        (rotate(true), "must be of type integer,string"),
        (rotate("100000d"), "Too long: may not be more than 6 bytes"),
        (rotate("99999999999999999999h"), "Too long: may not be more than 6 bytes"),
        (grace(0), "spec.autoRotate.gracePeriod in body should be greater than or equal to 1"),
        (grace(3651), "spec.autoRotate.gracePeriod in body should be less than or equal to 3650"),
    ];
    for text in ["1w", "0d", "01d", "-1d", "1h-5m", "90", "1.5d", "1 d", "30s", "0s", ""] {
        table.push((rotate(text), PATTERN));
        table.push((grace(text), PATTERN));
    }
    refused(table).await;
}

#[tokio::test]
async fn audiences_and_revoked_ids_are_sets() {
    let audiences = |list: &[&str]| json!({ "audiences": list });
    let revoked = |count: usize| json!({"revokedJwtIds": (0..count).map(|n| n.to_string()).collect::<Vec<_>>()});
    let long = "a".repeat(257);
    accepted(vec![audiences(&["b", "a"]), revoked(0), revoked(64)]).await;
    refused(vec![
        (audiences(&[]), "spec.audiences in body should have at least 1 items"),
        (audiences(&["a", "b", "a"]), "spec.audiences: Invalid value: the same audience is listed twice; remove one"),
        (audiences(&[""]), "spec.audiences[0] in body should be at least 1 chars long"),
        (audiences(&[&long]), "spec.audiences[0]: Too long: may not be more than 256 bytes"),
        (audiences(&["a"; 17]), "spec.audiences: Too many: 17: must have at most 16 items"),
        (revoked(65), "spec.revokedJwtIds: Too many: 65: must have at most 64 items"),
        (json!({"revokedJwtIds": ["a", "a"]}), "spec.revokedJwtIds[1]: Duplicate value: \"a\""),
        (json!({"revokedJwtIds": [""]}), "spec.revokedJwtIds[0] in body should be at least 1 chars long"),
    ])
    .await;
}

#[tokio::test]
async fn labels_and_annotations_of_others_are_refused() {
    const RESERVED: &str = "reserved are virtualaccounts.dev/, argocd.argoproj.io/, *.toolkit.fluxcd.io/, \
                            kubernetes.io/, kubectl.kubernetes.io/, app.kubernetes.io/managed-by and \
                            app.kubernetes.io/instance; remove such keys";
    const LABEL: &str = "spec.tokenSecret.labels: Invalid value: each key and value must be valid for a label";
    const ANNOTATION: &str = "spec.tokenSecret.annotations: Invalid value: each key must be valid for an annotation";
    let reserved = [
        "virtualaccounts.dev/account",
        "argocd.argoproj.io/instance",
        "kustomize.toolkit.fluxcd.io/name",
        "helm.toolkit.fluxcd.io/namespace",
        "kubernetes.io/service-account.name",
        "kubectl.kubernetes.io/last-applied-configuration",
        "app.kubernetes.io/managed-by",
        "app.kubernetes.io/instance",
    ];
    accepted(vec![
        keyed("labels", "app.kubernetes.io/name", "payments"),
        keyed("labels", "A_b.c", ""),
        keyed("annotations", "example.com/docs", "https://example.com/?any text: goes"),
    ])
    .await;
    let mut table = vec![
        (keyed("labels", "a", "b c"), LABEL),
        (keyed("labels", "a", &"b".repeat(64)), "spec.tokenSecret.labels.a: Too long: may not be more than 63"),
        (keyed("annotations", "a", &"b".repeat(4097)), "Too long: may not be more than 4096"),
        (
            secret("labels", (0..33).map(|n| (format!("l{n}"), "x".into())).collect::<Map<_, _>>().into()),
            "spec.tokenSecret.labels: Too many: 33: must have at most 32 items",
        ),
    ];
    for key in reserved {
        table.push((keyed("labels", key, "x"), RESERVED));
        table.push((keyed("annotations", key, "x"), RESERVED));
    }
    let long = "x".repeat(64);
    for key in ["", "-a", "a b", "a/b/c", "/a", &long] {
        table.push((keyed("labels", key, "x"), LABEL));
        table.push((keyed("annotations", key, "x"), ANNOTATION));
    }
    refused(table).await;
}

#[tokio::test]
async fn paths_in_stores_are_plain_and_named_once() {
    let store = |path: &str| json!({"storeRef": {"name": "vault"}, "secretPath": path});
    let at = |path: &str| json!({"secretStores": [store(path)]});
    let many: Vec<Value> = (0..9).map(|number| store(&format!("/a/{number}"))).collect();
    accepted(vec![
        at("token"),
        at("/team/app_1/token-2"),
        json!({"secretStores": []}),
        json!({"tokenSecret": {"enabled": false}, "secretStores": [store("/a/b")]}),
        json!({"secretStores": [store("/a/b"), {"storeRef": {"name": "vault", "namespace": "p"}, "secretPath": "/a/b"}]}),
    ])
    .await;
    let plain = "must have letters, digits, '-', '_' and '/' only, and start with '/' if it has one inside";
    refused(vec![
        (at("team/app"), plain),
        (at("/team//app"), plain),
        (at("/team/app/"), plain),
        (at("/team/../app"), plain),
        (at("/team/app token"), plain),
        (at(""), "secretPath"),
        (json!({"secretStores": [store("/a/b"), store("/a/b")]}), "listed twice; remove one of them"),
        (json!({"secretStores": many}), "must have at most 8 items"),
        (json!({"tokenSecret": {"enabled": false}}), "needs a store: name one in secretStores, or remove the field"),
        (json!({"tokenSecret": {"enabled": false}, "secretStores": []}), "needs a store"),
        (json!({"secretStores": [{"secretPath": "/a/b"}]}), "storeRef"),
    ])
    .await;
}

#[tokio::test]
async fn the_rest_of_the_spec_is_bounded() {
    const NAME: &str = "spec.tokenSecret.name in body should match";
    accepted(vec![
        secret("name", json!("a.b-c")),
        secret("deletionPolicy", json!("Retain")),
        json!({"ownedBy": {"team": "payments"}, "disabled": true, "suspend": true, "description": ""}),
    ])
    .await;
    refused(vec![
        (secret("name", json!("Token")), NAME),
        (secret("name", json!("-a")), NAME),
        (secret("name", json!("a_b")), NAME),
        (secret("name", json!("a..b")), NAME),
        (secret("name", json!("")), "spec.tokenSecret.name in body should be at least 1 chars long"),
        (secret("name", json!("a".repeat(254))), "spec.tokenSecret.name: Too long: may not be more than 253"),
        (
            secret("deletionPolicy", json!("Keep")),
            "Unsupported value: \"Keep\": supported values: \"Delete\", \"Retain\"",
        ),
        (json!({"ownedBy": {}}), "spec.ownedBy.team: Required value"),
        (json!({"ownedBy": {"team": ""}}), "spec.ownedBy.team in body should be at least 1 chars long"),
        (json!({"description": "x".repeat(1025)}), "spec.description: Too long: may not be more than 1024"),
        (json!({"disabled": "yes"}), "spec.disabled in body must be of type boolean"),
    ])
    .await;
}

#[tokio::test]
async fn a_null_is_the_same_as_nothing() {
    let fields = ["expirationDate", "autoRotate", "ownedBy", "tokenSecret", "audiences", "disabled", "revokedJwtIds"];
    let nulls: Map<String, Value> = fields.iter().map(|field| ((*field).to_owned(), Value::Null)).collect();
    let answer = create(&accounts().await, &account("sample", nulls.into()), true).await.unwrap();
    assert_eq!(answer.data["spec"], account("sample", json!({}))["spec"]);
}

#[test]
fn unknown_fields_are_named() {
    for (spec, field) in [
        (json!({"permisions": []}), "unknown field \"spec.permisions\""),
        (secret("enable", json!(false)), "unknown field \"spec.tokenSecret.enable\""),
        (json!({"notificationTarget": []}), "unknown field \"spec.notificationTarget\""),
    ] {
        let output =
            PLANE.kubectl(&["create", "--dry-run=server", "-f", "-"], Some(&account("sample", spec).to_string()));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(field), "{message}");
    }
}

fn entry(id: &str) -> Value {
    json!({
        "id": id, "keyId": "k", "issuer": "https://va.example.com", "audiences": ["a", "b"],
        "issuedAt": "2026-11-22T08:30:00Z", "expiresAt": "2027-11-22T08:30:00Z", "grace": "7d",
        "reason": "First", "phase": "Pending",
    })
}

#[tokio::test]
async fn a_ledger_entry_changes_its_phase_and_the_end_of_its_grace_only() {
    let api = accounts().await;
    create(&api, &account("ledger", json!({})), false).await.unwrap();
    let put = async |jwts: Vec<Value>| replace_status(&api, "ledger", json!({ "jwts": jwts })).await;
    put(vec![entry("a")]).await.unwrap();
    for (field, value) in [
        ("keyId", json!("other")),
        ("issuer", json!("https://other.example.com")),
        ("audiences", json!(["a"])),
        ("audiences", json!(["b", "a"])),
        ("issuedAt", json!("2026-11-22T08:30:01Z")),
        ("expiresAt", json!("2027-11-22T08:30:01Z")),
        ("grace", json!("0s")),
        ("reason", json!("Adopted")),
    ] {
        let mut changed = entry("a");
        changed[field] = value;
        let message = put(vec![entry("b"), changed]).await.unwrap_err();
        let words = "status.jwts: Invalid value: a ledger entry never changes, but for its phase and graceEndsAt";
        assert!(message.contains(words), "{field}: {message}");
    }
    let mut superseded = entry("a");
    superseded["phase"] = "Superseded".into();
    superseded["graceEndsAt"] = "2026-12-01T00:00:00Z".into();
    put(vec![entry("b"), superseded]).await.unwrap();
    put(vec![entry("b")]).await.unwrap();
}

#[tokio::test]
async fn a_ledger_holds_ten_well_formed_entries() {
    let api = accounts().await;
    create(&api, &account("full-ledger", json!({})), false).await.unwrap();
    let put = async |jwts: Vec<Value>| replace_status(&api, "full-ledger", json!({ "jwts": jwts })).await;
    put((0..10).map(|n| entry(&n.to_string())).collect()).await.unwrap();
    let mut short = entry("a");
    short.as_object_mut().unwrap().remove("grace");
    let with = |field: &str, value: &str| {
        let mut entry = entry("a");
        entry[field] = value.into();
        vec![entry]
    };
    for (jwts, words) in [
        ((0..11).map(|n| entry(&n.to_string())).collect(), "status.jwts: Too many: 11: must have at most 10 items"),
        (vec![entry("a"), entry("a")], "status.jwts[1]: Duplicate value: {\"id\":\"a\"}"),
        (vec![short], "status.jwts[0].grace: Required value"),
        (with("phase", "Retired"), "status.jwts[0].phase: Unsupported value: \"Retired\""),
        (with("issuedAt", "2026-11-22T08:30:00+01:00"), "status.jwts[0].issuedAt"),
        (with("issuedAt", "2026-11-32T08:30:00Z"), "status.jwts[0].issuedAt"),
        (with("grace", "1w"), "status.jwts[0].grace"),
    ] {
        let message = put(jwts).await.unwrap_err();
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[tokio::test]
async fn a_new_account_says_that_nobody_has_seen_it() {
    let api = accounts().await;
    let fresh = json!({"observedGeneration": -1});
    let answer = create(&api, &account("unseen", json!({})), false).await.unwrap();
    assert_eq!(answer.data["status"], fresh);
    replace_status(&api, "unseen", json!({"observedGeneration": 1})).await.unwrap();
    assert_eq!(replace_status(&api, "unseen", Value::Null).await.unwrap().data["status"], fresh, "a lost status");
}

#[tokio::test]
async fn the_name_rule_does_not_hinder_accounts_that_are_older() {
    let api = accounts().await;
    let status = json!({"observedGeneration": 1, "jwts": [entry("a")]});
    let answer = replace_status(&api, ODD_NAME, status.clone()).await.unwrap();
    assert_eq!(answer.data["status"], status);
    let mut changed = answer;
    changed.data["spec"]["description"] = "edited".into();
    let changed = told(api.replace(ODD_NAME, &PostParams::default(), &changed).await).unwrap();
    assert_eq!(changed.metadata.generation, Some(2), "its spec can be edited too");
}

#[tokio::test]
async fn lists_show_what_matters() {
    let namespace = PLANE.namespace("columns");
    let mut account = account("columns", json!({"ownedBy": {"team": "payments"}}));
    account["metadata"]["namespace"] = namespace.as_str().into();
    PLANE.kubectl_ok(&["create", "-f", "-"], Some(&account.to_string()));
    let api: Api<DynamicObject> =
        Api::namespaced_with(PLANE.client().await, &namespace, &ApiResource::erase::<VirtualAccount>(&()));
    let status = json!({
        "conditions": [{"type": "Ready", "status": "True", "reason": "Delivered", "message": "",
            "lastTransitionTime": "2026-11-22T08:30:00Z"}],
        "rotation": "90d", "nextScheduledRotation": "2999-01-01T00:00:00Z", "expiresAt": "2999-02-01T00:00:00Z",
        "jwtId": "an-id",
    });
    replace_status(&api, "columns", status).await.unwrap();
    let lines = |more: &[&str]| {
        let text = PLANE.kubectl_ok(&[&["get", "va", "-n", &namespace], more].concat(), None);
        text.lines()
            .map(|line| line.split("   ").map(str::trim).filter(|c| !c.is_empty()).map(String::from).collect())
            .collect::<Vec<Vec<_>>>()
    };
    let short = lines(&[]);
    assert_eq!(short[0], ["NAME", "READY", "REASON", "ROTATION", "NEXT ROTATION", "EXPIRES", "AGE"]);
    let row = ["columns", "True", "Delivered", "90d", "2999-01-01T00:00:00Z", "2999-02-01T00:00:00Z"];
    assert_eq!(short[1][..6], row, "a future date is shown as it is");
    let wide = lines(&["-o", "wide"]);
    assert_eq!(wide[0][7..], ["JWT ID", "OWNER", "NOTIFIED"]);
    assert_eq!(wide[1][7..], ["an-id", "payments"]);
    let all = PLANE.kubectl_ok(&["get", "all", "-n", &namespace], None);
    assert!(all.contains("virtualaccount.virtualaccounts.dev/columns"), "{all}");
}

#[test]
fn the_fields_explain_themselves() {
    for (field, words) in [
        ("va.spec.disabled", "verifies offline, with the JWKS alone, cannot know"),
        ("va.spec.revokedJwtIds", "verifies offline, with the JWKS alone, cannot know"),
        ("va.spec.autoRotate.gracePeriod", "Default: 30 days"),
        ("va.spec.tokenSecret.deletionPolicy", "Delete (the default)"),
        ("va.status.jwts.phase", "Superseded: every target holds a newer one"),
    ] {
        let text = PLANE.kubectl_ok(&["explain", field], None);
        let flowing = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flowing.contains(words), "{field}: {text}");
    }
}

/// The fenced YAML blocks of a document that declare accounts, and what goes with them.
fn declared(document: &str) -> Vec<String> {
    let blocks = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let kinds =
        ["VirtualAccount", "TokenStore", "NotificationChannel", "RoleBinding"].map(|kind| format!("kind: {kind}\n"));
    let ours = |block: &&str| kinds.iter().any(|kind| block.contains(kind));
    blocks.filter(ours).map(str::to_owned).collect()
}

#[test]
fn shipped_yaml_is_accepted() {
    let apply = |yaml: &str| {
        let namespaces = yaml.lines().filter_map(|line| line.strip_prefix("  namespace: "));
        for namespace in namespaces {
            // It may be there already.
            PLANE.kubectl(&["create", "namespace", namespace], None);
        }
        PLANE.kubectl_ok(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], Some(yaml));
    };
    let samples = fs::read_dir(root().join("config/samples")).unwrap().map(|entry| entry.unwrap().path());
    // What is in folders has tests of its own.
    let samples = samples.filter(|path| path.is_file() && !path.ends_with("kustomization.yaml"));
    let samples: Vec<PathBuf> = samples.collect();
    assert_eq!(samples.len(), 13);
    for sample in &samples {
        apply(&fs::read_to_string(sample).unwrap());
    }
    together(&samples);
    let pages = fs::read_dir(root().join("docs/notifications")).unwrap().map(|entry| entry.unwrap().path());
    for page in pages.chain(["README.md", "docs/kubernetes-authentication.md"].map(|page| root().join(page))) {
        let blocks = declared(&fs::read_to_string(&page).unwrap());
        assert!(!blocks.is_empty(), "{}", page.display());
        for block in blocks {
            apply(&block);
        }
    }
    let definitions = PLANE.kubectl_ok(&["kustomize", &root().join("config/crd").display().to_string()], None);
    PLANE.kubectl_ok(
        &["apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-"],
        Some(&definitions),
    );
}

/// The samples' kustomization has all that people declare in a namespace of theirs, and nothing cluster-wide.
fn together(samples: &[PathBuf]) {
    let folder = root().join("config/samples");
    let objects = |yaml: &str| yaml.matches("\nkind: ").count();
    let (mut expected, mut count) = (Vec::new(), 0);
    for sample in samples {
        let yaml = fs::read_to_string(sample).unwrap();
        if yaml.contains("\napiVersion: virtualaccounts.dev/") {
            expected.push(sample.file_name().unwrap().to_str().unwrap().to_owned());
            count += objects(&yaml);
        }
    }
    let kustomization = fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
    let mut listed: Vec<_> = kustomization.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    let folder = folder.display().to_string();
    let said = PLANE.kubectl_ok(&["apply", "--dry-run=server", "--validate=strict", "-k", &folder], None);
    assert_eq!(said.lines().count(), count, "{said}");
    assert!(said.contains("tokenstore.virtualaccounts.dev/vault created"), "{said}");
}

fn install_rights(plane: &Plane) {
    for file in ["namespace.yaml", "serviceaccount.yaml", "rbac.yaml"] {
        plane.kubectl_ok(&["apply", "-f", &root().join("config/default").join(file).display().to_string()], None);
    }
}

#[test]
fn the_shipped_role_allows_what_the_operator_does_and_no_more() {
    let operator = "--as=system:serviceaccount:virtual-accounts:virtual-account-operator";
    for (allowed, verb, resource) in [
        (true, "watch", "virtualaccounts.virtualaccounts.dev"),
        (true, "update", "virtualaccounts.virtualaccounts.dev/status"),
        (true, "create", "secrets"),
        (true, "delete", "secrets"),
        (true, "create", "events.events.k8s.io"),
        (true, "create", "tokenreviews.authentication.k8s.io"),
        (true, "create", "subjectaccessreviews.authorization.k8s.io"),
        (true, "patch", "virtualaccounts.virtualaccounts.dev"),
        (true, "watch", "tokenstores.virtualaccounts.dev"),
        (true, "update", "tokenstores.virtualaccounts.dev"),
        (true, "update", "tokenstores.virtualaccounts.dev/status"),
        (true, "list", "notificationchannels.virtualaccounts.dev"),
        (true, "watch", "notificationchannels.virtualaccounts.dev"),
        (true, "update", "notificationchannels.virtualaccounts.dev/status"),
        (false, "update", "notificationchannels.virtualaccounts.dev"),
        (false, "patch", "notificationchannels.virtualaccounts.dev/status"),
        (true, "watch", "namespaces"),
        (false, "update", "virtualaccounts.virtualaccounts.dev"),
        (false, "create", "tokenstores.virtualaccounts.dev"),
        (false, "patch", "tokenstores.virtualaccounts.dev"),
        (false, "update", "namespaces"),
        (false, "patch", "virtualaccounts.virtualaccounts.dev/status"),
        (false, "patch", "secrets"),
        (false, "deletecollection", "secrets"),
        (false, "get", "configmaps"),
        (false, "create", "pods"),
        (false, "create", "serviceaccounts/token"),
        (false, "create", "introspections.virtualaccounts.dev"),
    ] {
        let (kind, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let subresource = format!("--subresource={subresource}");
        let output = PLANE.kubectl(&["auth", "can-i", verb, kind, &subresource, "-A", operator], None);
        let answer = String::from_utf8_lossy(&output.stdout).trim() == "yes";
        assert_eq!(answer, allowed, "{verb} {resource}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
