//! The Terraform process that started this one. All providers of a run have it in common, those
//! of other aliases too, and it outlives them.

use std::{fs, path::Path};

/// A process, told from all others that ever had or will have its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session(String);

impl Session {
    /// The process that started this one; nothing where the system does not tell when it began.
    pub fn of_parent() -> Option<Self> {
        let pid = std::os::unix::process::parent_id();
        Some(Self(format!("{pid}-{}", began(pid)?)))
    }

    /// A name for files, from which [`Self::is_over`] can tell.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Whether the session of this name has ended. What is not such a name is not over.
    pub fn is_over(name: &str) -> bool {
        let parts = name.split_once('-').and_then(|(pid, start)| Some((pid.parse().ok()?, start)));
        parts.is_some_and(|(pid, start): (u32, _)| began(pid).as_deref() != Some(start))
    }
}

/// When a process began, in ticks since the system did.
fn began(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name in brackets may hold anything; the 22nd field is the 20th after it.
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lasts_as_long_as_its_process() {
        let session = Session::of_parent().unwrap();
        assert!(!Session::is_over(session.name()));
        let (pid, _) = session.name().split_once('-').unwrap();
        assert!(Session::is_over(&format!("{pid}-0")), "another process of the same number");
        assert!(!Session::is_over("notes.txt"));
    }
}
