//! Commands and reads of provider hosts, and the sites that follow from them.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use fairmazon_model::{
    DomainError,
    access::{Credential, Role},
    host::{Host, HostSpec},
    id::{AccountId, HostId},
    instance::Instance,
    limits,
    units::{Revision, UnixMs},
};

use fairmazon_store::Noun;

use super::{
    accounts::{NewToken, insert_token, revoke, shown_once},
    answers::{Again, Request},
    audit,
    caller::Caller,
    draft::Draft,
    engine::{Engine, Planned},
    hosts_now::Standing,
    instances::scope,
    lost::declared_lost,
    rules,
    state::State,
    table::{Page, PageRequest},
    view::{HostView, SiteView},
    world::Holder,
};

impl Engine {
    /// Registers a host, with the token for its stream.
    ///
    /// # Errors
    /// `Invalid`, `AlreadyExists` for a name that is taken and for a repetition, as the secret
    /// can't be shown again.
    pub async fn register_host(
        &self,
        caller: &Caller,
        spec: HostSpec,
        key: &str,
    ) -> Result<(HostView, NewToken), DomainError> {
        let account = caller.owner()?;
        check_spec(self, &spec)?;
        let request = Request::new(account, "hosts.register", key, &spec)?;
        let host = Host {
            id: self.new_id(HostId::from_parts),
            account,
            spec,
            sealing: None,
            draining: None,
            conformity: None,
            lost_at: None,
            created_at: self.now(),
            revision: Revision(0),
        };
        let name = token_name(&host.spec);
        let token = self.token(account, Role::Host, &name, None, Some(host.id));
        self.once(
            request,
            |state, request| {
                check_site(state, &host)?;
                let there =
                    state.world.hosts.count_of(account) + state.holds.coming(account, Noun::Host);
                rules::check_count("hosts", there, self.config().hosts_per_account)?;
                let mut draft = Draft::default();
                let (at, id) = (self.now(), host.id);
                draft.audit(audit::entry(caller, at, "host.register", &id, None, Some(&host)));
                draft.answer(request.record(self, &id, None));
                draft.insert(host.clone());
                insert_token(&mut draft, caller, at, &token.credential);
                Ok(Planned { draft, answer: () })
            },
            |_, _, _| shown_once("the host"),
        )
        .await?;
        Ok((self.host_as_it_is(Arc::new(host)), token))
    }

    /// Replaces the spec of a host.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `AlreadyExists` for a name that is taken, `Precondition` when it
    /// would break what machines or volumes on it were promised.
    pub async fn update_host(
        &self,
        caller: &Caller,
        id: HostId,
        spec: HostSpec,
        key: &str,
    ) -> Result<HostView, DomainError> {
        let account = self.owner_of_host(caller, id)?;
        check_spec(self, &spec)?;
        let request = Request::new(account, "hosts.update", key, &(id, &spec))?;
        let row = self
            .once(
                request,
                |state, request| {
                    let old = host_of(state, account, id)?;
                    let new = Host { spec: spec.clone(), ..Host::clone(&old) };
                    check_site(state, &new)?;
                    check_keeps_promises(state, &old, &new.spec)?;
                    let mut draft = Draft::default();
                    let at = self.now();
                    let verb = "host.update";
                    draft.audit(audit::entry(caller, at, verb, &id, Some(&*old), Some(&new)));
                    draft.answer(request.record(self, &id, None));
                    draft.update(new.clone());
                    Ok(Planned { draft, answer: Arc::new(new) })
                },
                |_, _, _| Ok(Again::Same(host_of(&self.state(), account, id)?)),
            )
            .await?;
        Ok(self.host_as_it_is(row))
    }

    /// The host with its row as it is now: the plan did not know its revision yet.
    pub(super) fn host_as_it_is(&self, row: Arc<Host>) -> HostView {
        let state = self.state();
        let row = state.world.hosts.get(row.id).cloned().unwrap_or(row);
        HostView::new(&state, &row)
    }

    /// Gives a host another token for its stream; those that it had are revoked in the same
    /// commit, and its stream ends.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` for a repetition, as the secret can't be shown again.
    pub async fn rotate_host_token(
        &self,
        caller: &Caller,
        id: HostId,
        key: &str,
    ) -> Result<(HostView, NewToken), DomainError> {
        let account = self.owner_of_host(caller, id)?;
        let request = Request::new(account, "hosts.rotate_token", key, &id)?;
        let host = host_of(&self.state(), account, id)?;
        let token = self.token(account, Role::Host, &token_name(&host.spec), None, Some(id));
        self.once(
            request,
            |state, request| {
                if host_of(state, account, id)?.lost_at.is_some() {
                    return Err(declared_lost(id).into());
                }
                let mut draft = Draft::default();
                let at = self.now();
                revoke_all(&mut draft, caller, at, state, id);
                draft.answer(request.record(self, &id, None));
                draft.rely_on(id);
                insert_token(&mut draft, caller, at, &token.credential);
                Ok(Planned { draft, answer: () })
            },
            |_, _, _| shown_once("the token"),
        )
        .await?;
        Ok((self.host_as_it_is(host), token))
    }

    /// Removes a host that nothing is on; its tokens go with it. True when it stays for now.
    ///
    /// One that is `lost` for good, with all that is on it, can't show that it has nothing: nobody
    /// speaks for it any more, as all that it has to show is revoked, and what is deleted of it is
    /// gone at once. It stays until nothing is left.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` while a machine or a volume is on it, or while a lost one may hold
    /// a lease, so that machines may run on it.
    pub async fn remove_host(
        &self,
        caller: &Caller,
        id: HostId,
        lost: bool,
        key: &str,
    ) -> Result<bool, DomainError> {
        let account =
            self.owner_of_host(caller, id).or_else(|error| caller.account.ok_or(error))?;
        let verb = if lost { "hosts.lose" } else { "hosts.remove" };
        let request = Request::new(account, verb, key, &id)?;
        let stays = self
            .once(
                request,
                |state, request| {
                    let old = host_of(state, account, id)?;
                    let (machines, volumes) = bound_to(state, id);
                    let mut draft = Draft::default();
                    draft.answer(request.record(self, &id, None));
                    let stays = machines + volumes > 0;
                    if !stays {
                        self.remove(&mut draft, caller, state, &old);
                    } else if lost {
                        self.lose(&mut draft, caller, state, &old)?;
                    } else {
                        return Err(still_on(&old, machines, volumes).into());
                    }
                    Ok(Planned { draft, answer: stays })
                },
                |_, _, _| Ok(Again::Same(bound_to(&self.state(), id) != (0, 0))),
            )
            .await?;
        if stays {
            let mut state = self.state();
            state.look_at_all_bound_to(id);
            state.dirty.wake.notify_one();
        }
        Ok(stays)
    }

    fn remove(&self, draft: &mut Draft, caller: &Caller, state: &State, old: &Host) {
        let (after, at) = (None::<&Host>, self.now());
        draft.audit(audit::entry(caller, at, "host.remove", &old.id, Some(old), after));
        for row in state.world.credentials_of(Holder::Host(old.id)) {
            let (before, after) = (Some(row.as_ref()), None::<&Credential>);
            draft.audit(audit::entry(caller, at, "token.remove", &row.id, before, after));
            draft.delete(row.id, row.revision);
        }
        draft.delete(old.id, old.revision);
    }

    fn lose(
        &self,
        draft: &mut Draft,
        caller: &Caller,
        state: &State,
        old: &Host,
    ) -> Result<(), DomainError> {
        if state.standing(old.id) != Standing::Lapsed {
            let text = format!("the host {} may run machines: its lease has not ended", old.id);
            return Err(rules::precondition(text).advise(
                "a lease ends soon after its agent has spoken last, or the broker has started; empty a \
                 host that works with `fairmazon host drain`",
            ));
        }
        let at = self.now();
        revoke_all(draft, caller, at, state, old.id);
        let new = Host { lost_at: old.lost_at.or(Some(at)), ..old.clone() };
        draft.audit(audit::entry(caller, at, "host.lose", &old.id, Some(old), Some(&new)));
        draft.update(new);
        Ok(())
    }

    /// One host.
    ///
    /// # Errors
    /// `NotFound` when there is none that the caller sees.
    pub fn host(&self, caller: &Caller, id: HostId) -> Result<HostView, DomainError> {
        let state = self.state();
        let row = state.world.hosts.get(id).filter(|row| caller.sees(row.account));
        let row = row.ok_or_else(|| DomainError::not_found("host", id))?;
        Ok(HostView::new(&state, row))
    }

    /// A page of the hosts that the caller sees.
    pub fn hosts(&self, caller: &Caller, page: PageRequest<HostId>) -> Page<HostView, HostId> {
        let state = self.state();
        let (rows, more) = state.world.hosts.page(scope(caller), page.after, page.size(), |_| true);
        let next = if more { rows.last().map(|row| row.id) } else { None };
        let items = rows.iter().map(|row| HostView::new(&state, row)).collect();
        Page { items, next, revision: state.world.revision }
    }

    /// The host of this name of the account: for set-up.
    pub fn host_named(&self, account: AccountId, name: &str) -> Option<Arc<Host>> {
        let state = self.state();
        state.world.hosts.of_account(account).find(|row| row.spec.name == name).cloned()
    }

    /// All sites, by name, with the revision that is shown. Everybody may see them.
    pub fn sites(&self, page: &PageRequest<String>) -> Page<SiteView, String> {
        let state = self.state();
        let mut sites: BTreeMap<&str, SiteView> = BTreeMap::new();
        for host in state.world.hosts.iter() {
            let view = sites
                .entry(&host.spec.site.name)
                .or_insert_with(|| SiteView { site: host.spec.site.clone(), hosts_available: 0 });
            let takes = host.spec.schedulable
                && host.draining.is_none()
                && state.books.level(host.id).is_some();
            let available = takes && state.standing(host.id) == Standing::Connected;
            view.hosts_available += u32::from(available);
        }
        let after = page.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let found = sites
            .range::<str, _>((after, Bound::Unbounded))
            .map(|(_, view)| view.clone())
            .take(page.size() + 1);
        let name = |view: &SiteView| view.site.name.clone();
        Page::of(found.collect(), page.size(), name, state.world.revision)
    }

    /// Recomputes the capacity books from what is booked: for operators and tests.
    ///
    /// # Errors
    /// `Internal` with the first difference, which is a fault of the platform.
    pub fn audit_books(&self) -> Result<(), DomainError> {
        let audit = self.state().books.audit();
        audit.map_err(|imbalance| DomainError::internal(imbalance.to_string()))
    }

    pub(super) fn owner_of_host(
        &self,
        caller: &Caller,
        id: HostId,
    ) -> Result<AccountId, DomainError> {
        let state = self.state();
        let row = state.world.hosts.get(id).filter(|row| caller.may_change(row.account));
        row.map(|row| row.account).ok_or_else(|| DomainError::not_found("host", id))
    }
}

/// What the token of a host is called, within the length of a name.
pub(super) fn token_name(spec: &HostSpec) -> String {
    format!("host {}", spec.name).chars().take(limits::NAME_MAX).collect()
}

fn check_spec(engine: &Engine, spec: &HostSpec) -> Result<(), DomainError> {
    spec.check()?;
    let classes = spec.capacity.storage.keys();
    for class in classes {
        rules::check_class(&engine.catalogue(), class)
            .map_err(|error| DomainError { field: Some("capacity.storage".into()), ..error })?;
    }
    Ok(())
}

/// Revokes all that a host has to show.
fn revoke_all(draft: &mut Draft, caller: &Caller, at: UnixMs, state: &State, host: HostId) {
    let valid = state.world.credentials_of(Holder::Host(host));
    for row in valid.filter(|row| row.revoked_at.is_none()) {
        revoke(draft, caller, at, row);
    }
}

/// Why a host can't be removed yet.
fn still_on(host: &Host, machines: usize, volumes: usize) -> DomainError {
    let text = format!("{machines} machines and {volumes} volumes are on the host {}", host.id);
    rules::precondition(text).advise(
        "empty it with `fairmazon host drain`, and wait until what stays is deleted; for one that \
         is lost for good, with all that is on it, say `--lost`",
    )
}

/// How many machines and volumes are on the host, or come to it, or may be there.
pub(super) fn bound_to(state: &State, host: HostId) -> (usize, usize) {
    let world = &state.world;
    let volumes = world.volumes_on(host).count() + world.volumes_maybe_on(host).count();
    let will_come = |row: &&Arc<Instance>| row.reserved == Some(host) && row.migration.is_none();
    let coming = world.instances_coming_to(host).count();
    let coming = coming + world.instances.iter().filter(will_come).count();
    (world.instances_on(host).count() + coming, volumes)
}

/// Where a host stands and what it can do does not change for the worse under what is bound to
/// it: customers asked for it.
fn check_keeps_promises(state: &State, old: &Host, new: &HostSpec) -> Result<(), DomainError> {
    let (machines, volumes) = bound_to(state, old.id);
    let broken = if old.spec.site.country != new.site.country {
        "site.country"
    } else if old.spec.site.region != new.site.region {
        "site.region"
    } else if new.conformity < old.spec.conformity {
        "conformity"
    } else if !old.spec.features.is_subset(&new.features) {
        "features"
    } else {
        return Ok(());
    };
    if machines + volumes == 0 {
        return Ok(());
    }
    Err(DomainError {
        field: Some(broken.into()),
        ..rules::precondition(format!(
            "{machines} machines and {volumes} volumes are on the host {}, placed there for what \
             it is",
            old.id
        ))
    }
    .advise("set schedulable to false, and change this when nothing is on it any more"))
}

/// Hosts of one site say the same of it.
fn check_site(state: &State, host: &Host) -> Result<(), DomainError> {
    let site = &host.spec.site;
    let mut others = state.world.hosts.iter().filter(|other| other.id != host.id);
    match others.find(|other| other.spec.site.name == site.name) {
        Some(other) if other.spec.site != *site => Err(DomainError::invalid(
            "site",
            format!(
                "{} is in {} ({}, {}): every host of a site says the same of it",
                site.name, other.spec.site.town, other.spec.site.country, other.spec.site.region
            ),
        )
        .advise("say of it what they say, or give the site another name")),
        _ => Ok(()),
    }
}

pub(super) fn host_of(
    state: &State,
    account: AccountId,
    id: HostId,
) -> Result<Arc<Host>, DomainError> {
    let row = state.world.hosts.get(id).filter(|row| row.account == account);
    row.cloned().ok_or_else(|| DomainError::not_found("host", id))
}
