//! From the URL of a worker to a stream of bytes: TCP, with TLS where the URL says so.

use std::error::Error;
use std::io;
use std::sync::Arc;

use hyper::Uri;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection, whatever is spoken on it.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The bytes between us and a worker.
pub(crate) type Way = Box<dyn Duplex>;

/// Why there is no way to a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WayError {
    /// Nobody answers there.
    #[error(transparent)]
    Unreachable(io::Error),
    /// It is not whom we trust, or it does not trust us.
    #[error(transparent)]
    Untrusted(io::Error),
}

impl WayError {
    /// What a conversation ended by: a server that wants a certificate says so only when it is asked something.
    pub(crate) fn of(error: impl Error + Send + Sync + 'static) -> Self {
        match refusal(&error) {
            Some(refusal) => WayError::Untrusted(io::Error::other(refusal)),
            None => WayError::Unreachable(io::Error::other(error)),
        }
    }
}

/// What TLS said, if it was TLS.
fn refusal(error: &(dyn Error + 'static)) -> Option<rustls::Error> {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let found = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
    found.or_else(|| refusal(error.source()?))
}

/// Connects to the host of an `http` or `https` URL. Not bounded in time.
pub(crate) async fn connect(url: &Uri, tls: &Arc<ClientConfig>) -> Result<Way, WayError> {
    let secure = url.scheme_str() == Some("https");
    let no_host = || WayError::Unreachable(io::Error::new(io::ErrorKind::InvalidInput, "the URL has no host"));
    // An IPv6 address stands in brackets in URLs, and nowhere else.
    let host = url.host().ok_or_else(no_host)?.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await.map_err(WayError::Unreachable)?;
    if !secure {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| WayError::Untrusted(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.map_err(WayError::Untrusted)?;
    Ok(Box::new(stream))
}
