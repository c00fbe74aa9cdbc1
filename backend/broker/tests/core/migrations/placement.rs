//! Placements that change while machines run: who has to go, who may not, and what ends the
//! operation that asked for it.

use fairmazon_model::{
    DomainError,
    instance::RestartPolicy,
    units::{Mib, UnixMs},
};

use super::*;

/// A machine that runs in one of two countries, and the hosts of both.
struct Moved {
    kit: Kit,
    here: Played,
    there: Played,
    id: InstanceId,
    _folder: tempfile::TempDir,
}

impl Moved {
    async fn running(config: CoreConfig) -> Self {
        Self::beside(host_spec(1, "FR"), config).await
    }

    /// The same with another host in the other country.
    async fn beside(there: HostSpec, config: CoreConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kit = Kit::open(folder.path(), config).await;
        kit.start();
        let here = register(&kit, host_spec(0, "DE")).await;
        let here = Played::open(&kit, here, "here:1").await;
        let there = register(&kit, there).await;
        let there = Played::open(&kit, there, "there:1").await;
        let mut wanted = spec("web");
        wanted.placement.countries = ["DE".to_owned()].into();
        let (here, there, row) = running(&kit, (here, there), wanted).await;
        Self { kit, here, there, id: row.id, _folder: folder }
    }

    fn row(&self) -> Instance {
        row(&self.kit, self.id)
    }

    /// Asks for these countries, and for what `also` makes of the rest.
    async fn ask(
        &self,
        countries: &[&str],
        also: impl FnOnce(&mut InstanceSpec),
    ) -> Result<OperationId, DomainError> {
        let mut spec = self.row().spec;
        spec.placement.countries = countries.iter().copied().map(Into::into).collect();
        also(&mut spec);
        let update =
            InstanceUpdate { id: self.id, spec, expected_revision: 0, allow_rebuild: true };
        let (engine, customer) = (&self.kit.engine, &self.kit.customer);
        Ok(engine.update_instance(customer, update, &self.kit.key()).await?.operation.id)
    }

    fn reason(&self) -> String {
        self.kit.engine.instance(&self.kit.customer, self.id).unwrap().reason
    }

    fn waits_for(&self, operation: OperationId) -> String {
        match self.kit.engine.operation(&self.kit.customer, operation).unwrap().state.clone() {
            OperationState::Running { waiting_for, .. } => waiting_for,
            ended => panic!("it has ended: {ended:?}"),
        }
    }

    /// Both hosts do their part in its next move, and it is at the other one.
    async fn moves(&mut self, version: u64) {
        let leaves = |spec: &MachineSpec| spec.departure.is_some();
        let epoch = self.here.told_of("it leaves", self.id, leaves).await.epoch;
        let comes = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| arrival.open);
        let comes = self.there.told_of("it comes", self.id, comes).await;
        assert!(comes.epoch > epoch);
        let set = self.there.set();
        self.there.makes_volumes(&set.volumes);
        let left = Some(Handover::Left);
        self.here.has(self.id, epoch, ObservedState::Stopped, left).await;
        self.there.has(self.id, comes.epoch, ObservedState::Running, None).await;
        self.there.machines[0].spec_version = version;
        self.there.reports().await;
        let there = Some(self.there.id);
        let host = || row(&self.kit, self.id).decision.map(|at| at.host);
        self.kit.until("it is there", || host() == there).await;
    }

    /// Both hosts have been told of its move: what they are told next is what has become of it.
    async fn is_sent(&mut self) {
        let comes = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| arrival.open);
        self.there.told_of("it comes", self.id, comes).await;
        self.here.told_of("it leaves", self.id, |spec| spec.departure.is_some()).await;
    }

    /// Both hosts show that its move was given up, and nothing of it is left at the other one.
    async fn stays(&mut self) {
        let refused =
            |spec: &MachineSpec| spec.arrival.as_ref().is_none_or(|arrival| !arrival.open);
        self.there.told("it shall not come", |set| set.machines.iter().all(|it| refused(it))).await;
        self.here.told_of("it stays", self.id, |spec| spec.departure.is_none()).await;
        self.here.reports().await;
        self.there.reports().await;
        self.kit.until("it stays", || self.row().migration.is_none()).await;
        let boot = self.row().boot_volume_id;
        self.there.volumes.push(seen(boot));
        self.there.reports().await;
        let goes = |set: &DesiredSet| wish(set, boot) == Some(VolumeWish::Delete);
        self.there.told("its volume goes", goes).await;
        self.there.destroyed(boot).await;
        let left = || self.kit.engine.volume(&self.kit.customer, boot).unwrap().row;
        self.kit.until("nothing is left there", || left().may_be_on.is_empty()).await;
    }

    async fn ends(self) {
        self.kit.until("it is where it shall be", || self.row().displaced.is_none()).await;
        self.kit.engine.audit_books().unwrap();
        assert_eq!(self.reason(), "");
        self.kit.stop().await;
    }
}

#[tokio::test]
async fn a_machine_goes_where_its_placement_says_now_while_it_runs() {
    let mut it = Moved::running(quick()).await;
    let operation = it.ask(&["FR"], |_| ()).await.unwrap();
    it.kit.until("it is on its way", || it.row().migration.is_some()).await;
    assert!(it.waits_for(operation).contains("moves to another host"));
    assert!(it.reason().contains("on its way to another host"), "{}", it.reason());
    assert_eq!(shown(&it.kit, it.id), InstanceState::Running);
    it.moves(1).await;
    it.kit.done(operation).await;
    it.ends().await;
}

#[tokio::test]
async fn a_placement_that_its_host_obeys_moves_nothing() {
    let it = Moved::running(quick()).await;
    for countries in [&["DE", "FR"][..], &["DE"], &[], &["DE"]] {
        let operation = it.ask(countries, |_| ()).await.unwrap();
        it.kit.done(operation).await;
        assert_eq!((it.row().displaced, it.row().migration), (None, None), "{countries:?}");
    }
    it.ends().await;
}

#[tokio::test]
async fn a_placement_that_nothing_obeys_is_refused_and_changes_nothing() {
    let it = Moved::running(quick()).await;
    let before = it.row();
    let error = it.ask(&["IT"], |spec| spec.flavor = "medium".into()).await.unwrap_err();
    assert_eq!((error.kind, error.field.as_deref()), (ErrorKind::NoCapacity, Some("placement")));
    assert!(error.message.contains("the countries") && error.message.contains("IT"), "{error}");
    assert_eq!(it.row(), before);
    it.ends().await;
}

#[tokio::test]
async fn a_machine_that_is_off_goes_as_it_is_or_once_it_runs() {
    let mut it = Moved::running(quick()).await;
    let off = it.ask(&["DE"], |spec| spec.power = Power::Stopped).await.unwrap();
    it.here.told_of("off", it.id, |spec| spec.power == Power::Stopped).await;
    it.here.has(it.id, Epoch(1), ObservedState::Stopped, None).await;
    it.here.machines[0].spec_version = 2;
    it.here.reports().await;
    it.kit.done(off).await;
    let operation = it.ask(&["FR"], |_| ()).await.unwrap();
    it.kit.until("it is on its way", || it.row().migration.is_some_and(|to| to.off)).await;
    assert!(it.waits_for(operation).contains("moves to another host"));
    it.is_sent().await;
    // Started, it goes as soon as it runs.
    it.ask(&["FR"], |spec| spec.power = Power::Running).await.unwrap();
    it.stays().await;
    it.here.told_of("on", it.id, |spec| spec.power == Power::Running).await;
    assert_eq!(it.row().migration, None);
    let epoch = it.row().decision.unwrap().epoch;
    it.here.has(it.id, epoch, ObservedState::Running, None).await;
    it.here.machines[0].spec_version = 3;
    it.here.reports().await;
    it.moves(3).await;
    it.kit.done(operation).await;
    it.ends().await;
}

#[tokio::test]
async fn what_else_changes_is_brought_about_before_it_goes() {
    let mut it = Moved::running(quick()).await;
    let operation = it.ask(&["FR"], |spec| spec.flavor = "medium".into()).await.unwrap();
    let grown = it.here.told_of("the size", it.id, |spec| spec.memory > Mib(2_048)).await;
    assert!(grown.departure.is_none());
    it.here.has(it.id, Epoch(1), ObservedState::Running, None).await;
    it.here.machines[0].spec_version = 2;
    it.here.reports().await;
    it.moves(2).await;
    it.kit.done(operation).await;
    it.ends().await;
}

#[tokio::test]
async fn a_move_that_is_given_up_is_tried_again() {
    let mut it = Moved::running(quick()).await;
    let operation = it.ask(&["FR"], |_| ()).await.unwrap();
    it.is_sent().await;
    let (engine, customer, there) = (it.kit.engine.clone(), it.kit.customer, it.there.id);
    engine.drain_host(&customer, there, 60_000, &it.kit.key()).await.unwrap();
    it.stays().await;
    let why = || it.waits_for(operation);
    it.kit.until("it says why it stays", || why().contains("hosts that are being emptied")).await;
    assert!(it.reason().contains("stays there"), "{}", it.reason());
    engine.cancel_drain(&customer, there, &it.kit.key()).await.unwrap();
    it.moves(1).await;
    it.kit.done(operation).await;
    it.ends().await;
}

#[tokio::test]
async fn patience_ends_and_the_move_comes_about_all_the_same() {
    let mut it = Moved::running(quick()).await;
    let patience = it.kit.engine.config().placement_patience_ms;
    let operation = it.ask(&["FR"], |_| ()).await.unwrap();
    it.is_sent().await;
    let (engine, customer, there) = (it.kit.engine.clone(), it.kit.customer, it.there.id);
    engine.drain_host(&customer, there, 10 * patience, &it.kit.key()).await.unwrap();
    it.kit.until("its move is given up", || it.row().open_migration().is_none()).await;
    it.stays().await;
    it.kit.clock.forward(patience);
    let ended = it.kit.ended(operation).await;
    let OperationState::Failed { error } = &ended.state else { panic!("{ended:?}") };
    assert_eq!(error.kind, ErrorKind::NoCapacity);
    assert!(error.message.contains("being emptied"), "{error}");
    assert!(ended.finished_at.is_some_and(|at| at > UnixMs(0)));
    // A later change that has nothing to do with it does not wait for it.
    let renamed = it.ask(&["FR"], |spec| {
        spec.labels.insert("a".into(), "b".into());
    });
    let renamed = renamed.await.unwrap();
    it.kit.done(renamed).await;
    assert_eq!(it.row().displaced, Some(operation));
    engine.cancel_drain(&customer, there, &it.kit.key()).await.unwrap();
    it.moves(1).await;
    it.ends().await;
}

#[tokio::test]
async fn a_placement_that_is_taken_back_ends_the_move() {
    let mut it = Moved::running(quick()).await;
    it.ask(&["FR"], |_| ()).await.unwrap();
    it.is_sent().await;
    let back = it.ask(&["DE"], |_| ()).await.unwrap();
    it.kit.done(back).await;
    assert_eq!(it.row().displaced, None);
    it.kit.until("its move is given up", || it.row().open_migration().is_none()).await;
    it.stays().await;
    assert_eq!(it.row().decision.map(|at| at.host), Some(it.here.id));
    it.ends().await;
}

#[tokio::test]
async fn machines_that_shall_be_apart_part_and_only_one_of_them_goes() {
    let it = Moved::running(quick()).await;
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    let apart = engine.create_group(customer, "apart", &BTreeMap::new(), &it.kit.key()).await;
    let apart = apart.unwrap().id;
    let Moved { kit, mut here, there, id: first, _folder } = it;
    let mut other = spec("other");
    other.placement.countries = ["DE".to_owned()].into();
    let made = kit.engine.create_instance(&kit.customer, other, &kit.key()).await.unwrap();
    let second = made.instance.row.id;
    let set = here.told("both", |set| set.machines.len() == 2).await;
    here.makes_volumes(&set.volumes);
    here.has(second, Epoch(1), ObservedState::Running, None).await;
    kit.done(made.operation.id).await;
    for id in [first, second] {
        let mut spec = row(&kit, id).spec;
        spec.placement.countries.clear();
        spec.placement.not_with = [apart].into();
        let update = InstanceUpdate { id, spec, expected_revision: 0, allow_rebuild: false };
        kit.engine.update_instance(&kit.customer, update, &kit.key()).await.unwrap();
    }
    kit.until("the second one goes", || row(&kit, second).migration.is_some()).await;
    assert_eq!(row(&kit, second).migration.unwrap().to, there.id);
    assert_eq!((row(&kit, first).displaced, row(&kit, first).migration), (None, None));
    kit.engine.audit_books().unwrap();
    kit.stop().await;
}

#[tokio::test]
async fn a_placement_that_its_move_leads_to_anyway_is_taken() {
    let mut it = Moved::running(quick()).await;
    let anywhere = it.ask(&[], |_| ()).await.unwrap();
    it.kit.done(anywhere).await;
    it.kit.engine.migrate_instance(&it.kit.customer, it.id, &it.kit.key()).await.unwrap();
    let operation = it.ask(&["FR"], |_| ()).await.unwrap();
    assert!(it.row().open_migration().is_some(), "it goes on");
    it.moves(1).await;
    it.kit.done(operation).await;
    it.ends().await;
}

#[tokio::test]
async fn a_machine_that_comes_where_it_may_not_be_any_more_goes_back() {
    let mut it = Moved::running(quick()).await;
    let anywhere = it.ask(&[], |_| ()).await.unwrap();
    it.kit.done(anywhere).await;
    it.kit.engine.migrate_instance(&it.kit.customer, it.id, &it.kit.key()).await.unwrap();
    it.is_sent().await;
    let set = it.there.set();
    it.there.makes_volumes(&set.volumes);
    // Both have done their parts before they are told that it shall stay.
    let allowed = it.ask(&["DE"], |_| ()).await.unwrap();
    it.kit.done(allowed).await;
    let epoch = it.row().migration.unwrap().epoch;
    it.here.has(it.id, Epoch(1), ObservedState::Stopped, Some(Handover::Left)).await;
    it.there.has(it.id, epoch, ObservedState::Running, None).await;
    let host = |it: &Moved| it.row().decision.map(|at| at.host);
    let there = Some(it.there.id);
    it.kit.until("it is there", || host(&it) == there).await;
    let boot = it.row().boot_volume_id;
    it.here.lost(it.id).await;
    let goes = |set: &DesiredSet| wish(set, boot) == Some(VolumeWish::Delete);
    it.here.told("what was left is deleted", goes).await;
    it.here.destroyed(boot).await;
    std::mem::swap(&mut it.here, &mut it.there);
    it.moves(1).await;
    it.ends().await;
}

#[tokio::test]
async fn a_guest_that_has_powered_off_is_told_as_that() {
    let mut it = Moved::running(quick()).await;
    let never = |spec: &mut InstanceSpec| spec.restart_policy = RestartPolicy::Never;
    let operation = it.ask(&["DE"], never).await.unwrap();
    it.here.told_of("the policy", it.id, |spec| spec.restart == RestartPolicy::Never).await;
    it.here.has(it.id, Epoch(1), ObservedState::Stopped, None).await;
    it.here.machines[0].spec_version = 2;
    it.here.reports().await;
    it.kit.done(operation).await;
    let error = it.ask(&["FR"], |_| ()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    assert!(error.message.contains("has powered off"), "{error}");
    it.ends().await;
}

#[tokio::test]
async fn a_volume_that_may_not_be_there_moves_no_machine_by_being_attached() {
    let it = Moved::running(quick()).await;
    let anywhere = it.ask(&[], |_| ()).await.unwrap();
    it.kit.done(anywhere).await;
    let mut wanted = volume_spec("french");
    wanted.placement.countries = ["FR".to_owned()].into();
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    let made = engine.create_volume(customer, wanted, &it.kit.key()).await.unwrap();
    let volume_id = made.volume.row.id;
    let attach = |spec: &mut InstanceSpec| {
        spec.volumes.insert("data".into(), Attachment { volume_id, read_only: false });
    };
    let before = it.row();
    let error = it.ask(&[], attach).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    assert!(error.advice.contains("placement of the instance first"), "{error}");
    assert_eq!(it.row(), before);
    it.ends().await;
}

#[tokio::test]
async fn what_moves_grows_only_where_both_hosts_have_room() {
    let plenty = host_spec(1, "FR");
    let capacity = Capacity { vcpus: Vcpus(1), ..plenty.capacity.clone() };
    let narrow = HostSpec { capacity, cpu_overcommit_percent: 100, ..plenty };
    let mut it = Moved::beside(narrow, quick()).await;
    let operation = it.ask(&["FR"], |_| ()).await.unwrap();
    it.kit.until("it is on its way", || it.row().migration.is_some()).await;
    let before = it.row();
    let error = it.ask(&["FR"], |spec| spec.flavor = "medium".into()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoCapacity);
    assert!(error.message.contains("the host that it moves to has no room"), "{error}");
    assert_eq!(it.row(), before);
    it.kit.engine.audit_books().unwrap();
    it.moves(1).await;
    it.kit.done(operation).await;
    it.ends().await;
}
