//! Whether accounts of a namespace may use an integration: its `allowedNamespaces`, and nothing else. Pure.

use std::collections::BTreeMap;

use kube::core::{Selector, SelectorExt};

use crate::api::{AllowedFrom, AllowedNamespaces, ObjectId};

/// The account's namespace may not use the object, or nobody may.
pub const NOT_ALLOWED: &str = "NotAllowed";
/// The object's spec cannot be used by anybody.
pub const INVALID_SPEC: &str = "InvalidSpec";

/// Why an integration may not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: &'static str,
    /// For people: field and cure.
    pub message: String,
}

impl Refusal {
    /// For this reason.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Who may use an object.
#[derive(Clone, Copy, Debug)]
pub struct Tenancy<'a> {
    /// Its kind: `TokenStore`.
    pub kind: &'static str,
    /// What people call it: `store`.
    pub noun: &'static str,
    /// Which.
    pub id: &'a ObjectId,
    /// What its owner allows.
    pub allowed: Option<&'a AllowedNamespaces>,
}

impl Tenancy<'_> {
    /// Whether accounts of this namespace, with these labels, may use the object; else what to change.
    pub fn allows(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Result<(), String> {
        let Self { kind, noun, id, .. } = self;
        if namespace == id.namespace {
            return Ok(());
        }
        match self.from() {
            AllowedFrom::All => Ok(()),
            AllowedFrom::Same => Err(format!(
                "{kind} {id} serves namespace {} alone; use a {noun} of namespace {namespace}, or let the {noun}'s owner set its spec.allowedNamespaces",
                id.namespace
            )),
            AllowedFrom::Selector => match self.selector() {
                Ok(selector) if selector.matches(labels) => Ok(()),
                Ok(_) => Err(format!(
                    "the labels of namespace {namespace} do not match spec.allowedNamespaces.selector of {kind} {id}; label the namespace, or let the {noun}'s owner change the selector"
                )),
                Err(why) => Err(format!(
                    "spec.allowedNamespaces.selector of {kind} {id} {why}; the {noun}'s owner must correct it"
                )),
            },
        }
    }

    /// What to change where labels decide and the operator cannot read them.
    pub fn no_labels(&self) -> String {
        let Self { kind, noun, id, .. } = self;
        format!(
            "spec.allowedNamespaces.from of {kind} {id} is Selector, but the operator runs with --watch-namespaces and cannot read the labels of namespaces; let the {noun}'s owner set it to All, or use a {noun} of the account's namespace"
        )
    }

    /// Which namespaces the owner means.
    pub fn from(&self) -> AllowedFrom {
        self.allowed.map(|allowed| allowed.from).unwrap_or_default()
    }

    fn selector(&self) -> Result<Selector, &'static str> {
        // An empty one would match everything, and no one can have meant that by leaving it out.
        let selector = self.allowed.and_then(|allowed| allowed.selector.clone()).ok_or("is missing")?;
        Selector::try_from(selector).map_err(|_| "cannot be read")
    }
}
