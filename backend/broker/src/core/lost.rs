//! Hosts that are lost for good, as their operators say: what is lost with them, and that nothing
//! more is asked of them.

use std::fmt::Display;

use fairmazon_model::{DomainError, id::HostId, instance::Instance, volume::Volume};

use super::{hosts_now::Standing, rules::precondition, state::State};
use crate::reconcile::step::may_be_there;

/// What becomes of what was on a host that its operator has given up.
const FATE: &str = "is lost for good, with all that was on it";
/// What its customer does then.
const ADVICE: &str = "delete or replace it";

/// Why nothing is done with what was on a lost host, for its customer.
pub(crate) fn lost() -> DomainError {
    precondition(format!("its host {FATE}")).advise(ADVICE)
}

/// The same, as a reason.
pub(crate) fn lost_text() -> String {
    format!("its host {FATE}: {ADVICE}")
}

impl State {
    /// Whether its operator has said that it is lost for good: nobody speaks for it any more.
    pub(crate) fn is_given_up(&self, host: HostId) -> bool {
        self.world.hosts.get(host).is_some_and(|row| row.lost_at.is_some())
    }

    /// Whether it is lost for good, so that nothing of it runs or comes back. One that spoke once
    /// more at the very moment at which it was given up is when its lease has ended.
    pub(crate) fn is_lost(&self, host: HostId) -> bool {
        self.is_given_up(host) && self.standing(host) == Standing::Lapsed
    }

    /// Whether the machine is lost with its host. One that was never let run there, without data, is
    /// placed anew; one on its way may be at the other host.
    pub(crate) fn is_machine_lost(&self, row: &Instance) -> bool {
        let Some(decision) = row.decision.as_ref().filter(|_| row.migration.is_none()) else {
            return false;
        };
        let has_data = || self.all_volumes_of(row).iter().any(|volume| volume.is_made());
        self.is_lost(decision.host) && may_be_there(row, has_data())
    }

    /// Whether the volume is lost with its host. One that is to be made for a machine which is placed
    /// anew goes with it; one on its way may be at the other host, unless its own has
    /// missed it before.
    pub(crate) fn is_volume_lost(&self, row: &Volume) -> bool {
        let Some(host) = row.host.filter(|host| self.is_lost(*host)) else { return false };
        if self.world.moves_with(row.id).is_some() {
            return row.is_missing();
        }
        let machine = row.attached_to.and_then(|id| self.world.instances.get(id));
        let is_there = |row: &Instance| row.decision.as_ref().is_some_and(|at| at.host == host);
        machine.is_none_or(|row| !is_there(row) || self.is_machine_lost(row))
    }

    /// Nothing is asked of a host that is lost.
    ///
    /// # Errors
    /// `Precondition` when the machine is lost with its host.
    pub(crate) fn check_machine_not_lost(&self, row: &Instance) -> Result<(), DomainError> {
        if self.is_machine_lost(row) { Err(lost_with(&row.id)) } else { Ok(()) }
    }

    /// As [`State::check_machine_not_lost`], of a volume.
    pub(crate) fn check_volume_not_lost(&self, row: &Volume) -> Result<(), DomainError> {
        if self.is_volume_lost(row) { Err(lost_with(&row.id)) } else { Ok(()) }
    }

    /// Has all that is bound to the host looked at.
    pub(crate) fn look_at_all_bound_to(&mut self, host: HostId) {
        let world = &self.world;
        let instances = world.instances_on(host).chain(world.instances_coming_to(host));
        let volumes = world.volumes_on(host).map(|row| row.id).chain(world.volumes_maybe_on(host));
        self.dirty.instances.extend(instances.map(|row| row.id));
        self.dirty.volumes.extend(volumes);
    }
}

/// That nothing of a host counts any more, for whoever speaks for it.
pub(crate) fn declared_lost(host: HostId) -> DomainError {
    precondition(format!("the host {host} was declared lost"))
        .advise("register its successor under another name")
}

fn lost_with(id: &impl Display) -> DomainError {
    precondition(format!("the host of {id} {FATE}")).advise(ADVICE)
}
