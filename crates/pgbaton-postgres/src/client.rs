//! An ordinary SQL connection (tokio-postgres) over the same transport, TLS and settings as the replication connection.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::config::{self, SslMode as Negotiate, SslNegotiation};
use tokio_postgres::tls::{self as theirs, TlsConnect};
use tokio_postgres::{Client, Config};

use crate::connect_error::{AuthProblem, ConnectError, ConnectFailure, Phase};
use crate::conninfo::{ChannelBinding, Conninfo, Host};
use crate::handshake::startup_options;
use crate::hosts;
use crate::transport::{Stream, within};

/// The task that moves the bytes of a [`Client`]. It ends when the client is dropped or the connection is lost, with
/// the reason; whoever connected owns and joins it.
pub type ClientTask = JoinHandle<Result<(), tokio_postgres::Error>>;

/// Connects for ordinary SQL. A `statement_timeout` bounds every statement on the server's side.
///
/// # Errors
/// As for [`crate::ReplicationConnection::connect`].
pub async fn connect_client(
    conninfo: &Conninfo,
    application_name: &str,
    statement_timeout: Option<Duration>,
) -> Result<(Client, ClientTask), ConnectError> {
    let mut config = Config::new();
    let mut options = startup_options(conninfo);
    if let Some(timeout) = statement_timeout {
        options.push_str(&format!(" -c statement_timeout={}", timeout.as_millis()));
    }
    config.user(&conninfo.user).dbname(&conninfo.dbname).application_name(application_name).options(options);
    config.channel_binding(match conninfo.channel_binding {
        ChannelBinding::Disable => config::ChannelBinding::Disable,
        ChannelBinding::Prefer => config::ChannelBinding::Prefer,
        ChannelBinding::Require => config::ChannelBinding::Require,
    });
    hosts::first(conninfo, |host, deadline| open(conninfo, host, config.clone(), deadline)).await
}

async fn open(
    conninfo: &Conninfo,
    host: &Host,
    mut config: Config,
    deadline: Instant,
) -> Result<(Client, ClientTask), ConnectFailure> {
    let stream = Stream::open(conninfo, host, deadline).await?;
    let password = conninfo.password_for(host);
    let has_password = password.is_some();
    if let Some(password) = password {
        config.password(password.expose());
    }
    // TLS is there already: "direct" keeps the crate from asking for it, and it only learns what to bind to.
    match stream.end_point() {
        Some(_) => config.ssl_mode(Negotiate::Require).ssl_negotiation(SslNegotiation::Direct),
        None => config.ssl_mode(Negotiate::Disable),
    };
    let connect = config.connect_raw(stream, AsItIs);
    let (client, connection) =
        within(deadline, Phase::Startup, connect).await?.map_err(|e| failure(e, has_password))?;
    hosts::check(conninfo.target_session_attrs, |name| connection.parameter(name))?;
    Ok((client, tokio::spawn(connection)))
}

fn failure(error: tokio_postgres::Error, has_password: bool) -> ConnectFailure {
    if let Some(error) = error.as_db_error() {
        return ConnectFailure::Server(error.into());
    }
    let source = std::error::Error::source(&error);
    match source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
        Some(io) if io.kind() == ErrorKind::UnexpectedEof => ConnectFailure::Closed,
        // The crate's own objections to what the server sent while it authenticated us.
        Some(io) if matches!(io.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
            ConnectFailure::Auth(AuthProblem::Scram(io.to_string()))
        }
        Some(io) => ConnectFailure::Unreachable(std::io::Error::new(io.kind(), io.to_string())),
        None if error.is_closed() => ConnectFailure::Closed,
        // What is left are its objections to how we were to authenticate.
        None if !has_password => ConnectFailure::Auth(AuthProblem::NoPassword),
        None => ConnectFailure::Auth(AuthProblem::Scram(source.map_or(error.to_string(), ToString::to_string))),
    }
}

/// Passes a stream on as it is: its TLS was agreed on before.
struct AsItIs;

/// A [`Stream`] that tells what authentication can be bound to.
pub(crate) struct Bound(Stream);

impl TlsConnect<Stream> for AsItIs {
    type Stream = Bound;
    type Error = Infallible;
    type Future = Ready<Result<Bound, Infallible>>;

    fn connect(self, stream: Stream) -> Self::Future {
        ready(Ok(Bound(stream)))
    }
}

impl theirs::TlsStream for Bound {
    fn channel_binding(&self) -> theirs::ChannelBinding {
        match self.0.end_point().flatten() {
            Some(hash) => theirs::ChannelBinding::tls_server_end_point(hash.to_vec()),
            None => theirs::ChannelBinding::none(),
        }
    }
}

impl AsyncRead for Bound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
