//! The keys of a simulated host's volumes: what a test does to them and sees of them.

use fairmazon_model::id::VolumeId;

use super::SimHost;

impl SimHost {
    /// From now on volumes are made with their keys, and opened with nothing else. At first they
    /// are not, and hold nothing.
    pub fn set_encrypts(&self) {
        self.cell.state.lock().encrypts = true;
    }

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
}
