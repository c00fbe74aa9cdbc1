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

/// How the backup stands that was begun last.
pub(super) fn progress(domain: &Domain) -> Result<Progress> {
    let attempted = || failed("look after a copy");
    let runs = job(domain, 0).map_err(attempted())?;
    if runs != sys::VIR_DOMAIN_JOB_NONE {
        return Ok(Progress::Runs);
    }
    // Kept, since nobody may hear this answer.
    let kept = sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED;
    let ended = job(domain, kept).map_err(attempted())?;
    Ok(if ended == sys::VIR_DOMAIN_JOB_COMPLETED { Progress::Done } else { Progress::Failed })
}

/// The kind of a domain's job: of the one that runs, or of the last one.
fn job(domain: &Domain, flags: u32) -> std::result::Result<u32, Error> {
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
    // SAFETY: what libvirt has made of parameters, or nothing, is given back once.
    unsafe { sys::virTypedParamsFree(parameters, count) };
    if asked < 0 {
        return Err(Error::last_error());
    }
    Ok(u32::try_from(kind).unwrap_or(sys::VIR_DOMAIN_JOB_NONE))
}
