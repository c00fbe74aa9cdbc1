//! The next step of a migration: a pure function like those of [`super::step`].
//!
//! Two hosts have the machine in their sets, and only one of them ever runs it. That it came is
//! known from the host that it comes to, or from both; that it stays only once that host has shown
//! that it will not run it.

use fairmazon_model::{
    instance::{Instance, ObservedState},
    machine::MachineSeen,
    migration::{Handover, Migration},
};

use super::step::{InstanceFacts, Step, Waiting};
use crate::core::Standing;

/// What the next step of a migration depends on beside the instance.
#[derive(Debug, Clone)]
pub(crate) struct Moving<'a> {
    /// As decided.
    pub(crate) migration: &'a Migration,
    /// What the host that it leaves said last of the run that is decided.
    pub(crate) source: Option<MachineSeen>,
    /// Whether that was said under a set that says that the machine stays.
    pub(crate) source_knows: bool,
    /// What the host that it comes to said last of the run that it is there.
    pub(crate) destination: Option<MachineSeen>,
    /// How that host stands.
    pub(crate) destination_standing: Standing,
    /// Whether that host has shown that the machine is not there, under a set that says that it
    /// shall not come; or it is lost for good.
    pub(crate) gone: bool,
    /// Whether it is a carrier whose volumes are not all on the host that it leaves, as that says
    /// itself. They have gone all the same, and the store was restored to before; or they are lost,
    /// and what is at the other host is a part of them.
    pub(crate) lost: bool,
    /// Why it can't go there any more, as far as rows and the clock say.
    pub(crate) hindrance: Option<String>,
}

/// The next step, as far as the migration decides it.
pub(super) fn next_moving_step(facts: &InstanceFacts<'_>, moving: &Moving<'_>) -> Option<Step> {
    if has_come(moving) {
        return Some(Step::Land);
    }
    if moving.lost {
        // Nobody but its operator can say which; nothing is destroyed until then.
        return Some(Step::Wait(Waiting::Data));
    }
    if moving.migration.given_up {
        return stay(facts, moving);
    }
    why_not(facts, moving).map(Step::GiveUp)
}

/// Whether the machine runs or ran at its new host, or will as soon as it is decided there.
fn has_come(moving: &Moving<'_>) -> bool {
    let Some(there) = &moving.destination else { return false };
    match (&there.state, there.handover) {
        (ObservedState::Unknown | ObservedState::Absent, _) => false,
        (_, Some(Handover::Arrived)) => has_left(moving),
        (_, Some(_)) => false,
        // What a host has not made yet may look like this, too.
        (ObservedState::Starting | ObservedState::Failed { .. }, None) => {
            there.spec_version > 0 && has_left(moving)
        }
        (ObservedState::Running | ObservedState::Stopping | ObservedState::Stopped, None) => true,
    }
}

fn has_left(moving: &Moving<'_>) -> bool {
    moving.source.as_ref().is_some_and(MachineSeen::has_left)
}

/// Why it shall not go there any more.
fn why_not(facts: &InstanceFacts<'_>, moving: &Moving<'_>) -> Option<String> {
    let instance = facts.instance;
    if instance.deleting.is_some() {
        Some("it is being deleted".into())
    } else if moving.migration.off && facts.wants_to_run() {
        Some("it shall run now, and starts first".into())
    } else if !moving.migration.off && !facts.wants_to_run() {
        Some("it shall not run any more".into())
    } else if !moving.migration.off && has_ended(instance) && !has_left(moving) {
        Some("it has ended on the host that it is on".into())
    } else if facts.standing == Standing::Lapsed {
        Some("the host that it is on does not answer".into())
    } else if moving.destination_standing == Standing::Lapsed {
        Some("the host that it was going to does not answer".into())
    } else {
        moving.hindrance.clone()
    }
}

/// Whether its run was seen off.
fn has_ended(instance: &Instance) -> bool {
    let observed = &instance.observed;
    instance.decision.as_ref().is_some_and(|decision| decision.epoch == observed.epoch)
        && matches!(
            observed.state,
            ObservedState::Stopped | ObservedState::Absent | ObservedState::Failed { .. }
        )
}

/// What is left of a migration that was given up.
fn stay(facts: &InstanceFacts<'_>, moving: &Moving<'_>) -> Option<Step> {
    let lapsed = moving.destination_standing == Standing::Lapsed;
    if !moving.gone && !lapsed {
        return None;
    }
    let deleting = facts.instance.deleting.is_some();
    if deleting && (moving.gone || !facts.instance.leaves_data()) {
        return Some(Step::Stay { anew: false });
    }
    // A host that has let it go starts it only as another run. One that is deleted is started by
    // nobody, but the volumes that are there after it are where it was last.
    let runs = moving.source.as_ref().is_some_and(|seen| {
        deleting || seen.handover.is_none() && seen.state == ObservedState::Running
    });
    match facts.standing {
        // One that is sending it, or was a moment ago, does not know yet.
        Standing::Connected
            if moving.source_knows
                && moving
                    .source
                    .as_ref()
                    .is_some_and(|seen| seen.state != ObservedState::Unknown) =>
        {
            if moving.gone || !has_left(moving) {
                Some(Step::Stay { anew: !runs })
            } else {
                // The other host may have later data, as long as it may come back.
                Some(Step::Wait(Waiting::Data))
            }
        }
        Standing::Lapsed if moving.gone => Some(Step::Stay { anew: true }),
        _ => None,
    }
}
