//! Volumes that no machine has on their host: what goes together, what keeps it where it is, and the
//! carrier that it moves in.
//!
//! A carrier is an instance of the platform's own, which is off and made for one way: whatever holds
//! for a machine that moves while it is off holds for it. Customers do not see it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairmazon_model::{
    DomainError, ErrorKind,
    catalogue::Catalogue,
    id::{HostId, InstanceId, VolumeId},
    instance::{
        Attachment, BootVolumeSpec, Decision, Instance, InstanceObserved, InstanceSpec,
        OnUserDataChange, Power, RestartPolicy,
    },
    units::{Epoch, Revision, UnixMs},
    volume::{Volume, VolumeObserved},
};
use fairmazon_scheduler::Request;

use super::{
    hosts_now::Standing,
    migrations::{Begun, Bound, check_lets_go, elsewhere, set_out},
    rules::{self, precondition},
    state::State,
};

/// How long its host may take to stop a carrier, in ms. There is no guest to wait for.
const STOP_MS: u64 = 1_000;
/// The run of a carrier on the host that it leaves.
const FIRST_RUN: Epoch = Epoch(1);

/// What goes together with a volume.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The machine that these volumes are to be with, which is on no host.
    pub(crate) instance: Option<Arc<Instance>>,
    /// The volumes that have a host, at least one. Those of one machine never part.
    pub(crate) volumes: Vec<Arc<Volume>>,
}

impl Load {
    /// What goes with the volume, which is attached to this instance; that is on no host.
    pub(crate) fn of(
        row: &Arc<Volume>,
        instance: Option<Arc<Instance>>,
        volumes_of: impl FnOnce(&Instance) -> Vec<Arc<Volume>>,
    ) -> Self {
        let mut volumes = instance.as_deref().map_or_else(|| vec![row.clone()], volumes_of);
        volumes.retain(|volume| volume.host.is_some());
        Self { instance, volumes }
    }

    /// Whether all of it can leave its host now, which is the answer. `is_sent`: whether a volume is
    /// on its way to its customer.
    pub(crate) fn check_can_leave(
        &self,
        state: &State,
        is_sent: impl Fn(VolumeId) -> bool,
    ) -> Result<HostId, Bound> {
        let mut from = None;
        for row in &self.volumes {
            check_is_still(state, row)?;
            if is_sent(row.id) {
                let text = format!("{} is being exported", row.id);
                return Err(Bound::ForNow(precondition(text)));
            }
            from = row.host;
        }
        let Some(from) = from else {
            return Err(Bound::AsItIs(precondition("nothing of it is on a host")));
        };
        if let Some(row) = self.volumes.iter().find(|row| row.host != Some(from)) {
            let text = format!("{} is on another host than what it belongs to", row.id);
            return Err(Bound::AsItIs(precondition(text)));
        }
        if state.standing(from) != Standing::Connected {
            return Err(Bound::ForNow(precondition("its host does not answer")));
        }
        let what = self.volumes.first().map_or_else(String::new, |row| row.id.to_string());
        check_lets_go(state, from, &what, &self.volumes)?;
        Ok(from)
    }

    /// Finds the host that it goes to, and claims what it needs there: the rows of its carrier, which
    /// is new and gets this id, and of its volumes. Nobody else changes these meanwhile.
    ///
    /// # Errors
    /// `Precondition` when it can't leave its host now, `NoCapacity` when no other can take it.
    pub(crate) fn begin(
        &self,
        state: &mut State,
        catalogue: &Catalogue,
        id: InstanceId,
        is_sent: impl Fn(VolumeId) -> bool,
        now: UnixMs,
    ) -> Result<Begun, DomainError> {
        let from = self.check_can_leave(state, is_sent)?;
        let Some(carrier) = self.carrier(id, from, now) else {
            return Err(precondition("nothing of it is on a host"));
        };
        let placement = rules::placement_of(&carrier, &self.volumes)?;
        let request = elsewhere(state, catalogue, &carrier, &self.volumes, placement, from);
        // What belongs to one customer is likely to be used together.
        let beside = hosts_of(state, &carrier);
        let others = state.world.hosts.iter().map(|row| row.id).filter(|id| !beside.contains(id));
        let excluded = request.excluded.iter().copied().chain(others).collect();
        let narrow = Request { excluded, ..request.clone() };
        let placed = state.books.place(&narrow).or_else(|_| state.books.place(&request));
        let placed = placed.map_err(|why| DomainError::from(&*why))?;
        set_out(state, &carrier, &self.volumes, placed, now)
    }

    /// The carrier, as decided on the host that it leaves.
    fn carrier(&self, id: InstanceId, from: HostId, now: UnixMs) -> Option<Instance> {
        let (first, rest) = self.volumes.split_first()?;
        let machine = self.instance.as_ref().map(|instance| &instance.spec);
        let attachment = |row: &Arc<Volume>| {
            let attachment = Attachment { volume_id: row.id, read_only: false };
            (row.id.to_string(), attachment)
        };
        let spec = InstanceSpec {
            name: first.spec.name.clone(),
            flavor: machine.map(|spec| spec.flavor.clone()).unwrap_or_default(),
            flavor_fallback: Vec::new(),
            image: String::new(),
            placement: machine.map(|spec| spec.placement.clone()).unwrap_or_default(),
            preferences: machine.map(|spec| spec.preferences.clone()).unwrap_or_default(),
            boot_volume: BootVolumeSpec {
                size: first.spec.size,
                class: first.spec.class.clone(),
                delete_with_instance: false,
            },
            volumes: rest.iter().map(attachment).collect(),
            user_data: String::new(),
            on_user_data_change: OnUserDataChange::Ignore,
            ssh_keys: BTreeSet::new(),
            power: Power::Stopped,
            schedule: None,
            spot: None,
            restart_policy: RestartPolicy::Never,
            stop_timeout_ms: STOP_MS,
            deletion_protection: false,
            labels: BTreeMap::new(),
        };
        let decision = Decision {
            host: from,
            epoch: FIRST_RUN,
            flavor: String::new(),
            reason: String::new(),
            at: now,
            after: BTreeSet::new(),
            may_run: false,
        };
        Some(Instance {
            id,
            account: first.account,
            spec,
            spec_version: 1,
            reboots: 0,
            rebuilds: 0,
            first_boots: 0,
            boot_volume_id: first.id,
            carrier: true,
            decision: Some(decision),
            migration: None,
            interruption: None,
            in_vain: Default::default(),
            later: None,
            reserved: None,
            displaced: None,
            last_epoch: FIRST_RUN,
            observed: InstanceObserved::default(),
            waiting_for: String::new(),
            deleting: None,
            unconfirmed: false,
            created_at: now,
            revision: Revision(0),
        })
    }
}

/// Whether nothing is under way with the volume.
fn check_is_still(state: &State, row: &Volume) -> Result<(), Bound> {
    let id = row.id;
    let for_now = |text: String| Err(Bound::ForNow(precondition(text)));
    if row.deleting.is_some() {
        return for_now(format!("{id} is being deleted"));
    }
    if let Some(moving) = state.world.moves_with(id) {
        return for_now(if moving.carrier {
            format!("{id} moves to another host already")
        } else {
            format!("{id} was moving with {}, and that has not ended", moving.id)
        });
    }
    if row.imports().is_some() {
        let error = precondition(format!("{id} waits for the file that its customer sends"));
        let advice = "wait until it has come, or ask the customer to delete the volume";
        return Err(Bound::AsItIs(error.advise(advice)));
    }
    if let Some(source) = row.copies() {
        return for_now(format!("{id} is being made as a copy of {source}"));
    }
    match &row.observed {
        VolumeObserved::Present { size, .. } if *size < row.spec.size => {
            return for_now(format!("{id} is being grown by its host"));
        }
        VolumeObserved::Present { .. } => {}
        _ => return for_now(format!("{id} has not been seen on its host")),
    }
    if row.host.is_some_and(|host| row.next_key(host).is_some()) {
        return for_now(format!("the key of {id} is being exchanged"));
    }
    if state.lacks_key(row) {
        let error = precondition(format!("the key of {id} is not known, and none is made of it"));
        return Err(Bound::AsItIs(error.advise("ask its customer to run `fairmazon key give`")));
    }
    Ok(())
}

/// The hosts that have volumes of the carrier's account or are about to.
fn hosts_of(state: &State, carrier: &Instance) -> BTreeSet<HostId> {
    let volumes = state.world.volumes.of_account(carrier.account);
    let hosts = |row: &Arc<Volume>| row.host.into_iter().chain(state.world.volume_comes_to(row.id));
    volumes.flat_map(hosts).collect()
}

/// Volumes that shall be with one machine and of which a carrier moves one have come from one host
/// and come to one: the others are not bound yet, or go in the same carrier.
pub(super) fn check_together(state: &State, volumes: &[Arc<Volume>]) -> Result<(), DomainError> {
    let carrier = |row: &Arc<Volume>| {
        state.world.moves_with(row.id).filter(|moving| moving.carrier).map(|moving| moving.id)
    };
    let Some((moving, id)) = volumes.iter().find_map(|row| Some((row, carrier(row)?))) else {
        return Ok(());
    };
    let parts = |row: &&Arc<Volume>| row.host.is_some() && carrier(row) != Some(id);
    let Some(other) = volumes.iter().find(parts) else { return Ok(()) };
    let text =
        format!("{} moves to another host, and {} does not move with it", moving.id, other.id);
    Err(DomainError::new(ErrorKind::Conflict, text)
        .advise("repeat when it is there; their data has to be on one host"))
}
