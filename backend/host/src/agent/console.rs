//! Serial consoles that customers wait for: read beside everything else, and noted nowhere.

use std::{sync::Arc, time::Duration};

use fairmazon_model::console::{ConsoleRead, ReadConsole};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use super::Agent;
use crate::transport::FromHost;

/// Consoles that wait to be read; those beyond are not read.
const WAITING: usize = 32;
/// Consoles that are read at once.
const AT_ONCE: usize = 2;
/// How long each keeps its place: renewals of the lease go over the same connection, so consoles
/// must not fill it however often they are asked for.
const PLACE_HELD: Duration = Duration::from_millis(500);

/// The consoles that are being read.
pub(super) struct Reads {
    tasks: JoinSet<()>,
    places: Arc<Semaphore>,
}

impl Default for Reads {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Agent {
    /// Reads what was asked for. Nothing is repeated: whoever waits for it asks again.
    pub(super) fn read_console(&mut self, asked: ReadConsole) {
        while self.consoles.tasks.try_join_next().is_some() {}
        let ReadConsole { read, instance } = asked;
        let host = self.config.host;
        if self.consoles.tasks.len() >= WAITING {
            tracing::warn!(%host, %instance, "too many consoles are being read for one more");
            return;
        }
        let Some(sender) = self.stream.sender() else { return };
        let (hands, places) = (self.hands.clone(), Arc::clone(&self.consoles.places));
        self.consoles.tasks.spawn(async move {
            // Never closed.
            let Ok(_place) = places.acquire().await else { return };
            let last = hands.read_console(instance).await.map_err(|error| {
                let cause: &dyn std::error::Error = &error;
                tracing::info!(%host, %instance, error = cause, "a console could not be read");
                error.for_customer()
            });
            // A stream that has ended meanwhile has nobody who waits.
            let _ = sender.send(FromHost::ConsoleRead(ConsoleRead { read, last })).await;
            sleep(PLACE_HELD).await;
        });
    }
}
