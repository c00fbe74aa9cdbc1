//! A host's way to the broker from its first call on: joins with a token that is used once, then
//! shows its certificate, and renews that before it ends.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fairmazon_model::transfer::{Part, Taken, TransferId};
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use super::{Credential, Data, GrpcConfig, GrpcTransport, Link, Transport, TransportError};
use crate::clock::unix_now;
use crate::identity::{HostIdentity, IdentityError, JoinedCertificate};

/// How often it is looked whether the certificate is to be renewed.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);

/// Opens streams as a host that joins by itself.
pub struct JoinedTransport {
    address: String,
    ca_pem: String,
    identity: Arc<HostIdentity>,
    /// For the first call; of no use after it.
    token: Option<String>,
    /// The key of a request whose answer may have been lost: asked again with it, the platform
    /// answers with the certificate that it has made then.
    joining: tokio::sync::Mutex<Option<String>>,
}

impl JoinedTransport {
    /// A way to the broker at `address` (`https://NAME:PORT`), which `ca_pem` vouches for. The
    /// token is needed until the host has joined.
    pub fn new(
        address: String,
        ca_pem: String,
        identity: Arc<HostIdentity>,
        token: Option<String>,
    ) -> Self {
        Self { address, ca_pem, identity, token, joining: tokio::sync::Mutex::default() }
    }

    /// The certificate to show: joins for the first, renews one that is old.
    ///
    /// # Errors
    /// `Setup` without a certificate and without a token; why the broker does not sign otherwise.
    pub async fn certificate(&self) -> Result<JoinedCertificate, TransportError> {
        let mut asked = self.joining.lock().await;
        let now = unix_now();
        let kept = self.identity.certificate().map_err(odd)?;
        match kept.filter(|kept| !kept.has_ended(now)) {
            Some(kept) if kept.is_old(now) => {
                let renewed = self.join(self.shown(&kept), &mut asked).await;
                renewed.or_else(|error| {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "the host's certificate was not renewed yet");
                    Ok(kept)
                })
            }
            Some(kept) => Ok(kept),
            None => self.join_with_token(&mut asked).await,
        }
    }

    /// Joins with the token, whatever certificate there is. That stays until there is another
    /// one, so a token that is refused costs a host nothing.
    ///
    /// # Errors
    /// `Setup` without a token; why the broker does not sign otherwise.
    pub async fn join_anew(&self) -> Result<JoinedCertificate, TransportError> {
        let mut asked = self.joining.lock().await;
        self.join_with_token(&mut asked).await
    }

    async fn join_with_token(
        &self,
        asked: &mut Option<String>,
    ) -> Result<JoinedCertificate, TransportError> {
        match &self.token {
            Some(token) => self.join(Credential::Token(token.clone()), asked).await,
            None => Err(TransportError::Setup {
                what: "this host has no valid certificate and no token to join with: have its \
                       operator make one with `fairmazon host rotate-token`, and join with that"
                    .into(),
            }),
        }
    }

    async fn join(
        &self,
        credential: Credential,
        asked: &mut Option<String>,
    ) -> Result<JoinedCertificate, TransportError> {
        let transport = GrpcTransport::new(&self.config(credential))?;
        let request = self.identity.request().map_err(odd)?;
        let sealing_key = *self.identity.secret().sealing_key().bytes();
        let key = asked.get_or_insert_with(|| format!("{:032x}", rand::random::<u128>()));
        let pem = transport.join(request, sealing_key.to_vec(), key.clone()).await?;
        *asked = None;
        self.identity.keep(&pem).map_err(odd)?;
        let kept = self.identity.certificate().map_err(odd)?;
        kept.ok_or_else(|| TransportError::Garbled { what: "its certificate is empty".into() })
    }

    async fn as_joined(&self) -> Result<GrpcTransport, TransportError> {
        let certificate = self.certificate().await?;
        GrpcTransport::new(&self.config(self.shown(&certificate)))
    }

    fn shown(&self, certificate: &JoinedCertificate) -> Credential {
        Credential::Certificate {
            pem: certificate.pem.clone(),
            key_pem: self.identity.tls_key_pem(),
        }
    }

    fn config(&self, credential: Credential) -> GrpcConfig {
        GrpcConfig { address: self.address.clone(), ca_pem: self.ca_pem.clone(), credential }
    }
}

#[async_trait]
impl Transport for JoinedTransport {
    async fn connect(&self) -> Result<Link, TransportError> {
        self.as_joined().await?.connect().await
    }

    /// Renews the certificate in time. A renewal that is under way is left at the end: whatever the
    /// broker has made of it, the certificate that is kept counts until another is used.
    async fn tend(&self, stop: CancellationToken) {
        loop {
            let looked = async {
                tokio::time::sleep(LOOK_EVERY).await;
                self.certificate().await
            };
            match stop.run_until_cancelled(looked).await {
                None => return,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "the host's certificate was not looked after");
                }
            }
        }
    }

    async fn send_volume(
        &self,
        transfer: TransferId,
        parts: BoxStream<'static, Part>,
    ) -> Result<(), TransportError> {
        self.as_joined().await?.send_volume(transfer, parts).await
    }

    async fn receive_volume(
        &self,
        transfer: TransferId,
        words: BoxStream<'static, Taken>,
    ) -> Result<Data, TransportError> {
        self.as_joined().await?.receive_volume(transfer, words).await
    }
}

fn odd(error: IdentityError) -> TransportError {
    TransportError::Identity(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_not_answered_is_asked_again_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Arc::new(HostIdentity::open(folder.path()).unwrap());
        let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        // Taken, and nobody listens there any more.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("https://localhost:{port}");
        let token = Some("fmz_token".to_owned());
        let transport = JoinedTransport::new(address, ca.cert.pem(), identity, token);
        transport.join_anew().await.unwrap_err();
        let first = transport.joining.lock().await.clone();
        assert!(first.as_ref().is_some_and(|key| key.len() == 32), "{first:?}");
        transport.join_anew().await.unwrap_err();
        assert_eq!(*transport.joining.lock().await, first);
    }
}
