//! Guests that are off, and move with what they have written.

use fairmazon_hypervisor_libvirt::qemu::Accelerator;
use fairmazon_model::machine::Disk;

use super::*;

/// The guest as it is to be at either host: off.
fn off() -> Arc<MachineSpec> {
    Arc::new(MachineSpec { power: Power::Stopped, ..machine() })
}

/// The same, but it may only read what it has written.
fn reading() -> Arc<MachineSpec> {
    let disks = vec![Disk { read_only: true, ..data(2) }];
    Arc::new(MachineSpec { disks, ..MachineSpec::clone(&off()) })
}

/// A host whose guest has run once, and is off and held.
async fn held(lab: &Lab, machine: Arc<MachineSpec>) -> QemuHost {
    let host = counting(lab).await;
    host.force_stop(instance(1)).await.unwrap();
    let marks = host.machine(instance(1)).await.unwrap().unwrap().marks;
    host.define(&machine, Marks { halt: Halt::Held, ..marks }).await.unwrap();
    host.hold(instance(1)).await.unwrap();
    assert_eq!(run(&host).await, RunState::Held);
    host
}

/// A host that awaits what is held at another.
async fn awaits(lab: &Lab, machine: Arc<MachineSpec>) -> QemuHost {
    let host = lab.host();
    give_keys_there(&host).await;
    for number in [1, 2] {
        host.create_volume(&wish(number)).await.unwrap();
    }
    host.define(&machine, Marks { halt: Halt::Arriving, ..Marks::default() }).await.unwrap();
    host
}

/// Has the guest go to a host that awaits it, and be off there.
pub(super) async fn moves_off(from: &QemuHost, to: &QemuHost) {
    let awaited = landing(from, to).await;
    depart(from, &awaited, Wire::to(&awaited)).await.unwrap();
    drop(awaited);
    assert_eq!(run(from).await, RunState::Off(OffReason::Moved));
    assert_eq!(run(to).await, RunState::Arrived);
    assert_eq!(to.statistics(instance(1)).await.unwrap(), None);
    mark(from, Halt::Left).await;
    mark(to, Halt::Idle).await;
    assert_eq!(run(to).await, RunState::Arrived, "nothing has let it run");
    to.refuse(instance(1)).await.unwrap();
    assert_eq!(run(to).await, RunState::Off(OffReason::Host));
}

/// That it starts with what it has written at the other host, in its second boot.
async fn starts(host: &QemuHost) {
    assert_eq!(host.console(instance(1)).await.unwrap(), b"", "its guest has not run here");
    host.start(instance(1)).await.unwrap();
    let said = says(host, instance(1), "GUEST-COUNTER vdb 2").await;
    assert!(said.contains(&format!("GUEST-BOOT-DISK {IMAGE_TEXT}")), "{said}");
    mark(host, Halt::Started).await;
    says(host, instance(1), "GUEST-TICK 3").await;
}

#[tokio::test]
async fn what_a_guest_has_written_is_at_the_next_host_when_it_starts_there() {
    let (here, mut there) = (Lab::start(), Lab::start());
    let source = held(&here, off()).await;
    let said = source.console(instance(1)).await.unwrap();
    let target = awaits(&there, off()).await;
    moves_off(&source, &target).await;
    assert_eq!(source.console(instance(1)).await.unwrap(), said, "its guest has not run");
    assert_eq!(there.run("ls /run/fairmazon/moves; virsh -q secret-list").trim(), "");
    can_t_be_read("where it has moved to", &there);
    starts(&target).await;
    source.undefine(instance(1)).await.unwrap();
    for number in [1, 2] {
        source.delete_volume(volume(number)).await.unwrap();
    }
}

#[tokio::test]
async fn a_way_that_is_cut_leaves_it_off_and_it_is_sent_again() {
    let (here, mut there) = (Lab::start(), Lab::start());
    let source = held(&here, off()).await;
    let target = awaits(&there, off()).await;
    for cut in [(LIBVIRT, 6_000), (LIBVIRT, 9_000), (DISKS, 100_000)] {
        let awaited = landing(&source, &target).await;
        let wire = Wire { cut: Some(cut), ..Wire::to(&awaited) };
        depart(&source, &awaited, wire).await.unwrap_err();
        drop(awaited);
        assert_eq!(run(&source).await, RunState::Off(OffReason::Host), "{cut:?}");
        source.hold(instance(1)).await.unwrap();
        target.refuse(instance(1)).await.unwrap();
        faults::nothing_runs(&mut there, &target).await;
        can_t_be_read(&format!("where it was, {cut:?}"), &here);
        can_t_be_read(&format!("where it did not get to, {cut:?}"), &there);
    }
    moves_off(&source, &target).await;
    starts(&target).await;
}

#[tokio::test]
async fn what_is_held_outlives_libvirtd_and_the_process_that_holds_it() {
    let (mut here, there) = (Lab::start(), Lab::start());
    let before = held(&here, off()).await;
    let target = awaits(&there, off()).await;
    drop(before);
    here.kill_libvirt();
    here.start_libvirt();
    let source = here.host();
    give_keys(&source).await;
    assert_eq!(run(&source).await, RunState::Held, "nobody has let it run");
    moves_off(&source, &target).await;
    starts(&target).await;
}

#[tokio::test]
async fn what_it_may_only_read_goes_with_it_and_stays_so() {
    let (here, mut there) = (Lab::start(), Lab::start());
    let source = held(&here, reading()).await;
    let target = awaits(&there, reading()).await;
    moves_off(&source, &target).await;
    assert_eq!(target.machine(instance(1)).await.unwrap().unwrap().definition, reading());
    let on = MachineSpec { power: Power::Running, ..MachineSpec::clone(&reading()) };
    target.define(&Arc::new(on), Marks { halt: Halt::Idle, ..Marks::default() }).await.unwrap();
    target.start(instance(1)).await.unwrap();
    let said = says(&target, instance(1), "GUEST-READY").await;
    assert!(said.contains("GUEST-COUNTER vdb 2"), "it reads what was written: {said}");
    let running = there.run(&format!("virsh dumpxml {}", instance(1)));
    assert_eq!(running.matches("<readonly/>").count(), 2, "the volume and the seed: {running}");

    // libvirt sends no such disk of a guest that runs, and says so before anything is sent.
    let error = target.describe(instance(1)).await.unwrap_err();
    assert!(error.to_string().contains("may not write to"), "{error}");
}

/// Nothing of KVM is needed to send disks: a host with it sends them to one without.
#[tokio::test]
async fn what_rests_is_sent_in_software_whatever_runs_it_here() {
    let (mut here, there) = (Lab::start(), Lab::start());
    let source = here.host_by(Accelerator::Kvm);
    give_keys(&source).await;
    source.create_volume(&HostVolume { image: Some(IMAGE.into()), ..wish(1) }).await.unwrap();
    source.create_volume(&wish(2)).await.unwrap();
    source.define(&off(), Marks { halt: Halt::Held, ..Marks::default() }).await.unwrap();
    source.hold(instance(1)).await.unwrap();
    let held = here.run(&format!("virsh dumpxml {}", instance(1)));
    assert!(held.contains("<domain type='qemu'"), "{held}");
    let target = awaits(&there, off()).await;
    moves_off(&source, &target).await;
    target.start(instance(1)).await.unwrap();
    let said = says(&target, instance(1), "GUEST-COUNTER vdb 1").await;
    assert!(said.contains(&format!("GUEST-BOOT-DISK {IMAGE_TEXT}")), "{said}");
}
