//! Pure placement of machines on provider hosts.
