//! The ledger's own rules: the order of entries, which token targets hold, phases and grace ends, adoption.
//! Pure; `plan` decides with it what to do, `status` what to record. Each rule names its number in the protocol
//! (docs/protocol.md).

use std::collections::BTreeSet;

use super::desired::{Desired, StorePath};
use crate::api::{Entry, Instant, IssueReason, Phase, Seconds, SecretStoreStatus, VirtualAccountStatus};
use crate::token::Standing;

/// At most this many entries.
pub const CAPACITY: usize = 10;
/// From this many on, requests and spec changes wait.
pub const SOFT_CAPACITY: usize = 8;
/// How many handled rotate requests are remembered.
const REQUESTS_REMEMBERED: usize = 8;
/// A newest entry issued further ahead than this is replaced, and never adopted.
pub const FUTURE: Seconds = Seconds::minutes(5);

/// What the status records about tokens: the part that a write-ahead write carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Newest first; `issued_at` strictly decreasing.
    pub entries: Vec<Entry>,
    /// What the token Secret holds, as recorded.
    pub secret: Hold,
    /// The spec asks for no token Secret: the stores alone are targets.
    pub stores_only: bool,
    /// What each path in a store holds that the spec names, as recorded, in the spec's order.
    pub stores: Vec<StoreHold>,
    /// Handled rotate requests, the newest first.
    pub handled: Vec<String>,
}

/// What one target holds, as recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// The token's id; `None`: nothing yet.
    pub jti: Option<String>,
    /// The target's version when it was last written or checked; `None`: it must be written or read before it counts.
    pub version: Option<String>,
}

/// What one path in a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreHold {
    /// Which.
    pub at: StorePath,
    /// What it holds.
    pub hold: Hold,
}

/// What decides how a ledger settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settling {
    /// After the last delivery: grace periods count from here.
    pub now: Instant,
    /// When the pass was planned: what was over then is no longer in the Secret and leaves.
    pub planned: Instant,
    /// `--max-clock-skew`.
    pub skew: Seconds,
    /// Whether the clock agrees with the API server's.
    pub trusted: bool,
    /// Whether the Secret is known to be as planned. If not, it may still hold an older token as previous: that entry
    /// stays, for its removal to be tried again.
    pub confirmed: bool,
}

/// Of what a pass has read: what a lost ledger is put together from.
#[derive(Clone, Copy, Debug)]
pub struct Adoption<'a> {
    /// What the Secret carries.
    pub carried: &'a Carried,
    /// The tokens that the marks of readable stores name: they count as held.
    pub marks: &'a BTreeSet<String>,
    /// The rotate annotation's value.
    pub request: Option<&'a str>,
    /// `revokedJwtIds`
    pub revoked: &'a BTreeSet<String>,
    /// When.
    pub now: Instant,
    /// Whether the clock can be trusted. If not, nothing is from the future: a newer token would be overwritten.
    pub trusted: bool,
}

/// A Secret's content, read back into entries (only what verifies and signs again to the same bytes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// `token`
    pub token: Option<Entry>,
    /// `previous-token`
    pub previous: Option<Entry>,
    /// The last handled rotate request when it was written.
    pub handled: Option<String>,
    /// The Secret's version.
    pub version: String,
}

impl Ledger {
    /// As a status records it. A status of another account counts as lost. Of a Secret with another name only the token
    /// is known: it is out there, until the Secret of the new name holds one.
    pub fn of(status: Option<&VirtualAccountStatus>, desired: &Desired) -> Self {
        let none = VirtualAccountStatus::default();
        let account = desired.account.to_string();
        let status = status.filter(|status| status.account.as_ref() == Some(&account)).unwrap_or(&none);
        let mut entries = status.jwts.clone();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.issued_at));
        let mut ids = BTreeSet::new();
        entries.retain(|entry| ids.insert(entry.id.clone()));
        Self {
            entries,
            secret: secret_hold(status, desired),
            stores_only: !desired.secret.enabled,
            stores: desired.stores.iter().map(|store| store_hold(status, &store.at)).collect(),
            handled: status.handled_rotate_requests.clone(),
        }
    }

    /// The newest entry: the one that is delivered.
    pub fn newest(&self) -> Option<&Entry> {
        self.entries.first()
    }

    /// The entry with this id.
    pub fn entry(&self, jti: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == jti)
    }

    /// What each target holds, the Secret first.
    fn holds_of_targets(&self) -> impl Iterator<Item = &Hold> {
        let secret = (!self.stores_only).then_some(&self.secret);
        secret.into_iter().chain(self.stores.iter().map(|store| &store.hold))
    }

    /// The oldest token that any target holds: entries below it have a successor everywhere. A target that holds
    /// nothing, or something unknown, counts as the beginning of time (rule 3, *m*).
    fn held_by_all(&self) -> Instant {
        let issued = |hold: &Hold| hold.jti.as_deref().and_then(|jti| self.entry(jti)).map(|entry| entry.issued_at);
        let nothing = Instant::from_unix(0);
        self.holds_of_targets().map(|hold| issued(hold).unwrap_or(nothing)).min().unwrap_or(nothing)
    }

    /// Whether any target holds this token.
    pub fn holds(&self, jti: &str) -> bool {
        self.holds_of_targets().any(|hold| hold.jti.as_deref() == Some(jti))
    }

    // One that is over and that only a store holds would fill the ledger while the store fails: its place is needed.
    fn held_for(&self, entry: &Entry) -> bool {
        let secret = !self.stores_only && self.secret.jti.as_ref() == Some(&entry.id);
        secret || (self.holds(&entry.id) && self.entries.len() < SOFT_CAPACITY)
    }

    /// Whether the Secret holds the newest token, or is not asked for.
    pub fn in_secret(&self) -> bool {
        self.stores_only || self.newest().is_some_and(|newest| self.secret.is(&newest.id))
    }

    /// Whether every target holds the newest token.
    pub fn delivered(&self) -> bool {
        let anywhere = self.holds_of_targets().next().is_some();
        let everywhere = |newest: &Entry| self.in_secret() && self.stores.iter().all(|store| store.hold.is(&newest.id));
        anywhere && self.newest().is_some_and(everywhere)
    }

    /// Phases, grace ends and what leaves (rule 3). With an untrusted clock nothing is superseded or retired.
    #[must_use]
    pub fn settled(&self, by: &Settling) -> Self {
        let m = self.held_by_all();
        let ends =
            |entry: &Entry| entry.issued_at < m && entry.grace_ends_at.is_none() && entry.phase != Phase::Revoked;
        // What must end cannot without a clock; until it does, its successor is not Current either.
        let waits = !by.trusted && self.entries.iter().any(ends);
        let mut entries = Vec::with_capacity(self.entries.len());
        for (at, entry) in self.entries.iter().enumerate() {
            let entry = if waits { entry.clone() } else { self.phased(entry, m, by.now) };
            let leaves = at > 0 && self.leaves(&entry, m, by);
            if !leaves {
                entries.push(entry);
            }
        }
        Self { entries, ..self.clone() }
    }

    fn phased(&self, entry: &Entry, m: Instant, now: Instant) -> Entry {
        let before = entry.phase;
        let mut entry = entry.clone();
        if entry.phase == Phase::Revoked {
            return entry;
        }
        if entry.grace_ends_at.is_none() && entry.issued_at < m {
            let newer = self.entries.iter().filter(|other| other.issued_at > entry.issued_at && other.issued_at <= m);
            let grace = newer.map(|other| other.grace).min().unwrap_or_default();
            entry.grace_ends_at = Some((now + grace).min(entry.expires_at));
        }
        entry.phase = match entry.grace_ends_at {
            Some(_) => Phase::Superseded,
            None if entry.issued_at == m => Phase::Current,
            None => Phase::Pending,
        };
        if entry.phase == Phase::Current && before != Phase::Current {
            entry.delivered_at.get_or_insert(now);
        }
        entry
    }

    fn leaves(&self, entry: &Entry, m: Instant, by: &Settling) -> bool {
        let held = self.holds(&entry.id);
        let past = |end: Instant| by.trusted && by.planned >= end + by.skew;
        let expired = !self.held_for(entry) && past(entry.expires_at);
        // What is revoked and over harms nobody, wherever it lies; a target that never works must not fill the ledger.
        if entry.phase == Phase::Revoked {
            return expired || (!held && entry.issued_at < m && by.confirmed);
        }
        expired || (by.confirmed && entry.grace_ends_at.is_some_and(past))
    }

    /// The entry that is delivered as `previous-token` beside the newest: the newest older one that is still good.
    pub fn previous(&self, now: Instant, usable: impl Fn(&Entry) -> bool) -> Option<&Entry> {
        self.entries.iter().skip(1).find(|entry| {
            let ends = entry.grace_ends_at.map_or(entry.expires_at, |end| end.min(entry.expires_at));
            entry.phase != Phase::Revoked && now < ends && usable(entry)
        })
    }

    /// Whether the Secret may still hold, as `previous-token`, something that must go: a revoked token, or one that
    /// leaves the ledger now and has no living entry above it that took its place.
    pub fn previous_is_over(&self, now: Instant, skew: Seconds, trusted: bool) -> bool {
        let settled = self.settled(&Settling { now, planned: now, skew, trusted, confirmed: true });
        let mut older = self.entries.iter().skip(1);
        older.any(|entry| {
            let newer_lives = self.previous(now, |_| true).is_some_and(|p| p.issued_at > entry.issued_at);
            let leaving = settled.entry(&entry.id).is_none() && !newer_lives;
            entry.phase == Phase::Revoked || leaving
        })
    }

    /// Marks as `Revoked` what the spec names and what a compromised key has signed.
    pub fn revoke(&mut self, revoked: &BTreeSet<String>, standing: impl Fn(&Entry) -> Standing) {
        for entry in &mut self.entries {
            if revoked.contains(&entry.id) || standing(entry) == Standing::Compromised {
                entry.phase = Phase::Revoked;
            }
        }
    }

    /// Remembers a handled rotate request.
    pub fn handle(&mut self, request: &str) {
        self.handled.insert(0, request.to_owned());
        self.handled.truncate(REQUESTS_REMEMBERED);
    }

    /// Takes over what a Secret just read holds and the ledger lacks ("Lost or rolled-back status").
    pub fn adopt(&mut self, from: &Adoption) {
        let Adoption { carried, marks, request, revoked, now, trusted } = *from;
        self.count_newer_content(carried);
        let held = |ledger: &Self, jti: &String| ledger.holds(jti) || marks.contains(jti);
        let newest_held = self.entries.iter().filter(|entry| held(self, &entry.id)).map(|entry| entry.issued_at).max();
        let unknown = |entry: &&Entry| {
            now < entry.expires_at
                && (!trusted || entry.issued_at <= now + FUTURE)
                && !revoked.contains(&entry.id)
                && self.entry(&entry.id).is_none()
                && newest_held.is_none_or(|newest| entry.issued_at > newest)
        };
        let mut adopted: Vec<Entry> =
            [&carried.token, &carried.previous].into_iter().flatten().filter(unknown).cloned().collect();
        adopted.dedup_by(|a, b| a.issued_at == b.issued_at);
        if self.is_rolled_back(carried, &adopted) {
            self.stores.iter_mut().for_each(|store| store.hold = Hold::default());
        }
        let Some(first) = adopted.first() else { return };
        if carried.token.as_ref() == Some(first) {
            self.secret.jti = Some(first.id.clone());
        }
        let from = first.issued_at;
        let gives_way =
            |entry: &Entry| entry.issued_at >= from || adopted.iter().any(|a| a.issued_at == entry.issued_at);
        let stays: Vec<bool> = self.entries.iter().map(|entry| !gives_way(entry) || held(self, &entry.id)).collect();
        let mut stays = stays.into_iter();
        self.entries.retain(|_| stays.next().unwrap_or_default());
        self.entries.extend(adopted);
        self.entries.sort_by_key(|entry| std::cmp::Reverse(entry.issued_at));
        self.drop_surplus();
        if let Some(request) =
            request.filter(|request| carried.handled.as_deref() == Some(request) && !self.handles(request))
        {
            self.handle(request);
        }
    }

    // What the stores hold is then not known either: their marks are read again.
    fn is_rolled_back(&self, carried: &Carried, adopted: &[Entry]) -> bool {
        let newer = |token: &Entry| self.newest().is_none_or(|newest| token.issued_at > newest.issued_at);
        !adopted.is_empty() || carried.token.as_ref().is_some_and(newer)
    }

    // Content just read from the Secret counts only if it is newer than what is recorded.
    fn count_newer_content(&mut self, carried: &Carried) {
        let Some(read) = carried.token.as_ref().and_then(|token| self.entry(&token.id)) else { return };
        let recorded = self.secret.jti.as_deref().and_then(|jti| self.entry(jti));
        if recorded.is_none_or(|recorded| read.issued_at > recorded.issued_at) {
            self.secret.jti = Some(read.id.clone());
        }
    }

    // Adoption may meet a full, older ledger: the oldest that nobody holds go first.
    fn drop_surplus(&mut self) {
        while self.entries.len() > CAPACITY {
            let Some(at) = self.entries.iter().rposition(|entry| !self.holds(&entry.id)) else { return };
            self.entries.remove(at);
        }
    }

    /// The tokens that are good beside the newest: what their versions in stores are kept for.
    pub fn living(&self, now: Instant) -> BTreeSet<String> {
        let lives = |entry: &&Entry| {
            let ends = entry.grace_ends_at.unwrap_or(entry.expires_at).min(entry.expires_at);
            entry.phase != Phase::Revoked && now < ends
        };
        self.entries.iter().skip(1).filter(lives).map(|entry| entry.id.clone()).collect()
    }

    /// Whether this request was acted on.
    pub fn handles(&self, request: &str) -> bool {
        self.handled.iter().any(|handled| handled == request)
    }

    /// Makes room for a successor of a revoked token: an undelivered `Revoked` entry that the spec names, else the
    /// oldest `Superseded`, leaves.
    pub fn make_room(&mut self, revoked: &BTreeSet<String>) {
        if self.entries.len() < CAPACITY {
            return;
        }
        let spent =
            |entry: &Entry| entry.phase == Phase::Revoked && revoked.contains(&entry.id) && !self.holds(&entry.id);
        let at = self.entries.iter().rposition(spent);
        let at = at.or_else(|| self.entries.iter().rposition(|entry| entry.phase == Phase::Superseded));
        if let Some(at) = at {
            self.entries.remove(at);
        }
    }

    /// When the next entry leaves by itself.
    pub fn next_leave(&self, skew: Seconds) -> Option<Instant> {
        let older = self.entries.iter().skip(1);
        older.map(|entry| entry.grace_ends_at.unwrap_or(entry.expires_at).min(entry.expires_at) + skew).min()
    }

    /// When the last successor for a spec change was issued.
    pub fn last_spec_change(&self) -> Option<Instant> {
        self.entries.iter().filter(|entry| entry.reason == IssueReason::SpecChange).map(|entry| entry.issued_at).max()
    }
}

impl Hold {
    /// Whether this token was delivered there and the target's version is known.
    pub fn is(&self, jti: &str) -> bool {
        self.version.is_some() && self.jti.as_deref() == Some(jti)
    }
}

fn secret_hold(status: &VirtualAccountStatus, desired: &Desired) -> Hold {
    let secret = status.token_secret.as_ref();
    let named = secret.filter(|secret| secret.name == desired.secret.name);
    Hold {
        jti: secret.and_then(|secret| secret.jwt_id.clone()),
        version: named.and_then(|secret| secret.resource_version.clone()),
    }
}

fn store_hold(status: &VirtualAccountStatus, at: &StorePath) -> StoreHold {
    let recorded = status.secret_stores.iter().find(|store| is_at(store, at));
    let hold = recorded.map(|store| Hold { jti: store.jwt_id.clone(), version: store.version.clone() });
    StoreHold { at: at.clone(), hold: hold.unwrap_or_default() }
}

/// Whether a recorded target is this one.
pub fn is_at(recorded: &SecretStoreStatus, at: &StorePath) -> bool {
    recorded.store_ref == at.store && recorded.secret_path == at.path
}
