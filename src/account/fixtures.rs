//! What the tests of this module start from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::desired::{Desired, Limits, StorePath, StoreSpec};
use super::ledger::Ledger;
use super::observe::{Observed, SecretView};
use super::plan::{Act, Plan, SecretStep, plan};
use super::secret::{Image, SecretMeta, SecretSeen, render};
use super::status::{Clock, Outcome, finished};
use crate::api::{
    AccountId, AutoRotate, DaysOrDuration, DeletionPolicy, Entry, Instant, IssueReason, ObjectId, Permission, Phase,
    Seconds, SecretStoreStatus, TokenSecretStatus, VirtualAccount, VirtualAccountSpec, VirtualAccountStatus,
};
use crate::store::Admission;
use crate::token::Algorithm;
pub(crate) use crate::token::fixtures::at;
use crate::token::fixtures::{es256, ring};

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
        cluster_id: "cluster".into(),
        store_check_interval: Seconds::hours(24),
        cleanup_deadline: Seconds::hours(1),
    })
}

/// Jitter is off, the interval 12 h, the grace 2 h.
pub(crate) fn desired(account: &VirtualAccount) -> Desired {
    let mut desired = Desired::parse(account, &limits());
    desired.schedule.seed = 0;
    desired
}

/// `account("a")` with a rotation every 12 h and a grace of 2 h.
pub(crate) fn rotating() -> VirtualAccount {
    let mut account = account("a");
    let text = |text: &str| text.to_owned();
    account.spec.auto_rotate = Some(AutoRotate {
        auto_rotate_interval: Some(DaysOrDuration::Duration(text("12h"))),
        grace_period: Some(DaysOrDuration::Duration(text("2h"))),
    });
    account
}

/// The first token: issued at 0, ends after 14 h.
pub(crate) fn entry(id: &str) -> Entry {
    Entry {
        id: id.into(),
        key_id: es256().kid().into(),
        issuer: "https://issuer.test".into(),
        audiences: vec!["https://issuer.test".into()],
        issued_at: at(0),
        expires_at: at(14 * HOUR),
        grace: Seconds::hours(2),
        reason: IssueReason::First,
        phase: Phase::Current,
        grace_ends_at: None,
        delivered_at: None,
    }
}

/// Its predecessor, in its grace period.
pub(crate) fn superseded(id: &str, grace_ends: i64) -> Entry {
    Entry {
        issued_at: at(-12 * HOUR),
        expires_at: at(2 * HOUR),
        phase: Phase::Superseded,
        grace_ends_at: Some(at(grace_ends)),
        ..entry(id)
    }
}

pub(crate) const HOUR: i64 = 3_600;

/// The path in a store that scenes use.
pub(crate) fn store_path() -> StorePath {
    StorePath { store: ObjectId { namespace: "team".into(), name: "vault".into() }, path: "/p".into() }
}

/// What is recorded of it when it holds this token, seen at 0.
pub(crate) fn store_holding(jti: &str) -> SecretStoreStatus {
    SecretStoreStatus {
        store_ref: store_path().store,
        secret_path: store_path().path,
        jwt_id: Some(jti.into()),
        version: Some("v1".into()),
        synced_at: Some(at(0)),
        ..SecretStoreStatus::default()
    }
}

/// What one pass starts from.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) desired: Desired,
    pub(crate) observed: Observed,
}

impl Scene {
    /// A new account.
    pub(crate) fn new() -> Self {
        let observed = Observed {
            version: 100,
            status: None,
            ledger: Ledger::default(),
            secret: SecretView::Watched { meta: None, position: 50 },
            strays: Vec::new(),
            admissions: BTreeMap::new(),
            places: BTreeMap::new(),
            channels: BTreeMap::new(),
            reports: BTreeMap::new(),
            marks: BTreeSet::new(),
            finalizer: false,
            namespace_terminating: false,
            ring: Some(Arc::new(ring())),
            ring_trouble: None,
            clock_trusted: true,
            fresh_id: "new".into(),
            may_reissue: true,
        };
        Self { desired: desired(&rotating()), observed }
    }

    /// An account whose Secret holds the first of these entries, in version 10.
    pub(crate) fn holding(entries: &[Entry]) -> Self {
        let status = VirtualAccountStatus {
            observed_generation: Some(1),
            account: Some("team/a".into()),
            jwts: entries.to_vec(),
            token_secret: Some(TokenSecretStatus {
                name: "a-token".into(),
                resource_version: Some("10".into()),
                jwt_id: entries.first().map(|entry| entry.id.clone()),
                ..TokenSecretStatus::default()
            }),
            ..VirtualAccountStatus::default()
        };
        Self::new().with_status(status).watching("10")
    }

    pub(crate) fn with_status(mut self, status: VirtualAccountStatus) -> Self {
        self.observed.ledger = Ledger::of(Some(&status), &self.desired);
        self.observed.status = Some(status);
        self
    }

    /// The watch shows the Secret as it should be, in this version.
    pub(crate) fn watching(mut self, version: &str) -> Self {
        self.observed.secret = SecretView::Watched { meta: Some(self.meta(version)), position: 50 };
        self
    }

    pub(crate) fn meta(&self, version: &str) -> SecretMeta {
        let image =
            Image { token: entry("any"), previous: None, handled: self.observed.ledger.handled.first().cloned() };
        let secret = render(&image, &self.desired, &ring(), None).unwrap();
        SecretMeta { version: version.into(), uid: "secret-uid".into(), ..SecretMeta::of(&secret.metadata) }
    }

    /// The Secret was read: it holds this image, in version 20.
    pub(crate) fn reading(mut self, image: &Image, change: impl FnOnce(&mut Secret)) -> Self {
        let mut secret = render(image, &self.desired, &ring(), None).unwrap();
        secret.metadata.resource_version = Some("20".into());
        secret.metadata.uid = Some("secret-uid".into());
        change(&mut secret);
        self.observed.secret = SecretView::Read(Some(Box::new(SecretSeen::read(&secret, &self.desired, &ring()))));
        self
    }

    /// With the path `/p` in TokenStore `team/vault`, which may be used; this is what is recorded of it.
    pub(crate) fn with_store(mut self, record: SecretStoreStatus) -> Self {
        self.desired.stores = vec![StoreSpec { at: store_path(), policy: DeletionPolicy::Delete }];
        self.observed.finalizer = true;
        let mut status = self.observed.status.clone().unwrap_or_default();
        status.secret_stores = vec![record];
        self.admitting(Admission::Open { take_over: Vec::new() }).with_status(status)
    }

    /// The store's answer to whether it may be used.
    pub(crate) fn admitting(mut self, admission: Admission) -> Self {
        self.observed.admissions.insert(store_path(), admission);
        self
    }

    /// The plan, which is not to read first.
    pub(crate) fn act(&self, now: Instant) -> Act {
        match plan(&self.desired, &self.observed, now) {
            Plan::Act(act) => *act,
            Plan::ReadInOrder => panic!("the plan is to read in order"),
        }
    }

    /// What a pass records, if it ends like this.
    pub(crate) fn finish(&self, now: Instant, outcome: &Outcome) -> VirtualAccountStatus {
        let clock = Clock { now, trusted: self.observed.clock_trusted };
        finished(&self.desired, &self.observed, &self.act(now), &outcome.clone().into(), clock)
    }

    /// Whether a pass would neither write nor read.
    pub(crate) fn silent(&self, now: Instant) -> bool {
        let act = self.act(now);
        let status = self.finish(now, &Outcome::Untouched);
        act.secret == SecretStep::Keep && !act.record && Some(&status) == self.observed.status.as_ref()
    }
}
