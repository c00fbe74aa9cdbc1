//! Machines that are off and are held to be sent to another host.

use std::sync::Arc;

use fairmazon_model::{
    instance::Power,
    machine::{Disk, MachineSpec},
    units::Mib,
};

use super::{Subject, instance, off, run, spec, volume, wish};
use crate::{Halt, HypervisorError, Marks, OffReason, Result, RunState};

pub async fn a_machine_that_is_off_is_held_and_never_runs(host: Subject) {
    let busy = |refused: Result<()>| {
        assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "{refused:?}");
    };
    let mark = async |halt| {
        let marks = host.machine(instance(1)).await.unwrap().unwrap().marks;
        host.mark(instance(1), Marks { halt, ..marks }).await.unwrap();
    };
    let spec = Arc::new(spec(1));
    if !host.features().migration {
        let refused = host.hold(spec.instance).await;
        assert!(matches!(refused, Err(HypervisorError::Unsupported { .. })), "{refused:?}");
        return;
    }
    let missing = host.hold(spec.instance).await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
    run(&host, &spec).await.unwrap();
    busy(host.hold(spec.instance).await);
    host.force_stop(spec.instance).await.unwrap();
    busy(host.hold(spec.instance).await);
    mark(Halt::Held).await;
    for _ in 0..2 {
        host.hold(spec.instance).await.unwrap();
    }
    let held = host.machine(spec.instance).await.unwrap().unwrap();
    assert_eq!((held.run, held.marks.halt), (RunState::Held, Halt::Held));
    assert!(held.addresses.is_empty() && held.runs(), "its volumes are in use");
    assert_eq!(host.statistics(spec.instance).await.unwrap(), None, "it uses nothing");
    busy(host.resume(spec.instance).await);
    busy(host.undefine(spec.instance).await);
    busy(host.delete_volume(spec.boot.volume).await);
    host.refuse(spec.instance).await.unwrap();
    assert_eq!(host.machine(spec.instance).await.unwrap().unwrap().run, RunState::Held);
    // It has no memory of the host, so one that needs all of it runs beside it.
    let capacity = host.capacity().await.unwrap();
    let large = MachineSpec { memory: capacity.memory, ..super::spec(2) };
    run(&host, &Arc::new(large)).await.unwrap();
    host.force_stop(instance(2)).await.unwrap();
    // Described, it can be sent; ended, it is as it was.
    host.describe(spec.instance).await.unwrap();
    host.force_stop(spec.instance).await.unwrap();
    assert_eq!(off(&host, spec.instance).await, OffReason::Host);
    mark(Halt::Idle).await;
    host.start(spec.instance).await.unwrap();
    assert_eq!(host.machine(spec.instance).await.unwrap().unwrap().run, RunState::Running);
}

/// Volumes that no machine has are sent in one of no image.
pub async fn volumes_are_held_without_an_image(host: Subject) {
    if !host.features().migration {
        return;
    }
    for number in [1, 2] {
        host.create_volume(&wish(number)).await.unwrap();
    }
    let disk = Disk { name: "other".into(), volume: volume(2), read_only: false };
    let carrier = Arc::new(MachineSpec {
        image: String::new(),
        memory: Mib(128),
        power: Power::Stopped,
        disks: vec![disk],
        ..spec(1)
    });
    host.define(&carrier, Marks { halt: Halt::Held, ..Marks::default() }).await.unwrap();
    host.hold(carrier.instance).await.unwrap();
    assert_eq!(host.machine(carrier.instance).await.unwrap().unwrap().run, RunState::Held);
    host.describe(carrier.instance).await.unwrap();
    // Nobody else has them meanwhile.
    let rival = Arc::new(MachineSpec { boot: carrier.boot.clone(), ..spec(3) });
    host.define(&rival, Marks::default()).await.unwrap();
    let busy = host.start(rival.instance).await;
    assert!(matches!(busy, Err(HypervisorError::Busy { .. })), "{busy:?}");
    host.force_stop(carrier.instance).await.unwrap();
    host.undefine(carrier.instance).await.unwrap();
    for number in [1, 2] {
        assert!(host.volume(volume(number)).await.unwrap().is_some(), "they stay");
    }
    host.start(rival.instance).await.unwrap();
}
