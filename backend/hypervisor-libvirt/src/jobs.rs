//! Ending what a domain is busy with. `unsafe`, because `virt` does not wrap it.

#![expect(unsafe_code, reason = "virt 0.5 does not wrap the end of a job")]

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
