//! The model of `fairmazon_snapshot`: a volume that is a copy of another one and that nobody writes
//! to.

use fairmazon_model::{DomainError, id::VolumeId, volume::VolumeSpec};
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Diagnostics, Schema, async_trait};

use super::schema;
use crate::{
    diagnostics::Attempt,
    platform::Platform,
    resources::{
        shared::{labels::Labels, timeouts::TimeoutsModel},
        volume::{SourceModel, VolumeKind, VolumeModel},
    },
};

/// The resource, one field an attribute.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the schema describes each attribute")]
pub struct SnapshotModel {
    pub id: Attr<String>,
    pub name: Attr<String>,
    pub volume_id: Attr<String>,
    pub deletion_protection: Attr<bool>,
    pub labels: Labels,
    pub effective_labels: Labels,
    pub timeouts: Attr<TimeoutsModel>,
    pub size_gib: Attr<u64>,
    pub class: Attr<String>,
    pub state: Attr<String>,
    pub site: Attr<String>,
    pub country: Attr<String>,
    pub key_fingerprint: Attr<String>,
    pub price_per_hour: Attr<String>,
    pub price_per_month: Attr<String>,
    pub created_at: Attr<String>,
}

#[async_trait]
impl VolumeKind for SnapshotModel {
    const TYPE: &'static str = "fairmazon_snapshot";
    const NOUN: &'static str = "snapshot";
    const READ_ONLY: bool = true;

    fn schema() -> Schema {
        schema::schema()
    }

    fn to_volume(&self) -> VolumeModel {
        let source = match &self.volume_id {
            Attr::Null => Attr::Null,
            id => Attr::Value(SourceModel::volume(id)),
        };
        VolumeModel {
            id: self.id.clone(),
            name: self.name.clone(),
            size_gib: self.size_gib,
            class: self.class.clone(),
            source,
            key_version: Attr::Null,
            placement: Attr::Null,
            deletion_protection: self.deletion_protection,
            final_snapshot: Attr::Null,
            labels: self.labels.clone(),
            effective_labels: self.effective_labels.clone(),
            timeouts: self.timeouts.clone(),
            state: self.state.clone(),
            site: self.site.clone(),
            country: self.country.clone(),
            attached_to: Attr::Null,
            key_fingerprint: self.key_fingerprint.clone(),
            price_per_hour: self.price_per_hour.clone(),
            price_per_month: self.price_per_month.clone(),
            created_at: self.created_at.clone(),
        }
    }

    fn of_volume(volume: VolumeModel) -> Self {
        Self {
            id: volume.id,
            name: volume.name,
            volume_id: volume
                .source
                .get()
                .map(|source| source.volume_id.clone())
                .unwrap_or_default(),
            deletion_protection: volume.deletion_protection,
            labels: volume.labels,
            effective_labels: volume.effective_labels,
            timeouts: volume.timeouts,
            size_gib: volume.size_gib,
            class: volume.class,
            state: volume.state,
            site: volume.site,
            country: volume.country,
            key_fingerprint: volume.key_fingerprint,
            price_per_hour: volume.price_per_hour,
            price_per_month: volume.price_per_month,
            created_at: volume.created_at,
        }
    }

    fn spec(&self, base: Option<&VolumeSpec>) -> Result<VolumeSpec, DomainError> {
        let known = Self {
            // A size that is not known yet has to pass checks as any other would.
            size_gib: match &self.size_gib {
                Attr::Null => Attr::Unknown,
                size => *size,
            },
            ..self.clone()
        };
        let spec = known.to_volume().read(base);
        let blame = |error: DomainError| match error.field.as_deref() {
            Some(field) if field.starts_with("source") => {
                DomainError { field: Some("volume_id".into()), ..error }
            }
            _ => error,
        };
        let mut spec = spec.map_err(blame)?;
        spec.read_only = true;
        if self.volume_id.is_unknown() {
            // Stands in, as no check objects to it; nothing is made before it is known.
            spec.source = Some(VolumeId::from_parts(0, 0));
        }
        Ok(spec)
    }

    /// A snapshot has the size and the class of its volume.
    async fn complete(
        &mut self,
        platform: &Platform,
        attempt: Attempt<'_>,
    ) -> Result<(), Diagnostics> {
        let (Some(id), Some(client)) = (self.volume_id.get(), platform.try_client()) else {
            (self.size_gib, self.class) = (Attr::Unknown, Attr::Unknown);
            return Ok(());
        };
        let source = match client.volume(id).await {
            Ok(source) => source,
            Err(error) if error.is_not_found() => {
                let missing = DomainError::not_found("volume", id);
                let blamed = DomainError { field: Some("volume_id".into()), ..missing };
                return Err(attempt.refused(&blamed));
            }
            Err(error) => return Err(attempt.failed(&error)),
        };
        let spec = source.spec.clone().unwrap_or_default();
        (self.size_gib, self.class) = (Attr::Value(spec.size_gib), Attr::Value(spec.class));
        Ok(())
    }
}
