//! `fairmazon backup`: a consistent copy of a broker's store, also of one that is in use.

use std::path::PathBuf;

use clap::Args;
use fairmazon_store::sqlite;

use crate::{error::CommandError, folder::Folder, output};

/// Copies the store of a data folder; the broker may go on running.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The data folder of the broker.
    #[arg(long, visible_alias = "data", value_name = "FOLDER")]
    data_dir: PathBuf,
    /// The file to write; it must not exist.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

impl Backup {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        if !self.data_dir.join("fairmazon.db").exists() {
            let reason = format!("{} is not the data folder of a broker", self.data_dir.display());
            return Err(CommandError::Usage(reason));
        }
        let path = Folder::open(&self.data_dir)?.database();
        let (from, to) = (path.clone(), self.to.clone());
        let copied = tokio::task::spawn_blocking(move || sqlite::back_up(&from, &to)).await;
        copied
            .map_err(|error| CommandError::System(error.into()))?
            .map_err(|source| CommandError::Store { path, source })?;
        output::line(&format!("copied to {}", self.to.display()));
        Ok(())
    }
}
