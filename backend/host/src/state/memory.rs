//! State in memory, for simulated agents: outlives the agent, not the process.

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Loaded, SavedState, StateError, StateStore};
use crate::lease::LeaseRecord;

/// Keeps the last state and lease.
#[derive(Debug, Default)]
pub struct MemoryState(Mutex<Loaded>);

#[async_trait]
impl StateStore for MemoryState {
    async fn load(&self) -> Result<Loaded, StateError> {
        Ok(self.0.lock().clone())
    }

    async fn save(&self, state: SavedState) -> Result<(), StateError> {
        self.0.lock().state = Some(state);
        Ok(())
    }

    async fn save_lease(&self, record: LeaseRecord) -> Result<(), StateError> {
        self.0.lock().lease = Some(record);
        Ok(())
    }
}
