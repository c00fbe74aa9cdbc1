//! A file on its way to the host of a volume that is made from it: goes on where it broke off.

use std::{io::SeekFrom, path::Path};

use fairmazon_model::transfer::CHUNK;
use fairmazon_proto::v1::{
    ImportVolumeRequest, ImportVolumeResponse, import_volume_request, import_volume_response::Part,
    volumes_service_client::VolumesServiceClient,
};
use futures::stream;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    sync::mpsc,
};
use tonic::{Status, Streaming};

use super::attempts::{Attempts, Ended};
use crate::{client::Client, error::CommandError, keys};

/// Messages that wait for the way there.
const WAITING: usize = 2;

/// Sends what the volume's host has not got of a file.
pub(super) async fn upload(client: &Client, volume: &str, path: &Path) -> Result<(), CommandError> {
    let what = format!("unable to import {}", path.display());
    let mut attempts = Attempts::new("the import".to_owned(), what);
    let mut volumes = VolumesServiceClient::new(client.clone());
    let mut reached = 0;
    // The same for all attempts: they are one import.
    let key = keys::idempotency()?;
    loop {
        let mut upload = Upload { volumes: &mut volumes, volume, path, key: &key, at: 0 };
        let Err(ended) = upload.attempt().await else { return Ok(()) };
        if upload.at > reached {
            reached = upload.at;
            attempts.went_on();
        }
        attempts.again(ended).await?;
    }
}

struct Upload<'a> {
    volumes: &'a mut VolumesServiceClient<Client>,
    volume: &'a str,
    path: &'a Path,
    key: &'a str,
    /// Up to where the file was sent.
    at: u64,
}

impl Upload<'_> {
    /// Sends the rest from where the host has it.
    async fn attempt(&mut self) -> Result<(), Ended> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let volume = import_volume_request::Part::VolumeId(self.volume.to_owned());
        let first =
            ImportVolumeRequest { part: Some(volume), idempotency_key: self.key.to_owned() };
        let requests = stream::unfold(receiver, |mut receiver: mpsc::Receiver<_>| async move {
            Some((receiver.recv().await?, receiver))
        });
        // There is room for the first.
        let _ = sender.try_send(first);
        let mut answers = self.volumes.import_volume(requests).await?.into_inner();
        let (mut at, all) = match next(&mut answers).await? {
            Part::Begin(begin) => (begin.offset, begin.total_bytes),
            Part::Stored(_) => return Ok(()),
        };
        let failed = |error| Ended::Failed(CommandError::file("read", self.path)(error));
        let mut file = File::open(self.path).await.map_err(failed)?;
        file.seek(SeekFrom::Start(at)).await.map_err(failed)?;
        while at < all {
            let mut data = Vec::with_capacity(CHUNK);
            let most = (all - at).min(CHUNK as u64);
            let read = (&mut file).take(most).read_to_end(&mut data).await.map_err(failed)?;
            if read == 0 {
                let path = self.path.display();
                return Err(Ended::Failed(CommandError::Usage(format!(
                    "{path} has become shorter: something else changes it; import what it is now"
                ))));
            }
            at += read as u64;
            let part = Some(import_volume_request::Part::Data(data));
            let data = ImportVolumeRequest { part, ..Default::default() };
            tokio::select! {
                // Before all was sent this is an error.
                answer = next(&mut answers) => {
                    answer?;
                    return Err(Status::unavailable("the platform ended the import early").into());
                }
                sent = sender.send(data) => match sent {
                    Ok(()) => self.at = at,
                    Err(_) => {
                        next(&mut answers).await?;
                        return Err(Status::unavailable("the platform has hung up").into());
                    }
                },
            }
        }
        drop(sender);
        next(&mut answers).await?;
        Ok(())
    }
}

async fn next(answers: &mut Streaming<ImportVolumeResponse>) -> Result<Part, Status> {
    let answer = answers.message().await?;
    let part = answer.and_then(|answer| answer.part);
    part.ok_or_else(|| Status::unavailable("the platform has hung up"))
}
