//! State in a folder: `state` is replaced as a whole and made durable, `lease` is replaced only.
//!
//! Form of `state`: one line `fairmazon-host-state VERSION SHA256 LENGTH`, then that many bytes of
//! JSON; the checksum is that of the version as four bytes, big end first, and the JSON. What does not match is moved to `state.damaged-N` with a message, and the agent starts
//! empty and asks the broker: nothing is ever stopped or deleted because of a damaged file.
//! A lock on `lock` keeps a second agent out of the folder. `driver` names the hypervisor's driver
//! that the host has.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::{Loaded, SavedState, StateError, StateStore};
use crate::{
    files::{self, Durability},
    lease::LeaseRecord,
};

const MAGIC: &str = "fairmazon-host-state";
const VERSION: u32 = 1;
/// The file with the name of the driver that the host has.
const DRIVER: &str = "driver";
/// Damaged files that are kept; the next one replaces the last.
const DAMAGED_KEPT: u32 = 100;

/// A folder that holds one agent's state. The lock is held until this is dropped.
#[derive(Debug, Clone)]
pub struct FileState(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    _lock: File,
}

impl FileState {
    /// Opens the folder, makes it (for the owner alone) when it is missing, and locks it.
    ///
    /// # Errors
    /// `InUse` when another agent has it, `Io` when it can't be made or locked.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = folder.into();
        files::make_folder(&path).map_err(failed("make", &path))?;
        let lock_path = path.join("lock");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&lock_path).map_err(failed("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self(Arc::new(Folder { path, _lock: lock }))),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::InUse { folder: path }),
            Err(fs::TryLockError::Error(source)) => {
                Err(StateError::Io { attempted: "lock", path: lock_path, source })
            }
        }
    }

    /// That the host has this driver, or none so far: another one would know nothing of its
    /// machines and volumes, and say that they are gone or made anew. `driver` is what
    /// [`kind`](fairmazon_hypervisor::Hypervisor::kind) says.
    ///
    /// # Errors
    /// `OtherDriver` when the host has another one, `Io` when the note of it can't be read.
    pub fn expect_driver(&self, driver: &str) -> Result<(), StateError> {
        match self.noted_driver()? {
            Some(noted) if noted != driver => Err(StateError::OtherDriver {
                path: self.0.path.join(DRIVER),
                noted,
                asked: driver.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Notes for good that the host has this driver.
    ///
    /// # Errors
    /// As [`Self::expect_driver`], and `Io` when the note can't be written.
    pub fn note_driver(&self, driver: &str) -> Result<(), StateError> {
        self.expect_driver(driver)?;
        if self.noted_driver()?.is_some() {
            return Ok(());
        }
        let path = self.0.path.join(DRIVER);
        files::replace(&path, format!("{driver}\n").as_bytes(), Durability::Machine)
            .map_err(failed("write", &path))
    }

    fn noted_driver(&self) -> Result<Option<String>, StateError> {
        let noted = read(&self.0.path.join(DRIVER))?;
        Ok(noted.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// Runs `work` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let folder = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&folder.path)).await;
        done.unwrap_or_else(|failure| {
            Err(StateError::Io {
                attempted: "finish the work on",
                path: self.0.path.clone(),
                source: io::Error::other(failure),
            })
        })
    }
}

#[async_trait]
impl StateStore for FileState {
    async fn load(&self) -> Result<Loaded, StateError> {
        self.blocking(load).await
    }

    async fn save(&self, state: SavedState) -> Result<(), StateError> {
        self.blocking(move |folder| {
            let path = folder.join("state");
            let bytes = encode(&state).map_err(failed("write", &path))?;
            files::replace(&path, &bytes, Durability::Machine).map_err(failed("write", &path))
        })
        .await
    }

    async fn save_lease(&self, record: LeaseRecord) -> Result<(), StateError> {
        self.blocking(move |folder| {
            let path = folder.join("lease");
            let bytes =
                serde_json::to_vec(&record).map_err(|e| failed("write", &path)(e.into()))?;
            files::replace(&path, &bytes, Durability::Process).map_err(failed("write", &path))
        })
        .await
    }
}

fn load(folder: &Path) -> Result<Loaded, StateError> {
    let path = folder.join("state");
    let (state, put_aside) = match read(&path)? {
        None => (None, None),
        Some(bytes) => match decode(&bytes) {
            Ok(state) => (Some(state), None),
            Err(Damage::Newer(found)) => {
                return Err(StateError::Newer { path, found, known: VERSION });
            }
            Err(Damage::Broken(why)) => (None, Some(put_aside(&path, &why)?)),
        },
    };
    // A lease that can't be read is no lease: the safe side.
    let lease = read(&folder.join("lease"))?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(Loaded { state, lease, put_aside })
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    files::read(path).map_err(failed("read", path))
}

fn put_aside(path: &Path, why: &str) -> Result<String, StateError> {
    let free = (1..DAMAGED_KEPT)
        .map(|number| path.with_extension(format!("damaged-{number}")))
        .find(|candidate| !candidate.exists())
        .unwrap_or_else(|| path.with_extension(format!("damaged-{DAMAGED_KEPT}")));
    fs::rename(path, &free).map_err(failed("put aside", path))?;
    Ok(format!("{} is damaged ({why}) and was put aside as {}", path.display(), free.display()))
}

enum Damage {
    Newer(u32),
    Broken(String),
}

fn encode(state: &SavedState) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(state)?;
    let sum = checksum(VERSION, &body);
    let mut bytes = format!("{MAGIC} {VERSION} {sum} {}\n", body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<SavedState, Damage> {
    let broken = |why: &str| Damage::Broken(why.to_owned());
    let end = bytes.iter().position(|&b| b == b'\n').ok_or_else(|| broken("it has no header"))?;
    let (header, body) = (&bytes[..end], &bytes[end + 1..]);
    let header = str::from_utf8(header).map_err(|_| broken("its header is not text"))?;
    let words: Vec<_> = header.split(' ').collect();
    let [MAGIC, version, sum, length] = words[..] else {
        return Err(broken("its header has another form"));
    };
    let version: u32 = version.parse().map_err(|_| broken("its version is not a number"))?;
    // A newer form may count otherwise: only what is whole by the rules of this one is read on.
    if checksum(version, body) != sum || length != body.len().to_string() {
        return Err(broken("its bytes do not match its checksum"));
    }
    if version > VERSION {
        return Err(Damage::Newer(version));
    }
    serde_json::from_slice(body).map_err(|error| Damage::Broken(error.to_string()))
}

fn checksum(version: u32, body: &[u8]) -> String {
    let digest = Sha256::new().chain_update(version.to_be_bytes()).chain_update(body).finalize();
    hex::encode(digest)
}

fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { attempted, path, source }
}
