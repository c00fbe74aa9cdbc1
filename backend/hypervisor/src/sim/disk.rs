//! A simulated disk that gets full, and the guests that stand still for that.

use super::SimHost;
use crate::{Hint, RunState};

impl SimHost {
    /// Whether the disk that volumes are on is full. At first it is not. What runs when it gets full
    /// writes at once, and stands still from then on until it is let go on.
    pub fn set_disk_full(&self, full: bool) {
        let mut state = self.cell.state.lock();
        state.disk_is_full = full;
        for machine in state.machines.values_mut() {
            machine.stalled |= full && machine.run == RunState::Running;
        }
        drop(state);
        self.cell.hint(Hint::All);
    }
}
