//! What people and failures do to stores, and how an account ends.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use rand::Rng;

use super::stores::{PATHS, Version, place};
use super::world::World;
use crate::account::desired::StorePath;
use crate::account::stores::NOT_OURS;
use crate::api::{DeletionPolicy, ObjectRef, SYNC_ANNOTATION, Seconds, SecretStore, TokenSecret};
use crate::store::{Mark, Owner, Presence};

/// An entry of `spec.secretStores` for each of these stores and paths.
pub(super) fn stores_at<'a>(places: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Vec<SecretStore>> {
    let all: Vec<SecretStore> = places
        .map(|(store, path)| SecretStore {
            store_ref: ObjectRef { namespace: None, name: store.into() },
            secret_path: path.into(),
            deletion_policy: None,
        })
        .collect();
    (!all.is_empty()).then_some(all)
}

impl World {
    /// The spec's stores change, or somebody asks for a look at them.
    pub(super) fn change_stores(&mut self) {
        if self.deleting() {
            return;
        }
        match self.pick(&["toggle", "toggle", "path", "policy", "secret", "secret", "sync", "sync", "delete"]) {
            "toggle" => self.toggle_store(),
            "path" => self.change_path(),
            "policy" => self.change_policy(),
            "secret" => self.toggle_secret(),
            "sync" => self.ask_for_sync(),
            // Few histories are to end early.
            _ if self.chance(0.15) => self.delete_account(),
            _ => {}
        }
    }

    fn edit_stores(&mut self, what: &str, change: impl FnOnce(&mut Vec<SecretStore>)) {
        let mut stores = self.account.spec.secret_stores.clone().unwrap_or_default();
        change(&mut stores);
        if stores.is_empty() && !self.desired.secret.enabled {
            return;
        }
        let before: Vec<StorePath> = self.desired.stores.iter().map(|store| store.at.clone()).collect();
        self.edit(what, |spec| spec.secret_stores = (!stores.is_empty()).then_some(stores));
        for at in before {
            if !self.is_named(&at) {
                let book = &mut self.shelf(&at).book;
                book.first = false;
                book.stray |= book.unrecorded;
            }
        }
    }

    fn toggle_store(&mut self) {
        let (store, path) = (self.pick(&["a", "b"]), self.pick(&PATHS));
        self.toggle(store, path);
    }

    /// In or out of the spec.
    pub(super) fn switch_store(&mut self, store: &str) {
        self.toggle(store, PATHS[0]);
    }

    fn toggle(&mut self, store: &str, path: &str) {
        self.edit_stores(&format!("toggle {store}{path}"), |stores| {
            let count = stores.len();
            stores.retain(|named| named.store_ref.name != store);
            if stores.len() == count {
                stores.extend(stores_at([(store, path)].into_iter()).into_iter().flatten());
            }
        });
    }

    fn change_path(&mut self) {
        let store = self.pick(&["a", "b"]);
        self.move_store(store);
    }

    /// To the other path.
    pub(super) fn move_store(&mut self, store: &str) {
        self.edit_stores(&format!("path in {store}"), |stores| {
            for named in stores.iter_mut().filter(|named| named.store_ref.name == store) {
                named.secret_path = PATHS[usize::from(named.secret_path == PATHS[0])].to_owned();
            }
        });
    }

    fn change_policy(&mut self) {
        let store = self.pick(&["a", "b"]);
        self.edit_stores(&format!("policy in {store}"), |stores| {
            for named in stores.iter_mut().filter(|named| named.store_ref.name == store) {
                let retain = named.deletion_policy.is_none();
                named.deletion_policy = retain.then_some(DeletionPolicy::Retain);
            }
        });
    }

    /// `tokenSecret.enabled: false`
    pub(super) fn disable_secret(&mut self) {
        self.toggle_secret();
    }

    fn toggle_secret(&mut self) {
        if self.desired.stores.is_empty() {
            return;
        }
        let enabled = !self.desired.secret.enabled;
        self.edit(&format!("tokenSecret.enabled {enabled}"), |spec| {
            spec.token_secret.get_or_insert_with(TokenSecret::default).enabled = (!enabled).then_some(false);
        });
        self.give_up_limbo();
        self.book.first = false;
        let name = self.desired.secret.name.clone();
        self.book.foreign.insert(name);
    }

    /// Somebody asks for a look at every store.
    pub(super) fn ask_for_sync(&mut self) {
        let value = format!("s{}", self.version);
        self.log(format!("sync {value}"));
        self.change_account(|account| {
            account.annotations_mut().insert(SYNC_ANNOTATION.into(), value);
        });
    }

    /// The account is deleted.
    pub(super) fn delete_account(&mut self) {
        self.log("the account is deleted");
        let at = Timestamp::from_second(self.now.as_unix()).unwrap_or_default();
        self.change_account(|account| {
            account.metadata.deletion_timestamp = Some(Time(at));
            account.metadata.generation = account.metadata.generation.map(|generation| generation + 1);
        });
        self.go_if_free();
    }

    /// A store fails, or somebody's hand is in it.
    pub(super) fn disturb_stores(&mut self) {
        let (which, now) = (self.rng.random_range(0..2), self.now);
        let span = Seconds(self.pick(&[60, 3_600, 18_000, 108_000, 720_000]));
        let breaker = self.chance(0.5);
        let reason = self.pick(&["NotAllowed", "NotAllowed", "StoreNotFound"]);
        let what = self.pick(&["dead", "dead", "denied", "refused", "hand", "hand", "hand"]);
        let vault = &mut self.vaults[which];
        match what {
            "dead" => (vault.dead_until, vault.breaker) = (now + span, breaker),
            "denied" => vault.denied_until = now + span,
            "refused" => (vault.refused_until, vault.refused) = (now + span, reason),
            _ => return self.touch_store(which),
        }
        self.log(format!("store {}: {what} for {span}, breaker {breaker}", ["a", "b"][which]));
    }

    /// Nothing is wrong with stores any more.
    pub(super) fn heal_stores(&mut self) {
        let now = self.now;
        for vault in &mut self.vaults {
            (vault.dead_until, vault.denied_until, vault.refused_until) = (now, now, now);
        }
    }

    fn touch_store(&mut self, which: usize) {
        let at = place(["a", "b"][which], self.pick(&PATHS));
        let what = self.pick(&["wipe", "wipe", "value", "value", "mark", "occupy", "occupy"]);
        let foreign = self.chance(0.5).then(|| self.foreign_mark());
        let id = self.bump().parse().unwrap_or_default();
        let slot = self.shelf(&at);
        match (what, slot.presence) {
            ("wipe", Presence::Present | Presence::Deleted) => slot.empty(id, false),
            ("value", Presence::Present) => {
                slot.versions.push(Version { id, bytes: b"by hand".to_vec(), jti: None, usable: true });
            }
            ("mark", Presence::Present) => {
                slot.mark = foreign;
                slot.versions.iter_mut().last().into_iter().for_each(|version| version.id = id);
            }
            ("occupy", Presence::Absent) => {
                slot.versions = vec![Version { id, bytes: b"foreign".to_vec(), jti: None, usable: true }];
                (slot.mark, slot.presence) = (foreign, Presence::Present);
            }
            _ => return,
        }
        slot.book.disturbed = true;
        slot.book.excuses += 1;
        self.log(format!("by hand in {}{}: {what}", at.store.name, at.path));
    }

    fn foreign_mark(&self) -> Mark {
        let owner = Owner { cluster: "cluster".into(), account: "team/other".into(), uid: "uid-other".into() };
        Mark { owner, jti: "theirs".into(), sequence: i64::MAX, expires_at: self.now }
    }

    /// People remove what is somebody else's, where the status says that it is in the way.
    pub(super) fn clear_foreign(&mut self) {
        let foreign = |error: Option<crate::api::TargetError>| error.is_some_and(|error| error.reason == NOT_OURS);
        for record in self.status().secret_stores.into_iter().filter(|record| foreign(record.error.clone())) {
            let at = StorePath { store: record.store_ref, path: record.secret_path };
            self.log(format!("by hand in {}{}: cleared", at.store.name, at.path));
            let id = self.bump().parse().unwrap_or_default();
            self.shelf(&at).empty(id, false);
        }
    }
}
