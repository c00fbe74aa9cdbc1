//! The memory of a process that opens keys: none of it goes to a disk.
//!
//! Owns what the kernel is asked for. Refuses nothing: a process that may not lock its memory goes
//! on and says so, as the host standard has no swap anyway.

use rustix::{
    io,
    mm::{MlockAllFlags, mlockall},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, capabilities},
};

/// Keeps this process's memory out of swap and core dumps, from here on. Only pages that are used
/// are locked, so it takes no more memory than before.
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
fn lock() -> io::Result<()> {
    let is_bounded = getrlimit(Resource::Memlock).current.is_some();
    if is_bounded && !capabilities(None)?.effective.contains(CapabilitySet::IPC_LOCK) {
        return Err(io::Errno::PERM);
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
}
