//! The certificate of `fairmazon broker`, read again while it runs.

use std::{fs, path::Path};

use fairmazon_broker::{
    api::Authority,
    core::{Clock as _, SystemClock},
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::process::{Environment, Running};

/// Connects as a client who trusts this authority and no other.
async fn trusting(
    authority: &Authority,
    endpoint: &str,
) -> Result<Channel, tonic::transport::Error> {
    let pem = fs::read_to_string(authority.certificate()).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
    Endpoint::from_shared(endpoint.to_owned()).unwrap().tls_config(tls).unwrap().connect().await
}

fn made_in(folder: &Path) -> Authority {
    let authority = Authority::in_folder(folder);
    authority.ensure(&["127.0.0.1".into()], SystemClock.now().0).unwrap();
    authority
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_is_shown_once_a_signal_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let authorities = ["first", "second"].map(|name| made_in(&folder.path().join(name)));
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let give = |authority: &Authority| {
        let files = authority.server_files();
        fs::copy(files.certificate, &certificate).unwrap();
        fs::copy(files.key, &key).unwrap();
    };
    give(&authorities[0]);
    let data = folder.path().join("data");
    let paths = [&data, &certificate, &key].map(|path| path.to_str().unwrap());
    let arguments = [
        "broker",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        paths[0],
        "--certificate",
        paths[1],
        "--key",
        paths[2],
    ];
    let log = folder.path().join("log");
    let mut broker = Running::start(&arguments, &Environment::new(), &log);
    let endpoint = broker.told("listening on ");
    let _before = trusting(&authorities[0], &endpoint).await.unwrap();
    trusting(&authorities[1], &endpoint).await.unwrap_err();

    give(&authorities[1]);
    trusting(&authorities[0], &endpoint).await.unwrap();
    broker.reload();
    // It is not said when that is done.
    while trusting(&authorities[1], &endpoint).await.is_err() {}
    trusting(&authorities[0], &endpoint).await.unwrap_err();
    assert!(broker.end().success());
}
