//! The log: on standard error, as text or as lines of JSON.

use std::{error::Error, io};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::output::causes;

/// How to log.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// What to log: a level, or levels by module (`warn,fairmazon_broker=debug`).
    #[arg(
        long,
        global = true,
        env = "FAIRMAZON_LOG",
        default_value = "warn",
        value_name = "FILTER"
    )]
    log: String,
    /// The form of the log.
    #[arg(long, global = true, env = "FAIRMAZON_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl LogOptions {
    /// Begins to log.
    pub(crate) fn start(&self) {
        let filter = EnvFilter::builder().parse_lossy(&self.log);
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        match self.log_format {
            LogFormat::Text => builder.with_ansi(false).init(),
            LogFormat::Json => builder.json().init(),
        }
    }

    /// Whether the log is read by programs.
    pub(crate) fn is_json(&self) -> bool {
        self.log_format == LogFormat::Json
    }
}

/// Logs as an object of JSON why a server has ended, whatever else is to be logged: who reads the
/// log has nothing else of it.
pub(crate) fn failure(error: &dyn Error) {
    let unfiltered = tracing_subscriber::fmt().json().with_writer(io::stderr).finish();
    let because = causes(error).reduce(|all, cause| format!("{all}: {cause}"));
    tracing::subscriber::with_default(unfiltered, || tracing::error!(because, "{error}"));
}
