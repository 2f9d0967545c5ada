//! What the tests of this module start from.

use std::sync::Arc;

use super::desired::Limits;
use crate::api::{AccountId, Permission, Seconds, VirtualAccount, VirtualAccountSpec};
use crate::token::Algorithm;

/// A minimal account `team/<name>`.
pub(crate) fn account(name: &str) -> VirtualAccount {
    let permission =
        Permission { resource_fqn: "svc".into(), resource_type: "service".into(), role_id: "reader".into() };
    let mut account =
        VirtualAccount::new(name, VirtualAccountSpec { permissions: vec![permission], ..Default::default() });
    account.metadata.namespace = Some("team".into());
    account.metadata.uid = Some(format!("uid-{name}"));
    account.metadata.generation = Some(1);
    account.metadata.resource_version = Some("1".into());
    account
}

/// The operator's defaults.
pub(crate) fn limits() -> Arc<Limits> {
    Arc::new(Limits {
        issuer: "https://issuer.test".into(),
        default_audience: "https://issuer.test".into(),
        allowed_audiences: ["https://issuer.test", "other"].map(String::from).into(),
        minimum_rotation_interval: Seconds::minutes(5),
        max_token_lifetime: Seconds::days(400),
        max_clock_skew: Seconds::minutes(2),
        adopt_restored: false,
        algorithm: Algorithm::Es256,
        ring_secret: AccountId::new("operator", "virtual-account-operator-keys"),
    })
}
