//! Machines that move with less memory than they are defined with.

use fairmazon_hypervisor::contract::answered;
use fairmazon_model::units::Mib;

use super::*;

async fn has(host: &QemuHost, mib: u64) {
    let begin = std::time::Instant::now();
    loop {
        let now = host.guest_memory(instance(1)).await;
        if now.as_ref().is_ok_and(|now| now.has == Mib(mib)) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "it never had {mib} MiB: {now:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_guest_takes_its_balloon_along_and_gets_its_memory_back_there() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let found = source.machine(instance(1)).await.unwrap().unwrap();
    let spot = MachineSpec { spot: true, ..machine() };
    source.define(&Arc::new(spot), found.marks).await.unwrap();
    mark(&source, Halt::Started).await;
    answered(async || source.set_balloon(instance(1), Mib(192)).await).await.unwrap();
    has(&source, 192).await;
    let target = ready(&source, &there).await;
    let refused = answered(async || source.set_balloon(instance(1), Mib(256)).await).await;
    assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "it leaves: {refused:?}");
    moves(&source, &target).await;
    counts_on(&target).await;
    has(&target, 192).await;
    answered(async || target.set_balloon(instance(1), Mib(256)).await).await.unwrap();
    has(&target, 256).await;
    answered(async || target.set_balloon(instance(1), Mib(160)).await).await.unwrap();
    has(&target, 160).await;
    counts_on(&target).await;
}
