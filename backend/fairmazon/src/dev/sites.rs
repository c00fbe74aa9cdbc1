//! Where the hosts of `fairmazon dev` stand: real towns of the EU, two sites in one of them.

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_model::{
    geo::Coordinates,
    host::{Capacity, HostSpec},
    site::Site,
    units::{Gib, Mib, Vcpus},
};

/// A site: name, town, country, region, degrees north, degrees east, and the host standard
/// level of what stands there.
type Row = (&'static str, &'static str, &'static str, &'static str, f64, f64, u8);

const SITES: [Row; 7] = [
    ("fra1", "Frankfurt am Main", "DE", "eu-central", 50.1188, 8.7355, 3),
    ("fra2", "Frankfurt am Main", "DE", "eu-central", 50.0995, 8.6320, 2),
    ("nue1", "Nürnberg", "DE", "eu-central", 49.4521, 11.0767, 1),
    ("ams1", "Amsterdam", "NL", "eu-west", 52.3030, 4.9380, 2),
    ("par1", "Paris", "FR", "eu-west", 48.9190, 2.3520, 2),
    ("hel1", "Helsinki", "FI", "eu-north", 60.1699, 24.9384, 3),
    ("waw1", "Warszawa", "PL", "eu-east", 52.2297, 21.0122, 1),
];

/// The hosts, `per_site` at each site; equal ones each time.
pub(crate) fn hosts(per_site: u16) -> Vec<HostSpec> {
    let numbers = 1..=per_site;
    SITES.iter().flat_map(|site| numbers.clone().map(move |number| host(site, number))).collect()
}

/// How many sites there are.
pub(crate) const fn count() -> usize {
    SITES.len()
}

fn host(row: &Row, number: u16) -> HostSpec {
    let (name, town, country, region, latitude, longitude, conformity) = *row;
    HostSpec {
        name: format!("{name}-{number:02}"),
        site: Site {
            name: name.to_owned(),
            town: town.to_owned(),
            country: country.to_owned(),
            region: region.to_owned(),
            coordinates: Coordinates { latitude, longitude },
        },
        capacity: Capacity {
            vcpus: Vcpus(64),
            memory: Mib(256 * 1_024),
            storage: BTreeMap::from([
                ("fast".to_owned(), Gib(4_096)),
                ("standard".to_owned(), Gib(16_384)),
            ]),
        },
        cpu_overcommit_percent: 400,
        memory_overcommit_percent: 100,
        conformity,
        features: if conformity == 3 {
            BTreeSet::from(["confidential".to_owned()])
        } else {
            BTreeSet::new()
        },
        price_percent: 90 + 5 * u32::from(conformity),
        schedulable: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The members of the EU that have sites, and within which degrees north and east they lie.
    const MEMBERS: [(&str, [f64; 2], [f64; 2]); 5] = [
        ("DE", [47.2, 55.1], [5.8, 15.1]),
        ("FI", [59.7, 70.1], [20.5, 31.6]),
        ("FR", [41.3, 51.1], [-5.2, 9.6]),
        ("NL", [50.7, 53.6], [3.3, 7.3]),
        ("PL", [49.0, 54.9], [14.1, 24.2]),
    ];

    #[test]
    fn each_site_lies_in_its_country_which_is_a_member_of_the_eu() {
        for (name, _, country, _, north, east, _) in SITES {
            let member = MEMBERS.iter().find(|member| member.0 == country);
            let (_, norths, easts) = member.unwrap_or_else(|| panic!("{name} is in {country}"));
            assert!((norths[0]..norths[1]).contains(&north), "{name}: {north} is not in {country}");
            assert!((easts[0]..easts[1]).contains(&east), "{name}: {east} is not in {country}");
        }
    }

    #[test]
    fn the_sites_are_as_promised() {
        let hosts = hosts(2);
        assert!(hosts.len() >= 6);
        for host in &hosts {
            host.check().unwrap();
        }
        let sites: BTreeSet<_> = hosts.iter().map(|host| &host.site.name).collect();
        let towns: BTreeSet<_> = hosts.iter().map(|host| &host.site.town).collect();
        assert!(sites.len() >= 4 && towns.len() < sites.len());
        let names: BTreeSet<_> = hosts.iter().map(|host| &host.name).collect();
        assert_eq!(names.len(), hosts.len());
        let place = |name| hosts.iter().find(|host| host.site.name == name).unwrap();
        let apart = place("fra1").site.coordinates.distance_km(place("fra2").site.coordinates);
        assert!((1.0..20.0).contains(&apart), "two sites of one town are {apart} km apart");
    }
}
