//! What each drill stands on: a plane, the administrator's client, the operator and its clock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use serde_json::Value;
use virtual_account_operator::api::{Instant, Seconds, VirtualAccount};
use virtual_account_operator::token::{Ring, SECRET_NAME};

use crate::support::cluster::{Cluster, secret_path};
use crate::support::operator::{NAMESPACE, Operator, Options};
use crate::support::plane::Plane;

/// The accounts' namespace.
pub(crate) const APPS: &str = "apps";

/// A control plane with nothing but an empty namespace for accounts.
pub(crate) struct World {
    pub(crate) plane: Plane,
    pub(crate) cluster: Cluster,
    /// How far the operator's clock is ahead of the real one.
    ahead: AtomicI64,
}

impl World {
    pub(crate) fn start() -> Self {
        let plane = Plane::start();
        plane.kubectl_ok(&["create", "namespace", APPS], None);
        let cluster = Cluster::of(&plane);
        Self { plane, cluster, ahead: AtomicI64::new(0) }
    }

    /// An operator on a clock that can be moved, ready.
    pub(crate) fn operator(&self, flags: &[&str]) -> Operator {
        Operator::start(&self.plane, self.options(flags))
    }

    pub(crate) fn options(&self, flags: &[&str]) -> Options {
        Options { clock: Some(format!("+{}", self.ahead.load(Ordering::Relaxed))), ..Options::flags(flags) }
    }

    /// Moves the clock of these operators, at once.
    pub(crate) fn advance(&self, operators: &[&Operator], by: Seconds) {
        let ahead = self.ahead.fetch_add(by.0, Ordering::Relaxed) + by.0;
        for operator in operators {
            operator.set_clock(&format!("{ahead:+}"));
        }
    }

    /// What the operator's clock shows.
    pub(crate) fn now(&self) -> Instant {
        virtual_account_operator::clock::now() + Seconds(self.ahead.load(Ordering::Relaxed))
    }

    /// All accounts, by name.
    pub(crate) fn accounts(&self) -> BTreeMap<String, VirtualAccount> {
        let typed = self.cluster.accounts(APPS).into_iter().map(|account| {
            let account: VirtualAccount = serde_json::from_value(account).expect("an account");
            (account.metadata.name.clone().unwrap_or_default(), account)
        });
        typed.collect()
    }

    pub(crate) fn account(&self, name: &str) -> VirtualAccount {
        let account = self.cluster.account(APPS, name).unwrap_or_else(|| panic!("no account {name}"));
        serde_json::from_value(account).expect("an account")
    }

    /// The keys as they are stored.
    pub(crate) fn ring(&self) -> Ring {
        let secret = self.cluster.find(&secret_path(NAMESPACE, SECRET_NAME)).expect("the key ring exists");
        let data = secret["data"].as_object().expect("the key ring has content");
        let decoded = data.iter().map(|(name, value)| (name.clone(), ByteString(base64(value))));
        Ring::parse(&decoded.collect()).expect("the key ring is readable")
    }

    /// The requests of the operator since `mark`, a length of the audit log.
    pub(crate) fn requests_since(&self, mark: usize, operator: &Operator) -> Vec<String> {
        let audit = self.plane.audit();
        let own = audit.iter().skip(mark).filter(|event| event.user == operator.user() && event.resource != "leases");
        own.map(|event| format!("{} {} {}/{}", event.verb, event.resource, event.subresource, event.name)).collect()
    }
}

fn base64(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).expect("the API server sends base64")
}
