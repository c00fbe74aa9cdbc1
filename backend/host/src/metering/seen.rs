//! What of a look counts as use: which machines really run here, and which volumes are here for
//! good and not on their way.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use fairmazon_hypervisor::{Halt, Inventory, Machine, OffReason, RunState, Statistics};
use fairmazon_model::{
    id::{InstanceId, VolumeId},
    machine::{HostVolume, MachineSpec, VolumeWish},
    units::Epoch,
    usage::Subject,
};

use super::meter::{Key, Use};

/// What the host was told last.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) machines: Vec<Arc<MachineSpec>>,
    pub(super) volumes: Vec<Arc<HostVolume>>,
}

/// All that is here, and how it is in use.
pub(super) fn seen(
    inventory: &Inventory,
    told: &Told,
    measured: &HashMap<InstanceId, Statistics>,
) -> BTreeMap<Key, Option<Use>> {
    let mut here = BTreeMap::new();
    for machine in &inventory.machines {
        let key = (Subject::Instance(machine.instance()), machine.marks.epoch);
        here.insert(key, machine_use(machine, measured.get(&machine.instance())));
    }
    let elsewhere = volumes_elsewhere(inventory, told);
    let wishes: HashMap<_, _> = told.volumes.iter().map(|wish| (wish.volume, wish)).collect();
    for volume in &inventory.volumes {
        // One that nobody has asked for, or that is to go, is not charged.
        let wish = wishes.get(&volume.volume).filter(|wish| wish.wish == VolumeWish::Keep);
        let used = wish.filter(|_| !elsewhere.contains(&volume.volume)).map(|wish| Use {
            size: volume.size.min(wish.size),
            class: wish.class.clone(),
            ..Use::default()
        });
        here.insert((Subject::Volume(volume.volume), Epoch(0)), used);
    }
    here
}

fn machine_use(machine: &Machine, measured: Option<&Statistics>) -> Option<Use> {
    // One that stands still for want of room has nothing of its processors.
    (machine.run == RunState::Running && !machine.stalled).then(|| Use {
        vcpus: machine.definition.vcpus,
        memory: machine.definition.memory,
        incarnation: measured.map(|measured| measured.incarnation),
        egress_bytes: measured.map(|measured| measured.network.written_bytes),
        ..Use::default()
    })
}

/// Volumes whose machine runs at another host: it has left, or has not come yet. They are charged
/// there.
fn volumes_elsewhere(inventory: &Inventory, told: &Told) -> HashSet<VolumeId> {
    let runs = |machine: &Machine| machine.run == RunState::Running;
    let away = |machine: &&Machine| match machine.run {
        RunState::Running | RunState::Held | RunState::Unread => false,
        RunState::Incoming | RunState::Arrived => true,
        RunState::Off(reason) => match machine.marks.halt {
            Halt::Arriving | Halt::Left => true,
            Halt::Leaving => reason == OffReason::Moved,
            // That it was sent may be of an earlier time: it has left when that is marked.
            Halt::Held | Halt::Idle | Halt::Started | Halt::Stopping => false,
        },
    };
    let left = inventory.machines.iter().filter(away);
    let left = left.flat_map(|machine| volumes_of(&machine.definition));
    let here: HashSet<_> =
        inventory.machines.iter().filter(|machine| runs(machine)).map(Machine::instance).collect();
    let coming = told
        .machines
        .iter()
        .filter(|spec| spec.arrival.is_some() && !here.contains(&spec.instance));
    left.chain(coming.flat_map(|spec| volumes_of(spec))).collect()
}

fn volumes_of(spec: &MachineSpec) -> impl Iterator<Item = VolumeId> {
    spec.all_disks().map(|disk| disk.volume)
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::{
        Marks, Volume,
        contract::{instance, spec, volume, wish},
    };
    use std::collections::BTreeSet;

    use fairmazon_model::{id::HostId, machine::GuestSeen, migration::Arrival, units::Gib};

    use super::*;

    fn machine(run: RunState, halt: Halt) -> Machine {
        let marks = Marks { epoch: Epoch(3), halt, ..Marks::default() };
        Machine {
            definition: Arc::new(spec(1)),
            marks,
            run,
            stalled: false,
            addresses: Vec::new(),
            guest: GuestSeen::default(),
        }
    }

    fn told(change: impl FnOnce(&mut MachineSpec, &mut HostVolume)) -> Told {
        let (mut machine, mut volume) = (spec(1), wish(1));
        volume.volume = machine.boot.volume;
        volume.size = Gib(5);
        change(&mut machine, &mut volume);
        Told { machines: vec![Arc::new(machine)], volumes: vec![Arc::new(volume)] }
    }

    /// Whether the machine and its volume count.
    fn count(machines: Vec<Machine>, told: &Told) -> (Option<bool>, bool) {
        let volumes = vec![Volume { volume: spec(1).boot.volume, size: Gib(5), damage: None }];
        let inventory = Inventory { machines, volumes, ..Inventory::default() };
        let here = seen(&inventory, told, &HashMap::new());
        let machine = here.get(&(Subject::Instance(instance(1)), Epoch(3)));
        let disk = &here[&(Subject::Volume(spec(1).boot.volume), Epoch(0))];
        (machine.map(Option::is_some), disk.is_some())
    }

    #[test]
    fn what_runs_counts_and_what_is_off_keeps_its_volume() {
        let told = told(|_, _| ());
        let of = |run, halt| count(vec![machine(run, halt)], &told);
        assert_eq!(of(RunState::Running, Halt::Started), (Some(true), true));
        assert_eq!(of(RunState::Off(OffReason::Guest), Halt::Started), (Some(false), true));
        assert_eq!(of(RunState::Off(OffReason::Host), Halt::Leaving), (Some(false), true));
        let stalled = Machine { stalled: true, ..machine(RunState::Running, Halt::Started) };
        assert_eq!(count(vec![stalled], &told), (Some(false), true), "it stands still");
        assert_eq!(count(Vec::new(), &told), (None, true));
    }

    #[test]
    fn a_machine_between_two_hosts_counts_where_it_runs_only() {
        let coming = told(|machine, _| {
            machine.arrival = Some(Arrival {
                from: HostId::from_parts(1, 2),
                shows: BTreeSet::new(),
                open: true,
            });
        });
        assert_eq!(count(Vec::new(), &coming), (None, false));
        for run in [RunState::Incoming, RunState::Arrived, RunState::Off(OffReason::NeverStarted)] {
            assert_eq!(count(vec![machine(run, Halt::Arriving)], &coming), (Some(false), false));
        }
        let runs = machine(RunState::Running, Halt::Started);
        assert_eq!(count(vec![runs], &coming), (Some(true), true));
        let leaving = told(|_, _| ());
        let runs = machine(RunState::Running, Halt::Leaving);
        assert_eq!(count(vec![runs], &leaving), (Some(true), true));
        let gone = machine(RunState::Off(OffReason::Moved), Halt::Leaving);
        assert_eq!(count(vec![gone], &leaving), (Some(false), false));
        let gone = machine(RunState::Off(OffReason::Host), Halt::Left);
        assert_eq!(count(vec![gone], &leaving), (Some(false), false));
    }

    #[test]
    fn a_machine_that_moves_while_it_is_off_counts_nowhere_and_its_volume_once() {
        let told = told(|_, _| ());
        let of = |run, halt| count(vec![machine(run, halt)], &told);
        assert_eq!(of(RunState::Held, Halt::Held), (Some(false), true));
        assert_eq!(of(RunState::Off(OffReason::Host), Halt::Held), (Some(false), true));
        assert_eq!(of(RunState::Off(OffReason::Moved), Halt::Held), (Some(false), true));
        assert_eq!(of(RunState::Arrived, Halt::Idle), (Some(false), false));
        assert_eq!(of(RunState::Off(OffReason::Host), Halt::Idle), (Some(false), true));
        // It was sent, and stays after all.
        assert_eq!(of(RunState::Off(OffReason::Moved), Halt::Idle), (Some(false), true));
    }

    #[test]
    fn a_volume_that_is_to_go_or_that_nobody_knows_does_not_count() {
        assert!(!count(Vec::new(), &told(|_, wish| wish.wish = VolumeWish::Delete)).1);
        assert!(!count(Vec::new(), &Told::default()).1);
        let smaller = told(|_, wish| wish.size = Gib(3));
        let volumes = vec![Volume { volume: spec(1).boot.volume, size: Gib(5), damage: None }];
        let inventory = Inventory { volumes, ..Inventory::default() };
        let here = seen(&inventory, &smaller, &HashMap::new());
        let used = here.values().next().unwrap().as_ref().unwrap();
        assert_eq!((used.size, used.class.as_str()), (Gib(3), wish(1).class.as_str()));
        assert_ne!(volume(1), volume(2));
    }
}
