//! What is told about a TokenStore as its condition. Pure.

use super::{Provider, ProviderError};
use crate::api::{AccountId, Instant, TokenStore, TokenStoreStatus};
use crate::condition::{self, Says};
use crate::integration::{INVALID_SPEC, Refusal};

/// What is known of a store.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// Nobody may use it as its spec is.
    Refused(Refusal),
    /// Its last check failed, or it is known to be down.
    Failed(ProviderError),
    /// Its last check was good.
    Good,
}

/// The status of a store. `users`: the accounts that hold back a store that is being deleted.
pub(super) fn next(
    store: &TokenStore,
    provider: Option<Provider>,
    finding: &Finding,
    users: &[AccountId],
    now: Instant,
) -> TokenStoreStatus {
    let before = store.status.clone().unwrap_or_default();
    let generation = store.metadata.generation.unwrap_or_default();
    let (status, mut reason, mut message) = ready(finding);
    if store.metadata.deletion_timestamp.is_some() {
        (reason, message) = ("Deleting".into(), deleting(users, status, &message));
    }
    let says = Says { status, reason: &reason, message: &message };
    let conditions = condition::set(before.conditions, "Ready", &says, generation, now);
    TokenStoreStatus {
        observed_generation: Some(generation),
        provider: provider.map(|provider| provider.as_str().to_owned()),
        conditions: condition::set_stalled(conditions, &says, reason == INVALID_SPEC, generation, now),
    }
}

fn ready(finding: &Finding) -> (bool, String, String) {
    match finding {
        Finding::Good => (true, "Checked".into(), "credentials and reach are good".into()),
        Finding::Refused(refusal) => (false, refusal.reason.into(), refusal.message.clone()),
        Finding::Failed(error) => (false, error.condition_reason(), error.line()),
    }
}

// The message of the check stays, as nothing else tells it.
fn deleting(users: &[AccountId], status: bool, message: &str) -> String {
    let shown: Vec<String> = users.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = users.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let (count, names) = (users.len(), shown.join(", "));
    let text = match count {
        0 => "it is being deleted".to_owned(),
        1 => format!("it stays until 1 account no longer uses it: {names}"),
        _ => format!("it stays until {count} accounts no longer use it: {names}{more}"),
    };
    if status { text } else { format!("{text}; {message}") }
}

/// Names in a message.
const SHOWN: usize = 3;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::integration::ErrorKind;

    fn store(deleting: bool) -> TokenStore {
        let mut store = json!({
            "apiVersion": "virtualaccounts.dev/v1alpha1", "kind": "TokenStore",
            "metadata": {"namespace": "platform", "name": "vault", "generation": 2},
            "spec": {},
        });
        if deleting {
            store["metadata"]["deletionTimestamp"] = "2026-11-22T08:30:00Z".into();
        }
        serde_json::from_value(store).unwrap()
    }

    fn told(finding: &Finding, deleting: bool, users: usize) -> String {
        let users: Vec<AccountId> = (0..users).map(|n| AccountId::new("team", format!("a{n}"))).collect();
        let provider = Some(Provider::HashicorpVault);
        let status = next(&store(deleting), provider, finding, &users, Instant::from_unix(0));
        let ready = &status.conditions[0];
        assert_eq!((status.provider.as_deref(), status.observed_generation), (Some("hashicorpVault"), Some(2)));
        assert_eq!((ready.observed_generation, ready.type_.as_str()), (Some(2), "Ready"));
        format!("{} {} {}", ready.status, ready.reason, ready.message)
    }

    fn failed(reason: &str, message: &str) -> Finding {
        Finding::Failed(ProviderError::new(ErrorKind::Denied, reason, message))
    }

    #[test]
    fn ready_says_what_the_check_said() {
        let refused = Finding::Refused(Refusal::new("InvalidSpec", "set spec.pathPrefix"));
        for (finding, expected) in [
            (Finding::Good, "True Checked credentials and reach are good"),
            (refused, "False InvalidSpec set spec.pathPrefix"),
            (failed("AccessDenied", "no rights"), "False AccessDenied no rights"),
            (failed("permission denied\n", "two\nlines  here"), "False permissiondenied two lines here"),
            (failed("403", "x"), "False Denied x"),
            (failed("", "x"), "False Denied x"),
        ] {
            assert_eq!(told(&finding, false, 5), expected);
        }
        assert_eq!(told(&failed("A", &"é".repeat(600)), false, 0).chars().filter(|c| *c == 'é').count(), 512);
    }

    #[test]
    fn only_a_spec_that_nobody_can_use_is_stalled() {
        let stalled = |finding: &Finding, deleting| {
            let status = next(&store(deleting), None, finding, &[], Instant::from_unix(0));
            let stalled = &status.conditions[1];
            assert_eq!((stalled.type_.as_str(), stalled.observed_generation), ("Stalled", Some(2)));
            format!("{} {} {}", stalled.status, stalled.reason, stalled.message)
        };
        let refused = |reason| Finding::Refused(Refusal::new(reason, "set spec.pathPrefix"));
        let waits = "nothing waits for a change of the spec";
        assert_eq!(stalled(&refused("InvalidSpec"), false), "True InvalidSpec set spec.pathPrefix");
        assert_eq!(stalled(&refused("InvalidSpec"), true), format!("False Deleting {waits}"));
        // The operator's settings can cure this one.
        let ambient = "AmbientCredentialsNotAllowed";
        assert_eq!(stalled(&refused(ambient), false), format!("False {ambient} {waits}"));
        assert_eq!(stalled(&failed("AccessDenied", "no"), false), format!("False AccessDenied {waits}"));
        assert_eq!(stalled(&Finding::Good, false), format!("False Checked {waits}"));
    }

    #[test]
    fn a_deleted_store_names_who_holds_it() {
        let good = Finding::Good;
        assert_eq!(told(&good, true, 0), "True Deleting it is being deleted");
        assert_eq!(told(&good, true, 1), "True Deleting it stays until 1 account no longer uses it: team/a0");
        let many = "True Deleting it stays until 5 accounts no longer use it: team/a0, team/a1, team/a2 and 2 more";
        assert_eq!(told(&good, true, 5), many);
        let down = told(&failed("StoreDown", "it is down"), true, 1);
        assert_eq!(down, "False Deleting it stays until 1 account no longer uses it: team/a0; it is down");
    }

    #[test]
    fn the_same_finding_is_the_same_status() {
        let mut store = store(false);
        let once = next(&store, None, &Finding::Good, &[], Instant::from_unix(10));
        store.status = Some(once.clone());
        assert_eq!(next(&store, None, &Finding::Good, &[], Instant::from_unix(99)), once);
    }
}
