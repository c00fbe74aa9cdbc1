//! Live migration, from libvirtd to libvirtd and from QEMU to QEMU, and neither of them on a
//! network: each speaks to sockets in a folder of its own host, and the agents carry what goes
//! through them.
//!
//! libvirt resumes a guest at the source when it does not hear how it went at the destination, so
//! no guest is let run there by libvirt: all of it arrives paused, and [`resume`] is for whoever
//! knows that the source does not run it any more.
//!
//! What comes from the other host is not trusted. The description of a machine is where its devices
//! are and nothing else; the connection to this host's libvirtd passes a [filter](filter) that knows
//! the few calls of a migration, and what libvirtd is told of the machine is this host's own text.
//!
//! [`resume`]: fairmazon_hypervisor::Hypervisor::resume

mod calls;
mod destination;
mod filter;
mod handover;
mod moves;
mod places;
mod rpc;
mod source;
mod tree;

use fairmazon_model::id::InstanceId;
use serde::{Deserialize, Serialize};
use virt_sys as sys;

pub(super) use destination::Landings;
pub use moves::FOLDER as MOVES;
pub(super) use moves::Moves;
pub(super) use places::{Pci, Places};
pub(super) use source::{Departures, is_stranded, resume_stranded};

/// How a guest moves: see the module. One that writes faster than its memory can be sent is slowed
/// down, for it would never arrive.
const FLAGS: u32 = sys::VIR_MIGRATE_LIVE
    | sys::VIR_MIGRATE_PEER2PEER
    | sys::VIR_MIGRATE_PAUSED
    | sys::VIR_MIGRATE_NON_SHARED_DISK
    | sys::VIR_MIGRATE_ABORT_ON_ERROR
    | sys::VIR_MIGRATE_AUTO_CONVERGE;

/// What a channel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Channel {
    /// From libvirtd to libvirtd.
    Libvirt = 0,
    /// From QEMU to QEMU: the guest's memory and devices.
    Memory = 1,
    /// From QEMU to QEMU: the guest's disks.
    Disks = 2,
}

impl Channel {
    const ALL: [Self; 3] = [Self::Libvirt, Self::Memory, Self::Disks];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&channel| channel as u8 == number)
    }

    /// The name of its socket, the same at both hosts.
    fn socket(self, instance: InstanceId) -> String {
        let name = match self {
            Self::Libvirt => "libvirt",
            Self::Memory => "memory",
            Self::Disks => "disks",
        };
        format!("{instance}-{name}.sock")
    }

    /// Where it leads, as both libvirts are told.
    fn uri(self, instance: InstanceId) -> String {
        let path = format!("{MOVES}/{}", self.socket(instance));
        match self {
            Self::Libvirt => format!("qemu+unix:///system?socket={path}"),
            Self::Memory | Self::Disks => format!("unix://{path}"),
        }
    }
}

/// What the destination's driver tells the source's.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LandingNote {
    /// What the machine is to be there, in libvirt's XML.
    domain: String,
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::instance;

    use super::*;

    #[test]
    fn channels_are_numbered_and_their_sockets_fit_into_an_address() {
        for channel in Channel::ALL {
            assert_eq!(Channel::of(channel as u8), Some(channel));
            assert!(MOVES.len() + 1 + channel.socket(instance(1)).len() < 107);
        }
        assert_eq!(Channel::of(3), None);
    }
}
