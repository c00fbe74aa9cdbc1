//! An agent's state on a disk that may be slow or refuse.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use fairmazon_host::{
    lease::LeaseRecord,
    state::{Loaded, MemoryState, SavedState, StateError, StateStore},
};

/// Outlives the agent; a save is durable only when it has returned.
#[derive(Default)]
pub struct HostDisk {
    memory: MemoryState,
    slow_ms: AtomicU64,
    refused: AtomicU64,
}

impl HostDisk {
    pub fn slow(&self, ms: u64) {
        self.slow_ms.store(ms, Ordering::SeqCst);
    }

    /// The next so many saves are refused.
    pub fn refuse(&self, saves: u64) {
        self.refused.store(saves, Ordering::SeqCst);
    }

    pub fn heal(&self) {
        self.slow(0);
        self.refuse(0);
    }

    async fn fault(&self) -> Result<(), StateError> {
        let slow = self.slow_ms.load(Ordering::SeqCst);
        if slow > 0 {
            tokio::time::sleep(Duration::from_millis(slow)).await;
        }
        let take = |left: u64| left.checked_sub(1);
        if self.refused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            return Err(StateError::Io {
                attempted: "write",
                path: "state".into(),
                source: std::io::Error::other("a fault was asked for"),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl StateStore for HostDisk {
    async fn load(&self) -> Result<Loaded, StateError> {
        self.memory.load().await
    }

    async fn save(&self, state: SavedState) -> Result<(), StateError> {
        self.fault().await?;
        self.memory.save(state).await
    }

    async fn save_lease(&self, record: LeaseRecord) -> Result<(), StateError> {
        self.fault().await?;
        self.memory.save_lease(record).await
    }
}
