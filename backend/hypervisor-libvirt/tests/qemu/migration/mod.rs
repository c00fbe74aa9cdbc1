//! Guests that move from one host to another while they run.

mod balloon;
mod before;
mod faults;
mod growth;
mod killed;
mod off;
mod refused;
mod volumes;

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use fairmazon_hypervisor::{
    Channels, Connection, Halt, Hypervisor, HypervisorError, Landing, Marks, OffReason, Result,
    RunState, VolumeKey,
    contract::{instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    instance::Power,
    machine::{HostVolume, MachineSpec},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::{
    guests::data,
    lab::{IMAGE, IMAGE_TEXT, Lab, PATIENCE, files_with, give_keys, key_bytes, marked, says},
    leaks::forms,
};

/// A guest that counts, and keeps its count on its data disk.
const SCRIPT: &str = "#!/bin/sh\nn=0\nwhile :; do n=$((n+1)); echo \"GUEST-TICK $n\"; \
    echo \"ticked by the guest in plain text: $n\" | dd of=/data/vdb/ticks conv=fsync 2>/dev/null; sleep 0.1; done\n";
/// The channels, by what they carry.
const LIBVIRT: u8 = 0;
const MEMORY: u8 = 1;
const DISKS: u8 = 2;

/// What lies between two hosts: it counts, and can be cut.
struct Wire {
    to: Arc<dyn Channels>,
    carried: Arc<[AtomicU64; 3]>,
    /// The channel that ends after so many bytes.
    cut: Option<(u8, u64)>,
    /// Done once when the other libvirt has said that it has all of the guest, before that is heard.
    taken: Option<Arc<dyn Fn() + Send + Sync>>,
    /// What goes over this channel stops in its middle until then.
    until: Option<(u8, CancellationToken)>,
}

/// What has gone over each channel when a guest is in its middle, in bytes.
const HALFWAY: [u64; 3] = [6_000, 4 << 20, 256 << 10];

impl Wire {
    fn to(landing: &Landing) -> Self {
        let to = Arc::clone(&landing.channels);
        Self { to, carried: Arc::default(), cut: None, taken: None, until: None }
    }
}

#[async_trait]
impl Channels for Wire {
    async fn open(&self, channel: u8) -> io::Result<Box<dyn Connection>> {
        let of = |cut: (u8, u64)| (cut.0 == channel).then_some(cut.1);
        Ok(Box::new(Carried {
            inner: self.to.open(channel).await?,
            channel,
            carried: Arc::clone(&self.carried),
            most: self.cut.and_then(of).unwrap_or(u64::MAX),
            taken: self.taken.clone().filter(|_| channel == LIBVIRT),
            until: self.until.clone().filter(|(of, _)| *of == channel).map(|(_, until)| {
                let until: Pin<Box<dyn Future<Output = ()> + Send>> =
                    Box::pin(until.cancelled_owned());
                until
            }),
        }))
    }
}

struct Carried {
    inner: Box<dyn Connection>,
    channel: u8,
    carried: Arc<[AtomicU64; 3]>,
    most: u64,
    taken: Option<Arc<dyn Fn() + Send + Sync>>,
    until: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// How libvirt's answer to the end of a migration begins after its length: program, version,
/// procedure, that it is an answer.
const TAKEN: [u8; 16] = [0x20, 0, 0x80, 0x86, 0, 0, 0, 1, 0, 0, 1, 0x32, 0, 0, 0, 1];

impl Carried {
    fn count(&self, bytes: usize) -> io::Result<()> {
        let carried = &self.carried[usize::from(self.channel)];
        let now = carried.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if now > self.most { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Carried {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.inner).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                let read = &buffer.filled()[before..];
                // The head of a message is read as a whole.
                if read.windows(TAKEN.len()).any(|part| part == TAKEN)
                    && let Some(taken) = self.taken.take()
                {
                    taken();
                }
                Poll::Ready(self.count(buffer.filled().len() - before))
            }
            other => other,
        }
    }
}

impl AsyncWrite for Carried {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let channel = usize::from(self.channel);
        if self.carried[channel].load(Ordering::Relaxed) >= HALFWAY[channel]
            && let Some(until) = &mut self.until
        {
            ready!(until.as_mut().poll(context));
            self.until = None;
        }
        match Pin::new(&mut self.inner).poll_write(context, bytes) {
            Poll::Ready(Ok(written)) => Poll::Ready(self.count(written).map(|()| written)),
            other => other,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// The key of a volume at the second host: another one than at the first.
fn key_there(number: u128) -> [u8; 32] {
    let mut key = key_bytes(number);
    key[0] ^= 0xff;
    key
}

async fn give_keys_there(host: &QemuHost) {
    for number in 1..=9 {
        host.give_key(volume(number), VolumeKey::new(&key_there(number))).await.unwrap();
    }
}

fn machine() -> MachineSpec {
    MachineSpec { disks: vec![data(2)], user_data: SCRIPT.into(), ..spec(1) }
}

/// A host whose guest counts.
async fn counting(lab: &Lab) -> QemuHost {
    let host = lab.host();
    give_keys(&host).await;
    host.create_volume(&HostVolume { image: Some(IMAGE.into()), ..wish(1) }).await.unwrap();
    host.create_volume(&wish(2)).await.unwrap();
    host.define(&Arc::new(machine()), Marks::default()).await.unwrap();
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-TICK 3").await;
    host
}

async fn mark(host: &QemuHost, halt: Halt) {
    let marks = host.machine(instance(1)).await.unwrap().unwrap().marks;
    host.mark(instance(1), Marks { halt, ..marks }).await.unwrap();
}

/// A host that is ready for what runs at the other, as the other describes it.
async fn ready(from: &QemuHost, lab: &Lab) -> QemuHost {
    let host = lab.host();
    give_keys_there(&host).await;
    make_ready(from, &host).await;
    host
}

async fn make_ready(from: &QemuHost, to: &QemuHost) {
    let machine = from.machine(instance(1)).await.unwrap().unwrap();
    for disk in machine.definition.all_disks() {
        let size = from.volume(disk.volume).await.unwrap().unwrap().size;
        to.create_volume(&HostVolume { volume: disk.volume, size, ..wish(1) }).await.unwrap();
    }
    let marks = Marks { halt: Halt::Arriving, ..machine.marks };
    to.define(&machine.definition, marks).await.unwrap();
    mark(from, Halt::Leaving).await;
}

async fn landing(from: &QemuHost, to: &QemuHost) -> Landing {
    let description = from.describe(instance(1)).await.unwrap();
    to.prepare(instance(1), &description).await.unwrap()
}

/// Has the guest go to a host that is ready for it, where it goes on.
async fn moves(from: &QemuHost, to: &QemuHost) {
    let awaited = landing(from, to).await;
    depart(from, &awaited, Wire::to(&awaited)).await.unwrap();
    drop(awaited);
    to.resume(instance(1)).await.unwrap();
    mark(to, Halt::Started).await;
    says(to, instance(1), "GUEST-TICK ").await;
}

async fn depart(from: &QemuHost, landing: &Landing, wire: Wire) -> Result<()> {
    depart_until(from, landing, wire, CancellationToken::new()).await
}

async fn depart_until(
    from: &QemuHost,
    landing: &Landing,
    wire: Wire,
    give_up: CancellationToken,
) -> Result<()> {
    let sent = from.depart(instance(1), &landing.description, Arc::new(wire), give_up);
    tokio::time::timeout(PATIENCE, sent).await.unwrap()
}

async fn run(host: &QemuHost) -> RunState {
    host.machine(instance(1)).await.unwrap().unwrap().run
}

/// That neither a key, of this host or the other, nor anything of the guest's is in a file of a host
/// that another could read.
fn can_t_be_read(when: &str, lab: &Lab) {
    let keys = [1, 2].map(|number| [forms(&key_bytes(number)), forms(&key_there(number))].concat());
    let keys = keys.concat();
    let texts = [
        b"written by the guest in plain text".to_vec(),
        b"ticked by the guest in plain text".to_vec(),
        SCRIPT.as_bytes()[..40].to_vec(),
    ];
    let nowhere: [PathBuf; 0] = [];
    assert_eq!(files_with(&lab.folder, &[&keys[..], &texts].concat()), nowhere, "{when}");
    // In memory, where what a guest says and is told is for this user only.
    assert_eq!(files_with(&lab.consoles, &keys), nowhere, "{when}");
    // The image is no secret; what a volume was filled with from it is.
    assert_eq!(files_with(&lab.pool(), &[IMAGE_TEXT.into()]), nowhere, "{when}");
}

/// What the guest has said here.
async fn said(host: &QemuHost) -> String {
    String::from_utf8_lossy(&host.console(instance(1)).await.unwrap()).into_owned()
}

/// The last number that the guest has counted to, here.
async fn ticks(host: &QemuHost) -> u64 {
    marked(&said(host).await, "GUEST-TICK ").next_back().unwrap().parse().unwrap()
}

/// That the guest counts on, here.
async fn counts_on(host: &QemuHost) {
    let now = ticks(host).await;
    says(host, instance(1), &format!("GUEST-TICK {}", now + 3)).await;
}

#[tokio::test]
async fn a_guest_moves_with_its_disks_and_goes_on() {
    let (mut here, mut there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    source.create_volume(&wish(3)).await.unwrap();
    source.attach(instance(1), &data(3)).await.unwrap();
    says(&source, instance(1), "GUEST-COUNTER vdc 1").await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    assert_eq!(run(&target).await, RunState::Off(OffReason::NeverStarted));
    let mut hints = target.hints();
    let wire = Wire::to(&awaited);
    let carried = Arc::clone(&wire.carried);
    depart(&source, &awaited, wire).await.unwrap();
    let left = source.machine(instance(1)).await.unwrap().unwrap();
    assert_eq!((left.run, left.marks.halt), (RunState::Off(OffReason::Moved), Halt::Left));
    assert_eq!(run(&target).await, RunState::Arrived);
    tokio::time::timeout(PATIENCE, hints.recv()).await.unwrap().unwrap();
    assert_eq!(target.statistics(instance(1)).await.unwrap(), None, "it has not run here yet");
    for (channel, least) in [(LIBVIRT, 1_000), (MEMORY, 1 << 20), (DISKS, 1 << 20)] {
        let carried = carried[usize::from(channel)].load(Ordering::Relaxed);
        assert!(carried > least, "channel {channel} carried {carried} bytes");
    }
    // Nothing else connects the two: each has a network of its own with nothing beyond its bridge.
    for lab in [&mut here, &mut there] {
        assert_eq!(
            lab.run("ip -o link | grep -v -e ': lo:' -e ': guests:' -e ': vnet' || true"),
            ""
        );
        assert_eq!(lab.run("ip route | grep -v 'dev guests' || true"), "");
        assert_eq!(lab.run("tail -qn +2 /proc/net/tcp /proc/net/tcp6"), "", "nothing listens");
        assert_eq!(lab.run("ls /run/fairmazon/moves").trim(), "");
    }
    drop(awaited);
    let before = said(&source).await;
    target.resume(instance(1)).await.unwrap();
    target.resume(instance(1)).await.unwrap();
    mark(&target, Halt::Started).await;
    target.refuse(instance(1)).await.unwrap();
    says(&target, instance(1), "GUEST-TICK ").await;
    counts_on(&target).await;
    // Nothing of what it says is lost between the two, not even in the middle of a line.
    let all = before + &said(&target).await;
    let counted = marked(&all, "GUEST-TICK ").map(|tick| tick.parse::<u64>().unwrap());
    assert!(counted.is_sorted_by(|one, next| one + 1 == *next), "{all}");
    assert_eq!(run(&target).await, RunState::Running);
    let definition = there.run(&format!("virsh dumpxml {}", instance(1)));
    assert!(definition.contains("org.qemu.guest_agent.0"), "{definition}");
    let measured = target.statistics(instance(1)).await.unwrap().unwrap();
    assert!(measured.incarnation > 0 && measured.volumes.len() == 3, "{measured:?}");
    assert_eq!(there.run("virsh secret-list | tail -n +3").trim(), "", "no key is lent any more");
    // Disks come and go there as before, the one included that came while it ran.
    target.detach(instance(1), "data-3").await.unwrap();
    says(&target, instance(1), "GUEST-GONE vdc").await;
    target.attach(instance(1), &data(3)).await.unwrap();
    says(&target, instance(1), "GUEST-COUNTER vdc 2").await;
    // And its data is there when it starts again.
    target.force_stop(instance(1)).await.unwrap();
    target.start(instance(1)).await.unwrap();
    let said = says(&target, instance(1), "GUEST-COUNTER vdc 3").await;
    assert!(said.contains("GUEST-COUNTER vdb 2"), "{said}");
    assert!(said.contains(&format!("GUEST-BOOT-DISK {IMAGE_TEXT}")), "{said}");
    source.undefine(instance(1)).await.unwrap();
    for number in 1..=3 {
        source.delete_volume(volume(number)).await.unwrap();
    }
}

#[tokio::test]
async fn what_has_moved_is_encrypted_there_with_that_hosts_keys() {
    let (here, mut there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    moves(&source, &target).await;
    counts_on(&target).await;
    can_t_be_read("while it runs there", &there);
    can_t_be_read("after it has left", &here);
    target.force_stop(instance(1)).await.unwrap();
    can_t_be_read("after it has ended", &there);
    for number in [1, 2] {
        let path = there.pool().join("standard").join(format!("{}.qcow2", volume(number)));
        let said = there.run(&format!("qemu-img info --output=json {}", path.display()));
        assert!(said.contains("\"format\": \"luks\""), "{said}");
        let taken = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
        assert!(taken * 512 < 64 << 20, "what is empty takes no room: {taken} blocks");
        // Its key opens it, and the one of the host that it came from does not.
        target.give_key(volume(number), VolumeKey::new(&key_bytes(number))).await.unwrap();
    }
    let wrong = target.start(instance(1)).await;
    assert!(matches!(wrong, Err(HypervisorError::KeyWrong { .. })), "{wrong:?}");
    give_keys_there(&target).await;
    target.start(instance(1)).await.unwrap();
    says(&target, instance(1), "GUEST-COUNTER vdb 2").await;
}

#[tokio::test]
async fn a_guest_moves_away_and_back() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    moves(&source, &target).await;
    source.undefine(instance(1)).await.unwrap();
    for number in [1, 2] {
        source.delete_volume(volume(number)).await.unwrap();
    }
    make_ready(&target, &source).await;
    let awaited = landing(&target, &source).await;
    depart(&target, &awaited, Wire::to(&awaited)).await.unwrap();
    let count = ticks(&target).await;
    source.resume(instance(1)).await.unwrap();
    mark(&source, Halt::Started).await;
    says(&source, instance(1), &format!("GUEST-TICK {}", count + 5)).await;
    assert_eq!(run(&target).await, RunState::Off(OffReason::Moved));
}
