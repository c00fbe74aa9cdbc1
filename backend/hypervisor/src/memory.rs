//! The memory of a host and of the machines on it: what they may have, and what they have now.
//! Plain data.

use fairmazon_model::{id::InstanceId, limits, machine::MachineSpec, units::Mib};

use crate::{HypervisorError, Result};

/// How the memory of a host and of the machines that run on it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostMemory {
    /// What the host has.
    pub total: Mib,
    /// What programs could have of it before the host is out of memory.
    pub available: Mib,
    /// The machines that run, in the order of their ids.
    pub machines: Vec<MachineMemory>,
}

/// The memory of a machine that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineMemory {
    /// Which.
    pub instance: InstanceId,
    /// Whether it is a spot machine, from which memory may be taken back.
    pub spot: bool,
    /// What it is defined with.
    pub defined: Mib,
    /// What its guest has of that now: the rest is in its balloon.
    pub has: Mib,
    /// What its guest says that it can't do without; none when it says nothing.
    pub needs: Option<Mib>,
}

impl MachineMemory {
    /// A machine whose guest says nothing, and is taken to have all that it is defined with.
    #[must_use]
    pub fn silent(spec: &MachineSpec) -> Self {
        let MachineSpec { instance, spot, memory, .. } = *spec;
        Self { instance, spot, defined: memory, has: memory, needs: None }
    }
}

/// The memory that machines were promised, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promised {
    /// To those that are not spot.
    real: u64,
    /// To all.
    all: u64,
}

impl Promised {
    /// To both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { real: self.real.saturating_add(other.real), all: self.all.saturating_add(other.all) }
    }

    /// That a host with `capacity` can keep it: machines that are not spot have what the host has,
    /// at most, and all of them together no more than any host may sell.
    ///
    /// # Errors
    /// `Full`.
    pub fn check(self, capacity: Mib) -> Result<()> {
        let most = u64::from(limits::MEMORY_OVERCOMMIT_PERCENT_MAX);
        if self.real > capacity.0 || self.all > capacity.0.saturating_mul(most) / 100 {
            return Err(HypervisorError::Full { what: "memory".into() });
        }
        Ok(())
    }
}

impl From<&MachineSpec> for Promised {
    fn from(spec: &MachineSpec) -> Self {
        Self { real: if spec.spot { 0 } else { spec.memory.0 }, all: spec.memory.0 }
    }
}

impl<'a> FromIterator<&'a MachineSpec> for Promised {
    fn from_iter<I: IntoIterator<Item = &'a MachineSpec>>(specs: I) -> Self {
        specs.into_iter().map(Self::from).fold(Self::default(), Self::plus)
    }
}
