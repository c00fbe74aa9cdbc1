//! What hosts know and the store does not, as it was restored to before that: later runs of
//! machines, and data where no row says that there is any.
//!
//! A host may lie, and what it had once it knows by name. So what it says of another host's machine
//! destroys nothing and takes nothing away from that host: its word keeps what it has itself, and
//! moves a machine only when the other one shows that it has none of it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use fairmazon_model::{
    id::{HostId, InstanceId, VolumeId},
    instance::{Decision, Instance, InstanceObserved},
    machine::{MachineSeen, ObservedSet, VolumeSeen},
    migration::{LaterRun, Migration},
    units::Generation,
    volume::{Volume, VolumeObserved},
};
use fairmazon_store::Key;

use super::{batch::Batch, place::bound};
use crate::core::{
    Standing,
    audit::{self, Placing},
};

/// How many runs a host may be ahead of the store and be believed.
const EPOCHS_AHEAD: u64 = 1 << 32;

/// Why a machine is where it is that was found there, for its customer.
const FOUND: &str = "it ran there, as that host showed after the platform's store was restored";

impl Batch<'_> {
    /// A host that has a later run of a machine than the row knows of had it from a store that
    /// was lost since. Where it is decided the next run counts from there, or the host would wait
    /// for it for ever; elsewhere the run is noted.
    pub(super) fn outrun(&mut self, host: HostId, seen: &MachineSeen) -> bool {
        let Some(row) = self.instance(seen.instance) else { return true };
        let is_here = row.decision.as_ref().is_some_and(|decision| decision.host == host);
        let noted = row.later.filter(|later| later.host == host);
        let mut new = Instance::clone(&row);
        if noted.is_some() && seen.handover.is_some() {
            // It has gone on since, or never ran.
            new.later = None;
        } else if !is_ahead(&row, seen) {
            return true;
        } else if is_here {
            let epoch = seen.epoch.next();
            new.decision =
                row.decision.clone().map(|decision| Decision { epoch, may_run: true, ..decision });
            new.last_epoch = epoch;
        } else if seen.spec_version > 0 && row.later.is_none_or(|it| it.epoch < seen.epoch) {
            new.later = Some(LaterRun { host, epoch: seen.epoch });
        } else {
            return true;
        }
        if !self.may_change(row.id) {
            return false;
        }
        tracing::warn!(
            %host, instance = %row.id, known = %row.last_epoch, there = %seen.epoch,
            "a host has a later run of a machine than the store knows of: was it restored?"
        );
        let (at, verb) = (self.now, "broker.outrun_instance");
        self.log(audit::own_entry(at, verb, &row.id, Some(&*row), Some(&new)));
        self.change_instance(new);
        self.look_at_instance(row.id);
        true
    }

    /// Data of a volume whose row says that it is nowhere is bound to the host that has it: the
    /// store was restored to before it was attached.
    pub(super) fn adopt(&mut self, host: HostId, seen: &VolumeSeen) -> bool {
        let known = self.state.world.volumes.get(seen.volume);
        if !seen.state.is_present() || known.is_none_or(|row| row.host.is_some()) {
            return true;
        }
        let Some(row) = self.volume(seen.volume) else { return true };
        if row.host.is_some() || row.may_be_on.contains(&host) {
            return true;
        }
        if !self.may_change(row.id) || !self.may_rely_on(host) {
            return false;
        }
        let observed = seen.state.clone();
        let new = Volume { host: Some(host), observed, ..Volume::clone(&row) };
        tracing::warn!(
            %host, volume = %row.id,
            "a host has the data of a volume that the store knows nothing of: it is bound to it"
        );
        let (at, verb) = (self.now, "broker.adopt_volume");
        self.log(audit::own_entry(at, verb, &row.id, Some(&*row), Some(&new)));
        self.rely_on(host);
        self.change_volume(new);
        self.look_at_volume(row.id);
        true
    }

    /// What a host has for a run that was decided in vain, or never, is a customer's data when that
    /// run was brought about: only a commit that the store has lost could have allowed it. A machine
    /// that is to run is held until then, and what is held is never brought about.
    /// Adds the volumes to `ran`, also those whose rows can't be changed at this moment.
    pub(super) fn keep_what_ran(
        &mut self,
        host: HostId,
        seen: &MachineSeen,
        ran: &mut BTreeSet<VolumeId>,
    ) -> bool {
        let was_in_vain = |row: &Instance| row.in_vain.get(&host) == Some(&seen.epoch);
        let is_of_it = |row: &Arc<Instance>| was_in_vain(row) || is_ahead(row, seen);
        let row = self.state.world.instances.get(seen.instance);
        if seen.spec_version == 0 || !row.is_some_and(is_of_it) {
            return true;
        }
        let Some(row) = self.instance(seen.instance) else { return true };
        let volumes = self.volumes_of(&row);
        ran.extend(volumes.iter().map(|volume| volume.id));
        let maybe_here = |volume: &&Arc<Volume>| volume.may_be_on.contains(&host);
        if !was_in_vain(&row) && !volumes.iter().any(|volume| maybe_here(&volume)) {
            return true;
        }
        if !self.may_change_with(row.id, volumes.iter().map(|volume| volume.id)) {
            return false;
        }
        tracing::error!(
            %host, instance = %row.id,
            "a host has run a machine that the store says was never started there, or has left: \
             was the store restored? Its volumes on that host are kept"
        );
        for volume in volumes.iter().filter(maybe_here) {
            let mut kept = Volume::clone(volume);
            kept.may_be_on.remove(&host);
            let (before, after) = (Some(&**volume), Some(&kept));
            let at = self.now;
            self.log(audit::own_entry(at, "broker.keep_volume", &kept.id, before, after));
            self.change_volume(kept);
        }
        let mut new = Instance::clone(&row);
        if was_in_vain(&row) {
            new.in_vain.remove(&host);
        }
        self.change_instance(new);
        true
    }

    /// Notes which of its machines the host shows as handed over to another one, or as still to
    /// come from one, although no row says so: it does not have what ran last.
    pub(super) fn note_let_go(&mut self, host: HostId, report: &ObservedSet) {
        let handed_over = report.machines.iter().filter(|seen| seen.handover.is_some());
        let let_go: HashMap<_, _> = handed_over
            .filter(|seen| {
                let row = self.state.world.instances.get(seen.instance);
                row.is_some_and(|row| has_let_go(row, host, seen))
            })
            .map(|seen| (seen.instance, seen.epoch))
            .collect();
        let now = self.state.hosts.entry(host);
        if now.let_go != let_go {
            self.state.dirty.instances.extend(now.let_go.keys().chain(let_go.keys()));
            now.let_go = let_go;
            self.state.hosts.wake_strays();
        }
    }

    /// The host that an instance is to be found on: it has shown a later run than all that were
    /// decided, and all volumes of it, of which the host that is decided has none.
    pub(super) fn found_on(&self, instance: &Instance) -> Option<HostId> {
        let LaterRun { host, .. } = instance.later_run()?;
        let decided = instance.decision.as_ref()?.host;
        let now = self.state.hosts.get(host)?;
        let speaks = self.state.standing(host) == Standing::Connected
            && now.observed > Generation::default()
            && !self.state.is_lost(host);
        if decided == host || instance.carrier || instance.deleting.is_some() || !speaks {
            return None;
        }
        let volumes = self.volumes_of(instance);
        let is_there = |row: &Arc<Volume>| row.host == Some(decided) && now.kept.contains(&row.id);
        if volumes.is_empty() || !volumes.iter().all(is_there) {
            return None;
        }
        let is_not_here = |row: &Arc<Volume>| {
            row.is_missing() || row.observed == VolumeObserved::Unknown && !row.is_made()
        };
        let is_nowhere_else = self.state.is_lost(decided)
            || volumes.iter().all(is_not_here)
            || self.has_gone_on(instance, decided);
        is_nowhere_else.then_some(host)
    }

    /// Whether the host that is decided has let the instance go, other than for the migration that
    /// the row knows of, unless that one has come to nothing.
    fn has_gone_on(&self, instance: &Instance, decided: HostId) -> bool {
        let id = instance.id;
        let comes_to_nothing = |to: &Migration| {
            let there = self.state.hosts.get(to.to);
            to.given_up && there.is_some_and(|now| now.is_gone(Key::Instance(id)))
        };
        let let_go = self.state.hosts.get(decided).and_then(|now| now.let_go.get(&id));
        let_go.is_some_and(|epoch| {
            *epoch > instance.last_epoch || instance.migration.as_ref().is_none_or(comes_to_nothing)
        })
    }

    /// Decides the instance, as another run, where it was found with all its volumes. Nothing that
    /// is left of them where it was decided before is deleted.
    pub(super) fn settle_where_found(&mut self, instance: &Instance, host: HostId) {
        let Some(old) = &instance.decision else { return };
        let volumes = self.volumes_of(instance);
        if !self.may_change_with(instance.id, volumes.iter().map(|volume| volume.id)) {
            return;
        }
        if !self.may_rely_on(host) {
            self.hold(instance.id);
            return;
        }
        tracing::warn!(
            instance = %instance.id, from = %old.host, to = %host,
            "a machine is decided where it ran, as the store was restored to before it moved"
        );
        let epoch = instance.next_epoch();
        let decision = Decision {
            host,
            epoch,
            flavor: old.flavor.clone(),
            reason: FOUND.into(),
            at: self.now,
            after: BTreeSet::new(),
            may_run: true,
        };
        let bound: Vec<_> =
            volumes.iter().map(|volume| bound(Volume::clone(volume), host)).collect();
        let (before, after) = (Placing::new(old, &[]), Placing::new(&decision, &bound));
        self.log_way("broker.find_instance", instance, Some(&before), Some(&after));
        self.rely_on(host);
        bound.into_iter().for_each(|volume| self.change_volume(volume));
        self.change_instance(Instance {
            displaced: instance.displaced.or_else(|| self.strays_on(instance, host)),
            decision: Some(decision),
            last_epoch: epoch,
            later: None,
            migration: None,
            reserved: None,
            observed: InstanceObserved { at: self.now, ..InstanceObserved::default() },
            waiting_for: String::new(),
            ..instance.clone()
        });
        self.leave_out(old.host, instance.id);
    }

    /// From here on no set of the host names the instance, whatever comes of the commit first.
    pub(super) fn leave_out(&mut self, host: HostId, instance: InstanceId) {
        self.state.hosts.entry(host).leaving.insert(instance);
        self.kept.leaving.push((host, instance));
    }
}

/// Whether a host shows a run that no decision of the row has led to; not one that has left or has
/// not come.
fn is_ahead(row: &Instance, seen: &MachineSeen) -> bool {
    let ahead = seen.epoch.0.saturating_sub(row.last_epoch.0);
    (1..=EPOCHS_AHEAD).contains(&ahead) && seen.handover.is_none()
}

/// Whether this is a handover that no row asks for, on the host where the machine is decided.
fn has_let_go(row: &Instance, host: HostId, seen: &MachineSeen) -> bool {
    row.decision.as_ref().is_some_and(|decision| {
        decision.host == host
            && (seen.epoch > row.last_epoch || seen.epoch == decision.epoch && seen.has_left())
    })
}
