//! Somebody is killed at each step of a guest's way: before it goes, while its disks are copied, while
//! its memory is. It runs at one host then and has lost nothing, nothing half-made is anywhere, and it
//! gets there with the next try.

use std::sync::{Arc, atomic::Ordering};

use fairmazon_hypervisor::{
    Hypervisor, Landing, OffReason, Result, RunState,
    contract::{instance, volume},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use tokio_util::sync::CancellationToken;

use super::{
    DISKS, MEMORY, Wire, can_t_be_read, counting, counts_on, depart,
    faults::{becomes, halfway, nothing_is_left, nothing_runs},
    give_keys_there, landing, machine, moves, ready,
};
use crate::lab::{Lab, give_keys, says};

/// How far a guest is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Its next host awaits it, and nothing has gone.
    Prepared,
    Disks,
    Memory,
}

const STEPS: [Step; 3] = [Step::Prepared, Step::Disks, Step::Memory];

/// Who is killed: here where the guest is, or there where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    QemuHere,
    QemuThere,
    LibvirtHere,
    LibvirtThere,
    HostHere,
    HostThere,
}

impl Killed {
    fn strikes(self, here: &mut Lab, there: &mut Lab) {
        match self {
            Self::QemuHere => here.kill_guest(instance(1)),
            Self::QemuThere => there.kill_guest(instance(1)),
            Self::LibvirtHere => here.kill_libvirt(),
            Self::LibvirtThere => there.kill_libvirt(),
            Self::HostHere => here.power_off(),
            Self::HostThere => there.power_off(),
        }
    }

    /// What needs no new agent is up again.
    fn is_back(self, here: &mut Lab, there: &mut Lab) {
        match self {
            Self::LibvirtHere => here.start_libvirt(),
            Self::LibvirtThere => there.start_libvirt(),
            Self::QemuHere | Self::QemuThere | Self::HostHere | Self::HostThere => {}
        }
    }
}

/// Two hosts, and a guest at the first.
struct Pair {
    here: Lab,
    there: Lab,
    source: QemuHost,
    target: QemuHost,
}

impl Pair {
    async fn start() -> Self {
        let (here, there) = (Lab::start(), Lab::start());
        let source = counting(&here).await;
        let target = ready(&source, &there).await;
        Self { here, there, source, target }
    }

    /// Sends the guest, and kills somebody when it is so far. Whoever was killed is up again afterwards,
    /// but for a guest.
    async fn sent(mut self, step: Step, killed: Killed) -> Self {
        let awaited = landing(&self.source, &self.target).await;
        let sent = self.sent_to(&awaited, step, killed).await;
        assert!(sent.is_err(), "{killed:?} was killed at {step:?}, and all of it went");
        drop(awaited);
        let Self { mut here, mut there, mut source, mut target } = self;
        if killed == Killed::HostHere {
            drop(source);
            source = is_up_again(&mut here, give_keys).await;
        }
        if killed == Killed::HostThere {
            drop(target);
            target = is_up_again(&mut there, give_keys_there).await;
        }
        Self { here, there, source, target }
    }

    async fn sent_to(&mut self, awaited: &Landing, step: Step, killed: Killed) -> Result<()> {
        let Self { here, there, source, .. } = self;
        let channel = match step {
            Step::Prepared => {
                killed.strikes(here, there);
                let sent = depart(source, awaited, Wire::to(awaited)).await;
                killed.is_back(here, there);
                return sent;
            }
            Step::Disks => DISKS,
            Step::Memory => MEMORY,
        };
        let goes_on = CancellationToken::new();
        let wire = Wire { until: Some((channel, goes_on.clone())), ..Wire::to(awaited) };
        let carried = Arc::clone(&wire.carried);
        let strike = async {
            halfway(&carried, channel).await;
            let memory = carried[usize::from(MEMORY)].load(Ordering::Relaxed);
            assert_eq!(memory > 0, step == Step::Memory, "{memory} bytes of memory at {step:?}");
            killed.strikes(here, there);
            killed.is_back(here, there);
            goes_on.cancel();
        };
        tokio::join!(depart(source, awaited, wire), strike).0
    }

    /// That nothing of the guest is at its next host, where its disks are to come to and nothing else,
    /// and nothing of its way is left where it is.
    async fn is_clean(&mut self, case: &str) {
        nothing_runs(&mut self.there, &self.target).await;
        nothing_is_left(&mut self.here).await;
        for lab in [&self.here, &self.there] {
            let names = [1, 2].map(|number| format!("{}.qcow2", volume(number)));
            assert_eq!(lab.volume_files(), names, "{case}");
            can_t_be_read(case, lab);
        }
    }

    /// That the guest gets there now, with what it has written in so many boots.
    async fn moves(&self, boots: u32) {
        moves(&self.source, &self.target).await;
        counts_on(&self.target).await;
        self.target.force_stop(instance(1)).await.unwrap();
        self.target.start(instance(1)).await.unwrap();
        says(&self.target, instance(1), &format!("GUEST-COUNTER vdb {}", boots + 1)).await;
    }
}

/// The next agent of a host that had lost power, which is told again what was in memory.
async fn is_up_again(lab: &mut Lab, give_keys: impl AsyncFn(&QemuHost)) -> QemuHost {
    lab.start_libvirt();
    let host = lab.host();
    give_keys(&host).await;
    let marks = host.machine(instance(1)).await.unwrap().unwrap().marks;
    host.define(&Arc::new(machine()), marks).await.unwrap();
    host
}

/// When this one is killed. A QEMU not before something of the guest is sent: at its next host there
/// is none until then, and the end of its own has nothing to do with its way.
fn steps(killed: Killed) -> impl Iterator<Item = Step> {
    let is_of_qemu = matches!(killed, Killed::QemuHere | Killed::QemuThere);
    STEPS.into_iter().filter(move |step| !(is_of_qemu && *step == Step::Prepared))
}

/// The guest goes on where it was, whenever this one is killed that it does not need.
async fn goes_on(killed: Killed) {
    let mut pair = Pair::start().await;
    for step in steps(killed) {
        pair = pair.sent(step, killed).await;
        becomes(&pair.source, |machine| machine.run == RunState::Running).await;
        counts_on(&pair.source).await;
        pair.is_clean(&format!("{killed:?} was killed at {step:?}")).await;
    }
    pair.moves(1).await;
}

/// The guest ends with this one that it needs, nowhere else, and starts where it was.
async fn starts_again(killed: Killed) {
    let mut pair = Pair::start().await;
    let mut boots = 1;
    for step in steps(killed) {
        pair = pair.sent(step, killed).await;
        let run = becomes(&pair.source, |machine| !machine.runs()).await.run;
        assert_eq!(run, RunState::Off(OffReason::Host), "{killed:?} was killed at {step:?}");
        pair.is_clean(&format!("{killed:?} was killed at {step:?}")).await;
        pair.source.start(instance(1)).await.unwrap();
        boots += 1;
        says(&pair.source, instance(1), &format!("GUEST-COUNTER vdb {boots}")).await;
        says(&pair.source, instance(1), "GUEST-TICK 3").await;
    }
    pair.moves(boots).await;
}

#[tokio::test]
async fn a_guest_goes_on_when_the_one_that_takes_it_in_is_killed() {
    goes_on(Killed::QemuThere).await;
}

#[tokio::test]
async fn a_guest_goes_on_when_libvirt_is_killed_at_its_next_host() {
    goes_on(Killed::LibvirtThere).await;
}

#[tokio::test]
async fn a_guest_goes_on_when_libvirt_is_killed_at_its_host() {
    goes_on(Killed::LibvirtHere).await;
}

#[tokio::test]
async fn a_guest_goes_on_when_its_next_host_loses_power() {
    goes_on(Killed::HostThere).await;
}

#[tokio::test]
async fn a_guest_that_is_killed_on_its_way_starts_again_where_it_was() {
    starts_again(Killed::QemuHere).await;
}

#[tokio::test]
async fn a_guest_whose_host_loses_power_on_its_way_starts_again_where_it_was() {
    starts_again(Killed::HostHere).await;
}
