//! Single cases that are written out.

use super::*;

#[test]
fn what_only_grows_needs_no_restart_where_that_can_be() {
    let had = spec(1);
    let marks = Marks {
        halt: Halt::Started,
        whole: true,
        spec_version: 1,
        epoch: Epoch(1),
        ..Marks::default()
    };
    let of = |vcpus, memory| MachineSpec {
        vcpus: Vcpus(vcpus),
        memory: Mib(memory),
        spec_version: 2,
        ..spec(1)
    };
    let machine = |definition: MachineSpec| Machine {
        definition: Arc::new(definition),
        marks,
        run: RunState::Running,
        stalled: false,
        addresses: Vec::new(),
        guest: GuestSeen::default(),
    };
    let seen = machine(MachineSpec { vcpus: Vcpus(2), memory: Mib(512), ..had });
    let grow = |vcpus, memory| MachineAction::Resize(Vcpus(vcpus), Mib(memory));
    let restart = || MachineAction::Mark(Marks { halt: Halt::Stopping, ..marks });
    for (desired, wanted) in [
        (of(2, 1_024), grow(2, 1_024)),
        (of(3, 512), grow(3, 512)),
        (of(4, 2_048), grow(4, 2_048)),
        (of(1, 512), restart()),
        (of(2, 256), restart()),
        (of(1, 1_024), restart()),
        (of(3, 256), restart()),
        (MachineSpec { reboots: 1, ..of(3, 1_024) }, restart()),
        (MachineSpec { epoch: Epoch(2), ..of(3, 1_024) }, restart()),
        (MachineSpec { power: Power::Stopped, ..of(3, 1_024) }, restart()),
    ] {
        let desired = Arc::new(desired);
        let can = case(&desired, &seen, true);
        assert_eq!(next_machine_step(&can).action, wanted, "{desired:?}");
        let without = Features { resize: false, ..FEATURES };
        for cannot in [
            MachineCase { may_grow: false, ..case(&desired, &seen, true) },
            MachineCase { features: without, ..case(&desired, &seen, true) },
        ] {
            assert_eq!(next_machine_step(&cannot).action, restart(), "{desired:?}");
        }
    }
    // It has grown: what is left is to say so.
    let desired = Arc::new(of(2, 512));
    let wanted = MachineAction::Mark(Marks { spec_version: 2, ..marks });
    assert_eq!(next_machine_step(&case(&desired, &seen, true)).action, wanted);
}

#[test]
fn every_restart_policy_in_every_case() {
    use fairmazon_hypervisor::OffReason::{Crashed, Guest, Host, NeverStarted};
    let starts = |restart, halt, reason| {
        let desired = Arc::new(MachineSpec { restart, ..spec(1) });
        let marks = Marks { epoch: Epoch(1), spec_version: 1, halt, ..Marks::default() };
        let machine = Machine {
            definition: Arc::clone(&desired),
            marks,
            run: RunState::Off(reason),
            stalled: false,
            addresses: Vec::new(),
            guest: GuestSeen::default(),
        };
        next_machine_step(&case(&desired, &machine, true)).action == MachineAction::Start
    };
    use RestartPolicy::{Always, Never, OnHostFailure};
    for reason in [NeverStarted, Guest, Crashed, Host] {
        for restart in [Always, OnHostFailure, Never] {
            assert!(starts(restart, Halt::Idle, reason), "{restart:?} {reason:?}");
        }
        assert!(starts(Always, Halt::Started, reason));
        let fresh = reason == NeverStarted;
        assert_eq!(starts(OnHostFailure, Halt::Started, reason), fresh || reason == Host);
        assert_eq!(starts(Never, Halt::Started, reason), fresh);
    }
}
