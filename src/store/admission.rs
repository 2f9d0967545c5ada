//! Whether an account may use a path of a store. Pure.
//!
//! An ordered list of checks; the first that refuses says which field to change.

use super::{Provider, path, provider};
use crate::api::{AllowedFrom, ObjectId, TokenStoreSpec};
use crate::integration::{INVALID_SPEC, NOT_ALLOWED, Refusal, Tenancy};

/// A TokenStore as the checks see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    /// Which.
    pub(super) id: &'a ObjectId,
    /// Its spec.
    pub(super) spec: &'a TokenStoreSpec,
    /// Whose ambient credentials may be used.
    pub(super) ambient: &'a Ambient,
}

/// Where the operator's own credentials may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ambient {
    /// The operator's own namespace: stores in it may.
    pub namespace: String,
    /// `--allow-ambient-credentials`: stores anywhere may.
    pub everywhere: bool,
}

/// There is no such TokenStore.
pub(super) const STORE_NOT_FOUND: &str = "StoreNotFound";
/// The provider cannot have the path.
pub(super) const INVALID_PATH: &str = "InvalidPath";
/// The store's credentials or spec do not work, as opening it showed.
pub const STORE_NOT_READY: &str = "StoreNotReady";
/// The store would borrow the operator's credentials.
pub(super) const AMBIENT_NOT_ALLOWED: &str = "AmbientCredentialsNotAllowed";

impl Refusal {
    /// The same, for those who see the account and not the store.
    pub(super) fn of(self, store: &ObjectId) -> Self {
        Self { reason: NOT_ALLOWED, message: format!("TokenStore {store}: {}", self.message) }
    }

    /// No TokenStore has this name.
    pub(super) fn not_found(store: &ObjectId) -> Self {
        Self::new(
            STORE_NOT_FOUND,
            format!("TokenStore {store} does not exist; create it, or name another in spec.secretStores[].storeRef"),
        )
    }
}

impl Subject<'_> {
    /// Why nobody may use the store as its spec is, if so; else its provider.
    pub(super) fn usable(&self) -> Result<Provider, Refusal> {
        let Self { spec, ambient, .. } = self;
        let named = Provider::of(spec);
        let provider = named.ok_or_else(|| {
            Refusal::new(INVALID_SPEC, "spec names no provider that this version of the operator knows")
        })?;
        if provider::is_ambient(spec) && !ambient.everywhere && self.id.namespace != ambient.namespace {
            let (own, provider) = (&ambient.namespace, provider.as_str());
            return Err(Refusal::new(
                AMBIENT_NOT_ALLOWED,
                format!(
                    "without spec.{provider}.auth the operator's own credentials would be used, which serve stores in namespace {own} alone; set spec.{provider}.auth, or start the operator with --allow-ambient-credentials"
                ),
            ));
        }
        if self.from() != AllowedFrom::Same && spec.path_prefix.is_none() {
            return Err(Refusal::new(
                INVALID_SPEC,
                "a store that other namespaces may use needs spec.pathPrefix, for example /{namespace}/",
            ));
        }
        Ok(provider)
    }

    /// Whether accounts of this namespace may use this path.
    pub(super) fn holds(&self, provider: Provider, namespace: &str, path: &str) -> Result<(), Refusal> {
        if let Some(prefix) = &self.spec.path_prefix {
            path::within(provider, prefix, namespace, path).map_err(|prefix| {
                let store = self.id;
                Refusal::new(
                    NOT_ALLOWED,
                    format!(
                        "secretPath {path} is outside spec.pathPrefix of TokenStore {store}; begin it with {prefix}"
                    ),
                )
            })?;
        }
        path::name(provider, path).map(drop).map_err(|message| Refusal::new(INVALID_PATH, message))
    }

    fn from(&self) -> AllowedFrom {
        self.tenancy().from()
    }

    /// Whose accounts may use the store.
    pub(super) fn tenancy(&self) -> Tenancy<'_> {
        Tenancy { kind: "TokenStore", noun: "store", id: self.id, allowed: self.spec.allowed_namespaces.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn store() -> ObjectId {
        ObjectId { namespace: "platform".into(), name: "vault".into() }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// What an account of a namespace hears that names a path of a store with this spec.
    fn asked(more: Value, namespace: &str, path: &str) -> Result<(), Refusal> {
        let mut spec = json!({"hashicorpVault": {"address": "https://vault", "auth": {}}});
        let Value::Object(more) = more else { panic!("an object") };
        if more.contains_key("awsSecretsManager") {
            spec = json!({});
        }
        spec.as_object_mut().unwrap().extend(more);
        let spec: TokenStoreSpec = serde_json::from_value(spec).unwrap();
        let ambient = Ambient { namespace: "vao".into(), everywhere: false };
        let subject = Subject { id: &store(), spec: &spec, ambient: &ambient };
        let provider = subject.usable()?;
        let labels = labels(&[("vault", "yes"), ("tier", "2")]);
        subject.tenancy().allows(namespace, &labels).map_err(|message| Refusal::new(NOT_ALLOWED, message))?;
        subject.holds(provider, namespace, path)
    }

    fn selector(selector: &Value) -> Value {
        json!({"allowedNamespaces": {"from": "Selector", "selector": selector}, "pathPrefix": "/{namespace}/"})
    }

    #[test]
    fn what_is_allowed_is_allowed() {
        let expression = |operator, values| {
            selector(&json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]}))
        };
        for (spec, namespace, path) in [
            (json!({}), "platform", "/any/path"),
            (json!({}), "platform", "token"),
            (json!({"allowedNamespaces": {"from": "Same"}}), "platform", "/any/path"),
            (json!({"allowedNamespaces": {"from": "All"}, "pathPrefix": "/{namespace}/"}), "team", "/team/token"),
            (selector(&json!({"matchLabels": {"vault": "yes"}})), "team", "/team/token"),
            (selector(&json!({"matchLabels": {"vault": "no"}})), "platform", "/platform/token"),
            (selector(&json!({})), "team", "/team/token"),
            (expression("In", json!(["1", "2"])), "team", "/team/token"),
            (expression("NotIn", json!(["1"])), "team", "/team/token"),
            (expression("Exists", json!(null)), "team", "/team/token"),
        ] {
            assert_eq!(asked(spec.clone(), namespace, path), Ok(()), "{spec} {namespace} {path}");
        }
    }

    #[test]
    fn every_refusal_names_field_and_cure() {
        let all = json!({"allowedNamespaces": {"from": "All"}, "pathPrefix": "/{namespace}/"});
        let expression = |operator, values: Value| {
            selector(&json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]}))
        };
        let labels = "label the namespace, or let the store's owner change the selector";
        for (spec, namespace, path, reason, words) in [
            (json!({}), "team", "/a/b", NOT_ALLOWED, "serves namespace platform alone; use a store of namespace team"),
            (json!({"pathPrefix": "/x/"}), "team", "/x/b", NOT_ALLOWED, "set its spec.allowedNamespaces"),
            (selector(&json!({"matchLabels": {"vault": "no"}})), "team", "/team/b", NOT_ALLOWED, labels),
            (selector(&json!({"matchLabels": {"vault": "yes", "a": "b"}})), "team", "/team/b", NOT_ALLOWED, labels),
            (expression("NotIn", json!(["2"])), "team", "/team/b", NOT_ALLOWED, labels),
            (expression("DoesNotExist", json!(null)), "team", "/team/b", NOT_ALLOWED, labels),
            (
                expression("Like", json!(["2"])),
                "team",
                "/team/b",
                NOT_ALLOWED,
                "cannot be read; the store's owner must",
            ),
            (
                json!({"allowedNamespaces": {"from": "Selector"}, "pathPrefix": "/x/"}),
                "team",
                "/x/b",
                NOT_ALLOWED,
                "selector of TokenStore platform/vault is missing",
            ),
            (json!({"allowedNamespaces": {"from": "All"}}), "team", "/a/b", INVALID_SPEC, "needs spec.pathPrefix"),
            (
                all.clone(),
                "team",
                "/other/b",
                NOT_ALLOWED,
                "outside spec.pathPrefix of TokenStore platform/vault; begin it with /team/",
            ),
            (all.clone(), "team", "/team-2/b", NOT_ALLOWED, "begin it with /team/"),
            (all.clone(), "team", "token", NOT_ALLOWED, "begin it with /team/"),
            (all, "platform", "/team/b", NOT_ALLOWED, "begin it with /platform/"),
            (json!({}), "platform", "/token", INVALID_PATH, "write token"),
            (
                json!({"awsSecretsManager": {"region": "eu-central-1"}}),
                "platform",
                "/a/b",
                AMBIENT_NOT_ALLOWED,
                "set spec.awsSecretsManager.auth, or start the operator with --allow-ambient-credentials",
            ),
        ] {
            let refusal = asked(spec.clone(), namespace, path).unwrap_err();
            assert_eq!(refusal.reason, reason, "{spec} {namespace} {path}");
            assert!(refusal.message.contains(words), "{spec}: {}", refusal.message);
        }
    }

    #[test]
    fn the_operators_credentials_serve_its_own_namespace_and_others_only_by_flag() {
        let spec: TokenStoreSpec =
            serde_json::from_value(json!({"awsSecretsManager": {"region": "eu-central-1"}})).unwrap();
        for (namespace, everywhere, usable) in
            [("vao", false, true), ("platform", false, false), ("platform", true, true)]
        {
            let ambient = Ambient { namespace: "vao".into(), everywhere };
            let id = ObjectId { namespace: namespace.into(), name: "aws".into() };
            let answer = Subject { id: &id, spec: &spec, ambient: &ambient }.usable();
            assert_eq!(answer.is_ok(), usable, "{namespace} {everywhere}");
        }
    }

    #[test]
    fn a_provider_that_is_not_known_is_said_so() {
        let ambient = Ambient { namespace: "vao".into(), everywhere: false };
        let subject = Subject { id: &store(), spec: &TokenStoreSpec::default(), ambient: &ambient };
        assert_eq!(subject.usable().unwrap_err().reason, INVALID_SPEC);
    }
}
