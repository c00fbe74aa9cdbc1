//! Guests that move from one host to another while they run.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use fairmazon_hypervisor::{
    Channels, Connection, Halt, Hypervisor, HypervisorError, Landing, Machine, Marks, OffReason,
    Result, RunState, VolumeKey,
    contract::{instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::machine::{HostVolume, MachineSpec};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::{
    guests::data,
    lab::{IMAGE, IMAGE_TEXT, Lab, PATIENCE, files_with, give_keys, key_bytes, says},
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
}

impl Wire {
    fn to(landing: &Landing) -> Self {
        Self { to: Arc::clone(&landing.channels), carried: Arc::default(), cut: None }
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
        }))
    }
}

struct Carried {
    inner: Box<dyn Connection>,
    channel: u8,
    carried: Arc<[AtomicU64; 3]>,
    most: u64,
}

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
            Poll::Ready(Ok(())) => Poll::Ready(self.count(buffer.filled().len() - before)),
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
    for disk in std::iter::once(&machine.definition.boot).chain(&machine.definition.disks) {
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

/// Waits until the machine fits; what it is then.
async fn becomes(host: &QemuHost, fits: impl Fn(&Machine) -> bool) -> Machine {
    let begin = std::time::Instant::now();
    loop {
        let machine = host.machine(instance(1)).await;
        if let Ok(Some(machine)) = &machine
            && fits(machine)
        {
            return machine.clone();
        }
        assert!(begin.elapsed() < PATIENCE, "{machine:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The last number that the guest has counted to, here.
fn last_tick(said: &str) -> u64 {
    let ticks = said.lines().filter_map(|line| line.trim().strip_prefix("GUEST-TICK "));
    ticks.filter_map(|tick| tick.parse().ok()).next_back().unwrap()
}

async fn ticks(host: &QemuHost) -> u64 {
    last_tick(&String::from_utf8_lossy(&host.console(instance(1)).await.unwrap()))
}

/// That the guest counts on, here.
async fn counts_on(host: &QemuHost) {
    let now = ticks(host).await;
    says(host, instance(1), &format!("GUEST-TICK {}", now + 3)).await;
}

/// That nothing runs here.
async fn nothing_runs(lab: &mut Lab, host: &QemuHost) {
    becomes(host, |machine| matches!(machine.run, RunState::Off(_))).await;
    assert_eq!(lab.run("ls /run/libvirt/qemu/ins-*.pid 2>/dev/null || true").trim(), "");
    let begin = std::time::Instant::now();
    while !lab.run("ls /run/fairmazon/moves; virsh -q secret-list").trim().is_empty() {
        assert!(begin.elapsed() < PATIENCE, "something is left of a landing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
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
    assert_eq!(run(&source).await, RunState::Off(OffReason::Moved));
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
    let count = ticks(&source).await;
    target.resume(instance(1)).await.unwrap();
    target.resume(instance(1)).await.unwrap();
    mark(&target, Halt::Started).await;
    target.refuse(instance(1)).await.unwrap();
    let said = says(&target, instance(1), "GUEST-TICK ").await;
    let first = said.lines().find_map(|line| line.trim().strip_prefix("GUEST-TICK "));
    assert_eq!(first.unwrap().parse::<u64>().unwrap(), count + 1, "{said}");
    counts_on(&target).await;
    assert_eq!(run(&target).await, RunState::Running);
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
    let awaited = landing(&source, &target).await;
    depart(&source, &awaited, Wire::to(&awaited)).await.unwrap();
    target.resume(instance(1)).await.unwrap();
    mark(&target, Halt::Started).await;
    says(&target, instance(1), "GUEST-TICK ").await;
    counts_on(&target).await;
    let hex = |key: [u8; 32]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let secrets = [
        b"written by the guest in plain text".to_vec(),
        b"ticked by the guest in plain text".to_vec(),
        hex(key_bytes(2)).into_bytes(),
        hex(key_there(2)).into_bytes(),
        SCRIPT.as_bytes()[..40].to_vec(),
    ];
    let nowhere = |when: &str, lab: &Lab| {
        let found = files_with(&lab.folder, &secrets);
        assert!(found.is_empty(), "{when}: {found:?}");
        let found = files_with(&lab.pool(), &[IMAGE_TEXT.into()]);
        assert!(found.is_empty(), "{when}: {found:?}");
    };
    nowhere("while it runs there", &there);
    nowhere("after it has left", &here);
    target.force_stop(instance(1)).await.unwrap();
    nowhere("after it has ended", &there);
    for number in [1, 2] {
        let path = there.pool().join("standard").join(format!("{}.qcow2", volume(number)));
        let said = there.run(&format!("qemu-img info --output=json {}", path.display()));
        assert!(said.contains("\"format\": \"luks\""), "{said}");
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
    let awaited = landing(&source, &target).await;
    depart(&source, &awaited, Wire::to(&awaited)).await.unwrap();
    drop(awaited);
    target.resume(instance(1)).await.unwrap();
    mark(&target, Halt::Started).await;
    says(&target, instance(1), "GUEST-TICK ").await;
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

/// A migration whose channel ends after so many bytes.
async fn cut(channel: u8, after: u64) {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    let wire = Wire { cut: Some((channel, after)), ..Wire::to(&awaited) };
    let sent = depart(&source, &awaited, wire).await;
    drop(awaited);
    goes_on(there, source, target, sent).await;
}

/// That the guest goes on where it was, and can still move.
async fn goes_on(mut there: Lab, source: QemuHost, target: QemuHost, sent: Result<()>) {
    sent.unwrap_err();
    becomes(&source, |machine| machine.run == RunState::Running).await;
    counts_on(&source).await;
    nothing_runs(&mut there, &target).await;
    let awaited = landing(&source, &target).await;
    depart(&source, &awaited, Wire::to(&awaited)).await.unwrap();
    target.resume(instance(1)).await.unwrap();
    mark(&target, Halt::Started).await;
    says(&target, instance(1), "GUEST-TICK ").await;
    counts_on(&target).await;
}

#[tokio::test]
async fn a_channel_between_libvirts_that_is_cut_leaves_the_guest_where_it_is() {
    // After what begins the migration, and before what ends it.
    cut(LIBVIRT, 6_000).await;
}

#[tokio::test]
async fn a_guest_runs_at_one_host_only_when_the_last_answer_is_lost() {
    let (here, mut there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    // The source's libvirt has asked for the end of the migration, and hears nothing of it.
    let wire = Wire { cut: Some((LIBVIRT, 9_000)), ..Wire::to(&awaited) };
    let carried = Arc::clone(&wire.carried);
    depart(&source, &awaited, wire).await.unwrap_err();
    let (asked, memory) = (&carried[usize::from(LIBVIRT)], &carried[usize::from(MEMORY)]);
    assert!(asked.load(Ordering::Relaxed) > 9_000 && memory.load(Ordering::Relaxed) > 20 << 20);
    counts_on(&source).await;
    let ended = becomes(&target, |machine| machine.run != RunState::Incoming).await;
    assert_ne!(ended.run, RunState::Running);
    assert_eq!(target.console(instance(1)).await.unwrap(), b"", "it has not run there");
    drop(awaited);
    target.refuse(instance(1)).await.unwrap();
    nothing_runs(&mut there, &target).await;
    counts_on(&source).await;
}

#[tokio::test]
async fn a_channel_of_memory_that_is_cut_leaves_the_guest_where_it_is() {
    cut(MEMORY, 8 << 20).await;
}

#[tokio::test]
async fn a_channel_of_disks_that_is_cut_leaves_the_guest_where_it_is() {
    cut(DISKS, 100_000).await;
}

/// Waits until enough of the guest has gone for it to be in the middle.
async fn halfway(carried: &[AtomicU64; 3]) {
    let begin = std::time::Instant::now();
    while carried[usize::from(MEMORY)].load(Ordering::Relaxed) < 4 << 20 {
        assert!(begin.elapsed() < PATIENCE, "{carried:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_migration_that_is_given_up_leaves_the_guest_where_it_is() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    let wire = Wire::to(&awaited);
    let (carried, give_up) = (Arc::clone(&wire.carried), CancellationToken::new());
    let (sent, ()) = tokio::join!(depart_until(&source, &awaited, wire, give_up.clone()), async {
        halfway(&carried).await;
        assert_eq!(run(&target).await, RunState::Incoming);
        assert_eq!(target.statistics(instance(1)).await.unwrap(), None);
        let again = source.depart(
            instance(1),
            &awaited.description,
            Arc::new(Wire::to(&awaited)),
            CancellationToken::new(),
        );
        let again = again.await;
        assert!(matches!(again, Err(HypervisorError::Busy { .. })), "{again:?}");
        // Marks are written meanwhile, as ever.
        mark(&source, Halt::Leaving).await;
        mark(&target, Halt::Arriving).await;
        give_up.cancel();
    });
    drop(awaited);
    goes_on(there, source, target, sent).await;
}

#[tokio::test]
async fn a_migration_that_nobody_waits_for_is_given_up() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    let wire = Wire::to(&awaited);
    let carried = Arc::clone(&wire.carried);
    tokio::select! {
        sent = depart(&source, &awaited, wire) => panic!("{sent:?}"),
        () = halfway(&carried) => {}
    }
    let begin = std::time::Instant::now();
    // It is known to be over once another one may begin.
    let again = loop {
        match depart(&source, &awaited, Wire::to(&awaited)).await {
            Err(HypervisorError::Busy { .. }) => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            other => break other,
        }
        assert!(begin.elapsed() < PATIENCE);
    };
    drop(awaited);
    goes_on(there, source, target, again).await;
}

/// Spoils a migration in its middle.
async fn spoiled(
    spoil: impl FnOnce(&mut Lab, &mut Lab),
) -> (Lab, Lab, QemuHost, QemuHost, Result<()>) {
    let (mut here, mut there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let awaited = landing(&source, &target).await;
    let wire = Wire::to(&awaited);
    let carried = Arc::clone(&wire.carried);
    let (sent, ()) = tokio::join!(depart(&source, &awaited, wire), async {
        halfway(&carried).await;
        spoil(&mut here, &mut there);
    });
    drop(awaited);
    (here, there, source, target, sent)
}

#[tokio::test]
async fn a_guest_goes_on_when_the_one_that_takes_it_in_is_killed() {
    let (_here, there, source, target, sent) =
        spoiled(|_, there| there.kill_guest(instance(1))).await;
    goes_on(there, source, target, sent).await;
}

#[tokio::test]
async fn a_guest_goes_on_when_libvirt_is_killed_at_its_next_host() {
    let (_here, there, source, target, sent) = spoiled(|_, there| {
        there.kill_libvirt();
        there.start_libvirt();
    })
    .await;
    goes_on(there, source, target, sent).await;
}

#[tokio::test]
async fn a_guest_goes_on_when_libvirt_is_killed_at_its_host() {
    let (_here, there, source, target, sent) = spoiled(|here, _| {
        here.kill_libvirt();
        here.start_libvirt();
    })
    .await;
    goes_on(there, source, target, sent).await;
}

#[tokio::test]
async fn a_guest_that_is_killed_on_its_way_ends_at_both_hosts() {
    let (_here, mut there, source, target, sent) =
        spoiled(|here, _| here.kill_guest(instance(1))).await;
    sent.unwrap_err();
    let run = becomes(&source, |machine| !machine.runs()).await.run;
    assert_eq!(run, RunState::Off(OffReason::Host));
    nothing_runs(&mut there, &target).await;
}

#[tokio::test]
async fn what_has_arrived_waits_through_restarts_until_it_is_refused() {
    let (here, mut there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    let unexpected = target.resume(instance(1)).await;
    assert!(matches!(unexpected, Err(HypervisorError::Busy { .. })), "{unexpected:?}");
    let awaited = landing(&source, &target).await;
    depart(&source, &awaited, Wire::to(&awaited)).await.unwrap();
    drop((awaited, target));
    there.kill_libvirt();
    there.start_libvirt();
    let target = there.host();
    assert_eq!(run(&target).await, RunState::Arrived);
    assert_eq!(target.console(instance(1)).await.unwrap(), b"", "it waits");
    target.refuse(instance(1)).await.unwrap();
    target.refuse(instance(1)).await.unwrap();
    nothing_runs(&mut there, &target).await;
    // The host that it came from has all of it still.
    assert_eq!(run(&source).await, RunState::Off(OffReason::Moved));
    source.start(instance(1)).await.unwrap();
    says(&source, instance(1), "GUEST-COUNTER vdb 2").await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = there.host();
    let description = source.describe(instance(1)).await.unwrap();
    let prepare = async || target.prepare(instance(1), &description).await;
    let missing = prepare().await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
    make_ready_without_keys(&source, &target).await;
    let keyless = prepare().await;
    assert!(matches!(keyless, Err(HypervisorError::KeyMissing { .. })), "{keyless:?}");
    give_keys(&target).await;
    let wrong = prepare().await;
    assert!(matches!(wrong, Err(HypervisorError::KeyWrong { .. })), "{wrong:?}");
    give_keys_there(&target).await;
    let text = String::from_utf8(description.clone()).unwrap();
    for (had, has) in [
        ("\"kernel\":true", "\"kernel\":false"),
        ("\"card\":[", "\"card\":null,\"x\":["),
        (&volume(2).to_string(), &volume(3).to_string()),
        ("pc-i440fx-", "q35-"),
    ] {
        let other = text.replacen(had, has, 1);
        assert_ne!(other, text);
        let refused = target.prepare(instance(1), other.as_bytes()).await;
        assert!(matches!(refused, Err(HypervisorError::Refused { .. })), "{has}: {refused:?}");
    }
    // Two devices at one place.
    let twice = text.replacen("\"rng\":[7,0]", "\"rng\":[6,0]", 1);
    assert_ne!(twice, text);
    target.prepare(instance(1), twice.as_bytes()).await.unwrap_err();
    let awaited = prepare().await.unwrap();
    let again = prepare().await;
    assert!(matches!(again, Err(HypervisorError::Busy { .. })), "{again:?}");
    drop(awaited);
    prepare().await.unwrap();
    let running = source.prepare(instance(1), &description).await;
    assert!(matches!(running, Err(HypervisorError::Busy { .. })), "{running:?}");
    let off = target.describe(instance(1)).await;
    assert!(matches!(off, Err(HypervisorError::Busy { .. })), "{off:?}");
}

async fn make_ready_without_keys(from: &QemuHost, to: &QemuHost) {
    give_keys_there(to).await;
    make_ready(from, to).await;
    for number in 1..=9 {
        to.forget_key(volume(number)).await.unwrap();
    }
}

/// A message of libvirt's protocol.
fn message(procedure: u32, serial: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(28 + body.len()).unwrap();
    let head = [length, 0x2000_8086, 1, procedure, 0, serial, 0];
    head.iter().flat_map(|number| number.to_be_bytes()).chain(body.iter().copied()).collect()
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The arguments with which libvirt's migration begins.
fn beginning(domain: &str) -> Vec<u8> {
    let uri = |name: &str| format!("unix:///run/fairmazon/moves/{}-{name}.sock", instance(1));
    let texts = [
        ("destination_xml", domain.to_owned()),
        ("migrate_uri", uri("memory")),
        ("migrate_disks", "vda".into()),
        ("migrate_disks", "vdb".into()),
        ("disks_uri", uri("disks")),
    ];
    let mut body = u32::try_from(texts.len()).unwrap().to_be_bytes().to_vec();
    for (name, value) in &texts {
        body.extend([text(name), 7_u32.to_be_bytes().to_vec(), text(value)].concat());
    }
    body.extend([text(""), 0x63_u32.to_be_bytes().to_vec()].concat());
    body
}

/// What a connection between libvirts answers to these messages, up to its end.
async fn answers(awaited: &Landing, messages: &[Vec<u8>]) -> Vec<u8> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut connection = awaited.channels.open(LIBVIRT).await.unwrap();
    for message in messages {
        // One that is refused ends the connection under the next.
        let _ = connection.write_all(message).await;
    }
    let mut answers = Vec::new();
    let read = connection.read_to_end(&mut answers);
    // The connection that nothing is wrong with stays open.
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
    answers
}

#[tokio::test]
async fn a_source_that_is_hostile_is_refused() {
    let (here, mut there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    // A machine of another customer's, which must come to no harm.
    target.create_volume(&wish(5)).await.unwrap();
    target.define(&Arc::new(spec(5)), Marks::default()).await.unwrap();
    target.start(instance(5)).await.unwrap();
    let uuid = there.run(&format!("virsh domuuid {}", instance(5))).trim().replace('-', "");
    let uuid: Vec<u8> =
        (0..16).map(|at| u8::from_str_radix(&uuid[2 * at..2 * at + 2], 16).unwrap()).collect();
    let other = [text(&instance(5).to_string()), uuid, 5_u32.to_be_bytes().to_vec()].concat();
    let open = [1_u32.to_be_bytes().to_vec(), text("qemu:///system"), vec![0; 4]].concat();
    let begin = || vec![message(66, 0, &[]), message(1, 1, &open)];
    let description = source.describe(instance(1)).await.unwrap();
    let domain = |awaited: &Landing| {
        let note: serde_json::Value = serde_json::from_slice(&awaited.description).unwrap();
        note["domain"].as_str().unwrap().to_owned()
    };
    let awaited = target.prepare(instance(1), &description).await.unwrap();
    let whole = domain(&awaited);
    // What is wanted gets its answers: this is not refused for its form.
    let said = answers(&awaited, &begin()).await;
    assert_eq!(said.len(), 36 + 28);
    drop(awaited);
    let shadow = whole.replace(&there.pool().display().to_string(), "/etc");
    let emulator = whole.replace("/usr/bin/qemu-system-x86_64", "/bin/sh");
    let plain = whole.replacen("<encryption", "<x", 1).replacen("</encryption>", "</x>", 1);
    let device = whole.replace("</devices>", "<hostdev/></devices>");
    assert!([&shadow, &emulator, &plain, &device].iter().all(|changed| **changed != whole));
    let evil = "<domain type='qemu'><name>evil</name><memory>65536</memory><os><type>hvm</type></os></domain>";
    let hostile: Vec<(&str, u32, Vec<u8>)> = vec![
        ("shut another machine down", 33, other.clone()),
        ("end another machine", 12, other.clone()),
        ("undefine another machine", 35, other.clone()),
        ("define a machine", 11, text(evil)),
        ("start a machine", 10, [text(evil), vec![0; 4]].concat()),
        ("list machines", 273, [1_u32.to_be_bytes(), [0; 4]].concat()),
        ("another file", 303, beginning(&shadow)),
        ("another emulator", 303, beginning(&emulator)),
        ("a disk without encryption", 303, beginning(&plain)),
        ("a device of the host's", 303, beginning(&device)),
    ];
    for (what, procedure, body) in hostile {
        let awaited = target.prepare(instance(1), &description).await.unwrap();
        let mut messages = begin();
        messages.push(message(procedure, 2, &body));
        let said = answers(&awaited, &messages).await;
        assert!(said.len() <= 36 + 28, "{what}: {said:?}");
        // Nor is there another connection to try it on.
        assert!(awaited.channels.open(LIBVIRT).await.is_err(), "{what}");
        drop(awaited);
        assert_eq!(run(&target).await, RunState::Off(OffReason::NeverStarted), "{what}");
        assert!(target.machine(instance(5)).await.unwrap().unwrap().runs(), "{what}");
        let names = there.run("virsh list --all --name");
        assert_eq!(names.split_whitespace().count(), 2, "{what}: {names}");
    }
    // And none of it stands in the way of what is wanted.
    let awaited = target.prepare(instance(1), &description).await.unwrap();
    depart(&source, &awaited, Wire::to(&awaited)).await.unwrap();
    assert_eq!(run(&target).await, RunState::Arrived);
}
