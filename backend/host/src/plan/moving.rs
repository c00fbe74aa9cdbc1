//! Machines that come from another host: what is done next at the host that they come to.

use std::sync::Arc;

use fairmazon_hypervisor::{Halt, Machine, Marks, RunState};
use fairmazon_model::machine::MachineSpec;

use super::{
    MachineAction, MachineAction as Do, MachineCase, Step, Wish, same_definition, step, stop,
};

/// One step of what is left of an earlier run of a machine that is to come from another host:
/// nothing of it may be started, as its data is not here.
pub(super) fn before_arrival(case: &MachineCase<'_>, seen: &Machine) -> Step<MachineAction> {
    match seen.run {
        RunState::Off(_) => step(Do::Undefine, "an earlier run of it was here"),
        RunState::Incoming | RunState::Arrived => step(Do::Refuse, "it came for an earlier run"),
        RunState::Running => stop(case, seen, "its earlier run ends before it comes"),
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
    let comes = spec.arrival.filter(|_| spec.epoch == marks.epoch);
    match (seen.run, comes) {
        (RunState::Running, _) => step(Do::Mark(Marks { halt: Halt::Started, ..marks }), "it runs"),
        (RunState::Incoming, _) => step(Do::Refuse, "nobody brings the rest of it"),
        (RunState::Arrived, None) if spec.epoch == marks.epoch => {
            step(Do::Mark(Marks { halt: Halt::Started, ..marks }), "it is decided here")
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
