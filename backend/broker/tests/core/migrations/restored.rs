//! The store is one from before a move that has come about: what the hosts say is what was so, and
//! nothing of a customer's is made anew, deleted or run twice for what the store says.

use std::sync::Arc;

use fairmazon_model::{instance::Decision, machine::VolumeCopy, volume::Volume};
use fairmazon_store::sqlite::{SqliteOptions, SqliteStore};

use super::*;

/// What a broker knows that was restored: a machine with a data volume runs on `here`.
struct Restored {
    kit: Kit,
    here: Played,
    there: Played,
    id: InstanceId,
    boot: VolumeId,
    data: VolumeId,
    _folder: tempfile::TempDir,
}

/// A machine with a data volume, which runs.
async fn with_data() -> (tempfile::TempDir, Kit, (Played, Played, Instance), VolumeId) {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.start();
    let hosts = two_hosts(&kit).await;
    let made = kit.engine.create_volume(&kit.customer, volume_spec("data"), &kit.key()).await;
    let data = made.unwrap().volume.row.id;
    let attachment = Attachment { volume_id: data, read_only: false };
    let spec =
        InstanceSpec { volumes: BTreeMap::from([("data".into(), attachment)]), ..spec("web") };
    let made = running(&kit, hosts, spec).await;
    let is_made = |id| kit.engine.volume(&kit.customer, id).unwrap().row.made;
    kit.until("both are made", || is_made(data) && is_made(made.2.boot_volume_id)).await;
    (folder, kit, made, data)
}

/// Another broker on the store of this one, with both hosts, which have not said what they have.
async fn restore(
    folder: tempfile::TempDir,
    kit: Kit,
    (here, there, row): (Played, Played, Instance),
    data: VolumeId,
) -> Restored {
    let (ids, boot) = ([here.id, there.id], row.boot_volume_id);
    drop((here, there));
    kit.stop().await;
    drop(kit);
    let store = SqliteStore::open(&SqliteOptions::new(folder.path().join("store.db"))).unwrap();
    // Its ids are none of those that there are.
    let kit = Kit::on(Arc::new(store), quick(), 2).await;
    kit.start();
    let here = Played::open(&kit, ids[0], "one:1").await;
    let there = Played::open(&kit, ids[1], "other:1").await;
    Restored { kit, here, there, id: row.id, boot, data, _folder: folder }
}

impl Restored {
    /// From when it ran on `here` for the first time.
    async fn begin() -> Self {
        let (folder, kit, made, data) = with_data().await;
        restore(folder, kit, made, data).await
    }

    fn decision(&self) -> Decision {
        row(&self.kit, self.id).decision.unwrap()
    }

    fn volume(&self, id: VolumeId) -> Volume {
        Volume::clone(&self.kit.engine.volume(&self.kit.customer, id).unwrap().row)
    }

    /// `there` has all of it, and this run of it.
    async fn ran_there(&mut self, epoch: u64, state: ObservedState) {
        self.there.volumes = vec![seen(self.boot), seen(self.data)];
        self.there.has(self.id, Epoch(epoch), state, None).await;
    }

    /// `here` was heard under the set that it was told last.
    async fn here_is_heard(&mut self) {
        self.here.reports().await;
        let generation = self.here.set().generation;
        let heard = || self.kit.engine.host(&self.kit.customer, self.here.id).unwrap();
        self.kit.until("it is heard", || heard().observed_generation >= generation).await;
    }

    /// It goes on at `there` as this run, and nothing of it is deleted anywhere.
    async fn goes_on_there(mut self, epoch: u64) {
        let own = |spec: &MachineSpec| spec.arrival.is_none();
        assert_eq!(self.there.told_of("it is there", self.id, own).await.epoch, Epoch(epoch));
        let decision = self.decision();
        assert_eq!((decision.host, decision.epoch), (self.there.id, Epoch(epoch)));
        let set = self.there.set();
        for volume in [self.boot, self.data] {
            assert_eq!(self.volume(volume).host, Some(self.there.id));
            let told = set.volumes.iter().find(|wish| wish.volume == volume).unwrap();
            assert_eq!((told.wish, told.copy), (VolumeWish::Keep, Some(VolumeCopy::Made)));
        }
        self.here.told("nothing of it", |set| set.machines.is_empty()).await;
        self.here.lost(self.id).await;
        self.ran_there(epoch, ObservedState::Running).await;
        self.kit.until("it runs", || shown(&self.kit, self.id) == InstanceState::Running).await;
        self.here_is_heard().await;
        assert_eq!(self.here.set().volumes, [], "what it has of it is kept");
        let verbs = self.kit.own_verbs(self.id).await;
        assert_eq!(verbs.last().unwrap(), "broker.find_instance", "{verbs:?}");
        assert_eq!(row(&self.kit, self.id).migration, None);
        self.kit.engine.audit_books().unwrap();
        self.kit.stop().await;
    }
}

fn copies(set: &DesiredSet) -> Vec<Option<VolumeCopy>> {
    set.volumes.iter().map(|wish| wish.copy).collect()
}

/// Told of volumes that were there: they are not made a second time.
const MADE: [Option<VolumeCopy>; 2] = [Some(VolumeCopy::Made); 2];

#[tokio::test]
async fn what_moved_goes_on_where_it_is_when_its_old_host_is_heard_first() {
    let mut it = Restored::begin().await;
    assert_eq!(copies(&it.here.set()), MADE, "nothing takes the place of what it was");
    it.here_is_heard().await;
    it.kit.until("they are missed", || it.volume(it.boot).is_missing()).await;
    assert_eq!(copies(&it.here.set()), MADE);
    assert_eq!(it.decision().epoch, Epoch(1));
    // It is told to wait while not all of it is there.
    it.there.volumes = vec![seen(it.boot)];
    it.there.has(it.id, Epoch(2), ObservedState::Running, None).await;
    it.kit.reads("volumes_kept_beside", 1).await;
    let reason = || it.kit.engine.instance(&it.kit.customer, it.id).unwrap().reason;
    it.kit.until("its customer is told", || reason().contains("has had a later run of it")).await;
    assert_eq!(it.decision().host, it.here.id);
    it.ran_there(2, ObservedState::Running).await;
    it.goes_on_there(3).await;
}

#[tokio::test]
async fn what_moved_goes_on_where_it_is_when_its_old_host_is_heard_last() {
    let mut it = Restored::begin().await;
    it.ran_there(2, ObservedState::Stopped).await;
    it.kit.until("its run is noted", || row(&it.kit, it.id).later.is_some()).await;
    assert_eq!(it.decision().host, it.here.id, "its own host has not said that it has none of it");
    // That host stops it by then, as no set names it.
    it.there.lost(it.id).await;
    it.here_is_heard().await;
    it.goes_on_there(3).await;
}

#[tokio::test]
async fn what_moved_on_twice_while_a_move_was_open_goes_on_where_it_is() {
    let (folder, kit, (mut here, mut there, row), data) = with_data().await;
    kit.engine.migrate_instance(&kit.customer, row.id, &kit.key()).await.unwrap();
    there.told_of("it comes", row.id, |spec| spec.arrival.is_some()).await;
    here.told_of("it leaves", row.id, |spec| spec.departure.is_some()).await;
    // It was given up, and another one came about: this one ends for neither host.
    let mut it = restore(folder, kit, (here, there, row), data).await;
    assert_eq!(copies(&it.here.set()), MADE);
    it.ran_there(4, ObservedState::Running).await;
    it.here_is_heard().await;
    it.goes_on_there(5).await;
}

#[tokio::test]
async fn an_old_host_that_says_that_it_has_let_it_go_does_not_start_it() {
    let mut it = Restored::begin().await;
    // It was off before it could delete what is left there, and that was a later way than this
    // store knows of.
    it.here.volumes = vec![seen(it.boot), seen(it.data)];
    it.here.has(it.id, Epoch(3), ObservedState::Stopped, Some(Handover::Left)).await;
    it.here_is_heard().await;
    assert_eq!(it.decision().epoch, Epoch(1), "it would start under a later one");
    it.ran_there(4, ObservedState::Running).await;
    it.goes_on_there(5).await;
}

#[tokio::test]
async fn a_host_takes_no_machine_from_one_that_has_it() {
    let mut it = Restored::begin().await;
    it.here.volumes = vec![seen(it.boot), seen(it.data)];
    it.here.has(it.id, Epoch(1), ObservedState::Running, None).await;
    it.kit.until("it runs", || shown(&it.kit, it.id) == InstanceState::Running).await;
    // Its host has told it all that it has to know for that.
    it.ran_there(9, ObservedState::Running).await;
    it.kit.reads("volumes_kept_beside", 2).await;
    for _ in 0..3 {
        it.here_is_heard().await;
        it.there.reports().await;
    }
    let decision = it.decision();
    assert_eq!((decision.host, decision.epoch), (it.here.id, Epoch(1)));
    assert_eq!(shown(&it.kit, it.id), InstanceState::Running);
    assert!(it.there.set().machines.is_empty());
    // Nor while that moves it: it has let it go to another one.
    let third = it.kit.engine.register_host(&it.kit.customer, host_spec(2, "DE"), "third").await;
    let third = third.unwrap().0.row.id;
    let mut third = Played::open(&it.kit, third, "third:1").await;
    third.reports().await;
    let host = it.there.id;
    it.kit.engine.drain_host(&it.kit.customer, host, 3_600_000, "drain").await.unwrap();
    it.kit.engine.migrate_instance(&it.kit.customer, it.id, "migrate").await.unwrap();
    let comes = third.told_of("it comes", it.id, |spec| spec.arrival.is_some()).await;
    it.here.has(it.id, Epoch(1), ObservedState::Stopped, Some(Handover::Left)).await;
    it.here_is_heard().await;
    it.there.reports().await;
    third.volumes = vec![seen(it.boot), seen(it.data)];
    third.has(it.id, comes.epoch, ObservedState::Running, None).await;
    it.kit.until("it has come", || it.decision().host == third.id).await;
    it.kit.stop().await;
}

/// The store is one from when it had come to `there`, and what was left `here` was to be deleted.
async fn come_back(shows: Option<ObservedState>) {
    let (folder, kit, (mut here, mut there, before), data) = with_data().await;
    let (id, boot) = (before.id, before.boot_volume_id);
    kit.engine.migrate_instance(&kit.customer, id, &kit.key()).await.unwrap();
    there.told_of("it comes", id, |spec| spec.arrival.is_some()).await;
    there.volumes = vec![seen(boot), seen(data)];
    here.has(id, Epoch(1), ObservedState::Stopped, Some(Handover::Left)).await;
    there.has(id, Epoch(2), ObservedState::Running, None).await;
    let decided = || row(&kit, id).decision.unwrap().host;
    kit.until("it has come", || decided() == there.id).await;
    there.told_of("it is there", id, |spec| spec.arrival.is_none()).await;
    there.reports().await;
    let there_again = row(&kit, id);
    // It came back since then: what is `here` is all that there is.
    let mut it = restore(folder, kit, (there, here, there_again), data).await;
    let volumes = [it.boot, it.data];
    assert!(volumes.iter().all(|id| it.volume(*id).may_be_on.contains(&it.there.id)));
    it.there.volumes = vec![seen(boot), seen(data)];
    if let Some(state) = shows {
        it.there.has(it.id, Epoch(3), state, None).await;
        let kept = |it: &Restored| volumes.iter().all(|id| it.volume(*id).may_be_on.is_empty());
        it.kit.until("they are kept", || kept(&it)).await;
        it.here_is_heard().await;
        return it.goes_on_there(4).await;
    }
    it.there.reports().await;
    it.here_is_heard().await;
    it.kit.until("they are missed", || volumes.iter().all(|id| it.volume(*id).is_missing())).await;
    it.there.reports().await;
    let more = it.kit.engine.create_instance(&it.kit.customer, spec("more"), "more").await;
    let more = more.unwrap().instance.row.id;
    it.kit.until("it is placed", || row(&it.kit, more).decision.is_some()).await;
    for host in [&it.here, &it.there] {
        assert!(volumes.iter().all(|id| wish(&host.set(), *id) != Some(VolumeWish::Delete)));
    }
    it.kit.stop().await;
}

#[tokio::test]
async fn what_came_back_goes_on_there() {
    come_back(Some(ObservedState::Running)).await;
    come_back(Some(ObservedState::Stopped)).await;
}

#[tokio::test]
async fn what_came_back_is_not_deleted_when_its_host_knows_its_run_no_more() {
    come_back(None).await;
}

#[tokio::test]
async fn a_boot_volume_that_is_rebuilt_is_made_anew_and_no_other_one() {
    let (_folder, kit, (mut here, _there, before), _) = with_data().await;
    let told = |set: &DesiredSet, id| {
        set.volumes.iter().find(|wish| wish.volume == id).map(|wish| wish.copy)
    };
    let boot = before.boot_volume_id;
    here.told("it is there", |set| told(set, boot) == Some(Some(VolumeCopy::Made))).await;
    let changed = |change: fn(&mut InstanceSpec)| {
        let mut spec = row(&kit, before.id).spec;
        change(&mut spec);
        InstanceUpdate { id: before.id, spec, expected_revision: 0, allow_rebuild: true }
    };
    let update = changed(|spec| spec.name = "other".into());
    kit.engine.update_instance(&kit.customer, update, &kit.key()).await.unwrap();
    let renamed = here.told_of("its name", before.id, |spec| spec.name == "other").await;
    assert_eq!(told(&here.set(), boot), Some(Some(VolumeCopy::Made)));
    let update = changed(|spec| spec.image = "debian-12".into());
    kit.engine.update_instance(&kit.customer, update, &kit.key()).await.unwrap();
    let rebuilt = here.told_of("its rebuild", before.id, |spec| spec.rebuilds == 1).await;
    assert_eq!(told(&here.set(), boot), Some(None));
    // What it has is not rebuilt yet.
    here.reports().await;
    let has = |here: &mut Played, version| {
        let seen = here.machines.iter_mut().find(|seen| seen.instance == before.id).unwrap();
        seen.spec_version = version;
    };
    has(&mut here, renamed.spec_version);
    here.reports().await;
    let observed = || row(&kit, before.id).observed.spec_version;
    kit.until("its name is seen", || observed() == renamed.spec_version).await;
    assert_eq!(told(&here.set(), boot), Some(None));
    has(&mut here, rebuilt.spec_version);
    here.reports().await;
    kit.until("it is seen", || observed() == rebuilt.spec_version).await;
    let mut here = Played::open(&kit, here.id, "one:1").await;
    here.told("it is there", |set| told(set, boot) == Some(Some(VolumeCopy::Made))).await;
    kit.stop().await;
}
