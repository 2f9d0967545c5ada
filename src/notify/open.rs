//! From a spec to a medium: the one place that knows them all.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::Notifier;
use crate::api::NotificationChannelSpec;
use crate::integration::{ErrorKind, Identity, Network, ProviderError};

/// Opens the medium that a spec describes, with these credentials: [`media`], or what a test puts in their place.
pub type Open = Arc<
    dyn Fn(
            NotificationChannelSpec,
            Arc<dyn Identity>,
            Network,
        ) -> BoxFuture<'static, Result<Box<dyn Notifier>, ProviderError>>
        + Send
        + Sync,
>;

/// The real media.
pub fn media() -> Open {
    Arc::new(|_, _, _| {
        let none =
            ProviderError::new(ErrorKind::Invalid, "InvalidSpec", "spec names no medium that this version knows");
        async { Err(none) }.boxed()
    })
}
