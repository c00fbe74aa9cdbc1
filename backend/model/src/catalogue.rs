//! The catalogue: what can be rented and at what price. Its version is that of its prices and sizes,
//! and a version never changes; images change without it, and each carries its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    DomainError,
    instance::InstanceSpec,
    price::NanoEur,
    transfer::Sha256,
    units::{Gib, Mib, Vcpus},
};

/// A size of machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flavor {
    /// Unique name (`small`).
    pub name: String,
    /// Virtual processors.
    pub vcpus: Vcpus,
    /// Memory.
    pub memory: Mib,
    /// Price of an hour of running.
    pub hourly: NanoEur,
    /// Price of an hour of running as spot.
    pub spot_hourly: NanoEur,
}

/// An operating-system image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Unique id (`img-debian-13`).
    pub id: String,
    /// Unique name (`debian-13`).
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Processor architecture (`x86_64`).
    pub architecture: String,
    /// Smallest boot volume it fits on.
    pub min_boot: Gib,
    /// Smallest memory it starts in.
    pub min_memory: Mib,
    /// SHA-256 of its signed manifest, which names each of its files with its own: the version that
    /// machines are made from. None where the platform has no manifest of it; any version does
    /// then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// Id of the key that has signed the manifest, as minisign writes it; none without a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
}

/// Images by their ids, each with the SHA-256 of its manifest where that is known.
pub type ImageVersions = BTreeMap<String, Option<Sha256>>;

impl Image {
    /// Whether a volume of this size can be filled from it.
    ///
    /// # Errors
    /// `Invalid` with the path of the size, `field`.
    pub fn check_fits(&self, size: Gib, field: &str) -> Result<(), DomainError> {
        if size >= self.min_boot {
            return Ok(());
        }
        let text = format!("the image {} needs at least {}", self.name, self.min_boot);
        Err(DomainError::invalid(field, text))
    }
}

/// A class of storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageClass {
    /// Unique name (`standard`).
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Price of one GiB for an hour.
    pub hourly_per_gib: NanoEur,
}

/// All that can be rented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Ascending from 1; a price in a plan names the version it was computed with. Images do not
    /// count.
    pub version: u64,
    /// Sizes of machines, by ascending price.
    pub flavors: Vec<Flavor>,
    /// Images.
    pub images: Vec<Image>,
    /// Storage classes.
    pub storage_classes: Vec<StorageClass>,
}

impl Catalogue {
    /// The flavor of that name.
    pub fn flavor(&self, name: &str) -> Option<&Flavor> {
        self.flavors.iter().find(|flavor| flavor.name == name)
    }

    /// The image of that name or id.
    pub fn image(&self, name_or_id: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.name == name_or_id || image.id == name_or_id)
    }

    /// The versions of these images, by names or ids; what is in the catalogue no more stays as it
    /// is, and an empty text means none.
    pub fn image_versions<'a>(
        &self,
        images: impl IntoIterator<Item = &'a String>,
    ) -> ImageVersions {
        let version = |text: &String| match self.image(text) {
            Some(image) => (image.id.clone(), image.sha256),
            None => (text.clone(), None),
        };
        images.into_iter().filter(|text| !text.is_empty()).map(version).collect()
    }

    /// Whether two texts, names or ids, mean the same image.
    pub fn is_same_image(&self, one: &str, other: &str) -> bool {
        let id = |text| self.image(text).map(|image| &image.id);
        one == other || id(one).is_some_and(|one| id(other) == Some(one))
    }

    /// The old spec, its image named as the new one names it where both mean the same: what is
    /// only called differently is no change.
    #[must_use]
    pub fn with_image_named_as(&self, old: &InstanceSpec, new: &InstanceSpec) -> InstanceSpec {
        let same = self.is_same_image(&old.image, &new.image);
        let image = if same { &new.image } else { &old.image };
        InstanceSpec { image: image.clone(), ..old.clone() }
    }

    /// The storage class of that name.
    pub fn storage_class(&self, name: &str) -> Option<&StorageClass> {
        self.storage_classes.iter().find(|class| class.name == name)
    }

    /// The catalogue a new platform starts with.
    pub fn default_catalogue() -> Self {
        let flavor = |name: &str, vcpus, memory_mib, hourly_micro| Flavor {
            name: name.into(),
            vcpus: Vcpus(vcpus),
            memory: Mib(memory_mib),
            hourly: NanoEur::from_micro_eur(hourly_micro),
            spot_hourly: NanoEur::from_micro_eur(hourly_micro * 2 / 5),
        };
        let image = |name: &str, description: &str, min_boot_gib, min_memory_mib| Image {
            id: format!("img-{name}"),
            name: name.into(),
            description: description.into(),
            architecture: "x86_64".into(),
            min_boot: Gib(min_boot_gib),
            min_memory: Mib(min_memory_mib),
            sha256: None,
            signed_by: None,
        };
        let class = |name: &str, description: &str, hourly_nano_per_gib| StorageClass {
            name: name.into(),
            description: description.into(),
            hourly_per_gib: NanoEur(hourly_nano_per_gib),
        };
        Self {
            version: 1,
            flavors: vec![
                flavor("tiny", 1, 512, 2_500),
                flavor("small", 1, 2_048, 5_000),
                flavor("medium", 2, 4_096, 10_000),
                flavor("large", 4, 8_192, 20_000),
                flavor("xlarge", 8, 16_384, 40_000),
                flavor("huge", 16, 65_536, 120_000),
            ],
            images: vec![
                image("debian-12", "Debian 12 (bookworm)", 5, 512),
                image("debian-13", "Debian 13 (trixie)", 5, 512),
                image("ubuntu-24.04", "Ubuntu 24.04 LTS", 5, 1_024),
                image("alpine-3.22", "Alpine Linux 3.22", 1, 256),
            ],
            storage_classes: vec![
                class("standard", "Spinning disks or SATA flash, local to the host", 55_000),
                class("fast", "NVMe flash, local to the host", 137_000),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, image: &str) -> InstanceSpec {
        serde_json::from_value(serde_json::json!({
            "name": name,
            "flavor": "small",
            "image": image,
            "boot_volume": { "size": 10, "class": "standard", "delete_with_instance": true },
            "stop_timeout_ms": 60_000,
        }))
        .expect("everything else has a default")
    }

    #[test]
    fn an_image_is_the_same_by_name_and_by_id() {
        let catalogue = Catalogue::default_catalogue();
        for (one, other, same) in [
            ("debian-13", "debian-13", true),
            ("debian-13", "img-debian-13", true),
            ("img-debian-13", "debian-13", true),
            ("debian-13", "debian-12", false),
            ("debian-13", "img-debian-12", false),
            ("withdrawn", "withdrawn", true),
            ("withdrawn", "debian-13", false),
            ("withdrawn", "img-withdrawn", false),
        ] {
            assert_eq!(catalogue.is_same_image(one, other), same, "{one} and {other}");
        }
    }

    #[test]
    fn what_is_only_called_differently_is_no_change() {
        let catalogue = Catalogue::default_catalogue();
        let named = |old, new| catalogue.with_image_named_as(&spec("old", old), &spec("new", new));
        assert_eq!(named("debian-13", "img-debian-13"), spec("old", "img-debian-13"));
        assert_eq!(named("debian-13", "debian-12"), spec("old", "debian-13"));
        assert_eq!(named("withdrawn", "debian-12"), spec("old", "withdrawn"));
    }
}
