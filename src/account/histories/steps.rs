//! What happens to the world: people, failures and the clock; then the scheduler of two writers.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use rand::Rng;

use super::people::stores_at;
use super::post::all_told;
use super::world::{Calls, SKEW, World};
use super::writer::Writer;
use crate::account::apply::{Report, pass};
use crate::account::cluster::CallError;
use crate::account::condition::SECRET_NOT_OWNED;
use crate::account::secret::{ACCOUNT_LABEL, UID_ANNOTATION};
use crate::api::{
    AutoRotate, DaysOrDuration, DeletionPolicy, Entry, Instant, IssueReason, ROTATE_ANNOTATION, Seconds, TokenSecret,
    VirtualAccountSpec, VirtualAccountStatus,
};

type Running = Pin<Box<dyn Future<Output = Result<Option<Report>, CallError>> + Send>>;

/// The world and two writers.
pub(super) struct Sim {
    world: Arc<Mutex<World>>,
    writers: [Arc<Writer>; 2],
    passes: [Option<Running>; 2],
}

/// A pass that ran to its end undisturbed.
pub(super) struct Done {
    pub(super) calls: Calls,
    pub(super) ended: bool,
    pub(super) result: Result<Option<Report>, CallError>,
}

impl Done {
    /// No request at all; a Secret that cannot be put right because the account ended may be looked at again.
    pub(super) fn silent(&self) -> bool {
        let Calls { writes, reads, store_writes, store_reads } = self.calls;
        writes == 0 && store_writes == 0 && (reads + store_reads == 0 || self.ended)
    }

    pub(super) fn report(&self) -> Report {
        self.result.clone().ok().flatten().unwrap_or_default()
    }
}

impl Sim {
    pub(super) fn new(seed: u64) -> Self {
        let world = Arc::new(Mutex::new(World::new(seed)));
        let writer = |me| Arc::new(Writer { world: Arc::clone(&world), me });
        Self { writers: [writer(0), writer(1)], passes: [None, None], world }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(super) fn violated(&self) -> bool {
        self.world().violation.is_some()
    }

    /// One event, then a turn of one writer.
    pub(super) fn step(&mut self) {
        let event = self.world().rng.random_range(0.0..1.0);
        match event {
            ..0.12 => self.world().forward(),
            ..0.17 => self.world().user(),
            ..0.19 => self.world().fail(),
            ..0.215 => self.world().land(),
            ..0.225 => self.crash(),
            ..0.232 => self.world().disturb_clock(),
            ..0.240 => self.world().disturb_keys(),
            ..0.265 => self.world().change_stores(),
            ..0.285 => self.world().disturb_stores(),
            ..0.290 => self.world().disturb_post(),
            ..0.390 => self.send_letters(),
            _ => {}
        }
        let idle: Vec<usize> = (0..2).filter(|me| self.passes[*me].is_none()).collect();
        for me in idle {
            if self.world().chance(0.4) {
                self.start(me);
            }
        }
        let (me, other) = if self.world().chance(0.7) { (0, 1) } else { (1, 0) };
        let turn = if self.passes[me].is_some() { me } else { other };
        self.poll(turn);
        self.world().check();
    }

    pub(super) fn start(&mut self, me: usize) {
        let writer = Arc::clone(&self.writers[me]);
        let id = self.world().id();
        self.passes[me] = Some(Box::pin(async move { pass(writer.as_ref(), &id).await }));
    }

    /// One turn of a pass; what came of it, once it ends.
    pub(super) fn poll(&mut self, me: usize) -> Option<Result<Option<Report>, CallError>> {
        let running = self.passes[me].as_mut()?;
        let Poll::Ready(result) = running.as_mut().poll(&mut Context::from_waker(Waker::noop())) else { return None };
        self.passes[me] = None;
        let mut world = self.world();
        world.abandon(me);
        if let Err(error) = &result {
            world.log(format!("w{me} ends: {error}"));
        }
        // The next pass may be that of a new process.
        if world.faults && world.chance(0.5) {
            world.locals[me].memory = None;
            if world.chance(0.3) {
                world.forget_letters(me);
            }
        }
        drop(world);
        Some(result)
    }

    pub(super) fn crash(&mut self) {
        let me = self.world().pick(&[0, 1]);
        if self.passes[me].take().is_some() {
            let mut world = self.world();
            world.abandon(me);
            world.locals[me].memory = None;
            world.forget_letters(me);
            world.log(format!("w{me} crashes"));
        }
    }

    /// A pass of one writer that dies after so many turns; what it sent last may still land. Whether it ended before.
    pub(super) fn cut_pass(&mut self, turns: usize, lands: bool) -> bool {
        self.start(0);
        for _ in 0..turns {
            if self.poll(0).is_some() {
                return true;
            }
        }
        self.passes[0] = None;
        let mut world = self.world();
        if lands {
            world.land();
        }
        world.abandon(0);
        world.locals[0].memory = None;
        world.forget_letters(0);
        world.drop_drifting();
        world.check();
        false
    }

    fn send_letters(&mut self) {
        let writer = self.world().pick(&[0, 1]);
        self.world().send_one(writer);
    }

    /// A pass of one writer to its end; what it has to tell is told and recorded, which is not counted.
    pub(super) fn full_pass(&mut self) -> Done {
        let mut done = self.one_pass();
        while self.deliver_letters() {
            let recorded = self.one_pass();
            let (Ok(Some(first)), Ok(Some(last))) = (&mut done.result, recorded.result) else { break };
            first.wake_at = last.wake_at;
        }
        done
    }

    fn one_pass(&mut self) -> Done {
        let before = self.world().calls;
        self.start(0);
        let result = loop {
            if let Some(result) = self.poll(0) {
                break result;
            }
            self.world().check();
        };
        let mut world = self.world();
        world.check();
        let calls = world.calls.since(before);
        Done { calls, ended: world.expired(), result }
    }

    /// To the instant at which a settled account wants its next pass.
    pub(super) fn go_to_wake(&mut self) {
        let wake = self.full_pass().report().wake_at;
        let mut world = self.world();
        world.now = wake.unwrap_or(world.now);
    }

    /// Whatever was under way ends, without further failures.
    pub(super) fn calm(&mut self) {
        {
            let mut world = self.world();
            world.faults = false;
            let now = world.now;
            (world.down_until, world.refused_until, world.ring_away_until) = (now, now, now);
            world.heal_stores();
            world.heal_post();
            world.drop_drifting();
            world.locals.iter_mut().for_each(|local| local.offset = Seconds::ZERO);
            world.log("faults stop");
        }
        for me in 0..2 {
            while self.passes[me].is_some() {
                self.poll(me);
                self.world().check();
            }
        }
    }
}

/// A spec to start with.
pub(super) fn first_spec(world: &mut World) {
    let interval = world.pick_hours(&[40, 100, 100, 300, 390]);
    let grace = world.pick_hours(&[10, 20, 20, 40]);
    let auto = world.chance(0.8);
    let end = world.pick(&[None, None, Some(150), Some(400), Some(900)]);
    let date = end.map(|hours| date(world.now + Seconds::hours(hours)));
    let told = if world.chance(0.6) { all_told() } else { None };
    let stores = world.pick(&[&[][..], &["a"], &["b"], &["a", "b"]]);
    world.book.shortest = Some(interval);
    world.change_account(|account| {
        account.spec.auto_rotate = auto.then(|| rotation(interval, grace));
        account.spec.expiration_date = date;
        account.spec.secret_stores = stores_at(stores.iter().map(|store| (*store, "/p")));
        account.spec.notification_targets = told;
    });
}

/// A rotation every 40 h with a grace of 10 h.
pub(super) fn plain_spec(world: &mut World) {
    world.change_account(|account| account.spec.auto_rotate = Some(rotation(Seconds::hours(40), Seconds::hours(10))));
}

fn rotation(interval: Seconds, grace: Seconds) -> AutoRotate {
    AutoRotate { auto_rotate_interval: duration(interval), grace_period: duration(grace) }
}

fn duration<const N: i64>(span: Seconds) -> Option<DaysOrDuration<N>> {
    Some(DaysOrDuration::Duration(format!("{}h", span.0 / 3_600)))
}

fn date(at: Instant) -> String {
    Timestamp::from_second(at.as_unix()).unwrap().to_string()[..10].to_owned()
}

impl World {
    // A while, or to a deadline, or to the second before one.
    fn forward(&mut self) {
        let next = if self.chance(0.4) { self.deadline() } else { None };
        let span = self.pick(&[1, 1, 60, 600, 3_600, 3_600, 18_000, 54_000, 144_000]);
        self.now = next.unwrap_or(self.now + Seconds(span));
    }

    fn deadline(&mut self) -> Option<Instant> {
        let status = self.status();
        let ends = status.jwts.iter().flat_map(|e| [Some(e.expires_at), e.grace_ends_at]).flatten();
        let retry = self.next_attempt();
        let named = [status.next_scheduled_rotation, retry, self.desired.schedule.end];
        let all = ends.flat_map(|end| [end, end + SKEW]).chain(named.into_iter().flatten());
        let near = all.flat_map(|at| [at - Seconds(1), at]);
        let near: Vec<Instant> = near.filter(|at| *at > self.now && *at < self.now + Seconds::hours(60)).collect();
        (!near.is_empty()).then(|| self.pick(&near))
    }

    fn fail(&mut self) {
        let span = self.pick(&[60, 3_600, 18_000, 108_000, 108_000, 720_000]);
        if self.chance(0.6) {
            self.refused_until = self.now + Seconds(span);
            self.log(format!("writes of the Secret are refused for {}", Seconds(span)));
        } else {
            self.down_until = self.now + Seconds(span.min(18_000));
            self.log("the API server is away");
        }
    }

    // True time goes its way; a machine's clock may not.
    fn disturb_clock(&mut self) {
        let me = self.pick(&[0, 1]);
        let offset = self.pick(&[0, 0, 0, 30, -30, 90, -90, 400, -400, 90_000, -90_000, 4_000_000]);
        self.locals[me].offset = Seconds(offset);
        self.book.clock_was_wrong |= offset.abs() > SKEW.0;
        self.book.clocks_differ |= offset != 0 && offset.abs() <= SKEW.0;
        self.log(format!("w{me}'s clock is off by {offset} s"));
    }

    fn disturb_keys(&mut self) {
        let (now, what) = (self.now, self.pick(&["away", "rotate", "rotate", "compromise"]));
        self.log(format!("key ring: {what}"));
        let signs = self.ring.signing_key(now).map(|key| key.kid().to_owned());
        let standbys = self.ring.keys.iter().filter(|key| key.signs_from > now).count();
        match what {
            "away" => {
                self.ring_away_until = now + self.pick_hours(&[1, 5, 30]);
                self.ring_unknown = self.chance(0.3);
            }
            _ if standbys == 0 => {}
            _ => self.change_ring(|ring| {
                if let Some(next) = ring.keys.iter_mut().find(|key| key.signs_from > now) {
                    next.signs_from = now;
                }
                let old = ring.keys.iter_mut().find(|key| what == "compromise" && Some(key.kid()) == signs.as_deref());
                if let Some(old) = old {
                    old.compromised_at = Some(now);
                }
            }),
        }
        if what == "compromise" {
            self.book.cause(IssueReason::KeyChange);
        }
    }

    pub(super) fn edit(&mut self, what: &str, change: impl FnOnce(&mut VirtualAccountSpec)) {
        self.log(format!("edit {what}"));
        self.change_account(|account| change(&mut account.spec));
    }

    fn user(&mut self) {
        const ACTIONS: [&str; 30] = [
            "audience",
            "audience",
            "no audience",
            "rotate",
            "rotate",
            "zero",
            "interval",
            "grace",
            "auto",
            "end",
            "end",
            "suspend",
            "invalid",
            "disabled",
            "revoke",
            "revoke",
            "rename",
            "policy",
            "labels",
            "unreadable",
            "delete",
            "delete",
            "damage",
            "damage",
            "damage",
            "touch",
            "lost",
            "lost",
            "restored",
            "restored",
        ];
        match self.pick(&ACTIONS) {
            what @ ("audience" | "no audience" | "interval" | "grace" | "auto" | "end") => self.edit_schedule(what),
            what @ ("rotate" | "zero" | "unreadable") => self.request(what),
            "suspend" => self.edit("suspend", |spec| spec.suspend = toggled(spec.suspend)),
            "disabled" => self.edit("disabled", |spec| spec.disabled = toggled(spec.disabled)),
            "invalid" => self.toggle_validity(),
            "revoke" => self.revoke(),
            what @ ("rename" | "policy" | "labels") => self.edit_target(what),
            what @ ("delete" | "damage" | "touch") => self.meddle(what),
            "lost" if self.chance(0.5) => self.lose(None),
            "restored" if self.chance(0.6) && !self.book.old_statuses.is_empty() => {
                let at = self.rng.random_range(0..self.book.old_statuses.len());
                self.lose(Some(self.book.old_statuses[at].clone()));
            }
            _ => {}
        }
    }

    fn edit_schedule(&mut self, what: &str) {
        let (interval, grace) = (self.pick_hours(&[40, 100, 300, 390]), self.pick_hours(&[10, 20, 40, 100]));
        let audience = self.pick(&["a0", "a1", "a2"]).to_owned();
        let days = self.pick(&[None, Some(1), Some(5), Some(29)]).map(|days| date(self.now + Seconds::days(days)));
        if matches!(what, "audience" | "no audience" | "end") {
            self.book.cause(IssueReason::SpecChange);
        }
        if matches!(what, "interval" | "grace" | "auto" | "end") {
            self.book.edits += 1;
        }
        if what == "interval" {
            self.book.shortest = self.book.shortest.map(|shortest| shortest.min(interval));
        }
        self.edit(&format!("{what} ({interval} {grace} {audience} {days:?})"), |spec| match what {
            "audience" => spec.audiences = Some(vec![audience]),
            "no audience" => spec.audiences = None,
            "end" => spec.expiration_date = days,
            "auto" => {
                spec.auto_rotate =
                    spec.auto_rotate.is_none().then(|| rotation(interval.max(Seconds::hours(40)), grace));
            }
            "interval" => {
                if let Some(rotate) = spec.auto_rotate.as_mut() {
                    rotate.auto_rotate_interval = duration(interval);
                }
            }
            _ => {
                if let Some(rotate) = spec.auto_rotate.as_mut() {
                    rotate.grace_period = duration(grace);
                }
            }
        });
        if what == "auto" {
            let now = self.desired.schedule.interval;
            self.book.shortest = self.book.shortest.map(|shortest| shortest.min(now));
        }
    }

    fn request(&mut self, what: &str) {
        let n = self.rng.random_range(0..60);
        let value = match what {
            "zero" => format!("r{n},grace=0s"),
            "rotate" => self.pick(&["", "", ",grace=5h", ",grace=30h"]).to_owned(),
            _ => "not readable".to_owned(),
        };
        let value = if what == "rotate" { format!("r{n}{value}") } else { value };
        let status = self.status();
        let counts = !status.jwts.is_empty() && !status.handled_rotate_requests.contains(&value);
        self.book.cause(IssueReason::Request);
        self.book.request = Some((self.now, counts));
        self.log(format!("request {value}"));
        self.change_account(|account| {
            account.annotations_mut().insert(ROTATE_ANNOTATION.into(), value);
        });
    }

    fn toggle_validity(&mut self) {
        let valid = super::world::valid_permissions();
        self.book.edits += 1;
        self.edit("validity", |spec| spec.permissions = if spec.permissions.is_empty() { valid } else { Vec::new() });
    }

    fn revoke(&mut self) {
        let status = self.status();
        let Some(newest) = status.jwts.first() else { return };
        let at = if self.chance(0.6) { 0 } else { self.rng.random_range(0..status.jwts.len()) };
        let jti = status.jwts.get(at).unwrap_or(newest).id.clone();
        self.book.cause(IssueReason::Revocation);
        self.book.revoked.insert(jti.clone());
        self.edit(&format!("revoke {jti}"), |spec| {
            let mut all = spec.revoked_jwt_ids.take().unwrap_or_default();
            if !all.contains(&jti) {
                all.push(jti);
            }
            spec.revoked_jwt_ids = Some(all);
        });
    }

    fn edit_target(&mut self, what: &str) {
        self.edit(what, |spec| {
            let secret = spec.token_secret.get_or_insert_with(TokenSecret::default);
            match what {
                "rename" if secret.name.is_some() => secret.name = None,
                "rename" => secret.name = Some("other".into()),
                "policy" if secret.deletion_policy.is_some() => secret.deletion_policy = None,
                "policy" => secret.deletion_policy = Some(DeletionPolicy::Retain),
                _ if secret.labels.is_some() => secret.labels = None,
                _ => secret.labels = Some([("team".to_owned(), "x".to_owned())].into()),
            }
        });
        if what == "rename" {
            self.give_up_limbo();
            self.book.first = false;
            let name = self.desired.secret.name.clone();
            self.book.foreign.insert(name);
        }
    }

    pub(super) fn delete_secret_by_hand(&mut self) {
        let name = self.desired.secret.name.clone();
        self.log("the Secret is deleted");
        self.give_up_limbo();
        self.book.foreign.insert(name.clone());
        self.store_secret(&name, None);
    }

    // What the Secret held at a loss of status is nowhere else.
    pub(super) fn give_up_limbo(&mut self) {
        let limbo = std::mem::take(&mut self.book.limbo);
        self.book.lost.extend(limbo);
    }

    fn meddle(&mut self, what: &str) {
        let Some(mut secret) = self.secret().cloned() else { return };
        let name = secret.name_any();
        if what == "delete" {
            return self.delete_secret_by_hand();
        }
        let damage = self.pick(&["token", "previous", "annotation", "older", "older", "immutable", "label"]);
        let how = if what == "touch" { "foreign label" } else { damage };
        self.log(format!("the Secret is edited: {how}"));
        let before = self.book.content(&secret).0;
        let lost = self.status().jwts.is_empty();
        let mut remove = |key: &str| secret.data.as_mut().and_then(|data| data.remove(key));
        match how {
            "token" => drop(remove("token")),
            "previous" => drop((remove("previous-token"), remove("previous-jti"))),
            "annotation" => drop(secret.annotations_mut().remove(UID_ANNOTATION)),
            "older" => {
                // With the status went what it knew of revocations: a token put back by hand is adopted.
                self.book.request = self.book.request.filter(|_| !lost);
                let any = self.rng.random_range(0..self.book.all.len().max(1));
                let bytes = self.book.all.keys().nth(any).and_then(|jti| self.book.token(jti)).cloned();
                secret.data.get_or_insert_default().extend(bytes.map(|bytes| ("token".into(), ByteString(bytes))));
            }
            "immutable" => secret.immutable = Some(true),
            "label" => drop(secret.labels_mut().remove(ACCOUNT_LABEL)),
            _ => drop(secret.labels_mut().insert("foreign".into(), "kept".into())),
        }
        if matches!(how, "token" | "previous" | "annotation" | "older" | "label") {
            self.give_up_limbo();
        }
        if self.book.content(&secret).0 != before {
            self.book.foreign.insert(name.clone());
        }
        self.store_secret(&name, Some(secret));
    }

    // What is only in the status is excused; what the Secret carries must be adopted.
    pub(super) fn lose(&mut self, status: Option<VirtualAccountStatus>) {
        let name = &self.desired.secret.name;
        let ours = self.secret().filter(|secret| {
            let marked = secret.annotations().get(UID_ANNOTATION) == self.account.metadata.uid.as_ref();
            let known = secret.labels().contains_key(ACCOUNT_LABEL) && !self.book.foreign.contains(name);
            marked && known && self.desired.secret.enabled
        });
        let carried = ours.map(|secret| self.book.content(secret)).unwrap_or_default();
        // Only what is newer than the restored status' own delivered token is adopted.
        let held = status.as_ref().and_then(|status| held_by_secret(status)).map(|entry| entry.issued_at);
        let newer = |jti: &String| self.book.all.get(jti).map(|entry| entry.issued_at) > held;
        let carried = [carried.0, carried.1].into_iter().flatten();
        let carried: Vec<String> = carried.filter(|jti| self.accepts(jti) && newer(jti)).collect();
        let kept: Vec<String> = status.iter().flat_map(|status| &status.jwts).map(|entry| entry.id.clone()).collect();
        let known: Vec<String> = self.status().jwts.iter().map(|entry| entry.id.clone()).collect();
        let gone = self.book.all.keys().filter(|jti| !carried.contains(jti)).cloned();
        self.book.lost.extend(gone.collect::<Vec<_>>());
        self.book.limbo.extend(carried.clone());
        for jti in &kept {
            self.book.lost.remove(jti);
            self.book.limbo.remove(jti);
        }
        self.book.loosen(known.into_iter().chain(kept.iter().cloned()));
        self.book.losses += 1;
        self.book.restores += u32::from(status.is_some());
        // A status older than a revocation revives what it revoked until its grace ends: a documented limit.
        self.book.request = self.book.request.filter(|_| status.is_none());
        self.lose_records(status.as_ref());
        self.lose_notices(status.as_ref());
        // Of a status that was rolled back the Secret may show nothing.
        let newest = status.as_ref().and_then(|status| status.jwts.first()).map(|newest| newest.issued_at);
        let shown = carried.iter().filter_map(|jti| self.book.all.get(jti)).map(|entry| entry.issued_at).max();
        self.book.blind |= status.is_some() && (shown.is_none() || shown <= newest);
        self.log(format!("STATUS {} {}", if status.is_some() { "restored" } else { "lost" }, kept.join(" ")));
        self.change_account(|account| account.status = status);
    }
}

fn held_by_secret(status: &VirtualAccountStatus) -> Option<&Entry> {
    let held = status.token_secret.as_ref()?.jwt_id.as_ref()?;
    status.jwts.iter().find(|entry| entry.id == *held)
}

fn toggled(flag: Option<bool>) -> Option<bool> {
    flag.is_none().then_some(true)
}

impl World {
    /// The next attempt of a delivery that failed; what is somebody else's goes, as people do what the error says.
    pub(super) fn await_retry(&mut self) {
        let secret = self.status().token_secret.unwrap_or_default();
        self.now = self.next_attempt().map_or(self.now, |retry| retry.max(self.now));
        if secret.error.is_some_and(|error| error.reason == SECRET_NOT_OWNED) && self.secret().is_some() {
            self.delete_secret_by_hand();
        }
        self.clear_foreign();
    }

    fn next_attempt(&self) -> Option<Instant> {
        let status = self.account.status.as_ref()?;
        let secret = status.token_secret.as_ref().and_then(|secret| secret.next_attempt_at);
        let stores = status.secret_stores.iter().filter_map(|store| store.next_attempt_at);
        secret.into_iter().chain(stores).filter(|at| *at > self.now).min()
    }

    /// Somebody adds a label to the Secret.
    pub(super) fn touch(&mut self) {
        self.change_secret(|secret| drop(secret.labels_mut().insert("foreign".into(), "kept".into())));
    }

    /// Somebody makes the Secret immutable.
    pub(super) fn freeze_secret(&mut self) {
        self.change_secret(|secret| secret.immutable = Some(true));
    }

    fn change_secret(&mut self, change: impl FnOnce(&mut Secret)) {
        let mut secret = self.secret().cloned().unwrap_or_default();
        change(&mut secret);
        self.store_secret(&secret.name_any(), Some(secret));
    }

    /// The spec names another Secret.
    pub(super) fn rename(&mut self) {
        self.edit_target("rename");
    }

    /// The spec is put in order, so that the account can settle.
    pub(super) fn cure(&mut self) {
        self.book.edits += 2;
        let valid = super::world::valid_permissions();
        self.edit("cure", |spec| {
            spec.permissions = valid;
            (spec.suspend, spec.disabled) = (None, None);
        });
        // What late writes and hands have left is found by the next look; all else without one.
        let disturbed = self.book.blind || self.shelves.values().any(|shelf| shelf.book.disturbed);
        self.book.looked = disturbed || self.chance(0.5);
        if self.book.looked {
            self.ask_for_sync();
        }
    }
}
