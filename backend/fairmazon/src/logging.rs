//! The log: on standard error, as text or as lines of JSON.

use std::io;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

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

#[derive(Debug, Clone, Copy, ValueEnum)]
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
}
