//! Spot machines whose capacity is taken back: notice, off, and back again, on simulated hosts.

use std::time::Duration;

use fairmazon_broker::core::{
    CoreConfig, InstanceState, InstanceUpdate, InstanceView, VolumeState,
};
use fairmazon_hypervisor::{
    Halt, Hypervisor,
    sim::{Load, Manner},
};
use fairmazon_model::{
    ErrorKind,
    catalogue::Catalogue,
    host::HostSpec,
    id::{InstanceId, OperationId},
    instance::{Attachment, InstanceSpec, OnInterrupt, Power, Spot},
    interruption::InterruptionCause,
    operation::OperationState,
    price::NanoEur,
    units::{Epoch, Mib, Vcpus},
};

use super::kit::{Hosts, Kit, host_spec, quick, spec, volume_spec};

/// How long interrupted machines stay off, by the broker's wall clock.
const PAUSE_MS: i64 = 1_000_000;
/// How long guests take to shut down: long enough to see them do it.
const SHUTS_DOWN_IN: Duration = Duration::from_millis(1_500);

/// Room for two machines of flavor `medium`.
fn small_host() -> HostSpec {
    let mut spec = host_spec(0, "DE");
    spec.capacity.vcpus = Vcpus(4);
    spec.capacity.memory = Mib(8_192);
    spec
}

fn medium(name: &str) -> InstanceSpec {
    InstanceSpec { flavor: "medium".into(), ..spec(name) }
}

fn spot(name: &str, on_interrupt: OnInterrupt, notice_seconds: u32) -> InstanceSpec {
    let max_price = NanoEur::from_micro_eur(4_000);
    InstanceSpec { spot: Some(Spot { max_price, notice_seconds, on_interrupt }), ..medium(name) }
}

/// A platform with one small host.
struct Stage {
    folder: tempfile::TempDir,
    kit: Kit,
    hosts: Hosts,
}

impl Stage {
    async fn build() -> Self {
        Self::with(small_host()).await
    }

    async fn with(host: HostSpec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kit = Kit::open(folder.path(), config()).await;
        kit.start();
        let mut hosts = Hosts::none();
        hosts.add(&kit, host).await;
        hosts.connect(0, &kit.engine);
        hosts.hosts[0].sim.set_stop_takes(Some(SHUTS_DOWN_IN));
        kit.until("the host is there", || kit.engine.hosts_connected() == 1).await;
        Self { folder, kit, hosts }
    }

    /// Everything begins anew but what is on disks, and the agent.
    async fn restart(self) -> Self {
        self.restart_with(Catalogue::default_catalogue()).await
    }

    async fn restart_with(self, catalogue: Catalogue) -> Self {
        let Self { folder, kit, mut hosts } = self;
        hosts.cut(0);
        kit.stop().await;
        drop(kit);
        let kit = Kit::selling(folder.path(), config(), catalogue).await;
        kit.start();
        hosts.kill_agent(0).await;
        hosts.connect(0, &kit.engine);
        Self { folder, kit, hosts }
    }

    async fn create(&self, spec: InstanceSpec) -> (InstanceId, OperationId) {
        let kit = &self.kit;
        let made = kit.engine.create_instance(&kit.customer, spec, &kit.key()).await.unwrap();
        (made.instance.row.id, made.operation.id)
    }

    async fn running(&self, spec: InstanceSpec) -> InstanceId {
        let (id, operation) = self.create(spec).await;
        self.kit.done(operation).await;
        assert_eq!(self.view(id).state, InstanceState::Running);
        id
    }

    fn view(&self, id: InstanceId) -> InstanceView {
        self.kit.engine.instance(&self.kit.customer, id).unwrap()
    }

    fn is(&self, id: InstanceId, state: InstanceState) -> bool {
        self.view(id).state == state
    }

    async fn comes_to(&self, id: InstanceId, state: InstanceState) {
        self.kit.until(&format!("{id} is {state:?}"), || self.is(id, state)).await;
    }

    async fn update(&self, id: InstanceId, change: impl FnOnce(&mut InstanceSpec)) {
        let mut spec = self.view(id).row.spec.clone();
        change(&mut spec);
        let update = InstanceUpdate { id, spec, expected_revision: 0, allow_rebuild: false };
        let kit = &self.kit;
        kit.engine.update_instance(&kit.customer, update, &kit.key()).await.unwrap();
    }

    async fn delete(&self, id: InstanceId) {
        let kit = &self.kit;
        let deleted = kit.engine.delete_instance(&kit.customer, id, &kit.key()).await.unwrap();
        kit.done(deleted.id).await;
    }

    async fn runs(&self, id: InstanceId) -> bool {
        let machine = self.hosts.hosts[0].sim.machine(id).await.unwrap();
        machine.is_some_and(|machine| machine.runs())
    }

    /// The guest shuts down, once its host means to end it: before that it would be started again.
    async fn shuts_down(&self, id: InstanceId) {
        let (host, ends) = (&self.hosts.hosts[0], Halt::Stopping);
        loop {
            let machine = host.sim.machine(id).await.unwrap();
            if machine.is_none_or(|machine| machine.marks.halt == ends) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.hosts.world.guest_powers_off(host.id, id);
    }

    async fn end(mut self) {
        self.hosts.check();
        self.kit.engine.audit_books().unwrap();
        let verdict = self.kit.store.verify_audit().await.unwrap();
        assert!(verdict.broken.is_none(), "{verdict:?}");
        self.hosts.kill_agent(0).await;
        self.kit.stop().await;
    }
}

fn config() -> CoreConfig {
    CoreConfig { spot_pause_ms: PAUSE_MS, ..quick() }
}

#[tokio::test]
async fn one_spot_machine_makes_room_has_its_notice_and_comes_back() {
    let stage = Stage::build().await;
    let spared = stage.running(spot("spared", OnInterrupt::Stop, 120)).await;
    let victim = stage.running(spot("victim", OnInterrupt::Stop, 60)).await;
    let before = stage.view(victim);
    let (new, operation) = stage.create(medium("new")).await;

    // The notice: the guest shuts down, and who gets its room waits.
    stage.comes_to(victim, InstanceState::Stopping).await;
    let shown = stage.view(victim);
    let interruption = shown.row.interruption.clone().unwrap();
    assert_eq!(interruption.cause, InterruptionCause::Capacity(new));
    assert_eq!(interruption.notice_ms, 60_000);
    assert!(shown.reason.contains("has 60 s for it"), "{}", shown.reason);
    assert!(stage.runs(victim).await, "it has time to shut down");
    let waits = stage.view(new);
    assert_eq!(waits.state, InstanceState::Starting);
    assert!(waits.reason.contains("up to 60 s to shut down"), "{}", waits.reason);
    // Given notice, interrupted, and waiting for their room.
    let counted = || {
        ["given_notice", "interrupted", "waiting_for_room"]
            .map(|what| stage.kit.reading(&format!("instances_{what}")))
    };
    assert_eq!(counted(), [1, 0, 1]);
    assert!(stage.hosts.hosts[0].sim.machine(new).await.unwrap().is_none());
    let boot = stage.hosts.hosts[0].sim.volume(waits.row.boot_volume_id).await.unwrap();
    assert!(boot.is_none(), "nothing of it is made before it has its room");

    stage.kit.done(operation).await;
    let taken = stage.view(new).row.decision.clone().unwrap();
    assert!(taken.reason.contains("a spot machine leaves this one"), "{}", taken.reason);
    assert!(taken.after.is_empty());
    let off = stage.view(victim);
    assert_eq!(off.state, InstanceState::Stopped);
    assert!(off.reason.contains("starts again when its host has room"), "{}", off.reason);
    assert_eq!(counted(), [0, 1, 0]);
    assert!(stage.is(spared, InstanceState::Running));
    assert_eq!(stage.hosts.world.ledger().starts(spared), 1);
    let usage = stage.kit.engine.host(&stage.kit.customer, taken.host).unwrap().usage;
    assert_eq!((usage.machines, usage.memory), (3, Mib(8_192)));

    // There is room again, and the pause has to pass as well.
    stage.delete(new).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(stage.is(victim, InstanceState::Stopped));
    stage.kit.clock.forward(PAUSE_MS);
    stage.comes_to(victim, InstanceState::Running).await;
    let after = stage.view(victim);
    assert_eq!(after.row.interruption, None);
    assert_eq!(counted(), [0, 0, 0]);
    assert_eq!(after.row.decision, before.row.decision);
    assert_eq!(after.row.observed.addresses, before.row.observed.addresses);
    assert_eq!(stage.hosts.world.ledger().starts(victim), 2);
    let verbs = stage.kit.own_verbs(victim).await;
    let ends = ["broker.interrupt", "broker.interrupted", "broker.return_interrupted"];
    assert_eq!(verbs, [&["broker.place"], &ends[..]].concat());
    let verbs = stage.kit.own_verbs(new).await;
    assert_eq!(verbs, ["broker.place", "broker.enter", "broker.remove_instance"]);
    stage.end().await;
}

#[tokio::test]
async fn it_comes_back_only_when_there_is_room_and_it_shall_run() {
    let stage = Stage::build().await;
    let victim = stage.running(spot("victim", OnInterrupt::Stop, 30)).await;
    let one = stage.running(medium("one")).await;
    let two = stage.running(medium("two")).await;
    assert!(stage.is(victim, InstanceState::Stopped));
    stage.kit.clock.forward(PAUSE_MS);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(stage.is(victim, InstanceState::Stopped), "the host is full");
    stage.update(victim, |spec| spec.power = Power::Stopped).await;
    stage.delete(one).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(stage.is(victim, InstanceState::Stopped), "it shall be off");
    assert!(stage.view(victim).row.interruption.is_some(), "and takes no room while it is");
    stage.update(victim, |spec| spec.power = Power::Running).await;
    stage.comes_to(victim, InstanceState::Running).await;
    assert!(stage.is(two, InstanceState::Running));
    stage.end().await;
}

#[tokio::test]
async fn one_that_is_off_goes_first_and_nobody_waits_for_it() {
    let stage = Stage::build().await;
    let running = stage.running(spot("running", OnInterrupt::Stop, 30)).await;
    let off = stage.running(spot("off", OnInterrupt::Delete, 3_600)).await;
    stage.update(off, |spec| spec.power = Power::Stopped).await;
    stage.comes_to(off, InstanceState::Stopped).await;
    stage.running(medium("new")).await;
    assert!(stage.is(running, InstanceState::Running));
    let shown = stage.view(off);
    assert!(shown.row.interruption.is_some() && shown.row.deleting.is_none(), "{shown:?}");

    // It was kept, and is not deleted for being started when there is room again.
    stage.update(off, |spec| spec.power = Power::Running).await;
    stage.update(running, |spec| spec.power = Power::Stopped).await;
    stage.comes_to(running, InstanceState::Stopped).await;
    let shown = stage.view(off);
    assert!(shown.row.deleting.is_none(), "{shown:?}");
    stage.end().await;
}

#[tokio::test]
async fn one_whose_terms_say_so_is_deleted_and_its_data_volume_stays() {
    let stage = Stage::build().await;
    let (engine, customer) = (&stage.kit.engine, &stage.kit.customer);
    let data = engine.create_volume(customer, volume_spec("data"), &stage.kit.key()).await.unwrap();
    let data = data.volume.row.id;
    let mut wanted = spot("victim", OnInterrupt::Delete, 30);
    let attachment = Attachment { volume_id: data, read_only: false };
    wanted.volumes.insert("data".into(), attachment);
    let victim = stage.running(wanted).await;
    let boot = stage.view(victim).row.boot_volume_id;
    stage.running(medium("one")).await;
    let (two, operation) = stage.create(medium("two")).await;
    stage.comes_to(victim, InstanceState::Stopping).await;
    stage.kit.done(operation).await;
    stage
        .kit
        .until("the victim is gone", || {
            let found = engine.instance(customer, victim);
            found.is_err_and(|error| error.kind == ErrorKind::NotFound)
        })
        .await;
    assert!(stage.is(two, InstanceState::Running));
    let kept = engine.volume(customer, data).unwrap();
    assert_eq!((kept.state, kept.row.attached_to), (VolumeState::Ready, None));
    let sim = &stage.hosts.hosts[0].sim;
    stage
        .kit
        .until("the boot volume is gone", || {
            stage.hosts.world.ledger().deleted_volumes().contains(&boot)
        })
        .await;
    assert!(sim.volume(data).await.unwrap().is_some());
    let page = fairmazon_broker::core::PageRequest { after: None, limit: 0 };
    let operations = engine.operations(customer, page, Some(&victim.to_string())).items;
    assert!(operations.iter().all(|row| row.state == OperationState::Done), "{operations:?}");
    let changes = stage.kit.own_changes(victim).await;
    let verbs: Vec<_> = changes.iter().map(|entry| entry.verb.as_str()).collect();
    let ends = ["broker.interrupted", "broker.delete_interrupted", "broker.remove_instance"];
    assert_eq!(verbs, [&["broker.place", "broker.interrupt"], &ends[..]].concat());
    assert!(changes.last().is_some_and(|entry| entry.before.is_some() && entry.after.is_none()));
    let boot_row = || engine.volume(customer, boot);
    stage.kit.until("the boot volume's row is gone", || boot_row().is_err()).await;
    assert_eq!(stage.kit.own_verbs(boot).await, ["broker.remove_volume"]);
    stage.end().await;
}

#[tokio::test]
async fn spot_makes_no_room_for_spot() {
    let stage = Stage::build().await;
    let one = stage.running(spot("one", OnInterrupt::Stop, 30)).await;
    let two = stage.running(spot("two", OnInterrupt::Stop, 30)).await;
    let (three, _) = stage.create(spot("three", OnInterrupt::Stop, 30)).await;
    stage.comes_to(three, InstanceState::Pending).await;
    stage.kit.until("it says why", || !stage.view(three).reason.is_empty()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for id in [one, two] {
        assert!(stage.is(id, InstanceState::Running) && stage.view(id).row.interruption.is_none());
    }
    stage.end().await;
}

#[tokio::test]
async fn a_restart_in_the_notice_changes_nothing() {
    let stage = Stage::build().await;
    let victim = stage.running(spot("victim", OnInterrupt::Stop, 60)).await;
    stage.running(medium("one")).await;
    stage.hosts.hosts[0].sim.set_stop_takes(None);
    let (two, operation) = stage.create(medium("two")).await;
    stage.comes_to(victim, InstanceState::Stopping).await;
    let before = stage.view(victim).row.interruption.clone();
    let stage = stage.restart().await;
    stage.kit.until("it is seen again", || stage.kit.engine.hosts_connected() == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stage.view(victim).row.interruption, before);
    assert!(stage.runs(victim).await && stage.is(two, InstanceState::Starting));
    // The guest that did not hear it is asked again, by the agent that has just started.
    stage.hosts.world.guest_powers_off(stage.hosts.hosts[0].id, victim);
    stage.kit.done(operation).await;
    assert!(stage.is(victim, InstanceState::Stopped));
    stage.hosts.hosts[0].sim.set_stop_takes(Some(Duration::ZERO));
    stage.end().await;
}

#[tokio::test]
async fn an_interruption_goes_on_when_nobody_wants_its_room_any_more() {
    let stage = Stage::build().await;
    let victim = stage.running(spot("victim", OnInterrupt::Stop, 60)).await;
    stage.running(medium("one")).await;
    let (two, _) = stage.create(medium("two")).await;
    stage.comes_to(victim, InstanceState::Stopping).await;
    stage.delete(two).await;
    // Its guest shuts down already: it does, and starts again.
    stage.comes_to(victim, InstanceState::Stopped).await;
    stage.kit.clock.forward(PAUSE_MS);
    stage.comes_to(victim, InstanceState::Running).await;
    assert_eq!(stage.hosts.world.ledger().starts(two), 0);
    stage.end().await;
}

#[tokio::test]
async fn two_that_come_at_once_take_different_room() {
    let stage = Stage::build().await;
    let victims = [
        stage.running(spot("one", OnInterrupt::Stop, 30)).await,
        stage.running(spot("two", OnInterrupt::Stop, 30)).await,
    ];
    let ((a, first), (b, second)) =
        tokio::join!(stage.create(medium("a")), stage.create(medium("b")));
    stage.kit.done(first).await;
    stage.kit.done(second).await;
    assert!(stage.is(a, InstanceState::Running) && stage.is(b, InstanceState::Running));
    assert!(victims.iter().all(|id| stage.is(*id, InstanceState::Stopped)));
    stage.end().await;
}

#[tokio::test]
async fn the_room_of_one_that_leaves_is_given_to_as_many_as_it_has_room_for() {
    for other_is_spot in [true, false] {
        let stage = Stage::build().await;
        let sim = &stage.hosts.hosts[0].sim;
        sim.set_stop_takes(None);
        let victim = stage.running(spot("victim", OnInterrupt::Stop, 30)).await;
        let other =
            if other_is_spot { spot("other", OnInterrupt::Stop, 120) } else { medium("other") };
        let other = stage.running(other).await;
        let (a, first) = stage.create(spec("a")).await;
        stage.comes_to(victim, InstanceState::Stopping).await;
        // Half of what the victim has is left.
        let (b, second) = stage.create(spec("b")).await;
        stage.comes_to(b, InstanceState::Starting).await;
        let waits = stage.view(b);
        assert_eq!(waits.row.decision.clone().unwrap().after, [victim].into());
        assert!(waits.reason.contains("up to 30 s to shut down"), "{}", waits.reason);
        assert!(sim.machine(b).await.unwrap().is_none());
        stage.shuts_down(victim).await;
        stage.kit.done(first).await;
        stage.kit.done(second).await;
        assert!(stage.is(a, InstanceState::Running) && stage.is(b, InstanceState::Running));
        assert!(stage.is(other, InstanceState::Running));
        assert_eq!(stage.hosts.world.ledger().starts(other), 1);
        sim.set_stop_takes(Some(Duration::ZERO));
        stage.end().await;
    }
}

#[tokio::test]
async fn one_whose_image_is_not_sold_any_more_gives_its_room_as_well() {
    let stage = Stage::build().await;
    stage.hosts.hosts[0].sim.set_stop_takes(None);
    let lost = "ubuntu-24.04";
    let old = InstanceSpec { image: lost.into(), ..spot("victim", OnInterrupt::Stop, 60) };
    let victim = stage.running(old).await;
    stage.running(medium("one")).await;
    let (two, operation) = stage.create(medium("two")).await;
    stage.comes_to(victim, InstanceState::Stopping).await;
    let mut catalogue = Catalogue::default_catalogue();
    catalogue.images.retain(|image| image.name != lost);
    let stage = stage.restart_with(catalogue).await;
    stage.kit.until("it is seen again", || stage.kit.engine.hosts_connected() == 1).await;
    assert!(stage.runs(victim).await && stage.is(two, InstanceState::Starting));
    stage.shuts_down(victim).await;
    stage.kit.done(operation).await;
    let given = stage.view(victim).row.interruption.clone().unwrap();
    assert!(given.off_since.is_some(), "{given:?}");
    assert!(!stage.runs(victim).await);
    stage.hosts.hosts[0].sim.set_stop_takes(Some(Duration::ZERO));
    stage.end().await;
}

#[tokio::test]
async fn a_price_above_what_is_paid_gives_notice_too() {
    let stage = Stage::build().await;
    let id = stage.running(spot("web", OnInterrupt::Stop, 30)).await;
    let dear = |price| {
        move |spec: &mut InstanceSpec| spec.spot.as_mut().unwrap().max_price = NanoEur(price)
    };
    stage.update(id, dear(1)).await;
    stage.comes_to(id, InstanceState::Stopping).await;
    let shown = stage.view(id);
    let interruption = shown.row.interruption.clone().unwrap();
    assert_eq!((interruption.cause, interruption.notice_ms), (InterruptionCause::Price, 30_000));
    assert!(shown.reason.contains("max_price_per_hour"), "{}", shown.reason);
    assert!(stage.runs(id).await);
    stage.comes_to(id, InstanceState::Stopped).await;
    stage.kit.clock.forward(PAUSE_MS);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(stage.is(id, InstanceState::Stopped), "the price is as it was");
    stage.update(id, dear(4_000_000)).await;
    stage.comes_to(id, InstanceState::Running).await;
    assert_eq!(stage.view(id).row.decision.clone().unwrap().epoch, Epoch(1));
    stage.end().await;
}

#[tokio::test]
async fn what_is_protected_against_deletion_is_not_deleted_by_an_interruption() {
    let stage = Stage::build().await;
    let (engine, customer) = (&stage.kit.engine, &stage.kit.customer);
    let both =
        InstanceSpec { deletion_protection: true, ..spot("victim", OnInterrupt::Delete, 30) };
    let error = engine.create_instance(customer, both, &stage.kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert_eq!(error.field.as_deref(), Some("spot.on_interrupt"));
    assert!(stage.kit.instances().is_empty());
    stage.end().await;
}

/// As [`small_host`], with memory for a third machine that is sold beyond what it has.
fn overcommitted_host() -> HostSpec {
    HostSpec { memory_overcommit_percent: 150, ..small_host() }
}

/// The guest touches all of its memory.
fn fills(manner: Manner) -> Load {
    Load { needs: Mib(3_000), touches: Mib(4_096), manner }
}

#[tokio::test]
async fn spot_machines_alone_have_memory_that_is_sold_twice() {
    let stage = Stage::with(overcommitted_host()).await;
    for name in ["one", "two"] {
        stage.running(medium(name)).await;
    }
    let extra = stage.running(spot("extra", OnInterrupt::Stop, 30)).await;
    let host = stage.view(extra).row.decision.clone().unwrap().host;
    let usage = stage.kit.engine.host(&stage.kit.customer, host).unwrap().usage;
    assert_eq!((usage.machines, usage.memory), (3, Mib(12_288)));
    // What another one is short of is no spot machine's to give.
    let (third, _) = stage.create(medium("third")).await;
    stage.kit.until("it is told why", || !stage.view(third).row.waiting_for.is_empty()).await;
    assert!(
        stage.view(third).reason.contains("less than 4096 MiB free"),
        "{:?}",
        stage.view(third)
    );
    assert!(stage.is(extra, InstanceState::Running));
    assert!(stage.view(extra).row.interruption.is_none());
    stage.delete(third).await;
    stage.end().await;
}

#[tokio::test]
async fn a_spot_machine_that_its_host_has_no_memory_for_goes_and_comes_back() {
    let mut stage = Stage::with(overcommitted_host()).await;
    let one = stage.running(medium("one")).await;
    let two = stage.running(medium("two")).await;
    let extra = stage.running(spot("extra", OnInterrupt::Stop, 30)).await;
    for (id, manner) in [(one, Manner::Gives), (two, Manner::Gives), (extra, Manner::Keeps)] {
        stage.hosts.hosts[0].sim.set_load(id, fills(manner));
    }
    stage.comes_to(extra, InstanceState::Stopped).await;
    let interruption = stage.view(extra).row.interruption.clone().unwrap();
    assert_eq!(interruption.cause, InterruptionCause::Memory);
    assert!(stage.view(extra).reason.contains("no memory left"), "{}", stage.view(extra).reason);
    // While the others need their memory it stays off, whoever begins anew.
    stage.kit.clock.forward(PAUSE_MS);
    stage = stage.restart().await;
    stage.kit.clock.forward(PAUSE_MS);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(stage.is(extra, InstanceState::Stopped));
    assert_eq!(stage.hosts.world.ledger().starts(extra), 1);
    for id in [one, two, extra] {
        stage.hosts.hosts[0].sim.set_load(id, Load::default());
    }
    stage.comes_to(extra, InstanceState::Running).await;
    assert!(stage.view(extra).row.interruption.is_none());
    for id in [one, two] {
        assert_eq!(stage.hosts.world.ledger().starts(id), 1, "they were left alone");
    }
    stage.end().await;
}

#[tokio::test]
async fn one_that_is_deleted_when_interrupted_is_deleted_for_want_of_memory() {
    let stage = Stage::with(overcommitted_host()).await;
    let one = stage.running(medium("one")).await;
    let extra = stage.running(spot("extra", OnInterrupt::Delete, 30)).await;
    let also = stage.running(spot("also", OnInterrupt::Stop, 30)).await;
    for (id, manner) in [(one, Manner::Gives), (extra, Manner::Silent), (also, Manner::Gives)] {
        stage.hosts.hosts[0].sim.set_load(id, fills(manner));
    }
    let kit = &stage.kit;
    kit.until("it is deleted", || kit.engine.instance(&kit.customer, extra).is_err()).await;
    assert!(stage.is(one, InstanceState::Running));
    assert_eq!(stage.hosts.world.ledger().starts(also), 1, "who gives is spared");
    stage.end().await;
}
