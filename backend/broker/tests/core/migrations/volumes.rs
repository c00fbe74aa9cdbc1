//! Volumes that no machine has, on hosts that are emptied.

use std::sync::Arc;

use fairmazon_broker::core::{Clock, DrainItem, DrainState};
use fairmazon_model::{
    machine::VolumeCopy,
    volume::{Import, Volume},
};

use super::*;
use crate::kit::fake_key as key;

const LONG_MS: i64 = 60 * 60 * 1_000;

/// A volume that a machine had, which is gone, beside another host.
struct Alone {
    kit: Kit,
    source: Played,
    destination: Played,
    data: VolumeId,
    _folder: tempfile::TempDir,
}

fn with(volumes: &[VolumeId]) -> InstanceSpec {
    let attached =
        volumes.iter().map(|id| (id.to_string(), Attachment { volume_id: *id, read_only: false }));
    InstanceSpec { volumes: attached.collect(), ..spec("web") }
}

async fn volume(kit: &Kit) -> VolumeId {
    let made = kit.engine.create_volume(&kit.customer, volume_spec("data"), &kit.key()).await;
    made.unwrap().volume.row.id
}

/// Deletes a machine; its boot volume goes with it.
async fn deleted(kit: &Kit, host: &mut Played, row: &Instance) {
    let (id, boot) = (row.id, row.boot_volume_id);
    let deleted = kit.engine.delete_instance(&kit.customer, id, &kit.key()).await.unwrap();
    host.told("it is to go", |set| set.machines.is_empty()).await;
    host.lost(id).await;
    kit.done(deleted.id).await;
    host.told("so is its volume", |set| wish(set, boot) == Some(VolumeWish::Delete)).await;
    host.destroyed(boot).await;
    host.told("it is gone", |set| wish(set, boot).is_none()).await;
}

impl Alone {
    async fn begin(config: CoreConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kit = Kit::open(folder.path(), config).await;
        kit.start();
        let hosts = two_hosts(&kit).await;
        let data = volume(&kit).await;
        let (mut source, destination, web) = running(&kit, hosts, with(&[data])).await;
        deleted(&kit, &mut source, &web).await;
        let it = Self { kit, source, destination, data, _folder: folder };
        assert_eq!((it.row().host, it.row().attached_to), (Some(it.source.id), None));
        it
    }

    fn row(&self) -> Arc<Volume> {
        self.kit.engine.volume(&self.kit.customer, self.data).unwrap().row
    }

    async fn drain(&self) {
        let (engine, customer) = (&self.kit.engine, &self.kit.customer);
        engine.drain_host(customer, self.source.id, LONG_MS, &self.kit.key()).await.unwrap();
    }

    /// The volume in the drain's report; none when nothing is left.
    fn left(&self) -> Option<DrainItem> {
        let drain = self.kit.engine.drain(&self.kit.customer, self.source.id).unwrap();
        assert_eq!(drain.machines, [], "a carrier is nobody's machine");
        drain.volumes.into_iter().find(|item| item.id == self.data.to_string())
    }

    async fn stays(&self, state: DrainState, why: &str) {
        let fits = || self.left().is_some_and(|it| it.state == state && it.reason.contains(why));
        self.kit.until(&format!("{state:?}: {why}"), fits).await;
    }

    /// Both hosts are told of the carrier, and the destination has made its volumes.
    async fn sets_out(&mut self) -> MachineSpec {
        let leaves = |set: &DesiredSet| set.machines.iter().any(|spec| spec.departure.is_some());
        let set = self.source.told("it leaves", leaves).await;
        let carrier = MachineSpec::clone(&set.machines[0]);
        assert_eq!((carrier.power, carrier.image.as_str()), (Power::Stopped, ""));
        let comes = |spec: &MachineSpec| {
            spec.arrival.as_ref().is_some_and(|arrival| arrival.open)
                && spec.power == Power::Stopped
        };
        let there = self.destination.told_of("it comes", carrier.instance, comes).await;
        assert_eq!((carrier.epoch, there.epoch), (Epoch(1), Epoch(2)));
        let set = self.destination.set();
        self.destination.makes_volumes(&set.volumes);
        let awaited = Some(Handover::Awaited);
        self.destination.has(carrier.instance, Epoch(2), ObservedState::Starting, awaited).await;
        carrier
    }

    /// All of it has come: nothing of the carrier is anywhere, and nothing of its volumes here.
    async fn has_come(&mut self, carried: &MachineSpec) {
        let (carrier, left) = (carried.instance, Some(Handover::Left));
        self.source.has(carrier, Epoch(1), ObservedState::Stopped, left).await;
        self.destination.has(carrier, Epoch(2), ObservedState::Stopped, None).await;
        let there = Some(self.destination.id);
        self.kit.until("it has come", || self.row().host == there).await;
        let without = |set: &DesiredSet| !set.machines.iter().any(|it| it.instance == carrier);
        self.destination.told("no carrier", without).await;
        self.destination.lost(carrier).await;
        self.source.told("no carrier", without).await;
        self.source.lost(carrier).await;
        let data = self.data;
        let goes = |set: &DesiredSet| wish(set, data) == Some(VolumeWish::Delete);
        self.source.told("what is left goes", goes).await;
        let has_gone = |id: VolumeId| carried.all_disks().any(|disk| disk.volume == id);
        self.source.volumes.retain(|seen| !has_gone(seen.volume));
        self.source.reports().await;
        self.kit.until("it is in one place", || self.row().may_be_on.is_empty()).await;
        self.kit.until("nothing is left", || self.left().is_none()).await;
        self.kit.engine.audit_books().unwrap();
    }
}

impl Alone {
    /// Its move is given up: both hosts have shown that nothing of it has left.
    async fn turns_back(&mut self, carrier: InstanceId) {
        let closed =
            |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| !arrival.open);
        self.destination.told_of("it shall not come", carrier, closed).await;
        let data = self.data;
        let deletes = |set: &DesiredSet| wish(set, data) == Some(VolumeWish::Delete);
        assert!(!deletes(&self.destination.set()), "nothing goes before it has answered");
        self.destination.has(carrier, Epoch(2), ObservedState::Absent, None).await;
        self.source.told_of("it stays", carrier, |spec| spec.departure.is_none()).await;
        self.source.has(carrier, Epoch(1), ObservedState::Stopped, None).await;
        self.source.told("no carrier", |set| set.machines.is_empty()).await;
        self.source.lost(carrier).await;
        self.destination.lost(carrier).await;
        self.destination.told("what came in vain goes", deletes).await;
        self.destination.destroyed(data).await;
    }
}

#[tokio::test]
async fn a_volume_that_no_machine_has_leaves_a_host_that_is_emptied() {
    let mut it = Alone::begin(quick()).await;
    let (engine, customer) = (it.kit.engine.clone(), it.kit.customer);
    it.drain().await;
    let carrier = it.sets_out().await;
    assert_eq!((carrier.boot.volume, carrier.disks.len()), (it.data, 0));
    it.stays(DrainState::Migrating, "to ").await;
    // It is the platform's own.
    let (id, account) = (carrier.instance, customer.account.unwrap());
    assert!(it.kit.instances().is_empty());
    assert_eq!(engine.instance(&customer, id).unwrap_err().kind, ErrorKind::NotFound);
    let deleted = engine.delete_instance(&customer, id, &it.kit.key()).await.unwrap_err();
    assert_eq!(deleted.kind, ErrorKind::NotFound);
    let moved = engine.migrate_instance(&customer, id, &it.kit.key()).await.unwrap_err();
    assert_eq!(moved.kind, ErrorKind::NotFound);
    assert_eq!(engine.account(&customer, account).unwrap().instances, 0);
    assert_eq!(engine.instance_counts().values().sum::<u64>(), 0);
    // Its room is booked at both hosts, and nothing else.
    for host in [it.source.id, it.destination.id] {
        let usage = engine.host(&customer, host).unwrap().usage;
        assert_eq!((usage.vcpus, usage.memory), (Vcpus(0), Mib(0)));
        assert_eq!(usage.storage["standard"], Gib(10));
    }
    engine.audit_books().unwrap();
    it.has_come(&carrier).await;
    let usage = || engine.host(&customer, it.source.id).unwrap().usage;
    it.kit.until("its carrier is gone", || usage().machines == 0).await;
    assert_eq!(usage().storage["standard"], Gib(0));
    // Its way is told of the volume, which somebody knows.
    let records = it.kit.store.audit(0, 10_000).await.unwrap();
    let told = |record: &&fairmazon_store::AuditRecord| record.entry.target == it.data.to_string();
    let verbs: Vec<_> = records.iter().filter(told).map(|it| it.entry.verb.as_str()).collect();
    assert!(verbs.ends_with(&["broker.carry", "broker.land"]), "{verbs:?}");
    it.kit.stop().await;
}

#[tokio::test]
async fn its_next_host_has_a_key_of_its_own_without_its_customer() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (kit.engine.clone(), kit.customer);
    let mut hosts = Vec::new();
    for number in 0..2 {
        let host = register(&kit, host_spec(number, "DE")).await;
        join(&kit, host, u8::try_from(number).unwrap()).await;
        hosts.push(Played::open(&kit, host, "there:1").await);
    }
    let data = volume(&kit).await;
    let made = engine.create_instance(&customer, with(&[data]), &kit.key()).await.unwrap();
    let web = made.instance.row.id;
    kit.until("it is decided", || row(&kit, web).decision.is_some()).await;
    let host = row(&kit, web).decision.unwrap().host;
    let given = |volume, print| GivenKey { volume, host, key: key(1, print) };
    let boot = made.instance.row.boot_volume_id;
    engine.give_keys(&customer, &[given(data, "A"), given(boot, "C")], &kit.key()).await.unwrap();
    let (source, destination) = (hosts.remove(0), hosts.remove(0));
    let (mut source, destination) =
        if source.id == host { (source, destination) } else { (destination, source) };
    let have_keys = |set: &DesiredSet| {
        set.volumes.len() == 2 && set.volumes.iter().all(|wish| wish.key.is_some())
    };
    let set = source.told("their keys", have_keys).await;
    source.makes_volumes(&set.volumes);
    source.has(web, Epoch(1), ObservedState::Running, None).await;
    kit.done(made.operation.id).await;
    let web = row(&kit, web);
    deleted(&kit, &mut source, &web).await;
    let mut it = Alone { kit, source, destination, data, _folder: folder };
    it.drain().await;
    let carrier = it.sets_out().await;
    let wanted = carrier.departure.clone().unwrap().keys_wanted;
    assert_eq!(wanted.iter().map(|key| (key.volume, key.version)).collect::<Vec<_>>(), [(data, 1)]);
    let made = GivenKey { volume: data, host: it.destination.id, key: key(1, "B") };
    it.source.keys = vec![made];
    it.source.reports().await;
    let has_key = |set: &DesiredSet| set.volumes.iter().any(|wish| wish.key.is_some());
    it.destination.told("its key", has_key).await;
    it.has_come(&carrier).await;
    assert_eq!(it.row().key().map(|key| key.fingerprint.clone()), Some(key(1, "B").fingerprint));
    assert_eq!(it.row().keys.len(), 1, "what the first host had opens nothing any more");
    it.kit.stop().await;
}

#[tokio::test]
async fn a_machine_that_is_given_it_meanwhile_is_placed_where_it_comes_to() {
    let mut it = Alone::begin(quick()).await;
    let (engine, customer) = (it.kit.engine.clone(), it.kit.customer);
    it.drain().await;
    let carrier = it.sets_out().await;
    let made = engine.create_instance(&customer, with(&[it.data]), &it.kit.key()).await.unwrap();
    let id = made.instance.row.id;
    let waits = || row(&it.kit, id).waiting_for;
    it.kit.until("it waits", || waits().contains("moves to another host first")).await;
    // What comes with it later might be elsewhere then, and a copy would be of the wrong host's.
    let copy = VolumeSpec { source: Some(it.data), ..volume_spec("copy") };
    let refused = engine.create_volume(&customer, copy, &it.kit.key()).await.unwrap_err();
    assert!(refused.message.contains("moves to another host"), "{refused}");
    it.has_come(&carrier).await;
    it.kit.until("it is placed", || row(&it.kit, id).decision.is_some()).await;
    assert_eq!(row(&it.kit, id).decision.unwrap().host, it.destination.id);
    assert_eq!(it.row().attached_to, Some(id));
    it.kit.stop().await;
}

#[tokio::test]
async fn a_machine_that_is_placed_is_given_it_when_it_has_come() {
    let mut it = Alone::begin(quick()).await;
    let (engine, customer) = (it.kit.engine.clone(), it.kit.customer);
    it.drain().await;
    let carrier = it.sets_out().await;
    let made = engine.create_instance(&customer, spec("web"), &it.kit.key()).await.unwrap();
    let id = made.instance.row.id;
    it.kit.until("it is placed", || row(&it.kit, id).decision.is_some()).await;
    let data = it.data;
    let attach =
        || InstanceUpdate { id, spec: with(&[data]), expected_revision: 0, allow_rebuild: false };
    let refused = engine.update_instance(&customer, attach(), &it.kit.key()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict, "{refused}");
    assert!(refused.message.contains("it moves to another host"), "{refused}");
    it.has_come(&carrier).await;
    engine.update_instance(&customer, attach(), &it.kit.key()).await.unwrap();
    it.kit.stop().await;
}

#[tokio::test]
async fn what_shall_be_with_one_machine_goes_in_one_carrier() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (kit.engine.clone(), kit.customer);
    let host = register(&kit, host_spec(0, "DE")).await;
    let mut source = Played::open(&kit, host, "one:1").await;
    let (one, other) = (volume(&kit).await, volume(&kit).await);
    let made = engine.create_instance(&customer, with(&[one, other]), &kit.key()).await.unwrap();
    let web = made.instance.row.id;
    let set = source.told("it", |set| !set.machines.is_empty()).await;
    source.makes_volumes(&set.volumes);
    source.has(web, Epoch(1), ObservedState::Running, None).await;
    kit.done(made.operation.id).await;
    let web = row(&kit, web);
    deleted(&kit, &mut source, &web).await;
    engine.drain_host(&customer, host, LONG_MS, &kit.key()).await.unwrap();
    let volumes = || engine.drain(&customer, host).unwrap().volumes;
    let stay = |item: &DrainItem| item.reason.contains("the only host does not fit");
    kit.until("they stay", || volumes().iter().all(stay)).await;
    // It can't be placed, as its volumes are on a host that takes nothing.
    let made = engine.create_instance(&customer, with(&[one, other]), &kit.key()).await.unwrap();
    let again = made.instance.row.id;
    kit.until("it waits", || !row(&kit, again).waiting_for.is_empty()).await;
    let host = register(&kit, host_spec(1, "DE")).await;
    let destination = Played::open(&kit, host, "other:1").await;
    let mut it = Alone { kit, source, destination, data: one, _folder: folder };
    let carrier = it.sets_out().await;
    let volumes: Vec<_> = carrier.all_disks().map(|disk| disk.volume).collect();
    assert_eq!(volumes.len(), 2);
    assert!(volumes.contains(&one) && volumes.contains(&other));
    it.has_come(&carrier).await;
    it.kit.until("it is placed", || row(&it.kit, again).decision.is_some()).await;
    assert_eq!(row(&it.kit, again).decision.unwrap().host, it.destination.id);
    it.kit.stop().await;
}

#[tokio::test]
async fn volumes_of_which_one_moves_are_not_given_to_one_machine() {
    let config = CoreConfig { migrations_per_host: 1, ..quick() };
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), config).await;
    kit.start();
    let (engine, customer) = (kit.engine.clone(), kit.customer);
    let hosts = two_hosts(&kit).await;
    let (one, other) = (volume(&kit).await, volume(&kit).await);
    let (mut source, destination, web) = running(&kit, hosts, with(&[one, other])).await;
    deleted(&kit, &mut source, &web).await;
    let mut it = Alone { kit, source, destination, data: one, _folder: folder };
    it.drain().await;
    let carrier = it.sets_out().await;
    assert_eq!(carrier.disks.len(), 0, "nothing says that they belong together");
    let both = with(&[one, other]);
    let refused = engine.create_instance(&customer, both.clone(), &it.kit.key()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict, "{refused}");
    assert!(refused.message.contains("does not move with it"), "{refused}");
    it.data = carrier.boot.volume;
    it.has_come(&carrier).await;
    let next = it.sets_out().await;
    assert_ne!(next.boot.volume, carrier.boot.volume);
    it.data = next.boot.volume;
    it.has_come(&next).await;
    engine.create_instance(&customer, both, &it.kit.key()).await.unwrap();
    it.kit.stop().await;
}

#[tokio::test]
async fn one_that_stays_after_all_is_where_it_was() {
    let mut it = Alone::begin(quick()).await;
    let (engine, customer) = (it.kit.engine.clone(), it.kit.customer);
    it.drain().await;
    let carrier = it.sets_out().await.instance;
    engine.drain_host(&customer, it.destination.id, LONG_MS, &it.kit.key()).await.unwrap();
    it.stays(DrainState::Waiting, "being emptied itself").await;
    it.turns_back(carrier).await;
    it.kit.until("it is in one place", || it.row().may_be_on.is_empty()).await;
    assert_eq!(it.row().host, Some(it.source.id));
    assert_eq!(wish(&it.source.set(), it.data), Some(VolumeWish::Keep));
    it.stays(DrainState::Staying, "being emptied").await;
    engine.audit_books().unwrap();
    // And it goes once it can.
    engine.cancel_drain(&customer, it.destination.id, &it.kit.key()).await.unwrap();
    let carrier = it.sets_out().await;
    it.has_come(&carrier).await;
    it.kit.stop().await;
}

#[tokio::test]
async fn one_that_is_deleted_on_its_way_is_nowhere() {
    let mut it = Alone::begin(quick()).await;
    let (engine, customer, data) = (it.kit.engine.clone(), it.kit.customer, it.data);
    it.drain().await;
    let carrier = it.sets_out().await.instance;
    let deleted = engine.delete_volume(&customer, data, &it.kit.key()).await.unwrap();
    it.turns_back(carrier).await;
    let deletes = |set: &DesiredSet| wish(set, data) == Some(VolumeWish::Delete);
    it.source.told("it goes", deletes).await;
    it.source.destroyed(data).await;
    it.kit.done(deleted.id).await;
    engine.audit_books().unwrap();
    it.kit.stop().await;
}

/// The store was restored to before it had come: its data is at the other host.
#[tokio::test]
async fn what_is_not_there_any_more_is_destroyed_at_neither_host() {
    let mut it = Alone::begin(quick()).await;
    let (engine, customer, data) = (it.kit.engine.clone(), it.kit.customer, it.data);
    it.drain().await;
    let carrier = it.sets_out().await.instance;
    let told = it.source.set().volumes;
    let copies: Vec<_> = told.iter().filter(|of| of.volume == data).map(|of| of.copy).collect();
    assert_eq!(copies, [Some(VolumeCopy::Made)], "it is not made anew");
    it.source.destroyed(data).await;
    it.stays(DrainState::Staying, "look at both hosts").await;
    // Whatever would end a move ends nothing.
    it.kit.clock.forward(2 * LONG_MS);
    engine.drain_host(&customer, it.destination.id, LONG_MS, &it.kit.key()).await.unwrap();
    let told_before = [&it.source, &it.destination].map(|host| (host.id, host.set().generation));
    it.destination.has(carrier, Epoch(2), ObservedState::Absent, None).await;
    it.source.has(carrier, Epoch(1), ObservedState::Stopped, None).await;
    let heard = |host| engine.host(&customer, host).unwrap().observed_generation;
    for (host, generation) in told_before {
        it.kit.until("it was heard", || heard(host) >= generation).await;
    }
    for host in [&it.source, &it.destination] {
        assert_eq!(wish(&host.set(), data), Some(VolumeWish::Keep));
    }
    it.kit.clock.forward(LONG_MS);
    let back = it.kit.clock.now();
    // It was there all the while, and is not lost.
    it.source.makes_volumes(&told);
    it.source.reports().await;
    let closed = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| !arrival.open);
    it.destination.told_of("it shall not come", carrier, closed).await;
    let records = it.kit.store.audit(0, 10_000).await.unwrap();
    let given_up = records.iter().find(|it| it.entry.verb == "broker.give_up_migration").unwrap();
    assert!(given_up.entry.at >= back, "{given_up:?}");
    it.kit.stop().await;
}

#[tokio::test]
async fn what_is_under_way_with_a_volume_comes_to_its_end_first() {
    let mut it = Alone::begin(quick()).await;
    let (engine, customer, data) = (it.kit.engine.clone(), it.kit.customer, it.data);
    // A copy is made of it.
    let copy = VolumeSpec { source: Some(data), ..volume_spec("copy") };
    let copy = engine.create_volume(&customer, copy, &it.kit.key()).await.unwrap();
    it.drain().await;
    it.stays(DrainState::Waiting, "is being made as a copy of a volume of it").await;
    let made = copy.volume.row.id;
    let of_copy = |item: &DrainItem| item.id == made.to_string();
    let items = engine.drain(&customer, it.source.id).unwrap().volumes;
    let item = items.into_iter().find(of_copy).unwrap();
    assert!(item.reason.contains(&format!("copy of {data}")), "{item:?}");
    let deleted = engine.delete_volume(&customer, made, &it.kit.key()).await.unwrap();
    it.source.told("the copy goes", |set| wish(set, made) == Some(VolumeWish::Delete)).await;
    it.source.reports().await;
    it.kit.done(deleted.id).await;
    let carrier = it.sets_out().await.instance;

    // It grows: its copy elsewhere has the size that it had.
    let grown = VolumeSpec { size: Gib(20), ..it.row().spec.clone() };
    let update = VolumeUpdate { id: data, spec: grown, expected_revision: 0 };
    engine.update_volume(&customer, update, &it.kit.key()).await.unwrap();
    it.turns_back(carrier).await;
    it.stays(DrainState::Waiting, "is being grown").await;
    let set = it.source.set();
    it.source.makes_volumes(&set.volumes);
    it.source.reports().await;
    let carrier = it.sets_out().await;
    it.has_come(&carrier).await;
    it.kit.stop().await;
}

#[tokio::test]
async fn what_waits_for_its_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (source, destination) = two_hosts(&kit).await;
    let (engine, customer) = (kit.engine.clone(), kit.customer);
    let import = Import { bytes: 1 << 20, sha256: fairmazon_model::transfer::Sha256([7; 32]) };
    let wanted = VolumeSpec { import: Some(import), read_only: true, ..volume_spec("file") };
    let made = engine.create_volume(&customer, wanted, &kit.key()).await.unwrap();
    let row = made.volume.row;
    let (source, destination) =
        if row.host == Some(source.id) { (source, destination) } else { (destination, source) };
    let it = Alone { kit, source, destination, data: row.id, _folder: folder };
    it.drain().await;
    it.stays(DrainState::Staying, "waits for the file").await;
    it.kit.stop().await;
}

#[tokio::test]
async fn what_had_left_stays_when_the_host_that_it_went_to_is_lost() {
    let mut it = Alone::begin(mortal()).await;
    let (engine, customer, data) = (it.kit.engine.clone(), it.kit.customer, it.data);
    it.drain().await;
    let carrier = it.sets_out().await.instance;
    it.source.has(carrier, Epoch(1), ObservedState::Stopped, Some(Handover::Left)).await;
    let lost = it.destination.id;
    it.destination.die();
    it.stays(DrainState::Waiting, "does not answer").await;
    let deleted = engine.delete_volume(&customer, data, &it.kit.key()).await.unwrap();
    it.source.told_of("it stays", carrier, |spec| spec.departure.is_none()).await;
    it.source.reports().await;
    assert!(lose(&it.kit, lost).await, "it may be there");
    it.source.told("no carrier", |set| set.machines.is_empty()).await;
    it.source.lost(carrier).await;
    let deletes = |set: &DesiredSet| wish(set, data) == Some(VolumeWish::Delete);
    it.source.told("it goes", deletes).await;
    it.source.destroyed(data).await;
    it.kit.done(deleted.id).await;
    assert!(!lose(&it.kit, lost).await, "nothing is bound to it");
    engine.audit_books().unwrap();
    it.kit.stop().await;
}

/// The other host might have had it, and has nothing any more.
#[tokio::test]
async fn what_is_not_there_any_more_ends_its_way_when_the_other_host_is_lost() {
    let mut it = Alone::begin(mortal()).await;
    let (engine, customer, data) = (it.kit.engine.clone(), it.kit.customer, it.data);
    it.drain().await;
    let carrier = it.sets_out().await.instance;
    it.source.destroyed(data).await;
    it.stays(DrainState::Staying, "look at both hosts").await;
    let lost = it.destination.id;
    it.destination.die();
    lose(&it.kit, lost).await;
    it.source.told_of("it stays", carrier, |spec| spec.departure.is_none()).await;
    it.source.has(carrier, Epoch(1), ObservedState::Stopped, None).await;
    it.source.told("no carrier", |set| set.machines.is_empty()).await;
    it.source.lost(carrier).await;
    assert_eq!(wish(&it.source.set(), data), Some(VolumeWish::Keep));
    it.kit.until("it is in one place", || it.row().may_be_on.is_empty()).await;
    assert!(!lose(&it.kit, lost).await, "nothing is bound to it");
    let deleted = engine.delete_volume(&customer, data, &it.kit.key()).await.unwrap();
    let deletes = |set: &DesiredSet| wish(set, data) == Some(VolumeWish::Delete);
    it.source.told("it goes", deletes).await;
    it.source.reports().await;
    it.kit.done(deleted.id).await;
    it.kit.stop().await;
}
