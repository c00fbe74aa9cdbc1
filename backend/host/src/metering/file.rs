//! The ledger in a folder: `windows` is appended to and made durable, `open` and `key` are replaced
//! as a whole.
//!
//! A line of `windows` is 16 hexadecimal digits of the SHA-256 of what follows, a space, and a
//! signed window as JSON. What a crash has left of a last line is cut off. Lines that do not match
//! further up are left out, and the file as it was is kept beside it. What the broker has
//! acknowledged goes when it is the larger part of the file, by a copy of the rest that takes the
//! file's place: so a full disk loses nothing that was written.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use fairmazon_model::{
    id::HostId,
    usage::{SignedWindow, UsageWindow},
};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::{
    ledger::{Batch, Found, Ledger, LedgerError, Signer, signed},
    meter::{Key, Memory},
};
use crate::files::{self, Durability};

/// The most that the windows may take, in bytes: half a million of them and more. A host with a
/// hundred machines fills it in two months without its broker.
pub const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Acknowledged bytes that are not worth a copy of the rest.
const SLACK: u64 = 64 * 1024;
/// Damaged files that are kept; the next one replaces the last.
const DAMAGED_KEPT: u32 = 10;
/// Hexadecimal digits of a line's checksum.
const SUM: usize = 16;

/// A ledger in a folder that belongs to one agent.
#[derive(Clone)]
pub struct FileLedger(Arc<Inner>);

struct Inner {
    host: HostId,
    signer: Arc<dyn Signer>,
    windows: PathBuf,
    open: PathBuf,
    /// Says which key has signed the windows.
    key: PathBuf,
    bytes_max: u64,
    state: Mutex<Option<State>>,
    /// Bytes of windows, for [`Ledger::has_room`].
    bytes: AtomicU64,
}

/// The open file.
struct State {
    file: File,
    /// Where the oldest window begins that was not acknowledged.
    begin: u64,
    /// Where what is durable ends.
    end: u64,
    /// Where each window of the last batch ends.
    batch: Vec<u64>,
}

impl FileLedger {
    /// A ledger in `folder`, which is made where it is missing; it takes at most `bytes_max`.
    pub fn new(
        folder: impl Into<PathBuf>,
        host: HostId,
        signer: Arc<dyn Signer>,
        bytes_max: u64,
    ) -> Self {
        let folder = folder.into();
        Self(Arc::new(Inner {
            host,
            signer,
            windows: folder.join("windows"),
            open: folder.join("open"),
            key: folder.join("key"),
            bytes_max,
            state: Mutex::new(None),
            bytes: AtomicU64::new(0),
        }))
    }

    /// Runs `work` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|failure| {
            let source = io::Error::other(failure);
            let path = self.0.windows.clone();
            Err(LedgerError::Io { attempted: "finish the work on", path, source })
        })
    }
}

#[async_trait]
impl Ledger for FileLedger {
    async fn load(&self) -> Result<Found, LedgerError> {
        self.blocking(Inner::load).await
    }

    async fn append(&self, windows: Vec<UsageWindow>) -> Result<(), LedgerError> {
        self.blocking(move |inner| inner.append(windows)).await
    }

    async fn remember(&self, memory: Memory) -> Result<(), LedgerError> {
        self.blocking(move |inner| {
            let failed = failed("write", &inner.open);
            let bytes = match serde_json::to_vec(&memory) {
                Ok(json) => line(&json),
                Err(error) => return Err(failed(error.into())),
            };
            files::replace(&inner.open, &bytes, Durability::Machine).map_err(failed)
        })
        .await
    }

    async fn next(&self, most: usize) -> Result<Option<Batch>, LedgerError> {
        self.blocking(move |inner| inner.next(most)).await
    }

    async fn acknowledged(&self, count: usize) -> Result<(), LedgerError> {
        self.blocking(move |inner| inner.acknowledged(count)).await
    }

    fn has_room(&self) -> bool {
        self.0.bytes.load(Ordering::Relaxed) < self.0.bytes_max
    }
}

impl Inner {
    fn load(&self) -> Result<Found, LedgerError> {
        if let Some(folder) = self.windows.parent() {
            files::make_folder(folder).map_err(failed("make", folder))?;
        }
        let mut found = Found::default();
        let memory = files::read(&self.open).map_err(failed("read", &self.open))?;
        // Without it every series begins anew, which charges nothing twice.
        let memory = memory.as_deref().and_then(|bytes| content(bytes.strip_suffix(b"\n")?));
        found.memory = memory.unwrap_or_default();
        self.follow_key()?;
        let read = failed("read", &self.windows);
        let scan = Scan::of(&self.windows).map_err(read)?;
        if scan.damaged > 0 {
            found.put_aside = Some(self.repair(&scan)?);
        }
        let file = open(&self.windows).map_err(failed("open", &self.windows))?;
        let end = if scan.damaged > 0 { length(&file) } else { Ok(scan.end) };
        let end = end.map_err(failed("read", &self.windows))?;
        file.set_len(end).map_err(failed("cut off the end of", &self.windows))?;
        self.bytes.store(end, Ordering::Relaxed);
        *self.state.lock() = Some(State { file, begin: 0, end, batch: Vec::new() });
        found.last = scan.last.into_values().collect();
        Ok(found)
    }

    /// Signs the windows anew where they were signed with another key than the host has now: with
    /// the certificate that it has, nobody would believe them.
    fn follow_key(&self) -> Result<(), LedgerError> {
        let key = self.signer.key();
        let before = files::read(&self.key).map_err(failed("read", &self.key))?;
        if before.as_deref() == Some(key.as_bytes()) {
            return Ok(());
        }
        if before.is_some() {
            let count = self.sign_anew()?;
            tracing::info!(host = %self.host, count, "windows were signed anew: the key is another");
        }
        let noted = files::replace(&self.key, key.as_bytes(), Durability::Machine);
        match noted.map_err(failed("write", &self.key)) {
            // Noted by the next start that can: nothing of an earlier key is there by then.
            Err(error) if before.is_none() => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(host = %self.host, error, "which key signs windows was not noted");
                Ok(())
            }
            noted => noted,
        }
    }

    /// Puts a file in the place of the windows that has them with signatures of the key that signs
    /// now, and all else as it is; says how many.
    fn sign_anew(&self) -> Result<usize, LedgerError> {
        let (path, mut count) = (&self.windows, 0);
        let read = |error| failed("read", path)(error);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(read(error)),
        };
        let (mut reader, mut found, mut all) = (BufReader::new(file), Vec::new(), Vec::new());
        loop {
            found.clear();
            if reader.read_until(b'\n', &mut found).map_err(read)? == 0 {
                break;
            }
            let whole = found.strip_suffix(b"\n").and_then(content::<SignedWindow>);
            let Some(SignedWindow { window, .. }) = whole else {
                all.extend(&found);
                continue;
            };
            for window in signed(self.host, &*self.signer, vec![window])? {
                let json = serde_json::to_vec(&window);
                all.extend(line(&json.map_err(|error| failed("write", path)(error.into()))?));
                count += 1;
            }
        }
        files::replace(path, &all, Durability::Machine).map_err(failed("write", path))?;
        Ok(count)
    }

    /// Writes what is whole of a damaged file in its place; says where the damaged one is.
    fn repair(&self, scan: &Scan) -> Result<String, LedgerError> {
        let path = &self.windows;
        let free = (1..DAMAGED_KEPT)
            .map(|number| path.with_extension(format!("damaged-{number}")))
            .find(|candidate| !candidate.exists())
            .unwrap_or_else(|| path.with_extension(format!("damaged-{DAMAGED_KEPT}")));
        fs::copy(path, &free).map_err(failed("copy", path))?;
        let mut whole = Vec::new();
        let file = File::open(path).map_err(failed("open", path))?;
        for found in BufReader::new(file).split(b'\n') {
            let found = found.map_err(failed("read", path))?;
            if content::<SignedWindow>(&found).is_some() {
                whole.extend(found);
                whole.push(b'\n');
            }
        }
        files::replace(path, &whole, Durability::Machine).map_err(failed("write", path))?;
        Ok(format!(
            "{} of the windows in {} are damaged and can't be charged; the file as it was is {}",
            scan.damaged,
            path.display(),
            free.display()
        ))
    }

    fn append(&self, windows: Vec<UsageWindow>) -> Result<(), LedgerError> {
        let mut bytes = Vec::new();
        for window in signed(self.host, &*self.signer, windows)? {
            let json = serde_json::to_vec(&window);
            bytes.extend(line(&json.map_err(|e| failed("write", &self.windows)(e.into()))?));
        }
        self.with(|state| {
            let mut write = || {
                state.file.seek(SeekFrom::Start(state.end))?;
                state.file.write_all(&bytes)?;
                state.file.sync_data()
            };
            if let Err(source) = write() {
                // What is left of it is cut off now, or overwritten by what comes next.
                let _ = state.file.set_len(state.end);
                return Err(failed("write", &self.windows)(source));
            }
            state.end += bytes.len() as u64;
            Ok(())
        })
    }

    fn next(&self, most: usize) -> Result<Option<Batch>, LedgerError> {
        let Some(certificate) = self.signer.certificate().map_err(LedgerError::Sign)? else {
            return Ok(None);
        };
        self.with(|state| {
            let mut read = || {
                state.batch.clear();
                state.file.seek(SeekFrom::Start(state.begin))?;
                let mut reader = BufReader::new((&state.file).take(state.end - state.begin));
                let (mut windows, mut at) = (Vec::new(), state.begin);
                let mut found = Vec::new();
                while windows.len() < most {
                    found.clear();
                    at += reader.read_until(b'\n', &mut found)? as u64;
                    let Some(text) = found.strip_suffix(b"\n") else { break };
                    let damaged = || io::Error::other("a line does not match its checksum");
                    windows.push(content::<SignedWindow>(text).ok_or_else(damaged)?);
                    state.batch.push(at);
                }
                Ok(windows)
            };
            let windows = read().map_err(failed("read", &self.windows))?;
            Ok((!windows.is_empty()).then_some(Batch { certificate, windows }))
        })
    }

    fn acknowledged(&self, count: usize) -> Result<(), LedgerError> {
        self.with(|state| {
            let Some(index) = count.min(state.batch.len()).checked_sub(1) else { return Ok(()) };
            state.begin = state.batch[index];
            state.batch.clear();
            let is_all = state.begin == state.end;
            if is_all {
                state.file.set_len(0).map_err(failed("shorten", &self.windows))?;
                (state.begin, state.end) = (0, 0);
            } else if state.begin > SLACK && state.begin > state.end / 2 {
                *state =
                    shortened(&self.windows, state).map_err(failed("rewrite", &self.windows))?;
            }
            Ok(())
        })
    }

    /// Works on the open file, and notes afterwards how large it is.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut guard = self.state.lock();
        let closed = || io::Error::other("it was not opened");
        let state = guard.as_mut().ok_or_else(|| failed("use", &self.windows)(closed()))?;
        let result = work(state);
        self.bytes.store(state.end, Ordering::Relaxed);
        result
    }
}

/// Puts a file in the place of this one that has what was not acknowledged.
fn shortened(path: &Path, state: &mut State) -> io::Result<State> {
    state.file.seek(SeekFrom::Start(state.begin))?;
    let rest = (&state.file).take(state.end - state.begin);
    files::replace_from(path, rest, Durability::Machine)?;
    let file = open(path)?;
    Ok(State { file, begin: 0, end: state.end - state.begin, batch: Vec::new() })
}

/// What a file of windows has.
#[derive(Default)]
struct Scan {
    /// Where the last whole line ends.
    end: u64,
    /// Lines before that which are not whole.
    damaged: usize,
    /// The last window of each series.
    last: HashMap<Key, UsageWindow>,
}

impl Scan {
    fn of(path: &Path) -> io::Result<Self> {
        let mut scan = Self::default();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(scan),
            Err(error) => return Err(error),
        };
        let (mut reader, mut found, mut at, mut torn) = (BufReader::new(file), Vec::new(), 0, 0);
        loop {
            found.clear();
            let bytes = reader.read_until(b'\n', &mut found)?;
            if bytes == 0 {
                return Ok(scan);
            }
            at += bytes as u64;
            let whole = found.strip_suffix(b"\n").and_then(content::<SignedWindow>);
            match whole {
                // What is torn and followed by something whole was not torn by a crash.
                Some(SignedWindow { window, .. }) => {
                    scan.damaged += std::mem::take(&mut torn);
                    scan.end = at;
                    scan.last.insert((window.subject, window.epoch), window);
                }
                None => torn += 1,
            }
        }
    }
}

/// A line of the file, with the checksum of its content.
fn line(json: &[u8]) -> Vec<u8> {
    let mut line = sum(json).into_bytes();
    line.push(b' ');
    line.extend(json);
    line.push(b'\n');
    line
}

/// The content of a line that matches its checksum.
fn content<T: serde::de::DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (found, json) = line.split_at_checked(SUM)?;
    let json = json.strip_prefix(b" ")?;
    (found == sum(json).as_bytes()).then(|| serde_json::from_slice(json).ok())?
}

fn sum(json: &[u8]) -> String {
    let mut digest = hex::encode(Sha256::digest(json));
    digest.truncate(SUM);
    digest
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn length(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Io { attempted, path, source }
}
