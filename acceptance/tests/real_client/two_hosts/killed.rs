//! A guest that moves while the agents of its two hosts are killed: at each phase of its way, the one
//! that sends it and the one that takes it in. It runs at one host all along, misses no number, and
//! nothing of an attempt is left.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use acceptance::{Environment, Failure, Outcome};

use super::{PATIENCE, Steps, awaited, counts_on, host::Host, platform::Platform, ticks, volumes};
use crate::guests::file;

/// What comes of a volume beyond what an empty one has, when it is being copied; in bytes.
const COPIED: u64 = 128 * 1024;
/// What a QEMU has of a guest's memory beyond its own, when that is being sent; in bytes.
const SENT: u64 = 24 << 20;

/// What of a guest is on its way.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Volumes,
    Memory,
}

/// A guest that comes, and stands still in the middle.
struct Coming {
    /// The QEMU that takes it in.
    process: String,
}

impl Coming {
    /// Waits until a guest is in the middle of this phase.
    fn at(phase: Phase, to: &Host, instance: &str) -> Outcome<Self> {
        let begin = Instant::now();
        let process = look(begin, || to.emulators(instance).pop())?;
        let now = || match phase {
            Phase::Volumes => on_disk(to),
            Phase::Memory => in_memory(to, &process),
        };
        let more = if matches!(phase, Phase::Volumes) { COPIED } else { SENT };
        let at_first = now();
        look(begin, || (now() > at_first + more).then_some(()))?;
        to.signal("-STOP", &process)?;
        Ok(Self { process })
    }

    fn goes_on(&self, to: &Host) -> Outcome {
        to.signal("-CONT", &self.process)
    }

    /// Has it go on, where nobody waits for it any more, and waits until it has ended.
    fn ends(&self, to: &Host, instance: &str) -> Outcome {
        // It may have been killed meanwhile.
        let _ = self.goes_on(to);
        awaited("what has come of the guest goes again", || {
            Ok((!to.emulators(instance).contains(&self.process)).then_some(()))
        })
    }
}

/// Looks again and again, for what is over soon.
fn look<T>(begin: Instant, mut look: impl FnMut() -> Option<T>) -> Outcome<T> {
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if begin.elapsed() > PATIENCE {
            return Err(Failure::Unexpected("the guest does not come".into()));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// What the volumes of a host have of its disk, in bytes.
fn on_disk(host: &Host) -> u64 {
    let files = fs::read_dir(host.storage().join("standard")).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum()
}

/// What a process has of the memory of a host, in bytes.
fn in_memory(host: &Host, process: &str) -> u64 {
    let status = host.machine().map(|machine| machine.file(format!("/proc/{process}/status")));
    let status = status.ok().and_then(|status| fs::read_to_string(status).ok()).unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() << 10
}

/// Empties a host whose guest has counted on from `last`, and kills agents meanwhile; the number that
/// it has counted to at its next host.
pub(super) fn moves_whoever_is_killed(
    platform: &Platform,
    operator: &Environment,
    [from, to]: [&mut Host; 2],
    instance: &str,
    steps: &mut Steps,
) -> Outcome<u64> {
    let mut last = *ticks(&from.consoles()).last().unwrap_or(&0);
    platform.ask(operator, &["host", "drain", &to.id, "--cancel"])?;
    let mut emptied = platform.command(operator)?;
    emptied.args(["host", "drain", &from.id, "--deadline", "10m"]).stdin(Stdio::null());
    let emptied = file(emptied.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())?;
    let run = from.emulators(instance);
    for phase in [Phase::Volumes, Phase::Memory] {
        for sends in [true, false] {
            let coming = Coming::at(phase, to, instance)?;
            let killed = if sends { &mut *from } else { &mut *to };
            killed.kill_agent();
            coming.ends(to, instance)?;
            last = counts_on(from, last)?;
            assert_eq!((from.emulators(instance), to.consoles().as_str()), (run.clone(), ""));
            let killed = if sends { &mut *from } else { &mut *to };
            killed.start_agent()?;
            let who = if sends { "sends" } else { "takes in" };
            steps.done(&format!("the agent that {who} was killed: {phase:?}"));
        }
    }

    // The broker hears nothing of how it has left: both agents end before it does.
    let coming = Coming::at(Phase::Memory, to, instance)?;
    platform.stands_still();
    coming.goes_on(to)?;
    last = counts_on(to, last)?;
    awaited("it has ended where it was", || Ok(from.emulators(instance).is_empty().then_some(())))?;
    let counted = [ticks(&from.consoles()), ticks(&to.consoles())].concat();
    assert!(counted.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{counted:?}");
    assert_eq!(volumes(from).len(), 2, "it was not told to forget {:?}", volumes(from));
    from.kill_agent();
    to.kill_agent();
    platform.goes_on();
    from.start_agent()?;
    to.start_agent()?;
    last = counts_on(to, last)?;
    let emptied = file(emptied.wait_with_output())?;
    let said = String::from_utf8_lossy(&emptied.stdout);
    assert!(said.contains(&format!("{} is empty", from.id)), "{emptied:?}");
    assert_eq!((from.emulators(instance).len(), to.emulators(instance).len()), (0, 1));
    awaited("nothing is left where it was", || Ok(volumes(from).is_empty().then_some(())))?;
    assert_eq!(volumes(to).len(), 2, "{:?}", volumes(to));
    steps.done("both agents were killed after it had left");
    counts_on(to, last)
}
