//! Volumes that are not where they were: lost with their disk, or known to a host alone since the
//! store was restored. Nothing takes their place unseen, and nothing of them is deleted.

use std::collections::BTreeMap;

use fairmazon_broker::core::{InstanceState, VolumeState};
use fairmazon_model::{
    id::{HostId, InstanceId, VolumeId},
    instance::{Attachment, InstanceSpec, ObservedState},
    machine::{DesiredSet, VolumeCopy, VolumeSeen, VolumeWish},
    transfer::Sha256,
    units::Gib,
    volume::{Import, VolumeObserved, VolumeSpec},
};

use super::{
    kit::{Kit, host_spec, mortal, row, spec, volume_spec},
    played::{Played, lapses, refused, register},
};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A volume of the customer, and the spec of a machine with it.
async fn with_data(kit: &Kit) -> (VolumeId, InstanceSpec) {
    let made = kit.engine.create_volume(&kit.customer, volume_spec("data"), &kit.key()).await;
    let volume = made.unwrap().volume.row.id;
    let attachment = Attachment { volume_id: volume, read_only: false };
    let volumes = BTreeMap::from([("data".into(), attachment)]);
    (volume, InstanceSpec { volumes, ..spec("web") })
}

/// Creates a machine; its id and that of its boot volume.
async fn create(kit: &Kit, spec: InstanceSpec) -> (InstanceId, VolumeId) {
    let made = kit.engine.create_instance(&kit.customer, spec, &kit.key()).await.unwrap();
    (made.instance.row.id, made.instance.row.boot_volume_id)
}

/// What a set says that a volume is made of.
fn copy(set: &DesiredSet, volume: VolumeId) -> Option<Option<VolumeCopy>> {
    set.volumes.iter().find(|wish| wish.volume == volume).map(|wish| wish.copy)
}

/// The host has made what it was told and runs this.
async fn runs(host: &mut Played, instance: InstanceId) {
    let told = host.told_of("the machine", instance, |_| true).await;
    let wishes = host.set().volumes;
    host.makes_volumes(&wishes);
    host.has(instance, told.epoch, ObservedState::Running, None).await;
}

/// The host dies, and can have no lease any more.
async fn dies(kit: &Kit, mut host: Played) {
    host.die();
    lapses(kit, host.id).await;
}

#[tokio::test]
async fn a_data_volume_that_its_host_has_lost_is_never_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.start();
    let (here, elsewhere) =
        (register(&kit, host_spec(0, "DE")).await, register(&kit, host_spec(1, "DE")).await);
    let mut host = Played::open(&kit, here, "").await;
    let (data, wanted) = with_data(&kit).await;
    let (web, boot) = create(&kit, wanted.clone()).await;
    let set = host.told("the machine", |set| copy(set, boot).is_some()).await;
    assert_eq!((copy(&set, data), copy(&set, boot)), (Some(None), Some(None)), "both are made");
    runs(&mut host, web).await;
    let set =
        host.told("data that is there", |set| copy(set, data) == Some(Some(VolumeCopy::Made)));
    assert_eq!(copy(&set.await, boot), Some(Some(VolumeCopy::Made)), "and so is its machine's");

    // Its disk is not mounted: the host has no volume, and is not told to make one.
    kit.engine.delete_instance(&kit.customer, web, &kit.key()).await.unwrap();
    host.told("that it goes", |set| set.machines.is_empty()).await;
    host.lost(web).await;
    let is_deleted = |set: &DesiredSet| {
        set.volumes.iter().any(|wish| wish.volume == boot && wish.wish == VolumeWish::Delete)
    };
    host.told("that its boot volume goes", is_deleted).await;
    host.destroyed(boot).await;
    kit.until("it is deleted", || kit.engine.instance(&kit.customer, web).is_err()).await;
    host.destroyed(data).await;
    let volume = || kit.engine.volume(&kit.customer, data).unwrap().row;
    kit.until("it is missed", || volume().is_missing()).await;
    assert_eq!(copy(&host.set(), data), Some(Some(VolumeCopy::Made)));

    // A machine that gets it waits for that host, also when it falls silent before it has begun.
    let other = Played::open(&kit, elsewhere, "").await;
    let (again, _) = create(&kit, wanted).await;
    host.told_of("the machine", again, |_| true).await;
    dies(&kit, host).await;
    let waits = || row(&kit, again).observed.state != ObservedState::Running;
    kit.until("it waits", waits).await;
    tokio::time::sleep(kit.engine.config().lease_term * 2).await;
    assert_eq!(row(&kit, again).decision.unwrap().host, here);
    assert_eq!(volume().host, Some(here));

    // The disk is back.
    let mut host = Played::open(&kit, here, "").await;
    runs(&mut host, again).await;
    kit.until("it runs", || row(&kit, again).observed.state == ObservedState::Running).await;
    kit.until("it is there", || volume().observed.is_present()).await;
    drop((host, other));
    kit.stop().await;
}

/// What a host says of a volume that it has.
fn present(volume: VolumeId) -> VolumeSeen {
    let state = VolumeObserved::Present { size: Gib(10), failure: None };
    VolumeSeen { volume, state, changed_key: None, refused_key: None }
}

#[tokio::test]
async fn what_ran_after_the_backup_keeps_its_data_when_it_is_decided_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.start();
    let hosts: [HostId; 2] =
        [register(&kit, host_spec(0, "DE")).await, register(&kit, host_spec(1, "DE")).await];
    // Both are told to this host and not confirmed yet when the store is copied.
    let mut first = Played::open(&kit, hosts[0], "").await;
    let (ran, ran_boot) = create(&kit, spec("ran")).await;
    let (held, held_boot) = create(&kit, spec("held")).await;
    let set = first.told("both", |set| set.machines.len() == 2).await;
    assert!(set.machines.iter().all(|machine| machine.held), "{set:?}");
    drop(first);
    kit.stop().await;

    // The store of then, without that host: they are decided elsewhere.
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.start();
    let mut second = Played::open(&kit, hosts[1], "").await;
    let is_there = |id| row(&kit, id).decision.is_some_and(|decision| decision.host == hosts[1]);
    kit.until("both are decided anew", || is_there(ran) && is_there(held)).await;

    // It comes back, and one of them had run there.
    let mut first = Played::open(&kit, hosts[0], "").await;
    let epoch = |id| set.machines.iter().find(|spec| spec.instance == id).unwrap().epoch;
    first.volumes = vec![present(ran_boot), present(held_boot)];
    first.has(ran, epoch(ran), ObservedState::Stopped, None).await;
    first.made(held, epoch(held)).await;
    let told = |set: &DesiredSet, volume| {
        set.volumes.iter().find(|wish| wish.volume == volume).map(|wish| wish.wish)
    };
    first.reports().await;
    kit.reads("volumes_kept_beside", 1).await;
    assert_eq!(told(&first.set(), held_boot), None, "the other host has none of it yet");
    let set = second.told("both", |set| set.volumes.len() == 2).await;
    second.makes_volumes(&set.volumes);
    second.reports().await;
    let set = first.told("one to delete", |set| told(set, held_boot).is_some()).await;
    assert_eq!(told(&set, held_boot), Some(VolumeWish::Delete), "nothing was written to it");
    assert_eq!(told(&set, ran_boot), None, "it is kept");
    kit.reads("volumes_kept_beside", 1).await;
    let volume = || kit.engine.volume(&kit.customer, ran_boot).unwrap().row;
    kit.until("that is written down", || volume().may_be_on.is_empty()).await;
    assert_eq!(kit.own_verbs(ran_boot).await, ["broker.keep_volume"]);

    // Also by the next broker, and once the machine is gone from there.
    drop((first, second));
    kit.stop().await;
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.start();
    let mut second = Played::open(&kit, hosts[1], "").await;
    second.volumes = vec![present(ran_boot), present(held_boot)];
    second.reports().await;
    let mut first = Played::open(&kit, hosts[0], "").await;
    first.volumes = vec![present(ran_boot), present(held_boot)];
    first.reports().await;
    let set = first.told("one to delete", |set| told(set, held_boot).is_some()).await;
    assert_eq!(told(&set, ran_boot), None, "it is kept");
    drop(first);
    kit.stop().await;
}

#[tokio::test]
async fn an_import_ends_for_want_of_its_file_only_when_its_host_says_that_it_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.start();
    let here = register(&kit, host_spec(0, "DE")).await;
    let mut host = Played::open(&kit, here, "").await;
    let file = Import { bytes: 2 << 20, sha256: Sha256::of(b"a file") };
    let wanted = VolumeSpec { import: Some(file), read_only: true, ..volume_spec("back") };
    let mut made = Vec::new();
    for _ in 0..2 {
        let one = kit.engine.create_volume(&kit.customer, wanted.clone(), &kit.key()).await;
        made.push(one.unwrap().volume.row.id);
    }
    host.told("both", |set| set.volumes.len() == 2).await;
    // One has come while the broker was away, and its host does not answer for a week.
    drop(host);
    kit.stop().await;
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.clock.forward(8 * DAY_MS);
    kit.start();
    tokio::time::sleep(kit.engine.config().lease_term * 2).await;
    let is_going = |id| kit.engine.volume(&kit.customer, id).unwrap().row.deleting.is_some();
    assert!(!is_going(made[0]) && !is_going(made[1]));
    let mut host = Played::open(&kit, here, "").await;
    host.told("both", |set| set.volumes.len() == 2).await;
    host.volumes = vec![present(made[0])];
    host.reports().await;
    kit.until("the other one is given up", || is_going(made[1])).await;
    assert!(!is_going(made[0]), "it is a snapshot by now");
    drop(host);
    kit.stop().await;
}

#[tokio::test]
async fn what_was_on_a_host_that_is_given_up_goes_when_its_customers_delete_it() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.start();
    let here = register(&kit, host_spec(0, "DE")).await;
    let mut host = Played::open(&kit, here, "").await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let (data, wanted) = with_data(&kit).await;
    let (web, boot) = create(&kit, wanted).await;
    host.told_of("the machine", web, |_| true).await;
    runs(&mut host, web).await;
    kit.until("it runs", || row(&kit, web).observed.state == ObservedState::Running).await;

    let lose = async || engine.remove_host(customer, here, true, &kit.key()).await;
    let error = lose().await.unwrap_err();
    assert!(error.to_string().contains("its lease has not ended"), "{error}");
    dies(&kit, host).await;
    let error = engine.remove_host(customer, here, false, &kit.key()).await.unwrap_err();
    assert!(error.advice.contains("--lost"), "{error}");
    let shown = || engine.instance(customer, web).unwrap();
    assert_eq!(shown().state, InstanceState::Unknown);
    assert!(lose().await.unwrap(), "something is on it");
    assert!(engine.host(customer, here).unwrap().row.lost_at.is_some());
    assert_eq!(shown().state, InstanceState::Failed);
    assert!(shown().reason.contains("lost for good"), "{}", shown().reason);
    assert_eq!(engine.volume(customer, data).unwrap().state, VolumeState::Failed);
    let rotated = engine.rotate_host_token(customer, here, &kit.key()).await;
    let error = rotated.map(drop).unwrap_err();
    assert!(error.to_string().contains("declared lost"), "{error}");
    let error = refused(&kit, here).await;
    assert!(error.to_string().contains("declared lost"), "it speaks no more: {error}");

    // A volume that was asked to go before the host was given up goes as well.
    engine.delete_instance(customer, web, &kit.key()).await.unwrap();
    kit.until("it is gone", || engine.instance(customer, web).is_err()).await;
    kit.until("its boot volume is gone", || engine.volume(customer, boot).is_err()).await;
    assert!(lose().await.unwrap(), "its data volume is there");
    let deleted = engine.delete_volume(customer, data, &kit.key()).await.unwrap();
    kit.done(deleted.id).await;
    assert!(!lose().await.unwrap());
    assert!(engine.host(customer, here).is_err());
    let verbs: Vec<_> = kit.store.audit(0, 1_000).await.unwrap();
    let verbs = verbs.iter().map(|record| record.entry.verb.as_str());
    let of_host: Vec<_> = verbs.filter(|verb| verb.starts_with("host.")).collect();
    assert_eq!(of_host, ["host.register", "host.lose", "host.lose", "host.remove"]);
    engine.audit_books().unwrap();
    kit.stop().await;
}
