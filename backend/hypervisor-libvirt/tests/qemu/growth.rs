//! Guests that get more processors and memory while they run.

use std::{sync::Arc, time::Instant};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Marks, RunState,
    contract::{instance, spec, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    machine::MachineSpec,
    units::{Mib, Vcpus},
};

use crate::{
    guest_agent::agent,
    guests::{data, started},
    lab::{Lab, PATIENCE, give_keys, marked, says},
};

/// Says what the guest has, and in which boot, whenever that changes; and counts.
const WATCH: &str = r#"
watch() {
  n=0; was=
  while :; do
    now="$(grep -c ^processor /proc/cpuinfo) $(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
    [ "$now" = "$was" ] || echo "GUEST-HAS $now $(cat /proc/sys/kernel/random/boot_id)"
    was="$now"; n=$((n+1)); echo "GUEST-TICK $n"; sleep 0.2
  done
}
"#;

/// A guest whose own rules bring what comes into use.
pub(crate) fn willing() -> String {
    format!(
        r#"#!/bin/sh
{WATCH}
watch &
while :; do
  for each in /sys/devices/system/cpu/cpu[0-9]*/online /sys/devices/system/memory/memory*/online; do
    read -r on <"$each" && [ "$on" = 1 ] || echo 1 >"$each"
  done
  sleep 0.2
done
"#
    )
}

/// One that has no such rules and no agent.
fn careless() -> String {
    format!("#!/bin/sh\n{WATCH}\nwatch\n")
}

/// An agent that does what qemu-guest-agent does with processors and memory.
const ONLINE: &str = r#"
    guest-sync) answer="{\"return\":$id}" ;;
    guest-ping) answer='{"return":{}}' ;;
    guest-get-vcpus) all=
      for each in /sys/devices/system/cpu/cpu[0-9]*; do
        on=true; [ "$(cat "$each/online" 2>/dev/null)" != 0 ] || on=false
        all="$all,{\"logical-id\":${each##*cpu},\"online\":$on,\"can-offline\":true}"
      done; answer="{\"return\":[${all#,}]}" ;;
    guest-set-vcpus)
      for number in $(echo "$line" | grep -o '"logical-id":[0-9]*' | cut -d: -f2); do
        echo 1 >"/sys/devices/system/cpu/cpu$number/online"
      done; answer='{"return":1}' ;;
    guest-get-memory-block-info) answer="{\"return\":{\"size\":$((0x$(cat /sys/devices/system/memory/block_size_bytes)))}}" ;;
    guest-get-memory-blocks) all=
      for each in /sys/devices/system/memory/memory[0-9]*; do
        on=true; [ "$(cat "$each/online")" != 0 ] || on=false
        all="$all,{\"phys-index\":${each##*memory},\"online\":$on,\"can-offline\":true}"
      done; answer="{\"return\":[${all#,}]}" ;;
    guest-set-memory-blocks)
      for number in $(echo "$line" | grep -o '"phys-index":[0-9]*' | cut -d: -f2); do
        echo 1 >"/sys/devices/system/memory/memory$number/online"
      done; answer='{"return":[]}' ;;
    *) answer='{"error":{"class":"CommandNotFound","desc":"no"}}' ;;"#;

/// A machine that has room to grow.
pub(crate) fn growing(user_data: String) -> MachineSpec {
    MachineSpec { memory: Mib(2_048), disks: vec![data(2)], user_data, ..spec(1) }
}

pub(crate) async fn run(lab: &Lab, spec: MachineSpec) -> QemuHost {
    let host = started(lab, spec).await;
    says(&host, instance(1), "GUEST-TICK 3").await;
    host
}

/// What a guest has said last that it has, if it has: processors, MiB, and its boot.
async fn said(host: &QemuHost) -> Option<(u32, u64, String)> {
    let said = host.console(instance(1)).await.unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut words = marked(&said, "GUEST-HAS ").next_back()?.split(' ');
    let mut word = || words.next().unwrap().to_owned();
    Some((word().parse().unwrap(), word().parse::<u64>().unwrap() / 1_024, word()))
}

/// Waits until the guest has that many processors and about as many MiB; its boot.
pub(crate) async fn has(host: &QemuHost, vcpus: u32, mib: u64) -> String {
    let begin = Instant::now();
    loop {
        let said = said(host).await;
        // Its kernel keeps some of what it was started with.
        match &said {
            Some((has, memory, boot)) if *has == vcpus && (mib - 256..=mib).contains(memory) => {
                return boot.clone();
            }
            _ => assert!(begin.elapsed() < PATIENCE, "it has {said:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// What the machine has, as its host sees it.
pub(crate) async fn size(host: &QemuHost) -> (u32, u64) {
    let machine = host.machine(instance(1)).await.unwrap().unwrap();
    assert_eq!(machine.run, RunState::Running);
    (machine.definition.vcpus.0, machine.definition.memory.0)
}

#[tokio::test]
async fn a_guest_uses_what_it_gets_without_a_restart_and_still_has_it_after_one() {
    let mut lab = Lab::start();
    let host = run(&lab, growing(willing())).await;
    let boot = has(&host, 1, 2_048).await;
    host.resize(instance(1), Vcpus(2), Mib(2_048)).await.unwrap();
    assert_eq!(has(&host, 2, 2_048).await, boot);
    host.resize(instance(1), Vcpus(2), Mib(3_072)).await.unwrap();
    host.resize(instance(1), Vcpus(4), Mib(4_096)).await.unwrap();
    assert_eq!(has(&host, 4, 4_096).await, boot, "it is still the same boot");
    assert_eq!(size(&host).await, (4, 4_096));
    // None of its memory would be in a core dump.
    let memory = lab.run(&format!(
        "awk '/^Size:/ {{ kib = $2 }} /^VmFlags:/ && kib >= 1048576 {{ print kib, / dd/ ? \"out\" : \"in\" }}' \
         /proc/$(cat /run/libvirt/qemu/{}.pid)/smaps | sort",
        instance(1)
    ));
    assert_eq!(memory, "1048576 out\n1048576 out\n2097152 out\n");
    // No more of it than the host has; what is refused changes nothing.
    for (vcpus, memory) in [(4, 4_097), (4, 16_384), (9, 4_096), (2, 4_096), (4, 2_048)] {
        let refused = host.resize(instance(1), Vcpus(vcpus), Mib(memory)).await;
        assert!(matches!(refused, Err(HypervisorError::Unsupported { .. })), "{refused:?}");
    }
    let other = MachineSpec { memory: Mib(3_072), disks: Vec::new(), ..spec(3) };
    host.create_volume(&wish(3)).await.unwrap();
    host.define(&Arc::new(other), Marks::default()).await.unwrap();
    host.start(instance(3)).await.unwrap();
    let full = host.resize(instance(1), Vcpus(4), Mib(6_144)).await;
    assert!(matches!(full, Err(HypervisorError::Full { .. })), "{full:?}");
    assert_eq!(size(&host).await, (4, 4_096));
    host.force_stop(instance(1)).await.unwrap();
    host.start(instance(1)).await.unwrap();
    let begin = Instant::now();
    while said(&host).await.is_none_or(|(_, _, now)| now == boot) {
        assert!(begin.elapsed() < PATIENCE, "it never booted again");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_ne!(has(&host, 4, 4_096).await, boot);
    let says = says(&host, instance(1), "GUEST-COUNTER vdb 2").await;
    assert!(!says.contains("GUEST-FAILED"), "{says}");
}

#[tokio::test]
async fn an_agent_has_a_guest_use_what_it_gets() {
    let lab = Lab::start();
    let script =
        agent(ONLINE).replacen("#!/bin/sh\n", &format!("#!/bin/sh\n{WATCH}\nwatch &\n"), 1);
    let host = run(&lab, growing(script)).await;
    let boot = has(&host, 1, 2_048).await;
    host.resize(instance(1), Vcpus(3), Mib(4_096)).await.unwrap();
    assert_eq!(has(&host, 3, 4_096).await, boot);
}

#[tokio::test]
async fn what_a_guest_does_not_take_up_is_there_at_its_next_start() {
    let lab = Lab::start();
    let host = run(&lab, growing(careless())).await;
    has(&host, 1, 2_048).await;
    host.resize(instance(1), Vcpus(2), Mib(4_096)).await.unwrap();
    says(&host, instance(1), "GUEST-TICK 20").await;
    assert_eq!(size(&host).await, (2, 4_096), "it has it, whether or not it uses it");
    host.ask_to_stop(instance(1)).await.unwrap();
    crate::guests::is_off(&host).await;
    host.start(instance(1)).await.unwrap();
    has(&host, 2, 4_096).await;
}

#[tokio::test]
async fn what_an_agent_that_was_killed_has_left_half_done_is_seen_and_finished() {
    let mut lab = Lab::start();
    let host = run(&lab, growing(willing())).await;
    let boot = has(&host, 1, 2_048).await;
    drop(host);
    // As far as a resize had come that nobody wrote down.
    let id = instance(1);
    lab.run(&format!(
        "echo \"<memory model='dimm'><target><size unit='MiB'>2048</size><node>0</node></target></memory>\" \
         >/run/module.xml && virsh attach-device --live {id} /run/module.xml"
    ));
    let host = lab.host();
    give_keys(&host).await;
    assert_eq!(size(&host).await, (1, 4_096), "it has what it has");
    let marks = host.machine(id).await.unwrap().unwrap().marks;
    let refused = host.define(&Arc::new(growing(willing())), marks).await;
    assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "{refused:?}");
    host.resize(id, Vcpus(2), Mib(4_096)).await.unwrap();
    host.resize(id, Vcpus(2), Mib(4_096)).await.unwrap();
    assert_eq!(has(&host, 2, 4_096).await, boot);
    let modules = lab.run(&format!("virsh dumpxml {id} | grep -c 'memory model' || true"));
    assert_eq!(modules.trim(), "1");
    // Nor is it lost when libvirt ends in between.
    lab.kill_libvirt();
    lab.start_libvirt();
    let begin = Instant::now();
    while host.machine(id).await.is_err() {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(size(&host).await, (2, 4_096));
}

#[tokio::test]
async fn a_machine_without_room_to_grow_is_left_as_it_is() {
    let mut lab = Lab::start();
    let host = run(&lab, MachineSpec { memory: Mib(256), ..growing(willing()) }).await;
    let live = lab.run(&format!("virsh dumpxml {}", instance(1)));
    assert!(!live.contains("maxMemory") && live.contains("<vcpu placement='static'>1</vcpu>"));
    for (vcpus, memory) in [(2, 256), (1, 2_048), (2, 2_048)] {
        let refused = host.resize(instance(1), Vcpus(vcpus), Mib(memory)).await;
        assert!(matches!(refused, Err(HypervisorError::Unsupported { .. })), "{refused:?}");
    }
    assert_eq!(size(&host).await, (1, 256));
}
