//! All live rows in memory with the indices that commands and reconcilers look things up by.
//!
//! Owns no decision. Changed only with rows that the store has acknowledged, so it never
//! shows what could still be lost.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    sync::Arc,
};

use fairmazon_model::{
    access::{Account, Credential, CredentialKind},
    host::Host,
    id::{AccountId, HostId, InstanceId, OperationId, PlacementGroupId, TokenId, VolumeId},
    instance::Instance,
    operation::Operation,
    placement::{Placement, PlacementGroup},
    units::{Revision, UnixMs},
    volume::Volume,
};
use fairmazon_store::{Key, Row};

use super::table::{Put, Table};

/// The live rows.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) revision: Revision,
    pub(crate) accounts: Table<Account>,
    pub(crate) credentials: Table<Credential>,
    pub(crate) hosts: Table<Host>,
    pub(crate) groups: Table<PlacementGroup>,
    pub(crate) volumes: Table<Volume>,
    pub(crate) instances: Table<Instance>,
    pub(crate) operations: Table<Operation>,
    credential_by_hash: HashMap<String, TokenId>,
    credentials_of: HashMap<Holder, BTreeSet<TokenId>>,
    useless_credentials: BTreeSet<(UnixMs, TokenId)>,
    instances_on: HashMap<HostId, BTreeSet<InstanceId>>,
    volumes_on: HashMap<HostId, BTreeSet<VolumeId>>,
    volumes_maybe_on: HashMap<HostId, BTreeSet<VolumeId>>,
    /// The volumes that are still to be made as copies, by what of.
    copies: HashMap<VolumeId, BTreeSet<VolumeId>>,
    /// The instances that migrate, by where to.
    coming_to: HashMap<HostId, BTreeSet<InstanceId>>,
    /// The volumes that migrate, with the instance that they began to go with.
    moving: HashMap<VolumeId, InstanceId>,
    group_users: HashMap<PlacementGroupId, u64>,
    open_operations: HashMap<Key, BTreeSet<OperationId>>,
    finished: BTreeSet<(UnixMs, OperationId)>,
    scheduled: BTreeSet<InstanceId>,
    /// The instances that are no machines of their accounts.
    carriers: BTreeSet<(AccountId, InstanceId)>,
}

/// Whom a credential was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// The people of an account, and their programs.
    Account(AccountId),
    /// A host.
    Host(HostId),
}

impl Holder {
    fn of(row: &Credential) -> Self {
        row.host.map_or(Self::Account(row.account), Self::Host)
    }
}

/// What a change of the world was, for those who act on it.
pub(crate) enum Changed {
    Instance(Option<Arc<Instance>>, Option<Arc<Instance>>),
    Volume(Option<Arc<Volume>>, Option<Arc<Volume>>),
    Host(HostId, Option<Arc<Host>>),
    Operation(Arc<Operation>),
    Credential(Arc<Credential>),
    Other,
}

impl World {
    /// Takes over a row as the store has it.
    pub(crate) fn put(&mut self, row: Row) -> Changed {
        self.revision = self.revision.max(row.revision());
        match row {
            Row::Account(row) => {
                self.accounts.put(Arc::new(row));
                Changed::Other
            }
            Row::Credential(row) => self.put_credential(Arc::new(row)),
            Row::Host(row) => {
                let row = Arc::new(row);
                self.hosts.put(row.clone());
                Changed::Host(row.id, Some(row))
            }
            Row::PlacementGroup(row) => {
                self.groups.put(Arc::new(row));
                Changed::Other
            }
            Row::Volume(row) => self.put_volume(Arc::new(row)),
            Row::Instance(row) => self.put_instance(Arc::new(row)),
            Row::Operation(row) => self.put_operation(Arc::new(row)),
        }
    }

    /// Forgets a row that the store has deleted at `revision`.
    pub(crate) fn delete(&mut self, key: Key, revision: Revision) -> Changed {
        self.revision = self.revision.max(revision);
        match key {
            Key::Account(id) => {
                self.accounts.remove(id);
                Changed::Other
            }
            Key::Credential(id) => {
                if let Some(row) = self.credentials.remove(id) {
                    self.credential_by_hash.remove(&row.sha256);
                    self.index_credential(Some(&row), None);
                    // That it is revoked is known: to forget many is no news of as many.
                    if row.revoked_at.is_none() {
                        return Changed::Credential(row);
                    }
                }
                Changed::Other
            }
            Key::Host(id) => {
                self.hosts.remove(id);
                Changed::Host(id, None)
            }
            Key::PlacementGroup(id) => {
                self.groups.remove(id);
                Changed::Other
            }
            Key::Volume(id) => {
                let before = self.volumes.remove(id);
                self.index_volume(before.as_deref(), None);
                Changed::Volume(before, None)
            }
            Key::Instance(id) => {
                let before = self.instances.remove(id);
                self.index_instance(before.as_deref(), None);
                Changed::Instance(before, None)
            }
            Key::Operation(id) => {
                if let Some(row) = self.operations.remove(id) {
                    self.index_operation(&row, None);
                }
                Changed::Other
            }
        }
    }

    /// The revision of a row; none when it is not there.
    pub(crate) fn revision_of(&self, key: Key) -> Option<Revision> {
        match key {
            Key::Account(id) => self.accounts.get(id).map(|row| row.revision),
            Key::Credential(id) => self.credentials.get(id).map(|row| row.revision),
            Key::Host(id) => self.hosts.get(id).map(|row| row.revision),
            Key::PlacementGroup(id) => self.groups.get(id).map(|row| row.revision),
            Key::Volume(id) => self.volumes.get(id).map(|row| row.revision),
            Key::Instance(id) => self.instances.get(id).map(|row| row.revision),
            Key::Operation(id) => self.operations.get(id).map(|row| row.revision),
        }
    }

    pub(crate) fn credential_by_hash(&self, sha256: &str) -> Option<&Arc<Credential>> {
        self.credentials.get(*self.credential_by_hash.get(sha256)?)
    }

    /// A machine of a customer's.
    pub(crate) fn machine(&self, id: InstanceId) -> Option<&Arc<Instance>> {
        self.instances.get(id).filter(|row| !row.carrier)
    }

    /// All machines of customers.
    pub(crate) fn machines(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.iter().filter(|row| !row.carrier)
    }

    /// How many machines the account has.
    pub(crate) fn machines_of(&self, account: AccountId) -> u64 {
        let from = (account, InstanceId::from_parts(0, 0));
        let carriers = self.carriers.range(from..).take_while(|(of, _)| *of == account).count();
        self.instances.count_of(account).saturating_sub(carriers as u64)
    }

    /// The credentials that were made for this one, valid or not.
    pub(crate) fn credentials_of(&self, holder: Holder) -> impl Iterator<Item = &Arc<Credential>> {
        let ids = self.credentials_of.get(&holder).into_iter().flatten();
        ids.filter_map(|id| self.credentials.get(*id))
    }

    /// Credentials that nobody needed to know of any more before `end`, the oldest first.
    pub(crate) fn useless_before(&self, end: UnixMs) -> impl Iterator<Item = &Arc<Credential>> {
        let old = self.useless_credentials.iter().take_while(move |(at, _)| *at < end);
        old.filter_map(|(_, id)| self.credentials.get(*id))
    }

    /// The instances that are decided to run on the host.
    pub(crate) fn instances_on(&self, host: HostId) -> impl Iterator<Item = &Arc<Instance>> {
        let ids = self.instances_on.get(&host).into_iter().flatten();
        ids.filter_map(|id| self.instances.get(*id))
    }

    /// The volumes whose data is on the host, or shall be.
    pub(crate) fn volumes_on(&self, host: HostId) -> impl Iterator<Item = &Arc<Volume>> {
        let ids = self.volumes_on.get(&host).into_iter().flatten();
        ids.filter_map(|id| self.volumes.get(*id))
    }

    /// The volumes that were decided to be on the host in vain, and may be there.
    pub(crate) fn volumes_maybe_on(&self, host: HostId) -> impl Iterator<Item = VolumeId> {
        self.volumes_maybe_on.get(&host).into_iter().flatten().copied()
    }

    /// The volumes that are still to be made as copies of this one.
    pub(crate) fn copies_of(&self, source: VolumeId) -> impl Iterator<Item = &Arc<Volume>> {
        let ids = self.copies.get(&source).into_iter().flatten();
        ids.filter_map(|id| self.volumes.get(*id))
    }

    /// The certificates of the host that were not revoked.
    pub(crate) fn certificates_of(&self, host: HostId) -> impl Iterator<Item = &Arc<Credential>> {
        self.credentials_of(Holder::Host(host))
            .filter(|row| row.kind == CredentialKind::Certificate && row.revoked_at.is_none())
    }

    /// The instances that migrate to the host.
    pub(crate) fn instances_coming_to(&self, host: HostId) -> impl Iterator<Item = &Arc<Instance>> {
        let ids = self.coming_to.get(&host).into_iter().flatten();
        ids.filter_map(|id| self.instances.get(*id))
    }

    /// The migrating instance that the volume goes with.
    pub(crate) fn moves_with(&self, volume: VolumeId) -> Option<&Arc<Instance>> {
        self.instances.get(*self.moving.get(&volume)?)
    }

    /// Where the volume may be going with its instance.
    pub(crate) fn volume_comes_to(&self, volume: VolumeId) -> Option<HostId> {
        self.moves_with(volume)?.migration.as_ref().map(|migration| migration.to)
    }

    /// How many instances and volumes name the group.
    pub(crate) fn users_of(&self, group: PlacementGroupId) -> u64 {
        self.group_users.get(&group).copied().unwrap_or(0)
    }

    /// The operations on this target that have not ended.
    pub(crate) fn open_operations(&self, target: Key) -> impl Iterator<Item = &Arc<Operation>> {
        let ids = self.open_operations.get(&target).into_iter().flatten();
        ids.filter_map(|id| self.operations.get(*id))
    }

    /// Operations that ended before `end`, the oldest first.
    pub(crate) fn finished_before(
        &self,
        end: UnixMs,
    ) -> impl Iterator<Item = (UnixMs, OperationId)> {
        self.finished.iter().copied().take_while(move |(at, _)| *at < end)
    }

    /// The instances with working hours.
    pub(crate) fn scheduled(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.scheduled.iter().filter_map(|id| self.instances.get(*id))
    }

    fn put_credential(&mut self, row: Arc<Credential>) -> Changed {
        let before = match self.credentials.put(row.clone()) {
            Put::Stale => return Changed::Other,
            Put::New => None,
            Put::Replaced(before) => Some(before),
        };
        self.credential_by_hash.insert(row.sha256.clone(), row.id);
        self.index_credential(before.as_deref(), Some(&row));
        Changed::Credential(row)
    }

    fn put_volume(&mut self, row: Arc<Volume>) -> Changed {
        let before = match self.volumes.put(row.clone()) {
            Put::Stale => return Changed::Other,
            Put::New => None,
            Put::Replaced(before) => Some(before),
        };
        self.index_volume(before.as_deref(), Some(&row));
        Changed::Volume(before, Some(row))
    }

    fn put_instance(&mut self, row: Arc<Instance>) -> Changed {
        let before = match self.instances.put(row.clone()) {
            Put::Stale => return Changed::Other,
            Put::New => None,
            Put::Replaced(before) => Some(before),
        };
        self.index_instance(before.as_deref(), Some(&row));
        Changed::Instance(before, Some(row))
    }

    fn put_operation(&mut self, row: Arc<Operation>) -> Changed {
        match self.operations.put(row.clone()) {
            Put::Stale => return Changed::Other,
            Put::New => self.index_operation(&row, Some(&row)),
            Put::Replaced(before) => self.index_operation(&before, Some(&row)),
        }
        Changed::Operation(row)
    }

    fn index_credential(&mut self, before: Option<&Credential>, after: Option<&Credential>) {
        let holder = |row: Option<&Credential>| row.map(|row| (Holder::of(row), row.id));
        move_between(&mut self.credentials_of, holder(before), holder(after));
        let useless =
            |row: Option<&Credential>| row.and_then(|row| Some((row.useless_from()?, row.id)));
        if let Some(entry) = useless(before) {
            self.useless_credentials.remove(&entry);
        }
        self.useless_credentials.extend(useless(after));
    }

    fn index_volume(&mut self, before: Option<&Volume>, after: Option<&Volume>) {
        let host = |row: Option<&Volume>| row.and_then(|row| row.host.map(|host| (host, row.id)));
        move_between(&mut self.volumes_on, host(before), host(after));
        let copies =
            |row: Option<&Volume>| row.and_then(|row| row.copies().map(|source| (source, row.id)));
        move_between(&mut self.copies, copies(before), copies(after));
        let none = BTreeSet::new();
        let id = before.or(after).map(|row| row.id);
        let had = before.map_or(&none, |row| &row.may_be_on);
        let has = after.map_or(&none, |row| &row.may_be_on);
        for host in had.symmetric_difference(has) {
            let entry = |is: bool| id.filter(|_| is).map(|id| (*host, id));
            let was = had.contains(host);
            move_between(&mut self.volumes_maybe_on, entry(was), entry(!was));
        }
        self.count_groups(
            before.map(|row| &row.spec.placement),
            after.map(|row| &row.spec.placement),
        );
    }

    fn index_instance(&mut self, before: Option<&Instance>, after: Option<&Instance>) {
        let host = |row: Option<&Instance>| {
            row.and_then(|row| row.decision.as_ref().map(|decision| (decision.host, row.id)))
        };
        move_between(&mut self.instances_on, host(before), host(after));
        let migration = |row: Option<&Instance>| {
            row.and_then(|row| row.migration.as_ref().map(|migration| (migration.to, row.id)))
        };
        move_between(&mut self.coming_to, migration(before), migration(after));
        if let Some(migration) = before.and_then(|row| row.migration.as_ref()) {
            migration.volumes.iter().for_each(|id| _ = self.moving.remove(id));
        }
        if let Some(row) = after
            && let Some(migration) = &row.migration
        {
            self.moving.extend(migration.volumes.iter().map(|volume| (*volume, row.id)));
        }
        self.count_groups(
            before.map(|row| &row.spec.placement),
            after.map(|row| &row.spec.placement),
        );
        if let Some(row) = before.or(after) {
            if row.carrier && after.is_some() {
                self.carriers.insert((row.account, row.id));
            } else if row.carrier {
                self.carriers.remove(&(row.account, row.id));
            }
            if after.is_some_and(|after| after.spec.schedule.is_some()) {
                self.scheduled.insert(row.id);
            } else {
                self.scheduled.remove(&row.id);
            }
        }
    }

    fn count_groups(&mut self, before: Option<&Placement>, after: Option<&Placement>) {
        fn groups(placement: Option<&Placement>) -> impl Iterator<Item = PlacementGroupId> {
            placement.into_iter().flat_map(|p| p.with.iter().chain(&p.not_with)).copied()
        }
        if before == after {
            return;
        }
        for group in groups(after) {
            *self.group_users.entry(group).or_default() += 1;
        }
        for group in groups(before) {
            if let Some(count) = self.group_users.get_mut(&group) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.group_users.remove(&group);
                }
            }
        }
    }

    fn index_operation(&mut self, before: &Operation, after: Option<&Operation>) {
        let open = after.is_some_and(|row| !row.state.is_final());
        if let Some(target) = target_key(&before.target) {
            let ids = self.open_operations.entry(target).or_default();
            if open {
                ids.insert(before.id);
            } else {
                ids.remove(&before.id);
            }
            if ids.is_empty() {
                self.open_operations.remove(&target);
            }
        }
        if let Some(at) = before.finished_at {
            self.finished.remove(&(at, before.id));
        }
        if let Some(at) = after.and_then(|row| row.finished_at) {
            self.finished.insert((at, before.id));
        }
    }
}

/// The row that has this id, of the nouns that requests name.
pub(crate) fn target_key(target: &str) -> Option<Key> {
    match target.split_once('-')?.0 {
        InstanceId::PREFIX => target.parse().ok().map(Key::Instance),
        VolumeId::PREFIX => target.parse().ok().map(Key::Volume),
        PlacementGroupId::PREFIX => target.parse().ok().map(Key::PlacementGroup),
        HostId::PREFIX => target.parse().ok().map(Key::Host),
        TokenId::PREFIX => target.parse().ok().map(Key::Credential),
        _ => None,
    }
}

fn move_between<K: Eq + Hash, T: Ord>(
    index: &mut HashMap<K, BTreeSet<T>>,
    before: Option<(K, T)>,
    after: Option<(K, T)>,
) {
    if before == after {
        return;
    }
    if let Some((key, id)) = before
        && let Some(ids) = index.get_mut(&key)
    {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(&key);
        }
    }
    if let Some((key, id)) = after {
        index.entry(key).or_default().insert(id);
    }
}
