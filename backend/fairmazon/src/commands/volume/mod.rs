//! `fairmazon volume`: lists volumes, exports them, and imports and opens what was exported.

mod attempts;
mod download;
mod export;
mod import;
mod open;
mod operation;
mod upload;

use clap::{Args, Subcommand};
use fairmazon_model::id::VolumeId;
use fairmazon_proto::v1::{
    self, ListVolumesRequest, Page, volumes_service_client::VolumesServiceClient,
};

use crate::{
    client::{ClientOptions, refused},
    error::CommandError,
    output,
};

/// Lists, deletes, exports, imports and opens volumes.
#[derive(Debug, Args)]
pub(crate) struct Volume {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the data volumes and snapshots of the account.
    List {
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Delete a volume or a snapshot with its data.
    Delete {
        #[command(flatten)]
        client: ClientOptions,
        /// Which.
        volume: VolumeId,
    },
    /// Write a volume to a file, encrypted as it is on its host; also while it is in use.
    ///
    /// The file is qcow2 with LUKS, and its key lies beside it, wrapped for your identity.
    Export(export::Export),
    /// Make a snapshot of an exported volume: on this platform or another one, with the identity
    /// that its key is wrapped for.
    ///
    /// The file is sent encrypted as it is. The same command goes on with what was interrupted.
    Import(import::Import),
    /// Decrypt an exported volume: needs your identity and nothing of the platform.
    Open(open::Open),
}

impl Volume {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self.action {
            Action::List { client } => list(&client).await,
            Action::Delete { client, volume } => {
                operation::delete(&client.connect().await?, &volume.to_string()).await
            }
            Action::Export(export) => export.run().await,
            Action::Import(import) => import.run().await,
            Action::Open(open) => open.run().await,
        }
    }
}

async fn list(client: &ClientOptions) -> Result<(), CommandError> {
    let mut volumes = VolumesServiceClient::new(client.connect().await?);
    let mut token = String::new();
    loop {
        let request = ListVolumesRequest { page: Some(Page { size: 0, token }), filter: None };
        let page = volumes.list_volumes(request).await;
        let page = page.map_err(refused("unable to list the volumes"))?.into_inner();
        for volume in &page.volumes {
            output::line(&line(volume));
        }
        token = page.next_page_token;
        if token.is_empty() {
            return Ok(());
        }
    }
}

/// Id, state, size, class, what it is of, to what it is attached, name.
fn line(volume: &v1::Volume) -> String {
    let spec = volume.spec.clone().unwrap_or_default();
    let state = volume.state().as_str_name().trim_start_matches("VOLUME_STATE_").to_lowercase();
    let source = match (spec.source_volume_id.as_str(), spec.read_only) {
        ("", true) => "imported".to_owned(),
        ("", _) if !spec.image.is_empty() => format!("image {}", spec.image),
        ("", _) => "-".to_owned(),
        (source, true) => format!("snapshot of {source}"),
        (source, false) => format!("copy of {source}"),
    };
    let attached = if volume.attached_to.is_empty() { "-" } else { &volume.attached_to };
    let (id, size, class, name) = (&volume.id, spec.size_gib, spec.class, spec.name);
    format!("{id}\t{state}\t{size} GiB\t{class}\t{source}\t{attached}\t{name}")
}
