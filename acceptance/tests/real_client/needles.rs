//! What must not be found, and the search for it: in files, in the memory of a process, and in what
//! the processes of this machine were called with.

use std::{
    collections::HashSet,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use acceptance::Outcome;

use crate::guests::file;

/// Texts that are looked for, all of them in one pass. None is shorter than two bytes.
pub(crate) struct Needles {
    all: Vec<Vec<u8>>,
    /// By their first two bytes, whether one begins so.
    begins: Vec<bool>,
}

impl Needles {
    pub(crate) fn new(all: Vec<Vec<u8>>) -> Self {
        let mut begins = vec![false; 1 << 16];
        all.iter().for_each(|needle| begins[pair(needle, 0)] = true);
        Self { all, begins }
    }

    /// Whether these bytes hold one of them. A loop, as this is most of what a search takes, and tests
    /// are not optimised.
    pub(crate) fn are_in(&self, bytes: &[u8]) -> bool {
        let mut at = 0;
        while at + 1 < bytes.len() {
            let begins = || self.all.iter().any(|needle| bytes[at..].starts_with(needle));
            if self.begins[pair(bytes, at)] && begins() {
                return true;
            }
            at += 1;
        }
        false
    }

    /// The files below a folder that hold one of them, whatever they are.
    pub(crate) fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            if kind.is_dir() {
                found.extend(self.files(&path));
            } else if kind.is_file() && self.are_in(&fs::read(&path).unwrap_or_default()) {
                found.push(path);
            }
        }
        found
    }

    /// Whether the memory of a process holds one of them.
    pub(crate) fn are_in_memory_of(&self, process: u32) -> Outcome<bool> {
        const CHUNK: u64 = 4 << 20;
        let longest = self.all.iter().map(Vec::len).max().unwrap_or_default() as u64;
        let maps = file(fs::read_to_string(format!("/proc/{process}/maps")))?;
        let memory = file(File::open(format!("/proc/{process}/mem")))?;
        let mut bytes = Vec::new();
        let readable = maps.lines().filter_map(|map| {
            let (range, rest) = map.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let hex = |text| u64::from_str_radix(text, 16).ok();
            rest.starts_with('r').then(|| Some((hex(from)?, hex(to)?)))?
        });
        for (from, to) in readable {
            for at in (from..to).step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX)) {
                let length = (to - at).min(CHUNK + longest);
                bytes.resize(usize::try_from(length).unwrap_or_default(), 0);
                // What the kernel keeps for itself can't be read.
                let read = memory.read_at(&mut bytes, at).unwrap_or(0);
                if self.are_in(&bytes[..read]) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

fn pair(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

/// A key in the forms in which somebody may write it, from its hex digits.
pub(crate) fn forms(hex: &str) -> Vec<Vec<u8>> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap_or_default();
    let raw: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
    let base64 = [base64(&raw), base64(hex.as_bytes())];
    let [of_raw, of_hex] = base64.map(String::into_bytes);
    vec![hex.as_bytes().to_vec(), hex.to_uppercase().into_bytes(), raw, of_raw, of_hex]
}

/// Without its end: that depends on what follows.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |three: &[u8], at: usize| {
        let number = three.iter().fold(0_usize, |sum, &byte| (sum << 8) | usize::from(byte));
        char::from(DIGITS[(number >> (18 - 6 * at)) & 63])
    };
    bytes.chunks_exact(3).flat_map(|three| (0..4).map(move |at| digit(three, at))).collect()
}

/// Sees what every process of this machine is called with and has in its environment.
pub(crate) struct Watch {
    ends: Arc<AtomicBool>,
    seen: JoinHandle<HashSet<Vec<u8>>>,
}

impl Watch {
    pub(crate) fn start() -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ends);
        let seen = thread::spawn(move || {
            let mut seen = HashSet::new();
            while !end.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    let texts = ["cmdline", "environ"].map(|text| process.path().join(text));
                    seen.extend(texts.into_iter().filter_map(|text| fs::read(text).ok()));
                }
                // Often enough to see most of those that end soon.
                thread::sleep(Duration::from_millis(20));
            }
            seen
        });
        Self { ends, seen }
    }

    /// All that was seen until now.
    pub(crate) fn end(self) -> HashSet<Vec<u8>> {
        self.ends.store(true, Ordering::Relaxed);
        self.seen.join().unwrap_or_default()
    }
}

#[test]
fn what_is_there_is_found() -> Outcome {
    let hex = "00ff10203040506070".to_owned() + &"a1".repeat(23);
    for form in forms(&hex) {
        let needles = Needles::new(vec![b"other".to_vec(), form.clone()]);
        let around = [b"before".as_slice(), &form, b"after"].concat();
        assert!(needles.are_in(&around) && needles.are_in(&form));
        assert!(!needles.are_in(&form[1..]) && !needles.are_in(b""));
        assert!(needles.are_in_memory_of(std::process::id())?, "it is in this very process");
    }
    let folder = file(tempfile::tempdir())?;
    let deep = folder.path().join("deep");
    file(fs::create_dir(&deep))?;
    file(fs::write(deep.join("with"), "before the text and after"))?;
    file(fs::write(deep.join("without"), "before the tex"))?;
    let needles = Needles::new(vec![b"the text".to_vec()]);
    assert_eq!(needles.files(folder.path()), [deep.join("with")]);
    let watch = Watch::start();
    let mut command = std::process::Command::new("sh");
    let mut child = file(
        command.args(["-c", "read -r _", "the text"]).stdin(std::process::Stdio::piped()).spawn(),
    )?;
    thread::sleep(Duration::from_millis(100));
    drop(child.stdin.take());
    file(child.wait())?;
    assert!(watch.end().iter().any(|seen| needles.are_in(seen)));
    Ok(())
}
