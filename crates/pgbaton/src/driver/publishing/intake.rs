//! What comes from PostgreSQL: frames that wait for the sink, or for standbys, and the status that goes back. It goes on while
//! the sink is waited for: a stream that ends is noticed then, and a server that hears nothing does not end one that lives.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use pgbaton_core::{Code, Lsn, Moment, SessionEnd, Status, Stream};
use pgbaton_postgres::pgoutput::{Message, decode};
use pgbaton_postgres::{Frame, ReplicationConnection};

use super::{broken, is_commit, stream_end};
use crate::clock::boottime;
use crate::driver::failures;
use crate::driver::standbys::StandbyWatch;

/// Frames that were read and wait for the sink: beyond this the socket is not read.
const BACKLOG_BYTES: usize = 32 << 20;
/// Status updates go out this often, unasked.
const STATUS_PERIOD: Duration = Duration::from_secs(1);
/// After this much silence they ask for an answer.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// Silence is told from here on.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// The connection that is read, and what was read of it.
pub(super) struct Intake {
    connection: ReplicationConnection,
    backlog: VecDeque<(Lsn, Bytes)>,
    backlog_bytes: usize,
    /// When the next status goes out.
    pub status_due: Moment,
    /// When something came last, or was not read for want of room.
    heard: Moment,
    /// Where publication waits for standbys.
    standbys: Option<StandbyWatch>,
}

impl Intake {
    pub fn new(connection: ReplicationConnection, standbys: Option<StandbyWatch>) -> Self {
        let now = boottime();
        Intake {
            connection,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            status_due: now + STATUS_PERIOD,
            heard: now,
            standbys,
        }
    }

    /// The message that comes next.
    pub fn front(&self) -> Option<&Bytes> {
        self.backlog.front().map(|(_, data)| data)
    }

    pub fn is_empty(&self) -> bool {
        self.backlog.is_empty()
    }

    pub fn len(&self) -> usize {
        self.backlog.len()
    }

    /// Takes the next message, with where its WAL begins.
    pub fn pop(&mut self) -> Option<(Lsn, Bytes)> {
        let (lsn, data) = self.backlog.pop_front()?;
        self.backlog_bytes -= data.len();
        if let Some(standbys) = self.standbys.as_mut().filter(|_| is_commit(&data)) {
            standbys.passed();
        }
        Some((lsn, data))
    }

    /// Whether what comes next is a transaction that standbys have not flushed.
    pub fn is_held_back(&self) -> bool {
        let Some(standbys) = &self.standbys else { return false };
        let Some(next) = self.front().filter(|next| next.first() == Some(&b'B')) else { return false };
        matches!(decode(next), Ok(Message::Begin { final_lsn, .. }) if standbys.holds(final_lsn))
    }

    /// Takes what was seen of the standbys last.
    pub fn look_at_standbys(&mut self) {
        if let Some(standbys) = &mut self.standbys {
            standbys.look();
        }
        let is_held_back = self.is_held_back();
        if let Some(standbys) = &mut self.standbys {
            standbys.holding(is_held_back);
        }
    }

    /// Why nothing is published while standbys are waited for, if that has lasted.
    pub fn waits_for_standbys(&self) -> Option<(Code, String)> {
        self.standbys.as_ref().and_then(StandbyWatch::reason)
    }

    /// Waits for a frame, as long as there is room for one, and reads all that are here; or for news of the standbys. Cancel-safe:
    /// what was read stays in the connection or in the backlog.
    pub async fn read(&mut self, stream: &mut Stream) -> Result<(), SessionEnd> {
        let has_room = self.has_room();
        if !has_room {
            self.heard = boottime();
        }
        tokio::select! {
            frame = self.connection.next_frame(), if has_room => {
                self.frame(frame.map_err(stream_end)?, stream)?;
                self.read_what_is_here(stream)
            }
            () = changed(&mut self.standbys) => Ok(()),
        }
    }

    /// Reads all frames that are here.
    pub fn read_what_is_here(&mut self, stream: &mut Stream) -> Result<(), SessionEnd> {
        while self.has_room() {
            match self.connection.try_next_frame().map_err(stream_end)? {
                Some(frame) => self.frame(frame, stream)?,
                None => break,
            }
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.backlog_bytes < BACKLOG_BYTES
    }

    fn frame(&mut self, frame: Frame, stream: &mut Stream) -> Result<(), SessionEnd> {
        self.heard = boottime();
        match frame {
            Frame::XLogData { wal_start, wal_end, data, .. } => {
                stream.received(wal_start.max(wal_end));
                if let Some(standbys) = self.standbys.as_mut().filter(|_| is_commit(&data))
                    && let Ok(Message::Commit { end_lsn, .. }) = decode(&data)
                {
                    standbys.read_to(end_lsn);
                }
                self.backlog_bytes += data.len();
                self.backlog.push_back((wal_start, data));
            }
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                let answer = stream.keepalive(wal_end, reply_requested, self.backlog.is_empty()).map_err(broken)?;
                if let Some(status) = answer {
                    self.send(status, false)?;
                }
            }
            Frame::End => {
                return Err(SessionEnd::Stream(failures::passing(
                    Code::PostgresUnreachable,
                    "the server ended the stream: it stops, restarts or switches over".to_owned(),
                )));
            }
        }
        Ok(())
    }

    /// Sends the timer's status: what is durable, or nothing new.
    pub fn tell(&mut self, stream: &Stream, now: Moment) -> Result<(), SessionEnd> {
        self.status_due = now + STATUS_PERIOD;
        self.send(stream.status(), now.since(self.heard) >= ASK_AFTER)
    }

    fn send(&mut self, status: Status, asks: bool) -> Result<(), SessionEnd> {
        self.connection.send_status(status.write, status.flush, status.flush, asks).map_err(stream_end)
    }

    /// When something came last, if that is some time ago.
    pub fn silent_since(&self, now: Moment) -> Option<Moment> {
        (now.since(self.heard) >= SILENT_AFTER).then_some(self.heard)
    }

    /// Ends the connection, by then at the latest.
    pub async fn close(self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.connection.close()).await;
    }
}

/// Returns when something new is known of the standbys; never where nothing waits for them.
async fn changed(standbys: &mut Option<StandbyWatch>) {
    match standbys {
        Some(standbys) => standbys.changed().await,
        None => std::future::pending().await,
    }
}
