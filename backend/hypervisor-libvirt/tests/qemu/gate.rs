//! The middle of something: whoever opens a file that the test has chosen is held in that call, in
//! whatever process, until the test lets it go on. It can be killed meanwhile, by `kill -9` as well.

#![allow(unsafe_code, reason = "fanotify has no safe interface here")]

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    thread,
};

use rustix::fs::{OFlags, fcntl_setfl};
use tokio::sync::oneshot;

use crate::lab::PATIENCE;

/// Somebody who opens a file.
pub(crate) struct Opened {
    pub(crate) pid: i32,
    /// Its command line.
    pub(crate) words: Vec<String>,
    /// Of a file in a mount namespace of its own, only the last part is what it is called there.
    pub(crate) path: PathBuf,
}

impl Opened {
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.path.file_name().is_some_and(|own| own == name)
    }

    /// Whether its program's name begins so.
    pub(crate) fn is_by(&self, program: &str) -> bool {
        let own = self.words.first().and_then(|own| own.rsplit('/').next());
        own.is_some_and(|own| own.starts_with(program))
    }

    /// Whether it was called with this word.
    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|own| own == word)
    }
}

/// Lets pass whoever opens something in its folders, but for the first who is to be held.
pub(crate) struct Gate(oneshot::Receiver<Held>);

/// Somebody who waits until this is dropped.
pub(crate) struct Held {
    // The kernel lets it go on when this is closed.
    _events: File,
    _opened: OwnedFd,
}

impl Gate {
    /// From now on, over what is in these folders and over the folders themselves.
    pub(crate) fn over(
        folders: &[PathBuf],
        mut is_it: impl FnMut(&Opened) -> bool + Send + 'static,
    ) -> Self {
        let mut events = watch(folders).unwrap();
        let (send, held) = oneshot::channel();
        thread::spawn(move || {
            loop {
                let Some(event) = next(&mut events).unwrap() else { continue };
                if !is_it(&event.opened()) {
                    event.allow(&mut events).unwrap();
                    continue;
                }
                // From here on nobody else is asked for, and who came together with it goes on.
                flush(&events).unwrap();
                fcntl_setfl(&events, OFlags::NONBLOCK).unwrap();
                while let Ok(Some(other)) = next(&mut events) {
                    other.allow(&mut events).unwrap();
                }
                let _ = send.send(Held { _events: events, _opened: event.file });
                return;
            }
        });
        Self(held)
    }

    /// Waits for who is to be held.
    pub(crate) async fn held(self, whom: &str) -> Held {
        let held = tokio::time::timeout(PATIENCE, self.0).await;
        held.unwrap_or_else(|_| panic!("nobody came to be held: {whom}")).unwrap()
    }
}

/// Somebody who waits to be let in.
struct Event {
    file: OwnedFd,
    pid: i32,
}

impl Event {
    fn opened(&self) -> Opened {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let words = line.split_terminator('\0').map(str::to_owned).collect();
        let path = fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        Opened { pid: self.pid, words, path: path.unwrap_or_default() }
    }

    fn allow(self, events: &mut File) -> io::Result<()> {
        let answer = [self.file.as_raw_fd().to_ne_bytes(), libc::FAN_ALLOW.to_ne_bytes()].concat();
        events.write_all(&answer)
    }
}

fn watch(folders: &[PathBuf]) -> io::Result<File> {
    let flags = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC;
    let opened_with = (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC).cast_unsigned();
    // SAFETY: takes no pointer.
    let events = unsafe { libc::fanotify_init(flags, opened_with) };
    if events < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    let events = unsafe { File::from_raw_fd(events) };
    let which = libc::FAN_OPEN_PERM | libc::FAN_EVENT_ON_CHILD | libc::FAN_ONDIR;
    folders.iter().try_for_each(|folder| mark(&events, libc::FAN_MARK_ADD, which, folder))?;
    Ok(events)
}

fn flush(events: &File) -> io::Result<()> {
    mark(events, libc::FAN_MARK_FLUSH, 0, Path::new("/"))
}

fn mark(events: &File, how: libc::c_uint, which: u64, folder: &Path) -> io::Result<()> {
    let folder = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string that lives until the call returns.
    let marked = unsafe {
        libc::fanotify_mark(events.as_raw_fd(), how, which, libc::AT_FDCWD, folder.as_ptr())
    };
    if marked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits for the next event: one at a time, as there is room for one.
fn next(events: &mut File) -> io::Result<Option<Event>> {
    const LENGTH: usize = size_of::<libc::fanotify_event_metadata>();
    let mut raw = [0_u8; LENGTH];
    if events.read(&mut raw)? < LENGTH {
        return Ok(None);
    }
    // The last two of its fields, whatever is before them: the file, and who opens it.
    let number = |at: usize| i32::from_ne_bytes(std::array::from_fn(|byte| raw[at + byte]));
    let (file, pid) = (number(LENGTH - 8), number(LENGTH - 4));
    if file < 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has opened it for whoever reads the event, and nobody else has it.
    Ok(Some(Event { file: unsafe { OwnedFd::from_raw_fd(file) }, pid }))
}

#[tokio::test]
async fn who_opens_a_file_is_held_until_it_is_let_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("held");
    let gate = Gate::over(&[folder.path().into()], |opened| {
        opened.is_by("sh") && opened.has("writes") && opened.is_named("held")
    });
    // Others pass.
    fs::write(&path, "before").unwrap();
    let script = format!("echo after >{}", path.display());
    let start =
        || std::process::Command::new("sh").args(["-c", &script, "writes"]).spawn().unwrap();
    let mut killed = start();
    let held = gate.held("the shell").await;
    killed.kill().unwrap();
    assert!(!killed.wait().unwrap().success());
    drop(held);
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    let gate = Gate::over(&[folder.path().into()], |opened| opened.is_by("sh"));
    let mut other = start();
    let held = gate.held("the shell").await;
    assert_eq!(other.try_wait().unwrap(), None);
    drop(held);
    assert!(other.wait().unwrap().success());
    assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
}
