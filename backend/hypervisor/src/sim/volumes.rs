//! What tests see of a simulated host's volumes and keys, beside its calls.

use fairmazon_model::id::VolumeId;

use super::SimHost;

impl SimHost {
    /// All keys are gone, as when the process that held them ends.
    pub fn lose_keys(&self) {
        self.cell.state.lock().keys.clear();
    }

    /// The fingerprint of a volume's key that was given.
    pub fn key_given(&self, volume: VolumeId) -> Option<String> {
        self.cell.state.lock().keys.get(&volume).map(ToString::to_string)
    }

    /// The fingerprints of the keys that open a volume's data; none for one without, and where
    /// there is no such volume.
    pub fn opened_by(&self, volume: VolumeId) -> Vec<String> {
        let state = self.cell.state.lock();
        let found = state.volumes.get(&volume);
        found.map_or_else(Vec::new, |found| found.keys.iter().map(ToString::to_string).collect())
    }

    /// How many runs have written to a volume's data, wherever it was then; none where there is no
    /// such volume.
    pub fn writes(&self, volume: VolumeId) -> Option<u64> {
        self.cell.state.lock().volumes.get(&volume).map(|found| found.writes)
    }
}
