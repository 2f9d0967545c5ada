//! Whose credentials a store is opened with: those that its TokenStore names, in its own namespace, and no others.

use std::fmt;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::ProviderError;
use crate::api::{SecretKeyRef, ServiceAccountRef};

/// Where an integration's credentials come from. Asked again for each login, so that a changed one is picked up.
#[async_trait]
pub trait Identity: Send + Sync {
    /// The value of a key of a Secret in the store's namespace, without white space around it.
    async fn secret(&self, key: &SecretKeyRef) -> Result<Credential, ProviderError>;

    /// A fresh, short-lived token of a ServiceAccount in the store's namespace (TokenRequest).
    async fn service_account_token(
        &self,
        account: &ServiceAccountRef,
        audience: &str,
    ) -> Result<Credential, ProviderError>;
}

/// A password, key or token. It cannot be printed or copied by accident, and its memory is wiped when it is dropped.
pub struct Credential(Zeroizing<String>);

impl Credential {
    /// A text that is secret.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}
