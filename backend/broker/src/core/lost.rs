//! Hosts that are lost for good, as their operators say.

use fairmazon_model::{DomainError, id::HostId};

use super::{hosts_now::Standing, rules::precondition, state::State};

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
