//! Machines that were started before there was a channel for agents, before their balloons told of
//! memory that they have freed, or before there was room to grow.

use fairmazon_model::units::{Mib, Vcpus};

use super::*;
use crate::growth::{growing, has, run as start, size, willing};

/// What takes the channel out of a description, and what its balloon tells.
const NO_CHANNEL: &str = "-e '/<channel /,/<.channel>/d' -e \"/<controller type='virtio-serial'/,/<.controller>/d\" \
     -e \"s/ autodeflate='on' freePageReporting='on'//\"";
/// What takes the room to grow out of it.
const NO_ROOM: &str = "-e '/<maxMemory /d' -e '/<numa>/,/<.numa>/d' -e '/<vcpus>/,/<.vcpus>/d' -e 's/<vcpu [^>]*>[0-9]*</<vcpu>1</'";

/// Starts machine 1 again as hosts did then: without what this takes out of its description.
async fn start_as_before(lab: &mut Lab, host: &QemuHost, without: &str) {
    let id = instance(1);
    lab.run(&format!("virsh dumpxml --inactive {id} >/run/machine.xml"));
    host.force_stop(id).await.unwrap();
    lab.run(&format!("sed -i {without} /run/machine.xml"));
    lab.run("virsh define /run/machine.xml");
    for number in [1, 2] {
        let hex: String = key_bytes(number).iter().map(|byte| format!("{byte:02x}")).collect();
        let uuid = uuid(volume(number).ulid().0);
        lab.run(&format!(
            "printf '<secret ephemeral=\"yes\" private=\"yes\"><uuid>{uuid}</uuid></secret>' >/run/secret.xml && \
             virsh secret-define /run/secret.xml && printf %s {hex} >/run/key && \
             virsh secret-set-value {uuid} --file /run/key --plain"
        ));
    }
    lab.run(&format!("virsh start {id} && rm /run/key"));
    for number in [1, 2] {
        lab.run(&format!("virsh secret-undefine {}", uuid(volume(number).ulid().0)));
    }
    says(host, id, "GUEST-COUNTER vdb 2").await;
}

fn uuid(id: u128) -> String {
    let hex = format!("{id:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn has_channel(lab: &mut Lab) -> bool {
    lab.run(&format!("virsh dumpxml {}", instance(1))).contains("org.qemu.guest_agent.0")
}

fn frees(lab: &mut Lab) -> bool {
    let domain = lab.run(&format!("virsh dumpxml {}", instance(1)));
    assert!(domain.contains("<memballoon model='virtio'"), "{domain}");
    domain.contains("freePageReporting='on'")
}

#[tokio::test]
async fn a_machine_without_a_channel_is_taken_over_moves_and_gets_one_at_its_next_start() {
    let (mut here, mut there) = (Lab::start(), Lab::start());
    let host = counting(&here).await;
    start_as_before(&mut here, &host, NO_CHANNEL).await;
    drop(host);
    let source = here.host();
    give_keys(&source).await;
    let machine = source.machine(instance(1)).await.unwrap().unwrap();
    assert!(machine.run == RunState::Running && machine.guest.is_silent(), "{machine:?}");
    mark(&source, Halt::Started).await;
    assert!(!has_channel(&mut here) && !frees(&mut here), "nothing changes under its guest");
    let target = ready(&source, &there).await;
    moves(&source, &target).await;
    counts_on(&target).await;
    assert!(!has_channel(&mut there) && !frees(&mut there));
    target.force_stop(instance(1)).await.unwrap();
    target.start(instance(1)).await.unwrap();
    assert!(has_channel(&mut there) && frees(&mut there));
}

#[tokio::test]
async fn a_machine_without_room_to_grow_stays_as_it_is_moves_and_has_room_at_its_next_start() {
    let (mut here, there) = (Lab::start(), Lab::start());
    let source = start(&here, growing(willing())).await;
    start_as_before(&mut here, &source, NO_ROOM).await;
    let can_grow =
        |lab: &mut Lab| lab.run(&format!("virsh dumpxml {}", instance(1))).contains("<maxMemory ");
    assert!(!can_grow(&mut here));
    mark(&source, Halt::Started).await;
    let larger = (Vcpus(2), Mib(4_096));
    let refused = source.resize(instance(1), larger.0, larger.1).await;
    assert!(matches!(refused, Err(HypervisorError::Unsupported { .. })), "{refused:?}");
    assert_eq!(size(&source).await, (1, 2_048));
    let target = ready(&source, &there).await;
    moves(&source, &target).await;
    counts_on(&target).await;
    assert_eq!(size(&target).await, (1, 2_048));
    let refused = target.resize(instance(1), larger.0, larger.1).await;
    assert!(matches!(refused, Err(HypervisorError::Unsupported { .. })), "{refused:?}");
    target.force_stop(instance(1)).await.unwrap();
    target.start(instance(1)).await.unwrap();
    target.resize(instance(1), larger.0, larger.1).await.unwrap();
    has(&target, 2, 4_096).await;
}
