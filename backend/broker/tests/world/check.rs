//! What must be so in a healed world: nothing acknowledged is lost, nothing is orphaned, the
//! books are right, every operation has ended; and, over the whole run, nothing ran twice.

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_broker::core::{InstanceState, InstanceView, PageRequest};
use fairmazon_hypervisor::Hypervisor;
use fairmazon_model::{
    ErrorKind,
    id::{HostId, InstanceId, VolumeId},
    instance::Power,
    operation::OperationState,
    units::{Gib, Mib, Vcpus},
    volume::Volume,
};
use fairmazon_store::{AuditRecord, Row};
use serde_json::json;

use super::{
    client::{Acknowledged, Kind},
    lost, meter,
    run::{Host, Platform},
    spot, standard,
};

/// Everything that is wrong, for people.
pub async fn all(platform: &Platform, acknowledged: &Acknowledged, quiet: bool) -> Vec<String> {
    let violations = platform.world.ledger().violations();
    let mut wrong: Vec<_> = violations.iter().map(|violation| format!("{violation:?}")).collect();
    if platform.ended() {
        wrong.push("the reconciler or an agent has ended by itself".into());
        return wrong;
    }
    let shown = Shown::of(platform).await;
    let deleted = spot::deleted(platform).await;
    acknowledged_changes(platform, &shown, acknowledged, &deleted, &mut wrong);
    spot::check(platform, &shown, acknowledged, &mut wrong);
    operations(platform, acknowledged, quiet, &mut wrong);
    hosts(platform, &shown, &mut wrong).await;
    groups(platform, &shown, &mut wrong);
    keys(platform, &shown, &mut wrong);
    books(platform, &shown, &mut wrong);
    lost::check_removed(platform, &shown, &mut wrong);
    audit(platform, &shown, acknowledged, &mut wrong).await;
    meter::check(platform, &mut wrong).await;
    if !wrong.is_empty() {
        wrong.extend(facts(platform, &shown).await);
    }
    wrong
}

/// All that there is, for whoever looks for the cause.
async fn facts(platform: &Platform, shown: &Shown) -> Vec<String> {
    let mut facts = vec!["There are:".to_owned()];
    facts.extend(shown.instances.values().map(|view| format!("{:?}: {:?}", view.state, view.row)));
    facts.extend(shown.volumes.values().map(|row| format!("{row:?}")));
    for host in &platform.hosts {
        facts.push(format!("{:?}", platform.engine().host(&platform.customer, host.id)));
        facts.push(format!("{:?}", host.sim.inventory().await));
    }
    facts
}

/// What the broker shows.
pub struct Shown {
    pub instances: BTreeMap<InstanceId, InstanceView>,
    pub volumes: BTreeMap<VolumeId, Volume>,
}

impl Shown {
    /// Volumes come from the store: lists leave boot volumes out.
    pub async fn of(platform: &Platform) -> Self {
        let engine = platform.engine();
        let page = PageRequest { after: None, limit: 0 };
        let instances = engine.instances(&platform.customer, page, &BTreeMap::new()).items;
        let mut volumes = BTreeMap::new();
        let mut keep = |row: Row| {
            if let Row::Volume(row) = row {
                volumes.insert(row.id, row);
            }
        };
        engine.store().load(&mut keep).await.unwrap();
        Self { instances: instances.into_iter().map(|view| (view.row.id, view)).collect(), volumes }
    }
}

fn acknowledged_changes(
    platform: &Platform,
    shown: &Shown,
    acknowledged: &Acknowledged,
    deleted: &BTreeSet<InstanceId>,
    wrong: &mut Vec<String>,
) {
    for (id, spec) in &acknowledged.instances {
        match shown.instances.get(id) {
            None if deleted.contains(id) => {}
            None => wrong.push(format!("{id} was acknowledged and is lost")),
            Some(view) if view.row.spec != *spec => {
                wrong.push(format!("{id} has {:?}, acknowledged was {spec:?}", view.row.spec));
            }
            Some(view) if is_lost(platform, view) => lost::check_state(view, wrong),
            Some(view) => state(view, wrong),
        }
    }
    for id in shown.instances.keys().filter(|id| !acknowledged.instances.contains_key(id)) {
        wrong.push(format!("{id} was never acknowledged, or was deleted, and is there"));
    }
    for (id, spec) in &acknowledged.volumes {
        match shown.volumes.get(id) {
            None => wrong.push(format!("{id} was acknowledged and is lost")),
            Some(row) if row.spec != *spec => {
                wrong.push(format!("{id} has {:?}, acknowledged was {spec:?}", row.spec));
            }
            Some(_) => {}
        }
    }
    let boots: BTreeSet<_> = shown.instances.values().map(|view| view.row.boot_volume_id).collect();
    for id in shown.volumes.keys() {
        if !boots.contains(id) && !acknowledged.volumes.contains_key(id) {
            wrong.push(format!("{id} belongs to nothing"));
        }
    }
}

/// Whether it is on a host that has ended for good.
pub fn is_lost(platform: &Platform, view: &InstanceView) -> bool {
    view.row.decision.as_ref().is_some_and(|decision| platform.has_ended(decision.host))
}

fn shall_run(view: &InstanceView) -> bool {
    view.row.spec.power == Power::Running && view.row.interruption.is_none()
}

fn state(view: &InstanceView, wrong: &mut Vec<String>) {
    let id = view.row.id;
    let expected = match (&view.row.decision, shall_run(view)) {
        (None, _) => InstanceState::Pending,
        (Some(_), true) => InstanceState::Running,
        (Some(_), false) => InstanceState::Stopped,
    };
    if let Some(migration) = &view.row.migration {
        wrong.push(format!("{id} still moves: {migration:?}"));
    }
    let countries = &view.row.spec.placement.countries;
    let allows = |country: &String| countries.is_empty() || countries.contains(country);
    match (&view.site, view.row.displaced) {
        (Some(site), None) if !allows(&site.country) => {
            wrong.push(format!("{id} is in {} and not in {countries:?}", site.country));
        }
        (_, Some(_)) if view.row.interruption.is_none() && !view.reason.contains("stays there") => {
            wrong.push(format!("{id} shall go to {countries:?}, and does not: {}", view.reason));
        }
        _ => {}
    }
    if view.state != expected {
        wrong.push(format!("{id} is {:?} ({}), not {expected:?}", view.state, view.reason));
    }
}

fn operations(
    platform: &Platform,
    acknowledged: &Acknowledged,
    quiet: bool,
    wrong: &mut Vec<String>,
) {
    let engine = platform.engine();
    for promise in &acknowledged.operations {
        let operation = match engine.operation(&platform.customer, promise.id) {
            Ok(operation) => operation,
            Err(error) => {
                wrong.push(format!("{} was acknowledged and is lost: {error}", promise.id));
                continue;
            }
        };
        match &operation.state {
            OperationState::Done => {}
            OperationState::Running { waiting_for, .. } => {
                wrong.push(format!("{operation:?} still waits for `{waiting_for}`"));
            }
            OperationState::Failed { error } => {
                // Another change came between, or patience ended for a reason that was told.
                let known = match error.kind {
                    ErrorKind::Precondition | ErrorKind::NoCapacity => true,
                    ErrorKind::Unavailable => !quiet,
                    _ => false,
                };
                let may_fail = match promise.kind {
                    Kind::Change => known,
                    Kind::Delete => false,
                    Kind::Migrate => true,
                };
                if !may_fail {
                    wrong.push(format!("{operation:?} has failed"));
                }
            }
        }
    }
    let page = PageRequest { after: None, limit: 0 };
    for operation in engine.operations(&platform.customer, page, None).items {
        if !operation.state.is_final() {
            wrong.push(format!("{operation:?} has not ended"));
        }
    }
}

/// Every volume is opened by the key that was made for the version that was asked for last, and by
/// nothing else.
fn keys(platform: &Platform, shown: &Shown, wrong: &mut Vec<String>) {
    for row in shown.volumes.values() {
        let Some(host) = platform.living().find(|host| Some(host.id) == row.host) else {
            continue;
        };
        let opened_by = host.sim.opened_by(row.id);
        let is_right = row.next_keys.is_empty()
            && row.key().is_some_and(|key| {
                key.made_for == row.spec.key_version
                    && opened_by.iter().all(|print| *print == key.fingerprint)
            });
        if !opened_by.is_empty() && !is_right {
            wrong.push(format!("{opened_by:?} open {row:?}"));
        }
    }
}

/// At any time: what has data is opened by a key that its customer has, wrapped, with the broker.
pub fn customer_has_keys(platform: &Platform) -> Vec<String> {
    let page = PageRequest { after: None, limit: 0 };
    let rows = platform.engine().volumes(&platform.customer, page, &BTreeMap::new()).items;
    let mut wrong = Vec::new();
    for row in rows.into_iter().map(|view| view.row) {
        let Some(host) = platform.hosts.iter().find(|host| Some(host.id) == row.host) else {
            continue;
        };
        let opened_by = host.sim.opened_by(row.id);
        let mut wrapped = row.keys.get(&host.id).into_iter().chain(row.next_key(host.id));
        if !opened_by.is_empty() && !wrapped.any(|key| opened_by.contains(&key.fingerprint)) {
            wrong.push(format!("only {opened_by:?} open {row:?}"));
        }
    }
    wrong
}

/// Machines that stay away from each other's group are on different hosts, and those that have to be
/// together on one.
fn groups(platform: &Platform, shown: &Shown, wrong: &mut Vec<String>) {
    let mut taken = BTreeMap::new();
    for row in shown.instances.values().map(|view| &view.row) {
        let Some(decision) = &row.decision else { continue };
        for group in &row.spec.placement.not_with {
            if let Some(other) = taken.insert((decision.host, *group), row.id) {
                wrong.push(format!(
                    "{} and {other} of {group} are both on {}",
                    row.id, decision.host
                ));
            }
        }
    }
    let mut gathered = BTreeMap::new();
    for view in shown.instances.values().filter(|view| !is_lost(platform, view)) {
        let Some(decision) = &view.row.decision else { continue };
        if let Some(host) = view.row.reserved {
            wrong.push(format!("room at {host} is still kept for {}", view.row.id));
        }
        for group in &view.row.spec.placement.with {
            let first = *gathered.entry(*group).or_insert((decision.host, view));
            // What finds no host for all of them says so.
            let says_why = |view: &InstanceView| view.reason.contains("it stays there while");
            if first.0 != decision.host && !says_why(view) && !says_why(first.1) {
                let (one, other) = (first.1.row.id, view.row.id);
                wrong.push(format!("{one} and {other} of {group} are on two hosts"));
            }
        }
    }
}

/// What the hosts have is what the broker wants of them, no more and no less.
async fn hosts(platform: &Platform, shown: &Shown, wrong: &mut Vec<String>) {
    let catalogue = platform.engine().catalogue().clone();
    let mut machines = BTreeSet::new();
    let mut volumes = BTreeSet::new();
    let lives = |id| platform.living().any(|host| host.id == id);
    for host in platform.living() {
        let inventory = host.sim.inventory().await.unwrap();
        for machine in inventory.machines {
            let id = machine.instance();
            machines.insert((host.id, id));
            let view = shown.instances.get(&id);
            let Some((view, decision)) =
                view.and_then(|view| view.row.decision.as_ref().map(|decision| (view, decision)))
            else {
                wrong.push(format!("{id} is an orphan on {}", host.id));
                continue;
            };
            let spec = &view.row.spec;
            let flavor = catalogue.flavor(&decision.flavor).unwrap();
            let data: BTreeSet<_> = spec.volumes.values().map(|a| a.volume_id).collect();
            let has: BTreeSet<_> = machine.definition.disks.iter().map(|d| d.volume).collect();
            let fits = decision.host == host.id
                && decision.epoch == machine.marks.epoch
                && decision.flavor == spec.flavor
                && machine.definition.vcpus == flavor.vcpus
                && machine.definition.memory == flavor.memory
                && machine.definition.spot == spec.spot.is_some()
                && host.sim.balloon(id) == Some(flavor.memory)
                && machine.runs() == shall_run(view)
                && machine.definition.boot.volume == view.row.boot_volume_id
                && data == has;
            if !fits {
                wrong.push(format!("on {}: {machine:?}, wanted: {:?}", host.id, view.row));
            }
        }
        for volume in inventory.volumes {
            volumes.insert((host.id, volume.volume));
            match shown.volumes.get(&volume.volume) {
                Some(row) if row.host == Some(host.id) && row.spec.size == volume.size => {
                    data(platform, host, volume.volume, wrong);
                }
                // What is left where it was before is kept, as long as nobody shows what came of it.
                Some(row) if platform.restored.is_some() && row.host != Some(host.id) => {}
                Some(row) if row.host.is_some_and(|id| !lives(id)) => {}
                Some(row) => wrong.push(format!("on {}: {volume:?}, wanted: {row:?}", host.id)),
                None => wrong.push(format!("{volume:?} is an orphan on {}", host.id)),
            }
        }
    }
    let decided = |view: &InstanceView| view.row.decision.as_ref().map(|d| (d.host, view.row.id));
    for (host, id) in shown.instances.values().filter_map(decided) {
        if !platform.has_ended(host) && !machines.contains(&(host, id)) {
            wrong.push(format!("{id} is missing on {host}"));
        }
    }
    for (host, id) in shown.volumes.values().filter_map(|row| Some((row.host?, row.id))) {
        if !platform.has_ended(host) && !volumes.contains(&(host, id)) {
            wrong.push(format!("{id} is missing on {host}"));
        }
    }
}

/// What is in a volume is what was written to it last, wherever that was.
fn data(platform: &Platform, host: &Host, volume: VolumeId, wrong: &mut Vec<String>) {
    // A machine that is defined where it was before is no new one, as the ledger takes it for.
    let before = platform.restored.as_ref().and_then(|written| written.get(&volume));
    let written = platform.world.ledger().writes(volume).max(before.copied().unwrap_or(0));
    let there = host.sim.writes(volume);
    if there != Some(written) {
        wrong.push(format!("{volume} on {} has {there:?} writes of {written}", host.id));
    }
}

/// The books are what the rows add up to, and no host is sold beyond what it has.
fn books(platform: &Platform, shown: &Shown, wrong: &mut Vec<String>) {
    let engine = platform.engine();
    if let Err(error) = engine.audit_books() {
        wrong.push(format!("the books don't add up: {error:?}"));
    }
    for host in platform.living() {
        let view = engine.host(&platform.customer, host.id).unwrap();
        let (machines, vcpus, memory) = machines_of(platform, shown, host.id, |_| true);
        let on_it = shown.volumes.values().filter(|row| row.host == Some(host.id));
        let storage = Gib(on_it.map(|row| row.spec.size.0).sum());
        let usage = &view.usage;
        let booked = usage.storage.get("standard").copied().unwrap_or_default();
        if (usage.machines, usage.vcpus, usage.memory, booked) != (machines, vcpus, memory, storage)
        {
            wrong.push(format!(
                "{}: booked {usage:?}, the rows say {machines} machines, {vcpus:?}, {memory:?}, \
                 {storage:?}",
                host.id
            ));
        }
        if view.level.is_none() || view.row.draining.is_some() {
            wrong.push(format!("{} conforms and gets no work: {:?}", host.id, view.row));
        }
        let capacity = &view.row.spec.capacity;
        let not_spot = |view: &InstanceView| view.row.spec.spot.is_none();
        let (.., real) = machines_of(platform, shown, host.id, not_spot);
        let sold_out = vcpus.0 > capacity.vcpus.0 * 2
            || memory > view.row.spec.memory_sold(true)
            || real > capacity.memory
            || storage > capacity.storage["standard"];
        if sold_out {
            wrong.push(format!("{} is sold beyond its capacity: {usage:?}", host.id));
        }
    }
}

/// How many of the machines that count are decided on the host, and what they have of it.
pub fn machines_of(
    platform: &Platform,
    shown: &Shown,
    host: HostId,
    counts: impl Fn(&InstanceView) -> bool,
) -> (u32, Vcpus, Mib) {
    let catalogue = platform.engine().catalogue();
    let mut sum = (0, Vcpus(0), Mib(0));
    for view in shown.instances.values().filter(|view| counts(view)) {
        let Some(decision) = view.row.decision.as_ref().filter(|d| d.host == host) else {
            continue;
        };
        let flavor = catalogue.flavor(&decision.flavor).unwrap();
        sum.0 += 1;
        if view.row.holds_room() {
            sum.1.0 += flavor.vcpus.0;
            sum.2.0 += flavor.memory.0;
        }
    }
    sum
}

/// The chain is whole, and each creation stands in it once.
async fn audit(
    platform: &Platform,
    shown: &Shown,
    acknowledged: &Acknowledged,
    wrong: &mut Vec<String>,
) {
    let engine = platform.engine();
    let verdict = engine.store().verify_audit().await.unwrap();
    if let Some(broken) = verdict.broken {
        wrong.push(format!("the audit chain is broken: {broken:?}"));
    }
    let records = engine.store().audit(0, 100_000).await.unwrap();
    let with = |verb: &str| {
        let of_verb = records.iter().filter(|record| record.entry.verb == verb);
        of_verb.map(|record| record.entry.target.clone()).collect::<Vec<_>>()
    };
    let (created, interrupted) = (with("instance.create"), with("broker.delete_interrupted"));
    let acknowledged: BTreeSet<_> = acknowledged.created.iter().map(ToString::to_string).collect();
    if BTreeSet::from_iter(&created).len() != created.len() {
        wrong.push(format!("an instance was made twice: {created:?}"));
    }
    for id in acknowledged.iter().filter(|id| !created.contains(id)) {
        wrong.push(format!("the audit log does not say that {id} was made"));
    }
    // One that was deleted before its creation was answered is made anew by the same request.
    for id in created.iter().filter(|id| !acknowledged.contains(*id) && !interrupted.contains(id)) {
        wrong.push(format!("{id} was made and never acknowledged"));
    }
    standard::check(&records, wrong);
    places(shown, &records, wrong);
}

/// The log alone tells where every machine is decided, and as which run.
fn places(shown: &Shown, records: &[AuditRecord], wrong: &mut Vec<String>) {
    let mut machines = BTreeMap::new();
    for entry in records.iter().map(|record| &record.entry) {
        let Some(after) = &entry.after else { continue };
        let decision = match entry.verb.as_str() {
            "broker.place" | "broker.place_again" | "broker.land" | "broker.find_instance" => after,
            "broker.stay" | "broker.outrun_instance" => &after["decision"],
            _ => continue,
        };
        machines.insert(entry.target.clone(), (&decision["host"], &decision["epoch"]));
    }
    for row in shown.instances.values().map(|view| &view.row) {
        let Some(decision) = &row.decision else { continue };
        let there = (&json!(decision.host), &json!(decision.epoch));
        let logged = machines.get(&row.id.to_string());
        if logged != Some(&there) {
            wrong.push(format!("{} is decided as {there:?}, logged is {logged:?}", row.id));
        }
    }
}
