//! Each of four killers at each of five steps of volumes: the agent, libvirt's daemon, QEMU, or all of
//! the host ends in the middle of a volume being made, attached, grown, copied or deleted. Afterwards
//! everything is up again over the same folder, the same call brings about what was wished, no file is
//! there that belongs to nothing, and no data is lost or in plain text.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Marks, Result,
    contract::{instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::{MEMORY_INFO, QemuHost};
use fairmazon_model::{
    machine::{HostVolume, MachineSpec, VolumeCopy},
    units::Gib,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{
    copies::grows,
    guests::{data, started},
    lab::{IMAGE, IMAGE_TEXT, Lab, PATIENCE, files_with, give_keys, open_host, says},
    leaks::forms,
};

/// The test below, which is also what the agent's process is.
const THIS: &str =
    "matrix::whoever_is_killed_in_whatever_step_nothing_is_lost_and_the_same_call_gets_there";
/// Tells a process that it is the agent of the laboratory in this folder.
const FOLDER: &str = "FAIRMAZON_LAB";
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
enum Killed {
    Agent,
    Libvirt,
    Qemu,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Attach,
    Grow,
    Copy,
    Delete,
}

const KILLED: [Killed; 4] = [Killed::Agent, Killed::Libvirt, Killed::Qemu, Killed::Host];
const STEPS: [Step; 5] = [Step::Create, Step::Attach, Step::Grow, Step::Copy, Step::Delete];

impl Step {
    fn name(self) -> String {
        format!("{self:?}")
    }

    /// The files of the pool once it is done, by the numbers of their volumes.
    fn leaves(self) -> &'static [u128] {
        match self {
            Self::Create | Self::Attach | Self::Grow => &[1, 2, 3],
            Self::Copy => &[1, 2, 3, 4],
            Self::Delete => &[1, 2, 4],
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
        "Grow" => host.grow_volume(volume(3), Gib(2)).await,
        "Copy" => {
            let copy = Some(VolumeCopy::Of(volume(2)));
            host.create_volume(&HostVolume { copy, ..wish(4) }).await
        }
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

/// The agent's process: does what it is told on its standard input, line by line.
#[allow(clippy::print_stderr, reason = "that is how it answers")]
async fn agent(folder: &Path) {
    let host = open_host(folder, Path::new(MEMORY_INFO));
    give_keys(&host).await;
    let (send, mut lines) = tokio::sync::mpsc::unbounded_channel();
    thread::spawn(move || {
        std::io::stdin().lines().map_while(|it| it.ok()).try_for_each(|it| send.send(it))
    });
    while let Some(word) = lines.recv().await {
        match act(&host, &word).await {
            Ok(()) => eprintln!("AGENT-DONE"),
            Err(error) => eprintln!("AGENT-FAILED {:?}", format!("{error:?}")),
        }
    }
}

/// A process of the agent.
struct Agent {
    process: Child,
    words: ChildStdin,
    answers: mpsc::Receiver<String>,
}

impl Agent {
    fn start(lab: &Lab) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        let mut process = command
            .args(["--exact", THIS, "--nocapture"])
            .env(FOLDER, &lab.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let words = process.stdin.take().unwrap();
        let said = BufReader::new(process.stderr.take().unwrap());
        let (send, answers) = mpsc::channel();
        let answer = |line: String| line.find("AGENT-").map(|at| line[at + 6..].to_owned());
        thread::spawn(move || {
            let lines = said.lines().map_while(|line| line.ok());
            lines.filter_map(answer).try_for_each(|line| send.send(line))
        });
        Self { process, words, answers }
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.words, "{word}").unwrap();
    }

    /// What has become of what it was told.
    fn answer(&self) -> std::result::Result<(), String> {
        let answer = self.answers.recv_timeout(PATIENCE).expect("the agent answers");
        if answer == "DONE" { Ok(()) } else { Err(answer) }
    }

    /// Has it do something, again and again until that is done.
    fn does(&mut self, word: &str) {
        let begin = Instant::now();
        loop {
            self.tell(word);
            let Err(why) = self.answer() else { return };
            assert!(begin.elapsed() < PATIENCE, "{word}: {why}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.process.wait();
    }
}

/// Begins the step, and returns in the middle of it. Whatever was stopped for that goes on with what
/// is said here, once somebody was killed.
async fn middle_of(step: Step, lab: &mut Lab, agent: &mut Agent) -> &'static str {
    const QEMU_GOES_ON: &str = "kill -CONT $(pidof qemu-system-x86_64) || true";
    const LIBVIRT_GOES_ON: &str = "kill -CONT $(pidof libvirtd) || true";
    match step {
        Step::Create => {
            agent.tell("Create");
            grows(lab, 3, 1).await;
            "true"
        }
        Step::Attach | Step::Grow => {
            lab.stop_guest(instance(1));
            let command = if step == Step::Attach { "object-add" } else { "block_resize" };
            let before = lab.asked(command);
            agent.tell(&step.name());
            lab.is_asked(command, before).await;
            QEMU_GOES_ON
        }
        Step::Copy => {
            agent.tell("Copy");
            grows(lab, 4, 3 << 20).await;
            "true"
        }
        Step::Delete => {
            lab.run("kill -STOP $(pidof libvirtd)");
            agent.tell("Delete");
            LIBVIRT_GOES_ON
        }
    }
}

fn files(lab: &Lab) -> Vec<String> {
    lab.volume_files()
}

#[tokio::test]
async fn whoever_is_killed_in_whatever_step_nothing_is_lost_and_the_same_call_gets_there() {
    if let Some(folder) = env::var_os(FOLDER) {
        return agent(Path::new(&folder)).await;
    }
    let mut lab = Lab::start();
    let host = started(&lab, MachineSpec::clone(&machine())).await;
    says(&host, instance(1), "GUEST-WHOLE vdb").await;
    drop(host);
    let mut agent = Agent::start(&lab);
    let begin = Instant::now();
    for killed in KILLED {
        for step in STEPS {
            let case = format!("{killed:?} is killed in {step:?}");
            // Where a test that is ended from outside was.
            eprintln!("{case}, {} s", begin.elapsed().as_secs());
            let go_on = middle_of(step, &mut lab, &mut agent).await;
            match killed {
                Killed::Agent => kill_process(agent.pid(), Signal::KILL).unwrap(),
                Killed::Libvirt => lab.kill_libvirt(),
                Killed::Qemu => lab.kill_guest(instance(1)),
                Killed::Host => {
                    drop(agent);
                    lab.lose_power();
                    agent = Agent::start(&lab);
                }
            }
            match killed {
                Killed::Agent => {
                    lab.run(go_on);
                    agent = Agent::start(&lab);
                }
                Killed::Libvirt => {
                    lab.run(go_on);
                    lab.start_libvirt();
                    let _ = agent.answer();
                }
                Killed::Qemu => {
                    lab.run(go_on);
                    lab.guest_is_seen_off(instance(1));
                    let _ = agent.answer();
                }
                Killed::Host => {}
            }
            agent.does("Start");
            agent.does(&step.name());
            agent.does(&step.name());
            let mut wanted: Vec<_> =
                step.leaves().iter().map(|&number| format!("{}.qcow2", volume(number))).collect();
            wanted.sort();
            assert_eq!(files(&lab), wanted, "{case}");
            let live = lab.run(&format!("virsh domblklist {} | grep -c qcow2", instance(1)));
            let disks = match step {
                Step::Create | Step::Delete => "2",
                Step::Attach | Step::Grow | Step::Copy => "3",
            };
            assert_eq!(live.trim(), disks, "{case}");
            if step == Step::Copy {
                agent.does("Detach");
            }
        }
        if killed != Killed::Host {
            agent.does("DeleteCopy");
        }
    }
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
