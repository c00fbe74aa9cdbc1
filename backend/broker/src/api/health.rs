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

/// The name that stands for the whole server.
const SERVER: &str = "";
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

    /// Follows the store until `stop`; then whoever watches is told the last thing and let go.
    pub(crate) async fn follow(mut self, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_well = None;
        loop {
            let next = async {
                ticks.tick().await;
                store.health().await
            };
            let outcome = tokio::select! {
                () = stop.cancelled() => break,
                outcome = next => outcome,
            };
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
        // Watches end when they have said it, as the server's end would wait for them; whoever asks
        // on an old connection now is told that there is no such service.
        self.reporter.clear_service_status(SERVER).await;
    }

    async fn tell(&self, status: ServingStatus) {
        self.reporter.set_service_status(SERVER, status).await;
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_model::{
        access::Account,
        id::AccountId,
        units::{Revision, UnixMs},
    };
    use fairmazon_store::{
        Commit, Expect, Key, StoreError, Write,
        sqlite::{SqliteOptions, SqliteStore},
    };
    use tonic::Streaming;
    use tonic_health::pb::{
        HealthCheckRequest, HealthCheckResponse,
        health_check_response::ServingStatus::{self, NotServing, Serving},
        health_client::HealthClient,
    };

    use super::*;

    /// A row that takes its room.
    fn large(number: u128) -> Account {
        Account {
            id: AccountId::from_parts(1, number),
            name: format!("{number} {}", "x".repeat(50_000)),
            created_at: UnixMs(1),
            revision: Revision(0),
        }
    }

    /// What is told next. Without a limit: the clock does not wait for the store's threads.
    async fn told(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
        watch.message().await.unwrap().unwrap().status()
    }

    #[tokio::test(start_paused = true)]
    async fn it_serves_while_the_store_takes_changes_and_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(folder.path().join("broker.db"));
        let limited = SqliteOptions { max_size_bytes: Some(1_000_000), ..options };
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&limited).unwrap());
        let (health, service) = Health::new().await;
        let mut client = HealthClient::new(service);
        let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        let mut next = async || told(&mut watch).await;
        let first = client.check(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(first.status(), NotServing, "nobody has looked at the store yet");
        assert_eq!(next().await, NotServing);
        let stop = CancellationToken::new();
        let following = tokio::spawn(health.follow(store.clone(), stop.clone()));
        assert_eq!(next().await, Serving);

        let mut number = 0;
        let full = loop {
            number += 1;
            let put = Write::Put(large(number).into(), Expect::New);
            if let Err(error) = store.commit(Commit::of([put])).await {
                break error;
            }
        };
        assert!(matches!(full, StoreError::Full { .. }), "{full}");
        assert_eq!(next().await, NotServing);
        let gone =
            (1..number).map(|number| Write::Delete(Key::from(large(number).id), Expect::Any));
        store.commit(Commit::of(gone)).await.unwrap();
        assert_eq!(next().await, Serving, "there is room again");

        stop.cancel();
        assert_eq!(next().await, NotServing, "the store is well, and the broker ends");
        assert!(watch.message().await.unwrap().is_none(), "there is nothing more to tell");
        following.await.unwrap();
        store.close().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_closed_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(folder.path().join("broker.db"));
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&options).unwrap());
        let (health, service) = Health::new().await;
        let mut client = HealthClient::new(service);
        let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        let stop = CancellationToken::new();
        let following = tokio::spawn(health.follow(store.clone(), stop.clone()));
        while told(&mut watch).await != Serving {}
        store.close().await.unwrap();
        assert_eq!(told(&mut watch).await, NotServing);
        stop.cancel();
        following.await.unwrap();
    }
}
