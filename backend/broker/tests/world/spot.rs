//! What must be so of spot machines: nobody loses one without its notice, and no other machine
//! waits for room that spot machines have.

use std::collections::BTreeSet;

use fairmazon_broker::core::InstanceView;
use fairmazon_model::{
    id::InstanceId,
    instance::Power,
    units::{Mib, Vcpus},
    volume::Volume,
};

use super::{
    check::{Shown, is_lost, machines_of},
    client::{Acknowledged, NOTICE_SECONDS},
    run::{Host, Platform},
};

/// How much less a notice may be by the world's clock: hosts' clocks are a tenth wrong.
const CLOCK_PERCENT: u64 = 110;

/// The machines that the platform has deleted.
pub async fn deleted(platform: &Platform) -> BTreeSet<InstanceId> {
    let records = platform.engine().store().audit(0, 100_000).await.unwrap();
    let deletions =
        records.iter().filter(|record| record.entry.verb == "broker.delete_interrupted");
    deletions.map(|record| record.entry.target.parse().unwrap()).collect()
}

/// All of it.
pub fn check(
    platform: &Platform,
    shown: &Shown,
    acknowledged: &Acknowledged,
    wrong: &mut Vec<String>,
) {
    notices(platform, acknowledged, wrong);
    for view in shown.instances.values().filter(|view| !is_lost(platform, view)) {
        let row = &view.row;
        let is_spot = row.spec.spot.is_some();
        if !is_spot && row.interruption.is_some() {
            wrong.push(format!("{} is interrupted and not spot", row.id));
        }
        if row.waits_for_room() {
            wrong.push(format!("{} still waits for room", row.id));
        }
        if row.decision.is_none() && !is_spot {
            for host in platform.living().filter(|host| fits(platform, shown, view, host)) {
                wrong.push(format!("{} waits, and spot machines have room on {}", row.id, host.id));
            }
        }
        if let (Some(interruption), Some(decision)) = (&row.interruption, &row.decision) {
            if interruption.holds_room() {
                wrong.push(format!("{} is still being interrupted", row.id));
            }
            let host = platform.hosts.iter().find(|host| host.id == decision.host).unwrap();
            let free = Room::of(platform, shown, host, |_| true);
            if row.spec.power == Power::Running && free.holds(platform, view) {
                wrong.push(format!("{} stays off, and there is room for it", row.id));
            }
        }
    }
}

/// A machine is ended by force only when its guest has had all of its notice.
fn notices(platform: &Platform, acknowledged: &Acknowledged, wrong: &mut Vec<String>) {
    if !platform.gentle {
        return;
    }
    let least_ms = u64::from(NOTICE_SECONDS) * 1_000 * 100 / CLOCK_PERCENT;
    for forced in platform.world.ledger().forced() {
        let had_ms = forced.asked_ms.map_or(0, |asked| forced.at_ms - asked);
        if acknowledged.spot.contains(&forced.instance) && had_ms < least_ms {
            wrong.push(format!("{forced:?} had {had_ms} ms, not {least_ms}"));
        }
    }
}

/// What is left of a host.
struct Room {
    threads: Vcpus,
    vcpus: u32,
    memory: Mib,
    real_memory: Mib,
}

impl Room {
    /// What is left beside the machines that count.
    fn of(
        platform: &Platform,
        shown: &Shown,
        host: &Host,
        counts: impl Fn(&InstanceView) -> bool,
    ) -> Self {
        let engine = platform.engine();
        let spec = engine.host(&platform.customer, host.id).unwrap().row.spec.clone();
        let capacity = &spec.capacity;
        let (_, vcpus, memory) = machines_of(platform, shown, host.id, &counts);
        let real = |view: &InstanceView| counts(view) && view.row.spec.spot.is_none();
        let (.., real) = machines_of(platform, shown, host.id, real);
        Self {
            threads: capacity.vcpus,
            vcpus: (capacity.vcpus.0 * 2).saturating_sub(vcpus.0),
            memory: spec.memory_sold(true).saturating_sub(memory),
            real_memory: capacity.memory.saturating_sub(real),
        }
    }

    fn holds(&self, platform: &Platform, view: &InstanceView) -> bool {
        let engine = platform.engine();
        let catalogue = engine.catalogue();
        let flavor = catalogue.flavor(view.row.actual_flavor()).unwrap();
        flavor.vcpus <= self.threads
            && flavor.vcpus.0 <= self.vcpus
            && flavor.memory <= self.memory
            && (view.row.spec.spot.is_some() || flavor.memory <= self.real_memory)
    }
}

/// Whether the machine would fit on the host without its spot machines.
fn fits(platform: &Platform, shown: &Shown, view: &InstanceView, host: &Host) -> bool {
    let row = &view.row;
    let attached = row.spec.volumes.values().map(|there| there.volume_id);
    let own: Vec<&Volume> = std::iter::once(row.boot_volume_id)
        .chain(attached)
        .filter_map(|id| shown.volumes.get(&id))
        .collect();
    let is_bound_elsewhere = own.iter().any(|volume| volume.host.is_some_and(|at| at != host.id));
    let engine = platform.engine();
    let spec = engine.host(&platform.customer, host.id).unwrap().row.spec.clone();
    let countries = &row.spec.placement.countries;
    let apart = &row.spec.placement.not_with;
    // A machine that it stays away from is not ended for it, spot or not.
    let is_near = shown.instances.values().any(|other| {
        let is_there = other.row.decision.as_ref().is_some_and(|there| there.host == host.id);
        is_there && !apart.is_disjoint(&other.row.spec.placement.not_with)
    });
    let with = &row.spec.placement.with;
    let is_kept_elsewhere = shown.instances.values().any(|other| {
        let is_there = other.row.decision.as_ref().is_some_and(|there| there.host != host.id);
        is_there && !with.is_disjoint(&other.row.spec.placement.with)
    });
    let may_be_there = !is_near
        && !is_kept_elsewhere
        && (countries.is_empty() || countries.contains(&spec.site.country));
    let capacity = spec.capacity;
    let on_it = shown.volumes.values().filter(|volume| volume.host == Some(host.id));
    let taken: u64 = on_it.map(|volume| volume.spec.size.0).sum();
    let new = own.iter().filter(|volume| volume.host.is_none());
    let wanted: u64 = new.map(|volume| volume.spec.size.0).sum();
    let room = Room::of(platform, shown, host, |other| other.row.spec.spot.is_none());
    may_be_there
        && !is_bound_elsewhere
        && taken + wanted <= capacity.storage["standard"].0
        && room.holds(platform, view)
}
