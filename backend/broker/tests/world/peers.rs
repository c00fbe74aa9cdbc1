//! The network between hosts: connections that are refused, or cut midway, each way after any
//! number of bytes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use fairmazon_host::peers::{Incoming, MemoryPeers, Peers, Town};
use fairmazon_hypervisor::Connection;
use fairmazon_model::{id::HostId, migration::ShownCertificates};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

/// Bytes after which a connection is cut at the latest.
const CUT_WITHIN: u64 = 600;

/// How many of a hundred connections between hosts meet a fault.
#[derive(Default)]
pub struct Roads(AtomicU32);

impl Roads {
    pub fn lossy(&self, percent: u32) {
        self.0.store(percent, Ordering::SeqCst);
    }
}

/// One host's way to the others.
pub struct BadPeers {
    inner: MemoryPeers,
    roads: Arc<Roads>,
    random: Mutex<StdRng>,
}

impl BadPeers {
    pub fn new(host: HostId, town: &Arc<Town>, roads: &Arc<Roads>, seed: u64) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self { inner: MemoryPeers::new(host, town), roads: roads.clone(), random }
    }
}

#[async_trait]
impl Peers for BadPeers {
    fn address(&self) -> String {
        self.inner.address()
    }

    fn incoming(&self) -> mpsc::Receiver<Incoming> {
        self.inner.incoming()
    }

    async fn dial(
        &self,
        host: HostId,
        address: &str,
        shows: &ShownCertificates,
    ) -> io::Result<Box<dyn Connection>> {
        let (bad, refused, out, back) = {
            let (mut random, percent) = (self.random.lock(), self.roads.0.load(Ordering::SeqCst));
            let bytes = |random: &mut StdRng| random.random_range(0..CUT_WITHIN);
            let bad = random.random_range(0..100) < percent;
            (bad, random.random_range(0..4) == 0, bytes(&mut random), bytes(&mut random))
        };
        if bad && refused {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let theirs = self.inner.dial(host, address, shows).await?;
        if !bad {
            return Ok(theirs);
        }
        let (ours, within) = tokio::io::duplex(1_024);
        tokio::spawn(async move {
            let (from, to) = tokio::io::split(within);
            let (answers, there) = tokio::io::split(theirs);
            // The end of either way ends both.
            tokio::select! {
                () = carry(from, there, out) => {}
                () = carry(answers, to, back) => {}
            }
        });
        Ok(Box::new(ours))
    }
}

/// Carries that many bytes.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut bytes: u64) {
    let mut piece = [0; 64];
    while bytes > 0 {
        let most = piece.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
        let Ok(read @ 1..) = from.read(&mut piece[..most]).await else { return };
        if to.write_all(&piece[..read]).await.is_err() || to.flush().await.is_err() {
            return;
        }
        bytes -= read as u64;
    }
}
