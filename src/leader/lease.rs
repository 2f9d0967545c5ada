//! The rules of the Lease (coordination.k8s.io/v1): when it may be taken, how it is written. Pure; `elector` does what this
//! says.
//!
//! How long a holder has been silent is judged by this machine's clock since boot from when *it* saw the Lease change: the
//! times in a Lease are those of other machines.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::clock::Moment;
use crate::watch::version;

/// The longest that the Lease may make others wait, as for `--leader-elect-lease-duration`: anybody may edit it.
const LONGEST: Duration = Duration::from_mins(10);

/// Who wants to hold the Lease.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// `<pod>_<random>`: each life of a process is another holder.
    pub(super) identity: String,
    /// The pod, if `POD_NAME` names one. Its container starts again only after the one before has ended.
    pub(super) pod: Option<String>,
    /// How long others are to wait for a holder that is silent.
    pub(super) duration: Duration,
}

impl Candidate {
    /// How long after a renewal was sent the holder may act: shorter than the others wait, so that it has stopped before
    /// they start.
    pub(super) fn deadline(&self) -> Duration {
        self.duration * 2 / 3
    }

    /// How often the holder renews.
    pub(super) fn renewal(&self) -> Duration {
        self.duration / 5
    }

    /// No request for the Lease waits longer: a second attempt must fit into the deadline.
    pub(super) fn patience(&self) -> Duration {
        self.duration / 4
    }

    /// How long to wait after a request that failed.
    pub(super) fn pause(&self) -> Duration {
        self.duration / 20
    }

    /// The same for one that does not hold the Lease: doubles, up to the time of a request. Half of it is jitter, so that
    /// replicas do not ask as one; `luck`: any number.
    pub(super) fn backoff(&self, failures: u32, luck: u64) -> Duration {
        let full = self.pause().saturating_mul(1 << failures.min(16)).min(self.patience());
        let half = u64::try_from(full.as_millis() / 2).unwrap_or(0);
        full / 2 + Duration::from_millis(luck % (half + 1))
    }

    fn is_later_life(&self, identity: &str) -> bool {
        self.pod.as_deref().is_some_and(|pod| pod_of(identity) == Some(pod))
    }

    pub(super) fn holds(&self, lease: &Lease) -> bool {
        holder(lease) == Some(&self.identity)
    }

    /// The Lease in this candidate's hand, over what was there.
    pub(super) fn taken(&self, over: Option<&Lease>, name: &str, now: Timestamp) -> Lease {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let mut lease = over.cloned().unwrap_or(Lease { metadata, spec: None });
        let spec = lease.spec.get_or_insert_default();
        let changes_hands = spec.holder_identity.as_ref().is_none_or(|holder| *holder != self.identity);
        if changes_hands {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
            spec.acquire_time = Some(MicroTime(now));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(i32::try_from(self.duration.as_secs().max(1)).unwrap_or(i32::MAX));
        spec.renew_time = Some(MicroTime(now));
        lease
    }

    /// The Lease given up: the next candidate need not wait.
    pub(super) fn released(mut lease: Lease, now: Timestamp) -> Lease {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(now));
        lease
    }
}

/// What is known of the Lease, and since when.
#[derive(Debug)]
pub(super) struct View {
    lease: Sight,
    since: Moment,
    // The holder that was there when this process first looked.
    found: Option<String>,
}

#[derive(Debug)]
enum Sight {
    Unknown,
    /// There was none when this process first looked.
    Never,
    /// It was deleted. Its holder may act until its own deadline.
    Gone,
    Present(Box<Lease>),
}

/// What to do about a Lease that others may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Try to take it.
    Take,
    /// Nothing before this moment, unless it changes.
    Wait(Moment),
    /// Nothing until something is known.
    Look,
}

impl View {
    pub(super) fn new(now: Moment) -> Self {
        Self { lease: Sight::Unknown, since: now, found: None }
    }

    /// Takes what was seen. Only a change of the content starts the wait anew.
    pub(super) fn note(&mut self, lease: Option<Lease>, now: Moment) {
        if matches!(self.lease, Sight::Unknown) {
            self.found = lease.as_ref().and_then(holder).map(str::to_owned);
        }
        let next = match (&self.lease, lease) {
            (Sight::Unknown | Sight::Never, None) => Sight::Never,
            (Sight::Gone | Sight::Present(_), None) => Sight::Gone,
            (_, Some(lease)) => Sight::Present(Box::new(lease)),
        };
        let same = match (&self.lease, &next) {
            (Sight::Present(before), Sight::Present(after)) => before.spec == after.spec,
            (Sight::Never, Sight::Never) | (Sight::Gone, Sight::Gone) => true,
            _ => false,
        };
        if !same {
            self.since = now;
        }
        self.lease = next;
    }

    pub(super) fn lease(&self) -> Option<&Lease> {
        match &self.lease {
            Sight::Present(lease) => Some(lease),
            Sight::Unknown | Sight::Never | Sight::Gone => None,
        }
    }

    /// Its version; 0 without one.
    pub(super) fn version(&self) -> u64 {
        self.lease().and_then(|lease| lease.metadata.resource_version.as_deref()).map_or(0, version)
    }

    pub(super) fn next(&self, me: &Candidate, now: Moment) -> Move {
        let wait = match &self.lease {
            Sight::Unknown => return Move::Look,
            Sight::Never => return Move::Take,
            Sight::Gone => me.duration,
            Sight::Present(lease) if self.is_free(lease, me) => return Move::Take,
            // Not less than our own: whoever wrote less may still act as long as we would.
            Sight::Present(lease) => promised(lease).unwrap_or(me.duration).min(LONGEST).max(me.duration),
        };
        let until = self.since + wait;
        if until <= now { Move::Take } else { Move::Wait(until) }
    }

    fn is_free(&self, lease: &Lease, me: &Candidate) -> bool {
        match holder(lease) {
            None | Some("") => true,
            Some(holder) => {
                holder == me.identity || (self.found.as_deref() == Some(holder) && me.is_later_life(holder))
            }
        }
    }
}

/// Whether this replica could do the work, and for how long it could not.
#[derive(Debug, Default)]
pub(super) struct Fitness {
    unfit_since: Option<Moment>,
    // How often it made way and nobody else led.
    made_way: u32,
}

impl Fitness {
    pub(super) fn note(&mut self, fit: bool, now: Moment) {
        if fit {
            *self = Self::default();
        } else {
            self.unfit_since.get_or_insert(now);
        }
    }

    /// Whether a holder has to let others try: after two durations, and when none of them could either after twice as long
    /// each time, so that the Lease does not go to and fro while nobody can do all of the work.
    pub(super) fn must_make_way(&self, me: &Candidate, now: Moment) -> bool {
        let patience = (me.duration * 2).saturating_mul(1 << self.made_way.min(16)).min(LONGEST.max(me.duration * 2));
        self.unfit_since.is_some_and(|since| now.since(since) > patience)
    }

    /// The Lease was given up; the time begins anew.
    pub(super) fn made_way(&mut self, now: Moment) {
        self.unfit_since = Some(now);
        self.made_way = self.made_way.saturating_add(1);
    }

    /// One that cannot do the work does not stand, unless it led and nobody took the Lease that it gave up: a part of the work
    /// done is better than none.
    pub(super) fn may_stand(&self) -> bool {
        self.unfit_since.is_none() || self.made_way > 0
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

/// Who holds it, for people.
pub(super) fn named(lease: &Lease) -> &str {
    holder(lease).filter(|holder| !holder.is_empty()).unwrap_or("nobody")
}

fn pod_of(identity: &str) -> Option<&str> {
    identity.rsplit_once('_').map(|(pod, _)| pod)
}

fn promised(lease: &Lease) -> Option<Duration> {
    let LeaseSpec { lease_duration_seconds, .. } = lease.spec.as_ref()?;
    lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn me() -> Candidate {
        Candidate { identity: "pod-a_1".into(), pod: Some("pod-a".into()), duration: LEASE }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn held_by(holder: &str, renewed: i64) -> Lease {
        let mut other = me();
        other.identity = holder.into();
        other.taken(None, "lease", at(renewed))
    }

    fn seen(lease: Option<Lease>, now: Moment) -> View {
        let mut view = View::new(now);
        view.note(lease, now);
        view
    }

    #[test]
    fn nothing_is_taken_before_something_was_seen() {
        let now = Moment::now();
        assert_eq!(View::new(now).next(&me(), now + LEASE * 9), Move::Look);
        assert_eq!(seen(None, now).next(&me(), now), Move::Take);
    }

    #[test]
    fn a_holder_is_waited_for_to_the_last_moment() {
        let start = Moment::now();
        let mut view = seen(Some(held_by("pod-b_7", 0)), start);
        let end = start + LEASE;
        let before = start + LEASE.saturating_sub(Duration::from_millis(1));
        assert_eq!(view.next(&me(), before), Move::Wait(end));
        assert_eq!(view.next(&me(), end), Move::Take);
        // A renewal starts the wait anew, from when it was seen; the same content again does not.
        view.note(Some(held_by("pod-b_7", 3)), before);
        let mut relabelled = held_by("pod-b_7", 3);
        relabelled.metadata.resource_version = Some("9".into());
        view.note(Some(relabelled), end);
        assert_eq!(view.next(&me(), end), Move::Wait(before + LEASE));
        assert_eq!(view.version(), 9, "the newest version is the one to write over");
    }

    #[test]
    fn a_free_lease_is_taken_at_once() {
        let now = Moment::now();
        let released = Candidate::released(held_by("pod-b_7", 0), at(1));
        assert_eq!(named(&released), "nobody");
        assert_eq!(seen(Some(released), now).next(&me(), now), Move::Take);
        let bare = Lease::default();
        assert_eq!(seen(Some(bare), now).next(&me(), now), Move::Take);
    }

    #[test]
    fn an_earlier_life_of_the_own_pod_is_not_waited_for() {
        let now = Moment::now();
        assert_eq!(seen(Some(held_by("pod-a_0", 0)), now).next(&me(), now), Move::Take);
        let other = seen(Some(held_by("pod-ab_0", 0)), now).next(&me(), now);
        assert_eq!(other, Move::Wait(now + LEASE), "another pod's");
        let mut rival = seen(Some(held_by("pod-b_7", 0)), now);
        rival.note(Some(held_by("pod-a_0", 1)), now);
        assert_eq!(rival.next(&me(), now), Move::Wait(now + LEASE), "it came later, so it is no earlier life");
        let nameless = Candidate { pod: None, ..me() };
        let unknown = seen(Some(held_by("pod-a_0", 0)), now).next(&nameless, now);
        assert_eq!(unknown, Move::Wait(now + LEASE), "without POD_NAME two processes may have one host name");
    }

    #[test]
    fn a_deleted_lease_is_waited_out() {
        let start = Moment::now();
        let mut view = seen(Some(held_by("pod-b_7", 0)), start);
        view.note(None, start + LEASE / 2);
        assert_eq!(view.next(&me(), start + LEASE), Move::Wait(start + LEASE / 2 + LEASE));
        view.note(None, start + LEASE);
        assert_eq!(view.next(&me(), start + LEASE / 2 + LEASE), Move::Take);
    }

    #[test]
    fn the_holders_own_promise_counts() {
        let now = Moment::now();
        let mut lease = held_by("pod-b_7", 0);
        lease.spec.as_mut().unwrap().lease_duration_seconds = Some(60);
        assert_eq!(seen(Some(lease), now).next(&me(), now), Move::Wait(now + Duration::from_mins(1)));
    }

    #[test]
    fn a_promise_that_somebody_edited_is_not_believed_without_limit() {
        let now = Moment::now();
        for (seconds, believed) in [(i32::MAX, 600), (601, 600), (16, 16), (1, 15), (0, 15), (-1, 15)] {
            let mut lease = held_by("pod-b_7", 0);
            lease.spec.as_mut().unwrap().lease_duration_seconds = Some(seconds);
            let next = seen(Some(lease), now).next(&me(), now);
            assert_eq!(next, Move::Wait(now + Duration::from_secs(believed)), "{seconds}");
        }
    }

    #[test]
    fn one_that_cannot_work_makes_way_after_two_durations() {
        let (start, millisecond) = (Moment::now(), Duration::from_millis(1));
        let mut fitness = Fitness::default();
        assert!(fitness.may_stand() && !fitness.must_make_way(&me(), start + LEASE * 99));
        fitness.note(false, start);
        fitness.note(false, start + LEASE);
        assert!(!fitness.may_stand(), "one that starts unfit keeps it from nobody");
        assert!(!fitness.must_make_way(&me(), start + LEASE * 2));
        assert!(fitness.must_make_way(&me(), start + LEASE * 2 + millisecond));
        fitness.note(true, start + LEASE);
        fitness.note(false, start + LEASE * 2);
        assert!(!fitness.must_make_way(&me(), start + LEASE * 4), "a moment of health starts it anew");
    }

    #[test]
    fn when_nobody_can_work_the_lease_does_not_go_to_and_fro() {
        let (start, mut fitness) = (Moment::now(), Fitness::default());
        fitness.note(false, start);
        let (mut now, mut led) = (start, Vec::new());
        for _ in 0..8 {
            let since = now;
            while !fitness.must_make_way(&me(), now) {
                now = now + Duration::from_secs(1);
                fitness.note(false, now);
            }
            led.push(now.since(since).as_secs());
            fitness.made_way(now);
            assert!(fitness.may_stand(), "it takes back what nobody wanted");
        }
        assert_eq!(led, [31, 61, 121, 241, 481, 601, 601, 601]);
        fitness.note(true, now);
        fitness.note(false, now);
        assert!(!fitness.may_stand(), "all is forgotten once it was fit");
    }

    #[test]
    fn attempts_of_one_that_does_not_hold_it_grow_rare() {
        let full = [0.75, 1.5, 3.0, 3.75, 3.75];
        for (failures, seconds) in (0..).zip(full.map(|seconds| Duration::from_secs_f64(seconds / 2.0))) {
            assert_eq!(me().backoff(failures, 0), seconds);
        }
        let waits: Vec<Duration> = (0..10_000).map(|luck| me().backoff(u32::MAX, luck)).collect();
        assert!(
            waits.iter().all(|wait| *wait >= me().patience() / 2 && *wait <= me().patience()),
            "{:?}",
            waits.last()
        );
        assert!(waits.iter().max() > waits.iter().min());
    }

    #[test]
    fn a_holder_stops_before_others_start() {
        for seconds in [1, 4, 15, 60] {
            let me = Candidate { duration: Duration::from_secs(seconds), ..me() };
            assert!(me.deadline() < me.duration);
            assert!(
                me.renewal() + me.patience() + me.pause() + me.duration / 10 < me.deadline(),
                "a second attempt fits"
            );
        }
    }

    #[test]
    fn transitions_are_counted_and_the_rest_is_kept() {
        let first = me().taken(None, "lease", at(0));
        let spec = first.spec.clone().unwrap();
        assert_eq!((spec.lease_transitions, spec.lease_duration_seconds), (Some(0), Some(15)));
        let renewed = me().taken(Some(&first), "lease", at(3)).spec.unwrap();
        assert_eq!((renewed.lease_transitions, &renewed.acquire_time), (Some(0), &spec.acquire_time));
        assert_ne!(renewed.renew_time, spec.renew_time);
        let mut foreign = held_by("pod-b_7", 5);
        foreign.metadata.resource_version = Some("12".into());
        foreign.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        let taken = me().taken(Some(&foreign), "lease", at(9));
        assert_eq!(taken.metadata, foreign.metadata);
        assert_eq!(taken.spec.unwrap().lease_transitions, Some(1));
    }
}
