//! Operations: long work that can be waited for.

use serde::{Deserialize, Serialize};

use crate::{
    DomainError,
    id::{AccountId, OperationId},
    units::{Revision, UnixMs},
};

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Makes the target.
    Create,
    /// Changes it.
    Update,
    /// Deletes it.
    Delete,
    /// Reboots it.
    Reboot,
    /// Moves it to another host while it runs.
    Migrate,
}

/// How far an operation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Under way; `waiting_for` says on what, for the customer.
    Running {
        /// What it waits for; may be empty.
        waiting_for: String,
        /// Whether that is the customer's keys of the target's volumes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        waits_for_keys: bool,
    },
    /// All of it came about.
    Done,
    /// It ended without.
    Failed {
        /// Why.
        error: DomainError,
    },
}

impl OperationState {
    /// Under way, waiting for what the text says; for nothing in particular where it is empty.
    pub fn running(waiting_for: impl Into<String>) -> Self {
        Self::Running { waiting_for: waiting_for.into(), waits_for_keys: false }
    }

    /// Whether nothing more will happen.
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Running { .. })
    }
}

/// A long-running operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// Whose it is.
    pub account: AccountId,
    /// What it does.
    pub kind: OperationKind,
    /// The id of what it is done to.
    pub target: String,
    /// For an instance: the spec version that must be seen for it to be done.
    #[serde(default)]
    pub spec_version: u64,
    /// How far it is.
    pub state: OperationState,
    /// When it was asked for.
    pub created_at: UnixMs,
    /// When it ended.
    #[serde(default)]
    pub finished_at: Option<UnixMs>,
    /// Set by the store at each change.
    #[serde(default)]
    pub revision: Revision,
}
