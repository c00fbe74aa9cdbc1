//! The plan of `fairmazon_instance`: everything that can be known before anything is done.

use fairmazon_model::{
    DomainError,
    catalogue::Catalogue,
    impact,
    instance::InstanceSpec,
    price::{self, InstancePrice},
    units::Gib,
};
use tfplugin::{Attr, Change, ChangeKind, Diagnostics};

use super::{
    change,
    model::{BOOT_GIB, BootVolumeModel, InstanceModel},
    row,
    wait::{self, Condition},
};
use crate::{
    diagnostics::{self, Attempt},
    platform::Platform,
    resources::shared::{
        labels, not_in_catalogue, planned_before::planned_before, protection::protected,
    },
};

const INVALID: &str = "Invalid instance";

/// Refines what the schema's rules planned.
pub(super) async fn plan(platform: &Platform, change: &mut Change<'_>) -> Result<(), Diagnostics> {
    let config: InstanceModel = change.config().model()?;
    let prior: Option<InstanceModel> = match change.kind() {
        ChangeKind::Create => None,
        _ => Some(change.prior().model()?),
    };
    let catalogue = platform.catalogue().await?;
    if let (Some(prior), Some(image)) = (&prior, change.planned().at("image").as_str())
        && let (Some(old), Some(catalogue)) = (prior.image.get(), &catalogue)
        && catalogue.is_same_image(old, image)
    {
        change.keep_in_place("image");
    }
    let mut planned: InstanceModel = change.planned().model()?;
    boot_volume(&config, prior.as_ref(), catalogue.as_deref(), &mut planned);
    if planned.boot_volume_differs(prior.as_ref()) {
        change.set("boot_volume", &planned.boot_volume)?;
    }
    planned.effective_labels = labels::effective(&planned.labels, platform.default_labels());
    planned.user_data_sha256 = row::user_data_hash(&planned.user_data);
    change.set("effective_labels", &planned.effective_labels)?;
    change.set("user_data_sha256", &planned.user_data_sha256)?;

    let old = prior.as_ref().and_then(|prior| prior.read(None).ok());
    let spec = planned.read(old.as_ref()).map_err(|error| diagnostics::invalid(INVALID, &error))?;
    check(&spec, old.as_ref(), change.replaces())?;
    if prior.is_none() {
        guest_comes(&planned)?;
    }
    if let Some(catalogue) = &catalogue {
        fits_catalogue(&planned, &spec, catalogue)
            .map_err(|error| diagnostics::invalid(INVALID, &error))?;
    }
    computed(change, &mut planned, prior.as_ref())?;
    let price = prices(change, &planned, prior.as_ref(), &spec, catalogue.as_deref())?;
    guard(platform, change, prior.as_ref(), price.as_ref(), &spec, catalogue.as_deref())
}

impl InstanceModel {
    /// Whether the planned boot volume is another than the schema's rules made it.
    fn boot_volume_differs(&self, prior: Option<&Self>) -> bool {
        let size = |model: &Self| match &model.boot_volume {
            Attr::Value(boot) => boot.size_gib.get().copied(),
            _ => None,
        };
        prior.is_none_or(|prior| size(prior) != size(self))
    }
}

/// Fills in what the user left to the provider: the size that the image needs.
fn boot_volume(
    config: &InstanceModel,
    prior: Option<&InstanceModel>,
    catalogue: Option<&Catalogue>,
    planned: &mut InstanceModel,
) {
    let configured = match &config.boot_volume {
        Attr::Unknown => return,
        Attr::Null => BootVolumeModel::default(),
        Attr::Value(boot) => boot.clone(),
    };
    let mut boot = match &planned.boot_volume {
        Attr::Value(boot) => boot.clone(),
        _ => BootVolumeModel {
            size_gib: Attr::Unknown,
            class: Attr::Value("standard".to_owned()),
            delete_with_instance: Attr::Value(true),
        },
    };
    if configured.size_gib.is_null() {
        let before = prior.and_then(|prior| prior.boot_volume.get()?.size_gib.get().copied());
        let image = planned.image.get().and_then(|image| catalogue?.image(image));
        boot.size_gib = match (before, image) {
            (before, Some(image)) => Attr::Value(before.unwrap_or(BOOT_GIB).max(image.min_boot.0)),
            (Some(before), None) => Attr::Value(before),
            (None, None) => Attr::Unknown,
        };
    }
    planned.boot_volume = Attr::Value(boot);
}

/// Checks what the platform would refuse anyway, before anything is done.
fn check(
    spec: &InstanceSpec,
    old: Option<&InstanceSpec>,
    replaces: bool,
) -> Result<(), Diagnostics> {
    let told = |error: DomainError| diagnostics::invalid(INVALID, &error);
    spec.check().map_err(told)?;
    match old {
        Some(old) if !replaces => impact::check_instance_change(old, spec).map_err(told),
        _ => Ok(()),
    }
}

/// Refuses to wait for what the guest brings of a machine that shall not run.
fn guest_comes(planned: &InstanceModel) -> Result<(), Diagnostics> {
    let waited = wait::conditions(planned).into_iter().find_map(Condition::of_guest);
    let Some(what) = waited.filter(|_| planned.shall_be_off()) else { return Ok(()) };
    let error = DomainError::invalid(
        "wait_for",
        format!(
            "a machine that is made with `power_state = \"stopped\"` has no {what} to wait for"
        ),
    );
    let advice = "leave all but `running` out of `wait_for`, or make the machine running";
    Err(diagnostics::invalid(INVALID, &error.advise(advice)))
}

/// Checks the known parts against the catalogue.
fn fits_catalogue(
    planned: &InstanceModel,
    spec: &InstanceSpec,
    catalogue: &Catalogue,
) -> Result<(), DomainError> {
    for (index, flavor) in spec.flavor_fallback.iter().enumerate() {
        if catalogue.flavor(flavor).is_none() {
            return Err(not_in_catalogue(
                &format!("flavor_fallback[{index}]"),
                flavor,
                flavors(catalogue),
            ));
        }
    }
    let flavor = catalogue.flavor(&spec.flavor);
    if planned.flavor.is_known() && flavor.is_none() {
        return Err(not_in_catalogue("flavor", &spec.flavor, flavors(catalogue)));
    }
    let image = catalogue.image(&spec.image);
    if planned.image.is_known() && image.is_none() {
        let names = catalogue.images.iter().map(|image| image.name.as_str());
        return Err(not_in_catalogue("image", &spec.image, names));
    }
    let class = &spec.boot_volume.class;
    let boot = planned.boot_volume.get();
    if boot.is_some_and(|boot| boot.class.is_known()) && catalogue.storage_class(class).is_none() {
        let names = catalogue.storage_classes.iter().map(|class| class.name.as_str());
        return Err(not_in_catalogue("boot_volume.class", class, names));
    }
    let Some(image) = image else { return Ok(()) };
    if boot.is_some_and(|boot| boot.size_gib.is_known()) && spec.boot_volume.size < image.min_boot {
        let Gib(least) = image.min_boot;
        return Err(DomainError::invalid(
            "boot_volume.size_gib",
            format!("the image `{}` needs a boot volume of {least} GiB at least", image.name),
        ));
    }
    let fallback = spec.flavor_fallback.iter().enumerate();
    let fallback = fallback.map(|(index, name)| (format!("flavor_fallback[{index}]"), name));
    for (field, name) in std::iter::once(("flavor".to_owned(), &spec.flavor)).chain(fallback) {
        match catalogue.flavor(name) {
            Some(flavor) if flavor.memory < image.min_memory => {
                let text = format!(
                    "the image `{}` needs {} of memory, and `{}` has {}",
                    image.name, image.min_memory, flavor.name, flavor.memory
                );
                return Err(DomainError::invalid(field, text));
            }
            _ => {}
        }
    }
    Ok(())
}

fn flavors(catalogue: &Catalogue) -> impl Iterator<Item = &str> {
    catalogue.flavors.iter().map(|flavor| flavor.name.as_str())
}

/// Says which of the platform's own values a change will change, and which are known already.
fn computed(
    change: &mut Change<'_>,
    planned: &mut InstanceModel,
    prior: Option<&InstanceModel>,
) -> Result<(), Diagnostics> {
    // A machine that has its size keeps it until `flavor` says otherwise.
    let undecided = prior.is_none_or(|prior| prior.actual_flavor.get().is_none());
    if (undecided && change.is_effective()) || change.differs("flavor") {
        let none = match &planned.flavor_fallback {
            Attr::Null => true,
            Attr::Value(list) => list.is_empty(),
            Attr::Unknown => false,
        };
        planned.actual_flavor = if none { planned.flavor.clone() } else { Attr::Unknown };
        change.set("actual_flavor", &planned.actual_flavor)?;
    }
    let Some(prior) = prior else { return Ok(()) };
    if !change.is_effective() {
        return Ok(());
    }
    let mut unknown = Vec::new();
    let settled = matches!(prior.state.get().map(String::as_str), Some("running" | "stopped"));
    if !settled {
        unknown.extend([
            "state",
            "site",
            "country",
            "placement_reason",
            "addresses",
            "lease_epoch",
        ]);
    }
    if change.differs("placement") && change::may_move(planned, prior) {
        unknown.extend(["site", "country", "placement_reason", "addresses", "lease_epoch"]);
    }
    if change.differs("power_state") || change.differs("schedule") {
        unknown.extend(["state", "addresses", "lease_epoch"]);
    }
    if change.differs("flavor") || change.differs("flavor_fallback") {
        unknown.extend(["placement_reason", "lease_epoch"]);
    }
    if change.differs("image") || change.differs("user_data") {
        unknown.push("lease_epoch");
    }
    for attribute in unknown {
        change.set_unknown(attribute)?;
    }
    Ok(())
}

/// Plans the prices where something changes that they depend on. Answers with what is planned.
fn prices(
    change: &mut Change<'_>,
    planned: &InstanceModel,
    prior: Option<&InstanceModel>,
    spec: &InstanceSpec,
    catalogue: Option<&Catalogue>,
) -> Result<Option<InstancePrice>, Diagnostics> {
    const CAUSES: [&str; 5] = ["flavor", "actual_flavor", "boot_volume", "schedule", "spot"];
    let price = if price_is_known(planned) {
        let flavor = planned.actual_flavor.get();
        catalogue.zip(flavor).and_then(|(catalogue, flavor)| {
            // A flavor that is gone from the catalogue is for the broker to judge.
            price::instance(catalogue, spec, flavor).ok()
        })
    } else {
        None
    };
    if prior.is_some() && !CAUSES.iter().any(|cause| change.differs(*cause)) {
        return Ok(price);
    }
    let text = |amount: Option<price::NanoEur>| {
        amount.map_or(Attr::Unknown, |amount| Attr::Value(amount.to_string()))
    };
    change.set("price_per_hour", &text(price.map(|price| price.hourly)))?;
    change.set("price_per_month", &text(price.map(|price| price.monthly)))?;
    change.set("monthly_saving", &text(price.map(|price| price.monthly_saving)))?;
    Ok(price)
}

fn price_is_known(planned: &InstanceModel) -> bool {
    let windows_known = match &planned.schedule {
        Attr::Unknown => false,
        Attr::Null => true,
        Attr::Value(windows) => windows.iter().all(|window| {
            window.get().is_some_and(|window| {
                let days = window.days.get().is_some_and(|days| days.iter().all(Attr::is_known));
                window.start.is_known() && window.stop.is_known() && days
            })
        }),
    };
    let boot_known = planned
        .boot_volume
        .get()
        .is_some_and(|boot| boot.size_gib.is_known() && boot.class.is_known());
    windows_known && boot_known && !planned.spot.is_unknown()
}

/// Adds the price to the provider's guard. Where a fallback may be taken, the dearest counts.
fn guard(
    platform: &Platform,
    change: &mut Change<'_>,
    prior: Option<&InstanceModel>,
    price: Option<&InstancePrice>,
    spec: &InstanceSpec,
    catalogue: Option<&Catalogue>,
) -> Result<(), Diagnostics> {
    // A replacement is planned a second time as a creation, and counts there.
    if change.replaces() {
        return Ok(());
    }
    let all = || std::iter::once(&spec.flavor).chain(&spec.flavor_fallback);
    let dearest = || {
        let catalogue = catalogue?;
        all()
            .filter_map(|flavor| price::instance(catalogue, spec, flavor).ok())
            .map(|price| price.hourly)
            .max()
    };
    let hourly = price.map(|price| price.hourly).or_else(dearest);
    let id = prior.and_then(|prior| prior.id.get()).cloned();
    let id = planned_before(change, id)?;
    hourly.map_or(Ok(()), |hourly| platform.budget().add(id.as_deref(), hourly))
}

/// Refuses to destroy or replace a machine that is protected, and warns of what hurts.
pub(super) async fn consequences(
    platform: &Platform,
    change: &Change<'_>,
) -> Result<Option<tfplugin::Diagnostic>, Diagnostics> {
    if change.kind() == ChangeKind::Create {
        return Ok(None);
    }
    let prior: InstanceModel = change.prior().model()?;
    let id = prior.id.get().map_or("", String::as_str);
    let destroys = change.kind() == ChangeKind::Delete || change.replaces();
    if destroys && prior.deletion_protection.get() == Some(&true) {
        let verb = if change.replaces() { "replace" } else { "destroy" };
        return Err(Attempt::on(verb, "instance", id).refused(&protected()));
    }
    if destroys {
        return Ok(None);
    }
    let planned: InstanceModel = change.planned().model()?;
    let catalogue = platform.catalogue().await?;
    Ok(change::warning(id, &prior, &planned, catalogue.as_deref()))
}
