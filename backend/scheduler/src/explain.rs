//! Why no host will do: which rule excluded how many, and where the machine would fit.

use std::fmt::{self, Write as _};

use fairmazon_model::{DomainError, ErrorKind, geo::Coordinates};
use rustc_hash::FxHashSet;

use crate::{
    Near, Request, Rule, Size,
    choose::{chord_km, list},
    fleet::{Fleet, unit_vector},
    rules::{Query, Rules},
};

/// Most sites and flavors that an explanation proposes.
const PROPOSALS: usize = 3;

/// Why no host will do, for the first of the request's sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct WhyNot {
    /// How many hosts there are.
    pub hosts: u32,
    /// The rules that excluded a host, in their fixed order.
    pub rules: Vec<RuleCount>,
    /// Sites where it would fit if neither countries nor regions were limited, the nearest
    /// first (three at most).
    pub sites: Vec<SiteFit>,
    /// Flavors that would fit now, as the request lists its alternatives.
    pub flavors: Vec<String>,
    /// The explanation as one text.
    pub text: String,
}

/// What one rule did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleCount {
    /// The rule.
    pub rule: Rule,
    /// Hosts for which it is the first rule that they break; over all rules these add up to
    /// all hosts.
    pub first: u32,
    /// Hosts for which it is the only one: they would do if it were lifted.
    pub only: u32,
}

/// A site where the machine would fit.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteFit {
    /// The site's name.
    pub site: String,
    /// Its country.
    pub country: String,
    /// How far it is from where the machine was wanted, in km, where that is known.
    pub distance_km: Option<f64>,
}

/// Explains why nothing fits.
pub(crate) fn why_not(fleet: &Fleet, request: &Request) -> WhyNot {
    let nothing = Size {
        flavor: String::new(),
        vcpus: fairmazon_model::units::Vcpus(0),
        memory: fairmazon_model::units::Mib(0),
    };
    let query = Query::new(fleet, request, request.sizes.first().unwrap_or(&nothing));
    let mut counts = Counts::none();
    let (mut elsewhere, mut too_small, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    let mut sites = FxHashSet::default();
    for (index, slot) in fleet.occupied() {
        let broken = query.broken(index, slot);
        counts.add(broken);
        if !broken.meets(PLACE) {
            wanted.push(fleet.points[index as usize]);
        }
        if !broken.is_empty() && broken.within(PLACE) && sites.insert(slot.site) {
            elsewhere.push(index);
        }
        if broken.within(SIZE) {
            too_small.push((query.left(index, slot), slot.threads));
        }
    }
    let mut answer = WhyNot {
        hosts: fleet.len() as u32,
        rules: counts.found(),
        sites: nearest_sites(fleet, request.preferences.near.as_ref(), &wanted, &elsewhere),
        flavors: smaller(request, &too_small),
        text: String::new(),
    };
    answer.text = answer.describe(request, query.size);
    answer
}

/// Explains why no host will do for several machines at once, by what each host breaks. `request` and
/// `size` are all of them as one.
pub(crate) fn why_not_all(
    fleet: &Fleet,
    request: &Request,
    size: &Size,
    broken_by: &[(u32, Rules)],
) -> WhyNot {
    let mut counts = Counts::none();
    broken_by.iter().for_each(|(_, broken)| counts.add(*broken));
    let mut answer = WhyNot {
        hosts: fleet.len() as u32,
        rules: counts.found(),
        sites: Vec::new(),
        flavors: Vec::new(),
        text: String::new(),
    };
    answer.text = answer.describe(request, size);
    answer
}

/// What the rules did, by their places in [`Rule::ALL`].
struct Counts([RuleCount; Rule::ALL.len()]);

impl Counts {
    fn none() -> Self {
        Self(Rule::ALL.map(|rule| RuleCount { rule, first: 0, only: 0 }))
    }

    fn add(&mut self, broken: Rules) {
        if let Some(rule) = broken.first() {
            self.0[rule.index()].first += 1;
        }
        if let Some(rule) = broken.single() {
            self.0[rule.index()].only += 1;
        }
    }

    /// Those that excluded a host.
    fn found(self) -> Vec<RuleCount> {
        self.0.into_iter().filter(|count| count.first + count.only > 0).collect()
    }
}

/// Where the machine may be.
const PLACE: Rules = Rules::of(&[Rule::Country, Rule::Region]);
/// What another flavor may change.
const SIZE: Rules = Rules::of(&[Rule::Vcpus, Rule::Memory, Rule::RealMemory]);

/// The nearest of the slots' sites.
fn nearest_sites(
    fleet: &Fleet,
    near: Option<&Near>,
    wanted: &[[f64; 3]],
    elsewhere: &[u32],
) -> Vec<SiteFit> {
    // Without a wish of its own the machine was wanted in the middle of the hosts that are
    // where it may be.
    let near: Vec<_> =
        near.iter().flat_map(|near| &near.points).map(|point| unit_vector(*point)).collect();
    let middle = centre(&near).or_else(|| centre(wanted));
    let mut sites: Vec<_> = elsewhere
        .iter()
        .filter_map(|slot| {
            let site = &fleet.hosts[*slot as usize].as_ref()?.spec.site;
            let point = fleet.points[*slot as usize];
            Some((middle.map(|middle| chord_km(middle, point)), site))
        })
        .collect();
    sites.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.name.cmp(&other.name)));
    sites
        .into_iter()
        .take(PROPOSALS)
        .map(|(_, site)| SiteFit {
            site: site.name.clone(),
            country: site.country.clone(),
            distance_km: middle.map(|middle| coordinates(middle).distance_km(site.coordinates)),
        })
        .collect()
}

/// The middle of points on the sphere; none when they have none.
fn centre(points: &[[f64; 3]]) -> Option<[f64; 3]> {
    let sum = points.iter().fold([0.0; 3], |sum: [f64; 3], point| {
        [sum[0] + point[0], sum[1] + point[1], sum[2] + point[2]]
    });
    let length = sum.iter().map(|part| part * part).sum::<f64>().sqrt();
    (length > 1e-6).then(|| sum.map(|part| part / length))
}

fn coordinates(point: [f64; 3]) -> Coordinates {
    Coordinates {
        latitude: point[2].clamp(-1.0, 1.0).asin().to_degrees(),
        longitude: point[1].atan2(point[0]).to_degrees(),
    }
}

/// Alternatives that fit on a host which only lacks vCPU or memory.
fn smaller(request: &Request, hosts: &[((u64, u64), u32)]) -> Vec<String> {
    request
        .alternatives
        .iter()
        .filter(|size| {
            hosts.iter().any(|((vcpus, memory), threads)| {
                size.vcpus.0 <= *threads
                    && u64::from(size.vcpus.0) <= *vcpus
                    && size.memory.0 <= *memory
            })
        })
        .map(|size| size.flavor.clone())
        .collect()
}

impl WhyNot {
    fn describe(&self, request: &Request, size: &Size) -> String {
        if self.hosts == 0 {
            return "there are no hosts yet".into();
        }
        let mut text = match self.hosts {
            1 => "the only host does not fit".to_owned(),
            hosts => format!("none of {hosts} hosts fits"),
        };
        let excluded: Vec<_> = self
            .rules
            .iter()
            .filter(|count| count.first > 0)
            .map(|count| format!("{}: {}", broken_words(count.rule, request, size), count.first))
            .collect();
        let _ = write!(text, " ({})", excluded.join("; "));
        let alone: Vec<_> = self
            .rules
            .iter()
            .filter(|count| count.only > 0)
            .map(|count| format!("{} ({})", count.rule, count.only))
            .collect();
        if !alone.is_empty() {
            let _ = write!(text, "; hosts that would do but for one thing: {}", alone.join(", "));
        }
        text
    }

    /// What the customer can do, where something is known; may be empty.
    pub fn advice(&self) -> String {
        let sites = self.sites.iter().map(|fit| match fit.distance_km {
            Some(km) => format!("{} in {}, {km:.0} km away", fit.site, fit.country),
            None => format!("{} in {}", fit.site, fit.country),
        });
        let sites = sites.collect::<Vec<_>>().join("; ");
        let flavors = list(self.flavors.iter().rev().take(PROPOSALS).rev(), "or");
        match (sites.is_empty(), flavors.is_empty()) {
            (true, true) => String::new(),
            (true, false) => format!("the flavor {flavors} would fit"),
            (false, true) => format!("it would fit elsewhere: {sites}"),
            (false, false) => {
                format!("the flavor {flavors} would fit, or other places: {sites}")
            }
        }
    }
}

/// What is wrong with a host that breaks the rule.
fn broken_words(rule: Rule, request: &Request, size: &Size) -> String {
    let placement = &request.placement;
    match rule {
        Rule::Volumes if request.volume_hosts.len() > 1 => {
            "its volumes are on different hosts".into()
        }
        Rule::Volumes => "not the host of its volumes".into(),
        Rule::Excluded => "left out for now".into(),
        Rule::Country => format!("not in {}", list(&placement.countries, "or")),
        Rule::Region => format!("not in {}", list(&placement.regions, "or")),
        Rule::Conformity => format!("below host standard level {}", placement.min_conformity),
        Rule::Confidential => "without confidential computing".into(),
        Rule::Features => format!("without {}", list(&request.features, "or")),
        Rule::Image => format!("without the image {}", list(request.images.keys(), "and")),
        Rule::ImageVersion => {
            // Which of them it is may differ from host to host, and one that has just connected has
            // told none.
            let told = request.images.iter().filter(|(_, version)| version.is_some());
            format!("with another version of the image {}", list(told.map(|(id, _)| id), "or"))
        }
        Rule::With => "not with its group's machines".into(),
        Rule::NotWith => "with a machine it must keep apart from".into(),
        Rule::Alive => "not reachable now".into(),
        Rule::Schedulable => "closed to new machines".into(),
        Rule::Conforms => "not conforming to the host standard".into(),
        Rule::Draining => "being emptied".into(),
        Rule::Incapable => "without an agent that takes machines from its host".into(),
        Rule::Vcpus => format!("less than {} free", size.vcpus),
        Rule::Memory => format!("less than {} free", size.memory),
        Rule::RealMemory => {
            format!("less than {} free for machines that are not spot", size.memory)
        }
        Rule::Storage => {
            let needs: Vec<_> =
                request.storage.iter().map(|(class, gib)| format!("{gib} of {class}")).collect();
            format!("less than {} free", list(&needs, "and"))
        }
        Rule::Specifications => "too much user data and keys of its machines".into(),
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for WhyNot {}

impl From<&WhyNot> for DomainError {
    fn from(why: &WhyNot) -> Self {
        let advice = match why.advice() {
            none if none.is_empty() => "ask for less, loosen the placement, or try later".into(),
            known => known,
        };
        Self::new(ErrorKind::NoCapacity, why.text.clone()).advise(advice)
    }
}
