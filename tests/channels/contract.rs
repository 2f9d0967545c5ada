//! The contract: who keeps it ([`Instance`]) and which clauses it has. They are in `clauses`.

use std::time::Duration;

use async_trait::async_trait;
use virtual_account_operator::integration::{ErrorKind, Network, ProviderError};
use virtual_account_operator::notify::{Medium, Notifier};
use wiremock::{Request, ResponseTemplate};

use super::stage::{Answer, Judge};

/// A medium, and its provider as documented.
#[async_trait]
pub(crate) trait Instance: Send + Sync {
    fn medium(&self) -> Medium;

    /// The medium on a server at this address, with a credential that holds [`super::story::CANARY`] and that the server
    /// would take.
    async fn open(&self, server: &str, network: Network) -> Result<Box<dyn Notifier>, ProviderError>;

    /// What is wrong with a request, by the provider's documentation: strict, an unknown field is wrong.
    fn judge(&self) -> Judge;

    /// The provider's answer to a good request.
    fn answer(&self) -> Answer;

    /// Answers to a message that the provider refuses, with what they mean.
    fn refusals(&self) -> Vec<(ResponseTemplate, ErrorKind)>;

    /// The answer to wrong credentials.
    fn wrong_credential(&self) -> ResponseTemplate;

    /// Whether the check shows that credentials are wrong.
    fn check_proves_credential(&self) -> bool {
        true
    }

    /// Whether a request tells somebody something.
    fn tells(&self, request: &Request) -> bool;

    /// All texts that people see because of a request, as they see them.
    fn seen(&self, request: &Request) -> Vec<String>;
}

/// Of these tests: loopback may be used.
pub(crate) fn network(timeout: Duration) -> Network {
    Network { allow_local: true, allow_http: true, timeout }
}

/// One test a clause, for one medium. The expression makes its `Instance`.
macro_rules! contract {
    ($instance:expr) => {
        crate::contract::each! { $instance =>
            every_kind_is_sent_as_documented,
            a_repeat_is_identical,
            each_refusal_means_one_thing,
            patience_asked_for_is_given,
            a_failing_server_is_unavailable,
            a_server_that_does_not_answer_is_given_up,
            a_broken_connection_is_unavailable,
            a_server_that_is_not_there_is_unavailable,
            a_server_with_an_unknown_certificate_is_not_told_anything,
            redirects_are_not_followed,
            a_name_that_leads_home_is_the_channels_fault,
            a_wrong_credential_is_denied,
            the_check_tells_nobody_anything,
            hostile_texts_are_only_text,
            a_digest_names_every_account,
        }
    };
}

macro_rules! each {
    ($instance:expr => $($clause:ident,)+) => {
        $(#[tokio::test]
        async fn $clause() {
            crate::clauses::$clause(&$instance).await;
        })+
    };
}

pub(crate) use {contract, each};
