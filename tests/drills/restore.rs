//! Restores: an older etcd is put back, or a backup tool makes the objects again in a new cluster. What is accepted, what
//! is minted and what is lost then is what docs/backup-and-restore.md says.

mod backup;
mod desk;
mod snapshot;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use virtual_account_operator::token::SECRET_NAME;

use backup::{Backup, Brought};
use desk::Desk;
use snapshot::Snapshot;

use crate::sound::wait_sound;
use crate::support::bao::Bao;
use crate::support::cluster::{PATIENCE, current, decode, entries, secret_path, token, wait_for};
use crate::support::operator::NAMESPACE;
use crate::world::{APPS, World};

const SOUND: Duration = Duration::from_secs(40);
const IN_STORE: &str = "/tokens/stored";
const FLAGS: [&str; 3] = ["--allow-local-endpoints", "--cluster-id", "drill"];
const ROTATE: &str = "virtualaccounts.dev/rotate";

#[test]
fn an_older_etcd_brings_its_tokens_back_and_nothing_is_minted() {
    let (world, bao) = (World::start(), Bao::start());
    let mut operator = world.operator(&FLAGS);
    add_store(&world, &bao);
    for name in ["calm", "rotated", "leaked", "removed"] {
        world.cluster.create_account(APPS, name, json!({}));
    }
    world.cluster.create_account(APPS, "stored", in_store());
    for name in ["calm", "rotated", "leaked", "removed", "stored"] {
        world.cluster.wait_ready(APPS, name);
    }
    let (before, ledgers) = (held(&world), ledgers(&world));
    operator.kill();
    let snapshot = Snapshot::take(&world.plane);
    operator.revive();
    operator.wait_up();

    rotate(&world, "rotated", "one");
    rotate(&world, "leaked", "incident-1,grace=0s");
    rotate(&world, "stored", "one");
    world.cluster.delete_account(APPS, "removed");
    world.cluster.create_account(APPS, "later", json!({}));
    world.cluster.wait_ready(APPS, "later");
    let after = held(&world);
    assert!(!operator.accepts(&before["leaked"]) && operator.accepts(&after["later"]));

    operator.kill();
    snapshot.put_back(&world.plane);
    operator.revive();
    operator.wait_up();
    wait_sound(&world, &operator, SOUND);
    assert_eq!(held(&world), before, "each Secret as it was");
    assert_eq!(self::ledgers(&world), ledgers, "nothing was minted");
    for (name, old) in &before {
        assert!(operator.accepts(old), "{name}: good again, even if it was revoked since");
    }
    for name in ["rotated", "leaked", "stored", "later"] {
        assert!(!operator.accepts(&after[name]), "{name}: nobody knows that it was issued");
    }

    // A store is no part of etcd: it is newer than all the rest until it is looked at.
    assert_eq!(bao.jti(IN_STORE), Some(jti(&after["stored"])));
    world.cluster.annotate(APPS, "stored", "virtualaccounts.dev/sync-requested-at", &json!("after the restore"));
    wait_for("the store to hold the restored token", PATIENCE, || match bao.jti(IN_STORE) {
        Some(held) if held == jti(&before["stored"]) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(self::ledgers(&world), ledgers, "nor was anything minted for it");
}

#[test]
fn objects_without_status_and_owners_are_adopted_in_a_new_cluster_and_nothing_is_minted() {
    let (old, bao) = (World::start(), Bao::start());
    let mut operator = old.operator(&FLAGS);
    add_store(&old, &bao);
    let names = [("calm", 0), ("rotated", 1), ("thrice", 2), ("revoked", 1), ("stored", 1)];
    let issued = issue(&old, &names);
    old.cluster.edit(APPS, "revoked", &json!({"revokedJwtIds": [jti(&issued["revoked"][0])]}));
    wait_for(
        "the revocation",
        PATIENCE,
        || if operator.accepts(&issued["revoked"][0]) { Err("not yet") } else { Ok(()) },
    );
    let (backup, versions) = (Backup::of(&old), bao.versions(IN_STORE));
    operator.kill();

    let world = new_cluster();
    backup.restore_ring(&world);
    add_store(&world, &bao);
    for name in issued.keys() {
        backup.restore(&world, name, Brought::default());
    }
    let mut operator = world.operator(&[&FLAGS[..], &["--adopt-restored"]].concat());
    wait_sound(&world, &operator, SOUND);
    // The third last is in no Secret; the revoked one is named by the spec.
    let living = BTreeMap::from([("calm", 1), ("rotated", 2), ("thrice", 2), ("revoked", 1), ("stored", 2)]);
    for (name, tokens) in &issued {
        let account = world.cluster.account(APPS, name).expect("restored");
        let (known, lost) = newest_first(tokens, living[name]);
        let ids: Vec<&str> = entries(&account).iter().filter_map(|entry| entry["id"].as_str()).collect();
        assert_eq!(ids, known.iter().map(|token| jti(token)).collect::<Vec<_>>(), "{name}: nothing was minted");
        assert_eq!(secret_token(&world, name), *tokens.last().expect("one"), "{name}: the same bytes");
        assert!(known.iter().all(|token| operator.accepts(token)), "{name}");
        assert!(!lost.iter().any(|token| operator.accepts(token)), "{name}");
        let secret = world.cluster.secret(APPS, &format!("{name}-token")).expect("restored");
        assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], account["metadata"]["uid"], "{name}: it is owned");
        assert_eq!(secret["metadata"]["labels"]["velero.io/restore-name"], "drill", "{name}: a foreign label stays");
    }

    assert_eq!(bao.jti(IN_STORE), Some(jti(&issued["stored"][1])), "the store holds what it held");
    let mark = bao.metadata(IN_STORE).expect("a mark")["custom_metadata"]["virtualaccounts-uid"].clone();
    let uid = &world.cluster.account(APPS, "stored").expect("restored")["metadata"]["uid"];
    assert!(mark == *uid && bao.versions(IN_STORE).1.len() == versions.1.len(), "{mark} {versions:?}");

    // The flag is for the restore alone; what was adopted does not need it again.
    let ledgers = ledgers(&world);
    assert!(operator.terminate().success());
    let mark = world.plane.audit().len();
    let operator = world.operator(&FLAGS);
    wait_sound(&world, &operator, SOUND);
    assert_eq!(self::ledgers(&world), ledgers);
    let mut writes = world.requests_since(mark, &operator);
    let ours = |request: &String| request.contains("virtualaccounts") || request.contains("-token");
    writes.retain(|request| ours(request) && (request.starts_with("update") || request.starts_with("create")));
    assert!(writes.is_empty(), "{writes:?}");
}

#[test]
fn what_comes_back_depends_on_status_owner_references_and_consent() {
    let old = World::start();
    let mut operator = old.operator(&[]);
    // Name, what is brought along, and how many tokens are minted for it.
    let cases = [
        ("plain", Brought::default(), 1),
        ("consented", Brought { consent: true, ..Brought::default() }, 0),
        ("whole", Brought { status: true, ..Brought::default() }, 0),
        ("collected", Brought { owners: true, ..Brought::default() }, 1),
        ("collected-whole", Brought { owners: true, status: true, ..Brought::default() }, 0),
    ];
    let issued = issue(&old, &cases.map(|(name, _, _)| (name, 2)));
    let backup = Backup::of(&old);
    operator.kill();

    let world = new_cluster();
    backup.restore_ring(&world);
    for (name, brought, _) in cases {
        backup.restore(&world, name, brought);
    }
    for name in ["collected", "collected-whole"] {
        wait_for("the garbage collector", PATIENCE, || match world.cluster.secret(APPS, &format!("{name}-token")) {
            None => Ok(()),
            Some(_) => Err(name),
        });
    }
    let operator = world.operator(&[]);
    wait_sound(&world, &operator, SOUND);
    for (name, brought, minted) in cases {
        let (account, tokens) = (world.cluster.account(APPS, name).expect("restored"), &issued[name]);
        let known: Vec<String> = tokens.iter().map(|token| jti(token)).collect();
        let fresh = entries(&account).iter().filter(|entry| !known.iter().any(|id| entry["id"] == **id)).count();
        assert_eq!(fresh, minted, "{name}: {}", account["status"]["jwts"]);
        let accepted = tokens.iter().filter(|token| operator.accepts(token)).count();
        // All with the ledger; what a Secret can hold with consent; else none.
        let expected = if brought.status {
            3
        } else if brought.consent {
            2
        } else {
            0
        };
        assert_eq!(accepted, expected, "{name}");
        assert!(operator.accepts(&secret_token(&world, name)), "{name}: consumers have a good one");
    }
}

#[test]
fn the_commands_for_a_lost_ring_a_stolen_key_and_a_leaked_token_do_what_the_page_says() {
    let world = World::start();
    world.plane.kubectl_ok(&["create", "namespace", "reporting"], None);
    let mut operator = world.operator(&[]);
    world.cluster.create_account("reporting", "report-reader", json!({}));
    let account = world.cluster.wait_ready("reporting", "report-reader");
    let reader = || token(&world.cluster.secret("reporting", "report-reader-token").expect("a Secret"));
    let desk = Desk::new(&world);
    let (leaked, before) = (reader(), current(&account).expect("delivered").to_owned());
    desk.runs("## A token leaked", 0);
    world.cluster.wait_successor("reporting", "report-reader", &before);
    let good = reader();
    assert!(operator.accepts(&good) && !operator.accepts(&leaked));

    let backup = desk.runs("## What to back up", 0);
    assert!(backup.is_empty() && desk.dir.join("key-ring.yaml").exists());
    operator.kill();
    desk.runs("## Restore with Velero", 0);
    assert!(world.cluster.find(&secret_path(NAMESPACE, SECRET_NAME)).is_none(), "the ring is gone");
    desk.runs("## The key ring is lost", 0);
    operator.revive();
    operator.wait_up();
    assert!(operator.accepts(&good) && reader() == good, "the same keys, the same token");

    let listed = desk.runs("## A signing key is in foreign hands", 0);
    assert!(listed.starts_with("KID "), "{listed}");
    world.cluster.wait_successor("reporting", "report-reader", &jti(&good));
    let replaced = reader();
    assert!(operator.accepts(&replaced) && !operator.accepts(&good));

    operator.kill();
    desk.runs("## Restore with Velero", 0);
    operator.revive();
    world.cluster.wait_reason("reporting", "report-reader", "KeyMissing");
    assert_eq!(reader(), replaced, "nothing is replaced silently");
    desk.runs("## The key ring is lost", 1);
    world.cluster.wait_successor("reporting", "report-reader", &jti(&replaced));
    operator.wait_up();
    assert!(operator.accepts(&reader()) && !operator.accepts(&replaced));
    desk.runs("## Restore with Velero", 2);
}

/// A new cluster where somebody installed the operator before the restore: its own ring has to go first.
fn new_cluster() -> World {
    let world = World::start();
    let mut early = world.operator(&[]);
    early.kill();
    world.cluster.delete(&secret_path(NAMESPACE, SECRET_NAME));
    world
}

fn add_store(world: &World, bao: &Bao) {
    let login =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bao"}, "stringData": {"token": bao.root}});
    world.cluster.create(&format!("/api/v1/namespaces/{APPS}/secrets"), &login);
    let spec = json!({"hashicorpVault": {"address": bao.url(), "auth": {"tokenRef": {"name": "bao", "key": "token"}}}});
    let store = json!({"apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore",
        "metadata": {"name": "bao"}, "spec": spec});
    world.cluster.create(&format!("/apis/virtualaccounts.dev/v1alpha1/namespaces/{APPS}/tokenstores"), &store);
}

/// An account that is delivered to the store as well.
fn in_store() -> Value {
    json!({"secretStores": [{"storeRef": {"name": "bao"}, "secretPath": IN_STORE}]})
}

/// Creates accounts and rotates each so often; all their tokens, oldest first. The one named `stored` has a store.
fn issue<'a>(world: &World, names: &[(&'a str, usize)]) -> BTreeMap<&'a str, Vec<String>> {
    let mut issued: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, rotations) in names {
        world.cluster.create_account(APPS, name, if *name == "stored" { in_store() } else { json!({}) });
        world.cluster.wait_ready(APPS, name);
        issued.insert(name, vec![secret_token(world, name)]);
        for number in 0..*rotations {
            rotate(world, name, &format!("request-{number}"));
            issued.entry(name).or_default().push(secret_token(world, name));
        }
    }
    issued
}

/// Asks for a rotation and waits until every target has it.
fn rotate(world: &World, name: &str, request: &str) {
    let before = world.cluster.account(APPS, name).expect("the account exists");
    world.cluster.annotate(APPS, name, ROTATE, &json!(request));
    world.cluster.wait_successor(APPS, name, current(&before).expect("delivered"));
}

/// Each account's token, as its Secret has it.
fn held(world: &World) -> BTreeMap<String, String> {
    world.accounts().into_keys().map(|name| (name.clone(), secret_token(world, &name))).collect()
}

/// Each account's ledger.
fn ledgers(world: &World) -> BTreeMap<String, Vec<Value>> {
    let accounts = world.cluster.accounts(APPS).into_iter();
    accounts.map(|account| (account["metadata"]["name"].to_string(), entries(&account).to_vec())).collect()
}

fn secret_token(world: &World, name: &str) -> String {
    token(&world.cluster.secret(APPS, &format!("{name}-token")).expect("a Secret"))
}

fn jti(token: &str) -> String {
    decode(token).1["jti"].as_str().expect("an id").to_owned()
}

/// The newest `count` tokens, newest first, and the rest.
fn newest_first(tokens: &[String], count: usize) -> (Vec<&String>, Vec<&String>) {
    let mut all = tokens.iter().rev();
    (all.by_ref().take(count).collect(), all.collect())
}
