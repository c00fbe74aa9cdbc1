//! What an operator's metrics tell of the core's state, read when it is asked for.

use fairmazon_model::conformity::Proof;

use crate::core::{Engine, InstanceState, view::instance_counts};

/// Counts of what the broker has and of what waits in it, by name.
pub fn readings(engine: &Engine) -> Vec<(&'static str, u64)> {
    let now = engine.now();
    let state = engine.state();
    let world = &state.world;
    let instances = instance_counts(&state, now);
    let (mut given_notice, mut interrupted, mut waiting_for_room) = (0, 0, 0);
    for row in world.machines() {
        match &row.interruption {
            Some(it) if it.holds_room() => given_notice += 1,
            Some(_) => interrupted += 1,
            None => {}
        }
        waiting_for_room += usize::from(row.waits_for_room());
    }
    let known = || world.hosts.iter().filter_map(|row| row.conformity.as_ref());
    let failing = known().filter(|known| known.fails()).count();
    let proven = known().filter(|known| matches!(known.proof, Proof::Proven { .. })).count();
    let draining = world.hosts.iter().filter(|row| row.draining.is_some()).count();
    let running = world.operations.iter().filter(|row| !row.state.is_final()).count();
    let counts = [
        ("accounts", world.accounts.len()),
        ("hosts", world.hosts.len()),
        ("hosts_connected", state.hosts.connected()),
        ("hosts_not_conforming", failing),
        ("hosts_unproven", world.hosts.len().saturating_sub(proven)),
        ("hosts_draining", draining),
        ("volumes", world.volumes.len()),
        ("volumes_kept_beside", state.hosts.volumes_kept()),
        ("operations_running", running),
        ("queue_instances", state.dirty.instances.len()),
        ("queue_volumes", state.dirty.volumes.len()),
        ("instances_without_room", state.dirty.unplaced.len()),
        ("instances_given_notice", given_notice),
        ("instances_interrupted", interrupted),
        ("instances_waiting_for_room", waiting_for_room),
        ("watched_operations", state.watchers.len()),
    ];
    let mut all: Vec<_> = counts.into_iter().map(|(name, count)| (name, count as u64)).collect();
    all.push(("revision", world.revision.0));
    let named =
        NAMES.iter().map(|(state, name)| (*name, instances.get(state).copied().unwrap_or(0)));
    all.extend(named);
    all
}

const NAMES: [(InstanceState, &str); 8] = [
    (InstanceState::Pending, "instances_pending"),
    (InstanceState::Starting, "instances_starting"),
    (InstanceState::Running, "instances_running"),
    (InstanceState::Stopping, "instances_stopping"),
    (InstanceState::Stopped, "instances_stopped"),
    (InstanceState::Failed, "instances_failed"),
    (InstanceState::Deleting, "instances_deleting"),
    (InstanceState::Unknown, "instances_unknown"),
];
