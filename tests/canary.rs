//! The canary run: the operator at its most talkative goes through everything that touches a secret; then all that it and
//! its commands ever said is searched for tokens and key material, in every form in which they could be printed.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failure is the test's verdict")]

mod support;

#[path = "stores/fake.rs"]
#[allow(dead_code, reason = "only the mail server and its certificate are used here")]
mod fake;

#[path = "channels/email/post_office.rs"]
#[allow(dead_code, reason = "the operator opens the channels here")]
mod post_office;

#[path = "notices/receiver.rs"]
#[allow(dead_code, reason = "only what was received is looked at here")]
mod receiver;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use p256::pkcs8::DecodePrivateKey as _;
use post_office::office;
use receiver::Receiver;
use serde_json::{Value, json};
use support::bao::Bao;
use support::cluster::{Cluster, PATIENCE, current, decode, entries, ready, secret_path, text, wait_for};
use support::operator::{NAMESPACE, Operator, Options};
use support::plane::Plane;
use support::server::Server;
use support::{fault, server};

const RING: &str = "virtual-account-operator-keys";
const ROTATE: &str = "virtualaccounts.dev/rotate";
const WRONG_TOKEN: &str = "canary-not-the-root-token-5e1b";
const ACCESS_KEY: &str = "AKIACANARYCANARY0001";
const SECRET_KEY: &str = "canary/secret+access+key/3f9d0c2b7a";
const PASSWORD: &str = "somebody-else's-password-7c1f";
const HEADER: &str = "Bearer canary-of-a-header-9d21e0";
const BOT_TOKEN: &str = "xoxb-canary-1234567890-abcdef";
const WRONG_BOT_TOKEN: &str = "xoxb-wrong-canary-0987654321-fedcba";
const PAGER_KEY: &str = "cafe0canary0cafe0canary0cafe0000";
const WRONG_PASSWORD: &str = "canary-not-the-password-41bb";
/// A part of the URLs that are credentials.
const URL_KEY: &str = "canary-T0000-B0000-XXXXsecretXXXX";

#[test]
fn nothing_that_is_said_holds_a_secret() {
    let plane = Plane::start();
    let options =
        Options { log: Some("trace".into()), ..Options::flags(&["--max-clock-skew=2s", "--allow-local-endpoints"]) };
    let mut run = Run {
        operator: Operator::start(&plane, options),
        cluster: Cluster::of(&plane),
        namespace: plane.namespace("canary"),
        plane: &plane,
        known: Known::default(),
        said: Said::default(),
    };
    run.first_issue_rotation_and_revocation();
    run.stores();
    run.channels();
    run.damaged_secrets();
    run.a_policy_that_quotes_the_secret();
    run.online_checks();
    run.keys();
    run.damaged_ring();
    run.callers();
    assert!(run.operator.terminate().success());
    run.hear();
    run.known.is_found_where_it_belongs(&run.plane.kubectl_ok(&["get", "secrets", "-A", "-o", "yaml"], None));
    run.said.is_complete(&run.known);
    run.said.holds_none_of(&run.known);
}

struct Run<'a> {
    operator: Operator,
    cluster: Cluster,
    namespace: String,
    plane: &'a Plane,
    known: Known,
    said: Said,
}

impl Run<'_> {
    fn first_issue_rotation_and_revocation(&mut self) {
        self.cluster.create_account(&self.namespace, "cart", json!({}));
        let first = self.delivered("cart");
        self.rotate("1,grace=1s");
        let second = self.successor("cart", &first);
        self.cluster.edit(&self.namespace, "cart", &json!({"revokedJwtIds": [second]}));
        self.successor("cart", &second);
    }

    /// Stores with good and with wrong credentials: a token goes to each, in first issue, rotation and removal.
    fn stores(&mut self) {
        let bao = Bao::shared();
        let moto = Server::start(Path::new(env!("CARGO_TARGET_TMPDIR")), "moto_server", |port| {
            ["-H", "127.0.0.1", "-p", &port.to_string()].map(String::from).to_vec()
        });
        let root = bao.root.clone();
        for (name, value) in
            [("bao", root.as_str()), ("wrong", WRONG_TOKEN), ("key", ACCESS_KEY), ("secret", SECRET_KEY)]
        {
            let secret = json!({"metadata": {"name": name}, "stringData": {"value": value}});
            self.cluster.create(&format!("/api/v1/namespaces/{}/secrets", self.namespace), &secret);
            self.known.add("a credential of a store", value.as_bytes());
        }
        let value = |name: &str| json!({"name": name, "key": "value"});
        let vault = |name: &str| json!({"hashicorpVault": {"address": bao.url(), "auth": {"tokenRef": value(name)}}});
        let endpoint = format!("http://127.0.0.1:{}", moto.port);
        let key = json!({"accessKeyId": value("key"), "secretAccessKey": value("secret")});
        let aws = json!({"region": "us-east-1", "endpoint": endpoint, "auth": {"secretRef": key}});
        let stores = [
            ("good", vault("bao")),
            ("refused", vault("wrong")),
            ("manager", json!({"awsSecretsManager": aws})),
            ("parameters", json!({"awsParameterStore": aws})),
        ];
        let mut targets = Vec::new();
        for (name, spec) in &stores {
            let store = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore",
                "metadata": {"name": name}, "spec": spec});
            let collection = format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{}/tokenstores", self.namespace);
            self.cluster.create(&collection, &store);
            targets.push(json!({"storeRef": {"name": name}, "secretPath": format!("/{}/stored", self.namespace)}));
        }
        self.cluster.create_account(&self.namespace, "stored", json!({"secretStores": targets}));
        self.wait_stored("", "the first token in three of four stores");
        self.learn("stored");
        let first = self.cluster.account(&self.namespace, "stored").expect("it exists")["status"]["jwtId"].clone();
        self.cluster.annotate(&self.namespace, "stored", ROTATE, &json!("1,grace=1s"));
        let account = self.wait_stored(first.as_str().expect("a token"), "its successor");
        self.learn("stored");
        self.said.add("status of an account with stores", account["status"].to_string());
        // Somebody changes what is there, and the store goes away.
        bao.put(&format!("/{}/stored", self.namespace), &json!({"token": WRONG_TOKEN, "jti": "none"}));
        drop(moto);
        self.cluster.annotate(&self.namespace, "stored", "virtualaccounts.dev/sync-requested-at", &json!("now"));
        self.cluster.wait_account(&self.namespace, "stored", "the look at the stores", |account| {
            account["status"]["handledSyncRequest"] == "now"
        });
        self.cluster.edit(&self.namespace, "stored", &json!({"secretStores": [targets[0]]}));
        self.cluster.wait_account(&self.namespace, "stored", "the others' cleanup to be tried", |account| {
            account["status"]["observedGeneration"] == account["metadata"]["generation"]
        });
        self.said.add("metrics with stores", self.operator.metrics());
        let stores = self.plane.kubectl_ok(&["get", "tokenstores", "-A", "-o", "yaml"], None);
        assert!(stores.contains("reason: Checked") && stores.contains("LoginRefused"), "{stores}");
        self.said.add("stores", stores);
    }

    /// All media, with good and wrong credentials and on servers that are gone: each sends a rotation, a revocation and a
    /// test message.
    fn channels(&mut self) {
        let (mail, alive, gone) = (office(), Receiver::start(), Receiver::start());
        gone.cut();
        self.channel_secrets(&alive, &gone);
        let mut created = 0;
        for (kind, port, receiver) in
            [("good", mail.port(), &alive), ("dead", 1, &gone), ("wrong", mail.port(), &alive)]
        {
            let channels = channels(port, receiver, kind);
            created += channels.len();
            let targets: Vec<Value> = channels.iter().map(|(name, spec)| self.channel(name, spec)).collect();
            let name = format!("told-{kind}");
            self.cluster.create_account(&self.namespace, &name, json!({"notificationTargets": targets}));
            let first = self.delivered(&name);
            self.cluster.annotate(&self.namespace, &name, ROTATE, &json!("1,grace=0s"));
            self.successor(&name, &first);
        }
        for (kind, state) in [("good", "Sent"), ("dead", "Pending"), ("wrong", "Pending")] {
            let account = self.wait_told(&format!("told-{kind}"), state);
            self.said.add("status of an account that tells", account["status"].to_string());
        }
        self.said.add("metrics with channels", self.operator.metrics());
        let shown = self.wait_tests(created);
        assert!(shown.contains("reason: Checked") && shown.contains("LoginRefused"), "{shown}");
        self.said.add("channels", shown);
        self.hear_receivers(&alive);
    }

    /// A channel that is asked for a test message; the target of accounts that names it.
    fn channel(&self, name: &str, spec: &Value) -> Value {
        let channel = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "NotificationChannel",
            "metadata": {"name": name, "annotations": {"virtualaccounts.dev/test-requested-at": "now"}}, "spec": spec});
        let namespace = &self.namespace;
        let collection = format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{namespace}/notificationchannels");
        self.cluster.create(&collection, &channel);
        let emails = spec["email"].is_object().then(|| json!(["payments@example.com"]));
        json!({"channelRef": {"name": name}, "toEmails": emails})
    }

    /// The credentials of the channels: those that are right, those that are wrong, and URLs that lead nowhere.
    fn channel_secrets(&mut self, alive: &Receiver, gone: &Receiver) {
        let url = |receiver: &Receiver| receiver.url(&format!("/slack?{URL_KEY}"));
        let signing = Receiver::signing_secret();
        for (name, password, url, signing, bot, pager) in [
            ("good", post_office::PASSWORD, url(alive), signing.as_str(), BOT_TOKEN, PAGER_KEY),
            ("dead", post_office::PASSWORD, url(gone), signing.as_str(), BOT_TOKEN, PAGER_KEY),
            ("wrong", WRONG_PASSWORD, format!("not a URL {URL_KEY}"), URL_KEY, WRONG_BOT_TOKEN, URL_KEY),
        ] {
            let secret = json!({"metadata": {"name": format!("channels-{name}")}, "stringData": {"username": post_office::USER,
                "password": password, "ca": fake::Certificate::shared().pem, "url": url, "bot": bot, "pager": pager,
                "header": HEADER, "signing": signing}});
            self.cluster.create(&format!("/api/v1/namespaces/{}/secrets", self.namespace), &secret);
        }
        let secrets =
            [post_office::PASSWORD, WRONG_PASSWORD, URL_KEY, BOT_TOKEN, WRONG_BOT_TOKEN, PAGER_KEY, HEADER, &signing];
        for secret in secrets {
            self.known.add("a credential of a channel", secret.as_bytes());
        }
    }

    /// Waits until each of the six channels was told of the rotation and the revocation, or has failed to.
    fn wait_told(&self, name: &str, state: &str) -> Value {
        self.cluster.wait_account(&self.namespace, name, "all to be told", |account| {
            let notices = account["status"]["notifications"].as_array().cloned().unwrap_or_default();
            let as_said = |notice: &Value| notice["state"] == state && notice["error"].is_object() == (state != "Sent");
            // Of those that were sent the status keeps the last few.
            notices.len() >= 6 && notices.iter().all(as_said)
        })
    }

    /// Waits until each channel says what came of its test message; all of them as `kubectl` shows them.
    fn wait_tests(&self, count: usize) -> String {
        wait_for("the test messages", PATIENCE, || {
            let shown = self.plane.kubectl_ok(&["get", "notificationchannels", "-A", "-o", "yaml"], None);
            let tested = shown.matches("lastTest:").count();
            if tested == count { Ok(shown) } else { Err(format!("{tested} of {count}: {shown}")) }
        })
    }

    /// What was sent holds no token, neither the one that it tells of nor any before.
    fn hear_receivers(&self, alive: &Receiver) {
        let mut received = Said::default();
        received.add("what the receivers got", alive.bodies());
        let mails = office().mails("canary.example");
        for mail in &mails {
            received.add("a mail", format!("{}{}{}", mail.raw, mail.text, mail.html));
        }
        assert!(mails.len() >= 2 && received.0[0].1.contains("new token"), "{mails:#?} {}", received.0[0].1);
        let is_token = |(_, what): &(&String, &String)| what.starts_with("a token,");
        let forms = self.known.forms.iter().filter(is_token);
        let tokens =
            Known { forms: forms.map(|(form, what)| (form.clone(), what.clone())).collect(), ..Known::default() };
        assert!(tokens.forms.len() > 20, "{} forms", tokens.forms.len());
        received.holds_none_of(&tokens);
    }

    /// Waits until all stores but the one with the wrong credentials hold another token than this.
    fn wait_stored(&self, before: &str, what: &str) -> Value {
        self.cluster.wait_account(&self.namespace, "stored", what, |account| {
            let (status, newest) = (&account["status"], &account["status"]["jwtId"]);
            let holds = |at: usize| status["secretStores"][at]["jwtId"] == *newest;
            newest.is_string()
                && newest != before
                && [0, 2, 3].into_iter().all(holds)
                && status["secretStores"][1]["error"].is_object()
        })
    }

    /// Content that is not ours, content that is no text, a type that is wrong, and a Secret of somebody else.
    fn damaged_secrets(&mut self) {
        self.cluster.create(
            &format!("/api/v1/namespaces/{}/secrets", self.namespace),
            &json!({
                "metadata": {"name": "theirs-token"},
                "data": {"token": STANDARD.encode(PASSWORD), "odd": STANDARD.encode([0xff, 0xfe, 0x00])},
            }),
        );
        self.known.add("password", PASSWORD.as_bytes());
        self.cluster.create_account(&self.namespace, "theirs", json!({}));
        self.cluster.wait_reason(&self.namespace, "theirs", "SecretNotOwned");

        let path = secret_path(&self.namespace, "cart-token");
        let good = self.cluster.secret(&self.namespace, "cart-token").expect("the Secret exists");
        let token = text(&good, "token").expect("it holds a token");
        // Another token of ours in the wrong place, half a token, and bytes that are no text.
        let damage = [
            json!({"previous-token": STANDARD.encode(&token), "token": STANDARD.encode(&token[..token.len() - 9])}),
            json!({"token": STANDARD.encode([0xff; 40]), "jti": null, "issuer": STANDARD.encode(&token)}),
        ];
        for data in damage {
            self.cluster.patch(&path, &json!({"data": data}));
            // The previous token may come to its end meanwhile.
            self.cluster.wait_secret(&self.namespace, "cart-token", "repaired", |secret| {
                ["token", "jti", "issuer"].iter().all(|key| secret["data"][key] == good["data"][key])
            });
        }
    }

    /// The API server's refusal quotes what was sent; a webhook could do so too.
    fn a_policy_that_quotes_the_secret(&mut self) {
        let before = self.delivered("cart");
        let group = "/apis/admissionregistration.k8s.io/v1";
        self.cluster.create(&format!("{group}/validatingadmissionpolicies"), &policy());
        let binding = json!({
            "metadata": {"name": "quoting"},
            "spec": {"policyName": "quoting", "validationActions": ["Deny"]},
        });
        self.cluster.create(&format!("{group}/validatingadmissionpolicybindings"), &binding);
        self.wait_for_the_policy();
        self.rotate("2,grace=1s");
        let account = self.cluster.wait_account(&self.namespace, "cart", "a failed delivery", |account| {
            account["status"]["tokenSecret"]["error"]["reason"] == "Invalid"
                && ready(account)["reason"] == "DeliveryFailing"
        });
        self.said.add("status of a failed delivery", account["status"].to_string());
        self.said.add("metrics of a failed delivery", self.operator.metrics());
        self.cluster.delete(&format!("{group}/validatingadmissionpolicybindings/quoting"));
        // The retry comes after a delay of its own; a request resets it.
        self.rotate("3,grace=1s");
        self.successor("cart", &before);
    }

    /// A policy works a moment after it was created.
    fn wait_for_the_policy(&self) {
        let path = secret_path(&self.namespace, "theirs-token");
        wait_for("the policy to work", PATIENCE, || {
            let probe = json!({"metadata": {"labels": {"quoting": "probe"}}});
            match self.cluster.send("PATCH", &path, "application/merge-patch+json", Some(&probe)) {
                Err(refused) if refused.code == 422 => {
                    assert!(refused.message.contains(&STANDARD.encode(PASSWORD)), "it quotes the content: {refused:?}");
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        });
    }

    fn online_checks(&mut self) {
        let token = self.token("cart");
        assert!(self.operator.accepts(&token));
        let payload = token.split('.').nth(1).expect("a payload");
        let unsigned = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
        let cut = token[..token.len() - 3].to_owned();
        let longer = format!("{token}AAAA");
        for wrong in [unsigned, cut, longer, token.replace("eyJ", "eyK"), format!("{token}.{token}"), token.repeat(40)]
        {
            self.said.answer(self.operator.introspect_as(Some(self.operator.caller()), &wrong));
            self.said.command(&self.operator.command(&["verify"], &wrong));
        }
        self.said.command(&self.operator.command(&["verify"], &token));
        // In the wrong place: the query, the path, a header that nobody asked for.
        self.said.answer(self.operator.get(&format!("/introspect?token={token}")));
        self.said.answer(self.operator.get(&format!("/{token}")));
        self.said.answer(self.operator.get_with("/jwks.json", &format!("authorization: Bearer {token}\r\n")));
    }

    fn keys(&mut self) {
        self.known.ring(&self.cluster);
        let before = self.delivered("cart");
        let account = self.cluster.account(&self.namespace, "cart").expect("the account exists");
        let kid = entries(&account)[0]["keyId"].as_str().expect("a key id").to_owned();
        for command in [
            vec!["keys", "list"],
            vec!["keys", "compromise", &kid],
            vec!["keys", "compromise", "no-such-key"],
            vec!["keys", "rotate"],
        ] {
            self.said.command(&self.operator.command(&command, ""));
        }
        self.successor("cart", &before);
        self.known.ring(&self.cluster);
        self.said.command(&self.operator.command(&["keys", "list"], ""));
    }

    /// A key that was cut off in the middle: nobody may quote what is left of it.
    fn damaged_ring(&mut self) {
        let token = self.token("cart");
        let path = secret_path(NAMESPACE, RING);
        let good = self.cluster.find(&path).expect("the key ring exists");
        let keys = good["data"].as_object().expect("it has keys");
        let kid = keys.keys().find(|name| *name != "gone.json").expect("it has a key");
        let stored = text(&good, kid).expect("a key");
        let seen = format!("the data entry {kid} of the key ring");
        for damage in [&stored[..stored.len() / 2], &stored.replacen("\\n", "", 3)] {
            let before = self.operator.log().matches(&seen).count();
            self.cluster.patch(&path, &json!({"data": {kid.as_str(): STANDARD.encode(damage)}}));
            self.said.command(&self.operator.command(&["keys", "list"], ""));
            self.said.command(&self.operator.command(&["verify"], &token));
            wait_for("the operator to see it", PATIENCE, || {
                let log = self.operator.log();
                if log.matches(&seen).count() > before { Ok(()) } else { Err("nothing in the log") }
            });
            self.cluster.patch(&path, &json!({"data": good["data"]}));
        }
    }

    /// Callers of the endpoint present Kubernetes tokens, which are secrets of others.
    fn callers(&mut self) {
        let token = self.token("cart");
        let stranger = self.operator.stranger().to_owned();
        let operator = self.operator.token().to_owned();
        let allowed = self.operator.caller().to_owned();
        for caller in [&stranger, &operator, &allowed] {
            self.known.token("a Kubernetes token", caller);
        }
        let forged = format!("{}x", &stranger[..stranger.len() - 5]);
        for caller in
            [Some(stranger.as_str()), Some(forged.as_str()), Some("short-and-wrong"), Some(token.as_str()), None]
        {
            self.said.answer(self.operator.introspect_as(caller, &token));
        }
        // A Kubernetes token as the one that is asked about.
        self.said.answer(self.operator.introspect_as(Some(self.operator.caller()), &stranger));
        self.said.command(&self.operator.command(&["verify"], &stranger));
    }

    fn rotate(&self, value: &str) {
        self.cluster.annotate(&self.namespace, "cart", ROTATE, &json!(value));
    }

    /// Waits until the account rests, remembers its tokens, and returns the id of the current one.
    fn delivered(&mut self, name: &str) -> String {
        let account = self.cluster.wait_ready(&self.namespace, name);
        self.learn(name);
        current(&account).expect("a token is delivered").to_owned()
    }

    fn successor(&mut self, name: &str, jti: &str) -> String {
        let account = self.cluster.wait_successor(&self.namespace, name, jti);
        self.learn(name);
        current(&account).expect("a token is delivered").to_owned()
    }

    fn learn(&mut self, name: &str) {
        let secret = self.cluster.secret(&self.namespace, &format!("{name}-token")).expect("the Secret exists");
        for key in ["token", "previous-token"] {
            if let Some(token) = text(&secret, key) {
                self.known.token("a token", &token);
                self.known.ids.push(decode(&token).1["jti"].as_str().expect("a token has an id").to_owned());
            }
        }
    }

    fn token(&self, name: &str) -> String {
        let secret = self.cluster.secret(&self.namespace, &format!("{name}-token")).expect("the Secret exists");
        text(&secret, "token").expect("it holds a token")
    }

    /// What can still be asked after the operator has ended.
    fn hear(&mut self) {
        self.said.add("log", self.operator.log());
        for (name, kinds) in [("events", "events.events.k8s.io"), ("accounts", "virtualaccounts")] {
            self.said.add(name, self.plane.kubectl_ok(&["get", kinds, "-A", "-o", "yaml"], None));
        }
        let requests = self.plane.audit();
        let requests = requests.iter().map(|event| format!("{} {}\n", event.request_uri, event.user_agent));
        self.said.add("requests", requests.collect());
    }
}

/// A channel of each medium, with the credentials of the Secret `channels-<kind>`.
fn channels(mail: u16, receiver: &Receiver, kind: &str) -> Vec<(String, Value)> {
    let key = |key: &str| json!({"name": format!("channels-{kind}"), "key": key});
    let auth = json!({"usernameRef": key("username"), "passwordRef": key("password")});
    let headers = json!([{"name": "authorization", "valueRef": key("header")}]);
    let media = [
        json!({"email": {"host": "127.0.0.1", "port": mail, "from": "VA <va@canary.example>", "auth": auth,
            "caBundle": key("ca")}}),
        json!({"slackWebhook": {"urlRef": key("url")}}),
        json!({"webhook": {"url": receiver.url("/events"), "signingSecretRef": key("signing"), "headers": headers}}),
        json!({"slackBot": {"tokenRef": key("bot"), "channels": ["C1"], "endpoint": receiver.url("")}}),
        json!({"msTeamsWebhook": {"urlRef": key("url")}}),
        json!({"pagerDuty": {"integrationKeyRef": key("pager"), "endpoint": receiver.url("")}}),
    ];
    let insecure = |mut spec: Value| {
        spec["allowInsecure"] = json!(true);
        spec
    };
    media.into_iter().enumerate().map(|(number, spec)| (format!("{kind}-{number}"), insecure(spec))).collect()
}

/// Refuses each write of a Secret with our key `token`, and quotes the end of it: the signature, in base64.
fn policy() -> Value {
    json!({
        "metadata": {"name": "quoting"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["secrets"],
            }]},
            "matchConditions": [{"name": "tokens", "expression": "has(object.data) && 'token' in object.data"}],
            "variables": [{"name": "token", "expression": "string(object.data['token'])"}],
            "validations": [{
                "expression": "false",
                "messageExpression":
                    "'quoting ' + (size(variables.token) < 120 ? variables.token : \
                     variables.token.substring(size(variables.token) - 116))",
            }],
        },
    })
}

/// All secrets of the run, each with the forms in which it could be printed.
#[derive(Default)]
struct Known {
    /// By what is searched for: what it is.
    forms: BTreeMap<String, String>,
    /// What `kubectl get secrets` must show, or the search is wrong.
    stored: Vec<String>,
    /// The ids of all tokens, which are no secrets.
    ids: Vec<String>,
}

impl Known {
    fn add(&mut self, what: &str, secret: &[u8]) {
        assert!(secret.len() >= 16, "short texts are found by chance");
        let mut form = |form: &str, text: String| self.forms.insert(text, format!("{what}, {form}"));
        form("as it is", secret.iter().map(|byte| char::from(*byte)).collect());
        // Inside of a longer text it may begin at any of three places of a group of base64.
        for skip in 0..3 {
            let whole = &secret[skip..skip + (secret.len() - skip) / 3 * 3];
            form("in base64", STANDARD_NO_PAD.encode(whole));
            form("in base64url", URL_SAFE_NO_PAD.encode(whole));
        }
        let hexadecimal = |byte: &u8| format!("{byte:02x}");
        form("in hexadecimal", secret.iter().map(hexadecimal).collect());
        form("in upper-case hexadecimal", secret.iter().map(hexadecimal).collect::<String>().to_uppercase());
        let numbers: Vec<String> = secret[..16].iter().map(u8::to_string).collect();
        form("as a list of numbers", numbers.join(", "));
        form("as a dense list of numbers", numbers.join(","));
    }

    /// Header and claims of a token are no secrets; the signature makes it one.
    fn token(&mut self, what: &str, token: &str) {
        let signature = token.rsplit('.').next().expect("a token has parts");
        // The end may be cut off, as a log may do.
        self.add(what, &signature.as_bytes()[..32]);
        self.stored.push(signature[..32].to_owned());
    }

    /// All keys of the ring, as they are stored now.
    fn ring(&mut self, cluster: &Cluster) {
        let secret = cluster.secret(NAMESPACE, RING).expect("the key ring exists");
        for kid in secret["data"].as_object().expect("it has keys").keys().filter(|name| *name != "gone.json") {
            let stored: Value = serde_json::from_str(&text(&secret, kid).expect("a key")).expect("it is JSON");
            let pem = stored["privateKey"].as_str().expect("a private key");
            for line in pem.lines().filter(|line| !line.starts_with("-----")) {
                self.add("a line of a private key", line.as_bytes());
            }
            let private = p256::SecretKey::from_pkcs8_pem(pem).expect("a P-256 key");
            self.add("a private key", &private.to_bytes());
        }
    }

    fn is_found_where_it_belongs(&self, secrets: &str) {
        let decoded: String = secrets
            .split_whitespace()
            .filter_map(|word| STANDARD.decode(word).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect();
        let found = self.stored.iter().filter(|signature| decoded.contains(*signature)).count();
        assert!(found > 0, "the token that is delivered now is found in its Secret");
        assert!(self.forms.keys().any(|form| secrets.contains(form)), "and so it is in base64");
        assert!(self.forms.len() > 100, "{} forms are searched for", self.forms.len());
    }
}

/// Everything that the operator and its commands said, by where.
#[derive(Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn add(&mut self, place: &str, text: String) {
        self.0.push((place.to_owned(), text));
    }

    fn command(&mut self, output: &Output) {
        for stream in [&output.stdout, &output.stderr] {
            self.add("a command", stream.iter().map(|byte| char::from(*byte)).collect());
        }
    }

    fn answer(&mut self, answer: support::operator::Answer) {
        self.add("an answer", answer.head + &answer.body);
    }

    /// Each place has what it should have, or the search is in vain.
    fn is_complete(&self, known: &Known) {
        let place = |name: &str| &self.0.iter().find(|(place, _)| place == name).expect("a place").1;
        for id in &known.ids {
            assert!(place("log").contains(id), "the log names token {id}");
        }
        assert!(place("log").contains(r#""level":"TRACE""#) || place("log").contains(r#""level":"DEBUG""#));
        for reason in ["Issued", "Rotated", "Revoked", "Failed"] {
            assert!(place("events").contains(reason), "there is an Event {reason}");
        }
        assert!(place("accounts").contains("keyId:"));
        assert!(place("metrics of a failed delivery").contains("virtual_account_info"));
        assert!(place("status of a failed delivery").contains("Invalid"));
    }

    fn holds_none_of(&self, known: &Known) {
        let mut leaks: Vec<String> = Vec::new();
        for (place, text) in &self.0 {
            let found = known.forms.iter().filter_map(|(form, what)| Some((text.find(form)?, what)));
            leaks.extend(found.map(|(at, what)| format!("{place}, at byte {at}: {what}")));
        }
        assert!(leaks.is_empty(), "{leaks:#?}");
    }
}
