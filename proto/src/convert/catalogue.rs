//! The catalogue, both ways: the plugin computes prices with the same functions as the broker.

use fairmazon_model::{
    catalogue::{Catalogue, Flavor, Image, StorageClass},
    price::NanoEur,
    units::{Gib, Mib, Vcpus},
};

use crate::v1;

impl From<&Catalogue> for v1::Catalogue {
    fn from(catalogue: &Catalogue) -> Self {
        let flavor = |flavor: &Flavor| v1::Flavor {
            name: flavor.name.clone(),
            vcpus: flavor.vcpus.0,
            memory_mib: flavor.memory.0,
            hourly_nano_eur: flavor.hourly.0,
            spot_hourly_nano_eur: flavor.spot_hourly.0,
        };
        let image = |image: &Image| v1::Image {
            id: image.id.clone(),
            name: image.name.clone(),
            description: image.description.clone(),
            architecture: image.architecture.clone(),
            min_boot_gib: image.min_boot.0,
            min_memory_mib: image.min_memory.0,
            sha256: image.sha256.map(|sha256| sha256.to_string()).unwrap_or_default(),
            signed_by: image.signed_by.clone().unwrap_or_default(),
        };
        let class = |class: &StorageClass| v1::StorageClass {
            name: class.name.clone(),
            description: class.description.clone(),
            hourly_nano_eur_per_gib: class.hourly_per_gib.0,
        };
        Self {
            version: catalogue.version,
            flavors: catalogue.flavors.iter().map(flavor).collect(),
            images: catalogue.images.iter().map(image).collect(),
            storage_classes: catalogue.storage_classes.iter().map(class).collect(),
        }
    }
}

impl From<v1::Catalogue> for Catalogue {
    fn from(message: v1::Catalogue) -> Self {
        let flavor = |flavor: v1::Flavor| Flavor {
            name: flavor.name,
            vcpus: Vcpus(flavor.vcpus),
            memory: Mib(flavor.memory_mib),
            hourly: NanoEur(flavor.hourly_nano_eur),
            spot_hourly: NanoEur(flavor.spot_hourly_nano_eur),
        };
        let image = |image: v1::Image| Image {
            id: image.id,
            name: image.name,
            description: image.description,
            architecture: image.architecture,
            min_boot: Gib(image.min_boot_gib),
            min_memory: Mib(image.min_memory_mib),
            // A text that is none is as good as none: it is shown, and decides nothing here.
            sha256: image.sha256.parse().ok(),
            signed_by: Some(image.signed_by).filter(|id| !id.is_empty()),
        };
        let class = |class: v1::StorageClass| StorageClass {
            name: class.name,
            description: class.description,
            hourly_per_gib: NanoEur(class.hourly_nano_eur_per_gib),
        };
        Self {
            version: message.version,
            flavors: message.flavors.into_iter().map(flavor).collect(),
            images: message.images.into_iter().map(image).collect(),
            storage_classes: message.storage_classes.into_iter().map(class).collect(),
        }
    }
}
