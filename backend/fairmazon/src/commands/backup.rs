//! `fairmazon backup`: a consistent copy of a store that no broker has open.

use std::path::PathBuf;

use clap::Args;

use crate::{error::CommandError, folder::Folder, output, platform::open_store};

/// Copies the store of a data folder.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The data folder of the broker, which must not be running.
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
        let folder = Folder::open(&self.data_dir)?;
        let store = open_store(&folder).await?;
        let copied = store.backup(&self.to).await;
        let closed = store.close().await;
        let failed = |source| CommandError::Store { path: folder.database(), source };
        copied.map_err(failed)?;
        closed.map_err(failed)?;
        output::line(&format!("copied to {}", self.to.display()));
        Ok(())
    }
}
