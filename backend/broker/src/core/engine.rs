//! The engine: opens the state, makes drafts durable, and then, only then, shows them.
//!
//! A command is a pure plan (state -> draft) under the lock, one atomic commit, and taking it
//! over. The part behind the plan runs in a task of its own, so that a caller who goes away
//! can't part the memory from the store.

use std::{sync::Arc, time::Duration};

use fairmazon_model::{DomainError, ErrorKind, catalogue::Catalogue, units::UnixMs};
use fairmazon_store::{Key, Store, StoreError};
use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, timeout_at},
};

use super::{
    answers::Answer,
    clock::{Clock, Randomness, id_time},
    config::CoreConfig,
    draft::Draft,
    state::State,
};
use crate::{asks::Asks, consoles::Consoles, transfer::Transfers};

/// How often a plan is made anew because somebody else wrote into the store, before the caller
/// is told.
const ATTEMPTS: usize = 64;
/// How long a plan waits for rows that other drafts hold, before the caller is told. A draft
/// holds its rows for the time of one commit.
const HELD_MOST: Duration = Duration::from_secs(10);

/// The broker's core. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Randomness,
    pub(crate) config: CoreConfig,
    /// As the state has it; by itself, since it is asked for with the state in hand.
    catalogue: RwLock<Arc<Catalogue>>,
    /// Held while windows are judged and added.
    pub(crate) metering: tokio::sync::Mutex<()>,
    pub(crate) asks: Asks,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) consoles: Consoles,
    state: Mutex<State>,
}

/// What the engine is made of.
pub struct Parts {
    /// Where changes become durable.
    pub store: Arc<dyn Store>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Ids and secrets.
    pub random: Randomness,
    /// What can be rented.
    pub catalogue: Catalogue,
    /// Settings.
    pub config: CoreConfig,
}

/// What a plan came to: the draft, and what the caller is answered once it is durable.
pub(crate) struct Planned<T> {
    pub(crate) draft: Draft,
    pub(crate) answer: T,
}

/// Why there is no plan.
pub(crate) enum PlanError {
    /// The row is held by another draft: the plan is made anew when that has ended.
    Held(Key),
    /// It must not be.
    Refused(DomainError),
}

/// What a plan that was not made waits for.
enum Waits {
    For(OwnedNotified),
    Not(DomainError),
}

impl From<DomainError> for PlanError {
    fn from(error: DomainError) -> Self {
        Self::Refused(error)
    }
}

impl Engine {
    /// Loads the state from the store.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn open(parts: Parts) -> Result<Self, DomainError> {
        let Parts { store, clock, random, catalogue, config } = parts;
        let catalogue = Arc::new(catalogue);
        let mut state = State::new(&config, catalogue.clone());
        let revision = store.load(&mut |row| state.put(row)).await?;
        state.world.revision = revision;
        let inner = Inner {
            store,
            clock,
            random,
            catalogue: RwLock::new(catalogue),
            config,
            metering: tokio::sync::Mutex::default(),
            asks: Asks::default(),
            transfers: Arc::default(),
            consoles: Consoles::default(),
            state: Mutex::new(state),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What can be rented.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.inner.catalogue.read().clone()
    }

    /// Puts another catalogue in the place of the one that there is.
    pub(super) fn put_catalogue(&self, state: &mut State, catalogue: Arc<Catalogue>) {
        state.put_catalogue(catalogue.clone());
        *self.inner.catalogue.write() = catalogue;
    }

    /// The settings.
    pub fn config(&self) -> &CoreConfig {
        &self.inner.config
    }

    /// The store, for what needs no view of the core: audit export, health, backup.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock()
    }

    /// A random number, for the id of a request.
    pub(crate) fn request_number(&self) -> u64 {
        self.inner.random.id() as u64
    }

    /// A random number, for the serial number of a certificate.
    pub(crate) fn serial_number(&self) -> u128 {
        self.inner.random.id()
    }

    pub(crate) fn now(&self) -> UnixMs {
        self.inner.clock.now()
    }

    /// A new id of any noun.
    pub(crate) fn new_id<Id>(&self, make: impl Fn(u64, u128) -> Id) -> Id {
        make(id_time(self.now()), self.inner.random.id())
    }

    /// Plans and commits until it is done or refused. `plan` sees a state that does not change
    /// under it and may be called several times.
    ///
    /// # Errors
    /// What the plan refuses; `Conflict` when others keep changing the same rows.
    pub(crate) async fn run<T: Send>(
        &self,
        mut plan: impl FnMut(&mut State) -> Result<Planned<T>, PlanError> + Send,
    ) -> Result<T, CommandError> {
        let give_up = Instant::now() + HELD_MOST;
        let mut conflicts = 0;
        while conflicts < ATTEMPTS {
            let planned = {
                let mut state = self.state();
                let planned = plan(&mut state).and_then(|planned| state.begin(planned));
                planned.map_err(|error| match error {
                    PlanError::Held(key) => {
                        Waits::For(state.holds.given_back(key).notified_owned())
                    }
                    PlanError::Refused(error) => Waits::Not(error),
                })
            };
            let Planned { draft, answer } = match planned {
                Ok(planned) => planned,
                Err(Waits::Not(error)) => return Err(CommandError::Refused(error)),
                Err(Waits::For(given_back)) => {
                    if timeout_at(give_up, given_back).await.is_err() {
                        break;
                    }
                    continue;
                }
            };
            if draft.is_empty() {
                self.state().holds.release(&draft);
                return Ok(answer);
            }
            match self.finish(draft).await {
                Ok(()) => return Ok(answer),
                Err(StoreError::Conflict { key, .. }) => {
                    conflicts += 1;
                    self.refresh(key).await?;
                }
                Err(StoreError::AlreadyAnswered { existing }) => {
                    return Err(CommandError::Answered(Answer::read(&existing)?));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommandError::Refused(
            DomainError::new(ErrorKind::Conflict, "others keep changing the same things")
                .advise("repeat later"),
        ))
    }

    /// Commits a held draft, takes it over and gives its holds back, whatever the caller does.
    pub(crate) async fn finish(&self, draft: Draft) -> Result<(), StoreError> {
        let engine = self.clone();
        let task = tokio::spawn(async move {
            let mut commit = draft.to_commit();
            commit.metering.allotments = engine.allotments(&commit.writes);
            let result = engine.inner.store.commit(commit).await;
            let mut state = engine.state();
            state.holds.release(&draft);
            let result = match result {
                Ok(committed) => {
                    state.apply(draft, committed.revision);
                    Ok(())
                }
                Err(error) => {
                    state.settle(draft.keys());
                    Err(error)
                }
            };
            state.dirty.wake.notify_one();
            result
        });
        // The task is never aborted; it can only be cut off by the end of the runtime.
        task.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Waits until no draft under way changes the row: what the store has of it is then in the
    /// memory too.
    pub(crate) async fn taken_over(&self, key: Key) {
        loop {
            let given_back = {
                let mut state = self.state();
                if !state.holds.changes(key) {
                    return;
                }
                state.holds.given_back(key).notified_owned()
            };
            given_back.await;
        }
    }

    /// Takes over a row that the store has in another version than the memory: somebody else
    /// wrote into the store.
    pub(crate) async fn refresh(&self, key: Key) -> Result<(), StoreError> {
        let row = self.inner.store.get(key).await?;
        tracing::warn!(%key, "a row was changed in the store by somebody else");
        let mut state = self.state();
        match row {
            Some(row) => state.put(row),
            None => {
                let mut draft = Draft::default();
                if let Some(revision) = state.world.revision_of(key) {
                    draft.delete(key, revision);
                    let revision = state.world.revision;
                    state.apply(draft, revision);
                }
            }
        }
        Ok(())
    }
}

/// Why a command did not do anything new.
pub(crate) enum CommandError {
    /// It is refused.
    Refused(DomainError),
    /// Its idempotency key was answered before.
    Answered(Answer),
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<DomainError> for CommandError {
    fn from(error: DomainError) -> Self {
        Self::Refused(error)
    }
}

impl From<CommandError> for DomainError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Refused(error) => error,
            CommandError::Answered(_) => {
                Self::internal("an idempotency answer came to a command without a key")
            }
        }
    }
}
