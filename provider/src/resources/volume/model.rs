//! The model of `fairmazon_volume`, the spec that it means, and how a volume of the platform
//! looks as a resource.

use fairmazon_model::{
    DomainError, id::VolumeId, key::FIRST_KEY_VERSION, price::NanoEur, units::Gib,
    volume::VolumeSpec,
};
use fairmazon_proto::v1;
use serde::{Deserialize, Serialize};
use tfplugin::Attr;

use crate::resources::shared::{
    labels::{self, KnownLabels, Labels},
    placement::{self, PlacementModel},
    reader::Reader,
    rfc3339, settle, text,
    timeouts::TimeoutsModel,
};

/// The resource, one field an attribute.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the schema describes each attribute")]
pub struct VolumeModel {
    pub id: Attr<String>,
    pub name: Attr<String>,
    pub size_gib: Attr<u64>,
    pub class: Attr<String>,
    pub source: Attr<SourceModel>,
    pub key_version: Attr<u32>,
    pub placement: Attr<PlacementModel>,
    pub deletion_protection: Attr<bool>,
    pub final_snapshot: Attr<String>,
    pub labels: Labels,
    pub effective_labels: Labels,
    pub timeouts: Attr<TimeoutsModel>,
    pub state: Attr<String>,
    pub site: Attr<String>,
    pub country: Attr<String>,
    pub attached_to: Attr<String>,
    pub key_fingerprint: Attr<String>,
    pub price_per_hour: Attr<String>,
    pub price_per_month: Attr<String>,
    pub created_at: Attr<String>,
}

/// What a volume is made of: one of the three.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SourceModel {
    /// A `fairmazon_snapshot`.
    pub snapshot_id: Attr<String>,
    /// A volume, as it is when this one is made.
    pub volume_id: Attr<String>,
    /// An image of the catalogue, by name or id.
    pub image: Attr<String>,
}

/// What a [`SourceModel`] names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Volume(VolumeId),
    Image(String),
}

impl SourceModel {
    /// A source that names a volume.
    pub(crate) fn volume(id: &Attr<String>) -> Self {
        Self { volume_id: id.clone(), ..Self::default() }
    }

    fn of(source: Source) -> Self {
        match source {
            Source::Volume(id) => Self::volume(&Attr::Value(id.to_string())),
            Source::Image(image) => Self { image: Attr::Value(image), ..Self::default() },
        }
    }

    /// None where it is not known yet.
    fn read(&self, r: &mut Reader) -> Result<Option<Source>, DomainError> {
        let odd = |text: &str| {
            Err(DomainError::invalid("source", text.to_owned())
                .advise("set one of `snapshot_id`, `volume_id` and `image`"))
        };
        let (field, id) = match (&self.snapshot_id, &self.volume_id, &self.image) {
            (Attr::Null, Attr::Null, Attr::Null) => return odd("it names nothing"),
            (Attr::Null, Attr::Null, image) => {
                let image = r.object(image).filter(|image| !image.is_empty());
                return Ok(image.cloned().map(Source::Image));
            }
            (Attr::Null, id, Attr::Null) => ("source.volume_id", id),
            (id, Attr::Null, Attr::Null) => ("source.snapshot_id", id),
            _ => return odd("it names more than one"),
        };
        let Some(id) = r.object(id) else { return Ok(None) };
        let id = id.parse().map(Source::Volume);
        id.map(Some).map_err(|error| DomainError::invalid(field, format!("{error}")))
    }
}

impl VolumeModel {
    /// The spec that the attributes mean. Where a value is not known yet that of `base` stands
    /// in, or one that no check objects to.
    ///
    /// # Errors
    /// When a value has not the form it must have, with its path.
    pub(crate) fn read(&self, base: Option<&VolumeSpec>) -> Result<VolumeSpec, DomainError> {
        let mut reader = Reader::default();
        let r = &mut reader;
        let mut labels_known = true;
        let own = labels::known(&self.labels, &mut labels_known)?;
        let all = labels::known(&self.effective_labels, &mut labels_known)?;
        let name = base.map_or_else(|| "unknown".to_owned(), |base| base.name.clone());
        let class = base.map_or_else(|| "standard".to_owned(), |base| base.class.clone());
        let made_of = match r.object(&self.source) {
            Some(source) => source.read(r)?,
            None => None,
        };
        let (source, image) = match made_of {
            None => (None, None),
            Some(Source::Volume(id)) => (Some(id), None),
            Some(Source::Image(image)) => (None, Some(image)),
        };
        Ok(VolumeSpec {
            name: r.value(&self.name, String::new(), name),
            size: Gib(r.value(&self.size_gib, 0, base.map_or(1, |base| base.size.0))),
            class: r.value(&self.class, "standard".to_owned(), class),
            source,
            image,
            // Nobody asks for it here: one that is there stays as it was made.
            import: base.and_then(|base| base.import),
            read_only: false,
            key_version: r.value(
                &self.key_version,
                FIRST_KEY_VERSION,
                base.map_or(FIRST_KEY_VERSION, |base| base.key_version),
            ),
            placement: placement::read(&self.placement, r)?,
            deletion_protection: r.value(&self.deletion_protection, false, false),
            labels: if all.is_empty() { own } else { all },
        })
    }
}

/// The resource for a volume of the platform, knowing how it looked before.
///
/// # Errors
/// When the broker's answer is not a volume.
pub(crate) fn of_row(
    before: &VolumeModel,
    row: &v1::Volume,
    defaults: Option<&KnownLabels>,
) -> Result<VolumeModel, DomainError> {
    let spec: VolumeSpec = row.spec.clone().unwrap_or_default().try_into()?;
    Ok(VolumeModel {
        name: Attr::Value(spec.name),
        size_gib: Attr::Value(spec.size.0),
        class: Attr::Value(spec.class),
        source: source(&before.source, spec.source, spec.image),
        placement: placement::attr(&before.placement, &spec.placement),
        deletion_protection: Attr::Value(spec.deletion_protection),
        labels: labels::own(&before.labels, &before.effective_labels, &spec.labels, defaults),
        effective_labels: labels::attr(&spec.labels),
        final_snapshot: before.final_snapshot.clone(),
        timeouts: before.timeouts.clone(),
        ..observed(row)
    })
}

/// The source as the configuration has it, when that is the one that the platform knows.
fn source(
    before: &Attr<SourceModel>,
    volume: Option<VolumeId>,
    image: Option<String>,
) -> Attr<SourceModel> {
    let now = volume.map(Source::Volume).or(image.map(Source::Image));
    let Some(now) = now else { return Attr::Null };
    let named = before.get().and_then(|before| before.read(&mut Reader::default()).ok().flatten());
    if named.as_ref() == Some(&now) {
        return before.clone();
    }
    Attr::Value(SourceModel::of(now))
}

/// The state after an apply: what was planned, filled up with what the platform says.
pub(crate) fn after_apply(planned: &VolumeModel, row: &v1::Volume) -> VolumeModel {
    let now = observed(row);
    let labels = row.spec.as_ref().map(|spec| labels::attr(&spec.labels));
    let labels_known =
        planned.effective_labels.get().is_some_and(|labels| labels.values().all(Attr::is_known));
    VolumeModel {
        id: settle(&planned.id, now.id),
        size_gib: settle(&planned.size_gib, row.spec.as_ref().map(|spec| spec.size_gib).into()),
        class: settle(&planned.class, row.spec.as_ref().map(|spec| spec.class.clone()).into()),
        key_version: settle(&planned.key_version, now.key_version),
        effective_labels: match labels {
            Some(labels) if !labels_known => labels,
            _ => planned.effective_labels.clone(),
        },
        state: settle(&planned.state, now.state),
        site: settle(&planned.site, now.site),
        country: settle(&planned.country, now.country),
        attached_to: settle(&planned.attached_to, now.attached_to),
        key_fingerprint: settle(&planned.key_fingerprint, now.key_fingerprint),
        price_per_hour: settle(&planned.price_per_hour, now.price_per_hour),
        price_per_month: settle(&planned.price_per_month, now.price_per_month),
        created_at: settle(&planned.created_at, now.created_at),
        ..planned.clone()
    }
}

/// What the platform alone knows.
fn observed(row: &v1::Volume) -> VolumeModel {
    VolumeModel {
        id: Attr::Value(row.id.clone()),
        state: Attr::Value(state(row.state()).to_owned()),
        site: text(&row.site),
        country: text(&row.country),
        attached_to: text(&row.attached_to),
        key_fingerprint: text(&row.key_fingerprint),
        // That of the key that it has: what was asked for and did not come about is planned again.
        key_version: Attr::Value(row.key_version.max(FIRST_KEY_VERSION)),
        price_per_hour: Attr::Value(NanoEur(row.price_per_hour_nano_eur).to_string()),
        price_per_month: Attr::Value(NanoEur(row.price_per_month_nano_eur).to_string()),
        created_at: Attr::Value(rfc3339(row.created_at_ms)),
        ..VolumeModel::default()
    }
}

const fn state(state: v1::VolumeState) -> &'static str {
    match state {
        v1::VolumeState::Unspecified | v1::VolumeState::Unknown => "unknown",
        v1::VolumeState::Available => "available",
        v1::VolumeState::Creating => "creating",
        v1::VolumeState::Ready => "ready",
        v1::VolumeState::Failed => "failed",
        v1::VolumeState::Deleting => "deleting",
    }
}
