//! Our own last writes of objects that a watch may not have shown yet.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::api::ObjectId;
use crate::lock::lock;
use crate::watch::Part;

/// The version that our last write of each object made.
#[derive(Debug, Default)]
pub struct Written(Mutex<HashMap<ObjectId, u64>>);

impl Written {
    /// Remembers a write.
    pub fn wrote(&self, id: &ObjectId, version: u64) {
        lock(&self.0).insert(id.clone(), version);
    }

    /// Whether the watch, which shows this version, lags behind our own write: it will show that one, too, and then is the
    /// time to look.
    pub fn lags(&self, id: &ObjectId, shown: u64) -> bool {
        lock(&self.0).get(id).is_some_and(|written| shown < *written)
    }

    /// The object is gone.
    pub fn forget(&self, id: &ObjectId) {
        lock(&self.0).remove(id);
    }

    /// After a full list of a part the watch is right there, also if its versions went back (a restored etcd).
    pub fn listed(&self, part: &Part) {
        lock(&self.0).retain(|id, _| !part.covers(&id.namespace));
    }
}
