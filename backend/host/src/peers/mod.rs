//! How the agents of two hosts reach each other while a machine moves between them, behind a trait,
//! so that a simulated world runs without a network.
//!
//! Each connection begins with an [`Opening`] that says what it is for; the first of a migration is
//! its `Conversation`, all others are channels of the two hypervisors.

mod conversation;
mod memory;
mod tls;

use std::{io, sync::Arc};

use async_trait::async_trait;
use fairmazon_hypervisor::{Channels, Connection};
use fairmazon_model::{
    id::{HostId, InstanceId},
    migration::ShownCertificates,
    units::Epoch,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use conversation::say_opening;
pub(crate) use conversation::{Conversation, Word, take_opening};
pub use memory::{MemoryPeers, Town};
pub use tls::{PeersError, TlsPeers};

/// Connections of other hosts that may wait.
const WAIT_MOST: usize = 64;

/// A connection that another host has opened.
pub struct Incoming {
    /// Which host that is.
    pub from: HostId,
    /// What it has shown for that.
    pub shown: Shown,
    /// The connection itself.
    pub connection: Box<dyn Connection>,
}

/// What a host shows of who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// A certificate, as the SHA-256 of its DER, in hex.
    Certificate(String),
    /// Nothing: both are in one process, which knows who is who.
    Nothing,
}

impl Shown {
    /// Said of a certificate that does not count.
    pub(crate) const NO_MORE: &str = "the other host shows a certificate that does not count: it \
                                      was revoked, or the platform has not told of it yet";

    /// Whether what is shown is among what counts.
    pub fn counts(&self, shows: &ShownCertificates) -> bool {
        match self {
            Self::Certificate(sha256) => shows.contains(sha256),
            Self::Nothing => true,
        }
    }
}

/// The way to other hosts and from them.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Where other hosts reach this one, as `NAME:PORT`.
    fn address(&self) -> String;

    /// What other hosts open, each after it has shown who it is. Asked for once.
    fn incoming(&self) -> mpsc::Receiver<Incoming>;

    /// Opens a connection to another host that shows one of these certificates, and to nobody else
    /// at its address.
    ///
    /// # Errors
    /// When nobody answers there, or somebody else.
    async fn dial(
        &self,
        host: HostId,
        address: &str,
        shows: &ShownCertificates,
    ) -> io::Result<Box<dyn Connection>>;
}

/// What a connection between two agents is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Which machine moves.
    pub instance: InstanceId,
    /// The run that it comes for.
    pub epoch: Epoch,
    /// Which channel of the hypervisors; none for the conversation of the agents.
    pub channel: Option<u8>,
}

/// The way of a machine that leaves, to the host that it goes to.
pub(crate) struct Outgoing {
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) to: HostId,
    pub(crate) address: String,
    /// What that host shows, as of now.
    pub(crate) shows: Arc<Mutex<ShownCertificates>>,
    pub(crate) opening: Opening,
}

impl Outgoing {
    /// Opens a connection for a channel, or for the conversation.
    pub(crate) async fn connect(&self, channel: Option<u8>) -> io::Result<Box<dyn Connection>> {
        let shows = self.shows.lock().clone();
        let mut connection = self.peers.dial(self.to, &self.address, &shows).await?;
        say_opening(&mut connection, &Opening { channel, ..self.opening }).await?;
        Ok(connection)
    }
}

#[async_trait]
impl Channels for Outgoing {
    async fn open(&self, channel: u8) -> io::Result<Box<dyn Connection>> {
        self.connect(Some(channel)).await
    }
}
