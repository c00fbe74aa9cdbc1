//! What every implementation of [`Store`] must do, as one suite.
//!
//! An implementation's test hands in an [`Opener`]; the suite opens fresh stores and opens
//! them again, and never looks behind the trait.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

pub(crate) mod audit;
pub(crate) mod commits;
pub(crate) mod durability;
pub(crate) mod reads;
pub(crate) mod rows;
pub(crate) mod usage;

use std::sync::Arc;

use fairmazon_model::id::AccountId;
use fairmazon_store::{Commit, Committed, Expect, Row, Store, StoreError, Write};

/// Opens the store of one test; called again after a close it opens the same store.
pub(crate) trait Opener {
    /// Opens it.
    fn open(&self) -> Result<Arc<dyn Store>, StoreError>;
}

/// Runs one case of the suite by name: `case!(opener, commits::all_or_nothing)`.
macro_rules! suite {
    ($opener:path: $($part:ident::{$($case:ident),+ $(,)?});+ $(;)?) => {
        $(mod $part {
            $(
                #[tokio::test]
                async fn $case() {
                    crate::conformance::$part::$case(&$opener()).await;
                }
            )+
        })+
    };
}
pub(crate) use suite;

/// All cases, for an implementation's test file.
macro_rules! all_cases {
    ($opener:path) => {
        crate::conformance::suite! { $opener:
            commits::{
                a_commit_is_all_or_nothing,
                expectations_hold,
                revisions_grow_by_one_and_reach_the_rows,
                the_order_of_writes_does_not_matter,
                contradictions_are_refused,
                references_and_duplicates_are_refused,
                an_idempotency_key_counts_once,
                an_idempotency_key_takes_the_place_of_the_answer_that_it_names,
                idempotency_keys_expire,
                concurrent_writers_lose_nothing,
                one_of_many_wins_a_row,
            };
            reads::{
                every_noun_survives_the_store,
                load_streams_everything_parents_first,
                load_is_of_one_moment,
                changes_follow_whole_commits,
                deletions_are_kept_until_forgotten,
                a_follower_reaches_the_same_state,
            };
            audit::{
                entries_are_chained_and_exportable,
                a_failed_commit_leaves_no_entry,
                the_chain_goes_on_after_reopening,
            };
            usage::{
                windows_are_added_once_and_never_changed,
                windows_of_a_failed_commit_are_not_there,
                an_allotment_ends_where_another_one_begins,
                use_at_two_places_at_once_shows,
                sums_are_by_subject_and_page,
                old_windows_and_allotments_go,
            };
            durability::{
                everything_is_there_after_reopening,
                a_closed_store_says_so,
                a_second_opener_is_refused,
                a_backup_is_a_whole_store,
            };
        }
    };
}
pub(crate) use all_cases;

/// A fresh store with one account.
async fn with_account(opener: &dyn Opener) -> (Arc<dyn Store>, AccountId) {
    let store = opener.open().unwrap();
    put_new(&*store, rows::account(0)).await;
    (store, rows::account_id(0))
}

async fn put_new(store: &dyn Store, row: impl Into<Row>) -> Committed {
    store.commit(Commit::of([Write::Put(row.into(), Expect::New)])).await.unwrap()
}

async fn everything(store: &dyn Store) -> Vec<Row> {
    let mut rows = Vec::new();
    store.load(&mut |row| rows.push(row)).await.unwrap();
    rows.sort_by_key(Row::key);
    rows
}
