//! Certificates of hosts that are renewed before they end: at a connection and without one, and
//! what becomes of the one before.

use std::{sync::Arc, time::Duration};

use fairmazon_host::{
    identity::{HostIdentity, JoinedCertificate},
    transport::{FromHost, Hello, JoinedTransport, Link, ToHost, Transport as _},
};
use fairmazon_model::{access::Role, units::Generation};
use futures::poll;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    harness::{Broker, Client},
    joining::{DAY_MS, now, refused, stream},
};

/// How often an agent looks at its certificate, as its operator is told.
const HOUR: Duration = Duration::from_secs(60 * 60);
/// How long a renewal takes at most once it is begun, on a machine with much to do.
const SOON: Duration = Duration::from_secs(30);

/// A host's way to the broker, with a certificate that is old: it was made 25 days ago for 30.
struct Aged {
    broker: Broker,
    transport: JoinedTransport,
    identity: Arc<HostIdentity>,
    first: JoinedCertificate,
    folder: TempDir,
}

impl Aged {
    async fn start() -> Self {
        let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
        let identity = Arc::new(HostIdentity::open(folder.path()).unwrap());
        let token = Some(broker.tokens[&Role::Host].clone());
        let address = format!("https://{}", broker.server().address());
        let ca = broker.ca_pem.clone();
        let transport = JoinedTransport::new(address, ca, identity.clone(), token);
        broker.clock.forward(-25 * DAY_MS);
        let first = transport.certificate().await.unwrap();
        broker.clock.forward(25 * DAY_MS);
        assert!(first.is_old(now()) && !first.has_ended(now()), "{first:?}");
        Self { broker, transport, identity, first, folder }
    }

    /// The certificate in the state folder, as another run of the agent finds it.
    fn kept(&self) -> JoinedCertificate {
        HostIdentity::open(self.folder.path()).unwrap().certificate().unwrap().unwrap()
    }

    /// A client that shows the first certificate, whatever came after it.
    async fn showing_the_first(&self) -> Client {
        let key = self.identity.tls_key_pem();
        self.broker.with_certificate(&self.first.pem, &key).await.unwrap()
    }

    /// Connects with what is kept, and is let in.
    async fn connect(&self) -> Link {
        let mut link = self.transport.connect().await.unwrap();
        let hello = Hello {
            host: self.broker.host,
            agent_version: "1".into(),
            hypervisor: "simulated".into(),
            session: "one".into(),
            generation: Generation(0),
            migration_address: String::new(),
            accelerator: String::new(),
            reads_consoles: false,
            conformity: None,
        };
        link.sender.send(FromHost::Hello(hello)).await.unwrap();
        let welcome = link.receiver.recv().await.unwrap().unwrap();
        assert!(matches!(welcome, ToHost::Welcome { .. }), "{welcome:?}");
        link
    }

    /// That there is another one which is as good as new.
    fn is_renewed(&self) -> JoinedCertificate {
        let kept = self.kept();
        assert_ne!(kept.sha256, self.first.sha256);
        assert!(!kept.is_old(now()), "{kept:?}");
        let days = (kept.until.0 - now().0) / DAY_MS;
        assert!((28..=30).contains(&days), "{days}");
        kept
    }
}

#[tokio::test]
async fn a_host_that_connects_with_an_old_certificate_has_another_one_and_the_old_one_ends() {
    let aged = Aged::start().await;
    let client = aged.showing_the_first().await;
    let open = stream(&aged.broker, &client).await.unwrap();

    let _link = aged.connect().await;
    let renewed = aged.is_renewed();
    assert_eq!(open.end().await.code(), Code::Unauthenticated);
    refused(stream(&aged.broker, &client).await, "revoked");
    refused(stream(&aged.broker, &aged.showing_the_first().await).await, "revoked");
    // One that is new is as it is.
    let _link = aged.connect().await;
    assert_eq!(aged.kept(), renewed);
    aged.broker.stop().await;
}

#[tokio::test]
async fn a_host_renews_an_old_certificate_within_an_hour_while_its_stream_is_open() {
    let aged = Aged::start().await;
    let client = aged.showing_the_first().await;
    let open = stream(&aged.broker, &client).await.unwrap();
    let stop = CancellationToken::new();
    {
        let tending = aged.transport.tend(stop.clone());
        tokio::pin!(tending);
        // Nothing waits while the clock stands: what speaks to the broker does so on the real one.
        tokio::time::pause();
        assert!(poll!(&mut tending).is_pending());
        tokio::time::advance(HOUR - Duration::from_secs(1)).await;
        assert!(poll!(&mut tending).is_pending());
        assert_eq!(aged.kept(), aged.first);
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::time::resume();
        let renewed = async {
            while aged.kept() == aged.first {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = &mut tending => panic!("it ends when it is told to"),
            renewed = tokio::time::timeout(SOON, renewed) => renewed.unwrap(),
        }
        stop.cancel();
        assert!(poll!(&mut tending).is_ready());
    }
    let renewed = aged.is_renewed();

    // It has not been used yet, and the first one counts until then.
    drop(open);
    let open = stream(&aged.broker, &client).await.unwrap();
    let _link = aged.connect().await;
    assert_eq!(aged.kept(), renewed);
    assert_eq!(open.end().await.code(), Code::Unauthenticated);
    refused(stream(&aged.broker, &client).await, "revoked");
    aged.broker.stop().await;
}

#[tokio::test]
async fn a_renewal_that_nobody_answers_keeps_no_agent_from_its_end() {
    let aged = Aged::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", silent.local_addr().unwrap());
    let ca = aged.broker.ca_pem.clone();
    let transport = JoinedTransport::new(address, ca, aged.identity.clone(), None);
    let stop = CancellationToken::new();
    let tending = transport.tend(stop.clone());
    tokio::pin!(tending);
    tokio::time::pause();
    assert!(poll!(&mut tending).is_pending());
    tokio::time::advance(HOUR).await;
    tokio::time::resume();
    let _asked = tokio::select! {
        () = &mut tending => panic!("it ends when it is told to"),
        asked = tokio::time::timeout(SOON, silent.accept()) => asked.unwrap().unwrap(),
    };
    assert!(poll!(&mut tending).is_pending());
    stop.cancel();
    assert!(poll!(&mut tending).is_ready());
    assert_eq!(aged.kept(), aged.first);
    aged.broker.stop().await;
}
