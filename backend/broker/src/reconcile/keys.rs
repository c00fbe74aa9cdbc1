//! What hosts report of volumes' keys: which ones open them, and which ones are of no use.
//!
//! What a host says of the key that it has tried is right, and what the row says may be older than
//! that: the store may have been restored to a time before or amid an exchange.

use fairmazon_model::{
    id::HostId,
    key::{FIRST_KEY_VERSION, GivenKey, VolumeHostKey},
    machine::VolumeSeen,
    volume::Volume,
};

use super::batch::Batch;
use crate::core::{audit, keys};

impl Batch<'_> {
    /// Takes a key that a host reports: its own, or one that it has made for another host. False
    /// when a command under way holds the volume.
    pub(super) fn take_reported_key(&mut self, host: HostId, reported: &GivenKey) -> bool {
        if reported.host == host {
            self.take_own_key(host, reported)
        } else {
            self.take_key(host, reported)
        }
    }

    /// The key that opens a volume takes the place of one that does not.
    fn take_own_key(&mut self, host: HostId, own: &GivenKey) -> bool {
        let Some(row) = self.volume(own.volume).filter(|row| row.host == Some(host)) else {
            return true;
        };
        let is_known = |known: &VolumeHostKey| {
            (known.version, &known.fingerprint, &known.sealed)
                == (own.key.version, &own.key.fingerprint, &own.key.sealed)
        };
        if row.keys.get(&host).is_some_and(is_known) || row.deleting.is_some() {
            return true;
        }
        if !is_key(host, own) {
            return true;
        }
        if !self.may_change(row.id) {
            return false;
        }
        tracing::warn!(
            %host, volume = %row.id, known = row.keys.get(&host).map(|key| key.version),
            there = own.key.version,
            "a volume is opened by another key than the store knows of: was it restored?"
        );
        // Its customer may have given it for a later version than is known here, and is then asked
        // for one more.
        let known = row.next_key(host).filter(|next| is_known(next)).cloned();
        let made_for = row.keys.get(&host).map_or(own.key.made_for, |key| key.made_for);
        let key = known.unwrap_or_else(|| VolumeHostKey { made_for, ..own.key.clone() });
        let mut new = Volume { refused_keys: 0, ..Volume::clone(&row) };
        new.next_keys.retain(|of, next| *of != host || next.version > key.version);
        new.keys.insert(host, key);
        self.change_keys("broker.adopt_key", &row, new);
        true
    }

    /// Takes a key that a host has made for the one that its machine goes to, where that is
    /// wanted. False when a command under way holds the volume.
    fn take_key(&mut self, host: HostId, made: &GivenKey) -> bool {
        let Some(row) = self.volume(made.volume) else { return true };
        if !self.wants_made_key(host, &row, made) {
            return true;
        }
        if !is_key(host, made) {
            return true;
        }
        if !self.may_change(row.id) {
            return false;
        }
        let mut new = Volume::clone(&row);
        // It is wrapped for whom the key of this host is wrapped for.
        let made_for = row.keys.get(&host).map_or(FIRST_KEY_VERSION, |key| key.made_for);
        new.keys.insert(made.host, VolumeHostKey { made_for, ..made.key.clone() });
        self.change_keys("broker.take_key", &row, new);
        true
    }

    fn wants_made_key(&self, host: HostId, row: &Volume, made: &GivenKey) -> bool {
        let instance = self.state.world.moves_with(row.id);
        let to = instance.and_then(|instance| {
            let decided = instance.decision.as_ref()?.host == host;
            instance.open_migration().filter(|_| decided).map(|migration| migration.to)
        });
        row.host == Some(host)
            && to == Some(made.host)
            && made.key.version == keys::FIRST
            && self.state.wants_key(row, made.host)
    }

    /// The key that alone opens a volume now takes the place of the one before, which nobody needs
    /// any more.
    pub(super) fn take_changed_key(&mut self, host: HostId, seen: &VolumeSeen) -> bool {
        let Some(changed) = &seen.changed_key else { return true };
        let Some(row) = self.volume(seen.volume) else { return true };
        let Some(next) = row.next_key(host).filter(|next| next.fingerprint == *changed) else {
            return true;
        };
        if !self.may_change(row.id) {
            return false;
        }
        let mut new = Volume { refused_keys: 0, ..Volume::clone(&row) };
        new.keys.insert(host, next.clone());
        new.next_keys.remove(&host);
        self.change_keys("broker.change_key", &row, new);
        true
    }

    /// A next key that its host can't open is of no use to anybody: it is dropped, so that another
    /// one is asked for.
    pub(super) fn drop_refused_key(&mut self, host: HostId, seen: &VolumeSeen) -> bool {
        let Some(refused) = &seen.refused_key else { return true };
        let Some(row) = self.volume(seen.volume) else { return true };
        let is_refused = row
            .next_key(host)
            .is_some_and(|next| (next.version, &next.sealed) == (refused.version, &refused.sealed));
        if !is_refused {
            return true;
        }
        if !self.may_change(row.id) {
            return false;
        }
        tracing::warn!(%host, volume = %row.id, "a host can't open the next key of a volume");
        let refused_keys = row.refused_keys.saturating_add(1);
        let mut new = Volume { refused_keys, ..Volume::clone(&row) };
        new.next_keys.remove(&host);
        self.change_keys("broker.drop_key", &row, new);
        true
    }

    fn change_keys(&mut self, verb: &str, row: &Volume, new: Volume) {
        let id = row.id;
        self.log(audit::own_entry(self.now, verb, &id, Some(row), Some(&new)));
        self.change_volume(new);
        self.look_at_volume(id);
    }
}

/// Whether what a host reports is a key; it is told to the operator where it is none.
fn is_key(host: HostId, reported: &GivenKey) -> bool {
    let checked = reported.key.check();
    if let Err(error) = &checked {
        tracing::warn!(%host, volume = %reported.volume, %error, "a host has reported what is no key");
    }
    checked.is_ok()
}
