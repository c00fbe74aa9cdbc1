//! Files of simulated volumes: what an export reads, and what an import takes and proves.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use fairmazon_model::{
    host::Capacity, id::VolumeId, machine::HostVolume, transfer::Sha256, units::Gib, volume::Import,
};
use parking_lot::Mutex;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{io::AsyncWrite, sync::OwnedMutexGuard};

use super::state::{HostState, SimVolume};
use crate::{HypervisorError, Incoming, Result, VolumeSink};

/// What the file of a volume has.
const FILE_BYTES: usize = 5 * 1024 * 1024 + 17;
/// How it begins: this, its size in GiB, and the fingerprint of its key.
const MAGIC: &[u8; 8] = b"simulate";
const HEADER: usize = 128;

/// What has come of the file of a volume that is imported. Its room is taken.
#[derive(Debug)]
pub(super) struct SimIncoming {
    bytes: Arc<Mutex<Vec<u8>>>,
    class: Arc<str>,
    size: Gib,
    /// Held by who writes.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl SimIncoming {
    /// Where the rest goes; none while another one writes.
    fn sink(&self) -> Option<VolumeSink> {
        let writing = Arc::clone(&self.writing).try_lock_owned().ok()?;
        let offset = self.bytes.lock().len() as u64;
        let writer = Box::new(Writer { bytes: Arc::clone(&self.bytes), _writing: writing });
        Some(VolumeSink { offset, writer })
    }

    fn is_written_to(&self) -> bool {
        self.writing.try_lock().is_err()
    }
}

struct Writer {
    bytes: Arc<Mutex<Vec<u8>>>,
    _writing: OwnedMutexGuard<()>,
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bytes.lock().extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl HostState {
    /// Bytes that are another volume's in no place, and the same each time.
    pub(super) fn file(&self, volume: VolumeId) -> Arc<[u8]> {
        match self.volumes.get(&volume) {
            Some(SimVolume { file: Some(file), .. }) => Arc::clone(file),
            Some(found) => {
                let mut bytes = vec![0; FILE_BYTES];
                ChaCha8Rng::seed_from_u64(found.serial).fill_bytes(&mut bytes);
                // A snapshot, of which files are made, keeps the one key that it has.
                let key = found.keys.first().map(AsRef::as_ref);
                bytes[..HEADER].copy_from_slice(&header(found.size, key));
                bytes.into()
            }
            None => Arc::new([]),
        }
    }

    pub(super) fn begin_import(
        &mut self,
        wish: &HostVolume,
        capacity: &Capacity,
    ) -> Result<VolumeSink> {
        if !self.incoming.contains_key(&wish.volume) {
            let class = self.take_storage(&wish.class, wish.size.0, capacity)?;
            let (bytes, writing) = (Arc::default(), Arc::default());
            let incoming = SimIncoming { bytes, class, size: wish.size, writing };
            self.incoming.insert(wish.volume, incoming);
        }
        let sink = self.incoming.get(&wish.volume).and_then(SimIncoming::sink);
        sink.ok_or_else(|| HypervisorError::busy(wish.volume, "another transfer writes its file"))
    }

    pub(super) fn drop_import(&mut self, volume: VolumeId) -> Result<()> {
        let Some(incoming) = self.incoming.get(&volume) else { return Ok(()) };
        if incoming.is_written_to() {
            return Err(HypervisorError::busy(volume, "somebody writes its file"));
        }
        let (class, size) = (Arc::clone(&incoming.class), incoming.size);
        self.give_storage_back(&class, size);
        self.incoming.remove(&volume);
        Ok(())
    }

    pub(super) fn finish_import(
        &mut self,
        wish: &HostVolume,
        import: &Import,
        key: Option<Box<str>>,
    ) -> Result<()> {
        let not_whole = || HypervisorError::busy(wish.volume, "its file is not all there");
        let incoming = self.incoming.get(&wish.volume).ok_or_else(not_whole)?;
        if incoming.is_written_to() || incoming.bytes.lock().len() as u64 != import.bytes {
            return Err(not_whole());
        }
        let file: Arc<[u8]> = std::mem::take(&mut *incoming.bytes.lock()).into();
        let class = Arc::clone(&incoming.class);
        self.incoming.remove(&wish.volume);
        match check(wish, import, key.as_deref(), &file) {
            Ok(()) => {
                self.insert_volume(wish, class, key, Some(file));
                Ok(())
            }
            Err(error) => {
                self.give_storage_back(&class, wish.size);
                Err(error)
            }
        }
    }

    pub(super) fn incoming(&self) -> Vec<Incoming> {
        let incoming = self.incoming.iter();
        let bytes = |incoming: &SimIncoming| incoming.bytes.lock().len() as u64;
        let mut incoming: Vec<_> = incoming
            .map(|(&volume, incoming)| Incoming { volume, bytes: bytes(incoming) })
            .collect();
        incoming.sort_unstable_by_key(|incoming| incoming.volume);
        incoming
    }
}

fn check(wish: &HostVolume, import: &Import, key: Option<&str>, file: &[u8]) -> Result<()> {
    let bad = |why: &str| HypervisorError::bad_file(wish.volume, why);
    if Sha256::of(file) != import.sha256 {
        return Err(bad("it is not the one that was promised"));
    }
    let wanted = header(wish.size, key);
    let Some((head, _)) = file.split_at_checked(HEADER) else {
        return Err(bad("it is too short"));
    };
    if head[..MAGIC.len()] != wanted[..MAGIC.len()] {
        return Err(bad("it is no volume's"));
    }
    if head[MAGIC.len()..16] != wanted[MAGIC.len()..16] {
        return Err(bad("it is of a volume of another size"));
    }
    // A host that does not encrypt takes it with whatever key it was made.
    if key.is_some() && head != wanted {
        return Err(HypervisorError::KeyWrong { what: wish.volume.to_string() });
    }
    Ok(())
}

fn header(size: Gib, key: Option<&str>) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&size.0.to_be_bytes());
    let key = key.unwrap_or_default().as_bytes();
    let length = key.len().min(HEADER - 16);
    header[16..16 + length].copy_from_slice(&key[..length]);
    header
}
