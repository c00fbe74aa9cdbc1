//! One noun's rows in memory: by id and by account, both in order, for lookups and pages.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
    ops::Bound,
    sync::Arc,
};

use fairmazon_model::{
    access::{Account, Credential},
    host::Host,
    id::{AccountId, HostId, InstanceId, OperationId, PlacementGroupId, TokenId, VolumeId},
    instance::Instance,
    limits,
    operation::Operation,
    placement::PlacementGroup,
    units::Revision,
    volume::Volume,
};
use rustc_hash::FxHashMap;

/// What the table needs to know of a row.
pub(crate) trait Keyed {
    type Id: Copy + Ord + Hash;
    fn id(&self) -> Self::Id;
    fn owner(&self) -> AccountId;
    fn revision(&self) -> Revision;
}

macro_rules! keyed {
    ($($row:ty, $id:ty, $owner:ident;)+) => {$(
        impl Keyed for $row {
            type Id = $id;
            fn id(&self) -> $id { self.id }
            fn owner(&self) -> AccountId { self.$owner }
            fn revision(&self) -> Revision { self.revision }
        }
    )+};
}

keyed! {
    Account, AccountId, id;
    Credential, TokenId, account;
    Host, HostId, account;
    PlacementGroup, PlacementGroupId, account;
    Volume, VolumeId, account;
    Instance, InstanceId, account;
    Operation, OperationId, account;
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest<Id> {
    /// Only rows with a greater id.
    pub after: Option<Id>,
    /// Most rows; 0 or too many means the largest page.
    pub limit: u32,
}

impl<Id> PageRequest<Id> {
    /// The first page, as large as they come.
    pub const fn first() -> Self {
        Self { after: None, limit: 0 }
    }

    /// How many rows the page has at most.
    pub(crate) const fn size(&self) -> usize {
        let fits = self.limit > 0 && self.limit <= limits::PAGE_MAX;
        (if fits { self.limit } else { limits::PAGE_MAX }) as usize
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, Id> {
    /// The rows, by ascending id.
    pub items: Vec<T>,
    /// The id that the next page is after; none when this is the last.
    pub next: Option<Id>,
    /// The revision that the page shows.
    pub revision: Revision,
}

impl<T, Id> Page<T, Id> {
    /// The page of what follows it: `found` has one more than the page holds where there is more.
    pub(crate) fn of(
        mut found: Vec<T>,
        size: usize,
        id: impl Fn(&T) -> Id,
        revision: Revision,
    ) -> Self {
        let more = found.len() > size;
        found.truncate(size);
        let next = found.last().filter(|_| more).map(id);
        Self { items: found, next, revision }
    }
}

/// The rows of one noun.
pub(crate) struct Table<T: Keyed> {
    /// Looked up several times for each machine of each report, so not searched in a tree. The
    /// broker makes all ids itself: nobody can choose ones that collide.
    rows: FxHashMap<T::Id, Arc<T>>,
    order: BTreeSet<T::Id>,
    by_account: BTreeMap<AccountId, BTreeSet<T::Id>>,
}

impl<T: Keyed> Default for Table<T> {
    fn default() -> Self {
        Self { rows: FxHashMap::default(), order: BTreeSet::new(), by_account: BTreeMap::new() }
    }
}

impl<T: Keyed> Table<T> {
    pub(crate) fn get(&self, id: T::Id) -> Option<&Arc<T>> {
        self.rows.get(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.order.iter().filter_map(|id| self.rows.get(id))
    }

    pub(crate) fn count_of(&self, account: AccountId) -> u64 {
        self.by_account.get(&account).map_or(0, |ids| ids.len() as u64)
    }

    pub(crate) fn of_account(&self, account: AccountId) -> impl Iterator<Item = &Arc<T>> {
        self.by_account.get(&account).into_iter().flatten().filter_map(|id| self.rows.get(id))
    }

    /// Puts the row, unless a later version of it is there already; answers the version before.
    pub(crate) fn put(&mut self, row: Arc<T>) -> Put<T> {
        let (id, owner) = (row.id(), row.owner());
        if let Some(present) = self.rows.get(&id)
            && present.revision() > row.revision()
        {
            return Put::Stale;
        }
        match self.rows.insert(id, row) {
            Some(before) => Put::Replaced(before),
            None => {
                self.order.insert(id);
                self.by_account.entry(owner).or_default().insert(id);
                Put::New
            }
        }
    }

    pub(crate) fn remove(&mut self, id: T::Id) -> Option<Arc<T>> {
        let row = self.rows.remove(&id)?;
        self.order.remove(&id);
        if let Some(ids) = self.by_account.get_mut(&row.owner()) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_account.remove(&row.owner());
            }
        }
        Some(row)
    }

    /// The rows after `after` by ascending id that `wanted` takes: of one account or of all.
    /// Answers at most `limit` of them, and whether there are more.
    pub(crate) fn page(
        &self,
        account: Option<AccountId>,
        after: Option<T::Id>,
        limit: usize,
        wanted: impl Fn(&T) -> bool,
    ) -> (Vec<Arc<T>>, bool) {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut found: Vec<Arc<T>> = match account {
            Some(account) => self
                .by_account
                .get(&account)
                .into_iter()
                .flat_map(|ids| ids.range(from))
                .filter_map(|id| self.rows.get(id))
                .filter(|row| wanted(row))
                .take(limit + 1)
                .cloned()
                .collect(),
            None => self
                .order
                .range(from)
                .filter_map(|id| self.rows.get(id))
                .filter(|row| wanted(row))
                .take(limit + 1)
                .cloned()
                .collect(),
        };
        let more = found.len() > limit;
        found.truncate(limit);
        (found, more)
    }
}

/// What putting a row did.
pub(crate) enum Put<T> {
    /// It was not there before.
    New,
    /// This version was there before.
    Replaced(Arc<T>),
    /// Nothing: what is there is later.
    Stale,
}
