//! Migration: a machine goes on at another host while it runs, or is off there as it was.
//!
//! Both hosts have the machine in their sets meanwhile: the one that it leaves under the epoch of
//! its run, the one that it comes to under the next. It is decided at its new host only when the
//! old one has shown that it will not run it again under its epoch, so that it never runs twice.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    id::{HostId, VolumeId},
    units::{Epoch, UnixMs},
};

/// A machine's way to another host, as the broker keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Where it goes.
    pub to: HostId,
    /// The run that it is there.
    pub epoch: Epoch,
    /// The flavor that it runs with as it goes: one that is decided since is brought about when it
    /// has come. Empty in rows of earlier versions.
    #[serde(default)]
    pub flavor: String,
    /// Why, for the customer.
    pub reason: String,
    /// The volumes that go with it, also those that were detached since it began: their data may
    /// be at either host until it has ended.
    pub volumes: BTreeSet<VolumeId>,
    /// It is off, and is to be off when it has come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub off: bool,
    /// Since when.
    pub at: UnixMs,
    /// It shall stay where it is: what is left is to see that it is not at the other host.
    #[serde(default)]
    pub given_up: bool,
}

/// A run that a host has shown, and that is later than all that were decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaterRun {
    /// Which host.
    pub host: HostId,
    /// Which run.
    pub epoch: Epoch,
}

/// What the host is told that a machine leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Where it goes.
    pub to: HostId,
    /// The run that it is there.
    pub epoch: Epoch,
    /// Where the other host's agent listens, as `NAME:PORT`; empty while that is not known.
    pub address: String,
    /// The other host's certificate with its chain, as PEM.
    pub certificate: String,
    /// What the other host shows when it is reached; it is believed with nothing else. Empty in
    /// sets of earlier versions.
    #[serde(default)]
    pub shows: ShownCertificates,
    /// The keys that the other host needs first: this host makes them, for the other host and for
    /// the customer, and reports them.
    pub keys_wanted: Vec<KeyWanted>,
}

/// The certificates of a host that count, each as the SHA-256 of its DER, in hex: the one that it has,
/// beside that the next one while it is renewed, and none when they were revoked.
pub type ShownCertificates = BTreeSet<String>;

/// A key that the host which a machine leaves shall make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyWanted {
    /// Of which volume.
    pub volume: VolumeId,
    /// The version that it shall have at the other host.
    pub version: u32,
}

/// What the host is told that a machine comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Which host it comes from: nobody else may bring it.
    pub from: HostId,
    /// What that host shows; it is believed with nothing else. Empty in sets of earlier versions.
    #[serde(default)]
    pub shows: ShownCertificates,
    /// Whether it may still come. One that has not come is to be refused otherwise, for good.
    pub open: bool,
}

/// How far a machine's migration is, as one of its hosts sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// The host that it comes to has not got all of it.
    Awaited,
    /// All of it is there, and it does not run yet.
    Arrived,
    /// The host that it left has handed it over, and will not run it again under this epoch.
    Left,
}
