//! The broker's certificate while the broker runs: made anew well before it ends where it is of
//! the broker's own authority, and read again where it comes from elsewhere.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{Authority, CertificateFiles, ServerTls, TlsError};
use crate::core::Clock;

/// How often it is looked at. Often beside the days for which it is renewed before its end: a time
/// at which that fails, or the machine sleeps, does not matter.
const LOOK: Duration = Duration::from_secs(60 * 60);

/// The certificate that the broker shows, for as long as it runs.
pub struct CurrentCertificate {
    /// Who makes it, and for which names; none where it comes from elsewhere.
    maker: Option<(Authority, Vec<String>)>,
    tls: ServerTls,
    clock: Arc<dyn Clock>,
}

impl CurrentCertificate {
    /// One that this authority makes for these names and addresses.
    ///
    /// # Errors
    /// When it can't be made, or used.
    pub fn made_by(
        authority: Authority,
        names: Vec<String>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        let now_ms = clock.now().0;
        authority.ensure(&names, now_ms)?;
        let tls = ServerTls::load(authority.server_files(), now_ms)?;
        Ok(Self { maker: Some((authority, names)), tls, clock })
    }

    /// One that somebody else keeps in these files.
    ///
    /// # Errors
    /// When it can't be used.
    pub fn in_files(files: CertificateFiles, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let tls = ServerTls::load(files, clock.now().0)?;
        Ok(Self { maker: None, tls, clock })
    }

    /// How TLS is spoken with it; what is shown changes with it.
    pub const fn tls(&self) -> &ServerTls {
        &self.tls
    }

    /// Renews it where that is due, and reads it again: connections made from now on see what the
    /// files hold.
    ///
    /// # Errors
    /// When it can't be renewed, or used; the certificate shown stays what it was.
    pub fn look(&self) -> Result<(), TlsError> {
        let now_ms = self.clock.now().0;
        if let Some((authority, names)) = &self.maker {
            authority.ensure(names, now_ms)?;
        }
        self.tls.reload(now_ms)
    }

    /// Looks at it each hour, for as long as this is polled. What fails is logged, and tried again.
    pub async fn keep(&self) -> Infallible {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Err(error) = self.look() {
                let error: &dyn std::error::Error = &error;
                tracing::error!(
                    error,
                    "the certificate stays what it was; hosts and customers can't connect when it \
                     has ended"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use fairmazon_model::units::UnixMs;
    use rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, UnixTime, pem::PemObject},
        time_provider::TimeProvider,
    };
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// The wall clock goes with tokio's, from now on: the broker's and that of its clients.
    #[derive(Debug)]
    struct Days(i64, Instant);

    impl Clock for Days {
        fn now(&self) -> UnixMs {
            UnixMs(self.0 + i64::try_from(self.1.elapsed().as_millis()).unwrap())
        }
    }

    impl TimeProvider for Days {
        fn current_time(&self) -> Option<UnixTime> {
            let now_ms = u64::try_from(self.now().0).ok()?;
            Some(UnixTime::since_unix_epoch(Duration::from_millis(now_ms)))
        }
    }

    fn clock() -> Arc<Days> {
        Arc::new(Days(crate::core::SystemClock.now().0, Instant::now()))
    }

    fn names() -> Vec<String> {
        vec!["localhost".into()]
    }

    fn der(pem: &Path) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(pem).unwrap()
    }

    /// The certificate that a client who trusts the authority is shown on a new connection.
    async fn shown(
        current: &CurrentCertificate,
        authority: &Path,
        clock: &Arc<Days>,
    ) -> CertificateDer<'static> {
        let mut roots = RootCertStore::empty();
        roots.add(der(authority)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_details(provider, clock.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let accept = TlsAcceptor::from(current.tls().config()).accept(theirs);
        let name = "localhost".try_into().unwrap();
        let connect = TlsConnector::from(Arc::new(client)).connect(name, ours);
        let (accepted, connected) = tokio::join!(accept, connect);
        accepted.unwrap();
        let connected = connected.unwrap();
        connected.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_of_its_own_never_ends_while_the_broker_runs() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::in_folder(folder.path());
        let clock = clock();
        let current =
            CurrentCertificate::made_by(authority.clone(), names(), clock.clone()).unwrap();
        let ca = authority.certificate();
        let first = shown(&current, &ca, &clock).await;
        let mut all = vec![first];
        let year = async {
            for _ in 0..365 {
                tokio::time::sleep(DAY).await;
                let now = shown(&current, &ca, &clock).await;
                if all.last() != Some(&now) {
                    all.push(now);
                }
            }
        };
        tokio::select! {
            () = year => {}
            never = current.keep() => match never {},
        }
        assert!((5..=8).contains(&all.len()), "{} certificates in a year", all.len());
    }

    #[tokio::test(start_paused = true)]
    async fn one_from_elsewhere_is_read_again_and_a_damaged_one_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::in_folder(folder.path().join("tls"));
        let clock = clock();
        authority.ensure(&names(), clock.now().0).unwrap();
        let made = authority.server_files();
        let files = CertificateFiles {
            certificate: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
        };
        let give = || {
            fs::copy(&made.certificate, &files.certificate).unwrap();
            fs::copy(&made.key, &files.key).unwrap();
        };
        give();
        let current = CurrentCertificate::in_files(files.clone(), clock.clone()).unwrap();
        let ca = authority.certificate();
        let first = shown(&current, &ca, &clock).await;
        assert_eq!(first, der(&made.certificate));

        fs::remove_file(&made.certificate).unwrap();
        authority.ensure(&names(), clock.now().0).unwrap();
        let second = der(&made.certificate);
        assert_ne!(first, second);
        fs::write(&files.certificate, "half of it").unwrap();
        let hour = async || {
            tokio::select! {
                () = tokio::time::sleep(LOOK + DAY / 96) => {}
                never = current.keep() => match never {},
            }
        };
        hour().await;
        assert_eq!(shown(&current, &ca, &clock).await, first);
        give();
        hour().await;
        assert_eq!(shown(&current, &ca, &clock).await, second);
    }
}
