//! Which hypervisor the hosts of this process use.

use std::{sync::Arc, time::Instant};

use clap::ValueEnum;
use fairmazon_hypervisor::{Hypervisor, sim};
use fairmazon_hypervisor_libvirt::{LibvirtError, TestHost};
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
    LibvirtTest,
}

impl Hypervisors {
    /// The hypervisor that was asked for, when it works here.
    pub(crate) async fn choose(kind: HypervisorKind) -> Result<Self, CommandError> {
        if kind == HypervisorKind::Simulated {
            return Ok(Self::simulated());
        }
        match (kind, aside(fairmazon_hypervisor_libvirt::probe).await) {
            (_, Ok(())) => Ok(Self::LibvirtTest),
            (HypervisorKind::Auto, Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::info!(error, "libvirt does not work here: the machines are simulated");
                Ok(Self::simulated())
            }
            (_, Err(error)) => Err(error),
        }
    }

    /// What it is called.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Simulated(_) => "simulated",
            Self::LibvirtTest => "libvirt-test",
        }
    }

    /// The hypervisor of one host, which offers `capacity`.
    pub(crate) async fn of(
        &self,
        host: HostId,
        capacity: &Capacity,
    ) -> Result<Arc<dyn Hypervisor>, CommandError> {
        let capacity = capacity.clone();
        match self {
            Self::Simulated(world) => Ok(Arc::new(world.add_host(host, capacity))),
            Self::LibvirtTest => Ok(Arc::new(aside(move || TestHost::open(capacity)).await?)),
        }
    }

    fn simulated() -> Self {
        let begun = Instant::now();
        let clock = move || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self::Simulated(sim::World::new(Arc::new(clock)))
    }
}

/// Runs what blocks for a moment beside the runtime's threads.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LibvirtError> + Send + 'static,
) -> Result<T, CommandError> {
    let kind = "libvirt-test";
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(CommandError::Hypervisor { kind, source: source.into() }),
        Err(error) => Err(CommandError::Hypervisor { kind, source: error.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn auto_takes_libvirt_where_it_works() {
        let works = fairmazon_hypervisor_libvirt::probe().is_ok();
        let chosen = Hypervisors::choose(HypervisorKind::Auto).await.unwrap();
        assert_eq!(chosen.name(), if works { "libvirt-test" } else { "simulated" });
        let asked = Hypervisors::choose(HypervisorKind::LibvirtTest).await;
        assert_eq!(asked.is_ok(), works);
    }
}
