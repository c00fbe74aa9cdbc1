//! The host standard on this machine: where to look, and what only QEMU and libvirt can tell.
//! What counts is judged by [`fairmazon_host::standard`].

use std::{error::Error, path::PathBuf, time::Duration};

use async_trait::async_trait;
use clap::Args;
use fairmazon_host::standard::{
    Boots, ClockFacts, Collector, DaemonFacts, Fact, Facts, HypervisorFacts, LEVEL_MOST, Location,
    Prover, Report, Standard, Status, collect,
};
use fairmazon_hypervisor_libvirt::{
    clock,
    qemu::{
        Accelerator, Daemon, folders_in_memory,
        proof::{Versions, encryption},
    },
};

use crate::{error::CommandError, keys};

/// How long libvirt's daemon may take to answer: at its first start it asks QEMU what it can do.
const LIBVIRT_ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// What a machine can't know of itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct Offered {
    /// Disk for guests, as CLASS=GIB, as registered. May be given several times.
    #[arg(long, value_parser = storage, value_name = "CLASS=GIB")]
    pub(crate) storage: Vec<(String, u64)>,
    /// The country, as two capital letters.
    #[arg(long)]
    pub(crate) country: Option<String>,
    /// Degrees north.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) latitude: Option<f64>,
    /// Degrees east.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) longitude: Option<f64>,
}

impl Offered {
    /// Where the host stands, when all of it is stated.
    fn location(&self) -> Option<Location> {
        let (latitude, longitude) = (self.latitude?, self.longitude?);
        Some(Location { country: self.country.clone()?, latitude, longitude })
    }
}

/// Where to look on this machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct Folders {
    /// Folder of the volumes: it is measured, and a volume is made in it and removed.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) storage_dir: Option<PathBuf>,
    /// libvirt's daemon on this machine, as the agent is told: it is asked what it can do.
    #[arg(long, value_name = "URI")]
    pub(crate) libvirt: Option<String>,
    /// A folder in memory (tmpfs) for consoles, user data and keys: the agent's.
    #[arg(long, visible_alias = "consoles", value_name = "FOLDER")]
    pub(crate) runtime_dir: Option<PathBuf>,
    /// What the system's files are under; programs, disk and network are those of this machine.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    pub(crate) root: PathBuf,
}

/// This machine, to be looked at.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    collector: Collector,
    /// libvirt's daemon.
    libvirt: Option<String>,
    /// What the agent's driver runs guests with; none without an agent.
    driver: Option<Accelerator>,
}

impl Machine {
    /// Looked at in these folders.
    pub(crate) fn new(
        folders: Folders,
        offered: Offered,
        state: Option<PathBuf>,
        broker: Option<String>,
    ) -> Self {
        let collector = Collector {
            root: folders.root,
            storage: folders.storage_dir,
            runtime: folders
                .runtime_dir
                .map(|it| folders_in_memory(&it).into())
                .unwrap_or_default(),
            state,
            broker,
            location: offered.location(),
            offered: offered.storage,
        };
        Self { collector, libvirt: folders.libvirt, driver: None }
    }

    /// With an agent, whose driver runs guests with this.
    pub(crate) fn driven_with(self, accelerator: Accelerator) -> Self {
        Self { driver: Some(accelerator), ..self }
    }

    /// What came of all checks, all of them tried now.
    pub(crate) async fn report(&self, asked: u8) -> Result<Report, CommandError> {
        Ok(Report::new(&self.look(None).await?, asked))
    }

    async fn look(&self, before: Option<&Facts>) -> Result<Facts, CommandError> {
        let known = before.map(|before| before.hypervisor.clone());
        let hypervisor = match known {
            Some(known) => HypervisorFacts { clock: clock_facts(), ..known },
            None => self.hypervisor().await?,
        };
        let (collector, before) = (self.collector.clone(), before.cloned());
        aside(move || collect(&collector, hypervisor, before.as_ref())).await
    }

    async fn hypervisor(&self) -> Result<HypervisorFacts, CommandError> {
        let encryption = match &self.collector.storage {
            Some(folder) => {
                Ok(encryption(folder, &keys::volume()?).await.map_err(|error| with_causes(&error)))
            }
            None => Err("not tried: give --storage-dir".to_owned()),
        };
        let libvirt = self.libvirt.clone();
        let driver = self.driver.map(boots);
        aside(move || {
            let versions = Versions::read();
            let daemon = libvirt.map(|uri| Daemon::ask(&uri, LIBVIRT_ANSWERS_WITHIN));
            // What answers counts, and not what is installed beside it.
            let answered = daemon.as_ref().and_then(|answer| answer.as_ref().ok());
            let version = answered.map(|daemon| daemon.version).or(versions.libvirt);
            let known = |version: Option<(u32, u32)>, what: &str| {
                version.ok_or_else(|| format!("{what} does not start: it may not be installed"))
            };
            HypervisorFacts {
                guest: Ok(Accelerator::prove().map_or(Boots::Not, boots)),
                driver,
                encryption,
                qemu: known(versions.qemu, "QEMU"),
                libvirt: known(version, "libvirt's daemon"),
                daemon: daemon.map_or_else(
                    || Err("not asked: give --libvirt".to_owned()),
                    |answer| Ok(answer.map(daemon_facts).map_err(|error| with_causes(&error))),
                ),
                clock: clock_facts(),
            }
        })
        .await
    }
}

#[async_trait]
impl Prover for Machine {
    async fn facts(&self, before: Option<&Facts>) -> Result<Facts, String> {
        self.look(before).await.map_err(|error| with_causes(&error))
    }
}

/// What an agent says whose driver runs no guests.
pub(crate) fn without_guests(driver: &str) -> Standard {
    Standard::Unproven(format!("the driver `{driver}` runs no guests"))
}

fn boots(accelerator: Accelerator) -> Boots {
    match accelerator {
        Accelerator::Kvm => Boots::Hardware,
        Accelerator::Tcg => Boots::Software,
    }
}

fn daemon_facts(daemon: Daemon) -> DaemonFacts {
    let runs = daemon.runs.into_iter().map(boots).collect();
    DaemonFacts { runs, qemu_user: daemon.qemu_user, keeps_secrets: daemon.keeps_secrets }
}

fn clock_facts() -> Fact<ClockFacts> {
    let clock = clock::read().map_err(|error| format!("the kernel does not say: {error}"))?;
    let error_most = Duration::from_micros(clock.error_us_most);
    Ok(ClockFacts { synchronised: clock.synchronised, error_most })
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let said = source.to_string();
        if !text.contains(&said) {
            text.push_str(&format!(": {said}"));
        }
        cause = source.source();
    }
    text
}

/// Runs what blocks for some seconds beside the runtime's threads.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CommandError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| CommandError::System(error.into()))
}

/// The level that a host reaches, for people.
pub(crate) fn named(level: Option<u8>) -> String {
    level.map_or_else(|| "none: it may not run machines".to_owned(), |level| level.to_string())
}

/// The report as lines, with what to do for each check that did not pass.
pub(crate) fn table(report: &Report) -> Vec<String> {
    let width = report.findings.iter().map(|finding| finding.check.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for finding in &report.findings {
        let (check, status) = (finding.check, finding.status);
        lines.push(format!("{:<7}  {:<width$}  {}", status.as_str(), check.name, finding.found));
        if status != Status::Pass {
            let indent = " ".repeat(7 + 2 + width + 2);
            lines.push(format!("{indent}wanted {}: {}", check.needs, check.wants));
            lines.push(format!("{indent}to do: {}", check.remedy));
        }
    }
    lines.push(format!(
        "level reached: {} (asked for: {}; the highest is {LEVEL_MOST})",
        named(report.level),
        report.asked
    ));
    lines
}

/// Reads `CLASS=GIB`.
pub(crate) fn storage(text: &str) -> Result<(String, u64), String> {
    let (class, size) = text.split_once('=').ok_or("it must be CLASS=GIB, as in fast=500")?;
    let size = size.parse().map_err(|_| format!("`{size}` is not a number of GiB"))?;
    Ok((class.to_owned(), size))
}

#[cfg(test)]
mod tests {
    use fairmazon_host::standard::Finding;

    use super::*;

    #[tokio::test]
    async fn a_prover_knows_what_the_driver_runs_guests_with() {
        let folders =
            Folders { storage_dir: None, libvirt: None, runtime_dir: None, root: "/".into() };
        let offered =
            Offered { storage: Vec::new(), country: None, latitude: None, longitude: None };
        let alone = Machine::new(folders, offered, None, None);
        let proven = Accelerator::prove().unwrap();
        assert_eq!(alone.facts(None).await.unwrap().hypervisor.driver, None);
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
            let machine = alone.clone().driven_with(accelerator);
            let facts = machine.facts(None).await.unwrap();
            assert_eq!(facts.hypervisor.driver, Some(boots(accelerator)));
            // A look that strains nothing has it still.
            let again = machine.facts(Some(&facts)).await.unwrap();
            assert_eq!(again.hypervisor.driver, Some(boots(accelerator)));
            let report = Report::new(&facts, 1);
            let hardware = |one: &&Finding| one.check.name == "hardware-virtualisation";
            let kept = report.findings.iter().find(hardware).unwrap().status == Status::Pass;
            assert_eq!(kept, (proven, accelerator) == (Accelerator::Kvm, Accelerator::Kvm));
        }
    }
}
