//! The libvirt driver, the only user of the `virt` crates.
//!
//! [`TestHost`] runs against libvirt's test driver: the real API, without a hypervisor behind it.
//! Its machines and volumes live in the connection and are gone when the process ends, so its
//! agent makes them again from its state file ([`Features::durable`] is false). What the test
//! driver can't do: disks do not come and go while a machine runs ([`Features::hotplug`] is
//! false), and volumes hold no data (growing one makes it anew).
//!
//! [`qemu::QemuHost`] runs real guests under QEMU, on encrypted volumes only.
//!
//! [`Features::durable`]: fairmazon_hypervisor::Features::durable
//! [`Features::hotplug`]: fairmazon_hypervisor::Features::hotplug

pub mod clock;
mod domains;
mod error;
mod events;
mod guests;
mod host;
mod jobs;
mod left;
mod note;
mod private;
pub mod qemu;
mod run_state;
mod threads;
mod unreadable;
mod user_data;
mod volumes;
mod xml;

pub use error::LibvirtError;
pub use host::{TestHost, probe};
