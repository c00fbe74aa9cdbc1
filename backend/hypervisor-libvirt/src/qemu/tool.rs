//! `qemu-img` and `qemu-io`: run with a volume's key on their standard input, so that it is in
//! no file, no environment and no list of processes. They end when nobody waits for them.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    path::Path,
    process::{ExitStatus, Stdio},
};

use fairmazon_hypervisor::{Damage, HypervisorError, Result, VolumeKey};
use fairmazon_model::id::VolumeId;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use super::header;

/// What the check of a file may take: processor seconds, bytes of memory, and nothing written.
const LIMITS: [&str; 4] = ["--cpu=300", "--as=4294967296", "--fsize=0", "--core=0"];
/// Most that is heard of what a program says, in bytes: one that checks a stranger's file has
/// something to say of each entry of its tables.
const HEARD_MOST: u64 = 64 * 1024;
/// Most of that which is logged, in characters.
const LOGGED_MOST: usize = 500;
/// What QEMU says when a key opens no slot of a LUKS header.
const WRONG_KEY: &str = "cannot unlock any keyslot";
/// What everybody says of a full disk.
const NO_ROOM: &str = "No space left on device";

/// The volume's data as an option of QEMU's, opened with the key on standard input.
pub(super) fn image_options(path: &Path) -> OsString {
    options(path, "key")
}

/// As [`image_options`], opened with the key of what is only read.
pub(super) fn source_options(path: &Path) -> OsString {
    options(path, "source")
}

fn options(path: &Path, secret: &str) -> OsString {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("driver=qcow2,encrypt.format=luks,encrypt.key-secret={secret},file.filename={path}")
        .into()
}

/// As [`run`] of `qemu-img`, with a second key as `source`, of a volume that is only read or of
/// another slot: in a file in memory that has no name and ends with this call.
pub(super) async fn run_with_source(
    subcommand: &str,
    arguments: &[&OsStr],
    key: (VolumeId, &VolumeKey),
    (source, source_key): (VolumeId, &VolumeKey),
    attempted: &str,
) -> Result<()> {
    let failed = |error: io::Error| HypervisorError::Driver {
        attempted: format!("{attempted} {source}"),
        source: error.into(),
    };
    let memory = memfd_create("key", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    let mut memory = File::from(memory);
    memory.write_all(source_key.passphrase().as_bytes()).map_err(failed)?;
    // The other process opens what this one holds; nobody but it and root may.
    let secret =
        format!("secret,id=source,file=/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
    let mut all: Vec<&OsStr> = vec!["--object".as_ref(), secret.as_ref()];
    all.extend_from_slice(arguments);
    run("qemu-img", Some(subcommand), &all, key, attempted).await
}

/// Runs the program: `subcommand`, the key, `arguments`.
pub(super) async fn run(
    program: &str,
    subcommand: Option<&str>,
    arguments: &[&OsStr],
    (volume, key): (VolumeId, &VolumeKey),
    attempted: &str,
) -> Result<()> {
    let attempted = format!("{attempted} {volume}");
    let failed = |source| HypervisorError::Driver { attempted: attempted.clone(), source };
    let mut command = Command::new(program);
    command.args(subcommand);
    let ended = end(command, arguments, key).await;
    let Ended { status, said, .. } =
        ended.map_err(|error| failed(format!("{program} does not start: {error}").into()))?;
    if status.success() {
        return Ok(());
    }
    if said.contains(WRONG_KEY) {
        return Err(HypervisorError::KeyWrong { what: volume.to_string() });
    }
    if said.contains(NO_ROOM) {
        tracing::error!(%volume, "unable to {attempted}: the disk that volumes are on is full");
        return Err(full());
    }
    Err(failed(format!("{program} said: {}", said.trim()).into()))
}

/// The disk that volumes are on has no room, whatever was promised of it.
pub(super) fn full() -> HypervisorError {
    HypervisorError::Full { what: "room on its disk".into() }
}

/// How a command ended.
struct Ended {
    status: ExitStatus,
    /// What it wrote to its standard output.
    output: String,
    /// What it wrote to its standard error.
    said: String,
}

/// Runs a command with a key. One that says more than is heard is killed.
async fn end(mut command: Command, arguments: &[&OsStr], key: &VolumeKey) -> io::Result<Ended> {
    let mut child = command
        .args(["--object", "secret,id=key,file=/dev/stdin"])
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (output, said) = (child.stdout.take(), child.stderr.take());
    if let Some(mut pipe) = child.stdin.take() {
        // One that ends without reading says why on its standard error.
        let _ = pipe.write_all(key.passphrase().as_bytes()).await;
    }
    let (output, said) = tokio::try_join!(heard(output), heard(said))?;
    let is_too_much = |text: &String| text.len() as u64 >= HEARD_MOST;
    if is_too_much(&output) || is_too_much(&said) {
        child.start_kill()?;
    }
    Ok(Ended { status: child.wait().await?, output, said })
}

async fn heard(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(HEARD_MOST).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What `qemu-img check` says of a file.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Checked {
    /// QEMU encrypts none of these, whatever the file's header says.
    #[serde(default)]
    compressed_clusters: u64,
}

/// Goes through all tables of a file that a stranger has written, and opens it with the key, with
/// no more time and memory than the largest file that is sound needs.
pub(super) async fn check(path: &Path, volume: VolumeId, key: &VolumeKey) -> Result<()> {
    let attempted = format!("check {volume}");
    let failed = |source| HypervisorError::Driver { attempted: attempted.clone(), source };
    let mut command = Command::new("prlimit");
    command.args(LIMITS).args(["qemu-img", "check"]);
    let options = image_options(path);
    let arguments: [&OsStr; 3] = ["--output=json".as_ref(), "--image-opts".as_ref(), &options];
    let ended = end(command, &arguments, key).await;
    let Ended { status, output, said } =
        ended.map_err(|error| failed(format!("prlimit does not start: {error}").into()))?;
    let bad = |why: &str| {
        let said: String = said.trim().chars().take(LOGGED_MOST).collect();
        tracing::warn!(%volume, said, "a file is not used: {why}");
        HypervisorError::bad_file(volume, format!("{why}; export it again"))
    };
    if status.success() {
        let checked: Checked = serde_json::from_str(&output).map_err(|why| failed(why.into()))?;
        if checked.compressed_clusters > 0 {
            return Err(bad("some of it is compressed, and so not encrypted"));
        }
        return Ok(());
    }
    if said.contains(WRONG_KEY) {
        return Err(HypervisorError::KeyWrong { what: volume.to_string() });
    }
    match status.code() {
        None => Err(bad("it takes more to be checked than any volume")),
        // Not opened; with errors; with clusters that belong to nothing.
        Some(1..=3) => Err(bad("its tables are damaged")),
        Some(_) => Err(failed(format!("qemu-img said: {}", said.trim()).into())),
    }
}

/// Whether the key opens the volume.
pub(super) async fn opens(path: &Path, volume: VolumeId, key: &VolumeKey) -> Result<()> {
    let options = image_options(path);
    let arguments: [&OsStr; 5] =
        ["--image-opts".as_ref(), "-r".as_ref(), "-c".as_ref(), "quit".as_ref(), &options];
    // A running machine holds the lock of its image; only looking needs none.
    let arguments: Vec<&OsStr> = std::iter::once("-U".as_ref()).chain(arguments).collect();
    let opened = run("qemu-io", None, &arguments, (volume, key), "open").await;
    opened.map_err(|error| judged(error, path, volume))
}

/// Why a program did not open a volume of this host: not what the program says, where the file shows
/// that no key can open it.
pub(super) fn judged(error: HypervisorError, path: &Path, volume: VolumeId) -> HypervisorError {
    if !matches!(error, HypervisorError::KeyWrong { .. } | HypervisorError::Driver { .. }) {
        return error;
    }
    // What can't be read now says nothing about its keys.
    let Ok(Some(why)) = header::lost_keys(path) else { return error };
    HypervisorError::Damaged { what: volume.to_string(), damage: Damage::Keys, source: why.into() }
}
