//! TLS over a TCP connection, with exactly the proof that `sslmode` asks for and never less.

mod end_point;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ConfigBuilder, RootCertStore, WantsVersions};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::conninfo::{ClientCert, Conninfo, RootCert, SslMode};
use verify::{AnyCertificate, AnyName};

/// Why TLS was not agreed on. None of these is answered by trying a weaker mode.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server has TLS switched off.
    #[error("the server does not offer TLS, which sslmode={0} asks for")]
    NotOffered(SslMode),
    /// A file could not be read as what it should be.
    #[error("{what} {path}: {reason}")]
    File {
        /// The parameter that names it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system has no certificates of authorities.
    #[error("the operating system has no certificates of authorities: {0}")]
    NoSystemRoots(String),
    /// The host is neither a name nor an address that a certificate can be for.
    #[error("{0:?} is no name that a certificate can be checked against")]
    Name(String),
    /// Certificate, key and settings do not go together.
    #[error("set up TLS: {0}")]
    Setup(String),
    /// The handshake failed: above all, a certificate that is not to be trusted.
    #[error("TLS handshake: {0}")]
    Handshake(std::io::Error),
}

/// An encrypted stream, and the binding that authentication can be tied to.
pub(crate) struct Encrypted {
    pub(crate) stream: Box<TlsStream<TcpStream>>,
    /// `tls-server-end-point`; `None` where the certificate's signature algorithm defines no hash for it.
    pub(crate) end_point: Option<Vec<u8>>,
}

/// Speaks TLS on a connection whose server has agreed to it.
pub(crate) async fn handshake(conninfo: &Conninfo, host: &str, stream: TcpStream) -> Result<Encrypted, TlsError> {
    let config = match &conninfo.kept_tls {
        Some(KeptTls(config)) => Arc::clone(config),
        None => Arc::new(config(conninfo)?),
    };
    let name = match ServerName::try_from(host.to_owned()) {
        Ok(name) => name,
        Err(_) => return Err(TlsError::Name(host.to_owned())),
    };
    let connector = TlsConnector::from(config);
    let stream = connector.connect(name, stream).await.map_err(TlsError::Handshake)?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let end_point = certificate.and_then(|certificate| end_point::hash(certificate));
    Ok(Encrypted { stream: Box::new(stream), end_point })
}

/// Settings that were made once, from files as they were then.
#[derive(Clone, Debug)]
pub(crate) struct KeptTls(Arc<ClientConfig>);

impl KeptTls {
    pub(crate) fn read(conninfo: &Conninfo) -> Result<Self, TlsError> {
        Ok(KeptTls(Arc::new(config(conninfo)?)))
    }
}

/// Whether it is the same reading.
impl PartialEq for KeptTls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for KeptTls {}

/// The settings, from the files as they are now.
fn config(conninfo: &Conninfo) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(conninfo, &provider)?;
    let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
    let builder: ConfigBuilder<ClientConfig, WantsVersions> = ClientConfig::builder_with_provider(provider);
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &conninfo.identity {
        None => builder.with_no_client_auth(),
        Some(ClientCert { cert, key }) => {
            let chain = certificates("sslcert", cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file("sslkey", key, error))?;
            builder.with_client_auth_cert(chain, key).map_err(setup)?
        }
    };
    // Each connection shows its certificates anew, as PostgreSQL wants it.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn verifier(conninfo: &Conninfo, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let roots = match &conninfo.sslrootcert {
        None if conninfo.sslmode != SslMode::VerifyFull => {
            return Ok(Arc::new(AnyCertificate(provider.signature_verification_algorithms)));
        }
        None | Some(RootCert::System) => system_roots()?,
        Some(RootCert::File(path)) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("sslrootcert", path)? {
                roots.add(certificate).map_err(|error| file("sslrootcert", path, error))?;
            }
            roots
        }
    };
    let full = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    match conninfo.sslmode {
        SslMode::VerifyFull => Ok(full),
        SslMode::Disable | SslMode::Require | SslMode::VerifyCa => Ok(Arc::new(AnyName(full))),
    }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A store of an operating system may hold oddities; those that can be read are enough, as long as there are some.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoSystemRoots(reasons.join("; ")));
    }
    Ok(roots)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| file(what, path, error))?;
    if found.is_empty() {
        return Err(file(what, path, "it holds no certificate"));
    }
    Ok(found)
}

fn file(what: &'static str, path: &Path, reason: impl ToString) -> TlsError {
    TlsError::File { what, path: path.to_owned(), reason: reason.to_string() }
}
