//! What a host is told: its whole desired set, computed from the rows.
//!
//! A machine that is to go is left out. One that migrates is told to both of its hosts. A
//! volume's data is destroyed only by the wish `Delete`, which is made in two cases: its row says
//! so, or its row says that the data is decided to be on another host after it was decided to be
//! on this one in vain, or before, and that host shows that it is there; never while it migrates
//! here.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use fairmazon_model::{
    catalogue::Catalogue,
    id::HostId,
    instance::{Decision, Instance, Power},
    key::{SealedVolumeKey, VolumeHostKey},
    machine::{DesiredSet, Disk, HostVolume, MachineSpec, VolumeCopy, VolumeWish},
    migration::{Arrival, Departure, Migration, ShownCertificates},
    units::{Generation, Mib, UnixMs, Vcpus},
    volume::Volume,
};
use fairmazon_store::Key;

use crate::core::{hosts_now::Told, state::State, view::wants_to_run};

/// The name of the boot volume among a machine's disks.
const BOOT_DISK: &str = "boot";
/// What the machine is said to have that volumes move in: enough for the firmware, which is never let
/// run. The host gives it none of that.
const CARRIER_MEMORY: Mib = Mib(128);

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
    let (mut stays, mut interrupted) = (Vec::new(), Vec::new());
    let mut rows: Vec<_> = state.world.instances_on(host).collect();
    let mut coming: Vec<_> = state.world.instances_coming_to(host).collect();
    if !coming.is_empty() {
        rows.extend(&coming);
        rows.sort_by_key(|row| row.id);
    }
    coming.retain(|row| row.open_migration().is_some());
    for row in rows {
        let Some(decision) = &row.decision else { continue };
        let migration = row.migration.as_ref();
        let comes = migration.filter(|migration| migration.to == host);
        // What moved when it was deleted is off here first: whether it had left before says where
        // the data is that is there after it.
        let goes = row.goes() && !(migration.is_some() && row.leaves_data());
        if decision.host == host && (goes || leaving.contains(&row.id)) {
            gone.push(Key::Instance(row.id));
            continue;
        }
        if row.waits_for_room() {
            continue;
        }
        if decision.host == host && row.notice().is_some() {
            interrupted.push(row.id);
        }
        if comes.is_some() && row.open_migration().is_none() {
            gone.push(Key::Instance(row.id));
        }
        if decision.host == host && migration.is_some_and(|migration| migration.given_up) {
            stays.push(row.id);
        }
        while told.next_if(|told| told.instance < row.id).is_some() {}
        let before = told.next_if(|told| told.instance == row.id);
        let way = match (migration, comes) {
            (_, Some(migration)) => {
                let there = Decision { host, epoch: migration.epoch, ..decision.clone() };
                Way::Comes(there, shows(state, decision.host))
            }
            (Some(migration), None) if row.open_migration().is_some() => {
                Way::Leaves(departure(state, migration))
            }
            _ => Way::Stays,
        };
        if let Some(now) = tell(row, decision, &way, before, catalogue, now) {
            machines.push(now.spec.clone());
            telling.push(now);
        }
    }
    for row in state.world.volumes_on(host) {
        if is_for_later(state, row) {
            continue;
        }
        let goes = row.deleting.is_some();
        if goes {
            gone.push(Key::Volume(row.id));
        }
        let instance = row.boot_of.and_then(|id| state.world.instances.get(id));
        let named = instance.map(|instance| &instance.spec.image).or(row.spec.image.as_ref());
        let image = named.and_then(|image| catalogue.image(image));
        if row.spec.image.is_some() && image.is_none() && !goes && !row.is_made() {
            // Its image has left the catalogue: it would be made empty.
            continue;
        }
        let wish = if goes { VolumeWish::Delete } else { VolumeWish::Keep };
        let image = image.map(|image| image.id.clone());
        let mut told = host_volume(row, instance.map(AsRef::as_ref), host, image, wish);
        if !goes && state.world.moves_with(row.id).is_some_and(|moving| moving.carrier) {
            // What is not there has gone before, and nothing is sent in its place.
            told.copy = Some(VolumeCopy::Made);
        }
        volumes.push(told);
    }
    // Of one whose migration was given up nothing is said before that has ended: the machine may
    // have come all the same, and then its data is here.
    let migrates_here = |id| state.world.volume_comes_to(id) == Some(host);
    for volume in coming.iter().filter_map(|row| row.migration.as_ref()).flat_map(|to| &to.volumes)
    {
        if let Some(row) = state.world.volumes.get(*volume) {
            // Whatever it was made of elsewhere, it comes here with its machine.
            let comes = host_volume(row, None, host, None, VolumeWish::Keep);
            volumes.push(HostVolume { copy: None, ..comes });
        }
    }
    let maybe_here = state.world.volumes_maybe_on(host).filter(|id| !migrates_here(*id));
    gone.extend(maybe_here.map(Key::Volume));
    for stray in strays {
        if let Some(row) = state.world.volumes.get(stray)
            && row.host.is_some_and(|decided| decided != host)
            && row.may_be_on.contains(&host)
            && !migrates_here(stray)
            && (row.deleting.is_some() || state.is_shown(row))
        {
            volumes.push(host_volume(row, None, host, None, VolumeWish::Delete));
        }
    }
    let entry = state.hosts.entry(host);
    entry.stays_since = since(&stays, &entry.stays_since, generation);
    entry.interrupted_since = since(&interrupted, &entry.interrupted_since, generation);
    entry.gone_since = since(&gone, &entry.gone_since, generation);
    entry.told = telling;
    DesiredSet { generation, machines, volumes }
}

/// Since which generation these are told, those that were told before since then.
fn since<K: Copy + Eq + Hash>(
    told: &[K],
    before: &HashMap<K, Generation>,
    now: Generation,
) -> HashMap<K, Generation> {
    told.iter().map(|key| (*key, before.get(key).copied().unwrap_or(now))).collect()
}

/// Whether the volume is to be made for a machine that waits for room: its host is told of both
/// at once, so that the machine can go elsewhere until then.
fn is_for_later(state: &State, row: &Volume) -> bool {
    let instance = row.boot_of.or(row.attached_to).and_then(|id| state.world.instances.get(id));
    instance.is_some_and(|instance| instance.waits_for_room())
        && row.deleting.is_none()
        && !row.is_made()
}

/// What a host has to do with a machine.
enum Way {
    /// It is there.
    Stays,
    /// It goes on elsewhere.
    Leaves(Departure),
    /// It comes from elsewhere, from where this is shown, to what would be this decision.
    Comes(Decision, ShownCertificates),
}

/// What the host is told that a machine leaves.
fn departure(state: &State, migration: &Migration) -> Departure {
    let to = migration.to;
    let sealing = state.world.hosts.get(to).and_then(|host| host.sealing.as_ref());
    let agent = state.hosts.agent(to);
    Departure {
        to,
        epoch: migration.epoch,
        address: agent.map(|agent| agent.migration_address.clone()).unwrap_or_default(),
        certificate: sealing.map(|sealing| sealing.certificate.clone()).unwrap_or_default(),
        keys_wanted: state.keys_wanted(migration),
        shows: shows(state, to),
    }
}

/// The certificates of a host that count.
fn shows(state: &State, host: HostId) -> ShownCertificates {
    state.world.certificates_of(host).map(|row| row.sha256.clone()).collect()
}

/// What the host is told of the machine: what it was told before where that still holds.
fn tell(
    row: &Instance,
    decision: &Decision,
    way: &Way,
    before: Option<Told>,
    catalogue: &Catalogue,
    now: UnixMs,
) -> Option<Told> {
    // One that moves while it is off starts when that has ended: it is given up for that.
    let runs = wants_to_run(row, now)
        && row.deleting.is_none()
        && !row.open_migration().is_some_and(|to| to.off);
    // What is told of one that leaves depends on more than its row.
    if let (Some(told), Way::Stays) = (&before, way)
        && (told.revision, told.spec.power == Power::Running) == (row.revision, runs)
    {
        return before;
    }
    let spec = match way {
        Way::Stays => MachineSpec {
            held: runs && !decision.may_run,
            ..machine(row, decision, catalogue, runs)?
        },
        Way::Leaves(departure) => MachineSpec {
            departure: Some(departure.clone()),
            ..machine(row, decision, catalogue, runs)?
        },
        Way::Comes(to, shows) => MachineSpec {
            arrival: Some(Arrival {
                from: decision.host,
                shows: shows.clone(),
                open: row.open_migration().is_some(),
            }),
            ..machine(row, to, catalogue, runs)?
        },
    };
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
    let (vcpus, memory, image) = if row.carrier {
        (Vcpus(1), CARRIER_MEMORY, String::new())
    } else {
        let flavor = catalogue.flavor(&decision.flavor)?;
        (flavor.vcpus, flavor.memory, catalogue.image(&row.spec.image)?.id.clone())
    };
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
        vcpus,
        memory,
        spot: row.spec.spot.is_some(),
        image,
        power: if runs { Power::Running } else { Power::Stopped },
        held: false,
        restart: row.spec.restart_policy,
        boot: Disk { name: BOOT_DISK.into(), volume: row.boot_volume_id, read_only: false },
        disks: row.spec.volumes.iter().map(disk).collect(),
        user_data: row.spec.user_data.clone(),
        ssh_keys: row.spec.ssh_keys.iter().cloned().collect(),
        stop_timeout_ms: row
            .notice()
            .map_or(row.spec.stop_timeout_ms, |interruption| interruption.notice_ms),
        reboots: row.reboots,
        rebuilds: row.rebuilds,
        first_boots: row.first_boots,
        departure: None,
        arrival: None,
    })
}

/// What the host is told of a volume; `boots` is the machine that boots from it.
fn host_volume(
    row: &Volume,
    boots: Option<&Instance>,
    host: HostId,
    image: Option<String>,
    wish: VolumeWish,
) -> HostVolume {
    let sealed = |key: Option<&VolumeHostKey>| {
        let key = key.filter(|_| wish == VolumeWish::Keep)?;
        Some(SealedVolumeKey { version: key.version, sealed: key.sealed.clone() })
    };
    HostVolume {
        volume: row.id,
        size: row.spec.size,
        class: row.spec.class.clone(),
        image,
        copy: match (row.spec.source, row.spec.import) {
            _ if row.was_shown(boots) => Some(VolumeCopy::Made),
            (None, None) => None,
            (Some(source), _) => Some(VolumeCopy::Of(source)),
            (None, Some(import)) => Some(VolumeCopy::Import(import)),
        },
        key: sealed(row.keys.get(&host)),
        next_key: sealed(row.next_key(host)),
        wish,
    }
}
