//! Machines that move while they are off.

use super::*;

/// A machine that ran and is off, beside another host.
struct Off {
    kit: Kit,
    source: Played,
    destination: Played,
    id: InstanceId,
    boot: VolumeId,
    _folder: tempfile::TempDir,
}

impl Off {
    async fn begin(spec: InstanceSpec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kit = Kit::open(folder.path(), quick()).await;
        kit.start();
        let hosts = two_hosts(&kit).await;
        let (source, destination, row) = running(&kit, hosts, spec).await;
        let (id, boot) = (row.id, row.boot_volume_id);
        let mut it = Self { kit, source, destination, id, boot, _folder: folder };
        it.power(Power::Stopped).await;
        let is_off = |spec: &MachineSpec| spec.power == Power::Stopped;
        let told = it.source.told_of("it is to be off", id, is_off).await;
        it.source.has(id, Epoch(1), ObservedState::Stopped, None).await;
        it.source.machines[0].spec_version = told.spec_version;
        it.source.reports().await;
        it.kit.until("it is off", || shown(&it.kit, id) == InstanceState::Stopped).await;
        it
    }

    fn row(&self) -> Instance {
        row(&self.kit, self.id)
    }

    async fn power(&self, power: Power) {
        let spec = InstanceSpec { power, ..self.row().spec };
        let id = self.id;
        let update = InstanceUpdate { id, spec, expected_revision: 0, allow_rebuild: false };
        self.kit.engine.update_instance(&self.kit.customer, update, &self.kit.key()).await.unwrap();
    }

    async fn migrate(&self) -> OperationId {
        let (engine, customer) = (&self.kit.engine, &self.kit.customer);
        engine.migrate_instance(customer, self.id, &self.kit.key()).await.unwrap().id
    }

    /// Both hosts are told that it moves as it is, and the destination has made its volumes.
    async fn both_are_told(&mut self) {
        let off = |spec: &MachineSpec| spec.power == Power::Stopped;
        let leaves = |spec: &MachineSpec| spec.departure.is_some() && off(spec);
        self.source.told_of("it leaves", self.id, leaves).await;
        let comes = |spec: &MachineSpec| {
            spec.arrival.as_ref().is_some_and(|arrival| arrival.open) && off(spec)
        };
        self.destination.told_of("it comes", self.id, comes).await;
        let set = self.destination.set();
        self.destination.makes_volumes(&set.volumes);
        let awaited = Some(Handover::Awaited);
        self.destination.has(self.id, Epoch(2), ObservedState::Starting, awaited).await;
    }

    /// It leaves, and is off at the destination; nothing is left at the source.
    async fn has_come(&mut self) {
        let (id, boot) = (self.id, self.boot);
        self.source.has(id, Epoch(1), ObservedState::Stopped, Some(Handover::Left)).await;
        self.destination.has(id, Epoch(2), ObservedState::Stopped, None).await;
        self.kit.until("it has come", || row(&self.kit, id).migration.is_none()).await;
        let decided = self.row().decision.unwrap();
        assert_eq!((decided.host, decided.epoch), (self.destination.id, Epoch(2)));
        self.source.lost(id).await;
        let deletes = |set: &DesiredSet| wish(set, boot) == Some(VolumeWish::Delete);
        self.source.told("its volume goes", deletes).await;
        self.source.destroyed(boot).await;
        let view = |kit: &Kit| kit.engine.volume(&kit.customer, boot).unwrap().row;
        self.kit.until("its volume is in one place", || view(&self.kit).may_be_on.is_empty()).await;
        assert_eq!(view(&self.kit).host, Some(self.destination.id));
        self.kit.engine.audit_books().unwrap();
    }
}

#[tokio::test]
async fn a_machine_that_is_off_moves_and_is_off_there() {
    let mut it = Off::begin(spec("web")).await;
    let operation = it.migrate().await;
    assert!(it.row().migration.unwrap().off);
    it.both_are_told().await;
    assert_eq!(shown(&it.kit, it.id), InstanceState::Stopped, "as it shall be meanwhile");
    it.has_come().await;
    it.kit.done(operation).await;
    let is_off = || shown(&it.kit, it.id) == InstanceState::Stopped;
    it.kit.until("it is off there", is_off).await;
    // It starts there.
    it.power(Power::Running).await;
    let starts = |spec: &MachineSpec| spec.power == Power::Running && spec.arrival.is_none();
    assert_eq!(it.destination.told_of("it starts", it.id, starts).await.epoch, Epoch(2));
    it.kit.stop().await;
}

#[tokio::test]
async fn one_that_is_to_run_waits_until_its_move_is_given_up() {
    let mut it = Off::begin(spec("web")).await;
    let operation = it.migrate().await;
    it.both_are_told().await;
    it.power(Power::Running).await;
    let (id, boot) = (it.id, it.boot);
    let starts = |spec: &MachineSpec| spec.power == Power::Running && spec.departure.is_none();
    it.source.told_of("it starts where it is", id, starts).await;
    let closed = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| !arrival.open);
    it.destination.told_of("it shall not come", id, closed).await;
    let failed = it.kit.engine.operation(&it.kit.customer, operation).unwrap();
    let OperationState::Failed { error } = &failed.state else { panic!("{failed:?}") };
    assert!(error.message.contains("shall run now"), "{error}");
    it.source.has(id, Epoch(1), ObservedState::Running, None).await;
    it.destination.has(id, Epoch(2), ObservedState::Absent, None).await;
    it.kit.until("it stays", || row(&it.kit, id).migration.is_none()).await;
    assert_eq!(it.row().decision.unwrap().epoch, Epoch(1), "it runs already");
    it.destination.lost(id).await;
    let deletes = |set: &DesiredSet| wish(set, boot) == Some(VolumeWish::Delete);
    it.destination.told("what came in vain goes", deletes).await;
    it.kit.stop().await;
}

#[tokio::test]
async fn one_that_has_come_is_there_although_it_was_given_up() {
    let mut it = Off::begin(spec("web")).await;
    it.migrate().await;
    it.both_are_told().await;
    // All of it has come, which nobody has heard when it is to run.
    it.power(Power::Running).await;
    it.kit.until("it is given up", || it.row().migration.is_some_and(|to| to.given_up)).await;
    it.has_come().await;
    let starts = |spec: &MachineSpec| spec.power == Power::Running && spec.arrival.is_none();
    it.destination.told_of("it starts there", it.id, starts).await;
    it.kit.stop().await;
}

#[tokio::test]
async fn a_host_that_is_emptied_lets_go_of_what_is_off() {
    let mut it = Off::begin(spec("web")).await;
    let (engine, customer) = (it.kit.engine.clone(), it.kit.customer);
    engine.drain_host(&customer, it.source.id, 60_000, &it.kit.key()).await.unwrap();
    it.kit.until("it is on its way", || it.row().migration.is_some()).await;
    it.both_are_told().await;
    it.has_come().await;
    let left = engine.drain(&customer, it.source.id).unwrap();
    assert_eq!((left.machines, left.volumes), (Vec::new(), Vec::new()));
    it.kit.stop().await;
}

#[tokio::test]
async fn one_that_is_interrupted_leaves_a_host_that_is_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (kit.engine.clone(), kit.customer);
    let hosts = two_hosts(&kit).await;
    let dear = NanoEur::from_micro_eur(1_000_000);
    let terms = Spot { max_price: dear, notice_seconds: 30, on_interrupt: OnInterrupt::Stop };
    let wanted = InstanceSpec { spot: Some(terms), ..spec("web") };
    let (mut source, destination, web) = running(&kit, hosts, wanted.clone()).await;
    let (id, boot) = (web.id, web.boot_volume_id);
    let terms = Spot { max_price: NanoEur::from_micro_eur(1), ..terms };
    let wanted = InstanceSpec { spot: Some(terms), ..wanted };
    let update = InstanceUpdate { id, spec: wanted, expected_revision: 0, allow_rebuild: false };
    engine.update_instance(&customer, update, &kit.key()).await.unwrap();
    engine.drain_host(&customer, source.id, 60_000, &kit.key()).await.unwrap();
    let is_off = |spec: &MachineSpec| spec.power == Power::Stopped;
    let version = source.told_of("it is to be off", id, is_off).await.spec_version;
    source.has(id, Epoch(1), ObservedState::Stopped, None).await;
    source.machines[0].spec_version = version;
    source.reports().await;
    kit.until("it is on its way", || row(&kit, id).migration.is_some()).await;
    let claimed = engine.host(&customer, destination.id).unwrap().usage;
    assert_eq!((claimed.memory, claimed.vcpus), (Mib(0), Vcpus(0)), "it has no room to take");
    let mut it = Off { kit, source, destination, id, boot, _folder: folder };
    it.both_are_told().await;
    it.has_come().await;
    assert!(it.row().interruption.is_some());
    it.kit.stop().await;
}

#[tokio::test]
async fn a_machine_that_has_powered_off_by_itself_is_stopped_first() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let hosts = two_hosts(&kit).await;
    let spec = InstanceSpec { restart_policy: RestartPolicy::Never, ..spec("web") };
    let (mut source, _destination, web) = running(&kit, hosts, spec).await;
    source.has(web.id, Epoch(1), ObservedState::Stopped, None).await;
    kit.until("it is off", || shown(&kit, web.id) == InstanceState::Stopped).await;
    let refused = engine.migrate_instance(customer, web.id, &kit.key()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Precondition);
    assert!(refused.message.contains("by itself") && refused.advice.contains("stop it"));
    kit.stop().await;
}
