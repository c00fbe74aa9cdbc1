//! A change before it is durable: what it writes, and what it holds meanwhile.
//!
//! While a draft is being committed its rows are held: no other draft is made from a row that
//! is about to change, and a row that a draft relies on does not vanish under it. Drafts that
//! meet wait for each other here, in memory, so the store's expectations are the last line of
//! defence and not the everyday one.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use fairmazon_model::{id::AccountId, units::Revision};
use fairmazon_store::{
    AuditEntry, Commit, Expect, IdempotencyRecord, Key, MeteringWrites, Noun, Row, Write,
};

use tokio::sync::Notify;

use super::engine::PlanError;

/// A change in the making. All of it becomes durable, or nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draft {
    writes: Vec<Write>,
    relies_on: Vec<Key>,
    audit: Vec<AuditEntry>,
    answer: Option<NewAnswer>,
}

/// The answer to keep for a repetition of a request.
#[derive(Debug, Clone)]
pub(crate) struct NewAnswer {
    pub(crate) record: IdempotencyRecord,
    /// The retired answer that it takes the place of.
    pub(crate) replaces: Option<serde_json::Value>,
}

impl Draft {
    /// Puts a row that is not there yet.
    pub(crate) fn insert(&mut self, row: impl Into<Row>) {
        self.writes.push(Write::Put(row.into(), Expect::New));
    }

    /// Puts a changed row; its `revision` is the one that it was read at.
    pub(crate) fn update(&mut self, row: impl Into<Row>) {
        let row = row.into();
        let expect = Expect::Revision(row.revision());
        self.writes.push(Write::Put(row, expect));
    }

    /// Deletes a row that was read at `revision`.
    pub(crate) fn delete(&mut self, key: impl Into<Key>, revision: Revision) {
        self.writes.push(Write::Delete(key.into(), Expect::Revision(revision)));
    }

    /// The row must stay, as somebody names it; others may rely on it at the same time.
    pub(crate) fn rely_on(&mut self, key: impl Into<Key>) {
        self.relies_on.push(key.into());
    }

    /// Says in the audit log what is done.
    pub(crate) fn audit(&mut self, entry: AuditEntry) {
        self.audit.push(entry);
    }

    /// Keeps the answer for a repetition of the request.
    pub(crate) fn answer(&mut self, answer: Option<NewAnswer>) {
        self.answer = answer;
    }

    /// Whether there is nothing to make durable.
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.audit.is_empty() && self.answer.is_none()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.writes.iter().map(Write::key)
    }

    /// What the store is given.
    pub(crate) fn to_commit(&self) -> Commit {
        Commit {
            writes: self.writes.clone(),
            audit: self.audit.clone(),
            idempotency: self.answer.as_ref().map(|answer| answer.record.clone()),
            replaces: self.answer.as_ref().and_then(|answer| answer.replaces.clone()),
            metering: MeteringWrites::default(),
        }
    }

    pub(crate) fn into_writes(self) -> Vec<Write> {
        self.writes
    }

    /// Nouns that it makes new rows of, by account: they count before they are there. Credentials
    /// of hosts count for nobody.
    fn newcomers(&self) -> impl Iterator<Item = (AccountId, Noun)> {
        self.writes.iter().filter_map(|write| match write {
            Write::Put(Row::Credential(row), Expect::New) if row.host.is_some() => None,
            Write::Put(row, Expect::New) => Some((row.account(), row.key().noun())),
            _ => None,
        })
    }
}

/// Rows that drafts under way hold.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    changing: HashSet<Key>,
    relied_on: HashMap<Key, u64>,
    coming: HashMap<(AccountId, Noun), u64>,
    /// Rung when the row is given back, by those who wait for it.
    waiting: HashMap<Key, Arc<Notify>>,
}

impl Holds {
    /// Whether a draft may change the row now. Capacity is claimed for a row only after this
    /// was asked, so that no draft ever touches the claims of another one.
    pub(crate) fn may_change(&self, key: impl Into<Key>) -> bool {
        let key = key.into();
        !self.changing.contains(&key) && !self.relied_on.contains_key(&key)
    }

    /// Whether a draft under way changes the row.
    pub(crate) fn changes(&self, key: Key) -> bool {
        self.changing.contains(&key)
    }

    /// [`Holds::may_change`] for a plan.
    pub(crate) fn free(&self, key: impl Into<Key>) -> Result<(), PlanError> {
        let key = key.into();
        if self.may_change(key) { Ok(()) } else { Err(PlanError::Held(key)) }
    }

    /// Rows of the noun that drafts under way add to the account.
    pub(crate) fn coming(&self, account: AccountId, noun: Noun) -> u64 {
        self.coming.get(&(account, noun)).copied().unwrap_or(0)
    }

    /// Rung when the row is given back by a draft that holds it now.
    pub(crate) fn given_back(&mut self, key: Key) -> Arc<Notify> {
        self.waiting.entry(key).or_default().clone()
    }

    /// Holds all that the draft needs.
    ///
    /// # Errors
    /// A row that another draft holds; nothing is held then.
    pub(crate) fn acquire(&mut self, draft: &Draft) -> Result<(), Key> {
        let mut relied_on = draft.relies_on.iter().copied();
        if let Some(held) = draft.keys().find(|key| !self.may_change(*key)) {
            return Err(held);
        }
        if let Some(held) = relied_on.find(|key| self.changing.contains(key)) {
            return Err(held);
        }
        self.changing.extend(draft.keys());
        for key in &draft.relies_on {
            *self.relied_on.entry(*key).or_default() += 1;
        }
        for newcomer in draft.newcomers() {
            *self.coming.entry(newcomer).or_default() += 1;
        }
        Ok(())
    }

    /// Gives back what was acquired for the draft.
    pub(crate) fn release(&mut self, draft: &Draft) {
        for key in draft.keys() {
            self.changing.remove(&key);
        }
        for key in &draft.relies_on {
            decrement(&mut self.relied_on, key);
        }
        for newcomer in draft.newcomers() {
            decrement(&mut self.coming, &newcomer);
        }
        for key in draft.keys().chain(draft.relies_on.iter().copied()) {
            if let Some(waiting) = self.waiting.remove(&key) {
                waiting.notify_waiters();
            }
        }
    }
}

fn decrement<K: Hash + Eq>(counts: &mut HashMap<K, u64>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_model::{id::PlacementGroupId, placement::PlacementGroup, units::UnixMs};

    use super::*;

    fn group(number: u128) -> PlacementGroup {
        PlacementGroup {
            id: PlacementGroupId::from_parts(1, number),
            account: AccountId::from_parts(1, 1),
            name: "g".into(),
            labels: Default::default(),
            unconfirmed: false,
            created_at: UnixMs(1),
            revision: Revision(1),
        }
    }

    #[test]
    fn a_row_changes_under_one_draft_and_never_under_those_that_rely_on_it() {
        let mut holds = Holds::default();
        let (mut change, mut rely) = (Draft::default(), Draft::default());
        change.update(group(1));
        rely.rely_on(group(1).id);
        let key = Key::from(group(1).id);
        assert!(holds.acquire(&rely).is_ok() && holds.acquire(&rely).is_ok());
        assert_eq!(holds.acquire(&change), Err(key));
        holds.release(&rely);
        assert_eq!(holds.acquire(&change), Err(key));
        holds.release(&rely);
        assert_eq!(holds.acquire(&change), Ok(()));
        assert!(holds.acquire(&change).is_err() && holds.acquire(&rely).is_err());
        holds.release(&change);
        assert_eq!(holds.acquire(&rely), Ok(()));
    }

    #[tokio::test]
    async fn who_waits_for_a_row_is_woken_by_that_row_alone() {
        let mut holds = Holds::default();
        let (mut one, mut other) = (Draft::default(), Draft::default());
        one.update(group(1));
        other.update(group(2));
        holds.acquire(&one).unwrap();
        holds.acquire(&other).unwrap();
        let bell = holds.given_back(group(1).id.into());
        let mut rung = Box::pin(bell.notified());
        holds.release(&other);
        assert!(futures::poll!(&mut rung).is_pending());
        holds.release(&one);
        assert!(futures::poll!(&mut rung).is_ready());
        assert!(holds.waiting.is_empty());
    }

    #[test]
    fn newcomers_count_until_they_are_there() {
        let mut holds = Holds::default();
        let mut draft = Draft::default();
        draft.insert(group(1));
        holds.acquire(&draft).unwrap();
        assert_eq!(holds.coming(AccountId::from_parts(1, 1), Noun::PlacementGroup), 1);
        holds.release(&draft);
        assert_eq!(holds.coming(AccountId::from_parts(1, 1), Noun::PlacementGroup), 0);
    }
}
