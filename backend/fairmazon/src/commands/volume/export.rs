//! `fairmazon volume export`: a snapshot of the volume, and its file as the host has it.
//!
//! What is written is only encrypted: nothing here has the volume's key in the clear.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use fairmazon_model::{id::VolumeId, limits};
use fairmazon_proto::v1::{
    GetVolumeRequest, VolumeSpec, volumes_service_client::VolumesServiceClient,
};

use super::{
    download::{Unfinished, download},
    open::key_beside,
    operation::{create, delete, finish},
};
use crate::{
    client::{Client, ClientOptions, refused},
    commands::{key::Giver, with_ending},
    error::CommandError,
    keys, output,
    signals::Signals,
};

/// Which volume, and where to.
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    client: ClientOptions,
    /// A volume, of which a snapshot is made for this, or a snapshot.
    volume: VolumeId,
    /// Where to: a file that is not there yet. The wrapped key is written to FILE.key.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The file with your identity, which the key of the snapshot is wrapped for; a snapshot that
    /// is there already needs none.
    #[arg(long, env = "FAIRMAZON_KEY_FILE", value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The authority that signs for the platform's hosts [default: that of --ca-certificate].
    #[arg(long, env = "FAIRMAZON_HOST_AUTHORITY", value_name = "FILE")]
    host_authority: Option<PathBuf>,
}

impl Export {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let mut signals = Signals::listen()?;
        if fs::symlink_metadata(&self.to).is_ok() {
            let path = self.to.display();
            return Err(CommandError::Usage(format!("{path} is there already: give another path")));
        }
        let client = self.client.connect().await?;
        let id = self.volume.to_string();
        let mut volumes = VolumesServiceClient::new(client.clone());
        let volume = volumes.get_volume(GetVolumeRequest { id }).await;
        let volume = volume.map_err(refused(format!("unable to find {}", self.volume)))?;
        let volume = volume.into_inner();
        let spec = volume.spec.unwrap_or_default();
        let bytes = if spec.read_only {
            tokio::select! {
                () = signals.end() => return Err(CommandError::Interrupted),
                bytes = download(&client, &volume.id, &self.to, Unfinished::Stays) => bytes?,
            }
        } else {
            self.by_snapshot(&client, spec, &mut signals).await?
        };
        let (file, key) = (self.to.display(), key_beside(&self.to));
        let key = key.display();
        output::line(&format!("{file}: {}, {bytes} bytes; its wrapped key is {key}", self.volume));
        output::line(
            "`fairmazon volume open` decrypts it with your identity, and nothing else does",
        );
        Ok(())
    }

    /// Makes a snapshot, exports that and removes it, whatever becomes of it.
    async fn by_snapshot(
        &self,
        client: &Client,
        spec: VolumeSpec,
        signals: &mut Signals,
    ) -> Result<u64, CommandError> {
        let identity = self.identity.as_ref().ok_or_else(|| {
            CommandError::Usage(
                "the key of the snapshot is wrapped for your identity: give --identity".into(),
            )
        })?;
        let mut giver = Giver::new(&self.client, identity, self.host_authority.clone())?;
        for path in [with_ending(&self.to, ".part"), key_beside(&self.to)] {
            if fs::symlink_metadata(&path).is_ok() {
                return Err(CommandError::Usage(format!(
                    "{} is there, of another export: remove it or give another path",
                    path.display()
                )));
            }
        }
        let what = format!("unable to make a snapshot of {}", self.volume);
        let spec = snapshot(self.volume, spec);
        let (id, operation) = create(client, spec, keys::idempotency()?, &what).await?;
        let export = async {
            finish(client, &operation, &what, Some((&mut giver, &id))).await?;
            // A host that does not encrypt has not waited for it.
            giver.give_of(&mut VolumesServiceClient::new(client.clone()), &id, None).await?;
            output::note(&format!("the snapshot {id} is made, and is sent now"));
            download(client, &id, &self.to, Unfinished::Goes).await
        };
        let result = tokio::select! {
            () = signals.end() => Err(CommandError::Interrupted),
            result = export => result,
        };
        let deleted = tokio::select! {
            () = signals.end() => Err(CommandError::Interrupted),
            deleted = delete(client, &id) => deleted,
        };
        if let Err(error) = deleted {
            output::error(&error);
            output::note(&format!(
                "the snapshot {id} is still there and costs: remove it with `fairmazon volume \
                 delete {id}`"
            ));
        }
        result
    }
}

/// A snapshot of a volume for the time of its export.
fn snapshot(source: VolumeId, spec: VolumeSpec) -> VolumeSpec {
    let name = format!("export of {}", spec.name);
    let name: String = name.chars().take(limits::NAME_MAX).collect();
    VolumeSpec {
        name: name.trim_end_matches(|end: char| !end.is_alphanumeric()).to_owned(),
        size_gib: spec.size_gib,
        class: spec.class,
        source_volume_id: source.to_string(),
        read_only: true,
        ..VolumeSpec::default()
    }
}

/// Makes what was renamed or made in the folder of a file durable.
pub(super) fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_a_name_that_is_allowed() {
        for name in ["data", &"x".repeat(63), &format!("{}-b", "a".repeat(52)), "a.b"] {
            let spec = VolumeSpec { name: name.to_owned(), ..VolumeSpec::default() };
            let made = snapshot(VolumeId::from_parts(1, 1), spec);
            limits::check_name(&made.name).unwrap();
            assert!(made.read_only);
        }
    }
}
