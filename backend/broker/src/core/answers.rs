//! Idempotency: a repeated request gets the first answer, and what the key means is settled.
//!
//! The answer to a creation is retired once its resource was confirmed or is gone: the same
//! request then makes a new resource, whose answer takes the place of the retired one and counts
//! for a time of its own. So a client may derive its keys from its configuration and never makes a thing twice by accident.
//! A client that wants many equal things numbers its keys, and has to learn which numbers are
//! taken: a key that begins with [`SINGLE`] is refused instead while what it made is there.

use fairmazon_model::{
    DomainError, ErrorKind,
    id::{AccountId, OperationId},
    limits,
    operation::{Operation, OperationKind, OperationState},
    units::{Revision, UnixMs},
};
use fairmazon_store::{IdempotencyRecord, Row};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    draft::NewAnswer,
    engine::{CommandError, Engine, PlanError, Planned},
    state::State,
    world::target_key,
};

/// Begins the keys that never stand for a second thing while the first is there.
const SINGLE: &str = "once/";

/// A change that is asked for, with the caller's key.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) account: AccountId,
    key: String,
    /// Its key began with [`SINGLE`].
    single: bool,
    fingerprint: String,
    /// The answer that was found to be retired.
    replaces: Option<Kept>,
}

/// What a request with this key was answered before.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    fingerprint: String,
    kept: Kept,
}

/// The part of an answer that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation: Option<OperationId>,
}

/// What a repetition comes to.
pub(crate) enum Again<T> {
    /// The first answer still counts.
    Same(T),
    /// What was made then has been confirmed or is gone: the key is free for a new one.
    Retired,
}

impl Request {
    /// A request of `method` with its whole `content`.
    ///
    /// # Errors
    /// `Invalid` when the key is empty or too long.
    pub(crate) fn new(
        account: AccountId,
        method: &str,
        key: &str,
        content: &impl Serialize,
    ) -> Result<Self, DomainError> {
        if !(1..=limits::IDEMPOTENCY_KEY_MAX).contains(&key.len()) {
            return Err(DomainError::invalid(
                "idempotency_key",
                format!(
                    "every change needs a key of 1 to {} bytes, this one has {}",
                    limits::IDEMPOTENCY_KEY_MAX,
                    key.len()
                ),
            )
            .advise("use a random text, and the same one again when you repeat the request"));
        }
        let content = serde_json::to_vec(content)
            .map_err(|error| DomainError::internal(format!("a request is no JSON: {error}")))?;
        let mut hasher = Sha256::new();
        hasher.update(method.as_bytes());
        hasher.update([0]);
        hasher.update(content);
        let single = key.starts_with(SINGLE);
        // One account may use the same key for different methods.
        let key = format!("{method}:{}", key_hash(key.as_bytes()));
        let fingerprint = hex::encode(hasher.finalize());
        Ok(Self { account, key, single, fingerprint, replaces: None })
    }

    /// As [`Request::new`]; none without a key. For changes that asked for no key at first, whose
    /// older clients send none: their repetition does no harm by itself.
    ///
    /// # Errors
    /// `Invalid` when the key is too long.
    pub(crate) fn if_named(
        account: AccountId,
        method: &str,
        key: &str,
        content: &impl Serialize,
    ) -> Result<Option<Self>, DomainError> {
        if key.is_empty() {
            return Ok(None);
        }
        // None of them makes what only its first answer can show.
        Self::new(account, method, key, content)
            .map(|request| Some(Self { single: false, ..request }))
    }

    /// The record that goes into the draft of the change.
    pub(crate) fn record(
        &self,
        engine: &Engine,
        target: &impl ToString,
        operation: Option<OperationId>,
    ) -> Option<NewAnswer> {
        let (now, kept) = (engine.now(), Kept { target: target.to_string(), operation });
        let record = IdempotencyRecord {
            account: self.account,
            key: self.key.clone(),
            fingerprint: self.fingerprint.clone(),
            answer: serde_json::to_value(kept).unwrap_or_default(),
            created_at: now,
            expires_at: UnixMs(now.0.saturating_add(engine.config().idempotency_keep_ms)),
        };
        let replaces = self.replaces.as_ref().map(serde_json::to_value);
        Some(NewAnswer { record, replaces: replaces.and_then(Result::ok) })
    }
}

/// All keys get the same length, which leaves room for the method.
fn key_hash(key: &[u8]) -> String {
    hex::encode(&Sha256::digest(key)[..24])
}

impl Answer {
    /// Reads a kept record.
    ///
    /// # Errors
    /// `Internal` when another version wrote what this one can't read.
    pub(crate) fn read(record: &IdempotencyRecord) -> Result<Self, DomainError> {
        let kept = Kept::deserialize(&record.answer).map_err(|error| {
            DomainError::internal(format!("the answer kept for {} is odd: {error}", record.key))
        })?;
        Ok(Self { fingerprint: record.fingerprint.clone(), kept })
    }

    /// The id of what was made or changed.
    ///
    /// # Errors
    /// `Internal` when it is of another noun.
    pub(crate) fn target<Id: std::str::FromStr>(&self) -> Result<Id, DomainError> {
        let odd = || DomainError::internal(format!("`{}` is odd in an answer", self.kept.target));
        self.kept.target.parse().map_err(|_| odd())
    }

    /// The operation that was answered then; a finished one that is no longer kept is told
    /// as done.
    pub(crate) fn operation(
        &self,
        engine: &Engine,
        request: &Request,
        kind: OperationKind,
    ) -> Result<std::sync::Arc<Operation>, DomainError> {
        let odd = || DomainError::internal("an answer without its operation");
        let id = self.kept.operation.ok_or_else(odd)?;
        if let Some(row) = engine.state().world.operations.get(id) {
            return Ok(row.clone());
        }
        let created_at = UnixMs(i64::try_from(id.ulid().timestamp_ms()).unwrap_or(i64::MAX));
        Ok(std::sync::Arc::new(Operation {
            id,
            account: request.account,
            kind,
            target: self.kept.target.clone(),
            spec_version: 0,
            state: OperationState::Done,
            created_at,
            finished_at: Some(engine.now()),
            revision: Revision(0),
        }))
    }
}

fn taken(answer: &Answer) -> DomainError {
    let made = &answer.kept.target;
    DomainError {
        field: Some("idempotency_key".into()),
        ..DomainError::new(
            ErrorKind::AlreadyExists,
            format!("this idempotency key made {made}, which its client keeps already"),
        )
    }
    .advise("use the next key for another one")
}

impl Engine {
    /// Does a change once: plans and commits it, or answers as before when its key was used.
    ///
    /// `again` says what the first answer comes to now; it is given the row of what was made
    /// or changed then, where the store still has it.
    ///
    /// # Errors
    /// What the plan refuses; `Conflict` when the key was used for another request;
    /// `AlreadyExists` for a [`SINGLE`] key whose thing is there and confirmed.
    pub(crate) async fn once<T: Send>(
        &self,
        mut request: Request,
        mut plan: impl FnMut(&mut State, &Request) -> Result<Planned<T>, PlanError> + Send,
        again: impl Fn(&Answer, &Request, Option<Row>) -> Result<Again<T>, DomainError> + Send,
    ) -> Result<T, DomainError> {
        loop {
            let answer = match self.run(|state| plan(state, &request)).await {
                Ok(answer) => return Ok(answer),
                Err(CommandError::Answered(answer)) => answer,
                // A repetition may be refused just because the first one was done.
                Err(CommandError::Refused(error)) => match self.kept(&request).await? {
                    Some(answer) if request.replaces.as_ref() != Some(&answer.kept) => answer,
                    _ => return Err(error),
                },
            };
            if answer.fingerprint != request.fingerprint {
                return Err(DomainError {
                    field: Some("idempotency_key".into()),
                    ..DomainError::new(
                        ErrorKind::Conflict,
                        "this idempotency key was used for another request",
                    )
                }
                .advise("use a new key for each different request"));
            }
            let row = match target_key(&answer.kept.target) {
                Some(key) => {
                    // The first commit may be durable and not yet taken over; an answer from it
                    // would name what the caller's next request does not find.
                    self.taken_over(key).await;
                    self.inner.store.get(key).await?
                }
                None => None,
            };
            let there = row.is_some();
            match again(&answer, &request, row)? {
                Again::Same(answer) => return Ok(answer),
                Again::Retired if request.single && there => return Err(taken(&answer)),
                Again::Retired => request.replaces = Some(answer.kept),
            }
        }
    }

    /// As [`Engine::once`] for a request with a key; without one the change is done each time.
    ///
    /// # Errors
    /// As [`Engine::once`].
    pub(crate) async fn once_if_named<T: Send>(
        &self,
        request: Option<Request>,
        mut plan: impl FnMut(&mut State, Option<&Request>) -> Result<Planned<T>, PlanError> + Send,
        again: impl Fn(&Answer, &Request, Option<Row>) -> Result<Again<T>, DomainError> + Send,
    ) -> Result<T, DomainError> {
        match request {
            Some(request) => {
                self.once(request, |state, request| plan(state, Some(request)), again).await
            }
            None => Ok(self.run(|state| plan(state, None)).await?),
        }
    }

    async fn kept(&self, request: &Request) -> Result<Option<Answer>, DomainError> {
        let record = self.inner.store.idempotency(request.account, &request.key).await?;
        record
            .filter(|record| record.expires_at > self.now())
            .map(|record| Answer::read(&record))
            .transpose()
    }
}
