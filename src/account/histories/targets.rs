//! What must hold of paths in stores: judged at each write as it takes effect, and after each step.

use std::collections::BTreeMap;

use super::stores::{Put, Remove, Shelf, Version};
use super::world::World;
use crate::account::desired::{StorePath, StoreSpec};
use crate::account::ledger::is_at;
use crate::api::{DeletionPolicy, Entry, Phase, SecretStoreStatus, VirtualAccountStatus};
use crate::store::{Mark, Presence};

impl World {
    /// The tokens that the targets hold as recorded: of several the oldest, `None` if one holds nothing (rule 3, *m*).
    pub(super) fn held<'a>(&self, status: &'a VirtualAccountStatus) -> Option<&'a Entry> {
        let find = |jti: Option<&String>| jti.and_then(|jti| status.jwts.iter().find(|entry| entry.id == *jti));
        let secret = self
            .desired
            .secret
            .enabled
            .then(|| find(status.token_secret.as_ref().and_then(|secret| secret.jwt_id.as_ref())));
        let stores = self.desired.stores.iter().map(|store| {
            find(status.secret_stores.iter().find(|record| is_at(record, &store.at)).and_then(|it| it.jwt_id.as_ref()))
        });
        let all: Option<Vec<&Entry>> = secret.into_iter().chain(stores).collect();
        all?.into_iter().min_by_key(|entry| entry.issued_at)
    }

    pub(super) fn is_named(&self, at: &StorePath) -> bool {
        self.desired.stores.iter().any(|store| store.at == *at)
    }

    fn record(&self, at: &StorePath) -> Option<&SecretStoreStatus> {
        self.account.status.as_ref()?.secret_stores.iter().find(|record| is_at(record, at))
    }

    // Whether a writer stands on the account as it is.
    fn is_fresh(&self, base: u64) -> bool {
        self.account.metadata.resource_version == Some(base.to_string())
    }

    fn is_ours(&self, mark: Option<&Mark>) -> bool {
        mark.is_some_and(|mark| {
            mark.owner.account == self.desired.account.to_string() && mark.owner.cluster == self.limits.cluster_id
        })
    }

    // Without a mark the value alone may tell.
    fn is_ours_at(&self, at: &StorePath) -> bool {
        self.shelves.get(at).is_some_and(|slot| {
            let told = slot.mark.is_none() && slot.current().is_some_and(|version| version.jti.is_some());
            told || self.is_ours(slot.mark.as_ref())
        })
    }

    /// What consumers of a path get.
    fn token_at(&self, at: &StorePath) -> Option<String> {
        self.shelves.get(at)?.current().and_then(|version| self.book.id_of(&version.bytes))
    }

    /// What is sent must be known before: where, and that the account waits for its removal.
    pub(super) fn judge_sent(&mut self, put: &Put) {
        if !self.is_fresh(put.base) {
            return;
        }
        if self.deleting() || !self.is_named(&put.at) {
            self.bad(format!("{} is written, and is not to hold anything", put.at.path));
        }
        if self.record(&put.at).is_none() {
            self.bad(format!("{} is written before it is recorded", put.at.path));
        }
        if self.account.metadata.finalizers.is_none() {
            self.bad("a store is written without the finalizer");
        }
    }

    /// `raced`: something else is there than the writer saw; `repeated`: no version is added.
    pub(super) fn judge_put(&mut self, put: &Put, raced: bool, repeated: bool, by: usize) {
        let (at, jti) = (put.at.clone(), put.mark.jti.clone());
        let late = raced || put.base <= self.shelf(&at).book.emptied_at;
        let before = self.token_at(&at);
        let how = if late { " late" } else { "" };
        self.log(format!("w{by} writes{how} {}{}: {jti} over {before:?}", at.store.name, at.path));
        let known = self.book.all.get(&jti);
        let marked =
            known.is_some_and(|e| e.issued_at.as_unix() == put.mark.sequence && e.expires_at == put.mark.expires_at);
        if self.book.id_of(&put.bytes).as_ref() != Some(&jti) || !marked {
            return self.bad(format!("{} gets another token than {jti}", at.path));
        }
        let slot = self.shelf(&at);
        let there = slot.presence != Presence::Absent;
        if there && !self.is_ours_at(&at) && !late {
            return self.bad(format!("{} is somebody else's and is written", at.path));
        }
        self.judge_delivered(&jti, late || !self.is_named(&at) || self.gone);
        self.judge_order(&at, &jti, before.as_deref(), late);
        self.count_copy(&at, &jti, raced, repeated);
        // Only a writer that stands on an older account writes what is not to be there.
        let unwanted = self.deleting() || !self.is_named(&at);
        let unrecorded = self.gone || self.record(&at).is_none() || unwanted;
        // What somebody's hand hid from a writer that sleeps is put right by the next look of one that does not.
        let stale = self.status().jwts.first().is_some_and(|newest| newest.id != jti);
        let book = &mut self.shelf(&at).book;
        (book.first, book.disturbed, book.unrecorded) = (true, late || (stale && book.disturbed), false);
        book.stray = late || unrecorded;
        if late {
            book.late.insert(jti.clone());
        }
    }

    // Newer tokens that the ledger knows stay; what is replaced has its grace from now on.
    fn judge_order(&mut self, at: &StorePath, jti: &str, before: Option<&str>, late: bool) {
        let Some(before) = before.filter(|before| *before != jti) else { return };
        let issued = |id: &str| self.book.all.get(id).map(|entry| entry.issued_at);
        let known = self.status().jwts.iter().any(|entry| entry.id == before) && !self.book.is_loose(before);
        if issued(jti) < issued(before) && known && !late {
            self.bad(format!("{}: {jti} over newer {before}", at.path));
        }
        let book = &self.shelves[at].book;
        if book.first && !book.disturbed {
            self.book.left.push((before.to_owned(), self.now, Some(at.clone())));
        }
    }

    fn count_copy(&mut self, at: &StorePath, jti: &str, raced: bool, repeated: bool) {
        let losses = self.book.losses;
        let book = &mut self.shelf(at).book;
        book.excuses += u32::from(raced && !repeated);
        let copies = book.copies.entry(jti.to_owned()).or_default();
        *copies += u32::from(!repeated);
        if *copies > 1 + book.excuses + losses {
            let why = format!("{}: {jti} has {copies} versions", at.path);
            self.bad(why);
        }
    }

    /// A version ends only when its token is refused, or where the same token has another version. The writer of a late write
    /// may not know what it wrote over.
    pub(super) fn judge_retired(&mut self, at: &StorePath, held: u64, ended: &[Version]) {
        let stays = |version: &&Version| version.usable && !ended.iter().any(|ended| ended.id == version.id);
        let stay: Vec<String> =
            self.shelf(at).versions.iter().filter(stays).filter_map(|version| version.jti.clone()).collect();
        let slot = self.shelf(at);
        // What the writer of a late write sends afterwards may itself be late.
        let by = slot.versions.iter().find(|version| version.id == held).and_then(|version| version.jti.clone());
        let disturbed = slot.book.disturbed || by.is_some_and(|by| slot.book.late.contains(&by));
        for jti in ended.iter().filter_map(|version| version.jti.clone()) {
            self.log(format!("{}{} ends {jti}", at.store.name, at.path));
            let excused = disturbed || self.excused(&jti) || self.book.is_loose(&jti) || stay.contains(&jti);
            if self.accepts(&jti) && !excused {
                self.bad(format!("{}: the version of {jti} ends, and it is accepted", at.path));
            }
        }
    }

    pub(super) fn judge_removed(&mut self, remove: &Remove, raced: bool, by: usize) {
        let at = &remove.at;
        self.log(format!("w{by} removes {}{}", at.store.name, at.path));
        let ours = self.is_ours_at(at);
        if !ours && !raced {
            self.bad(format!("{} is somebody else's and is removed", at.path));
        }
        if !self.is_fresh(remove.base) || self.deleting() {
            return;
        }
        if self.is_named(at) {
            self.bad(format!("{} is removed although the spec names it", at.path));
        }
        let status = self.status();
        let Some(newest) = status.jwts.first().filter(|newest| newest.phase != Phase::Revoked) else { return };
        let lacks = |world: &Self, at: &StorePath| {
            world.shelves.get(at).is_none_or(|slot| !slot.book.disturbed)
                && world.token_at(at).as_ref() != Some(&newest.id)
        };
        let lacking =
            self.desired.stores.iter().find(|store| lacks(self, &store.at)).map(|store| store.at.path.clone());
        if let Some(lacking) = lacking.filter(|_| !self.over(&newest.id) && !self.expired()) {
            self.bad(format!("{} is removed while {lacking} lacks the newest token", at.path));
        }
    }

    pub(super) fn tell_left_behind(&mut self, at: &StorePath, why: &str) {
        self.log(format!("{}{} is left behind: {why}", at.store.name, at.path));
        self.shelf(at).book.stray = true;
        self.book.told += 1;
    }

    /// A status is written: what it no longer records is released by policy, or gone.
    pub(super) fn judge_records(&mut self, status: &VirtualAccountStatus) {
        for before in self.status().secret_stores {
            let at = StorePath { store: before.store_ref.clone(), path: before.secret_path.clone() };
            let stays = status.secret_stores.iter().any(|record| is_at(record, &at));
            if !stays && before.deletion_policy == DeletionPolicy::Retain {
                self.shelf(&at).book.stray = true;
            }
        }
        for record in &status.secret_stores {
            let at = StorePath { store: record.store_ref.clone(), path: record.secret_path.clone() };
            // A record that says nothing does not bring back what a lost one said.
            let says = record.jwt_id.is_some() || record.synced_at.is_some() || record.failures.is_some();
            let book = &mut self.shelf(&at).book;
            book.stray &= !says;
            book.unrecorded &= !says;
        }
    }

    /// The account goes: what its policy retains stays.
    pub(super) fn release_retained(&mut self) {
        let recorded =
            self.status().secret_stores.into_iter().map(|record| {
                (StorePath { store: record.store_ref, path: record.secret_path }, record.deletion_policy)
            });
        // What the spec names, as it says now.
        let named = self.desired.stores.iter().map(|store| (store.at.clone(), store.policy));
        let policies: BTreeMap<StorePath, DeletionPolicy> = recorded.chain(named).collect();
        for (at, policy) in policies {
            self.shelf(&at).book.stray |= policy == DeletionPolicy::Retain;
        }
    }

    /// Records go with a status.
    pub(super) fn lose_records(&mut self, status: Option<&VirtualAccountStatus>) {
        let recorded =
            |at: &StorePath| status.is_some_and(|status| status.secret_stores.iter().any(|record| is_at(record, at)));
        let named: Vec<StorePath> = self.desired.stores.iter().map(|store| store.at.clone()).collect();
        for (at, slot) in &mut self.shelves {
            let lost = !recorded(at);
            slot.book.unrecorded = lost;
            // A spec that names it is enough, also to clean up; beside a status that knows of others it is not.
            slot.book.stray |= lost && (!named.contains(at) || status.is_some());
        }
    }

    /// After each step: the promises to the consumers of stores, and that nothing is forgotten.
    pub(super) fn check_stores(&mut self) {
        let forgotten = self.shelves.iter().find(|(at, slot)| self.is_forgotten(at, slot));
        if let Some((at, _)) = forgotten {
            let why = format!("{}{} holds our token, and nobody knows", at.store.name, at.path);
            return self.bad(why);
        }
        if self.gone || self.deleting() {
            return;
        }
        let kept = |at: &StorePath| self.shelves.get(at).is_some_and(|slot| slot.book.first && !slot.book.disturbed);
        let named = self.desired.stores.iter().filter(|store| kept(&store.at));
        let held = named.filter_map(|store| Some((store.at.path.clone(), self.token_at(&store.at)?)));
        let refused = held.into_iter().find(|(_, jti)| !self.accepts(jti) && !self.excused(jti));
        if let Some((path, jti)) = refused {
            self.bad(format!("{path} holds {jti}, which is refused"));
        }
    }

    /// Stores fail for long, and the Secret holds a good token.
    pub(super) fn check_secret_during_outage(&mut self) {
        let token = self.secret().and_then(|secret| self.book.content(secret).0);
        if !self.expired() && !token.as_ref().is_some_and(|jti| self.accepts(jti)) {
            self.bad(format!("stores fail, and the Secret holds {token:?}, which is refused"));
        }
    }

    fn is_forgotten(&self, at: &StorePath, slot: &Shelf) -> bool {
        let ours = slot.presence == Presence::Present && self.is_ours(slot.mark.as_ref());
        let known = !self.gone && (self.record(at).is_some() || (self.is_named(at) && slot.book.unrecorded));
        // Of an account that is being deleted the record of what is to stay goes first.
        let stays = |store: &StoreSpec| store.at == *at && store.policy == DeletionPolicy::Retain;
        let retained = self.deleting() && self.desired.stores.iter().any(stays);
        ours && !slot.book.stray && !known && !retained
    }

    /// What must hold of stores once nothing goes wrong any more.
    pub(super) fn check_stores_settled(&mut self, newest: &Entry) {
        let status = self.status();
        for store in self.desired.stores.clone() {
            let at = &store.at;
            let token = self.token_at(at);
            if token.as_ref() != Some(&newest.id) {
                self.bad(format!("settled, and {}{} holds {token:?}, not {}", at.store.name, at.path, newest.id));
            }
            let slot = &self.shelves[at];
            let marked = slot.mark.as_ref().is_some_and(|mark| mark.jti == newest.id);
            let usable = slot.older().filter(|version| version.usable).filter_map(|version| version.jti.clone());
            // One that ended by itself is of no use; the next look clears it away.
            let done = |jti: &String| {
                let expired = self.book.all.get(jti).is_none_or(|entry| self.now >= entry.expires_at);
                !expired && !status.jwts.iter().any(|entry| entry.id == *jti)
            };
            let left: Vec<String> = usable.filter(|jti| done(jti)).collect();
            if !marked {
                self.bad(format!("settled, and the mark of {} is not that of {}", at.path, newest.id));
            }
            // What could not be ended is derived again at each look.
            if !left.is_empty() && self.book.looked {
                self.bad(format!("settled, and {}{} still has versions of {left:?}", at.store.name, at.path));
            }
        }
        let unwanted =
            status.secret_stores.iter().find(|record| !self.desired.stores.iter().any(|s| is_at(record, &s.at)));
        if let Some(record) = unwanted {
            self.bad(format!("settled, and {} is still recorded", record.secret_path));
        }
        if let Some(failing) = status.secret_stores.iter().find_map(|record| record.error.as_ref()) {
            self.bad(format!("settled, and {} is recorded", failing.message));
        }
    }
}
