//! What the clauses tell their stories with: tokens to deliver, credentials that are given, and one pass of delivery.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use virtual_account_operator::api::{Instant, SecretKeyRef, ServiceAccountRef};
use virtual_account_operator::integration::{Credential, ErrorKind, Identity, ProviderError};
use virtual_account_operator::store::{Held, Mark, Owner, Store, Value, Verdict, digest, judge};
use virtual_account_operator::token::{Token, fresh_jti};

/// Part of every token and credential of the tests: it must be in no error and no debug output.
pub(crate) const CANARY: &str = "eyJcanary";
const T0: i64 = 1_800_000_000;

/// A token to deliver.
pub(crate) struct Issued {
    pub(crate) token: Token,
    pub(crate) mark: Mark,
}

/// A new token of the account `shop/cart`, issued so many seconds after the start.
pub(crate) fn issued(sequence: i64) -> Issued {
    issued_to("shop/cart", "cluster-1", sequence)
}

pub(crate) fn issued_to(account: &str, cluster: &str, sequence: i64) -> Issued {
    let jti = fresh_jti();
    let owner = Owner { cluster: cluster.into(), account: account.into(), uid: format!("uid-of-{account}") };
    let expires_at = Instant::from_unix(T0 + sequence + 3_600);
    let mark = Mark { owner, jti: jti.clone(), sequence: T0 + sequence, expires_at };
    Issued { token: Token::new(format!("{CANARY}.{jti}.signature")), mark }
}

impl Issued {
    pub(crate) fn value(&self) -> Value<'_> {
        Value { token: &self.token, mark: &self.mark }
    }

    pub(crate) fn text(&self) -> &str {
        self.token.expose()
    }

    pub(crate) fn jti(&self) -> String {
        self.mark.jti.clone()
    }

    /// What may be done with a path that is to hold this token.
    pub(crate) fn judge(&self, held: &Held) -> Verdict {
        self.judge_with(held, &[])
    }

    pub(crate) fn judge_with(&self, held: &Held, take_over: &[String]) -> Verdict {
        judge(held, &self.mark, &digest(self.text()), take_over)
    }

    /// One pass: read, decide, write if that is the decision. What was decided.
    pub(crate) async fn deliver(&self, store: &dyn Store, path: &str) -> Result<Verdict, ProviderError> {
        let held = store.read(path).await?;
        let verdict = self.judge(&held);
        if verdict == Verdict::Write {
            store.write(path, &self.value(), &held).await?;
        }
        Ok(verdict)
    }

    /// Passes until nothing is left to do, as the operator's next passes would do; no failure but a conflict is excused.
    pub(crate) async fn settle(&self, store: &dyn Store, path: &str) -> Held {
        let mut seen = String::new();
        for _ in 0..4 {
            match self.deliver(store, path).await {
                Ok(Verdict::Holds) => return store.read(path).await.expect("it was just read"),
                Ok(Verdict::Write) => {}
                Err(error) if error.kind == ErrorKind::Conflict => {}
                other => panic!("{path} should take the token: {other:?}; before: {seen}"),
            }
            let _ = write!(seen, "{:?}; ", store.read(path).await);
        }
        panic!("{path} does not settle: {seen}");
    }
}

/// Credentials by name, as a test gives them.
#[derive(Default)]
pub(crate) struct Given {
    secrets: Mutex<BTreeMap<(String, String), String>>,
    asked: Mutex<usize>,
}

impl Given {
    pub(crate) fn secret(name: &str, key: &str, value: &str) -> Self {
        let given = Self::default();
        given.set(name, key, value);
        given
    }

    pub(crate) fn set(&self, name: &str, key: &str, value: &str) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.insert((name.into(), key.into()), value.into());
    }

    /// What was given.
    pub(crate) fn value(&self, name: &str, key: &str) -> String {
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets[&(name.into(), key.into())].clone()
    }

    /// How often anything was asked for.
    pub(crate) fn asked(&self) -> usize {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str, key: &str) -> Result<Credential, ProviderError> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let missing =
            || ProviderError::new(ErrorKind::Denied, "SecretNotFound", format!("Secret {name} has no key {key}"));
        secrets.get(&(name.into(), key.into())).map(|value| Credential::new(value.clone())).ok_or_else(missing)
    }
}

/// A ServiceAccount's token is the secret with its name and the audience as the key.
#[async_trait]
impl Identity for Given {
    async fn secret(&self, key: &SecretKeyRef) -> Result<Credential, ProviderError> {
        self.find(&key.name, &key.key)
    }

    async fn service_account_token(
        &self,
        account: &ServiceAccountRef,
        audience: &str,
    ) -> Result<Credential, ProviderError> {
        self.find(&account.name, audience)
    }
}
