//! One host for machines that have to be on one host: each one's own constraints hold there, and
//! there is room for all of them at once.

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_model::{
    catalogue::ImageVersions,
    id::{HostId, InstanceId},
    placement::Placement,
    units::{Gib, Mib, Vcpus},
};

use crate::{
    Preferences, Request, Rule, Size, WhyNot,
    choose::{points, score},
    explain,
    fleet::{Fleet, Slot},
    rules::{Query, Rules},
};

/// One of the machines that have to be on one host.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Where it is.
    pub at: HostId,
    /// Whether it may stay there.
    pub stays: bool,
    /// What it asks of another host, for the last of its sizes; none when it can't leave. That the
    /// host has its groups' machines is not asked: they are the other members.
    pub elsewhere: Option<Request>,
}

impl Fleet {
    /// Finds the host for all of these, on which some of them may be already: the fewest go, and then
    /// it is the one that is best for those that do. `only` is the one that it has to be, if there is
    /// one. Changes nothing.
    ///
    /// # Errors
    /// [`WhyNot`] when no host obeys every rule for all that would go there.
    pub fn gather(&self, members: &[Member], only: Option<HostId>) -> Result<HostId, Box<WhyNot>> {
        let asked: Vec<_> = members.iter().map(|member| Asked::of(self, member)).collect();
        let mut best = None;
        let mut broken_by = Vec::new();
        for (index, slot) in self.occupied() {
            let Some(host) = self.hosts[index as usize].as_ref().map(|host| host.id) else {
                continue;
            };
            let broken = if only.is_some_and(|only| only != host) {
                Rules::of(&[Rule::Excluded])
            } else {
                self.broken_by_all(&asked, host, index, slot)
            };
            broken_by.push((index, broken));
            if !broken.is_empty() {
                continue;
            }
            let going = || asked.iter().filter(|asked| asked.member.at != host);
            let scores = going().filter_map(|asked| {
                let (query, near) = asked.query.as_ref()?;
                Some(score(self, query, near, index, slot))
            });
            let order = (going().count(), scores.fold(0, u64::saturating_add), slot.tie);
            if best.is_none_or(|(least, _)| order < least) {
                best = Some((order, host));
            }
        }
        best.map(|(_, host)| host).ok_or_else(|| {
            let (request, size) = sum(members);
            Box::new(explain::why_not_all(self, &request, &size, &broken_by))
        })
    }

    /// What the host breaks for any of them, or for all that go there together.
    fn broken_by_all(&self, asked: &[Asked<'_>], host: HostId, index: u32, slot: &Slot) -> Rules {
        let left_out = Rules::of(&[Rule::Excluded]);
        let mut broken = if clash(asked) { Rules::of(&[Rule::NotWith]) } else { Rules::default() };
        let mut wanted = Wanted::default();
        for Asked { member, query } in asked {
            if member.at == host {
                if !member.stays {
                    broken = broken.and(left_out);
                }
                continue;
            }
            let Some((query, _)) = query else {
                broken = broken.and(left_out);
                continue;
            };
            let own = query.broken(index, slot).without(Rules::of(&[Rule::With]));
            broken = broken.and(own);
            wanted.add(query);
        }
        if broken.is_empty() && wanted.machines == 0 {
            // All of them are there.
            return left_out;
        }
        broken.and(wanted.broken(self, index, slot))
    }
}

/// A member with its request in the fleet's own numbers, and the points that it likes to be near to.
struct Asked<'a> {
    member: &'a Member,
    query: Option<(Query<'a>, Vec<[f64; 3]>)>,
}

impl<'a> Asked<'a> {
    fn of(fleet: &'a Fleet, member: &'a Member) -> Self {
        let query = member.elsewhere.as_ref().and_then(|request| {
            let query = Query::new(fleet, request, request.sizes.last()?);
            let near = points(&query);
            Some((query, near))
        });
        Self { member, query }
    }
}

/// Whether one of them keeps apart from a group of another one: no host will do for both.
fn clash(asked: &[Asked<'_>]) -> bool {
    let placements = || {
        let requests = asked.iter().filter_map(|asked| asked.member.elsewhere.as_ref());
        requests.map(|request| (request.machine, &request.placement))
    };
    placements().any(|(machine, placement)| {
        let others = || placements().filter(|(other, _)| *other != machine);
        let names = |group| others().any(|(_, theirs)| theirs.names(group));
        placement.not_with.iter().copied().any(names)
    })
}

/// What all that go to a host need of it.
#[derive(Default)]
struct Wanted {
    machines: u32,
    vcpus: u64,
    memory: u64,
    real_memory: u64,
    specifications: u64,
    /// By the number of the storage class.
    storage: BTreeMap<u32, u64>,
}

impl Wanted {
    fn add(&mut self, query: &Query<'_>) {
        self.machines += 1;
        self.vcpus += u64::from(query.size.vcpus.0);
        self.memory += query.size.memory.0;
        self.real_memory += if query.request.spot { 0 } else { query.size.memory.0 };
        self.specifications += query.request.specification;
        for (class, size) in &query.storage {
            *self.storage.entry(*class).or_default() += size;
        }
    }

    fn broken(&self, fleet: &Fleet, index: u32, slot: &Slot) -> Rules {
        let lacks_storage = || {
            self.storage.iter().any(|(class, size)| fleet.stock(index, slot, *class).free() < *size)
        };
        let lacks_memory = self.memory > slot.memory.free();
        let lacks_real_memory = self.real_memory > slot.real_memory.free();
        let lacking = [
            (Rule::Vcpus, self.vcpus > slot.vcpus.free()),
            (Rule::Memory, lacks_memory),
            // Where even less is sold than there is, that is the reason.
            (Rule::RealMemory, lacks_real_memory && !lacks_memory),
            (Rule::Storage, lacks_storage()),
            (Rule::Specifications, self.specifications > slot.specifications.free()),
        ];
        let lacking = lacking.into_iter().filter(|(_, lacks)| *lacks);
        lacking.fold(Rules::default(), |broken, (rule, _)| broken.and(Rules::of(&[rule])))
    }
}

/// All of them as one, for words.
fn sum(members: &[Member]) -> (Request, Size) {
    let mut size = Size { flavor: String::new(), vcpus: Vcpus(0), memory: Mib(0) };
    let mut all = nothing();
    for request in members.iter().filter_map(|member| member.elsewhere.as_ref()) {
        if let Some(last) = request.sizes.last() {
            size.vcpus = Vcpus(size.vcpus.0.saturating_add(last.vcpus.0));
            size.memory = Mib(size.memory.0.saturating_add(last.memory.0));
        }
        for (class, gib) in &request.storage {
            let sum = all.storage.entry(class.clone()).or_insert(Gib(0));
            *sum = sum.saturating_add(*gib);
        }
        all.images.extend(request.images.iter().map(|(id, version)| (id.clone(), *version)));
        all.features.extend(request.features.iter().cloned());
        let (own, theirs) = (&mut all.placement, &request.placement);
        own.countries.extend(theirs.countries.iter().cloned());
        own.regions.extend(theirs.regions.iter().cloned());
        own.min_conformity = own.min_conformity.max(theirs.min_conformity);
    }
    (all, size)
}

fn nothing() -> Request {
    Request {
        machine: InstanceId::from_parts(0, 0),
        sizes: Vec::new(),
        storage: BTreeMap::new(),
        specification: 0,
        images: ImageVersions::new(),
        placement: Placement::default(),
        features: BTreeSet::new(),
        volume_hosts: BTreeSet::new(),
        excluded: BTreeSet::new(),
        incapable: BTreeSet::new(),
        spot: false,
        preferences: Preferences::default(),
        alternatives: Vec::new(),
    }
}
