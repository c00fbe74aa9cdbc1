//! The network between agents and broker: each direction of each host can be cut, or lose,
//! repeat, delay and reorder what it carries.
//!
//! As on any real connection, what is cut off is held and may arrive late, and a stream that
//! has lost something for good ends soon after.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fairmazon_broker::{
    core::Engine,
    session::{BrokerSays, Hello, HostSays},
};
use fairmazon_host::transport::{
    BrokerEnd, FromHost, Link, ToHost, Transport, TransportError, pair,
};
use fairmazon_model::id::HostId;
use fairmazon_proto::host::v1;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_stream::wrappers::ReceiverStream;

use super::run::Log;

/// How long a connection attempt into a partition takes to fail.
const CONNECT_FAILS_AFTER: Duration = Duration::from_secs(1);

/// A direction of a host's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Direction {
    /// Nothing arrives until it is whole again; then what was held does.
    pub cut: bool,
    /// How many of a hundred messages meet a fault.
    pub lossy_percent: u32,
}

/// Both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wire {
    pub to_broker: Direction,
    pub to_host: Direction,
}

/// Whichever broker is up, with the tasks that serve its streams.
#[derive(Clone, Default)]
pub struct Up {
    pub engine: Option<Engine>,
    pub number: u64,
}

/// One host's way to the broker.
pub struct Path {
    host: HostId,
    wire: watch::Sender<Wire>,
    broker: watch::Receiver<Up>,
    random: Mutex<StdRng>,
    streams: Mutex<Vec<AbortHandle>>,
    log: Log,
}

impl Path {
    pub fn new(host: HostId, broker: watch::Receiver<Up>, seed: u64, log: Log) -> Arc<Self> {
        Arc::new(Self {
            host,
            wire: watch::Sender::new(Wire::default()),
            broker,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            streams: Mutex::default(),
            log,
        })
    }

    pub fn set(&self, change: impl FnOnce(&mut Wire)) {
        self.wire.send_modify(change);
    }

    /// Ends every stream at the broker's side, as its death does.
    pub fn broker_died(&self) {
        self.streams.lock().drain(..).for_each(|stream| stream.abort());
    }

    fn roll(&self, most: u64) -> u64 {
        self.random.lock().random_range(0..most)
    }

    async fn open(&self, way: fn(&Wire) -> Direction) -> Direction {
        let mut wire = self.wire.subscribe();
        let open = wire.wait_for(|wire| !way(wire).cut).await.unwrap();
        way(&open)
    }
}

/// What an agent connects with.
pub struct PathTransport(pub Arc<Path>);

#[async_trait]
impl Transport for PathTransport {
    async fn connect(&self) -> Result<Link, TransportError> {
        let path = &self.0;
        let wire = *path.wire.borrow();
        let engine = path.broker.borrow().engine.clone();
        let unreachable = |why: &str| TransportError::Unreachable {
            address: "broker".into(),
            source: why.to_owned().into(),
        };
        if wire.to_broker.cut || wire.to_host.cut {
            tokio::time::sleep(CONNECT_FAILS_AFTER).await;
            return Err(unreachable("no answer"));
        }
        let engine = engine.ok_or_else(|| unreachable("refused"))?;
        let (link, end) = pair();
        let task = tokio::spawn(carry(path.clone(), engine, end));
        let mut streams = path.streams.lock();
        streams.retain(|stream| !stream.is_finished());
        streams.push(task.abort_handle());
        Ok(link)
    }
}

/// Carries the messages of one stream both ways until it ends.
async fn carry(path: Arc<Path>, engine: Engine, end: BrokerEnd) {
    let (inbound, arrived) = mpsc::channel(8);
    let (outbound, says) = mpsc::channel(8);
    let serve = engine.host_stream(path.host, ReceiverStream::new(arrived), outbound);
    let to_broker = pump(&path, |wire| wire.to_broker, end.receiver, inbound, host_says);
    let to_host = pump(&path, |wire| wire.to_host, says, end.sender.clone(), to_host_message);
    tokio::pin!(serve, to_broker, to_host);
    let mut open = true;
    let reason = loop {
        tokio::select! {
            biased;
            result = &mut serve => break result.err().map(|error| error.to_string()),
            () = &mut to_broker, if open => open = false,
            () = &mut to_host => break Some("lost".to_owned()),
        }
    };
    if let Some(reason) = reason {
        let _ = end.sender.send(Err(TransportError::Ended { reason })).await;
    }
}

/// Carries one direction. When it ends, its receiver sees the end.
async fn pump<A: Clone + std::fmt::Debug, B>(
    path: &Path,
    way: fn(&Wire) -> Direction,
    mut from: mpsc::Receiver<A>,
    to: mpsc::Sender<B>,
    map: fn(A) -> B,
) {
    let mut held = None;
    while let Some(message) = from.recv().await {
        let direction = path.open(way).await;
        let mut out = vec![message];
        if direction.lossy_percent > 0 && path.roll(100) < u64::from(direction.lossy_percent) {
            let fault = path.roll(4);
            let what = ["lost", "repeated", "overtaken", "late"][fault as usize];
            let text = format!("{:?}", out[0]);
            let name: String = text.chars().take(90).collect();
            path.log.say(format!("network of {}: {what}: {name}", path.host));
            match fault {
                0 => {
                    // Lost for good: the stream goes on for a while and then ends.
                    let left = Duration::from_millis(path.roll(2_000));
                    let _ = tokio::time::timeout(left, async {
                        while let Some(message) = from.recv().await {
                            path.open(way).await;
                            let _ = to.send(map(message)).await;
                        }
                    })
                    .await;
                    return;
                }
                1 => out.push(out[0].clone()),
                2 => {
                    // Two that are held at once would lose one without the stream's end.
                    let overtaken = out.pop();
                    out.extend(held.take());
                    held = overtaken;
                }
                _ => tokio::time::sleep(Duration::from_millis(path.roll(2_000))).await,
            }
        }
        if !out.is_empty() {
            out.extend(held.take());
        }
        for message in out {
            if to.send(map(message)).await.is_err() {
                return;
            }
        }
    }
}

fn host_says(message: FromHost) -> HostSays {
    match message {
        FromHost::Hello(hello) => HostSays::Hello(Hello {
            host: hello.host,
            agent_version: hello.agent_version,
            hypervisor: hello.hypervisor,
            session: hello.session,
            generation: hello.generation,
            migration_address: hello.migration_address,
            accelerator: hello.accelerator,
            reads_consoles: hello.reads_consoles,
            conformity: hello.conformity,
        }),
        FromHost::Renew { sequence } => HostSays::Renew { sequence },
        // Through the wire's own form, which must lose nothing that matters.
        FromHost::Observed { sequence, set } => {
            HostSays::Observed { sequence, set: v1::Observed::from(&set).try_into().unwrap() }
        }
        FromHost::Metered(batch) => {
            HostSays::Metered(v1::Metered::from(&batch).try_into().unwrap())
        }
        FromHost::ConsoleRead(read) => {
            HostSays::ConsoleRead(v1::ConsoleRead::from(read).try_into().unwrap())
        }
    }
}

fn to_host_message(says: BrokerSays) -> Result<ToHost, TransportError> {
    Ok(match says {
        BrokerSays::Welcome { lease_term_ms, renew_every_ms, generation } => {
            ToHost::Welcome { lease_term_ms, renew_every_ms, generation }
        }
        BrokerSays::Renewed { sequence, lease_term_ms } => {
            ToHost::Renewed { sequence, lease_term_ms }
        }
        BrokerSays::Desired(set) => ToHost::Desired(v1::Desired::from(&set).try_into().unwrap()),
        BrokerSays::MeteredThrough { batch, refused } => ToHost::MeteredThrough { batch, refused },
        BrokerSays::Receive(asked) => {
            ToHost::Receive(v1::Receive::from(&asked).try_into().unwrap())
        }
        BrokerSays::ReadConsole(asked) => {
            ToHost::ReadConsole(v1::ReadConsole::from(&asked).try_into().unwrap())
        }
        BrokerSays::Send(asked) => ToHost::Send(v1::Send::from(&asked).try_into().unwrap()),
    })
}
