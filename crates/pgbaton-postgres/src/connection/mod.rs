//! The replication connection: SQL first, then one stream of [`crate::Frame`]s with statuses going back.
//!
//! One task owns both halves. No reconnecting, no status of its own accord, no slot is ever made here: when what is sent is
//! decided by the caller alone.

mod identity;
mod stream;

pub use identity::SystemIdentity;
pub use stream::StreamError;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postgres_protocol::message::frontend;
use tokio::time::Instant;

use crate::connect_error::{ConnectError, ConnectFailure, Phase};
use crate::conninfo::{Conninfo, Host};
use crate::error::DbError;
use crate::handshake;
use crate::hosts;
use crate::malformed::{Malformed, Problem};
use crate::sql::{QueryError, SimpleRow, Sql, read_names, read_values};
use crate::transport::{Stream, within};
use crate::wire::{Packet, Wire};

/// What the answer to one query may take in memory. The largest that is asked for, the tables of a publication, is far
/// below; a server that sends without end is not listened to without end.
const MAX_ANSWER: usize = 256 << 20;

/// A connection in replication mode to one database.
pub struct ReplicationConnection {
    wire: Wire,
    backend_pid: i32,
    parameters: HashMap<String, String>,
    state: State,
}

/// The names of the columns, and the values as they came.
type RawRow = (Arc<[String]>, Vec<Option<Bytes>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waits for a query.
    Ready,
    /// A query was sent, and its answer has not been read to the end.
    Querying,
    /// START_REPLICATION was accepted.
    Streaming,
    /// The stream has ended, in order or not.
    Over,
}

impl ReplicationConnection {
    /// Connects to the first server that lets us in and is of the wanted kind. `application_name` is sent at start-up.
    ///
    /// # Errors
    /// Of the server that came furthest. After a refused authentication further servers are not tried.
    pub async fn connect(conninfo: &Conninfo, application_name: &str) -> Result<Self, ConnectError> {
        hosts::first(conninfo, |host, deadline| Self::open(conninfo, host, application_name, deadline)).await
    }

    async fn open(
        conninfo: &Conninfo,
        host: &Host,
        application_name: &str,
        deadline: Instant,
    ) -> Result<Self, ConnectFailure> {
        let mut wire = Wire::new(Stream::open(conninfo, host, deadline).await?);
        let start = handshake::start(&mut wire, conninfo, host, application_name);
        let session = within(deadline, Phase::Startup, start).await??;
        hosts::check(conninfo.target_session_attrs, |name| session.parameters.get(name).map(String::as_str))?;
        Ok(ReplicationConnection {
            wire,
            backend_pid: session.backend_pid,
            parameters: session.parameters,
            state: State::Ready,
        })
    }

    /// The process that serves this connection: `active_pid` of the slot while it streams.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// A parameter that the server reports, such as `server_version` or `in_hot_standby`, as of its last report.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// How long sent bytes may stay unacknowledged before the kernel gives the connection up. Nothing on Unix sockets.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_tcp_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.wire.stream().set_tcp_user_timeout(timeout)
    }

    /// Runs SQL or a replication command in the simple protocol, before START_REPLICATION or after it was refused.
    ///
    /// Not cancel-safe: after the future was dropped half-way, the connection only answers [`QueryError::NotReady`].
    ///
    /// # Errors
    /// After [`QueryError::Server`] the connection can be used further, unless the severity was FATAL.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<SimpleRow>, QueryError> {
        let text = |value: Bytes| String::from_utf8(value.into()).map_err(|_| malformed("DataRow", Problem::NotUtf8));
        let mut rows = Vec::new();
        for (names, values) in self.ask(sql).await? {
            let values = values.into_iter().map(|value| value.map(text).transpose()).collect::<Result<_, _>>()?;
            rows.push(SimpleRow::new(names, values));
        }
        Ok(rows)
    }

    fn send_query(&mut self, sql: &str) -> Result<(), QueryError> {
        if self.state != State::Ready {
            return Err(QueryError::NotReady);
        }
        // A zero byte is all that it can object to, and then nothing was sent.
        frontend::query(sql, self.wire.outbox()).map_err(QueryError::Io)?;
        self.state = State::Querying;
        Ok(())
    }

    /// Names and raw values of all rows of the answer.
    async fn ask(&mut self, sql: &str) -> Result<Vec<RawRow>, QueryError> {
        self.send_query(sql)?;
        let mut names: Arc<[String]> = Arc::new([]);
        let (mut rows, mut size) = (Vec::new(), 0);
        loop {
            let packet = self.answer().await?;
            match packet.tag {
                b'T' => names = read_names(&packet.body)?,
                b'D' => {
                    size += packet.body.len() + size_of::<RawRow>();
                    if size > MAX_ANSWER {
                        return Err(malformed("answer to a query", Problem::Count(size as i64)).into());
                    }
                    rows.push((Arc::clone(&names), read_values(&packet.body, names.len())?));
                }
                b'C' | b'I' => {}
                b'E' => return Err(self.refused(&packet).await?),
                b'Z' => {
                    self.state = State::Ready;
                    return Ok(rows);
                }
                _ => return Err(packet.out_of_place().into()),
            }
        }
    }

    /// The next message of the answer to a query.
    async fn answer(&mut self) -> Result<Packet, QueryError> {
        loop {
            let packet = self.wire.packet().await?;
            if !self.aside(&packet)? {
                return Ok(packet);
            }
        }
    }

    /// Reads an ErrorResponse, and on until the server is ready again or has closed.
    async fn refused(&mut self, packet: &Packet) -> Result<QueryError, QueryError> {
        let error = DbError::read(&packet.body)?;
        loop {
            match self.answer().await {
                Ok(packet) if packet.tag == b'Z' => {
                    self.state = State::Ready;
                    break;
                }
                Ok(_) => {}
                // A FATAL error is the last word.
                Err(_) => break,
            }
        }
        Ok(QueryError::Server(error))
    }

    /// Deals with what a server may send at any time; `true` when this was that.
    fn aside(&mut self, packet: &Packet) -> Result<bool, Malformed> {
        match packet.tag {
            b'N' => {
                let notice = DbError::read(&packet.body)?;
                tracing::debug!(
                    severity = notice.severity,
                    code = notice.code,
                    notice.message,
                    "notice from the server"
                );
            }
            b'S' => self.parameters.extend([handshake::parameter(&packet.body)?]),
            b'A' => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Sql for ReplicationConnection {
    async fn rows(&mut self, sql: &str) -> Result<Vec<SimpleRow>, QueryError> {
        self.query(sql).await
    }
}

fn malformed(message: &'static str, problem: Problem) -> Malformed {
    Malformed { message, problem }
}
