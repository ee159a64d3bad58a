//! TLS of the HTTP port and of our own clients: settings made of PEM files. What goes wrong names the file.

mod way;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub(crate) use way::{WayError, connect};

use crate::config::{Certificate, HttpConfig, VerifyClient};

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct UnusableFile {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// What the HTTP port answers with, and what is talked to peers with.
#[derive(Debug)]
pub struct HttpTls {
    /// For who connects; none: plain HTTP.
    pub server: Option<Arc<ServerConfig>>,
    /// For peers whose URL is `https`.
    pub peers: Arc<ClientConfig>,
}

impl HttpTls {
    /// From the files as they are now.
    ///
    /// # Errors
    /// As of [`server`].
    pub fn read(http: &HttpConfig) -> Result<Self, UnusableFile> {
        let of = |own| server(own, http.verify_client, http.client_ca_file.as_deref()).map(Arc::new);
        let peers = client(http.ca_file.as_deref(), http.certificate.as_ref())?;
        Ok(HttpTls { server: http.certificate.as_ref().map(of).transpose()?, peers: Arc::new(peers) })
    }

    /// The files that it is made of.
    pub fn files(http: &HttpConfig) -> Vec<PathBuf> {
        let own = http.certificate.iter().flat_map(|own| [&own.cert_file, &own.key_file]);
        own.chain(&http.client_ca_file).chain(&http.ca_file).cloned().collect()
    }
}

/// What the HTTP port answers with.
///
/// # Errors
/// When a file cannot be read as what it should be, or certificate and key do not belong together.
pub fn server(
    certificate: &Certificate,
    verify_client: VerifyClient,
    client_ca_file: Option<&Path>,
) -> Result<ServerConfig, UnusableFile> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks the versions it was built with");
    let builder = match client_ca_file.filter(|_| verify_client != VerifyClient::None) {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(file)?), provider);
            let verifier = match verify_client {
                VerifyClient::Required => verifier,
                VerifyClient::Optional | VerifyClient::None => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| unusable(file, error))?)
        }
    };
    let (chain, key) = identity(certificate)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| unusable(&certificate.cert_file, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What a client talks with: servers are judged by `ca_file`, or by the system's authorities, and their names are checked.
///
/// # Errors
/// As of [`server`]. A system without authorities is none: there every server will be refused.
pub fn client(ca_file: Option<&Path>, certificate: Option<&Certificate>) -> Result<ClientConfig, UnusableFile> {
    let roots = match ca_file {
        Some(file) => authorities(file)?,
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks the versions it was built with")
        .with_root_certificates(roots);
    match certificate {
        None => Ok(builder.with_no_client_auth()),
        Some(certificate) => {
            let (chain, key) = identity(certificate)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable(&certificate.cert_file, error))
        }
    }
}

/// Whether [`client`] could use the files. Looks at no authorities of the system.
///
/// # Errors
/// As of [`server`].
pub fn check(ca_file: Option<&Path>, certificate: Option<&Certificate>) -> Result<(), UnusableFile> {
    match (ca_file, certificate) {
        (None, None) => Ok(()),
        _ => client(ca_file, certificate).map(drop),
    }
}

/// The authorities in a file, at least one.
pub(crate) fn authorities(file: &Path) -> Result<RootCertStore, UnusableFile> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| unusable(file, error))?;
    }
    Ok(roots)
}

/// A certificate with its chain, and its key; whether they belong together is not looked at.
pub(crate) fn identity(
    certificate: &Certificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), UnusableFile> {
    let file = &certificate.key_file;
    let key = PrivateKeyDer::from_pem_file(file).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(file, "it holds no key, or an encrypted one"),
        error => unusable(file, reason(error)),
    })?;
    Ok((certificates(&certificate.cert_file)?, key))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, UnusableFile> {
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(file, reason(error)))?;
    match found.is_empty() {
        true => Err(unusable(file, "it holds no certificate")),
        false => Ok(found),
    }
}

fn reason(error: pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it is cut off".to_owned(),
        pem::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

fn unusable(file: &Path, reason: impl ToString) -> UnusableFile {
    UnusableFile { file: file.to_owned(), reason: reason.to_string() }
}
