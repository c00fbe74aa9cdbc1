//! What the header and the first table of a volume's file say, and what of the file has to be there
//! for that. Judges only the files of this host; those of strangers are proven by `foreign`.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

/// The encryption method of a qcow2 file that is LUKS.
pub(super) const LUKS: u32 = 2;
/// The extension of a header that says where the LUKS header is.
pub(super) const ENCRYPTION: u32 = 0x0537_be77;
/// How a LUKS header of version 1 begins.
pub(super) const LUKS_MAGIC: &[u8] = b"LUKS\xba\xbe\x00\x01";
/// Bytes of a LUKS header without its keys.
pub(super) const LUKS_HEADER: usize = 592;
/// How many keys a LUKS header has room for.
pub(super) const SLOTS: usize = 8;
pub(super) const SLOT_IN_USE: u32 = 0x00ac_71f3;
pub(super) const STRIPES: u32 = 4_000;
pub(super) const SECTOR: u64 = 512;
/// Bytes of the key that the stripes of a slot give.
const KEY: usize = 64;
/// How much of a file is read for its header with all extensions.
const ALL: usize = 4_096;
/// Bytes of the first table at most, as QEMU has it.
const TABLE_MOST: u64 = 32 << 20;
/// Where an entry of the first table points to.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// How often a file that is changed meanwhile is looked at.
const LOOKS: usize = 5;

/// What the header of a qcow2 file says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) bytes: u64,
    pub(super) encrypted: bool,
    /// Some of its data is in another file.
    pub(super) refers_to_others: bool,
}

impl Header {
    /// How much of a file is read for it.
    pub(super) const BYTES: usize = 80;

    /// The header; none when the file is not in format qcow2.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        const EXTERNAL_DATA: u64 = 1 << 2;
        let mut bytes = [0_u8; Self::BYTES];
        match File::open(path)?.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        if &bytes[..4] != b"QFI\xfb" {
            return Ok(None);
        }
        let raw = Raw(&bytes);
        // Version 2 ends before the features.
        let version = raw.short(4);
        let features = if version >= 3 { raw.long(72) } else { 0 };
        Ok(Some(Self {
            version,
            bytes: raw.long(24),
            encrypted: raw.short(32) == LUKS,
            refers_to_others: raw.long(8) != 0 || features & EXTERNAL_DATA != 0,
        }))
    }
}

/// What of a volume's file its header and its first table refer to and is not there. QEMU would read
/// zeros in its place, and a guest would find an empty disk.
///
/// Nothing more is looked at: both are written only once what they refer to is on the disk, while a
/// loss of power may well take what the tables behind them refer to, which nobody was promised then.
pub(super) fn missing(path: &Path) -> io::Result<Option<&'static str>> {
    let file = File::open(path)?;
    let mut before = beginning(&file)?;
    for _ in 0..LOOKS {
        let missing = missing_of(&file, &Raw(&before))?;
        let now = beginning(&file)?;
        // A machine that uses it may have it grow, which moves its table.
        if missing.is_none() || now == before {
            return Ok(missing);
        }
        before = now;
    }
    Ok(None)
}

fn missing_of(file: &File, raw: &Raw<'_>) -> io::Result<Option<&'static str>> {
    let Some(keys) = encryption(raw) else { return Ok(Some("its header is damaged")) };
    let (table, entries, bits) = (raw.long(40), u64::from(raw.short(36)), raw.short(20));
    let length = entries * 8;
    if !(9..=21).contains(&bits) || length > TABLE_MOST {
        return Ok(Some("its header is damaged"));
    }
    let ends_before = |end: u64| -> io::Result<bool> { Ok(file.metadata()?.len() < end) };
    if ends_before(keys.offset.saturating_add(keys.length))? {
        return Ok(Some("it ends before the end of its LUKS header"));
    }
    if ends_before(table.saturating_add(length))? {
        return Ok(Some("it ends before the end of its first table"));
    }
    let mut first = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut first, table)?;
    let first = Raw(&first);
    let last = (0..first.0.len()).step_by(8).map(|at| first.long(at) & OFFSET).max().unwrap_or(0);
    let is_cut = last != 0 && ends_before(last.saturating_add(1 << bits))?;
    Ok(is_cut.then_some("it ends before the tables that its first table refers to"))
}

/// How the keys of a volume's file were destroyed, where that shows: none that was ever given opens it
/// any more. What was overwritten at random looks as any key does.
pub(super) fn lost_keys(path: &Path) -> io::Result<Option<&'static str>> {
    let file = File::open(path)?;
    let Some(place) = encryption(&Raw(&beginning(&file)?)) else { return Ok(None) };
    let mut luks = [0; LUKS_HEADER];
    file.read_exact_at(&mut luks, place.offset)?;
    if !luks.starts_with(LUKS_MAGIC) {
        return Ok(Some("its LUKS header is overwritten"));
    }
    let raw = Raw(&luks);
    let mut used = (0..SLOTS).map(slot).filter(|&at| raw.short(at) == SLOT_IN_USE).peekable();
    if used.peek().is_none() {
        return Ok(Some("its LUKS header has no key any more"));
    }
    for at in used {
        let mut material = vec![0; STRIPES as usize * KEY];
        let begin = u64::from(raw.short(at + 40)) * SECTOR;
        file.read_exact_at(&mut material, place.offset.saturating_add(begin))?;
        // Of what looks random no sector is empty.
        if !material.chunks(SECTOR as usize).any(|sector| sector.iter().all(|&byte| byte == 0)) {
            return Ok(None);
        }
    }
    Ok(Some("the keys in its LUKS header are wiped"))
}

/// A file's header with its extensions.
fn beginning(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(ALL);
    io::Seek::rewind(&mut &*file)?;
    file.take(ALL as u64).read_to_end(&mut bytes)?;
    bytes.resize(ALL, 0);
    Ok(bytes)
}

/// Where a header says that the LUKS header is.
fn encryption(raw: &Raw<'_>) -> Option<Place> {
    let of = |(kind, content)| (kind == ENCRYPTION).then(|| Place::read(content))?;
    extensions(raw)?.into_iter().find_map(of)
}

/// The extensions of a header of version 3: their kinds, and what is in them. None when it is damaged.
pub(super) fn extensions<'a>(raw: &Raw<'a>) -> Option<Vec<(u32, &'a [u8])>> {
    let mut rest = raw.0.get(usize::try_from(raw.short(100)).ok()?..)?;
    let mut found = Vec::new();
    loop {
        let (head, after) = rest.split_at_checked(8)?;
        let (kind, length) = (Raw(head).short(0), Raw(head).short(4) as usize);
        if kind == 0 {
            return Some(found);
        }
        found.push((kind, after.get(..length)?));
        rest = after.get(length.next_multiple_of(8)..)?;
    }
}

/// Where the LUKS header is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Place {
    /// As its extension has it; none when that is damaged.
    pub(super) fn read(content: &[u8]) -> Option<Self> {
        let raw = Raw(content);
        (content.len() == 16).then(|| Self { offset: raw.long(0), length: raw.long(8) })
    }
}

/// Where the key of this number is described in a LUKS header.
pub(super) const fn slot(number: usize) -> usize {
    208 + number * 48
}

/// Numbers with their highest byte first. The callers stay within the bytes.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl Raw<'_> {
    pub(super) fn short(&self, at: usize) -> u32 {
        self.0[at..at + 4].iter().fold(0, |sum, &byte| (sum << 8) | u32::from(byte))
    }

    pub(super) fn long(&self, at: usize) -> u64 {
        (u64::from(self.short(at)) << 32) | u64::from(self.short(at + 4))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const TABLE: usize = 0x3_0000;
    const KEYS: usize = 0x4_0000;
    /// With eight keys, in whole clusters.
    const END: usize = KEYS + 0x20_0000;

    /// The file of a volume of this size that nothing was written to, with a key that is not random.
    pub(in crate::qemu) fn empty(bytes: u64) -> Vec<u8> {
        let mut raw = vec![0_u8; END];
        let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"QFI\xfb\0\0\0\x03");
        put(20, &16_u32.to_be_bytes());
        put(24, &bytes.to_be_bytes());
        put(32, &LUKS.to_be_bytes());
        put(36, &4_u32.to_be_bytes());
        put(40, &(TABLE as u64).to_be_bytes());
        put(100, &104_u32.to_be_bytes());
        put(104, &ENCRYPTION.to_be_bytes());
        put(108, &16_u32.to_be_bytes());
        put(112, &(KEYS as u64).to_be_bytes());
        put(120, &2_068_480_u64.to_be_bytes());
        put(KEYS, LUKS_MAGIC);
        put(KEYS + slot(0), &SLOT_IN_USE.to_be_bytes());
        put(KEYS + slot(0) + 40, &8_u32.to_be_bytes());
        put(KEYS + 4_096, &[0x5a; STRIPES as usize * KEY]);
        raw
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn what_a_file_lacks_of_what_it_refers_to_is_missing_and_nothing_else() {
        let mut raw = empty(1 << 30);
        assert_eq!(missing(file(&raw).path()).unwrap(), None);
        let cut = |raw: &[u8], at: usize| missing(file(&raw[..at]).path()).unwrap();
        assert_eq!(cut(&raw, 110), Some("its header is damaged"));
        for at in [200, TABLE, KEYS + 1, END - (64 << 10)] {
            assert!(cut(&raw, at).is_some_and(|why| why.contains("LUKS header")), "{at}");
        }
        // Its third table follows, and data after that.
        let table = END as u64 | 1 << 63;
        raw[TABLE + 16..TABLE + 24].copy_from_slice(&table.to_be_bytes());
        raw.resize(END + (128 << 10), 0x77);
        for (at, is_cut) in [(END, true), (END + 65_535, true), (END + 65_536, false)] {
            assert_eq!(cut(&raw, at).is_some(), is_cut, "{at}");
        }
        raw[40..48].copy_from_slice(&(1_u64 << 40).to_be_bytes());
        assert!(cut(&raw, raw.len()).is_some_and(|why| why.contains("first table")));
        raw[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(cut(&raw, raw.len()), Some("its header is damaged"));
    }

    #[test]
    fn keys_are_lost_where_it_shows() {
        let whole = empty(1 << 30);
        let lost = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut raw = whole.clone();
            change(&mut raw);
            lost_keys(file(&raw).path()).unwrap()
        };
        assert_eq!(lost(&|_| ()), None);
        assert_eq!(lost(&|raw| raw[KEYS + 4_200..KEYS + 5_000].fill(0xff)), None, "who knows");
        assert!(lost(&|raw| raw[KEYS] = 0).is_some());
        assert!(lost(&|raw| raw[KEYS + slot(0)] = 0xff).is_some());
        assert!(lost(&|raw| raw[KEYS + 8_192..KEYS + 8_704].fill(0)).is_some());
        // A second one may open it.
        let second = |raw: &mut Vec<u8>| {
            raw[KEYS + 8_192..KEYS + 8_704].fill(0);
            raw.copy_within(KEYS + slot(0)..KEYS + slot(1), KEYS + slot(1));
            raw[KEYS + slot(1) + 43] = 0xf0;
            raw[KEYS + 0x1_e000..KEYS + 0x1_e000 + 256_000].fill(0x33);
        };
        assert_eq!(lost(&second), None);
    }
}
