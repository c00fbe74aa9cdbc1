//! Files of imported volumes at the agent: what stands still does not stay for ever.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use common::{Subject, set};
use fairmazon_host::{
    state::MemoryState,
    transport::{BrokerEnd, Data, Link, ToHost, Transport, TransportError},
};
use fairmazon_hypervisor::contract::{volume, wish};
use fairmazon_model::{
    machine::{HostVolume, VolumeCopy},
    transfer::{ReceiveVolume, Sha256, Taken, TransferId},
    units::Generation,
    volume::Import,
};
use futures::{StreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

type Part = Result<Vec<u8>, TransportError>;

struct Begun {
    transfer: TransferId,
    parts: mpsc::Sender<Part>,
    words: BoxStream<'static, Taken>,
}

impl Begun {
    /// Whether the host takes the file.
    async fn begins(&mut self) -> bool {
        let word = self.words.next().await;
        matches!(word, Some(Taken::Begin { .. }))
    }
}

/// A broker's end of each transfer that a host begins.
struct Way {
    streams: mpsc::Sender<BrokerEnd>,
    begun: mpsc::Sender<Begun>,
}

#[async_trait]
impl Transport for Way {
    async fn connect(&self) -> Result<Link, TransportError> {
        self.streams.connect().await
    }

    async fn receive_volume(
        &self,
        transfer: TransferId,
        words: BoxStream<'static, Taken>,
    ) -> Result<Data, TransportError> {
        let (parts, data) = mpsc::channel(1);
        let begun = self.begun.send(Begun { transfer, parts, words });
        assert!(begun.await.is_ok(), "the test has ended");
        Ok(ReceiverStream::new(data).boxed())
    }
}

fn import(number: u128) -> HostVolume {
    let import = Import { bytes: 1 << 20, sha256: Sha256::of(b"a file") };
    HostVolume { copy: Some(VolumeCopy::Import(import)), image: None, ..wish(number) }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_comes_no_further_gives_its_place_to_another() {
    const AT_ONCE: u8 = 16;
    let mut subject = Subject::idle(Arc::new(MemoryState::default()));
    let (begun, mut transfers) = mpsc::channel(1);
    subject.transport = Some(Arc::new(Way { streams: subject.streams.clone(), begun }));
    subject.start_agent();
    let mut wishes = set(1, Vec::new());
    wishes.volumes = (1..=u128::from(AT_ONCE) + 1).map(import).collect();
    subject.broker.desire(wishes);
    subject.broker.sees(|seen| seen.generation == Generation(1)).await;

    let ask = |number: u8| {
        let (transfer, volume) = (TransferId([number; 16]), volume(number.into()));
        subject.broker.ask(ToHost::Receive(ReceiveVolume { transfer, volume }));
    };
    let mut held = Vec::new();
    for number in 1..=AT_ONCE {
        ask(number);
        let mut begun = transfers.recv().await.unwrap();
        assert_eq!(begun.transfer, TransferId([number; 16]));
        assert!(begun.begins().await);
        begun.parts.send(Ok(vec![0; 1_024])).await.unwrap();
        held.push(begun);
    }
    ask(AT_ONCE + 1);
    let mut refused = transfers.recv().await.unwrap();
    assert!(!refused.begins().await, "it takes no more at once");
    drop(refused);
    // The broker's end stays, and nothing more comes.
    let closed = futures::future::join_all(held.iter().map(|begun| begun.parts.closed()));
    tokio::time::timeout(Duration::from_secs(3_600), closed).await.unwrap();
    let taken = async {
        loop {
            ask(AT_ONCE + 1);
            if transfers.recv().await.unwrap().begins().await {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(3_600), taken).await.unwrap();
}
