//! Machines between two hosts: what the one that they leave and the one that they come to do next.

use std::sync::Arc;

use fairmazon_hypervisor::{Halt, Machine, Marks, RunState};
use fairmazon_model::{instance::Power, machine::MachineSpec};

use super::{
    MachineAction, MachineAction as Do, MachineCase, Step, Wish, disks_wait_for, same_definition,
    step, stop,
};

/// Why nothing is done to a machine that may be anything.
pub(super) const UNREAD: &str = "it can't be read";

/// One step of what is left of an earlier run of a machine that is to come from another host:
/// nothing of it may be started, as its data is not here.
pub(super) fn before_arrival(case: &MachineCase<'_>, seen: &Machine) -> Step<MachineAction> {
    match seen.run {
        RunState::Off(_) => step(Do::Undefine, "an earlier run of it was here"),
        RunState::Incoming | RunState::Arrived => step(Do::Refuse, "it came for an earlier run"),
        RunState::Held => step(Do::ForceStop, "it was held in an earlier run"),
        RunState::Running => stop(case, seen, "its earlier run ends before it comes"),
        RunState::Unread => step(Do::Wait, UNREAD),
    }
}

/// One step of a machine that comes from another host, or came, and was never let run here. Only
/// the host that it leaves says that it may run, or a set that decides it here.
pub(super) fn arriving(seen: &Machine, wish: &Wish<'_, Arc<MachineSpec>>) -> Step<MachineAction> {
    let marks = seen.marks;
    let Wish::Present(spec) = wish else {
        return if seen.runs() {
            step(Do::Refuse, "it is not desired here")
        } else {
            step(Do::Undefine, "it is not desired here")
        };
    };
    if spec.epoch < marks.epoch {
        return step(Do::Wait, "the desired epoch is older than the one it has");
    }
    let comes = spec.arrival.as_ref().filter(|_| spec.epoch == marks.epoch);
    match (seen.run, comes) {
        (RunState::Unread, _) => step(Do::Wait, UNREAD),
        (RunState::Running | RunState::Held, _) => {
            step(Do::Mark(Marks { halt: Halt::Started, ..marks }), "it runs")
        }
        (RunState::Incoming, _) => step(Do::Refuse, "nobody brings the rest of it"),
        (RunState::Arrived, None) if spec.epoch == marks.epoch => {
            let halt = lands_as(&seen.definition);
            step(Do::Mark(Marks { halt, ..marks }), "it is decided here")
        }
        (RunState::Arrived, Some(comes)) if comes.open => {
            step(Do::Wait, "the host that it left has not said so")
        }
        (RunState::Arrived, _) => step(Do::Refuse, "it shall not come any more"),
        (RunState::Off(_), None) => {
            step(Do::Mark(Marks { halt: Halt::Idle, ..marks }), "it is decided here")
        }
        (RunState::Off(_), Some(comes)) if !comes.open => {
            step(Do::Undefine, "it shall not come any more")
        }
        (RunState::Off(_), Some(_)) if !same_definition(&seen.definition, spec) => {
            step(Do::Define(marks), "its definition changes")
        }
        (RunState::Off(_), Some(_)) => step(Do::Wait, "it is to come from another host"),
    }
}

/// What is marked when all of a machine has come and it is to be here: one that was defined to be
/// off is held where it comes from, and is put off here first, whatever is desired by then.
pub(crate) fn lands_as(definition: &MachineSpec) -> Halt {
    match definition.power {
        Power::Running => Halt::Started,
        Power::Stopped => Halt::Idle,
    }
}

/// Whether the machine may leave for another host now; why not otherwise, where it is to.
pub(super) fn may_leave(spec: &MachineSpec) -> Result<(), Option<&'static str>> {
    match &spec.departure {
        None => Err(None),
        Some(departure) if !departure.keys_wanted.is_empty() => {
            Err(Some("the host that it goes to waits for keys"))
        }
        Some(departure) if departure.address.is_empty() => {
            Err(Some("the host that it goes to is not to be reached"))
        }
        Some(_) => Ok(()),
    }
}

/// One step of a machine that is held to be sent: it is sent as it is, or ended. Its guest is not
/// let run here, and what changes is changed while it is off.
pub(super) fn held(seen: &Machine, spec: &Arc<MachineSpec>) -> Step<MachineAction> {
    let marks = seen.marks;
    let goes = spec.power == Power::Stopped
        && marks.halt == Halt::Held
        && marks == Marks { epoch: spec.epoch, spec_version: spec.spec_version, ..marks }
        && marks.done.rebuilds >= spec.rebuilds
        && same_definition(&seen.definition, spec)
        && may_leave(spec).is_ok();
    if goes {
        step(Do::Depart, "it shall be at another host")
    } else {
        step(Do::ForceStop, "it shall not leave as it is")
    }
}

/// One step of a machine that is off and shall be at another host.
pub(super) fn leaves_off(
    case: &MachineCase<'_>,
    seen: &Machine,
    spec: &MachineSpec,
) -> Step<MachineAction> {
    if let Some(why) = disks_wait_for(case, spec) {
        return step(Do::Wait, why);
    }
    if seen.marks.halt == Halt::Held {
        step(Do::Hold, "it shall be at another host")
    } else {
        step(Do::Mark(Marks { halt: Halt::Held, ..seen.marks }), "it is about to leave")
    }
}
