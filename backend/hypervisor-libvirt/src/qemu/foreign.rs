//! Files of volumes that strangers have written, proven before anything opens them: the header of
//! qcow2 and of the LUKS in it say exactly what this driver's own files say, but for what has to
//! differ. What is not like that is not used, whatever QEMU would make of it.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use fairmazon_model::{transfer::Sha256, units::Gib};
use sha2::Digest;

use super::header::{
    self, ENCRYPTION, LUKS, LUKS_HEADER, LUKS_MAGIC, Place, Raw, SECTOR, SLOT_IN_USE, SLOTS,
    STRIPES, slot,
};

const GIB: u64 = 1 << 30;
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// What one entry of the first table stands for.
const L1_ENTRY: u64 = CLUSTER * CLUSTER / 8;
/// Clusters of the table of reference counts at most: each counts 16 TiB.
const REFCOUNT_TABLE_MOST: u32 = 4;
/// Names of features, for people.
const FEATURE_NAMES: u32 = 0x6803_f857;
/// Bytes of a LUKS header with its keys at most: a file of this driver has 2 MiB.
const LUKS_MOST: u64 = 4 << 20;
const SLOT_FREE: u32 = 0x0000_dead;
/// How often a passphrase may be hashed before it opens a key: below a second of a slow processor.
/// This driver's own files need less than a tenth.
const ITERATIONS_MOST: u32 = 1_000_000;
/// How much is read at a time.
const PIECE: usize = 64 << 10;

/// What a file is, as far as its headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeFileFacts {
    /// The size of the volume.
    pub size: Gib,
    /// What the file has.
    pub bytes: u64,
    /// Of all of it.
    pub sha256: Sha256,
}

/// Reads the file of an exported volume; why it is none, if it is none.
///
/// # Errors
/// When it can't be read.
pub fn inspect_exported(path: &Path) -> io::Result<Result<VolumeFileFacts, String>> {
    let file = File::open(path)?;
    match headers(&file)? {
        Err(why) => Ok(Err(why)),
        Ok(size) => {
            let (bytes, sha256) = hash(&file)?;
            Ok(Ok(VolumeFileFacts { size, bytes, sha256 }))
        }
    }
}

/// How many bytes a file has, and their hash.
pub(super) fn hash(mut file: &File) -> io::Result<(u64, Sha256)> {
    io::Seek::rewind(&mut file)?;
    let (mut hash, mut bytes, mut piece) = (sha2::Sha256::new(), 0, vec![0; PIECE]);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((bytes, Sha256(hash.finalize().into())));
        }
        hash.update(&piece[..read]);
        bytes += read as u64;
    }
}

/// The size of the volume whose file this is; why it is none's, if it is none's.
pub(super) fn headers(file: &File) -> io::Result<Result<Gib, String>> {
    let bytes = file.metadata()?.len();
    let mut first = vec![0; CLUSTER as usize];
    match file.read_exact_at(&mut first, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Err("it is too short for a volume".into()));
        }
        other => other?,
    }
    let (size, at) = match qcow2(&first, bytes) {
        Ok(found) => found,
        Err(why) => return Ok(Err(why.into())),
    };
    let mut luks = [0; LUKS_HEADER];
    file.read_exact_at(&mut luks, at.offset)?;
    Ok(encryption(&luks, at).map(|()| size).map_err(Into::into))
}

type Checked<T> = Result<T, &'static str>;

/// Checks the header of qcow2 in the first cluster of a file with this many bytes.
fn qcow2(first: &[u8], bytes: u64) -> Checked<(Gib, Place)> {
    let raw = Raw(first);
    require(first.starts_with(b"QFI\xfb"), "it is not in format qcow2")?;
    require(raw.short(4) >= 3, "it is of an older version of qcow2 than volumes are")?;
    require(raw.short(4) == 3, "it is of a version of qcow2 that is not known")?;
    let no_others = "it refers to other files, as no volume does";
    require(raw.long(8) == 0 && raw.short(16) == 0, no_others)?;
    // The external file for data, and with it whatever else changes how the file is to be read.
    require(raw.long(72) & 1 << 2 == 0, no_others)?;
    require(raw.short(32) == LUKS, "it is not encrypted, as every volume is")?;
    require(
        raw.long(72) == 0,
        "it was not closed, is damaged, or has features that no volume has",
    )?;
    require(raw.long(88) == 0, "it has bitmaps or other features that no volume has")?;
    require(raw.short(60) == 0, "it has snapshots within it, as no volume does")?;
    require(raw.short(20) == CLUSTER_BITS, "its clusters have not 64 KiB, as every volume's have")?;
    require(raw.short(96) == 4, "its reference counts have not 16 bits, as every volume's have")?;
    let size = raw.long(24);
    require(size != 0 && size % GIB == 0, "its size is not a whole number of GiB")?;
    let (l1, needed) = (u64::from(raw.short(36)), size.div_ceil(L1_ENTRY));
    let tables = "its tables do not fit its size";
    // One that has grown may have some entries in reserve.
    require((needed..=needed.saturating_mul(2).saturating_add(8)).contains(&l1), tables)?;
    require((1..=REFCOUNT_TABLE_MOST).contains(&raw.short(56)), tables)?;
    let place = place(&raw)?;
    let end = place.offset.checked_add(place.length);
    let inside = place.length <= LUKS_MOST && end.is_some_and(|end| end <= bytes);
    require(inside && place.length >= LUKS_HEADER as u64, "its LUKS header is not in it")?;
    Ok((Gib(size / GIB), place))
}

/// Where the extensions of the header say that the LUKS header is, if they say nothing else.
fn place(raw: &Raw<'_>) -> Checked<Place> {
    let damaged = "its header is damaged";
    let begin = raw.short(100);
    require((104..=256).contains(&begin) && begin.is_multiple_of(8), damaged)?;
    let mut place = None;
    for (kind, content) in header::extensions(raw).ok_or(damaged)? {
        match kind {
            FEATURE_NAMES => {}
            ENCRYPTION if place.is_none() => place = Some(Place::read(content).ok_or(damaged)?),
            ENCRYPTION => return Err(damaged),
            _ => return Err("it has extensions that no volume has"),
        }
    }
    place.ok_or("it has no LUKS header")
}

/// Checks a LUKS header: the cipher of volumes, one passphrase, and no more work to try it than a
/// start of a machine may take.
fn encryption(luks: &[u8], place: Place) -> Checked<()> {
    let raw = Raw(luks);
    require(luks.starts_with(LUKS_MAGIC), "it has no LUKS header of version 1")?;
    let text = |at: usize| luks[at..at + 32].split(|byte| *byte == 0).next().unwrap_or_default();
    let as_ours = text(8) == b"aes" && text(40) == b"xts-plain64" && text(72) == b"sha256";
    require(as_ours && raw.short(108) == 64, "it has not the cipher that volumes have")?;
    let payload = u64::from(raw.short(104)).saturating_mul(SECTOR);
    require(payload <= place.length, "its LUKS header is damaged")?;
    let mut in_use = 0;
    let mut most = raw.short(164);
    for number in 0..SLOTS {
        let at = slot(number);
        match raw.short(at) {
            SLOT_FREE => continue,
            SLOT_IN_USE => in_use += 1,
            _ => return Err("its LUKS header is damaged"),
        }
        most = most.max(raw.short(at + 4));
        let (material, stripes) = (u64::from(raw.short(at + 40)) * SECTOR, raw.short(at + 44));
        let end = material + u64::from(STRIPES) * 64;
        require(stripes == STRIPES && end <= place.length, "its LUKS header is damaged")?;
    }
    require(in_use == 1, "it opens with none or several passphrases, and a volume with one")?;
    require((1..=ITERATIONS_MOST).contains(&most), "its passphrase takes too long to be tried")
}

fn require(holds: bool, why: &'static str) -> Checked<()> {
    if holds { Ok(()) } else { Err(why) }
}
