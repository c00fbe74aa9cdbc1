//! Machines that have to be on one host leave theirs together: all of them get room at another one in
//! one commit, and then set out as others leave.

use std::{collections::BTreeSet, sync::Arc};

use fairmazon_model::{
    id::{HostId, InstanceId},
    instance::Instance,
};

use super::batch::Batch;
use crate::core::{
    Standing,
    migrations::claim_at,
    rules,
    together::{Companion, When, find_host, set_for, why_all_stay},
};

impl Batch<'_> {
    /// Lets an instance go to the host that keeps room for it, or finds one for it and for those that
    /// it has to be with, where one of them is to leave its host or they are apart.
    pub(super) fn leave_together(
        &mut self,
        instance: &Instance,
        host: HostId,
        others: &BTreeSet<InstanceId>,
    ) {
        let may_begin = self.leaving(host) < self.engine.config().migrations_per_host;
        if instance.reserved.is_some() {
            if may_begin {
                self.leave(instance, &self.volumes_of(instance), "broker.migrate");
            }
            return;
        }
        if !self.is_to_leave(instance) && !self.state.books.is_apart(instance.id) {
            self.state.staying.remove(&instance.id.into());
            return;
        }
        if may_begin {
            self.gather(instance, others);
        }
    }

    /// Whether the instance is to leave its host, whatever others do.
    pub(super) fn is_to_leave(&self, instance: &Instance) -> bool {
        let host = instance.decision.as_ref().map(|decision| decision.host);
        let Some(row) = host.and_then(|host| self.state.world.hosts.get(host)) else {
            return false;
        };
        let grace_ms = self.engine.config().conformity_grace_ms;
        row.draining.is_some_and(|draining| draining.deadline > self.now)
            || instance.displaced.is_some()
            || self.state.lacks_level(row, instance.id, grace_ms, self.now)
    }

    /// Reserves room at one host for all that have to be on one and are not there; where there is
    /// none, it is noted why.
    fn gather(&mut self, instance: &Instance, others: &BTreeSet<InstanceId>) {
        let rows = others.iter().filter_map(|id| self.instance(*id));
        let rows: Vec<_> = std::iter::once(Arc::new(instance.clone())).chain(rows).collect();
        let mut companions = Vec::new();
        for row in rows {
            let volumes = self.volumes_of(&row);
            let may_change =
                self.may_change(row.id) && volumes.iter().all(|volume| self.may_change(volume.id));
            if !may_change {
                self.hold(instance.id);
                return;
            }
            let Ok(placement) = rules::placement_of(&row, &volumes) else { return };
            let stays = !self.is_to_leave(&row);
            companions.push(Companion { row, volumes, placement, stays });
        }
        let catalogue = self.engine.catalogue();
        let found = find_host(self.state, &catalogue, &companions, When::Now, self.now);
        let to = match found {
            Ok(to) => to,
            Err(error) => {
                let ids = || companions.iter().map(|one| one.row.id);
                for one in companions.iter().filter(|one| set_for(&one.row).is_none()) {
                    let why = why_all_stay(one.row.id, ids(), &error);
                    self.state.staying.insert(one.row.id.into(), why);
                }
                return;
            }
        };
        if !self.may_rely_on(to) {
            self.hold(instance.id);
            return;
        }
        companions.retain(|one| {
            let is_there = one.row.decision.as_ref().is_none_or(|decision| decision.host == to);
            !is_there && set_for(&one.row).is_none()
        });
        for (number, one) in companions.iter().enumerate() {
            let Err(why) = claim_at(self.state, &one.row, &one.volumes, to) else { continue };
            let claimed = companions.iter().take(number).map(|one| one.row.id.into());
            self.state.settle(claimed);
            self.state.staying.insert(instance.id.into(), why);
            return;
        }
        self.rely_on(to);
        for Companion { row, volumes, .. } in companions {
            let new = Instance { reserved: Some(to), ..Instance::clone(&row) };
            self.state.staying.remove(&row.id.into());
            self.log_way("broker.reserve", &row, Some(&*row), Some(&new));
            // What was claimed for them is theirs as long as they are this instance's.
            volumes.iter().for_each(|volume| self.rely_on(volume.id));
            self.change_instance(new);
        }
    }

    /// Gives up room that is kept for an instance in vain, with that of all that would have gone with
    /// it and have not set out; whether that is so. Those that have to be together and are not look
    /// for another host then.
    pub(super) fn gives_up_room(&mut self, instance: &Instance) -> bool {
        let Some(to) = instance.reserved.filter(|_| instance.migration.is_none()) else {
            return false;
        };
        let from = instance.decision.as_ref().map(|decision| decision.host);
        let goes_alone = instance.deleting.is_some() || from.is_none_or(|from| from == to);
        let others = self.state.books.companions(instance.id);
        if !goes_alone && self.keeps_room(instance, &others, to) {
            return false;
        }
        let waits = |row: &Arc<Instance>| row.reserved == Some(to) && row.migration.is_none();
        let others = others.into_iter().filter(|_| !goes_alone);
        let others = others.filter_map(|id| self.instance(id)).filter(waits);
        let rows: Vec<_> = others.chain([Arc::new(instance.clone())]).collect();
        if !rows.iter().all(|row| self.may_change(row.id)) {
            self.hold(instance.id);
            return true;
        }
        for row in rows {
            let new = Instance { reserved: None, ..Instance::clone(&row) };
            self.log_way("broker.give_up_room", &row, Some(&*row), Some(&new));
            self.change_instance(new);
        }
        true
    }

    /// Whether an instance still goes to the host that keeps room for it.
    fn keeps_room(&self, instance: &Instance, others: &BTreeSet<InstanceId>, to: HostId) -> bool {
        let is_up = |host| self.state.standing(host) != Standing::Lapsed;
        let host_of = |row: &Instance| row.decision.as_ref().map(|decision| decision.host);
        let from = host_of(instance);
        let takes_it = self.state.world.hosts.get(to).is_some_and(|host| host.draining.is_none())
            && self.state.books.level(to).is_some()
            && is_up(to)
            && from.is_some_and(is_up)
            && self.disobeys(instance, to).is_none();
        // Where nobody has left and nobody is to leave any more, all of them stay.
        let others = others.iter().filter_map(|id| self.instance(*id));
        let mut all = others.chain([Arc::new(instance.clone())]);
        takes_it
            && all.any(|row| {
                row.open_migration().is_some() || host_of(&row) != from || self.is_to_leave(&row)
            })
    }
}
