//! Hosts of one process that reach each other without a network.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use fairmazon_hypervisor::Connection;
use fairmazon_model::{id::HostId, migration::ShownCertificates};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Incoming, Peers, Shown, WAIT_MOST};

/// Bytes that may wait in a connection.
const QUEUED: usize = 64 * 1024;

/// A host's way to the others of the same process.
pub struct MemoryPeers {
    host: HostId,
    shown: Shown,
    town: Weak<Town>,
}

/// A place for hosts to reach each other.
#[derive(Default)]
pub struct Town {
    doors: Mutex<HashMap<HostId, Door>>,
}

/// Where a host is reached, and what it shows there.
#[derive(Clone)]
struct Door {
    shown: Shown,
    incoming: mpsc::Sender<Incoming>,
}

impl MemoryPeers {
    /// The way of this host, which shows nothing. It leads nowhere once the town is gone.
    pub fn new(host: HostId, town: &Arc<Town>) -> Self {
        Self { host, shown: Shown::Nothing, town: Arc::downgrade(town) }
    }

    /// The same for a host that shows a certificate, given as its SHA-256 in hex.
    pub fn with_certificate(host: HostId, sha256: &str, town: &Arc<Town>) -> Self {
        Self { shown: Shown::Certificate(sha256.to_owned()), ..Self::new(host, town) }
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
            let door = Door { shown: self.shown.clone(), incoming: door };
            town.doors.lock().insert(self.host, door);
        }
        incoming
    }

    async fn dial(
        &self,
        host: HostId,
        _: &str,
        shows: &ShownCertificates,
    ) -> io::Result<Box<dyn Connection>> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let town = self.town.upgrade().ok_or_else(refused)?;
        let door = town.doors.lock().get(&host).cloned().ok_or_else(refused)?;
        if !door.shown.counts(shows) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, Shown::NO_MORE));
        }
        let (ours, theirs) = tokio::io::duplex(QUEUED);
        let shown = self.shown.clone();
        let coming = Incoming { from: self.host, shown, connection: Box::new(theirs) };
        door.incoming.send(coming).await.map_err(|_| refused())?;
        Ok(Box::new(ours))
    }
}
