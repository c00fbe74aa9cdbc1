//! Volumes as files: qcow2 with LUKS in it, made under another name and renamed when whole.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    str::FromStr,
};

use fairmazon_hypervisor::{Damage, HypervisorError, Result, Volume, VolumeFile, VolumeKey};
use fairmazon_model::{host::Capacity, id::VolumeId, machine::HostVolume, units::Gib};
use parking_lot::Mutex;
use tokio::io::AsyncSeekExt;

use super::{
    anchors::Anchors,
    header::{self, Header},
    image::ImageDisk,
    tool,
};
use crate::LibvirtError;

const GIB: u64 = 1 << 30;
const SUFFIX: &str = ".qcow2";
/// What ends the name of a volume that is being made.
const HALF_MADE: &str = "new";

/// The volumes of a host.
#[derive(Debug)]
pub(super) struct Files {
    storage: PathBuf,
    capacity: Capacity,
    anchors: Anchors,
    /// The room that volumes are promised beyond what they have.
    growing: Mutex<HashMap<VolumeId, (String, Gib)>>,
}

/// Room that a volume is promised beyond what it has, until this is dropped.
pub(super) struct Room<'a> {
    files: &'a Files,
    volume: VolumeId,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.files.growing.lock().remove(&self.volume);
    }
}

/// A volume and its file.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) class: String,
    pub(super) path: PathBuf,
    pub(super) size: Gib,
}

impl Files {
    /// Finds or makes the folder of each storage class, by what is kept of them in `state`, and
    /// removes what an earlier process had begun to make there: there is one process of the agent at
    /// a time.
    pub(super) fn open(
        storage: PathBuf,
        state: &Path,
        capacity: Capacity,
    ) -> std::result::Result<Self, LibvirtError> {
        let anchors = Anchors::open(&storage, state, capacity.storage.keys())?;
        for class in capacity.storage.keys() {
            let path = storage.join(class);
            let failed = |source| LibvirtError::Folder { path: path.clone(), source };
            for entry in fs::read_dir(&path).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                let id = path.file_stem().and_then(OsStr::to_str).map(VolumeId::from_str);
                if path.extension() == Some(HALF_MADE.as_ref())
                    && matches!(id, Some(Ok(_)))
                    && let Err(error) = fs::remove_file(&path)
                {
                    let path = path.display();
                    tracing::error!(%path, %error, "what is left of a volume half made stays");
                }
            }
        }
        Ok(Self { storage, capacity, anchors, growing: Mutex::default() })
    }

    /// All volumes, those whose files can't be used as well: what is not listed is made anew.
    pub(super) fn list(&self) -> Result<Vec<Volume>> {
        self.anchors.require_all()?;
        let mut volumes = Vec::new();
        for class in self.capacity.storage.keys() {
            volumes.extend(self.list_class(class, SUFFIX)?);
        }
        volumes.sort_unstable_by_key(|found| found.volume);
        for Volume { volume, damage, .. } in &volumes {
            if let Some(damage) = damage {
                tracing::error!(%volume, ?damage, "the file of a volume can't be used");
            }
        }
        Ok(volumes)
    }

    /// One volume, also one whose file can't be used; none when it is not there.
    pub(super) fn look(&self, volume: VolumeId) -> Result<Option<Volume>> {
        for class in self.capacity.storage.keys() {
            if let Some(found) = seen(&self.path(class, volume), volume)? {
                return Ok(Some(found));
            }
        }
        self.anchors.require_all()?;
        Ok(None)
    }

    /// The file of a volume; none when it is not there.
    ///
    /// # Errors
    /// `Damaged` for one that can't be used.
    pub(super) fn find(&self, volume: VolumeId) -> Result<Option<Found>> {
        for class in self.capacity.storage.keys() {
            let path = self.path(class, volume);
            if let Some(size) = size(&path, volume)? {
                return Ok(Some(Found { class: class.clone(), path, size }));
            }
        }
        self.anchors.require_all()?;
        Ok(None)
    }

    /// Where a volume that is not there would be looked for.
    pub(super) fn nowhere(&self, volume: VolumeId) -> PathBuf {
        self.path("none", volume)
    }

    /// Begins to make a volume, of this size at first: takes its room. The caller sees to it that
    /// only one is begun or grown at a time.
    pub(super) async fn begin(
        &self,
        wish: &HostVolume,
        size: Gib,
        key: &VolumeKey,
    ) -> Result<HalfMade> {
        let new = HalfMade(self.path(&wish.class, wish.volume).with_extension(HALF_MADE));
        new.remove();
        self.require_room(&wish.class, wish.size)?;
        make(&new.0, size.0.saturating_mul(GIB), (wish.volume, key)).await?;
        Ok(new)
    }

    /// Fills a volume that was begun from an image, which takes as long as that is large.
    pub(super) async fn fill(
        &self,
        new: &HalfMade,
        wish: &HostVolume,
        image: &ImageDisk,
        key: &VolumeKey,
    ) -> Result<()> {
        let target = tool::image_options(&new.0);
        let arguments: [&OsStr; 6] = [
            "-n".as_ref(),
            "-f".as_ref(),
            image.format.as_ref(),
            "--target-image-opts".as_ref(),
            image.path.as_os_str(),
            &target,
        ];
        tool::run("qemu-img", Some("convert"), &arguments, (wish.volume, key), "fill").await
    }

    /// Gives a volume that was begun and filled its size and its name.
    pub(super) async fn finish(
        &self,
        new: HalfMade,
        wish: &HostVolume,
        size: Gib,
        key: &VolumeKey,
    ) -> Result<()> {
        if wish.size > size {
            resize(&new.0, wish.size, (wish.volume, key)).await?;
        }
        let last = self.path(&wish.class, wish.volume);
        new.finish(&last).await.map_err(failed("make", wish.volume))
    }

    /// Promises a volume what it lacks to this size. As for [`begin`](Self::begin), one at a time.
    pub(super) fn promise(&self, volume: VolumeId, found: &Found, to: Gib) -> Result<Room<'_>> {
        let more = to.saturating_sub(found.size);
        self.require_room(&found.class, more)?;
        self.growing.lock().insert(volume, (found.class.clone(), more));
        Ok(Room { files: self, volume })
    }

    /// Grows a volume that no machine has open.
    pub(super) async fn grow(
        &self,
        volume: VolumeId,
        found: &Found,
        to: Gib,
        key: &VolumeKey,
    ) -> Result<()> {
        let grown = resize(&found.path, to, (volume, key)).await;
        grown.map_err(|error| tool::judged(error, &found.path, volume))
    }

    /// The file of a volume as it is, from `offset` on.
    pub(super) async fn read(&self, volume: VolumeId, offset: u64) -> Result<VolumeFile> {
        let found = self.find(volume)?.ok_or_else(|| HypervisorError::not_found(volume))?;
        let open = async {
            let mut file = tokio::fs::File::open(&found.path).await?;
            let bytes = file.metadata().await?.len();
            file.seek(io::SeekFrom::Start(offset)).await?;
            Ok(VolumeFile { bytes, reader: Box::new(file) })
        };
        open.await.map_err(failed("read", volume))
    }

    pub(super) fn delete(&self, volume: VolumeId) -> Result<()> {
        for class in self.capacity.storage.keys() {
            let path = self.path(class, volume);
            // Also one whose data nobody can use any more.
            if seen(&path, volume)?.is_some() {
                return remove(&path).map_err(failed("delete", volume));
            }
        }
        // One that is not there is deleted, where all that is there is seen.
        self.anchors.require_all()
    }

    /// Volumes take their room as they are written to, so what was promised is what counts.
    pub(super) fn require_room(&self, class: &str, more: Gib) -> Result<()> {
        let full = || HypervisorError::Full { what: format!("storage of class `{class}`") };
        let room = *self.capacity.storage.get(class).ok_or_else(full)?;
        self.anchors.require(class)?;
        let mut promised = more;
        // Those that are being made have been promised their room, too.
        let half_made = self.list_class(class, &format!(".{HALF_MADE}"))?;
        for found in self.list_class(class, SUFFIX)?.into_iter().chain(half_made) {
            promised = promised.saturating_add(found.size);
        }
        for (_, more) in self.growing.lock().values().filter(|(of, _)| of == class) {
            promised = promised.saturating_add(*more);
        }
        for coming in self.coming_of(class)? {
            promised = promised.saturating_add(coming.size);
        }
        if promised > room { Err(full()) } else { Ok(()) }
    }

    fn list_class(&self, class: &str, suffix: &str) -> Result<Vec<Volume>> {
        let listing = |source: io::Error| HypervisorError::Driver {
            attempted: "list its volumes".into(),
            source: source.into(),
        };
        let mut volumes = Vec::new();
        for entry in fs::read_dir(self.folder(class)).map_err(listing)? {
            let entry = entry.map_err(listing)?;
            let name = entry.file_name();
            // What is not named by an id of the platform is not the platform's.
            let id = name.to_str().and_then(|name| name.strip_suffix(suffix));
            let Some(Ok(volume)) = id.map(VolumeId::from_str) else { continue };
            match seen(&entry.path(), volume) {
                Ok(Some(found)) => volumes.push(found),
                Ok(None) | Err(HypervisorError::Foreign { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(volumes)
    }

    pub(super) fn path(&self, class: &str, volume: VolumeId) -> PathBuf {
        self.folder(class).join(format!("{volume}{SUFFIX}"))
    }

    pub(super) fn folder(&self, class: &str) -> PathBuf {
        self.storage.join(class)
    }

    /// Refuses to believe what is seen of folders that are not those that this host had.
    pub(super) fn require_here(&self) -> Result<()> {
        self.anchors.require_all()
    }

    pub(super) fn classes(&self) -> impl Iterator<Item = &str> {
        self.capacity.storage.keys().map(String::as_str)
    }
}

/// The volume whose file this is, by its name.
pub(super) fn volume_of(path: &Path) -> Option<VolumeId> {
    path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.parse().ok()
}

/// Makes the file of an empty volume.
pub(super) async fn make(path: &Path, bytes: u64, key: (VolumeId, &VolumeKey)) -> Result<()> {
    let size = bytes.to_string();
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let arguments: [&OsStr; 7] = [
        "-q".as_ref(),
        "-f".as_ref(),
        "qcow2".as_ref(),
        "-o".as_ref(),
        options.as_ref(),
        path.as_os_str(),
        size.as_ref(),
    ];
    tool::run("qemu-img", Some("create"), &arguments, key, "make").await
}

async fn resize(path: &Path, to: Gib, key: (VolumeId, &VolumeKey)) -> Result<()> {
    let options = tool::image_options(path);
    let size = to.0.saturating_mul(GIB).to_string();
    let arguments: [&OsStr; 4] = ["-q".as_ref(), "--image-opts".as_ref(), &options, size.as_ref()];
    tool::run("qemu-img", Some("resize"), &arguments, key, "grow").await
}

/// The size of the volume in a file; none when there is no file. `Damaged` for one that can't be used.
fn size(path: &Path, volume: VolumeId) -> Result<Option<Gib>> {
    let Some((Volume { size, .. }, fault)) = look_at(path, volume)? else { return Ok(None) };
    let Some((damage, source)) = fault else { return Ok(Some(size)) };
    Err(HypervisorError::Damaged { what: volume.to_string(), damage, source })
}

/// The volume in a file, as it is seen; none when there is no file.
fn seen(path: &Path, volume: VolumeId) -> Result<Option<Volume>> {
    let found = look_at(path, volume)?;
    Ok(found.map(|(seen, fault)| Volume { damage: fault.map(|(damage, _)| damage), ..seen }))
}

/// Why a volume can't be used, and what was found.
type Fault = (Damage, Box<dyn std::error::Error + Send + Sync>);

fn look_at(path: &Path, volume: VolumeId) -> Result<Option<(Volume, Option<Fault>)>> {
    let takes = || Gib(fs::metadata(path).map_or(0, |file| file.len()).div_ceil(GIB));
    let looked = match Header::read(path) {
        Ok(Some(header)) if header.encrypted && !header.refers_to_others => {
            let size = Gib(header.bytes / GIB);
            header::missing(path)
                .map(|missing| (size, missing.map(|why| (Damage::Cut, why.into()))))
        }
        Ok(None) if fs::metadata(path).is_ok_and(|file| file.len() < Header::BYTES as u64) => {
            Ok((takes(), Some((Damage::Cut, "it is shorter than its header".into()))))
        }
        // No volume of ours is without encryption, so this one is somebody else's.
        Ok(_) => return Err(HypervisorError::Foreign { what: volume.to_string() }),
        Err(error) => Err(error),
    };
    let (size, fault) = match looked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => (takes(), Some((Damage::Unreadable, error.into()))),
        Ok(found) => found,
    };
    Ok(Some((Volume { volume, size, damage: None }, fault)))
}

pub(super) fn failed(verb: &str, volume: VolumeId) -> impl FnOnce(io::Error) -> HypervisorError {
    let attempted = format!("{verb} {volume}");
    move |error| match error.kind() {
        io::ErrorKind::StorageFull => tool::full(),
        _ => HypervisorError::Driver { attempted, source: error.into() },
    }
}

/// A volume that is being made; gone when it is dropped before it is whole.
pub(super) struct HalfMade(pub(super) PathBuf);

impl HalfMade {
    fn remove(&self) {
        // One that is not there is as well.
        let _ = fs::remove_file(&self.0);
    }

    async fn finish(self, last: &Path) -> io::Result<()> {
        publish(&self.0, last).await
    }
}

/// Gives a whole file its name, durably.
pub(super) async fn publish(new: &Path, last: &Path) -> io::Result<()> {
    tokio::fs::File::open(new).await?.sync_all().await?;
    tokio::fs::rename(new, last).await?;
    let Some(folder) = last.parent() else { return Ok(()) };
    tokio::fs::File::open(folder).await?.sync_all().await
}

/// Removes a file, if it is there, durably: after a loss of power it would be back, and nobody would
/// remove it then.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    let Some(folder) = path.parent() else { return Ok(()) };
    File::open(folder)?.sync_all()
}

impl Drop for HalfMade {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::{CLASS, volume, wish};
    use fairmazon_model::units::{Mib, Vcpus};

    use super::*;

    fn open(folder: &Path) -> Files {
        let storage = [(CLASS.to_owned(), Gib(10))].into();
        let capacity = Capacity { vcpus: Vcpus(1), memory: Mib(1), storage };
        Files::open(folder.join("storage"), &folder.join("state"), capacity).unwrap()
    }

    /// The file of a volume that nothing was written to, up to the end of the keys that it has room for.
    fn header(size: Gib) -> Vec<u8> {
        header::tests::empty(size.0 * GIB)
    }

    #[test]
    fn what_can_t_be_read_is_there_and_hides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let files = open(folder.path());
        let path = |number| files.path(CLASS, volume(number));
        fs::write(path(1), header(Gib(2))).unwrap();
        fs::create_dir(path(2)).unwrap();
        fs::write(path(3), &header(Gib(5))[..20]).unwrap();
        fs::write(path(4), [b'x'; 200]).unwrap();
        let damages = [(1, None), (2, Some(Damage::Unreadable)), (3, Some(Damage::Cut))];
        let listed: Vec<_> =
            files.list().unwrap().into_iter().map(|found| (found.volume, found.damage)).collect();
        assert_eq!(listed, damages.map(|(number, damage)| (volume(number), damage)));
        for (number, damage) in damages {
            assert_eq!(files.look(volume(number)).unwrap().unwrap().damage, damage);
            match (files.find(volume(number)), damage) {
                (Ok(Some(found)), None) => assert_eq!(found.size, Gib(2)),
                (Err(HypervisorError::Damaged { damage, .. }), Some(wanted)) => {
                    assert_eq!(damage, wanted);
                }
                (found, _) => panic!("{found:?}"),
            }
        }
        assert!(matches!(files.look(volume(4)), Err(HypervisorError::Foreign { .. })));
        assert_eq!(files.look(volume(5)).unwrap(), None);
        // Others are made beside it.
        files.require_room(CLASS, Gib(5)).unwrap();

        files.delete(volume(3)).unwrap();
        assert_eq!(files.look(volume(3)).unwrap(), None);
        files.delete(volume(2)).unwrap_err();
        files.delete(volume(4)).unwrap_err();
        assert!(path(2).exists() && path(4).exists());
    }

    #[tokio::test]
    async fn nothing_is_gone_or_made_where_the_disk_is_not_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let files = open(folder.path());
        fs::write(files.path(CLASS, volume(1)), header(Gib(2))).unwrap();
        let (storage, away) = (folder.path().join("storage"), folder.path().join("away"));
        fs::rename(&storage, &away).unwrap();
        fs::create_dir_all(storage.join(CLASS)).unwrap();
        let key = VolumeKey::new(&[7; 32]);
        files.list().unwrap_err();
        files.incoming().unwrap_err();
        files.look(volume(1)).unwrap_err();
        files.find(volume(1)).unwrap_err();
        files.delete(volume(1)).unwrap_err();
        files.drop_import(volume(1)).unwrap_err();
        assert!(files.begin_import(&wish(2)).is_err());
        assert!(files.begin(&wish(2), Gib(1), &key).await.is_err());
        assert_eq!(fs::read_dir(storage.join(CLASS)).unwrap().count(), 0);
        fs::remove_dir_all(&storage).unwrap();
        fs::rename(&away, &storage).unwrap();
        assert_eq!(files.list().unwrap().len(), 1);
        files.delete(volume(1)).unwrap();
    }

    #[test]
    fn what_can_t_be_removed_of_one_half_made_stops_no_start() {
        let folder = tempfile::tempdir().unwrap();
        let half_made = open(folder.path()).path(CLASS, volume(1)).with_extension(HALF_MADE);
        fs::create_dir(&half_made).unwrap();
        let files = open(folder.path());
        assert_eq!(files.list().unwrap(), []);
        files.require_room(CLASS, Gib(5)).unwrap();
    }
}
