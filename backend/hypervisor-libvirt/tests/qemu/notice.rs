//! The notice of an interruption, as a guest has it. What a broker wants of the host for one is that
//! the machine is off, with the notice as the time for that, and later that it runs again; what it
//! does in between, and the minute that it takes for it, are tested with the broker.

use std::time::{Duration, Instant};

use fairmazon_hypervisor::{
    Hypervisor, OffReason, RunState,
    contract::{instance, spec},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    instance::{ObservedState, Power},
    machine::{MachineSpec, ObservedSet},
};

use crate::{
    guests::data,
    lab::{Lab, says},
    platform::Platform,
};

/// A notice that no guest of this test uses up, and one that it does.
const LONG: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_secs(3);
/// At its first start the guest leaves the power button to its init, which shuts it down. Later it
/// ends who listens there, and works on.
const SCRIPT: &str = "#!/bin/sh\nif [ \"$(cat /data/vdb/counter)\" != 1 ]; then\n\
    for reads in $(pidof dd); do kill -9 \"$(awk '{ print $4 }' /proc/$reads/stat)\"; done\n\
    echo GUEST-IGNORES\nfi\necho GUEST-WORKS\n";

fn spot(spec_version: u64, power: Power, notice: Duration) -> MachineSpec {
    MachineSpec {
        spec_version,
        spot: true,
        power,
        stop_timeout_ms: u64::try_from(notice.as_millis()).unwrap(),
        disks: vec![data(2)],
        user_data: SCRIPT.into(),
        ..spec(1)
    }
}

fn is(set: &ObservedSet, state: &ObservedState) -> bool {
    set.machines.iter().any(|seen| seen.instance == instance(1) && seen.state == *state)
}

async fn run(host: &QemuHost) -> RunState {
    host.machine(instance(1)).await.unwrap().unwrap().run
}

#[tokio::test]
async fn a_guest_has_its_notice_by_the_power_button_and_comes_back() {
    let lab = Lab::start();
    let host = lab.host();
    let mut platform = Platform::start(host.clone(), |_| {});
    platform.desire(vec![spot(1, Power::Running, LONG)]);
    platform.sees(|set| is(set, &ObservedState::Running)).await;
    says(&host, instance(1), "GUEST-WORKS").await;
    // It hears of it, shuts down by itself, and has not to wait for the end of its notice.
    platform.desire(vec![spot(2, Power::Stopped, LONG)]);
    platform.sees(|set| is(set, &ObservedState::Stopped)).await;
    says(&host, instance(1), "GUEST-POWER-BUTTON").await;
    assert_eq!(run(&host).await, RunState::Off(OffReason::Guest));
    // There is room again: it starts where it was, with its data.
    platform.desire(vec![spot(3, Power::Running, LONG)]);
    platform.sees(|set| is(set, &ObservedState::Running)).await;
    says(&host, instance(1), "GUEST-COUNTER vdb 2").await;
    says(&host, instance(1), "GUEST-IGNORES").await;
    // Now it does not care. It has all of its notice, and is forced off then.
    let begin = Instant::now();
    platform.desire(vec![spot(4, Power::Stopped, SHORT)]);
    platform.sees(|set| is(set, &ObservedState::Stopped)).await;
    assert!(begin.elapsed() >= SHORT, "after {:?}", begin.elapsed());
    assert_eq!(run(&host).await, RunState::Off(OffReason::Host));
    let said = host.console(instance(1)).await.unwrap();
    let heard = String::from_utf8_lossy(&said).matches("GUEST-POWER-BUTTON").count();
    assert_eq!(heard, 1, "that of the first time");
    platform.end().await;
}
