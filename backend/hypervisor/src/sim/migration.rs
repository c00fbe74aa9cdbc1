//! Migration between simulated hosts: one channel, on which the source says that it has stopped its
//! guest and what is in its volumes, and the destination that it has all of it.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use fairmazon_model::{
    id::{InstanceId, VolumeId},
    instance::Power,
    units::Mib,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::{World, host::HostCell, state::HostState};
use crate::{
    Channels, Connection, Description, Halt, HypervisorError, Landing, OffReason, Result, RunState,
};

/// The only channel.
const GUEST: u8 = 0;
/// What the source says: the guest is stopped, and this is its turn.
const SENT: u8 = 1;
/// What the destination answers.
const TAKEN: u8 = 2;
/// Bytes that may wait in a channel.
const QUEUED: usize = 64;

impl HostState {
    /// Opens the volumes of a machine that is off, to send it.
    pub(super) fn hold(&mut self, instance: InstanceId) -> Result<()> {
        let machine = self.machine(instance)?;
        match machine.run {
            RunState::Held => return Ok(()),
            RunState::Off(_) if machine.marks.halt == Halt::Held => {}
            RunState::Off(_) => {
                return Err(HypervisorError::busy(instance, "it is not marked to be held"));
            }
            _ => return Err(HypervisorError::busy(instance, "it runs")),
        }
        self.check_disks(instance)?;
        self.machine_mut(instance)?.run = RunState::Held;
        Ok(())
    }

    /// What the source's driver says of a machine that runs or is held.
    pub(super) fn describe(&self, instance: InstanceId) -> Result<Description> {
        let machine = self.machine(instance)?;
        if !matches!(machine.run, RunState::Running | RunState::Held) {
            return Err(HypervisorError::busy(instance, "it does not run"));
        }
        self.check_disks(instance)?;
        Ok(instance.to_string().into_bytes())
    }

    /// What is in the volumes of a machine.
    fn contents(&self, instance: InstanceId) -> Result<Vec<(VolumeId, u64)>> {
        let definition = &self.machine(instance)?.definition;
        let found = |volume| self.volumes.get(&volume).map_or(0, |found| found.writes);
        let disks = definition.all_disks().map(|disk| disk.volume);
        Ok(disks.map(|volume| (volume, found(volume))).collect())
    }

    /// Takes the room of a machine that is to come.
    pub(super) fn prepare(
        &mut self,
        instance: InstanceId,
        description: &[u8],
        memory: Mib,
    ) -> Result<()> {
        if description != instance.to_string().as_bytes() {
            return Err(HypervisorError::refused(instance, "it is another machine's"));
        }
        let machine = self.machine(instance)?;
        if machine.is_on() {
            return Err(HypervisorError::busy(instance, "it is here already"));
        }
        if machine.definition.power == Power::Stopped {
            self.check_disks(instance)?;
        } else {
            self.occupy(instance, memory)?;
        }
        self.machine_mut(instance)?.run = RunState::Incoming;
        Ok(())
    }
}

impl HostCell {
    pub(super) fn prepare(
        self: &Arc<Self>,
        world: &Arc<World>,
        instance: InstanceId,
        description: &[u8],
    ) -> Result<Landing> {
        self.state.lock().prepare(instance, description, self.capacity.memory)?;
        let landed =
            Arc::new(Landed { cell: Arc::downgrade(self), world: Arc::downgrade(world), instance });
        Ok(Landing { description: Vec::new(), channels: landed })
    }

    /// Sends the guest: it is stopped here before the other host is told that it has all of it, and
    /// goes on here when that is not heard to be so.
    pub(super) async fn depart(
        &self,
        world: &World,
        instance: InstanceId,
        channels: Arc<dyn Channels>,
        give_up: CancellationToken,
    ) -> Result<()> {
        let contents = {
            let state = self.state.lock();
            state.describe(instance)?;
            state.contents(instance)?
        };
        let sent = async {
            let mut channel = channels.open(GUEST).await?;
            channel.write_u8(SENT).await?;
            channel.write_u64(world.ledger().turn(instance)).await?;
            channel.write_u64(contents.len() as u64).await?;
            for (volume, writes) in contents {
                channel.write_u128(volume.ulid().0).await?;
                channel.write_u64(writes).await?;
            }
            channel.flush().await?;
            channel.read_u8().await
        };
        let sent = tokio::select! {
            sent = sent => sent,
            () = give_up.cancelled() => Err(io::ErrorKind::Interrupted.into()),
        };
        match sent {
            Ok(TAKEN) => {
                self.end(world, instance, OffReason::Moved);
                Ok(())
            }
            other => {
                // It goes on here, so that what the other host has is old from now on.
                let run = self.state.lock().machine(instance).map(|machine| machine.run);
                match run {
                    Ok(RunState::Running) => world.ledger().went_on(instance),
                    Ok(RunState::Held) => self.end(world, instance, OffReason::Host),
                    _ => {}
                }
                let why = other.err().unwrap_or_else(|| io::ErrorKind::InvalidData.into());
                let attempted = format!("send {instance} to another host");
                Err(HypervisorError::Driver { attempted, source: why.into() })
            }
        }
    }

    pub(super) fn resume(&self, world: &World, instance: InstanceId) -> Result<()> {
        let mut state = self.state.lock();
        let full = state.disk_is_full;
        let machine = state.machine_mut(instance)?;
        match machine.run {
            RunState::Running if machine.stalled && full => {
                return Err(HypervisorError::Full { what: "room on its disk".into() });
            }
            RunState::Running => {
                if std::mem::take(&mut machine.stalled) {
                    drop(state);
                    self.hint(crate::Hint::Machine(instance));
                }
                return Ok(());
            }
            RunState::Arrived => {}
            RunState::Incoming | RunState::Held | RunState::Unread | RunState::Off(_) => {
                return Err(HypervisorError::busy(instance, "it has not arrived"));
            }
        }
        machine.run = RunState::Running;
        machine.incarnation += 1;
        machine.started_at_ms = world.now_ms();
        let turn = machine.turn;
        self.now_runs(world, &mut state, instance)?;
        world.ledger().resumed(instance, self.id, turn);
        drop(state);
        self.hint(crate::Hint::Machine(instance));
        Ok(())
    }

    pub(super) fn refuse(&self, world: &World, instance: InstanceId) {
        let run = self.state.lock().machine(instance).map(|machine| machine.run);
        if matches!(run, Ok(RunState::Incoming | RunState::Arrived)) {
            self.end(world, instance, OffReason::Host);
        }
    }
}

/// A place for one machine. Dropped, it takes no machine in any more.
struct Landed {
    cell: Weak<HostCell>,
    world: Weak<World>,
    instance: InstanceId,
}

#[async_trait]
impl Channels for Landed {
    async fn open(&self, _: u8) -> io::Result<Box<dyn Connection>> {
        let (theirs, ours) = tokio::io::duplex(QUEUED);
        let (cell, instance) = (self.cell.clone(), self.instance);
        tokio::spawn(async move { take(ours, &cell, instance).await });
        Ok(Box::new(theirs))
    }
}

impl Drop for Landed {
    fn drop(&mut self) {
        // What has come in full stays until it is resumed or refused.
        let (Some(cell), Some(world)) = (self.cell.upgrade(), self.world.upgrade()) else { return };
        let run = cell.state.lock().machine(self.instance).map(|machine| machine.run);
        if matches!(run, Ok(RunState::Incoming)) {
            cell.end(&world, self.instance, OffReason::Host);
        }
    }
}

async fn take(
    mut channel: DuplexStream,
    cell: &Weak<HostCell>,
    instance: InstanceId,
) -> io::Result<()> {
    if channel.read_u8().await? != SENT {
        return Ok(());
    }
    let turn = channel.read_u64().await?;
    let mut contents = HashMap::new();
    for _ in 0..channel.read_u64().await? {
        contents.insert(channel.read_u128().await?, channel.read_u64().await?);
    }
    let Some(cell) = cell.upgrade() else { return Ok(()) };
    {
        let mut state = cell.state.lock();
        let Ok(machine) = state.machine_mut(instance) else { return Ok(()) };
        if machine.run != RunState::Incoming {
            return Ok(());
        }
        machine.run = RunState::Arrived;
        machine.turn = turn;
        for (id, volume) in &mut state.volumes {
            if let Some(writes) = contents.get(&id.ulid().0) {
                volume.writes = *writes;
            }
        }
    }
    cell.hint(crate::Hint::Machine(instance));
    channel.write_u8(TAKEN).await?;
    channel.flush().await
}
