//! What a change does to a machine, told in the plan.

use std::time::SystemTime;

use fairmazon_model::{
    catalogue::Catalogue,
    impact::{self, Impact},
    instance::{InstanceSpec, Power},
    units::UnixMs,
};
use tfplugin::Diagnostic;

use super::{model::InstanceModel, placement};
use crate::resources::shared::reader::Reader;

/// A warning of what hurts; nothing where nothing does. A machine that is off loses its boot
/// volume like any other, and is spared the rest.
pub(super) fn warning(
    id: &str,
    prior: &InstanceModel,
    planned: &InstanceModel,
    catalogue: Option<&Catalogue>,
) -> Option<Diagnostic> {
    let old = prior.read(None).ok()?;
    let new = planned.read(Some(&old)).ok()?;
    let mut old = match catalogue {
        Some(catalogue) => catalogue.with_image_named_as(&old, &new),
        None => old,
    };
    // It may have got a fallback: its size changes from that, or not at all.
    if let (true, Some(actual)) = (old.flavor != new.flavor, prior.actual_flavor.get()) {
        old.flavor.clone_from(actual);
    }
    let runs = prior.state.get().map(String::as_str) == Some("running");
    let mut changes: Vec<_> = impact::of_instance_change(&old, &new, catalogue)
        .into_iter()
        .filter(|change| change.impact != Impact::Move)
        .map(|change| (change.field, change.impact))
        .collect();
    if prior.placement != planned.placement && may_move(planned, prior) {
        changes.push(("placement", Impact::Move));
    }
    if reboots(prior, planned) {
        changes.push(("reboot_trigger", Impact::Reboot));
    }
    if old.schedule != new.schedule && new.power == Power::Running && is_off_hours(&new) {
        changes.push(("schedule", Impact::Stop));
    }
    let least = if runs { Impact::Move } else { Impact::Rebuild };
    // One that is off goes as it is.
    let is_off = prior.state.get().map(String::as_str) == Some("stopped");
    changes.retain(|(_, impact)| *impact >= least || is_off && *impact == Impact::Move);
    let worst = changes.iter().map(|(_, impact)| *impact).max()?;
    let causes: Vec<_> =
        changes.iter().map(|(field, impact)| format!("- `{field}`: {impact}")).collect();
    let machine = if runs { "running machine" } else { "machine" };
    Some(
        Diagnostic::warning(format!("This change {} the {machine}", verb(worst)))
            .detail(format!("Machine {id}, impact: {worst}. Because of\n{}", causes.join("\n"))),
    )
}

/// Whether the machine may have to go to another host for what its placement becomes. Its country
/// is known here; in which region a site is, and which machines are where, only to the platform.
pub(super) fn may_move(planned: &InstanceModel, prior: &InstanceModel) -> bool {
    let mut reader = Reader::default();
    let Ok(new) = placement::constraints(&planned.placement, &mut reader) else { return false };
    let is_known = reader.is_complete();
    let Ok(mut old) = placement::constraints(&prior.placement, &mut reader) else { return false };
    if let Some(country) = prior.country.get() {
        old.countries = [country.clone()].into();
    }
    !is_known || !new.loosens(&old)
}

/// Whether the change asks for a restart: one text in place of another, and a machine that shall
/// run. The first text is only noted, so that a machine that is imported is left alone.
pub(super) fn reboots(prior: &InstanceModel, planned: &InstanceModel) -> bool {
    !planned.shall_be_off()
        && !prior.reboot_trigger.is_null()
        && !planned.reboot_trigger.is_null()
        && prior.reboot_trigger != planned.reboot_trigger
}

/// Whether it is outside the machine's working hours now.
fn is_off_hours(spec: &InstanceSpec) -> bool {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    spec.schedule.as_ref().is_some_and(|schedule| schedule.runs_at(now) == Ok(false))
}

const fn verb(impact: Impact) -> &'static str {
    match impact {
        Impact::None | Impact::Hot => "changes",
        Impact::Move => "may move",
        Impact::HotOrReboot => "may restart",
        Impact::Reboot => "restarts",
        Impact::Stop => "stops",
        Impact::Rebuild => "rebuilds the boot volume of",
    }
}
