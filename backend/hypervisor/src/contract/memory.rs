//! The clauses about memory that is taken back from spot machines.

use std::sync::Arc;

use fairmazon_model::{machine::MachineSpec, units::Mib};

use super::{Subject, answered, instance, run, spec};
use crate::{HypervisorError, Result};

/// A machine that is spot.
fn spot(number: u128) -> MachineSpec {
    MachineSpec { spot: true, ..spec(number) }
}

pub async fn memory_is_taken_back_from_spot_machines_alone(host: Subject) {
    run(&host, &Arc::new(spot(1))).await.unwrap();
    run(&host, &Arc::new(spec(2))).await.unwrap();
    if !host.features().balloon {
        let measured = host.memory().await;
        assert!(matches!(measured, Err(HypervisorError::Unsupported { .. })), "{measured:?}");
        let asked = answered(async || host.set_balloon(instance(1), Mib(192)).await).await;
        assert!(matches!(asked, Err(HypervisorError::Unsupported { .. })), "{asked:?}");
        let guest = answered(async || host.guest_memory(instance(1)).await).await;
        assert!(matches!(guest, Err(HypervisorError::Unsupported { .. })), "{guest:?}");
        return;
    }
    let unknown = answered(async || host.guest_memory(instance(9)).await).await;
    assert!(matches!(unknown, Err(HypervisorError::NotFound { .. })), "{unknown:?}");
    let now = host.memory().await.unwrap();
    assert!(now.total >= now.available && now.available > Mib(0), "{now:?}");
    let seen: Vec<_> = now.machines.iter().map(|m| (m.instance, m.spot, m.defined)).collect();
    assert_eq!(seen, [(instance(1), true, Mib(256)), (instance(2), false, Mib(256))]);
    for has in [192, 192, 128, 256, 192] {
        answered(async || host.set_balloon(instance(1), Mib(has)).await).await.unwrap();
    }
    let refused = answered(async || host.set_balloon(instance(2), Mib(255)).await).await;
    assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "{refused:?}");
    answered(async || host.set_balloon(instance(2), Mib(256)).await).await.unwrap();
    let missing = answered(async || host.set_balloon(instance(9), Mib(256)).await).await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
    host.force_stop(instance(1)).await.unwrap();
    let off = answered(async || host.set_balloon(instance(1), Mib(192)).await).await;
    assert!(matches!(off, Err(HypervisorError::Busy { .. })), "{off:?}");
    let off = answered(async || host.guest_memory(instance(1)).await).await;
    assert!(matches!(off, Err(HypervisorError::Busy { .. })), "{off:?}");
    assert_eq!(host.memory().await.unwrap().machines.len(), 1, "one that is off has none");
    host.start(instance(1)).await.unwrap();
    let again = answered(async || host.guest_memory(instance(1)).await).await.unwrap();
    assert_eq!((again.instance, again.spot, again.defined), seen[0]);
    assert_eq!(again.has, Mib(256), "it has all of it again");
    // What its guest does not see may change while it runs: it is no spot machine any more.
    let marks = host.machine(instance(1)).await.unwrap().unwrap().marks;
    host.define(&Arc::new(spec(1)), marks).await.unwrap();
    let refused = answered(async || host.set_balloon(instance(1), Mib(192)).await).await;
    assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "{refused:?}");
}

pub async fn what_a_host_has_is_promised_once_to_others_than_spot_machines(host: Subject) {
    let all = host.capacity().await.unwrap().memory;
    let is_full = |started: Result<()>| {
        assert!(matches!(started, Err(HypervisorError::Full { .. })), "{started:?}");
    };
    run(&host, &Arc::new(MachineSpec { memory: all, ..spot(1) })).await.unwrap();
    let second = run(&host, &Arc::new(MachineSpec { memory: all, ..spec(2) })).await;
    if !host.features().balloon {
        return is_full(second);
    }
    second.unwrap();
    is_full(run(&host, &Arc::new(spot(3))).await);
    host.force_stop(instance(1)).await.unwrap();
    is_full(run(&host, &Arc::new(spec(4))).await);
    host.start(instance(3)).await.unwrap();
}
