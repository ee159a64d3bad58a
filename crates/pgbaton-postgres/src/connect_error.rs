//! Why a connection could not be made: which server, at what, and what that means.

use std::fmt;
use std::io;

use crate::error::{DbError, Meaning};
use crate::malformed::Malformed;
use crate::tls::TlsError;
use crate::wire::WireError;

/// No server of a connection text let us in.
#[derive(Debug)]
pub struct ConnectError {
    /// `user@host:port/database` of the server that the failure is about. No password.
    pub server: String,
    /// What happened there. Of several servers, the one that came furthest.
    pub failure: ConnectFailure,
    /// What happened at the other servers, one line each.
    pub others: Vec<String>,
}

/// What kept one server from letting us in.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The name was not found, the connection refused, or cut off before the server had said anything of use.
    #[error("cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    /// Something accepted the connection and closed it: a proxy without a server behind it, or a server going down.
    #[error("closed the connection before letting us in")]
    Closed,
    /// The whole of connecting took longer than `connect_timeout`.
    #[error("did not answer in time while {0}")]
    Timeout(Phase),
    /// TLS failed. A weaker mode is not tried.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Authentication was not possible, for a reason on our side.
    #[error("authentication: {0}")]
    Auth(AuthProblem),
    /// The server refused us in its own words: wrong password (28P01), no such database (3D000), shutting down (57P03) ...
    #[error("{0}")]
    Server(DbError),
    /// It is not the kind of server that `target_session_attrs` asks for.
    #[error("is {found}, which target_session_attrs={wanted} does not want")]
    WrongSession {
        /// What it is.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// What answers there does not speak PostgreSQL's protocol.
    #[error("does not answer as a PostgreSQL server does")]
    NotPostgres,
    /// It speaks the protocol wrongly.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Why authentication failed before the server could judge it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthProblem {
    /// The server wants a password and none is known.
    #[error(
        "the server asks for a password and there is none (connection text, password, password_file, PGPASSWORD, \
         password file)"
    )]
    NoPassword,
    /// The server wants a method that is not supported.
    #[error("the server asks for {0}, which is not supported")]
    Unsupported(String),
    /// `channel_binding=require`, but the server or the connection cannot do it.
    #[error("channel_binding=require, but {0}")]
    NoChannelBinding(&'static str),
    /// The server did not prove that it knows the password, or broke the exchange.
    #[error("SCRAM: {0}")]
    Scram(String),
}

/// The steps of connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Looking the name up.
    Resolve,
    /// Connecting the socket.
    Tcp,
    /// Agreeing on TLS.
    Tls,
    /// Start-up and authentication. Behind a proxy whose server has gone, this is where it hangs.
    Startup,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Resolve => "its name was looked up",
            Phase::Tcp => "connecting",
            Phase::Tls => "agreeing on TLS",
            Phase::Startup => "starting the session and authenticating",
        })
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connect to {}: {}", self.server, self.failure)?;
        self.others.iter().try_for_each(|other| write!(f, "; {other}"))
    }
}

impl std::error::Error for ConnectError {}

impl ConnectError {
    /// What this failure means to pgbaton.
    pub fn meaning(&self) -> Meaning {
        match &self.failure {
            ConnectFailure::Unreachable(_) | ConnectFailure::Closed | ConnectFailure::Timeout(_) => Meaning::Retry,
            ConnectFailure::Tls(_) => Meaning::TlsFailed,
            ConnectFailure::Auth(_) => Meaning::AuthFailed,
            ConnectFailure::Server(error) => error.meaning(),
            ConnectFailure::WrongSession { .. } => Meaning::InRecovery,
            ConnectFailure::NotPostgres | ConnectFailure::Malformed(_) => Meaning::Unexpected,
        }
    }
}

impl ConnectFailure {
    /// How much a failure tells: of several servers' failures the most telling is reported first.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            ConnectFailure::Unreachable(_) => 0,
            ConnectFailure::Timeout(_) | ConnectFailure::Closed => 1,
            ConnectFailure::WrongSession { .. } => 2,
            ConnectFailure::NotPostgres | ConnectFailure::Malformed(_) => 3,
            ConnectFailure::Server(_) | ConnectFailure::Tls(_) | ConnectFailure::Auth(_) => 4,
        }
    }

    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => ConnectFailure::Closed,
            _ => ConnectFailure::Unreachable(error),
        }
    }
}

impl From<WireError> for ConnectFailure {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Closed => ConnectFailure::Closed,
            WireError::Io(error) => ConnectFailure::Unreachable(error),
            WireError::Malformed(malformed) => ConnectFailure::Malformed(malformed),
        }
    }
}
