//! Things as their owners see them: the row, and what follows from it and from its host.
//!
//! The shown state is a pure function of desired, decided, observed and the host's standing.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use fairmazon_model::{
    catalogue::{Catalogue, Image},
    host::Host,
    id::HostId,
    instance::{Instance, ObservedState, Power},
    interruption::InterruptionCause,
    price::{self, InstancePrice, NanoEur},
    site::Site,
    transfer::Sha256,
    units::{Generation, Gib, Mib, UnixMs, Vcpus},
    volume::{Volume, VolumeObserved},
};

use super::{hosts_now::Standing, lost::lost_text, state::State};

/// State of an instance as its owner sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the states name themselves")]
pub enum InstanceState {
    Pending,
    Starting,
    Running,
    Stopping,
    Stopped,
    Failed,
    Deleting,
    Unknown,
}

/// State of a volume as its owner sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the states name themselves")]
pub enum VolumeState {
    Available,
    Creating,
    Ready,
    Failed,
    Deleting,
    Unknown,
}

/// An instance with what is shown beside its row.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceView {
    /// The row.
    pub row: Arc<Instance>,
    /// Its state.
    pub state: InstanceState,
    /// Why it is in this state, for people; may be empty.
    pub reason: String,
    /// Where it is; none until it is placed.
    pub site: Option<Site>,
    /// What it costs; none when the catalogue has lost what it was made of.
    pub price: Option<InstancePrice>,
}

/// A volume with what is shown beside its row.
#[derive(Debug, Clone)]
pub struct VolumeView {
    /// The row.
    pub row: Arc<Volume>,
    /// Its state.
    pub state: VolumeState,
    /// Why it is in this state, for people; may be empty.
    pub reason: String,
    /// Where its data is; none until it is first attached.
    pub site: Option<Site>,
    /// What an hour of it costs.
    pub price_per_hour: NanoEur,
}

/// A host with what is shown beside its row.
#[derive(Debug, Clone)]
pub struct HostView {
    /// The row.
    pub row: Arc<Host>,
    /// How it stands.
    pub standing: Standing,
    /// When it last said anything to this broker.
    pub last_seen: Option<UnixMs>,
    /// The generation of the last set sent to it.
    pub desired_generation: Generation,
    /// The generation that its last report was made under.
    pub observed_generation: Generation,
    /// What is taken of its capacity.
    pub usage: Usage,
    /// The host standard level that counts; none when it gets nothing new for what it proves.
    pub level: Option<u8>,
    /// The catalogue's images that it has, in the order of the catalogue; none where it has every
    /// one, and before it has said anything.
    pub images: Option<Vec<HostImage>>,
}

/// An image that a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostImage {
    /// Its id.
    pub id: String,
    /// SHA-256 of its manifest there; none where its agent tells none.
    pub sha256: Option<Sha256>,
    /// Whether machines of it may come: it is the catalogue's version, or the catalogue knows none.
    pub is_current: bool,
}

/// What is taken of a host's capacity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Machines decided to run on it.
    pub machines: u32,
    /// Their processors.
    pub vcpus: Vcpus,
    /// Their memory.
    pub memory: Mib,
    /// The volumes on it, by storage class.
    pub storage: BTreeMap<String, Gib>,
}

/// A site with its hosts that take new machines.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteView {
    /// Where it is.
    pub site: Site,
    /// Hosts that are connected and take new machines.
    pub hosts_available: u32,
}

/// Why nothing is known of what is on a host that has not been heard of for a lease.
const SILENT: &str = "its host is silent";

/// What is known of a machine that has a later run than the store knows of.
const ELSEWHERE: &str = "another host has had a later run of it than the platform's store, which was \
     restored, knows of; it goes on there as soon as that host shows all of its volumes, and the one \
     that it is decided on none of them";

impl InstanceView {
    pub(crate) fn new(
        state: &State,
        catalogue: &Catalogue,
        row: &Arc<Instance>,
        now: UnixMs,
    ) -> Self {
        let host = row.decision.as_ref().map(|decision| decision.host);
        let (shown, mut reason) = instance_shown(state, row, now);
        let lacking = || {
            let found = level_lacking(state, row).or_else(|| displaced(state, row));
            found.or_else(|| apart(state, row)).unwrap_or_default()
        };
        if row.later_run().is_some() && shown != InstanceState::Running {
            reason =
                format!("{ELSEWHERE}{}{reason}", if reason.is_empty() { "" } else { ": " }).into();
        }
        let reason = if reason.is_empty() { lacking() } else { reason.into_owned() };
        Self {
            state: shown,
            reason,
            site: host.and_then(|host| site_of(state, host)),
            price: price::instance(catalogue, &row.spec, row.actual_flavor()).ok(),
            row: row.clone(),
        }
    }
}

impl VolumeView {
    pub(crate) fn new(state: &State, catalogue: &Catalogue, row: &Arc<Volume>) -> Self {
        let (shown, reason) = volume_state(row, row.host.map(|host| state.standing(host)));
        let (state_shown, reason) = if shown == VolumeState::Unknown && state.is_volume_lost(row) {
            (VolumeState::Failed, lost_text())
        } else {
            (shown, reason.to_owned())
        };
        Self {
            state: state_shown,
            reason,
            site: row.host.and_then(|host| site_of(state, host)),
            price_per_hour: price::volume(catalogue, &row.spec).unwrap_or_default(),
            row: row.clone(),
        }
    }
}

impl HostView {
    pub(crate) fn new(state: &State, row: &Arc<Host>) -> Self {
        let now = state.hosts.get(row.id);
        Self {
            standing: state.standing(row.id),
            last_seen: now.and_then(|now| now.last_seen),
            desired_generation: now.map_or(Generation(0), |now| now.sent),
            observed_generation: now.map_or(Generation(0), |now| now.observed),
            usage: state.books.usage(row.id),
            level: state.books.level(row.id),
            images: images(state, row.id),
            row: row.clone(),
        }
    }
}

fn images(state: &State, host: HostId) -> Option<Vec<HostImage>> {
    let had = state.books.images(host)?;
    let of_it = |image: &Image| {
        let sha256 = *had.get(&image.id)?;
        let is_current = image.sha256.is_none() || sha256 == image.sha256;
        Some(HostImage { id: image.id.clone(), sha256, is_current })
    };
    Some(state.catalogue().images.iter().filter_map(of_it).collect())
}

fn site_of(state: &State, host: HostId) -> Option<Site> {
    state.world.hosts.get(host).map(|host| host.spec.site.clone())
}

/// That the host of the instance does not prove the level that the instance asks for, and what
/// becomes of it; none when it does, and before its host has shown anything.
fn level_lacking(state: &State, row: &Instance) -> Option<String> {
    let host = state.world.hosts.get(row.decision.as_ref()?.host)?;
    let known = host.conformity.as_ref()?;
    let wanted = state.books.wanted_level(row.id);
    if row.deleting.is_some() || !known.lacks.contains_key(&wanted) {
        return None;
    }
    let what = if known.fails() {
        "its host does not conform to the host standard now".to_owned()
    } else {
        format!(
            "its host does not prove host standard level {wanted} now, which its placement asks for"
        )
    };
    Some(format!("{what}; {}", becomes(state, row, "it moves to another host if that lasts")))
}

/// That the host of the instance does not obey its placement, which was changed, and what becomes
/// of it; none when it does.
fn displaced(state: &State, row: &Instance) -> Option<String> {
    row.displaced.filter(|_| row.deleting.is_none())?;
    let then = becomes(state, row, "it moves to another host");
    Some(format!("its host does not obey what its placement was changed to; {then}"))
}

/// That the instance is not with all machines that it has to be with, and they are not on their ways
/// to one host; none when it is.
fn apart(state: &State, row: &Instance) -> Option<String> {
    if row.deleting.is_some() || !state.books.is_apart(row.id) {
        return None;
    }
    let then = becomes(state, row, "they move to one host");
    Some(format!("machines that it has to be with are on another host; {then}"))
}

/// What becomes of an instance that is to leave its host.
fn becomes(state: &State, row: &Instance, otherwise: &str) -> String {
    match state.staying.get(&row.id.into()) {
        _ if row.open_migration().is_some() => "it is on its way to another host".to_owned(),
        Some(why) => format!("it stays there while no other can take it: {why}"),
        None => otherwise.to_owned(),
    }
}

/// Whether the machine shall run at `now`: asked to, and not interrupted.
pub(crate) fn wants_to_run(row: &Instance, now: UnixMs) -> bool {
    row.interruption.is_none() && is_asked_to_run(row, now)
}

/// Whether the customer wants the machine to run at `now`, working hours included. Hours that
/// can't be read count as always.
pub(crate) fn is_asked_to_run(row: &Instance, now: UnixMs) -> bool {
    row.spec.power == Power::Running
        && row.spec.schedule.as_ref().is_none_or(|schedule| schedule.runs_at(now).unwrap_or(true))
}

/// Whether the flavor's spot price is one that the customer pays; true without spot terms.
pub(crate) fn spot_allows(row: &Instance, catalogue: &Catalogue) -> bool {
    row.spec.spot.is_none_or(|spot| {
        catalogue
            .flavor(row.actual_flavor())
            .is_none_or(|flavor| flavor.spot_hourly <= spot.max_price)
    })
}

/// How many instances of customers there are in each state that is shown.
pub(crate) fn instance_counts(state: &State, now: UnixMs) -> BTreeMap<InstanceState, u64> {
    let mut counts = BTreeMap::new();
    for row in state.world.machines() {
        *counts.entry(instance_shown(state, row, now).0).or_default() += 1;
    }
    counts
}

/// The state that is shown for an instance, with its reason.
fn instance_shown<'a>(
    state: &State,
    row: &'a Instance,
    now: UnixMs,
) -> (InstanceState, Cow<'a, str>) {
    let standing = row.decision.as_ref().map(|decision| state.standing(decision.host));
    let (shown, reason) = instance_state(row, standing, wants_to_run(row, now));
    if shown == InstanceState::Unknown && state.is_machine_lost(row) {
        return (InstanceState::Failed, lost_text().into());
    }
    (shown, reason)
}

/// The same, of one that is not lost with its host.
fn instance_state(
    row: &Instance,
    standing: Option<Standing>,
    wants_to_run: bool,
) -> (InstanceState, Cow<'_, str>) {
    let failure = || Cow::from(row.observed.failure().unwrap_or_default());
    if row.deleting.is_some() {
        return (InstanceState::Deleting, failure());
    }
    let Some(decision) = &row.decision else {
        return (InstanceState::Pending, (&row.waiting_for).into());
    };
    if standing == Some(Standing::Lapsed) {
        return (InstanceState::Unknown, SILENT.into());
    }
    if let Some(interrupted) = interrupted_state(row) {
        return interrupted;
    }
    if row.observed.epoch != decision.epoch {
        return (InstanceState::Starting, (&row.waiting_for).into());
    }
    let shown = match (&row.observed.state, wants_to_run) {
        (ObservedState::Failed { .. }, _) => InstanceState::Failed,
        (ObservedState::Running, true) => InstanceState::Running,
        (ObservedState::Running, false) | (ObservedState::Stopping, _) => InstanceState::Stopping,
        // It was made, and is not started yet.
        (ObservedState::Stopped, true) if row.observed.spec_version == 0 => InstanceState::Starting,
        (ObservedState::Stopped, _) => InstanceState::Stopped,
        (ObservedState::Unknown | ObservedState::Absent | ObservedState::Starting, _) => {
            InstanceState::Starting
        }
    };
    (shown, failure())
}

/// The state of one whose spot capacity is taken back.
fn interrupted_state(row: &Instance) -> Option<(InstanceState, Cow<'_, str>)> {
    let interruption = row.interruption.as_ref()?;
    let (why, until) = match interruption.cause {
        InterruptionCause::Capacity(_) => {
            ("its spot capacity is needed for others", "its host has room for it")
        }
        InterruptionCause::Price => (
            "the spot price is above max_price_per_hour",
            "the price allows it and its host has room for it",
        ),
        InterruptionCause::Memory => {
            ("its host had no memory left for it", "its host has room for it")
        }
    };
    Some(if interruption.holds_room() {
        let seconds = interruption.notice_ms / 1_000;
        let text = format!(
            "interrupted: {why}; its guest is asked to shut down and has {seconds} s for it"
        );
        (InstanceState::Stopping, text.into())
    } else {
        let text = format!("interrupted: {why}; it starts again when {until}");
        (InstanceState::Stopped, text.into())
    })
}

/// The state that is shown for a volume, with its reason.
pub(crate) fn volume_state(row: &Volume, standing: Option<Standing>) -> (VolumeState, &str) {
    if row.deleting.is_some() {
        return (VolumeState::Deleting, row.observed.failure().unwrap_or_default());
    }
    match standing {
        None => (VolumeState::Available, ""),
        Some(Standing::Lapsed) => (VolumeState::Unknown, SILENT),
        Some(_) => match &row.observed {
            VolumeObserved::Unknown | VolumeObserved::Absent if row.imports().is_some() => {
                (VolumeState::Creating, "its file has not come")
            }
            VolumeObserved::Unknown | VolumeObserved::Absent => (VolumeState::Creating, ""),
            VolumeObserved::Present { failure, .. } => {
                (VolumeState::Ready, failure.as_deref().unwrap_or_default())
            }
            VolumeObserved::Failed { reason, .. } => (VolumeState::Failed, reason),
        },
    }
}
