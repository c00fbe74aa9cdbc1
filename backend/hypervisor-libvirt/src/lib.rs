//! The libvirt driver, the only user of the virt crates.
