//! The next step of an instance, a volume, an operation: pure functions of what is desired,
//! decided and observed. Start-up, timer and event all come here; nothing else decides.
//!
//! A step is safe to take twice: each one is committed under the revision of the rows that it
//! was computed from, and computed anew when they have changed.

use fairmazon_model::{
    DomainError, ErrorKind,
    id::HostId,
    instance::{Instance, ObservedState, RestartPolicy},
    interruption::InterruptionCause,
    operation::{Operation, OperationKind, OperationState},
    units::UnixMs,
    volume::{Volume, VolumeObserved},
};

use super::{
    interrupting::next_spot_step,
    moving::{Moving, next_moving_step},
};
use crate::core::{Standing, lost};

/// All that an instance's next step depends on.
#[derive(Debug, Clone)]
pub(crate) struct InstanceFacts<'a> {
    /// Desired, decided and observed.
    pub(crate) instance: &'a Instance,
    /// How the decided host stands; `Lapsed` when none is decided.
    pub(crate) standing: Standing,
    /// Whether its customer wants it to run now, working hours included.
    pub(crate) is_asked_to_run: bool,
    /// Whether its spot terms allow the price.
    pub(crate) spot_allows: bool,
    /// Whether that host is lost for good.
    pub(crate) lost: bool,
    /// Whether the host has shown that the machine is not there, under a set without it.
    pub(crate) gone: bool,
    /// Whether data of one of its volumes was seen on the host.
    pub(crate) has_data: bool,
    /// Whether the host waits for the customer's key of one of its volumes; asked only of what is
    /// not brought about.
    pub(crate) lacks_key: bool,
    /// Whether its host has shown that it is off, under a set that interrupts it.
    pub(crate) is_off: bool,
    /// Whether its host has ended this run of it, as it had no memory left for it.
    pub(crate) lacks_memory: bool,
    /// Whether it has been off for long enough to start again.
    pub(crate) has_paused: bool,
    /// Whether spot machines still have the room that it gets on its host.
    pub(crate) awaits_room: bool,
    /// Why it has not left its host yet, where it is to; empty when nothing was tried.
    pub(crate) stays: String,
    /// The host that has shown that it is there, as a later run, and not on the one that is decided:
    /// the store was restored.
    pub(crate) found_on: Option<HostId>,
    /// How its way to another host stands; none when it is on none.
    pub(crate) moving: Option<Moving<'a>>,
}

impl InstanceFacts<'_> {
    /// Whether it shall run now: asked to, and not interrupted.
    pub(crate) const fn wants_to_run(&self) -> bool {
        self.is_asked_to_run && self.instance.interruption.is_none()
    }
}

/// What to do next with an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Decide a host, under the next epoch.
    Place,
    /// Decide another host, under the next epoch: the old one was never told to start it, and has
    /// no data of it.
    Replace,
    /// Its host is lost for good, and was never told to start it, and has no data of it: it is on no
    /// host.
    Vacate,
    /// The machine is nowhere: its row goes.
    Remove,
    /// The spot machines that were in its way are off: its host is told of it.
    Enter,
    /// The price is above what its spot terms allow, or its host has no memory left for it: it is
    /// interrupted.
    Interrupt(InterruptionCause),
    /// It is interrupted and off: it gives its room.
    GiveRoom,
    /// It is interrupted and off, and its spot terms have it deleted.
    Delete,
    /// It starts again after an interruption, if its host has room for it.
    Return,
    /// It is on this host, where it went before the store was restored: it is decided there, under
    /// the next epoch.
    Find(HostId),
    /// Its migration has come about: it is decided where it went.
    Land,
    /// It shall stay where it is after all, for this reason.
    GiveUp(String),
    /// It stays where it is; anew when it was let go there, under the next epoch.
    Stay {
        /// Whether it is another run.
        anew: bool,
    },
    /// Nothing to do until something happens.
    Wait(Waiting),
    /// It is as it shall be.
    Settled,
}

/// What an instance waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Its host does its part.
    Host,
    /// Its host has not got the customer's key of one of its volumes.
    Key,
    /// Its host has failed to, and tries again.
    Failure(String),
    /// Its host is silent, and may run it until its lease ends.
    Lease,
    /// Its host is gone, with its data.
    Data,
    /// The same, and for good.
    Lost,
    /// The price is above what its spot terms allow.
    Price,
    /// Spot machines leave its host first.
    Room,
    /// It is interrupted, and its guest has time to shut down.
    Notice,
}

impl Waiting {
    /// For the customer.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Host => "its host brings it about".into(),
            Self::Key => {
                "its host waits for the keys of its volumes, which only its customer can make: run \
                 `fairmazon key give`"
                    .into()
            }
            Self::Failure(reason) => format!("its host reports: {reason}; it tries again"),
            Self::Lease => "its host does not answer; it may still run there".into(),
            Self::Data => {
                "its host is not reachable, and it or its data is there; it goes on when the host is \
                 back"
                    .into()
            }
            Self::Lost => lost::lost_text(),
            Self::Price => "the spot price is above max_price_per_hour".into(),
            Self::Room => {
                "spot machines leave its host for it, which have time to shut down".into()
            }
            Self::Notice => "it is interrupted, and has time to shut down".into(),
        }
    }
}

/// The next step of an instance.
pub(crate) fn next_step(facts: &InstanceFacts<'_>) -> Step {
    let instance = facts.instance;
    if instance.decision.is_none() {
        return match (instance.deleting, facts.spot_allows) {
            (Some(_), _) => Step::Remove,
            (None, true) => Step::Place,
            (None, false) => Step::Wait(Waiting::Price),
        };
    }
    if let Some(host) = facts.found_on {
        return Step::Find(host);
    }
    let step = facts.moving.as_ref().and_then(|moving| next_moving_step(facts, moving));
    if let Some(step) = step {
        return step;
    }
    if instance.goes() {
        // A machine on its way may be at another host as well. A host whose lease has ended runs
        // nothing, or has no agent; it drops the machine when it is back, and its volumes are there.
        let nowhere = facts.moving.is_none() && (facts.gone || facts.standing == Standing::Lapsed);
        return if nowhere { Step::Remove } else { Step::Wait(waiting_to_stop(facts)) };
    }
    match facts.standing {
        // A lease fences a host, and not one whose agent is dead: what it may have been told to
        // start can run there still.
        Standing::Lapsed if facts.moving.is_some() => Step::Wait(Waiting::Data),
        Standing::Lapsed if may_be_there(instance, facts.has_data) => {
            Step::Wait(if facts.lost { Waiting::Lost } else { Waiting::Data })
        }
        Standing::Lapsed if facts.lost => Step::Vacate,
        Standing::Lapsed => Step::Replace,
        Standing::Silent => Step::Wait(Waiting::Lease),
        Standing::Connected if facts.awaits_room => Step::Wait(Waiting::Room),
        Standing::Connected if instance.waits_for_room() => Step::Enter,
        Standing::Connected => {
            // One that moves comes to its end first: nobody starts it or has it deleted meanwhile.
            if facts.moving.is_none()
                && let Some(step) = next_spot_step(facts)
            {
                return step;
            }
            if is_brought_about(instance, facts.wants_to_run(), instance.spec_version) {
                Step::Settled
            } else if facts.lacks_key {
                Step::Wait(Waiting::Key)
            } else {
                Step::Wait(waiting_for_host(instance))
            }
        }
    }
}

fn waiting_to_stop(facts: &InstanceFacts<'_>) -> Waiting {
    match facts.standing {
        Standing::Connected => waiting_for_host(facts.instance),
        Standing::Silent | Standing::Lapsed => Waiting::Lease,
    }
}

/// What is waited for at a host that is connected: its part, or that it no longer fails.
fn waiting_for_host(instance: &Instance) -> Waiting {
    let this_run = instance
        .decision
        .as_ref()
        .is_some_and(|decision| decision.epoch == instance.observed.epoch);
    let failure = instance.observed.failure().filter(|_| this_run);
    failure.map_or(Waiting::Host, |reason| Waiting::Failure(reason.to_owned()))
}

/// Whether its host may have been told to start it, or has data of it: then it is decided nowhere
/// else.
pub(crate) fn may_be_there(instance: &Instance, has_data: bool) -> bool {
    has_data || instance.decision.as_ref().is_some_and(|decision| decision.may_run)
}

/// Whether the decided run has been seen in the wanted state with this version of the spec.
pub(crate) fn is_brought_about(instance: &Instance, wants_to_run: bool, version: u64) -> bool {
    let observed = &instance.observed;
    let this_run =
        instance.decision.as_ref().is_some_and(|decision| decision.epoch == observed.epoch);
    // A guest that powered off by itself stays off unless its policy says otherwise.
    let may_stay_off = !wants_to_run || instance.spec.restart_policy != RestartPolicy::Always;
    this_run
        && observed.spec_version >= version
        && match observed.state {
            ObservedState::Running => wants_to_run,
            ObservedState::Stopped => may_stay_off,
            _ => false,
        }
}

/// How long things may take before an operation is told to have failed, in ms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Without a host.
    pub(crate) placement_ms: i64,
    /// With a failure on the host.
    pub(crate) failure_ms: i64,
}

/// The state that a running operation on an instance is in now. `waiting_for` is what its
/// placement waits for; empty when it is placed.
pub(crate) fn operation_state(
    operation: &Operation,
    facts: &InstanceFacts<'_>,
    step: &Step,
    now: UnixMs,
    patience: Patience,
) -> OperationState {
    let instance = facts.instance;
    let running = |waiting_for: String| OperationState::running(waiting_for);
    if operation.kind == OperationKind::Migrate {
        return migrate_state(instance);
    }
    if operation.kind == OperationKind::Delete {
        return match step {
            Step::Wait(Waiting::Failure(reason)) => {
                failing(operation.created_at.max(instance.observed.at), reason, now, patience)
            }
            Step::Wait(waiting) => running(waiting.text()),
            _ => running(String::new()),
        };
    }
    if instance.deleting.is_some() {
        return failed(ErrorKind::Precondition, "the instance is being deleted");
    }
    let is_reboot = operation.kind == OperationKind::Reboot;
    if is_reboot && !facts.wants_to_run() && facts.standing == Standing::Connected {
        return failed(ErrorKind::Precondition, "the instance was stopped meanwhile");
    }
    if facts.standing == Standing::Connected
        && is_brought_about(instance, facts.wants_to_run(), operation.spec_version)
    {
        return if instance.displaced == Some(operation.id) {
            displaced_state(operation, facts, now, patience)
        } else {
            OperationState::Done
        };
    }
    let for_too_long = |since: UnixMs, most: i64| now.0.saturating_sub(since.0) >= most;
    match step {
        Step::Wait(Waiting::Failure(reason)) => {
            failing(operation.created_at.max(instance.observed.at), reason, now, patience)
        }
        Step::Wait(Waiting::Lost) => lost_state(),
        // The host's own part needs no words: it is what every operation waits for.
        Step::Wait(Waiting::Host) => running(String::new()),
        Step::Wait(Waiting::Key) => {
            OperationState::Running { waiting_for: Waiting::Key.text(), waits_for_keys: true }
        }
        Step::Wait(waiting) => running(waiting.text()),
        Step::Place if !instance.waiting_for.is_empty() => {
            if for_too_long(operation.created_at, patience.placement_ms) {
                let error = failed(ErrorKind::NoCapacity, &instance.waiting_for);
                return advised(
                    error,
                    "it is placed as soon as there is room; change or delete it otherwise",
                );
            }
            running(instance.waiting_for.clone())
        }
        _ => running(instance.waiting_for.clone()),
    }
}

/// A migration ends in the commit that lands it or gives it up; what is left after another one
/// took it back is told here.
fn migrate_state(instance: &Instance) -> OperationState {
    match instance.open_migration() {
        Some(_) => OperationState::running(""),
        None if instance.deleting.is_some() => {
            failed(ErrorKind::Precondition, "the instance is being deleted")
        }
        _ => advised(
            failed(ErrorKind::Precondition, "the instance was changed while it moved, and stays"),
            "move it again once the change is done",
        ),
    }
}

/// What an operation is whose instance is to be on another host: running, until patience with a
/// host that it can't leave ends.
fn displaced_state(
    operation: &Operation,
    facts: &InstanceFacts<'_>,
    now: UnixMs,
    patience: Patience,
) -> OperationState {
    if facts.instance.open_migration().is_some() {
        return OperationState::running("it moves to another host, as its placement asks for");
    }
    if facts.stays.is_empty() {
        return OperationState::running("it leaves its host when others have");
    }
    let text = format!("its host does not obey its placement, and it stays there: {}", facts.stays);
    if now.0.saturating_sub(operation.created_at.0) < patience.placement_ms {
        return OperationState::running(text);
    }
    let advice = "it moves as soon as it can; change its placement otherwise";
    advised(failed(ErrorKind::NoCapacity, &text), advice)
}

/// What an operation is while its host fails, since when: running, until patience ends.
fn failing(since: UnixMs, reason: &str, now: UnixMs, patience: Patience) -> OperationState {
    if now.0.saturating_sub(since.0) >= patience.failure_ms {
        let text = format!("the host can't bring it about: {reason}");
        return failed(ErrorKind::Unavailable, &text);
    }
    OperationState::running(Waiting::Failure(reason.to_owned()).text())
}

fn failed(kind: ErrorKind, message: &str) -> OperationState {
    OperationState::Failed { error: DomainError::new(kind, message) }
}

fn advised(state: OperationState, advice: &str) -> OperationState {
    match state {
        OperationState::Failed { error } => OperationState::Failed { error: error.advise(advice) },
        other => other,
    }
}

/// What was asked of a host that is lost for good has failed.
fn lost_state() -> OperationState {
    OperationState::Failed { error: lost::lost() }
}

/// What a volume waits for whose host can't open the next key that it was given last.
const ANOTHER_KEY: &str = "the key that was given does not open on its host, which waits for \
                           another one: run `fairmazon key give`";

/// What to do next with a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VolumeStep {
    /// Its data is nowhere: its row goes.
    Remove,
    /// Nothing to do until something happens, or at all.
    Settled,
}

/// The next step of a volume. `gone` is whether its host has shown that it is not there,
/// under a set that says that it shall not be.
pub(crate) fn next_volume_step(volume: &Volume, gone: bool) -> VolumeStep {
    let is_nowhere = (volume.host.is_none() || gone) && volume.may_be_on.is_empty();
    if volume.deleting.is_some() && is_nowhere { VolumeStep::Remove } else { VolumeStep::Settled }
}

const fn is_lasting(observed: &VolumeObserved) -> bool {
    matches!(observed, VolumeObserved::Failed { lasting: true, .. })
}

/// What an operation on a volume depends on beside its row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VolumeFacts {
    /// Whether its host waits for the customer's key.
    pub(crate) lacks_key: bool,
    /// Whether it is lost for good, with its host.
    pub(crate) lost: bool,
}

/// The state that a running operation on a volume is in now.
pub(crate) fn volume_operation_state(
    operation: &Operation,
    volume: &Volume,
    facts: VolumeFacts,
    now: UnixMs,
    patience: Patience,
) -> OperationState {
    let running = || match volume.observed.failure() {
        Some(reason) if volume.deleting.is_none() && is_lasting(&volume.observed) => advised(
            failed(ErrorKind::Precondition, reason),
            "delete the volume, and import what was exported",
        ),
        Some(reason) => failing(operation.created_at, reason, now, patience),
        None if volume.has_old_key() && volume.refuses_keys() => advised(
            failed(
                ErrorKind::Precondition,
                &format!("its host could open none of the last {} keys", volume.refused_keys),
            ),
            "see that keys are sealed for the host that asks for them, and change the volume again",
        ),
        None if facts.lacks_key => {
            let refused = volume.has_old_key() && volume.refused_keys > 0;
            let waiting_for = if refused { ANOTHER_KEY.into() } else { Waiting::Key.text() };
            OperationState::Running { waiting_for, waits_for_keys: true }
        }
        None if volume.imports().is_some() => {
            OperationState::running("its host waits for its file: run `fairmazon volume import`")
        }
        None => OperationState::running(""),
    };
    if operation.kind == OperationKind::Delete {
        return running();
    }
    if volume.deleting.is_some() {
        return failed(ErrorKind::Precondition, "the volume is being deleted");
    }
    match &volume.observed {
        _ if volume.host.is_none() => OperationState::Done,
        _ if facts.lost => lost_state(),
        VolumeObserved::Present { size, .. }
            if *size >= volume.spec.size && !volume.has_old_key() =>
        {
            OperationState::Done
        }
        _ => running(),
    }
}
