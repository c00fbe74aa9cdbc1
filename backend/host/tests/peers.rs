//! Hosts reach each other over TLS with the certificates of one authority, and nobody else does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod authority;

use std::{path::Path, sync::Arc, time::Duration};

use authority::Authority;
use fairmazon_host::{
    identity::HostIdentity,
    peers::{Incoming, Peers, TlsPeers},
};
use fairmazon_model::{id::HostId, migration::ShownCertificates};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

fn id(number: u128) -> HostId {
    HostId::from_parts(1, number)
}

/// A host that has joined under the authority.
fn joined(folder: &Path, number: u128, authority: &Authority) -> Arc<HostIdentity> {
    let identity = HostIdentity::open(folder.join(number.to_string())).unwrap();
    authority.renew(&identity, id(number));
    Arc::new(identity)
}

async fn listening(identity: Arc<HostIdentity>, authority: &Authority) -> TlsPeers {
    TlsPeers::listen("127.0.0.1:0", None, identity, authority.pem()).await.unwrap()
}

/// The certificate that the host shows.
fn shows(folder: &Path, number: u128) -> ShownCertificates {
    let identity = HostIdentity::open(folder.join(number.to_string())).unwrap();
    [identity.certificate().unwrap().unwrap().sha256].into()
}

/// Nobody has come in for a while.
async fn nobody(incoming: &mut mpsc::Receiver<Incoming>) {
    let next = tokio::time::timeout(Duration::from_millis(50), incoming.recv());
    assert!(next.await.is_err(), "somebody came in");
}

#[tokio::test]
async fn each_knows_who_the_other_is() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let one = listening(joined(folder.path(), 1, &authority), &authority).await;
    let other = listening(joined(folder.path(), 2, &authority), &authority).await;
    let mut incoming = other.incoming();
    let mut sent = one.dial(id(2), &other.address(), &shows(folder.path(), 2)).await.unwrap();
    let Incoming { from, shown, connection: mut came } = incoming.recv().await.unwrap();
    assert_eq!(from, id(1));
    assert!(shown.counts(&shows(folder.path(), 1)) && !shown.counts(&shows(folder.path(), 2)));
    sent.write_all(b"hello").await.unwrap();
    sent.flush().await.unwrap();
    let mut heard = [0; 5];
    came.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn whoever_is_not_meant_is_not_spoken_to() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let one = listening(joined(folder.path(), 1, &authority), &authority).await;
    let other = listening(joined(folder.path(), 2, &authority), &authority).await;
    let mut incoming = other.incoming();
    let error = one.dial(id(3), &other.address(), &shows(folder.path(), 2)).await.err().unwrap();
    assert!(error.to_string().contains("it is the one of"), "{error}");
    nobody(&mut incoming).await;
}

#[tokio::test]
async fn a_certificate_of_the_right_host_that_does_not_count_is_refused() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let one = listening(joined(folder.path(), 1, &authority), &authority).await;
    let identity = joined(folder.path(), 2, &authority);
    let revoked = shows(folder.path(), 2);
    let other = listening(identity, &authority).await;
    let mut incoming = other.incoming();
    // It has joined anew, and does not show that.
    joined(&folder.path().join("anew"), 2, &authority);
    let anew = shows(&folder.path().join("anew"), 2);
    assert_ne!(anew, revoked);
    for counts in [ShownCertificates::new(), anew.clone()] {
        let error = one.dial(id(2), &other.address(), &counts).await.err().unwrap();
        assert!(error.to_string().contains("does not count"), "{error}");
        nobody(&mut incoming).await;
    }
    // While it is renewed both count.
    let both = anew.union(&revoked).cloned().collect();
    one.dial(id(2), &other.address(), &both).await.unwrap();
    assert_eq!(incoming.recv().await.unwrap().from, id(1));
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_refused_at_either_end() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let identities = [1, 2].map(|number| joined(folder.path(), number, &authority));
    let one = listening(identities[0].clone(), &authority).await;
    let other = listening(identities[1].clone(), &authority).await;
    let mut incoming = other.incoming();

    // Certificates are read for each connection. The one that is called has none that is valid.
    authority.expire(&identities[1], id(2));
    let error = one.dial(id(2), &other.address(), &shows(folder.path(), 2)).await.err().unwrap();
    let wanted = format!("the certificate of {} has expired", id(2));
    assert!(error.to_string().contains(&wanted), "{error}");
    nobody(&mut incoming).await;
    authority.renew(&identities[1], id(2));

    // The one that calls: in TLS 1.3 it is done before it was refused, and hears why.
    authority.expire(&identities[0], id(1));
    let dialled = one.dial(id(2), &other.address(), &shows(folder.path(), 2)).await;
    let error = match dialled {
        Ok(mut refused) => refused.read_u8().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.to_string().contains("CertificateExpired"), "{error}");
    nobody(&mut incoming).await;

    authority.renew(&identities[0], id(1));
    one.dial(id(2), &other.address(), &shows(folder.path(), 2)).await.unwrap();
    assert_eq!(incoming.recv().await.unwrap().from, id(1));
}

#[tokio::test]
async fn hosts_of_another_authority_and_those_without_a_certificate_stay_out() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let other = listening(joined(folder.path(), 2, &authority), &authority).await;
    let mut incoming = other.incoming();

    let elsewhere = Authority::new();
    // It believes this authority, which does not believe it.
    let strange = listening(joined(folder.path(), 3, &elsewhere), &authority).await;
    // In TLS 1.3 the one who connects is done before it was refused.
    if let Ok(mut refused) = strange.dial(id(2), &other.address(), &shows(folder.path(), 2)).await {
        let mut byte = [0];
        assert!(!matches!(refused.read(&mut byte).await, Ok(1..)));
    }
    nobody(&mut incoming).await;

    let fresh = Arc::new(HostIdentity::open(folder.path().join("fresh")).unwrap());
    let fresh = listening(fresh, &authority).await;
    let error = fresh.dial(id(2), &other.address(), &shows(folder.path(), 2)).await.err().unwrap();
    assert!(error.to_string().contains("has not joined"), "{error}");

    let mut plain = TcpStream::connect(other.address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    nobody(&mut incoming).await;
}

#[tokio::test]
async fn an_address_in_use_is_said() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let one = listening(joined(folder.path(), 1, &authority), &authority).await;
    let identity = joined(folder.path(), 2, &authority);
    let error = TlsPeers::listen(&one.address(), None, identity, authority.pem()).await;
    let error = error.err().unwrap().to_string();
    assert!(error.contains(&one.address()) && error.contains("choose another"), "{error}");
}
