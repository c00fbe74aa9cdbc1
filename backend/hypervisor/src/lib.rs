//! The Hypervisor trait and the in-process simulator.
