//! Reads of operations, waiting for them, and the confirmation of what was created.

use std::{collections::BTreeSet, sync::Arc};

use fairmazon_model::{
    DomainError, id::OperationId, limits::CONFIRM_MAX, operation::Operation, units::UnixMs,
};
use fairmazon_store::{Key, Noun};
use tokio::sync::watch;

use super::{
    answers::{Again, Request},
    audit,
    caller::Caller,
    draft::Draft,
    engine::{Engine, PlanError, Planned},
    instances::scope,
    state::State,
    table::{Page, PageRequest},
    world::target_key,
};

/// Most of them that are confirmed by one commit.
const CONFIRM_AT_ONCE: usize = 100;

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
    /// Ids that are unknown to the caller, or need no confirmation, are passed over. `key` is that
    /// of the request, and may be empty.
    ///
    /// # Errors
    /// `Invalid` when there are too many ids; `Conflict` when the key was used for other ids.
    pub async fn confirm_created(
        &self,
        caller: &Caller,
        ids: &[String],
        key: &str,
    ) -> Result<(), DomainError> {
        let account = caller.owner()?;
        if ids.len() > CONFIRM_MAX {
            return Err(DomainError::invalid(
                "ids",
                format!("at most {CONFIRM_MAX} ids at a time, these are {}", ids.len()),
            ));
        }
        let mut request = Request::if_named(account, "operations.confirm_created", key, &ids)?;
        let nouns = [Noun::Instance, Noun::Volume, Noun::PlacementGroup];
        let keys = ids.iter().filter_map(|id| target_key(id));
        let mut left: BTreeSet<_> = keys.filter(|key| nouns.contains(&key.noun())).collect();
        loop {
            let plan = |state: &mut State, request: Option<&Request>| {
                let mut planned = plan_confirmation(state, caller, &left, self.now())?;
                let record = request.and_then(|request| request.record(self, &account, None));
                planned.draft.answer(record);
                Ok(planned)
            };
            // The key is kept with the first round. A repetition does the other ones, which may
            // have been cut off; what is confirmed stays so.
            let again = |_: &_, _: &_, _| Ok(Again::Same(Vec::new()));
            let done = self.once_if_named(request.take(), plan, again).await?;
            done.iter().for_each(|key| _ = left.remove(key));
            if left.is_empty() {
                return Ok(());
            }
            // What is held by others now is left for a later round: no row waits for another.
        }
    }
}

/// Confirms as many of these as are free now; answers which, with those that need nothing.
fn plan_confirmation(
    state: &mut State,
    caller: &Caller,
    left: &BTreeSet<Key>,
    at: UnixMs,
) -> Result<Planned<Vec<Key>>, PlanError> {
    let (mut draft, mut done, mut held) = (Draft::default(), Vec::new(), None);
    for key in left {
        if done.len() == CONFIRM_AT_ONCE {
            break;
        }
        if state.holds.free(*key).is_err() {
            held = Some(*key);
            continue;
        }
        done.push(*key);
        macro_rules! confirm {
            ($table:ident, $id:expr, $verb:expr) => {
                if let Some(row) = state.world.$table.get($id)
                    && row.unconfirmed
                    && caller.may_change(row.account)
                {
                    let mut new = row.as_ref().clone();
                    new.unconfirmed = false;
                    let (before, after) = (Some(row.as_ref()), Some(&new));
                    draft.audit(audit::entry(caller, at, $verb, &$id, before, after));
                    draft.update(new);
                }
            };
        }
        match *key {
            Key::Instance(id) => confirm!(instances, id, "instance.confirm"),
            Key::Volume(id) => confirm!(volumes, id, "volume.confirm"),
            Key::PlacementGroup(id) => confirm!(groups, id, "group.confirm"),
            _ => {}
        }
    }
    match held {
        Some(held) if done.is_empty() => Err(PlanError::Held(held)),
        _ => Ok(Planned { draft, answer: done }),
    }
}
