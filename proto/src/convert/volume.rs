//! Volume specs.

use fairmazon_model::{DomainError, units::Gib, volume::VolumeSpec};

use crate::v1;

impl From<&VolumeSpec> for v1::VolumeSpec {
    fn from(spec: &VolumeSpec) -> Self {
        Self {
            name: spec.name.clone(),
            size_gib: spec.size.0,
            class: spec.class.clone(),
            placement: Some((&spec.placement).into()),
            deletion_protection: spec.deletion_protection,
            labels: spec.labels.clone(),
        }
    }
}

impl TryFrom<v1::VolumeSpec> for VolumeSpec {
    type Error = DomainError;

    fn try_from(message: v1::VolumeSpec) -> Result<Self, DomainError> {
        Ok(Self {
            name: message.name,
            size: Gib(message.size_gib),
            class: message.class,
            placement: message
                .placement
                .unwrap_or_default()
                .try_into()
                .map_err(|error: DomainError| error.below("placement"))?,
            deletion_protection: message.deletion_protection,
            labels: message.labels,
        })
    }
}
