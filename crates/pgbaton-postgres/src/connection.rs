//! The replication connection: SQL first, then one stream of [`Frame`]s with statuses going back.
//!
//! One task owns both halves. No reconnecting, no status of its own accord, no slot is ever made here: when what is sent is
//! decided by the caller alone.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgbaton_core::{History, Lsn, Timeline};
use postgres_protocol::escape::escape_identifier;
use postgres_protocol::message::frontend;
use tokio::time::{Instant, timeout};

use crate::connect_error::{ConnectError, ConnectFailure, Phase};
use crate::conninfo::{Conninfo, Host};
use crate::error::{DbError, Meaning};
use crate::frame::{Frame, write_status};
use crate::handshake;
use crate::hosts;
use crate::malformed::{Malformed, Problem};
use crate::sql::{QueryError, SimpleRow, Sql, read_names, read_values};
use crate::transport::{Stream, within};
use crate::wire::{Packet, Wire, WireError};

/// What the answer to one query may take in memory. The largest that is asked for, the tables of a publication, is far
/// below; a server that sends without end is not listened to without end.
const MAX_ANSWER: usize = 256 << 20;
/// Statuses that may wait for a server that does not read. A walsender reads whenever it can send, so it is stuck.
const MAX_UNSENT: usize = 64 << 10;
/// How long a polite end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

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

/// The answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Identifies the cluster that this server and its standbys belong to.
    pub system_identifier: u64,
    /// The timeline that the server writes, or replays, now.
    pub timeline: Timeline,
    /// How far its WAL is flushed.
    pub xlogpos: Lsn,
    /// The database of this connection.
    pub dbname: String,
}

/// Why a replication stream gives no more frames.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The server said why: 57P01 when somebody ended it, 42704 for a missing publication, 58P01 for missing WAL ...
    #[error("{0}")]
    Server(DbError),
    /// The server closed the connection, without an orderly end before it or after that end.
    #[error("the server closed the connection")]
    Closed,
    /// The connection broke.
    #[error("connection lost: {0}")]
    Io(#[source] io::Error),
    /// The server broke the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// START_REPLICATION has not been accepted on this connection.
    #[error("no replication stream was started")]
    NotStreaming,
    /// The server has long not read what we send.
    #[error("the server does not read our statuses")]
    PeerNotReading,
}

impl StreamError {
    /// What this failure means to pgbaton.
    pub fn meaning(&self) -> Meaning {
        match self {
            StreamError::Server(error) => error.meaning(),
            StreamError::Closed | StreamError::Io(_) | StreamError::PeerNotReading => Meaning::Retry,
            StreamError::Malformed(_) | StreamError::NotStreaming => Meaning::Unexpected,
        }
    }
}

impl From<WireError> for StreamError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Closed => StreamError::Closed,
            WireError::Io(error) => StreamError::Io(error),
            WireError::Malformed(malformed) => StreamError::Malformed(malformed),
        }
    }
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

    /// Who is at the other end: asked here and nowhere else, since a proxy may send each connection to another server.
    ///
    /// # Errors
    /// As for [`Self::query`].
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, QueryError> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let read = |row: &SimpleRow| {
            Some(SystemIdentity {
                system_identifier: row.get("systemid")?.parse().ok()?,
                timeline: Timeline(row.get("timeline")?.parse().ok()?),
                xlogpos: row.get("xlogpos")?.parse().ok()?,
                dbname: row.get("dbname")?.to_owned(),
            })
        };
        Ok(rows.first().and_then(read).ok_or(malformed("answer to IDENTIFY_SYSTEM", Problem::Value))?)
    }

    /// How the server came to a timeline. The first timeline has no history.
    ///
    /// # Errors
    /// As for [`Self::query`]; 58P01 where the server has no file for that timeline.
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<History, QueryError> {
        if timeline == Timeline(1) {
            return Ok(History::new(Vec::new(), timeline));
        }
        const ANSWER: &str = "answer to TIMELINE_HISTORY";
        let answer = self.ask(&format!("TIMELINE_HISTORY {timeline}")).await?;
        // The file comes as it is on disk. Its comments may be in any encoding; what is needed is ASCII.
        let file = answer.first().and_then(|(_, values)| values.get(1)?.as_ref());
        let file = String::from_utf8_lossy(file.ok_or(malformed(ANSWER, Problem::Value))?);
        Ok(History::parse(&file, timeline).map_err(|_| malformed(ANSWER, Problem::Value))?)
    }

    /// Starts to stream from a logical slot. The server begins at the later of `at` and its own confirmed position, and
    /// never objects to an `at` that is wrong.
    ///
    /// # Errors
    /// As for [`Self::query`]: 55006 in use, 42704 missing, 55000 lost, 0A000 on a standby. SQL works again after these.
    pub async fn start_replication(&mut self, slot: &str, at: Lsn, options: &[(&str, &str)]) -> Result<(), QueryError> {
        let options: Vec<_> =
            options.iter().map(|(name, value)| format!("{} {}", escape_identifier(name), quoted(value))).collect();
        let slot = escape_identifier(slot);
        self.send_query(&format!("START_REPLICATION SLOT {slot} LOGICAL {at} ({})", options.join(", ")))?;
        let packet = self.answer().await?;
        match packet.tag {
            b'W' => {
                self.state = State::Streaming;
                Ok(())
            }
            b'E' => Err(self.refused(&packet).await?),
            _ => Err(packet.out_of_place().into()),
        }
    }

    /// The next frame. Cancel-safe: dropped half-way, in `select!`, it loses nothing. Statuses that are still waiting are
    /// written meanwhile.
    ///
    /// # Errors
    /// The stream is over with the first error, and after [`Frame::End`] it is [`StreamError::Closed`].
    pub async fn next_frame(&mut self) -> Result<Frame, StreamError> {
        loop {
            if let Some(frame) = self.try_next_frame()? {
                return Ok(frame);
            }
            let packet = self.wire.packet().await;
            if let Some(frame) = self.frame(packet.map(Some))? {
                return Ok(frame);
            }
        }
    }

    /// The next frame if it has been received already. Reads nothing from the network.
    ///
    /// # Errors
    /// As for [`Self::next_frame`].
    pub fn try_next_frame(&mut self) -> Result<Option<Frame>, StreamError> {
        match self.state {
            State::Streaming => {}
            State::Over => return Err(StreamError::Closed),
            State::Ready | State::Querying => return Err(StreamError::NotStreaming),
        }
        loop {
            let packet = match self.wire.take_packet() {
                Ok(None) => return Ok(None),
                packet => packet.map_err(WireError::from),
            };
            if let Some(frame) = self.frame(packet)? {
                return Ok(Some(frame));
            }
        }
    }

    /// What a packet is to the stream; `None` for one that is dealt with here. Every error ends the stream.
    fn frame(&mut self, packet: Result<Option<Packet>, WireError>) -> Result<Option<Frame>, StreamError> {
        let outcome = packet.map_err(StreamError::from).and_then(|packet| match packet {
            Some(packet) if packet.tag == b'd' => Ok(Some(Frame::read(packet.body)?)),
            Some(packet) if matches!(packet.tag, b'c' | b'C') => Ok(Some(Frame::End)),
            Some(packet) if packet.tag == b'E' => Err(StreamError::Server(DbError::read(&packet.body)?)),
            Some(packet) if self.aside(&packet)? => Ok(None),
            Some(packet) => Err(packet.out_of_place().into()),
            None => Ok(None),
        });
        if matches!(outcome, Ok(Some(Frame::End)) | Err(_)) {
            self.state = State::Over;
        }
        outcome
    }

    /// Sends a status with exactly these positions. [`Lsn::INVALID`] as `flush` leaves the slot where it is; the server
    /// takes any other value at its word, even one ahead of its own WAL.
    ///
    /// Does not wait: what the socket does not take at once leaves while [`Self::next_frame`] waits.
    ///
    /// # Errors
    /// The connection is broken, or so much is waiting that the server cannot have been reading.
    pub fn send_status(
        &mut self,
        write: Lsn,
        flush: Lsn,
        apply: Lsn,
        reply_requested: bool,
    ) -> Result<(), StreamError> {
        match self.state {
            State::Streaming => {}
            State::Over => return Err(StreamError::Closed),
            State::Ready | State::Querying => return Err(StreamError::NotStreaming),
        }
        if self.wire.unwritten() > MAX_UNSENT {
            return Err(StreamError::PeerNotReading);
        }
        write_status(self.wire.outbox(), write, flush, apply, reply_requested);
        Ok(self.wire.try_flush()?)
    }

    /// Ends the stream and the session in order, and waits up to a second for the server to be done with it, so that the
    /// slot is free afterwards. Dropping the connection just closes it.
    pub async fn close(mut self) {
        if self.state == State::Streaming {
            frontend::copy_done(self.wire.outbox());
        }
        frontend::terminate(self.wire.outbox());
        // The server may be busy sending; it sees the end only when that has been read.
        if timeout(CLOSE_TIMEOUT, self.wire.drain()).await.is_err() {
            tracing::debug!(pid = self.backend_pid, "replication connection closed before the server was done with it");
        }
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

/// A string literal of the replication grammar, which knows doubled quotes and no escapes.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn malformed(message: &'static str, problem: Problem) -> Malformed {
    Malformed { message, problem }
}
