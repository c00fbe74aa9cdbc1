//! A connection to libvirt beside the one that machines are changed over, for questions that may be
//! answered late or never: libvirt does few calls of one connection at once.

use std::sync::Arc;

use parking_lot::Mutex;
use virt::{connect::Connect, error::Error};

use super::session::KEEP_ALIVE;
use crate::domains::Domains;

/// Opens it when it is used, and again after it has ended.
#[derive(Debug)]
pub(super) struct Line {
    uri: String,
    domain_type: &'static str,
    current: Mutex<Option<Arc<Domains>>>,
}

impl Line {
    pub(super) fn new(uri: String, domain_type: &'static str) -> Self {
        Self { uri, domain_type, current: Mutex::default() }
    }

    /// The machines of the connection, a new one where the last has ended. Blocks.
    pub(super) fn domains(&self) -> Result<Arc<Domains>, Error> {
        let mut current = self.current.lock();
        if let Some(domains) = &*current
            && domains.connection.is_alive().unwrap_or(false)
        {
            return Ok(Arc::clone(domains));
        }
        *current = None;
        let connection = Connect::open(Some(&self.uri))?;
        connection.set_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)?;
        let domains = Arc::new(Domains::for_agents(connection, self.domain_type));
        *current = Some(Arc::clone(&domains));
        Ok(domains)
    }

    /// Leaves the connection to those who wait for an answer in it: the next one is another. Blocks.
    pub(super) fn leave(&self) {
        let left = self.current.lock().take();
        drop(left);
    }
}
