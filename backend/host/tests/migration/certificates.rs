//! Certificates of the other host that count, and that do not count any more.

use fairmazon_host::{identity::HostIdentity, peers::TlsPeers};
use tokio::sync::watch;

use super::*;

fn these(certificates: &[&str]) -> ShownCertificates {
    certificates.iter().map(|certificate| (*certificate).to_owned()).collect()
}

impl Pair {
    /// Two hosts that show certificates; the machine runs at the first.
    async fn with_certificates() -> Self {
        Self::with_certificates_by(|peers| peers).await
    }

    /// The same, where the first one reaches the other by what is made of its way.
    pub(super) async fn with_certificates_by<P: Peers>(way: impl FnOnce(MemoryPeers) -> P) -> Self {
        let mut pair = Self::new(false);
        let peers = |host, shown| MemoryPeers::with_certificate(host, shown, &pair.town);
        pair.from.peers = Some(Arc::new(way(peers(pair.from.id, "first"))));
        pair.to.peers = Some(Arc::new(peers(pair.to.id, "second")));
        pair.from.start_agent();
        pair.to.start_agent();
        pair.from.broker.desire(set(1, vec![machine(1)]));
        pair.from.broker.sees(|seen| runs(seen, &machine(1))).await;
        pair
    }

    pub(super) fn send_to(&self, generation: u64, shows: &[&str]) {
        let mut spec = leaving();
        spec.departure.as_mut().unwrap().shows = these(shows);
        self.from.broker.desire(set(generation, vec![spec]));
    }

    pub(super) fn expect_from(&self, generation: u64, shows: &[&str]) {
        let mut spec = arriving(true);
        spec.arrival.as_mut().unwrap().shows = these(shows);
        let machines = vec![Arc::new(spec)];
        self.to.broker.desire(DesiredSet { machines, ..arrivals(generation, true) });
    }

    /// It runs where it was, however often it was tried.
    async fn stays(&self) {
        tokio::time::sleep(Duration::from_secs(600)).await;
        let at = self.seen(&self.to).await;
        assert_eq!(at, Some((RunState::Off(OffReason::NeverStarted), Halt::Arriving)));
        assert_eq!(self.seen(&self.from).await.map(|(run, _)| run), Some(RunState::Running));
    }
}

#[tokio::test(start_paused = true)]
async fn neither_end_believes_a_certificate_that_does_not_count() {
    for (there, here) in [(&["other"], &["first"]), (&["second"], &["other"])] {
        let pair = Pair::with_certificates().await;
        pair.expect_from(1, here);
        pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
        pair.send_to(2, there);
        pair.stays().await;
        // The platform tells of the one that is shown: it goes.
        pair.expect_from(2, &["first", "next of the first"]);
        pair.send_to(3, &["second", "next of the second"]);
        pair.to.broker.sees(|seen| runs(seen, &landed())).await;
        pair.is_right();
    }
}

#[tokio::test(start_paused = true)]
async fn without_any_that_counts_nothing_moves() {
    let pair = Pair::with_certificates().await;
    pair.expect_from(1, &[]);
    pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
    pair.send_to(2, &["second"]);
    pair.stays().await;
    pair.expect_from(2, &["first"]);
    pair.send_to(3, &[]);
    pair.stays().await;
    pair.is_right();
}

/// It is on its way once the first call that sends it has begun, and for a minute from then on.
async fn on_its_way() -> (Pair, Arc<AtomicUsize>) {
    let (pair, calls) = (Pair::with_certificates().await, Arc::new(AtomicUsize::new(0)));
    let counted = calls.clone();
    pair.from.host.set_faults(move |call: &Call| match call.verb {
        Verb::Depart => {
            counted.fetch_add(1, Ordering::Relaxed);
            Fault::Delay(Duration::from_secs(60))
        }
        _ => Fault::None,
    });
    pair.expect_from(1, &["first"]);
    pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
    pair.send_to(2, &["second"]);
    while calls.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (pair, calls)
}

#[tokio::test(start_paused = true)]
async fn a_renewal_on_the_way_ends_nothing() {
    let (pair, calls) = on_its_way().await;
    pair.expect_from(2, &["first", "next of the first"]);
    pair.send_to(3, &["second", "next of the second"]);
    pair.to.broker.sees(|seen| runs(seen, &landed())).await;
    assert_eq!(calls.load(Ordering::Relaxed), 1, "it went at once");
    pair.is_right();
}

#[tokio::test(start_paused = true)]
async fn what_is_told_on_the_way_counts_for_each_connection() {
    for revoked in [&["next of the second"][..], &[]] {
        let (pair, calls) = on_its_way().await;
        pair.send_to(3, revoked);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(pair.seen(&pair.from).await.map(|(run, _)| run), Some(RunState::Running));
        assert_eq!(calls.load(Ordering::Relaxed), 1, "nobody is asked any more");
        pair.send_to(4, &["second"]);
        pair.to.broker.sees(|seen| runs(seen, &landed())).await;
        pair.is_right();
    }
}

/// A host's way to others over TLS, which counts how often it is gone.
struct Counted(TlsPeers, watch::Sender<usize>);

#[async_trait]
impl Peers for Counted {
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
        self.1.send_modify(|count| *count += 1);
        self.0.dial(host, address, shows).await
    }
}

/// On the real clock, as the connections are real.
#[tokio::test]
async fn nothing_moves_from_or_to_a_host_whose_certificate_has_expired_until_it_has_another() {
    for expired in [0, 1] {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let ids = [host_id(), other_id()];
        let identities = ids.map(|id| {
            let identity = HostIdentity::open(folder.path().join(id.to_string())).unwrap();
            authority.renew(&identity, id);
            Arc::new(identity)
        });
        let shows = |number: usize| {
            let own: &HostIdentity = &identities[number];
            ShownCertificates::from([own.certificate().unwrap().unwrap().sha256])
        };
        let mut pair = Pair::new(false);
        let (dialled, mut dials) = watch::channel(0);
        let mut addresses = Vec::new();
        for (subject, identity) in [&mut pair.from, &mut pair.to].into_iter().zip(&identities) {
            let listen = TlsPeers::listen("127.0.0.1:0", None, identity.clone(), authority.pem());
            let peers = Counted(listen.await.unwrap(), dialled.clone());
            addresses.push(peers.address());
            subject.peers = Some(Arc::new(peers));
            subject.start_agent();
        }
        pair.from.broker.desire(set(1, vec![machine(1)]));
        pair.from.broker.sees(|seen| runs(seen, &machine(1))).await;
        authority.expire(&identities[expired], ids[expired]);

        let arrives = |generation| {
            let mut spec = arriving(true);
            spec.arrival.as_mut().unwrap().shows = shows(0);
            let machines = vec![Arc::new(spec)];
            DesiredSet { machines, ..arrivals(generation, true) }
        };
        let leaves = |generation| {
            let mut spec = leaving();
            let departure = spec.departure.as_mut().unwrap();
            (departure.address, departure.shows) = (addresses[1].clone(), shows(1));
            set(generation, vec![spec])
        };
        pair.to.broker.desire(arrives(1));
        pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
        pair.from.broker.desire(leaves(2));
        // What is gone again has failed before.
        dials.wait_for(|count| *count >= 3).await.unwrap();
        let there = pair.seen(&pair.to).await;
        assert_eq!(there, Some((RunState::Off(OffReason::NeverStarted), Halt::Arriving)));
        assert_eq!(pair.seen(&pair.from).await.map(|(run, _)| run), Some(RunState::Running));

        authority.renew(&identities[expired], ids[expired]);
        pair.to.broker.desire(arrives(2));
        pair.from.broker.desire(leaves(3));
        pair.to.broker.sees(|seen| runs(seen, &landed())).await;
        pair.is_right();
    }
}
