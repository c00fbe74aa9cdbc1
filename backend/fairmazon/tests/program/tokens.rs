//! Credentials: how they end, and certificates.

use std::fs;

use fairmazon_broker::{
    api::Authority,
    core::{Clock as _, SystemClock},
};
use fairmazon_proto::v1::{GetAccountRequest, accounts_service_client::AccountsServiceClient};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use crate::process::{Dev, ask, run};

#[test]
fn a_token_that_has_ended_is_called_expired() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(&folder.path().join("data"));
    let make = ["token", "create", "--role", "customer", "--name"];
    ask(&[&make[..], &["for-ever"]].concat(), &dev.environment);
    let short = [&make[..], &["short", "--lifetime-seconds", "1"]].concat();
    let secret = ask(&short, &dev.environment);
    let listed = loop {
        let listed = ask(&["token", "list"], &dev.environment);
        if listed.lines().any(|line| line.ends_with("\texpired\tshort")) {
            break listed;
        }
        assert!(listed.lines().any(|line| line.ends_with("\tvalid\tshort")), "{listed}");
    };
    assert!(listed.lines().any(|line| line.ends_with("\tvalid\tfor-ever")), "{listed}");
    let mut ended = dev.environment.clone();
    ended.insert("FAIRMAZON_TOKEN".into(), secret.trim().into());
    let refused = run(&["token", "list"], &ended);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("ended")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_certificate_is_shown_instead_of_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(&folder.path().join("data"));
    let authority = Authority::in_folder(folder.path().join("authority"));
    authority.ensure(&["pipeline".into()], SystemClock.now().0).unwrap();
    let files = authority.server_files();
    let [pem, key] = [files.certificate, files.key].map(|file| fs::read_to_string(file).unwrap());
    let certificate = folder.path().join("client.pem");
    fs::write(&certificate, pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap())
        .unwrap();
    let ca = fs::read_to_string(&dev.environment["FAIRMAZON_CA_CERTIFICATE"]).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .identity(Identity::from_pem(fs::read_to_string(&certificate).unwrap(), key));
    let endpoint = Endpoint::from_shared(dev.environment["FAIRMAZON_ENDPOINT"].clone()).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let account = || async {
        let mut accounts = AccountsServiceClient::new(channel.clone());
        accounts.get_account(GetAccountRequest {}).await
    };
    assert_eq!(account().await.unwrap_err().code(), Code::Unauthenticated);

    let register = ["token", "register-certificate", "--name", "pipeline", "--role", "customer"];
    let file = certificate.to_str().unwrap();
    let id = ask(&[&register[..], &[file]].concat(), &dev.environment);
    let listed = ask(&["token", "list"], &dev.environment);
    let line = format!("{}\tcertificate\tcustomer\tvalid\tpipeline", id.trim());
    assert!(listed.lines().any(|listed| listed == line), "{line} in {listed}");
    assert!(account().await.unwrap().into_inner().account.is_some());
    ask(&["token", "revoke", id.trim()], &dev.environment);
    assert_eq!(account().await.unwrap_err().code(), Code::Unauthenticated);

    let none = folder.path().join("none.pem");
    fs::write(&none, "nothing").unwrap();
    let file = none.to_str().unwrap();
    let refused = run(&[&register[..], &[file]].concat(), &dev.environment);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("give the client certificate itself"), "{said}");
}
