//! What tests do to a simulated host's volumes, keys and images, and see of them, beside its calls.

use fairmazon_model::{catalogue::ImageVersions, id::VolumeId};

use super::SimHost;
use crate::{Damage, Hint};

impl SimHost {
    /// From now on volumes are made with their keys, and opened with nothing else. At first they
    /// are not, and hold nothing.
    pub fn set_encrypts(&self) {
        self.cell.state.lock().encrypts = true;
    }

    /// What it has ends with this process, so that nobody misses it: machines and volumes are made
    /// anew. At first it outlives agents, as real hosts do.
    pub fn set_fleeting(&self) {
        self.cell.state.lock().is_fleeting = true;
    }

    /// From now on a volume that is there is damaged like this, or whole again.
    pub fn set_damage(&self, volume: VolumeId, damage: Option<Damage>) {
        if let Some(found) = self.cell.state.lock().volumes.get_mut(&volume) {
            found.damage = damage;
        }
        self.cell.hint(Hint::Volume(volume));
    }

    /// Which images it can boot, by their ids, in versions that it does not know. At first every
    /// one.
    pub fn set_images<'a>(&self, ids: impl IntoIterator<Item = &'a str>) {
        self.set_image_versions(ids.into_iter().map(|id| (id.to_owned(), None)).collect());
    }

    /// Which images it can boot, in which versions.
    pub fn set_image_versions(&self, images: ImageVersions) {
        self.cell.state.lock().images = Some(images);
        self.cell.hint(Hint::All);
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

    /// How many runs have written to a volume's data, wherever it was then; none where there is no
    /// such volume.
    pub fn writes(&self, volume: VolumeId) -> Option<u64> {
        self.cell.writes(volume)
    }
}
