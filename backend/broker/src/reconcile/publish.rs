//! What a host is told: its whole desired set, computed from the rows.
//!
//! A machine that is to go is left out. A volume's data is destroyed only by the wish
//! `Delete`, which is made in two cases: its row says so, or its row says that the data is
//! decided to be on another host after it was decided to be on this one in vain.

use std::{collections::HashMap, sync::Arc};

use fairmazon_model::{
    catalogue::Catalogue,
    id::HostId,
    instance::{Decision, Instance, Power},
    key::SealedVolumeKey,
    machine::{DesiredSet, Disk, HostVolume, MachineSpec, VolumeCopy, VolumeWish},
    units::{Generation, UnixMs},
    volume::Volume,
};
use fairmazon_store::Key;

use crate::core::{hosts_now::Told, state::State, view::wants_to_run};

/// The name of the boot volume among a machine's disks.
const BOOT_DISK: &str = "boot";

/// Computes the host's set under its next generation, and notes what is to be gone under it.
pub(crate) fn desired_set(
    state: &mut State,
    catalogue: &Catalogue,
    host: HostId,
    now: UnixMs,
) -> DesiredSet {
    let revision = state.world.revision.0;
    let entry = state.hosts.entry(host);
    // The revision alone would do if commits were taken over in their order; they are not.
    let generation = Generation(revision.max(entry.sent.0 + 1));
    entry.sent = generation;
    let (mut machines, mut volumes, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    let leaving = entry.leaving.clone();
    let strays = entry.strays.clone();
    // By ascending id, as the rows come.
    let mut told = std::mem::take(&mut entry.told).into_iter().peekable();
    let mut telling = Vec::with_capacity(told.len() + 1);
    for row in state.world.instances_on(host) {
        match &row.decision {
            Some(decision) if row.deleting.is_none() && !leaving.contains(&row.id) => {
                while told.next_if(|told| told.instance < row.id).is_some() {}
                let before = told.next_if(|told| told.instance == row.id);
                if let Some(now) = tell(row, decision, before, catalogue, now) {
                    machines.push(now.spec.clone());
                    telling.push(now);
                }
            }
            _ => gone.push(Key::Instance(row.id)),
        }
    }
    for row in state.world.volumes_on(host) {
        let goes = row.deleting.is_some();
        if goes {
            gone.push(Key::Volume(row.id));
        }
        let instance = row.boot_of.and_then(|id| state.world.instances.get(id));
        let image = instance.and_then(|instance| catalogue.image(&instance.spec.image));
        let wish = if goes { VolumeWish::Delete } else { VolumeWish::Keep };
        volumes.push(host_volume(row, host, image.map(|image| image.id.clone()), wish));
    }
    gone.extend(state.world.volumes_maybe_on(host).map(Key::Volume));
    for stray in strays {
        if let Some(row) = state.world.volumes.get(stray)
            && row.host.is_some_and(|decided| decided != host)
            && row.may_be_on.contains(&host)
        {
            volumes.push(host_volume(row, host, None, VolumeWish::Delete));
        }
    }
    let entry = state.hosts.entry(host);
    let since: HashMap<Key, Generation> = gone
        .into_iter()
        .map(|key| (key, entry.gone_since.get(&key).copied().unwrap_or(generation)))
        .collect();
    entry.gone_since = since;
    entry.told = telling;
    DesiredSet { generation, machines, volumes }
}

/// What the host is told of the machine: what it was told before where that still holds.
fn tell(
    row: &Instance,
    decision: &Decision,
    before: Option<Told>,
    catalogue: &Catalogue,
    now: UnixMs,
) -> Option<Told> {
    let runs = wants_to_run(row, catalogue, now);
    if let Some(told) = &before
        && (told.revision, told.spec.power == Power::Running) == (row.revision, runs)
    {
        return before;
    }
    let spec = machine(row, decision, catalogue, runs)?;
    let told = before.map(|told| told.spec).filter(|told| **told == spec);
    let spec = told.unwrap_or_else(|| Arc::new(spec));
    Some(Told { instance: row.id, revision: row.revision, spec })
}

/// None when the catalogue has lost what the machine is made of: its host then keeps nothing
/// of it running, which is logged where it was lost.
fn machine(
    row: &Instance,
    decision: &Decision,
    catalogue: &Catalogue,
    runs: bool,
) -> Option<MachineSpec> {
    let flavor = catalogue.flavor(&decision.flavor)?;
    let image = catalogue.image(&row.spec.image)?;
    let disk = |(name, attachment): (&String, &fairmazon_model::instance::Attachment)| Disk {
        name: name.clone(),
        volume: attachment.volume_id,
        read_only: attachment.read_only,
    };
    Some(MachineSpec {
        instance: row.id,
        epoch: decision.epoch,
        spec_version: row.spec_version,
        name: row.spec.name.clone(),
        vcpus: flavor.vcpus,
        memory: flavor.memory,
        image: image.id.clone(),
        power: if runs { Power::Running } else { Power::Stopped },
        restart: row.spec.restart_policy,
        boot: Disk { name: BOOT_DISK.into(), volume: row.boot_volume_id, read_only: false },
        disks: row.spec.volumes.iter().map(disk).collect(),
        user_data: row.spec.user_data.clone(),
        ssh_keys: row.spec.ssh_keys.iter().cloned().collect(),
        stop_timeout_ms: row.spec.stop_timeout_ms,
        reboots: row.reboots,
        rebuilds: row.rebuilds,
        first_boots: row.first_boots,
        departure: None,
        arrival: None,
    })
}

fn host_volume(row: &Volume, host: HostId, image: Option<String>, wish: VolumeWish) -> HostVolume {
    let key = row.keys.get(&host).filter(|_| wish == VolumeWish::Keep);
    HostVolume {
        volume: row.id,
        size: row.spec.size,
        class: row.spec.class.clone(),
        image,
        copy: row
            .spec
            .source
            .map(|source| if row.copied { VolumeCopy::Made } else { VolumeCopy::Of(source) }),
        key: key.map(|key| SealedVolumeKey { version: key.version, sealed: key.sealed.clone() }),
        wish,
    }
}
