//! The memory of a process that opens keys: none of it goes to a disk, and no more of it stays than
//! is used.
//!
//! Owns what the kernel is asked for. Refuses nothing: a process that may not lock its memory goes
//! on and says so, as the host standard has no swap anyway.

use std::{
    convert::Infallible,
    fs::File,
    io::{self, BufRead, BufReader},
    ops::Range,
    ptr,
    time::Duration,
};

use rustix::{
    io::Errno,
    mm::{Advice, MlockAllFlags, madvise, mlockall, munlock},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, capabilities},
};
use tokio::time::{Instant, interval_at};

/// After the start, what only the start needed is let go of; then what the last while needed.
const FIRST: Duration = Duration::from_secs(2);
const THEN: Duration = Duration::from_mins(1);

/// Keeps this process's memory out of swap and core dumps, from here on. Only pages that are used
/// are locked, so it takes no more memory than before, and none of the program itself: no key is in
/// what is read from a file and never written.
pub(crate) fn keep_off_disks() {
    // A process that can't be dumped at all could not hand keys to the programs that it starts.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "unable to keep this process out of core dumps");
    }
    if let Err(error) = lock() {
        tracing::warn!(
            %error,
            "unable to lock this process's memory: what it has of keys could be swapped out; give \
             it CAP_IPC_LOCK, or no limit of locked memory (LimitMEMLOCK=infinity)"
        );
    }
}

/// Within a limit, memory that is needed later could not be had at all: nothing is locked then.
fn lock() -> rustix::io::Result<()> {
    let is_bounded = getrlimit(Resource::Memlock).current.is_some();
    if is_bounded && !capabilities(None)?.effective.contains(CapabilitySet::IPC_LOCK) {
        return Err(Errno::PERM);
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
}

/// The program and its libraries as they were mapped from their files at the start, and never
/// written to.
#[derive(Debug)]
pub(crate) struct Program(Vec<Range<usize>>);

impl Program {
    /// What this process has mapped now. To be called before anything loads libraries of its own:
    /// what the program was linked with stays mapped as long as it runs. Nothing, where `/proc`
    /// does not say it.
    pub(crate) fn mapped() -> Self {
        let found =
            File::open("/proc/self/smaps").and_then(|smaps| unwritten(BufReader::new(smaps)));
        Self(found.unwrap_or_else(|error| {
            tracing::debug!(%error, "all pages of the program stay in memory");
            Vec::new()
        }))
    }

    /// Lets go of the pages that were needed a while ago, for as long as this is polled. They stay
    /// in the kernel's cache of files for as long as there is room, and come back from there.
    pub(crate) async fn let_go_of_what_rests(self) -> Infallible {
        let mut ticks = interval_at(Instant::now() + FIRST, THEN);
        loop {
            ticks.tick().await;
            for range in &self.0 {
                if let Err(error) = let_go(range) {
                    tracing::debug!(%error, "pages of the program stay in memory");
                }
            }
        }
    }
}

/// The mappings of files that can't be written to and have no page of their own, in the words of
/// `/proc/PID/smaps` (proc_pid_smaps(5)). What the loader has relocated is not among them.
fn unwritten(smaps: impl BufRead) -> io::Result<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut last = None;
    for line in smaps.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else { continue };
        if first == "Anonymous:" {
            if let (Some(range), "0") = (last.take(), second) {
                found.push(range);
            }
        } else if !first.ends_with(':') {
            let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
            let is_fixed = matches!(second, "r-xp" | "r--p");
            last = addresses(first).filter(|_| is_file && is_fixed);
        }
    }
    Ok(found)
}

fn addresses(range: &str) -> Option<Range<usize>> {
    let (begin, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(begin)?..address(end)?)
}

#[allow(unsafe_code, reason = "the kernel is told of memory by its address")]
fn let_go(range: &Range<usize>) -> rustix::io::Result<()> {
    let begin = ptr::without_provenance_mut(range.start);
    // SAFETY: the range is mapped from a file, can't be written to, has no page that differs from
    // the file, and is not unmapped while this process runs, since the program was linked with it.
    // Neither call changes what is read there: a page that is let go of is read from the file again.
    unsafe {
        munlock(begin, range.len())?;
        madvise(begin, range.len(), Advice::LinuxDontNeed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_stands_in_a_file_is_let_go_of() {
        let smaps = "\
            1000-3000 r-xp 00000000 fe:00 12 /usr/bin/it\n\
            Rss: 8 kB\nAnonymous: 0 kB\nVmFlags: rd ex\n\
            3000-4000 r--p 00002000 fe:00 12 /usr/bin/it\n\
            Anonymous: 4 kB\n\
            4000-5000 rw-p 00003000 fe:00 12 /usr/bin/it\n\
            Anonymous: 0 kB\n\
            5000-6000 r--p 00000000 00:00 0\n\
            Anonymous: 0 kB\n\
            6000-7000 r-xp 00000000 00:00 0 [vdso]\n\
            Anonymous: 0 kB\n\
            7000-9000 r--p 00000000 fe:00 13 /usr/lib/other name (deleted)\n\
            Anonymous: 0 kB\n\
            9000-a000 r-xs 00000000 fe:00 13 /usr/lib/shared\n\
            Anonymous: 0 kB\n";
        let found = |smaps: &str| unwritten(smaps.as_bytes()).unwrap();
        assert_eq!(found(smaps), [0x1000..0x3000, 0x7000..0x9000]);
        assert!(found("zz-1 r-xp 0 0 0 /a\nAnonymous: 0 kB\n\nAnonymous:").is_empty());
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        let program = Program::mapped();
        let own = only_what_stands_in_a_file_is_let_go_of as fn() as usize;
        assert!(program.0.iter().any(|range| range.contains(&own)), "this very function is in it");
        let resident = || {
            let statm = fs::read_to_string("/proc/self/statm").unwrap();
            let shared = statm.split_ascii_whitespace().nth(2).unwrap();
            shared.parse::<u64>().unwrap()
        };
        let before = resident();
        for range in &program.0 {
            let_go(range).unwrap();
        }
        let after = resident();
        assert!(after < before, "{after} pages of files, {before} before");
        only_what_stands_in_a_file_is_let_go_of();
    }
}
