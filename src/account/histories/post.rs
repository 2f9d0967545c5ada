//! A simulated channel: what two writers hand out to be told, what arrives there, and the promises about it: a notice is
//! recorded before it is sent, nothing is told twice but under the same id, and nothing is lost.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use super::steps::Sim;
use super::world::{SKEW, World};
use crate::account::desired::StorePath;
use crate::account::happenings::is_held;
use crate::account::notices::GIVE_UP;
use crate::api::{
    Entry, Instant, IssueReason, NoticeKind, Notification, NotificationState as State, NotificationTarget, ObjectId,
    ObjectRef, Phase, Seconds, TargetError, VirtualAccountStatus,
};
use crate::integration::{ErrorKind, ProviderError};
use crate::notify::{Admission, Medium, Posted, Report};

/// Clocks that are trusted may differ by this much from each other, and a notice is as old as one of them said.
const SLACK: Seconds = Seconds(3 * SKEW.0);

/// The channel, and the two writers' processes that hand letters to it.
#[derive(Default)]
pub(super) struct Post {
    /// What each process still has to send, and what became of it; gone with the process.
    boxes: [BTreeMap<String, (Posted, Option<Report>)>; 2],
    down_until: Option<Instant>,
    refused_until: Option<Instant>,
    /// Ids that the API server has accepted.
    accepted: BTreeMap<String, Known>,
    /// Ids that it has accepted as sent.
    recorded: BTreeSet<String>,
    arrived: BTreeMap<String, u32>,
    repeats: u32,
}

/// What an id stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    kind: NoticeKind,
    jti: String,
    about: Option<String>,
    since: Option<Instant>,
}

impl Known {
    fn of(notice: &Notification) -> Self {
        // A failing target is the same, whatever token it lacks by now.
        let jti = if notice.since.is_some() { String::new() } else { notice.jwt_id.clone() };
        Self { kind: notice.kind, jti, about: notice.about.clone(), since: notice.since }
    }
}

/// Everybody is told of everything.
pub(super) fn all_told() -> Option<Vec<NotificationTarget>> {
    let channel_ref = ObjectRef { namespace: None, name: "chat".into() };
    let events = Some(NoticeKind::ALL.to_vec());
    Some(vec![NotificationTarget { channel_ref, events, ..NotificationTarget::default() }])
}

impl Post {
    fn is_down(&self, now: Instant) -> bool {
        self.down_until.is_some_and(|until| now < until)
    }
}

impl World {
    pub(super) fn channel_says(&self, _: &ObjectId) -> Admission {
        if self.post.refused_until.is_some_and(|until| self.now < until) {
            let message = "not for you".into();
            return Admission::Refused { reason: "NotAllowed", message };
        }
        Admission::Open { medium: Medium::SlackWebhook, has_recipients: true }
    }

    pub(super) fn reports_of(&self, writer: usize) -> BTreeMap<String, Report> {
        let known = self.post.boxes[writer].iter();
        known.filter_map(|(id, (_, report))| Some((id.clone(), report.clone()?))).collect()
    }

    /// A writer hands out all that is still to be sent.
    pub(super) fn hand_out(&mut self, writer: usize, letters: Vec<Posted>) {
        let mut before = std::mem::take(&mut self.post.boxes[writer]);
        for posted in letters {
            let id = posted.letter.id.clone();
            if !self.post.accepted.contains_key(&id) {
                self.bad(format!("a notice is handed out before it is recorded: {:?}", posted.letter));
            }
            let report = before.remove(&id).and_then(|(_, report)| report);
            self.post.boxes[writer].insert(id, (posted, report));
        }
    }

    /// The process of this writer is gone, and with it what it had to send.
    pub(super) fn forget_letters(&mut self, writer: usize) {
        self.post.boxes[writer].clear();
    }

    /// With another status went the record of what was sent.
    pub(super) fn lose_notices(&mut self, status: Option<&VirtualAccountStatus>) {
        let left = status.into_iter().flat_map(|status| &status.notifications);
        self.post.recorded =
            left.filter(|notice| notice.state == State::Sent).map(|notice| notice.id.clone()).collect();
    }

    pub(super) fn disturb_post(&mut self) {
        let until = self.now + self.pick_hours(&[1, 1, 5, 30, 100]);
        if self.chance(0.3) && !self.desired.told.is_empty() {
            let rooms = self.pick(&[None, Some("a"), Some("b")]).map(|room| vec![room.to_owned()]);
            return self.edit("recipients", |spec| {
                spec.notification_targets.iter_mut().flatten().for_each(|target| target.channels.clone_from(&rooms));
            });
        }
        if self.chance(0.8) {
            self.post.down_until = Some(until);
        } else {
            self.post.refused_until = Some(until);
        }
        self.log(format!("the channel fails until {until}"));
    }

    pub(super) fn heal_post(&mut self) {
        (self.post.down_until, self.post.refused_until) = (None, None);
    }

    /// The letters that a writer's process still has to send.
    fn waiting(&self, writer: usize) -> Vec<String> {
        let waits = |report: &Option<Report>| !matches!(report, Some(Report::Sent { .. } | Report::Refused { .. }));
        let all = self.post.boxes[writer].iter();
        all.filter(|(_, (_, report))| waits(report)).map(|(id, _)| id.clone()).collect()
    }

    /// One of a writer's letters goes out.
    pub(super) fn send_one(&mut self, writer: usize) {
        let waiting = self.waiting(writer);
        if !waiting.is_empty() {
            let id = waiting[self.rng.random_range(0..waiting.len())].clone();
            self.send(writer, &id);
        }
    }

    /// A letter goes out; whether that is news to its account.
    fn send(&mut self, writer: usize, id: &str) -> bool {
        let report = if self.post.is_down(self.now) {
            Report::Failing { error: ProviderError::new(ErrorKind::Unavailable, "Timeout", "no answer in time") }
        } else if self.faults && self.chance(0.05) {
            // It arrived; the answer did not.
            self.arrives(id);
            Report::Failing { error: ProviderError::new(ErrorKind::Unavailable, "ConnectionBroken", "it broke") }
        } else if self.faults && self.chance(0.03) {
            Report::Refused { error: ProviderError::new(ErrorKind::Invalid, "Refused", "not this one") }
        } else {
            self.arrives(id);
            Report::Sent { at: self.now }
        };
        let Some((_, known)) = self.post.boxes[writer].get_mut(id) else { return false };
        let news = known.as_ref() != Some(&report);
        *known = Some(report);
        news
    }

    fn arrives(&mut self, id: &str) {
        let again = self.post.arrived.contains_key(id);
        self.post.repeats += u32::from(again);
        *self.post.arrived.entry(id.to_owned()).or_default() += 1;
        let known = self.post.accepted.get(id).cloned();
        self.log(format!("told: {known:?}{}", if again { ", again" } else { "" }));
        if !self.faults && self.post.recorded.contains(id) {
            self.bad(format!("told again although it is recorded as sent: {known:?}"));
        }
    }

    /// Judges the notices of a status that replaces the stored one.
    pub(super) fn judge_notices(&mut self, old: &VirtualAccountStatus, new: &VirtualAccountStatus) {
        for notice in &new.notifications {
            self.judge_notice(old, notice);
        }
        if self.desired.told.is_empty() || self.deleting() {
            return;
        }
        for (kind, jti) in owed(old, new) {
            if !new.notifications.iter().any(|notice| notice.kind == kind && notice.jwt_id == jti) {
                self.bad(format!("{kind} of {jti} is told to nobody"));
            }
        }
        let left = |notice: &&Notification| !new.notifications.iter().any(|other| other.id == notice.id);
        for gone in old.notifications.iter().filter(left) {
            let others = self.desired.told.iter().all(|told| told.recipients != gone.recipients);
            match gone.kind {
                _ if gone.state == State::Failed && others => {}
                NoticeKind::DeliveryFailing => self.judge_recovery(new, gone),
                _ if gone.state == State::Pending => self.judge_dropped(new, gone),
                _ => {}
            }
        }
    }

    fn judge_notice(&mut self, old: &VirtualAccountStatus, notice: &Notification) {
        let known = Known::of(notice);
        match self.post.accepted.get(&notice.id) {
            Some(before) if *before != known => self.bad(format!("one id for {before:?} and {known:?}")),
            Some(_) => {}
            None => {
                if self.post.accepted.values().any(|other| *other == known) {
                    self.bad(format!("two ids for {known:?}"));
                }
                self.post.accepted.insert(notice.id.clone(), known);
            }
        }
        let before = old.notifications.iter().find(|before| before.id == notice.id);
        // What others could not be told is told to those who took their place, if it is still true.
        let anew = |before: &Notification| before.state == State::Failed && before.recipients != notice.recipients;
        let reopened =
            |before: &Notification| before.state != State::Pending && before.state != notice.state && !anew(before);
        if before.is_some_and(reopened) {
            self.bad(format!("what is over is open again: {notice:?}"));
        }
        if notice.state == State::Sent {
            if !self.post.arrived.contains_key(&notice.id) {
                self.bad(format!("recorded as sent, and it never arrived: {notice:?}"));
            }
            self.post.recorded.insert(notice.id.clone());
        }
        let given_up = notice.state == State::Failed && before.is_some_and(|before| before.state == State::Pending);
        let refused = notice.error.as_ref().is_some_and(|error| error.reason == "Refused");
        let long = notice.failing_since.is_some_and(|since| self.now + SLACK >= since + GIVE_UP);
        let tells_of_the_past = matches!(
            notice.kind,
            NoticeKind::TokenRotated
                | NoticeKind::TokenRetired
                | NoticeKind::TokenRevoked
                | NoticeKind::DeliveryRecovered
        );
        let late = tells_of_the_past && self.now + SLACK >= notice.at + GIVE_UP;
        if given_up && !refused && !long && !late {
            self.bad(format!("given up too early: {notice:?}"));
        }
    }

    // A notice that was not sent may be dropped only if it is no longer true.
    fn judge_dropped(&mut self, new: &VirtualAccountStatus, gone: &Notification) {
        let entry = new.jwts.iter().find(|entry| entry.id == gone.jwt_id);
        // What was tried in vain is given up instead.
        let old = self.now + SLACK >= gone.at + GIVE_UP && gone.failing_since.is_none();
        // By a clock that was wrong when it came about it may look old at any time.
        let strange = self.book.clock_was_wrong;
        let over = gone.ends_at.is_some_and(|end| self.now + SLACK >= end);
        let fine = match gone.kind {
            NoticeKind::TokenRotated => entry.is_none() || (old && (over || gone.ends_at.is_none())),
            NoticeKind::TokenRetired | NoticeKind::TokenRevoked | NoticeKind::DeliveryRecovered => old,
            NoticeKind::GraceEnding => entry.is_none() || over,
            NoticeKind::TokenExpiring => true,
            NoticeKind::DeliveryFailing => false,
            // It ended, and nothing holds it any more.
            NoticeKind::TokenExpired => {
                let newest = new.jwts.first().is_some_and(|newest| newest.id == gone.jwt_id);
                !newest && (entry.is_none_or(|entry| entry.phase == Phase::Superseded) || !is_held(new, &gone.jwt_id))
            }
        };
        if !(fine || strange) {
            self.bad(format!("dropped without need: {gone:?}"));
        }
    }

    // A failure is over only when its target holds the newest token, or is none any more; and that is told.
    fn judge_recovery(&mut self, new: &VirtualAccountStatus, gone: &Notification) {
        let target = gone.about.clone().unwrap_or_default();
        let secret =
            new.token_secret.iter().map(|secret| (format!("Secret {}", secret.name), &secret.jwt_id, &secret.error));
        let stores = new.secret_stores.iter().map(|store| {
            let at = StorePath { store: store.store_ref.clone(), path: store.secret_path.clone() };
            (at.to_string(), &store.jwt_id, &store.error)
        });
        let newest = new.jwts.first().map(|newest| &newest.id);
        let works = |(_, jti, error): &(String, &Option<String>, &Option<TargetError>)| {
            error.is_none() && jti.as_ref() == newest
        };
        let named = self.desired.stores.iter().any(|store| store.at.to_string() == target)
            || (self.desired.secret.enabled && target == format!("Secret {}", self.desired.secret.name));
        let works = secret.chain(stores).find(|(name, ..)| *name == target).is_some_and(|state| works(&state));
        let told = new.notifications.iter().any(|notice| {
            notice.kind == NoticeKind::DeliveryRecovered && (&notice.about, notice.since) == (&gone.about, gone.since)
        });
        if named && !(works && told) {
            self.bad(format!("a failure ends, works {works}, told {told}: {gone:?}"));
        }
    }

    /// Once all is calm nothing waits to be told.
    pub(super) fn check_told(&mut self) {
        let waiting = |notice: &&Notification| notice.state == State::Pending;
        let status = self.status();
        if let Some(notice) = status.notifications.iter().find(waiting).filter(|_| !self.deleting()) {
            self.bad(format!("still to be told: {notice:?}"));
        }
    }
}

// What a status owes to people by what it changes: told here in other words than the code's.
fn owed(old: &VirtualAccountStatus, new: &VirtualAccountStatus) -> Vec<(NoticeKind, String)> {
    let before = |jti: &str| old.jwts.iter().find(|entry| entry.id == jti);
    let revoked = |entry: &&Entry| {
        entry.phase == Phase::Revoked && before(&entry.id).is_some_and(|before| before.phase != Phase::Revoked)
    };
    // It has become the one that every target holds, and took the place of another.
    let rotated = |entry: &&Entry| {
        let first = before(&entry.id).is_none_or(|before| before.phase != Phase::Current);
        let supersedes = new.jwts.iter().any(|other| {
            let ended = before(&other.id).is_some_and(|before| before.grace_ends_at.is_none());
            other.issued_at < entry.issued_at && other.grace_ends_at.is_some() && ended
        });
        let own = !matches!(entry.reason, IssueReason::First | IssueReason::Adopted);
        own && first && entry.phase == Phase::Current && supersedes && entry.delivered_at.is_some()
    };
    let retired = |entry: &&Entry| {
        entry.grace_ends_at.is_some()
            && entry.phase != Phase::Revoked
            && !new.jwts.iter().any(|left| left.id == entry.id)
    };
    let named = |kind: NoticeKind| move |entry: &Entry| (kind, entry.id.clone());
    let mut owed: Vec<_> = new.jwts.iter().filter(revoked).map(named(NoticeKind::TokenRevoked)).collect();
    owed.extend(new.jwts.iter().filter(rotated).map(named(NoticeKind::TokenRotated)));
    owed.extend(old.jwts.iter().filter(retired).map(named(NoticeKind::TokenRetired)));
    owed
}

impl Sim {
    /// What waits in the first writer's process goes out; whether a pass is to record something of it.
    pub(super) fn deliver_letters(&mut self) -> bool {
        let mut world = self.world();
        let waiting = world.waiting(0);
        waiting.iter().filter(|id| world.send(0, id)).count() > 0
    }
}

impl World {
    /// How often each kind was told.
    pub(super) fn told(&self) -> BTreeMap<NoticeKind, u32> {
        let mut told = BTreeMap::new();
        for (id, times) in &self.post.arrived {
            if let Some(known) = self.post.accepted.get(id) {
                *told.entry(known.kind).or_default() += times;
            }
        }
        told
    }

    /// When notices of this kind came about, as the account still remembers it.
    pub(super) fn told_at(&self, kind: NoticeKind) -> Vec<Instant> {
        let notices = self.status().notifications;
        let mut times: Vec<Instant> =
            notices.iter().filter(|notice| notice.kind == kind).map(|notice| notice.at).collect();
        times.sort();
        times
    }

    /// The channel does not answer for so long.
    pub(super) fn kill_channel(&mut self, span: Seconds) {
        self.post.down_until = Some(self.now + span);
    }
}
