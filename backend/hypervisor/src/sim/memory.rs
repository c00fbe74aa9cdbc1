//! The memory of a simulated host: what its guests touch, and what they give back.

use fairmazon_model::{id::InstanceId, machine::MachineSpec, units::Mib};

use super::{
    SimHost,
    state::{HostState, SimMachine},
};
use crate::{HostMemory, HypervisorError, MachineMemory, Result, RunState};

/// What a guest does with its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// What it can't do without.
    pub needs: Mib,
    /// What it has touched, so that its host has no use of it; as much as it has, at most.
    pub touches: Mib,
    /// How it takes being asked for memory.
    pub manner: Manner,
}

/// How a guest takes being asked for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// It does as it is asked.
    #[default]
    Gives,
    /// It says what it needs, and keeps what it has.
    Keeps,
    /// It says nothing, and keeps what it has.
    Silent,
    /// What runs it answers nobody, and it keeps what it has.
    Hangs,
}

impl SimHost {
    /// From now on the guest of a machine does this with its memory; nothing when there is no
    /// machine. At first it needs none, touches none and gives back what it is asked for.
    pub fn set_load(&self, instance: InstanceId, load: Load) {
        if let Ok(machine) = self.cell.state.lock().machine_mut(instance) {
            machine.load = load;
        }
    }

    /// From now on the guests of all its machines do this, each by its definition.
    pub fn set_loads(&self, mut load: impl FnMut(&MachineSpec) -> Load) {
        let mut state = self.cell.state.lock();
        let mut machines: Vec<_> = state.machines.values_mut().collect();
        // In one order, so that what comes of a seed is the same each time.
        machines.sort_unstable_by_key(|machine| machine.definition.instance);
        machines.into_iter().for_each(|machine| machine.load = load(&machine.definition));
    }

    /// What the guest of a machine was let have last; none where there is no machine.
    pub fn balloon(&self, instance: InstanceId) -> Option<Mib> {
        let state = self.cell.state.lock();
        state.machine(instance).ok().map(SimMachine::allowed)
    }
}

impl SimHost {
    /// Returns once what runs a machine answers: never, where it hangs.
    pub(super) async fn answers(&self, instance: InstanceId) {
        let hangs = self.cell.state.lock().hangs(instance);
        if hangs {
            std::future::pending::<()>().await;
        }
    }
}

impl HostState {
    pub(super) fn memory(&self, total: Mib) -> HostMemory {
        let mut available = total;
        let mut machines = Vec::new();
        for machine in self.running().filter(|machine| machine.run == RunState::Running) {
            available = available.saturating_sub(machine.has().min(machine.load.touches));
            machines.push(MachineMemory::silent(&machine.definition));
        }
        machines.sort_unstable_by_key(|machine| machine.instance);
        HostMemory { total, available, machines }
    }

    /// What the guest of a machine says.
    pub(super) fn guest_memory(&self, instance: InstanceId) -> Result<MachineMemory> {
        let machine = self.machine(instance)?;
        if machine.run != RunState::Running {
            return Err(HypervisorError::busy(instance, "it does not run"));
        }
        let needs = match machine.load.manner {
            Manner::Gives | Manner::Keeps => Some(machine.load.needs),
            Manner::Silent | Manner::Hangs => None,
        };
        Ok(MachineMemory {
            has: machine.has(),
            needs,
            ..MachineMemory::silent(&machine.definition)
        })
    }

    /// Whether what runs a machine answers nobody.
    fn hangs(&self, instance: InstanceId) -> bool {
        self.machine(instance).is_ok_and(|machine| machine.load.manner == Manner::Hangs)
    }

    pub(super) fn set_balloon(&mut self, instance: InstanceId, has: Mib) -> Result<()> {
        let machine = self.machine_mut(instance)?;
        if machine.run != RunState::Running {
            return Err(HypervisorError::busy(instance, "it does not run"));
        }
        let definition = &machine.definition;
        if !definition.spot && has < definition.memory {
            return Err(HypervisorError::busy(instance, "it is not spot and keeps its memory"));
        }
        machine.balloon = Some(has).filter(|has| *has < definition.memory);
        Ok(())
    }
}

impl SimMachine {
    /// What its guest was let have last.
    pub(super) fn allowed(&self) -> Mib {
        self.balloon.unwrap_or(self.definition.memory)
    }

    /// What its guest has.
    pub(super) fn has(&self) -> Mib {
        match self.load.manner {
            Manner::Gives => self.allowed(),
            Manner::Keeps | Manner::Silent | Manner::Hangs => self.definition.memory,
        }
    }
}
