//! Snapshots that no resource stands for.

use fairmazon_model::{
    DomainError, key::FIRST_KEY_VERSION, placement::Placement, volume::VolumeSpec,
};
use fairmazon_proto::v1;

use super::labels::KnownLabels;

/// What is asked for as a snapshot of `volume`.
///
/// # Errors
/// When the broker's answer is not a volume, or the name or a label is none.
pub fn spec_of(
    volume: &v1::Volume,
    name: String,
    labels: KnownLabels,
) -> Result<VolumeSpec, DomainError> {
    let spec: VolumeSpec = volume.spec.clone().unwrap_or_default().try_into()?;
    let source = volume.id.parse();
    let spec = VolumeSpec {
        name,
        size: spec.size,
        class: spec.class,
        source: Some(source.map_err(|why| DomainError::invalid("id", format!("{why}")))?),
        image: None,
        import: None,
        read_only: true,
        key_version: FIRST_KEY_VERSION,
        placement: Placement::default(),
        deletion_protection: false,
        labels,
    };
    spec.check()?;
    Ok(spec)
}
