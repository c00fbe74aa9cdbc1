//! The memory of guests: what they have and say that they need, asking them for some of it, and
//! whom the kernel ends first where all that was not enough.
//!
//! A guest's balloon is asked for through libvirt and is the guest's to fill: what counts is what it
//! has at the next look. Its memory as defined stays the most that it has, and it begins each run
//! with that.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use fairmazon_hypervisor::{
    Halt, HostMemory, HypervisorError, Machine, MachineMemory, Result, RunState,
};
use fairmazon_model::{id::InstanceId, machine::MachineSpec, units::Mib};
use parking_lot::Mutex;
use virt::domain::{Domain, MemoryStat};
use virt_sys as sys;

use super::{host::Inner, process::Process, session::Session};
use crate::{domains::Domains, error::failed};

const LIVE: u32 = sys::VIR_DOMAIN_AFFECT_LIVE;
/// How often a guest says how it stands with its memory, in seconds.
pub(super) const SAYS_EVERY: i32 = 5;
/// For how long what it has said counts, in seconds.
const HOLDS_FOR: u64 = 30;
/// What the kernel adds to the part of the memory that a process has, in thousandths, when it looks
/// for one to end. With less, one that has much would go before a spot machine that has little.
const OUT_OF_MEMORY_SPOT: i32 = 1_000;
const OUT_OF_MEMORY_OTHERS: i32 = 0;

/// The runs whose processes have been told apart for the kernel, each with what it was told.
#[derive(Debug, Default)]
pub(super) struct Expendable(Mutex<HashMap<InstanceId, (u32, i32)>>);

impl Inner {
    /// The memory of the host now, and its guests that run.
    pub(super) fn memory(&self, session: &Session) -> Result<HostMemory> {
        let path = &self.config.memory_info;
        let info = fs::read_to_string(path).map_err(io::Error::other);
        let (total, available) =
            info.and_then(|info| of_host(&info)).map_err(|error| HypervisorError::Driver {
                attempted: format!("read {}", path.display()),
                source: error.into(),
            })?;
        let (mut machines, mut runs) = (Vec::new(), Vec::new());
        session.domains.each(|domain, machine| {
            if machine.run != RunState::Running {
                return;
            }
            machines.push(MachineMemory::silent(&machine.definition));
            if let Some(run) = domain.id() {
                runs.push((machine.instance(), run, machine.definition.spot));
            }
        });
        machines.sort_unstable_by_key(|machine| machine.instance);
        self.expendable.tell(&runs, &self.config.storage);
        Ok(HostMemory { total, available, machines })
    }
}

/// What a machine says of its memory.
pub(super) fn ask(domains: &Domains, instance: InstanceId) -> Result<MachineMemory> {
    let (domain, machine) = running(domains, instance)?;
    let attempted = failed(format!("ask for the memory of {instance}"));
    let stats = domain.memory_stats(0).map_err(attempted)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let says = of_guest(&machine.definition, &stats, now);
    if says.spot && says.needs.is_none() && !moves(&machine) {
        // One that was started before it was to say something, or never will.
        let _ = domain.set_memory_stats_period(SAYS_EVERY, LIVE);
    }
    Ok(says)
}

/// Asks a guest to get along with so much memory, or lets it have so much.
pub(super) fn set(domains: &Domains, instance: InstanceId, has: Mib) -> Result<()> {
    let (domain, machine) = running(domains, instance)?;
    let defined = machine.definition.memory;
    if !machine.definition.spot && has < defined {
        return Err(HypervisorError::busy(instance, "it is not spot and keeps its memory"));
    }
    // libvirt would have the call wait for the end of the migration.
    if moves(&machine) {
        return Err(HypervisorError::busy(instance, "it moves to or from another host"));
    }
    domain
        .set_memory_flags(has.0.min(defined.0).saturating_mul(1_024), LIVE)
        .map_err(failed(format!("change the memory of {instance}")))
}

fn running(domains: &Domains, instance: InstanceId) -> Result<(Domain, Machine)> {
    let (domain, machine) = domains.expect(instance)?;
    if machine.run == RunState::Running {
        Ok((domain, machine))
    } else {
        Err(HypervisorError::busy(instance, "it does not run"))
    }
}

fn moves(machine: &Machine) -> bool {
    matches!(machine.marks.halt, Halt::Leaving | Halt::Arriving)
}

/// The total and the available memory in the kernel's words.
fn of_host(info: &str) -> io::Result<(Mib, Mib)> {
    let value = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| Mib(kib / 1_024)).ok_or_else(|| io::Error::other(format!("no {name} in it")))
    };
    Ok((value("MemTotal")?, value("MemAvailable")?))
}

/// What is known of a guest at `now`, in seconds since 1970: whatever it says is its own word, and
/// within what it has.
fn of_guest(spec: &MachineSpec, stats: &[MemoryStat], now: u64) -> MachineMemory {
    let value = |tag: u32| stats.iter().find(|stat| stat.tag == tag).map(|stat| stat.val);
    let defined = spec.memory;
    let has = value(sys::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON)
        .map_or(defined, |kib| Mib(kib.div_ceil(1_024)).min(defined));
    let said_at = value(sys::VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE);
    let holds = said_at.is_some_and(|at| now.saturating_sub(at) <= HOLDS_FOR);
    let usable = value(sys::VIR_DOMAIN_MEMORY_STAT_USABLE).filter(|_| holds);
    // Its balloon counts as neither, whether the guest sees it as used or as not there.
    let needs = usable.map(|kib| has.saturating_sub(Mib(kib / 1_024)));
    MachineMemory { instance: spec.instance, spot: spec.spot, defined, has, needs }
}

impl Expendable {
    /// Tells the kernel which processes are spot machines', so that where memory has run out it ends
    /// one of those and not another. They are those with volumes in `storage`: a machine that moves
    /// between two hosts of one kernel has two. Best effort: what may not be told or is not found is
    /// as it was.
    fn tell(&self, runs: &[(InstanceId, u32, bool)], storage: &Path) {
        let score = |spot: bool| if spot { OUT_OF_MEMORY_SPOT } else { OUT_OF_MEMORY_OTHERS };
        let mut told = self.0.lock();
        told.retain(|instance, (run, _)| {
            runs.iter().any(|(other, of, _)| (other, of) == (instance, run))
        });
        let news = |(instance, run, spot): &&(InstanceId, u32, bool)| {
            told.get(instance) != Some(&(*run, score(*spot)))
        };
        let news: Vec<_> = runs.iter().filter(news).collect();
        if news.is_empty() {
            return;
        }
        let processes = Process::all().unwrap_or_default();
        for (instance, run, spot) in news {
            let is_it =
                |process: &&Process| process.is_machine(*instance) && process.names(storage);
            for process in processes.iter().filter(is_it) {
                let write = |mut file: fs::File| write!(file, "{}", score(*spot));
                let file = fs::File::options().write(true).open(process.file("oom_score_adj"));
                match file.and_then(write) {
                    Ok(()) => drop(told.insert(*instance, (*run, score(*spot)))),
                    Err(error) => {
                        tracing::debug!(%instance, %error, "the kernel was not told of a machine");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::spec;

    use super::*;

    fn stat(tag: u32, val: u64) -> MemoryStat {
        MemoryStat { tag, val }
    }

    #[test]
    fn the_kernels_words_are_read() {
        let info = "MemTotal:       24606632 kB\nMemFree: 1 kB\nMemAvailable:   23456789 kB\n";
        assert_eq!(of_host(info).unwrap(), (Mib(24_029), Mib(22_907)));
        for info in ["", "MemTotal: 1 kB", "MemTotal: x kB\nMemAvailable: 1 kB"] {
            assert!(of_host(info).is_err(), "{info}");
        }
    }

    #[test]
    fn what_a_guest_says_counts_while_it_is_fresh_and_within_what_it_has() {
        let spec = MachineSpec { spot: true, ..spec(1) };
        let stats = |usable: u64| {
            vec![
                stat(sys::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON, 192 * 1_024),
                stat(sys::VIR_DOMAIN_MEMORY_STAT_USABLE, usable * 1_024),
                stat(sys::VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE, 1_000),
            ]
        };
        let seen = of_guest(&spec, &stats(100), 1_030);
        assert_eq!((seen.defined, seen.has, seen.needs), (Mib(256), Mib(192), Some(Mib(92))));
        assert_eq!(of_guest(&spec, &stats(100), 1_031).needs, None, "it has fallen silent");
        assert_eq!(of_guest(&spec, &stats(1 << 40), 1_000).needs, Some(Mib(0)), "it lies");
        assert_eq!(of_guest(&spec, &stats(0), 1_000).needs, Some(Mib(192)));
        let silent = of_guest(&spec, &[], 1_000);
        assert_eq!((silent.has, silent.needs), (Mib(256), None));
    }
}
