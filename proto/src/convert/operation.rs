//! Operations.

use fairmazon_model::operation::{Operation, OperationKind, OperationState};

use crate::v1;

impl From<&Operation> for v1::Operation {
    fn from(operation: &Operation) -> Self {
        let waits_for_keys =
            matches!(operation.state, OperationState::Running { waits_for_keys: true, .. });
        let (state, waiting_for, error) = match &operation.state {
            OperationState::Running { waiting_for, .. } => {
                (v1::OperationState::Running, waiting_for.clone(), None)
            }
            OperationState::Done => (v1::OperationState::Done, String::new(), None),
            OperationState::Failed { error } => {
                (v1::OperationState::Failed, String::new(), Some(error.into()))
            }
        };
        let kind = match operation.kind {
            OperationKind::Create => v1::OperationKind::Create,
            OperationKind::Update => v1::OperationKind::Update,
            OperationKind::Delete => v1::OperationKind::Delete,
            OperationKind::Reboot => v1::OperationKind::Reboot,
            OperationKind::Migrate => v1::OperationKind::Migrate,
        };
        Self {
            id: operation.id.to_string(),
            account_id: operation.account.to_string(),
            kind: kind.into(),
            target_id: operation.target.clone(),
            state: state.into(),
            waiting_for,
            error,
            created_at_ms: operation.created_at.0,
            finished_at_ms: operation.finished_at.map_or(0, |at| at.0),
            revision: operation.revision.0,
            waits_for_keys,
        }
    }
}
