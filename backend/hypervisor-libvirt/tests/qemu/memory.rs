//! Memory that is taken back from guests and given again, and guests that give none.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, MachineMemory, Marks,
    contract::{answered, instance, spec, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    id::InstanceId,
    instance::ObservedState,
    machine::{HostVolume, MachineSpec},
    units::Mib,
};

use crate::{
    lab::{IMAGE, Lab, PATIENCE, give_keys, says},
    platform::Platform,
};

/// A guest that reads from its disk until much of its memory is a copy of that, which it can do
/// without while it keeps the disk open, and says again and again how much is free.
const READS: &str = "exec 3</dev/vda\ndd of=/dev/null bs=1M count=350 <&3 2>/dev/null\necho GUEST-READ\n\
    while :; do echo \"GUEST-FREE $(awk '/^MemFree/ { print int($2 / 1024) }' /proc/meminfo) .\"; sleep 0.3; done\n";
/// What the guest is defined with, in MiB.
const DEFINED: u64 = 512;

/// Its id is of no other test: the kernel knows a machine's process by it.
fn id(number: u128) -> InstanceId {
    instance(40 + number)
}

fn machine(number: u128, before: &str) -> MachineSpec {
    MachineSpec {
        instance: id(number),
        memory: Mib(DEFINED),
        spot: true,
        user_data: format!("#!/bin/sh\n{before}{READS}"),
        ..spec(number)
    }
}

/// Starts this machine, whose guest has read what it reads.
async fn started(host: &QemuHost, machine: MachineSpec) {
    let boot = HostVolume { volume: machine.boot.volume, image: Some(IMAGE.into()), ..wish(1) };
    host.create_volume(&boot).await.unwrap();
    let started = machine.instance;
    host.define(&Arc::new(machine), Marks::default()).await.unwrap();
    host.start(started).await.unwrap();
    says(host, started, "GUEST-READ").await;
}

async fn memory(host: &QemuHost, number: u128) -> MachineMemory {
    answered(async || host.guest_memory(id(number)).await).await.unwrap()
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn has(host: &QemuHost, mib: u64) {
    let looks = async || (memory(host, 1).await.has == Mib(mib)).then_some(());
    until(&format!("it has {mib} MiB"), looks).await;
}

/// What the guest says next of its free memory, in MiB.
async fn free(host: &QemuHost) -> u64 {
    let all = async || {
        let console = host.console(id(1)).await.unwrap();
        let said = String::from_utf8_lossy(&console).into_owned();
        let free = said.lines().filter_map(|line| {
            line.trim().strip_prefix("GUEST-FREE ")?.strip_suffix(" .")?.parse().ok()
        });
        free.collect::<Vec<u64>>()
    };
    // Of two lines the second was written after this was called.
    let before = all().await.len();
    let next = async || all().await.get(before + 1).copied();
    until("the guest says how much is free", next).await
}

/// Of the process of a machine: what it has of the host's memory, in MiB.
fn resident(lab: &mut Lab) -> u64 {
    let said = of_process(lab, 1, "status");
    let line = said.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
}

fn of_process(lab: &mut Lab, number: u128, file: &str) -> String {
    lab.run(&format!("cat /proc/$(cat /run/libvirt/qemu/{}.pid)/{file}", id(number)))
}

#[tokio::test]
async fn a_guest_gives_memory_back_and_gets_it_again() {
    let mut lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    started(&host, machine(1, "")).await;
    let other = MachineSpec { spot: false, memory: Mib(256), ..machine(7, "") };
    started(&host, other).await;

    let said = async || memory(&host, 1).await.needs;
    let needs = until("the guest says what it needs", said).await;
    assert!((16..256).contains(&needs.0), "what it has only read is not needed: {needs}");
    // A look at the host's memory tells the kernel of its machines.
    host.memory().await.unwrap();
    let scores = [1, 7].map(|number| of_process(&mut lab, number, "oom_score_adj"));
    assert_eq!(scores.each_ref().map(|score| score.trim()), ["1000", "0"]);

    let (before, free_before) = (resident(&mut lab), free(&host).await);
    answered(async || host.set_balloon(id(1), Mib(DEFINED / 2)).await).await.unwrap();
    has(&host, DEFINED / 2).await;
    let mut less = || resident(&mut lab) + 100 < before;
    until("the host has its memory", async || less().then_some(())).await;
    // What was read goes first; what is still free is within what it has.
    assert!(free(&host).await < DEFINED / 2, "{free_before}");
    let said = memory(&host, 1).await;
    assert!(said.needs.is_none_or(|needs| needs < Mib(DEFINED / 2)), "{said:?}");

    // The balloon is the guest's, whoever asks next.
    drop(host);
    let host = lab.host();
    has(&host, DEFINED / 2).await;
    answered(async || host.set_balloon(id(1), Mib(DEFINED)).await).await.unwrap();
    has(&host, DEFINED).await;
    let more = async || (free(&host).await > DEFINED / 2).then_some(());
    until("the guest has it again", more).await;

    // A balloon is of one run.
    give_keys(&host).await;
    answered(async || host.set_balloon(id(1), Mib(DEFINED / 2)).await).await.unwrap();
    has(&host, DEFINED / 2).await;
    host.force_stop(id(1)).await.unwrap();
    host.start(id(1)).await.unwrap();
    assert_eq!(memory(&host, 1).await.has, Mib(DEFINED));
}

#[tokio::test]
async fn what_a_guest_frees_is_the_hosts_again() {
    let mut lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    let fills = "mkdir /full; mount -t tmpfs -o size=400m full /full\n\
        dd if=/dev/zero of=/full/x bs=1M count=250 2>/dev/null; echo GUEST-FULL\n\
        while [ ! -e /data/vdb/counter ]; do sleep 0.2; done\n\
        rm /full/x; echo GUEST-FREED; while :; do sleep 10; done\n";
    let boot = HostVolume { image: Some(IMAGE.into()), ..wish(1) };
    host.create_volume(&boot).await.unwrap();
    let script = format!("#!/bin/sh\n{fills}");
    let spec = MachineSpec { user_data: script, ..machine(1, "") };
    host.define(&Arc::new(spec), Marks::default()).await.unwrap();
    host.start(id(1)).await.unwrap();
    says(&host, id(1), "GUEST-FULL").await;
    let full = resident(&mut lab);
    assert!(full > 250, "{full}");
    // It frees it when it has another disk.
    host.create_volume(&wish(2)).await.unwrap();
    host.attach(id(1), &crate::guests::data(2)).await.unwrap();
    says(&host, id(1), "GUEST-FREED").await;
    let mut less = || resident(&mut lab) + 150 < full;
    until("the host has it", async || less().then_some(())).await;
}

/// What the kernel says of a host of 10,000 MiB.
fn write_memory(path: &PathBuf, available_mib: u64) {
    let text =
        format!("MemTotal: {} kB\nMemAvailable: {} kB\n", 10_000 * 1_024, available_mib * 1_024);
    // As a whole: it may be read at any time.
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn a_qemu_that_hangs_holds_up_no_other() {
    let mut lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    for number in 1..=2 {
        started(&host, machine(number, "")).await;
    }
    memory(&host, 2).await;
    let hung = format!("$(cat /run/libvirt/qemu/{}.pid)", id(2));
    lab.run(&format!("kill -STOP {hung}"));
    for _ in 0..3 {
        let says = host.guest_memory(id(2)).await;
        assert!(matches!(says, Err(HypervisorError::Timeout { .. })), "{says:?}");
        let set = host.set_balloon(id(2), Mib(DEFINED / 2)).await;
        assert!(matches!(set, Err(HypervisorError::Timeout { .. })), "{set:?}");
        assert_eq!(memory(&host, 1).await.has, Mib(DEFINED));
        let listed = host.memory().await.unwrap().machines;
        assert_eq!(listed.iter().map(|it| it.instance).collect::<Vec<_>>(), [id(1), id(2)]);
    }
    answered(async || host.set_balloon(id(1), Mib(DEFINED / 2)).await).await.unwrap();
    has(&host, DEFINED / 2).await;
    lab.run(&format!("kill -CONT {hung}"));
    until("it answers again", async || host.guest_memory(id(2)).await.ok()).await;
}

#[tokio::test]
async fn a_guest_that_ignores_its_balloon_goes_before_anybody_else() {
    let lab = Lab::start();
    let info = lab.folder.join("meminfo");
    write_memory(&info, 9_000);
    let host = lab.host_with_memory(&info);
    // The first has a driver for its balloon, the second has none any more, the third is not spot.
    let hostile = machine(2, "rmmod virtio_balloon\n");
    let other = MachineSpec { spot: false, ..machine(3, "") };
    let machines = vec![machine(1, ""), hostile, other];
    let mut platform = Platform::start(host.clone(), |config| {
        config.memory_every = Duration::from_millis(500);
    });
    platform.desire(machines);
    for number in 1..=3 {
        says(&host, id(number), "GUEST-READ").await;
    }
    // The kernel of a guest that has no driver says nothing; what the other says is heard.
    until("the first says what it needs", async || memory(&host, 1).await.needs).await;
    until("what the second said is old", async || {
        memory(&host, 2).await.needs.is_none().then_some(())
    })
    .await;
    write_memory(&info, 100);
    let set = platform.sees(|set| set.machines.iter().any(|seen| seen.lacks_memory)).await;
    assert!(!set.reclaims_memory);
    let lacking = set.machines.iter().filter(|seen| seen.lacks_memory);
    assert_eq!(lacking.map(|seen| seen.instance).collect::<Vec<_>>(), [id(2)]);
    let first = memory(&host, 1).await;
    assert!(first.has < Mib(DEFINED) && first.has >= Mib(DEFINED / 2), "{first:?}");
    until("it is off", async || {
        let machine = host.machine(id(2)).await.unwrap().unwrap();
        // There is memory from then on.
        (!machine.runs()).then(|| write_memory(&info, 9_000))
    })
    .await;
    has(&host, DEFINED).await;
    let set = platform.sees(|set| set.reclaims_memory).await;
    for number in [1, 3] {
        let seen = set.machines.iter().find(|seen| seen.instance == id(number)).unwrap();
        assert_eq!(seen.state, ObservedState::Running, "{seen:?}");
        let said = host.console(id(number)).await.unwrap();
        let boots = String::from_utf8_lossy(&said).matches("GUEST-READY").count();
        assert_eq!(boots, 1, "it ran all the time");
    }
    platform.end().await;
}
