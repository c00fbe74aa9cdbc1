//! `fairmazon host check`: proves the host standard on this machine, and says what to do.

use std::path::PathBuf;

use clap::Args;
use fairmazon_host::standard::{LEVEL_MOST, Report};
use serde::Serialize;

use crate::{
    commands::host_moves::Moves,
    error::CommandError,
    output,
    standard::{Folders, Machine, Offered, named, table},
};

/// What to prove, and what this machine can't know of itself.
#[derive(Debug, Args)]
pub(crate) struct HostCheck {
    /// The host standard level to reach, 0 to 3.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(..=i64::from(LEVEL_MOST)))]
    level: u8,
    /// Write JSON in place of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folders: Folders,
    #[command(flatten)]
    offered: Offered,
    /// Where the agent keeps its state.
    #[arg(long, env = "FAIRMAZON_HOST_STATE", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// The broker, as `https://HOST:PORT`.
    #[arg(long, env = "FAIRMAZON_BROKER", value_name = "URL")]
    broker: Option<String>,
    #[command(flatten)]
    moves: Moves,
}

impl HostCheck {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let (asked, json) = (self.level, self.json);
        let machine = Machine::new(self.folders, self.offered, self.state_dir, self.broker);
        let report = machine.report(asked).await?;
        let alone = self.moves.is_out_of_reach();
        if json {
            output::line(&as_json(&report, alone.as_deref())?);
        } else {
            table(&report).iter().for_each(|line| output::line(line));
            if let Some(why) = alone {
                output::note(&format!("note: no other host reaches this one: {why}"));
            }
        }
        if report.reached() {
            Ok(())
        } else {
            Err(CommandError::BelowStandard { asked, level: named(report.level) })
        }
    }
}

fn as_json(report: &Report, out_of_reach: Option<&str>) -> Result<String, CommandError> {
    #[derive(Serialize)]
    struct Whole<'a> {
        reached: bool,
        out_of_reach: Option<&'a str>,
        #[serde(flatten)]
        report: &'a Report,
    }
    serde_json::to_string_pretty(&Whole { reached: report.reached(), out_of_reach, report })
        .map_err(|error| CommandError::System(error.into()))
}
