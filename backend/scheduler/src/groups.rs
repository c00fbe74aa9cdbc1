//! Who is where in the placement groups.
//!
//! Both sides of a group are kept: a machine that keeps apart from a group must also not get
//! a machine of that group as a neighbour later.
//!
//! A machine that goes to another host is a neighbour at both. It gathers where it goes: whoever
//! wants to be with it has to be there.

use std::collections::BTreeSet;

use fairmazon_model::{
    id::{HostId, InstanceId, PlacementGroupId},
    placement::Placement,
};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{Share, fleet::Fleet};

/// Machines of one group on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Members {
    /// Machines that gather in the group (`with`).
    gathering: u32,
    /// Machines that keep apart from the group (`not_with`).
    apart: u32,
}

/// Machines of all groups by host; hosts are given by their slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Groups {
    members: FxHashMap<PlacementGroupId, FxHashMap<u32, Members>>,
    /// The shares of the machines that gather in each.
    gathering: FxHashMap<PlacementGroupId, FxHashSet<Share<InstanceId>>>,
}

/// A set of slots.
#[derive(Debug, Clone)]
pub(crate) struct SlotSet(Vec<u64>);

impl SlotSet {
    fn none(slots: usize) -> Self {
        Self(vec![0; slots.div_ceil(64)])
    }

    fn insert(&mut self, slot: u32) {
        self.0[slot as usize / 64] |= 1 << (slot % 64);
    }

    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.0[slot as usize / 64] & (1 << (slot % 64)) != 0
    }

    fn intersect(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine &= theirs);
    }
}

/// What groups demand of a machine; none means no demand.
pub(crate) struct GroupRules {
    /// Only on these.
    pub(crate) only: Option<SlotSet>,
    /// Not on these.
    pub(crate) never: Option<SlotSet>,
}

impl Groups {
    pub(crate) fn join(&mut self, slot: u32, share: Share<InstanceId>, placement: &Placement) {
        for group in &placement.with {
            self.entry(*group, slot).gathering += 1;
            self.gathering.entry(*group).or_default().insert(share);
        }
        for group in &placement.not_with {
            self.entry(*group, slot).apart += 1;
        }
    }

    pub(crate) fn leave(&mut self, slot: u32, share: Share<InstanceId>, placement: &Placement) {
        for group in &placement.with {
            if let Some(shares) = self.gathering.get_mut(group) {
                shares.remove(&share);
                if shares.is_empty() {
                    self.gathering.remove(group);
                }
            }
            let members = self.entry(*group, slot);
            members.gathering = members.gathering.saturating_sub(1);
            self.tidy(*group, slot);
        }
        for group in &placement.not_with {
            let members = self.entry(*group, slot);
            members.apart = members.apart.saturating_sub(1);
            self.tidy(*group, slot);
        }
    }

    fn entry(&mut self, group: PlacementGroupId, slot: u32) -> &mut Members {
        self.members.entry(group).or_default().entry(slot).or_default()
    }

    /// Forgets what is empty, so that groups that are gone take no room.
    fn tidy(&mut self, group: PlacementGroupId, slot: u32) {
        let Some(hosts) = self.members.get_mut(&group) else { return };
        if hosts.get(&slot) == Some(&Members::default()) {
            hosts.remove(&slot);
        }
        if hosts.is_empty() {
            self.members.remove(&group);
        }
    }

    /// The machines that gather in the group.
    fn gathering(&self, group: PlacementGroupId) -> impl Iterator<Item = InstanceId> + '_ {
        let shares = self.gathering.get(&group).into_iter().flatten();
        shares.map(|share| match share {
            Share::Here(id) | Share::Coming(id) => *id,
        })
    }

    /// What the groups of `placement` demand of the machine. `own` are its slots and placements
    /// where it is booked already; it is no neighbour of its own. `goal` is the slot that a machine
    /// is on, or goes to.
    pub(crate) fn rules(
        &self,
        machine: InstanceId,
        placement: &Placement,
        own: &[(u32, &Placement)],
        slots: usize,
        goal: impl Fn(InstanceId) -> Option<u32>,
    ) -> GroupRules {
        let (mut only, mut never) = (None::<SlotSet>, None::<SlotSet>);
        for group in &placement.with {
            let mut gathered = None::<SlotSet>;
            let others = self.gathering(*group).filter(|id| *id != machine);
            for slot in others.filter_map(&goal) {
                gathered.get_or_insert_with(|| SlotSet::none(slots)).insert(slot);
            }
            for (slot, _) in self.without(*group, own).filter(|(_, members)| members.apart > 0) {
                never.get_or_insert_with(|| SlotSet::none(slots)).insert(slot);
            }
            match (&mut only, gathered) {
                (Some(only), Some(gathered)) => only.intersect(&gathered),
                (only @ None, gathered) => *only = gathered,
                (Some(_), None) => {}
            }
        }
        for group in &placement.not_with {
            for (slot, _) in self.without(*group, own) {
                never.get_or_insert_with(|| SlotSet::none(slots)).insert(slot);
            }
        }
        GroupRules { only, never }
    }

    /// The group's machines by slot, the machine itself left out.
    fn without<'a>(
        &'a self,
        group: PlacementGroupId,
        own: &'a [(u32, &'a Placement)],
    ) -> impl Iterator<Item = (u32, Members)> + 'a {
        let hosts = self.members.get(&group).into_iter().flatten();
        hosts.filter_map(move |(&slot, &members)| {
            let mut members = members;
            for (_, placement) in own.iter().filter(|(own_slot, _)| *own_slot == slot) {
                members.gathering -= u32::from(placement.with.contains(&group));
                members.apart -= u32::from(placement.not_with.contains(&group));
            }
            (members != Members::default()).then_some((slot, members))
        })
    }
}

impl Fleet {
    /// The host that a booked machine goes to, or is on.
    pub fn goal(&self, machine: InstanceId) -> Option<HostId> {
        let booking = self.machine(Share::Coming(machine)).or_else(|| self.machine(machine))?;
        Some(booking.host)
    }

    /// The booked machines that have to be on one host with this one under such a placement: those
    /// of the groups that it gathers in, those of the groups that these gather in, and so on. The
    /// machine itself is not among them.
    pub fn gathers_with(&self, machine: InstanceId, placement: &Placement) -> BTreeSet<InstanceId> {
        let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut groups: Vec<_> = placement.with.iter().copied().collect();
        while let Some(group) = groups.pop() {
            if !seen.insert(group) {
                continue;
            }
            for id in self.groups.gathering(group).filter(|id| *id != machine) {
                if found.insert(id) {
                    let shares = [Share::Here(id), Share::Coming(id)];
                    let bookings = shares.into_iter().filter_map(|share| self.machine(share));
                    groups.extend(bookings.flat_map(|booking| &booking.placement.with));
                }
            }
        }
        found
    }
}
