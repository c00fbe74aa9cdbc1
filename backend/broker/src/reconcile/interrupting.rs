//! The next step of a spot machine's interruption: a pure function like those of [`super::step`].
//!
//! Notice, off, and back: each is one step. Nothing takes an interruption back that was decided,
//! as the guest may be shutting down already.

use fairmazon_model::interruption::InterruptionCause;

use super::step::{InstanceFacts, Step, Waiting};

/// The next step on a host that is connected, as far as its spot terms decide it.
pub(super) fn next_spot_step(facts: &InstanceFacts<'_>) -> Option<Step> {
    let instance = facts.instance;
    let Some(interruption) = &instance.interruption else {
        let cause = match (facts.spot_allows, facts.lacks_memory) {
            (false, _) => InterruptionCause::Price,
            (true, true) => InterruptionCause::Memory,
            (true, false) => return None,
        };
        return instance.interruptible().map(|_| Step::Interrupt(cause));
    };
    if interruption.holds_room() {
        let next = if facts.is_off { Step::GiveRoom } else { Step::Wait(Waiting::Notice) };
        return Some(next);
    }
    // One that is protected by now is kept, and one whose customer wants it stopped by now.
    if interruption.deletes && instance.spec.ends_when_interrupted() {
        return Some(Step::Delete);
    }
    let returns = facts.is_asked_to_run && facts.spot_allows && facts.has_paused;
    returns.then_some(Step::Return)
}
