//! What is to be done about the ring's Secret: decided from what was seen of it, from the ring in memory and from what the
//! ledgers need. Pure; `keeper` does what this says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::memory::Memory;
use super::{
    Action, InUse, KeyError, REQUEST_ANNOTATION, Request, Ring, RingError, RingEvent, RingSettings, read_requests,
    rotation::Fresh,
};
use crate::api::Instant;

/// The name of the ring's Secret, in the operator's namespace.
pub const SECRET_NAME: &str = "virtual-account-operator-keys";

/// What the ledgers, and the Secrets beside them, say about the keys.
pub trait Ledgers: Send + Sync {
    /// Whether all accounts and Secrets have been seen once; before that the other answers are not complete.
    fn synced(&self) -> bool;
    /// The keys that some entry names.
    fn kids_in_use(&self) -> BTreeSet<String>;
    /// Whether any ledger has an entry.
    fn any_entry(&self) -> bool;
    /// Whether any Secret carries our label.
    fn any_labelled_secret(&self) -> bool;
    /// Whether some account with such a Secret has an empty ledger: its tokens name keys that no ledger names.
    fn labelled_secret_with_empty_ledger(&self) -> bool;
}

/// The ring as everybody else sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RingState {
    /// The keys to serve and to verify with; `None` until a ring was found or made.
    pub ring: Option<Arc<Ring>>,
    /// Set: nothing is issued, and why.
    pub trouble: Option<RingTrouble>,
}

/// Why no token can be issued. Says what cures it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingTrouble {
    /// No ring, but ledgers or Secrets that need one.
    Missing,
    /// The Secret has no content.
    Emptied,
    /// The Secret's content is not a ring.
    Unreadable(RingError),
    /// The content lacks this key, which is needed, or calls it usable though it is compromised.
    Edited(String),
}

impl RingTrouble {
    /// For conditions, events and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "KeyRingMissing",
            Self::Emptied => "KeyRingEmptied",
            Self::Unreadable(error) => error.reason(),
            Self::Edited(_) => "KeyRingEdited",
        }
    }
}

impl fmt::Display for RingTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(
                f,
                "the key ring (Secret {SECRET_NAME}) is missing although tokens exist: restore it from its backup, or run `keys init --accept-reissue` to replace all tokens"
            ),
            Self::Emptied => write!(
                f,
                "the key ring (Secret {SECRET_NAME}) was emptied: restore it from its backup, or delete it, and a running operator that knows the keys puts them back, or run `keys init`"
            ),
            Self::Unreadable(error) => write!(
                f,
                "{error}: restore Secret {SECRET_NAME} from its backup, or delete it, and a running operator that knows the keys puts them back"
            ),
            Self::Edited(kid) => write!(
                f,
                "the key ring was edited: key {kid} is missing or no longer marked compromised; restore Secret {SECRET_NAME} from its backup, or delete it, and the operator puts back the keys it knows"
            ),
        }
    }
}

/// Something to tell people: an Event and a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingNotice {
    /// Whether somebody should look.
    pub warning: bool,
    /// PascalCase.
    pub reason: &'static str,
    /// A sentence without secrets.
    pub message: String,
}

impl From<RingEvent> for RingNotice {
    fn from(event: RingEvent) -> Self {
        Self { warning: event.is_warning(), reason: event.reason(), message: event.to_string() }
    }
}

/// What was last seen of the Secret; its content only as a parsed ring.
#[derive(Clone, Debug, Default)]
pub(super) enum Seen {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It does not exist.
    Absent,
    /// It exists.
    Present(Box<Found>),
}

/// A Secret that exists.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) metadata: ObjectMeta,
    pub(super) ring: Result<Ring, RingError>,
}

impl Found {
    pub(super) fn new(secret: Secret) -> Self {
        let ring = Ring::parse(&secret.data.unwrap_or_default());
        let mut metadata = secret.metadata;
        metadata.managed_fields = None;
        Self { metadata, ring }
    }

    fn annotation(&self) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(REQUEST_ANNOTATION).map(String::as_str)
    }

    /// The Secret with this content and without requests; everything else as it was found, the version included.
    pub(super) fn with(&self, data: BTreeMap<String, ByteString>) -> Secret {
        let mut metadata = self.metadata.clone();
        if let Some(annotations) = &mut metadata.annotations {
            annotations.remove(REQUEST_ANNOTATION);
        }
        Secret { metadata, data: Some(data), type_: Some("Opaque".into()), ..Secret::default() }
    }
}

/// The ledgers' answers of one moment, and whether this replica may write.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) leads: bool,
    pub(super) synced: bool,
    pub(super) may_create: bool,
    pub(super) in_use: InUse,
}

impl Facts {
    pub(super) fn of(ledgers: &dyn Ledgers, leads: bool) -> Self {
        let synced = ledgers.synced();
        let may_create = synced && !ledgers.any_entry() && !ledgers.any_labelled_secret();
        let keep_all = !synced || ledgers.labelled_secret_with_empty_ledger();
        Self { leads, synced, may_create, in_use: InUse { kids: ledgers.kids_in_use(), keep_all } }
    }
}

/// What to know and serve, what to write, what to say after the write.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// What is known of the keys now.
    pub(super) memory: Option<Memory>,
    pub(super) trouble: Option<RingTrouble>,
    /// The ring to write: over the Secret that was seen, or as a new one.
    pub(super) write: Option<Ring>,
    pub(super) notices: Vec<RingNotice>,
}

/// What to do now. A new or changed ring is served only after its write was accepted. A replica that does not lead serves
/// what is stored, makes no keys and leaves all else to the leader. Whoever finds a harmed ring serves its keys with those
/// that it lacks: a leader that has forgotten these may sign with any key of it.
pub(super) fn decide(
    seen: &Seen,
    memory: Option<&Memory>,
    facts: &Facts,
    (now, settings): (Instant, &RingSettings),
    fresh: Fresh<'_>,
) -> Result<Decision, KeyError> {
    let keep = |trouble| Decision { memory: memory.cloned(), trouble, ..Decision::default() };
    let found = match (seen, memory) {
        (Seen::Unknown, _) => return Ok(keep(None)),
        (Seen::Absent, Some(_)) if !facts.leads => return Ok(keep(None)),
        (Seen::Absent, Some(memory)) => {
            let notices = vec![put_back()];
            return Ok(Decision { write: Some(memory.trusted.clone()), notices, ..keep(None) });
        }
        (Seen::Absent, None) if !facts.synced => return Ok(keep(None)),
        (Seen::Absent, None) if !facts.may_create => return Ok(keep(Some(RingTrouble::Missing))),
        (Seen::Absent, None) => None,
        (Seen::Present(found), _) => Some(found),
    };
    // Requests that name keys are judged against the ledgers, so they wait until these are known.
    let annotation = found.and_then(|found| found.annotation()).filter(|_| facts.synced);
    let requests = read_requests(annotation);
    let (ring, mut notices) = match found.map(|found| &found.ring) {
        None => (Ring::default(), vec![]),
        Some(Ok(ring)) => match memory.and_then(|memory| memory.harm(ring, facts, now)) {
            Some((kid, memory)) => {
                let trouble = Some(RingTrouble::Edited(kid));
                return Ok(Decision { memory: Some(memory), trouble, ..Decision::default() });
            }
            None => (ring.clone(), vec![]),
        },
        Some(Err(RingError::Empty)) if asks_init(&requests) => match memory {
            Some(memory) => (memory.trusted.clone(), vec![put_back()]),
            None => (Ring::default(), vec![]),
        },
        Some(Err(RingError::Empty)) => return Ok(keep(Some(RingTrouble::Emptied))),
        Some(Err(error)) => return Ok(keep(Some(RingTrouble::Unreadable(error.clone())))),
    };
    let stored = matches!(found.map(|found| &found.ring), Some(Ok(_)));
    let memory = if stored { Some(Memory::of(ring.clone())) } else { memory.cloned() };
    if !facts.leads {
        return Ok(Decision { memory, ..Decision::default() });
    }
    let advance = ring.advance(now, settings, &facts.in_use, &requests, fresh)?;
    notices.extend(advance.events.into_iter().map(RingNotice::from));
    if annotation.is_some() && requests.is_empty() {
        notices.push(unreadable_request());
    }
    let must_write = !stored || annotation.is_some() || advance.ring.is_some();
    let write = must_write.then(|| advance.ring.unwrap_or(ring));
    Ok(Decision { memory, trouble: None, write, notices })
}

fn asks_init(requests: &[Request]) -> bool {
    requests.iter().any(|request| matches!(request.action, Action::Init { .. }))
}

fn put_back() -> RingNotice {
    let message = format!("Secret {SECRET_NAME} had lost the key ring; it was put back from memory");
    RingNotice { warning: true, reason: "KeyRingPutBack", message }
}

fn unreadable_request() -> RingNotice {
    let message = format!("the annotation {REQUEST_ANNOTATION} was not readable; nothing was done about it");
    RingNotice { warning: true, reason: "KeyRequestUnreadable", message }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{at, es256, key, ring, rs256};
    use super::super::{Algorithm, KeyMaterial};
    use super::*;
    use crate::api::Seconds;

    const SETTINGS: RingSettings =
        RingSettings { rotation: Seconds(18_000), algorithm: Algorithm::Es256, lead: Seconds(900) };

    fn facts() -> Facts {
        // keep_all, so that the fixture's RS256 standby is not replaced.
        Facts { leads: true, synced: true, may_create: false, in_use: InUse { kids: BTreeSet::new(), keep_all: true } }
    }

    fn present(data: BTreeMap<String, ByteString>, requests: Option<&str>) -> Seen {
        let annotations = requests.map(|text| [(REQUEST_ANNOTATION.to_owned(), text.to_owned())].into());
        let metadata = ObjectMeta { annotations, ..ObjectMeta::default() };
        Seen::Present(Box::new(Found::new(Secret { metadata, data: Some(data), ..Secret::default() })))
    }

    fn look(seen: &Seen, memory: Option<&Ring>, facts: &Facts) -> Decision {
        let memory = memory.cloned().map(Memory::of);
        let fresh: Fresh<'_> = &mut |_| KeyMaterial::generate(Algorithm::Es256);
        decide(seen, memory.as_ref(), facts, (at(0), &SETTINGS), fresh).unwrap()
    }

    fn settled() -> Ring {
        let seen = present(ring().data(), None);
        look(&seen, None, &facts()).write.unwrap()
    }

    fn reasons(decision: &Decision) -> Vec<&'static str> {
        decision.notices.iter().map(|notice| notice.reason).collect()
    }

    fn served(decision: &Decision) -> Option<&Ring> {
        decision.memory.as_ref().map(|memory| &memory.served)
    }

    fn same(one: Option<&Ring>, other: Option<&Ring>) -> bool {
        one.map(Ring::data) == other.map(Ring::data)
    }

    #[test]
    fn a_replica_that_does_not_lead_serves_what_is_stored_and_writes_nothing() {
        let ring = settled();
        let follows = Facts { leads: false, may_create: true, ..facts() };
        let mut fresh = |_: Algorithm| -> Result<KeyMaterial, KeyError> { panic!("it makes no keys") };
        let mut look = |seen: &Seen, memory: Option<&Ring>| {
            let memory = memory.cloned().map(Memory::of);
            decide(seen, memory.as_ref(), &follows, (at(400 * 86_400), &SETTINGS), &mut fresh).unwrap()
        };
        let rotate = r#"[{"id":"1","action":"rotate"}]"#;
        for seen in [present(ring.data(), None), present(ring.data(), Some(rotate))] {
            let decision = look(&seen, None);
            assert!(same(served(&decision), Some(&ring)) && decision.write.is_none());
            assert!(decision.notices.is_empty() && decision.trouble.is_none());
        }
        let deleted = look(&Seen::Absent, Some(&ring));
        assert!(same(served(&deleted), Some(&ring)) && deleted.write.is_none(), "the leader puts it back");
        assert!(look(&Seen::Absent, None).write.is_none(), "the leader makes the first");
    }

    #[test]
    fn a_sound_ring_is_served_and_not_written() {
        let ring = settled();
        let seen = present(ring.data(), None);
        for memory in [None, Some(&ring)] {
            let decision = look(&seen, memory, &facts());
            assert!(same(served(&decision), Some(&ring)) && decision.write.is_none());
            assert_eq!((decision.trouble, decision.notices), (None, vec![]));
        }
    }

    #[test]
    fn a_ring_is_created_only_where_nothing_needs_another() {
        let allowed = Facts { may_create: true, ..facts() };
        let unsynced = Facts { synced: false, ..facts() };
        for (facts, creates, trouble) in
            [(allowed, true, None), (facts(), false, Some(RingTrouble::Missing)), (unsynced, false, None)]
        {
            let decision = look(&Seen::Absent, None, &facts);
            assert_eq!((decision.write.is_some(), decision.trouble), (creates, trouble));
            assert!(decision.memory.is_none(), "not before it is stored");
        }
        assert!(look(&Seen::Unknown, None, &facts()).write.is_none());
    }

    #[test]
    fn a_deleted_ring_is_put_back_from_memory() {
        let ring = settled();
        let decision = look(&Seen::Absent, Some(&ring), &facts());
        assert!(same(decision.write.as_ref(), Some(&ring)) && same(served(&decision), Some(&ring)));
        assert_eq!(reasons(&decision), ["KeyRingPutBack"]);
    }

    #[test]
    fn an_edited_ring_stops_issuing_while_the_known_keys_are_served() {
        let ring = settled();
        let mut cut = ring.clone();
        cut.keys.retain(|key| key.kid() != es256().kid());
        let mut broken = ring.data();
        broken.insert(es256().kid().into(), ByteString(b"{}".to_vec()));
        for (data, reason) in
            [(BTreeMap::new(), "KeyRingEmptied"), (broken, "KeyRingUnreadable"), (cut.data(), "KeyRingEdited")]
        {
            let decision = look(&present(data, None), Some(&ring), &facts());
            assert_eq!(decision.trouble.as_ref().map(RingTrouble::reason), Some(reason));
            assert!(same(served(&decision), Some(&ring)) && decision.write.is_none(), "{reason}");
        }
    }

    #[test]
    fn a_needed_key_and_a_mark_of_compromise_cannot_be_edited_away() {
        let ring = settled();
        let mut cut = ring.clone();
        cut.keys.retain(|key| key.kid() != rs256().kid());
        let mut using = facts();
        let seen = present(cut.data(), None);
        assert_eq!(look(&seen, Some(&ring), &using).trouble, None, "a standby that nothing names may go");
        using.in_use.kids.insert(rs256().kid().into());
        let edited = Some(RingTrouble::Edited(rs256().kid().into()));
        assert_eq!(look(&seen, Some(&ring), &using).trouble, edited);
        let mut marked = ring.clone();
        marked
            .keys
            .iter_mut()
            .filter(|key| key.kid() == rs256().kid())
            .for_each(|key| key.compromised_at = Some(at(0)));
        assert_eq!(look(&present(ring.data(), None), Some(&marked), &facts()).trouble, edited);
    }

    #[test]
    fn a_harmed_ring_is_served_by_every_replica_and_lost_by_none() {
        let memory = Memory::of(settled());
        let other =
            Ring { keys: vec![key(KeyMaterial::generate(Algorithm::Es256).unwrap(), -1, -1)], ..Ring::default() };
        let signer = other.keys[0].kid();
        let mut using = facts();
        using.in_use.kids.extend([es256().kid().to_owned(), signer.to_owned()]);
        let follows = Facts { leads: false, ..using.clone() };
        let mut fresh = |_: Algorithm| -> Result<KeyMaterial, KeyError> { panic!("no key is made") };
        let mut look = |seen: &Seen, memory: &Memory, facts: &Facts| {
            decide(seen, Some(memory), facts, (at(0), &SETTINGS), &mut fresh).unwrap()
        };
        let harmed = present(other.data(), None);
        for facts in [&follows, &using] {
            let decision = look(&harmed, &memory, facts);
            assert_eq!(decision.trouble, Some(RingTrouble::Edited(es256().kid().into())));
            assert!(decision.write.is_none());
            let known = decision.memory.unwrap();
            assert!([signer, es256().kid(), rs256().kid()].iter().all(|kid| known.served.key(kid).is_some()));
            // Deleted, as the trouble advises: those that signed since are put back as well.
            let back = look(&Seen::Absent, &known, &using).write.unwrap();
            assert!(back.key(signer).is_some() && back.key(es256().kid()).is_some());
            let kept = look(&Seen::Absent, &known, &follows).memory.unwrap();
            assert_eq!(kept, known, "until the leader has put them back");
        }
    }

    #[test]
    fn requests_are_handled_and_cleared_in_one_write() {
        let ring = settled();
        let rotate = r#"[{"id":"1","action":"rotate"}]"#;
        let seen = present(ring.data(), Some(rotate));
        let decision = look(&seen, Some(&ring), &facts());
        assert_eq!(decision.write.unwrap().signing_key(at(0)).unwrap().kid(), rs256().kid());
        let Seen::Present(found) = &seen else { unreachable!() };
        assert_eq!(found.with(BTreeMap::new()).metadata.annotations, Some(BTreeMap::new()));
        let unsynced = Facts { synced: false, ..facts() };
        assert!(look(&seen, Some(&ring), &unsynced).write.is_none());
        let decision = look(&present(ring.data(), Some("{")), Some(&ring), &facts());
        assert!(same(decision.write.as_ref(), Some(&ring)));
        assert_eq!(reasons(&decision), ["KeyRequestUnreadable"]);
    }

    #[test]
    fn an_empty_secret_with_an_init_request_permits_a_new_ring() {
        let init = r#"[{"id":"1","action":"init","acceptReissue":true}]"#;
        let seen = present(BTreeMap::new(), Some(init));
        let decision = look(&seen, None, &facts());
        assert_eq!(decision.write.unwrap().accept_reissue_before, Some(at(60)));
        let ring = settled();
        let decision = look(&seen, Some(&ring), &facts());
        assert!(decision.write.unwrap().key(es256().kid()).is_some(), "keys in memory are never dropped");
        let rotate = r#"[{"id":"1","action":"rotate"}]"#;
        let decision = look(&present(BTreeMap::new(), Some(rotate)), None, &facts());
        assert_eq!((decision.write.is_some(), decision.trouble), (false, Some(RingTrouble::Emptied)));
    }
}
