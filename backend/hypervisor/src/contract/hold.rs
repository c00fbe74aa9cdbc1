//! Machines that are off and are held to be sent to another host.

use std::sync::Arc;

use fairmazon_model::machine::MachineSpec;

use super::{Subject, instance, off, run, spec};
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
