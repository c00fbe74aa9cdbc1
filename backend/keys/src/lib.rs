//! The keys of volumes, from the customer who makes them to the host that uses them.
//!
//! A customer has an age identity ([`Identity`]). Each volume has a key of its own on each host
//! that it is on ([`VolumeKey`]), sealed to that host alone ([`SealedKey`]) and wrapped for the
//! customer ([`WrappedKey`]). A host shows by a certificate ([`HostCertificate`]) which key of
//! its own it opens seals with ([`HostSecret`]). Whoever carries these blobs opens none of them.
//!
//! Holds secrets only in types that are wiped and never shown, and touches no file but the
//! identity's and that of the known hosts.

mod certificate;
mod error;
mod files;
mod host_key;
mod identity;
mod keyring;
mod sealed;
mod signer;
mod volume_key;
mod wrapped;

pub use certificate::{HostCertificate, host_name, sealing_key_name};
pub use error::KeyError;
pub use files::{KnownHostsFile, read_identity_file};
pub use host_key::{HostSecret, SealingKey};
pub use identity::{Identity, Recipient};
pub use keyring::{Answer, Keyring, make_key};
pub use sealed::{Binding, Opened, Purpose, SealedKey};
pub use signer::HostSigner;
pub use volume_key::VolumeKey;
pub use wrapped::WrappedKey;
