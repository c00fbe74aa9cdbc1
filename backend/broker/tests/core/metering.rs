//! Windows that a host tells: what is accepted, what is refused and why, and who sees the sums.

use std::{sync::Arc, time::Duration};

use fairmazon_broker::{
    core::{Caller, Clock as _, CoreConfig, MadeCertificate, PageRequest},
    metering::UsageRequest,
};
use fairmazon_host::{
    identity::IdentityError,
    metering::{MemoryLedger, Metering, Signer, WallClock},
};
use fairmazon_keys::HostSigner;
use fairmazon_model::{
    access::Role,
    id::{AccountId, HostId, InstanceId},
    instance::{InstanceSpec, Power},
    key::{Blob, HostSealing},
    units::{Epoch, Generation, UnixMs},
    usage::{Amounts, SignedWindow, Subject, UsageWindow, WindowBatch, WindowKind},
};
use fairmazon_store::UsageSum;
use rcgen::{CertificateParams, KeyPair, SigningKey as _};

use super::{
    kit::{Hosts, Kit, TestClock, host_spec, quick, spec},
    sets::Mouth,
};

const MINUTE: i64 = 60_000;

/// The key of a host with a certificate that the platform knows.
struct TestSigner {
    key: KeyPair,
    certificate: String,
}

impl TestSigner {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        Self { key, certificate }
    }

    async fn join(kit: &Kit, host: HostId) -> Self {
        let signer = Self::new();
        let caller = Caller { role: Role::Host, host: Some(host), ..kit.customer };
        let made = MadeCertificate {
            sha256: HostSigner::read(&signer.certificate).unwrap().sha256().to_owned(),
            public_key: String::new(),
            expires_at: UnixMs(i64::MAX),
            sealing: HostSealing { key: Blob(vec![1; 32]), certificate: String::new() },
        };
        kit.engine.join_host(&caller, made, &kit.key()).await.unwrap();
        signer
    }

    fn batch(&self, host: HostId, number: u64, windows: &[UsageWindow]) -> WindowBatch {
        let sign = |window: &UsageWindow| SignedWindow {
            window: window.clone(),
            signature: Blob(self.key.sign(&window.signed_bytes(host)).unwrap()),
        };
        let certificate = self.certificate.clone();
        WindowBatch { number, certificate, windows: windows.iter().map(sign).collect() }
    }
}

impl Signer for TestSigner {
    fn key(&self) -> String {
        "the same".into()
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, IdentityError> {
        Ok(self.key.sign(bytes).unwrap())
    }

    fn certificate(&self) -> Result<Option<String>, IdentityError> {
        Ok(Some(self.certificate.clone()))
    }
}

/// A host that a test speaks for, with a machine that is decided to be on it.
struct Bench {
    kit: Kit,
    host: HostId,
    signer: TestSigner,
    mouth: Mouth,
    instance: InstanceId,
    /// When it was decided, about.
    since: i64,
    batches: u64,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = CoreConfig { usage_keep_ms: 600 * MINUTE, ..quick() };
        let kit = Kit::open(folder.path(), config).await;
        kit.start();
        let registered = kit.engine.register_host(&kit.customer, host_spec(0, "DE"), "host").await;
        let host = registered.unwrap().0.row.id;
        let signer = TestSigner::join(&kit, host).await;
        let mut mouth = Mouth::open(&kit, host, Generation(0)).await;
        let created = kit.engine.create_instance(&kit.customer, spec("web"), "one").await;
        let instance = created.unwrap().instance.row.id;
        mouth.hears(|set| set.machines.len() == 1).await;
        let since = kit.clock.now().0;
        kit.clock.forward(300 * MINUTE);
        Self { kit, host, signer, mouth, instance, since, batches: 0, _folder: folder }
    }

    /// The window number `sequence`, each ten minutes.
    fn window(&self, sequence: u64) -> UsageWindow {
        let at = |number: u64| UnixMs(self.since + i64::try_from(number).unwrap() * 10 * MINUTE);
        UsageWindow {
            subject: Subject::Instance(self.instance),
            epoch: Epoch(1),
            begun: at(0),
            sequence,
            from: at(sequence - 1),
            until: at(sequence),
            kind: WindowKind::Used,
            class: String::new(),
            amounts: Amounts { vcpu_ms: 600_000, ..Amounts::default() },
        }
    }

    async fn tell(&mut self, windows: &[UsageWindow]) -> Vec<String> {
        let batch = self.signer.batch(self.host, self.batches + 1, windows);
        self.tell_batch(batch).await
    }

    async fn tell_batch(&mut self, batch: WindowBatch) -> Vec<String> {
        self.batches += 1;
        let batch = WindowBatch { number: self.batches, ..batch };
        let refused = self.mouth.tells(batch).await;
        refused
            .into_iter()
            .map(|window| format!("{}: {}", window.sequence, window.reason))
            .collect()
    }

    async fn sums(&self, caller: &Caller) -> Vec<UsageSum> {
        sums(&self.kit, caller).await
    }

    /// What the audit log says of refused windows: how many of each batch.
    async fn refusals(&self) -> Vec<u64> {
        let records = self.kit.store.audit(0, 1_000).await.unwrap();
        let refused = records.iter().filter(|record| record.entry.verb == "usage.refuse");
        refused
            .map(|record| record.entry.after.as_ref().unwrap()["refused"].as_u64().unwrap())
            .collect()
    }
}

async fn sums(kit: &Kit, caller: &Caller) -> Vec<UsageSum> {
    let request = UsageRequest {
        from: UnixMs(0),
        until: UnixMs(i64::MAX),
        subject: None,
        page: PageRequest { after: None, limit: 0 },
    };
    kit.engine.usage(caller, request).await.unwrap().items
}

#[tokio::test]
async fn windows_are_taken_once_however_often_they_are_told() {
    let mut bench = Bench::start().await;
    let windows: Vec<_> = (1..=3).map(|sequence| bench.window(sequence)).collect();
    assert!(bench.tell(&windows[..2]).await.is_empty());
    assert!(bench.tell(&windows).await.is_empty());
    assert!(bench.tell(&windows[1..2]).await.is_empty());
    let found = bench.sums(&bench.kit.customer).await;
    assert_eq!((found.len(), found[0].windows), (1, 3));
    assert_eq!(found[0].amounts.vcpu_ms, 1_800_000);
    assert!(bench.refusals().await.is_empty());
    bench.kit.stop().await;
}

#[tokio::test]
async fn only_those_that_may_see_an_account_see_what_it_used() {
    let mut bench = Bench::start().await;
    let window = bench.window(1);
    bench.tell(&[window]).await;
    let stranger = Caller { account: Some(AccountId::from_parts(1, 1)), ..bench.kit.customer };
    assert!(bench.sums(&stranger).await.is_empty());
    let auditor = Caller { account: None, role: Role::Auditor, ..bench.kit.customer };
    assert_eq!(bench.sums(&auditor).await.len(), 1);
    let odd = UsageRequest {
        from: UnixMs(2),
        until: UnixMs(1),
        subject: None,
        page: PageRequest { after: None, limit: 0 },
    };
    let error = bench.kit.engine.usage(&auditor, odd).await.unwrap_err();
    assert_eq!(error.field.as_deref(), Some("until_ms"));
    bench.kit.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_does_not_hold_up_the_rest() {
    let mut bench = Bench::start().await;
    let mut greedy = bench.window(2);
    greedy.amounts.vcpu_ms = u64::MAX;
    let stranger =
        UsageWindow { subject: Subject::Instance(InstanceId::from_parts(1, 1)), ..bench.window(1) };
    let other_epoch = UsageWindow { epoch: Epoch(2), ..bench.window(1) };
    let overlapping =
        UsageWindow { sequence: 3, from: UnixMs(bench.window(1).until.0 - 1), ..bench.window(2) };
    let future = UsageWindow { until: UnixMs(bench.since + 400 * MINUTE), ..bench.window(31) };
    let windows = [
        bench.window(1),
        greedy,
        stranger,
        other_epoch,
        overlapping,
        bench.window(4),
        UsageWindow { from: UnixMs(future.until.0 - MINUTE), ..future },
    ];
    let said = bench.tell(&windows).await;
    let expected = [
        "2: it counts more",
        "1: it was not decided",
        "1: it was not decided",
        "3: it overlaps",
        "31: it lies in the future",
    ];
    assert_eq!(said.len(), expected.len(), "{said:?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}");
    }
    assert_eq!(bench.sums(&bench.kit.customer).await[0].windows, 2);
    assert_eq!(bench.refusals().await, [5]);
    bench.kit.stop().await;
}

#[tokio::test]
async fn what_a_slow_clock_takes_for_the_future_waits_and_is_not_lost() {
    let mut bench = Bench::start().await;
    // The broker's clock is slow: the second and the third of them lie ahead of it.
    let windows: Vec<_> = (30..=32).map(|sequence| bench.window(sequence)).collect();
    let stranger =
        UsageWindow { subject: Subject::Instance(InstanceId::from_parts(1, 1)), ..bench.window(1) };
    let told = [windows.as_slice(), &[stranger]].concat();
    for _ in 0..2 {
        let answer = tokio::time::timeout(Duration::from_millis(500), bench.tell(&told)).await;
        assert!(answer.is_err(), "a host that is answered forgets what it told: {answer:?}");
        assert_eq!(bench.sums(&bench.kit.customer).await[0].windows, 1);
        assert!(bench.refusals().await.is_empty(), "refused and noted with the answer");
    }
    bench.kit.clock.forward(20 * MINUTE);
    let said = bench.tell(&told).await;
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("1: it was not decided"), "{said:?}");
    assert_eq!(bench.sums(&bench.kit.customer).await[0].windows, 3);
    assert_eq!(bench.refusals().await, [1]);
    bench.kit.stop().await;
}

#[tokio::test]
async fn without_the_hosts_signature_nothing_is_accepted() {
    let mut bench = Bench::start().await;
    let window = bench.window(1);
    let theirs = TestSigner::new();
    // By a certificate that the platform has not made, and by the right one for another's key.
    let stranger = theirs.batch(bench.host, 0, std::slice::from_ref(&window));
    let said = bench.tell_batch(stranger.clone()).await;
    assert!(said[0].contains("has made for this host"), "{said:?}");
    let certificate = bench.signer.certificate.clone();
    let said = bench.tell_batch(WindowBatch { certificate, ..stranger.clone() }).await;
    assert!(said[0].contains("signature"), "{said:?}");
    let nobody = WindowBatch { certificate: String::new(), ..stranger };
    assert!(bench.tell_batch(nobody).await[0].contains("certificate"));
    // A signature of another window, and of the same window of another host.
    let mut changed = bench.signer.batch(bench.host, 0, std::slice::from_ref(&window));
    changed.windows[0].window.amounts.vcpu_ms -= 1;
    assert!(bench.tell_batch(changed).await[0].contains("signature"));
    let other_host = bench.signer.batch(HostId::from_parts(1, 1), 0, &[window]);
    assert!(bench.tell_batch(other_host).await[0].contains("signature"));
    assert!(bench.sums(&bench.kit.customer).await.is_empty());
    assert_eq!(bench.refusals().await.len(), 5);
    bench.kit.stop().await;
}

#[tokio::test]
async fn windows_of_what_is_gone_are_taken_and_go_when_they_are_old() {
    let mut bench = Bench::start().await;
    let windows: Vec<_> = (1..=80).map(|sequence| bench.window(sequence)).collect();
    bench.kit.engine.delete_instance(&bench.kit.customer, bench.instance, "gone").await.unwrap();
    bench.mouth.hears(|set| set.machines.is_empty()).await;
    bench
        .mouth
        .reports(fairmazon_model::machine::ObservedSet {
            generation: Generation(u64::MAX >> 1),
            ..Default::default()
        })
        .await;
    assert!(bench.tell(&windows[..2]).await.is_empty());
    assert_eq!(bench.sums(&bench.kit.customer).await[0].windows, 2);
    bench.kit.clock.forward(900 * MINUTE);
    bench
        .kit
        .until("old windows are forgotten", || {
            futures::executor::block_on(sums(&bench.kit, &bench.kit.customer)).is_empty()
        })
        .await;
    bench.kit.stop().await;
}

/// The clock of the broker, for hosts.
struct Wall(Arc<TestClock>);

impl WallClock for Wall {
    fn now(&self) -> UnixMs {
        self.0.now()
    }
}

#[tokio::test]
async fn what_an_agent_meters_is_what_its_customer_sees() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::none();
    let host = hosts.add(&kit, host_spec(0, "DE")).await;
    let signer = Arc::new(TestSigner::join(&kit, host).await);
    hosts.hosts[0].metering = Some(Metering {
        ledger: Arc::new(MemoryLedger::new(host, signer)),
        wall: Arc::new(Wall(kit.clock.clone())),
        look_every: Duration::from_millis(5),
        window: Duration::from_millis(20),
    });
    hosts.connect(0, &kit.engine);
    let created = kit.engine.create_instance(&kit.customer, spec("web"), "one").await.unwrap();
    kit.done(created.operation.id).await;
    let seen = || futures::executor::block_on(sums(&kit, &kit.customer));
    kit.until("machine and volume are metered", || {
        seen().iter().filter(|sum| !sum.amounts.is_zero()).count() == 2
    })
    .await;
    let subjects: Vec<_> = seen().iter().map(|sum| sum.subject).collect();
    let row = &created.instance.row;
    assert_eq!(subjects, [Subject::Instance(row.id), Subject::Volume(row.boot_volume_id)]);
    assert_eq!(
        seen()[1].class,
        InstanceSpec { power: Power::Running, ..spec("web") }.boot_volume.class
    );
    hosts.kill_agent(0).await;
    kit.stop().await;
}
