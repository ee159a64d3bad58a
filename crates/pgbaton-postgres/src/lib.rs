//! PostgreSQL as pgbaton sees it: the replication connection, pgoutput, slots and catalogue.
//!
//! Adapters only. What is decided from all this is decided in `pgbaton-core`.

pub mod catalog;
mod client;
mod connect_error;
mod connection;
mod conninfo;
mod error;
mod frame;
mod handshake;
mod hosts;
mod malformed;
pub mod pgoutput;
mod secret;
mod sql;
mod tls;
mod transport;
mod wire;

pub use client::{ClientTask, connect_client};
pub use connect_error::{AuthProblem, ConnectError, ConnectFailure, Phase};
pub use connection::{ReplicationConnection, StreamError, SystemIdentity};
pub use conninfo::{
    Address, ChannelBinding, ClientCert, Conninfo, Host, InvalidConninfo, RootCert, SslMode, TargetSessionAttrs,
};
pub use error::{DbError, Meaning};
pub use frame::Frame;
pub use malformed::{Malformed, Problem};
pub use secret::Secret;
pub use sql::{QueryError, SimpleRow, Sql};
pub use tls::TlsError;
