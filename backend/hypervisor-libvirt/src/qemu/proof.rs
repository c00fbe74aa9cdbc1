//! Proofs that this machine can be a host: done with the same programs and options as volumes
//! are, and looked at from outside. Decides nothing about levels of the host standard.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    path::Path,
    process::{Command, Stdio},
};

use fairmazon_hypervisor::{HypervisorError, Result, VolumeKey};
use fairmazon_model::id::VolumeId;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;
use ulid::Ulid;

use super::{accelerator::EMULATOR, files, header::Header, tool};

/// How the name of a folder for a proof begins.
const PROOF: &str = ".fairmazon-proof-";
/// What is written into the volume: this byte, so often.
const PATTERN: &str = "0xa7";
const PATTERN_BYTE: u8 = 0xa7;
const MIB: u64 = 1 << 20;
/// So many of the byte in a row are no chance: of random bytes one file in 10^32 has them.
const TOO_MANY: usize = 16;

/// Proves that volumes in the folder are encrypted: makes one, writes into it, opens it again
/// with its key, fails to with another, and finds neither content nor key in the file. All of it
/// is removed at the end.
///
/// # Errors
/// What did not go as it must.
pub async fn encryption(folder: &Path, key: &[u8; VolumeKey::LENGTH]) -> Result<()> {
    let volume = VolumeId::from_ulid(Ulid::new());
    let failed = |what: String| HypervisorError::Driver {
        attempted: format!("prove that volumes in {} are encrypted", folder.display()),
        source: what.into(),
    };
    let io = |error: io::Error| failed(error.to_string());
    let place = Place::make(folder).map_err(io)?;
    let path = place.folder.path().join("volume");
    let mut other = *key;
    other[0] ^= 1;
    let (right, wrong) = (VolumeKey::new(key), VolumeKey::new(&other));

    files::make(&path, 8 * MIB, (volume, &right)).await?;
    content(&path, "write", (volume, &right)).await?;
    content(&path, "read", (volume, &right)).await?;
    match tool::opens(&path, volume, &wrong).await {
        Err(HypervisorError::KeyWrong { .. }) => {}
        Err(error) => return Err(error),
        Ok(()) => return Err(failed("another key opens the volume as well".into())),
    }
    let encrypted = Header::read(&path).map_err(io)?.is_some_and(|header| header.encrypted);
    let data = fs::read(&path).map_err(io)?;
    let passphrase = right.passphrase();
    if !encrypted {
        Err(failed("the volume is not in format LUKS".into()))
    } else if u64::try_from(data.len()).unwrap_or(u64::MAX) < MIB {
        Err(failed("the volume's file does not hold what was written".into()))
    } else if readable(&data) {
        Err(failed("what was written can be read in the file without the key".into()))
    } else if holds(&data, key) || holds(&data, passphrase.as_bytes()) {
        Err(failed("the key is in the file".into()))
    } else {
        place.folder.close().map_err(io)
    }
}

/// A folder for one proof, beside the folders of volumes. Locked while its process lives: what one
/// that was killed has left is removed by the next proof.
struct Place {
    folder: TempDir,
    _lock: File,
}

impl Place {
    fn make(beside: &Path) -> io::Result<Self> {
        // From looking for what is left until the own one is locked, nobody else does either.
        let alone = File::open(beside)?;
        flock(&alone, FlockOperation::LockExclusive)?;
        for entry in fs::read_dir(beside)? {
            let path = entry?.path();
            let name = path.file_name().and_then(OsStr::to_str);
            if name.is_some_and(|name| name.starts_with(PROOF)) {
                let left = File::open(&path)?;
                if flock(&left, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    fs::remove_dir_all(&path)?;
                }
            }
        }
        let folder = tempfile::Builder::new().prefix(PROOF).tempdir_in(beside)?;
        let lock = File::open(folder.path())?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Self { folder, _lock: lock })
    }
}

/// Writes the pattern into the volume, or reads it and compares.
async fn content(path: &Path, verb: &str, key: (VolumeId, &VolumeKey)) -> Result<()> {
    let options = tool::image_options(path);
    let command = format!("{verb} -P {PATTERN} 0 {MIB}");
    let arguments: [&OsStr; 4] =
        ["--image-opts".as_ref(), "-c".as_ref(), command.as_ref(), &options];
    tool::run("qemu-io", None, &arguments, key, verb).await
}

fn readable(data: &[u8]) -> bool {
    data.chunk_by(|a, b| a == b).any(|run| run[0] == PATTERN_BYTE && run.len() >= TOO_MANY)
}

fn holds(data: &[u8], secret: &[u8]) -> bool {
    data.windows(secret.len()).any(|window| window == secret)
}

/// What is installed, by the first two numbers; none where it does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The program that runs guests.
    pub qemu: Option<(u32, u32)>,
    /// libvirt's daemon.
    pub libvirt: Option<(u32, u32)>,
}

impl Versions {
    /// Asks the programs.
    pub fn read() -> Self {
        // One daemon for everything, or one for QEMU.
        let daemons = ["/usr/sbin/libvirtd", "/usr/sbin/virtqemud"];
        Self { qemu: ask(EMULATOR), libvirt: daemons.into_iter().find_map(ask) }
    }
}

fn ask(program: &str) -> Option<(u32, u32)> {
    let mut command = Command::new(program);
    command.arg("--version").env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null());
    version(&String::from_utf8_lossy(&command.output().ok()?.stdout))
}

/// The first thing in the text that is a version.
fn version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let said = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c) 2003-2025";
        assert_eq!(version(said), Some((10, 0)));
        assert_eq!(version("libvirtd (libvirt) 11.3.0\n"), Some((11, 3)));
        assert_eq!(version("virtqemud (libvirt) 9.0\n"), Some((9, 0)));
        assert_eq!(version("no such thing"), None);
    }

    #[test]
    fn plain_content_is_recognised_and_cipher_text_is_not() {
        let mut data: Vec<u8> =
            (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert!(!readable(&data));
        data[70_000..70_016].fill(PATTERN_BYTE);
        assert!(readable(&data));
        data[5..9].copy_from_slice(b"key!");
        assert!(holds(&data, b"key!") && !holds(&data, b"no such key"));
    }

    #[test]
    fn what_a_killed_proof_has_left_is_removed_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(format!("{PROOF}left"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("volume"), "LUKS").unwrap();
        fs::create_dir(folder.path().join("standard")).unwrap();
        let lives = Place::make(folder.path()).unwrap();
        let next = Place::make(folder.path()).unwrap();
        assert!(!left.exists() && lives.folder.path().exists() && next.folder.path().exists());
        drop((lives, next));
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["standard"]);
    }

    #[tokio::test]
    async fn a_folder_without_room_for_a_volume_proves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = encryption(&missing, &[7; 32]).await.unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
