//! The tables of the store without a disk: plain maps, and commits that undo themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairmazon_model::{
    id::AccountId,
    units::{Revision, UnixMs},
};

use super::usage::Metering;
use crate::{
    AuditHead, AuditRecord, Change, Changes, Commit, Committed, Expect, IdempotencyRecord, Key,
    Row, StoreError, Write,
};

#[derive(Debug, Default, Clone)]
pub(super) struct Tables {
    /// Sorted as the SQLite store sorts: by noun, parents first, then by id.
    pub(super) rows: BTreeMap<Key, Row>,
    pub(super) revision: Revision,
    pub(super) idempotency: BTreeMap<(AccountId, String), IdempotencyRecord>,
    pub(super) audit: Vec<AuditRecord>,
    pub(super) metering: Metering,
    deletions: Vec<(Revision, Key, AccountId)>,
    deletions_kept_from: Revision,
}

impl Tables {
    pub(super) fn audit_head(&self) -> AuditHead {
        self.audit.last().map_or_else(AuditHead::default, |record| AuditHead {
            sequence: record.sequence,
            hash: record.hash,
        })
    }

    /// All of a checked commit or nothing.
    pub(super) fn commit(&mut self, commit: Commit) -> Result<Committed, StoreError> {
        if let Some(record) = &commit.idempotency
            && let Some(existing) = self.idempotency.get(&(record.account, record.key.clone()))
            && existing.expires_at > record.created_at
            && commit.replaces.as_ref() != Some(&existing.answer)
        {
            return Err(StoreError::AlreadyAnswered { existing: Box::new(existing.clone()) });
        }
        let records = self.chain(&commit)?;
        for write in &commit.writes {
            self.check_expectation(write)?;
        }
        let revision = Revision(self.revision.0 + u64::from(!commit.writes.is_empty()));
        let keys: Vec<_> = commit.writes.iter().map(Write::key).collect();
        let before = self.apply(commit.writes, revision);
        if let Err(error) = self.check_constraints(&keys) {
            self.undo(before, revision);
            return Err(error);
        }
        self.revision = revision;
        if let Some(record) = commit.idempotency {
            self.idempotency.insert((record.account, record.key.clone()), record);
        }
        self.metering.write(commit.metering);
        let first = self.audit_head().sequence + 1;
        self.audit.extend(records);
        Ok(Committed { revision, audit: first..self.audit_head().sequence + 1 })
    }

    /// The commit's audit entries in their place of the chain.
    fn chain(&self, commit: &Commit) -> Result<Vec<AuditRecord>, StoreError> {
        let mut head = self.audit_head();
        commit
            .audit
            .iter()
            .map(|entry| {
                let canonical = entry.canonical().map_err(|error| StoreError::Encode {
                    key: format!("audit of {}", entry.target),
                    source: Arc::new(error),
                })?;
                let previous = head.hash;
                head = head.next(&canonical);
                let (sequence, hash) = (head.sequence, head.hash);
                Ok(AuditRecord { sequence, entry: entry.clone(), previous, hash })
            })
            .collect()
    }

    fn check_expectation(&self, write: &Write) -> Result<(), StoreError> {
        let found = self.rows.get(&write.key()).map(Row::revision);
        let holds = match write.expect() {
            Expect::New => found.is_none(),
            Expect::Revision(expected) => found == Some(expected),
            Expect::Any => true,
        };
        if holds {
            return Ok(());
        }
        Err(StoreError::Conflict { key: write.key(), expected: write.expect(), found })
    }

    /// Makes the writes; answers what was there before.
    fn apply(&mut self, writes: Vec<Write>, revision: Revision) -> Vec<(Key, Option<Row>)> {
        let mut before = Vec::with_capacity(writes.len());
        for write in writes {
            let key = write.key();
            let old = match write {
                Write::Put(row, _) => self.rows.insert(key, row.at(revision)),
                Write::Delete(..) => {
                    let old = self.rows.remove(&key);
                    let account = old.as_ref().map(Row::account);
                    self.deletions.extend(account.map(|account| (revision, key, account)));
                    old
                }
            };
            before.push((key, old));
        }
        before
    }

    fn undo(&mut self, before: Vec<(Key, Option<Row>)>, revision: Revision) {
        for (key, row) in before {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        self.deletions.retain(|(deleted_at, ..)| *deleted_at != revision);
    }

    /// Checks references and uniqueness of the rows that were written.
    fn check_constraints(&self, keys: &[Key]) -> Result<(), StoreError> {
        for &key in keys {
            match self.rows.get(&key) {
                Some(row) => self.check_row(key, row)?,
                None => self.check_gone(key)?,
            }
        }
        Ok(())
    }

    fn check_row(&self, key: Key, row: &Row) -> Result<(), StoreError> {
        let mut named: BTreeSet<Key> = BTreeSet::from([row.account().into()]);
        if let Row::Credential(row) = row {
            named.extend(row.host.map(Key::from));
        }
        if named.iter().any(|named| !self.rows.contains_key(named)) {
            return Err(StoreError::Reference { key });
        }
        let same = |other: &&Row| match (row, *other) {
            (Row::Host(one), Row::Host(other)) => {
                one.account == other.account && one.spec.name == other.spec.name
            }
            (Row::Credential(one), Row::Credential(other)) => one.sha256 == other.sha256,
            _ => false,
        };
        let what = match row {
            Row::Host(_) => "name",
            Row::Credential(_) => "secret",
            _ => return Ok(()),
        };
        if self.rows.values().filter(|other| other.key() != key).any(|other| same(&other)) {
            return Err(StoreError::Duplicate { key, what });
        }
        Ok(())
    }

    fn check_gone(&self, key: Key) -> Result<(), StoreError> {
        let names = |row: &Row| match (key, row) {
            (Key::Account(account), row) => row.account() == account,
            (Key::Host(host), Row::Credential(row)) => row.host == Some(host),
            _ => false,
        };
        if matches!(key, Key::Account(_) | Key::Host(_)) && self.rows.values().any(names) {
            return Err(StoreError::Reference { key });
        }
        Ok(())
    }

    pub(super) fn expire(&mut self, now: UnixMs, limit: u32) -> u64 {
        let mut expired: Vec<_> = self
            .idempotency
            .iter()
            .filter(|(_, record)| record.expires_at <= now)
            .map(|(key, record)| (record.expires_at, key.clone()))
            .collect();
        expired.sort();
        expired.truncate(limit as usize);
        expired.iter().for_each(|(_, key)| _ = self.idempotency.remove(key));
        expired.len() as u64
    }

    pub(super) fn changes_since(
        &self,
        revision: Revision,
        commits: u32,
    ) -> Result<Changes, StoreError> {
        if revision < self.deletions_kept_from {
            return Err(StoreError::Compacted { oldest: self.deletions_kept_from });
        }
        let last = self.revision;
        let up_to = Revision(revision.0.saturating_add(commits.into()).min(last.0));
        let wanted = |at: Revision| at > revision && at <= up_to;
        let puts = self.rows.values().filter(|row| wanted(row.revision()));
        let deletions = self.deletions.iter().filter(|(at, ..)| wanted(*at));
        let mut changes: Vec<_> = puts
            .cloned()
            .map(Change::Put)
            .chain(deletions.map(|&(revision, key, account)| Change::Deleted {
                key,
                account,
                revision,
            }))
            .collect();
        changes.sort_by_key(Change::revision);
        Ok(Changes { changes, up_to, last })
    }

    pub(super) fn forget_deletions(&mut self, up_to: Revision) -> Result<u64, StoreError> {
        if up_to > self.revision {
            return Err(StoreError::Invalid {
                reason: format!(
                    "deletions up to revision {up_to} can't be forgotten: the last is {}",
                    self.revision
                ),
            });
        }
        let before = self.deletions.len();
        self.deletions.retain(|(at, ..)| *at > up_to);
        self.deletions_kept_from = self.deletions_kept_from.max(up_to);
        Ok((before - self.deletions.len()) as u64)
    }

    pub(super) fn to_json_lines(&self) -> Result<String, StoreError> {
        let mut text = String::new();
        for (key, row) in &self.rows {
            let body = row.to_body().map_err(|error| StoreError::Encode {
                key: key.to_string(),
                source: Arc::new(error),
            })?;
            text.push_str(&body);
            text.push('\n');
        }
        Ok(text)
    }
}
