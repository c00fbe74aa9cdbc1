//! Machines that have to be on one host and leave theirs together, with every host played.

use std::collections::BTreeMap;

use fairmazon_broker::core::{CoreConfig, DrainItem, DrainState, InstanceUpdate};
use fairmazon_model::{
    ErrorKind,
    host::HostSpec,
    id::{HostId, InstanceId, PlacementGroupId},
    instance::{Attachment, Instance, InstanceSpec, ObservedState, Power},
    machine::{DesiredSet, HostVolume, MachineSpec, VolumeWish},
    migration::Handover,
    units::{Epoch, Gib, Vcpus},
};

use super::{
    kit::{Kit, host_spec, quick, row, spec},
    played::{Played, register},
};

const LONG_MS: i64 = 60 * 60 * 1_000;

/// Hosts, the first of which has the machines of a group.
struct Party {
    kit: Kit,
    hosts: Vec<Played>,
    group: PlacementGroupId,
    ids: Vec<InstanceId>,
    folder: tempfile::TempDir,
}

fn one_at_a_time() -> CoreConfig {
    CoreConfig { migrations_per_host: 1, ..quick() }
}

/// A host that has room for so many small machines.
fn host_for(machines: u32, number: usize) -> HostSpec {
    let mut spec = host_spec(number, "DE");
    spec.capacity.vcpus = Vcpus(machines);
    spec.cpu_overcommit_percent = 100;
    spec
}

impl Party {
    /// So many machines of one group on the first host.
    async fn of(machines: usize, config: CoreConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kit = Kit::open(folder.path(), config).await;
        kit.start();
        let (key, labels) = (kit.key(), BTreeMap::new());
        let group = kit.engine.create_group(&kit.customer, "near", &labels, &key).await;
        let group = group.unwrap().id;
        let mut it = Self { kit, hosts: Vec::new(), group, ids: Vec::new(), folder };
        it.add(host_spec(0, "DE")).await;
        for number in 0..machines {
            let wanted = it.spec(&format!("m{number}"));
            let id = it.make(wanted, 0).await;
            it.ids.push(id);
        }
        it
    }

    async fn add(&mut self, host: HostSpec) {
        let id = register(&self.kit, host).await;
        let address = format!("host-{}:1", self.hosts.len());
        self.hosts.push(Played::open(&self.kit, id, &address).await);
    }

    fn spec(&self, name: &str) -> InstanceSpec {
        let mut spec = spec(name);
        spec.placement.with = [self.group].into();
        spec
    }

    /// Makes a machine, which is placed on that host and does there what it shall.
    async fn make(&mut self, wanted: InstanceSpec, on: usize) -> InstanceId {
        let power = wanted.power;
        let (engine, customer) = (&self.kit.engine, &self.kit.customer);
        let made = engine.create_instance(customer, wanted, &self.kit.key()).await.unwrap();
        let id = made.instance.row.id;
        let host = &mut self.hosts[on];
        let comes = |set: &DesiredSet| set.machines.iter().any(|there| there.instance == id);
        let set = host.told("it", comes).await;
        host.makes_volumes(&set.volumes);
        let state = match power {
            Power::Running => ObservedState::Running,
            Power::Stopped => ObservedState::Stopped,
        };
        host.has(id, Epoch(1), state, None).await;
        self.kit.done(made.operation.id).await;
        id
    }

    fn row(&self, id: InstanceId) -> Instance {
        row(&self.kit, id)
    }

    fn at(&self, id: InstanceId) -> HostId {
        self.row(id).decision.unwrap().host
    }

    fn reserved(&self) -> Vec<Option<HostId>> {
        self.ids.iter().map(|id| self.row(*id).reserved).collect()
    }

    /// Those that are on their way.
    fn moving(&self) -> Vec<InstanceId> {
        let moves = |id: &&InstanceId| self.row(**id).migration.is_some();
        self.ids.iter().filter(moves).copied().collect()
    }

    async fn drain(&self, host: usize) {
        let (engine, customer) = (&self.kit.engine, &self.kit.customer);
        engine.drain_host(customer, self.hosts[host].id, LONG_MS, &self.kit.key()).await.unwrap();
    }

    async fn cancel_drain(&self, host: usize) {
        let (engine, customer) = (&self.kit.engine, &self.kit.customer);
        engine.cancel_drain(customer, self.hosts[host].id, &self.kit.key()).await.unwrap();
    }

    fn report(&self, id: InstanceId) -> DrainItem {
        let report = self.kit.engine.drain(&self.kit.customer, self.at(id)).unwrap();
        report.machines.into_iter().find(|item| item.id == id.to_string()).unwrap()
    }

    /// The next one that is on its way, once there is one.
    async fn next(&self) -> InstanceId {
        self.kit.until("one is on its way", || !self.moving().is_empty()).await;
        self.moving()[0]
    }

    /// A host makes the volumes that it shall have.
    fn makes_volumes(&mut self, host: usize) {
        let set = self.hosts[host].set();
        let keeps = |wish: &&HostVolume| wish.wish == VolumeWish::Keep;
        let wishes: Vec<_> = set.volumes.iter().filter(keeps).cloned().collect();
        self.hosts[host].makes_volumes(&wishes);
    }

    /// Both hosts do their part in a move that has begun, and it is at the other one.
    async fn arrives(&mut self, id: InstanceId, from: usize, to: usize) {
        let before = self.row(id);
        let (migration, epoch) = (before.migration.unwrap(), before.decision.unwrap().epoch);
        assert_eq!(migration.to, self.hosts[to].id);
        let comes = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| arrival.open);
        self.hosts[to].told_of("it comes", id, comes).await;
        self.makes_volumes(to);
        self.hosts[from].has(id, epoch, ObservedState::Stopped, Some(Handover::Left)).await;
        let off = migration.off;
        let state = if off { ObservedState::Stopped } else { ObservedState::Running };
        self.hosts[to].has(id, migration.epoch, state, None).await;
        self.kit.until("it has come", || self.row(id).migration.is_none()).await;
        assert_eq!(self.at(id), self.hosts[to].id);
        self.hosts[from].lost(id).await;
        self.clears(id, from).await;
    }

    /// A host deletes what is left of a machine's boot volume there.
    async fn clears(&mut self, id: InstanceId, host: usize) {
        let boot = self.row(id).boot_volume_id;
        let goes = |set: &DesiredSet| {
            set.volumes.iter().any(|it| it.volume == boot && it.wish == VolumeWish::Delete)
        };
        self.hosts[host].told("what is left goes", goes).await;
        self.hosts[host].destroyed(boot).await;
    }

    /// A move that has begun fails, and nothing is left of it at the other host.
    async fn fails(&mut self, id: InstanceId, from: usize, to: usize) {
        let volume = self.row(id).boot_volume_id;
        let comes = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| arrival.open);
        self.hosts[to].told_of("it comes", id, comes).await;
        self.makes_volumes(to);
        let began = self.row(id).migration.unwrap().epoch;
        self.kit.clock.forward(self.kit.engine.config().migration_patience_ms);
        let refused =
            |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| !arrival.open);
        self.hosts[to].told_of("it shall not come", id, refused).await;
        self.hosts[from].told_of("it stays", id, |spec| spec.departure.is_none()).await;
        self.hosts[from].reports().await;
        self.hosts[to].lost(id).await;
        let over = || self.row(id).migration.is_none_or(|migration| migration.epoch > began);
        self.kit.until("it stays", over).await;
        let goes = |set: &DesiredSet| {
            set.volumes.iter().any(|it| it.volume == volume && it.wish == VolumeWish::Delete)
        };
        self.hosts[to].told("its volume goes", goes).await;
        self.hosts[to].destroyed(volume).await;
    }

    /// Another broker takes over what is durable.
    async fn restart(self, config: CoreConfig) -> Self {
        let Self { kit, hosts, group, ids, folder } = self;
        kit.stop().await;
        drop(kit);
        let kit = Kit::open(folder.path(), config).await;
        kit.start();
        let mut again = Vec::new();
        for (number, mut old) in hosts.into_iter().enumerate() {
            let mut host = Played::open(&kit, old.id, &format!("host-{number}:1")).await;
            host.machines = std::mem::take(&mut old.machines);
            host.volumes = std::mem::take(&mut old.volumes);
            host.reports().await;
            again.push(host);
        }
        Self { kit, hosts: again, group, ids, folder }
    }

    /// All are on that host, and nothing is kept for them anywhere.
    async fn are_at(&self, host: usize) {
        let host = self.hosts[host].id;
        let there = |id: &InstanceId| self.at(*id) == host && self.row(*id).reserved.is_none();
        self.kit.until("all are there", || self.ids.iter().all(there)).await;
        assert!(self.moving().is_empty());
        self.kit.engine.audit_books().unwrap();
    }

    async fn ends(self) {
        self.kit.engine.audit_books().unwrap();
        self.kit.stop().await;
    }
}

#[tokio::test]
async fn a_group_leaves_a_host_that_is_emptied_one_after_the_other_to_one_host() {
    let mut it = Party::of(3, one_at_a_time()).await;
    let off = InstanceSpec { power: Power::Stopped, ..it.spec("off") };
    let off = it.make(off, 0).await;
    it.ids.push(off);
    // The cheaper one has room for three.
    let cheap = HostSpec { price_percent: 50, ..host_for(3, 1) };
    it.add(cheap).await;
    it.add(host_for(4, 2)).await;
    it.drain(0).await;
    let there = it.hosts[2].id;
    for left in (1..=4).rev() {
        let id = it.next().await;
        assert_eq!(it.moving().len(), 1);
        assert_eq!(it.reserved().iter().filter(|host| **host == Some(there)).count(), left);
        let waiting = it.ids.iter().find(|other| **other != id && it.at(**other) != there);
        if let Some(waiting) = waiting {
            let report = it.report(*waiting);
            assert_eq!(report.state, DrainState::Waiting, "{report:?}");
        }
        let usage = it.kit.engine.host(&it.kit.customer, there).unwrap().usage;
        assert_eq!((usage.machines, usage.storage["standard"]), (4, Gib(40)));
        it.kit.engine.audit_books().unwrap();
        it.arrives(id, 0, 2).await;
        assert_eq!(it.row(id).reserved, None);
        assert!(it.row(id).decision.unwrap().reason.contains("with the machines of its groups"));
    }
    it.are_at(2).await;
    let verbs = it.kit.own_verbs(it.ids[0]).await;
    let steps: Vec<_> = verbs.iter().map(String::as_str).rev().take(3).collect();
    assert_eq!(steps, ["broker.land", "broker.migrate", "broker.reserve"]);
    it.ends().await;
}

#[tokio::test]
async fn nobody_takes_the_room_that_is_kept_for_those_who_wait() {
    let mut it = Party::of(2, one_at_a_time()).await;
    it.add(host_for(2, 1)).await;
    it.drain(0).await;
    let first = it.next().await;
    let other = spec("somebody else");
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    let made = engine.create_instance(customer, other, &it.kit.key()).await.unwrap();
    let other = made.instance.row.id;
    it.kit.until("it waits", || it.row(other).waiting_for.contains("vCPU free: 1")).await;
    it.arrives(first, 0, 1).await;
    let second = it.next().await;
    it.arrives(second, 0, 1).await;
    it.are_at(1).await;
    assert_eq!(it.row(other).decision, None);
    // It has no room for more than was kept for it.
    it.ends().await;
}

#[tokio::test]
async fn none_begins_where_no_host_has_room_for_all() {
    let mut it = Party::of(3, quick()).await;
    it.add(host_for(2, 1)).await;
    it.drain(0).await;
    for id in it.ids.clone() {
        it.kit.until("it stays", || it.report(id).state == DrainState::Staying).await;
        let reason = it.report(id).reason;
        for other in it.ids.iter().filter(|other| **other != id) {
            assert!(reason.contains(&other.to_string()), "{reason}");
        }
        assert!(reason.starts_with("it goes only together with ins-"), "{reason}");
        assert!(reason.contains("less than 3 vCPU free: 1"), "{reason}");
    }
    assert_eq!((it.moving(), it.reserved()), (vec![], vec![None; 3]));
    // As soon as there is room all go.
    it.add(host_for(3, 2)).await;
    it.kit.until("all are on their ways", || it.moving().len() == 3).await;
    for id in it.ids.clone() {
        it.arrives(id, 0, 2).await;
    }
    it.are_at(2).await;
    it.ends().await;
}

#[tokio::test]
async fn none_begins_while_one_of_them_can_t_leave() {
    let mut it = Party::of(2, quick()).await;
    it.add(host_spec(1, "DE")).await;
    let busy = it.ids[1];
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    let boot = it.row(busy).boot_volume_id;
    let mut copy = super::kit::volume_spec("copy");
    copy.source = Some(boot);
    let made = engine.create_volume(customer, copy, &it.kit.key()).await.unwrap();
    it.drain(0).await;
    it.kit.until("it stays", || it.report(it.ids[0]).state == DrainState::Staying).await;
    let reason = it.report(it.ids[0]).reason;
    let expected = format!("it goes only together with {busy}: {busy} can't leave its host: ");
    assert!(reason.starts_with(&expected), "{reason}");
    assert!(reason.contains("being made as a copy"), "{reason}");
    assert_eq!((it.moving(), it.reserved()), (vec![], vec![None; 2]));
    // When that has ended both go.
    let set = it.hosts[0].set();
    it.hosts[0].makes_volumes(&set.volumes);
    it.hosts[0].reports().await;
    it.kit.done(made.operation.id).await;
    it.kit.until("both are on their ways", || it.moving().len() == 2).await;
    it.ends().await;
}

#[tokio::test]
async fn a_machine_whose_move_fails_follows_the_others() {
    let mut it = Party::of(2, quick()).await;
    it.add(host_for(2, 1)).await;
    // It would be the better one.
    let cheap = HostSpec { price_percent: 50, ..host_for(1, 2) };
    it.add(cheap).await;
    it.drain(0).await;
    it.kit.until("both are on their ways", || it.moving().len() == 2).await;
    let [first, second] = it.ids[..] else { panic!() };
    it.arrives(first, 0, 1).await;
    it.fails(second, 0, 1).await;
    assert_eq!(it.row(second).reserved, Some(it.hosts[1].id));
    // Also where there is no reason to leave its host any more, but that the other one has left.
    it.cancel_drain(0).await;
    it.kit.until("it goes again", || it.row(second).open_migration().is_some()).await;
    it.arrives(second, 0, 1).await;
    it.are_at(1).await;
    it.ends().await;
}

#[tokio::test]
async fn what_is_on_its_way_when_the_broker_starts_again_goes_on_together() {
    let mut it = Party::of(3, one_at_a_time()).await;
    it.add(host_for(3, 1)).await;
    it.drain(0).await;
    let first = it.next().await;
    it.arrives(first, 0, 1).await;
    let second = it.next().await;
    let mut it = it.restart(one_at_a_time()).await;
    assert_eq!(it.moving(), [second]);
    let usage = it.kit.engine.host(&it.kit.customer, it.hosts[1].id).unwrap().usage;
    assert_eq!((usage.machines, usage.storage["standard"]), (3, Gib(30)));
    it.kit.engine.audit_books().unwrap();
    it.fails(second, 0, 1).await;
    for _ in 0..2 {
        let next = it.next().await;
        it.arrives(next, 0, 1).await;
    }
    it.are_at(1).await;
    it.ends().await;
}

#[tokio::test]
async fn a_machine_that_is_made_meanwhile_goes_where_the_others_go() {
    let mut it = Party::of(2, one_at_a_time()).await;
    it.add(host_spec(1, "FR")).await;
    // Its host may have new machines all the time.
    let mut spec = it.row(it.ids[0]).spec;
    spec.placement.countries = ["FR".to_owned()].into();
    let id = it.ids[0];
    let update = InstanceUpdate { id, spec, expected_revision: 0, allow_rebuild: false };
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    let moved = engine.update_instance(customer, update, &it.kit.key()).await.unwrap();
    let first = it.next().await;
    let wanted = it.spec("new");
    let new = it.make(wanted, 1).await;
    it.arrives(first, 0, 1).await;
    let second = it.next().await;
    it.arrives(second, 0, 1).await;
    it.kit.done(moved.operation.id).await;
    it.ids.push(new);
    it.are_at(1).await;
    it.ends().await;
}

#[tokio::test]
async fn a_changed_placement_moves_all_or_is_refused() {
    let mut it = Party::of(2, quick()).await;
    it.add(HostSpec { ..host_spec(1, "FR") }).await;
    let (one, other) = (it.ids[0], it.ids[1]);
    let ask = async |it: &Party, id, countries: &[&str]| {
        let mut spec = it.row(id).spec;
        spec.placement.countries = countries.iter().copied().map(Into::into).collect();
        let update = InstanceUpdate { id, spec, expected_revision: 0, allow_rebuild: false };
        let (engine, customer) = (&it.kit.engine, &it.kit.customer);
        engine.update_instance(customer, update, &it.kit.key()).await
    };
    let stays = ask(&it, other, &["DE"]).await.unwrap();
    it.kit.done(stays.operation.id).await;
    let error = ask(&it, one, &["FR"]).await.unwrap_err();
    assert_eq!((error.kind, error.field.as_deref()), (ErrorKind::NoCapacity, Some("placement")));
    assert!(error.message.contains("not in DE or FR: 1") || error.message.contains("not in"));
    let anywhere = ask(&it, other, &[]).await.unwrap();
    it.kit.done(anywhere.operation.id).await;
    let moved = ask(&it, one, &["FR"]).await.unwrap();
    it.kit.until("both are on their ways", || it.moving().len() == 2).await;
    for id in [other, one] {
        it.arrives(id, 0, 1).await;
    }
    it.kit.done(moved.operation.id).await;
    it.are_at(1).await;
    it.ends().await;
}

#[tokio::test]
async fn a_drain_that_is_cancelled_before_anybody_has_left_ends_all_of_it() {
    let mut it = Party::of(2, one_at_a_time()).await;
    it.add(host_spec(1, "DE")).await;
    it.drain(0).await;
    let first = it.next().await;
    it.fails(first, 0, 1).await;
    // Its next way begins, and goes on.
    let first = it.next().await;
    it.cancel_drain(0).await;
    it.fails(first, 0, 1).await;
    it.kit.until("nothing is kept for them", || it.reserved() == [None, None]).await;
    it.are_at(0).await;
    let usage = it.kit.engine.host(&it.kit.customer, it.hosts[1].id).unwrap().usage;
    assert_eq!((usage.machines, usage.storage["standard"]), (0, Gib(0)));
    it.ends().await;
}

#[tokio::test]
async fn those_that_are_apart_meet_elsewhere_when_the_host_of_the_first_is_emptied_too() {
    let mut it = Party::of(2, one_at_a_time()).await;
    it.add(host_for(2, 1)).await;
    it.drain(0).await;
    let first = it.next().await;
    it.arrives(first, 0, 1).await;
    let second = it.next().await;
    it.add(host_for(2, 2)).await;
    // What has begun to move is given up.
    it.drain(1).await;
    let refused = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| !arrival.open);
    it.hosts[1].told_of("it shall not come", second, refused).await;
    it.hosts[0].told_of("it stays", second, |spec| spec.departure.is_none()).await;
    it.hosts[0].reports().await;
    it.hosts[1].lost(second).await;
    let third = it.hosts[2].id;
    let goes = |id| it.row(id).open_migration().is_some_and(|to| to.to == third);
    it.kit.until("both go to the third", || goes(first) && goes(second)).await;
    it.arrives(first, 1, 2).await;
    it.arrives(second, 0, 2).await;
    it.are_at(2).await;
    it.ends().await;
}

#[tokio::test]
async fn what_grows_grows_only_where_it_has_room_when_it_goes() {
    let mut it = Party::of(2, one_at_a_time()).await;
    it.add(host_for(2, 1)).await;
    it.drain(0).await;
    let first = it.next().await;
    let second = it.ids.iter().copied().find(|id| *id != first).unwrap();
    it.kit.until("it waits", || it.row(second).reserved.is_some()).await;
    let mut spec = it.row(second).spec;
    spec.flavor = "medium".into();
    let update = InstanceUpdate { id: second, spec, expected_revision: 0, allow_rebuild: false };
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    let error = engine.update_instance(customer, update, &it.kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoCapacity);
    assert!(error.message.contains("the host that it moves to has no room"), "{error}");
    it.ends().await;
}

#[tokio::test]
async fn groups_that_overlap_leave_as_one_also_by_what_their_volumes_ask_for() {
    let mut it = Party::of(1, quick()).await;
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    let other = engine.create_group(customer, "other", &BTreeMap::new(), &it.kit.key()).await;
    let other = other.unwrap().id;
    // The one in the middle has to be with the first by its own placement, with the last by its
    // volume's.
    let mut wanted = super::kit::volume_spec("data");
    wanted.placement.with = [other].into();
    let made = engine.create_volume(customer, wanted, &it.kit.key()).await.unwrap();
    let mut middle = it.spec("middle");
    let attachment = Attachment { volume_id: made.volume.row.id, read_only: false };
    middle.volumes.insert("data".into(), attachment);
    let mut last = spec("last");
    last.placement.with = [other].into();
    // Alone it would go to the one that has no room for all.
    it.add(HostSpec { price_percent: 200, ..host_spec(1, "DE") }).await;
    for wanted in [middle, last] {
        let id = it.make(wanted, 0).await;
        it.ids.push(id);
    }
    it.add(HostSpec { price_percent: 50, ..host_for(2, 2) }).await;
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    engine.drain_host(customer, it.hosts[0].id, LONG_MS, &it.kit.key()).await.unwrap();
    it.kit.until("all are on their ways", || it.moving().len() == 3).await;
    let usage = it.kit.engine.host(&it.kit.customer, it.hosts[1].id).unwrap().usage;
    assert_eq!((usage.machines, usage.storage["standard"]), (3, Gib(40)));
    for id in it.ids.clone() {
        it.arrives(id, 0, 1).await;
    }
    it.are_at(1).await;
    it.ends().await;
}
