//! What a host is told, seen from its end of the stream, without an agent.

use fairmazon_broker::session::{BrokerSays, Hello, HostSays};
use fairmazon_model::{
    host::HostSpec,
    id::HostId,
    instance::InstanceSpec,
    limits,
    machine::{DesiredSet, ObservedSet},
    units::Generation,
};
use fairmazon_proto::host::v1;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::kit::{Kit, host_spec, quick, spec};

/// A host that a test speaks for.
pub struct Mouth {
    says: mpsc::Sender<HostSays>,
    hears: mpsc::Receiver<BrokerSays>,
    sequence: u64,
}

impl Mouth {
    /// Opens a stream of the host.
    pub async fn open(kit: &Kit, host: HostId, generation: Generation) -> Self {
        let (says, inbound) = mpsc::channel(8);
        let (outbound, hears) = mpsc::channel(8);
        let engine = kit.engine.clone();
        tokio::spawn(async move {
            let _ = engine.host_stream(host, ReceiverStream::new(inbound), outbound).await;
        });
        let hello = Hello {
            host,
            agent_version: "test".into(),
            hypervisor: "none".into(),
            session: "test".into(),
            generation,
        };
        says.send(HostSays::Hello(hello)).await.unwrap();
        Self { says, hears, sequence: 0 }
    }

    /// The next desired set that fits.
    pub async fn hears(&mut self, fits: impl Fn(&DesiredSet) -> bool) -> DesiredSet {
        loop {
            if let BrokerSays::Desired(set) = self.hears.recv().await.unwrap()
                && fits(&set)
            {
                return set;
            }
        }
    }

    /// Reports this.
    pub async fn reports(&mut self, set: ObservedSet) {
        self.sequence += 1;
        let observed = HostSays::Observed { sequence: self.sequence, set };
        self.says.send(observed).await.unwrap();
    }
}

#[tokio::test]
async fn the_largest_set_that_a_host_can_get_fits_into_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let many = HostSpec { cpu_overcommit_percent: 1_600, ..host_spec(0, "DE") };
    let registered = kit.engine.register_host(&kit.customer, many, &kit.key()).await;
    let host = registered.unwrap().0.row.id;
    let long = "A".repeat(limits::SSH_KEY_MAX - 20);
    let largest = InstanceSpec {
        flavor: "tiny".into(),
        user_data: "ü".repeat(limits::USER_DATA_MAX / 2),
        ssh_keys: (0..4).map(|key| format!("ssh-rsa {key}{long}")).collect(),
        ..spec("large")
    };
    let fits = usize::try_from(limits::HOST_SPECIFICATIONS_MAX).unwrap() / (96 * 1024);
    let mut mouth = Mouth::open(&kit, host, Generation(0)).await;
    mouth.hears(|_| true).await;
    let mut made = Vec::new();
    for number in 0..=fits {
        let one = InstanceSpec { name: format!("large-{number}"), ..largest.clone() };
        let one = kit.engine.create_instance(&kit.customer, one, &kit.key()).await.unwrap();
        made.push(one.instance.row.id);
    }
    let waits = |kit: &Kit| {
        let row = |id| kit.engine.instance(&kit.customer, id).unwrap().row;
        let waiting: Vec<_> = made.iter().map(|id| row(*id).waiting_for.clone()).collect();
        let placed = made.iter().filter(|id| row(**id).decision.is_some()).count();
        let waiting: Vec<_> =
            waiting.into_iter().filter(|why| why.contains("user data and keys")).collect();
        (placed + waiting.len() == made.len(), waiting, placed)
    };
    kit.until("all were tried", || waits(&kit).0).await;
    let (_, waiting, placed) = waits(&kit);
    assert!(!waiting.is_empty() && placed > fits * 9 / 10, "{placed} of {fits}");
    let set = mouth.hears(|set| set.machines.len() == placed).await;
    let bytes = v1::Desired::from(&set).encoded_len();
    assert!(bytes as u64 <= limits::HOST_SPECIFICATIONS_MAX, "{bytes}");
    assert!(bytes as u64 > limits::HOST_SPECIFICATIONS_MAX * 9 / 10, "the bound is not wasteful");
    kit.stop().await;
}
