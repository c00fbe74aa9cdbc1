//! `grpc.health.v1`: serving while the store can be read and written, and not any more from
//! the moment that the broker is told to end.

use std::{sync::Arc, time::Duration};

use fairmazon_store::Store;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthService, HealthServer},
    server::{HealthReporter, health_reporter},
};

/// How often the store is asked.
const EVERY: Duration = Duration::from_secs(5);

/// What clients are told of the broker's health.
pub(crate) struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// Not serving yet; with the service that answers for it.
    pub(crate) async fn new() -> (Self, HealthServer<impl HealthService>) {
        let (reporter, service) = health_reporter();
        let health = Self { reporter };
        health.tell(ServingStatus::NotServing).await;
        (health, service)
    }

    /// Follows the store until `stop`.
    pub(crate) async fn follow(self, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_well = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let outcome = store.health().await;
            let is_well = outcome.is_ok();
            if was_well != Some(is_well) {
                if let Err(error) = outcome {
                    tracing::error!(%error, "the store is not well: changes may fail");
                }
                let told = if is_well { ServingStatus::Serving } else { ServingStatus::NotServing };
                self.tell(told).await;
                was_well = Some(is_well);
            }
        }
        self.tell(ServingStatus::NotServing).await;
    }

    async fn tell(&self, status: ServingStatus) {
        // The empty name stands for the whole server.
        self.reporter.set_service_status("", status).await;
    }
}
