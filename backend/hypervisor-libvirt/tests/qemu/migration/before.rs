//! Machines that were started before there was a channel for agents.

use super::*;

/// Starts machine 1 as hosts did then.
async fn started_before(lab: &mut Lab) -> QemuHost {
    let host = counting(lab).await;
    let id = instance(1);
    lab.run(&format!("virsh dumpxml --inactive {id} >/run/machine.xml"));
    host.force_stop(id).await.unwrap();
    lab.run(
        "sed -i -e '/<channel /,/<.channel>/d' -e \"/<controller type='virtio-serial'/,/<.controller>/d\" /run/machine.xml",
    );
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
    says(&host, id, "GUEST-COUNTER vdb 2").await;
    host
}

fn uuid(id: u128) -> String {
    let hex = format!("{id:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn has_channel(lab: &mut Lab) -> bool {
    lab.run(&format!("virsh dumpxml {}", instance(1))).contains("org.qemu.guest_agent.0")
}

#[tokio::test]
async fn a_machine_without_a_channel_is_taken_over_moves_and_gets_one_at_its_next_start() {
    let (mut here, mut there) = (Lab::start(), Lab::start());
    drop(started_before(&mut here).await);
    let source = here.host();
    give_keys(&source).await;
    let machine = source.machine(instance(1)).await.unwrap().unwrap();
    assert!(machine.run == RunState::Running && machine.guest.is_silent(), "{machine:?}");
    mark(&source, Halt::Started).await;
    assert!(!has_channel(&mut here), "nothing changes under its guest");
    let target = ready(&source, &there).await;
    moves(&source, &target).await;
    counts_on(&target).await;
    assert!(!has_channel(&mut there));
    target.force_stop(instance(1)).await.unwrap();
    target.start(instance(1)).await.unwrap();
    assert!(has_channel(&mut there));
}
