//! What must hold in every history: judged at each write as it takes effect, and after each step.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;

use super::world::{MIN_INTERVAL, SKEW, World};
use crate::account::desired::StorePath;
use crate::account::ledger::CAPACITY;
use crate::api::{Entry, Instant, IssueReason, Phase, Seconds, SecretStoreStatus, VirtualAccountStatus};
use crate::token::{AccountView, Ring, against_ledger, derive, strict};

/// What a history remembers to be able to judge.
#[derive(Default)]
pub(super) struct Book {
    /// Every entry that was ever recorded, and the bytes of its token.
    pub(super) all: BTreeMap<String, Entry>,
    tokens: BTreeMap<String, Vec<u8>>,
    ids: BTreeMap<Vec<u8>, String>,
    ends: BTreeMap<String, Instant>,
    /// Refused by right: named by the spec, replaced without grace, dropped for room.
    pub(super) revoked: BTreeSet<String>,
    zero: BTreeSet<String>,
    dropped: BTreeSet<String>,
    /// Lost with a status; in the Secret at that time and to be adopted; known to two statuses, so not held exactly.
    pub(super) lost: BTreeSet<String>,
    pub(super) limbo: BTreeSet<String>,
    loose: BTreeSet<String>,
    pub(super) mints: BTreeMap<IssueReason, u32>,
    pub(super) causes: BTreeMap<IssueReason, u32>,
    pub(super) losses: u32,
    /// A status was restored, and the Secret showed nothing newer.
    pub(super) blind: bool,
    /// At the end somebody asked for a look at every store.
    pub(super) looked: bool,
    pub(super) edits: u32,
    pub(super) shortest: Option<Seconds>,
    /// The token Secret that the spec names was delivered once.
    pub(super) first: bool,
    /// Replaced tokens, when, and in which store if not in the Secret.
    pub(super) left: Vec<(String, Instant, Option<StorePath>)>,
    /// How often people were told that something stays in a store.
    pub(super) told: u32,
    /// Secrets whose content is not what we wrote last.
    pub(super) foreign: BTreeSet<String>,
    /// When the last request came, and whether it was new to a ledger.
    pub(super) request: Option<(Instant, bool)>,
    /// A writer's clock was off within what is tolerated.
    pub(super) clocks_differ: bool,
    /// A clock was beyond the allowed skew at some time.
    pub(super) clock_was_wrong: bool,
    pub(super) old_statuses: Vec<VirtualAccountStatus>,
}

impl Book {
    pub(super) fn cause(&mut self, reason: IssueReason) {
        *self.causes.entry(reason).or_default() += 1;
    }

    /// These are no longer held exactly.
    pub(super) fn loosen(&mut self, ids: impl Iterator<Item = String>) {
        self.loose.extend(ids);
    }

    /// The bytes of an entry's token.
    pub(super) fn token(&self, jti: &str) -> Option<&Vec<u8>> {
        self.tokens.get(jti)
    }

    /// Which token this is.
    pub(super) fn id_of(&self, bytes: &Vec<u8>) -> Option<String> {
        self.ids.get(bytes).cloned()
    }

    pub(super) fn is_loose(&self, jti: &str) -> bool {
        self.loose.contains(jti)
    }

    /// Which tokens a Secret holds.
    pub(super) fn content(&self, secret: &Secret) -> (Option<String>, Option<String>) {
        let id = |key: &str| self.id_of(&secret.data.as_ref()?.get(key)?.0);
        (id("token"), id("previous-token"))
    }

    // What a token says; two recordings of it may differ in the rest.
    fn same_token(one: &Entry, other: &Entry) -> bool {
        let said = |entry: &Entry| {
            (entry.key_id.clone(), entry.issuer.clone(), entry.audiences.clone(), entry.issued_at, entry.expires_at)
        };
        said(one) == said(other)
    }
}

fn entry<'a>(status: &'a VirtualAccountStatus, jti: &str) -> Option<&'a Entry> {
    status.jwts.iter().find(|entry| entry.id == jti)
}

impl World {
    pub(super) fn expired(&self) -> bool {
        self.desired.schedule.ended(self.now)
    }

    /// The ledger's rule of an online check.
    pub(super) fn accepts(&self, jti: &str) -> bool {
        let status = self.account.status.as_ref();
        !self.expired()
            && status.and_then(|status| entry(status, jti)).is_some_and(|entry| {
                entry.phase != Phase::Revoked
                    && self.now < entry.grace_ends_at.unwrap_or(entry.expires_at).min(entry.expires_at)
                    && !self.ring.is_compromised(&entry.key_id)
            })
    }

    /// Refused by right.
    pub(super) fn over(&self, jti: &str) -> bool {
        let book = &self.book;
        let ended = |entry: &Entry| self.now >= entry.expires_at || self.ring.is_compromised(&entry.key_id);
        book.revoked.contains(jti)
            || book.zero.contains(jti)
            || book.dropped.contains(jti)
            || book.all.get(jti).is_none_or(ended)
    }

    pub(super) fn excused(&self, jti: &str) -> bool {
        self.over(jti) || self.expired() || self.book.lost.contains(jti) || self.book.limbo.contains(jti)
    }

    fn tolerance(&self) -> Seconds {
        if self.book.clocks_differ { SKEW } else { Seconds::ZERO }
    }

    fn untrusted(&self, writer: usize) -> bool {
        let offset = self.locals[writer].offset;
        offset > SKEW || Seconds::ZERO - offset > SKEW
    }

    pub(super) fn judge_status(&mut self, status: &VirtualAccountStatus, by: usize) {
        let old = self.status();
        self.log_status(status, by);
        self.judge_records(status);
        self.judge_notices(&old, status);
        self.judge_shape(status);
        let adopted = status.jwts.iter().any(|e| e.reason == IssueReason::Adopted && entry(&old, &e.id).is_none());
        self.judge_newest(&old, status, adopted);
        for new in &status.jwts {
            match entry(&old, &new.id) {
                None => self.judge_added(&old, status, new),
                Some(before) => self.judge_changed(before, new),
            }
            if !self.deleting() {
                self.judge_grace(&old, status, new);
            }
        }
        // A write in flight at the loss may cost the previous token: what was read and adopted is not there any more.
        let there = self.secret().and_then(|secret| secret.metadata.resource_version.clone());
        if adopted && self.locals[by].read != there {
            self.give_up_limbo();
        }
        for gone in old.jwts.iter().filter(|gone| entry(status, &gone.id).is_none()) {
            self.judge_left(&old, status, gone, adopted, by);
        }
        if self.chance(0.2) {
            self.book.old_statuses.push(status.clone());
            let surplus = self.book.old_statuses.len().saturating_sub(6);
            self.book.old_statuses.drain(..surplus);
        }
    }

    fn log_status(&mut self, status: &VirtualAccountStatus, by: usize) {
        let row = |e: &Entry| {
            let end = e.grace_ends_at.map(|end| format!("<{end}")).unwrap_or_default();
            format!("{}:{:?}{end}", e.id, e.phase)
        };
        let rows: Vec<String> = status.jwts.iter().map(row).collect();
        let secret = status.token_secret.clone().unwrap_or_default();
        let (version, held) = (secret.resource_version.unwrap_or_default(), secret.jwt_id.unwrap_or_default());
        let store = |s: &SecretStoreStatus| {
            let jti = s.jwt_id.as_deref().unwrap_or("-");
            format!("{}{}={jti}/{:?}", s.store_ref.name, s.secret_path, s.failures)
        };
        let stores: Vec<String> = status.secret_stores.iter().map(store).collect();
        let stores = stores.join(" ");
        self.log(format!("w{by} status [{}] {}@{version} holds {held} {stores}", rows.join(" "), secret.name));
    }

    fn judge_shape(&mut self, status: &VirtualAccountStatus) {
        if status.jwts.len() > CAPACITY {
            self.bad("more than 10 entries");
        }
        if status.jwts.windows(2).any(|pair| pair[0].issued_at <= pair[1].issued_at) {
            self.bad("issuedAt is not increasing");
        }
        if status.jwts.iter().filter(|entry| entry.phase == Phase::Current).count() > 1 {
            self.bad("two Current");
        }
        let ids: BTreeSet<&String> = status.jwts.iter().map(|entry| &entry.id).collect();
        if ids.len() != status.jwts.len() {
            self.bad("an id twice in the ledger");
        }
    }

    fn judge_newest(&mut self, old: &VirtualAccountStatus, status: &VirtualAccountStatus, adopted: bool) {
        let Some(before) = old.jwts.first().filter(|before| entry(status, &before.id).is_none()) else { return };
        let new = status.jwts.first();
        let replaced = new.is_some_and(|new| entry(old, &new.id).is_none()) && before.phase == Phase::Revoked;
        if !adopted && !replaced && !self.over(&before.id) && new.is_none_or(|new| new.grace != Seconds::ZERO) {
            self.bad(format!("the newest entry {} left", before.id));
        }
    }

    fn judge_added(&mut self, old: &VirtualAccountStatus, status: &VirtualAccountStatus, new: &Entry) {
        *self.book.mints.entry(new.reason).or_default() += 1;
        if new.reason == IssueReason::Adopted {
            self.book.limbo.remove(&new.id);
            self.book.lost.remove(&new.id);
            self.book.loose.insert(new.id.clone());
            if self.book.all.get(&new.id).is_none_or(|known| !Book::same_token(known, new)) {
                self.bad(format!("{} adopted as another token than it was", new.id));
            }
            return;
        }
        if self.book.all.contains_key(&new.id) {
            self.bad(format!("jti {} used twice", new.id));
        }
        // A writer whose watch of the ring lags signs with it once more.
        if self.ring.is_compromised(&new.key_id) {
            self.book.cause(IssueReason::KeyChange);
        }
        if new.grace == Seconds::ZERO {
            let ids = status.jwts.iter().chain(&old.jwts).map(|entry| entry.id.clone());
            let older: Vec<String> = ids.chain(self.book.limbo.clone()).filter(|id| *id != new.id).collect();
            self.book.zero.extend(older);
        }
        let usable = Ring {
            keys: self.ring.keys.iter().cloned().map(|key| crate::token::Key { compromised_at: None, ..key }).collect(),
            ..Ring::default()
        };
        let token = derive(new, &self.id(), &usable).unwrap().expose().as_bytes().to_vec();
        self.book.all.insert(new.id.clone(), new.clone());
        self.book.ids.insert(token.clone(), new.id.clone());
        self.book.tokens.insert(new.id.clone(), token);
    }

    fn judge_changed(&mut self, before: &Entry, new: &Entry) {
        let id = &new.id;
        let (phase, grace_ends_at) = (new.phase, new.grace_ends_at);
        let fixed = Entry { phase, grace_ends_at, delivered_at: new.delivered_at, ..before.clone() };
        if fixed != *new {
            self.bad(format!("{id} changed"));
        }
        if before.phase == Phase::Revoked && new.phase != Phase::Revoked {
            self.bad(format!("{id} is no longer revoked"));
        }
        if before.grace_ends_at.is_some() && before.grace_ends_at != new.grace_ends_at {
            self.bad(format!("graceEndsAt of {id} moved"));
        }
        if before.delivered_at.is_some() && before.delivered_at != new.delivered_at {
            self.bad(format!("deliveredAt of {id} moved"));
        }
    }

    fn judge_grace(&mut self, old: &VirtualAccountStatus, status: &VirtualAccountStatus, new: &Entry) {
        let Some(end) = new.grace_ends_at.filter(|_| entry(old, &new.id).is_none_or(|e| e.grace_ends_at.is_none()))
        else {
            return;
        };
        if !self.book.loose.contains(&new.id) {
            self.book.ends.insert(new.id.clone(), end);
        }
        let Some(held) = self.held(status).cloned() else {
            return self.bad(format!("{} ends, and nothing is held", new.id));
        };
        let between = status.jwts.iter().filter(|e| new.issued_at < e.issued_at && e.issued_at <= held.issued_at);
        let grace = between.map(|e| e.grace).min().unwrap_or_default();
        let latest = (self.now + self.tolerance() + grace).min(new.expires_at);
        if end > latest {
            self.bad(format!("{} ends {end}, later than its grace", new.id));
        }
    }

    fn judge_left(
        &mut self,
        old: &VirtualAccountStatus,
        status: &VirtualAccountStatus,
        gone: &Entry,
        adopted: bool,
        by: usize,
    ) {
        let (id, full) = (&gone.id, old.jwts.len() >= CAPACITY);
        // By a wrong clock an expired token may look alive, and what was issued since gives way to it; so it does if the
        // Secret that was read has been replaced meanwhile. Both are put right by the next pass.
        let replaced = self
            .secret()
            .is_none_or(|secret| self.book.content(secret).0.as_ref() != status.jwts.first().map(|newest| &newest.id));
        // What gave way may be on its way from a writer that sleeps.
        let gave_way = gone.phase == Phase::Pending;
        if adopted && (replaced || gave_way || self.untrusted(by)) {
            self.book.lost.insert(id.clone());
        }
        let below = self.held(status).is_some_and(|held| held.issued_at > gone.issued_at);
        // Time may have gone on since the writer decided, never back.
        let now = self.now + self.tolerance();
        match (gone.phase, gone.grace_ends_at) {
            // A token of an account that is being deleted is refused for good, and nothing adopts it any more.
            (Phase::Revoked, _) if self.deleting() => {}
            (Phase::Revoked, _) if !below && !full && !adopted && now < gone.expires_at + SKEW => {
                self.bad(format!("{id} left while it may be held"));
            }
            (Phase::Pending | Phase::Current, _) if !adopted && now < gone.expires_at + SKEW && !self.over(id) => {
                self.bad(format!("{id} left, and it is good"));
            }
            (Phase::Superseded, Some(end)) if now < end.min(gone.expires_at) + SKEW && !self.over(id) => {
                if !full && !adopted {
                    self.bad(format!("{id} left before its grace ended"));
                }
                self.book.dropped.insert(id.clone());
            }
            _ => {}
        }
    }

    pub(super) fn judge_secret(&mut self, by: usize, name: &str, old: Option<&Secret>, new: &Secret) {
        let (token, previous) = self.book.content(new);
        let before = old.map(|old| self.book.content(old)).unwrap_or_default();
        let text = |id: &Option<String>| id.clone().unwrap_or_else(|| "-".into());
        self.log(format!("w{by} Secret {name}: {} and {} over {}", text(&token), text(&previous), text(&before.0)));
        if old.is_some_and(|old| old.data == new.data) {
            return;
        }
        let Some(token) = token else { return self.bad("the Secret's token is not what its entry derives") };
        let unknown = new.data.as_ref().is_some_and(|data| data.contains_key("previous-token")) && previous.is_none();
        if unknown {
            return self.bad("the Secret's previous token is not what its entry derives");
        }
        let target = name == self.desired.secret.name;
        let newest = self.account.status.as_ref().and_then(|status| status.jwts.first());
        // Frozen between an ordered read and a create, with the Secret deleted meanwhile: put right within a pass.
        let stale = old.is_none() && newest.is_some_and(|newest| newest.id != token);
        self.judge_delivered(&token, stale || !target);
        if old.is_some() && !self.book.foreign.contains(name) {
            self.judge_overwritten(&before, &token, previous.as_deref(), self.untrusted(by));
            if let Some(replaced) = before.0.filter(|replaced| target && *replaced != token) {
                self.book.left.push((replaced, self.now, None));
            }
        }
        if stale {
            self.book.foreign.insert(name.to_owned());
        } else {
            self.book.foreign.remove(name);
        }
        self.book.first |= target;
    }

    pub(super) fn judge_delivered(&mut self, token: &str, waived: bool) {
        let recorded = self.account.status.as_ref().is_some_and(|status| entry(status, token).is_some());
        let lost = self.book.lost.contains(token) || self.book.limbo.contains(token);
        if !recorded && !waived && !lost && !self.over(token) {
            self.bad(format!("{token} delivered, the ledger lacks it"));
        }
    }

    fn judge_overwritten(
        &mut self,
        before: &(Option<String>, Option<String>),
        token: &str,
        previous: Option<&str>,
        untrusted: bool,
    ) {
        let status = self.status();
        for old in [&before.0, &before.1].into_iter().flatten() {
            let unadopted = self.book.limbo.contains(old) && Some(old.as_str()) != previous && old != token;
            if unadopted && (entry(&status, token).is_none() || untrusted) {
                // A write in flight at the loss, or a clock by which the token has expired.
                self.book.limbo.remove(old);
                self.book.lost.insert(old.clone());
            }
            let ends = self.book.all.get(old).map(|entry| entry.expires_at - self.tolerance());
            if unadopted && self.book.limbo.contains(old) && !self.over(old) && ends > Some(self.now) {
                self.bad(format!("{old} was in the Secret at a loss of status and is overwritten, not adopted"));
            }
        }
        let issued = |id: &str| self.book.all.get(id).map(|entry| entry.issued_at);
        if let Some(old) = before.0.as_deref().filter(|old| issued(token) < issued(old)) {
            let known = entry(&status, old).is_some() && !self.book.loose.contains(old);
            if known {
                self.bad(format!("{token} over newer {old}"));
            }
        }
    }

    /// After each step.
    pub(super) fn check(&mut self) {
        self.check_stores();
        if self.gone || self.deleting() {
            return;
        }
        self.check_held();
        self.check_replaced();
        self.check_grace_ends();
        self.check_mints();
        if self.chance(0.01) {
            self.check_verifier();
        }
    }

    // No instant after the first delivery without a valid delivered token.
    fn check_held(&mut self) {
        let name = &self.desired.secret.name;
        if !self.desired.secret.enabled || !self.book.first || self.book.foreign.contains(name) {
            return;
        }
        let Some(jti) = self.secret().and_then(|secret| self.book.content(secret).0) else { return };
        if !self.accepts(&jti) && !self.excused(&jti) {
            self.bad(format!("the Secret holds {jti}, which is refused"));
        }
    }

    // A replaced token stays valid for the grace from its replacement on.
    fn check_replaced(&mut self) {
        let left = std::mem::take(&mut self.book.left);
        for (jti, at, place) in left {
            // A target that the spec no longer names has no consumers any more.
            if place.as_ref().map_or(!self.desired.secret.enabled, |place| !self.is_named(place)) {
                continue;
            }
            let Some(entry) = self.book.all.get(&jti).filter(|_| !self.book.loose.contains(&jti)) else { continue };
            let newer = self.book.all.values().filter(|other| other.issued_at > entry.issued_at);
            let grace = newer.map(|other| other.grace).min().unwrap_or_default();
            if self.now >= at + grace - self.tolerance() {
                continue;
            }
            if !self.accepts(&jti) && !self.excused(&jti) {
                self.bad(format!("{jti} is refused {:?} after it was replaced (grace {grace})", self.now - at));
            }
            self.book.left.push((jti, at, place));
        }
    }

    // Accepted until exactly graceEndsAt, refused after it.
    fn check_grace_ends(&mut self) {
        let wrong = self.book.ends.iter().find(|(jti, end)| {
            let waived = self.book.loose.contains(*jti) || self.book.lost.contains(*jti);
            !waived && !self.over(jti) && !self.expired() && self.accepts(jti) != (self.now < **end)
        });
        if let Some((jti, end)) = wrong {
            let verdict = if self.now < *end { "refused" } else { "accepted" };
            self.violation.get_or_insert(format!("{jti}: graceEndsAt {end}, {verdict} at {}", self.now));
        }
    }

    fn check_mints(&mut self) {
        use IssueReason::{First, KeyChange, Request, Revocation, Scheduled, SpecChange};
        let count = |map: &BTreeMap<IssueReason, u32>, of: &[IssueReason]| -> u32 {
            of.iter().filter_map(|reason| map.get(reason)).sum()
        };
        let book = &self.book;
        for kind in [&[First][..], &[Request], &[SpecChange], &[Revocation, KeyChange]] {
            let (mints, causes) = (count(&book.mints, kind), count(&book.causes, kind) + u32::from(kind == [First]));
            if mints > causes + book.losses {
                return self.bad(format!("{mints} mints {kind:?} for {causes} causes"));
            }
        }
        let age = self.now - Instant::from_unix(super::world::START);
        let shortest = book.shortest.unwrap_or(MIN_INTERVAL);
        let most = i64::from(book.edits + book.losses) + age.0 * 10 / (9 * shortest.0) + 1;
        let scheduled = count(&book.mints, &[Scheduled]);
        if i64::from(scheduled) > most {
            self.bad(format!("{scheduled} scheduled mints in {age}"));
        }
    }

    // The real verifier says what the cheap rule says.
    fn check_verifier(&mut self) {
        let Some(secret) = self.secret() else { return };
        let (token, previous) = self.book.content(secret);
        for jti in [token, previous].into_iter().flatten() {
            let Some(bytes) = self.book.token(&jti) else { continue };
            let view = AccountView {
                id: &self.desired.account,
                ledger: self.account.status.as_ref().map_or(&[], |status| &status.jwts),
                disabled: self.desired.disabled,
                deleting: false,
                end: self.desired.schedule.end,
            };
            // A tolerated clock ahead of ours may have written an iat beyond the leeway.
            let verified = strict(std::str::from_utf8(bytes).unwrap(), &self.ring, self.now + self.tolerance());
            let accepted = verified.and_then(|verified| against_ledger(&verified, Some(&view), self.now).map(drop));
            let expected = self.accepts(&jti) && !self.desired.disabled;
            if accepted.is_ok() != expected {
                return self.bad(format!("the verifier says {accepted:?} of {jti}, the ledger {expected}"));
            }
        }
    }

    /// What must hold once nothing goes wrong any more.
    pub(super) fn check_settled(&mut self) {
        if self.expired() {
            return;
        }
        let (status, now) = (self.status(), self.now);
        let Some(newest) = status.jwts.first() else { return self.bad("settled without a token") };
        // Revoked in the account's last second, it can have no successor.
        let last = self.desired.schedule.end.is_some_and(|end| newest.issued_at + Seconds(1) >= end);
        if last && newest.phase == Phase::Revoked {
            return;
        }
        if now >= newest.expires_at || newest.phase != Phase::Current {
            self.bad(format!("settled with {}, {:?}, which ends {}", newest.id, newest.phase, newest.expires_at));
        }
        let schedule = &self.desired.schedule;
        let overdue = schedule.auto && now > newest.issued_at + schedule.interval;
        if overdue && schedule.end.is_none_or(|end| newest.expires_at < end) {
            self.bad(format!("{} is older than the interval", newest.id));
        }
        self.check_stores_settled(newest);
        if self.desired.secret.enabled {
            self.check_secret_settled(&status, newest);
        }
        if !self.accepts(&newest.id) {
            self.bad(format!("settled, and {} is refused", newest.id));
        }
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        if ready.is_none_or(|ready| ready.status != "True")
            || status.observed_generation != Some(self.desired.generation)
        {
            self.bad(format!("settled, not Ready: {:?}", ready.map(|ready| &ready.message)));
        }
    }

    fn check_secret_settled(&mut self, status: &VirtualAccountStatus, newest: &Entry) {
        let Some(secret) = self.secret() else { return self.bad("settled without a Secret") };
        let (token, previous) = self.book.content(secret);
        if token.as_ref() != Some(&newest.id) {
            self.bad(format!("settled, and the Secret holds {token:?}, not {}", newest.id));
        }
        // A writer that slept may have delivered one that ended meanwhile by itself.
        let retired = |previous: &String| entry(status, previous).is_none() && !self.over(previous);
        if let Some(previous) = previous.filter(retired) {
            self.bad(format!("settled, and the Secret holds the retired {previous}"));
        }
    }
}

impl World {
    /// A request without grace was meant: what was issued before it is refused, if it was handled at all.
    pub(super) fn check_request(&mut self) {
        let Some((at, true)) = self.book.request else { return };
        let Some(request) = self.desired.request.clone().filter(|request| request.grace == Some(Seconds::ZERO)) else {
            return;
        };
        let handled = self.status().handled_rotate_requests.contains(&request.value);
        let old = self.book.all.values().filter(|entry| entry.issued_at < at - Seconds::hours(41));
        let alive = old.map(|entry| entry.id.clone()).find(|jti| self.accepts(jti));
        if let Some(alive) = alive.filter(|_| handled && !self.expired()) {
            self.bad(format!("{} is handled, and {alive} is still accepted", request.value));
        }
    }
}
