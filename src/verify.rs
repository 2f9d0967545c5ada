//! The `verify` command: an online check of one token with its reason, for people. It reads the key ring and the account
//! from the API server each time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::api::GetParams;
use kube::core::Request;
use kube::{Client, Resource};

use crate::account::kubernetes::Kubernetes;
use crate::api::{AccountId, Seconds, VirtualAccount};
use crate::clock::{self, ServerClock};
use crate::http::check::{Accounts, Check, ReadError};
use crate::run::read;
use crate::token::{Ring, SECRET_NAME};

/// Checks a token; the text to print, or why it is refused.
pub async fn verify(
    client: Client,
    server_clock: ServerClock,
    namespace: &str,
    max_skew: Seconds,
    token: &str,
) -> anyhow::Result<String> {
    let ring = Arc::new(ring(&client, namespace).await?);
    let check = Check::new(
        Arc::new(move || Some(Arc::clone(&ring))),
        Arc::new(Unwatched(Kubernetes::new(client, 1))),
        Arc::new(clock::now),
        Arc::new(move || server_clock.trusted(max_skew)),
    );
    let active = check.check(token).await?;
    let account = AccountId::new(
        active.account.metadata.namespace.clone().unwrap_or_default(),
        active.account.metadata.name.clone().unwrap_or_default(),
    );
    Ok(format!("active: token {} of account {account}, valid until {}", active.entry.id, active.ends_at()))
}

async fn ring(client: &Client, namespace: &str) -> anyhow::Result<Ring> {
    let path = k8s_openapi::api::core::v1::Secret::url_path(&(), Some(namespace));
    let request = Request::new(path).get(SECRET_NAME, &GetParams::default())?;
    let text = client.request_text(request).await.map_err(|error| anyhow::anyhow!(crate::client::describe(&error)));
    let text = text.with_context(|| format!("cannot read the key ring, Secret {namespace}/{SECRET_NAME}"))?;
    let secret: k8s_openapi::api::core::v1::Secret =
        serde_json::from_str(&text).map_err(|_| anyhow::anyhow!("Secret {namespace}/{SECRET_NAME} cannot be read"))?;
    Ok(Ring::parse(&secret.data.unwrap_or_default())?)
}

/// No watch: each question is one read.
struct Unwatched(Kubernetes);

impl Accounts for Unwatched {
    fn cached(&self, _: &AccountId) -> Option<Arc<VirtualAccount>> {
        None
    }

    fn silence(&self, _: &AccountId) -> Option<Duration> {
        None
    }

    fn read<'a>(&'a self, id: &'a AccountId) -> BoxFuture<'a, Result<Option<VirtualAccount>, ReadError>> {
        read(&self.0, id).boxed()
    }
}
