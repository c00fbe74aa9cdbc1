//! What the kernel says of the host's clock. Here because it is a system call that no safe crate
//! wraps, and `unsafe` has its home in this crate. Changes nothing.

#![expect(unsafe_code, reason = "nothing safe wraps adjtimex")]

use std::{io, mem};

/// Whether something keeps the clock of this host right, and how wrong it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// The kernel's mark that nothing does (`STA_UNSYNC`) is not set.
    pub synchronised: bool,
    /// The most that it is wrong by, as what keeps it right has told the kernel, in microseconds.
    pub error_us_most: u64,
}

/// Asks the kernel.
///
/// # Errors
/// When the call is forbidden, as it may be in a container.
pub fn read() -> io::Result<Clock> {
    // SAFETY: `timex` is a struct of integers, for which zero is a value.
    let mut timex: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` that lives through the call. Its `modes` is 0:
    // the kernel only fills it in.
    if unsafe { libc::adjtimex(&raw mut timex) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Clock {
        synchronised: timex.status & libc::STA_UNSYNC == 0,
        error_us_most: u64::try_from(timex.maxerror).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_or_says_why_not() {
        match read() {
            Ok(clock) => assert!(clock.error_us_most > 0 || clock.synchronised, "{clock:?}"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
