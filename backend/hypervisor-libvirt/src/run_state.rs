//! Whether a domain runs, by libvirt's state of it and by the marks of its machine.

use fairmazon_hypervisor::{Halt, Marks, OffReason, RunState};
use virt::{
    domain::{
        Domain, DomainPausedReason, DomainShutoffReason, DomainState, DomainStateReason,
        DomainStateReasonEnum,
    },
    enumutil::Enum,
    error::Error,
};

/// The state of a domain, and why it is in it. One that nobody knows is an error: it says neither that
/// the domain runs nor that it does not.
pub(crate) fn state(domain: &Domain) -> Result<(DomainState, DomainStateReasonEnum), Error> {
    match domain.state()? {
        (Enum::Known(state), reason) => Ok((state, reason)),
        // virt 0.5 does not tell that the call has failed: the state is none of libvirt's then, and
        // why is what libvirt keeps for this thread until its next call.
        (Enum::Unknown(_), _) => Err(Error::last_error()),
    }
}

/// Whether a domain runs, and whether its guest stands still since a disk could not be written to.
pub(crate) fn run_state(domain: &Domain, marks: Marks) -> Result<(RunState, bool), Error> {
    let (state, reason) = state(domain)?;
    let paused_for = |wanted: DomainPausedReason| matches!(reason, Enum::Known(DomainStateReason::Paused(given)) if given.is(wanted));
    let run = if matches!(state, DomainState::Shutoff | DomainState::Crashed) {
        RunState::Off(off_reason(state, reason, marks))
    } else if state != DomainState::Paused {
        RunState::Running
    } else {
        // What libvirt has received in full is paused as if a user had paused it, and for no other
        // reason: nobody pauses machines here.
        let by_user = paused_for(DomainPausedReason::User);
        match marks.halt {
            Halt::Held => RunState::Held,
            // One that may run by its marks and was not let run yet is still to be, or is to be off.
            Halt::Arriving | Halt::Started | Halt::Idle if by_user => RunState::Arrived,
            Halt::Arriving => RunState::Incoming,
            _ => RunState::Running,
        }
    };
    Ok((run, run == RunState::Running && paused_for(DomainPausedReason::IOError)))
}

fn off_reason(state: DomainState, reason: DomainStateReasonEnum, marks: Marks) -> OffReason {
    if marks.halt == Halt::Left {
        // Whatever libvirt calls the end of its QEMU.
        return OffReason::Moved;
    }
    if state == DomainState::Crashed {
        return OffReason::Crashed;
    }
    let is = |wanted: DomainShutoffReason| matches!(reason, Enum::Known(DomainStateReason::Shutoff(given)) if given.is(wanted));
    if is(DomainShutoffReason::Migrated) {
        OffReason::Moved
    } else if is(DomainShutoffReason::Shutdown) {
        OffReason::Guest
    } else if is(DomainShutoffReason::Crashed) {
        // Guests have no device to tell of a crash of theirs: it was the emulator that ended.
        OffReason::Host
    } else if is(DomainShutoffReason::Unknown) {
        // libvirt gives no reason for what never ran, nor for what ended before its own restart.
        match marks.halt {
            Halt::Started | Halt::Leaving | Halt::Held | Halt::Left => OffReason::Host,
            Halt::Idle | Halt::Stopping | Halt::Arriving => OffReason::NeverStarted,
        }
    } else {
        OffReason::Host
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::{instance, spec};
    use virt::connect::Connect;

    use super::*;
    use crate::{error::is_missing, xml};

    #[test]
    fn a_domain_whose_state_is_not_told_does_not_count_as_running() {
        let connection = Connect::open(Some("test:///default")).unwrap();
        let uuid = xml::uuid(instance(1).ulid());
        let domain = xml::domain(&uuid, &spec(1), "", |_| xml::pool_name("none"));
        let domain = connection.define_domain_xml(&domain).unwrap();
        let (run, _) = run_state(&domain, Marks::default()).unwrap();
        assert_eq!(run, RunState::Off(OffReason::NeverStarted));
        connection.lookup_domain_by_uuid_string(&uuid).unwrap().undefine().unwrap();
        let error = run_state(&domain, Marks::default()).unwrap_err();
        assert!(is_missing(&error), "{error}");
        state(&domain).unwrap_err();
    }
}
