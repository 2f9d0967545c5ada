//! From a spec to a provider: the one place that knows them all.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{ErrorKind, Identity, Network, Store, StoreError};
use crate::api::TokenStoreSpec;

/// Opens the store that a spec describes, with these credentials: [`providers`], or what a test puts in their place.
pub type Open = Arc<
    dyn Fn(TokenStoreSpec, Arc<dyn Identity>, Network) -> BoxFuture<'static, Result<Box<dyn Store>, StoreError>>
        + Send
        + Sync,
>;

/// The real providers.
pub fn providers() -> Open {
    Arc::new(|_spec, _identity, _network| {
        let none = StoreError::new(ErrorKind::Invalid, "InvalidSpec", "spec names no provider that this version knows");
        async { Err(none) }.boxed()
    })
}
