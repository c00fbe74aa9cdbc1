//! What the agent knows of the exchange of volumes' keys.

use fairmazon_model::{
    id::{InstanceId, VolumeId},
    key::GivenKey,
};

use super::{book::Book, volume::VolumeRecord};
use crate::plan::ChangeCase;

/// How far the exchange of a volume's key is, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct KeyChanging {
    pub(super) under_way: bool,
    /// The version of the next key that it was last tried with.
    pub(super) tried: Option<u32>,
    /// Version and fingerprint of the next key, once that alone opens the volume.
    pub(super) done: Option<(u32, String)>,
}

impl KeyChanging {
    /// The fingerprint of the key of this version, where that took the place of the one before.
    pub(super) fn done_with(&self, version: u32) -> Option<&str> {
        let (done, fingerprint) = self.done.as_ref()?;
        (*done == version).then_some(fingerprint)
    }
}

impl VolumeRecord {
    /// The hypervisor has no key of it any more.
    pub(super) fn key_lost(&mut self) {
        self.given = None;
        self.change = KeyChanging::default();
    }

    /// Fingerprint of the next key, once that alone opens it.
    pub(super) fn changed_key(&self) -> Option<String> {
        let next = self.desired.as_ref()?.next_key.as_ref()?;
        self.change.done_with(next.version).map(str::to_owned)
    }
}

impl Book {
    /// How it stands with the exchange of a volume's key.
    pub(super) fn change_case(&self, volume: VolumeId, record: &VolumeRecord) -> ChangeCase {
        let next = record.desired.as_ref().and_then(|wish| wish.next_key.as_ref());
        let settled = if record.is_unproven() { ChangeCase::Unproven } else { ChangeCase::Settled };
        let Some(next) = next.filter(|_| record.seen.is_some()) else { return settled };
        let held = self.is_copied(volume)
            || self.users(volume).any(|(_, machine)| machine.starts_or_moves());
        match &record.change {
            change if change.done_with(next.version).is_some() => settled,
            _ if held => ChangeCase::Held,
            change if change.tried == Some(next.version) => ChangeCase::Tried,
            _ => ChangeCase::Untried,
        }
    }

    /// The keys that the broker is to have: those that were made for other hosts, and those that
    /// open volumes here whose set does not name them.
    pub(super) fn keys_to_tell(&self) -> Vec<GivenKey> {
        let own = self.volumes.iter().filter_map(|(&volume, record)| {
            let key = record.key_to_tell()?.clone();
            Some(GivenKey { volume, host: self.host, key })
        });
        let mut keys: Vec<_> =
            own.chain(self.made_keys.iter().map(|made| made.key.clone())).collect();
        keys.sort_unstable_by_key(|given| given.volume);
        keys
    }

    /// Whether the key of one of the machine's volumes is being exchanged.
    pub(super) fn changes_keys_of(&self, instance: InstanceId) -> bool {
        let spec = self.machines.get(&instance).and_then(|record| record.desired.as_ref());
        spec.is_some_and(|spec| {
            let mut disks = spec.all_disks();
            disks.any(|disk| self.volumes.get(&disk.volume).is_some_and(|v| v.change.under_way))
        })
    }
}
