//! The stream of frames, and the statuses that go back.

use std::io;
use std::time::Duration;

use pgbaton_core::Lsn;
use postgres_protocol::escape::escape_identifier;
use postgres_protocol::message::frontend;
use tokio::time::timeout;

use super::{ReplicationConnection, State};
use crate::error::{DbError, Meaning};
use crate::frame::{Frame, write_status};
use crate::malformed::Malformed;
use crate::sql::QueryError;
use crate::wire::{Packet, WireError};

/// Statuses that may wait for a server that does not read. A walsender reads whenever it can send, so it is stuck.
const MAX_UNSENT: usize = 64 << 10;
/// How long a polite end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Starts to stream from a logical slot. The server begins at the later of `at` and its own confirmed position, and
    /// never objects to an `at` that is wrong.
    ///
    /// # Errors
    /// As for [`Self::query`]: 55006 in use, 42704 missing, 55000 lost, 0A000 on a standby. SQL works again after these.
    pub async fn start_replication(&mut self, slot: &str, at: Lsn, options: &[(&str, &str)]) -> Result<(), QueryError> {
        let options: Vec<_> =
            options.iter().map(|(name, value)| format!("{} {}", escape_identifier(name), quoted(value))).collect();
        let slot = escape_identifier(slot);
        // The grammar has no empty list.
        let options = if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
        self.send_query(&format!("START_REPLICATION SLOT {slot} LOGICAL {at}{options}"))?;
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
    /// Does not wait: what the socket does not take at once leaves while [`Self::next_frame`] waits. That also reports a
    /// connection that turns out to be broken, after everything that arrived before: the server's last words may be there.
    ///
    /// # Errors
    /// Nothing streams, or so much is waiting that the server cannot have been reading.
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
        self.wire.try_flush();
        Ok(())
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
}

/// A string literal of the replication grammar, which knows doubled quotes and no escapes.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
