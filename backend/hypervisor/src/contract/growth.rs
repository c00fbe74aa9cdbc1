//! The clause about machines that grow while they run.

use std::sync::Arc;

use fairmazon_model::{
    machine::MachineSpec,
    units::{Mib, Vcpus},
};

use super::{Subject, instance, run, spec, wish};
use crate::{HypervisorError, Marks, RunState};

pub async fn a_running_machine_grows(host: Subject) {
    // The smallest that every driver gives room to grow.
    let small = Arc::new(MachineSpec { memory: Mib(2_048), ..spec(1) });
    let (id, resize) = (small.instance, host.features().resize);
    host.create_volume(&wish(1)).await.unwrap();
    host.define(&small, Marks { spec_version: 7, ..Marks::default() }).await.unwrap();
    let off = host.resize(id, Vcpus(2), Mib(4_096)).await;
    if !resize {
        assert!(matches!(off, Err(HypervisorError::Unsupported { .. })), "{off:?}");
        return;
    }
    assert!(matches!(off, Err(HypervisorError::Busy { .. })), "{off:?}");
    host.start(id).await.unwrap();
    let is = async |vcpus, memory| {
        let machine = host.machine(id).await.unwrap().unwrap();
        let size = (machine.definition.vcpus, machine.definition.memory);
        assert_eq!((machine.run, size), (RunState::Running, (vcpus, memory)));
        let rest = MachineSpec {
            vcpus: small.vcpus,
            memory: small.memory,
            ..(*machine.definition).clone()
        };
        assert_eq!((&rest, machine.marks.spec_version), (&*small, 7), "nothing else changes");
    };
    for _ in 0..2 {
        host.resize(id, Vcpus(2), Mib(4_096)).await.unwrap();
        is(Vcpus(2), Mib(4_096)).await;
    }
    let capacity = host.capacity().await.unwrap();
    let full = host.resize(id, Vcpus(2), capacity.memory.saturating_add(Mib(1_024))).await;
    assert!(
        matches!(full, Err(HypervisorError::Full { .. } | HypervisorError::Unsupported { .. })),
        "{full:?}"
    );
    for (vcpus, memory) in [(1, 4_096), (2, 2_048), (1, 2_048), (4, 2_048)] {
        let less = host.resize(id, Vcpus(vcpus), Mib(memory)).await;
        assert!(matches!(less, Err(HypervisorError::Unsupported { .. })), "{less:?}");
        is(Vcpus(2), Mib(4_096)).await;
    }
    // What it has grown by counts against what the host gives.
    let other = MachineSpec { memory: Mib(capacity.memory.0 - 3_072), ..spec(2) };
    let full = run(&host, &Arc::new(other)).await;
    assert!(matches!(full, Err(HypervisorError::Full { .. })), "{full:?}");
    // It stays as large in its next run, and can go back in that.
    host.force_stop(id).await.unwrap();
    let machine = host.machine(id).await.unwrap().unwrap();
    assert_eq!((machine.definition.vcpus, machine.definition.memory), (Vcpus(2), Mib(4_096)));
    host.start(id).await.unwrap();
    is(Vcpus(2), Mib(4_096)).await;
    host.force_stop(id).await.unwrap();
    host.define(&small, Marks { spec_version: 7, ..Marks::default() }).await.unwrap();
    host.start(id).await.unwrap();
    is(small.vcpus, small.memory).await;
    let missing = host.resize(instance(9), Vcpus(1), Mib(256)).await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
}
