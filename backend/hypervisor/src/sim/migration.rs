//! Migration between simulated hosts: one channel, on which the source says that it has stopped its
//! guest and the destination that it has all of it.

use std::{
    io,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use fairmazon_model::{id::InstanceId, units::Mib};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::{World, host::HostCell, state::HostState};
use crate::{
    Channels, Connection, Description, HypervisorError, Landing, OffReason, Result, RunState,
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
    /// What the source's driver says of a machine that runs.
    pub(super) fn describe(&self, instance: InstanceId) -> Result<Description> {
        let machine = self.machine(instance)?;
        if machine.run != RunState::Running {
            return Err(HypervisorError::busy(instance, "it does not run"));
        }
        for disk in machine.definition.all_disks() {
            self.check_disk(instance, disk)?;
        }
        Ok(instance.to_string().into_bytes())
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
        if !matches!(self.machine(instance)?.run, RunState::Off(_)) {
            return Err(HypervisorError::busy(instance, "it is here already"));
        }
        self.occupy(instance, memory)?;
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
        self.state.lock().describe(instance)?;
        let sent = async {
            let mut channel = channels.open(GUEST).await?;
            channel.write_u8(SENT).await?;
            channel.write_u64(world.ledger().turn(instance)).await?;
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
                world.ledger().went_on(instance);
                let why = other.err().unwrap_or_else(|| io::ErrorKind::InvalidData.into());
                let attempted = format!("send {instance} to another host");
                Err(HypervisorError::Driver { attempted, source: why.into() })
            }
        }
    }

    pub(super) fn resume(&self, world: &World, instance: InstanceId) -> Result<()> {
        let mut state = self.state.lock();
        let machine = state.machine_mut(instance)?;
        match machine.run {
            RunState::Running => return Ok(()),
            RunState::Arrived => {}
            RunState::Incoming | RunState::Off(_) => {
                return Err(HypervisorError::busy(instance, "it has not arrived"));
            }
        }
        machine.run = RunState::Running;
        machine.incarnation += 1;
        machine.started_at_ms = world.now_ms();
        let turn = machine.turn;
        self.now_runs(world, machine);
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
    let Some(cell) = cell.upgrade() else { return Ok(()) };
    {
        let mut state = cell.state.lock();
        let Ok(machine) = state.machine_mut(instance) else { return Ok(()) };
        if machine.run != RunState::Incoming {
            return Ok(());
        }
        machine.run = RunState::Arrived;
        machine.turn = turn;
    }
    cell.hint(crate::Hint::Machine(instance));
    channel.write_u8(TAKEN).await?;
    channel.flush().await
}
