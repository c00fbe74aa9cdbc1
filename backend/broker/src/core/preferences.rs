//! What customers prefer among the hosts that will do, as the scheduler weighs it.

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_model::{DomainError, geo::Coordinates, placement::Preferences};
use fairmazon_scheduler::Near;

use super::state::State;

/// Most names that a refusal lists.
const NAMES_MOST: usize = 50;

/// Refuses a place that the platform does not have. One that it had stays allowed in what names it
/// already.
pub(crate) fn check_near(
    state: &State,
    old: Option<&Preferences>,
    new: &Preferences,
) -> Result<(), DomainError> {
    let Some(near) = new.near.as_deref() else { return Ok(()) };
    if old.is_some_and(|old| old.near.as_deref() == Some(near)) || place(state, near).is_some() {
        return Ok(());
    }
    let sites = || state.world.hosts.iter().map(|host| &host.spec.site);
    let regions: BTreeSet<_> = sites().map(|site| site.region.as_str()).collect();
    let names: BTreeSet<_> = sites().map(|site| site.name.as_str()).collect();
    let all = regions.len() + names.len();
    let listed: Vec<_> = regions.into_iter().chain(names).take(NAMES_MOST).collect();
    let advice = match all - listed.len() {
        _ if listed.is_empty() => "the platform has no sites yet: leave it out".to_owned(),
        0 => format!("its regions and sites are {}", listed.join(", ")),
        more => format!("its regions and sites are {} and {more} more", listed.join(", ")),
    };
    let message = format!("the platform has no site or region `{}`", near.escape_debug());
    Err(DomainError::invalid("placement.near", message).advise(advice))
}

/// What is preferred, for the scheduler. A place that is gone is no preference any more.
pub(crate) fn weighed(
    state: &State,
    preferences: &Preferences,
) -> fairmazon_scheduler::Preferences {
    let near = preferences.near.as_deref().and_then(|near| place(state, near));
    fairmazon_scheduler::Preferences::of(preferences.prefer, near)
}

/// The site of this name, else the sites of the region of this name.
fn place(state: &State, name: &str) -> Option<Near> {
    let (mut site, mut region) = (None, BTreeMap::new());
    for host in state.world.hosts.iter() {
        let found = &host.spec.site;
        if found.name == name {
            site.get_or_insert(found.coordinates);
        }
        if found.region == name {
            region.entry(&found.name).or_insert(found.coordinates);
        }
    }
    let points: Vec<Coordinates> = match site {
        Some(site) => vec![site],
        None => region.into_values().collect(),
    };
    (!points.is_empty()).then(|| Near { name: name.to_owned(), points })
}
