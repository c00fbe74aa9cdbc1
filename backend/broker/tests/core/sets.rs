//! What a host is told, seen from its end of the stream, without an agent.

use std::collections::BTreeMap;

use fairmazon_broker::session::{BrokerSays, Hello, HostSays};
use fairmazon_model::{
    host::HostSpec,
    id::HostId,
    instance::{Attachment, InstanceSpec, ObservedState},
    limits,
    machine::{DesiredSet, GuestSeen, MachineSeen, ObservedSet, VolumeSeen, VolumeWish},
    units::{Epoch, Generation, Gib},
    usage::{RefusedWindow, WindowBatch},
    volume::VolumeObserved,
};
use fairmazon_proto::host::v1;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::kit::{Hosts, Kit, host_spec, quick, spec, volume_spec};

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
            migration_address: String::new(),
            accelerator: String::new(),
            reads_consoles: false,
            conformity: None,
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

    /// Tells these windows; answers those that are refused.
    pub async fn tells(&mut self, batch: WindowBatch) -> Vec<RefusedWindow> {
        let number = batch.number;
        self.says.send(HostSays::Metered(batch)).await.unwrap();
        loop {
            if let BrokerSays::MeteredThrough { batch, refused } = self.hears.recv().await.unwrap()
                && batch == number
            {
                return refused;
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

#[tokio::test]
async fn a_new_machine_and_its_volume_are_told_in_one_set() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let registered = kit.engine.register_host(&kit.customer, host_spec(0, "DE"), &kit.key()).await;
    let mut mouth = Mouth::open(&kit, registered.unwrap().0.row.id, Generation(0)).await;
    mouth.hears(|_| true).await;
    for number in 1..=8 {
        let one = spec(&format!("m{number}"));
        kit.engine.create_instance(&kit.customer, one, &kit.key()).await.unwrap();
        let set = mouth.hears(|_| true).await;
        let told = (set.machines.len(), set.volumes.len());
        assert_eq!(told, (number, number), "nothing is told twice in between");
    }
    kit.stop().await;
}

#[tokio::test]
async fn what_a_restored_store_knows_nothing_of_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 2).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let volume = engine.create_volume(customer, volume_spec("data"), &kit.key()).await.unwrap();
    let volume = volume.volume.row.id;
    let restored = folder.path().join("restored");
    std::fs::create_dir(&restored).unwrap();
    kit.store.backup(&restored.join("store.db")).await.unwrap();
    // Attached and written to after the backup.
    let attachment = Attachment { volume_id: volume, read_only: false };
    let with_data =
        InstanceSpec { volumes: BTreeMap::from([("data".into(), attachment)]), ..spec("web") };
    let made = engine.create_instance(customer, with_data.clone(), &kit.key()).await.unwrap();
    kit.done(made.operation.id).await;
    let host = engine.volume(customer, volume).unwrap().row.host.unwrap();
    let serial = hosts.world.volume_serial(host, volume).unwrap();
    for index in 0..2 {
        hosts.kill_agent(index).await;
    }
    kit.stop().await;
    drop(kit);

    let kit = Kit::open(&restored, quick()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    assert_eq!(engine.volume(customer, volume).unwrap().row.host, None);
    for index in 0..2 {
        hosts.connect(index, engine);
    }
    kit.until("its data is found", || {
        engine.volume(customer, volume).unwrap().row.host == Some(host)
    })
    .await;
    let again = engine.create_instance(customer, with_data, "again").await.unwrap();
    kit.done(again.operation.id).await;
    let decided = engine.instance(customer, again.instance.row.id).unwrap().row;
    assert_eq!(decided.decision.as_ref().unwrap().host, host);
    assert_eq!(hosts.world.volume_serial(host, volume), Some(serial), "the same data");
    engine.audit_books().unwrap();
    for index in 0..2 {
        hosts.kill_agent(index).await;
    }
    kit.stop().await;
}

#[tokio::test]
async fn a_run_and_data_that_only_a_host_knows_of_are_taken_into_account() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Vec::new();
    for number in 0..2 {
        let spec = host_spec(number, "DE");
        let made = kit.engine.register_host(&kit.customer, spec, &kit.key()).await;
        hosts.push(made.unwrap().0.row.id);
    }
    let mut one = Mouth::open(&kit, hosts[0], Generation(0)).await;
    one.hears(|_| true).await;
    let made = kit.engine.create_instance(&kit.customer, spec("web"), &kit.key()).await.unwrap();
    let row = made.instance.row;
    let set = one.hears(|set| set.machines.len() == 1).await;
    let seen = MachineSeen {
        instance: row.id,
        epoch: Epoch(7),
        spec_version: 1,
        state: ObservedState::Running,
        failure: None,
        addresses: Vec::new(),
        guest: GuestSeen::default(),
        handover: None,
        lacks_memory: false,
    };
    let report =
        ObservedSet { generation: set.generation, machines: vec![seen], ..ObservedSet::default() };
    one.reports(report).await;
    let set = one.hears(|set| set.machines.iter().any(|machine| machine.epoch > Epoch(1))).await;
    assert_eq!(set.machines[0].epoch, Epoch(8), "a run of its own, after the one that is there");
    assert_eq!(kit.own_verbs(row.id).await, ["broker.place", "broker.outrun_instance"]);
    let known = kit.engine.instance(&kit.customer, row.id).unwrap().row;
    assert!(known.decision.clone().is_some_and(|decision| decision.may_run), "it runs there");

    // Another host has data of the boot volume, as if it had been there after the backup.
    let mut other = Mouth::open(&kit, hosts[1], Generation(0)).await;
    let set = other.hears(|_| true).await;
    let state = VolumeObserved::Present { size: Gib(10), failure: None };
    let stray =
        VolumeSeen { volume: row.boot_volume_id, state, changed_key: None, refused_key: None };
    let report =
        ObservedSet { generation: set.generation, volumes: vec![stray], ..ObservedSet::default() };
    other.reports(report).await;
    // A machine for the other host, so that it is told something after its report.
    for number in 0..4 {
        let more = spec(&format!("more-{number}"));
        kit.engine.create_instance(&kit.customer, more, &kit.key()).await.unwrap();
    }
    let set = other.hears(|set| !set.machines.is_empty()).await;
    assert!(set.volumes.iter().all(|wish| wish.wish == VolumeWish::Keep), "{set:?}");
    assert!(set.volumes.iter().all(|wish| wish.volume != row.boot_volume_id));
    kit.stop().await;
}
