//! One open client of a provider: opened when it is needed, and opened anew when its credentials are refused.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant as Monotonic};

use tokio::sync::Mutex as Turns;

use super::{ErrorKind, ProviderError};

/// What is open at present, if anything.
pub struct Login<T: ?Sized> {
    current: Turns<Option<Opened<T>>>,
}

/// An open client, and since when.
pub struct Opened<T: ?Sized> {
    client: Arc<T>,
    at: Monotonic,
}

impl<T: ?Sized> Clone for Opened<T> {
    fn clone(&self) -> Self {
        Self { client: Arc::clone(&self.client), at: self.at }
    }
}

impl<T: ?Sized> From<Box<T>> for Opened<T> {
    fn from(client: Box<T>) -> Self {
        Self { client: Arc::from(client), at: Monotonic::now() }
    }
}

impl<T: ?Sized> Opened<T> {
    /// The client.
    pub fn client(&self) -> Arc<T> {
        Arc::clone(&self.client)
    }
}

impl<T: ?Sized> Default for Login<T> {
    fn default() -> Self {
        Self { current: Turns::default() }
    }
}

impl<T: ?Sized> Login<T> {
    /// One call. Refused credentials are read again and the call is repeated once, if they are older than `reopen`.
    pub async fn call<R, O, C>(
        &self,
        reopen: Duration,
        open: impl Fn() -> O,
        call: impl Fn(Arc<T>) -> C,
    ) -> Result<R, ProviderError>
    where
        O: Future<Output = Result<Opened<T>, ProviderError>>,
        C: Future<Output = Result<R, ProviderError>>,
    {
        let opened = self.opened(None, &open).await?;
        let answer = call(opened.client()).await;
        let denied = answer.as_ref().is_err_and(|error| error.kind == ErrorKind::Denied);
        if !denied || opened.at.elapsed() < reopen {
            return answer;
        }
        let anew = self.opened(Some(&opened), &open).await?;
        call(anew.client).await
    }

    /// Uses this one from now on.
    pub async fn replace(&self, opened: Opened<T>) {
        *self.current.lock().await = Some(opened);
    }

    // One opens for all that wait. `refused`: what was opened before and is not to be used again.
    async fn opened<O>(&self, refused: Option<&Opened<T>>, open: impl Fn() -> O) -> Result<Opened<T>, ProviderError>
    where
        O: Future<Output = Result<Opened<T>, ProviderError>>,
    {
        let mut current = self.current.lock().await;
        let usable = |known: &&Opened<T>| refused.is_none_or(|refused| !Arc::ptr_eq(&refused.client, &known.client));
        if let Some(known) = current.as_ref().filter(usable) {
            return Ok(known.clone());
        }
        *current = None;
        let opened = open().await?;
        *current = Some(opened.clone());
        Ok(opened)
    }
}
