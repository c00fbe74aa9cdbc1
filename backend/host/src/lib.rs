//! The host agent: makes the hypervisor match what the broker wants.
