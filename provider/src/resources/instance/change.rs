//! What a change does to a running machine, told in the plan.

use fairmazon_model::impact::{self, Impact};
use tfplugin::Diagnostic;

use super::model::InstanceModel;

/// A warning of what hurts; nothing where nothing does.
pub(super) fn warning(
    id: &str,
    prior: &InstanceModel,
    planned: &InstanceModel,
) -> Option<Diagnostic> {
    let old = prior.read(None).ok()?;
    let new = planned.read(Some(&old)).ok()?;
    let mut changes: Vec<_> = impact::of_instance_change(&old, &new)
        .into_iter()
        .map(|change| (change.field, change.impact))
        .collect();
    let trigger = (prior.reboot_trigger.as_ref(), planned.reboot_trigger.as_ref());
    if trigger.0 != trigger.1 {
        changes.push(("reboot_trigger", Impact::Reboot));
    }
    changes.retain(|(_, impact)| *impact >= Impact::Reboot);
    let worst = changes.iter().map(|(_, impact)| *impact).max()?;
    let causes: Vec<_> =
        changes.iter().map(|(field, impact)| format!("- `{field}`: {impact}")).collect();
    Some(
        Diagnostic::warning(format!("This change {} the running machine", verb(worst)))
            .detail(format!("Machine {id}, impact: {worst}. Because of\n{}", causes.join("\n"))),
    )
}

const fn verb(impact: Impact) -> &'static str {
    match impact {
        Impact::None | Impact::Hot => "changes",
        Impact::Reboot => "restarts",
        Impact::Stop => "stops",
        Impact::Rebuild => "rebuilds the boot volume of",
        Impact::Move => "moves",
    }
}
