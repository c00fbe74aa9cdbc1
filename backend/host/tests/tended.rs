//! The agent and its way to the broker: whatever becomes of the streams, the way is looked after for
//! as long as the agent runs.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use common::{Network, Subject, TERM_MS};
use fairmazon_host::{
    state::MemoryState,
    transport::{BrokerEnd, Link, Transport, TransportError},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const TERM: Duration = Duration::from_millis(TERM_MS);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tending {
    NotBegun,
    Begun,
    Ended,
}

/// A way that tells whether it is tended.
struct Way {
    streams: mpsc::Sender<BrokerEnd>,
    tending: watch::Sender<Tending>,
}

#[async_trait]
impl Transport for Way {
    async fn connect(&self) -> Result<Link, TransportError> {
        self.streams.connect().await
    }

    async fn tend(&self, stop: CancellationToken) {
        assert_eq!(self.tending.send_replace(Tending::Begun), Tending::NotBegun);
        stop.cancelled().await;
        self.tending.send_replace(Tending::Ended);
    }
}

#[tokio::test(start_paused = true)]
async fn the_way_to_the_broker_is_tended_with_a_stream_and_without_until_the_agent_ends() {
    for network in [Network::Whole, Network::Cut] {
        let mut subject = Subject::idle(Arc::new(MemoryState::default()));
        subject.broker.network(network);
        let (tending, mut told) = watch::channel(Tending::NotBegun);
        let way = Way { streams: subject.streams.clone(), tending };
        subject.transport = Some(Arc::new(way));
        subject.start_agent();
        let begun = told.wait_for(|told| *told == Tending::Begun);
        tokio::time::timeout(TERM, begun).await.unwrap().unwrap();
        // The same one goes on, however many streams there were.
        tokio::time::sleep(10 * TERM).await;
        assert_eq!(*told.borrow(), Tending::Begun, "{network:?}");
        subject.stop_agent().await;
        assert_eq!(*told.borrow(), Tending::Ended, "{network:?}");
    }
}
