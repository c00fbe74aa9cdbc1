//! The contract of [`Hypervisor`], as tests that every driver runs through [`contract_tests!`].
//!
//! A driver gives a function that makes a fresh host with at least 8 GiB of memory and 40 GiB of
//! storage of the class [`CLASS`], which has the keys of volumes 1 to 9. What a driver's features exclude is not skipped silently: the
//! call then must fail as `Unsupported`.

#![expect(
    missing_docs,
    clippy::unwrap_used,
    reason = "each clause is a test: its name says what holds, and it stops at the first surprise"
)]

mod growth;
mod hold;
mod imports;
mod memory;

use std::{sync::Arc, time::Duration};

use fairmazon_model::{
    id::{InstanceId, VolumeId},
    instance::{Power, RestartPolicy},
    machine::{Disk, HostVolume, MachineSpec, VolumeCopy, VolumeWish},
    units::{Epoch, Gib, Mib, Vcpus},
};

use crate::{
    Access, Counters, Halt, Hint, Hypervisor, HypervisorError, KeyChange, Machine, Marks,
    OffReason, Result, RunState, VolumeKey,
};

pub use growth::a_running_machine_grows;
pub use hold::{a_machine_that_is_off_is_held_and_never_runs, volumes_are_held_without_an_image};
pub use imports::{
    a_file_that_is_not_what_was_promised_is_not_used, a_volumes_file_makes_the_same_volume_again,
    an_import_goes_on_where_it_was_left_and_holds_its_room, file_of, import, nothing_is_left, send,
    take,
};
pub use memory::{
    memory_is_taken_back_from_spot_machines_alone,
    what_a_host_has_is_promised_once_to_others_than_spot_machines,
};

/// The storage class of every volume of the suite.
pub const CLASS: &str = "standard";

/// How long a clause waits for what a guest or its host does by itself.
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks until it is answered in time, as an agent does: a machine that is busy may not answer at once.
pub async fn answered<T>(mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let asked = async {
        loop {
            match ask().await {
                Err(HypervisorError::Timeout { .. }) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                answer => return answer,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("a machine answers in the end")
}

/// Defines one test per clause of the contract; `$make` is an expression that gives a future
/// of `Arc<dyn Hypervisor>`, evaluated anew for each.
#[macro_export]
macro_rules! contract_tests {
    ($make:expr) => {
        $crate::contract_tests!(@each $make;
            a_machine_lives_and_goes,
            every_call_can_be_repeated,
            marks_and_definitions_come_back_as_written,
            a_running_machine_keeps_its_shape,
            a_running_machine_is_not_undefined,
            what_is_missing_is_named,
            volumes_come_grow_and_go,
            a_used_volume_is_not_deleted,
            one_writer_a_volume,
            disks_come_and_go,
            a_running_machine_grows,
            a_full_host_says_so,
            the_inventory_is_whole_and_ordered,
            changes_are_hinted,
            a_machine_that_is_off_is_held_and_never_runs,
            volumes_are_held_without_an_image,
            an_encrypted_volume_needs_its_key,
            a_changed_key_alone_opens_the_volume,
            a_key_changes_while_a_machine_writes,
            what_a_machine_uses_is_measured_by_run,
            memory_is_taken_back_from_spot_machines_alone,
            what_a_host_has_is_promised_once_to_others_than_spot_machines,
            a_volumes_file_makes_the_same_volume_again,
            an_import_goes_on_where_it_was_left_and_holds_its_room,
            a_file_that_is_not_what_was_promised_is_not_used,
        );
    };
    (@each $make:expr; $($clause:ident,)*) => {
        $(
            #[tokio::test]
            async fn $clause() {
                $crate::contract::$clause($make.await).await;
            }
        )*
    };
}

/// A host under test.
pub type Subject = Arc<dyn Hypervisor>;

/// An instance id for tests.
pub fn instance(number: u128) -> InstanceId {
    InstanceId::from_parts(1_700_000_000_000, number)
}

/// A volume id for tests.
pub fn volume(number: u128) -> VolumeId {
    VolumeId::from_parts(1_700_000_000_000, number)
}

/// A small machine that boots from the volume of the same number.
pub fn spec(number: u128) -> MachineSpec {
    MachineSpec {
        instance: instance(number),
        epoch: Epoch(1),
        spec_version: 1,
        name: format!("machine-{number}"),
        vcpus: Vcpus(1),
        memory: Mib(256),
        spot: false,
        image: "img-alpine-3.22".into(),
        power: Power::Running,
        held: false,
        restart: RestartPolicy::Always,
        boot: Disk { name: "boot".into(), volume: volume(number), read_only: false },
        disks: Vec::new(),
        user_data: String::new(),
        ssh_keys: Vec::new(),
        stop_timeout_ms: 1_000,
        reboots: 0,
        rebuilds: 0,
        first_boots: 0,
        departure: None,
        arrival: None,
    }
}

/// The wish for a volume of one GiB.
pub fn wish(number: u128) -> HostVolume {
    HostVolume {
        volume: volume(number),
        size: Gib(1),
        class: CLASS.into(),
        image: None,
        copy: None,
        key: None,
        next_key: None,
        wish: VolumeWish::Keep,
    }
}

fn disk(name: &str, number: u128, read_only: bool) -> Disk {
    Disk { name: name.into(), volume: volume(number), read_only }
}

/// Makes the boot volume, defines and starts the machine.
async fn run(host: &Subject, spec: &Arc<MachineSpec>) -> Result<()> {
    host.create_volume(&HostVolume { volume: spec.boot.volume, ..wish(0) }).await?;
    host.define(spec, Marks::default()).await?;
    host.start(spec.instance).await
}

/// Waits until the machine is off; the reason.
async fn off(host: &Subject, instance: InstanceId) -> OffReason {
    let mut hints = host.hints();
    let wait = async {
        loop {
            let machine = host.machine(instance).await.unwrap().unwrap();
            if let RunState::Off(reason) = machine.run {
                return reason;
            }
            let _ = hints.recv().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap()
}

pub async fn a_machine_lives_and_goes(host: Subject) {
    let spec = Arc::new(spec(1));
    run(&host, &spec).await.unwrap();
    let machine = host.machine(spec.instance).await.unwrap().unwrap();
    assert!(machine.runs());
    assert_eq!(machine.uses(spec.boot.volume), Some(Access::Write));
    host.ask_to_stop(spec.instance).await.unwrap();
    assert_eq!(off(&host, spec.instance).await, OffReason::Guest);
    host.start(spec.instance).await.unwrap();
    host.force_stop(spec.instance).await.unwrap();
    let machine = host.machine(spec.instance).await.unwrap().unwrap();
    assert_eq!(machine.run, RunState::Off(OffReason::Host));
    host.undefine(spec.instance).await.unwrap();
    assert_eq!(host.machine(spec.instance).await.unwrap(), None);
    assert!(host.volume(spec.boot.volume).await.unwrap().is_some(), "its volume stays");
}

pub async fn every_call_can_be_repeated(host: Subject) {
    let spec = Arc::new(spec(1));
    for _ in 0..2 {
        host.create_volume(&wish(1)).await.unwrap();
    }
    for _ in 0..2 {
        host.define(&spec, Marks::default()).await.unwrap();
    }
    let machine = host.machine(spec.instance).await.unwrap().unwrap();
    assert_eq!(machine.run, RunState::Off(OffReason::NeverStarted));
    for _ in 0..2 {
        host.start(spec.instance).await.unwrap();
    }
    for _ in 0..2 {
        host.ask_to_stop(spec.instance).await.unwrap();
    }
    off(&host, spec.instance).await;
    host.ask_to_stop(spec.instance).await.unwrap();
    for _ in 0..2 {
        host.force_stop(spec.instance).await.unwrap();
    }
    for _ in 0..2 {
        host.undefine(spec.instance).await.unwrap();
    }
    for _ in 0..2 {
        host.delete_volume(spec.boot.volume).await.unwrap();
    }
}

pub async fn marks_and_definitions_come_back_as_written(host: Subject) {
    let mut spec = spec(1);
    spec.name = "ümlaut-]]>&amp;<x y=\"z\" w='v'>".into();
    spec.user_data = "#cloud-config\n\t]]> \u{0}\u{1}\u{7f}\u{fffe}\u{ffff} \u{1f980} </x>&".into();
    spec.ssh_keys = vec!["ssh-ed25519 AAAA a<b>@c".into()];
    spec.image = "img-'\"&".into();
    let marks = Marks {
        epoch: Epoch(u64::MAX),
        spec_version: 7,
        done: Counters { reboots: 1, rebuilds: 2, first_boots: 3 },
        whole: true,
        halt: Halt::Stopping,
    };
    let spec = Arc::new(spec);
    host.create_volume(&wish(1)).await.unwrap();
    host.define(&spec, marks).await.unwrap();
    let machine = host.machine(spec.instance).await.unwrap().unwrap();
    assert_eq!((&machine.definition, machine.marks), (&spec, marks));
    host.start(spec.instance).await.unwrap();
    let marks = Marks { halt: Halt::Started, ..marks };
    host.mark(spec.instance, marks).await.unwrap();
    let machine = host.machine(spec.instance).await.unwrap().unwrap();
    assert_eq!((&machine.definition, machine.marks), (&spec, marks));
    host.force_stop(spec.instance).await.unwrap();
    let machine = host.machine(spec.instance).await.unwrap().unwrap();
    assert_eq!((&machine.definition, machine.marks), (&spec, marks), "it survives the stop");
}

pub async fn a_running_machine_keeps_its_shape(host: Subject) {
    let old = Arc::new(spec(1));
    run(&host, &old).await.unwrap();
    for change in [
        |spec: &mut MachineSpec| spec.vcpus = Vcpus(2),
        |spec: &mut MachineSpec| spec.memory = Mib(512),
        |spec: &mut MachineSpec| spec.disks = vec![disk("data", 2, false)],
    ] {
        let mut new = spec(1);
        change(&mut new);
        let refused = host.define(&Arc::new(new), Marks::default()).await;
        assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "{refused:?}");
    }
    let new = Arc::new(MachineSpec { name: "other".into(), user_data: "x".into(), ..spec(1) });
    host.define(&new, Marks { spec_version: 2, ..Marks::default() }).await.unwrap();
    let machine = host.machine(new.instance).await.unwrap().unwrap();
    assert!(machine.runs());
    assert_eq!((&machine.definition, machine.marks.spec_version), (&new, 2));
    host.force_stop(new.instance).await.unwrap();
    let larger = Arc::new(MachineSpec { memory: Mib(512), ..spec(1) });
    host.define(&larger, Marks::default()).await.unwrap();
    let machine = host.machine(larger.instance).await.unwrap().unwrap();
    assert_eq!(machine.definition, larger);
}

pub async fn a_running_machine_is_not_undefined(host: Subject) {
    let spec = Arc::new(spec(1));
    run(&host, &spec).await.unwrap();
    let refused = host.undefine(spec.instance).await;
    assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "{refused:?}");
    assert!(host.machine(spec.instance).await.unwrap().unwrap().runs());
}

pub async fn what_is_missing_is_named(host: Subject) {
    let id = instance(9).to_string();
    for missing in [
        host.start(instance(9)).await,
        host.ask_to_stop(instance(9)).await,
        host.force_stop(instance(9)).await,
        host.mark(instance(9), Marks::default()).await,
    ] {
        assert!(
            matches!(&missing, Err(HypervisorError::NotFound { what }) if *what == id),
            "{missing:?}"
        );
    }
    assert_eq!(host.machine(instance(9)).await.unwrap(), None);
    assert_eq!(host.console(instance(9)).await.unwrap(), b"", "what never was has said nothing");
    assert_eq!(host.volume(volume(9)).await.unwrap(), None);
    let spec = Arc::new(spec(1));
    host.define(&spec, Marks::default()).await.unwrap();
    let id = spec.boot.volume.to_string();
    let missing = host.start(spec.instance).await;
    assert!(
        matches!(&missing, Err(HypervisorError::NotFound { what }) if *what == id),
        "{missing:?}"
    );
}

pub async fn volumes_come_grow_and_go(host: Subject) {
    host.create_volume(&wish(1)).await.unwrap();
    assert_eq!(host.volume(volume(1)).await.unwrap().unwrap().size, Gib(1));
    let grown = host.grow_volume(volume(1), Gib(3)).await;
    if host.features().grow {
        grown.unwrap();
        assert_eq!(host.volume(volume(1)).await.unwrap().unwrap().size, Gib(3));
        host.grow_volume(volume(1), Gib(2)).await.unwrap();
        assert_eq!(host.volume(volume(1)).await.unwrap().unwrap().size, Gib(3), "never shrinks");
        let missing = host.grow_volume(volume(2), Gib(2)).await;
        assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
    } else {
        assert!(matches!(grown, Err(HypervisorError::Unsupported { .. })), "{grown:?}");
    }
    host.delete_volume(volume(1)).await.unwrap();
    assert_eq!(host.volume(volume(1)).await.unwrap(), None);
}

pub async fn a_used_volume_is_not_deleted(host: Subject) {
    let spec = Arc::new(spec(1));
    run(&host, &spec).await.unwrap();
    let refused = host.delete_volume(spec.boot.volume).await;
    assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "{refused:?}");
    assert!(host.volume(spec.boot.volume).await.unwrap().is_some());
    host.force_stop(spec.instance).await.unwrap();
    host.delete_volume(spec.boot.volume).await.unwrap();
}

pub async fn one_writer_a_volume(host: Subject) {
    for number in 1..=4 {
        host.create_volume(&wish(number)).await.unwrap();
    }
    let with = |number, read_only| {
        Arc::new(MachineSpec { disks: vec![disk("data", 4, read_only)], ..spec(number) })
    };
    for (number, read_only) in [(1, true), (2, true), (3, false)] {
        host.define(&with(number, read_only), Marks::default()).await.unwrap();
    }
    host.start(instance(1)).await.unwrap();
    host.start(instance(2)).await.unwrap();
    let refused = host.start(instance(3)).await;
    assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "{refused:?}");
    host.force_stop(instance(1)).await.unwrap();
    host.force_stop(instance(2)).await.unwrap();
    host.start(instance(3)).await.unwrap();
    let refused = host.start(instance(1)).await;
    assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "{refused:?}");
}

pub async fn disks_come_and_go(host: Subject) {
    let spec = Arc::new(spec(1));
    run(&host, &spec).await.unwrap();
    host.create_volume(&wish(2)).await.unwrap();
    let data = disk("data", 2, false);
    let attached = host.attach(spec.instance, &data).await;
    if !host.features().hotplug {
        assert!(matches!(attached, Err(HypervisorError::Unsupported { .. })), "{attached:?}");
        return;
    }
    attached.unwrap();
    host.attach(spec.instance, &data).await.unwrap();
    let machine = host.machine(spec.instance).await.unwrap().unwrap();
    assert_eq!(machine.definition.disks, [data]);
    let refused = host.delete_volume(volume(2)).await;
    assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "{refused:?}");
    for _ in 0..2 {
        host.detach(spec.instance, "data").await.unwrap();
    }
    let machine = host.machine(spec.instance).await.unwrap().unwrap();
    assert!(machine.definition.disks.is_empty() && machine.runs());
    let missing = host.attach(spec.instance, &disk("data", 3, false)).await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
}

pub async fn a_full_host_says_so(host: Subject) {
    let capacity = host.capacity().await.unwrap();
    let all = capacity.storage[CLASS];
    let too_large = HostVolume { size: Gib(all.0 + 1), ..wish(1) };
    let full = host.create_volume(&too_large).await;
    assert!(matches!(full, Err(HypervisorError::Full { .. })), "{full:?}");
    assert_eq!(host.volume(volume(1)).await.unwrap(), None, "nothing half made stays");
    let spec = Arc::new(MachineSpec { memory: Mib(capacity.memory.0 + 1), ..spec(1) });
    let full = run(&host, &spec).await;
    assert!(matches!(full, Err(HypervisorError::Full { .. })), "{full:?}");
    assert!(!host.machine(spec.instance).await.unwrap().unwrap().runs());
}

pub async fn the_inventory_is_whole_and_ordered(host: Subject) {
    assert_eq!(host.inventory().await.unwrap().machines, []);
    for number in [3, 1, 2] {
        run(&host, &Arc::new(spec(number))).await.unwrap();
    }
    let inventory = host.inventory().await.unwrap();
    let machines: Vec<_> = inventory.machines.iter().map(Machine::instance).collect();
    assert_eq!(machines, [instance(1), instance(2), instance(3)]);
    let volumes: Vec<_> = inventory.volumes.iter().map(|found| found.volume).collect();
    assert_eq!(volumes, [volume(1), volume(2), volume(3)]);
    // The addresses of a guest may become known at any time.
    let unaddressed = |machine: Machine| Machine { addresses: Vec::new(), ..machine };
    for machine in inventory.machines {
        let same = host.machine(machine.instance()).await.unwrap().unwrap();
        assert_eq!(unaddressed(same), unaddressed(machine));
    }
}

pub async fn changes_are_hinted(host: Subject) {
    let mut hints = host.hints();
    let spec = Arc::new(spec(1));
    run(&host, &spec).await.unwrap();
    let wait = async {
        loop {
            match hints.recv().await {
                Ok(Hint::Machine(hinted)) if hinted == spec.instance => return,
                Ok(Hint::All) => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

pub async fn what_a_machine_uses_is_measured_by_run(host: Subject) {
    let spec = Arc::new(MachineSpec { disks: vec![disk("data", 2, false)], ..spec(1) });
    host.create_volume(&wish(2)).await.unwrap();
    run(&host, &spec).await.unwrap();
    let measured = match host.statistics(spec.instance).await {
        Err(HypervisorError::Unsupported { .. }) => return,
        other => other.unwrap().unwrap(),
    };
    let volumes: Vec<_> = measured.volumes.keys().copied().collect();
    assert_eq!(volumes, [volume(1), volume(2)]);
    assert!(measured.memory_bytes > 0 && measured.memory_bytes <= spec.memory.0 << 20);
    let later = host.statistics(spec.instance).await.unwrap().unwrap();
    assert_eq!(later.incarnation, measured.incarnation);
    assert!(later.cpu_ns >= measured.cpu_ns);
    host.force_stop(spec.instance).await.unwrap();
    assert_eq!(host.statistics(spec.instance).await.unwrap(), None, "it is off");
    host.start(spec.instance).await.unwrap();
    let again = host.statistics(spec.instance).await.unwrap().unwrap();
    assert!(again.incarnation > measured.incarnation, "{again:?} {measured:?}");
    assert_eq!(host.statistics(instance(9)).await.unwrap(), None, "it is not there");
}

pub async fn an_encrypted_volume_needs_its_key(host: Subject) {
    let is_missing = |refused: &Result<()>, id: VolumeId| {
        assert!(
            matches!(refused, Err(HypervisorError::KeyMissing { what }) if *what == id.to_string()),
            "{refused:?}"
        );
    };
    let encrypts = host.features().encrypts;
    let spec = Arc::new(MachineSpec { boot: disk("boot", 10, false), ..spec(1) });
    let made = run(&host, &spec).await;
    if encrypts {
        is_missing(&made, volume(10));
        assert_eq!(host.volume(volume(10)).await.unwrap(), None, "nothing half made stays");
        for _ in 0..2 {
            host.give_key(volume(10), VolumeKey::new(&[10; 32])).await.unwrap();
        }
        run(&host, &spec).await.unwrap();
    } else {
        made.unwrap();
    }
    for _ in 0..2 {
        host.forget_key(volume(10)).await.unwrap();
    }
    assert!(host.machine(instance(1)).await.unwrap().unwrap().runs(), "what runs goes on");
    host.force_stop(instance(1)).await.unwrap();
    let started = host.start(instance(1)).await;
    if encrypts {
        is_missing(&started, volume(10));
        assert!(!host.machine(instance(1)).await.unwrap().unwrap().runs());
        host.give_key(volume(10), VolumeKey::new(&[10; 32])).await.unwrap();
        host.start(instance(1)).await.unwrap();
    } else {
        started.unwrap();
    }
}

/// The exchange of the key with this byte for the one with the other.
fn exchange(old: u8, new: u8) -> KeyChange {
    KeyChange { old: VolumeKey::new(&[old; 32]), new: VolumeKey::new(&[new; 32]) }
}

/// Makes the machine of the suite with the boot volume 10, whose key is `[10; 32]`.
async fn run_with_own_key(host: &Subject) {
    let spec = Arc::new(MachineSpec { boot: disk("boot", 10, false), ..spec(1) });
    host.give_key(volume(10), VolumeKey::new(&[10; 32])).await.unwrap();
    run(host, &spec).await.unwrap();
}

/// Whether a machine starts with its boot volume's key of this byte.
async fn starts_with(host: &Subject, key: u8) -> bool {
    host.give_key(volume(10), VolumeKey::new(&[key; 32])).await.unwrap();
    let started = host.start(instance(1)).await;
    host.force_stop(instance(1)).await.unwrap();
    if matches!(started, Err(HypervisorError::KeyWrong { .. })) {
        return false;
    }
    started.unwrap();
    true
}

pub async fn a_changed_key_alone_opens_the_volume(host: Subject) {
    if !host.features().encrypts {
        host.create_volume(&wish(10)).await.unwrap();
        assert!(host.key_opens(volume(10), VolumeKey::new(&[10; 32])).await.unwrap());
        return host.change_key(volume(10), exchange(10, 11)).await.unwrap();
    }
    let missing = host.change_key(volume(10), exchange(10, 11)).await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
    run_with_own_key(&host).await;
    host.force_stop(instance(1)).await.unwrap();
    let wrong = host.change_key(volume(10), exchange(12, 11)).await;
    assert!(matches!(wrong, Err(HypervisorError::KeyWrong { .. })), "{wrong:?}");
    for _ in 0..2 {
        host.change_key(volume(10), exchange(10, 11)).await.unwrap();
    }
    // The new one is in memory, also for what comes next.
    host.start(instance(1)).await.unwrap();
    host.force_stop(instance(1)).await.unwrap();
    if host.features().grow {
        host.grow_volume(volume(10), Gib(2)).await.unwrap();
    }
    assert!(!starts_with(&host, 10).await, "the key before does not open it any more");
    assert!(starts_with(&host, 11).await);
    let copy = HostVolume { copy: Some(VolumeCopy::Of(volume(10))), size: Gib(2), ..wish(3) };
    host.create_volume(&copy).await.unwrap();
    host.change_key(volume(10), exchange(11, 12)).await.unwrap();
    assert!(!starts_with(&host, 11).await);
    assert!(starts_with(&host, 12).await);
}

pub async fn a_key_changes_while_a_machine_writes(host: Subject) {
    if !host.features().encrypts {
        return;
    }
    run_with_own_key(&host).await;
    for _ in 0..2 {
        host.change_key(volume(10), exchange(10, 11)).await.unwrap();
    }
    assert!(host.machine(instance(1)).await.unwrap().unwrap().runs(), "what runs goes on");
    host.change_key(volume(10), exchange(11, 12)).await.unwrap();
    // Which one opens it is seen while it runs, and changes nothing.
    for (key, opens) in [(10, false), (11, false), (12, true)] {
        let found = host.key_opens(volume(10), VolumeKey::new(&[key; 32])).await;
        assert_eq!(found.unwrap(), opens, "{key}");
    }
    let missing = host.key_opens(volume(9), VolumeKey::new(&[9; 32])).await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
    host.force_stop(instance(1)).await.unwrap();
    assert!(!starts_with(&host, 10).await);
    assert!(!starts_with(&host, 11).await);
    assert!(starts_with(&host, 12).await);
}
