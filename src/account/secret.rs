//! The token Secret: whose it is, what it should hold, and whether it does. Pure; reading and writing is `apply`'s.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use super::desired::Desired;
use super::ledger::Carried;
use crate::api::{AccountId, DeletionPolicy, Entry, GROUP, VirtualAccount};
use crate::token::{DeriveError, Ring, derive, entry_of};

/// Names the account; also what the operator's watch of Secrets selects by.
pub const ACCOUNT_LABEL: &str = "virtualaccounts.dev/account";
/// Names the operator.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The operator's name, as a label value and as a field manager.
pub const OPERATOR: &str = "virtual-account-operator";
/// The account's uid.
pub const UID_ANNOTATION: &str = "virtualaccounts.dev/account-uid";
/// The last handled rotate request when the token was written.
pub const HANDLED_ANNOTATION: &str = "virtualaccounts.dev/rotate-handled";
// Which of the user's labels and annotations are ours to remove again: comma-separated keys.
const APPLIED_LABELS: &str = "virtualaccounts.dev/applied-labels";
const APPLIED_ANNOTATIONS: &str = "virtualaccounts.dev/applied-annotations";

const TYPE: &str = "Opaque";
const KEY_TOKEN: &str = "token";
const KEY_PREVIOUS: &str = "previous-token";

/// What a watch of metadata shows of a Secret.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecretMeta {
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.resourceVersion`
    pub version: String,
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`
    pub annotations: BTreeMap<String, String>,
    /// `metadata.ownerReferences`
    pub owners: Vec<OwnerReference>,
    /// `metadata.finalizers`
    pub finalizers: Vec<String>,
}

/// A Secret that was read whole.
#[derive(Clone, PartialEq)]
pub struct SecretSeen {
    /// Its metadata.
    pub meta: SecretMeta,
    /// Its type cannot be changed in place, or it is immutable: it must be deleted and created again.
    pub stuck: bool,
    /// What it carries.
    pub carried: Carried,
    data: BTreeMap<String, ByteString>,
}

impl fmt::Debug for SecretSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSeen").field("meta", &self.meta).field("carried", &self.carried).finish_non_exhaustive()
    }
}

/// What the Secret should hold, by reference to entries: never a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Delivered as `token`.
    pub token: Entry,
    /// Delivered as `previous-token`.
    pub previous: Option<Entry>,
    /// The last handled rotate request.
    pub handled: Option<String>,
}

impl SecretMeta {
    /// From an object's metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone().unwrap_or_default(),
            labels: meta.labels.clone().unwrap_or_default(),
            annotations: meta.annotations.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
        }
    }

    /// Whether its mark names this very account, not an earlier one of the same name.
    pub fn same_uid(&self, desired: &Desired) -> bool {
        match self.annotations.get(UID_ANNOTATION) {
            Some(uid) => *uid == desired.uid,
            None => self.accounts().any(|owner| owner.uid == desired.uid),
        }
    }

    /// Whose it is, as far as metadata tell: an owner reference decides, then the label. `None`: they are silent.
    fn owner(&self, desired: &Desired) -> Option<bool> {
        if self.accounts().any(|owner| owner.uid == desired.uid) {
            return Some(true);
        }
        if self.accounts().any(|owner| owner.name != desired.account.name) {
            return Some(false);
        }
        self.labels.get(ACCOUNT_LABEL).map(|name| *name == desired.account.name)
    }

    fn accounts(&self) -> impl Iterator<Item = &OwnerReference> {
        self.owners.iter().filter(|owner| names_account(owner))
    }

    /// Whether labels, annotations and owner reference are as they should be.
    pub fn is_as_desired(&self, desired: &Desired, handled: Option<&str>) -> bool {
        let (labels, annotations) = wanted_metadata(self, desired, handled);
        let owned = self.accounts().any(|owner| owner.uid == desired.uid);
        let stale = self.accounts().any(|owner| owner.uid != desired.uid);
        self.labels == labels && self.annotations == annotations && owned == wants_owner(desired) && !stale
    }
}

impl SecretSeen {
    /// Reads a Secret; tokens that do not verify, or are not this account's, count as absent.
    pub fn read(secret: &Secret, desired: &Desired, ring: &Ring) -> Self {
        let data = secret.data.clone().unwrap_or_default();
        let meta = SecretMeta::of(&secret.metadata);
        let entry = |key: &str| {
            let text = std::str::from_utf8(&data.get(key)?.0).ok()?;
            entry_of(text, &desired.account, ring, desired.schedule.grace).filter(|entry| allowed(entry, desired))
        };
        let carried = Carried {
            token: entry(KEY_TOKEN),
            previous: entry(KEY_PREVIOUS),
            handled: meta.annotations.get(HANDLED_ANNOTATION).cloned(),
            version: meta.version.clone(),
        };
        Self {
            stuck: secret.immutable == Some(true) || secret.type_.as_deref().is_some_and(|kind| kind != TYPE),
            meta,
            carried,
            data,
        }
    }

    /// Ours: by owner reference, by label, or (where both are silent) because it holds a token of this account.
    pub fn is_ours(&self, desired: &Desired) -> bool {
        self.meta.owner(desired).unwrap_or(self.carried.token.is_some())
    }

    /// Who else it belongs to, for people.
    pub fn owner_for_people(&self) -> String {
        match self.meta.accounts().next().map(|owner| &owner.name).or_else(|| self.meta.labels.get(ACCOUNT_LABEL)) {
            Some(name) => format!("virtual account {name}"),
            None => "somebody else".into(),
        }
    }

    /// Whether it holds exactly what it should.
    pub fn is_as_desired(&self, image: &Image, desired: &Desired, ring: &Ring) -> bool {
        !self.stuck
            && self.meta.is_as_desired(desired, image.handled.as_deref())
            && data(image, desired, ring).is_ok_and(|data| data == self.data)
    }
}

/// No entry is signed or adopted beyond `--max-token-lifetime` or outside `--allowed-audiences`, whoever wrote it.
pub fn allowed(entry: &Entry, desired: &Desired) -> bool {
    let limits = &desired.limits;
    entry.expires_at <= entry.issued_at + limits.max_token_lifetime
        && entry.audiences.iter().all(|audience| limits.allowed_audiences.contains(audience))
}

/// The whole Secret, ready to be written. `base`: what is there now, whose foreign labels, annotations, owners and
/// finalizers stay.
pub fn render(image: &Image, desired: &Desired, ring: &Ring, base: Option<&SecretMeta>) -> Result<Secret, DeriveError> {
    let none = SecretMeta::default();
    let base = base.unwrap_or(&none);
    let (labels, annotations) = wanted_metadata(base, desired, image.handled.as_deref());
    let mut owners: Vec<OwnerReference> = base.owners.iter().filter(|owner| !names_account(owner)).cloned().collect();
    if wants_owner(desired) {
        owners.push(owner_reference(desired));
    }
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(desired.secret.name.clone()),
            namespace: Some(desired.account.namespace.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: (!owners.is_empty()).then_some(owners),
            finalizers: (!base.finalizers.is_empty()).then(|| base.finalizers.clone()),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.into()),
        data: Some(data(image, desired, ring)?),
        ..Secret::default()
    })
}

/// A Secret that the account no longer names and whose policy is `Retain`: everything stays but our label and reference.
pub fn released(secret: &Secret, account: &AccountId) -> Secret {
    let mut secret = secret.clone();
    if let Some(labels) = secret.metadata.labels.as_mut() {
        labels.remove(ACCOUNT_LABEL);
        labels.remove(MANAGED_BY_LABEL);
    }
    if let Some(owners) = secret.metadata.owner_references.as_mut() {
        owners.retain(|owner| !(names_account(owner) && owner.name == account.name));
    }
    secret
}

fn data(image: &Image, desired: &Desired, ring: &Ring) -> Result<BTreeMap<String, ByteString>, DeriveError> {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let token = derive(&image.token, &desired.account, ring)?;
    let mut data = BTreeMap::from([
        (KEY_TOKEN.to_owned(), bytes(token.expose())),
        ("jti".to_owned(), bytes(&image.token.id)),
        ("expires-at".to_owned(), bytes(&image.token.expires_at.to_string())),
        ("issuer".to_owned(), bytes(&image.token.issuer)),
    ]);
    if let Some(previous) = &image.previous {
        let token = derive(previous, &desired.account, ring)?;
        data.insert(KEY_PREVIOUS.to_owned(), bytes(token.expose()));
        data.insert("previous-jti".to_owned(), bytes(&previous.id));
    }
    Ok(data)
}

type Pairs = BTreeMap<String, String>;

// Foreign labels and annotations stay; what an earlier spec named and this one does not, goes.
fn wanted_metadata(base: &SecretMeta, desired: &Desired, handled: Option<&str>) -> (Pairs, Pairs) {
    let applied = |key: &str| base.annotations.get(key).map_or_else(Vec::new, |list| list.split(',').collect());
    let merge = |have: &Pairs, gone: &[&str], want: &Pairs| {
        let kept =
            have.iter().filter(|(key, _)| !gone.contains(&key.as_str()) && !key.starts_with("virtualaccounts.dev/"));
        kept.chain(want).map(|(key, value)| (key.clone(), value.clone())).collect::<Pairs>()
    };
    let mut labels = merge(&base.labels, &applied(APPLIED_LABELS), &desired.secret.labels);
    labels.insert(ACCOUNT_LABEL.into(), desired.account.name.clone());
    labels.insert(MANAGED_BY_LABEL.into(), OPERATOR.into());
    let mut annotations = merge(&base.annotations, &applied(APPLIED_ANNOTATIONS), &desired.secret.annotations);
    annotations.insert(UID_ANNOTATION.into(), desired.uid.clone());
    annotations.extend(handled.map(|value| (HANDLED_ANNOTATION.to_owned(), value.to_owned())));
    for (key, map) in [(APPLIED_LABELS, &desired.secret.labels), (APPLIED_ANNOTATIONS, &desired.secret.annotations)] {
        if !map.is_empty() {
            annotations.insert(key.into(), map.keys().map(String::as_str).collect::<Vec<_>>().join(","));
        }
    }
    (labels, annotations)
}

fn wants_owner(desired: &Desired) -> bool {
    desired.secret.policy == DeletionPolicy::Delete
}

fn names_account(owner: &OwnerReference) -> bool {
    owner.kind == VirtualAccount::kind(&()) && owner.api_version.split('/').next() == Some(GROUP)
}

// Without blockOwnerDeletion, which would need a permission on the account's finalizers.
fn owner_reference(desired: &Desired) -> OwnerReference {
    OwnerReference {
        api_version: VirtualAccount::api_version(&()).into_owned(),
        kind: VirtualAccount::kind(&()).into_owned(),
        name: desired.account.name.clone(),
        uid: desired.uid.clone(),
        ..OwnerReference::default()
    }
}
