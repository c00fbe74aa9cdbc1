//! Volumes that are made from files: what has come of a file, and its end as a volume or as
//! nothing. Its name says what room it was promised, so that a restarted process knows.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    str::FromStr,
};

use fairmazon_hypervisor::{HypervisorError, Incoming, Result, VolumeKey, VolumeSink};
use fairmazon_model::{id::VolumeId, machine::HostVolume, units::Gib, volume::Import};

use super::{
    files::{Files, failed, publish, remove},
    foreign, tool,
};

/// What ends the name of a file that comes, behind the volume's id and its size in GiB.
const COMING: &str = ".coming";

/// A file that comes.
#[derive(Debug)]
pub(super) struct Coming {
    pub(super) volume: VolumeId,
    /// The room that it was promised.
    pub(super) size: Gib,
    path: PathBuf,
}

impl Files {
    /// Takes the room of a volume and opens what is there of its file. The caller sees to it that
    /// only one volume is made or grown at a time.
    pub(super) fn begin_import(&self, wish: &HostVolume) -> Result<VolumeSink> {
        let path = self.coming_path(wish);
        if !path.exists() {
            // What came for another promise is of no use.
            self.drop_import(wish.volume)?;
            self.require_room(&wish.class, wish.size)?;
        }
        let open = OpenOptions::new().append(true).create(true).open(&path);
        let file = lock(open.map_err(failed("take", wish.volume))?, wish.volume)?;
        let offset = file.metadata().map_err(failed("take", wish.volume))?.len();
        Ok(VolumeSink { offset, writer: Box::new(tokio::fs::File::from_std(file)) })
    }

    /// Proves what has come, and makes it the volume; it is gone when it is not what was promised.
    pub(super) async fn finish_import(
        &self,
        wish: &HostVolume,
        import: Import,
        key: &VolumeKey,
    ) -> Result<()> {
        let path = self.coming_path(wish);
        let not_whole = || HypervisorError::busy(wish.volume, "its file is not all there");
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_whole()),
            other => lock(other.map_err(failed("read", wish.volume))?, wish.volume)?,
        };
        if file.metadata().map_err(failed("read", wish.volume))?.len() != import.bytes {
            return Err(not_whole());
        }
        let proven = prove(file, &path, wish, import, key).await;
        if let Err(HypervisorError::BadFile { .. } | HypervisorError::KeyWrong { .. }) = &proven {
            remove(&path).map_err(failed("remove the file of", wish.volume))?;
        }
        let _file = proven?;
        let last = self.path(&wish.class, wish.volume);
        publish(&path, &last).await.map_err(failed("make", wish.volume))
    }

    /// Removes what has come of a volume's file.
    pub(super) fn drop_import(&self, volume: VolumeId) -> Result<()> {
        for coming in self.coming()?.into_iter().filter(|coming| coming.volume == volume) {
            let file = File::open(&coming.path).map_err(failed("read", volume))?;
            let _file = lock(file, volume)?;
            remove(&coming.path).map_err(failed("remove the file of", volume))?;
        }
        Ok(())
    }

    /// What has come of all files.
    pub(super) fn incoming(&self) -> Result<Vec<Incoming>> {
        let mut incoming = Vec::new();
        for Coming { volume, path, .. } in self.coming()? {
            match fs::metadata(&path) {
                Ok(there) => incoming.push(Incoming { volume, bytes: there.len() }),
                // It has become a volume meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // It is there, and whoever writes to it or removes it is told why that does not work.
                Err(error) => {
                    tracing::error!(%volume, %error, "the file that comes for a volume can't be read");
                    incoming.push(Incoming { volume, bytes: 0 });
                }
            }
        }
        incoming.sort_unstable_by_key(|incoming| incoming.volume);
        Ok(incoming)
    }

    fn coming(&self) -> Result<Vec<Coming>> {
        self.require_here()?;
        let mut coming = Vec::new();
        for class in self.classes() {
            coming.extend(self.coming_of(class)?);
        }
        Ok(coming)
    }

    /// The files that come to a class.
    pub(super) fn coming_of(&self, class: &str) -> Result<Vec<Coming>> {
        let listing = |source: io::Error| HypervisorError::Driver {
            attempted: "list the files that come".into(),
            source: source.into(),
        };
        let mut coming = Vec::new();
        for entry in fs::read_dir(self.folder(class)).map_err(listing)? {
            let path = entry.map_err(listing)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let parts = name.and_then(|name| name.strip_suffix(COMING)?.split_once('.'));
            let Some((Ok(volume), Ok(size))) =
                parts.map(|(id, size)| (VolumeId::from_str(id), size.parse()))
            else {
                continue;
            };
            coming.push(Coming { volume, size: Gib(size), path });
        }
        Ok(coming)
    }

    fn coming_path(&self, wish: &HostVolume) -> PathBuf {
        self.folder(&wish.class).join(format!("{}.{}{COMING}", wish.volume, wish.size.0))
    }
}

/// The file, for this one alone.
fn lock(file: File, volume: VolumeId) -> Result<File> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(HypervisorError::busy(volume, "another transfer writes its file"))
        }
        Err(TryLockError::Error(error)) => Err(failed("lock the file of", volume)(error)),
    }
}

/// Whether a file is what was promised: its bytes, its headers, all of its tables, and its key.
async fn prove(
    file: File,
    path: &Path,
    wish: &HostVolume,
    import: Import,
    key: &VolumeKey,
) -> Result<File> {
    let (volume, size) = (wish.volume, wish.size);
    let read = move || -> io::Result<(File, std::result::Result<(), String>)> {
        let judged = judge(&file, size, import)?;
        Ok((file, judged))
    };
    let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    let (file, judged) = read.map_err(failed("read the file of", volume))?;
    judged.map_err(|why| HypervisorError::bad_file(volume, format!("{why}; export it again")))?;
    tool::check(path, volume, key).await?;
    Ok(file)
}

fn judge(file: &File, size: Gib, import: Import) -> io::Result<std::result::Result<(), String>> {
    if foreign::hash(file)? != (import.bytes, import.sha256) {
        return Ok(Err("its bytes are not those that were promised".into()));
    }
    Ok(foreign::headers(file)?.and_then(|found| {
        if found == size {
            return Ok(());
        }
        Err(format!("it is of a volume of {found}, and one of {size} was promised"))
    }))
}
