//! The step functions, against the simulator as the world: from any state to the desired one in a
//! bounded number of steps, and nothing destroyed on the way.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "plan/cases.rs"]
mod cases;

use std::{collections::BTreeSet, sync::Arc};

use fairmazon_host::plan::{
    ChangeCase, DiskReady, FileCase, KeyCase, MachineAction, MachineCase, MemoryCase, VolumeAction,
    VolumeCase, Wish, next_machine_step, next_volume_step,
};
use fairmazon_hypervisor::{
    Counters, Features, Halt, Hypervisor, Machine, Marks, OffReason, RunState, Volume,
    contract::{CLASS, instance, spec, volume, wish},
    sim::{SimHost, World},
};
use fairmazon_model::{
    host::Capacity,
    id::{HostId, VolumeId},
    instance::{Power, RestartPolicy},
    machine::{Disk, GuestSeen, HostVolume, MachineSpec, VolumeCopy, VolumeWish},
    migration::Arrival,
    transfer::Sha256,
    units::{Epoch, Gib, Mib, Vcpus},
    volume::Import,
};
use proptest::prelude::*;

/// More steps than any way from one state to another has.
const STEPS_MOST: usize = 40;
const FEATURES: Features = Features {
    hotplug: true,
    grow: true,
    resize: true,
    durable: true,
    encrypts: false,
    migration: true,
    balloon: true,
    accelerator: "",
};

#[derive(Debug, Clone)]
struct Start {
    defined: Option<(MachineSpec, Marks)>,
    runs: bool,
    volumes: BTreeSet<u128>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Unknown,
    Without,
    With,
}

fn any_spec() -> impl Strategy<Value = MachineSpec> {
    let disk = (2_u128..5, any::<bool>()).prop_map(|(number, read_only)| Disk {
        name: format!("d{number}"),
        volume: volume(number),
        read_only,
    });
    (
        (1_u64..4, 1_u64..4, 1_u64..3, any::<bool>(), 0_u64..3, 0_u64..3, 0_u64..3),
        proptest::collection::vec(disk, 0..3),
        prop_oneof![
            Just(RestartPolicy::Always),
            Just(RestartPolicy::OnHostFailure),
            Just(RestartPolicy::Never)
        ],
        "[a-c]",
    )
        .prop_map(
            |((epoch, version, size, on, reboots, rebuilds, firsts), mut disks, restart, text)| {
                disks.sort_by(|one, other| one.name.cmp(&other.name));
                disks.dedup_by(|one, other| one.name == other.name);
                MachineSpec {
                    epoch: Epoch(epoch),
                    spec_version: version,
                    memory: Mib(256 * size),
                    power: if on { Power::Running } else { Power::Stopped },
                    user_data: text,
                    disks,
                    restart,
                    reboots,
                    rebuilds,
                    first_boots: firsts,
                    ..spec(1)
                }
            },
        )
}

fn any_copy() -> impl Strategy<Value = Option<VolumeCopy>> {
    let import = Import { bytes: 1 << 20, sha256: Sha256::of(b"a file") };
    prop_oneof![Just(None), Just(Some(VolumeCopy::Made)), Just(Some(VolumeCopy::Import(import)))]
}

fn any_file() -> impl Strategy<Value = FileCase> {
    use FileCase::{Comes, None, Part, Whole};
    prop_oneof![Just(None), Just(Part), Just(Comes), Just(Whole)]
}

fn any_change() -> impl Strategy<Value = ChangeCase> {
    use ChangeCase::{Held, Settled, Tried, Unproven, Untried};
    prop_oneof![Just(Settled), Just(Untried), Just(Tried), Just(Held), Just(Unproven)]
}

fn any_key() -> impl Strategy<Value = KeyCase> {
    use KeyCase::{Awaited, Given, NotNeeded, Sealed};
    prop_oneof![Just(NotNeeded), Just(Awaited), Just(Sealed), Just(Given)]
}

fn any_start() -> impl Strategy<Value = Start> {
    let halt = prop_oneof![Just(Halt::Idle), Just(Halt::Started), Just(Halt::Stopping)];
    let marks = (1_u64..4, 0_u64..4, 0_u64..3, 0_u64..3, 0_u64..3, halt).prop_map(
        |(epoch, version, reboots, rebuilds, first_boots, halt)| Marks {
            epoch: Epoch(epoch),
            spec_version: version,
            done: Counters { reboots, rebuilds, first_boots },
            whole: false,
            halt,
        },
    );
    let volumes = proptest::collection::btree_set(1_u128..5, 0..5);
    (proptest::option::of((any_spec(), marks)), any::<bool>(), volumes)
        .prop_map(|(defined, runs, volumes)| Start { defined, runs, volumes })
}

fn any_run() -> impl Strategy<Value = RunState> {
    prop_oneof![
        Just(RunState::Running),
        Just(RunState::Held),
        Just(RunState::Incoming),
        Just(RunState::Arrived),
        Just(RunState::Unread),
        Just(RunState::Off(OffReason::Moved)),
        Just(RunState::Off(OffReason::Guest)),
        Just(RunState::Off(OffReason::Host)),
    ]
}

/// A machine that shall be so, with all its volumes there.
fn case<'a>(desired: &'a Arc<MachineSpec>, machine: &'a Machine, leased: bool) -> MachineCase<'a> {
    MachineCase {
        wish: Wish::Present(desired),
        seen: Some(machine),
        leased,
        asked_ms_ago: None,
        features: FEATURES,
        may_grow: true,
        memory: MemoryCase::Enough,
        done_before: None,
        disk_ready: &|_| DiskReady::Ready,
        boot_is_small: false,
        volume_there: &|_| true,
    }
}

async fn world(start: &Start) -> (Arc<World>, SimHost) {
    let world = World::new(Arc::new(|| 0));
    let storage = [(CLASS.to_owned(), Gib(100))].into();
    let capacity = Capacity { vcpus: Vcpus(8), memory: Mib(8_192), storage };
    let host = world.add_host(HostId::from_parts(1, 1), capacity);
    for &number in &start.volumes {
        host.create_volume(&wish(number)).await.unwrap();
    }
    if let Some((spec, marks)) = &start.defined {
        host.define(&Arc::new(spec.clone()), *marks).await.unwrap();
        if start.runs {
            // Without its volumes it does not start, and then it is off.
            let _ = host.start(spec.instance).await;
        }
    }
    (world, host)
}

/// What one run of the step functions did.
#[derive(Debug, Default)]
struct Trace {
    actions: Vec<MachineAction>,
    volume_actions: Vec<(VolumeId, VolumeAction)>,
}

/// Steps until nothing more is to be done.
async fn converge(
    host: &SimHost,
    set: Set,
    desired: &Arc<MachineSpec>,
    volumes: &[Arc<HostVolume>],
    leased: bool,
) -> Trace {
    let mut trace = Trace::default();
    let mut asked = None;
    for _ in 0..STEPS_MOST {
        let mut quiet = true;
        let seen = host.machine(instance(1)).await.unwrap();
        for wish in volumes {
            let found = host.volume(wish.volume).await.unwrap();
            let uses = seen.as_ref().is_some_and(|seen| seen.uses(wish.volume).is_some());
            let pending =
                seen.as_ref().is_some_and(|seen| desired.rebuilds > seen.marks.done.rebuilds);
            let boot = desired.boot.volume == wish.volume;
            let case = VolumeCase {
                wish: if set == Set::Unknown { Wish::Unknown } else { Wish::Present(wish) },
                seen: found.as_ref(),
                held: boot && set == Set::With && pending,
                in_use: uses || set == Set::With && boot,
                must_be_there: false,
                source_ready: true,
                file: FileCase::None,
                key: KeyCase::NotNeeded,
                change: ChangeCase::Settled,
            };
            let action = next_volume_step(&case).action;
            match action {
                VolumeAction::Create => host.create_volume(wish).await.unwrap(),
                VolumeAction::Grow(size) => host.grow_volume(wish.volume, size).await.unwrap(),
                VolumeAction::Delete => host.delete_volume(wish.volume).await.unwrap(),
                VolumeAction::GiveKey
                | VolumeAction::ForgetKey
                | VolumeAction::ChangeKey
                | VolumeAction::ProveKey => panic!("there are no keys"),
                VolumeAction::DropFile => panic!("there are no files"),
                VolumeAction::Settled | VolumeAction::Wait | VolumeAction::Lost => continue,
            }
            quiet = false;
            trace.volume_actions.push((wish.volume, action));
        }
        let there: BTreeSet<_> =
            host.inventory().await.unwrap().volumes.iter().map(|found| found.volume).collect();
        let case = MachineCase {
            wish: match set {
                Set::Unknown => Wish::Unknown,
                Set::Without => Wish::Absent,
                Set::With => Wish::Present(desired),
            },
            seen: seen.as_ref(),
            leased,
            asked_ms_ago: asked,
            features: FEATURES,
            may_grow: true,
            memory: MemoryCase::Enough,
            done_before: None,
            disk_ready: &|disk| {
                if there.contains(&disk.volume) { DiskReady::Ready } else { DiskReady::Missing }
            },
            boot_is_small: false,
            volume_there: &|volume| there.contains(&volume),
        };
        let action = next_machine_step(&case).action;
        let id = instance(1);
        match &action {
            MachineAction::Settled | MachineAction::Wait => {
                if quiet {
                    return trace;
                }
                continue;
            }
            MachineAction::Define(marks) => host.define(desired, *marks).await.unwrap(),
            MachineAction::Mark(marks) => host.mark(id, *marks).await.unwrap(),
            MachineAction::Start => {
                assert!(leased, "started without a lease");
                host.start(id).await.unwrap();
            }
            MachineAction::AskToStop => {
                host.ask_to_stop(id).await.unwrap();
                asked = Some(0);
            }
            MachineAction::ForceStop => host.force_stop(id).await.unwrap(),
            MachineAction::Undefine => host.undefine(id).await.unwrap(),
            MachineAction::Attach(disk) => host.attach(id, disk).await.unwrap(),
            MachineAction::Detach(name) => host.detach(id, name).await.unwrap(),
            MachineAction::Resize(vcpus, memory) => {
                host.resize(id, *vcpus, *memory).await.unwrap();
            }
            MachineAction::DeleteBoot(volume) => host.delete_volume(*volume).await.unwrap(),
            MachineAction::Hold
            | MachineAction::Depart
            | MachineAction::Resume
            | MachineAction::Refuse => {
                panic!("there is no other host")
            }
        }
        if host.machine(id).await.unwrap().is_none_or(|machine| !machine.runs()) {
            asked = None;
        }
        trace.actions.push(action);
    }
    panic!("not there after {STEPS_MOST} rounds: {trace:#?}")
}

fn all_volumes() -> Vec<Arc<HostVolume>> {
    (1..5).map(|number| Arc::new(wish(number))).collect()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn from_any_state_to_the_desired_one(start in any_start(), desired in any_spec()) {
        block_on(async {
            let (world, host) = world(&start).await;
            let ended_by_itself = start.defined.as_ref().is_some_and(|(_, marks)| {
                marks.halt == Halt::Started
            });
            let older = start.defined.as_ref().is_some_and(|(_, m)| desired.epoch < m.epoch);
            let desired = Arc::new(desired);
            let trace = converge(&host, Set::With, &desired, &all_volumes(), true).await;
            let machine = host.machine(instance(1)).await.unwrap().unwrap();
            if older {
                prop_assert!(trace.actions.is_empty(), "{:?}", trace);
                return Ok(());
            }
            prop_assert_eq!(machine.marks.epoch, desired.epoch);
            prop_assert_eq!(machine.marks.spec_version, desired.spec_version);
            prop_assert_eq!(machine.definition.memory, desired.memory);
            prop_assert_eq!(&machine.definition.user_data, &desired.user_data);
            prop_assert!(machine.definition.disks.iter().all(|d| desired.disks.contains(d)));
            prop_assert_eq!(machine.definition.disks.len(), desired.disks.len());
            prop_assert!(machine.marks.done.reboots >= desired.reboots);
            prop_assert!(machine.marks.done.rebuilds >= desired.rebuilds);
            match desired.power {
                Power::Stopped => prop_assert!(!machine.runs()),
                Power::Running if !ended_by_itself => prop_assert!(machine.runs()),
                Power::Running => {}
            }
            // Each count is done once at the most, whatever it was behind by.
            let rebuilt = trace.actions.iter().filter(|a| matches!(a, MachineAction::DeleteBoot(_)));
            let wished = start.defined.as_ref().is_some_and(|(_, marks)| {
                desired.rebuilds > marks.done.rebuilds
            });
            prop_assert!(rebuilt.count() <= usize::from(wished));
            let deleted = world.ledger().deleted_volumes();
            prop_assert!(deleted.iter().all(|gone| *gone == volume(1) && wished), "{:?}", deleted);
            prop_assert!(world.ledger().violations().is_empty());
            // And then nothing more: it stays as it is.
            let again = converge(&host, Set::With, &desired, &all_volumes(), true).await;
            prop_assert!(again.actions.is_empty(), "{:?}", again);
            Ok(())
        })?;
    }

    #[test]
    fn what_is_held_is_made_and_not_started(start in any_start(), desired in any_spec()) {
        block_on(async {
            let (_, host) = world(&start).await;
            let held = Arc::new(MachineSpec { held: true, power: Power::Running, ..desired });
            let trace = converge(&host, Set::With, &held, &all_volumes(), true).await;
            prop_assert!(!trace.actions.contains(&MachineAction::Start), "{:?}", trace);
            let machine = host.machine(instance(1)).await.unwrap().unwrap();
            if machine.runs() || machine.marks.epoch > held.epoch {
                return Ok(());
            }
            let told = Arc::new(MachineSpec { held: false, ..MachineSpec::clone(&held) });
            let trace = converge(&host, Set::With, &told, &all_volumes(), true).await;
            let ended_by_itself = machine.marks.halt == Halt::Started;
            prop_assert!(ended_by_itself || trace.actions.contains(&MachineAction::Start));
            Ok(())
        })?;
    }

    #[test]
    fn without_a_lease_nothing_runs(start in any_start(), desired in any_spec(), set in 0..3) {
        block_on(async {
            let set = [Set::Unknown, Set::Without, Set::With][usize::try_from(set).unwrap()];
            let (world, host) = world(&start).await;
            converge(&host, set, &Arc::new(desired), &all_volumes(), false).await;
            prop_assert_eq!(world.ledger().running(), 0);
            Ok(())
        })?;
    }

    #[test]
    fn without_a_set_nothing_is_touched(start in any_start(), desired in any_spec()) {
        block_on(async {
            let (_, host) = world(&start).await;
            let before = host.inventory().await.unwrap();
            let volumes = all_volumes();
            let trace = converge(&host, Set::Unknown, &Arc::new(desired), &volumes, true).await;
            prop_assert!(trace.actions.is_empty() && trace.volume_actions.is_empty());
            prop_assert_eq!(host.inventory().await.unwrap(), before);
            Ok(())
        })?;
    }

    #[test]
    fn a_machine_that_is_not_desired_goes_and_its_volumes_stay(start in any_start()) {
        block_on(async {
            let (world, host) = world(&start).await;
            let before = host.inventory().await.unwrap().volumes;
            converge(&host, Set::Without, &Arc::new(spec(1)), &[], true).await;
            prop_assert!(host.machine(instance(1)).await.unwrap().is_none());
            prop_assert_eq!(host.inventory().await.unwrap().volumes, before);
            prop_assert!(world.ledger().deleted_volumes().is_empty());
            Ok(())
        })?;
    }

    /// Whatever else is desired: what left is not started under its epoch, and what comes is
    /// started, let run or kept only as its set says.
    #[test]
    fn a_machine_between_two_hosts_is_never_started_by_chance(
        desired in any_spec(),
        left in any::<bool>(),
        arrival in proptest::option::of(any::<bool>()),
        run in any_run(),
        leased in any::<bool>(),
        older in any::<bool>(),
    ) {
        let arrival = arrival.map(|open| Arrival {
            from: HostId::from_parts(1, 2),
            shows: Default::default(),
            open,
        });
        let desired = Arc::new(MachineSpec { arrival: arrival.clone(), ..desired });
        let halts = if left { [Halt::Leaving, Halt::Left] } else { [Halt::Arriving; 2] };
        for halt in halts {
            let marks = Marks { epoch: desired.epoch, halt, ..Marks::default() };
            let machine = Machine {
                definition: Arc::clone(&desired),
                marks,
                run,
                stalled: false,
                addresses: Vec::new(),
                guest: GuestSeen::default(),
            };
            let action = next_machine_step(&case(&desired, &machine, leased)).action;
            if arrival.is_some() && older {
                // What an earlier run left here is no reason to start anything without its data.
                let had = Machine {
                    marks: Marks { epoch: Epoch(0), ..marks },
                    ..machine.clone()
                };
                let action = next_machine_step(&case(&desired, &had, leased)).action;
                let starts = [MachineAction::Start, MachineAction::Resume].contains(&action);
                prop_assert!(!starts && !matches!(action, MachineAction::Define(_)), "{:?}", action);
            }
            if run == RunState::Unread {
                // It may have come or gone: it is ended, or left alone until it can be read.
                let may = if leased { MachineAction::Wait } else { MachineAction::ForceStop };
                prop_assert_eq!(action, may);
                continue;
            }
            let on = !matches!(run, RunState::Off(_));
            match halt {
                _ if on && !leased => prop_assert_eq!(action, MachineAction::ForceStop),
                Halt::Arriving => {
                    let lets = Marks { halt: Halt::Started, ..marks };
                    let runs = matches!(run, RunState::Running | RunState::Held);
                    let may = arrival.is_none() || runs;
                    prop_assert!(action != MachineAction::Start && action != MachineAction::Resume);
                    prop_assert!(may || action != MachineAction::Mark(lets));
                    let ends = action == MachineAction::Refuse;
                    prop_assert!(!ends || matches!(run, RunState::Incoming | RunState::Arrived));
                    let waits = arrival.as_ref().is_some_and(|arrival| arrival.open);
                    prop_assert!(!(ends && waits && run == RunState::Arrived));
                }
                _ if !on => prop_assert!(
                    matches!(action, MachineAction::Wait | MachineAction::Mark(_)), "{:?}", action
                ),
                _ => prop_assert_ne!(action, MachineAction::Start),
            }
        }
    }

    #[test]
    fn a_volume_goes_only_with_the_wish_and_never_from_under_a_machine(
        present in any::<bool>(),
        size in 1_u64..4,
        delete in any::<bool>(),
        named in any::<bool>(),
        held in any::<bool>(),
        in_use in any::<bool>(),
        must_be_there in any::<bool>(),
        source_ready in any::<bool>(),
        copy in any_copy(),
        file in any_file(),
        key in any_key(),
        change in any_change(),
    ) {
        let wish = Arc::new(HostVolume {
            size: Gib(2),
            wish: if delete { VolumeWish::Delete } else { VolumeWish::Keep },
            copy,
            ..wish(1)
        });
        let (volume, size) = (volume(1), Gib(size));
        let seen = present.then_some(Volume { volume, size, damage: None });
        let step = next_volume_step(&VolumeCase {
            wish: if named { Wish::Present(&wish) } else { Wish::Absent },
            seen: seen.as_ref(),
            held,
            in_use,
            must_be_there,
            source_ready,
            file,
            key,
            change,
        });
        let imports = matches!(copy, Some(VolumeCopy::Import(_)));
        // A file goes before anything else is done, unless a volume is to be made of it.
        let wanted = named && !delete && imports && !present;
        let is_in_the_way = file != FileCase::None && !wanted;
        let drops = step.action == VolumeAction::DropFile;
        prop_assert_eq!(drops, is_in_the_way && file != FileCase::Comes);
        if is_in_the_way {
            prop_assert!(drops || step.action == VolumeAction::Wait);
            return Ok(());
        }
        let forgets = step.action == VolumeAction::ForgetKey;
        let has_key = key == KeyCase::Given;
        prop_assert_eq!(forgets, has_key && (!named || delete && !in_use));
        let deletes = step.action == VolumeAction::Delete;
        prop_assert_eq!(deletes, named && delete && present && !in_use && !has_key);
        let creates = step.action == VolumeAction::Create;
        let whole = !imports || file == FileCase::Whole;
        let may = !held && !must_be_there && source_ready && whole && key.opens();
        prop_assert_eq!(creates, named && !delete && !present && may);
        let changes = step.action == VolumeAction::ChangeKey;
        prop_assert!(!changes || named && !delete && present && key != KeyCase::Sealed);
        prop_assert!(!changes || matches!(change, ChangeCase::Untried | ChangeCase::Tried));
        let proves = step.action == VolumeAction::ProveKey;
        prop_assert!(!proves || named && !delete && present && change == ChangeCase::Unproven);
        if change == ChangeCase::Untried {
            // It is not known which key opens it.
            prop_assert!(!matches!(step.action, VolumeAction::Grow(_)));
        }
        // Nothing is done to the data of a volume that can't be opened.
        if matches!(step.action, VolumeAction::Create | VolumeAction::Grow(_)) {
            prop_assert!(key.opens());
        }
    }
}
