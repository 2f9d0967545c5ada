//! TokenStores: every rule of their schema, and what lists and `kubectl explain` show.

use std::time::{Duration, Instant};

use kube::api::{Api, ApiResource, DynamicObject};
use serde_json::{Map, Value, json};
use virtual_account_operator::api::TokenStore;

use super::{PLANE, create, replace_status};

async fn stores(namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(PLANE.client().await, namespace, &ApiResource::erase::<TokenStore>(&()))
}

/// Providers but Vault.
const OTHERS: [&str; 4] = ["awsSecretsManager", "awsParameterStore", "googleSecretManager", "azureKeyVault"];

/// A valid store, with these fields added to its spec.
fn store(name: &str, more: Value) -> Value {
    let mut spec = json!({});
    let Value::Object(more) = more else { panic!("an object") };
    if !OTHERS.iter().any(|other| more.contains_key(*other)) {
        spec = vault(json!({}));
    }
    spec.as_object_mut().unwrap().extend(more);
    json!({
        "apiVersion": "virtualaccounts.dev/v1alpha1",
        "kind": "TokenStore",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    })
}

/// A spec for Vault, with these fields changed.
fn vault(more: Value) -> Value {
    let mut vault = json!({"address": "https://vault.vault.svc:8200", "auth": {"tokenRef": {"name": "a", "key": "b"}}});
    merge(&mut vault, more);
    json!({ "hashicorpVault": vault })
}

/// A spec for AWS Secrets Manager, with these fields changed.
fn aws(more: Value) -> Value {
    let mut aws = json!({"region": "eu-central-1"});
    merge(&mut aws, more);
    json!({ "awsSecretsManager": aws })
}

/// A spec for AWS Parameter Store, with these fields changed.
fn parameters(more: Value) -> Value {
    let mut aws = json!({"region": "eu-central-1"});
    merge(&mut aws, more);
    json!({ "awsParameterStore": aws })
}

/// A spec for Google Secret Manager, with these fields changed.
fn google(more: Value) -> Value {
    let mut google = json!({"projectId": "some-project"});
    merge(&mut google, more);
    json!({ "googleSecretManager": google })
}

/// A spec for Azure Key Vault with a client secret, with these fields changed.
fn azure(more: Value) -> Value {
    let mut azure = json!({
        "vaultUrl": "https://tokens.vault.azure.net",
        "tenantId": "00000000-0000-0000-0000-000000000001",
        "clientId": "00000000-0000-0000-0000-000000000002",
        "auth": {"secretRef": {"name": "a", "key": "b"}},
    });
    merge(&mut azure, more);
    json!({ "azureKeyVault": azure })
}

fn merge(object: &mut Value, more: Value) {
    let Value::Object(more) = more else { panic!("an object") };
    object.as_object_mut().unwrap().extend(more);
}

fn auth(auth: &Value) -> Value {
    vault(json!({ "auth": auth }))
}

fn prefix(text: &str) -> Value {
    json!({"pathPrefix": text})
}

fn allowed(allowed: &Value) -> Value {
    json!({"allowedNamespaces": allowed, "pathPrefix": "/{namespace}/"})
}

/// Each of these specs is refused in these words.
async fn refused(table: Vec<(Value, &str)>) {
    let api = stores("default").await;
    for (spec, words) in table {
        let shown: String = spec.to_string().chars().take(120).collect();
        match create(&api, &store("sample", spec), true).await {
            Err(message) => assert!(message.contains(words), "{shown}: {message}"),
            Ok(_) => panic!("{shown} was accepted"),
        }
    }
}

/// Each of these specs is accepted, and kept as it is.
async fn accepted(table: Vec<Value>) {
    let api = stores("default").await;
    for spec in table {
        let sent = store("sample", spec);
        match create(&api, &sent, true).await {
            Ok(answer) => assert_eq!(answer.data["spec"], sent["spec"], "the spec has no defaults"),
            Err(message) => panic!("{}: {message}", sent["spec"]),
        }
    }
}

#[tokio::test]
async fn a_store_has_exactly_one_provider() {
    const ONE: &str = "spec: Invalid value: name exactly one provider";
    let mut both = aws(json!({}));
    merge(&mut both, vault(json!({})));
    let mut aws_twice = aws(json!({}));
    merge(&mut aws_twice, parameters(json!({})));
    let mut clouds = aws(json!({}));
    merge(&mut clouds, google(json!({})));
    accepted(vec![vault(json!({})), aws(json!({})), parameters(json!({}))]).await;
    accepted(vec![google(json!({})), azure(json!({}))]).await;
    refused(vec![(json!({"hashicorpVault": null}), ONE), (both, ONE), (aws_twice, ONE), (clouds, ONE)]).await;
}

#[tokio::test]
async fn a_store_for_others_has_a_prefix() {
    const NEEDED: &str = "a store that other namespaces may use needs pathPrefix, for example /{namespace}/";
    const SELECTOR: &str = "selector goes with from: Selector, and only with it";
    let labels = json!({"matchLabels": {"vault": "yes"}});
    accepted(vec![
        json!({"allowedNamespaces": {"from": "Same"}}),
        allowed(&json!({"from": "Same"})),
        allowed(&json!({"from": "All"})),
        allowed(&json!({"from": "Selector", "selector": labels})),
        allowed(&json!({"from": "Selector", "selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}})),
    ])
    .await;
    refused(vec![
        (json!({"allowedNamespaces": {"from": "All"}}), NEEDED),
        (json!({"allowedNamespaces": {"from": "Selector", "selector": labels}}), NEEDED),
        (allowed(&json!({"from": "Selector"})), SELECTOR),
        (allowed(&json!({"from": "All", "selector": labels})), SELECTOR),
        (allowed(&json!({})), "spec.allowedNamespaces.from: Required value"),
        (allowed(&json!({"from": "Some"})), "spec.allowedNamespaces.from: Unsupported value: \"Some\""),
    ])
    .await;
}

#[tokio::test]
async fn prefixes_begin_and_end_with_a_slash() {
    const PREFIX: &str = "must start and end with '/' and have letters, digits, '-', \
                          '_', '/' and {namespace} only, for example /{namespace}/";
    accepted(["/", "/a/", "/{namespace}/", "/va-{namespace}_x/B2/"].map(prefix).into()).await;
    let bad = ["", "a", "a/", "/a", "//", "/a//b/", "/{name}/", "/a b/", "/{namespace/", "/.../"];
    let mut table: Vec<_> = bad.map(|text| (prefix(text), PREFIX)).into();
    let long = format!("/{}/", "a".repeat(255));
    table.push((prefix(&long), "spec.pathPrefix: Too long: may not be more than 256"));
    refused(table).await;
}

#[tokio::test]
async fn former_owners_are_a_bounded_set() {
    let from = |list: Vec<String>| json!({ "takeOverFrom": list });
    let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    accepted(vec![from(vec![]), from(vec!["unmarked".into()]), from(names(16))]).await;
    refused(vec![
        (from(names(17)), "spec.takeOverFrom: Too many: 17: must have at most 16 items"),
        (from(vec!["a".into(), "a".into()]), "spec.takeOverFrom[1]: Duplicate value: \"a\""),
        (from(vec![String::new()]), "spec.takeOverFrom[0] in body should be at least 1 chars long"),
        (from(vec!["a".repeat(65)]), "spec.takeOverFrom[0]: Too long: may not be more than 64"),
    ])
    .await;
}

#[tokio::test]
async fn vault_has_an_address_and_one_way_to_log_in() {
    const AUTH: &str = "spec.hashicorpVault.auth: Invalid value: name exactly one of kubernetes, appRole and tokenRef";
    const ADDRESS: &str = "spec.hashicorpVault.address in body should match";
    let address = |text: &str| vault(json!({ "address": text }));
    let account = json!({"name": "vault-writer"});
    let token = json!({"name": "a", "key": "b"});
    accepted(vec![
        vault(json!({"namespace": "admin", "mount": "kv/a", "caBundle": {"name": "vault-ca", "key": "ca.crt"}})),
        auth(&json!({"kubernetes": {"role": "va", "serviceAccountRef": account, "mountPath": "k8s", "audience": "v"}})),
        auth(&json!({"appRole": {"roleId": "id", "secretIdRef": token}})),
        address("http://127.0.0.1:8200/"),
    ])
    .await;
    let mut table = vec![
        (auth(&json!({})), AUTH),
        (auth(&json!({"tokenRef": token, "appRole": {"roleId": "id", "secretIdRef": token}})), AUTH),
        (vault(json!({"auth": null})), "spec.hashicorpVault.auth: Required value"),
        (vault(json!({"address": null})), "spec.hashicorpVault.address: Required value"),
        (auth(&json!({"tokenRef": {"name": "a"}})), "spec.hashicorpVault.auth.tokenRef.key: Required value"),
        (
            auth(&json!({"tokenRef": {"name": "", "key": "b"}})),
            "spec.hashicorpVault.auth.tokenRef.name in body should be at least 1 chars long",
        ),
        (
            auth(&json!({"kubernetes": {"serviceAccountRef": account}})),
            "spec.hashicorpVault.auth.kubernetes.role: Required value",
        ),
        (
            auth(&json!({"kubernetes": {"role": "va"}})),
            "spec.hashicorpVault.auth.kubernetes.serviceAccountRef: Required value",
        ),
        (auth(&json!({"appRole": {"roleId": "id"}})), "spec.hashicorpVault.auth.appRole.secretIdRef: Required value"),
        (vault(json!({"mount": ""})), "spec.hashicorpVault.mount in body should be at least 1 chars long"),
    ];
    let addresses =
        ["vault:8200", "ftp://vault", "https://vault/v1/x", "https://user:password@vault", "https://vault?a=b", ""];
    table.extend(addresses.map(|text| (address(text), if text.is_empty() { "at least 1 chars" } else { ADDRESS })));
    refused(table).await;
}

#[tokio::test]
async fn aws_has_a_region_and_at_most_one_way_to_log_in() {
    const ONE: &str = "name exactly one of secretRef and serviceAccountRef";
    const ROLE: &str = "roleArn is needed with auth.serviceAccountRef";
    const DAYS: &str = "must be 0 or 7 to 30";
    let role = "arn:aws:iam::123456789012:role/va";
    let key = json!({"name": "a", "key": "b"});
    let keys = json!({"accessKeyId": key, "secretAccessKey": key});
    let account = json!({"serviceAccountRef": {"name": "writer"}});
    let days = |days: i64| aws(json!({ "recoveryWindowDays": days }));
    accepted(vec![
        aws(json!({"roleArn": role, "auth": account, "kmsKeyId": "alias/va", "endpoint": "https://vpce.example.com"})),
        aws(json!({"auth": {"secretRef": keys}, "stsEndpoint": "https://sts.example.com/"})),
        days(0),
        days(7),
        days(30),
    ])
    .await;
    refused(vec![
        (aws(json!({"region": null})), "spec.awsSecretsManager.region: Required value"),
        (aws(json!({"region": "EU Central"})), "spec.awsSecretsManager.region in body should match '^[a-z0-9-]+$'"),
        (aws(json!({"auth": {}})), ONE),
        (aws(json!({"auth": {"secretRef": keys, "serviceAccountRef": {"name": "a"}}, "roleArn": role})), ONE),
        (aws(json!({"auth": account})), ROLE),
        (aws(json!({"auth": {"secretRef": {"accessKeyId": key}}})), "auth.secretRef.secretAccessKey: Required value"),
        (
            aws(json!({"roleArn": "role-of-twenty-characters"})),
            "spec.awsSecretsManager.roleArn in body should match '^arn:'",
        ),
        (aws(json!({"roleArn": "arn:"})), "spec.awsSecretsManager.roleArn in body should be at least 20 chars long"),
        (aws(json!({"endpoint": "vpce"})), "spec.awsSecretsManager.endpoint in body should match"),
        (aws(json!({"stsEndpoint": "https://a/b"})), "spec.awsSecretsManager.stsEndpoint in body should match"),
        (days(1), DAYS),
        (days(6), DAYS),
        (days(31), "recoveryWindowDays in body should be less than or equal to 30"),
        (days(-1), "recoveryWindowDays in body should be greater than or equal to 0"),
    ])
    .await;
}

#[tokio::test]
async fn parameter_store_has_a_region_and_at_most_one_way_to_log_in() {
    const ONE: &str = "name exactly one of secretRef and serviceAccountRef";
    const ROLE: &str = "roleArn is needed with auth.serviceAccountRef";
    let account = json!({"serviceAccountRef": {"name": "writer"}});
    let role = "arn:aws:iam::123456789012:role/va";
    accepted(vec![
        parameters(json!({"roleArn": role, "auth": account, "kmsKeyId": "alias/va"})),
        parameters(json!({"endpoint": "https://vpce.example.com", "stsEndpoint": "https://sts.example.com/"})),
    ])
    .await;
    refused(vec![
        (parameters(json!({"region": null})), "spec.awsParameterStore.region: Required value"),
        (parameters(json!({"region": "EU"})), "spec.awsParameterStore.region in body should match '^[a-z0-9-]+$'"),
        (parameters(json!({"auth": {}})), ONE),
        (parameters(json!({"auth": account})), ROLE),
        (parameters(json!({"roleArn": "arn:"})), "spec.awsParameterStore.roleArn in body should be at least 20 chars"),
        (parameters(json!({"endpoint": "vpce"})), "spec.awsParameterStore.endpoint in body should match"),
        (parameters(json!({"stsEndpoint": "https://a/b"})), "spec.awsParameterStore.stsEndpoint in body should match"),
    ])
    .await;
}

#[tokio::test]
async fn google_has_a_project_and_at_most_one_way_to_log_in() {
    const ONE: &str = "name exactly one of secretRef and serviceAccountRef";
    const PROVIDER: &str = "workloadIdentityProvider goes with serviceAccountRef, and only with it";
    const EMAIL: &str = "serviceAccountEmail goes with serviceAccountRef only";
    let provider = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/a/providers/b";
    let key = json!({"name": "a", "key": "b"});
    let account = json!({"name": "writer"});
    let email = "writer@some-project.iam.gserviceaccount.com";
    let auth = |auth: Value| google(json!({ "auth": auth }));
    let kms = "projects/p/locations/{location}/keyRings/r/cryptoKeys/k";
    accepted(vec![
        google(json!({"projectId": "example.com:project-1", "locations": ["europe-west3"], "kmsKey": kms})),
        google(json!({"projectId": "123456789", "endpoint": "https://secretmanager-psc.p.googleapis.com"})),
        google(json!({"stsEndpoint": "https://sts.example.com/", "iamEndpoint": "https://iam.example.com"})),
        auth(json!({"secretRef": key})),
        auth(json!({"serviceAccountRef": account, "workloadIdentityProvider": provider})),
        auth(json!({
            "serviceAccountRef": account, "workloadIdentityProvider": provider, "serviceAccountEmail": email,
        })),
    ])
    .await;
    refused(vec![
        (google(json!({"projectId": null})), "spec.googleSecretManager.projectId: Required value"),
        (google(json!({"projectId": "a/b"})), "spec.googleSecretManager.projectId in body should match"),
        (google(json!({"endpoint": "psc"})), "spec.googleSecretManager.endpoint in body should match"),
        (google(json!({"stsEndpoint": "https://a/b"})), "spec.googleSecretManager.stsEndpoint in body should match"),
        (google(json!({"iamEndpoint": "https://a/b"})), "spec.googleSecretManager.iamEndpoint in body should match"),
        (google(json!({"locations": []})), "spec.googleSecretManager.locations in body should have at least 1 items"),
        (google(json!({"locations": ["a", "a"]})), "spec.googleSecretManager.locations[1]: Duplicate value"),
        (google(json!({"kmsKey": "k"})), "spec.googleSecretManager.kmsKey in body should match"),
        (auth(json!({})), ONE),
        (auth(json!({"secretRef": key, "serviceAccountRef": account, "workloadIdentityProvider": provider})), ONE),
        (auth(json!({"serviceAccountRef": account})), PROVIDER),
        (auth(json!({"secretRef": key, "workloadIdentityProvider": provider})), PROVIDER),
        (auth(json!({"secretRef": key, "serviceAccountEmail": email})), EMAIL),
        (
            auth(json!({"serviceAccountRef": account, "workloadIdentityProvider": "projects/1"})),
            "spec.googleSecretManager.auth.workloadIdentityProvider in body should match",
        ),
    ])
    .await;
}

#[test]
fn unknown_fields_of_stores_are_named() {
    for (spec, field) in [
        (json!({"prefix": "/a/"}), "unknown field \"spec.prefix\""),
        (vault(json!({"token": "x"})), "unknown field \"spec.hashicorpVault.token\""),
    ] {
        let output =
            PLANE.kubectl(&["create", "--dry-run=server", "-f", "-"], Some(&store("sample", spec).to_string()));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(field), "{message}");
    }
}

#[tokio::test]
async fn azure_has_a_vault_and_an_application_or_the_operators_own_identity() {
    const ONE: &str = "name exactly one of secretRef and serviceAccountRef";
    const APPLICATION: &str = "tenantId and clientId are needed with auth";
    const URL: &str = "spec.azureKeyVault.vaultUrl in body should match";
    let key = json!({"name": "a", "key": "b"});
    let account = json!({"serviceAccountRef": {"name": "writer"}});
    let own = json!({"azureKeyVault": {"vaultUrl": "https://tokens.vault.azure.net/"}});
    accepted(vec![
        azure(json!({"auth": account, "caBundle": key, "authorityHost": "https://login.microsoftonline.us"})),
        azure(json!({"tenantId": "example.onmicrosoft.com"})),
        own.clone(),
    ])
    .await;
    let mut elsewhere = own;
    merge(&mut elsewhere["azureKeyVault"], json!({"authorityHost": "https://login.example.com"}));
    refused(vec![
        (azure(json!({"vaultUrl": null})), "spec.azureKeyVault.vaultUrl: Required value"),
        (azure(json!({"vaultUrl": "http://tokens.vault.azure.net"})), URL),
        (azure(json!({"vaultUrl": "https://tokens.vault.azure.net/secrets/a"})), URL),
        (azure(json!({"vaultUrl": "https://me@tokens.vault.azure.net"})), URL),
        (
            azure(json!({"authorityHost": "http://login.example.com"})),
            "spec.azureKeyVault.authorityHost in body should match",
        ),
        (azure(json!({"auth": {}})), ONE),
        (azure(json!({"auth": {"secretRef": key, "serviceAccountRef": {"name": "a"}}})), ONE),
        (azure(json!({"tenantId": null})), APPLICATION),
        (azure(json!({"clientId": null})), APPLICATION),
        (azure(json!({"tenantId": "a/b"})), "spec.azureKeyVault.tenantId in body should match"),
        (azure(json!({"clientId": "a b"})), "spec.azureKeyVault.clientId in body should match"),
        (elsewhere, "authorityHost goes with auth only"),
    ])
    .await;
}

#[tokio::test]
async fn lists_show_provider_and_readiness() {
    let namespace = PLANE.namespace("stores");
    let api = stores(&namespace).await;
    let mut sent = store("vault", json!({}));
    sent["metadata"]["namespace"] = namespace.as_str().into();
    let answer = create(&api, &sent, false).await.unwrap();
    assert_eq!(answer.data["status"], json!({"observedGeneration": -1}), "nobody has seen it");
    let condition: Map<String, Value> = [
        ("type", "Ready"),
        ("status", "False"),
        ("reason", "StoreDown"),
        ("message", "it is down"),
        ("lastTransitionTime", "2026-11-22T08:30:00Z"),
    ]
    .map(|(key, value)| (key.to_owned(), value.into()))
    .into_iter()
    .collect();
    let status = json!({"provider": "hashicorpVault", "observedGeneration": 1, "conditions": [condition]});
    replace_status(&api, "vault", status).await.unwrap();
    let text = PLANE.kubectl_ok(&["get", "ts", "-n", &namespace], None);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "PROVIDER", "READY", "REASON", "AGE"]);
    assert_eq!(lines[1][..4], ["vault", "hashicorpVault", "False", "StoreDown"]);
}

#[test]
fn the_fields_of_stores_explain_themselves() {
    for (field, words) in [
        ("ts", "A secret store that virtual accounts deliver their tokens to"),
        ("ts.spec.pathPrefix", "which stands for the account's own"),
        ("ts.spec.takeOverFrom", "Anything else at a path is left alone"),
        ("ts.spec.allowedNamespaces", "Default: its own alone"),
        ("ts.spec.hashicorpVault.auth.kubernetes.audience", "Default: `vault`"),
        ("ts.spec.hashicorpVault.auth.kubernetes.serviceAccountRef", "Whose token logs in"),
        ("ts.spec.awsSecretsManager.auth", "in the operator's namespace only"),
        ("ts.spec.awsSecretsManager.recoveryWindowDays", "it is deleted at once"),
        ("ts.spec.azureKeyVault.auth", "in the operator's namespace only"),
        ("ts.spec.azureKeyVault.auth.serviceAccountRef", "the audience `api://AzureADTokenExchange`"),
        ("ts.status.conditions", "checked with a real call"),
        ("va.spec.secretStores.secretPath", "A secret there that is not this account's is never touched"),
    ] {
        let text = PLANE.kubectl_ok(&["explain", field], None);
        let flowing = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flowing.contains(words), "{field}: {text}");
    }
}

#[test]
fn tokens_of_service_accounts_are_the_namespace_owners_to_give() {
    let namespace = PLANE.namespace("tokens");
    let can = |name: &str| {
        let account = format!("serviceaccount/{name}");
        let operator = "--as=system:serviceaccount:virtual-accounts:virtual-account-operator";
        let output = PLANE
            .kubectl(&["auth", "can-i", "create", &account, "--subresource=token", "-n", &namespace, operator], None);
        String::from_utf8_lossy(&output.stdout).trim() == "yes"
    };
    assert!(!can("vault-writer"));
    let opt_in = super::root().join("config/samples/token-request").display().to_string();
    let role = PLANE.kubectl_ok(&["kustomize", &opt_in], None);
    PLANE.kubectl_ok(&["apply", "-n", &namespace, "-f", "-"], Some(&role));
    // The API server's authorizer learns of a binding a moment later.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !can("vault-writer") {
        assert!(Instant::now() < deadline, "the opt-in does not count");
    }
    assert!(!can("another"));
}
