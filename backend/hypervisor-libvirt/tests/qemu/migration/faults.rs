//! Whatever goes wrong on the way, a guest runs at one host, and nothing is left at the other.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fairmazon_hypervisor::{
    Halt, Hypervisor, HypervisorError, Machine, OffReason, Result, RunState, contract::instance,
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use tokio_util::sync::CancellationToken;

use super::{
    DISKS, HALFWAY, LIBVIRT, MEMORY, Wire, can_t_be_read, counting, counts_on, depart,
    depart_until, landing, mark, moves, ready, run,
};
use crate::lab::{Lab, PATIENCE, says};

/// Waits until the machine fits; what it is then.
pub(super) async fn becomes(host: &QemuHost, fits: impl Fn(&Machine) -> bool) -> Machine {
    let begin = std::time::Instant::now();
    loop {
        let machine = host.machine(instance(1)).await;
        if let Ok(Some(machine)) = &machine
            && fits(machine)
        {
            return machine.clone();
        }
        assert!(begin.elapsed() < PATIENCE, "{machine:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// That nothing runs here.
pub(super) async fn nothing_runs(lab: &mut Lab, host: &QemuHost) {
    becomes(host, |machine| matches!(machine.run, RunState::Off(_))).await;
    assert_eq!(lab.run("ls /run/libvirt/qemu/ins-*.pid 2>/dev/null || true").trim(), "");
    nothing_is_left(lab).await;
}

/// That neither sockets nor keys are left of the way here.
pub(super) async fn nothing_is_left(lab: &mut Lab) {
    let begin = std::time::Instant::now();
    loop {
        let left = lab.run("ls /run/fairmazon/moves; virsh -q secret-list");
        if left.trim().is_empty() {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "it is left of the way: {left}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A migration whose channel ends after so many bytes.
async fn cut(channel: u8, after: u64) {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    let wire = Wire { cut: Some((channel, after)), ..Wire::to(&awaited) };
    let sent = depart(&source, &awaited, wire).await;
    drop(awaited);
    goes_on([here, there], source, target, sent).await;
}

/// That the guest goes on where it was, and can still move.
async fn goes_on(
    [here, mut there]: [Lab; 2],
    source: QemuHost,
    target: QemuHost,
    sent: Result<()>,
) {
    sent.unwrap_err();
    becomes(&source, |machine| machine.run == RunState::Running).await;
    counts_on(&source).await;
    nothing_runs(&mut there, &target).await;
    can_t_be_read("where it goes on", &here);
    can_t_be_read("where it did not get to", &there);
    moves(&source, &target).await;
    counts_on(&target).await;
}

#[tokio::test]
async fn a_channel_between_libvirts_that_is_cut_leaves_the_guest_where_it_is() {
    // After what begins the migration, and before what ends it.
    cut(LIBVIRT, 6_000).await;
}

#[tokio::test]
async fn a_guest_runs_at_one_host_only_when_the_last_answer_is_lost() {
    let (here, mut there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    // The source's libvirt has asked for the end of the migration, and hears nothing of it.
    let wire = Wire { cut: Some((LIBVIRT, 9_000)), ..Wire::to(&awaited) };
    let carried = Arc::clone(&wire.carried);
    depart(&source, &awaited, wire).await.unwrap_err();
    let (asked, memory) = (&carried[usize::from(LIBVIRT)], &carried[usize::from(MEMORY)]);
    assert!(asked.load(Ordering::Relaxed) > 9_000 && memory.load(Ordering::Relaxed) > 20 << 20);
    counts_on(&source).await;
    let ended = becomes(&target, |machine| machine.run != RunState::Incoming).await;
    assert_ne!(ended.run, RunState::Running);
    assert_eq!(target.console(instance(1)).await.unwrap(), b"", "it has not run there");
    drop(awaited);
    target.refuse(instance(1)).await.unwrap();
    nothing_runs(&mut there, &target).await;
    counts_on(&source).await;
    can_t_be_read("where it goes on", &here);
    can_t_be_read("where it was refused", &there);
}

#[tokio::test]
async fn a_channel_of_memory_that_is_cut_leaves_the_guest_where_it_is() {
    cut(MEMORY, 8 << 20).await;
}

#[tokio::test]
async fn a_channel_of_disks_that_is_cut_leaves_the_guest_where_it_is() {
    cut(DISKS, 100_000).await;
}

/// Waits until enough of the guest has gone over this channel for it to be in the middle.
pub(super) async fn halfway(carried: &[AtomicU64; 3], channel: u8) {
    let begin = std::time::Instant::now();
    while carried[usize::from(channel)].load(Ordering::Relaxed) < HALFWAY[usize::from(channel)] {
        assert!(begin.elapsed() < PATIENCE, "{carried:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_migration_that_is_given_up_leaves_the_guest_where_it_is() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    let give_up = CancellationToken::new();
    let wire = Wire { until: Some((MEMORY, give_up.clone())), ..Wire::to(&awaited) };
    let carried = Arc::clone(&wire.carried);
    let (sent, ()) = tokio::join!(depart_until(&source, &awaited, wire, give_up.clone()), async {
        halfway(&carried, MEMORY).await;
        assert_eq!(run(&target).await, RunState::Incoming);
        assert_eq!(target.statistics(instance(1)).await.unwrap(), None);
        let again = source.depart(
            instance(1),
            &awaited.description,
            Arc::new(Wire::to(&awaited)),
            CancellationToken::new(),
        );
        let again = again.await;
        assert!(matches!(again, Err(HypervisorError::Busy { .. })), "{again:?}");
        // Marks are written meanwhile, as ever.
        mark(&source, Halt::Leaving).await;
        mark(&target, Halt::Arriving).await;
        give_up.cancel();
    });
    drop(awaited);
    goes_on([here, there], source, target, sent).await;
}

#[tokio::test]
async fn a_migration_that_nobody_waits_for_is_given_up() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    let wire = Wire::to(&awaited);
    let carried = Arc::clone(&wire.carried);
    tokio::select! {
        sent = depart(&source, &awaited, wire) => panic!("{sent:?}"),
        () = halfway(&carried, MEMORY) => {}
    }
    let begin = std::time::Instant::now();
    // It is known to be over once another one may begin.
    let again = loop {
        match depart(&source, &awaited, Wire::to(&awaited)).await {
            Err(HypervisorError::Busy { .. }) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => break other,
        }
        assert!(begin.elapsed() < PATIENCE);
    };
    drop(awaited);
    goes_on([here, there], source, target, again).await;
}

#[tokio::test]
async fn a_guest_goes_on_whatever_libvirt_makes_of_its_end_where_it_was() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    let here = Arc::new(Mutex::new(here));
    let lab = Arc::clone(&here);
    // libvirt has not heard yet that the guest was taken, when its QEMU ends and it hangs itself.
    let taken = move || {
        let mut lab = lab.lock().unwrap();
        lab.run("kill -STOP $(cat /run/libvirtd.pid)");
        lab.kill_guest(instance(1));
    };
    let wire = Wire { taken: Some(Arc::new(taken)), ..Wire::to(&awaited) };
    depart(&source, &awaited, wire).await.unwrap();
    target.resume(instance(1)).await.unwrap();
    mark(&target, Halt::Started).await;
    says(&target, instance(1), "GUEST-TICK ").await;
    let run = |command: &str| here.lock().unwrap().run(command);
    run("kill -CONT $(cat /run/libvirtd.pid)");
    let left = |machine: &Machine| {
        machine.run == RunState::Off(OffReason::Moved) && machine.marks.halt == Halt::Left
    };
    becomes(&source, left).await;
    let begin = std::time::Instant::now();
    while !run("ls -A $folder/storage/.left").trim().is_empty() {
        assert!(begin.elapsed() < PATIENCE, "it is noted that it has left, and not marked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let machine = source.machine(instance(1)).await.unwrap().unwrap();
    assert!(left(&machine), "{machine:?}");
    counts_on(&target).await;
}

#[tokio::test]
async fn a_machine_that_has_left_is_known_to_have_when_its_host_ends_at_once() {
    let (mut here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    depart(&source, &awaited, Wire::to(&awaited)).await.unwrap();
    // Its libvirt may still be about the end of its QEMU, and its agent is no more.
    here.kill_libvirt();
    drop((awaited, source));
    target.resume(instance(1)).await.unwrap();
    mark(&target, Halt::Started).await;
    says(&target, instance(1), "GUEST-TICK ").await;
    here.start_libvirt();
    let source = here.host();
    let left = |machine: &Machine| {
        machine.run == RunState::Off(OffReason::Moved) && machine.marks.halt == Halt::Left
    };
    let machine = source.machine(instance(1)).await.unwrap().unwrap();
    assert!(left(&machine), "{machine:?}");
    // Marks that are written as they were read change nothing, and those of another run count.
    source.mark(instance(1), machine.marks).await.unwrap();
    let machine = source.machine(instance(1)).await.unwrap().unwrap();
    assert!(left(&machine), "{machine:?}");
    mark(&source, Halt::Idle).await;
    let machine = source.machine(instance(1)).await.unwrap().unwrap();
    assert_eq!(machine.marks.halt, Halt::Idle);
    assert_eq!(here.run("ls -A $folder/storage/.left").trim(), "");
    counts_on(&target).await;
    can_t_be_read("where it has left", &here);
    can_t_be_read("where it goes on", &there);
}

#[tokio::test]
async fn what_may_run_by_its_marks_is_let_run_by_the_next_agent() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    depart(&source, &awaited, Wire::to(&awaited)).await.unwrap();
    // The agent ends after it has marked it, and before it lets it run.
    mark(&target, Halt::Started).await;
    drop((awaited, target));
    let target = there.host();
    assert_eq!(run(&target).await, RunState::Arrived);
    target.resume(instance(1)).await.unwrap();
    assert_eq!(run(&target).await, RunState::Running);
    says(&target, instance(1), "GUEST-TICK ").await;
    counts_on(&target).await;
}

#[tokio::test]
async fn what_has_arrived_waits_through_restarts_until_it_is_refused() {
    let (here, mut there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let unexpected = target.resume(instance(1)).await;
    assert!(matches!(unexpected, Err(HypervisorError::Busy { .. })), "{unexpected:?}");
    let awaited = landing(&source, &target).await;
    depart(&source, &awaited, Wire::to(&awaited)).await.unwrap();
    drop((awaited, target));
    there.kill_libvirt();
    there.start_libvirt();
    let target = there.host();
    assert_eq!(run(&target).await, RunState::Arrived);
    assert_eq!(target.console(instance(1)).await.unwrap(), b"", "it waits");
    target.refuse(instance(1)).await.unwrap();
    target.refuse(instance(1)).await.unwrap();
    nothing_runs(&mut there, &target).await;
    // The host that it came from has all of it still.
    assert_eq!(run(&source).await, RunState::Off(OffReason::Moved));
    source.start(instance(1)).await.unwrap();
    says(&source, instance(1), "GUEST-COUNTER vdb 2").await;
}
