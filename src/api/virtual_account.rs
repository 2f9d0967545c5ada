//! `VirtualAccount`: the manifest (`spec`) and the ledger (`status`).
//!
//! `///` comments on fields are what users read in `kubectl explain`; notes for ourselves are `//`.

// The derives repeat each struct inside a function of their own.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::CustomResourceExt;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{DaysOrDuration, Instant, Notification, NotificationTarget, Seconds};

/// A non-user account that an application assumes to call other services. The operator mints its token, keeps it in a
/// Secret, rotates it on schedule and lets any service verify it.
// Lists are atomic where a second manager could otherwise add entries that Git's next apply does not remove.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "virtualaccounts.dev",
    version = "v1alpha1",
    kind = "VirtualAccount",
    doc = "A non-user account that an application assumes to call other services. Short name: va.",
    plural = "virtualaccounts",
    shortname = "va",
    category = "all",
    namespaced,
    status = "VirtualAccountStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Rotation", type_ = "string", json_path = ".status.rotation"),
    printcolumn(name = "Next rotation", type_ = "string", json_path = ".status.nextScheduledRotation"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expiresAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "JWT ID", type_ = "string", json_path = ".status.jwtId", priority = 1),
    printcolumn(name = "Owner", type_ = "string", json_path = ".spec.ownedBy.team", priority = 1),
    printcolumn(
        name = "Notified",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Notified\")].status",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(SOMEWHERE).message("tokenSecret.enabled: false needs a store: name one in secretStores, or remove the field"))]
pub struct VirtualAccountSpec {
    /// What the account may do: 1 to 256 grants of a role on a resource. They are not written into the token; a service
    /// asks for them with an online check, so a change works at once and mints nothing.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(p, self.exists_one(q, q.resourceFqn == p.resourceFqn && q.resourceType == p.resourceType && q.roleId == p.roleId))")
            .message("the same permission is listed twice; remove one of them")
    )]
    pub permissions: Vec<Permission>,

    /// The last day of the account, `yyyy-mm-dd`, UTC. It is valid through the end of that day; after it every online
    /// check refuses its tokens. Copies in Secrets stay; a later date issues anew. Default: no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10), regex(pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    #[x_kube(validation = Rule::new("!format.date().validate(self).hasValue()").message("must be a real date, yyyy-mm-dd, for example 2027-02-28"))]
    pub expiration_date: Option<String>,

    /// Rotate the token on schedule. Without it a token lives until expirationDate, at most the operator's
    /// --max-token-lifetime; a successor is then issued in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_rotate: Option<AutoRotate>,

    /// Who owns the account; shown in lists, events and notices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned_by: Option<OwnedBy>,

    /// The Secret in the account's namespace that holds the token: keys `token`, `jti`, `expires-at`, `issuer`, and during
    /// a grace period `previous-token` and `previous-jti`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret: Option<TokenSecret>,

    /// Where else the token goes, at most 8: a path in a secret store. The value there is the bare token (in Vault: the
    /// keys `token`, `jti` and `expires-at`). Each is independent: one that fails holds up neither the Secret nor another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(a, self.exists_one(b, a.secretPath == b.secretPath && a.storeRef == b.storeRef))").message("the same path in the same store is listed twice; remove one of them")
    )]
    pub secret_stores: Option<Vec<SecretStore>>,

    /// Who is told, at most 8: a channel, to whom, and of what. A channel that fails holds up nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub notification_targets: Option<Vec<NotificationTarget>>,

    /// The token's `aud` claim (RFC 7519): each one of the operator's --allowed-audiences. Default: the operator's
    /// --default-audience. A change issues a new token at once, with grace; removing the field acts at the next issue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(a, self.exists_one(b, a == b))").message("the same audience is listed twice; remove one of them")
    )]
    pub audiences: Option<Vec<String>>,

    /// What the account is for, in words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,

    /// True: online checks (introspection, `verify`) refuse all tokens of the account within seconds; rotation and
    /// delivery go on. A service that verifies offline, with the JWKS alone, cannot know: it accepts a token until its
    /// `exp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,

    /// True: nothing new is issued. Deliveries, repairs, grace ends and revocations go on; what is due or requested
    /// happens on resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,

    /// Tokens to revoke, by id (`jti`), at most 64. Revoking the current one issues a new one. Online checks refuse a
    /// revoked token within seconds. A service that verifies offline, with the JWKS alone, cannot know: it accepts the
    /// token until its `exp`, which the Revoked event names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub revoked_jwt_ids: Option<Vec<String>>,
}

const SOMEWHERE: &str = "!has(self.tokenSecret) || !has(self.tokenSecret.enabled) || self.tokenSecret.enabled || (has(self.secretStores) && self.secretStores.size() > 0)";

/// One grant: a role on a resource. The operator does not interpret it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Permission {
    // The lengths keep the rule against duplicates within the API server's cost budget.
    /// The resource's fully qualified name.
    #[schemars(length(min = 1, max = 128))]
    pub resource_fqn: String,
    /// The kind of resource.
    #[schemars(length(min = 1, max = 64))]
    pub resource_type: String,
    /// The role that is granted.
    #[schemars(length(min = 1, max = 64))]
    pub role_id: String,
}

/// When a token is replaced and how long its predecessor stays valid. A token's life is interval plus grace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoRotate {
    /// Days between rotations (30 to 3650), or a duration such as `90d`, `12h`, `30m`. Default: 360 days. Below the
    /// operator's --minimum-rotation-interval it is raised to that, and the Ready condition says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_rotate_interval: Option<DaysOrDuration<30>>,
    /// How long the previous token stays valid after a rotation: days (from 1), or a duration such as `7d`, `1h`. At
    /// most 4 intervals. Default: 30 days, or the interval if that is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<DaysOrDuration<1>>,
}

/// Who owns the account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnedBy {
    /// The team.
    #[schemars(length(min = 1, max = 128))]
    pub team: String,
    /// A person or another account in that team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub account: Option<String>,
}

/// A path in a secret store that holds the token.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretStore {
    /// The TokenStore.
    pub store_ref: ObjectRef,
    /// The path in it: letters, digits, '-', '_' and '/'; it starts with a slash if it has one inside. How it is written
    /// in each provider stands in the docs. A secret there that is not this account's is never touched.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^/?[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$') && (self.startsWith('/') || !self.contains('/'))").message("must have letters, digits, '-', '_' and '/' only, and start with '/' if it has one inside; no '//' and no '/' at the end; for example /team/app/token"))]
    pub secret_path: String,
    /// What becomes of it when the account is deleted or no longer names it: Delete (the default) removes it, Retain
    /// leaves it there, no longer rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("enum" = ["Delete", "Retain"]))]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// An object, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectRef {
    /// Its namespace. Default: the account's own. Another must allow it (its spec.allowedNamespaces).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The Secret that holds the token: keys `token`, `jti`, `expires-at`, `issuer`, and during a grace period
/// `previous-token` and `previous-jti`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenSecret {
    /// False: no Secret; the token goes to secretStores alone, which must then name at least one. An existing Secret is
    /// deleted or left, as deletionPolicy says. Default: true. With false, a lost status costs one new token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The Secret's name. Default: `<account>-token`. A Secret that belongs to somebody else is never touched. After a
    /// change the new Secret is written before the old one is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub name: Option<String>,
    /// More labels for the Secret, at most 32. The operator's own, `app.kubernetes.io/managed-by` and those of Argo CD
    /// and Flux are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(RESERVED_RULE).message(RESERVED_MESSAGE))]
    #[x_kube(validation = Rule::new("self.all(k, !format.qualifiedName().validate(k).hasValue() && !format.labelValue().validate(self[k]).hasValue())").message("each key and value must be valid for a label: at most 63 letters, digits, '-', '_' and '.'; a key may have a DNS prefix, prefix/name"))]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub labels: Option<BTreeMap<String, String>>,
    /// More annotations for the Secret, at most 32. The operator's own and those of Argo CD and Flux are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(RESERVED_RULE).message(RESERVED_MESSAGE))]
    #[x_kube(validation = Rule::new("self.all(k, !format.qualifiedName().validate(k.lowerAscii()).hasValue())").message("each key must be valid for an annotation: at most 63 letters, digits, '-', '_' and '.', with or without a DNS prefix, prefix/name"))]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    pub annotations: Option<BTreeMap<String, String>>,
    /// What becomes of the Secret when the account is deleted or names another Secret: Delete (the default) removes it,
    /// Retain leaves it there, no longer rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // Of an optional enum the API server would get the enum's description, not the field's.
    #[schemars(with = "String", extend("enum" = ["Delete", "Retain"]))]
    pub deletion_policy: Option<DeletionPolicy>,
}

const RESERVED_MESSAGE: &str = "reserved are virtualaccounts.dev/, argocd.argoproj.io/, *.toolkit.fluxcd.io/, kubernetes.io/, kubectl.kubernetes.io/, app.kubernetes.io/managed-by and app.kubernetes.io/instance; remove such keys";

// Also the API server's own prefix of service account tokens: it would fill in a real credential.
const RESERVED_RULE: &str = "self.all(k, !k.startsWith('virtualaccounts.dev/') && !k.startsWith('argocd.argoproj.io/') && !k.matches('^([a-z0-9-]+[.])*toolkit[.]fluxcd[.]io/') && !k.startsWith('kubernetes.io/') && !k.startsWith('kubectl.kubernetes.io/') && k != 'app.kubernetes.io/managed-by' && k != 'app.kubernetes.io/instance')";

/// What becomes of a copy of the token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It goes with the account.
    #[default]
    Delete,
    /// It stays.
    Retain,
}

/// What the operator recorded. Written by the operator alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualAccountStatus {
    /// The generation of the spec that this status describes; -1 before the first pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: the account can be used. Delivered: every target holds the newest token. Stalled: nothing but a change of
    /// the spec can help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The account that this status belongs to, `namespace/name`. A status that names another is treated as lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub account: Option<String>,
    /// The id (`jti`) of the newest token that is not revoked. It may still be on its way to the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub jwt_id: Option<String>,
    /// When the token with that id ends (its `exp`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Instant>,
    /// When the token is replaced next, jitter included; absent when nothing will rotate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_scheduled_rotation: Option<Instant>,
    /// The rotation interval in force, or `-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub rotation: Option<String>,
    /// The ledger: one entry for each token that exists or may exist, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["id".into()]),
        validation = Rule::new("self.all(e, !oldSelf.exists(o, o.id == e.id) || oldSelf.exists(o, o.id == e.id && o.keyId == e.keyId && o.issuer == e.issuer && o.audiences == e.audiences && o.issuedAt == e.issuedAt && o.expiresAt == e.expiresAt && o.grace == e.grace && o.reason == e.reason))")
            .message("a ledger entry never changes, but for its phase and graceEndsAt")
    )]
    pub jwts: Vec<Entry>,
    /// The last 8 values of the rotate annotation that were acted on, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 256)))]
    pub handled_rotate_requests: Vec<String>,
    /// The Secret as the operator last wrote or saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret: Option<TokenSecretStatus>,
    /// The paths in secret stores, as the operator last wrote or saw them; also those that the spec no longer names, until
    /// they are cleaned up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub secret_stores: Vec<SecretStoreStatus>,
    /// Notices: those that are still to be sent, and the last that were, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub notifications: Vec<Notification>,
    /// The last value of the annotation virtualaccounts.dev/sync-requested-at that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub handled_sync_request: Option<String>,
}

/// One row of the ledger: everything that the token is made of, but never the token.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The token's id (`jti`).
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// The signing key (`kid`, an RFC 7638 thumbprint).
    #[schemars(length(min = 1, max = 64))]
    pub key_id: String,
    /// The token's `iss`.
    #[schemars(length(min = 1, max = 512))]
    pub issuer: String,
    /// The token's `aud`, sorted.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub audiences: Vec<String>,
    /// When it was issued. In Unix seconds this is the entry's sequence. The token's `iat` is 60 s earlier.
    pub issued_at: Instant,
    /// When it ends (`exp`).
    pub expires_at: Instant,
    /// How long its predecessors stay valid once every target holds it.
    pub grace: Seconds,
    /// Why it was issued: First, Scheduled, Request (the rotate annotation), SpecChange (audiences or an earlier end),
    /// Revocation, KeyChange, LimitChange, ClockChange, or Adopted (found in the Secret after the status was lost).
    pub reason: IssueReason,
    /// Where it is in its life. Pending: some target still lacks it. Current: every target holds it. Superseded: every
    /// target holds a newer one; valid until graceEndsAt. Revoked: refused.
    pub phase: Phase,
    /// When the grace of a superseded token is over. Online checks refuse it from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ends_at: Option<Instant>,
    /// When every target held it for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Instant>,
}

/// Why a token was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum IssueReason {
    /// The account's first token.
    First,
    /// The schedule.
    Scheduled,
    /// The rotate annotation.
    Request,
    /// The spec asks for another audience or an earlier end.
    SpecChange,
    /// The newest token was revoked.
    Revocation,
    /// The newest token's signing key was compromised or is gone.
    KeyChange,
    /// The operator's limits no longer allow the newest token.
    LimitChange,
    /// The newest token was issued in the future.
    ClockChange,
    /// Taken over from the Secret after the status was lost.
    Adopted,
}

/// Where a token is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Recorded; some target still lacks it.
    Pending,
    /// Every target holds it.
    Current,
    /// Every target holds a newer one; valid until graceEndsAt.
    Superseded,
    /// Refused.
    Revoked,
}

/// The Secret as the operator last wrote or saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenSecretStatus {
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Its version when the operator last wrote or checked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub resource_version: Option<String>,
    /// The token it holds; before the first delivery under a new name, the one that the former Secret holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub jwt_id: Option<String>,
    /// How many attempts failed in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub failures: Option<i32>,
    /// When the next attempt is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Instant>,
    /// Since when it has been failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Instant>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TargetError>,
}

/// One path in one secret store, as the operator last wrote or saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretStoreStatus {
    /// The TokenStore.
    pub store_ref: ObjectId,
    /// The path, as the spec names it.
    #[schemars(length(max = 512))]
    pub secret_path: String,
    /// What becomes of it when the spec no longer names it: as the spec said last.
    pub deletion_policy: DeletionPolicy,
    /// The token it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub jwt_id: Option<String>,
    /// The store's own version of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub version: Option<String>,
    /// A fingerprint of where the path really was (server and name), 16 hexadecimal digits: it shows that a TokenStore was
    /// edited to lead elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub place: Option<String>,
    /// When it was last written or found to be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_at: Option<Instant>,
    /// How many attempts failed in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub failures: Option<i32>,
    /// When the next attempt is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Instant>,
    /// Since when it has been failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Instant>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TargetError>,
}

/// An object, by namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct ObjectId {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why a delivery or a notice failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetError {
    /// The kind of failure, for programs.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What happened and what to do, for people.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// The definition, with what the derive cannot say.
pub(super) fn crd() -> CustomResourceDefinition {
    super::finish(VirtualAccount::crd(), Some(&name_rule()))
}

// At the root because only a root rule sees metadata.name; for new objects only (`optionalOldSelf`), because a root rule
// that is tightened later makes every status write on old objects fail.
fn name_rule() -> serde_json::Value {
    json!({
        "rule": "oldSelf.hasValue() || self.metadata.name.matches('^[a-z][a-z0-9-]{1,34}[a-z0-9]$')",
        "optionalOldSelf": true,
        "message": "metadata.name must have 3 to 36 characters: lower-case letters, digits and '-', a letter first, a letter or digit last",
        "reason": "FieldValueInvalid",
    })
}
