//! Tokens: what is in them, how they are signed, which keys sign, and what a verifier accepts.
//!
//! Everything here but `keeper` and `commands` is pure: no clock, no client. A token is a function of its ledger entry,
//! the account's identity and the key that the entry names, and of nothing else, so that a retry, another replica or a
//! repaired Secret always gives the same bytes.

use std::fmt;

use zeroize::Zeroizing;

mod claims;
mod commands;
mod custody;
mod event;
#[cfg(test)]
pub(crate) mod fixtures;
mod keeper;
mod memory;
mod request;
mod ring;
mod rotation;
mod sign;
mod verify;

pub use claims::{Audience, Claims, DeriveError, derive, entry_of, fresh_jti};
pub use commands::{CommandError, KeysCommand, keys};
pub use custody::{Ledgers, RingNotice, RingState, RingTrouble, SECRET_NAME};
pub use event::RingEvent;
pub use keeper::{Keeper, Tell};
pub use request::{Action, REQUEST_ANNOTATION, Request, add_request, read_requests};
pub use ring::{Key, KeyState, MAX_KEYS, Ring, RingError, Standing};
pub use rotation::{Advance, Fresh, InUse, RingSettings};
pub use sign::{Algorithm, KeyError, KeyMaterial};
pub use verify::{AccountView, MAX_TOKEN_BYTES, Refusal, Verified, against_ledger, strict};

/// A signed token. It cannot be printed, copied or serialised by accident, and its memory is wiped when it is dropped.
pub struct Token(Zeroizing<String>);

impl Token {
    /// A text that is a token.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The token itself, for the one who delivers or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_printed() {
        assert_eq!(format!("{:?}", Token::new("eyJ".into())), "<redacted>");
    }
}
