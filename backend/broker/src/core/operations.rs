//! Reads of operations, waiting for them, and the confirmation of what was created.

use std::{collections::BTreeSet, sync::Arc};

use fairmazon_model::{
    DomainError, id::OperationId, instance::Instance, operation::Operation,
    placement::PlacementGroup, volume::Volume,
};
use fairmazon_store::Key;
use tokio::sync::watch;

use super::{
    caller::Caller,
    draft::Draft,
    engine::{Engine, Planned},
    instances::scope,
    state::State,
    table::{Page, PageRequest},
    world::target_key,
};

/// Most ids that one confirmation names.
pub const CONFIRM_MAX: usize = 1_000;

/// Follows one operation until it has ended.
#[derive(Debug)]
pub struct OperationWatch {
    receiver: watch::Receiver<Arc<Operation>>,
    started: bool,
    ended: bool,
}

impl OperationWatch {
    /// The operation at once, then at each change; none after its final state.
    pub async fn next(&mut self) -> Option<Arc<Operation>> {
        if self.ended {
            return None;
        }
        if self.started && self.receiver.changed().await.is_err() {
            // The broker ends: the caller waits anew with the next one.
            self.ended = true;
            return None;
        }
        self.started = true;
        let operation = self.receiver.borrow_and_update().clone();
        self.ended = operation.state.is_final();
        Some(operation)
    }
}

impl Engine {
    /// One operation.
    ///
    /// # Errors
    /// `NotFound` when there is none that the caller sees.
    pub fn operation(
        &self,
        caller: &Caller,
        id: OperationId,
    ) -> Result<Arc<Operation>, DomainError> {
        let state = self.state();
        let row = state.world.operations.get(id).filter(|row| caller.sees(row.account));
        row.cloned().ok_or_else(|| DomainError::not_found("operation", id))
    }

    /// A page of the operations that the caller sees; only those done to `target` if it is given.
    pub fn operations(
        &self,
        caller: &Caller,
        page: PageRequest<OperationId>,
        target: Option<&str>,
    ) -> Page<Arc<Operation>, OperationId> {
        let state = self.state();
        let wanted = |row: &Operation| target.is_none_or(|target| row.target == target);
        let (items, more) =
            state.world.operations.page(scope(caller), page.after, page.size(), wanted);
        let next = if more { items.last().map(|row| row.id) } else { None };
        Page { items, next, revision: state.world.revision }
    }

    /// Follows an operation.
    ///
    /// # Errors
    /// `NotFound` when there is none that the caller sees.
    pub fn watch_operation(
        &self,
        caller: &Caller,
        id: OperationId,
    ) -> Result<OperationWatch, DomainError> {
        let operation = self.operation(caller, id)?;
        let mut state = self.state();
        // It may have ended since: the row that is there now is the one to start with.
        let operation = state.world.operations.get(id).cloned().unwrap_or(operation);
        let receiver = if operation.state.is_final() {
            watch::channel(operation).1
        } else {
            let watcher = state.watchers.entry(id);
            watcher.or_insert_with(|| watch::channel(operation).0).subscribe()
        };
        Ok(OperationWatch { receiver, started: false, ended: false })
    }

    /// Notes that the client keeps these ids: their creation keys are free for new things.
    /// Ids that are unknown to the caller, or need no confirmation, are passed over.
    ///
    /// # Errors
    /// `Invalid` when there are too many ids.
    pub async fn confirm_created(
        &self,
        caller: &Caller,
        ids: &[String],
    ) -> Result<(), DomainError> {
        if ids.len() > CONFIRM_MAX {
            return Err(DomainError::invalid(
                "ids",
                format!("at most {CONFIRM_MAX} ids at a time, these are {}", ids.len()),
            ));
        }
        let plan = |state: &mut State| {
            let mut draft = Draft::default();
            let keys: BTreeSet<_> = ids.iter().filter_map(|id| target_key(id)).collect();
            for key in keys {
                match key {
                    Key::Instance(id) => {
                        if let Some(row) = state.world.instances.get(id)
                            && row.unconfirmed
                            && caller.may_change(row.account)
                        {
                            draft.update(Instance { unconfirmed: false, ..Instance::clone(row) });
                        }
                    }
                    Key::Volume(id) => {
                        if let Some(row) = state.world.volumes.get(id)
                            && row.unconfirmed
                            && caller.may_change(row.account)
                        {
                            draft.update(Volume { unconfirmed: false, ..Volume::clone(row) });
                        }
                    }
                    Key::PlacementGroup(id) => {
                        if let Some(row) = state.world.groups.get(id)
                            && row.unconfirmed
                            && caller.may_change(row.account)
                        {
                            let row = PlacementGroup::clone(row);
                            draft.update(PlacementGroup { unconfirmed: false, ..row });
                        }
                    }
                    _ => {}
                }
            }
            Ok(Planned { draft, answer: () })
        };
        Ok(self.run(plan).await?)
    }
}
