//! From a [`Host`] to a stream of bytes: TCP or a Unix socket, with TLS where it is asked for. Knows nothing of the
//! messages that follow.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use crate::connect_error::{ConnectFailure, Phase};
use crate::conninfo::{Address, Conninfo, Host, SslMode};
use crate::tls::{self, Encrypted, TlsError};

/// Silence on a TCP connection after which the kernel asks whether the other side is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Pause between such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Questions without an answer until the connection counts as lost.
const KEEPALIVE_COUNT: u32 = 3;

/// A connected socket, whatever is between us and the server.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Encrypted),
}

impl Stream {
    /// Connects, within the deadline, to the first address of the host that answers.
    pub(crate) async fn open(conninfo: &Conninfo, host: &Host, deadline: Instant) -> Result<Self, ConnectFailure> {
        let (name, addr) = match &host.address {
            Address::Unix(directory) => {
                return unix(&directory.join(format!(".s.PGSQL.{}", host.port)), deadline).await;
            }
            Address::Tcp { name, addr } => (name, addr),
        };
        let addresses = match addr {
            Some(addr) => vec![SocketAddr::new(*addr, host.port)],
            None => within(deadline, Phase::Resolve, tokio::net::lookup_host((name.as_str(), host.port)))
                .await?
                .map_err(ConnectFailure::Unreachable)?
                .collect(),
        };
        let tcp = tcp(&addresses, deadline).await?;
        match conninfo.sslmode {
            SslMode::Disable => Ok(Stream::Tcp(tcp)),
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                within(deadline, Phase::Tls, encrypt(conninfo, name, tcp)).await?
            }
        }
    }

    /// What SCRAM can be bound to. `Some(None)` where there is TLS but nothing to bind to.
    pub(crate) fn end_point(&self) -> Option<Option<&[u8]>> {
        match self {
            Stream::Tls(encrypted) => Some(encrypted.end_point.as_deref()),
            Stream::Tcp(_) | Stream::Unix(_) => None,
        }
    }

    /// How long sent bytes may stay without acknowledgement before the kernel gives the connection up. Nothing on a
    /// Unix socket, where there is no such thing.
    pub(crate) fn set_tcp_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        let tcp = match self {
            Stream::Tcp(tcp) => tcp,
            Stream::Tls(encrypted) => encrypted.stream.get_ref().0,
            Stream::Unix(_) => return Ok(()),
        };
        let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        Ok(sockopt::set_tcp_user_timeout(tcp, milliseconds)?)
    }
}

/// Runs one step of connecting under the deadline of the whole.
pub(crate) async fn within<T>(
    deadline: Instant,
    phase: Phase,
    step: impl Future<Output = T>,
) -> Result<T, ConnectFailure> {
    timeout_at(deadline, step).await.map_err(|_| ConnectFailure::Timeout(phase))
}

async fn unix(path: &Path, deadline: Instant) -> Result<Stream, ConnectFailure> {
    let stream = within(deadline, Phase::Tcp, UnixStream::connect(path)).await?;
    stream.map(Stream::Unix).map_err(ConnectFailure::Unreachable)
}

/// Each address gets its share of the time that is left, so that a dead one does not use up the turn of the next.
async fn tcp(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, ConnectFailure> {
    let mut failure = ConnectFailure::Unreachable(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for (i, address) in addresses.iter().enumerate() {
        let turns = u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        let now = Instant::now();
        let share = now + deadline.saturating_duration_since(now) / turns;
        match within(share, Phase::Tcp, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                tune(&stream).map_err(ConnectFailure::Unreachable)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failure = ConnectFailure::Unreachable(error),
            Err(timeout) => failure = timeout,
        }
    }
    Err(failure)
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    Ok(())
}

async fn encrypt(conninfo: &Conninfo, host: &str, mut stream: TcpStream) -> Result<Stream, ConnectFailure> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(ConnectFailure::from_io)?;
    // Exactly one byte is read in the clear: anything that somebody pushed in behind it fails the handshake.
    match stream.read_u8().await.map_err(ConnectFailure::from_io)? {
        b'S' => Ok(Stream::Tls(tls::handshake(conninfo, host, stream).await?)),
        b'N' => Err(TlsError::NotOffered(conninfo.sslmode).into()),
        // An error instead of an answer comes from a server that cannot even fork, or from no PostgreSQL at all.
        _ => Err(ConnectFailure::NotPostgres),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_shutdown(cx),
        }
    }
}
