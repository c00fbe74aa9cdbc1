//! Commands and reads of placement groups.

use std::sync::Arc;

use fairmazon_model::{
    DomainError,
    id::{AccountId, PlacementGroupId},
    limits,
    placement::PlacementGroup,
    units::Revision,
};
use fairmazon_store::{Entity, Noun};

use super::{
    answers::{Again, Request},
    audit,
    caller::Caller,
    draft::Draft,
    engine::{Engine, Planned},
    instances::{Labels, has_labels, scope},
    rules,
    state::State,
    table::{Page, PageRequest},
};

impl Engine {
    /// Makes a placement group.
    ///
    /// # Errors
    /// `Invalid`, `LimitExceeded`, `Conflict` for a used key.
    pub async fn create_group(
        &self,
        caller: &Caller,
        name: &str,
        labels: &Labels,
        key: &str,
    ) -> Result<Arc<PlacementGroup>, DomainError> {
        let account = caller.owner()?;
        limits::check_name(name)?;
        limits::check_labels(labels)?;
        let request = Request::new(account, "groups.create", key, &(name, labels))?;
        let group = PlacementGroup {
            id: self.new_id(PlacementGroupId::from_parts),
            account,
            name: name.to_owned(),
            labels: labels.clone(),
            unconfirmed: true,
            created_at: self.now(),
            revision: Revision(0),
        };
        let group = self
            .once(
                request,
                |state, request| {
                    let there = state.world.groups.count_of(account)
                        + state.holds.coming(account, Noun::PlacementGroup);
                    let limit = self.config().groups_per_account;
                    rules::check_count("placement groups", there, limit)?;
                    let mut draft = Draft::default();
                    let (at, id) = (self.now(), group.id);
                    draft.audit(audit::entry(caller, at, "group.create", &id, None, Some(&group)));
                    draft.answer(request.record(self, &id, None));
                    draft.insert(group.clone());
                    Ok(Planned { draft, answer: Arc::new(group.clone()) })
                },
                |_, _, row| {
                    let row = row.and_then(PlacementGroup::from_row).filter(|row| row.unconfirmed);
                    Ok(row.map_or(Again::Retired, |row| Again::Same(Arc::new(row))))
                },
            )
            .await?;
        Ok(self.state().world.groups.get(group.id).cloned().unwrap_or(group))
    }

    /// Renames a group and replaces its labels.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub async fn update_group(
        &self,
        caller: &Caller,
        id: PlacementGroupId,
        name: &str,
        labels: &Labels,
        key: &str,
    ) -> Result<Arc<PlacementGroup>, DomainError> {
        let account = self.owner_of_group(caller, id)?;
        limits::check_name(name)?;
        limits::check_labels(labels)?;
        let request = Request::new(account, "groups.update", key, &(id, name, labels))?;
        let group = self
            .once(
                request,
                |state, request| {
                    let old = group_of(state, account, id)?;
                    let new = PlacementGroup {
                        name: name.to_owned(),
                        labels: labels.clone(),
                        ..PlacementGroup::clone(&old)
                    };
                    let mut draft = Draft::default();
                    let at = self.now();
                    draft.audit(audit::entry(
                        caller,
                        at,
                        "group.update",
                        &id,
                        Some(&*old),
                        Some(&new),
                    ));
                    draft.answer(request.record(self, &id, None));
                    draft.update(new.clone());
                    Ok(Planned { draft, answer: Arc::new(new) })
                },
                |_, _, _| Ok(Again::Same(group_of(&self.state(), account, id)?)),
            )
            .await?;
        Ok(self.state().world.groups.get(group.id).cloned().unwrap_or(group))
    }

    /// Deletes a group that nothing names.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` while an instance or a volume names it.
    pub async fn delete_group(
        &self,
        caller: &Caller,
        id: PlacementGroupId,
        key: &str,
    ) -> Result<(), DomainError> {
        let account =
            self.owner_of_group(caller, id).or_else(|error| caller.account.ok_or(error))?;
        let request = Request::new(account, "groups.delete", key, &id)?;
        self.once(
            request,
            |state, request| {
                let old = group_of(state, account, id)?;
                let users = state.world.users_of(id);
                if users > 0 {
                    return Err(rules::precondition(format!(
                        "{users} instances or volumes name the placement group {id}"
                    ))
                    .advise("take it out of their placement first")
                    .into());
                }
                let mut draft = Draft::default();
                let after = None::<&PlacementGroup>;
                draft.audit(audit::entry(
                    caller,
                    self.now(),
                    "group.delete",
                    &id,
                    Some(&*old),
                    after,
                ));
                draft.answer(request.record(self, &id, None));
                draft.delete(id, old.revision);
                Ok(Planned { draft, answer: () })
            },
            |_, _, _| Ok(Again::Same(())),
        )
        .await
    }

    /// One placement group.
    ///
    /// # Errors
    /// `NotFound` when there is none that the caller sees.
    pub fn group(
        &self,
        caller: &Caller,
        id: PlacementGroupId,
    ) -> Result<Arc<PlacementGroup>, DomainError> {
        let state = self.state();
        let row = state.world.groups.get(id).filter(|row| caller.sees(row.account));
        row.cloned().ok_or_else(|| DomainError::not_found("placement group", id))
    }

    /// A page of the groups that the caller sees and that have all of `labels`.
    pub fn groups(
        &self,
        caller: &Caller,
        page: PageRequest<PlacementGroupId>,
        labels: &Labels,
    ) -> Page<Arc<PlacementGroup>, PlacementGroupId> {
        let state = self.state();
        let wanted = |row: &PlacementGroup| has_labels(&row.labels, labels);
        let (items, more) = state.world.groups.page(scope(caller), page.after, page.size(), wanted);
        let next = if more { items.last().map(|row| row.id) } else { None };
        Page { items, next, revision: state.world.revision }
    }

    fn owner_of_group(
        &self,
        caller: &Caller,
        id: PlacementGroupId,
    ) -> Result<AccountId, DomainError> {
        let state = self.state();
        let row = state.world.groups.get(id).filter(|row| caller.may_change(row.account));
        row.map(|row| row.account).ok_or_else(|| DomainError::not_found("placement group", id))
    }
}

fn group_of(
    state: &State,
    account: AccountId,
    id: PlacementGroupId,
) -> Result<Arc<PlacementGroup>, DomainError> {
    let row = state.world.groups.get(id).filter(|row| row.account == account);
    row.cloned().ok_or_else(|| DomainError::not_found("placement group", id))
}
