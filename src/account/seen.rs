//! What the watches have seen: all accounts, and the metadata of all Secrets with our label. Answers what the key ring
//! and the online checks ask about them; decides nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};

use super::condition::is_refusal;
use super::secret::{ACCOUNT_LABEL, SecretMeta};
use crate::api::{AccountId, GROUP, ObjectId, ObjectRef, VirtualAccount};
use crate::integration::Concern;
use crate::lock::lock;
use crate::token::Ledgers;
use crate::watch::{Cache, Part, Scope, Watch, prune_secret};

/// The metadata of a Secret: the operator asks for no more in its watch.
pub type SecretObject = PartialObjectMeta<Secret>;

/// What the watches have seen of accounts and their Secrets.
pub struct Seen {
    /// All accounts.
    pub accounts: Arc<Cache<VirtualAccount>>,
    /// All Secrets with our label.
    pub secrets: Arc<Cache<SecretObject>>,
    // Which Secrets carry an account's label.
    by_account: Mutex<HashMap<AccountId, BTreeSet<String>>>,
    // Which accounts name a store or a channel, in spec or status.
    stores: Mutex<Uses>,
    channels: Mutex<Uses>,
}

/// The two watches, to be run by [`super::controller::Controller::run`].
pub struct Watches {
    pub(super) accounts: Watch<VirtualAccount>,
    pub(crate) secrets: Watch<SecretObject>,
}

impl Seen {
    /// The watches in these namespaces and what they fill.
    pub fn new(client: &Client, scope: &Scope) -> (Arc<Self>, Watches) {
        let accounts = Watch::<VirtualAccount>::within(client.clone(), scope).prune(prune_account);
        let secrets = Watch::<SecretObject>::within(client.clone(), scope).labels(ACCOUNT_LABEL).prune(prune_secret);
        let seen = Self {
            accounts: accounts.cache(),
            secrets: secrets.cache(),
            by_account: Mutex::default(),
            stores: Mutex::default(),
            channels: Mutex::default(),
        };
        (Arc::new(seen), Watches { accounts, secrets })
    }

    /// Why the operator is not ready, if so.
    pub fn trouble(&self) -> Option<String> {
        self.accounts.trouble("accounts").or_else(|| self.secrets.trouble("secrets"))
    }

    /// The parts whose accounts or Secrets the operator has no right to see.
    pub fn denied(&self) -> BTreeSet<Part> {
        self.accounts.denied().into_iter().chain(self.secrets.denied()).collect()
    }

    // What is there may be more than what is seen, so that no key is given up and no first ring made.
    fn may_hide_some(&self) -> bool {
        !self.accounts.unreadable().is_empty() || !self.denied().is_empty()
    }

    /// Remembers which account the Secret's label names; that account.
    pub(super) fn note(&self, secret: &SecretObject, there: bool) -> Option<AccountId> {
        let account = AccountId::new(secret.namespace().unwrap_or_default(), secret.labels().get(ACCOUNT_LABEL)?);
        let mut index = lock(&self.by_account);
        let names = index.entry(account.clone()).or_default();
        if there {
            names.insert(secret.name_any());
        } else {
            names.remove(&secret.name_any());
        }
        if names.is_empty() {
            index.remove(&account);
        }
        Some(account)
    }

    /// Remembers which stores and channels an account names; the stores of which it is news. `None`: the account is gone.
    pub(super) fn note_uses(&self, id: &AccountId, account: Option<&VirtualAccount>) -> BTreeSet<ObjectId> {
        lock(&self.channels).note(id, account.map(|account| channels_named(id, account)).unwrap_or_default());
        lock(&self.stores).note(id, account.map(|account| stores_named(id, account)).unwrap_or_default())
    }

    /// The accounts that use a store; `None`: not known yet.
    pub fn users_of(&self, store: &ObjectId) -> Option<Vec<AccountId>> {
        let users = || {
            let named = lock(&self.stores).users(store);
            // To name a store is not to use it: else anybody could hold anybody's store back.
            let uses = |id: &AccountId| self.accounts.get(id).is_some_and(|account| uses(&account, store));
            named.into_iter().filter(uses).collect()
        };
        (self.accounts.synced() && self.accounts.unreadable().is_empty()).then(users)
    }

    /// The accounts whose stores or channels a change concerns.
    pub fn concerned(&self, concern: &Concern) -> Vec<AccountId> {
        match concern {
            Concern::Store(store) => lock(&self.stores).users(store),
            Concern::Channel(channel) => lock(&self.channels).users(channel),
            Concern::Namespace(namespace) => {
                let mut all = lock(&self.stores).users_in(namespace);
                all.append(&mut lock(&self.channels).users_in(namespace));
                all.into_iter().collect()
            }
        }
    }

    /// The Secrets that carry the account's label.
    // A label that was changed leaves the name behind in the index, so it is looked at again.
    pub(super) fn secrets_of(&self, id: &AccountId) -> Vec<SecretMeta> {
        let names = lock(&self.by_account).get(id).cloned().unwrap_or_default();
        let seen = names.iter().filter_map(|name| self.secrets.get(&AccountId::new(&id.namespace, name)));
        let labelled = seen.filter(|secret| secret.labels().get(ACCOUNT_LABEL) == Some(&id.name));
        labelled.map(|secret| SecretMeta::of(&secret.metadata)).collect()
    }
}

impl Ledgers for Seen {
    fn synced(&self) -> bool {
        self.accounts.synced() && self.secrets.synced()
    }

    fn kids_in_use(&self) -> BTreeSet<String> {
        let accounts = self.accounts.values();
        let entries = accounts.iter().filter_map(|account| account.status.as_ref()).flat_map(|status| &status.jwts);
        entries.map(|entry| entry.key_id.clone()).collect()
    }

    fn any_entry(&self) -> bool {
        let recorded =
            |account: &Arc<VirtualAccount>| account.status.as_ref().is_some_and(|status| !status.jwts.is_empty());
        self.may_hide_some() || self.accounts.values().iter().any(recorded)
    }

    fn any_labelled_secret(&self) -> bool {
        !self.secrets.is_empty() || !self.secrets.unreadable().is_empty()
    }

    fn labelled_secret_with_empty_ledger(&self) -> bool {
        let index = lock(&self.by_account);
        let empty = |account: &Arc<VirtualAccount>| account.status.as_ref().is_none_or(|status| status.jwts.is_empty());
        let lost = |id: &AccountId| self.accounts.get(id).is_some_and(|account| empty(&account));
        self.may_hide_some() || index.keys().any(lost)
    }
}

/// Whether something of the account may be in the store: it holds a token or an attempt was made.
fn uses(account: &VirtualAccount, store: &ObjectId) -> bool {
    let records = account.status.iter().flat_map(|status| &status.secret_stores);
    records.filter(|record| record.store_ref == *store).any(|record| {
        let refused = record.error.as_ref().is_some_and(|error| is_refusal(&error.reason));
        record.jwt_id.is_some() || record.failures.is_some() || !refused
    })
}

/// Which accounts name which objects of a kind.
#[derive(Default)]
struct Uses {
    users: HashMap<ObjectId, BTreeSet<AccountId>>,
    named: HashMap<AccountId, BTreeSet<ObjectId>>,
}

impl Uses {
    /// Remembers what an account names now; the objects of which that is news.
    fn note(&mut self, id: &AccountId, now: BTreeSet<ObjectId>) -> BTreeSet<ObjectId> {
        let before = self.named.remove(id).unwrap_or_default();
        for object in before.difference(&now) {
            if let Some(users) = self.users.get_mut(object) {
                users.remove(id);
                if users.is_empty() {
                    self.users.remove(object);
                }
            }
        }
        for object in now.difference(&before) {
            self.users.entry(object.clone()).or_default().insert(id.clone());
        }
        let news = before.symmetric_difference(&now).cloned().collect();
        if !now.is_empty() {
            self.named.insert(id.clone(), now);
        }
        news
    }

    fn users(&self, object: &ObjectId) -> Vec<AccountId> {
        self.users.get(object).into_iter().flatten().cloned().collect()
    }

    fn users_in(&self, namespace: &str) -> BTreeSet<AccountId> {
        self.named.keys().filter(|id| id.namespace == namespace).cloned().collect()
    }
}

fn stores_named(id: &AccountId, account: &VirtualAccount) -> BTreeSet<ObjectId> {
    let named = account.spec.secret_stores.iter().flatten().map(|store| object(id, &store.store_ref));
    let recorded = account.status.iter().flat_map(|status| &status.secret_stores).map(|store| store.store_ref.clone());
    named.chain(recorded).collect()
}

fn channels_named(id: &AccountId, account: &VirtualAccount) -> BTreeSet<ObjectId> {
    let named = account.spec.notification_targets.iter().flatten().map(|target| object(id, &target.channel_ref));
    let notices = account.status.iter().flat_map(|status| &status.notifications);
    named.chain(notices.map(|notice| notice.channel_ref.clone())).collect()
}

fn object(id: &AccountId, named: &ObjectRef) -> ObjectId {
    let namespace = named.namespace.clone().unwrap_or_else(|| id.namespace.clone());
    ObjectId { namespace, name: named.name.clone() }
}

// Of the metadata only what a pass reads stays: kubectl's copy of the manifest alone would double an account's size.
fn prune_account(account: &mut VirtualAccount) {
    account.metadata.managed_fields = None;
    account.metadata.labels = None;
    if let Some(annotations) = &mut account.metadata.annotations {
        annotations.retain(|key, _| key.split('/').next() == Some(GROUP));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn named(spec: &Value, status: &Value) -> Vec<String> {
        let account = serde_json::from_value(json!({
            "apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "VirtualAccount",
            "metadata": {"namespace": "team", "name": "app"},
            "spec": {"permissions": [], "notificationTargets": spec}, "status": {"notifications": status},
        }));
        let channels = channels_named(&AccountId::new("team", "app"), &account.unwrap());
        channels.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn channels_are_named_by_spec_and_by_notices() {
        let notice = json!([{
            "id": "1", "kind": "TokenRotated", "channelRef": {"namespace": "old", "name": "mail"}, "jwtId": "j",
            "at": "2026-11-22T08:30:00Z", "state": "Sent",
        }]);
        let targets = json!([{"channelRef": {"name": "mail"}}, {"channelRef": {"namespace": "ops", "name": "pager"}}]);
        assert_eq!(named(&targets, &notice), ["old/mail", "ops/pager", "team/mail"]);
        assert_eq!(named(&json!(null), &json!([])), [""; 0]);
    }

    #[test]
    fn uses_follow_each_account() {
        let object = |name: &str| ObjectId { namespace: "ops".into(), name: name.into() };
        let set = |names: &[&str]| names.iter().map(|name| object(name)).collect::<BTreeSet<_>>();
        let (one, two) = (AccountId::new("team", "one"), AccountId::new("other", "two"));
        let mut uses = Uses::default();
        assert_eq!(uses.note(&one, set(&["a", "b"])), set(&["a", "b"]));
        assert_eq!(uses.note(&one, set(&["a", "b"])), set(&[]), "no news");
        assert_eq!(uses.note(&two, set(&["b"])), set(&["b"]));
        assert_eq!(
            uses.users(&object("b")),
            [two.clone(), one.clone()].into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        );
        assert_eq!(uses.users_in("team"), [one.clone()].into());
        assert_eq!(uses.note(&one, set(&["b", "c"])), set(&["a", "c"]));
        assert_eq!(uses.users(&object("a")), []);
        assert_eq!(uses.note(&one, set(&[])), set(&["b", "c"]));
        assert_eq!(uses.note(&two, set(&[])), set(&["b"]));
        assert!(uses.users.is_empty() && uses.named.is_empty(), "nothing is left behind");
    }
}
