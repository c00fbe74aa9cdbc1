//! A client of go-plugin's protocol: starts the example, reads the line, connects.

use std::{error::Error, path::PathBuf, process::Stdio, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P521_SHA512};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::{TcpStream, UnixStream},
    process::{Child, ChildStdout, Command},
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const COOKIE: &str = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2";

/// The certificate of a client: self-signed, P-521, marked as a CA, as go-plugin makes it.
pub(crate) struct Identity {
    pub(crate) pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    pub(crate) fn new() -> Outcome<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512)?;
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?;
        let pem = certificate.pem();
        Ok(Self { pem, certificate: certificate.der().clone(), key: key.serialize_der() })
    }

    /// Another certificate with the same names, signed with this one's key: what a forger who
    /// knows the public part would show.
    pub(crate) fn forged(&self) -> Outcome<Self> {
        let own = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512)?;
        let issuer = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512)?;
        let params = CertificateParams::new(vec!["localhost".to_owned()])?;
        let issuer = Issuer::new(params.clone(), issuer);
        let certificate = params.signed_by(&own, &issuer)?;
        let pem = certificate.pem();
        Ok(Self { pem, certificate: certificate.der().clone(), key: own.serialize_der() })
    }

    /// The right certificate with a key that does not belong to it.
    pub(crate) fn stolen(&self) -> Outcome<Self> {
        let other = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512)?;
        let (pem, certificate) = (self.pem.clone(), self.certificate.clone());
        Ok(Self { pem, certificate, key: other.serialize_der() })
    }
}

/// A command for the example plugin with nothing of a client's environment but the cookie.
pub(crate) fn plugin() -> Outcome<Command> {
    example("pantry")
}

/// The same for any of the examples.
pub(crate) fn example(name: &str) -> Outcome<Command> {
    let mut command = Command::new(path(name)?);
    command.env_clear();
    introduce(&mut command);
    Ok(command)
}

/// Lets a command believe that a client started it.
pub(crate) fn introduce(command: &mut Command) {
    command
        .env("TF_PLUGIN_MAGIC_COOKIE", COOKIE)
        .env("PLUGIN_PROTOCOL_VERSIONS", "5,6")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
}

fn path(name: &str) -> Outcome<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(|deps| deps.parent()).ok_or("no target folder")?;
    let example = folder.join("examples").join(name);
    if !example.exists() {
        return Err(format!(
            "{} is missing: run `cargo build -p tfplugin --example {name}` first",
            example.display()
        )
        .into());
    }
    Ok(example)
}

/// What the plugin said in its one line.
pub(crate) struct Line {
    pub(crate) fields: Vec<String>,
}

impl Line {
    pub(crate) fn address(&self) -> &str {
        &self.fields[3]
    }

    fn certificate(&self) -> Outcome<CertificateDer<'static>> {
        Ok(CertificateDer::from(STANDARD_NO_PAD.decode(&self.fields[5])?))
    }
}

/// A plugin that runs.
pub(crate) struct Plugin {
    pub(crate) child: Child,
    pub(crate) line: Line,
    pub(crate) stdout: BufReader<ChildStdout>,
}

impl Plugin {
    /// Starts it and reads its line.
    pub(crate) async fn start(mut command: Command) -> Outcome<Self> {
        let mut child = command.spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut text = String::new();
        stdout.read_line(&mut text).await?;
        let text = text.strip_suffix('\n').ok_or("the plugin said nothing")?;
        let fields: Vec<String> = text.split('|').map(str::to_owned).collect();
        if fields.len() < 6 {
            return Err(format!("not the line of a plugin: {text:?}").into());
        }
        Ok(Self { child, line: Line { fields }, stdout })
    }

    /// Starts it with a fresh client certificate and a folder of its own, and connects.
    pub(crate) async fn connected(folder: &std::path::Path) -> Outcome<(Self, Channel)> {
        let identity = Identity::new()?;
        let mut command = plugin()?;
        command.env("PLUGIN_CLIENT_CERT", &identity.pem);
        command.env("PLUGIN_UNIX_SOCKET_DIR", folder);
        command.env("PANTRY_FOLDER", folder.join("shelf"));
        let plugin = Self::start(command).await?;
        let channel = plugin.connect(Some(&identity)).await?;
        Ok((plugin, channel))
    }

    /// Connects with this certificate, or none, over TLS.
    pub(crate) async fn connect(&self, identity: Option<&Identity>) -> Outcome<Channel> {
        let pinned = Arc::new(Pinned { certificate: self.line.certificate()? });
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(pinned);
        let mut config = match identity {
            Some(identity) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(identity.key.clone()));
                let chain = vec![identity.certificate.clone()];
                let loaded = aws_lc_rs::sign::any_supported_type(&key)?;
                // Not checked against each other here: a thief does not either.
                let certified = rustls::sign::CertifiedKey::new(chain, loaded);
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                    certified,
                )))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let (network, address) = (self.line.fields[2].clone(), self.line.fields[3].clone());
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(service_fn(move |_: Uri| {
                let (connector, network) = (connector.clone(), network.clone());
                let address = address.clone();
                async move {
                    let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
                    let stream: Box<dyn Stream> = match network.as_str() {
                        "unix" => Box::new(UnixStream::connect(address).await?),
                        _ => Box::new(TcpStream::connect(address).await?),
                    };
                    connector.connect(name, stream).await.map(TokioIo::new)
                }
            }))
            .await?;
        Ok(channel)
    }

    /// Connects in plain text.
    pub(crate) async fn connect_plain(&self) -> Outcome<Channel> {
        connect_plain(self.line.address()).await
    }

    /// Waits for its end and returns its status and what was left on its outputs.
    pub(crate) async fn ended(mut self) -> Outcome<(Option<i32>, String, String)> {
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).await?;
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut err).await?;
        }
        Ok((self.child.wait().await?.code(), out, err))
    }
}

/// Connects to a Unix socket in plain text.
pub(crate) async fn connect_plain(address: &str) -> Outcome<Channel> {
    let address = address.to_owned();
    let connect = move |_: Uri| {
        let address = address.clone();
        async move { UnixStream::connect(address).await.map(TokioIo::new) }
    };
    Ok(Endpoint::from_static("http://localhost")
        .connect_with_connector(service_fn(connect))
        .await?)
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for S {}

/// Trusts the one certificate of the line.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("not the certificate of the line".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
