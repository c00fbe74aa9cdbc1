//! Keys of volumes: which ones hosts wait for, and taking the customer's. What is carried here
//! can't be opened here.

use std::collections::HashSet;

use fairmazon_model::{
    DomainError, ErrorKind,
    id::{HostId, InstanceId, VolumeId},
    key::{GivenKey, KeyRequest},
    limits::GIVE_KEYS_MAX,
    migration::{KeyWanted, Migration},
    volume::Volume,
};

use super::{
    answers::{Again, Request},
    audit,
    caller::Caller,
    draft::Draft,
    engine::{Engine, PlanError, Planned},
    state::State,
    table::{Page, PageRequest},
};

/// The version of the key that a host is given first. A host is forgotten with its keys; as long as
/// it has one, the next that is wanted has the version after it.
pub(crate) const FIRST: u32 = 1;

/// Which keys are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysOf {
    /// Those of all volumes of the account.
    All,
    /// Those of an instance's volumes.
    Instance(InstanceId),
    /// That of one volume.
    Volume(VolumeId),
}

impl Engine {
    /// A page of the keys that hosts wait for, of the caller's volumes: of one instance or volume,
    /// or of all. That of a volume which waits for the file that it is imported from is named only
    /// where that volume is asked about: no other key than the file's is of use, and who gives all
    /// that are wanted has not got it.
    ///
    /// # Errors
    /// `NotFound` for an instance or a volume that the caller does not see.
    pub fn key_requests(
        &self,
        caller: &Caller,
        of: KeysOf,
        page: PageRequest<VolumeId>,
    ) -> Result<Page<KeyRequest, VolumeId>, DomainError> {
        let account = caller.owner()?;
        let state = self.state();
        let is_after = |id: VolumeId| page.after.is_none_or(|after| id > after);
        let wanted = |row: &Volume, imports: bool| {
            let is_meant = is_after(row.id) && (imports || row.imports().is_none());
            if is_meant { state.key_request(row) } else { None }
        };
        let most = page.size() + 1;
        let requests = match of {
            KeysOf::Instance(id) => {
                let row = state.world.machine(id).filter(|row| row.account == account);
                let row = row.ok_or_else(|| DomainError::not_found("instance", id))?;
                let mut volumes = state.all_volumes_of(row);
                volumes.sort_unstable_by_key(|volume| volume.id);
                volumes.iter().filter_map(|row| wanted(row, false)).take(most).collect()
            }
            KeysOf::Volume(id) => {
                let row = state.world.volumes.get(id).filter(|row| row.account == account);
                let row = row.ok_or_else(|| DomainError::not_found("volume", id))?;
                wanted(row, true).into_iter().collect()
            }
            KeysOf::All => {
                let volumes = state.world.volumes.of_account(account);
                volumes.filter_map(|row| wanted(row, false)).take(most).collect()
            }
        };
        Ok(Page::of(requests, page.size(), |request| request.volume, state.world.revision))
    }

    /// Takes keys that hosts wait for. All of them or none.
    ///
    /// A key that was given already is not replaced: its volume may have been made with it. The
    /// next one of a volume whose `key_version` was raised is kept beside it, until the host has
    /// said that it took its place. The same again changes nothing. `key` is that of the request,
    /// and may be empty.
    ///
    /// # Errors
    /// `Invalid` for what is no key and for a volume that is named twice, `NotFound` for a volume that is not the caller's, `Conflict`
    /// for a host that does not wait for one, or for another key than was given first.
    pub async fn give_keys(
        &self,
        caller: &Caller,
        keys: &[GivenKey],
        key: &str,
    ) -> Result<(), DomainError> {
        let account = caller.owner()?;
        if keys.len() > GIVE_KEYS_MAX {
            return Err(DomainError::invalid(
                "keys",
                format!("at most {GIVE_KEYS_MAX} keys at a time, these are {}", keys.len()),
            ));
        }
        let mut volumes = HashSet::with_capacity(keys.len());
        for (index, given) in keys.iter().enumerate() {
            if !volumes.insert(given.volume) {
                return Err(DomainError::invalid(
                    "volume_id",
                    format!("{} is in the list twice: give one key of each", given.volume),
                )
                .below(&format!("keys[{index}]")));
            }
            given.key.check().map_err(|error| error.below(&format!("keys[{index}]")))?;
        }
        let request = Request::if_named(account, "volumes.give_keys", key, &keys)?;
        let plan = |state: &mut State, request: Option<&Request>| {
            let mut planned = self.plan_give_keys(state, caller, keys)?;
            planned.draft.answer(request.and_then(|request| request.record(self, &account, None)));
            Ok(planned)
        };
        self.once_if_named(request, plan, |_, _, _| Ok(Again::Same(()))).await
    }

    fn plan_give_keys(
        &self,
        state: &State,
        caller: &Caller,
        keys: &[GivenKey],
    ) -> Result<Planned<()>, PlanError> {
        let (now, mut draft) = (self.now(), Draft::default());
        for GivenKey { volume: id, host, key } in keys {
            let row = state.world.volumes.get(*id).filter(|row| caller.may_change(row.account));
            let row = row.cloned().ok_or_else(|| DomainError::not_found("volume", id))?;
            let mut there = row.keys.get(host).into_iter().chain(row.next_key(*host));
            if there.any(|there| there.fingerprint == key.fingerprint) {
                continue;
            }
            let waits = state.key_request(&row).filter(|request| request.host == *host);
            if waits.is_none() && row.keys.contains_key(host) {
                return Err(given_before(&row).into());
            }
            let asked = (key.version, key.made_for);
            if waits.is_none_or(|request| (request.version, request.made_for) != asked) {
                return Err(DomainError::new(
                    ErrorKind::Conflict,
                    format!("no host waits for this key of {id}"),
                )
                .advise("ask again which keys are wanted, and seal for the hosts of the answer")
                .into());
            }
            state.holds.free(*id)?;
            let mut new = Volume::clone(&row);
            if row.keys.contains_key(host) {
                new.next_keys.insert(*host, key.clone());
            } else {
                new.keys.insert(*host, key.clone());
            }
            let (before, after) = (Some(row.as_ref()), Some(&new));
            draft.audit(audit::entry(caller, now, "volume.give_key", id, before, after));
            draft.update(new);
        }
        Ok(Planned { draft, answer: () })
    }
}

impl State {
    /// Whether the volume's host waits for its key, without which it can't make or open it.
    pub(crate) fn lacks_key(&self, row: &Volume) -> bool {
        row.host.is_some_and(|host| self.wants_key(row, host))
    }

    /// Whether the volume's host waits for the key that takes the place of the one that it has.
    pub(crate) fn lacks_next_key(&self, row: &Volume) -> bool {
        let wants_one = row.has_old_key() && !row.refuses_keys();
        let Some(host) = row.host.filter(|_| wants_one) else { return false };
        // The next host of a machine that moves gets a key of its own; then this one is asked for.
        row.next_key(host).is_none() && self.world.moves_with(row.id).is_none()
    }

    /// The keys that the host a machine goes to has not got yet.
    pub(crate) fn keys_wanted(&self, migration: &Migration) -> Vec<KeyWanted> {
        let wanted = |id: &VolumeId| {
            let row = self.world.volumes.get(*id)?;
            self.wants_key(row, migration.to)
                .then_some(KeyWanted { volume: row.id, version: FIRST })
        };
        migration.volumes.iter().filter_map(wanted).collect()
    }

    /// Whether the volume, which shall be on the host, has no key there and needs one.
    pub(crate) fn wants_key(&self, row: &Volume, host: HostId) -> bool {
        let seals = self.world.hosts.get(host).is_some_and(|host| host.sealing.is_some());
        row.deleting.is_none() && seals && !row.keys.contains_key(&host)
    }

    /// The key that the volume's host waits for.
    fn key_request(&self, row: &Volume) -> Option<KeyRequest> {
        let host = row.host.filter(|host| !self.is_given_up(*host))?;
        let version = match row.keys.get(&host) {
            None if self.wants_key(row, host) => FIRST,
            Some(key) if self.lacks_next_key(row) => key.version.saturating_add(1),
            _ => return None,
        };
        let sealing = self.world.hosts.get(host)?.sealing.as_ref()?;
        let certificate = sealing.certificate.clone();
        let made_for = row.spec.key_version;
        Some(KeyRequest { volume: row.id, host, version, made_for, certificate })
    }
}

fn given_before(row: &Volume) -> DomainError {
    DomainError::new(ErrorKind::Conflict, format!("{} has a key on that host already", row.id))
        .advise("use the one that was given first: its wrapped copy is with the volume")
}
