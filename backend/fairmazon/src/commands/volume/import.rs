//! `fairmazon volume import`: an exported file becomes a snapshot of the platform.
//!
//! The file goes as it is. Its key is taken out of what was wrapped beside it, sealed to the host
//! that the platform has chosen, and wrapped anew.

use std::path::{Path, PathBuf};

use clap::Args;
use fairmazon_hypervisor_libvirt::qemu::{VolumeFileFacts, inspect_exported};
use fairmazon_keys::VolumeKey;
use fairmazon_model::{
    key::FIRST_KEY_VERSION,
    placement::Placement,
    transfer::Sha256,
    volume::{Import as ImportSpec, VolumeSpec},
};
use fairmazon_proto::v1::{
    ConfirmCreatedRequest, operations_service_client::OperationsServiceClient,
    volumes_service_client::VolumesServiceClient,
};

use super::{
    open::{key_beside, open_key},
    operation::{create, delete, finish},
    upload::upload,
};
use crate::{
    client::{Client, ClientOptions, refused},
    commands::key::Giver,
    error::CommandError,
    keys, output,
    signals::Signals,
};

/// Which file, with what, and as what.
#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    client: ClientOptions,
    /// The exported volume.
    file: PathBuf,
    /// Its wrapped key [default: FILE.key].
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The file with your identity, which the key is wrapped for.
    #[arg(long, env = "FAIRMAZON_KEY_FILE", value_name = "FILE")]
    identity: PathBuf,
    /// The authority that signs for the platform's hosts [default: that of --ca-certificate].
    #[arg(long, env = "FAIRMAZON_HOST_AUTHORITY", value_name = "FILE")]
    host_authority: Option<PathBuf>,
    /// What the snapshot is called.
    #[arg(long)]
    name: String,
    /// Its storage class.
    #[arg(long, default_value = "standard")]
    class: String,
    /// A country that it may be in, as `DE`; may be given several times [default: any].
    #[arg(long, value_name = "CODE")]
    country: Vec<String>,
    /// A region that it may be in; may be given several times [default: any].
    #[arg(long)]
    region: Vec<String>,
    /// A label; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Import {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let mut signals = Signals::listen()?;
        let path = self.key.clone().unwrap_or_else(|| key_beside(&self.file));
        let (_, key) = open_key(&path, &self.identity)?;
        let facts = tokio::select! {
            () = signals.end() => return Err(CommandError::Interrupted),
            facts = inspect(&self.file) => facts?,
        };
        let spec = self.spec(&facts);
        spec.check().map_err(CommandError::refused("unable to import the file"))?;
        let mut giver = Giver::new(&self.client, &self.identity, self.host_authority.clone())?;
        let client = self.client.connect().await?;
        let (id, operation) = begin(&client, &spec, &key).await?;
        let (id, file) = (id.as_str(), self.file.display());
        let work = async {
            let mut volumes = VolumesServiceClient::new(client.clone());
            giver.give_of(&mut volumes, id, Some(&key)).await?;
            upload(&client, id, &self.file).await?;
            let what = format!("unable to import {file}");
            finish(&client, &operation, &what, None).await
        };
        let done = tokio::select! {
            () = signals.end() => Err(CommandError::Interrupted),
            done = work => done,
        };
        if let Err(error) = done {
            return Err(given_up(&client, id, error).await);
        }
        let request = ConfirmCreatedRequest {
            ids: vec![id.to_owned()],
            idempotency_key: keys::idempotency()?,
        };
        let confirmed = OperationsServiceClient::new(client.clone()).confirm_created(request).await;
        confirmed.map_err(refused(format!("unable to confirm {id}")))?;
        output::line(&format!("{id}: {file}, {} as a snapshot", facts.size));
        output::line("a fairmazon_volume with it as `source` can be written to");
        Ok(())
    }

    fn spec(&self, facts: &VolumeFileFacts) -> VolumeSpec {
        VolumeSpec {
            name: self.name.clone(),
            size: facts.size,
            class: self.class.clone(),
            source: None,
            image: None,
            import: Some(ImportSpec { bytes: facts.bytes, sha256: facts.sha256 }),
            read_only: true,
            key_version: FIRST_KEY_VERSION,
            placement: Placement {
                countries: self.country.iter().cloned().collect(),
                regions: self.region.iter().cloned().collect(),
                ..Placement::default()
            },
            deletion_protection: false,
            labels: self.label.iter().cloned().collect(),
        }
    }
}

/// What a file is.
async fn inspect(file: &Path) -> Result<VolumeFileFacts, CommandError> {
    let path = file.to_owned();
    let facts = tokio::task::spawn_blocking(move || inspect_exported(&path)).await;
    let facts = facts.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    facts.map_err(CommandError::file("read", file))?.map_err(|why| {
        let file = file.display();
        CommandError::Usage(format!("{file} is not the file of an exported volume: {why}"))
    })
}

/// Makes the volume; the same one for the same file with the same key, until that is there.
async fn begin(
    client: &Client,
    spec: &VolumeSpec,
    key: &VolumeKey,
) -> Result<(String, String), CommandError> {
    let content = serde_json::to_string(spec).unwrap_or_default() + &key.fingerprint();
    let idempotency_key = format!("import/{}", Sha256::of(content.as_bytes()));
    create(client, spec.into(), idempotency_key, "unable to begin the import").await
}

/// What becomes of an import that did not come about: what was refused goes, and what broke off
/// stays for the next attempt.
async fn given_up(client: &Client, id: &str, error: CommandError) -> CommandError {
    let is_refused = matches!(&error, CommandError::Refused { source, .. } if is_final(source));
    if !is_refused {
        output::note(&format!(
            "{id} waits for its file: the same command goes on within a day, `fairmazon volume \
             delete {id}` ends it"
        ));
        return error;
    }
    if let Err(error) = delete(client, id).await {
        output::error(&error);
        output::note(&format!("{id} is still there: `fairmazon volume delete {id}` removes it"));
    }
    error
}

/// Whether the same again would be refused again.
fn is_final(error: &fairmazon_model::DomainError) -> bool {
    use fairmazon_model::ErrorKind::{Invalid, NotFound, Precondition};
    matches!(error.kind, Invalid | NotFound | Precondition)
}
