//! Questions to the QEMU of one machine, which may hang: libvirt then waits for its answer without
//! an end, and whoever has asked over the same connection or on the same thread with it.
//!
//! So each is asked on a thread of its own, a machine is asked one thing at a time, and a connection
//! in which a question was not answered in time is left to that question.

use std::{collections::HashSet, sync::Arc, time::Duration};

use fairmazon_hypervisor::{HypervisorError, Result};
use fairmazon_model::id::InstanceId;
use parking_lot::Mutex;

use super::line::Line;
use crate::{domains::Domains, error::failed};

/// How long an answer may take: a QEMU that does not hang answers in some milliseconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// Who asks.
#[derive(Debug)]
pub(super) struct Asker {
    line: Arc<Line>,
    /// The machines that have not answered yet.
    asked: Arc<Mutex<HashSet<InstanceId>>>,
}

/// A machine that is asked, until this is dropped.
struct Asked {
    of: Arc<Mutex<HashSet<InstanceId>>>,
    instance: InstanceId,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.of.lock().remove(&self.instance);
    }
}

impl Asker {
    pub(super) fn new(uri: String, domain_type: &'static str) -> Self {
        Self { line: Arc::new(Line::new(uri, domain_type)), asked: Arc::default() }
    }

    /// Asks for something of a machine.
    ///
    /// # Errors
    /// `Timeout` when it has not answered in time, and while it has not answered before.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        attempted: &str,
        instance: InstanceId,
        question: impl FnOnce(&Domains) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let late = || HypervisorError::late(attempted, ANSWERS_WITHIN);
        if !self.asked.lock().insert(instance) {
            return Err(late());
        }
        let asked = Asked { of: Arc::clone(&self.asked), instance };
        let line = Arc::clone(&self.line);
        let answer = tokio::task::spawn_blocking(move || {
            let _asked = asked;
            question(&*line.domains().map_err(failed("connect to libvirt"))?)
        });
        match tokio::time::timeout(ANSWERS_WITHIN, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                Err(HypervisorError::Driver { attempted: attempted.into(), source: error.into() })
            }
            Err(_) => {
                let line = Arc::clone(&self.line);
                // Nobody has to wait for that.
                drop(tokio::task::spawn_blocking(move || line.leave()));
                Err(late())
            }
        }
    }
}
