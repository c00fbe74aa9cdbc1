//! libvirt's backup of a running machine's disk, which `virt` does not wrap: QEMU writes what the
//! disk was at the beginning into a file, while the guest goes on.

#![expect(
    unsafe_code,
    reason = "virt 0.5 does not wrap backups, and its job_stats aborts the process when no job runs"
)]

use std::{ffi::CString, path::Path, ptr};

use fairmazon_hypervisor::Result;
use fairmazon_model::id::VolumeId;
use virt::{domain::Domain, error::Error};
use virt_sys as sys;

use super::xml;
use crate::error::failed;

/// How a backup stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on.
    Runs,
    /// All of the disk is in the file.
    Done,
    /// It has ended before that.
    Failed,
}

/// Begins to write a disk of a running domain to a file that is there: a volume as large as the
/// disk, opened with the key that libvirt has for it now.
pub(super) fn begin(domain: &Domain, device: &str, to: (VolumeId, &Path)) -> Result<()> {
    let (volume, _) = to;
    let attempted = || format!("copy a disk to {volume}");
    let backup = CString::new(xml::backup(device, to));
    let backup = backup.map_err(|error| fairmazon_hypervisor::HypervisorError::Driver {
        attempted: attempted(),
        source: error.into(),
    })?;
    // SAFETY: `as_ptr` is a domain that lives as long as `domain`; the text ends with a zero and
    // outlives the call; libvirt allows for no checkpoint to be given.
    let begun = unsafe {
        sys::virDomainBackupBegin(
            domain.as_ptr(),
            backup.as_ptr(),
            ptr::null(),
            sys::VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL,
        )
    };
    if begun < 0 { Err(failed(attempted())(Error::last_error())) } else { Ok(()) }
}

/// How the backup stands that was begun last: of one machine there is one at a time, from before its
/// beginning until somebody has read here how it ended.
pub(super) fn progress(domain: &Domain) -> Result<Progress> {
    let attempted = || failed("look after a copy");
    let now = job(domain, 0).map_err(attempted())?;
    if now.kind != sys::VIR_DOMAIN_JOB_NONE {
        return Ok(Progress::Runs);
    }
    // Kept, since nobody may hear this answer.
    let kept = sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED;
    Ok(outcome(job(domain, kept).map_err(attempted())?))
}

/// What became of a backup by what the domain's last job was. One that is not told is not believed to
/// have come to its end.
fn outcome(last: Job) -> Progress {
    let is_backup = last.operation == sys::VIR_DOMAIN_JOB_OPERATION_BACKUP;
    let is_whole = is_backup && last.kind == sys::VIR_DOMAIN_JOB_COMPLETED;
    if is_whole { Progress::Done } else { Progress::Failed }
}

/// A job of a domain.
#[derive(Debug, Clone, Copy)]
struct Job {
    /// How it stands: a `VIR_DOMAIN_JOB_` of libvirt's.
    kind: u32,
    /// What it does: a `VIR_DOMAIN_JOB_OPERATION_`.
    operation: u32,
}

/// A domain's job: the one that runs, or the last one.
fn job(domain: &Domain, flags: u32) -> std::result::Result<Job, Error> {
    let (mut kind, mut count) = (0, 0);
    let mut parameters = ptr::null_mut();
    // SAFETY: `as_ptr` is a domain that lives as long as `domain`, and libvirt writes to the three
    // places that are given.
    let asked = unsafe {
        sys::virDomainGetJobStats(
            domain.as_ptr(),
            &raw mut kind,
            &raw mut parameters,
            &raw mut count,
            flags,
        )
    };
    let mut operation = 0;
    if asked >= 0 {
        let name = sys::VIR_DOMAIN_JOB_OPERATION.as_ptr();
        // SAFETY: the parameters are those that libvirt has made, and so many; the name ends with a
        // zero; libvirt writes to the place that is given, or leaves it as it is.
        let _ = unsafe { sys::virTypedParamsGetInt(parameters, count, name, &raw mut operation) };
    }
    let error = (asked < 0).then(Error::last_error);
    // SAFETY: what libvirt has made of parameters, or nothing, is given back once.
    unsafe { sys::virTypedParamsFree(parameters, count) };
    let known = |value| u32::try_from(value).unwrap_or(0);
    error.map_or(Ok(Job { kind: known(kind), operation: known(operation) }), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backup_that_came_to_its_end_is_whole() {
        use sys::{
            VIR_DOMAIN_JOB_CANCELLED as CANCELLED, VIR_DOMAIN_JOB_COMPLETED as COMPLETED,
            VIR_DOMAIN_JOB_FAILED as FAILED, VIR_DOMAIN_JOB_NONE as NONE,
            VIR_DOMAIN_JOB_OPERATION_BACKUP as BACKUP,
            VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT as MIGRATION,
            VIR_DOMAIN_JOB_OPERATION_UNKNOWN as UNKNOWN,
        };
        let of = |kind, operation| outcome(Job { kind, operation });
        assert_eq!(of(COMPLETED, BACKUP), Progress::Done);
        for kind in [NONE, FAILED, CANCELLED] {
            assert_eq!(of(kind, BACKUP), Progress::Failed);
        }
        // The end of something else says nothing of the backup before it.
        assert_eq!(of(COMPLETED, MIGRATION), Progress::Failed);
        assert_eq!(of(COMPLETED, UNKNOWN), Progress::Failed);
    }
}
