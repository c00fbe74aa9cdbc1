//! Host specs and sites.

use fairmazon_model::{
    DomainError,
    geo::Coordinates,
    host::{Capacity, HostSpec},
    site::Site,
    units::{Gib, Mib, Vcpus},
};

use crate::v1;

impl From<&HostSpec> for v1::HostSpec {
    fn from(spec: &HostSpec) -> Self {
        Self {
            name: spec.name.clone(),
            site: spec.site.name.clone(),
            town: spec.site.town.clone(),
            country: spec.site.country.clone(),
            region: spec.site.region.clone(),
            latitude: spec.site.coordinates.latitude,
            longitude: spec.site.coordinates.longitude,
            vcpus: spec.capacity.vcpus.0,
            memory_mib: spec.capacity.memory.0,
            storage_gib: spec
                .capacity
                .storage
                .iter()
                .map(|(class, size)| (class.clone(), size.0))
                .collect(),
            cpu_overcommit_percent: spec.cpu_overcommit_percent,
            memory_overcommit_percent: spec.memory_overcommit_percent,
            conformity: u32::from(spec.conformity),
            features: spec.features.iter().cloned().collect(),
            price_percent: spec.price_percent,
            schedulable: spec.schedulable,
        }
    }
}

impl TryFrom<v1::HostSpec> for HostSpec {
    type Error = DomainError;

    fn try_from(message: v1::HostSpec) -> Result<Self, DomainError> {
        Ok(Self {
            name: message.name,
            site: Site {
                name: message.site,
                town: message.town,
                country: message.country,
                region: message.region,
                coordinates: Coordinates::new(message.latitude, message.longitude)?,
            },
            capacity: Capacity {
                vcpus: Vcpus(message.vcpus),
                memory: Mib(message.memory_mib),
                storage: message
                    .storage_gib
                    .into_iter()
                    .map(|(class, size)| (class, Gib(size)))
                    .collect(),
            },
            cpu_overcommit_percent: message.cpu_overcommit_percent,
            memory_overcommit_percent: match message.memory_overcommit_percent {
                // Of who does not know it.
                0 => 100,
                percent => percent,
            },
            conformity: u8::try_from(message.conformity)
                .map_err(|_| DomainError::invalid("conformity", "0 to 3"))?,
            features: message.features.into_iter().collect(),
            price_percent: message.price_percent,
            schedulable: message.schedulable,
        })
    }
}
