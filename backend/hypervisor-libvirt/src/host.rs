//! A host behind libvirt as a [`Hypervisor`]: each call on the host's own threads, checks that
//! span several machines under one lock.

use std::{io::Write, sync::Arc, time::Duration};

use async_trait::async_trait;
use fairmazon_hypervisor::{
    Features, Hint, Hypervisor, HypervisorError, Inventory, KeyChange, Machine, Marks, Result,
    Volume, VolumeKey,
};
use fairmazon_model::{
    host::Capacity,
    id::{InstanceId, VolumeId},
    machine::{Disk, HostVolume, MachineSpec},
    units::{Gib, Mib, Vcpus},
};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use virt::connect::Connect;

use crate::{
    LibvirtError,
    domains::{Domains, refuse_taken},
    events::{Watch, start_loop},
    threads::Threads,
    volumes::{Hollow, Volumes},
    xml,
};

/// Hints that a slow listener may be behind before it has to look at all.
const HINTS_KEPT: usize = 64;
/// Calls under way at once: one that hangs leaves the other.
const THREADS: usize = 2;
/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// A host of libvirt's test driver, with a world of its own. Cheap to clone; all clones are the
/// same host. Its machines and volumes end with the last clone.
#[derive(Clone, Debug)]
pub struct TestHost {
    inner: Arc<Inner>,
    threads: Threads,
    hints: broadcast::Sender<Hint>,
}

#[derive(Debug)]
struct Inner {
    // Before the connection, so that it ends first.
    _watch: Watch,
    domains: Domains,
    volumes: Volumes,
    capacity: Capacity,
    /// Held while something is checked and then done: memory, room, who uses a volume.
    admission: Mutex<()>,
}

/// Whether libvirt's test driver works on this machine.
///
/// # Errors
/// Why it does not.
pub fn probe() -> std::result::Result<(), LibvirtError> {
    let capacity = Capacity {
        vcpus: Vcpus(1),
        memory: Mib(1_024),
        storage: [("probe".into(), Gib(1))].into(),
    };
    TestHost::open(capacity).map(drop)
}

impl TestHost {
    /// Makes a host with this capacity. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When libvirt or its test driver does not work here.
    pub fn open(capacity: Capacity) -> std::result::Result<Self, LibvirtError> {
        start_loop()?;
        // A description of its own keeps each host's world apart: `test:///default` is one for
        // the whole process.
        let mut node = tempfile::Builder::new()
            .prefix("fairmazon-node-")
            .suffix(".xml")
            .tempfile()
            .map_err(LibvirtError::Describe)?;
        node.write_all(xml::test_node(&capacity).as_bytes()).map_err(LibvirtError::Describe)?;
        let uri = format!("test://{}", node.path().display());
        let connection = Connect::open(Some(&uri))
            .map_err(|source| LibvirtError::Connect { uri: uri.clone(), source })?;
        let hints = broadcast::Sender::new(HINTS_KEPT);
        let watch = Watch::start(&connection, hints.clone()).map_err(LibvirtError::Events)?;
        let volumes = Volumes::open(&connection, &capacity, "/fairmazon", Hollow::Yes)?;
        let domains = Domains {
            connection,
            domain_type: "test",
            address_source: virt_sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
            addresses: Mutex::default(),
            guests: None,
            user_data: None,
            left: None,
            shutdown: 0,
            start: 0,
            plugged: None,
        };
        let threads = Threads::start(THREADS, DEADLINE).map_err(LibvirtError::Threads)?;
        let admission = Mutex::new(());
        let inner = Arc::new(Inner { _watch: watch, domains, volumes, capacity, admission });
        Ok(Self { inner, threads, hints })
    }

    async fn call<T: Send + 'static>(
        &self,
        attempted: &str,
        call: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        self.threads.call(attempted, move || call(&inner)).await
    }

    fn hint(&self, volume: VolumeId) {
        // Nobody listening is no failure: a listener that comes later looks at all first.
        let _ = self.hints.send(Hint::Volume(volume));
    }
}

#[async_trait]
impl Hypervisor for TestHost {
    fn kind(&self) -> &'static str {
        "libvirt-test"
    }

    fn features(&self) -> Features {
        Features {
            hotplug: false,
            grow: true,
            resize: false,
            durable: false,
            encrypts: false,
            migration: false,
            balloon: false,
            accelerator: "",
        }
    }

    async fn capacity(&self) -> Result<Capacity> {
        Ok(self.inner.capacity.clone())
    }

    async fn inventory(&self) -> Result<Inventory> {
        self.call("list what it has", |host| {
            let listed = host.domains.list()?;
            let volumes = host.volumes.list()?;
            Ok(Inventory {
                machines: listed.machines,
                volumes,
                incoming: Vec::new(),
                foreign: listed.foreign,
                images: None,
            })
        })
        .await
    }

    async fn machine(&self, instance: InstanceId) -> Result<Option<Machine>> {
        self.call("look at a machine", move |host| host.domains.machine(instance)).await
    }

    async fn volume(&self, volume: VolumeId) -> Result<Option<Volume>> {
        self.call("look at a volume", move |host| host.volumes.volume(volume)).await
    }

    async fn define(&self, spec: &Arc<MachineSpec>, marks: Marks) -> Result<()> {
        let spec = Arc::clone(spec);
        self.call("define a machine", move |host| host.define(&spec, marks)).await
    }

    async fn mark(&self, instance: InstanceId, marks: Marks) -> Result<()> {
        self.call("mark a machine", move |host| host.domains.mark(instance, marks)).await
    }

    async fn start(&self, instance: InstanceId) -> Result<()> {
        self.call("start a machine", move |host| host.start(instance)).await
    }

    async fn ask_to_stop(&self, instance: InstanceId) -> Result<()> {
        self.call("ask a machine to shut down", move |host| host.domains.ask_to_stop(instance))
            .await
    }

    async fn force_stop(&self, instance: InstanceId) -> Result<()> {
        self.call("end a machine", move |host| host.domains.force_stop(instance)).await
    }

    async fn undefine(&self, instance: InstanceId) -> Result<()> {
        self.call("undefine a machine", move |host| host.domains.undefine(instance)).await
    }

    async fn give_key(&self, _: VolumeId, _: VolumeKey) -> Result<()> {
        Ok(())
    }

    async fn forget_key(&self, _: VolumeId) -> Result<()> {
        Ok(())
    }

    async fn change_key(&self, _: VolumeId, _: KeyChange) -> Result<()> {
        Ok(())
    }

    async fn key_opens(&self, volume: VolumeId, _: VolumeKey) -> Result<bool> {
        let found = self.volume(volume).await?;
        found.map(|_| true).ok_or_else(|| HypervisorError::not_found(volume))
    }

    async fn create_volume(&self, volume: &HostVolume) -> Result<()> {
        let wish = volume.clone();
        self.call("make a volume", move |host| {
            let _admission = host.admission.lock();
            host.volumes.create(&wish)
        })
        .await?;
        self.hint(volume.volume);
        Ok(())
    }

    async fn grow_volume(&self, volume: VolumeId, size: Gib) -> Result<()> {
        self.call("grow a volume", move |host| {
            let _admission = host.admission.lock();
            host.volumes.grow(volume, size)
        })
        .await?;
        self.hint(volume);
        Ok(())
    }

    async fn delete_volume(&self, volume: VolumeId) -> Result<()> {
        self.call("delete a volume", move |host| host.delete_volume(volume)).await?;
        self.hint(volume);
        Ok(())
    }

    async fn attach(&self, instance: InstanceId, _: &Disk) -> Result<()> {
        self.call("attach a disk", move |host| host.domains.expect(instance).map(drop)).await?;
        Err(HypervisorError::Unsupported { what: "attach a disk while the machine runs" })
    }

    async fn detach(&self, instance: InstanceId, _: &str) -> Result<()> {
        self.call("detach a disk", move |host| host.domains.expect(instance).map(drop)).await?;
        Err(HypervisorError::Unsupported { what: "detach a disk while the machine runs" })
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }
}

impl Inner {
    fn define(&self, spec: &MachineSpec, marks: Marks) -> Result<()> {
        let mut pools = Vec::with_capacity(1 + spec.disks.len());
        for disk in spec.all_disks() {
            pools.push((disk.volume, self.volumes.pool_of(disk.volume)?));
        }
        // A volume that is still to be made is looked up again at the start.
        let pool_of = |disk: &Disk| {
            let found = pools.iter().find(|(volume, _)| *volume == disk.volume);
            found.and_then(|(_, pool)| pool.clone()).unwrap_or_else(|| xml::pool_name("none"))
        };
        let _admission = self.admission.lock();
        self.domains.define(spec, marks, |uuid, note| xml::domain(uuid, spec, note, pool_of))
    }

    fn start(&self, instance: InstanceId) -> Result<()> {
        let _admission = self.admission.lock();
        let (_, machine) = self.domains.expect(instance)?;
        if machine.runs() {
            return Ok(());
        }
        let spec = &machine.definition;
        let others = self.domains.list()?.machines;
        for disk in spec.all_disks() {
            if self.volumes.volume(disk.volume)?.is_none() {
                return Err(HypervisorError::not_found(disk.volume));
            }
            refuse_taken(&others, instance, disk)?;
        }
        let running = others.iter().filter(|other| other.runs());
        let used: u64 = running.map(|other| other.definition.memory.0).sum();
        if used.saturating_add(spec.memory.0) > self.capacity.memory.0 {
            return Err(HypervisorError::Full { what: "memory".into() });
        }
        // Names the pools of volumes that were made after the machine was defined.
        let pools = |disk: &Disk| match self.volumes.pool_of(disk.volume) {
            Ok(Some(pool)) => pool,
            _ => xml::pool_name("none"),
        };
        self.domains
            .define(spec, machine.marks, |uuid, note| xml::domain(uuid, spec, note, pools))?;
        self.domains.start(instance)
    }

    fn delete_volume(&self, volume: VolumeId) -> Result<()> {
        let _admission = self.admission.lock();
        let machines = self.domains.list()?.machines;
        if machines.iter().any(|machine| machine.runs() && machine.uses(volume).is_some()) {
            return Err(HypervisorError::busy(volume, "a running machine uses it"));
        }
        self.volumes.delete(volume)
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::{instance, spec};

    use super::*;

    fn host_with(xml: &str) -> TestHost {
        let capacity = Capacity {
            vcpus: Vcpus(1),
            memory: Mib(4_096),
            storage: [("s".into(), Gib(1))].into(),
        };
        let host = TestHost::open(capacity).unwrap();
        host.inner.domains.connection.define_domain_xml(xml).unwrap().create().unwrap();
        host
    }

    fn foreign(name: &str, uuid: &str) -> String {
        format!(
            "<domain type='test'><name>{name}</name>{uuid}<memory unit='MiB'>64</memory>\
             <vcpu>1</vcpu><os><type>hvm</type></os></domain>"
        )
    }

    async fn is_left_alone(host: &TestHost, name: &str) {
        let refused = host.define(&Arc::new(spec(1)), Marks::default()).await;
        assert!(matches!(refused, Err(HypervisorError::Foreign { .. })), "{refused:?}");
        let inventory = host.inventory().await.unwrap();
        assert_eq!((inventory.machines.len(), inventory.foreign), (0, 1));
        assert!(host.machine(instance(1)).await.unwrap().is_none());
        for call in [
            host.force_stop(instance(1)).await,
            host.ask_to_stop(instance(1)).await,
            host.mark(instance(1), Marks::default()).await,
        ] {
            assert!(call.is_err());
        }
        let _ = host.undefine(instance(1)).await;
        let domain = host.inner.domains.connection.lookup_domain_by_name(name).unwrap();
        assert!(domain.is_active().unwrap());
    }

    #[tokio::test]
    async fn a_domain_with_the_name_of_a_machine_is_left_alone() {
        let name = instance(1).to_string();
        is_left_alone(&host_with(&foreign(&name, "")), &name).await;
    }

    #[tokio::test]
    async fn a_domain_with_the_uuid_of_a_machine_is_left_alone() {
        let hex = format!("{:032x}", instance(1).ulid().0);
        let uuid = format!("<uuid>{hex}</uuid>");
        is_left_alone(&host_with(&foreign("other", &uuid)), "other").await;
    }
}
