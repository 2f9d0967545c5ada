//! The API calls of a pass. Each is one request, conditional where it writes; answers that hold a Secret are parsed here
//! and not by kube, which logs a body that it cannot parse.

use std::sync::Arc;

use http::Request;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request as Builder;
use kube::{Client, Resource, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::cluster::CallError;
use super::secret::{OPERATOR, SecretMeta};
use crate::api::{AccountId, STORES_FINALIZER, VirtualAccount, VirtualAccountStatus};
use crate::client::describe;

/// The API server, as a pass uses it.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    // So many requests at once. Passes themselves are not counted: those that wait for a store hold up nobody.
    slots: Arc<Semaphore>,
}

// All that is read of an answer to a write.
#[derive(Deserialize)]
struct Written {
    metadata: ObjectMeta,
}

impl Kubernetes {
    /// Through this client, whose own retries must be off, with so many requests at once.
    pub fn new(client: Client, requests: usize) -> Self {
        Self { client, slots: Arc::new(Semaphore::new(requests)) }
    }

    // The semaphore is never closed.
    async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        self.slots.acquire().await.ok()
    }

    /// Reads a Secret; `None`: there is none.
    pub async fn read_secret(&self, id: &AccountId) -> Result<Option<Secret>, CallError> {
        let request = secrets(&id.namespace).get(&id.name, &kube::api::GetParams::default());
        found(self.send(request).await)
    }

    /// Reads an account; `None`: there is none.
    pub async fn read_account(&self, id: &AccountId) -> Result<Option<VirtualAccount>, CallError> {
        let api: Api<VirtualAccount> = Api::namespaced(self.client.clone(), &id.namespace);
        let _slot = self.slot().await;
        api.get_opt(&id.name).await.map_err(|error| call_error(&error))
    }

    /// Replaces the status of exactly this object in exactly this version.
    pub async fn write_status(
        &self,
        account: &VirtualAccount,
        status: VirtualAccountStatus,
    ) -> Result<VirtualAccount, CallError> {
        let namespace = account.namespace().unwrap_or_default();
        let mut next = VirtualAccount::new(&account.name_any(), account.spec.clone());
        next.metadata.namespace = Some(namespace.clone());
        next.metadata.uid.clone_from(&account.metadata.uid);
        next.metadata.resource_version.clone_from(&account.metadata.resource_version);
        next.status = Some(status);
        let api: Api<VirtualAccount> = Api::namespaced(self.client.clone(), &namespace);
        let _slot = self.slot().await;
        match api.replace_status(&account.name_any(), &post(), &next).await {
            Ok(written) => Ok(written),
            // A refused status is nobody's target: the ledger cannot be recorded, so nothing else may happen.
            Err(error) => Err(match call_error(&error) {
                CallError::Refused { reason, message } => CallError::Unavailable(format!("{reason}: {message}")),
                other => other,
            }),
        }
    }

    /// Sets or removes our finalizer on exactly this object in exactly this version: a merge patch that names the version
    /// is refused with 409 if the object has another one by now.
    pub async fn write_finalizer(&self, account: &VirtualAccount, there: bool) -> Result<VirtualAccount, CallError> {
        let others = account.finalizers().iter().filter(|finalizer| *finalizer != STORES_FINALIZER).cloned();
        let finalizers: Vec<String> = others.chain(there.then(|| STORES_FINALIZER.to_owned())).collect();
        let patch = json!({"metadata": {
            "uid": account.metadata.uid,
            "resourceVersion": account.metadata.resource_version,
            "finalizers": finalizers,
        }});
        let api: Api<VirtualAccount> = Api::namespaced(self.client.clone(), &account.namespace().unwrap_or_default());
        let params = PatchParams { field_manager: Some(OPERATOR.into()), ..PatchParams::default() };
        let _slot = self.slot().await;
        let patched = api.patch(&account.name_any(), &params, &Patch::Merge(patch)).await;
        patched.map_err(|error| match call_error(&error) {
            CallError::Refused { reason, message } => CallError::Unavailable(format!("{reason}: {message}")),
            other => other,
        })
    }

    /// Creates a Secret; its version.
    pub async fn create_secret(&self, secret: &Secret) -> Result<String, CallError> {
        let request = secrets(&secret.namespace().unwrap_or_default()).create(&post(), body(secret)?);
        self.written(request).await
    }

    /// Replaces exactly the version that the Secret names; the new one.
    pub async fn replace_secret(&self, secret: &Secret) -> Result<String, CallError> {
        let request =
            secrets(&secret.namespace().unwrap_or_default()).replace(&secret.name_any(), &post(), body(secret)?);
        self.written(request).await
    }

    /// Deletes exactly this object in exactly this version.
    pub async fn delete_secret(&self, namespace: &str, meta: &SecretMeta) -> Result<(), CallError> {
        let preconditions = Preconditions { uid: Some(meta.uid.clone()), resource_version: Some(meta.version.clone()) };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let request = secrets(namespace).delete(&meta.name, &params);
        self.text(request).await.map(drop).map_err(|error| call_error(&error))
    }

    async fn written(
        &self,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<String, CallError> {
        let written: Written = self.send(request).await.map_err(|error| call_error(&error))?;
        Ok(written.metadata.resource_version.unwrap_or_default())
    }

    async fn send<T: DeserializeOwned>(
        &self,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, kube::Error> {
        serde_json::from_str(&self.text(request).await?).map_err(kube::Error::SerdeError)
    }

    async fn text(&self, request: Result<Request<Vec<u8>>, kube::core::request::Error>) -> Result<String, kube::Error> {
        let _slot = self.slot().await;
        self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await
    }
}

fn secrets(namespace: &str) -> Builder {
    Builder::new(Secret::url_path(&(), Some(namespace)))
}

fn post() -> PostParams {
    PostParams { field_manager: Some(OPERATOR.into()), ..PostParams::default() }
}

fn body(secret: &Secret) -> Result<Vec<u8>, CallError> {
    serde_json::to_vec(secret).map_err(|_| CallError::Unavailable("the Secret cannot be written as JSON".into()))
}

fn found<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, CallError> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(call_error(&error)),
    }
}

/// Which kind of failure it was: a conflict, the object's own, or everybody's.
fn call_error(error: &kube::Error) -> CallError {
    let kube::Error::Api(status) = error else { return CallError::Unavailable(describe(error)) };
    // A namespace that goes away takes the account with it; that is not the API server's fault either.
    match status.code {
        404 | 409 => CallError::Conflict,
        401 | 408 | 429 | 500.. => CallError::Unavailable(describe(error)),
        _ => CallError::Refused { reason: reason(&status.reason), message: message(&status.message) },
    }
}

fn reason(reason: &str) -> String {
    if reason.is_empty() { "Refused".into() } else { reason.chars().take(64).collect() }
}

// An admission webhook or policy writes this text, and it was sent the Secret: it may quote a token, whole or in part, as it
// is or in base64.
fn message(message: &str) -> String {
    if message.split(|c| !may_be_of_token(c)).any(|word| word.len() > LONGEST_NAME) {
        "the API server's message is withheld: it may hold a token".into()
    } else {
        message.chars().take(512).collect()
    }
}

/// The longest name of most kinds; a token's signature alone is longer.
const LONGEST_NAME: usize = 63;

fn may_be_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_+/=".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_may_hold_a_token_is_withheld() {
        let signature = "a-_4".repeat(20);
        for text in [
            signature.clone(),
            format!("denied: {{\"token\":\"{signature}\"}}"),
            format!("eyJhbGc.eyJpc3M.{signature}"),
        ] {
            assert!(message(&text).starts_with("the API server's message is withheld"), "{text}");
        }
        let name = "a".repeat(63);
        let plain = format!("admission webhook \"{name}.example.com\" denied the request: {name} has no label x/y");
        assert_eq!(message(&plain), plain);
        assert_eq!(message(&"too long ".repeat(100)).len(), 512);
    }
}
