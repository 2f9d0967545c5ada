//! Calls of Secret Manager through Google's client, one method a call. Knows no marks.
//!
//! The client retries nothing and follows no redirect. It cannot be given a resolver, so the endpoint's name is looked up
//! before each call; since only https is spoken, an answer that changes in between leads to no server that is taken for
//! the endpoint.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use google_cloud_gax::client_builder::internal::with_follow_redirects;
use google_cloud_gax::error::Error;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_secretmanager_v1::client::SecretManagerService;
use google_cloud_secretmanager_v1::model::{Secret, SecretPayload, SecretVersion};
use google_cloud_wkt::FieldMask;
use reqwest::Url;
use zeroize::Zeroizing;

use super::super::{ErrorKind, Identity, Network, ProviderError};
use super::error::{cause, classify, timeout};
use super::login::{Bearer, Login};
use crate::api::GoogleSecretManager;
use crate::integration::{is_local, line};

const UNAUTHENTICATED: &str = "UNAUTHENTICATED";
const NOT_FOUND: &str = "NOT_FOUND";
const FAILED_PRECONDITION: &str = "FAILED_PRECONDITION";
/// Versions in one answer.
const PAGE: i32 = 1_000;

/// Secret Manager in one project.
pub(super) struct Api {
    client: SecretManagerService,
    login: Arc<Login>,
    network: Network,
    /// What must be looked up before each call.
    host: Option<String>,
    project: String,
}

/// A version's value, or why there is none.
pub(super) enum Content {
    Value(Zeroizing<Vec<u8>>),
    /// It is disabled or destroyed.
    Ended,
    /// There is no such version.
    Missing,
}

impl Api {
    pub(super) async fn open(
        spec: &GoogleSecretManager,
        identity: Arc<dyn Identity>,
        network: Network,
    ) -> Result<Self, ProviderError> {
        let endpoint = spec.endpoint.as_deref().map(|url| network.endpoint(url)).transpose()?;
        let login = Arc::new(Login::new(spec, identity, network)?);
        let builder =
            SecretManagerService::builder().with_credentials(Bearer(Arc::clone(&login))).with_retry_policy(NeverRetry);
        let builder = match &endpoint {
            Some(url) => builder.with_endpoint(url.as_str()),
            None => builder,
        };
        let client = with_follow_redirects(builder, false).build().await.map_err(|error| {
            ProviderError::new(
                ErrorKind::Invalid,
                "InvalidEndpoint",
                format!("no client can be made: {}", cause(&error)),
            )
        })?;
        let host = endpoint.filter(|_| !network.allow_local).as_ref().and_then(Url::domain).map(str::to_owned);
        Ok(Self { client, login, network, host, project: spec.project_id.clone() })
    }

    /// The secret; `None`: there is none.
    pub(super) async fn secret(&self, id: &str) -> Result<Option<Secret>, ProviderError> {
        found(self.call("GetSecret", || self.client.get_secret().set_name(self.name(id)).send()).await)
    }

    /// Fails with [`ErrorKind::Conflict`] if there is one.
    pub(super) async fn create(&self, id: &str, secret: &Secret) -> Result<Secret, ProviderError> {
        let parent = format!("projects/{}", self.project);
        let create = || self.client.create_secret().set_parent(&parent).set_secret_id(id).set_secret(secret.clone());
        self.call("CreateSecret", || create().send()).await
    }

    /// Writes annotations and labels if the secret still is what it was when it was read; what it is now.
    pub(super) async fn annotate(&self, secret: &Secret) -> Result<Secret, ProviderError> {
        guarded(&secret.etag)?;
        let mask = FieldMask::default().set_paths(["annotations", "labels"]);
        let update = || self.client.update_secret().set_secret(secret.clone()).set_update_mask(mask.clone());
        raced(self.call("UpdateSecret", || update().send()).await, FAILED_PRECONDITION)
    }

    /// Removes the secret if it still is what it was when it was read.
    pub(super) async fn delete(&self, id: &str, etag: &str) -> Result<(), ProviderError> {
        guarded(etag)?;
        let delete = || self.client.delete_secret().set_name(self.name(id)).set_etag(etag);
        found(raced(self.call("DeleteSecret", || delete().send()).await, FAILED_PRECONDITION)).map(drop)
    }

    /// Adds a version; its number.
    pub(super) async fn add(&self, id: &str, value: &[u8]) -> Result<u64, ProviderError> {
        let payload = || SecretPayload::new().set_data(value.to_vec());
        let add = || self.client.add_secret_version().set_parent(self.name(id)).set_payload(payload());
        // Its failed precondition is a key that cannot be used, for example.
        let added = raced(self.call("AddSecretVersion", || add().send()).await, NOT_FOUND)?;
        number(&added).ok_or_else(unreadable)
    }

    /// Whether there is a version of this number, whatever its state.
    pub(super) async fn exists(&self, id: &str, version: u64) -> Result<bool, ProviderError> {
        let name = self.version(id, version);
        let found =
            found(self.call("GetSecretVersion", || self.client.get_secret_version().set_name(&name).send()).await);
        found.map(|found| found.is_some())
    }

    /// A version's value.
    pub(super) async fn content(&self, id: &str, version: u64) -> Result<Content, ProviderError> {
        let name = self.version(id, version);
        let access = || self.client.access_secret_version().set_name(&name);
        match self.call("AccessSecretVersion", || access().send()).await {
            Ok(accessed) => {
                let payload = accessed.payload.ok_or_else(unreadable)?;
                Ok(Content::Value(Zeroizing::new(payload.data.to_vec())))
            }
            Err(error) if error.reason == FAILED_PRECONDITION => Ok(Content::Ended),
            Err(error) if error.reason == NOT_FOUND => Ok(Content::Missing),
            Err(error) => Err(error),
        }
    }

    /// The versions that can be used, the newest first.
    pub(super) async fn enabled(&self, id: &str) -> Result<Vec<u64>, ProviderError> {
        let (mut versions, mut page) = (Vec::new(), String::new());
        loop {
            let list = || self.client.list_secret_versions().set_parent(self.name(id)).set_page_token(&page);
            let list = || list().set_filter("state:ENABLED").set_page_size(PAGE);
            let Some(answer) = found(self.call("ListSecretVersions", || list().send()).await)? else { break };
            versions.extend(answer.versions.iter().filter_map(number));
            // A server that gives the same page again would keep us for ever.
            if answer.next_page_token.is_empty() || answer.next_page_token == page {
                break;
            }
            page = answer.next_page_token;
        }
        versions.sort_unstable_by(|one, other| other.cmp(one));
        Ok(versions)
    }

    /// Ends a version; one that is ended or gone already is no error.
    pub(super) async fn disable(&self, id: &str, version: u64) -> Result<(), ProviderError> {
        let name = self.version(id, version);
        let disable = || self.client.disable_secret_version().set_name(&name);
        match found(self.call("DisableSecretVersion", || disable().send()).await) {
            Err(error) if error.reason != FAILED_PRECONDITION => Err(error),
            _ => Ok(()),
        }
    }

    /// One call, logged in. If the login is refused, once more after a fresh one: it may have been revoked.
    async fn call<T, F>(&self, what: &str, send: impl Fn() -> F) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.look_up().await?;
        let login = self.login.current().await?;
        match self.once(what, send()).await {
            Err(error) if error.reason == UNAUTHENTICATED => {
                self.login.instead_of(login).await?;
                self.once(what, send()).await
            }
            answer => answer,
        }
    }

    async fn once<T>(&self, what: &str, sent: impl Future<Output = Result<T, Error>>) -> Result<T, ProviderError> {
        match tokio::time::timeout(self.network.timeout, sent).await {
            Ok(answer) => answer.map_err(|error| classify(what, &error)),
            Err(_) => Err(timeout(what)),
        }
    }

    /// Refuses an endpoint whose name leads to an address that stores may not use.
    async fn look_up(&self) -> Result<(), ProviderError> {
        let Some(host) = &self.host else { return Ok(()) };
        let found: Vec<SocketAddr> = match tokio::net::lookup_host((host.as_str(), 443)).await {
            Ok(found) => found.collect(),
            Err(error) => {
                let message = format!("cannot find {host}: {}", line(&error.to_string()));
                return Err(ProviderError::new(ErrorKind::Unavailable, "Unreachable", message));
            }
        };
        if found.iter().any(|address| is_local(address.ip())) {
            let message =
                format!("{host} leads to a loopback, link-local or metadata address, which stores may not use");
            return Err(ProviderError::new(ErrorKind::Invalid, "InvalidEndpoint", message));
        }
        Ok(())
    }

    fn name(&self, id: &str) -> String {
        format!("projects/{}/secrets/{id}", self.project)
    }

    fn version(&self, id: &str, version: u64) -> String {
        format!("{}/versions/{version}", self.name(id))
    }
}

/// The number is the last part of the name.
fn number(version: &SecretVersion) -> Option<u64> {
    version.name.rsplit('/').next()?.parse().ok()
}

/// `None` for what Google itself says does not exist; a proxy's 404 stays an error.
fn found<T>(answer: Result<T, ProviderError>) -> Result<Option<T>, ProviderError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.reason == NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

/// A conflict, if the answer says that the secret is not as it was read: it is gone, or Google's `precondition` failed.
fn raced<T>(answer: Result<T, ProviderError>, precondition: &str) -> Result<T, ProviderError> {
    answer.map_err(|error| match error.reason.as_str() {
        reason if reason == precondition || reason == NOT_FOUND => ProviderError { kind: ErrorKind::Conflict, ..error },
        _ => error,
    })
}

/// Without an etag, Google would write over anything.
fn guarded(etag: &str) -> Result<(), ProviderError> {
    if etag.is_empty() { Err(unreadable()) } else { Ok(()) }
}

fn unreadable() -> ProviderError {
    let message = "the answer is not one of Secret Manager: is the endpoint right?";
    ProviderError::new(ErrorKind::Unavailable, "UnreadableAnswer", message)
}
