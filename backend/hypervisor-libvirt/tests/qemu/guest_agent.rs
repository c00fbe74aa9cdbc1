//! Agents in guests: what they say is shown, what they do not say holds up nobody.

use std::{sync::Arc, time::Instant};

use fairmazon_hypervisor::{
    Hypervisor, Machine, Marks, OffReason,
    contract::{instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    id::InstanceId,
    machine::{CloudInit, GuestSeen, HostVolume, MachineSpec, VolumeCopy},
};

use crate::{
    guests::{data, is_off},
    lab::{IMAGE, Lab, PATIENCE, give_keys, marked, says},
};

/// An agent: what it is told is on the console, and how it answers is up to `answers`.
pub(crate) fn agent(answers: &str) -> String {
    format!(
        r#"#!/bin/sh
state=thawed
for port in /dev/vport*p1; do exec 3<>"$port"; done
echo GUEST-AGENT-READY
while :; do
  # Nobody listens until libvirt has heard that the guest does.
  read -r line <&3 || {{ sleep 0.1; continue; }}
  name="${{line#*\"execute\":\"}}"; name="${{name%%\"*}}"; id="${{line##*\"id\":}}"; id="${{id%%[!0-9]*}}"
  [ "$name" = guest-sync ] || echo "GUEST-AGENT $name"
  case "$name" in
{answers}
  esac
  printf '%s\n' "$answer" >&3
done
"#
    )
}

/// As qemu-guest-agent does, with an address that only the guest knows.
const GOOD: &str = r#"
    guest-sync) answer="{\"return\":$id}" ;;
    guest-ping|guest-file-close) answer='{"return":{}}' ;;
    guest-network-get-interfaces) answer='{"return":[{"name":"lo","ip-addresses":[{"ip-address":"127.0.0.1"}]},{"name":"x","ip-addresses":[{"ip-address":"192.0.2.7"},{"ip-address":"fe80::1"}]}]}' ;;
    guest-file-open) answer='{"return":1000}' ;;
    guest-file-read) answer="{\"return\":{\"count\":1,\"eof\":true,\"buf-b64\":\"$(printf '{"v1":{"errors":[]}}' | base64)\"}}" ;;
    guest-fsfreeze-status) answer="{\"return\":\"$state\"}" ;;
    guest-fsfreeze-freeze) state=frozen; answer='{"return":1}' ;;
    guest-fsfreeze-thaw) state=thawed; answer='{"return":1}' ;;
    *) answer='{"error":{"class":"CommandNotFound","desc":"no"}}' ;;"#;
/// Rubbish, as soon as it is sure that it is listened to.
const ODD: &str = r#"
    guest-sync) answer="{\"return\":$id}" ;;
    *) answer='{"return":"rubbish","ip-address":"192.0.2.9"}' ;;"#;
/// Nothing at all.
const MUTE: &str = r#"
    *) continue ;;"#;

/// Starts a machine whose user data is an agent.
async fn with_agent(host: &QemuHost, number: u128, answers: &str) {
    let boot = volume(2 * number - 1);
    host.create_volume(&HostVolume { volume: boot, image: Some(IMAGE.into()), ..wish(1) })
        .await
        .unwrap();
    host.create_volume(&wish(2 * number)).await.unwrap();
    let mut spec =
        MachineSpec { disks: vec![data(2 * number)], user_data: agent(answers), ..spec(number) };
    spec.boot.volume = boot;
    host.define(&Arc::new(spec), Marks::default()).await.unwrap();
    host.start(instance(number)).await.unwrap();
    says(host, instance(number), "GUEST-AGENT-READY").await;
}

async fn seen(host: &QemuHost, fits: impl Fn(&Machine) -> bool) -> Machine {
    let begin = Instant::now();
    loop {
        let machine = host.machine(instance(1)).await.unwrap().unwrap();
        if fits(&machine) {
            return machine;
        }
        assert!(begin.elapsed() < PATIENCE, "{machine:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// What its agent was told, from when it was held still first.
async fn told(host: &QemuHost, instance: InstanceId) -> Vec<String> {
    let said = host.console(instance).await.unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    let told = marked(&said, "GUEST-AGENT ");
    let still = told.filter(|told| told.starts_with("guest-fsfreeze")).map(str::to_owned);
    still.skip_while(|told| told != "guest-fsfreeze-freeze").collect()
}

#[tokio::test]
async fn what_an_agent_says_is_shown_and_it_is_held_still_for_a_copy() {
    let mut lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    let mut hints = host.hints();
    with_agent(&host, 1, GOOD).await;
    let done = GuestSeen { agent: true, cloud_init: CloudInit::Done };
    let machine = seen(&host, |machine| machine.guest == done).await;
    assert_eq!(machine.addresses, ["192.0.2.7"], "and none that nobody reaches");
    tokio::time::timeout(PATIENCE, hints.recv()).await.unwrap().unwrap();
    // Nobody else may listen in, and nothing listens on a network.
    let modes =
        lab.run("stat -c '%a %U' $(dirname $(find /run/libvirt -name org.qemu.guest_agent.0))");
    assert_eq!(modes.trim(), "750 root");
    assert_eq!(lab.run("tail -qn +2 /proc/net/tcp /proc/net/tcp6"), "");

    let copy = HostVolume { copy: Some(VolumeCopy::Of(volume(2))), ..wish(3) };
    host.create_volume(&copy).await.unwrap();
    assert_eq!(
        told(&host, instance(1)).await,
        ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"],
        "for the beginning of the copy and no longer"
    );

    // What an agent was told by a process that ended before it thawed, the next one thaws.
    drop(host);
    let id = instance(1);
    lab.run(&format!("virsh qemu-agent-command {id} '{{\"execute\":\"guest-fsfreeze-freeze\"}}'"));
    let host = lab.host();
    give_keys(&host).await;
    let machine = seen(&host, |machine| machine.guest == done).await;
    assert_eq!(machine.addresses, ["192.0.2.7"]);
    let told = told(&host, instance(1)).await;
    assert_eq!(told.last().unwrap(), "guest-fsfreeze-thaw", "{told:?}");
    assert_eq!(told.iter().filter(|told| *told == "guest-fsfreeze-thaw").count(), 2, "{told:?}");

    // What it said is not known of its next run until it says it again.
    host.force_stop(instance(1)).await.unwrap();
    let off = host.machine(instance(1)).await.unwrap().unwrap();
    assert!(off.guest.is_silent() && off.addresses.is_empty(), "{off:?}");
}

#[tokio::test]
async fn agents_that_answer_rubbish_or_nothing_hold_up_nobody() {
    let lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    with_agent(&host, 1, MUTE).await;
    with_agent(&host, 2, ODD).await;
    says(&host, instance(2), "GUEST-AGENT guest-ping").await;
    // Both are as machines without an agent: their addresses are what their host has seen.
    says(&host, instance(1), "GUEST-ADDRESS ").await;
    let mute = seen(&host, |machine| !machine.addresses.is_empty()).await;
    let odd = host.machine(instance(2)).await.unwrap().unwrap();
    for machine in [&mute, &odd] {
        assert!(machine.guest.is_silent(), "{machine:?}");
        assert!(machine.addresses.iter().all(|it| it.starts_with("10.77.0.")), "{machine:?}");
    }
    for number in [1, 2] {
        let copy =
            HostVolume { copy: Some(VolumeCopy::Of(volume(2 * number))), ..wish(4 + number) };
        host.create_volume(&copy).await.unwrap();
    }
    assert_eq!(told(&host, instance(2)).await, [] as [&str; 0], "it is not trusted to go on");
    // It is off by its power button, whatever its agent does not answer.
    host.ask_to_stop(instance(1)).await.unwrap();
    assert_eq!(is_off(&host).await, OffReason::Guest);
    says(&host, instance(1), "GUEST-POWER-BUTTON").await;
}
