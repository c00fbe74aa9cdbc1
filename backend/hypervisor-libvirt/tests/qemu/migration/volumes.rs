//! Volumes that move without a machine.

use fairmazon_hypervisor::Hypervisor;
use fairmazon_model::{
    machine::Disk,
    units::{Mib, Vcpus},
};

use super::{off::moves_off, *};

/// What the volume 2 moves in.
fn carrier() -> Arc<MachineSpec> {
    Arc::new(MachineSpec {
        vcpus: Vcpus(1),
        memory: Mib(128),
        image: String::new(),
        power: Power::Stopped,
        boot: Disk { name: "boot".into(), ..data(2) },
        ..spec(1)
    })
}

/// A host on which a guest has written to the volume 2, and is gone.
async fn left_behind(lab: &Lab) -> QemuHost {
    let host = counting(lab).await;
    says(&host, instance(1), "GUEST-COUNTER vdb 1").await;
    host.force_stop(instance(1)).await.unwrap();
    host.undefine(instance(1)).await.unwrap();
    host.delete_volume(volume(1)).await.unwrap();
    host
}

/// That a guest of this host finds in the volume 2 what one of another has written.
async fn is_found(host: &QemuHost) {
    host.create_volume(&HostVolume { image: Some(IMAGE.into()), ..wish(1) }).await.unwrap();
    host.define(&Arc::new(machine()), Marks::default()).await.unwrap();
    host.start(instance(1)).await.unwrap();
    let said = says(host, instance(1), "GUEST-COUNTER vdb 2").await;
    assert!(!said.contains("GUEST-FAILED"), "{said}");
}

#[tokio::test]
async fn what_a_guest_has_written_is_found_by_another_at_the_next_host() {
    let (mut here, mut there) = (Lab::start(), Lab::start());
    let source = left_behind(&here).await;
    source.define(&carrier(), Marks { halt: Halt::Held, ..Marks::default() }).await.unwrap();
    source.hold(instance(1)).await.unwrap();
    let target = there.host();
    give_keys_there(&target).await;
    target.create_volume(&wish(2)).await.unwrap();
    target.define(&carrier(), Marks { halt: Halt::Arriving, ..Marks::default() }).await.unwrap();

    // A way that is cut loses nothing, and is gone again.
    let awaited = landing(&source, &target).await;
    let wire = Wire { cut: Some((DISKS, 100_000)), ..Wire::to(&awaited) };
    depart(&source, &awaited, wire).await.unwrap_err();
    drop(awaited);
    source.hold(instance(1)).await.unwrap();
    target.refuse(instance(1)).await.unwrap();
    moves_off(&source, &target).await;

    for (lab, host) in [(&mut here, &source), (&mut there, &target)] {
        assert_eq!(host.console(instance(1)).await.unwrap(), b"", "nothing has run");
        host.undefine(instance(1)).await.unwrap();
        assert_eq!(lab.run("ls /run/fairmazon/moves; virsh -q secret-list").trim(), "");
        can_t_be_read("after it has moved", lab);
    }
    // The key of the host that it has left opens nothing here.
    let opens = target.key_opens(volume(2), VolumeKey::new(&key_bytes(2))).await.unwrap();
    assert!(!opens, "it is encrypted anew");
    source.delete_volume(volume(2)).await.unwrap();
    is_found(&target).await;
}
