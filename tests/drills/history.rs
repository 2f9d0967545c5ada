//! Every version that accounts and their Secrets ever had, and the rules that no version may break.
//!
//! A watch delivers each version once, and resourceVersions order the writes of all kinds. So it can be told what the
//! ledger said at the moment at which a Secret was written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ResourceExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use virtual_account_operator::api::{Entry, IssueReason, Phase, Seconds, VirtualAccount};

use crate::support::cluster::{decode, wait_for};
use crate::support::plane::{Plane, client};
use crate::world::APPS;

const UID_ANNOTATION: &str = "virtualaccounts.dev/account-uid";

/// A recorder that runs until the test ends.
pub(crate) struct History {
    records: Arc<Mutex<Records>>,
}

/// What was recorded, in the order of the versions.
#[derive(Default)]
pub(crate) struct Records {
    pub(crate) accounts: Vec<Version<VirtualAccount>>,
    pub(crate) secrets: Vec<Version<Secret>>,
    /// How often a list was needed: more than one of each kind, and versions may be missing.
    lists: BTreeMap<&'static str, usize>,
}

pub(crate) struct Version<K> {
    pub(crate) number: u64,
    pub(crate) object: K,
    pub(crate) deleted: bool,
}

/// What people asked of an account, so what it may have minted for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Values of the rotate annotation.
    pub(crate) requests: usize,
    /// Changes of `audiences`.
    pub(crate) changes: usize,
    /// The least time from one entry to the next that the schedule issues.
    pub(crate) least_gap: Seconds,
}

impl History {
    /// Starts recording; returns when it does.
    pub(crate) fn record(plane: &Plane) -> Self {
        let records = Arc::new(Mutex::new(Records::default()));
        let (shared, kubeconfig) = (Arc::clone(&records), plane.kubeconfig_path());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let client = client(&kubeconfig).await;
                let accounts = follow(Api::namespaced(client.clone(), APPS), "accounts", &shared, |r| &mut r.accounts);
                let secrets = follow(Api::namespaced(client, APPS), "secrets", &shared, |r| &mut r.secrets);
                futures::future::join(accounts, secrets).await;
            });
        });
        let history = Self { records };
        wait_for("the recorder's lists", Duration::from_secs(10), || {
            if history.read().lists.len() == 2 { Ok(()) } else { Err("not yet") }
        });
        history
    }

    pub(crate) fn read(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much there was to break a rule with.
    pub(crate) fn summary(&self) -> String {
        let records = self.read();
        let names: BTreeSet<String> = records.accounts.iter().map(|version| version.object.name_any()).collect();
        let tokens: usize = names.iter().map(|name| records.entries(name).len()).sum();
        let (versions, secrets) = (records.accounts.len(), records.secrets.len());
        let accounts = names.len();
        format!("{accounts} accounts, {tokens} tokens, {versions} versions of accounts and {secrets} of Secrets")
    }

    /// Panics if any version broke a rule.
    pub(crate) fn assert_kept(&self, asked: &BTreeMap<String, Asked>) {
        let records = self.read();
        let lists = &records.lists;
        assert!(lists.values().all(|lists| *lists == 1), "the recorder missed versions: {lists:?}");
        let mut broken = ledgers(&records);
        broken.extend(secrets(&records));
        broken.extend(causes(&records, asked));
        assert!(
            broken.is_empty(),
            "{} rules broken, first:\n{}",
            broken.len(),
            broken[..broken.len().min(20)].join("\n")
        );
    }
}

impl Records {
    /// All entries that an account's ledger ever had, oldest first.
    pub(crate) fn entries(&self, name: &str) -> Vec<Entry> {
        let versions = self.accounts.iter().filter(|version| version.object.name_any() == name);
        let mut entries = BTreeMap::new();
        for entry in versions.flat_map(|version| jwts(&version.object)) {
            entries.entry(entry.issued_at).or_insert_with(|| entry.clone());
        }
        entries.into_values().collect()
    }
}

async fn follow<K>(
    api: Api<K>,
    kind: &'static str,
    records: &Mutex<Records>,
    of: impl Fn(&mut Records) -> &mut Vec<Version<K>>,
) where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => of(&mut records).push(Version::of(object, false)),
            Ok(Event::Delete(object)) => of(&mut records).push(Version::of(object, true)),
            Ok(Event::InitDone) => *records.lists.entry(kind).or_default() += 1,
            Ok(Event::Init) | Err(_) => {}
        }
    }
}

impl<K: Resource> Version<K> {
    fn of(object: K, deleted: bool) -> Self {
        let number = object.meta().resource_version.as_deref().and_then(|version| version.parse().ok());
        Self { number: number.expect("versions are numbers"), object, deleted }
    }
}

fn jwts(account: &VirtualAccount) -> &[Entry] {
    account.status.as_ref().map_or(&[], |status| &status.jwts)
}

fn uid(account: &VirtualAccount) -> &str {
    account.metadata.uid.as_deref().unwrap_or_default()
}

/// Each version of a ledger by itself, and against the one before.
fn ledgers(records: &Records) -> Vec<String> {
    let mut broken = Vec::new();
    let mut known: HashMap<&str, (&str, &Entry)> = HashMap::new();
    let mut before: HashMap<&str, &[Entry]> = HashMap::new();
    for Version { number, object, .. } in &records.accounts {
        let mut found = |what: String| broken.push(format!("{} at {number}: {what}", object.name_any()));
        let ledger = jwts(object);
        if ledger.iter().filter(|entry| entry.phase == Phase::Current).count() > 1 {
            found("two current tokens".into());
        }
        if !ledger.is_sorted_by(|newer, older| newer.issued_at > older.issued_at) {
            found("not ordered by issuedAt".into());
        }
        for entry in ledger {
            let (owner, first) = *known.entry(&entry.id).or_insert((uid(object), entry));
            if owner != uid(object) || !same_token(first, entry) {
                found(format!("jti {} was another token's", entry.id));
            }
        }
        let earlier = before.insert(uid(object), ledger).unwrap_or_default();
        let was = |id: &str| earlier.iter().find(|entry| entry.id == id);
        if ledger.iter().filter(|entry| was(&entry.id).is_none()).count() > 1 {
            found("two tokens in one write".into());
        }
        for entry in ledger {
            let Some(was) = was(&entry.id) else { continue };
            if was.grace_ends_at.is_some() && was.grace_ends_at != entry.grace_ends_at {
                found(format!("the grace of {} moved", entry.id));
            }
            if was.delivered_at.is_some() && was.delivered_at != entry.delivered_at {
                found(format!("the delivery of {} moved", entry.id));
            }
            if was.phase == Phase::Revoked && entry.phase != Phase::Revoked {
                found(format!("{} was revoked and is not any more", entry.id));
            }
        }
    }
    broken
}

fn same_token(one: &Entry, other: &Entry) -> bool {
    let fixed =
        |entry: &Entry| Entry { phase: Phase::Pending, grace_ends_at: None, delivered_at: None, ..entry.clone() };
    fixed(one) == fixed(other)
}

/// Each version of a Secret against the ledger at that moment, and against the versions before.
fn secrets(records: &Records) -> Vec<String> {
    let mut broken = Vec::new();
    let mut owners: HashMap<&str, Vec<&Version<VirtualAccount>>> = HashMap::new();
    for version in &records.accounts {
        owners.entry(uid(&version.object)).or_default().push(version);
    }
    let mut delivered: HashMap<&str, &Entry> = HashMap::new();
    let mut bytes: HashMap<String, String> = HashMap::new();
    for Version { number, object, deleted } in &records.secrets {
        let Some(owner) = object.annotations().get(UID_ANNOTATION).filter(|_| !deleted) else { continue };
        let mut found = |what: String| broken.push(format!("Secret {} at {number}: {what}", object.name_any()));
        let versions = owners.get(owner.as_str()).map_or(&[][..], Vec::as_slice);
        let earlier = versions.partition_point(|version| version.number < *number);
        let ledger = earlier.checked_sub(1).map_or(&[][..], |last| jwts(&versions[last].object));
        for (id_key, token_key) in [("jti", "token"), ("previous-jti", "previous-token")] {
            let (Some(id), Some(token)) = (text(object, id_key), text(object, token_key)) else {
                if id_key == "jti" {
                    found("has no token".into());
                }
                continue;
            };
            if decode(&token).1["jti"] != id.as_str() {
                found(format!("{id_key} is not that of {token_key}"));
            }
            if bytes.entry(id.clone()).or_insert_with(|| token.clone()) != &token {
                found(format!("other bytes for {id} than before"));
            }
            let Some(entry) = ledger.iter().find(|entry| entry.id == id) else {
                found(format!("{token_key} {id} is not in the ledger"));
                continue;
            };
            if id_key == "jti" {
                let before = delivered.insert(owner, entry);
                if before.is_some_and(|before| before.issued_at > entry.issued_at) {
                    found(format!("{id} came after a newer token"));
                }
            }
        }
    }
    broken
}

pub(crate) fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// No cause minted twice.
fn causes(records: &Records, asked: &BTreeMap<String, Asked>) -> Vec<String> {
    let mut broken = Vec::new();
    let names: BTreeSet<String> = records.accounts.iter().map(|version| version.object.name_any()).collect();
    for name in names {
        let entries = records.entries(&name);
        let asked = asked.get(&name).cloned().unwrap_or_default();
        let count = |reason| entries.iter().filter(|entry| entry.reason == reason).count();
        for (reason, allowed) in [
            (IssueReason::First, 1),
            (IssueReason::Request, asked.requests),
            (IssueReason::SpecChange, asked.changes),
            (IssueReason::Revocation, 0),
            (IssueReason::KeyChange, 0),
            (IssueReason::LimitChange, 0),
            (IssueReason::ClockChange, 0),
            (IssueReason::Adopted, 0),
        ] {
            if count(reason) > allowed {
                broken.push(format!("{name}: {} tokens for {reason:?}, {allowed} asked for", count(reason)));
            }
        }
        for pair in entries.windows(2).filter(|pair| pair[1].reason == IssueReason::Scheduled) {
            if pair[1].issued_at - pair[0].issued_at < asked.least_gap {
                broken.push(format!("{name}: {} is scheduled too soon after {}", pair[1].id, pair[0].id));
            }
        }
    }
    broken
}
