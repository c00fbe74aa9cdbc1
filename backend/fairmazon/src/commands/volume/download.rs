//! The file of a snapshot, from its host to a file here: goes on where it broke off.

use std::{
    fs::{self, TryLockError},
    io, mem,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use fairmazon_proto::v1::{
    ExportHeader, ExportVolumeRequest, GetWrappedKeyRequest, export_volume_response::Part,
    volumes_service_client::VolumesServiceClient,
};
use tokio::{fs::File, io::AsyncWriteExt, time::timeout};
use tonic::Status;

use super::{
    attempts::{Attempts, Ended},
    export::sync_folder,
    open::key_beside,
};
use crate::{
    client::{Client, refused},
    commands::with_ending,
    error::CommandError,
};

/// No byte behind a multiple of this is written before all those ahead of it are durable.
const DURABLE_EVERY: u64 = 4 * 1024 * 1024;
/// How long nothing may come: the platform ends a transfer before that.
const SILENT: Duration = Duration::from_secs(90);

/// What becomes of a file that is not whole when nothing goes on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// The same command goes on with it.
    Stays,
    /// Its snapshot goes, and it with its key is of no use then.
    Goes,
}

/// Writes the file of a snapshot to `to` and its wrapped key beside it; how many bytes it has.
///
/// It is called `to` only once all of it is there and durable; what an earlier call has got of the
/// same snapshot is not asked for again.
pub(super) async fn download(
    client: &Client,
    snapshot: &str,
    to: &Path,
    unfinished: Unfinished,
) -> Result<u64, CommandError> {
    let what = format!("unable to export {snapshot}");
    let mut volumes = VolumesServiceClient::new(client.clone());
    let request = GetWrappedKeyRequest { volume_id: snapshot.to_owned() };
    let key = volumes.get_wrapped_key(request).await.map_err(refused(what.clone()))?;
    let key = key.into_inner().wrapped;
    let (part, beside) = (with_ending(to, ".part"), key_beside(to));
    // Until what is left has been removed.
    let lock = lock(&part)?;
    let mut rest = Rest { part, key: beside, unfinished: Unfinished::Stays };
    let mut download = Download::begin(&rest, &lock, key)?;
    // What another export has is never removed: from here on both are this one's.
    rest.unfinished = unfinished;
    let mut attempts = Attempts::new(format!("the export of {snapshot}"), what);
    let bytes = loop {
        let from = download.at;
        let ended = match download.attempt(&mut volumes, snapshot).await {
            Ok(bytes) => break bytes,
            Err(ended) => ended,
        };
        if download.at > from {
            attempts.went_on();
        }
        attempts.again(ended).await?;
    };
    download.finish(to, bytes, &mut rest).await?;
    Ok(bytes)
}

/// Opens the file for this process alone.
fn lock(part: &Path) -> Result<fs::File, CommandError> {
    let in_use = || {
        CommandError::Usage(format!(
            "another export writes to {}: wait until it has ended, or give another path",
            part.display()
        ))
    };
    let mut options = fs::OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(part);
    let file = file.map_err(CommandError::file("write", part))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use()),
        Err(TryLockError::Error(error)) => return Err(CommandError::file("lock", part)(error)),
    }
    // The one that had it may have given it its name, or removed it, since it was opened.
    let ours = file.metadata().map_err(CommandError::file("read", part))?;
    match fs::metadata(part) {
        Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => Ok(file),
        _ => Err(in_use()),
    }
}

/// What is left when nothing goes on.
struct Rest {
    part: PathBuf,
    key: PathBuf,
    unfinished: Unfinished,
}

impl Drop for Rest {
    fn drop(&mut self) {
        if self.unfinished == Unfinished::Goes {
            // Those that are not there are as well.
            let _ = fs::remove_file(&self.part);
            let _ = fs::remove_file(&self.key);
        }
    }
}

/// Writes the key, unless it is there with `at` bytes of the file.
fn keep_key(rest: &Rest, key: &[u8], at: u64) -> Result<(), CommandError> {
    let path = &rest.key;
    match fs::read(path) {
        Ok(there) if there == key => Ok(()),
        Ok(_) => Err(CommandError::Usage(format!(
            "{} is the key of another export: give another path, or remove it if that export is \
             of no use any more",
            path.display()
        ))),
        // What was begun with another key is not gone on with.
        Err(error) if error.kind() == io::ErrorKind::NotFound && at > 0 => {
            Err(CommandError::Usage(format!(
                "{} is there and its key is not: remove it or give another path",
                rest.part.display()
            )))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fairmazon_broker::write_private(path, key).map_err(CommandError::file("write", path))
        }
        Err(error) => Err(CommandError::file("read", path)(error)),
    }
}

/// What there is of the file.
struct Download {
    part: PathBuf,
    file: File,
    key: Vec<u8>,
    at: u64,
}

impl Download {
    /// Writes the key of a file that is locked, or goes on with one that was begun with this key.
    fn begin(rest: &Rest, lock: &fs::File, key: Vec<u8>) -> Result<Self, CommandError> {
        let part = rest.part.clone();
        let has = lock.metadata().map_err(CommandError::file("read", &part))?.len();
        let kept = keep_key(rest, &key, has);
        if kept.is_err() && has == 0 && !rest.key.exists() {
            // Of no use without a key, and in the way too.
            let _ = fs::remove_file(&part);
        }
        kept?;
        // After a loss of power a file may be as long as it was and lack what was written last.
        let at = has.saturating_sub(1) / DURABLE_EVERY * DURABLE_EVERY;
        lock.set_len(at).map_err(CommandError::file("write", &part))?;
        let file = File::from_std(lock.try_clone().map_err(CommandError::file("write", &part))?);
        Ok(Self { part, file, key, at })
    }

    /// Asks for what is missing; all that the file has once all of it is there.
    async fn attempt(
        &mut self,
        volumes: &mut VolumesServiceClient<Client>,
        snapshot: &str,
    ) -> Result<u64, Ended> {
        let request = ExportVolumeRequest { volume_id: snapshot.to_owned(), offset: self.at };
        let mut parts = volumes.export_volume(request).await?.into_inner();
        let mut total = None;
        loop {
            let message = timeout(SILENT, parts.message()).await;
            let message =
                message.map_err(|_| Status::unavailable("nothing came for a while"))??;
            match (message.map(|message| message.part), total) {
                (Some(Some(Part::Header(header))), None) => {
                    self.check(&header)?;
                    total = Some(header.total_bytes);
                }
                (Some(Some(Part::Data(data))), Some(_)) => {
                    let written = self.write(&data).await;
                    written.map_err(|error| self.failed("write", error))?;
                }
                (None, Some(total)) if self.at == total => return Ok(total),
                _ => return Err(Status::unavailable("it came in no order").into()),
            }
        }
    }

    /// Appends what has come.
    async fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let behind = self.at % DURABLE_EVERY;
            if behind == 0 && self.at > 0 {
                self.file.flush().await?;
                self.file.sync_data().await?;
            }
            let room = usize::try_from(DURABLE_EVERY - behind).unwrap_or(usize::MAX);
            let (now, later) = data.split_at(room.min(data.len()));
            self.file.write_all(now).await?;
            self.at += now.len() as u64;
            data = later;
        }
        Ok(())
    }

    /// It is the file that was begun.
    fn check(&self, header: &ExportHeader) -> Result<(), Ended> {
        if header.wrapped_key == self.key && header.total_bytes >= self.at {
            return Ok(());
        }
        Err(Ended::Failed(CommandError::Usage(format!(
            "what {} has is of another snapshot or was changed: remove it and begin anew",
            self.part.display()
        ))))
    }

    /// Gives the file its name once it has all that was sent, durably, and nothing else.
    async fn finish(mut self, to: &Path, bytes: u64, rest: &mut Rest) -> Result<(), CommandError> {
        // All of it is there, whatever it will be called.
        let unfinished = mem::replace(&mut rest.unfinished, Unfinished::Stays);
        let sync = async {
            self.file.flush().await?;
            self.file.sync_all().await?;
            self.file.metadata().await
        };
        let there = sync.await.map_err(CommandError::file("write", &self.part))?.len();
        if there != bytes {
            rest.unfinished = unfinished;
            return Err(CommandError::Usage(format!(
                "{} has {there} bytes and not {bytes}: something else has changed it; remove it \
                 and begin anew",
                self.part.display()
            )));
        }
        // Another one may have come meanwhile; a link takes no file's place.
        let called = match fs::hard_link(&self.part, to) {
            Ok(()) => fs::remove_file(&self.part),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            // A file system without links.
            Err(_) => fs::rename(&self.part, to),
        };
        let done = called.and_then(|()| sync_folder(to));
        done.map_err(CommandError::file("write", to))
    }

    fn failed(&self, verb: &'static str, error: io::Error) -> Ended {
        Ended::Failed(CommandError::file(verb, &self.part)(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_the_file_nor_its_key_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let rest = |part: &str, key: &str| Rest {
            part: folder.path().join(part),
            key: folder.path().join(key),
            unfinished: Unfinished::Stays,
        };
        for (part, key) in [("none/a.part", "a.key"), ("a.part", "none/a.key")] {
            let rest = rest(part, key);
            let begin = |lock| Download::begin(&rest, &lock, b"key".to_vec());
            assert!(lock(&rest.part).and_then(begin).is_err());
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{part} {key}");
        }
        let both = rest("a.part", "a.key");
        let begin = |key: &[u8]| Download::begin(&both, &lock(&both.part)?, key.to_vec());
        drop(begin(b"key").unwrap());
        assert!(begin(b"other").is_err());
        begin(b"key").unwrap();
    }
}
