//! Choosing the best of the hosts that obey every rule, and saying why it was that one.
//!
//! Scores are whole numbers, so that every machine computes the same; the lowest wins, and
//! the seed decides between equals.

use fairmazon_model::id::HostId;

use crate::{
    Arrangement, FleetHost, Request,
    fleet::{Fleet, Slot, unit_vector},
    rules::Query,
};

/// What the terms of a score are about, each before its weight.
const SCALE: u64 = 1_000;

/// Where a machine goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The host.
    pub host: HostId,
    /// The flavor: the first of the request's sizes that fits anywhere.
    pub flavor: String,
    /// Why this host, for the customer.
    pub reason: String,
    /// How many hosts would have done.
    pub candidates: u32,
}

/// What is compared, each the lower the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Terms {
    price: u64,
    /// Of 1000: how full the host is then, or how empty when hosts are packed.
    arrangement: u64,
    /// Kilometres through the earth: ordered as the distance over it and cheap to compute.
    distance: u64,
}

impl Terms {
    const LOWEST: Self = Self { price: 0, arrangement: 0, distance: 0 };
    const HIGHEST: Self = Self { price: u64::MAX, arrangement: u64::MAX, distance: u64::MAX };

    fn of(query: &Query<'_>, distance: u64, index: u32, slot: &Slot) -> Self {
        let (vcpus, memory) = query.taken(index, slot);
        let full = slot
            .vcpus_scale
            .permille(vcpus.saturating_add(query.size.vcpus.0.into()))
            .max(slot.memory_scale.permille(memory.saturating_add(query.size.memory.0)));
        Self {
            price: slot.price_percent.into(),
            arrangement: match query.request.preferences.arrangement {
                Arrangement::Spread => full,
                Arrangement::Pack => 1_000_u64.saturating_sub(full),
            },
            distance,
        }
    }

    /// The weighted sum; every term on a scale of about a thousand.
    fn score(self, request: &Request) -> u64 {
        let preferences = &request.preferences;
        self.price * 10 * u64::from(preferences.price_weight)
            + self.arrangement * u64::from(preferences.arrangement_weight)
            + self.distance * u64::from(preferences.near_weight) / 10
    }

    fn lower(self, other: Self) -> Self {
        Self {
            price: self.price.min(other.price),
            arrangement: self.arrangement.min(other.arrangement),
            distance: self.distance.min(other.distance),
        }
    }

    fn higher(self, other: Self) -> Self {
        Self {
            price: self.price.max(other.price),
            arrangement: self.arrangement.max(other.arrangement),
            distance: self.distance.max(other.distance),
        }
    }
}

/// The length of the straight line between two points of the sphere in km.
pub(crate) fn chord_km(a: [f64; 3], b: [f64; 3]) -> u64 {
    let square: f64 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
    (square.sqrt() * 6_371.0) as u64
}

/// Where the machine should be close to, as points of the unit sphere.
pub(crate) fn points(query: &Query<'_>) -> Vec<[f64; 3]> {
    let near = query.request.preferences.near.iter().flat_map(|near| &near.points);
    near.map(|point| unit_vector(*point)).collect()
}

/// How far a host is from the nearest of these; 0 where there are none.
fn distance(near: &[[f64; 3]], here: [f64; 3]) -> u64 {
    near.iter().map(|near| chord_km(*near, here)).min().unwrap_or(0)
}

/// How good the host is for the query, the lower the better. `near` are its [`points`].
pub(crate) fn score(
    fleet: &Fleet,
    query: &Query<'_>,
    near: &[[f64; 3]],
    index: u32,
    slot: &Slot,
) -> u64 {
    let distance = distance(near, fleet.points[index as usize]);
    Terms::of(query, distance, index, slot).score(query.request)
}

struct Best {
    /// Score, then the seed's choice between equals.
    order: (u64, u64),
    terms: Terms,
    slot: u32,
}

/// The best of the hosts that obey every rule, beside the range of all of them.
struct Found {
    best: Best,
    lowest: Terms,
    highest: Terms,
    candidates: u32,
}

/// The best host for the query's size; none when no host obeys every rule.
pub(crate) fn best(fleet: &Fleet, query: &Query<'_>) -> Option<Placed> {
    placed(fleet, query, find(fleet, query)?)
}

/// The best host for the query's size, which leaves the host at `from` out; none when it is not
/// better than that by `percent` of the scale of what is preferred most.
pub(crate) fn better(fleet: &Fleet, query: &Query<'_>, from: u32, percent: u8) -> Option<Placed> {
    let preferences = &query.request.preferences;
    let distance = distance(&points(query), fleet.points[from as usize]);
    let own = Terms::of(query, distance, from, &fleet.slots[from as usize]).score(query.request);
    let near_weight = if preferences.near.is_some() { preferences.near_weight } else { 0 };
    let heaviest = preferences.price_weight.max(preferences.arrangement_weight).max(near_weight);
    let least = SCALE / 100 * u64::from(percent) * u64::from(heaviest);
    let found = find(fleet, query)?;
    let is_better = found.best.order.0.saturating_add(least) <= own;
    is_better.then(|| placed(fleet, query, found)).flatten()
}

fn find(fleet: &Fleet, query: &Query<'_>) -> Option<Found> {
    let near = points(query);
    let (mut lowest, mut highest) = (Terms::HIGHEST, Terms::LOWEST);
    let (mut best, mut candidates) = (None::<Best>, 0);
    for (index, slot) in fleet.occupied() {
        if !query.fits(index, slot) {
            continue;
        }
        candidates += 1;
        let distance = distance(&near, fleet.points[index as usize]);
        let terms = Terms::of(query, distance, index, slot);
        lowest = lowest.lower(terms);
        highest = highest.higher(terms);
        let order = (terms.score(query.request), slot.tie);
        if best.as_ref().is_none_or(|best| order < best.order) {
            best = Some(Best { order, terms, slot: index });
        }
    }
    Some(Found { best: best?, lowest, highest, candidates })
}

fn placed(fleet: &Fleet, query: &Query<'_>, found: Found) -> Option<Placed> {
    let Found { best, lowest, highest, candidates } = found;
    let host = fleet.hosts[best.slot as usize].as_ref()?;
    let why = why(query.request, best.terms, lowest, highest);
    Some(Placed {
        host: host.id,
        flavor: query.size.flavor.clone(),
        reason: reason(query, host, why, candidates),
        candidates,
    })
}

/// The preference that the host is best in and others are not, the heaviest first.
fn why(request: &Request, chosen: Terms, lowest: Terms, highest: Terms) -> Option<&'static str> {
    let preferences = &request.preferences;
    let arrangement = match preferences.arrangement {
        Arrangement::Spread => "emptiest",
        Arrangement::Pack => "fullest",
    };
    let near_weight = if preferences.near.is_some() { preferences.near_weight } else { 0 };
    let mut reasons = [
        (preferences.price_weight, chosen.price, lowest.price, highest.price, "cheapest"),
        (near_weight, chosen.distance, lowest.distance, highest.distance, "nearest"),
        (
            preferences.arrangement_weight,
            chosen.arrangement,
            lowest.arrangement,
            highest.arrangement,
            arrangement,
        ),
    ];
    reasons.sort_by_key(|(weight, ..)| std::cmp::Reverse(*weight));
    reasons
        .into_iter()
        .find(|(weight, chosen, lowest, highest, _)| {
            *weight > 0 && chosen == lowest && lowest < highest
        })
        .map(|(.., word)| word)
}

fn reason(query: &Query<'_>, host: &FleetHost, why: Option<&str>, candidates: u32) -> String {
    let size = query.size;
    let choice = match (candidates, why) {
        (1, _) => "the only host".to_owned(),
        (_, Some(why)) => format!("{why} of {candidates} hosts"),
        (_, None) => format!("best of {candidates} hosts"),
    };
    let near = query.request.preferences.near.as_ref();
    let distance = near
        .and_then(|near| Some((near, near.distance_km(host.spec.site.coordinates)?)))
        .map_or_else(String::new, |(near, km)| format!(", {km:.0} km from {}", near.name));
    format!(
        "{}: {choice}{} with {} and {} free{distance}",
        host.spec.site.name,
        place_words(query.request),
        size.vcpus,
        size.memory
    )
}

/// ` in DE or FR`, ` in eu-central`, or nothing.
pub(crate) fn place_words(request: &Request) -> String {
    let placement = &request.placement;
    let mut text = String::new();
    for names in [&placement.countries, &placement.regions] {
        if !names.is_empty() {
            text.push_str(if text.is_empty() { " in " } else { ", " });
            text.push_str(&list(names, "or"));
        }
    }
    text
}

/// `a, b or c`.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a String>, last: &str) -> String {
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., end] => format!("{} {last} {end}", first.join(", ")),
    }
}
