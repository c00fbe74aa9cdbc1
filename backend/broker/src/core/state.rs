//! The broker's whole state in memory: rows, capacity books, hosts, what is under way, what
//! must be looked at. One lock around all of it; nothing slow happens under the lock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use fairmazon_model::{
    access::Credential,
    catalogue::Catalogue,
    host::Host,
    id::{HostId, InstanceId, OperationId, VolumeId},
    instance::Instance,
    interruption::Interruption,
    machine::ObservedSet,
    operation::Operation,
    placement::Placement,
    units::{Epoch, Revision, UnixMs},
    volume::Volume,
};
use fairmazon_scheduler::{MachineBooking, Share, VolumeBooking};
use fairmazon_store::{Key, Row, Write};
use tokio::{
    sync::{Notify, broadcast, watch},
    time::Instant,
};

use super::{
    books::{Books, machine_booking, volume_booking},
    config::CoreConfig,
    draft::{Draft, Holds},
    engine::{PlanError, Planned},
    follow::Bells,
    hosts_now::{HostsNow, Standing},
    rules,
    world::{Changed, World},
};

/// How many revoked credentials a slow listener may lag behind before it looks at all of its own.
const REVOCATIONS_KEPT: usize = 256;

/// Everything in memory.
pub(crate) struct State {
    catalogue: Arc<Catalogue>,
    pub(crate) world: World,
    pub(crate) books: Books,
    pub(crate) hosts: HostsNow,
    pub(crate) holds: Holds,
    pub(crate) dirty: Dirty,
    /// The last report of each host that has not been taken yet.
    pub(crate) reports: BTreeMap<HostId, ObservedSet>,
    pub(crate) watchers: HashMap<OperationId, watch::Sender<Arc<Operation>>>,
    /// Why instances and volumes of hosts that are being emptied did not leave when that was tried
    /// last.
    pub(crate) staying: HashMap<Key, String>,
    pub(crate) bells: Bells,
    pub(crate) revoked: broadcast::Sender<Arc<Credential>>,
}

/// What the reconciler must look at.
#[derive(Default)]
pub(crate) struct Dirty {
    /// Rung when something was added.
    pub(crate) wake: Arc<Notify>,
    pub(crate) instances: BTreeSet<InstanceId>,
    pub(crate) volumes: BTreeSet<VolumeId>,
    /// Instances that no host could take; looked at again when capacity changes.
    pub(crate) unplaced: BTreeSet<InstanceId>,
    /// Placed instances that are to be on another host.
    pub(crate) displaced: BTreeSet<InstanceId>,
    /// Instances that are asked, when they are looked at, whether another host is better by far.
    pub(crate) restless: BTreeSet<InstanceId>,
    /// Hosts whose proof of the standard may call for something.
    pub(crate) hosts: BTreeSet<HostId>,
    /// Whether capacity was added since the unplaced were tried.
    pub(crate) room: bool,
    /// Instances that wait for a point in time and are looked at again at each tick.
    pub(crate) waiting: HashSet<InstanceId>,
    /// Volumes that wait for a point in time, as well.
    pub(crate) waiting_volumes: HashSet<VolumeId>,
}

impl State {
    pub(crate) fn new(config: &CoreConfig, catalogue: Arc<Catalogue>) -> Self {
        Self {
            catalogue,
            world: World::default(),
            books: Books::new(config.placement_seed, config.unproven_hosts),
            hosts: HostsNow::new(config, Instant::now()),
            holds: Holds::default(),
            dirty: Dirty::default(),
            reports: BTreeMap::new(),
            watchers: HashMap::new(),
            staying: HashMap::new(),
            bells: Bells::default(),
            revoked: broadcast::channel(REVOCATIONS_KEPT).0,
        }
    }

    pub(super) fn put_catalogue(&mut self, catalogue: Arc<Catalogue>) {
        self.catalogue = catalogue;
    }

    /// What can be rented.
    pub(crate) fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    /// Takes over a row that the store has.
    pub(crate) fn put(&mut self, row: Row) {
        let changed = self.world.put(row);
        self.follow(changed);
    }

    /// Takes over all that a draft did at `revision`.
    pub(crate) fn apply(&mut self, draft: Draft, revision: Revision) {
        for write in draft.into_writes() {
            let changed = match write {
                Write::Put(row, _) => self.world.put(row.at(revision)),
                Write::Delete(key, _) => self.world.delete(key, revision),
            };
            self.follow(changed);
        }
    }

    /// Holds what the plan's draft needs; gives its claims back when another draft is in the way.
    pub(crate) fn begin<T>(&mut self, planned: Planned<T>) -> Result<Planned<T>, PlanError> {
        let Err(held) = self.holds.acquire(&planned.draft) else { return Ok(planned) };
        // What another draft changes has claims of that draft, and none of this one.
        let keys: Vec<Key> =
            planned.draft.keys().filter(|key| self.holds.may_change(*key)).collect();
        self.settle(keys.into_iter());
        Err(PlanError::Held(held))
    }

    /// Brings the books back to what the rows say, after claims of a draft that failed.
    pub(crate) fn settle(&mut self, keys: impl Iterator<Item = Key>) {
        for key in keys {
            match key {
                Key::Instance(id) => {
                    self.settle_machine(id);
                    // Room elsewhere is claimed for its volumes by a draft that does not change them.
                    let row = self.world.instances.get(id);
                    let mut volumes = row.map_or_else(Vec::new, |row| self.all_volumes_of(row));
                    volumes.retain(|row| self.holds.may_change(row.id));
                    volumes.iter().for_each(|row| _ = self.settle_volume(row.id));
                }
                Key::Volume(id) => {
                    self.settle_volume(id);
                }
                _ => {}
            }
        }
    }

    /// Books what the row says that the machine has, where it is and where it comes to; true when
    /// room became free.
    fn settle_machine(&mut self, id: InstanceId) -> bool {
        let here = self.world.instances.get(id).and_then(|row| self.booking(row));
        let to = self.world.instances.get(id).and_then(|row| row.comes_to());
        let coming = here.clone().zip(to).map(|(here, host)| MachineBooking { host, ..here });
        let freed = self.books.settle_machine(id, here);
        self.books.settle_machine(Share::Coming(id), coming) || freed
    }

    /// As [`State::settle_machine`], of a volume.
    fn settle_volume(&mut self, id: VolumeId) -> bool {
        let row = self.world.volumes.get(id);
        let here = row.and_then(|row| volume_booking(row));
        let to = row.and_then(|row| self.volume_room_at(row));
        let coming = here.clone().zip(to).map(|(here, host)| VolumeBooking { host, ..here });
        let freed = self.books.settle_volume(id, here);
        self.books.settle_volume(Share::Coming(id), coming) || freed
    }

    /// The host, beside its own, that has room for the volume: it moves there, or will with its
    /// machine.
    pub(crate) fn volume_room_at(&self, row: &Volume) -> Option<HostId> {
        let reserved = || self.world.instances.get(row.attached_to?)?.reserved;
        self.world.volume_comes_to(row.id).or_else(reserved)
    }

    /// Whether the host has lacked a level that the machine asks for, above the lowest, for the
    /// grace, and says so on the stream that is open. A host that lacks the lowest is emptied.
    pub(crate) fn lacks_level(
        &self,
        host: &Host,
        machine: InstanceId,
        grace_ms: i64,
        now: UnixMs,
    ) -> bool {
        let Some(known) = &host.conformity else { return false };
        let wanted = self.books.wanted_level(machine);
        wanted > 0
            && known.lacks_for(wanted, grace_ms, now)
            && self.hosts.get(host.id).is_some_and(|now| now.said.is_some())
    }

    /// Whether the host that the volume is decided on shows that its data is there: another copy of
    /// it is of no use to anybody then.
    pub(crate) fn is_shown(&self, row: &Volume) -> bool {
        let Some(now) = row.host.and_then(|host| self.hosts.get(host)) else { return false };
        let machine = row.boot_of.or(row.attached_to);
        let decided = machine.and_then(|id| self.world.instances.get(id)?.decision.as_ref());
        let let_go = machine.and_then(|id| now.let_go.get(&id));
        let has_gone = |epoch: &Epoch| decided.is_none_or(|decided| *epoch >= decided.epoch);
        row.observed.is_present() && now.is_known && !let_go.is_some_and(has_gone)
    }

    /// How the host stands now.
    pub(crate) fn standing(&self, host: HostId) -> Standing {
        self.hosts.standing(host, Instant::now())
    }

    /// What the instance has of its host, where it has one.
    pub(crate) fn booking(&self, row: &Instance) -> Option<MachineBooking> {
        row.decision.as_ref()?;
        if row.carrier {
            // Where its volumes may be binds nobody else.
            return machine_booking(&self.catalogue, row, Placement::default());
        }
        // Constraints that clash are refused before they get here.
        let placement = rules::placement_of(row, &self.volumes_of(row));
        machine_booking(
            &self.catalogue,
            row,
            placement.unwrap_or_else(|_| row.spec.placement.clone()),
        )
    }

    /// The data volumes of an instance.
    pub(crate) fn volumes_of(&self, row: &Instance) -> Vec<Arc<Volume>> {
        let ids = row.spec.volumes.values().map(|attachment| attachment.volume_id);
        ids.filter_map(|id| self.world.volumes.get(id).cloned()).collect()
    }

    /// The volume that an instance boots from, and its data volumes.
    pub(crate) fn all_volumes_of(&self, row: &Instance) -> Vec<Arc<Volume>> {
        let boot = self.world.volumes.get(row.boot_volume_id).cloned();
        boot.into_iter().chain(self.volumes_of(row)).collect()
    }

    fn follow(&mut self, changed: Changed) {
        match changed {
            Changed::Instance(before, after) => {
                self.follow_instance(before.as_ref(), after.as_ref());
            }
            Changed::Volume(before, after) => self.follow_volume(before.as_ref(), after.as_ref()),
            Changed::Host(id, Some(row)) => {
                self.bells.ring(id.into());
                self.books.put_host(&row);
                self.hosts.entry(id);
                if row.lost_at.is_some() {
                    // What it said last counts no more.
                    self.hosts.hang_up(id);
                    self.reports.remove(&id);
                    self.books.set_alive(id, false);
                }
                self.wake_peers(id);
                self.room();
            }
            Changed::Host(id, None) => {
                self.bells.ring(id.into());
                self.books.remove_host(id);
                self.hosts.forget(id);
            }
            Changed::Operation(row) => self.tell_watchers(row),
            Changed::Credential(row) => {
                if let Some(host) = row.host {
                    self.wake_peers(host);
                }
                if row.revoked_at.is_some() {
                    // Nobody listening is fine.
                    let _ = self.revoked.send(row);
                }
            }
            Changed::Other => {}
        }
    }

    fn follow_instance(&mut self, before: Option<&Arc<Instance>>, after: Option<&Arc<Instance>>) {
        let Some(id) = before.or(after).map(|row| row.id) else { return };
        self.bells.ring(id.into());
        for row in before.into_iter().chain(after) {
            // What is left there of a machine on its way, and of its volumes, is told there as well.
            let to = row.migration.as_ref().map(|migration| migration.to);
            host_of(Some(row)).into_iter().chain(to).for_each(|host| self.bells.ring(host.into()));
        }
        let mut freed = self.settle_machine(id);
        let migrations =
            || before.into_iter().chain(after).filter_map(|row| row.migration.as_ref());
        for volume in migrations().flat_map(|migration| &migration.volumes) {
            freed |= self.settle_volume(*volume);
        }
        let reserved = |row: Option<&Arc<Instance>>| row.and_then(|row| row.reserved);
        if reserved(before) != reserved(after) {
            let rows = before.into_iter().chain(after);
            for volume in rows.flat_map(|row| self.all_volumes_of(row)).collect::<Vec<_>>() {
                freed |= self.settle_volume(volume.id);
            }
        }
        if freed {
            self.room();
        }
        if after.is_none_or(|row| row.migration.is_none()) {
            // Keys that were not asked for meanwhile may be wanted now.
            let moved = before.and_then(|row| row.migration.as_ref());
            self.dirty.volumes.extend(moved.into_iter().flat_map(|moved| &moved.volumes));
        }
        let (old, new) = (host_of(before.map(AsRef::as_ref)), host_of(after.map(AsRef::as_ref)));
        if old != new {
            self.staying.remove(&id.into());
        }
        // Those that have to be with it may have to follow.
        let goes = |row: Option<&Arc<Instance>>| row.and_then(|row| row.comes_to());
        if old != new || goes(before) != goes(after) {
            self.dirty.instances.extend(self.books.companions(id));
        }
        if old != new || published(before.map(AsRef::as_ref)) != published(after.map(AsRef::as_ref))
        {
            let others = migrations().map(|migration| migration.to);
            for host in old.into_iter().chain(new).chain(others) {
                self.hosts.wake(host);
            }
        }
        // Whoever gets its room may go on.
        let left = before.filter(|row| row.notice().is_some());
        if let Some(host) = left.and_then(|row| host_of(Some(row))) {
            let waiting = self.world.instances_on(host).filter(|row| row.waits_for_room());
            self.dirty.instances.extend(waiting.map(|row| row.id));
        }
        if after.is_some() {
            self.dirty.instances.insert(id);
        } else {
            self.dirty.unplaced.remove(&id);
            self.dirty.displaced.remove(&id);
            self.dirty.restless.remove(&id);
            self.dirty.waiting.remove(&id);
        }
    }

    fn follow_volume(&mut self, before: Option<&Arc<Volume>>, after: Option<&Arc<Volume>>) {
        let Some(id) = before.or(after).map(|row| row.id) else { return };
        let hosts = before.into_iter().chain(after).filter_map(|row| row.host);
        hosts.for_each(|host| self.bells.ring(host.into()));
        if self.settle_volume(id) {
            self.room();
        }
        // The instance's groups are those of its volumes as well.
        let places = |row: Option<&Arc<Volume>>| row.map(|row| row.spec.placement.clone());
        if let Some(instance) = after.and_then(|row| row.attached_to)
            && before.is_some()
            && places(before) != places(after)
        {
            self.settle(std::iter::once(instance.into()));
        }
        let told = |row: Option<&Volume>| {
            let keys = |row: &Volume| {
                let keys = row.keys.iter().chain(&row.next_keys);
                keys.map(|(host, key)| (*host, key.fingerprint.clone())).collect::<Vec<_>>()
            };
            row.map(|row| (row.host, row.spec.size, row.deleting.is_some(), keys(row)))
        };
        if told(before.map(AsRef::as_ref)) != told(after.map(AsRef::as_ref)) {
            let host = |row: Option<&Arc<Volume>>| row.and_then(|row| row.host);
            let to = self.world.volume_comes_to(id);
            for host in host(before).into_iter().chain(host(after)).chain(to) {
                self.hosts.wake(host);
            }
        }
        let counts = |row: &Arc<Volume>| (row.observed.is_present(), row.deleting.is_some());
        if before.map(counts) != after.map(counts) {
            // What others have of it may go now.
            let others = after.into_iter().flat_map(|row| &row.may_be_on);
            others.for_each(|host| self.hosts.wake(*host));
        }
        let key = |row: Option<&Arc<Volume>>| {
            row.and_then(|row| row.key()).map(|key| key.fingerprint.clone())
        };
        if key(before) != key(after) {
            self.dirty.instances.extend(after.and_then(|row| row.attached_to));
        }
        if after.is_some() {
            self.dirty.volumes.insert(id);
        } else {
            self.dirty.waiting_volumes.remove(&id);
            self.staying.remove(&id.into());
        }
    }

    /// What is told of the host to those has changed whose machines go to it, or that its own go to.
    pub(crate) fn wake_peers(&mut self, of: HostId) {
        let sources = self.world.instances_coming_to(of).filter_map(|row| host_of(Some(row)));
        let leaving = self.world.instances_on(of).filter_map(|row| row.migration.as_ref());
        let peers = sources.chain(leaving.map(|migration| migration.to));
        for host in peers.collect::<Vec<_>>() {
            self.hosts.wake(host);
        }
    }

    /// There may be room now for what found none before.
    pub(crate) fn room(&mut self) {
        if !self.dirty.unplaced.is_empty() {
            self.dirty.room = true;
            self.dirty.wake.notify_one();
        }
    }

    fn tell_watchers(&mut self, row: Arc<Operation>) {
        let is_final = row.state.is_final();
        let Some(watcher) = self.watchers.get(&row.id) else { return };
        let id = row.id;
        let unheard = watcher.send(row).is_err();
        if is_final || unheard {
            self.watchers.remove(&id);
        }
    }
}

fn host_of(row: Option<&Instance>) -> Option<HostId> {
    row.and_then(|row| row.decision.as_ref()).map(|decision| decision.host)
}

/// What a host is told of an instance changes when this does.
#[derive(PartialEq, Eq)]
struct Published {
    spec_version: u64,
    epoch: Epoch,
    may_run: bool,
    is_spot: bool,
    goes: bool,
    waits_for_room: bool,
    /// Whether it holds its room, where it is interrupted.
    interrupted: Option<bool>,
    /// Where it goes to, as which run, and whether that was given up.
    migration: Option<(HostId, Epoch, bool)>,
}

fn published(row: Option<&Instance>) -> Option<Published> {
    let row = row?;
    let decision = row.decision.as_ref()?;
    Some(Published {
        spec_version: row.spec_version,
        epoch: decision.epoch,
        may_run: decision.may_run,
        is_spot: row.spec.spot.is_some(),
        goes: row.goes(),
        waits_for_room: row.waits_for_room(),
        interrupted: row.interruption.as_ref().map(Interruption::holds_room),
        migration: row.migration.as_ref().map(|to| (to.to, to.epoch, to.given_up)),
    })
}
