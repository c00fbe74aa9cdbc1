//! Plans, makes, reads, changes and removes volumes.

use std::{marker::PhantomData, sync::Arc};

use fairmazon_model::{
    DomainError, ErrorKind,
    catalogue::Catalogue,
    id::VolumeId,
    impact, price,
    units::{Gib, UnixMs},
    volume::VolumeSpec,
};
use fairmazon_proto::v1;
use serde::{Serialize, de::DeserializeOwned};
use tfplugin::{
    Attr, Change, ChangeKind, Context, Diagnostics, IdentitySchema, ImportTarget, Planned,
    Resource, Schema, StateSink, View, async_trait,
};

use super::{VolumeModel, model, schema};
use crate::{
    client::{Client, ClientError},
    diagnostics::{self, Attempt},
    platform::Platform,
    resources::shared::{
        confirm, identity,
        keys::{require_identity, warn_without_identity},
        labels::{self, KnownLabels},
        not_in_catalogue,
        planned_before::planned_before,
        protection::protected,
        snapshots,
        stop::graceful,
        taken_over,
        timeouts::{self, Limit},
        unfinished::{self, Waited},
    },
};

/// What the platform keeps as a volume and shows as a resource of its own.
#[async_trait]
pub trait VolumeKind:
    Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The resource's type.
    const TYPE: &'static str;
    /// What people call one.
    const NOUN: &'static str;

    /// Whether nobody writes to one.
    const READ_ONLY: bool;

    /// Its attributes.
    fn schema() -> Schema;

    /// Whether a volume of the platform is one.
    fn is_of(row: &v1::Volume) -> bool {
        row.spec.as_ref().is_some_and(|spec| spec.read_only) == Self::READ_ONLY
    }

    /// All of it as the attributes of a volume.
    fn to_volume(&self) -> VolumeModel;

    /// What it has of a volume's attributes.
    fn of_volume(volume: VolumeModel) -> Self;

    /// The spec that its attributes mean; see [`VolumeModel`].
    ///
    /// # Errors
    /// When a value has not the form it must have, with its path.
    fn spec(&self, base: Option<&VolumeSpec>) -> Result<VolumeSpec, DomainError>;

    /// Fills in what follows from other volumes, as far as they are known.
    ///
    /// # Errors
    /// When they can't be read.
    async fn complete(&mut self, _: &Platform, _: Attempt<'_>) -> Result<(), Diagnostics> {
        Ok(())
    }
}

#[async_trait]
impl VolumeKind for VolumeModel {
    const TYPE: &'static str = "fairmazon_volume";
    const NOUN: &'static str = "volume";
    const READ_ONLY: bool = false;

    fn schema() -> Schema {
        schema::schema()
    }

    fn to_volume(&self) -> VolumeModel {
        self.clone()
    }

    fn of_volume(volume: VolumeModel) -> Self {
        volume
    }

    fn spec(&self, base: Option<&VolumeSpec>) -> Result<VolumeSpec, DomainError> {
        self.read(base)
    }
}

/// The resource of a kind of volumes.
#[derive(Debug, Default)]
pub struct Volumes<K>(PhantomData<K>);

impl<K: VolumeKind> Volumes<K> {
    /// The resource.
    pub const fn new() -> Self {
        Self(PhantomData)
    }

    fn invalid() -> String {
        format!("Invalid {}", K::NOUN)
    }

    /// The resource for a volume of the platform, knowing how it looked before.
    ///
    /// # Errors
    /// When it is of another kind, or the broker's answer is none.
    pub(crate) fn of_row(
        before: &K,
        row: &v1::Volume,
        defaults: Option<&KnownLabels>,
    ) -> Result<K, DomainError> {
        if !K::is_of(row) {
            let other = if K::READ_ONLY { "a volume" } else { "a snapshot" };
            let text = format!("{} is {other}", row.id);
            return Err(DomainError::new(ErrorKind::Precondition, text)
                .advise("name it as a resource of the other type"));
        }
        Ok(K::of_volume(model::of_row(&before.to_volume(), row, defaults)?))
    }

    fn after_apply(planned: &K, row: &v1::Volume) -> K {
        K::of_volume(model::after_apply(&planned.to_volume(), row))
    }
}

type Sink<'a, K> = StateSink<'a, K>;

#[async_trait]
impl<K: VolumeKind> Resource for Volumes<K> {
    type Data = Platform;
    type Model = K;

    fn name(&self) -> &'static str {
        K::TYPE
    }

    fn schema(&self) -> Schema {
        K::schema()
    }

    fn identity(&self) -> Option<IdentitySchema> {
        Some(identity(K::NOUN))
    }

    fn plans_destroy(&self) -> bool {
        true
    }

    async fn validate(&self, _: &Context<Platform>, config: View<'_>) -> Result<(), Diagnostics> {
        let config: K = config.model()?;
        let checked = config.spec(None).and_then(|spec| spec.check());
        checked.map_err(|error| diagnostics::invalid(&Self::invalid(), &error))
    }

    async fn plan(
        &self,
        cx: &Context<Platform>,
        change: &mut Change<'_>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        let id = change.prior().at("id").as_str().map(str::to_owned);
        refuse_protected(change, K::NOUN, id.as_deref())?;
        if change.kind() != ChangeKind::Delete {
            let spec = plan::<K>(platform, change, id.as_deref()).await?;
            if change.kind() == ChangeKind::Create && spec.source.is_some() {
                warn_without_identity(cx, platform);
            }
        }
        if let (Some(id), Some(client)) = (id, platform.try_client()) {
            confirm::confirm(client, &id, false, change.private()).await;
        }
        Ok(())
    }

    async fn create(
        &self,
        cx: &Context<Platform>,
        plan: Planned<'_, K>,
        state: &mut Sink<'_, K>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let attempt = Attempt::new("create", K::NOUN);
        let mut whole = plan.model.clone();
        whole.complete(cx.data()?, attempt).await?;
        let spec = whole.spec(None).map_err(|error| attempt.refused(&error))?;
        if spec.source.is_some() {
            // A copy is on its source's host, which wants the key at once.
            require_identity(client, attempt)?;
        }
        let created = graceful(cx, client.create_volume((&spec).into())).await?;
        let (row, operation) = created.map_err(|error| attempt.failed(&error))?;
        // From here on there is something real: its id is kept before anything slow.
        state.save(&Self::after_apply(&plan.model, &row))?;
        taken_over::warn(cx, client, K::NOUN, &row.id, UnixMs(row.created_at_ms));
        let work = async {
            client.wait(&operation, |_| {}).await?;
            client.volume_now(&row.id).await
        };
        let limit = timeouts::limit(&plan.model.to_volume().timeouts, Limit::Create);
        let done = cx.within(limit, &format!("the {} {} to be there", K::NOUN, row.id), work).await;
        let row = match unfinished::told(done, K::NOUN, &row.id)? {
            Waited::Done(row) => row,
            Waited::Unfinished(why) => {
                // It exists and is well: an error would have it destroyed and made anew.
                cx.warn(why.warning());
                row
            }
        };
        state.save(&Self::after_apply(&plan.model, &row))
    }

    async fn read(
        &self,
        cx: &Context<Platform>,
        prior: K,
        state: &mut Sink<'_, K>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        // Without a known endpoint there is nobody to ask: what was known stays.
        let Some(client) = platform.try_client() else { return Ok(()) };
        let id = prior.to_volume().id.get().cloned().unwrap_or_default();
        let attempt = Attempt::on("read", K::NOUN, &id);
        let limit = timeouts::limit(&prior.to_volume().timeouts, Limit::Read);
        let row = match cx.within(limit, "the broker's answer", client.volume(&id)).await? {
            Ok(row) => row,
            Err(error) if error.is_not_found() => {
                state.gone();
                return Ok(());
            }
            Err(error) => return Err(attempt.failed(&error)),
        };
        let model = Self::of_row(&prior, &row, platform.default_labels())
            .map_err(|error| attempt.refused(&error))?;
        confirm::confirm(client, &id, !row.unconfirmed, state.private()).await;
        state.save(&model)
    }

    async fn update(
        &self,
        cx: &Context<Platform>,
        prior: K,
        plan: Planned<'_, K>,
        state: &mut Sink<'_, K>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let id = prior.to_volume().id.get().cloned().unwrap_or_default();
        let attempt = Attempt::on("change", K::NOUN, &id);
        let old = prior.spec(None).ok();
        let new = plan.model.spec(None).map_err(|error| attempt.refused(&error))?;
        let work = async {
            if old.as_ref() != Some(&new) {
                let (_, operation) = client.update_volume(&id, (&new).into()).await?;
                client.wait(&operation, |_| {}).await?;
            }
            client.volume_now(&id).await
        };
        let limit = timeouts::limit(&plan.model.to_volume().timeouts, Limit::Update);
        let done = cx.within(limit, &format!("the {} {id} to change", K::NOUN), work).await?;
        let row = done.map_err(|error| attempt.failed(&error))?;
        state.save(&Self::after_apply(&plan.model, &row))
    }

    async fn delete(
        &self,
        cx: &Context<Platform>,
        prior: K,
        _: &mut Sink<'_, K>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let id = prior.to_volume().id.get().cloned().unwrap_or_default();
        let attempt = Attempt::on("destroy", K::NOUN, &id);
        let limit = timeouts::limit(&prior.to_volume().timeouts, Limit::Delete);
        let work = async {
            if let Attr::Value(name) = prior.to_volume().final_snapshot {
                keep(client, &id, name, attempt).await?;
            }
            match remove(client, &id).await {
                Err(error) if !error.is_not_found() => Err(attempt.failed(&error)),
                _ => Ok(()),
            }
        };
        cx.within(limit, &format!("the {} {id} to be gone", K::NOUN), Box::pin(work)).await?
    }

    async fn import(
        &self,
        cx: &Context<Platform>,
        target: ImportTarget,
        state: &mut Sink<'_, K>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        let id = target.text("id")?;
        let attempt = Attempt::on("import", K::NOUN, id);
        let form: Result<VolumeId, _> = id.parse();
        form.map_err(|error| {
            Diagnostics::error(format!("Unable to import the {}", K::NOUN), error.to_string())
        })?;
        let found = platform.client()?.volume_now(id).await;
        let row = found.map_err(|error| attempt.failed(&error))?;
        let model = Self::of_row(&K::default(), &row, platform.default_labels())
            .map_err(|error| attempt.refused(&error))?;
        state.save(&model)
    }
}

/// Makes the last snapshot of a volume that is to be destroyed, where that holds anything.
async fn keep(
    client: &Arc<Client>,
    id: &str,
    name: String,
    destroy: Attempt<'_>,
) -> Result<(), Diagnostics> {
    let volume = match client.volume_now(id).await {
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(destroy.failed(&error)),
        Ok(volume) => volume,
    };
    // One that is attached is not destroyed: the platform's refusal says so, and nothing is made.
    if volume.site.is_empty() || !volume.attached_to.is_empty() {
        return Ok(());
    }
    let attempt = Attempt::on("make the final snapshot of", "volume", id);
    let labels = volume.spec.as_ref().map(|spec| spec.labels.clone()).unwrap_or_default();
    let spec =
        snapshots::spec_of(&volume, name, labels).map_err(|error| attempt.refused(&error))?;
    let made = client.make_snapshot((&spec).into(), |_| {}, |_| {}).await;
    made.map(drop).map_err(|error| attempt.failed(&error))
}

/// The image is there, and fits.
fn check_image(
    catalogue: &Catalogue,
    name: &str,
    planned: &VolumeModel,
) -> Result<(), DomainError> {
    let Some(image) = catalogue.image(name) else {
        let names = catalogue.images.iter().map(|image| image.name.as_str());
        return Err(not_in_catalogue("source.image", name, names));
    };
    match planned.size_gib {
        Attr::Value(size) => image.check_fits(Gib(size), "size_gib"),
        Attr::Null | Attr::Unknown => Ok(()),
    }
}

async fn remove(client: &Client, id: &str) -> Result<(), ClientError> {
    let operation = client.delete_volume(id).await?;
    client.wait(&operation, |_| {}).await
}

fn refuse_protected(
    change: &Change<'_>,
    noun: &'static str,
    id: Option<&str>,
) -> Result<(), Diagnostics> {
    let protection = change.prior().at("deletion_protection").as_bool();
    let destroys = change.kind() == ChangeKind::Delete || change.replaces();
    if !destroys || protection != Some(true) {
        return Ok(());
    }
    let verb = if change.replaces() { "replace" } else { "destroy" };
    Err(Attempt::on(verb, noun, id.unwrap_or_default()).refused(&protected()))
}

/// Refines what the schema's rules planned; what it comes to.
async fn plan<K: VolumeKind>(
    platform: &Platform,
    change: &mut Change<'_>,
    id: Option<&str>,
) -> Result<VolumeSpec, Diagnostics> {
    let invalid =
        |error: DomainError| diagnostics::invalid(&format!("Invalid {}", K::NOUN), &error);
    let mut kind: K = change.planned().model()?;
    let begins = change.kind() == ChangeKind::Create || change.replaces();
    if begins {
        kind.spec(None).map_err(invalid)?;
        kind.complete(platform, Attempt::new("plan", K::NOUN)).await?;
    }
    let mut planned = kind.to_volume();
    if begins {
        change.set("size_gib", &planned.size_gib)?;
        change.set("class", &planned.class)?;
    }
    planned.effective_labels = labels::effective(&planned.labels, platform.default_labels());
    change.set("effective_labels", &planned.effective_labels)?;
    let old = match change.kind() {
        ChangeKind::Create => None,
        _ => change.prior().model::<K>()?.spec(None).ok(),
    };
    if !begins && !K::READ_ONLY && change.differs("key_version") {
        change.set("key_fingerprint", &Attr::<String>::Unknown)?;
    }
    let spec = K::of_volume(planned.clone()).spec(old.as_ref()).map_err(invalid)?;
    spec.check().map_err(invalid)?;
    if let Some(old) = &old
        && !change.replaces()
    {
        impact::check_volume_change(old, &spec).map_err(invalid)?;
    }
    let catalogue = platform.catalogue().await?;
    if let (Some(catalogue), Some(name), true) = (&catalogue, &spec.image, begins) {
        check_image(catalogue, name, &planned).map_err(invalid)?;
    }
    let size_and_class_known = planned.size_gib.is_known() && planned.class.is_known();
    let hourly = match &catalogue {
        Some(catalogue) if size_and_class_known => {
            Some(price::volume(catalogue, &spec).map_err(|error| {
                let names: Vec<_> =
                    catalogue.storage_classes.iter().map(|class| class.name.as_str()).collect();
                invalid(error.advise(format!("it has {}", names.join(", "))))
            })?)
        }
        _ => None,
    };
    if old.is_none() || change.differs("size_gib") || change.differs("class") {
        let text = |amount: Option<price::NanoEur>| {
            amount.map_or(Attr::Unknown, |amount| Attr::Value(amount.to_string()))
        };
        change.set("price_per_hour", &text(hourly))?;
        change.set("price_per_month", &text(hourly.map(price::NanoEur::per_month)))?;
    }
    let id = planned_before(change, id.map(str::to_owned))?;
    if let (Some(hourly), false) = (hourly, change.replaces()) {
        platform.budget().add(id.as_deref(), hourly)?;
    }
    Ok(spec)
}
