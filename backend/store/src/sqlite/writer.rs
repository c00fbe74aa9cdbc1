//! The one writer: a thread that makes everybody's changes durable in groups.
//!
//! It takes all that waits (up to [`GROUP_MAX`]), does it in one transaction, commits, and
//! only then answers everybody: one flush of the disk for the whole group. When a piece
//! contradicts what is stored, the group is done again with a savepoint around each piece, so
//! that it fails alone; savepoints copy every page they touch, too dear for the usual case.
//! When the transaction itself fails, each piece is tried again by itself, so that only what
//! can't be done fails.
//!
//! Where room is short, the log is written back into the database, and where there is none, a group
//! that failed for it is done once more when that has made some.

use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    apply::{Counters, Outcome, Work},
    fault::Faults,
    log,
    open::ProcessLock,
};
use crate::StoreError;

/// Most pieces of work in one transaction.
const GROUP_MAX: usize = 512;
/// Most pieces that wait before callers have to wait for a place in the queue.
pub(super) const QUEUE: usize = 2_048;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

enum Job {
    Work(Box<Work>, Answer<Outcome>),
    /// Asks how it is: the counters, or why the last transaction failed.
    Ask(Answer<Counters>),
    Stop(Answer<()>),
}

/// The handle of the writer thread.
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread, which owns the connection and the lock until it ends.
    pub(super) fn start(
        connection: Connection,
        lock: ProcessLock,
        faults: Faults,
    ) -> Result<Self, StoreError> {
        let counters = Counters::read(&connection)
            .map_err(|error| faults.of("read the store's counters", error))?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let desk = Desk { connection, lock, faults, counters, failed: None };
        let thread = std::thread::Builder::new()
            .name("fairmazon-store".into())
            .spawn(move || desk.serve(queue))
            .map_err(|error| Faults::of_io(std::path::Path::new("a thread"), error))?;
        Ok(Self { jobs, thread: Mutex::new(Some(thread)) })
    }

    /// Has a piece of work done; answers once it is durable.
    pub(super) async fn run(&self, work: Work) -> Result<Outcome, StoreError> {
        self.ask(|answer| Job::Work(Box::new(work), answer)).await
    }

    /// How the writer is.
    pub(super) async fn health(&self) -> Result<Counters, StoreError> {
        self.ask(Job::Ask).await
    }

    /// Ends the thread after all that was asked for before.
    pub(super) async fn stop(&self) -> Result<(), StoreError> {
        match self.ask(Job::Stop).await {
            Err(StoreError::Closed) => Ok(()),
            other => other,
        }
    }

    async fn ask<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.jobs.send(job(answer)).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

/// Waits until everything is done and the file is free for the next one who opens it.
impl Drop for Writer {
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.jobs, closed));
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer ended by a fault of its own");
        }
    }
}

/// What the thread has before it.
struct Desk {
    connection: Connection,
    lock: ProcessLock,
    faults: Faults,
    counters: Counters,
    /// Why the last transaction failed, until one succeeds.
    failed: Option<StoreError>,
}

impl Desk {
    fn serve(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        loop {
            if queue.blocking_recv_many(&mut group, GROUP_MAX) == 0 {
                break;
            }
            let (mut work, mut stop) = (Vec::with_capacity(group.len()), Vec::new());
            let mut asked = Vec::new();
            for job in group.drain(..) {
                match job {
                    Job::Work(piece, answer) => work.push((piece, answer)),
                    Job::Ask(answer) => asked.push(answer),
                    Job::Stop(answer) => stop.push(answer),
                }
            }
            if !work.is_empty() {
                self.answer(work);
            }
            for answer in asked {
                let health = self.failed.clone().map_or(Ok(self.counters), Err);
                let _ = answer.send(health);
            }
            if !stop.is_empty() {
                queue.close();
                let closed = self.close();
                for answer in stop {
                    let _ = answer.send(closed.clone());
                }
                return;
            }
        }
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the store's log stays beside the database until next time");
        }
    }

    /// Does a group and tells everybody. A caller that no longer listens loses nothing but
    /// the answer.
    fn answer(&mut self, group: Vec<(Box<Work>, Answer<Outcome>)>) {
        let (work, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        for (outcome, answer) in self.settle(&work).into_iter().zip(answers) {
            let _ = answer.send(outcome);
        }
        // While the database can still have what it lacks.
        if self.failed.is_none() && log::outgrows_disk(self.faults.path()) {
            self.write_log_back();
        }
    }

    /// Does a group; every piece has an outcome of its own.
    fn settle(&mut self, work: &[Box<Work>]) -> Vec<Result<Outcome, StoreError>> {
        // New room is the database's first: the log would take it and be full again.
        let was_full = self.is_full();
        if was_full {
            self.write_log_back();
        }
        let mut outcome = self.transact(|desk| desk.together(work));
        if outcome.is_err() && !was_full && self.is_full() && self.write_log_back() {
            outcome = self.transact(|desk| desk.together(work));
        }
        let failure = match outcome {
            Ok(outcomes) => return outcomes.into_iter().map(Ok).collect(),
            Err(failure) => failure,
        };
        if work.len() == 1 {
            return vec![Err(failure)];
        }
        if !failure.is_of_the_store()
            && let Ok(outcomes) = self.transact(|desk| desk.apart(work))
        {
            return outcomes;
        }
        work.iter().map(|piece| self.transact(|desk| desk.alone(piece))).collect()
    }

    fn is_full(&self) -> bool {
        matches!(self.failed, Some(StoreError::Full { .. }))
    }

    /// Makes room in the log; whether it is empty now. That it can't be is no failure of a commit.
    fn write_log_back(&self) -> bool {
        log::write_back(&self.connection).unwrap_or_else(|error| {
            tracing::warn!(%error, "the store's log can't be written back");
            false
        })
    }

    /// Runs `job` as one transaction. An error means that nothing of it happened.
    fn transact<T>(
        &mut self,
        job: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let before = self.counters;
        match self.try_transact(job) {
            Ok(outcome) => {
                self.failed = None;
                Ok(outcome)
            }
            Err(error) => {
                self.counters = before;
                if !self.connection.is_autocommit() {
                    // Where even this fails the connection drops the transaction by itself.
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                if error.is_of_the_store() {
                    tracing::error!(%error, "the store could not write");
                    self.failed = Some(error.clone());
                }
                Err(error)
            }
        }
    }

    fn try_transact<T>(
        &mut self,
        job: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.statement("BEGIN IMMEDIATE")?;
        let outcome = job(self)?;
        self.counters
            .write(&self.connection)
            .map_err(|error| self.faults.of("write the store's counters", error))?;
        self.statement("COMMIT")?;
        Ok(outcome)
    }

    /// All pieces, or none when one fails.
    fn together(&mut self, work: &[Box<Work>]) -> Result<Vec<Outcome>, StoreError> {
        work.iter().map(|piece| self.alone(piece)).collect()
    }

    fn alone(&mut self, piece: &Work) -> Result<Outcome, StoreError> {
        piece.run(&self.connection, &self.faults, &mut self.counters)
    }

    /// All pieces that can be done; an error only when the store itself fails.
    fn apart(
        &mut self,
        work: &[Box<Work>],
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let mut outcomes = Vec::with_capacity(work.len());
        for piece in work {
            self.statement("SAVEPOINT piece")?;
            let before = self.counters;
            let outcome = self.alone(piece);
            if let Err(error) = &outcome {
                if error.is_of_the_store() {
                    return Err(error.clone());
                }
                self.counters = before;
                self.statement("ROLLBACK TO piece")?;
            }
            self.statement("RELEASE piece")?;
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    fn statement(&self, sql: &'static str) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map(drop)
            .map_err(|error| self.faults.of("write to the store", error))
    }

    /// Closes the file and lets others have it, before anybody is told.
    fn close(self) -> Result<(), StoreError> {
        let closed = self.connection.close();
        drop(self.lock);
        closed.map_err(|(_, error)| self.faults.of("close the store", error))
    }
}
