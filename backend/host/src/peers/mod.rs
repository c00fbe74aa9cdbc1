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
    units::Epoch,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use conversation::say_opening;
pub(crate) use conversation::{Conversation, Word, take_opening};
pub use memory::{MemoryPeers, Town};
pub use tls::{PeersError, TlsPeers};

/// Connections of other hosts that may wait.
const WAIT_MOST: usize = 64;

/// A connection that another host has opened, and which host that is.
pub type Incoming = (HostId, Box<dyn Connection>);

/// The way to other hosts and from them.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Where other hosts reach this one, as `NAME:PORT`.
    fn address(&self) -> String;

    /// What other hosts open, each after it has shown who it is. Asked for once.
    fn incoming(&self) -> mpsc::Receiver<Incoming>;

    /// Opens a connection to another host, and to nobody else at its address.
    ///
    /// # Errors
    /// When nobody answers there, or somebody else.
    async fn dial(&self, host: HostId, address: &str) -> io::Result<Box<dyn Connection>>;
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
    pub(crate) opening: Opening,
}

impl Outgoing {
    /// Opens a connection for a channel, or for the conversation.
    pub(crate) async fn connect(&self, channel: Option<u8>) -> io::Result<Box<dyn Connection>> {
        let mut connection = self.peers.dial(self.to, &self.address).await?;
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
