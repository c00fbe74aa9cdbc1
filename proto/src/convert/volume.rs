//! Volume specs.

use fairmazon_model::{
    DomainError,
    key::FIRST_KEY_VERSION,
    units::Gib,
    volume::{Import, VolumeSpec},
};

use super::optional_id;
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
            source_volume_id: spec.source.map(|id| id.to_string()).unwrap_or_default(),
            image: spec.image.clone().unwrap_or_default(),
            read_only: spec.read_only,
            import: spec.import.map(|import| v1::VolumeImport {
                bytes: import.bytes,
                sha256: import.sha256.to_string(),
            }),
            key_version: spec.key_version,
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
            source: optional_id("source_volume_id", &message.source_volume_id)?,
            image: Some(message.image).filter(|image| !image.is_empty()),
            import: message.import.map(import).transpose()?,
            read_only: message.read_only,
            key_version: message.key_version.max(FIRST_KEY_VERSION),
        })
    }
}

fn import(message: v1::VolumeImport) -> Result<Import, DomainError> {
    let sha256 = message.sha256.parse().map_err(|error: DomainError| error.below("import"))?;
    Ok(Import { bytes: message.bytes, sha256 })
}
