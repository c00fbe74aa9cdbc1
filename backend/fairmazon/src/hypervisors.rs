//! Which hypervisor the hosts of this process use.

use std::{path::Path, sync::Arc, time::Instant};

use clap::ValueEnum;
use fairmazon_hypervisor::{Hypervisor, sim};
use fairmazon_model::{host::Capacity, id::HostId};

use crate::error::CommandError;

/// Which hypervisor is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HypervisorKind {
    /// The most real one that works on this machine.
    Auto,
    /// Machines that exist in this process only.
    Simulated,
    /// libvirt with its test driver: the real interface, without machines behind it.
    LibvirtTest,
}

/// Makes the hypervisor of each host.
pub(crate) enum Hypervisors {
    Simulated(Arc<sim::World>),
}

impl Hypervisors {
    /// The hypervisor that was asked for, when it works here.
    pub(crate) fn choose(kind: HypervisorKind) -> Result<Self, CommandError> {
        match kind {
            HypervisorKind::Auto | HypervisorKind::Simulated => {
                let begun = Instant::now();
                let clock = move || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                Ok(Self::Simulated(sim::World::new(Arc::new(clock))))
            }
            HypervisorKind::LibvirtTest => Err(CommandError::Hypervisor {
                kind: "libvirt-test",
                reason: "this build has no libvirt".into(),
            }),
        }
    }

    /// What it is called.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Simulated(_) => "simulated",
        }
    }

    /// The hypervisor of one host, which offers `capacity` and may keep files in `folder`.
    pub(crate) fn of(
        &self,
        host: HostId,
        capacity: &Capacity,
        _folder: &Path,
    ) -> Result<Arc<dyn Hypervisor>, CommandError> {
        match self {
            Self::Simulated(world) => Ok(Arc::new(world.add_host(host, capacity.clone()))),
        }
    }
}
