//! Which namespaces are watched: all of them by one stream, or some by one stream each.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Where the operator works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(BTreeSet<String>);

impl Scope {
    /// These namespaces; none of them named means all that there are.
    pub fn of(namespaces: impl IntoIterator<Item = String>) -> Self {
        Self(namespaces.into_iter().collect())
    }

    /// Whether it is the whole cluster.
    pub fn is_cluster(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this namespace is watched.
    pub fn covers(&self, namespace: &str) -> bool {
        self.is_cluster() || self.0.contains(namespace)
    }

    pub(super) fn parts(&self) -> Vec<Part> {
        if self.is_cluster() {
            return vec![Part::default()];
        }
        self.0.iter().map(|namespace| Part(Some(namespace.as_str().into()))).collect()
    }
}

/// What one stream shows: everything, or one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part(Option<Arc<str>>);

impl Part {
    /// Whether objects of this namespace are in it.
    pub fn covers(&self, namespace: &str) -> bool {
        self.0.as_deref().is_none_or(|own| own == namespace)
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// As an addition to a sentence about objects: nothing, or ` in namespace …`.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_deref().map_or(Ok(()), |namespace| write!(f, " in namespace {namespace}"))
    }
}
