//! The contract: who keeps it ([`Instance`]) and which clauses it has. Those of [`contract!`] are in `clauses`, those of
//! [`troubles!`] in `troubles`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use virtual_account_operator::store::Store;

use super::fault::{Errors, IsWrite, Tls};

/// A provider on its server, and somebody else who works on that server by hand.
#[async_trait]
pub(crate) trait Instance: Send + Sync {
    /// The store, with the rights that the documentation asks for and no more.
    async fn open(&self) -> Box<dyn Store>;

    /// The store as it is opened under other circumstances; `None`: the provider does not know them.
    async fn open_as(&self, how: Opening) -> Option<Box<dyn Store>>;

    /// Where the server listens, so that something can be put before it.
    fn server(&self) -> Option<String> {
        None
    }

    /// The certificate of a server that speaks TLS.
    fn tls(&self) -> Option<Tls> {
        None
    }

    /// Whether a request to that server changes something.
    fn is_write(&self) -> IsWrite {
        |method, _| *method != Method::GET
    }

    /// The body of an error as that server writes it.
    fn errors(&self) -> Errors {
        |_| r#"{"errors":["ordered by the test"]}"#
    }

    /// What the provider cannot do.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// A path in the form that the provider gets it in.
    fn path(&self, unique: &str) -> String {
        format!("/contract/{unique}/token")
    }

    /// Somebody writes a value: a new secret without mark, or a new version of what is there.
    async fn put_by_hand(&self, path: &str, value: &str);

    /// Somebody removes the secret with all versions for good.
    async fn wipe(&self, path: &str);

    /// How many versions the path has that can still be used.
    async fn usable(&self, path: &str) -> Vec<String>;

    /// How many versions were ever written since the path was empty.
    async fn versions(&self, path: &str) -> usize;

    /// What consumers get now.
    async fn value(&self, path: &str) -> Option<String>;
}

/// Other circumstances.
#[derive(Clone, Debug)]
pub(crate) enum Opening {
    /// The server is at this address, and a call may take so long.
    At(String, Duration),
    /// Credentials that the server refuses.
    Refused,
    /// Good credentials, but what paths stand in does not exist.
    Nowhere,
}

/// What a provider cannot do; the clauses then ask for less.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// A writer that read before another one wrote is not refused: the next look puts it right.
    pub(crate) no_compare_and_set: bool,
    /// Of the older versions only the newest can be had.
    pub(crate) one_older: bool,
    /// Older versions cannot be ended.
    pub(crate) no_retire: bool,
    /// Somebody else's new value cannot be told from ours.
    pub(crate) hidden_values: bool,
}

/// A fresh path.
pub(crate) fn path(instance: &dyn Instance, clause: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    instance.path(&format!("{clause}-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// One test a clause, for one provider. The expression makes its `Instance`; it may await.
macro_rules! contract {
    ($instance:expr) => {
        crate::contract::each! { $instance => clauses:
            an_absent_path_reads_as_absent,
            the_first_write_creates_with_a_mark_and_reads_back_as_held,
            a_hundred_passes_leave_one_version,
            the_same_jti_written_again_adds_no_version,
            rotation_adds_a_version_and_the_older_one_stays_usable_until_it_is_retired,
            a_version_whose_token_nobody_can_tell_stays_while_one_is_in_its_grace,
            a_writer_that_read_before_another_wrote_replaces_nothing,
            an_older_token_does_not_replace_a_newer_one,
            a_path_without_a_mark_is_somebody_elses_until_it_may_be_taken_over,
            marks_of_others_are_reported_with_their_owner,
            a_former_clusters_secret_is_taken_over_on_request,
            a_value_changed_by_hand_is_put_right_with_the_same_token,
            a_wiped_path_is_filled_again,
            deletion_removes_all_and_the_name_can_be_used_again,
            deleting_twice_is_harmless,
            what_changed_since_it_was_read_is_not_deleted,
            a_good_store_passes_its_check,
            the_operators_log_holds_no_secret,
        }
    };
}

/// One test a clause about failures, for a provider with a server.
macro_rules! troubles {
    ($instance:expr) => {
        crate::contract::each! { $instance => troubles:
            a_server_that_is_not_there_is_unavailable,
            a_server_that_does_not_answer_is_given_up,
            refused_credentials_are_denied,
            a_missing_parent_is_told,
            a_lost_answer_leaves_one_version,
            a_broken_connection_leaves_one_version,
            an_answer_lost_in_a_rotation_leaves_one_version_per_token,
            an_answer_lost_in_a_deletion_is_made_up_for,
            an_answer_lost_in_a_retirement_is_made_up_for,
            patience_asked_for_is_given,
            a_failing_server_is_unavailable,
            a_refusal_is_denied_and_harms_nothing,
        }
    };
}

macro_rules! each {
    ($instance:expr => $suite:ident: $($clause:ident,)+) => {
        $(#[tokio::test]
        async fn $clause() {
            crate::$suite::$clause(&$instance).await;
        })+
    };
}

pub(crate) use {contract, each, troubles};
