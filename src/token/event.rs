//! What is told of the key ring: one value for each thing that happened, with its reason and its sentence.

use std::fmt;

use super::MAX_KEYS;
use crate::api::Instant;

/// What happened to the ring, or why something did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingEvent {
    /// A ring without a usable key got one, which signs at once.
    Created(String),
    /// A standby is in the JWKS; the instant at which it will sign.
    Published(String, Instant),
    /// A requested rotation will take place at that instant.
    Rotating(String, Instant),
    /// A key is compromised from now on.
    Compromised(String),
    /// It was before.
    AlreadyCompromised(String),
    /// A key that the ring does not have, but ledgers name, is recorded as gone.
    Gone(String),
    /// A request names a key that neither the ring nor any ledger has.
    UnknownKey(String),
    /// A key that nothing needs any more left the ring.
    Removed(String),
    /// No standby can be published: the ring is full.
    Full,
    /// `init` was asked of a ring that exists.
    Exists,
    /// Entries of unknown keys are replaced from now on.
    ReissueAccepted,
}

impl RingEvent {
    /// For event reasons and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Created(_) => "KeyRingCreated",
            Self::Published(..) => "KeyPublished",
            Self::Rotating(..) => "KeyRotating",
            Self::Compromised(_) => "KeyCompromised",
            Self::AlreadyCompromised(_) => "KeyAlreadyCompromised",
            Self::Gone(_) => "KeyGone",
            Self::UnknownKey(_) => "KeyUnknown",
            Self::Removed(_) => "KeyRemoved",
            Self::Full => "KeyRingFull",
            Self::Exists => "KeyRingExists",
            Self::ReissueAccepted => "ReissueAccepted",
        }
    }

    /// Whether somebody should look.
    pub fn is_warning(&self) -> bool {
        matches!(self, Self::Compromised(_) | Self::Gone(_) | Self::UnknownKey(_) | Self::Full | Self::ReissueAccepted)
    }
}

impl fmt::Display for RingEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(kid) => write!(f, "key {kid} is new and signs from now on"),
            Self::Published(kid, at) => write!(f, "key {kid} is published and will sign from {at}"),
            Self::Rotating(kid, at) => write!(f, "as requested, key {kid} signs from {at}"),
            Self::Compromised(kid) => write!(f, "key {kid} is compromised: its tokens are refused and replaced"),
            Self::AlreadyCompromised(kid) => write!(f, "key {kid} was already marked compromised; nothing to do"),
            Self::Gone(kid) => write!(f, "key {kid} is recorded as gone: its tokens are refused and replaced"),
            Self::UnknownKey(kid) => write!(f, "no key {kid} in the ring or in any ledger; nothing done"),
            Self::Removed(kid) => write!(f, "key {kid} left the ring: nothing needs it any more"),
            Self::Full => {
                write!(f, "the ring holds {MAX_KEYS} keys that ledgers need; rotation waits until one can leave")
            }
            Self::Exists => f.write_str("the key ring exists; nothing to do"),
            Self::ReissueAccepted => f.write_str("tokens of unknown keys are refused and replaced"),
        }
    }
}
