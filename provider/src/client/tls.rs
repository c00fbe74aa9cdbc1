//! Trust: which certificates make the connection, and what is wrong with them.

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::Credential;

/// A setting that can't make a connection.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The endpoint is no address.
    #[error("the endpoint is not an address like https://broker.example.com:8443")]
    Endpoint {
        /// The parser's reason.
        #[source]
        source: tonic::transport::Error,
    },
    /// Certificates or key are not what they should be.
    #[error("the certificates or the key can't be read as PEM")]
    Certificates {
        /// The TLS library's reason.
        #[source]
        source: tonic::transport::Error,
    },
    /// The token has characters that no token has.
    #[error("the token holds characters that no token has, a line break for instance")]
    Token,
}

/// What TLS is made of.
pub struct TlsSettings<'a> {
    /// PEM certificates to trust instead of the system's.
    pub ca_pem: Option<&'a str>,
    /// Who the client is.
    pub credential: &'a Credential,
}

impl TlsSettings<'_> {
    /// The library's form of it. With a CA of one's own, only that one is trusted. The PEM forms
    /// are checked when the endpoint takes the configuration.
    pub(super) fn into_config(self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new();
        config = match self.ca_pem {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.with_native_roots(),
        };
        if let Credential::Certificate { certificate_pem, key_pem } = self.credential {
            config = config.identity(Identity::from_pem(certificate_pem, key_pem));
        }
        config
    }
}
