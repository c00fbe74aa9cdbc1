//! Keys of volumes: which ones hosts wait for, and taking the customer's. What is carried here
//! can't be opened here.

use std::collections::HashSet;

use fairmazon_model::{
    DomainError, ErrorKind,
    id::{HostId, InstanceId, VolumeId},
    key::{GivenKey, KeyRequest},
    migration::{KeyWanted, Migration},
    volume::Volume,
};

use super::{
    audit,
    caller::Caller,
    draft::Draft,
    engine::{Engine, PlanError, Planned},
    state::State,
};

/// The version of the key that a host is given first. A host is forgotten with its keys, so every
/// one that is wanted is the first.
pub(crate) const FIRST: u32 = 1;
/// Most keys that are asked for or given at a time.
pub const KEYS_MAX: usize = 1_000;

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
    /// The keys that hosts wait for, of the caller's volumes: of one instance or volume, or of all. At most
    /// [`KEYS_MAX`]; the rest is asked for once these are given.
    ///
    /// # Errors
    /// `NotFound` for an instance or a volume that the caller does not see.
    pub fn key_requests(
        &self,
        caller: &Caller,
        of: KeysOf,
    ) -> Result<Vec<KeyRequest>, DomainError> {
        let account = caller.owner()?;
        let state = self.state();
        let requests = match of {
            KeysOf::Instance(id) => {
                let row = state.world.instances.get(id).filter(|row| row.account == account);
                let row = row.ok_or_else(|| DomainError::not_found("instance", id))?;
                let volumes = state.all_volumes_of(row);
                volumes.iter().filter_map(|volume| state.key_request(volume)).collect()
            }
            KeysOf::Volume(id) => {
                let row = state.world.volumes.get(id).filter(|row| row.account == account);
                let row = row.ok_or_else(|| DomainError::not_found("volume", id))?;
                state.key_request(row).into_iter().collect()
            }
            KeysOf::All => {
                let volumes = state.world.volumes.of_account(account);
                volumes.filter_map(|row| state.key_request(row)).take(KEYS_MAX).collect()
            }
        };
        Ok(requests)
    }

    /// Takes keys that hosts wait for. All of them or none.
    ///
    /// A key that was given already is not replaced: its volume may have been made with it. The
    /// same again changes nothing.
    ///
    /// # Errors
    /// `Invalid` for what is no key and for a volume that is named twice, `NotFound` for a volume that is not the caller's, `Conflict`
    /// for a host that does not wait for one, or for another key than was given first.
    pub async fn give_keys(&self, caller: &Caller, keys: &[GivenKey]) -> Result<(), DomainError> {
        if keys.len() > KEYS_MAX {
            return Err(DomainError::invalid(
                "keys",
                format!("at most {KEYS_MAX} keys at a time, these are {}", keys.len()),
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
        self.run(|state| self.plan_give_keys(state, caller, keys)).await.map_err(Into::into)
    }

    fn plan_give_keys(
        &self,
        state: &mut State,
        caller: &Caller,
        keys: &[GivenKey],
    ) -> Result<Planned<()>, PlanError> {
        let (now, mut draft) = (self.now(), Draft::default());
        for GivenKey { volume: id, host, key } in keys {
            let row = state.world.volumes.get(*id).filter(|row| caller.may_change(row.account));
            let row = row.cloned().ok_or_else(|| DomainError::not_found("volume", id))?;
            match row.keys.get(host) {
                Some(there) if there.fingerprint == key.fingerprint => continue,
                Some(_) => return Err(given_before(&row).into()),
                None => {}
            }
            let waits = state.key_request(&row).filter(|request| request.host == *host);
            if waits.is_none_or(|request| request.version != key.version) {
                return Err(DomainError::new(
                    ErrorKind::Conflict,
                    format!("no host waits for this key of {id}"),
                )
                .advise("ask again which keys are wanted, and seal for the hosts of the answer")
                .into());
            }
            state.holds.free(*id)?;
            let mut new = Volume::clone(&row);
            new.keys.insert(*host, key.clone());
            let (before, after) = (Some(row.as_ref()), Some(&new));
            draft.audit(audit::entry(caller, now, "volume.give_key", id, before, after));
            draft.update(new);
        }
        Ok(Planned { draft, answer: () })
    }
}

impl State {
    /// Whether the volume's host waits for its key.
    pub(crate) fn lacks_key(&self, row: &Volume) -> bool {
        row.host.is_some_and(|host| self.wants_key(row, host))
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
        if !self.lacks_key(row) {
            return None;
        }
        let host = row.host?;
        let sealing = self.world.hosts.get(host)?.sealing.as_ref()?;
        let certificate = sealing.certificate.clone();
        Some(KeyRequest { volume: row.id, host, version: FIRST, certificate })
    }
}

fn given_before(row: &Volume) -> DomainError {
    DomainError::new(ErrorKind::Conflict, format!("{} has a key on that host already", row.id))
        .advise("use the one that was given first: its wrapped copy is with the volume")
}
