//! Deciding a host for an instance: the scheduler's answer becomes a decision under the next
//! epoch, with its capacity claimed before it is committed.

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_model::{
    id::{HostId, InstanceId},
    instance::{Decision, Instance, InstanceObserved},
    interruption::InterruptionCause,
    limits,
    placement::Placement,
    units::Gib,
    volume::{Volume, VolumeObserved},
};
use fairmazon_scheduler::{MadeRoom, Placed, Request, Size};

use super::batch::Batch;
use crate::core::{
    audit::{self, Placing},
    books::machine_booking,
    preferences::weighed,
    rules,
    view::is_asked_to_run,
};

impl Batch<'_> {
    /// Decides a host; `away_from` is the one that it was decided on in vain. Where none will
    /// do, the row says why.
    pub(super) fn place(&mut self, instance: &Instance, away_from: Option<HostId>) {
        let volumes = self.volumes_of(instance);
        if !self.may_change_with(instance.id, volumes.iter().map(|volume| volume.id)) {
            return;
        }
        if let Some(moving) = volumes.iter().find(|volume| self.comes_to(volume).is_some()) {
            let why = format!("its volume {} moves to another host first", moving.id);
            return self.wait_for(instance, &why);
        }
        if let Some(lost) = volumes.iter().find(|volume| self.state.is_volume_lost(volume)) {
            let why = format!("its volume {} is lost with its host: detach or delete it", lost.id);
            return self.wait_for(instance, &why);
        }
        let placement = match rules::placement_of(instance, &volumes) {
            Ok(placement) => placement,
            Err(error) => return self.wait_for(instance, &error.to_string()),
        };
        let as_free = |volume: &Volume| away_from.and_then(|from| freed(volume, from));
        let volumes: Vec<Volume> = volumes
            .iter()
            .map(|volume| as_free(volume).unwrap_or_else(|| Volume::clone(volume)))
            .collect();
        let request = self.request(instance, &volumes, placement.clone(), away_from);
        match self.state.books.place(&request) {
            Ok(placed) => {
                self.decide(instance, volumes, placement, Chosen::from(placed), away_from);
            }
            Err(why) => {
                if let Some(room) = self.room_for(instance, &request) {
                    let chosen = Chosen::from(room);
                    return self.decide(instance, volumes, placement, chosen, away_from);
                }
                let advice = why.advice();
                let text = if advice.is_empty() {
                    why.text.clone()
                } else {
                    format!("{} ({advice})", why.text)
                };
                self.wait_for(instance, &text);
            }
        }
    }

    /// Takes an instance from a host that is lost for good, on which it was decided in vain. Those that
    /// it has to be with are taken from there as well, so that all of them find another one.
    pub(super) fn vacate(&mut self, instance: &Instance) {
        let Some(host) = instance.decision.as_ref().map(|decision| decision.host) else { return };
        let volumes = self.volumes_of(instance);
        if !self.may_change_with(instance.id, volumes.iter().map(|volume| volume.id)) {
            return;
        }
        let new = Instance {
            decision: None,
            observed: InstanceObserved { at: self.now, ..InstanceObserved::default() },
            interruption: None,
            ..instance.clone()
        };
        let entry =
            audit::own_entry(self.now, "broker.vacate", &instance.id, Some(instance), Some(&new));
        self.log(entry);
        let freed = volumes.iter().filter_map(|volume| freed(volume, host));
        freed.for_each(|volume| self.change_volume(volume));
        self.change_instance(new);
    }

    fn decide(
        &mut self,
        instance: &Instance,
        volumes: Vec<Volume>,
        placement: Placement,
        chosen: Chosen,
        away_from: Option<HostId>,
    ) {
        let Chosen { host, flavor, reason, victims, after, waiting_for } = chosen;
        if !self.may_rely_on(host) || !self.may_interrupt(&victims) {
            self.hold(instance.id);
            return;
        }
        let epoch = instance.next_epoch();
        let decision =
            Decision { host, epoch, flavor, reason, at: self.now, after, may_run: false };
        let mut in_vain = instance.in_vain.clone();
        in_vain.retain(|host, _| volumes.iter().any(|volume| volume.may_be_on.contains(host)));
        if let (Some(old), Some(decision)) = (away_from, &instance.decision)
            && is_asked_to_run(instance, self.now)
        {
            in_vain.insert(old, decision.epoch);
        }
        let new = Instance {
            decision: Some(decision),
            in_vain,
            last_epoch: epoch,
            observed: InstanceObserved { at: self.now, ..InstanceObserved::default() },
            interruption: None,
            waiting_for,
            ..instance.clone()
        };
        let bound: Vec<Volume> = volumes
            .into_iter()
            .map(|volume| match volume.host {
                Some(_) => volume,
                None => bound(volume, host),
            })
            .collect();
        let booking = machine_booking(&self.engine.catalogue(), &new, placement);
        let booking = booking.map(|booking| (new.id, booking));
        let after = new.decision.iter().flat_map(|decision| decision.after.iter().copied());
        if let Err(why) = self.state.books.claim_after(booking, bound.iter(), after) {
            return self.wait_for(instance, &why);
        }
        for id in victims {
            if let Some(victim) = self.instance(id) {
                self.interrupt(&victim, InterruptionCause::Capacity(instance.id));
            }
        }
        let is_new =
            |volume: &Volume| self.volume(volume.id).is_none_or(|was| was.host != volume.host);
        let bound: Vec<Volume> = bound.into_iter().filter(is_new).collect();
        let verb = if away_from.is_some() { "broker.place_again" } else { "broker.place" };
        let id = new.id;
        let before = instance.decision.as_ref().map(|decision| Placing::new(decision, &[]));
        let after = new.decision.as_ref().map(|decision| Placing::new(decision, &bound));
        self.log(audit::own_entry(self.now, verb, &id, before.as_ref(), after.as_ref()));
        self.rely_on(host);
        bound.into_iter().for_each(|volume| self.change_volume(volume));
        self.change_instance(new);
        if let Some(old) = away_from {
            self.leave_out(old, id);
        }
    }

    fn wait_for(&mut self, instance: &Instance, why: &str) {
        if instance.waiting_for != why {
            self.change_instance(Instance { waiting_for: why.to_owned(), ..instance.clone() });
        }
    }

    fn request(
        &self,
        instance: &Instance,
        volumes: &[Volume],
        placement: Placement,
        away_from: Option<HostId>,
    ) -> Request {
        let catalogue = self.engine.catalogue();
        let spec = &instance.spec;
        let names = std::iter::once(&spec.flavor).chain(&spec.flavor_fallback);
        let mut storage: BTreeMap<String, Gib> = BTreeMap::new();
        let mut specification = spec.specification_bytes();
        for volume in volumes.iter().filter(|volume| volume.host.is_none()) {
            let sum = storage.entry(volume.spec.class.clone()).or_default();
            *sum = sum.saturating_add(volume.spec.size);
            specification += limits::VOLUME_SPECIFICATION_BYTES;
        }
        let to_be_filled = volumes.iter().filter(|volume| volume.host.is_none());
        let images = to_be_filled.filter_map(|volume| volume.spec.image.as_ref());
        let images = images.chain([&spec.image]);
        Request {
            machine: instance.id,
            sizes: names.filter_map(|name| catalogue.flavor(name)).map(Size::from).collect(),
            storage,
            specification,
            images: catalogue.image_versions(images),
            placement,
            features: Default::default(),
            volume_hosts: volumes.iter().filter_map(|volume| volume.host).collect(),
            excluded: away_from.into_iter().collect(),
            incapable: Default::default(),
            spot: spec.spot.is_some(),
            preferences: weighed(self.state, &spec.preferences),
            alternatives: catalogue.flavors.iter().map(Size::from).collect(),
        }
    }
}

/// A host that was chosen.
struct Chosen {
    host: HostId,
    flavor: String,
    reason: String,
    /// The spot machines that leave it first.
    victims: BTreeSet<InstanceId>,
    /// Those, and the ones that leave it anyway, whose room it gets as well.
    after: BTreeSet<InstanceId>,
    /// What it waits for there; empty when for nothing.
    waiting_for: String,
}

impl From<Placed> for Chosen {
    fn from(placed: Placed) -> Self {
        let Placed { host, flavor, reason, .. } = placed;
        let (victims, after) = Default::default();
        Self { host, flavor, reason, victims, after, waiting_for: String::new() }
    }
}

impl From<MadeRoom> for Chosen {
    fn from(room: MadeRoom) -> Self {
        let waiting_for = format!(
            "its host makes room for it: spot machines there have up to {} s to shut down",
            room.notice_seconds
        );
        let MadeRoom { host, flavor, reason, victims, leaving, .. } = room;
        let victims: BTreeSet<_> = victims.into_iter().collect();
        let after = leaving.into_iter().chain(victims.iter().copied()).collect();
        Self { host, flavor, reason, victims, after, waiting_for }
    }
}

/// The volume where it was bound in vain with its machine, free to go with it: nothing was ever seen
/// of it, there or elsewhere.
fn freed(volume: &Volume, from: HostId) -> Option<Volume> {
    if volume.host != Some(from) || volume.is_made() {
        return None;
    }
    let mut volume = volume.clone();
    volume.may_be_on.extend(volume.host.take());
    Some(volume)
}

/// The volume once it is decided to be on the host, which has not shown it yet.
pub(super) fn bound(mut volume: Volume, host: HostId) -> Volume {
    volume.may_be_on.remove(&host);
    Volume { host: Some(host), observed: VolumeObserved::Unknown, ..volume }
}
