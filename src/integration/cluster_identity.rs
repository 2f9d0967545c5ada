//! Credentials by the API server: Secrets and ServiceAccounts of one namespace, the store's own.
//!
//! Answers are parsed here and not by kube, which logs a body that it cannot parse.

use async_trait::async_trait;
use http::Request;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{GetParams, PostParams};
use kube::core::Request as Builder;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::{Credential, ErrorKind, Identity, ProviderError};
use crate::api::{AccountId, SecretKeyRef, ServiceAccountRef};
use crate::client::describe;

/// How long a ServiceAccount's token is asked for, in seconds: the shortest that the API server gives.
const TOKEN_SECONDS: i64 = 600;

/// The credentials of one namespace.
pub struct ClusterIdentity {
    client: Client,
    namespace: String,
    keys: Option<AccountId>,
}

/// The cluster's id where no setting gives it: the uid of its oldest namespace.
pub async fn cluster_id(client: &Client) -> Result<String, kube::Error> {
    let namespace = Api::<Namespace>::all(client.clone()).get_metadata("kube-system").await?;
    Ok(namespace.metadata.uid.unwrap_or_default())
}

impl ClusterIdentity {
    /// Through this client, in this namespace and no other.
    pub fn new(client: Client, namespace: impl Into<String>) -> Self {
        Self { client, namespace: namespace.into(), keys: None }
    }

    /// All but this Secret: the key ring, whose keys a store would otherwise be sent as a password.
    #[must_use]
    pub fn without(self, keys: AccountId) -> Self {
        Self { keys: Some(keys), ..self }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, kube::Error> {
        let text = self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
        serde_json::from_str(&text).map_err(kube::Error::SerdeError)
    }
}

#[async_trait]
impl Identity for ClusterIdentity {
    async fn secret(&self, key: &SecretKeyRef) -> Result<Credential, ProviderError> {
        let (name, place) = (&key.name, format!("Secret {}/{}", self.namespace, key.name));
        if self.keys.as_ref().is_some_and(|keys| keys.namespace == self.namespace && keys.name == *name) {
            return Err(denied("SecretNotAllowed", format!("{place} is the operator's key ring; name another Secret")));
        }
        let request = Builder::new(Secret::url_path(&(), Some(&self.namespace))).get(name, &GetParams::default());
        let secret: Secret = self.send(request).await.map_err(|error| match code(&error) {
            Some(404) => denied("SecretNotFound", format!("{place} does not exist; create it with key {}", key.key)),
            _ => unavailable(&place, &error),
        })?;
        let value = secret.data.unwrap_or_default().remove(&key.key);
        let value = value.ok_or_else(|| denied("KeyNotFound", format!("{place} has no key {}; add it", key.key)))?;
        let text = String::from_utf8(value.0).map_err(|_| {
            denied("KeyNotText", format!("key {} of {place} is not UTF-8 text; write it anew", key.key))
        })?;
        Ok(Credential::new(text.trim().to_owned()))
    }

    async fn service_account_token(
        &self,
        account: &ServiceAccountRef,
        audience: &str,
    ) -> Result<Credential, ProviderError> {
        let (namespace, name) = (&self.namespace, &account.name);
        let place = format!("ServiceAccount {namespace}/{name}");
        let asked = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let body = serde_json::to_vec(&asked).unwrap_or_default();
        let collection = Builder::new(ServiceAccount::url_path(&(), Some(namespace)));
        let request = collection.create_subresource("token", name, &PostParams::default(), body);
        let answer: TokenRequest = self.send(request).await.map_err(|error| match code(&error) {
            Some(404) => denied("ServiceAccountNotFound", format!("{place} does not exist; create it")),
            Some(403) => denied(
                "TokenRequestForbidden",
                format!("the operator may not ask for tokens of {place}; bind a Role with create on serviceaccounts/token, resourceNames [{name}], in namespace {namespace} (config/samples/token-request shows it)"),
            ),
            _ => unavailable(&place, &error),
        })?;
        let token = answer.status.map(|status| status.token).filter(|token| !token.is_empty());
        token.map(Credential::new).ok_or_else(|| denied("NoToken", format!("the API server gave no token of {place}")))
    }
}

fn denied(reason: &str, message: String) -> ProviderError {
    ProviderError::new(ErrorKind::Denied, reason, message)
}

// Not the store's failure, so not a kind that counts for its breaker.
fn unavailable(place: &str, error: &kube::Error) -> ProviderError {
    ProviderError::new(
        ErrorKind::Throttled,
        "CredentialsUnavailable",
        format!("{place} cannot be read: {}", describe(error)),
    )
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::Response;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// An identity for namespace `platform` whose API server gives this answer, and what that was asked.
    fn answering(status: u16, body: Value) -> (ClusterIdentity, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (seen, body) = (Arc::clone(&seen), body.to_string());
            async move {
                let (parts, sent) = request.into_parts();
                let sent = String::from_utf8(sent.collect_bytes().await.unwrap().to_vec()).unwrap();
                seen.lock().unwrap().push(format!("{} {} {sent}", parts.method, parts.uri.path()));
                Response::builder().status(status).body(axum::body::Body::from(body))
            }
        });
        (ClusterIdentity::new(Client::new(service, "default"), "platform"), asked)
    }

    fn failure(code: u16) -> Value {
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": "Reason", "message": "canary"})
    }

    async fn secret(status: u16, body: Value) -> Result<Credential, ProviderError> {
        let (identity, asked) = answering(status, body);
        let answer = identity.secret(&SecretKeyRef { name: "vault-token".into(), key: "token".into() }).await;
        assert_eq!(*asked.lock().unwrap(), ["GET /api/v1/namespaces/platform/secrets/vault-token "]);
        answer
    }

    async fn token(status: u16, body: Value) -> (Result<Credential, ProviderError>, String) {
        let (identity, asked) = answering(status, body);
        let answer = identity.service_account_token(&ServiceAccountRef { name: "writer".into() }, "vault").await;
        let asked = asked.lock().unwrap().concat();
        (answer, asked)
    }

    #[tokio::test]
    async fn a_secret_is_read_without_white_space_around_it() {
        let body = json!({"metadata": {"name": "vault-token"}, "data": {"token": "IHMuY2FuYXJ5Cg=="}});
        assert_eq!(secret(200, body).await.unwrap().expose(), "s.canary");
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_secret_is_said_without_its_content() {
        let bytes = json!({"data": {"token": "/w=="}});
        for (status, body, kind, words) in [
            (
                404,
                failure(404),
                ErrorKind::Denied,
                "Secret platform/vault-token does not exist; create it with key token",
            ),
            (
                200,
                json!({"data": {"other": "Y2FuYXJ5"}}),
                ErrorKind::Denied,
                "Secret platform/vault-token has no key token",
            ),
            (200, json!({}), ErrorKind::Denied, "has no key token"),
            (200, bytes, ErrorKind::Denied, "key token of Secret platform/vault-token is not UTF-8"),
            (200, json!({"data": "canary"}), ErrorKind::Throttled, "the API server's answer cannot be read"),
            (503, failure(503), ErrorKind::Throttled, "the API server answered 503"),
            (403, failure(403), ErrorKind::Throttled, "the API server answered 403"),
        ] {
            let error = secret(status, body).await.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(words) && !error.to_string().contains("canary"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_service_account_token_is_asked_for_its_audience_and_ten_minutes() {
        let body =
            json!({"spec": {"audiences": []}, "status": {"expirationTimestamp": "2026-11-22T08:30:00Z", "token": "t"}});
        let (answer, asked) = token(201, body).await;
        assert_eq!(answer.unwrap().expose(), "t");
        assert!(asked.starts_with("POST /api/v1/namespaces/platform/serviceaccounts/writer/token "), "{asked}");
        assert!(asked.contains(r#""audiences":["vault"]"#) && asked.contains(r#""expirationSeconds":600"#), "{asked}");
    }

    #[tokio::test]
    async fn the_key_ring_is_no_credential() {
        let (identity, asked) = answering(200, json!({"data": {"key": "Y2FuYXJ5"}}));
        let identity = identity.without(AccountId::new("platform", "ring"));
        let key = |name: &str| SecretKeyRef { name: name.into(), key: "key".into() };
        let error = identity.secret(&key("ring")).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "SecretNotAllowed"));
        assert!(asked.lock().unwrap().is_empty(), "it is not even read");
        assert_eq!(identity.secret(&key("other")).await.unwrap().expose(), "canary");
    }

    #[tokio::test]
    async fn a_refused_token_says_which_role_to_bind() {
        for (status, kind, words) in [
            (403, ErrorKind::Denied, "config/samples/token-request"),
            (404, ErrorKind::Denied, "ServiceAccount platform/writer does not exist; create it"),
            (500, ErrorKind::Throttled, "the API server answered 500"),
        ] {
            let error = token(status, failure(status)).await.0.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(words) && !error.to_string().contains("canary"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_clusters_id_is_the_uid_of_its_oldest_namespace() {
        let (identity, asked) = answering(200, json!({"metadata": {"name": "kube-system", "uid": "an-id"}}));
        assert_eq!(cluster_id(&identity.client).await.unwrap(), "an-id");
        assert_eq!(*asked.lock().unwrap(), ["GET /api/v1/namespaces/kube-system "]);
    }
}
