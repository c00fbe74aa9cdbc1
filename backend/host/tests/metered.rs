//! An agent that meters, against a simulated hypervisor and a small broker.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::{Network, Subject as Host, TERM_MS, host_id, machine, runs, set};
use fairmazon_host::{
    clock::{Clock, SimClock},
    identity::IdentityError,
    metering::{
        Batch, Found, Ledger, LedgerError, Memory, MemoryLedger, Metering, Signer, WallClock,
    },
};
use fairmazon_hypervisor::contract::instance;
use fairmazon_keys::HostSigner;
use fairmazon_model::{
    instance::Power,
    machine::MachineSpec,
    units::{Epoch, UnixMs},
    usage::{RefusedWindow, Subject, UsageWindow, WindowKind},
};
use rcgen::{CertificateParams, KeyPair, SigningKey as _};

const LOOK_MS: u64 = 10_000;

/// A key of its own with a certificate that nobody else has signed.
struct TestSigner(KeyPair);

impl Signer for TestSigner {
    fn key(&self) -> String {
        "the same".into()
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, IdentityError> {
        Ok(self.0.sign(bytes).unwrap())
    }

    fn certificate(&self) -> Result<Option<String>, IdentityError> {
        Ok(Some(CertificateParams::default().self_signed(&self.0).unwrap().pem()))
    }
}

/// The wall clock of a world that began in 2026.
struct Wall(SimClock);

impl WallClock for Wall {
    fn now(&self) -> UnixMs {
        UnixMs(1_790_000_000_000 + i64::try_from(self.0.now_ms()).unwrap())
    }
}

/// Can't keep what the meter has to know again while `is_full`.
struct FullLedger {
    kept: Arc<MemoryLedger>,
    is_full: AtomicBool,
}

#[async_trait]
impl Ledger for FullLedger {
    async fn load(&self) -> Result<Found, LedgerError> {
        self.kept.load().await
    }

    async fn append(&self, windows: Vec<UsageWindow>) -> Result<(), LedgerError> {
        self.kept.append(windows).await
    }

    async fn remember(&self, memory: Memory) -> Result<(), LedgerError> {
        if self.is_full.load(Ordering::Relaxed) {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(LedgerError::Io { attempted: "write", path: PathBuf::new(), source });
        }
        self.kept.remember(memory).await
    }

    async fn next(&self, most: usize) -> Result<Option<Batch>, LedgerError> {
        self.kept.next(most).await
    }

    async fn acknowledged(&self, count: usize) -> Result<(), LedgerError> {
        self.kept.acknowledged(count).await
    }

    fn has_room(&self) -> bool {
        self.kept.has_room()
    }
}

struct Metered {
    host: Host,
    ledger: Arc<MemoryLedger>,
}

impl Metered {
    fn start() -> Self {
        Self::start_with(|ledger| ledger)
    }

    fn start_with<L: Ledger>(wrap: impl FnOnce(Arc<MemoryLedger>) -> Arc<L>) -> Self {
        let mut host = Host::idle(Arc::new(fairmazon_host::state::MemoryState::default()));
        let signer = Arc::new(TestSigner(KeyPair::generate().unwrap()));
        let ledger = Arc::new(MemoryLedger::new(host_id(), signer));
        let metering = Metering {
            wall: Arc::new(Wall(host.clock.clone())),
            look_every: Duration::from_millis(LOOK_MS),
            window: Duration::from_secs(600),
            ..Metering::new(wrap(ledger.clone()))
        };
        host.metering = Some(metering);
        host.broker.takes_windows(true, Vec::new());
        host.start_agent();
        Self { host, ledger }
    }

    async fn run_machine(&self) {
        self.host.broker.desire(set(1, vec![machine(1)]));
        self.host.broker.sees(|seen| runs(seen, &machine(1))).await;
    }

    async fn stop_machine(&self) {
        let off = MachineSpec { power: Power::Stopped, spec_version: 2, ..machine(1) };
        self.host.broker.desire(set(2, vec![off]));
    }

    /// The machine's windows that the broker was told, each once.
    fn windows(&self) -> Vec<UsageWindow> {
        let mut windows: Vec<UsageWindow> = Vec::new();
        for batch in self.host.broker.metered() {
            let signer = HostSigner::read(&batch.certificate).unwrap();
            for signed in batch.windows {
                let bytes = signed.window.signed_bytes(host_id());
                signer.verify(&bytes, &signed.signature.0).unwrap();
                let is_new = !windows.contains(&signed.window);
                if is_new && signed.window.subject == Subject::Instance(instance(1)) {
                    windows.push(signed.window);
                }
            }
        }
        windows
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_told_in_signed_windows_that_follow_each_other() {
    let metered = Metered::start();
    metered.run_machine().await;
    let begun_ms = metered.host.clock.now_ms();
    pass(3_600).await;
    metered.stop_machine().await;
    pass(60).await;
    let ran_ms = metered.host.clock.now_ms() - begun_ms - 60_000;
    let windows = metered.windows();
    assert!(windows.len() >= 6, "{windows:?}");
    for (before, after) in windows.iter().zip(&windows[1..]) {
        assert_eq!((after.begun, after.sequence), (before.begun, before.sequence + 1));
        assert_eq!(after.from, before.until);
    }
    let spec = machine(1);
    let counted: u64 = windows.iter().map(|window| window.amounts.vcpu_ms).sum();
    let vcpus = u64::from(spec.vcpus.0);
    assert!(counted <= vcpus * ran_ms && counted + 2 * vcpus * LOOK_MS >= vcpus * ran_ms);
    assert!(windows.iter().all(|window| window.epoch == spec.epoch));
    assert_eq!(metered.ledger.waiting(), 0, "all of it was acknowledged");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_the_broker_is_away_or_does_not_answer() {
    let metered = Metered::start();
    metered.run_machine().await;
    metered.host.broker.takes_windows(false, Vec::new());
    pass(1_250).await;
    let told = metered.host.broker.metered();
    assert!(told.len() > 2, "it is told again");
    assert_eq!(metered.ledger.waiting(), 4, "the machine's and its volume's");
    metered.host.broker.network(Network::Cut);
    pass(3).await;
    metered.host.broker.network(Network::Whole);
    metered.host.broker.takes_windows(true, Vec::new());
    pass(60).await;
    assert_eq!(metered.ledger.waiting(), 0);
    assert_eq!(metered.windows().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn windows_stay_until_what_the_meter_knows_after_them_is_kept() {
    let mut full = None;
    let metered = Metered::start_with(|kept| {
        let ledger = Arc::new(FullLedger { kept, is_full: AtomicBool::new(false) });
        full = Some(ledger.clone());
        ledger
    });
    let full = full.unwrap();
    metered.run_machine().await;
    full.is_full.store(true, Ordering::Relaxed);
    pass(650).await;
    assert_eq!(metered.ledger.waiting(), 2, "the machine's and its volume's");
    assert!(metered.host.broker.metered().len() > 2, "they are told again");
    full.is_full.store(false, Ordering::Relaxed);
    pass(60).await;
    assert_eq!(metered.ledger.waiting(), 0);
    assert_eq!(metered.windows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_does_not_hold_up_the_rest() {
    let metered = Metered::start();
    metered.run_machine().await;
    let refused = RefusedWindow {
        subject: Subject::Instance(instance(1)),
        epoch: Epoch(1),
        begun: UnixMs(0),
        sequence: 1,
        reason: "it overlaps".into(),
    };
    metered.host.broker.takes_windows(true, vec![refused]);
    pass(1_300).await;
    assert_eq!(metered.ledger.waiting(), 0);
    assert_eq!(metered.windows().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_away_charges_nothing_for_that_time() {
    let mut metered = Metered::start();
    metered.run_machine().await;
    pass(300).await;
    metered.host.stop_agent().await;
    pass(7).await;
    metered.host.start_agent();
    pass(700).await;
    let kinds: Vec<_> = metered.windows().iter().map(|window| window.kind).collect();
    assert_eq!(kinds, [WindowKind::Used, WindowKind::Unseen, WindowKind::Used]);
    let windows = metered.windows();
    assert!(windows[0].length_ms() > 290_000, "what was counted before is not lost");
    assert!(windows[1].length_ms() <= 17_000, "{:?}", windows[1]);
    assert_eq!(windows[1].from, windows[0].until);

    // A crash costs what was not kept yet: a minute of it.
    metered.host.crash_agent().await;
    pass(8).await;
    metered.host.start_agent();
    pass(700).await;
    let windows = metered.windows();
    let unseen: Vec<_> = windows.iter().filter(|w| w.kind == WindowKind::Unseen).collect();
    assert_eq!(unseen.len(), 2);
    assert!(unseen[1].length_ms() <= 90_000, "{:?}", unseen[1]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_is_stopped_for_want_of_a_lease_is_charged_to_that_moment() {
    let metered = Metered::start();
    metered.run_machine().await;
    pass(300).await;
    metered.host.broker.network(Network::Silent);
    pass(1_200).await;
    metered.host.broker.network(Network::Whole);
    pass(60).await;
    let windows = metered.windows();
    let ran = windows[0].length_ms().unsigned_abs();
    assert!((290_000..=310_000 + TERM_MS).contains(&ran), "{windows:?}");
    assert_eq!(windows[1].kind, WindowKind::Off);
}
