//! How requests leave: through a client of ours, to one origin, with answers of limited size.

use azure_core::error::{Error, ErrorKind as Sdk};
use azure_core::http::{AsyncRawResponse, HttpClient, Request, Transport, Url};
use futures::TryStreamExt as _;
use std::sync::Arc;

use super::super::{ErrorKind, ProviderError};
use super::error;

/// The longest answer that is read. A secret has at most 25 KiB, a page 25 descriptions.
const LONGEST: usize = 1 << 20;

/// A client, and where it may go.
#[derive(Debug)]
struct Wire {
    client: reqwest::Client,
    to: To,
}

#[derive(Debug)]
enum To {
    /// Here alone: answers contain links to further pages.
    Vault(Url),
    /// Where access tokens come from. Its refusals are read here, since the SDK cannot read those with line breaks.
    Authority,
}

/// The way to a vault.
pub(super) fn to_vault(client: reqwest::Client, vault: Url) -> Transport {
    Transport::new(Arc::new(Wire { client, to: To::Vault(vault) }))
}

/// The way to what hands out access tokens.
pub(super) fn to_authority(client: reqwest::Client) -> Transport {
    Transport::new(Arc::new(Wire { client, to: To::Authority }))
}

#[async_trait::async_trait]
impl HttpClient for Wire {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        if let To::Vault(vault) = &self.to
            && request.url().origin() != vault.origin()
        {
            return Err(elsewhere());
        }
        let (status, headers, mut stream) = self.client.execute_request(request).await?.deconstruct();
        let mut body = Vec::new();
        while let Some(chunk) = stream.try_next().await? {
            if body.len() + chunk.len() > LONGEST {
                return Err(Error::new(Sdk::Other, error::unreadable()));
            }
            body.extend_from_slice(&chunk);
        }
        if matches!(self.to, To::Authority) && !status.is_success() {
            return Err(Error::new(Sdk::Credential, error::authority(status, &headers, &body)));
        }
        Ok(AsyncRawResponse::from_bytes(status, headers, body))
    }
}

fn elsewhere() -> Error {
    let message = "the vault's answer leads to another server";
    Error::new(Sdk::Other, ProviderError::new(ErrorKind::Invalid, "ForeignLink", message))
}
