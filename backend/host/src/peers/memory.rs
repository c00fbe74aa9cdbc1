//! Hosts of one process that reach each other without a network.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use fairmazon_hypervisor::Connection;
use fairmazon_model::id::HostId;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Incoming, Peers, WAIT_MOST};

/// Bytes that may wait in a connection.
const QUEUED: usize = 64 * 1024;

/// A host's way to the others of the same process.
pub struct MemoryPeers {
    host: HostId,
    town: Weak<Town>,
}

/// A place for hosts to reach each other.
#[derive(Default)]
pub struct Town {
    doors: Mutex<HashMap<HostId, mpsc::Sender<Incoming>>>,
}

impl MemoryPeers {
    /// The way of this host. It leads nowhere once the town is gone.
    pub fn new(host: HostId, town: &Arc<Town>) -> Self {
        Self { host, town: Arc::downgrade(town) }
    }
}

#[async_trait]
impl Peers for MemoryPeers {
    fn address(&self) -> String {
        format!("{}:0", self.host)
    }

    fn incoming(&self) -> mpsc::Receiver<Incoming> {
        let (door, incoming) = mpsc::channel(WAIT_MOST);
        if let Some(town) = self.town.upgrade() {
            town.doors.lock().insert(self.host, door);
        }
        incoming
    }

    async fn dial(&self, host: HostId, _: &str) -> io::Result<Box<dyn Connection>> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let town = self.town.upgrade().ok_or_else(refused)?;
        let door = town.doors.lock().get(&host).cloned().ok_or_else(refused)?;
        let (ours, theirs) = tokio::io::duplex(QUEUED);
        door.send((self.host, Box::new(theirs))).await.map_err(|_| refused())?;
        Ok(Box::new(ours))
    }
}
