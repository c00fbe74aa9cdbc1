//! `fairmazon host check`: proves the host standard on this machine, and says what to do.

use std::{error::Error, path::PathBuf, time::Duration};

use clap::Args;
use fairmazon_host::standard::{
    Boots, ClockFacts, Collector, Fact, HypervisorFacts, LEVEL_MOST, Location, Report, Status,
    collect,
};
use fairmazon_hypervisor_libvirt::{
    clock,
    qemu::{
        Accelerator,
        proof::{Versions, encryption},
    },
};
use serde::Serialize;

use crate::{commands::host::storage, error::CommandError, keys, output};

/// What to prove, and what this machine can't know of itself.
#[derive(Debug, Args)]
pub(crate) struct HostCheck {
    /// The host standard level to reach, 0 to 3.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(..=i64::from(LEVEL_MOST)))]
    level: u8,
    /// Write JSON in place of a table.
    #[arg(long)]
    json: bool,
    /// Folder of the volumes: it is measured, and a volume is made in it and removed.
    #[arg(long, value_name = "FOLDER")]
    storage_dir: Option<PathBuf>,
    /// Disk for guests, as CLASS=GIB. May be given several times.
    #[arg(long, value_parser = storage, value_name = "CLASS=GIB")]
    storage: Vec<(String, u64)>,
    /// Folder of the guests' consoles.
    #[arg(long, value_name = "FOLDER")]
    consoles: Option<PathBuf>,
    /// Where the agent keeps its state.
    #[arg(long, env = "FAIRMAZON_HOST_STATE", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// The broker, as `https://HOST:PORT`.
    #[arg(long, env = "FAIRMAZON_BROKER", value_name = "URL")]
    broker: Option<String>,
    /// The country, as two capital letters.
    #[arg(long)]
    country: Option<String>,
    /// Degrees north.
    #[arg(long, allow_negative_numbers = true)]
    latitude: Option<f64>,
    /// Degrees east.
    #[arg(long, allow_negative_numbers = true)]
    longitude: Option<f64>,
    /// What the system's files are under; programs, disk and network are those of this machine.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
}

impl HostCheck {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let (asked, json) = (self.level, self.json);
        let report = self.report().await?;
        if json {
            output::line(&as_json(&report)?);
        } else {
            table(&report).iter().for_each(|line| output::line(line));
        }
        if report.reached() {
            Ok(())
        } else {
            Err(CommandError::BelowStandard { asked, level: named(report.level) })
        }
    }

    /// What came of all checks.
    async fn report(self) -> Result<Report, CommandError> {
        let hypervisor = self.hypervisor().await?;
        let location = match (self.country, self.latitude, self.longitude) {
            (Some(country), Some(latitude), Some(longitude)) => {
                Some(Location { country, latitude, longitude })
            }
            _ => None,
        };
        let collector = Collector {
            root: self.root,
            storage: self.storage_dir,
            offered: self.storage,
            consoles: self.consoles,
            state: self.state_dir,
            broker: self.broker,
            location,
        };
        let facts = aside(move || collect(&collector, hypervisor)).await?;
        Ok(Report::new(&facts, self.level))
    }

    async fn hypervisor(&self) -> Result<HypervisorFacts, CommandError> {
        let encryption = match &self.storage_dir {
            Some(folder) => {
                Ok(encryption(folder, &keys::volume()?).await.map_err(|error| with_causes(&error)))
            }
            None => Err("not tried: give --storage-dir".to_owned()),
        };
        aside(|| {
            let versions = Versions::read();
            let known = |version: Option<(u32, u32)>, what: &str| {
                version.ok_or_else(|| format!("{what} does not start: it may not be installed"))
            };
            HypervisorFacts {
                guest: Ok(match Accelerator::prove() {
                    Some(Accelerator::Kvm) => Boots::Hardware,
                    Some(Accelerator::Tcg) => Boots::Software,
                    None => Boots::Not,
                }),
                encryption,
                qemu: known(versions.qemu, "QEMU"),
                libvirt: known(versions.libvirt, "libvirt's daemon"),
                clock: clock_facts(),
            }
        })
        .await
    }
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

fn named(level: Option<u8>) -> String {
    level.map_or_else(|| "none: it may not run machines".to_owned(), |level| level.to_string())
}

fn as_json(report: &Report) -> Result<String, CommandError> {
    #[derive(Serialize)]
    struct Whole<'a> {
        reached: bool,
        #[serde(flatten)]
        report: &'a Report,
    }
    serde_json::to_string_pretty(&Whole { reached: report.reached(), report })
        .map_err(|error| CommandError::System(error.into()))
}

fn table(report: &Report) -> Vec<String> {
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
