//! Each of four killers at each step of volumes and of machines, at several moments of each: the agent,
//! libvirt's daemon, QEMU, or all of the host ends in the middle of it. Afterwards everything is up again
//! over the same folder, the same call brings about what was wished, no file is there that belongs to
//! nothing, and no data is lost or in plain text.

mod machines;

use std::{path::PathBuf, sync::Arc, time::Instant};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Marks, Result,
    contract::{CLASS, instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    machine::{HostVolume, MachineSpec, VolumeCopy},
    units::Gib,
};

use crate::{
    agent_process::{self, Agent},
    copies::grows,
    gate::{Gate, Held, Opened},
    guests::{data, started},
    lab::{IMAGE, IMAGE_TEXT, Lab, files_with, give_keys, says},
    leaks::forms,
};

/// The test below, which is also what the agent's process is.
const THIS: &str =
    "matrix::whoever_is_killed_in_whatever_step_nothing_is_lost_and_the_same_call_gets_there";
const SECRET: &str = "text-that-no-file-has";

/// Fills its data disk at its first boot, and looks at every disk that has what was written then.
const GUEST: &str = r#"#!/bin/sh
cd /data/vdb
if [ ! -f sum ]; then
  dd if=/dev/urandom of=fill bs=64k count=192 2>/dev/null; echo "text-that-no""-file-has" >secret
  sha256sum fill secret >sum; sync
fi
while :; do
  for each in /data/*; do
    [ -f "$each/sum" ] && [ ! -f "/seen-${each##*/}" ] || continue
    touch "/seen-${each##*/}"; cd "$each"
    sha256sum -c sum >/dev/null 2>&1 && echo "GUEST-WHOLE ${each##*/}" || echo "GUEST-FAILED ${each##*/}"
  done
  sleep 1
done
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Killed {
    Agent,
    Libvirt,
    Qemu,
    Host,
}

impl Killed {
    /// Kills it, has what was held go on, and brings up again what has ended; the agent that is there
    /// then.
    pub(crate) fn strikes(self, lab: &mut Lab, agent: Agent, middle: Middle, test: &str) -> Agent {
        match self {
            Self::Agent => {
                drop(agent);
                middle.goes_on(lab);
                return Agent::start(lab, test);
            }
            Self::Host => {
                drop(agent);
                lab.lose_power();
                drop(middle);
                return Agent::start(lab, test);
            }
            Self::Libvirt => {
                lab.kill_libvirt();
                middle.goes_on(lab);
                lab.start_libvirt();
            }
            Self::Qemu => {
                lab.kill_guest(instance(1));
                middle.goes_on(lab);
                lab.guest_is_seen_off(instance(1));
            }
        }
        // It hears that it has failed, or that it is done all the same.
        let _ = agent.answer();
        agent
    }
}

/// What holds a step in its middle.
pub(crate) enum Middle {
    /// Nothing does: it takes its time.
    Free,
    /// A process that is stopped, until this command.
    Stopped(&'static str),
    /// A process that opens a file.
    Held(Held),
}

impl Middle {
    const QEMU: Self = Self::Stopped("kill -CONT $(pidof qemu-system-x86_64) || true");
    const LIBVIRT: Self = Self::Stopped("kill -CONT $(pidof libvirtd) || true");

    fn goes_on(self, lab: &mut Lab) {
        match self {
            Self::Free => {}
            Self::Stopped(command) => drop(lab.run(command)),
            Self::Held(held) => drop(held),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    /// Of a volume that no machine has.
    GrowAtRest,
    Attach,
    Grow,
    Copy,
    Delete,
}

/// When in a step somebody is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Its file is being written.
    Written,
    /// QEMU, which does not answer, is asked for it.
    Asked,
    /// libvirt's daemon does not answer.
    Unheard,
    /// `qemu-img` is about to open the file.
    Begun,
    /// An empty volume is about to be filled.
    Empty,
    /// All of the volume is there, and has not its name.
    Whole,
    /// It has its name, and a power cut could take it back.
    Named,
    /// libvirt's daemon is about to write it down.
    Noted,
    /// QEMU is about to open the file.
    Opened,
    /// The file has gone, and a power cut could bring it back.
    Unlinked,
}

pub(crate) const KILLED: [Killed; 4] = [Killed::Agent, Killed::Libvirt, Killed::Qemu, Killed::Host];
/// What is done twice with each killer, which strikes at each of these moments before it is done.
const ROUNDS: [&[(Step, &[Moment])]; 2] = [
    &[
        (Step::Create, &[Moment::Written]),
        (Step::Attach, &[Moment::Asked]),
        (Step::Grow, &[Moment::Asked]),
        (Step::Copy, &[Moment::Written]),
        (Step::Delete, &[Moment::Unheard]),
    ],
    &[
        (Step::Create, &[Moment::Begun, Moment::Empty, Moment::Whole, Moment::Named]),
        (Step::GrowAtRest, &[Moment::Begun]),
        (Step::Attach, &[Moment::Noted, Moment::Opened]),
        (Step::Copy, &[Moment::Begun, Moment::Opened, Moment::Named]),
        (Step::Delete, &[Moment::Unlinked]),
    ],
];

impl Step {
    fn name(self) -> String {
        format!("{self:?}")
    }

    /// The number of its volume.
    fn volume(self) -> u128 {
        if self == Self::Copy { 4 } else { 3 }
    }

    /// Whether a machine has to run for it.
    fn needs_a_machine(self) -> bool {
        matches!(self, Self::Attach | Self::Grow | Self::Copy)
    }

    /// The files of the pool once it is done, by the numbers of their volumes.
    fn leaves(self) -> &'static [u128] {
        match self {
            Self::Create | Self::GrowAtRest | Self::Attach | Self::Grow => &[1, 2, 3],
            Self::Copy => &[1, 2, 3, 4],
            Self::Delete => &[1, 2, 4],
        }
    }
}

impl Moment {
    /// Whether the killer's victim has to do with it.
    fn concerns(self, step: Step, killed: Killed) -> bool {
        let victims: &[Killed] = match self {
            Self::Begun | Self::Empty | Self::Whole | Self::Named | Self::Unlinked => {
                &[Killed::Agent, Killed::Host]
            }
            // A machine that was killed then is started with what is written down.
            Self::Noted => &[Killed::Agent, Killed::Libvirt, Killed::Host],
            Self::Written | Self::Asked | Self::Unheard | Self::Opened => &KILLED,
        };
        // The libvirtd that comes next believes that the copy goes on, has no data of it, and ends it by
        // no call: the machine can't be copied from until it is started again.
        let is_stuck = (self, step, killed) == (Self::Opened, Step::Copy, Killed::Libvirt);
        let is_there = killed != Killed::Qemu || step.needs_a_machine();
        victims.contains(&killed) && is_there && !is_stuck
    }

    /// Who opens what at this moment.
    fn is_it(self, step: Step, lab: &Lab, agent: &Agent) -> impl FnMut(&Opened) -> bool + use<> {
        let (pool, [last, new]) = (lab.pool().join(CLASS), lab.files_of(step.volume()));
        let (is_agent, definition) = (agent.is(), format!("{}.xml.new", instance(1)));
        move |opened| match self {
            Self::Begun => {
                let file = if step == Step::GrowAtRest { &last } else { &new };
                let makes = ["create", "resize"].iter().any(|word| opened.has(word));
                opened.path == *file && opened.is_by("qemu-img") && makes
            }
            Self::Empty => opened.path == new && opened.is_by("qemu-img") && opened.has("convert"),
            Self::Whole => opened.path == new && is_agent(opened),
            Self::Named => opened.path == pool && is_agent(opened) && last.exists(),
            Self::Unlinked => opened.path == pool && is_agent(opened) && !last.exists(),
            Self::Opened => {
                let is_file = opened.path == last || opened.path == new;
                is_file && opened.is_by("qemu-system")
            }
            Self::Noted => opened.is_named(&definition) && opened.is_by("libvirtd"),
            Self::Written | Self::Asked | Self::Unheard => false,
        }
    }

    /// Begins the step, and returns at this moment of it.
    async fn of(self, step: Step, lab: &mut Lab, agent: &mut Agent) -> Middle {
        match self {
            Self::Written => {
                agent.tell(&step.name());
                let enough = if step == Step::Copy { 3 << 20 } else { 1 };
                grows(lab, step.volume(), enough).await;
                Middle::Free
            }
            Self::Asked => {
                lab.stop_guest(instance(1));
                let command = if step == Step::Attach { "object-add" } else { "block_resize" };
                let before = lab.asked(command);
                agent.tell(&step.name());
                lab.is_asked(command, before).await;
                Middle::QEMU
            }
            Self::Unheard => {
                lab.run("kill -STOP $(pidof libvirtd)");
                agent.tell(&step.name());
                Middle::LIBVIRT
            }
            _ => {
                let folders = [lab.pool().join(CLASS), lab.folder.join("etc/qemu")];
                let gate = Gate::over(&folders, self.is_it(step, lab, agent));
                agent.tell(&step.name());
                Middle::Held(gate.held(&format!("{self:?} of {step:?}")).await)
            }
        }
    }
}

fn machine() -> Arc<MachineSpec> {
    Arc::new(MachineSpec { disks: vec![data(2)], user_data: GUEST.into(), ..spec(1) })
}

/// What an agent does for a step, each time that it is told to.
async fn act(host: &QemuHost, word: &str) -> Result<()> {
    let gone = || HypervisorError::not_found(instance(1));
    match word {
        "Create" => host.create_volume(&HostVolume { image: Some(IMAGE.into()), ..wish(3) }).await,
        "Attach" => host.attach(instance(1), &data(3)).await,
        "GrowAtRest" => host.grow_volume(volume(3), Gib(2)).await,
        "Grow" => host.grow_volume(volume(3), Gib(3)).await,
        "Copy" => {
            let copy = Some(VolumeCopy::Of(volume(2)));
            host.create_volume(&HostVolume { copy, ..wish(4) }).await
        }
        "Stop" => host.force_stop(instance(1)).await,
        "Detach" => host.detach(instance(1), "data-3").await,
        "Delete" => host.delete_volume(volume(3)).await,
        "DeleteCopy" => host.delete_volume(volume(4)).await,
        "Start" => {
            let had = host.machine(instance(1)).await?.ok_or_else(gone)?;
            if !had.runs() {
                // What was in memory is lost with the host's power, and is the agent's to tell again.
                let had = MachineSpec { user_data: GUEST.into(), ..(*had.definition).clone() };
                host.define(&Arc::new(had), Marks::default()).await?;
            }
            host.start(instance(1)).await
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn whoever_is_killed_in_whatever_step_nothing_is_lost_and_the_same_call_gets_there() {
    if let Some(folder) = agent_process::folder() {
        return agent_process::serve(&folder, act).await;
    }
    let mut lab = Lab::start();
    let host = started(&lab, MachineSpec::clone(&machine())).await;
    says(&host, instance(1), "GUEST-WHOLE vdb").await;
    drop(host);
    let mut agent = Agent::start(&lab, THIS);
    let begin = Instant::now();
    for (killed, round) in KILLED.iter().flat_map(|killed| ROUNDS.map(|round| (*killed, round))) {
        // The copy of the round before.
        agent.does("DeleteCopy");
        for (step, moments) in round {
            for moment in moments.iter().filter(|moment| moment.concerns(*step, killed)) {
                // Where a test that is ended from outside was.
                let at = begin.elapsed().as_secs();
                eprintln!("{killed:?} is killed in {step:?}, {moment:?}, {at} s");
                if step.needs_a_machine() {
                    agent.does("Start");
                }
                let middle = moment.of(*step, &mut lab, &mut agent).await;
                agent = killed.strikes(&mut lab, agent, middle, THIS);
            }
            if step.needs_a_machine() {
                agent.does("Start");
            }
            let case = format!("{killed:?} was killed in {step:?}");
            agent.does(&step.name());
            agent.does(&step.name());
            let mut wanted: Vec<_> =
                step.leaves().iter().map(|&number| format!("{}.qcow2", volume(number))).collect();
            wanted.sort();
            assert_eq!(lab.volume_files(), wanted, "{case}");
            let has = lab.run(&format!("virsh domblklist {} | grep -c qcow2", instance(1)));
            let disks = match step {
                Step::Create | Step::GrowAtRest | Step::Delete => "2",
                Step::Attach | Step::Grow | Step::Copy => "3",
            };
            assert_eq!(has.trim(), disks, "{case}");
            assert_eq!(lab.run("virsh -q secret-list").trim(), "", "{case}");
            if *step == Step::Copy {
                // Off it lets go of the disk at once.
                agent.does("Stop");
                agent.does("Detach");
            }
        }
    }
    agent.does("Start");
    drop(agent);
    // All of what was written at first is there, and in the copy.
    let host = lab.host();
    give_keys(&host).await;
    says(&host, instance(1), "GUEST-WHOLE vdb").await;
    host.attach(instance(1), &data(4)).await.unwrap();
    let said = says(&host, instance(1), "GUEST-WHOLE vdc").await;
    assert!(!said.contains("GUEST-FAILED"), "{said}");
    let secrets = [vec![SECRET.into()], forms(&crate::lab::key_bytes(2))].concat();
    assert_eq!(files_with(&lab.folder, &secrets), [] as [PathBuf; 0]);
    assert_eq!(files_with(&lab.pool(), &[IMAGE_TEXT.into()]), [] as [PathBuf; 0]);
}
