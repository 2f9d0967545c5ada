//! The mark: whose secret it is and which token it holds, written in the provider's own metadata beside the value.

use std::fmt;

use crate::api::Instant;

/// In `takeOverFrom`: secrets without a mark may be taken over.
pub const UNMARKED: &str = "unmarked";

/// Whose a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cluster's id.
    pub cluster: String,
    /// `namespace/name` of the account.
    pub account: String,
    /// The account's uid. For people: an account that was created again owns what its namesake left.
    pub uid: String,
}

/// Whose a secret is, and which token it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose.
    pub owner: Owner,
    /// The token.
    pub jti: String,
    /// Grows from token to token: when it was issued, in Unix seconds.
    pub sequence: i64,
    /// When the token ends.
    pub expires_at: Instant,
}

// The names in the provider's metadata. Lower-case letters and '-' only: every provider takes these.
const CLUSTER: &str = "virtualaccounts-cluster";
const ACCOUNT: &str = "virtualaccounts-account";
const UID: &str = "virtualaccounts-uid";
const JTI: &str = "virtualaccounts-jti";
const SEQUENCE: &str = "virtualaccounts-sequence";
const EXPIRES_AT: &str = "virtualaccounts-expires-at";

impl Owner {
    /// As names and values, as in [`Mark::pairs`].
    pub fn pairs(&self) -> [(&'static str, String); 3] {
        [(CLUSTER, self.cluster.clone()), (ACCOUNT, self.account.clone()), (UID, self.uid.clone())]
    }

    /// Same cluster and same account.
    pub fn same_account(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.account == other.account
    }
}

impl Mark {
    /// As names and values. The values have letters, digits and `-_./:` only.
    pub fn pairs(&self) -> [(&'static str, String); 6] {
        let [cluster, account, uid] = self.owner.pairs();
        [
            cluster,
            account,
            uid,
            (JTI, self.jti.clone()),
            (SEQUENCE, self.sequence.to_string()),
            (EXPIRES_AT, self.expires_at.to_string()),
        ]
    }

    /// From names and values; `None` if one is missing or cannot be read.
    pub fn parse<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let text = |name| value(name).map(str::to_owned);
        Some(Self {
            owner: Owner { cluster: text(CLUSTER)?, account: text(ACCOUNT)?, uid: text(UID)? },
            jti: text(JTI)?,
            sequence: value(SEQUENCE)?.parse().ok()?,
            expires_at: value(EXPIRES_AT)?.parse().ok()?,
        })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} of virtual account {} in cluster {}", self.jti, self.owner.account, self.owner.cluster)
    }
}
