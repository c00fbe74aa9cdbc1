//! Whether a domain is busy, and ending what with. `unsafe`, because `virt` does not wrap it.

#![expect(unsafe_code, reason = "virt 0.5 does not wrap jobs")]

use std::mem;

use virt::{domain::Domain, error::Error};
use virt_sys as sys;

/// Ends the job that a domain is busy with, a migration for one; an error when it is with none.
pub(crate) fn abort(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain holds a valid reference for the time of the call, which only reads it.
    if unsafe { sys::virDomainAbortJob(domain.as_ptr()) } < 0 {
        return Err(Error::last_error());
    }
    Ok(())
}

/// Whether a call to the domain's QEMU is under way, which may hang: other calls then wait for it.
pub(crate) fn is_asked(domain: &Domain) -> Result<bool, Error> {
    // SAFETY: the struct is of integers, for which zero is a value.
    let mut info: sys::virDomainControlInfo = unsafe { mem::zeroed() };
    // SAFETY: the domain holds a valid reference for the time of the call, which writes to a whole
    // struct that lives through it.
    if unsafe { sys::virDomainGetControlInfo(domain.as_ptr(), &raw mut info, 0) } < 0 {
        return Err(Error::last_error());
    }
    Ok(info.state != sys::VIR_DOMAIN_CONTROL_OK)
}
