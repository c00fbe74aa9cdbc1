//! Machines that move between two hosts while they run: each host is told its part by a broker of
//! its own, and nothing is lost and nothing runs twice whatever ends midway.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod authority;
#[path = "migration/certificates.rs"]
mod certificates;
mod common;
#[path = "migration/cut.rs"]
mod cut;
#[path = "migration/off.rs"]
mod off;
#[path = "migration/volumes.rs"]
mod volumes;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use common::{Network, Subject, TERM_MS, has_volume, host_id, machine, of, runs, set};
use fairmazon_host::{
    peers::{Incoming, MemoryPeers, Opening, Peers, Town, say_opening},
    state::MemoryState,
};
use fairmazon_hypervisor::{
    Connection, Halt, Hypervisor, HypervisorError, OffReason, RunState,
    contract::{instance, volume},
    sim::{Call, Fault, Verb},
};
use fairmazon_keys::{Binding, HostSecret, Identity, Purpose, SealedKey, VolumeKey, WrappedKey};
use fairmazon_model::{
    id::HostId,
    instance::{ObservedState, Power},
    key::{Blob, SealedVolumeKey},
    machine::{DesiredSet, MachineSpec, ObservedSet},
    migration::{Arrival, Departure, Handover, KeyWanted, ShownCertificates},
    units::{Epoch, Generation},
};

use authority::Authority;
use tokio::{
    io::{AsyncReadExt, DuplexStream},
    sync::mpsc,
};

fn other_id() -> HostId {
    HostId::from_parts(1, 2)
}

/// Two hosts that reach each other, with running agents.
struct Pair {
    from: Subject,
    to: Subject,
    town: Arc<Town>,
}

impl Pair {
    fn new(encrypts: bool) -> Self {
        let mut from = Subject::idle(Arc::new(MemoryState::default()));
        let mut to = from.beside(other_id());
        let town = Arc::<Town>::default();
        for subject in [&mut from, &mut to] {
            subject.peers = Some(Arc::new(MemoryPeers::new(subject.id, &town)));
            if encrypts {
                subject.host.set_encrypts();
            }
        }
        Self { from, to, town }
    }

    /// The machine runs at the first host.
    async fn running() -> Self {
        let mut pair = Self::new(false);
        pair.from.start_agent();
        pair.to.start_agent();
        pair.from.broker.desire(set(1, vec![machine(1)]));
        pair.from.broker.sees(|seen| runs(seen, &machine(1))).await;
        pair
    }

    fn send_off(&self, generation: u64) {
        self.from.broker.desire(set(generation, vec![leaving()]));
    }

    fn expect(&self, generation: u64) {
        self.to.broker.desire(arrivals(generation, true));
    }

    async fn seen(&self, at: &Subject) -> Option<(RunState, Halt)> {
        let seen = at.host.machine(instance(1)).await.unwrap();
        seen.map(|machine| (machine.run, machine.marks.halt))
    }

    fn is_right(&self) {
        assert_eq!(self.from.world.ledger().violations(), []);
    }

    /// The agent of one end is killed so many calls of its hypervisor after something began, and
    /// comes back.
    async fn ends_after(&mut self, (at_source, calls): (bool, u64), begin: impl FnOnce(&Self)) {
        let host = if at_source { &self.from.host } else { &self.to.host };
        let (host, end) = (host.clone(), host.calls() + calls);
        begin(self);
        // Also where so many are never made.
        let mut idle = 0;
        while host.calls() < end && idle < 2_000 {
            tokio::task::yield_now().await;
            idle += 1;
        }
        let ends = if at_source { &mut self.from } else { &mut self.to };
        ends.crash_agent().await;
        ends.start_agent();
    }
}

fn leaving() -> MachineSpec {
    let departure = Departure {
        to: other_id(),
        epoch: Epoch(2),
        address: "other:1".into(),
        certificate: String::new(),
        shows: ShownCertificates::new(),
        keys_wanted: Vec::new(),
    };
    MachineSpec { departure: Some(departure), ..machine(1) }
}

/// The machine as its next host is told that it comes, or does not come any more.
fn arriving(open: bool) -> MachineSpec {
    let arrival = Some(Arrival { from: host_id(), shows: ShownCertificates::new(), open });
    MachineSpec { epoch: Epoch(2), arrival, ..machine(1) }
}

fn arrivals(generation: u64, open: bool) -> DesiredSet {
    let mut set = set(generation, vec![arriving(open)]);
    set.volumes[0].image = None;
    set
}

/// The machine as it is once it has been decided at its next host.
fn landed() -> MachineSpec {
    MachineSpec { epoch: Epoch(2), ..machine(1) }
}

fn handover(set: &ObservedSet) -> Option<Handover> {
    of(set, instance(1)).and_then(|seen| seen.handover)
}

fn is_left(set: &ObservedSet) -> bool {
    handover(set) == Some(Handover::Left)
}

fn has_arrived(set: &ObservedSet) -> bool {
    handover(set) == Some(Handover::Arrived)
}

/// Fails every call of this verb.
fn fails(verb: Verb) -> impl Fn(&Call) -> Fault + Send + Sync {
    move |call| {
        if call.verb == verb {
            Fault::Fail(HypervisorError::Busy { what: "it".into(), why: "the test says so" })
        } else {
            Fault::None
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_goes_on_at_its_next_host() {
    let pair = Pair::running().await;
    pair.expect(1);
    pair.to.broker.sees(|seen| handover(seen) == Some(Handover::Awaited)).await;
    pair.send_off(2);
    pair.to.broker.sees(|seen| runs(seen, &landed()) && handover(seen).is_none()).await;
    let left = pair.from.broker.sees(is_left).await;
    assert_eq!(of(&left, instance(1)).unwrap().state, ObservedState::Stopped);
    assert_eq!(pair.seen(&pair.from).await, Some((RunState::Off(OffReason::Moved), Halt::Left)));

    // Decided there by now: nothing is left of it here but its volume, until that may go.
    pair.to.broker.desire(set(2, vec![landed()]));
    pair.from.broker.desire(DesiredSet { generation: Generation(3), ..DesiredSet::default() });
    pair.from.broker.sees(|seen| of(seen, instance(1)).is_none()).await;
    assert!(pair.from.host.volume(volume(1)).await.unwrap().is_some());
    assert_eq!(pair.from.world.ledger().running(), 1);
    pair.is_right();
}

#[tokio::test(start_paused = true)]
async fn the_host_that_it_leaves_asks_until_the_other_is_ready() {
    let pair = Pair::running().await;
    pair.send_off(2);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(pair.from.world.ledger().running(), 1);
    pair.expect(1);
    pair.to.broker.sees(|seen| runs(seen, &landed())).await;
    pair.is_right();
}

#[tokio::test(start_paused = true)]
async fn keys_are_made_for_the_next_host_and_for_the_customer() {
    let authority = Authority::new();
    let mut pair = Pair::new(true);
    pair.from.authorities = authority.pem();
    pair.from.start_agent();
    pair.to.start_agent();
    let customer = Identity::generate();
    let bound = |host, version| Binding { volume: volume(1), host, purpose: Purpose::Run, version };
    let first = VolumeKey::random().unwrap();
    let seal = |secret: &HostSecret, key: &VolumeKey, binding: &Binding| {
        let sealed = SealedKey::seal(key, &customer.recipient(), &secret.sealing_key(), binding);
        Blob(sealed.unwrap().bytes().to_vec())
    };
    let here = SealedVolumeKey {
        version: 1,
        sealed: seal(&pair.from.secret, &first, &bound(host_id(), 1)),
    };
    let with = |mut set: DesiredSet, key: &SealedVolumeKey| {
        set.volumes[0].key = Some(key.clone());
        set
    };
    pair.from.broker.desire(with(set(1, vec![machine(1)]), &here));
    pair.from.broker.sees(|seen| runs(seen, &machine(1))).await;

    let mut leaves = leaving();
    let departure = leaves.departure.as_mut().unwrap();
    departure.keys_wanted = vec![KeyWanted { volume: volume(1), version: 3 }];
    departure.certificate = authority.sign(other_id(), &pair.to.secret.sealing_key());
    let ready = leaving();
    pair.from.broker.desire(with(set(2, vec![leaves.clone()]), &here));
    let told = pair.from.broker.sees(|seen| !seen.keys.is_empty()).await;
    let [made] = told.keys.as_slice() else { panic!("{:?}", told.keys) };
    assert_eq!((made.volume, made.host, made.key.version), (volume(1), other_id(), 3));
    made.key.check().unwrap();
    let wrapped = WrappedKey::from_bytes(made.key.wrapped.0.as_slice());
    let key = wrapped.open(volume(1), &customer).unwrap();
    assert_ne!(key.fingerprint(), first.fingerprint(), "each host has a key of its own");
    // Told again, it is the same one.
    pair.from.broker.desire(with(set(3, vec![leaves.clone()]), &here));
    let again = pair.from.broker.sees(|seen| seen.generation == Generation(3)).await;
    assert_eq!(again.keys, told.keys);
    // While the key here is exchanged, it is wrapped for whom the next one is wrapped for, and so
    // it is afterwards, whatever the broker knows of that yet.
    let (later, second) = (Identity::generate(), VolumeKey::random().unwrap());
    let (to, bound_here) = (pair.from.secret.sealing_key(), bound(host_id(), 2));
    let sealed = SealedKey::seal(&second, &later.recipient(), &to, &bound_here).unwrap();
    let next = SealedVolumeKey { version: 2, sealed: Blob(sealed.bytes().to_vec()) };
    let mut exchanging = with(set(4, vec![leaves]), &here);
    exchanging.volumes[0].next_key = Some(next.clone());
    pair.from.broker.desire(exchanging);
    let changed = |seen: &ObservedSet| {
        seen.volumes.iter().any(|seen| seen.changed_key == Some(second.fingerprint()))
    };
    let told = pair.from.broker.sees(changed).await;
    let [made] = told.keys.as_slice() else { panic!("{:?}", told.keys) };
    let wrapped = WrappedKey::from_bytes(made.key.wrapped.0.as_slice());
    wrapped.open(volume(1), &customer).unwrap_err();
    let key = wrapped.open(volume(1), &later).unwrap();

    let there = SealedVolumeKey { version: 3, sealed: made.key.sealed.clone() };
    pair.to.broker.desire(with(arrivals(1, true), &there));
    pair.from.broker.desire(with(set(5, vec![ready]), &next));
    pair.to.broker.sees(|seen| runs(seen, &landed())).await;
    assert_eq!(pair.to.host.key_given(volume(1)), Some(key.fingerprint()));
    let gone = pair.from.broker.sees(|seen| seen.keys.is_empty()).await;
    assert!(is_left(&gone));
    pair.is_right();
}

#[tokio::test(start_paused = true)]
async fn no_key_is_made_for_a_host_that_nobody_has_signed_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut pair = Pair::running().await;
    pair.from.crash_agent().await;
    pair.from.authorities = authority.pem();
    pair.from.start_agent();
    let sealing_key = pair.to.secret.sealing_key();
    let certificates = [
        other.sign(other_id(), &sealing_key),
        authority.sign(HostId::from_parts(1, 9), &sealing_key),
        String::new(),
    ];
    for (generation, certificate) in (2..).zip(certificates) {
        let mut leaves = leaving();
        let departure = leaves.departure.as_mut().unwrap();
        departure.keys_wanted = vec![KeyWanted { volume: volume(1), version: 1 }];
        departure.certificate = certificate;
        pair.from.broker.desire(set(generation, vec![leaves]));
        let seen = pair.from.broker.sees(|seen| seen.generation == Generation(generation)).await;
        assert_eq!(seen.keys, []);
    }
    assert_eq!(pair.from.world.ledger().running(), 1, "it runs on");
}

#[tokio::test(start_paused = true)]
async fn nobody_brings_a_machine_but_the_host_that_it_comes_from() {
    let pair = Pair::running().await;
    let mut stranger = pair.from.beside(HostId::from_parts(1, 3));
    stranger.peers = Some(Arc::new(MemoryPeers::new(stranger.id, &pair.town)));
    stranger.start_agent();
    pair.expect(1);
    pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
    let peers = MemoryPeers::new(stranger.id, &pair.town);
    for channel in [None, Some(0)] {
        let mut connection = peers.dial(other_id(), "", &ShownCertificates::new()).await.unwrap();
        let opening = Opening { instance: instance(1), epoch: Epoch(2), channel };
        say_opening(&mut connection, &opening).await.unwrap();
        let end = connection.read(&mut [0]).await.unwrap();
        assert_eq!(end, 0, "it is closed");
    }
    assert_eq!(
        pair.seen(&pair.to).await.map(|(_, halt)| halt),
        Some(Halt::Arriving),
        "it is still awaited"
    );
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_shall_not_come_any_more_is_refused_for_good() {
    let pair = Pair::running().await;
    pair.expect(1);
    pair.to.broker.sees(|seen| handover(seen) == Some(Handover::Awaited)).await;
    pair.to.broker.desire(arrivals(2, false));
    let refused = |seen: &ObservedSet| {
        seen.generation == Generation(2)
            && of(seen, instance(1)).is_some_and(|seen| seen.state == ObservedState::Absent)
    };
    pair.to.broker.sees(refused).await;
    pair.send_off(2);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(pair.seen(&pair.from).await.map(|(run, _)| run), Some(RunState::Running));
    // Told to stay, it is as it was before.
    pair.from.broker.desire(set(3, vec![machine(1)]));
    pair.from.broker.sees(|seen| runs(seen, &machine(1)) && handover(seen).is_none()).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(pair.seen(&pair.from).await, Some((RunState::Running, Halt::Started)));
    assert_eq!(pair.from.world.ledger().starts(instance(1)), 1);
    pair.is_right();
}

#[tokio::test(start_paused = true)]
async fn what_the_other_host_can_not_take_runs_on() {
    for verb in [Verb::Prepare, Verb::Depart, Verb::Describe] {
        let pair = Pair::running().await;
        let at = if verb == Verb::Prepare { &pair.to } else { &pair.from };
        at.host.set_faults(fails(verb));
        pair.expect(1);
        pair.send_off(2);
        tokio::time::sleep(Duration::from_secs(100)).await;
        let seen = pair.seen(&pair.from).await;
        assert_eq!(seen.map(|(run, _)| run), Some(RunState::Running), "{verb:?}");
        at.host.clear_faults();
        pair.to.broker.sees(|seen| runs(seen, &landed())).await;
        pair.is_right();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_is_not_called_running_by_the_host_that_sends_it() {
    let pair = Pair::running().await;
    pair.expect(1);
    pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
    pair.from.host.set_faults(|call: &Call| match call.verb {
        Verb::Depart => Fault::Delay(Duration::from_secs(60)),
        _ => Fault::None,
    });
    pair.send_off(2);
    let is_unknown = |seen: &ObservedSet| {
        of(seen, instance(1)).is_some_and(|seen| seen.state == ObservedState::Unknown)
    };
    // Something else has changed, so that it reports.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut with_another = set(3, vec![leaving(), machine(2)]);
    with_another.volumes[1].volume = volume(2);
    pair.from.broker.desire(with_another);
    pair.from.broker.sees(|seen| runs(seen, &machine(2)) && is_unknown(seen)).await;
    pair.to.broker.sees(|seen| runs(seen, &landed())).await;
    pair.from.broker.sees(is_left).await;
    pair.is_right();
}

#[tokio::test(start_paused = true)]
async fn another_address_of_the_next_host_ends_nothing() {
    let pair = Pair::running().await;
    pair.expect(1);
    pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let begins = Arc::clone(&begun);
    pair.from.host.set_faults(move |call: &Call| match call.verb {
        Verb::Depart => {
            begins.fetch_add(1, Ordering::Relaxed);
            Fault::Delay(Duration::from_secs(60))
        }
        _ => Fault::None,
    });
    pair.send_off(2);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut elsewhere = leaving();
    elsewhere.departure.as_mut().unwrap().address = String::new();
    pair.from.broker.desire(set(3, vec![elsewhere]));
    pair.to.broker.sees(|seen| runs(seen, &landed())).await;
    assert_eq!(begun.load(Ordering::Relaxed), 1, "it was sent once");
    pair.is_right();
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_left_at_the_next_host_is_not_started() {
    let pair = Pair::running().await;
    // It came here once, as a run that ended, and its volume is made anew and is empty.
    let earlier = MachineSpec { power: Power::Stopped, ..machine(1) };
    pair.to.broker.desire(set(1, vec![earlier]));
    pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
    pair.to.broker.desire(arrivals(2, true));
    pair.to.broker.sees(|seen| handover(seen) == Some(Handover::Awaited)).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(pair.from.world.ledger().starts(instance(1)), 1);
    pair.send_off(2);
    pair.to.broker.sees(|seen| runs(seen, &landed())).await;
    pair.is_right();
}

/// The word that it left does not arrive: the machine waits at its next host until a set decides
/// it there.
#[tokio::test(start_paused = true)]
async fn a_machine_whose_word_is_lost_runs_once_it_is_decided() {
    let mut pair = Pair::running().await;
    pair.expect(1);
    // The first word cannot be acted on.
    pair.to.host.set_faults(fails(Verb::Resume));
    pair.send_off(2);
    pair.from.broker.sees(is_left).await;
    pair.from.crash_agent().await;
    pair.from.start_agent();
    pair.from.broker.sees(is_left).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(pair.from.world.ledger().running(), 0, "nobody has let it run");
    pair.to.host.clear_faults();
    pair.to.broker.desire(set(2, vec![landed()]));
    pair.to.broker.sees(|seen| runs(seen, &landed())).await;
    pair.is_right();
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_handed_over_is_not_started_again_under_its_epoch() {
    let mut pair = Pair::running().await;
    pair.expect(1);
    pair.to.host.set_faults(fails(Verb::Mark));
    pair.send_off(2);
    pair.from.broker.sees(is_left).await;
    pair.to.broker.sees(has_arrived).await;
    // Whatever happens here: it stays off.
    pair.from.crash_agent().await;
    pair.from.start_agent();
    pair.from.broker.desire(set(3, vec![machine(1)]));
    pair.from.broker.sees(|seen| seen.generation == Generation(3) && is_left(seen)).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(pair.from.world.ledger().running(), 0);
    // Given up at the other host, it runs here again under a new epoch.
    pair.to.host.clear_faults();
    pair.to.broker.desire(arrivals(2, false));
    pair.to
        .broker
        .sees(|seen| of(seen, instance(1)).is_some_and(|m| m.state == ObservedState::Absent))
        .await;
    let back = MachineSpec { epoch: Epoch(3), ..machine(1) };
    pair.from.broker.desire(set(4, vec![back.clone()]));
    pair.from.broker.sees(|seen| runs(seen, &back)).await;
    pair.is_right();
}

/// A way to other hosts on which the first channel of a migration is led by the test, which is given
/// this host's end of it and the other's.
struct Led<F>(MemoryPeers, AtomicUsize, F);

#[async_trait]
impl<F, L> Peers for Led<F>
where
    F: Fn(DuplexStream, Box<dyn Connection>) -> L + Send + Sync + 'static,
    L: Future<Output = ()> + Send + 'static,
{
    fn address(&self) -> String {
        self.0.address()
    }

    fn incoming(&self) -> mpsc::Receiver<Incoming> {
        self.0.incoming()
    }

    async fn dial(
        &self,
        host: HostId,
        address: &str,
        shows: &ShownCertificates,
    ) -> io::Result<Box<dyn Connection>> {
        let theirs = self.0.dial(host, address, shows).await?;
        // The conversation is the first connection.
        if self.1.fetch_add(1, Ordering::Relaxed) != 1 {
            return Ok(theirs);
        }
        let (ours, within) = tokio::io::duplex(1_024);
        tokio::spawn(self.2(within, theirs));
        Ok(Box::new(ours))
    }
}

/// Ends with the first byte of an answer, which nobody hears.
async fn deaf(within: DuplexStream, theirs: Box<dyn Connection>) {
    let (mut said, _) = tokio::io::split(within);
    let (mut answers, mut to) = tokio::io::split(theirs);
    let sent = tokio::io::copy(&mut said, &mut to);
    tokio::select! {
        _ = sent => {}
        _ = answers.read_u8() => {}
    }
}

/// The answer of the other host is lost: it has all of the machine, which goes on here.
#[tokio::test(start_paused = true)]
async fn what_came_before_is_never_let_run_when_the_machine_went_on() {
    let mut pair = Pair::new(false);
    let peers = MemoryPeers::new(host_id(), &pair.town);
    pair.from.peers = Some(Arc::new(Led(peers, AtomicUsize::new(0), deaf)));
    pair.from.start_agent();
    pair.to.start_agent();
    pair.from.broker.desire(set(1, vec![machine(1)]));
    pair.from.broker.sees(|seen| runs(seen, &machine(1))).await;
    pair.expect(1);
    pair.send_off(2);
    pair.to.broker.sees(has_arrived).await;
    assert_eq!(pair.seen(&pair.from).await.map(|(run, _)| run), Some(RunState::Running));
    // It is sent again, and what came first gives way to it.
    pair.to.broker.sees(|seen| runs(seen, &landed())).await;
    pair.is_right();
}

/// At every call of either hypervisor either agent may end: then the machine runs at one host in
/// the end, and never at both.
#[tokio::test(start_paused = true)]
async fn agents_that_end_midway_leave_it_at_one_host() {
    for at_source in [true, false] {
        for calls in 0..24 {
            let mut pair = Pair::running().await;
            pair.expect(1);
            pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
            pair.ends_after((at_source, calls), |pair| pair.send_off(2)).await;
            // As the broker decides it.
            let both = async {
                let left = pair.from.broker.sees(is_left);
                let there = pair.to.broker.sees(|seen| has_arrived(seen) || runs(seen, &landed()));
                tokio::join!(left, there);
            };
            tokio::time::timeout(Duration::from_secs(1_000), both).await.unwrap();
            pair.to.broker.desire(set(2, vec![landed()]));
            pair.to.broker.sees(|seen| runs(seen, &landed())).await;
            assert_eq!(pair.from.world.ledger().running(), 1, "{at_source} {calls}");
            pair.is_right();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_nothing_comes_and_nothing_leaves() {
    let pair = Pair::running().await;
    pair.expect(1);
    pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
    pair.to.broker.network(Network::Cut);
    tokio::time::sleep(Duration::from_millis(2 * TERM_MS)).await;
    pair.send_off(2);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(pair.seen(&pair.from).await.map(|(run, _)| run), Some(RunState::Running));
    pair.to.broker.network(Network::Whole);
    pair.to.broker.sees(|seen| runs(seen, &landed())).await;
    pair.is_right();
}
