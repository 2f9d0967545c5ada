//! Logging in to Vault, and staying so: the lease is renewed at half its time, and a fresh login takes its place when it
//! can no longer be renewed. Credentials are read again for each login.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use vaultrs::api::AuthInfo;
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest};

use super::super::{Credential, ErrorKind, Identity, ProviderError};
use super::transport::{self, Transport};
use crate::api::{SecretKeyRef, ServiceAccountRef, VaultAuth};

const DEFAULT_AUDIENCE: &str = "vault";

/// Who logs in and how, and the session there is.
pub(super) struct Sessions {
    way: Way,
    identity: Arc<dyn Identity>,
    /// Locked while somebody logs in, so that others wait for that login.
    current: Mutex<Option<Arc<Session>>>,
}

enum Way {
    Kubernetes { mount: String, role: String, account: ServiceAccountRef, audience: String },
    AppRole { mount: String, role_id: String, secret_id: SecretKeyRef },
    Token(SecretKeyRef),
}

/// A Vault token and how long it lives.
pub(super) struct Session {
    token: Credential,
    since: Instant,
    /// Zero: for ever.
    lease: Duration,
    renewable: bool,
    /// The lease that the login gave. A renewal gives less when the token comes to the end of its longest life.
    full: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Young,
    /// Half of the lease is over.
    Old,
    Ended,
}

impl Session {
    /// The Vault token.
    pub(super) fn token(&self) -> &Credential {
        &self.token
    }

    fn new(token: Credential, lease: u64, renewable: bool, since: Instant) -> Self {
        let lease = Duration::from_secs(lease);
        Self { token, since, lease, renewable, full: lease }
    }

    fn of(auth: AuthInfo, since: Instant) -> Self {
        Self::new(Credential::new(auth.client_token), auth.lease_duration, auth.renewable, since)
    }

    fn age(&self, now: Instant) -> Age {
        let past = now.saturating_duration_since(self.since);
        match self.lease {
            Duration::ZERO => Age::Young,
            lease if past < lease / 2 => Age::Young,
            lease if past < lease => Age::Old,
            _ => Age::Ended,
        }
    }
}

impl Sessions {
    /// Parses how to log in.
    pub(super) fn new(auth: &VaultAuth, identity: Arc<dyn Identity>) -> Result<Self, ProviderError> {
        Ok(Self { way: way(auth)?, identity, current: Mutex::new(None) })
    }

    /// A session that is good for this call.
    pub(super) async fn current(&self, transport: &Transport) -> Result<Arc<Session>, ProviderError> {
        let mut current = self.current.lock().await;
        let old = match &*current {
            Some(session) => match session.age(Instant::now()) {
                Age::Young => return Ok(Arc::clone(session)),
                Age::Old => Some(Arc::clone(session)),
                Age::Ended => None,
            },
            None => None,
        };
        let fresh = match &old {
            Some(session) => self.prolong(session, transport).await,
            None => self.login(transport).await,
        };
        let session = match (fresh, old) {
            (Ok(fresh), _) => Arc::new(fresh),
            // It is not over yet; the next call tries again.
            (Err(_), Some(old)) => old,
            (Err(error), None) => return Err(error),
        };
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    /// A fresh login in place of a session that was refused, unless somebody else has logged in since.
    pub(super) async fn instead_of(
        &self,
        refused: &Arc<Session>,
        transport: &Transport,
    ) -> Result<Arc<Session>, ProviderError> {
        let mut current = self.current.lock().await;
        if let Some(other) = current.as_ref().filter(|session| !Arc::ptr_eq(session, refused)) {
            return Ok(Arc::clone(other));
        }
        *current = None;
        let session = Arc::new(self.login(transport).await?);
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Renews, or logs in again where that gives little or nothing.
    async fn prolong(&self, session: &Session, transport: &Transport) -> Result<Session, ProviderError> {
        if session.renewable {
            let since = Instant::now();
            let request = RenewTokenSelfRequest { increment: None };
            let renewed = transport.call(Some(session.token()), &request).await;
            if let Ok(Some(auth)) = renewed.map(|answer| answer.and_then(|answer| answer.auth)) {
                let renewed = Session { full: session.full, ..Session::of(auth, since) };
                if renewed.lease >= session.full / 2 {
                    return Ok(renewed);
                }
            }
        }
        self.login(transport).await
    }

    async fn login(&self, transport: &Transport) -> Result<Session, ProviderError> {
        let since = Instant::now();
        let auth = match &self.way {
            Way::Token(key) => return self.adopt(key, transport).await,
            Way::Kubernetes { mount, role, account, audience } => {
                let jwt = self.identity.service_account_token(account, audience).await?;
                let (mount, role, jwt) = (mount.clone(), role.clone(), jwt.expose().to_owned());
                transport.call(None, &LoginWithKubernetesRequest { mount, role, jwt }).await
            }
            Way::AppRole { mount, role_id, secret_id } => {
                let secret_id = self.identity.secret(secret_id).await?.expose().to_owned();
                let (mount, role_id) = (mount.clone(), role_id.clone());
                transport.call(None, &LoginWithApproleRequest { mount, role_id, secret_id }).await
            }
        };
        let auth = auth.map_err(refused)?.and_then(|answer| answer.auth).ok_or_else(transport::unreadable)?;
        Ok(Session::of(auth, since))
    }

    /// A token that somebody else made: how long it lives is asked for.
    async fn adopt(&self, key: &SecretKeyRef, transport: &Transport) -> Result<Session, ProviderError> {
        let (token, since) = (self.identity.secret(key).await?, Instant::now());
        let found = transport.call(Some(&token), &LookupTokenSelfRequest {}).await.map_err(refused)?;
        let found = found.and_then(|answer| answer.data).ok_or_else(transport::unreadable)?;
        Ok(Session::new(token, found.ttl, found.renewable.unwrap_or(false), since))
    }
}

/// A login that Vault takes for a bad request (a wrong secret id, an unknown role) is one that somebody must put right.
fn refused(error: ProviderError) -> ProviderError {
    if error.kind != ErrorKind::Denied && !matches!(error.reason.as_str(), "BadRequest" | "NotFound") {
        return error;
    }
    let message = format!("the login is refused: {}", error.message);
    ProviderError::new(ErrorKind::Denied, "LoginRefused", message)
}

fn way(auth: &VaultAuth) -> Result<Way, ProviderError> {
    let field = |name: &str| format!("spec.hashicorpVault.auth.{name}.mountPath");
    match (&auth.kubernetes, &auth.app_role, &auth.token_ref) {
        (Some(kubernetes), None, None) => Ok(Way::Kubernetes {
            mount: transport::mount(&field("kubernetes"), kubernetes.mount_path.as_deref().unwrap_or("kubernetes"))?,
            role: kubernetes.role.clone(),
            account: kubernetes.service_account_ref.clone(),
            audience: kubernetes.audience.clone().unwrap_or_else(|| DEFAULT_AUDIENCE.to_owned()),
        }),
        (None, Some(app_role), None) => Ok(Way::AppRole {
            mount: transport::mount(&field("appRole"), app_role.mount_path.as_deref().unwrap_or("approle"))?,
            role_id: app_role.role_id.clone(),
            secret_id: app_role.secret_id_ref.clone(),
        }),
        (None, None, Some(token)) => Ok(Way::Token(token.clone())),
        _ => Err(ProviderError::new(
            ErrorKind::Invalid,
            "InvalidAuth",
            "spec.hashicorpVault.auth must name exactly one of kubernetes, appRole and tokenRef",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_from_its_half_on_and_one_without_end_never() {
        let start = Instant::now();
        let age = |lease, past| {
            Session::new(Credential::new("t".into()), lease, true, start).age(start + Duration::from_secs(past))
        };
        assert_eq!((age(60, 29), age(60, 30), age(60, 59)), (Age::Young, Age::Old, Age::Old));
        assert_eq!((age(60, 60), age(0, 1_000_000)), (Age::Ended, Age::Young));
    }

    #[test]
    fn a_refused_login_is_denied_whatever_vault_calls_it() {
        let of = |kind, reason| refused(ProviderError::new(kind, reason, "invalid role or secret ID"));
        for (kind, reason) in [(ErrorKind::Invalid, "BadRequest"), (ErrorKind::Denied, "PermissionDenied")] {
            assert_eq!(of(kind, reason).kind, ErrorKind::Denied);
            let expected = "LoginRefused: the login is refused: invalid role or secret ID";
            assert_eq!(of(kind, reason).to_string(), expected);
        }
        for (kind, reason) in [(ErrorKind::Unavailable, "Timeout"), (ErrorKind::Invalid, "Redirected")] {
            assert_eq!(of(kind, reason).kind, kind);
        }
    }

    #[test]
    fn exactly_one_way_to_log_in_is_named() {
        assert!(way(&VaultAuth::default()).is_err());
        let token = SecretKeyRef { name: "n".into(), key: "k".into() };
        assert!(matches!(way(&VaultAuth { token_ref: Some(token), ..VaultAuth::default() }), Ok(Way::Token(_))));
    }
}
