//! A whole Debian, as clouds boot it: by the boot loader and the kernel on its own disk, with the
//! real cloud-init and the real agent.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fairmazon_hypervisor::{
    Hypervisor, Machine, Marks,
    contract::{instance, spec, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    machine::{CloudInit, HostVolume, MachineSpec},
    units::{Mib, Vcpus},
};

use crate::lab::{IMAGE, Lab, give_keys, says_within};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZhaXJtYXpvbi10ZXN0LWtleS1ub3QtdXNlZCE me@home";
/// What one boot may take under emulation, beside other tests.
const BOOT: Duration = Duration::from_secs(300);
/// Says what cloud-init has done before it.
const SCRIPT: &str = r#"#!/bin/sh
exec >/dev/ttyS0 2>&1
echo "DEBIAN-INSTANCE-ID $(cat /var/lib/cloud/data/instance-id)"
echo "DEBIAN-HOSTNAME $(hostname)"
echo "DEBIAN-SSH-KEY $(tail -n 1 /home/debian/.ssh/authorized_keys)"
echo "DEBIAN-ADDRESS $(ip -4 -o addr show scope global | sed 's/.* inet \([0-9.]*\).*/\1/')"
# In the background, as cloud-init waits for its scripts.
setsid sh -c 'while sleep 2; do
  kib="$(sed -n "s/^MemTotal: *\([0-9]*\) kB/\1/p" /proc/meminfo)"
  now="$(grep -c ^processor /proc/cpuinfo) processors and about $(((kib + 524288) / 1048576)) GiB"
  [ "$now" = "$was" ] || echo "DEBIAN-HAS $now in boot $(cat /proc/sys/kernel/random/boot_id)"; was="$now"
done' </dev/null &
echo "DEBIAN-SCRIPT-DONE"
"#;

/// What the agent in the guest says of it, once cloud-init is done.
async fn booted(host: &QemuHost) -> Machine {
    let begin = Instant::now();
    loop {
        let machine = host.machine(instance(1)).await.unwrap().unwrap();
        if machine.guest.cloud_init != CloudInit::Unknown && !machine.addresses.is_empty() {
            return machine;
        }
        assert!(begin.elapsed() < BOOT, "{machine:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The boot that it has spoken of last.
fn boot(said: &str) -> &str {
    let (_, after) = said.rsplit_once(" in boot ").unwrap();
    after.split_whitespace().next().unwrap()
}

#[tokio::test]
async fn a_debian_with_cloud_init_and_an_agent_is_what_its_machine_says() {
    let lab = Lab::with_debian();
    let host = lab.host();
    give_keys(&host).await;
    host.create_volume(&HostVolume { image: Some(IMAGE.into()), ..wish(1) }).await.unwrap();
    let spec = MachineSpec {
        name: "Web_1".into(),
        memory: Mib(2_048),
        user_data: SCRIPT.into(),
        ssh_keys: vec![KEY.into()],
        ..spec(1)
    };
    host.define(&Arc::new(spec), Marks::default()).await.unwrap();
    host.start(instance(1)).await.unwrap();
    let said = says_within(BOOT, &host, instance(1), "DEBIAN-SCRIPT-DONE").await;
    for text in [
        format!("DEBIAN-INSTANCE-ID {}-0-0", instance(1)),
        "DEBIAN-HOSTNAME web-1".into(),
        format!("DEBIAN-SSH-KEY {KEY}"),
    ] {
        assert!(said.contains(&text), "{text}: {said}");
    }
    let machine = booted(&host).await;
    assert!(machine.guest.agent && machine.guest.cloud_init == CloudInit::Done, "{machine:?}");
    let [address] = &machine.addresses[..] else { panic!("{machine:?}") };
    assert!(said.contains(&format!("DEBIAN-ADDRESS {address}")), "{address}: {said}");
    // Its agent has it use what its machine gets, without a restart.
    let had =
        says_within(BOOT, &host, instance(1), "DEBIAN-HAS 1 processors and about 2 GiB").await;
    host.resize(instance(1), Vcpus(2), Mib(4_096)).await.unwrap();
    let has =
        says_within(BOOT, &host, instance(1), "DEBIAN-HAS 2 processors and about 4 GiB").await;
    assert_eq!(boot(&has), boot(&had), "{has}");
}
