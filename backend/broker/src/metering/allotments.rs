//! What a change of rows allots to whom: kept beside the rows, as a host may tell what it has
//! measured long after the instance or the volume is gone.

use fairmazon_model::{
    catalogue::Catalogue,
    instance::Instance,
    migration::Migration,
    units::{Epoch, Gib, Mib, UnixMs, Vcpus},
    usage::{Allotment, Subject},
    volume::Volume,
};
use fairmazon_store::{AllotmentChange, Key, Row, Write};

use crate::core::{Engine, world::World};

impl Engine {
    /// What the writes change of what is allotted.
    pub(crate) fn allotments(&self, writes: &[Write]) -> Vec<AllotmentChange> {
        changes(&self.state().world, &self.catalogue(), writes, self.now())
    }
}

/// What the writes change of what is allotted; `world` is from before them.
fn changes(
    world: &World,
    catalogue: &Catalogue,
    writes: &[Write],
    at: UnixMs,
) -> Vec<AllotmentChange> {
    let change = |write: &Write| {
        let subject = subject(write.key())?;
        let before = current(world, catalogue, subject, at);
        let now = match write {
            Write::Put(Row::Instance(row), _) => {
                let now = of_instance(row, catalogue, at);
                match world.instances.get(row.id) {
                    Some(before) => now.map(|now| as_it_lands(now, before, catalogue)),
                    None => now,
                }
            }
            Write::Put(Row::Volume(row), _) => of_volume(row, at),
            _ => None,
        };
        (before != now).then_some(AllotmentChange { subject, at, now })
    };
    writes.iter().filter_map(change).collect()
}

/// What is allotted to the subject by the rows as they are.
pub(crate) fn current(
    world: &World,
    catalogue: &Catalogue,
    subject: Subject,
    at: UnixMs,
) -> Option<Allotment> {
    match subject {
        Subject::Instance(id) => of_instance(world.instances.get(id)?, catalogue, at),
        Subject::Volume(id) => of_volume(world.volumes.get(id)?, at),
    }
}

/// What the subject will have where it moves to; none when it moves nowhere.
pub(crate) fn coming(
    world: &World,
    catalogue: &Catalogue,
    subject: Subject,
    at: UnixMs,
) -> Option<Allotment> {
    match subject {
        Subject::Instance(id) => {
            let row = world.instances.get(id)?;
            let Migration { to, epoch, .. } = *row.migration.as_ref()?;
            let here = of_instance(row, catalogue, at)?;
            let there = Allotment { host: to, epoch, ..here };
            Some(as_it_lands(there, row, catalogue))
        }
        Subject::Volume(id) => {
            let here = of_volume(world.volumes.get(id)?, at)?;
            Some(Allotment { host: world.volume_comes_to(id)?, ..here })
        }
    }
}

fn subject(key: Key) -> Option<Subject> {
    match key {
        Key::Instance(id) => Some(Subject::Instance(id)),
        Key::Volume(id) => Some(Subject::Volume(id)),
        _ => None,
    }
}

/// Where it is decided to run, once it has its room there. One that is to be deleted runs until its
/// host has stopped it.
fn of_instance(row: &Instance, catalogue: &Catalogue, at: UnixMs) -> Option<Allotment> {
    let decision = row.decision.as_ref().filter(|_| !row.waits_for_room())?;
    let flavor = catalogue.flavor(&decision.flavor)?;
    Some(Allotment {
        subject: Subject::Instance(row.id),
        epoch: decision.epoch,
        host: decision.host,
        account: row.account,
        vcpus: flavor.vcpus,
        memory: flavor.memory,
        size: Gib(0),
        class: String::new(),
        from: at,
        until: None,
    })
}

/// What a machine has that lands: as much as it went with, until what was decided since is brought
/// about.
fn as_it_lands(now: Allotment, before: &Instance, catalogue: &Catalogue) -> Allotment {
    let lands = before.migration.as_ref().filter(|migration| migration.epoch == now.epoch);
    match lands.and_then(|migration| catalogue.flavor(&migration.flavor)) {
        Some(had) => {
            Allotment { vcpus: now.vcpus.max(had.vcpus), memory: now.memory.max(had.memory), ..now }
        }
        None => now,
    }
}

/// Where its data is, until its deletion is asked for.
fn of_volume(row: &Volume, at: UnixMs) -> Option<Allotment> {
    let host = row.host.filter(|_| row.deleting.is_none())?;
    Some(Allotment {
        subject: Subject::Volume(row.id),
        epoch: Epoch(0),
        host,
        account: row.account,
        vcpus: Vcpus(0),
        memory: Mib(0),
        size: row.spec.size,
        class: row.spec.class.clone(),
        from: at,
        until: None,
    })
}
