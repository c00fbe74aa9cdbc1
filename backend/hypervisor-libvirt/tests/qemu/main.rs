//! QEMU behind libvirt, with guests that really boot: it keeps the contract of a hypervisor, and
//! no data and no key is where it should not be.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod agent;
mod agent_process;
mod contract;
mod copies;
mod damaged;
mod debian;
mod exports;
mod full;
mod gate;
mod growth;
mod guest_agent;
mod guests;
mod hung;
mod images;
mod imports;
mod lab;
mod leaks;
mod matrix;
mod memory;
mod migration;
mod notice;
mod platform;
mod power;
mod proof;
mod restarts;
mod rotation;
mod seeds;
