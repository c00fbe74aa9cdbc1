//! What is wrong around the client: each gives a clear error, and what to do.

use std::{fs, net::TcpListener, sync::Arc, thread::JoinHandle};

use acceptance::{Environment, Failure, Outcome, Workspace};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{MACHINE, with_each_client};

#[test]
fn a_wrong_token_is_named_as_the_cause() -> Outcome {
    with_each_client(|cli, backend| {
        let mut environment = backend.environment().clone();
        environment.insert("FAIRMAZON_TOKEN".into(), format!("fmz_{}", "0".repeat(64)));
        let workspace = Workspace::inline(MACHINE, cli, &environment)?;
        let ended = workspace.try_plan(&[])?.fails_saying(&["token", "FAIRMAZON_TOKEN"])?;
        assert!(!ended.text().contains(&"0".repeat(64)), "no secret in a diagnostic");
        Ok(())
    })
}

#[test]
fn missing_settings_name_both_ways_to_give_them() -> Outcome {
    with_each_client(|cli, backend| {
        for (name, attribute) in [("FAIRMAZON_ENDPOINT", "endpoint"), ("FAIRMAZON_TOKEN", "token")]
        {
            let mut environment = backend.environment().clone();
            environment.remove(name);
            let workspace = Workspace::inline(MACHINE, cli, &environment)?;
            workspace.try_plan(&[])?.fails_saying(&[name, attribute])?;
        }
        Ok(())
    })
}

#[test]
fn broker_gone_is_told_and_broker_back_is_enough() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace = Workspace::inline(MACHINE, cli, backend.environment())?;
        workspace.apply(&[])?;
        backend.kill();
        let endpoint = backend.environment()["FAIRMAZON_ENDPOINT"].clone();
        let ended = workspace.try_plan(&[])?.fails_saying(&["unable to", "endpoint"])?;
        assert!(ended.text().contains(&endpoint), "{}", ended.text());
        assert!(
            workspace.state()?.resource("fairmazon_instance.it").is_ok(),
            "nothing is forgotten"
        );
        backend.again()?;
        workspace.expect_no_changes()
    })
}

#[test]
fn an_unknown_authority_and_an_expired_certificate_are_told_apart() -> Outcome {
    with_each_client(|cli, backend| {
        let expired = Expired::listen()?;
        let mut workspace = Workspace::inline(MACHINE, cli, backend.environment())?;
        let authority = workspace.beside().join("authority.pem");
        fs::write(&authority, &expired.authority).map_err(|source| Failure::File {
            verb: "write",
            path: authority.clone(),
            source,
        })?;
        workspace.set("FAIRMAZON_CA_CERTIFICATE", &authority.display().to_string());
        let foreign = workspace.try_plan(&[])?.fails_saying(&["FAIRMAZON_CA_CERTIFICATE"])?;
        assert!(!foreign.text().to_lowercase().contains("expired"), "{}", foreign.text());

        workspace.set("FAIRMAZON_ENDPOINT", &expired.endpoint);
        workspace.try_plan(&[])?.fails_saying(&["certificate", "expired"])?;
        Ok(())
    })
}

/// A server whose certificate has expired.
struct Expired {
    endpoint: String,
    authority: String,
    address: std::net::SocketAddr,
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Expired {
    fn listen() -> Outcome<Self> {
        let failed = |what: &str| Failure::Unexpected(format!("cannot make {what}"));
        let key = KeyPair::generate().map_err(|_| failed("a key"))?;
        let mut authority = CertificateParams::new(Vec::new()).map_err(|_| failed("a CA"))?;
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_pem = authority.self_signed(&key).map_err(|_| failed("a CA"))?.pem();
        let issuer = rcgen::Issuer::new(authority, &key);

        let server_key = KeyPair::generate().map_err(|_| failed("a key"))?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut server = CertificateParams::new(names).map_err(|_| failed("a certificate"))?;
        server.not_before = date_time_ymd(2020, 1, 1);
        server.not_after = date_time_ymd(2021, 1, 1);
        let server = server.signed_by(&server_key, &issuer).map_err(|_| failed("a certificate"))?;

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(vec![server.der().clone()], key)
            })
            .map_err(|_| failed("a TLS configuration"))?;
        config.alpn_protocols = vec![b"h2".to_vec()];

        let unreadable =
            |source| Failure::File { verb: "listen on", path: "127.0.0.1".into(), source };
        let listener = TcpListener::bind("127.0.0.1:0").map_err(unreadable)?;
        let address = listener.local_addr().map_err(unreadable)?;
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (config, stopped) = (Arc::new(config), stop.clone());
        let thread = std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if stopped.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
                // The handshake fails on the client's side: that is what is tested.
                if let Ok(mut connection) = rustls::ServerConnection::new(config.clone()) {
                    while connection.is_handshaking()
                        && connection.complete_io(&mut stream).is_ok_and(|done| done != (0, 0))
                    {
                    }
                }
            }
        });
        Ok(Self {
            endpoint: format!("https://127.0.0.1:{}", address.port()),
            authority: authority_pem,
            address,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Expired {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        // Wakes the thread so that it sees the mark.
        let _ = std::net::TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_damaged_store_is_told_and_not_repaired_in_silence() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace = Workspace::inline(MACHINE, cli, backend.environment())?;
        workspace.apply(&[])?;
        backend.interrupt()?;
        let store = find_store(backend.data())?;
        let damaged = vec![0xa5; 8192];
        fs::write(&store, &damaged).map_err(|source| Failure::File {
            verb: "write",
            path: store.clone(),
            source,
        })?;
        let failure = format!("{:?}", backend.again().err());
        let name = store.file_name().map(|name| name.to_string_lossy().into_owned());
        assert!(failure.contains(&name.unwrap_or_default()), "names the file: {failure}");
        let left = fs::read(&store).unwrap_or_default();
        assert!(left == damaged, "what may still be rescued is left as it is");
        Ok(())
    })
}

/// The broker's database in a data folder.
fn find_store(folder: &std::path::Path) -> Outcome<std::path::PathBuf> {
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let header = fs::read(&path).unwrap_or_default();
            if path.is_dir() {
                waiting.push(path);
            } else if header.starts_with(b"SQLite format 3\0") {
                return Ok(path);
            }
        }
    }
    Err(Failure::Missing(format!("no SQLite database in {}", folder.display())))
}

#[test]
fn a_taken_port_and_an_unwritable_folder_are_told() -> Outcome {
    let program = &acceptance::Binaries::find()?.fairmazon;
    let taken = TcpListener::bind("127.0.0.1:0").and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address.to_string()))
    });
    let (_listener, address) = taken.map_err(|source| Failure::File {
        verb: "listen on",
        path: "127.0.0.1".into(),
        source,
    })?;
    let folder = tempfile::tempdir().map_err(|source| Failure::File {
        verb: "create",
        path: "a folder".into(),
        source,
    })?;
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").map_err(|source| Failure::File {
        verb: "write",
        path: file.clone(),
        source,
    })?;
    let data = folder.path().display().to_string();
    let below_file = file.join("data").display().to_string();
    let cases = [
        (vec!["--listen", &address, "--data-dir", &data], address.clone()),
        (vec!["--listen", "127.0.0.1:0", "--data-dir", &below_file], below_file.clone()),
    ];
    for (arguments, word) in cases {
        let output = std::process::Command::new(program)
            .args(["dev", "--hypervisor", "simulated"])
            .args(&arguments)
            .envs(Environment::new())
            .output()
            .map_err(|source| Failure::Start { program: program.clone(), source })?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(&word), "{arguments:?}: {said}");
    }
    Ok(())
}
